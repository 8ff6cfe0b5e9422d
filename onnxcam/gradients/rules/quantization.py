"""Quantisers: straight through, stopped where they saturate.

Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013,
https://arxiv.org/abs/1308.3432: the rounding counts as the identity. The saturation does not: it *is* the activation
of many int8 networks. So what is differentiated is clip(x, low scale, high scale), by x and by a computed scale.
"""

from __future__ import annotations

import math

import numpy as np

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, vjp, working_type
from onnxcam.graph import symbolic as xp
from onnxcam.graph.ranges import level_range, value_range
from onnxcam.graph.symbolic import Tensor


@vjp("QuantizeLinear")  # y = clip(round(x / scale) + zero point); read from y, so that int8 fusion stays possible
def quantize(node: Node, dy: Tensor) -> Cotangents:
    dy = xp.astype(dy, working_type(node.x.dtype))
    scale = _spread(node, node.xs[1], dy)
    through, inside = dy / scale, _inside(node, dy)
    dx = through if inside is None else node.gate(through, inside)
    if 1 not in node.wanted:
        return dx
    kept = through if inside is None else node.mask(through, inside)
    return dx, _to_scale(node, -(kept * _centred(node, node.y, dy)))


@vjp("DequantizeLinear")  # y = (x - zero point) scale
def dequantize(node: Node, dy: Tensor) -> Cotangents:
    dx = dy * _spread(node, node.xs[1], dy)
    return (dx, _to_scale(node, dy * _centred(node, node.x, dy))) if 1 in node.wanted else dx


@vjp("DynamicQuantizeLinear")  # as QuantizeLinear of a scale that counts as a constant; nothing saturates
def dynamic_quantize(node: Node, dy: Tensor, *_: Tensor | None) -> Cotangents:
    dy = xp.astype(dy, working_type(node.x.dtype))
    return dy / xp.astype(node.output(1), dy.dtype)


def _spread(node: Node, parameter: Tensor, like: Tensor) -> Tensor:
    """A scale or zero point per channel or block, shaped to go with the tensor, in the type of its cotangent."""
    parameter, size = xp.astype(parameter, like.dtype), node.attr("block_size", 0)
    if not size and (parameter.rank != 1 or parameter.shape == (1,)):
        return parameter
    axis = node.attr("axis", 1) % node.x.rank
    if not size:
        return xp.reshape(parameter, [-1 if a == axis else 1 for a in range(node.x.rank)])
    return _repeated(parameter, axis, size, node.x)


def _repeated(parameter: Tensor, axis: int, size: int, like: Tensor) -> Tensor:
    """Every entry ``size`` times along an axis, up to the length of ``like``."""
    if parameter.const is not None and isinstance(length := like.shape[axis] if like.shape else None, int):
        return like.writer.constant(np.repeat(parameter.const, size, axis).take(range(length), axis))
    wide = xp.expand_dims(parameter, axis + 1)
    wide = xp.broadcast_to(wide, [size if a == axis + 1 else 1 for a in range(wide.rank)], _with(wide, axis + 1, size))
    merged = xp.concat([xp.dim(like, a) if a != axis else like.writer.constant([-1]) for a in range(like.rank)])
    whole = xp.reshape(wide, merged, [None if a == axis else d for a, d in enumerate(like.shape or ())])
    bounds = [like.writer.constant(np.asarray([v], dtype=np.int64)) for v in (0, axis)]
    return like.writer.op("Slice", whole, bounds[0], xp.dim(like, axis), bounds[1], shape=like.shape)


def _with(x: Tensor, axis: int, length: int) -> list[int | str | None]:
    return [length if a == axis else d for a, d in enumerate(x.shape or ())]


def _levels(tensor: Tensor, like: Tensor) -> Tensor:
    """Levels as floats; runtimes cast 8 bits and more, and dequantise fewer."""
    if tensor.dtype.is_integer() and tensor.dtype.bitwidth < 8:
        tensor = tensor.writer.op("DequantizeLinear", tensor, tensor.writer.constant(np.float32(1)))
    return xp.astype(tensor, like.dtype)


def _centred(node: Node, levels: Tensor, like: Tensor) -> Tensor:
    """Levels less the zero point."""
    point = node.input(2)
    centred = _levels(levels, like)
    return centred if point is None else centred - _spread(node, _levels(point, like), like)


def _to_scale(node: Node, d: Tensor) -> Tensor:
    """Sum what belongs to one scale."""
    scale = node.xs[1]
    if node.attr("block_size", 0):
        raise UnsupportedError("block_size: the gradient of one scale per block")
    axis = node.attr("axis", 1) % node.x.rank if scale.rank == 1 and scale.shape != (1,) else None
    total = xp.sum(d, [a for a in range(node.x.rank) if a != axis])
    return xp.reshape(total, [1]) if scale.shape == (1,) else total


def _inside(node: Node, dy: Tensor) -> Tensor | None:
    """Where the levels do not saturate; None where they cannot."""
    low, high = level_range(node.y.dtype)
    below, above = _can_saturate(node, low, high)
    if not below and not above:
        return None
    level = _levels(node.y, dy)
    if _is_coarse(node.y) or _is_vector(node.y):  # cut off is what rounding alone would have put outside
        margin = 0.5 if node.y.dtype.is_integer() else 0.0
        level, low, high = _unrounded(node, dy), low - margin, high + margin
    if below and above:
        return (level > low) & (level < high)
    return level > low if below else level < high


def _is_coarse(levels: Tensor) -> bool:
    """Whether half a step is much. Those of 8 bits are fused with what makes their input, while nothing reads it."""
    return not levels.dtype.is_integer() or levels.dtype.bitwidth < 8


def _is_vector(levels: Tensor) -> bool:
    """One number per channel: calibration puts the largest at the last level, and all of it hangs on that one."""
    return levels.shape is not None and all(d == 1 for d in levels.shape[2:])


def _unrounded(node: Node, dy: Tensor) -> Tensor:
    scaled, point = xp.astype(node.x, dy.dtype) / _spread(node, node.xs[1], dy), node.input(2)
    return scaled if point is None else scaled + _spread(node, _levels(point, dy), dy)


def _can_saturate(node: Node, low: float, high: float) -> tuple[bool, bool]:
    """Whether values below the lowest and above the highest level are possible: a ReLU in front rules out the first."""
    if node.y.dtype.name.startswith("FLOAT8") and not node.attr("saturate", 1):
        return False, False
    scale, point = node.xs[1].const, node.input(2)
    lowest, highest = value_range(node.raw.inputs[0])
    if scale is None or node.attr("block_size", 0) or (point is not None and point.const is None):
        return lowest < 0 or low == -math.inf, True
    zero = np.asarray(0.0 if point is None else point.const).astype(np.float64)
    floor, ceiling = ((bound - zero) * scale for bound in (low, high))
    return bool(np.any(lowest < floor - scale / 2)), bool(np.any(highest > ceiling + scale / 2))
