"""Quantisers: straight through, stopped where they saturate.

Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013,
https://arxiv.org/abs/1308.3432: the rounding counts as the identity. The saturation does not: it *is* the activation
of many int8 networks.
"""

from __future__ import annotations

import numpy as np

from onnxcam.gradients.rules import Cotangents, Node, vjp
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor


def _along(node: Node, scale: Tensor) -> Tensor:
    """A scale per channel, shaped to multiply the tensor."""
    if scale.rank != 1 or scale.shape == (1,):
        return scale
    axis = node.attr("axis", 1) % node.x.rank
    return xp.reshape(scale, [-1 if a == axis else 1 for a in range(node.x.rank)])


@vjp("QuantizeLinear")  # y = clip(round(x / scale) + zero point); read from y, so that int8 fusion stays possible
def quantize(node: Node, dy: Tensor) -> Cotangents:
    scale = _along(node, node.xs[1])
    limits = np.iinfo(node.y.dtype.numpy())
    level = xp.astype(node.y, dy.dtype)
    return node.mask(dy / scale, (level > float(limits.min)) & (level < float(limits.max)))


@vjp("DequantizeLinear")  # y = (x - zero point) scale
def dequantize(node: Node, dy: Tensor) -> Cotangents:
    return dy * _along(node, node.xs[1])
