"""Normalisations in inference form."""

from __future__ import annotations

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, vjp
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor


def _per_channel(vector: Tensor, rank: int) -> Tensor:
    """(C,) -> (C, 1, ..., 1), to multiply a map of ``rank`` axes."""
    return xp.reshape(vector, [-1, *[1] * (rank - 2)])


@vjp("BatchNormalization")  # inference: y = scale (x - mean) / sqrt(var + eps) + bias
def batch_normalization(node: Node, dy: Tensor) -> Cotangents:
    if node.attr("training_mode", 0):
        raise UnsupportedError("training_mode=1")
    if node.wanted - {0}:
        raise UnsupportedError("statistics or scale depend on the image")
    _, scale, _, _, var = node.xs
    factor = scale / xp.sqrt(var + node.attr("epsilon", 1e-5))
    return dy * _per_channel(factor, dy.rank)


@vjp("InstanceNormalization")
def instance_normalization(node: Node, dy: Tensor) -> Cotangents:
    if node.wanted - {0}:
        raise UnsupportedError("scale or bias depends on the image")
    x, scale, _ = node.xs
    axes = tuple(range(2, x.rank))
    return _through_statistics(x, dy * _per_channel(scale, x.rank), axes, node.attr("epsilon", 1e-5))


@vjp("LayerNormalization")  # y = scale (x - mean) / sqrt(var + eps) + bias over the last axes
def layer_normalization(node: Node, dy: Tensor, *unused: Tensor | None) -> Cotangents:
    if node.wanted - {0} or any(u is not None for u in unused):
        raise UnsupportedError("scale, bias or the saved statistics are part of the path")
    x, scale = node.xs[:2]
    axis = node.attr("axis", -1)
    axes = tuple(range(axis % x.rank, x.rank))
    return _through_statistics(x, dy * scale, axes, node.attr("epsilon", 1e-5))


def _through_statistics(x: Tensor, g: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    """The cotangent of x in (x - mean) / sqrt(var + eps), both taken over ``axes``, for the cotangent ``g``."""
    centred = x - xp.mean(x, axes, keepdims=True)
    deviation = xp.sqrt(xp.mean(centred * centred, axes, keepdims=True) + epsilon)
    normal = centred / deviation
    inner = g - xp.mean(g, axes, keepdims=True) - normal * xp.mean(g * normal, axes, keepdims=True)
    return inner / deviation


@vjp("LRN")  # y_c = x_c s_c^-beta, s_c = bias + alpha / size sum of x^2 over the window around channel c
def lrn(node: Node, dy: Tensor) -> Cotangents:
    x, size = node.x, node.attr("size", 1)
    alpha, beta, bias = node.attr("alpha", 1e-4), node.attr("beta", 0.75), node.attr("bias", 1.0)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    s = _window_sum(x * x, before, after) * (alpha / size) + bias
    inner = _window_sum(dy * x * s ** (-beta - 1.0), after, before)
    return dy * s**-beta - x * inner * (2 * alpha * beta / size)


def _window_sum(x: Tensor, before: int, after: int) -> Tensor:
    """Sum over the channels c - before ... c + after, by average pooling along the channel axis."""
    rank, size = x.rank, before + after + 1
    flat = xp.expand_dims(xp.reshape(x, [0, 0, -1]) if rank > 2 else x, 1)  # (N, 1, C, pixels)
    flat = flat if rank > 2 else xp.expand_dims(flat, -1)
    padded = xp.pad(flat, [0, 0, before, 0], [0, 0, after, 0])
    pooled = x.writer.op("AveragePool", padded, kernel_shape=[size, 1]) * float(size)
    return xp.reshape_like(pooled, x)
