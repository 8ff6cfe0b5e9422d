"""Operators that reshape, repeat, join and cut."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx_ir as ir

from onnxcam.gradients.rules import Cotangents, Node, no_gradient, vjp
from onnxcam.gradients.rules.indexing import add_at
from onnxcam.gradients.rules.linear import along, one_hot, positions
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor
from onnxcam.graph.weights import is_settled
from onnxcam.model import Dim

no_gradient("Shape", "Size", "ConstantOfShape", "Range", "NonZero", "EyeLike", "NonMaxSuppression")


@vjp("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(node: Node, dy: Tensor) -> Cotangents:
    dx = xp.reshape_like(dy, node.x)
    made = None if dy.small is not dy or dy.rank != 2 else dy.value.producer()
    if made is not None and made.op_type == "Gemm" and dx.rank > 2:
        _note_mean(dx, made)
    return dx


def _note_mean(dx: Tensor, made: ir.Node) -> None:
    """Of the gradient at maps that are flattened before a dense layer: a product with the means of its weight.

    Runtimes compute these when they load the file, and what they read in a run is less by as many times as maps have
    pixels.
    """
    scores, weight = (dx.writer.tensor(v) for v in made.inputs[:2] if v is not None)
    dims, sizes, turned = (dx.shape or ())[1:], weight.shape or (), made.attributes.get_int("transB") or 0
    known = [d for d in dims if isinstance(d, int)]
    plain = len(known) == len(dims) and len(made.inputs) == 2 and not made.attributes.get_int("transA")
    if not (plain and is_settled(weight) and sizes[1 - turned] == math.prod(known)):
        return
    channels, pixels = known[0], math.prod(known[1:])

    def mean() -> Tensor:
        write, axis = dx.writer.op, 1 if turned else 2
        split = [channels, pixels, sizes[1]] if turned else [sizes[0], channels, pixels]
        parts = write("Reshape", weight, dx.writer.constant(np.asarray(split)), fold=False)
        means = write("ReduceMean", parts, dx.writer.constant([axis]), keepdims=0, fold=False)
        rows = write("Gemm", scores, means, transB=turned, alpha=made.attributes.get_float("alpha", 1.0))
        return xp.expand_dims(rows, tuple(range(2, dx.rank)))

    dx.writer.means[dx.value] = mean


@vjp("Transpose")
def transpose(node: Node, dy: Tensor) -> Cotangents:
    perm = node.attr("perm", list(range(dy.rank))[::-1])
    return xp.permute_dims(dy, np.argsort(perm).tolist())


@vjp("Expand", broadcasts=True, aligned=False)
def expand(node: Node, dy: Tensor) -> Cotangents:
    return dy


@vjp("Tile")  # dx sums dy over the copies
def tile(node: Node, dy: Tensor) -> Cotangents:
    x, repeats = node.xs
    copies = [xp.slice_axis(repeats, 0, a, a + 1) for a in range(x.rank)]
    lengths = list(itertools.chain(*((c, xp.dim(x, a)) for a, c in enumerate(copies))))
    split = xp.reshape(dy, xp.concat(lengths), _interleaved_dims(copies, x))
    return xp.sum(split, tuple(range(0, 2 * x.rank, 2)))


def _interleaved_dims(copies: list[Tensor], x: Tensor) -> list[Dim]:
    known = [None if c.const is None else int(c.const[0]) for c in copies]
    assert x.shape is not None
    return list(itertools.chain(*zip(known, x.shape, strict=True)))


@vjp("Concat")  # cut the cotangent where the inputs meet
def concat(node: Node, dy: Tensor) -> Cotangents:
    axis = node.attr("axis", 0) % dy.rank
    start, parts = node.writer.constant(np.asarray([0])), []
    for index, x in enumerate(node.xs):
        end = start + xp.dim(x, axis)
        parts.append(_between(dy, axis, start, end, x) if index in node.wanted else None)
        start = end
    return tuple(parts)


def _between(dy: Tensor, axis: int, start: Tensor, end: Tensor, like: Tensor) -> Tensor:
    return dy.writer.op("Slice", dy, start, end, dy.writer.constant(np.asarray([axis])), shape=like.shape)


@vjp("Split")
def split(node: Node, *dys: Tensor | None) -> Cotangents:
    dtype = next(dy.dtype for dy in dys if dy is not None)
    pieces = [node.writer.tensor(v) for v in node.raw.outputs]
    parts = [xp.zeros_like(y, dtype) if dy is None else dy for y, dy in zip(pieces, dys, strict=True)]
    return xp.concat(parts, node.attr("axis", 0))


@vjp("Slice")  # the elements of dy go back to start, start + step, ...
def slice_(node: Node, dy: Tensor) -> Cotangents:
    x, starts = node.x, node.xs[1]
    assert starts.shape is not None
    if not isinstance(starts.shape[0], int) or not _known(node, 3, 4):
        return _put_back(node, dy)
    axes, steps = node.const(3, "axes"), node.const(4, "steps")
    axes = range(starts.shape[0]) if axes is None else axes.tolist()
    steps = [1] * len(axes) if steps is None else steps.tolist()
    for i, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        start = starts if len(axes) == 1 else xp.slice_axis(starts, 0, i, i + 1)
        dy = _unslice(dy, axis % x.rank, xp.astype(start, xp.dim(x, axis).dtype), step, x)
    return dy


def _known(node: Node, *indices: int) -> bool:
    """Whether these inputs are constants or left out."""
    return all(t is None or t.const is not None for t in map(node.input, indices))


def _put_back(node: Node, dy: Tensor) -> Tensor:
    """Every element to where the operator took it from: it says so itself, given the numbers of the places."""
    x = node.x
    size = xp.reshape(node.writer.op("Size", x), [1])
    places = xp.reshape(positions(size), xp.shape_of(x), x.shape)
    attributes = {a.name: a.value for a in node.raw.attributes.values()}
    taken = node.writer.op(node.raw.op_type, places, *node.optional_xs[1:], **attributes)
    flat = add_at("ScatterElements", xp.broadcast_to(dy.lift(0), size), xp.reshape(taken, [-1]), xp.reshape(dy, [-1]))
    return xp.reshape_like(flat, x)


def _unslice(dy: Tensor, axis: int, start: Tensor, step: int, x: Tensor) -> Tensor:
    """Zeros before, between and after the elements of ``dy``, to the length of ``x`` along one axis."""
    length = xp.dim(x, axis)
    first = _clamped(xp.where(start < 0, start + length, start), length - int(step < 0))
    if step < 0:
        dy, first = xp.flip(dy, axis), first + (xp.dim(dy, axis) - 1) * step
    if abs(step) > 1:
        dy = _interleave(dy, axis, abs(step))
    return _pad_to(dy, axis, _clamped(first, length), x)


def _clamped(index: Tensor, high: Tensor) -> Tensor:
    return xp.minimum(index.writer.op("Max", index, index.lift([0])), high)


def _pad_to(dy: Tensor, axis: int, before: Tensor, like: Tensor) -> Tensor:
    """Zeros before and after ``dy`` along one axis, to the length of ``like``."""
    after = xp.dim(like, axis) - before - xp.dim(dy, axis)
    if before.const is not None and after.const is not None and not before.const[0] and not after.const[0]:
        return dy
    zero = before.lift([0])
    pads = [pad if a == axis else zero for pad in (before, after) for a in range(dy.rank)]
    assert dy.shape is not None
    assert like.shape is not None
    dims = [*dy.shape[:axis], like.shape[axis], *dy.shape[axis + 1 :]]
    return dy.writer.op("Pad", dy, xp.concat(pads), shape=dims)


def _interleave(dy: Tensor, axis: int, step: int) -> Tensor:
    """Zeros between the elements along one axis."""
    wide = xp.expand_dims(dy, axis + 1)
    padded = xp.pad(wide, [0] * wide.rank, [0] * (axis + 1) + [step - 1] + [0] * (dy.rank - axis - 1))
    lengths = [xp.dim(dy, a) if a != axis else xp.dim(dy, a) * step for a in range(dy.rank)]
    assert dy.shape is not None
    dims = [d if a != axis else (d * step if isinstance(d, int) else None) for a, d in enumerate(dy.shape)]
    return xp.slice_axis(xp.reshape(padded, xp.concat(lengths), dims), axis, 0, 1 - step)


@vjp("Pad")  # of zeros: cut; otherwise each element sums the places that copied it
def pad(node: Node, dy: Tensor) -> Cotangents:
    if node.attr("mode", "constant") == "constant":
        dx = _uncopied(node, dy)
        return dx, None, xp.reshape_like(xp.sum(dy) - xp.sum(dx), node.xs[2]) if 2 in node.wanted else None
    if not _known(node, 1, 3):
        return _put_back(node, dy)
    pads, axes = node.const(1, "pads"), _padded_axes(node)
    for i, axis in enumerate(axes):
        amounts = pads[[i, len(axes) + i]]
        if amounts.any():
            dy = along(dy, _copies(node, axis, amounts, dy), axis, node.x)
    return dy


def _padded_axes(node: Node) -> list[int]:
    axes = node.const(3, "axes")
    return list(range(node.x.rank)) if axes is None else [int(a) % node.x.rank for a in axes]


def _uncopied(node: Node, dy: Tensor) -> Tensor:
    pads = node.input(1)
    assert pads is not None
    if pads.const is None or not _known(node, 3):
        return node.writer.op("Pad", dy, -pads, None, node.input(3), shape=node.x.shape)
    before, after = [0] * dy.rank, [0] * dy.rank
    axes = _padded_axes(node)
    for i, a in enumerate(axes):
        before[a], after[a] = -int(pads.const[i]), -int(pads.const[i + len(axes)])
    return xp.pad(dy, before, after)


def _copies(node: Node, axis: int, amounts: np.ndarray, like: Tensor) -> Tensor:
    """(after, before): row i is 1 at the element that place i copied, as the operator itself copies positions."""
    places = positions(xp.dim(node.x, axis))
    copied = node.writer.op("Pad", places, node.writer.constant(amounts), mode=node.attr("mode", "edge"))
    return one_hot(copied, xp.dim(node.x, axis), like, -1)


@vjp("Trilu")  # the same triangle
def trilu(node: Node, dy: Tensor) -> Cotangents:
    return node.writer.op("Trilu", dy, node.input(1), upper=node.attr("upper", 1))


@vjp("DepthToSpace")
def depth_to_space(node: Node, dy: Tensor) -> Cotangents:
    block = node.attr("blocksize", 1)
    if node.attr("mode", "DCR") == "DCR":
        return node.writer.op("SpaceToDepth", dy, blocksize=block)
    n, (h, w) = xp.dim(dy, 0), (xp.dim(node.x, a) for a in (2, 3))
    c, b = xp.dim(dy, 1), node.writer.constant(np.asarray([block]))
    six = xp.reshape(dy, xp.concat([n, c, h, b, w, b]), [None] * 6)
    return xp.reshape_like(xp.permute_dims(six, [0, 1, 3, 5, 2, 4]), node.x)


@vjp("SpaceToDepth")
def space_to_depth(node: Node, dy: Tensor) -> Cotangents:
    return node.writer.op("DepthToSpace", dy, blocksize=node.attr("blocksize", 1), mode=node.attr("mode", "DCR"))
