"""Reductions and the softmax family."""

from __future__ import annotations

from typing import Any

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, no_gradient, vjp
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor

no_gradient("ArgMax", "ArgMin", "Hardmax")


Axes = tuple[int, ...] | Tensor  # a tensor where they are computed at run time


def axes_of(node: Node) -> Axes:
    """The reduced axes, by input (opset 18) or the empty default, non-negative where they are known."""
    given = node.input(1)
    if given is None or given.shape == (0,):
        return () if node.attr("noop_with_empty_axes", 0) else tuple(range(node.x.rank))
    return given if given.const is None else tuple(sorted(int(a) % node.x.rank for a in given.const))


def spread(node: Node, reduced: Tensor, axes: Axes) -> Tensor:
    """``reduced`` with its dropped axes put back, of length 1."""
    if isinstance(axes, Tensor) and not node.attr("keepdims", 1):
        return xp.reshape(reduced, xp.shape_of(total(node, node.x, axes)), [None] * node.x.rank)
    return (
        reduced if node.attr("keepdims", 1) or isinstance(axes, Tensor) or not axes else xp.expand_dims(reduced, axes)
    )


def total(node: Node, x: Tensor, axes: Axes, op_type: str = "ReduceSum") -> Tensor:
    """The sum over the axes that the node reduces, which stay as axes of length 1."""
    if not isinstance(axes, Tensor):
        return node.writer.op(op_type, x, node.writer.constant(list(axes)), keepdims=1) if axes else x
    noop = node.attr("noop_with_empty_axes", 0)
    return node.writer.op(op_type, x, axes, keepdims=1, noop_with_empty_axes=noop)


def count(x: Tensor, axes: tuple[int, ...]) -> Tensor | float:
    """How many elements are reduced into one: a number where it is known."""
    known = [x.shape[a] if x.shape is not None else None for a in axes]
    product = 1.0
    for d in known:
        if not isinstance(d, int):
            lengths = xp.concat([xp.dim(x, a) for a in axes])
            return xp.astype(x.writer.op("ReduceProd", lengths, keepdims=0), x.dtype)
        product *= d
    return product


def moved(node: Node, dy: Tensor, dx: Tensor) -> Tensor:
    """``dx``, with the note that it holds what ``dy`` does, elsewhere in the picture: their sums are the same."""
    if dx is not dy:
        axes = tuple(range(2, dy.rank))
        dx.writer.means[dx.value] = lambda: (
            xp.mean(dy, axes, keepdims=True) * (count(node.y, axes) / count(node.x, axes))
        )
    return dx


def nonzero(x: Tensor) -> Tensor:
    """``x``, with ones for zeros: a divisor where the quotient's other factor is zero as well."""
    return xp.where(x == 0, xp.ones_like(x), x)


@vjp("ReduceSum")  # dx = dy
def reduce_sum(node: Node, dy: Tensor) -> Cotangents:
    return xp.expand_like(spread(node, dy, axes_of(node)), node.x)


@vjp("ReduceMean")  # dx = dy / count
def reduce_mean(node: Node, dy: Tensor) -> Cotangents:
    axes = axes_of(node)
    return xp.expand_like(spread(node, dy, axes) / _reduced(node, axes), node.x)


def _reduced(node: Node, axes: Axes) -> Tensor | float:
    """How many elements the node reduces into one."""
    if not isinstance(axes, Tensor):
        return count(node.x, axes)
    before, after = (xp.astype(node.writer.op("Size", t), node.x.dtype) for t in (node.x, total(node, node.x, axes)))
    return before / after


@vjp("ReduceMax", "ReduceMin")  # ties share the cotangent equally
def reduce_extremum(node: Node, dy: Tensor) -> Cotangents:
    axes = axes_of(node)
    hit = xp.astype(node.x == spread(node, node.y, axes), dy.dtype)
    return hit * (spread(node, dy, axes) / total(node, hit, axes))


@vjp("ReduceL1")  # dx = dy sign(x)
def reduce_l1(node: Node, dy: Tensor) -> Cotangents:
    return xp.sign(node.x) * spread(node, dy, axes_of(node))


