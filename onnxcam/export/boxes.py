"""The box round the largest piece of evidence, in a graph: :func:`onnxcam.core.localize.boxes`, to the pixel.

Pixels above the threshold form runs along the rows, and runs that touch form components. Runs are few, so that what is
repeated (each run takes the smallest label that it, its neighbours or its label's own run know) works on short vectors,
and labels reach as far as twice the last time: the rounds grow with the logarithm of a component's length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import PREFIX, Tensor, Writer

THRESHOLD = 0.15
_INT = ir.DataType.INT64
_UP, _SIDE = np.asarray([-1, -1, 1]), np.asarray([-1, 0, -1])  # pixels by a run's start, down and across


def boxes(heatmap: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Heatmaps (N, H, W) to boxes (N, 4) float32, x0, y0, x1, y1 in their pixels: x0 <= x < x1, y0 <= y < y1.

    The largest component (diagonals connected) of what is positive and at least ``threshold`` times the maximum, as
    in Grad-CAM's weakly supervised localisation (Selvaraju 2017, 4.1, https://arxiv.org/abs/1610.02391); of equal ones
    the first that OpenCV numbers, which looks at blocks of 2 x 2 pixels in reading order. All 0 where nothing is
    positive.
    """
    runs = _Runs.of(heatmap, threshold)
    label = _repeated(runs.writer, xp.squeeze(runs.own, 1), lambda held: _lowered(held, runs.near))
    zeros = xp.zeros_like(label)
    area = _gather(_scattered(zeros, label, runs.length, "add"), label)
    first = _gather(_scattered(runs.block, label, runs.block, "min"), label)
    rank = area * runs.plane - first  # above 0, and of no two components the same; of no run 0
    none = xp.broadcast_to(runs.writer.constant(np.ones(1, np.int64)), runs.images)
    best = _scattered(none, runs.image, rank, "max")
    return _around(runs, xp.astype(rank == _gather(best, runs.image), _INT))


def _around(runs: _Runs, chosen: Tensor) -> Tensor:
    """(N, 4): the smallest and largest coordinates of the runs (R,) that are 1; each is told as a distance above 0."""
    far, constant = xp.concat([runs.width, runs.height]), runs.writer.constant
    sign, base = constant([[-1], [-1], [1], [1]]), xp.expand_dims(xp.concat([far, constant([0, 0])]), 1)
    edges = [runs.x, runs.y, runs.x + runs.length, runs.y + 1]
    distance = (sign * xp.concat([xp.expand_dims(e, 0) for e in edges]) + base) * chosen
    nothing = xp.broadcast_to(constant(np.zeros((4, 1), np.int64)), xp.concat([constant([4]), runs.images]))
    at = xp.broadcast_to(xp.expand_dims(runs.image, 0), [4, 1])
    found = _scattered(nothing, at, distance, "max", axis=1)
    edge = xp.where(found > 0, sign * (found - base), xp.zeros_like(found))
    return runs.writer.op("Transpose", xp.astype(edge, ir.DataType.FLOAT), perm=[1, 0], shape=(None, 4))


@dataclass(frozen=True)
class _Runs:
    """The runs of all images, in reading order, as vectors (R,) int64; sizes are (1,).

    Behind them comes one that is empty and touches none, since not every runtime computes on vectors without elements.

    Attributes:
        writer: writes the nodes.
        images, height, width, plane: N, H, W, and more than there are pixels.
        image, y, x, length: where a run starts, and how long it is.
        block: the number of the 2 x 2 block of its start, in reading order.
        own: (R, 1), its number.
        near: (R, 4), its own and those of three runs that touch it, or again its own.
    """

    writer: Writer
    images: Tensor
    height: Tensor
    width: Tensor
    plane: Tensor
    image: Tensor
    y: Tensor
    x: Tensor
    length: Tensor
    block: Tensor
    own: Tensor
    near: Tensor

    @classmethod
    def of(cls, heatmap: Tensor, threshold: float) -> _Runs:
        """Of heatmaps (N, H, W), each with a frame (two rows above) of weak pixels, as one line of pixels."""
        write = heatmap.writer
        images, height, width = (xp.dim(heatmap, axis) for axis in range(3))
        wide = width + 2
        plane = (height + 3) * wide
        line = xp.reshape(xp.pad(_strong(heatmap, threshold), (0, 2, 1), (0, 1, 1)), [-1])
        turns = xp.slice_axis(line, 0, 1, np.iinfo(np.int64).max) - xp.slice_axis(line, 0, 0, -1)
        empty = xp.broadcast_to(wide, [1, 2])  # in the second row of the frame
        bounds = xp.concat([xp.reshape(write.op("NonZero", turns), [-1, 2]), empty]) + 1
        start, end = (xp.squeeze(xp.slice_axis(bounds, 1, k, k + 1), 1) for k in (0, 1))
        image = start / plane
        inside = start - image * plane
        row = inside / wide
        x = inside - row * wide - 1
        own = xp.expand_dims(_counted(start), 1)
        near = xp.concat([own, _touching(turns, start, own, wide)], axis=1)
        return cls(
            write, images, height, width, plane, image, row - 2, x, end - start, row / 2 * wide + x / 2, own, near
        )


