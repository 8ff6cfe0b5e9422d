"""Activations. Those with a kink at zero are sites that a ReLU policy changes; smooth ones are not."""

from __future__ import annotations

import functools
import math
import operator

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, vjp
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor


@vjp("Relu")  # dx = dy * [y > 0]
def relu(node: Node, dy: Tensor) -> Cotangents:
    return node.gate(dy, node.y > 0)


@vjp("Clip", broadcasts=True)  # dx = dy * [low < y < high]; a bound from zero upwards is a ReLU6
def clip(node: Node, dy: Tensor) -> Cotangents:
    low, high = node.input(1), node.input(2)
    inside = [node.y > low] if low is not None else []
    inside += [node.y < high] if high is not None else []
    dx = node.gate(dy, functools.reduce(operator.and_, inside)) if inside else dy
    dlow = node.mask(dy, node.x < low) if low is not None and 1 in node.wanted else None
    return dx, dlow, node.mask(dy, node.x > high) if high is not None and 2 in node.wanted else None


def _slope(node: Node, alpha: Tensor) -> Tensor:
    return xp.where(node.x > 0, xp.ones_like(alpha), alpha)


@vjp("LeakyRelu")  # dx = dy * (1 if x > 0 else alpha)
def leaky_relu(node: Node, dy: Tensor) -> Cotangents:
    return node.gate(dy, _slope(node, dy.lift(node.attr("alpha", 0.01))))


@vjp("PRelu", broadcasts=True)  # as LeakyRelu with a learned slope
def prelu(node: Node, dy: Tensor) -> Cotangents:
    slope = node.xs[1]
    dslope = dy * xp.minimum(node.x, 0) if 1 in node.wanted else None
    return node.gate(dy, _slope(node, slope)), dslope


@vjp("ThresholdedRelu")  # dx = dy * [x > alpha]
def thresholded_relu(node: Node, dy: Tensor) -> Cotangents:
    return node.gate(dy, node.x > node.attr("alpha", 1.0))


@vjp("Elu")  # y = alpha (exp(x) - 1) below zero, so dy/dx = y + alpha there
def elu(node: Node, dy: Tensor) -> Cotangents:
    alpha = node.attr("alpha", 1.0)
    return dy * xp.where(node.x > 0, 1.0, alpha * xp.exp(xp.minimum(node.x, 0)))


@vjp("Celu")  # dx = dy * exp(x / alpha) below zero
def celu(node: Node, dy: Tensor) -> Cotangents:
    return dy * xp.exp(xp.minimum(node.x, 0) / node.attr("alpha", 1.0))


@vjp("Selu")  # y = gamma alpha (exp(x) - 1) below zero, gamma x above
def selu(node: Node, dy: Tensor) -> Cotangents:
    alpha, gamma = node.attr("alpha", 1.6732632), node.attr("gamma", 1.0507010)
    return dy * xp.where(node.x > 0, gamma, gamma * alpha * xp.exp(xp.minimum(node.x, 0)))


@vjp("Sigmoid")  # dx = dy * y (1 - y)
def sigmoid(node: Node, dy: Tensor) -> Cotangents:
    return dy * (node.y * (1.0 - node.y))


@vjp("Tanh")  # dx = dy * (1 - y^2)
def tanh(node: Node, dy: Tensor) -> Cotangents:
    return dy * (1.0 - node.y * node.y)


@vjp("Softplus")  # dx = dy * sigmoid(x)
def softplus(node: Node, dy: Tensor) -> Cotangents:
    return dy * node.writer.op("Sigmoid", node.x)


@vjp("Softsign")  # dx = dy / (1 + |x|)^2
def softsign(node: Node, dy: Tensor) -> Cotangents:
    bottom = 1.0 + xp.abs(node.x)
    return dy / (bottom * bottom)


@vjp("HardSigmoid")  # dx = dy * alpha * [0 < y < 1]
def hard_sigmoid(node: Node, dy: Tensor) -> Cotangents:
    return node.mask(dy * node.attr("alpha", 0.2), (node.y > 0) & (node.y < 1))


@vjp("HardSwish")  # y = x clip(x / 6 + 1/2, 0, 1)
def hard_swish(node: Node, dy: Tensor) -> Cotangents:
    x = node.x
    return dy * xp.where(x <= -3, 0.0, xp.where(x >= 3, xp.ones_like(x), x / 3 + 0.5))


@vjp("Mish")  # y = x tanh(softplus(x))
def mish(node: Node, dy: Tensor) -> Cotangents:
    x = node.x
    t = xp.tanh(node.writer.op("Softplus", x))
    return dy * (t + x * node.writer.op("Sigmoid", x) * (1.0 - t * t))


@vjp("Swish")  # y = x s(alpha x), s the sigmoid
def swish(node: Node, dy: Tensor) -> Cotangents:
    scaled = node.x * node.attr("alpha", 1.0)
    s = node.writer.op("Sigmoid", scaled)
    return dy * (s + scaled * s * (1.0 - s))


@vjp("Shrink")  # dx = dy * [|x| > lambda]
def shrink(node: Node, dy: Tensor) -> Cotangents:
    return node.mask(dy, xp.abs(node.x) > node.attr("lambd", 0.5))


@vjp("Gelu")  # y = x Phi(x)
def gelu(node: Node, dy: Tensor) -> Cotangents:
    approximate = node.attr("approximate", "none")
    if approximate == "none":
        return dy * _exact_gelu_slope(node)
    if approximate == "tanh":
        return dy * _tanh_gelu_slope(node.x)
    raise UnsupportedError(f"approximate={approximate!r}")


def _exact_gelu_slope(node: Node) -> Tensor:  # Phi(x) + x phi(x)
    x = node.x
    phi = xp.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
    return (node.writer.op("Erf", x * math.sqrt(0.5)) + 1.0) * 0.5 + x * phi


def _tanh_gelu_slope(x: Tensor) -> Tensor:
    c, k = math.sqrt(2 / math.pi), 0.044715
    t = xp.tanh((x + x * x * x * k) * c)
    return (t + 1.0) * 0.5 + x * 0.5 * (1.0 - t * t) * ((x * x * (3 * k) + 1.0) * c)
