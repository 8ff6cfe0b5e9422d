"""Values between pixels: GridSample and DeformConv, written with the pixels that each sample reads.

Jaderberg et al., "Spatial Transformer Networks", 2015, https://arxiv.org/abs/1506.02025; Zhu et al., "Deformable
ConvNets v2", 2018, https://arxiv.org/abs/1811.11168.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxcam.gradients.bodies import Written, body
from onnxcam.gradients.rules import Node, UnsupportedError
from onnxcam.gradients.rules.linear import positions
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor
from onnxcam.model import Dim

_A = -0.75
# By mode: the first pixel that is read, seen from the one below the sample, and each pixel's weight as a polynomial of
# the distance from there, highest power first (Keys, "Cubic convolution interpolation", 1981).
_KERNELS: dict[str, tuple[int, list[list[float]]]] = {
    "nearest": (0, [[1]]),
    "linear": (0, [[-1, 1], [1, 0]]),
    "cubic": (
        -1,
        [[_A, _A + 2, -_A - 2, -_A], [-2 * _A, -_A - 3, 2 * _A + 3, _A], [_A, 0, -_A, 0], [0, 1, 0, 0]],
    ),
}


@dataclass(frozen=True)
class Taps:
    """What samples read along one axis; both arrays have the samples' axes, and that of the pixels behind them.

    Attributes:
        index: the pixels, all within the picture.
        weight: what each counts.
    """

    index: Tensor
    weight: Tensor


def taps(at: Tensor, length: Tensor, mode: str, padding: str, aligned: bool = False) -> Taps:
    """The pixels around the places ``at`` (the first one's centre is 0) of an axis of this length."""
    first, polynomials = _KERNELS[mode]
    below = at.writer.op("Round", at) if mode == "nearest" else xp.floor(at)
    index = xp.expand_dims(xp.astype(below, length.dtype), -1) + np.arange(first, first + len(polynomials[0]))
    weight = _polynomial(xp.expand_dims(at - below, -1), polynomials)
    if padding == "reflection":
        return Taps(_reflected(index, length, aligned), weight)
    held = xp.minimum(xp.maximum(index, index.lift(0)), length - 1)
    return Taps(held, weight * xp.astype(held == index, at.dtype) if padding == "zeros" else weight)


def _polynomial(x: Tensor, coefficients: list[list[float]]) -> Tensor:
    highest, *others = (x.lift(np.reshape(row, [1] * (x.rank - 1) + [-1])) for row in coefficients)
    return functools.reduce(lambda y, c: y * x + c, others, highest)


def _reflected(index: Tensor, length: Tensor, aligned: bool) -> Tensor:
    """Thrown back by the centres of the first and the last pixel if aligned, else by their outer edges."""
    turn = xp.maximum(length * 2 - 2, length.lift(1)) if aligned else length * 2
    index = index.writer.op("Mod", index, turn)
    return xp.minimum(index, turn - index - int(not aligned))


def rows(x: Tensor) -> Tensor:
    """(B, C, ...) -> (B ..., C): the channels of one pixel after the other."""
    last = xp.permute_dims(x, [0, *range(2, x.rank), 1])
    assert x.shape is not None
    return xp.reshape(last, xp.concat([x.writer.constant([-1]), xp.dim(x, 1)]), [None, x.shape[1]])


def _sampled(x: Tensor, axes: Sequence[Taps]) -> Tensor:
    """(B, C, ...) -> (B, P, C): at each of P places the sum over the pixels that it reads."""
    many, batch = len(axes), axes[0].index.shape
    assert batch is not None
    row, weights = xp.reshape(positions(xp.dim(x, 0)), [-1, 1], [batch[0], 1]), []
    for a, read in enumerate(axes):
        others = [2 + k for k in range(many) if k != a]
        row = xp.expand_dims(row * xp.dim(x, a + 2), -1) + _expanded(read.index, others[:a])
        weights.append(_expanded(read.weight, [*others, 2 + many]))
    values = x.writer.op("GatherND", rows(x), xp.expand_dims(row, -1))
    return xp.sum(values * functools.reduce(operator.mul, weights), range(2, 2 + many))


def _expanded(x: Tensor, axes: list[int]) -> Tensor:
    return xp.expand_dims(x, axes) if axes else x


def _product(dims: Sequence[Dim], name: str) -> Dim:
    """How many elements these axes hold; a name for it where that is unknown, so that equal shapes are seen to be."""
    known = [d for d in dims if isinstance(d, int)]
    return math.prod(known) if len(known) == len(dims) else name


@body("GridSample")
def grid_sample(node: Node) -> Written:
    x, grid = node.xs
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(node.attr("mode", "linear"), node.attr("mode", "linear"))
    aligned, many = bool(node.attr("align_corners", 0)), x.rank - 2
    assert grid.shape is not None
    name = node.raw.outputs[0].name
    dims = [_product(grid.shape[:1], f"{name}_batch"), _product(grid.shape[1:-1], f"{name}_points"), many]
    listed = xp.reshape(grid, [0, -1, many], dims)
    columns = grid.writer.ops("Split", listed, outputs=many, axis=2, num_outputs=many)
    axes = []
    for axis, column in enumerate(reversed(columns)):  # x before y before z
        n = xp.dim(x, axis + 2)
        at = _in_pixels(xp.squeeze(column, 2), n, aligned)
        axes.append(taps(at, n, mode, node.attr("padding_mode", "zeros"), aligned))
    return xp.reshape_like(xp.permute_dims(_sampled(x, axes), [0, 2, 1]), node.y)


def _in_pixels(at: Tensor, length: Tensor, aligned: bool) -> Tensor:
    """From -1 at the first pixel to 1 at the last: at their centres if aligned, else at their outer edges."""
    n = xp.astype(length, at.dtype)
    return ((at + 1.0) * (n - 1.0) if aligned else (at + 1.0) * n - 1.0) * 0.5


@body("DeformConv")  # a convolution whose kernel reads beside its places
def deform_conv(node: Node) -> Written:
    x, w = node.x, node.input(1)
    assert w is not None
    assert w.shape is not None
    kernel = [k for k in w.shape[2:] if isinstance(k, int)]
    if len(kernel) < x.rank - 2:
        raise UnsupportedError("the kernel's shape is unknown")
    groups, parts, size = node.attr("group", 1), node.attr("offset_group", 1), math.prod(kernel)
    read, mask = _sampled(_parted(x, parts), _deformed(node, kernel)), node.input(4)
    if mask is not None:
        assert read.shape is not None
        listed = xp.reshape(mask, xp.concat([x.writer.constant([-1]), xp.dim(read, 1)]), read.shape[:2])
        read = read * xp.expand_dims(listed, 2)
    vectors = [x.writer.constant([v]) for v in (parts, size, -1)]
    parted = xp.reshape(read, xp.concat([xp.dim(x, 0), *vectors, xp.dim(read, 2)]), [None] * 5)
    columns = _grouped(xp.permute_dims(parted, [0, 1, 4, 2, 3]), [0, groups], xp.dim(w, 1), [size, -1])
    weights = _grouped(w, [groups, -1], xp.dim(w, 1), [size])
    y = xp.reshape_like(x.writer.op("Einsum", columns, weights, equation="ngckp,gock->ngop"), node.y)
    bias = node.input(3)
    return y if bias is None else y + xp.reshape(bias, [-1] + [1] * len(kernel))


def _grouped(x: Tensor, lead: list[int], channels: Tensor, tail: list[int]) -> Tensor:
    shape = xp.concat([x.writer.constant(lead), channels, x.writer.constant(tail)])
    return xp.reshape(x, shape, [None] * (len(lead) + 1 + len(tail)))


def _parted(x: Tensor, parts: int) -> Tensor:
    """(N, parts C, ...) -> (N parts, C, ...)"""
    if parts == 1:
        return x
    assert x.shape is not None
    less, rest = xp.dim(x, 1) / parts, x.writer.constant([-1])
    dims = [None if less.const is None else int(less.const[0]), *x.shape[2:]]
    return xp.reshape(x, xp.concat([rest, less, *(xp.dim(x, a) for a in range(2, x.rank))]), [None, *dims])


def _deformed(node: Node, kernel: list[int]) -> list[Taps]:
    """What each place of the kernel reads for each pixel of the output."""
    x, offset = node.x, node.input(2)
    assert offset is not None
    many, name = len(kernel), str(node.raw.outputs[0].name)
    strides, dilations = (node.attr(k, [1] * many) for k in ("strides", "dilations"))
    pads, parts = node.attr("pads", [0] * 2 * many), node.attr("offset_group", 1)
    assert offset.shape is not None
    batch = _product((*offset.shape[:1], parts), f"{name}_parts")
    pixels = _product(offset.shape[2:], f"{name}_pixels")
    size = math.prod(kernel)
    dims = [batch, size, many, pixels]
    count = functools.reduce(operator.mul, [xp.dim(offset, a) for a in range(2, offset.rank)])
    listed = xp.reshape(offset, xp.concat([x.writer.constant([-1, size, many]), count]), dims)
    columns = x.writer.ops("Split", listed, outputs=many, axis=2, num_outputs=many)
    found = []
    for a, place in enumerate(np.indices(kernel).reshape(many, size, 1)):
        base = _spread(offset, a) * strides[a] + (place * dilations[a] - pads[a])
        at = xp.squeeze(columns[a], 2) + xp.astype(base, offset.dtype)
        listed = xp.reshape(at, [0, -1], [batch, _product((size, pixels), f"{name}_points")])
        found.append(taps(listed, xp.dim(x, a + 2), "linear", "zeros"))
    return found


def _spread(offset: Tensor, axis: int) -> Tensor:
    """The place of every pixel along one axis; a vector."""
    many = offset.rank - 2
    along = xp.reshape(positions(xp.dim(offset, axis + 2)), [-1 if a == axis else 1 for a in range(many)])
    whole = xp.broadcast_to(along, xp.concat([xp.dim(offset, a + 2) for a in range(many)]), [None] * many)
    return xp.reshape(whole, [-1])