@vjp("ReduceL2")  # dx = dy x / y
def reduce_l2(node: Node, dy: Tensor) -> Cotangents:
    axes = axes_of(node)
    return node.x * (spread(node, dy, axes) / nonzero(spread(node, node.y, axes)))


@vjp("ReduceSumSquare")  # dx = 2 dy x
def reduce_sum_square(node: Node, dy: Tensor) -> Cotangents:
    return node.x * spread(node, dy * 2, axes_of(node))


@vjp("ReduceLogSum")  # y = log(sum(x)), so dx = dy exp(-y)
def reduce_log_sum(node: Node, dy: Tensor) -> Cotangents:
    return xp.expand_like(spread(node, dy * xp.exp(-node.y), axes_of(node)), node.x)


@vjp("ReduceLogSumExp")  # dx = dy exp(x - y)
def reduce_log_sum_exp(node: Node, dy: Tensor) -> Cotangents:
    axes = axes_of(node)
    return spread(node, dy, axes) * xp.exp(node.x - spread(node, node.y, axes))


@vjp("ReduceProd")  # dx = dy times the product of the others, which is 0 where another one is 0
def reduce_prod(node: Node, dy: Tensor) -> Cotangents:
    axes, safe = axes_of(node), nonzero(node.x)
    zero = xp.astype(node.x == 0, dy.dtype)
    others = total(node, zero, axes) - zero
    product = total(node, safe, axes, "ReduceProd")
    return node.mask(spread(node, dy, axes) * product / safe, others == 0)


@vjp("Softmax")  # dx = y (dy - sum(dy y))
def softmax(node: Node, dy: Tensor) -> Cotangents:
    y, axis = _without_empty_rows(node), node.attr("axis", -1)
    return y * (dy - xp.sum(dy * y, axis, keepdims=True))


def _without_empty_rows(node: Node) -> Tensor:
    """The output; NaN, which a row of -inf alone gives, counts as 0 where the model itself replaces it afterwards."""
    readers = [c for v in node.raw.outputs for c in v.consumers()]
    readers += [c for r in readers if r.op_type == "Cast" for c in r.outputs[0].consumers()]
    replaced = any(r.op_type in ("Where", "IsNaN") for r in readers)
    return xp.where(node.writer.op("IsNaN", node.y), 0.0, node.y) if replaced else node.y


@vjp("LogSoftmax")  # dx = dy - exp(y) sum(dy)
def log_softmax(node: Node, dy: Tensor) -> Cotangents:
    return dy - xp.exp(node.y) * xp.sum(dy, node.attr("axis", -1), keepdims=True)


@vjp("CumSum")  # the same sum from the other end
def cum_sum(node: Node, dy: Tensor) -> Cotangents:
    axis = node.input(1)
    if axis is None:
        raise UnsupportedError("no axis")
    reverse, exclusive = node.attr("reverse", 0), node.attr("exclusive", 0)
    return node.writer.op("CumSum", dy, axis, reverse=1 - reverse, exclusive=exclusive)


@vjp("CumProd")  # dx = sum of dy y / x over the products that x is in
def cum_prod(node: Node, dy: Tensor) -> Cotangents:
    axis, x = node.xs[1], node.x
    way: dict[str, Any] = {name: node.attr(name, 0) for name in ("reverse", "exclusive")}
    back = way | {"reverse": 1 - way["reverse"]}
    zeros = xp.astype(x == 0, dy.dtype)
    before = node.writer.op("CumSum", zeros, axis, reverse=way["reverse"], exclusive=1)
    first = (x == 0) & (before == 0)  # from there on products are 0; its own slope is what they would be without it
    without = node.writer.op("CumProd", xp.where(first, xp.ones_like(x), x), axis, **way)
    through = node.writer.op("CumSum", dy * node.y, axis, **back) / nonzero(x)
    return xp.where(first, node.writer.op("CumSum", dy * without, axis, **back), through)


@vjp("TopK")  # the cotangents go back to where the values came from
def top_k(node: Node, dy: Tensor | None, *indices: None) -> Cotangents:
    if dy is None:
        return None
    zeros, taken = xp.zeros_like(node.x, dy.dtype), node.writer.tensor(node.raw.outputs[1])
    return node.writer.op("ScatterElements", zeros, taken, dy, axis=node.attr("axis", -1))
