"""Normalisations in inference form."""

from __future__ import annotations

from onnxcam.gradients.rules import Cotangents, Node, vjp
from onnxcam.gradients.rules.reduction import count, nonzero
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor


def _per_channel(vector: Tensor, rank: int) -> Tensor:
    """(C,) -> (C, 1, ..., 1), to multiply a map of ``rank`` axes."""
    return xp.reshape(vector, [-1, *[1] * (rank - 2)])


def _channel_sum(x: Tensor) -> Tensor:
    return xp.sum(x, (0, *range(2, x.rank)))


@vjp("BatchNormalization")  # y = scale (x - mean) / sqrt(var + eps) + bias
def batch_normalization(node: Node, dy: Tensor | None, *running: Tensor | None) -> Cotangents:
    if node.attr("training_mode", 0):
        return _batch_statistics(node, dy, *running)
    assert dy is not None
    x, scale, _, mean, var = node.xs
    deviation = xp.sqrt(var + node.attr("epsilon", 1e-5))
    dx = dy * _per_channel(scale / deviation, dy.rank) if 0 in node.wanted else None
    normal = (x - _per_channel(mean, x.rank)) / _per_channel(deviation, x.rank)
    total = _channel_sum(dy) if node.wanted & {2, 3} else None
    share = _channel_sum(dy * normal) if node.wanted & {1, 4} else None
    dmean = -(total * scale / deviation) if total is not None else None
    dvar = share * scale / (deviation * deviation) * -0.5 if share is not None else None
    return dx, share, total, dmean, dvar


def _batch_statistics(node: Node, dy: Tensor | None, *running: Tensor | None) -> Cotangents:
    """Training mode: mean and var are the batch's, and the given ones are mixed with them by the momentum."""
    x, scale = node.xs[:2]
    axes, kept = (0, *range(2, x.rank)), node.attr("momentum", 0.9)
    dy = xp.zeros_like(x) if dy is None else dy
    dmean, dvar = (running[i] if len(running) > i else None for i in range(2))
    normal, deviation = _standardise(x, axes, node.attr("epsilon", 1e-5))
    dx = _through_statistics(x, dy * _per_channel(scale, x.rank), axes, node.attr("epsilon", 1e-5))
    share = (1 - kept) / count(x, axes)
    if dmean is not None:
        dx = dx + _per_channel(dmean, x.rank) * share
    if dvar is not None:
        dx = dx + normal * deviation * _per_channel(dvar, x.rank) * share * 2.0
    olds = (None if d is None else d * kept for d in (dmean, dvar))
    return dx, _channel_sum(dy * normal), _channel_sum(dy), *(xp.zeros_like(scale) if d is None else d for d in olds)


@vjp("InstanceNormalization")  # y = scale (x - mean) / sqrt(var + eps) + bias over the pixels
def instance_normalization(node: Node, dy: Tensor) -> Cotangents:
    x, scale, _ = node.xs
    axes, epsilon = tuple(range(2, x.rank)), node.attr("epsilon", 1e-5)
    dx = _through_statistics(x, dy * _per_channel(scale, x.rank), axes, epsilon) if 0 in node.wanted else None
    dscale = _channel_sum(dy * _normal(x, axes, epsilon)) if 1 in node.wanted else None
    return dx, dscale, _channel_sum(dy) if 2 in node.wanted else None


@vjp("LayerNormalization", broadcasts=True)  # y = scale n + bias, n = (x - mean) / sqrt(var + eps) over the last axes
def layer_normalization(node: Node, dy: Tensor | None, *saved: Tensor | None) -> Cotangents:
    x, scale = node.xs[:2]
    axes, epsilon = tuple(range(node.attr("axis", -1) % x.rank, x.rank)), node.attr("epsilon", 1e-5)
    dy = xp.zeros_like(x) if dy is None else dy
    dx = _through_statistics(x, dy * scale, axes, epsilon) if 0 in node.wanted else None
    for d, of_saved in zip(saved, (_of_mean, _of_inverse_deviation), strict=False):
        if dx is not None and d is not None:
            dx = dx + of_saved(x, d, axes, epsilon) / count(x, axes)
    return dx, dy * _normal(x, axes, epsilon) if 1 in node.wanted else None, dy


