"""Normalisations in inference form."""

from __future__ import annotations

import numpy as np

from onnxcam.gradients.buildable import lower
from onnxcam.gradients.path_copy import Made, Node
from onnxcam.gradients.rules import UnsupportedError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor


def _per_channel(vector: Tensor, rank: int) -> Tensor:
    return xp.reshape(vector, [-1, *[1] * (rank - 2)])


@lower("BatchNormalization")
def batch_normalization(node: Node) -> Made:
    node.only(0)
    if node.attr("training_mode", 0):
        raise UnsupportedError("training_mode=1")
    scale, bias, centre, variance = (node.held(i) for i in (1, 2, 3, 4))
    factor = scale / xp.sqrt(variance + node.attr("epsilon", 1e-5))
    rank = node.x.rank
    return node.x * _per_channel(factor, rank) + _per_channel(bias - centre * factor, rank)


@lower("InstanceNormalization")
def instance_normalization(node: Node) -> Made:
    node.only(0)
    x, axes = node.x, tuple(range(2, node.x.rank))
    centred = x - xp.mean(x, axes, keepdims=True)
    deviation = xp.sqrt(xp.mean(centred * centred, axes, keepdims=True) + node.attr("epsilon", 1e-5))
    return centred / deviation * _per_channel(node.held(1), x.rank) + _per_channel(node.held(2), x.rank)


@lower("LayerNormalization")  # the builder wants scale and bias in full, and the saved statistics named
def layer_normalization(node: Node) -> Made:
    node.only(0)
    if any(v.uses() or v.is_graph_output() for v in node.raw.outputs[1:]):
        raise UnsupportedError("the saved statistics are read")
    axis, epsilon = node.attr("axis", -1) % node.x.rank, node.attr("epsilon", 1e-5)
    scale = node.held(1)
    if scale.rank < node.x.rank - axis:
        shape = xp.concat([xp.dim(node.y, a) for a in range(axis, node.x.rank)])
        scale = xp.broadcast_to(scale, shape, node.y.shape[axis:] if node.y.shape else None)
    bias = node.held(2) if node.has(2) and node.held(2).rank == scale.rank else xp.zeros_like(scale)
    return node.copy.writer.ops("LayerNormalization", node.x, scale, bias, outputs=3, axis=axis, epsilon=epsilon)


@lower("LRN")  # y_c = x_c (bias + alpha / size sum of x^2 over the window around channel c)^-beta
def lrn(node: Node) -> Made:
    x, size = node.x, node.attr("size", 1)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    flat = xp.expand_dims(xp.reshape(x * x, [0, 0, -1]), 1)  # (N, 1, C, pixels)
    ones = node.copy.writer.constant(np.ones((1, 1, size, 1)), x.dtype)
    summed = xp.reshape_like(node.op("Conv", flat, ones, pads=[before, 0, after, 0]), node.y)
    scale = summed * (node.attr("alpha", 1e-4) / size) + node.attr("bias", 1.0)
    return x * scale ** -node.attr("beta", 0.75)
