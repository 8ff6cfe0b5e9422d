"""Activations. Those with a kink at zero are sites that a ReLU policy changes; smooth ones are not."""

from __future__ import annotations

import functools
import math
import operator

import numpy as np
import onnx_ir as ir

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, vjp
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor

_FLOAT32 = np.finfo(np.float32)


def above(x: Tensor, bound: Tensor | float) -> Tensor:
    """1 where ``x > bound``, else 0.

    Of float32 it is one HardSigmoid, clip(a x + b, 0, 1), so steep that the next number above the bound gives 1.
    Runtimes compute it in whatever layout ``x`` lies in, at a quarter of what a comparison and a cast take. Beside the
    bound 0, denormal numbers, which runtimes are free to take for 0, count in part. A NaN stays one.
    """
    return _step(x, bound, 1)


def below(x: Tensor, bound: Tensor | float) -> Tensor:
    """1 where ``x < bound``, else 0; as :func:`above`."""
    return _step(x, bound, -1)


def _step(x: Tensor, bound: Tensor | float, sign: int) -> Tensor:
    at = x.lift(bound)
    place = float(at.const.item()) if at.const is not None and at.const.size == 1 else math.nan
    if x.dtype != ir.DataType.FLOAT or not (place == 0 or 1e-30 < abs(place) < 1e30):  # else the slope has no number
        return xp.astype(x > at if sign > 0 else x < at, x.dtype)
    tiny = float(_FLOAT32.smallest_normal)
    steep = 2 / float(np.spacing(np.float32(abs(place)))) if place else 1 / tiny
    shift = -sign * steep * place if place else -tiny  # OpenVINO takes a beta of 0 for the default, 0.5
    return x.each(lambda t: t.writer.op("HardSigmoid", t, alpha=sign * steep, beta=shift))


@vjp("Relu")  # dx = dy * [y > 0]
def relu(node: Node, dy: Tensor) -> Cotangents:
    return node.gate(dy, above(node.y, 0))


@vjp("Clip", broadcasts=True)  # dx = dy * [low < y < high]; a bound from zero upwards is a ReLU6
def clip(node: Node, dy: Tensor) -> Cotangents:
    low, high = node.input(1), node.input(2)
    inside = [above(node.y, low)] if low is not None else []
    inside += [below(node.y, high)] if high is not None else []
    dx = node.gate(dy, functools.reduce(operator.mul, inside)) if inside else dy
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
    return node.gate(dy, above(node.x, node.attr("alpha", 1.0)))


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
    return dy * (above(node.y, 0) * below(node.y, 1)) * node.attr("alpha", 0.2)


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
    alpha = node.attr("alpha", 1.0)
    return dy * silu_slope(node.writer.op("Sigmoid", node.x * alpha), node.y * alpha)


@vjp("Shrink")  # dx = dy * [|x| > lambda]
def shrink(node: Node, dy: Tensor) -> Cotangents:
    return node.mask(dy, xp.abs(node.x) > node.attr("lambd", 0.5))


@vjp("Gelu")  # y = x Phi(x)
def gelu(node: Node, dy: Tensor) -> Cotangents:
    approximate = node.attr("approximate", "none")
    if approximate == "none":
        return dy * gelu_slope(node.x)
    if approximate == "tanh":
        return dy * _tanh_gelu_slope(node.x)
    raise UnsupportedError(f"approximate={approximate!r}")


def gelu_slope(x: Tensor) -> Tensor:
    """Phi(x) + x phi(x) of the normal distribution: (1 + erf(t)) / 2 + t exp(-t^2) / sqrt(pi) with t = x / sqrt(2)."""
    t = x * math.sqrt(0.5)
    phi = _unit(x.writer.op("Erf", t), 0.5, 0.5)
    return phi + t * xp.exp(-0.5 * math.log(math.pi) - t * t)


def silu_slope(s: Tensor, y: Tensor) -> Tensor:
    """d(x s(x))/dx = s + y (1 - s), from the sigmoid s and y = x s."""
    return s + y * _unit(s, -1.0, 1.0)


def _unit(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha x + beta`` that lies in [0, 1]; in float32 by one node, and in the layout in which ``x`` lies."""
    if x.dtype != ir.DataType.FLOAT:
        return x * alpha + beta
    return x.writer.op("HardSigmoid", x, alpha=alpha, beta=beta)


def _tanh_gelu_slope(x: Tensor) -> Tensor:
    c, k = math.sqrt(2 / math.pi), 0.044715
    t = xp.tanh((x + x * x * x * k) * c)
    return (t + 1.0) * 0.5 + x * 0.5 * (1.0 - t * t) * ((x * x * (3 * k) + 1.0) * c)