def _of_mean(x: Tensor, dmean: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    return dmean


def _of_inverse_deviation(x: Tensor, dy: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    """The cotangent of x in 1 / sqrt(var + eps), but for the count."""
    normal, deviation = _standardise(x, axes, epsilon)
    return -(normal * (dy / (deviation * deviation)))


@vjp("GroupNormalization")  # y = scale (x - mean) / sqrt(var + eps) + bias over the pixels and channels of a group
def group_normalization(node: Node, dy: Tensor) -> Cotangents:
    x, scale, _ = node.xs
    split, epsilon = [0, node.attr("num_groups", 1), -1], node.attr("epsilon", 1e-5)
    groups, axes = xp.reshape(x, split), (2,)
    normal = _normal(groups, axes, epsilon)
    if node.writer.opset < 21:  # scale and bias per group
        g = xp.reshape(dy, split)
        dx = xp.reshape_like(_through_statistics(groups, g * _per_channel(scale, 3), axes, epsilon), x)
        return dx, _channel_sum(g * normal), _channel_sum(g)
    g = xp.reshape(dy * _per_channel(scale, x.rank), split)
    dx = xp.reshape_like(_through_statistics(groups, g, axes, epsilon), x)
    return dx, _channel_sum(dy * xp.reshape_like(normal, x)) if 1 in node.wanted else None, _channel_sum(dy)


def _standardise(x: Tensor, axes: tuple[int, ...], epsilon: float) -> tuple[Tensor, Tensor]:
    """(x - mean) / sqrt(var + eps), and that root."""
    centred = x - xp.mean(x, axes, keepdims=True)
    deviation = xp.sqrt(xp.mean(centred * centred, axes, keepdims=True) + epsilon)
    return centred / deviation, deviation


def _normal(x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    return _standardise(x, axes, epsilon)[0]


def _through_statistics(x: Tensor, g: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    """The cotangent of x in (x - mean) / sqrt(var + eps), both taken over ``axes``, for the cotangent ``g``."""
    normal, deviation = _standardise(x, axes, epsilon)
    return (g - xp.mean(g, axes, keepdims=True) - normal * xp.mean(g * normal, axes, keepdims=True)) / deviation


@vjp("RMSNormalization", broadcasts=True)  # y = scale x / r, r = sqrt(mean(x^2) + eps) over the last axes
def rms_normalization(node: Node, dy: Tensor) -> Cotangents:
    x, scale = node.xs
    axes = tuple(range(node.attr("axis", -1) % x.rank, x.rank))
    root = xp.sqrt(xp.mean(x * x, axes, keepdims=True) + node.attr("epsilon", 1e-5))
    normal, g = x / root, dy * scale
    dx = (g - normal * xp.mean(g * normal, axes, keepdims=True)) / root
    return dx, dy * normal if 1 in node.wanted else None


@vjp("LpNormalization")  # y = x / |x|, so dx = (dy - d|x|/dx sum(dy y)) / |x|, where d|x|/dx is y or sign(x)
def lp_normalization(node: Node, dy: Tensor) -> Cotangents:
    x, axis, one = node.x, node.attr("axis", -1), node.attr("p", 2) == 1
    norm = xp.sum(xp.abs(x), axis, keepdims=True) if one else xp.sqrt(xp.sum(x * x, axis, keepdims=True))
    slope = xp.sign(x) if one else node.y
    return (dy - slope * xp.sum(dy * node.y, axis, keepdims=True)) / nonzero(norm)


@vjp("MeanVarianceNormalization")  # y = c / (s + e), c = x - mean, s = sqrt(mean(c^2)), e = 1e-9
def mean_variance_normalization(node: Node, dy: Tensor) -> Cotangents:
    axes = tuple(node.attr("axes", [0, 2, 3]))
    centred = node.x - xp.mean(node.x, axes, keepdims=True)
    deviation = nonzero(xp.sqrt(xp.mean(centred * centred, axes, keepdims=True)))
    share = xp.mean(dy * node.y, axes, keepdims=True) / deviation
    return (dy - xp.mean(dy, axes, keepdims=True)) / (deviation + 1e-9) - centred * share / (deviation + 1e-9)


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
