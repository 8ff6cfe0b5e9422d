"""Pooling of regions: RoiAlign and MaxRoiPool, as ONNX Runtime computes them.

He et al., "Mask R-CNN", 2017, https://arxiv.org/abs/1703.06870; Girshick, "Fast R-CNN", 2015,
https://arxiv.org/abs/1504.08083.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxcam.gradients.bodies import Written, body
from onnxcam.gradients.bodies.sampling import rows, taps
from onnxcam.gradients.rules import Node
from onnxcam.gradients.rules.linear import one_hot, positions
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor
from onnxcam.model import Dim


@dataclass(frozen=True)
class Bins:
    """What the bins of each region read along one axis, (regions, bins, pixels).

    Attributes:
        index: the pixels, all within the picture.
        weight: what each counts; None where all count once.
        held: which of them are read indeed; None where all are.
    """

    index: Tensor
    weight: Tensor | None
    held: Tensor | None


@body("RoiAlign")  # of samples in each bin the mean, or the largest weighted neighbour
def roi_align(node: Node) -> Written:
    across, down = (_aligned(node, axis) for axis in (0, 1))
    batch = xp.expand_dims(xp.astype(node.xs[2], across.index.dtype), [1, 2])
    if node.attr("mode", "avg") == "max":
        return _largest(node.x, batch, down, across)
    return _weighted(node.x, batch, down, across)


def _aligned(node: Node, axis: int) -> Bins:
    """The samples of the bins across (0) or down (1) the picture."""
    begin, size = _extent(node, axis)
    many, samples = node.attr(("output_width", "output_height")[axis], 1), node.attr("sampling_ratio", 0)
    step = size / float(many)
    count = begin.lift([[[samples]]]) if samples > 0 else xp.ceil(step)
    nth = xp.astype(positions(_most(count)), begin.dtype)
    some = xp.maximum(count, count.lift(1))  # a region without extent has no samples
    at = begin + step * ((nth + 0.5) / some + np.arange(many).reshape(-1, 1))
    n = xp.dim(node.x, 3 - axis)
    edge = xp.astype(n, at.dtype)
    held = None if samples > 0 else nth < count
    near = (at >= -1.0) & (at <= edge)
    inside = xp.astype(near if held is None else near & held, at.dtype)
    read = taps(xp.minimum(xp.maximum(at, 0), edge - 1.0), n, "linear", "border")
    weight = read.weight * xp.expand_dims(inside / some if node.attr("mode", "avg") == "avg" else inside, -1)
    return Bins(_joined(read.index), _joined(weight), None if held is None else _joined(_doubled(held)))


def _extent(node: Node, axis: int) -> tuple[Tensor, Tensor]:
    """Where each region begins, and how long it is; (regions, 1, 1)."""
    corners = node.writer.ops("Split", node.xs[1], outputs=4, axis=1, num_outputs=4)
    shifted = node.attr("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    begin, end = (
        xp.expand_dims(corners[k], 2) * node.attr("spatial_scale", 1.0) - 0.5 * shifted for k in (axis, axis + 2)
    )
    return begin, end - begin if shifted else xp.maximum(end - begin, begin.lift(1))


def _most(count: Tensor) -> Tensor:
    """The largest count, at least 1, as a vector of one element."""
    one = count.writer.constant([1])
    all_ = xp.concat([xp.astype(xp.reshape(count, [-1]), one.dtype), one])
    return xp.max(all_, 0, keepdims=True)


def _doubled(held: Tensor) -> Tensor:
    """For both neighbours of a sample."""
    both = xp.expand_dims(held, -1)
    return xp.concat([both, both], -1)


def _joined(x: Tensor) -> Tensor:
    """(regions, bins, samples, neighbours) -> (regions, bins, pixels)"""
    return xp.reshape(x, [0, 0, -1])


def _weighted(x: Tensor, batch: Tensor, down: Bins, across: Bins) -> Tensor:
    """Of each picture row the bins' share, and of each column: two matrix products."""
    writer, (_, channels, _, columns) = x.writer, _dims(x)
    high, wide = xp.dim(x, 2), xp.dim(x, 3)
    lines = xp.permute_dims(x, [0, 2, 1, 3])
    lines = xp.reshape(lines, xp.concat([writer.constant([-1]), xp.dim(x, 1), wide]), [None, channels, columns])
    shares = (_shares(down.index + batch * high, down, xp.dim(x, 0) * high, x), _shares(across.index, across, wide, x))
    return writer.op("Einsum", shares[0], lines, shares[1], equation="roh,hcw,rpw->rcop")


def _dims(x: Tensor) -> tuple[Dim, ...]:
    assert x.shape is not None
    return x.shape


def _shares(index: Tensor, bins: Bins, length: Tensor, like: Tensor) -> Tensor:
    """(regions, bins, length): how much of each pixel is in each bin."""
    assert bins.weight is not None
    hot = one_hot(index, length, like, -1)
    return like.writer.op("Einsum", xp.astype(bins.weight, like.dtype), hot, equation="rbq,rbqn->rbn")


def _largest(x: Tensor, batch: Tensor, down: Bins, across: Bins) -> Tensor:
    """The largest value in each bin; one that reads none holds the lowest number, which passes no gradient."""
    line = xp.expand_dims(batch * xp.dim(x, 2) + down.index, [2, 4])
    index = line * xp.dim(x, 3) + _to_columns(across.index)
    values = x.writer.op("GatherND", rows(x), xp.expand_dims(index, -1))
    if down.weight is not None and across.weight is not None:
        weight = xp.expand_dims(down.weight, [2, 4]) * _to_columns(across.weight)
        values = values * xp.expand_dims(weight, -1)
    if down.held is not None and across.held is not None:
        held = xp.expand_dims(down.held, [2, 4]) & _to_columns(across.held)
        values = xp.where(xp.expand_dims(held, -1), values, float(np.finfo(np.float32).min))
    return xp.permute_dims(xp.max(values, (3, 4)), [0, 3, 1, 2])


def _to_columns(across: Tensor) -> Tensor:
    return xp.expand_dims(across, [1, 3])


@body("MaxRoiPool")  # the largest pixel in each bin, whose edges are rounded outwards
def max_roi_pool(node: Node) -> Written:
    column, *corners = node.writer.ops("Split", node.xs[1], outputs=5, axis=1, num_outputs=5)
    scale, shape = node.attr("spatial_scale", 1.0), node.attr("pooled_shape", list[int]())
    edges = [_rounded(xp.expand_dims(c, 2) * scale) for c in corners]
    down, across = (_whole(node, axis, edges[axis], edges[axis + 2], shape[1 - axis]) for axis in (1, 0))
    batch = xp.expand_dims(xp.astype(column, down.index.dtype), 2)
    return _largest(node.x, batch, down, across)


def _rounded(x: Tensor) -> Tensor:
    """Halves away from zero, as C rounds."""
    return xp.sign(x) * xp.floor(xp.abs(x) + 0.5)


def _whole(node: Node, axis: int, first: Tensor, last: Tensor, many: int) -> Bins:
    """The pixels of the bins across (0) or down (1) the picture."""
    n = xp.dim(node.x, 3 - axis)
    step = xp.maximum(last - first + 1.0, first.lift(1)) / float(many)
    nth = np.arange(many).reshape(-1, 1)
    begin, end = (
        xp.minimum(xp.maximum(xp.astype(edge + first, n.dtype), n.lift(0)), n)
        for edge in (xp.floor(step * nth), xp.ceil(step * (nth + 1)))
    )
    index = begin + positions(_most(end - begin))
    return Bins(xp.minimum(index, n - 1), None, index < end)
