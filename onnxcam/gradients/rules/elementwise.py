"""Elementwise arithmetic; the engine sums broadcast axes."""

from __future__ import annotations

import functools
import math
import operator

import numpy as np

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, no_gradient, vjp, working_type
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor

no_gradient("RandomNormalLike", "RandomUniformLike", "Bernoulli")


@vjp("Identity")
def identity(node: Node, dy: Tensor) -> Cotangents:
    return dy


@vjp("Dropout")  # nothing, at inference
def dropout(node: Node, dy: Tensor, *mask: None) -> Cotangents:
    training = node.const(2, "training_mode")
    if training is not None and training:
        raise UnsupportedError("training_mode=1")
    return dy


@vjp("Cast")
def cast(node: Node, dy: Tensor) -> Cotangents:
    return xp.astype(dy, working_type(node.x.dtype))


@vjp("CastLike")
def cast_like(node: Node, dy: Tensor) -> Cotangents:
    return xp.astype(dy, working_type(node.x.dtype)), xp.zeros_like(node.xs[1]) if 1 in node.wanted else None


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


@vjp("Mod", broadcasts=True)  # y = a - q b, where q is an integer
def mod(node: Node, dy: Tensor) -> Cotangents:
    a, b = node.xs
    return dy, -(dy * ((a - node.y) / b)) if 1 in node.wanted else None


@vjp("Neg")  # dx = -dy
def neg(node: Node, dy: Tensor) -> Cotangents:
    return -dy


@vjp("Abs")  # dx = dy sign(x)
def abs_(node: Node, dy: Tensor) -> Cotangents:
    return dy * xp.sign(node.x)


@vjp("Reciprocal")  # dx = -dy y^2
def reciprocal(node: Node, dy: Tensor) -> Cotangents:
    return -(dy * node.y * node.y)


@vjp("Exp")  # dx = dy y
def exp(node: Node, dy: Tensor) -> Cotangents:
    return dy * node.y


@vjp("Log")  # dx = dy / x
def log(node: Node, dy: Tensor) -> Cotangents:
    return dy / node.x


@vjp("Sqrt")  # dx = dy / (2 y)
def sqrt(node: Node, dy: Tensor) -> Cotangents:
    return dy * 0.5 / node.y


@vjp("Erf")  # dx = dy 2 / sqrt(pi) exp(-x^2)
def erf(node: Node, dy: Tensor) -> Cotangents:
    return dy * xp.exp(-(node.x * node.x)) * (2 / math.sqrt(math.pi))


@vjp("Sin")
def sin(node: Node, dy: Tensor) -> Cotangents:
    return dy * xp.cos(node.x)


@vjp("Cos")
def cos(node: Node, dy: Tensor) -> Cotangents:
    return -(dy * xp.sin(node.x))


@vjp("Tan")  # dx = dy (1 + y^2)
def tan(node: Node, dy: Tensor) -> Cotangents:
    return dy * (1.0 + node.y * node.y)


@vjp("Asin")  # dx = dy / sqrt(1 - x^2)
def asin(node: Node, dy: Tensor) -> Cotangents:
    return dy / xp.sqrt(1.0 - node.x * node.x)


@vjp("Acos")
def acos(node: Node, dy: Tensor) -> Cotangents:
    return -dy / xp.sqrt(1.0 - node.x * node.x)


@vjp("Atan")  # dx = dy / (1 + x^2)
def atan(node: Node, dy: Tensor) -> Cotangents:
    return dy / (1.0 + node.x * node.x)


@vjp("Sinh")
def sinh(node: Node, dy: Tensor) -> Cotangents:
    return dy * node.writer.op("Cosh", node.x)


@vjp("Cosh")
def cosh(node: Node, dy: Tensor) -> Cotangents:
    return dy * node.writer.op("Sinh", node.x)


@vjp("Asinh")  # dx = dy / sqrt(x^2 + 1)
def asinh(node: Node, dy: Tensor) -> Cotangents:
    return dy / xp.sqrt(node.x * node.x + 1.0)


@vjp("Acosh")  # dx = dy / sqrt(x^2 - 1)
def acosh(node: Node, dy: Tensor) -> Cotangents:
    return dy / xp.sqrt(node.x * node.x - 1.0)


@vjp("Atanh")  # dx = dy / (1 - x^2)
def atanh(node: Node, dy: Tensor) -> Cotangents:
    return dy / (1.0 - node.x * node.x)


@vjp("Pow", broadcasts=True)  # dx = dy p x^(p - 1);  dp = dy y log(x), 0 where x <= 0
def pow_(node: Node, dy: Tensor) -> Cotangents:
    x, p = node.x, xp.astype(node.xs[1], node.x.dtype)
    dp = None
    if 1 in node.wanted:
        dp = dy * node.y * xp.log(xp.where(x > 0, x, xp.ones_like(x)))
    return dy * p * _power(x, p) if 0 in node.wanted else None, dp


def _power(x: Tensor, p: Tensor) -> Tensor:
    """x^(p - 1), without the 0 * inf that p = 0 meets at x = 0."""
    if p.const is not None and np.all(p.const == 2):
        return x
    return x ** (xp.where(p == 0, xp.ones_like(p), p) - 1.0)


@vjp("Where", broadcasts=True)
def where(node: Node, dy: Tensor) -> Cotangents:
    condition = node.xs[0]
    da = node.mask(dy, condition) if 1 in node.wanted else None
    return _choice(node, dy), da, node.mask(dy, ~condition) if 2 in node.wanted else None


def _choice(node: Node, dy: Tensor) -> Tensor | None:
    """Straight through: a condition that chooses between two constants is a step; any other one has no gradient."""
    if 0 not in node.wanted:
        return None
    return xp.zeros_like(node.xs[0], dy.dtype) if node.wanted & {1, 2} else dy * (node.xs[1] - node.xs[2])


@vjp("Max", "Min", broadcasts=True)  # ties share the cotangent equally
def extremum(node: Node, dy: Tensor) -> Cotangents:
    if len(node.xs) == 1:
        return dy
    hits = [xp.astype(x == node.y, dy.dtype) for x in node.xs]
    count = functools.reduce(operator.add, hits)
    return tuple(node.gate(dy, hit / count) for hit in hits)
