"""Arithmetic, matrix products and reductions."""

from __future__ import annotations

import functools
import operator

from onnxcam.gradients.buildable import lower
from onnxcam.gradients.path_copy import Made, Node
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor


@lower("Sum")
def sum_(node: Node) -> Made:
    return functools.reduce(operator.add, node.xs)


@lower("Mean")
def mean(node: Node) -> Made:
    return functools.reduce(operator.add, node.xs) / len(node.xs)


@lower("Pow")
def pow_(node: Node) -> Made:
    node.only(0)
    return node.x ** xp.astype(node.held(1), node.x.dtype)


@lower("Where")  # the builder forgets to sum over broadcast axes
def where(node: Node) -> Made:
    _, a, b = node.xs
    return xp.where(node.held(0), xp.expand_like(a, node.y), xp.expand_like(b, node.y))


@lower("Gemm")  # the builder gives C's gradient the shape of Y
def gemm(node: Node) -> Made:
    if not node.live(2):
        return node.as_it_is()
    a, b, c = node.xs
    flags = {n: node.attr(n, 0) for n in ("transA", "transB")}
    return node.op("Gemm", a, b, alpha=node.attr("alpha", 1.0), **flags) + c * node.attr("beta", 1.0)


@lower("MatMul")  # the builder is wrong about vectors
def matmul(node: Node) -> Made:
    a, b = node.xs
    if a.rank > 1 and b.rank > 1:
        return node.as_it_is()
    matrix = (xp.expand_dims(a, 0) if a.rank == 1 else a) @ (xp.expand_dims(b, 1) if b.rank == 1 else b)
    return xp.squeeze(matrix, ([-2] if a.rank == 1 else []) + ([-1] if b.rank == 1 else []))


# Reductions


def _axes(node: Node) -> tuple[int, ...]:
    given = node.const(1)
    if given is None or given.size == 0:
        return () if node.attr("noop_with_empty_axes", 0) else tuple(range(node.x.rank))
    return tuple(sorted(int(a) % node.x.rank for a in given))


@lower("ReduceLogSumExp")  # the builder wants the axes said
def reduce_log_sum_exp(node: Node) -> Made:
    axes = _axes(node)
    return node.op("ReduceLogSumExp", node.x, node.ints(*axes), keepdims=node.attr("keepdims", 1)) if axes else node.x


@lower("ReduceL2")  # sum of x (x / y); the builder divides by zero where all x are
def reduce_l2(node: Node) -> Made:
    y = _spread(node, _axes(node))
    return _weighted(node, node.held(0) / xp.where(y > 0, y, 1.0))


@lower("ReduceMax", "ReduceMin")  # ties share equally
def reduce_extremum(node: Node) -> Made:
    axes = _axes(node)
    hits = xp.astype(node.held(0) == _spread(node, axes), node.y.dtype)
    return _weighted(node, hits / xp.sum(hits, axes, keepdims=True) if axes else hits)


def _spread(node: Node, axes: tuple[int, ...]) -> Tensor:
    return node.y if node.attr("keepdims", 1) or not axes else xp.expand_dims(node.y, axes)


def _weighted(node: Node, weights: Tensor) -> Tensor:
    axes = _axes(node)
    return xp.sum(node.x * weights, axes, keepdims=bool(node.attr("keepdims", 1))) if axes else node.x * weights
