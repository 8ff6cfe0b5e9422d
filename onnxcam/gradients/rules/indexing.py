"""Gather and scatter: each is the other's gradient."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcam.gradients.rules import Cotangents, Node, vjp
from onnxcam.gradients.rules.linear import one_hot, positions
from onnxcam.gradients.rules.reduction import nonzero
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor

_PRODUCT_BELOW = 2**20  # elements of a 0/1 matrix; beyond, a scatter is cheaper


@vjp("Gather")  # dx[:, i, :] sums dy over the places that read i
def gather(node: Node, dy: Tensor) -> Cotangents:
    x, index = node.xs
    axis = node.attr("axis", 0) % x.rank
    if (around := _neighbours(index, xp.dim(x, axis))) is not None:
        return _padded(dy if index.rank else xp.expand_dims(dy, axis), axis, around, x)
    flat, one = xp.reshape(index, [-1]), node.writer.constant([1])
    rows, columns = (
        functools.reduce(operator.mul, [xp.dim(x, a) for a in r], one) for r in (range(axis), range(axis + 1, x.rank))
    )
    block = xp.reshape(dy, xp.concat([rows, xp.shape_of(flat), columns]), [None, None, None])
    return xp.reshape_like(_ungather(block, flat, xp.dim(x, axis)), x)


def _neighbours(index: Tensor, length: Tensor) -> tuple[int, int] | None:
    """How many entries lie before and behind those that are picked, where these are neighbours in their order."""
    if index.const is None or length.const is None or index.rank > 1 or not index.const.size:
        return None
    places = np.atleast_1d(index.const) % int(length.const[0])
    if not np.array_equal(places, np.arange(places[0], places[0] + len(places))):
        return None
    return int(places[0]), int(length.const[0] - places[-1] - 1)


def _padded(dy: Tensor, axis: int, around: tuple[int, int], like: Tensor) -> Tensor:
    before, after = ([n if a == axis else 0 for a in range(dy.rank)] for n in around)
    dx = xp.pad(dy, before, after)
    dx.value.shape = ir.Shape(like.shape or ())
    return dx


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
    x, index = node.xs
    batch = node.attr("batch_dims", 0)
    return add_at("ScatterND", xp.zeros_like(x, dy.dtype), _with_batch(index, batch) if batch else index, dy)


def _with_batch(index: Tensor, batch: int) -> Tensor:
    """Indices that begin with the place in the batch."""
    lead = [xp.dim(index, a) for a in range(index.rank - 1)]
    one = index.writer.constant([1])
    places = [xp.reshape(positions(n), [-1] + [1] * (index.rank - 1 - a)) for a, n in enumerate(lead[:batch])]
    dims = [None] * (index.rank - 1) + [1]
    return xp.concat([*(xp.broadcast_to(p, xp.concat([*lead, one]), dims) for p in places), index], -1)


@vjp("ScatterElements")
def scatter_elements(node: Node, dy: Tensor) -> Cotangents:
    return _scatter(node, dy, "GatherElements", {"axis": node.attr("axis", 0)})


@vjp("ScatterND")
def scatter_nd(node: Node, dy: Tensor) -> Cotangents:
    return _scatter(node, dy, "GatherND", {})


def _scatter(node: Node, dy: Tensor, gather: str, attributes: dict[str, Any]) -> Cotangents:
    """Of x with the updates u placed, added, multiplied or compared: dx and du."""
    x, index, u = node.xs

    def place(onto: Tensor, values: Tensor, reduction: str) -> Tensor:
        return node.writer.op(node.raw.op_type, onto, index, values, reduction=reduction, **attributes)

    def take(array: Tensor) -> Tensor:
        return node.writer.op(gather, array, index, **attributes)

    match node.attr("reduction", "none"):
        case "none":
            return place(dy, xp.zeros_like(u, dy.dtype), "none"), None, take(dy)
        case "add":
            return dy, None, take(dy)
        case "mul":
            dx = dy * place(xp.ones_like(x), u, "mul")
            return dx, None, _other_factors(x, u, place, take) * take(dy) if 2 in node.wanted else None
    won, u_won = (xp.astype(a == b, dy.dtype) for a, b in ((x, node.y), (u, take(node.y))))
    share = dy / place(won, u_won, "add")  # ties share the cotangent equally
    return won * share, None, u_won * take(share)


def _other_factors(
    x: Tensor, u: Tensor, place: Callable[[Tensor, Tensor, str], Tensor], take: Callable[[Tensor], Tensor]
) -> Tensor:
    """For each update the product of what else its place was multiplied by, which is 0 where another one is 0."""
    zero, u_zero = (xp.astype(t == 0, t.dtype) for t in (x, u))
    others = take(place(zero, u_zero, "add")) - u_zero
    safe_x, safe_u = nonzero(x), nonzero(u)
    return take(place(safe_x, safe_u, "mul")) / safe_u * xp.astype(others == 0, u.dtype)


@vjp("ReverseSequence")  # the same reversal
def reverse_sequence(node: Node, dy: Tensor) -> Cotangents:
    axes = {name: node.attr(f"{name}_axis", default) for name, default in (("batch", 1), ("time", 0))}
    return node.writer.op("ReverseSequence", dy, node.input(1), batch_axis=axes["batch"], time_axis=axes["time"])


@vjp("OneHot")  # of values = [off, on]: what each of the two is at
def one_hot_values(node: Node, dy: Tensor) -> Cotangents:
    index, depth, values = node.xs
    hot = node.writer.op("OneHot", index, depth, values.lift([0, 1]), axis=node.attr("axis", -1))
    on = xp.reshape(xp.sum(dy * hot), [1])
    return None, None, xp.concat([xp.reshape(xp.sum(dy), [1]) - on, on])
