"""Activations."""

from __future__ import annotations

import functools
import math
import operator

from onnxcam.gradients.buildable import lower
from onnxcam.gradients.path_copy import Made, Node
from onnxcam.gradients.rules import UnsupportedError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor

# With a kink: a policy may decide their gradient


@lower("Relu")
def relu(node: Node) -> Made:
    return node.gate(node.x, node.y > 0) if node.gated else node.as_it_is()


@lower("LeakyRelu")  # the builder looks at the sign of y, which a negative alpha turns
def leaky_relu(node: Node) -> Made:
    return node.gate(node.x, xp.where(node.held(0) > 0, xp.ones_like(node.y), node.attr("alpha", 0.01)))


@lower("PRelu")
def prelu(node: Node) -> Made:
    node.only(0)
    return node.gate(node.x, xp.where(node.held(0) > 0, xp.ones_like(node.y), node.held(1)))


@lower("ThresholdedRelu")
def thresholded_relu(node: Node) -> Made:
    return node.gate(node.x, node.held(0) > node.attr("alpha", 1.0))


@lower("Clip")  # the builder lets the gradient through where y is on a bound
def clip(node: Node) -> Made:
    node.only(0)
    inside = [node.y > node.held(1)] if node.has(1) else []
    inside += [node.y < node.held(2)] if node.has(2) else []
    return node.gate(node.x, functools.reduce(operator.and_, inside)) if inside else node.x


@lower("Max", "Min")
def extremum(node: Node) -> Made:
    if not node.gated:
        return node.as_it_is()
    hits = [xp.astype(node.held(i) == node.y, node.y.dtype) for i in range(len(node.raw.inputs))]
    live = [i for i in range(len(hits)) if node.live(i)]
    if len(live) > 1:
        raise UnsupportedError("a rectifier of two inputs that both depend on the image")
    share = hits[live[0]] / functools.reduce(operator.add, hits)
    return node.gate(xp.expand_like(node.xs[live[0]], node.y), share)


# Smooth, in operators that the builder has


@lower("Elu")
def elu(node: Node) -> Made:
    return _two_sided(node, node.x, node.attr("alpha", 1.0), 1.0)


@lower("Celu")
def celu(node: Node) -> Made:
    alpha = node.attr("alpha", 1.0)
    return _two_sided(node, node.x, alpha, alpha)


@lower("Selu")
def selu(node: Node) -> Made:
    return _two_sided(node, node.x, node.attr("alpha", 1.6732632), 1.0) * node.attr("gamma", 1.0507010)


def _two_sided(node: Node, x: Tensor, alpha: float, width: float) -> Tensor:
    """x above zero, alpha (exp(x / width) - 1) below; exp never sees what would overflow."""
    above = node.held(0) > 0
    return xp.where(above, x, (xp.exp(xp.where(above, 0.0, x) / width) - 1.0) * alpha)


@lower("Softplus")
def softplus(node: Node) -> Made:
    return _softplus(node)


def _softplus(node: Node) -> Tensor:
    """log(1 + exp(x)); from 20 on it is x in float32."""
    large = node.held(0) > 20.0
    return xp.where(large, node.x, xp.log(xp.exp(xp.where(large, 0.0, node.x)) + 1.0))


@lower("Softsign")
def softsign(node: Node) -> Made:
    return node.x / (xp.abs(node.x) + 1.0)


@lower("Mish")
def mish(node: Node) -> Made:
    return node.x * xp.tanh(_softplus(node))


@lower("HardSigmoid")
def hard_sigmoid(node: Node) -> Made:
    line = node.x * node.attr("alpha", 0.2) + node.attr("beta", 0.5)
    return xp.where((node.y > 0) & (node.y < 1), line, node.y)


@lower("HardSwish")
def hard_swish(node: Node) -> Made:
    x, bounds = node.held(0), [node.y.lift(0.0), node.y.lift(1.0)]
    inside = (x > -3.0) & (x < 3.0)
    return node.x * xp.where(inside, node.x / 6 + 0.5, node.op("Clip", x / 6 + 0.5, *bounds))


@lower("Gelu")  # the builder takes the tanh form for the exact one
def gelu(node: Node) -> Made:
    if node.attr("approximate", "none") == "none":
        return node.as_it_is()
    x = node.x
    return x * 0.5 * (xp.tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) + 1.0)
