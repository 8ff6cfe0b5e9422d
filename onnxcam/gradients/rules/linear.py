"""Matrix products."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, vjp
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor, same_shape

_LARGEST_MINORS = 16  # rows of a matrix whose minors are held, rows ** 4 elements


@vjp("Gemm", broadcasts=True, aligned=False)  # Y = alpha A' B' + beta C, where ' may transpose
def gemm(node: Node, dy: Tensor) -> Cotangents:
    a, b = node.xs[:2]
    ta, tb, alpha = node.attr("transA", 0), node.attr("transB", 0), node.attr("alpha", 1.0)
    product = node.writer.op
    da = db = None
    if 0 in node.wanted:  # dA' = dY B'^T
        da = (
            product("Gemm", b, dy, transA=tb, transB=1, alpha=alpha, shape=a.shape)
            if ta
            else _entries_at_ones(node, dy, 1 - tb, a, alpha)
            or product("Gemm", dy, b, transB=1 - tb, alpha=alpha, shape=a.shape)
        )
    if 1 in node.wanted:  # dB' = A'^T dY
        db = (
            product("Gemm", dy, a, transA=1, transB=ta, alpha=alpha, shape=b.shape)
            if tb
            else product("Gemm", a, dy, transA=1 - ta, alpha=alpha, shape=b.shape)
        )
    return da, db, dy * node.attr("beta", 1.0) if 2 in node.wanted else None


def _entries_at_ones(node: Node, dy: Tensor, axis: int, a: Tensor, alpha: float = 1.0) -> Tensor | None:
    """dY B^T of a dY that is 1 at one place of each row, else 0: entries of B, which is read nowhere else.

    0 for a place beyond the end, where all of dY is 0; ONNX leaves it open what Gather gives there.
    """
    index = node.writer.one_hots.get(dy.small.value)
    if index is None or dy.rank != 2:
        return None
    known, count = index.const is not None, xp.dim(dy, 1)
    found = node.entries(1, index if known else xp.minimum(index, count - 1), axis)
    found = (xp.permute_dims(found, [1, 0]) if axis else found) * alpha
    if known:  # of a class that is settled, one row for all samples
        return xp.expand_like(found, a)
    found = found * xp.expand_dims(xp.astype(index < count, found.dtype), 1)
    found.value.shape = ir.Shape(a.shape or ())
    return found


@vjp("MatMul", broadcasts=True, aligned=False)  # dA = dY B^T, dB = A^T dY; vectors become matrices first
def matmul(node: Node, dy: Tensor) -> Cotangents:
    a, b = node.xs
    if a.rank == 1:
        dy = xp.expand_dims(dy, -2 if b.rank > 1 else -1)
    if b.rank == 1:
        dy = xp.expand_dims(dy, -1)
    a2 = xp.expand_dims(a, 0) if a.rank == 1 else a
    b2 = xp.expand_dims(b, 1) if b.rank == 1 else b
    plain = b.rank == a.rank == 2 and 0 in node.wanted
    rows = _entries_at_ones(node, dy, 1, a) if plain else None
    da = rows or (_times_transposed(dy, b2, a2) if 0 in node.wanted else None)
    db = _swap(a2) @ dy if 1 in node.wanted else None
    return _without_axis(da, a, 0), _without_axis(db, b, -1)


def _times_transposed(dy: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """dY B^T; by a matrix Gemm reads the weight as it lies, so that no transposed copy is stored, and A has not been
    broadcast: the result has its shape."""
    if b.rank != 2 or dy.rank < 2:
        return dy @ _swap(b)
    if dy.rank == 2:
        return dy.writer.op("Gemm", dy, b, transB=1, shape=a.shape)
    rows = dy.writer.op("Gemm", xp.reshape(dy, xp.concat([dy.writer.constant([-1]), xp.dim(dy, -1)])), b, transB=1)
    lengths = [*(xp.dim(dy, axis) for axis in range(dy.rank - 1)), xp.dim(b, 0)]
    return xp.reshape(rows, xp.concat(lengths), a.shape)


def _swap(x: Tensor) -> Tensor:
    return xp.permute_dims(x, [*range(x.rank - 2), x.rank - 1, x.rank - 2])


def _without_axis(dx: Tensor | None, vector: Tensor, axis: int) -> Tensor | None:
    """Drop the axis that made a vector a matrix."""
    return dx if dx is None or vector.rank > 1 else xp.squeeze(dx, -2 if axis == 0 else -1)


# The product of the cotangent and the other operands, summed to this one's letters.
@vjp("Einsum", broadcasts=True, aligned=False)
def einsum(node: Node, dy: Tensor) -> Cotangents:
    terms, result = _letters(node.attr("equation", ""), [x.rank for x in node.xs])
    terms, units = _without_diagonals(terms, node.xs)
    operands = [*zip(terms, node.xs, strict=True), *units]
    return tuple(_einsum_input(dy, operands, result, i) if i in node.wanted else None for i in range(len(terms)))


def _letters(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The terms and the result with letters for the axes of an ellipsis, which are aligned at the right."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    widths = [rank - len(t.replace("...", "")) if "..." in t else 0 for t, rank in zip(terms, ranks, strict=True)]
    fresh = "".join(c for c in string.ascii_letters if c not in equation)[: max(widths)]
    if not arrow:
        once = sorted(c for c in set(left) - {",", "."} if left.count(c) == 1)
        result = ("..." if "..." in left else "") + "".join(once)
    given = [t.replace("...", fresh[len(fresh) - w :]) for t, w in zip(terms, widths, strict=True)]
    return given, result.replace("...", fresh)


def _without_diagonals(terms: list[str], xs: Sequence[Tensor]) -> tuple[list[str], list[tuple[str, Tensor]]]:
    """A letter that a term repeats is the product with an identity matrix."""
    unused = iter(c for c in string.ascii_letters if c not in "".join(terms))
    made, units = [], []
    for term, x in zip(terms, xs, strict=True):
        letters = list(term)
        for axis, c in enumerate(letters):
            if c in letters[:axis]:
                letters[axis] = next(unused)
                units.append((c + letters[axis], unit_rows(xp.dim(x, axis), x)))
        made.append("".join(letters))
    return made, units


def _einsum_input(dy: Tensor, operands: list[tuple[str, Tensor]], result: str, index: int) -> Tensor:
    mine, x = operands[index]
    others = [o for i, o in enumerate(operands) if i != index]
    seen = set(result).union(*(term for term, _ in others))
    equation = ",".join([result, *(term for term, _ in others)]) + "->" + "".join(c for c in mine if c in seen)
    dx = dy.writer.op("Einsum", dy, *(t for _, t in others), equation=equation)
    lost = [a for a, c in enumerate(mine) if c not in seen]  # axes that the operator summed by themselves
    dx = xp.expand_dims(dx, lost) if lost else dx
    return dx if same_shape(dx, x) else dx + xp.zeros_like(x)  # an axis may be 1 in all others


@vjp("Det")  # dx = dy times the cofactors, which are determinants themselves
def det(node: Node, dy: Tensor) -> Cotangents:
    x, size = node.x, xp.dim(node.x, -1)
    dy = xp.expand_dims(dy, (-2, -1))
    if size.const is not None and not 1 < size.const[0] <= _LARGEST_MINORS:
        if size.const[0] == 1:
            return dy
        raise UnsupportedError(f"matrices of {size.const[0]} rows")
    one = size.lift([1])
    row, place = positions(size), positions(size - one)
    column = xp.expand_dims(row, 1)
    others = place + xp.astype(place >= column, place.dtype)
    rows = node.writer.op("Gather", x, others, axis=x.rank - 2)  # (..., i, rows, columns)
    minors = node.writer.op("Gather", rows, others, axis=x.rank)  # (..., i, rows, j, columns)
    order = [*range(x.rank - 1), x.rank, x.rank - 1, x.rank + 1]
    signs = 1 - 2 * xp.astype(node.writer.op("Mod", row + column, size.lift(2)), dy.dtype)
    return dy * (node.writer.op("Det", xp.permute_dims(minors, order)) * signs)


def unit_rows(length: Tensor, like: Tensor) -> Tensor:
    """The identity matrix of a size that may be known at run time only."""
    if length.const is not None:
        return like.lift(np.eye(int(length.const[0])))
    return one_hot(positions(length), length, like, -1)


def one_hot(places: Tensor, length: Tensor, like: Tensor, axis: int) -> Tensor:
    """1 at each place, of ``length`` (a vector of one element), along a new axis; of the type of ``like``."""
    places = xp.astype(places, length.dtype)
    return like.writer.op("OneHot", places, xp.squeeze(length, 0), like.lift([0, 1]), axis=axis)


def positions(length: Tensor) -> Tensor:
    """0 ... length - 1, int64, for a length given as a vector of one element."""
    zero, one = (length.lift(v) for v in (0, 1))
    return length.writer.op("Range", zero, xp.squeeze(length, 0), one)


def along(dy: Tensor, matrix: Tensor, axis: int, like: Tensor) -> Tensor:
    """``matrix`` (after, before), transposed, applied to one axis of ``dy``; to the length of that axis of ``like``."""
    if axis == dy.rank - 1:
        return dy @ matrix
    transposed = xp.permute_dims(matrix, [1, 0])
    if axis == dy.rank - 2:
        return transposed @ dy
    lead, tail = ([xp.dim(dy, a) for a in r] for r in (range(axis), range(axis + 1, dy.rank)))
    rows = xp.reshape(dy, xp.concat([*lead, xp.dim(dy, axis), dy.writer.constant([-1])]), [None] * (axis + 2))
    assert dy.shape is not None
    assert like.shape is not None
    dims = [*dy.shape[:axis], like.shape[axis], *dy.shape[axis + 1 :]]
    return xp.reshape(transposed @ rows, xp.concat([*lead, xp.dim(like, axis), *tail]), dims)
