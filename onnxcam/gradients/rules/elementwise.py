"""Elementwise arithmetic; the engine sums broadcast axes."""

from __future__ import annotations

import functools
import math
import operator

import numpy as np

from onnxcam.gradients.rules import Cotangents, Node, no_gradient, vjp
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor

no_gradient("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not", "Xor", "IsNaN", "IsInf")
no_gradient("Sign", "Floor", "Ceil", "Round")


@vjp("Identity", "Dropout")
def identity(node: Node, dy: Tensor, *mask: None) -> Cotangents:
    return dy


@vjp("Cast", "CastLike")
def cast(node: Node, dy: Tensor) -> Cotangents:
    return xp.astype(dy, node.x.dtype)


@vjp("Add", broadcasts=True)
def add(node: Node, dy: Tensor) -> Cotangents:
    return dy, dy


@vjp("Sum", broadcasts=True)
def sum_(node: Node, dy: Tensor) -> Cotangents:
    return (dy,) * len(node.xs)


@vjp("Mean", broadcasts=True)
def mean(node: Node, dy: Tensor) -> Cotangents:
    return (dy / len(node.xs),) * len(node.xs)


@vjp("Sub", broadcasts=True)
def sub(node: Node, dy: Tensor) -> Cotangents:
    return dy, -dy if 1 in node.wanted else None


@vjp("Mul", broadcasts=True)
def mul(node: Node, dy: Tensor) -> Cotangents:
    a, b = node.xs
    return dy * b if 0 in node.wanted else None, dy * a if 1 in node.wanted else None


@vjp("Div", broadcasts=True)  # d(a / b) = da / b - y db / b
def div(node: Node, dy: Tensor) -> Cotangents:
    b = node.xs[1]
    return dy / b, -(dy * node.y / b) if 1 in node.wanted else None


@vjp("Neg")
def neg(node: Node, dy: Tensor) -> Cotangents:
    return -dy


@vjp("Abs")
def abs_(node: Node, dy: Tensor) -> Cotangents:
    return dy * xp.sign(node.x)


@vjp("Reciprocal")
def reciprocal(node: Node, dy: Tensor) -> Cotangents:
    return -(dy * node.y * node.y)


@vjp("Exp")
def exp(node: Node, dy: Tensor) -> Cotangents:
    return dy * node.y


@vjp("Log")
def log(node: Node, dy: Tensor) -> Cotangents:
    return dy / node.x


@vjp("Sqrt")
def sqrt(node: Node, dy: Tensor) -> Cotangents:
    return dy * 0.5 / node.y


@vjp("Erf")
def erf(node: Node, dy: Tensor) -> Cotangents:
    return dy * xp.exp(-(node.x * node.x)) * (2 / math.sqrt(math.pi))


@vjp("Sin")
def sin(node: Node, dy: Tensor) -> Cotangents:
    return dy * xp.cos(node.x)


@vjp("Cos")
def cos(node: Node, dy: Tensor) -> Cotangents:
    return -(dy * xp.sin(node.x))


@vjp("Pow", broadcasts=True)  # dx = dy p x^(p - 1);  dp = dy y log(x), 0 where x <= 0
def pow_(node: Node, dy: Tensor) -> Cotangents:
    x, p = node.x, xp.astype(node.xs[1], node.x.dtype)
    dp = None
    if 1 in node.wanted:
        safe = xp.where(x > 0, x, xp.ones_like(x))
        dp = dy * node.y * xp.log(safe)
    return dy * p * _power(x, p), dp


def _power(x: Tensor, p: Tensor) -> Tensor:
    """x^(p - 1), without the 0 * inf that a square meets at zero."""
    if p.const is not None and np.all(p.const == 2):
        return x
    return x ** (p - 1.0)


@vjp("Where", broadcasts=True)
def where(node: Node, dy: Tensor) -> Cotangents:
    condition = node.xs[0]
    return None, node.mask(dy, condition), node.mask(dy, ~condition)


@vjp("Max", "Min", broadcasts=True)  # ties share the cotangent equally
def extremum(node: Node, dy: Tensor) -> Cotangents:
    if len(node.xs) == 1:
        return dy
    hits = [xp.astype(x == node.y, dy.dtype) for x in node.xs]
    count = functools.reduce(operator.add, hits)
    return tuple(node.gate(dy, hit / count) for hit in hits)
