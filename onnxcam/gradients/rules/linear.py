"""Matrix products."""

from __future__ import annotations

from onnxcam.gradients.rules import Cotangents, Node, vjp
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor


@vjp("Gemm", broadcasts=True)  # Y = alpha A' B' + beta C, where ' may transpose
def gemm(node: Node, dy: Tensor) -> Cotangents:
    a, b = node.xs[:2]
    ta, tb, alpha = node.attr("transA", 0), node.attr("transB", 0), node.attr("alpha", 1.0)
    product = node.writer.op
    da = db = None
    if 0 in node.wanted:  # dA' = dY B'^T
        da = (
            product("Gemm", b, dy, transA=tb, transB=1, alpha=alpha)
            if ta
            else product("Gemm", dy, b, transB=1 - tb, alpha=alpha)
        )
    if 1 in node.wanted:  # dB' = A'^T dY
        db = (
            product("Gemm", dy, a, transA=1, transB=ta, alpha=alpha)
            if tb
            else product("Gemm", a, dy, transA=1 - ta, alpha=alpha)
        )
    return da, db, dy * node.attr("beta", 1.0) if 2 in node.wanted else None


@vjp("MatMul", broadcasts=True)  # dA = dY B^T, dB = A^T dY; vectors become matrices first
def matmul(node: Node, dy: Tensor) -> Cotangents:
    a, b = node.xs
    if a.rank == 1:
        dy = xp.expand_dims(dy, -2 if b.rank > 1 else -1)
    if b.rank == 1:
        dy = xp.expand_dims(dy, -1)
    a2 = xp.expand_dims(a, 0) if a.rank == 1 else a
    b2 = xp.expand_dims(b, 1) if b.rank == 1 else b
    da = _times_transposed(dy, b2) if 0 in node.wanted else None
    db = _swap(a2) @ dy if 1 in node.wanted else None
    return _without_axis(da, a, 0), _without_axis(db, b, -1)


def _times_transposed(dy: Tensor, b: Tensor) -> Tensor:
    """dY B^T; for matrices Gemm reads the weight as it lies, so that no transposed copy is stored."""
    return dy.writer.op("Gemm", dy, b, transB=1) if dy.rank == b.rank == 2 else dy @ _swap(b)


def _swap(x: Tensor) -> Tensor:
    return xp.permute_dims(x, [*range(x.rank - 2), x.rank - 1, x.rank - 2])


def _without_axis(dx: Tensor | None, vector: Tensor, axis: int) -> Tensor | None:
    """Drop the axis that made a vector a matrix, and sum the batch axes it was broadcast over."""
    if dx is None or vector.rank > 1:
        return dx
    dx = xp.squeeze(dx, -2 if axis == 0 else -1)
    return xp.sum(dx, tuple(range(dx.rank - 1))) if dx.rank > 1 else dx
