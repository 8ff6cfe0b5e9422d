"""Quantisers: straight through, stopped where they saturate.

Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013,
https://arxiv.org/abs/1308.3432: the rounding counts as the identity. The saturation does not: it *is* the activation
of many int8 networks.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, vjp
from onnxcam.graph import symbolic as xp
from onnxcam.graph.ranges import value_range
from onnxcam.graph.symbolic import Tensor

_LEVELS = {ir.DataType.UINT8: (0, 255), ir.DataType.INT8: (-128, 127)}
_LEVELS |= {ir.DataType.UINT16: (0, 65535), ir.DataType.INT16: (-32768, 32767)}


def _along(node: Node, scale: Tensor) -> Tensor:
    """A scale per channel, shaped to multiply the tensor."""
    if node.attr("block_size", 0):
        raise UnsupportedError("block_size: one scale per block")
    if scale.rank != 1 or scale.shape == (1,):
        return scale
    axis = node.attr("axis", 1) % node.x.rank
    return xp.reshape(scale, [-1 if a == axis else 1 for a in range(node.x.rank)])


@vjp("QuantizeLinear")  # y = clip(round(x / scale) + zero point); read from y, so that int8 fusion stays possible
def quantize(node: Node, dy: Tensor) -> Cotangents:
    dx = dy / _along(node, node.xs[1])
    level = xp.astype(node.y, dy.dtype)
    low, high = _LEVELS[node.y.dtype]
    below, above = _can_saturate(node, low, high)
    dx = node.mask(dx, level > low) if below else dx
    return node.mask(dx, level < high) if above else dx


def _can_saturate(node: Node, low: int, high: int) -> tuple[bool, bool]:
    """Whether values below the lowest and above the highest level are possible: a ReLU in front rules out the first."""
    scale, point = node.const(1, "scale"), node.const(2, "zero point")
    point = 0.0 if point is None else point.astype(np.float64)
    floor, ceiling = ((bound - point) * scale for bound in (low, high))
    lowest, highest = value_range(node.raw.inputs[0])
    return bool(np.any(lowest < floor - scale / 2)), bool(np.any(highest > ceiling + scale / 2))


@vjp("DequantizeLinear")  # y = (x - zero point) scale
def dequantize(node: Node, dy: Tensor) -> Cotangents:
    return dy * _along(node, node.xs[1])
