"""Steps: operators whose derivative is 0 wherever it exists, and what a straight-through estimate puts in its place.

Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013,
https://arxiv.org/abs/1308.3432: rounding passes the gradient as the identity does. Hubara et al., "Binarized Neural
Networks", NeurIPS 2016, https://arxiv.org/abs/1602.02830, section 2.3: a sign passes it within one of the threshold.
"""

from __future__ import annotations

from onnxcam.gradients.rules import Cotangents, Node, no_gradient, vjp
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor

no_gradient("Sign", "Floor", "Ceil", "Round", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
no_gradient("And", "Or", "Not", "Xor", "IsNaN", "IsInf")


@vjp("Floor", "Ceil", "Round", straight_through=True)  # dx = dy
def rounding(node: Node, dy: Tensor) -> Cotangents:
    return dy


@vjp("Sign", straight_through=True)  # dx = dy [|x| <= 1]
def sign(node: Node, dy: Tensor) -> Cotangents:
    return node.mask(dy, xp.abs(node.x) <= 1.0)


@vjp("Greater", "GreaterOrEqual", "Less", "LessOrEqual", broadcasts=True, straight_through=True)
def threshold(node: Node, dy: Tensor) -> Cotangents:  # half a sign of a - b, or of b - a
    a, b = node.xs
    da = node.mask(dy * (0.5 if node.raw.op_type.startswith("Greater") else -0.5), xp.abs(a - b) <= 1.0)
    return da, -da if 1 in node.wanted else None


@vjp("Not", straight_through=True)  # dx = -dy
def not_(node: Node, dy: Tensor) -> Cotangents:
    return -dy
