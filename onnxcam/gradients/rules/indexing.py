"""Gather and scatter: each is the other's gradient."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, vjp
from onnxcam.gradients.rules.linear import one_hot
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor

_PRODUCT_BELOW = 2**20  # elements of a 0/1 matrix; beyond, a scatter is cheaper


@vjp("Gather")  # dx[:, i, :] sums dy over the places that read i
def gather(node: Node, dy: Tensor) -> Cotangents:
    x, index = node.xs
    axis = node.attr("axis", 0) % x.rank
    flat, one = xp.reshape(index, [-1]), node.writer.constant([1])
    rows, columns = (
        functools.reduce(operator.mul, [xp.dim(x, a) for a in r], one) for r in (range(axis), range(axis + 1, x.rank))
    )
    block = xp.reshape(dy, xp.concat([rows, xp.shape_of(flat), columns]), [None, None, None])
    return xp.reshape_like(_ungather(block, flat, xp.dim(x, axis)), x)


def _ungather(block: Tensor, flat: Tensor, length: Tensor) -> Tensor:
    """(rows, picks, columns) -> (rows, length, columns)."""
    if flat.const is not None and length.const is not None:
        places = flat.const % int(length.const[0])
        if len(np.unique(places)) == len(places):
            return _by_inverse(block, places, int(length.const[0]))
        if len(places) * int(length.const[0]) > _PRODUCT_BELOW:
            return _by_scatter(block, flat, length)
    return one_hot(flat, length, block, 0) @ block


def _by_inverse(block: Tensor, places: Any, length: int) -> Tensor:
    """Where nothing is read twice each element finds its cotangent, or a row of zeros behind the last."""
    source = np.full(length, len(places))
    source[places] = np.arange(len(places))
    padded = xp.pad(block, [0, 0, 0], [0, int(len(places) < length), 0])
    return block.writer.op("Gather", padded, block.writer.constant(source), axis=1)


def _by_scatter(block: Tensor, flat: Tensor, length: Tensor) -> Tensor:
    rows, columns = xp.dim(block, 0), xp.dim(block, 2)
    zeros = xp.broadcast_to(block.lift(0), xp.concat([rows, length, columns]), [None, None, None])
    index = xp.broadcast_to(xp.reshape(flat, [1, -1, 1]), xp.shape_of(block), [None, None, None])
    return add_at("ScatterElements", zeros, index, block, axis=1)


def add_at(op_type: str, zeros: Tensor, index: Tensor, dy: Tensor, **attributes: Any) -> Tensor:
    """Add ``dy`` to ``zeros`` where ``index`` says."""
    return dy.writer.op(op_type, zeros, index, dy, reduction="add", **attributes)


@vjp("GatherElements")
def gather_elements(node: Node, dy: Tensor) -> Cotangents:
    zeros = xp.zeros_like(node.x, dy.dtype)
    return add_at("ScatterElements", zeros, node.xs[1], dy, axis=node.attr("axis", 0))


@vjp("GatherND")
def gather_nd(node: Node, dy: Tensor) -> Cotangents:
    if node.attr("batch_dims", 0):
        raise UnsupportedError("batch_dims")
    return add_at("ScatterND", xp.zeros_like(node.x, dy.dtype), node.xs[1], dy)


@vjp("ScatterElements")
def scatter_elements(node: Node, dy: Tensor) -> Cotangents:
    index, axis = node.xs[1], node.attr("axis", 0)
    taken = node.writer.op("GatherElements", dy, index, axis=axis)
    if _adds(node):
        return dy, None, taken
    zeros = xp.zeros_like(node.xs[2], dy.dtype)
    return node.writer.op("ScatterElements", dy, index, zeros, axis=axis), None, taken


@vjp("ScatterND")
def scatter_nd(node: Node, dy: Tensor) -> Cotangents:
    index = node.xs[1]
    taken = node.writer.op("GatherND", dy, index)
    if _adds(node):
        return dy, None, taken
    return node.writer.op("ScatterND", dy, index, xp.zeros_like(node.xs[2], dy.dtype)), None, taken


def _adds(node: Node) -> bool:
    reduction = node.attr("reduction", "none")
    if reduction not in ("none", "add"):
        raise UnsupportedError(f"reduction={reduction!r}")
    return reduction == "add"