def _strong(heatmap: Tensor, threshold: float) -> Tensor:
    """(N, H, W) int32: 1 or 0; the bound is computed in float64, as with NumPy."""
    wide = xp.astype(heatmap, ir.DataType.DOUBLE)
    bound = xp.max(wide, axis=(1, 2), keepdims=True) * threshold
    return xp.astype((wide > 0.0) & (wide >= bound), ir.DataType.INT32)


def _touching(turns: Tensor, start: Tensor, own: Tensor, wide: Tensor) -> Tensor:
    """(R, 3): the runs above a run's start, and above and below on its left, or again itself.

    That is enough: of two runs that touch, the lower one starts below the upper one or right behind its end, or else
    the upper one's start has the lower one below on its left. ``turns`` tells where the line changes: behind an odd
    number of turns a pixel is of a run.
    """
    write = turns.writer
    passed = write.op("CumSum", turns * turns, write.constant(0, _INT), exclusive=1)
    at = xp.expand_dims(start, 1) + (wide * _UP + _SIDE)
    count = xp.astype(_gather(passed, at), _INT)
    odd = count - count / 2 * 2
    return xp.where(odd > 0, count / 2, own)


def _lowered(label: Tensor, near: Tensor) -> Tensor:
    """One round of labels (R,): the labels of neighbours get the smallest one, and each takes its label's own."""
    beside = _gather(label, near)
    least = xp.broadcast_to(xp.min(beside, axis=1, keepdims=True), [1, 4])
    met = _scattered(label, xp.reshape(beside, [-1]), xp.reshape(least, [-1]), "min")
    return _gather(met, met)


def _repeated(writer: Writer, start: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
    """``step`` of integers (R,), until nothing changes."""
    name = f"{start.value.name}/settled"
    given = [
        ir.Value(name=f"{name}/{n}", type=ir.TensorType(t), shape=ir.Shape(s))
        for n, t, s in (("round", _INT, ()), ("go", ir.DataType.BOOL, ()), ("before", _INT, (None,)))
    ]
    body = ir.Graph(given, [], nodes=[], name=name)
    inner = Writer(body, writer.opset)
    before = inner.tensor(given[2])
    after = step(before)
    body.outputs.extend(t.value for t in (xp.sum(before - after, axis=0) > 0, after))
    for value in [*body.initializers.values(), *(v for n in body for v in n.outputs)]:
        value.name = f"{name}/{str(value.name).removeprefix(PREFIX)}"
    found = ir.Value(name=name, type=ir.TensorType(_INT), shape=ir.Shape([None]))
    go = writer.constant(True)
    writer.hold(go)
    writer.graph.append(
        ir.Node("", "Loop", [None, go.value, start.value], [ir.AttrGraph("body", body)], outputs=[found], name=name)
    )
    return writer.tensor(found)


def _counted(x: Tensor) -> Tensor:
    """(R,) to 0, 1, ... R - 1."""
    zero, one = (x.writer.constant(v, _INT) for v in (0, 1))
    return x.writer.op("Range", zero, xp.squeeze(xp.dim(x, 0), 0), one)


def _gather(x: Tensor, at: Tensor) -> Tensor:
    return x.writer.op("Gather", x, at)


def _scattered(x: Tensor, at: Tensor, values: Tensor, reduction: str, axis: int = 0) -> Tensor:
    return x.writer.op("ScatterElements", x, at, values, axis=axis, reduction=reduction)
