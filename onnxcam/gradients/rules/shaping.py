"""Operators that move elements about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, no_gradient, vjp
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor
from onnxcam.model import Dim

no_gradient("Shape", "Size", "ConstantOfShape", "Range", "NonZero", "OneHot", "EyeLike", "NonMaxSuppression")


@vjp("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(node: Node, dy: Tensor) -> Cotangents:
    return xp.reshape_like(dy, node.x)


@vjp("Transpose")
def transpose(node: Node, dy: Tensor) -> Cotangents:
    perm = node.attr("perm", list(range(dy.rank))[::-1])
    return xp.permute_dims(dy, np.argsort(perm).tolist())


@vjp("Expand", broadcasts=True)
def expand(node: Node, dy: Tensor) -> Cotangents:
    return dy


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
    pieces = [node.writer.tensor(v) for v in node.raw.outputs]
    parts = [xp.zeros_like(y) if dy is None else dy for y, dy in zip(pieces, dys, strict=True)]
    return xp.concat(parts, node.attr("axis", 0))


def pad_to(dy: Tensor, axis: int, before: Tensor, like: Tensor) -> Tensor:
    """Zeros before and after ``dy`` along one axis, to the length of ``like``."""
    after = xp.dim(like, axis) - before - xp.dim(dy, axis)
    zero = dy.writer.constant(np.asarray([0]))
    pads = [before if a == axis else zero for a in range(dy.rank)] + [
        after if a == axis else zero for a in range(dy.rank)
    ]
    return dy.writer.op("Pad", dy, xp.concat(pads), shape=like.shape)


@vjp("Slice")
def slice_(node: Node, dy: Tensor) -> Cotangents:
    x = node.x
    starts, ends = node.const(1, "starts"), node.const(2, "ends")
    axes, steps = node.const(3, "axes"), node.const(4, "steps")
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones_like(starts) if steps is None else steps
    assert x.shape is not None
    dims = list(x.shape)
    for a, start, end, step in reversed(list(zip(axes.tolist(), starts, ends, steps, strict=True))):
        axis = a % x.rank
        length = dims[axis]
        if not isinstance(length, int):
            if start < 0 or step != 1:
                raise UnsupportedError(f"axis {axis} has no fixed length, with steps or counted from the end")
            dy = pad_to(dy, axis, node.writer.constant(np.asarray([int(start)])), x)
            continue
        dy = _unslice(dy, axis, range(length)[int(start) : _stop(int(end), length) : int(step)], length)
    return dy


def _stop(end: int, length: int) -> int | None:
    """ONNX clamps an end before the first element to -1 - length; Python writes None."""
    return None if end < -length else end


def _unslice(dy: Tensor, axis: int, taken: range, length: int) -> Tensor:
    """Put the elements of ``dy`` back to the places ``taken`` of an axis of ``length`` zeros."""
    if taken.step < 0:
        dy, taken = xp.flip(dy, axis), taken[::-1]
    if len(taken) and taken.step > 1:
        dy = _interleave(dy, axis, taken.step)
    begin = taken.start if len(taken) else 0
    end = length - begin - ((len(taken) - 1) * taken.step + 1 if len(taken) else 0)
    spare = (taken.step - 1) if len(taken) and taken.step > 1 else 0
    before, after = [0] * dy.rank, [0] * dy.rank
    before[axis], after[axis] = begin, end - spare
    return xp.pad(dy, before, after)


def _interleave(dy: Tensor, axis: int, step: int) -> Tensor:
    """Zeros after every element along one axis."""
    wide = xp.expand_dims(dy, axis + 1)
    after = [0] * wide.rank
    after[axis + 1] = step - 1
    padded = xp.pad(wide, [0] * wide.rank, after)
    shape: list[int] = [0] * dy.rank
    shape[axis] = -1
    assert dy.shape is not None
    dims: list[Dim] = [d if a != axis else (d * step if isinstance(d, int) else None) for a, d in enumerate(dy.shape)]
    lengths = [xp.dim(dy, a) if a != axis else dy.writer.constant(np.asarray([-1])) for a in range(dy.rank)]
    return xp.reshape(padded, xp.concat(lengths), dims)


@vjp("Pad")
def pad(node: Node, dy: Tensor) -> Cotangents:
    mode, pads = node.attr("mode", "constant"), node.const(1, "pads")
    if mode != "constant":
        raise UnsupportedError(f"mode={mode}")
    axes = node.const(3, "axes")
    axes = list(range(dy.rank)) if axes is None else [int(a) % dy.rank for a in axes]
    before, after = [0] * dy.rank, [0] * dy.rank
    for i, a in enumerate(axes):
        before[a], after[a] = -int(pads[i]), -int(pads[i + len(axes)])
    return xp.pad(dy, before, after)


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
    return node.writer.op("DepthToSpace", dy, blocksize=node.attr("blocksize", 1), mode="DCR")


@vjp("Gather")  # dx[:, i, :] sums dy over the places that read i: a product with a 0/1 matrix
def gather(node: Node, dy: Tensor) -> Cotangents:
    x, index = node.xs
    axis = node.attr("axis", 0) % x.rank
    depth = xp.dim(x, axis)
    flat = xp.reshape(index, [-1])
    values = node.writer.constant(np.asarray([0, 1]), dy.dtype)
    picks = node.writer.op("OneHot", flat, depth, values, axis=0)  # (length of the axis, picks)
    lead = [xp.dim(x, a) for a in range(axis)]
    tail = [xp.dim(x, a) for a in range(axis + 1, x.rank)]
    one = node.writer.constant(np.asarray([1]))
    rows = _product([one, *lead])
    columns = _product([one, *tail])
    block = xp.reshape(dy, xp.concat([rows, xp.shape_of(flat), columns]), [None, None, None])
    return xp.reshape_like(picks @ block, x)


def _product(lengths: Sequence[Tensor]) -> Tensor:
    total = lengths[0]
    for length in lengths[1:]:
        total = total * length
    return total
