"""Pooling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, vjp
from onnxcam.gradients.rules.convolution import Window, spread_out, window
from onnxcam.gradients.rules.indexing import add_at
from onnxcam.gradients.rules.linear import positions
from onnxcam.gradients.rules.reduction import count, moved, nonzero
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor

_COUNTED_EXACTLY = 2**24  # by float32
_LAST = np.iinfo(np.int64).max


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.rank))


@vjp("GlobalAveragePool")  # dx = dy / pixels
def global_average_pool(node: Node, dy: Tensor) -> Cotangents:
    return xp.expand_like(dy / count(node.x, _spatial(node.x)), node.x)


@vjp("GlobalMaxPool")  # the first maximum takes all
def global_max_pool(node: Node, dy: Tensor) -> Cotangents:
    x = node.x
    flat = xp.reshape(x, [0, 0, -1])
    first = xp.argmax(flat, axis=2, keepdims=True)
    hit = xp.astype(positions(xp.dim(flat, 2)) == first, dy.dtype)
    return moved(node, dy, xp.reshape_like(xp.reshape(dy, [0, 0, -1]) * hit, x))


@vjp("GlobalLpPool")  # y = (sum |x|^p)^(1/p)
def global_lp_pool(node: Node, dy: Tensor) -> Cotangents:
    return _norm_slope(node) * (dy * _inverse_power(node))


@vjp("LpPool")  # the same over windows
def lp_pool(node: Node, dy: Tensor) -> Cotangents:
    x, win = node.x, window(node, node.attr("kernel_shape", list[int]()))
    return _spread_windows(dy * _inverse_power(node), win, x) * _norm_slope(node)


def _norm_slope(node: Node) -> Tensor:
    """sign(x) |x|^(p - 1)"""
    p = float(node.attr("p", 2))
    return node.x if p == 2 else xp.sign(node.x) * xp.abs(node.x) ** (p - 1)


def _inverse_power(node: Node) -> Tensor:
    """y^(1 - p)"""
    return nonzero(node.y) ** (1.0 - node.attr("p", 2))


@vjp("AveragePool")  # each window spreads its cotangent evenly over the pixels that it counted
def average_pool(node: Node, dy: Tensor) -> Cotangents:
    win = window(node, node.attr("kernel_shape", list[int]()))
    if _is_global(node.x, dy, win):
        return xp.expand_like(dy / float(math.prod(win.kernel)), node.x)
    dx = _spread_windows(dy / _counted(node, win, dy), win, node.x)
    whole = not node.attr("count_include_pad", 0) or not (_is_padded(win) or _hangs_over(node))
    return moved(node, dy, dx) if whole else dx


def _is_padded(win: Window) -> bool:
    return any(isinstance(p, Tensor) or p for p in win.before + win.after)


def _is_global(x: Tensor, dy: Tensor, win: Window) -> bool:
    """Whether the one window is the whole map, as converters write a global pool."""
    assert x.shape is not None
    assert dy.shape is not None
    plain = all(isinstance(p, int) and p == 0 for p in win.before + win.after) and set(win.dilations) == {1}
    return plain and tuple(x.shape[2:]) == tuple(win.kernel) and all(d == 1 for d in dy.shape[2:])


def _spread_windows(dy: Tensor, win: Window, x: Tensor) -> Tensor:
    """Every pixel of ``x`` sums the cotangents of the windows that it is in."""
    ones = x.writer.constant(np.ones((1, 1, *win.kernel)), x.dtype)
    return xp.reshape_like(spread_out(_planes(dy), ones, win, 1, _planes(x)), x)


def _planes(x: Tensor) -> Tensor:
    """(N, C, ...) -> (N C, 1, ...): every channel by itself."""
    spatial = [xp.dim(x, a) for a in _spatial(x)]
    minus_one, one = (x.writer.constant(np.asarray([v], dtype=np.int64)) for v in (-1, 1))
    assert x.shape is not None
    known = x.shape[0] * x.shape[1] if isinstance(x.shape[0], int) and isinstance(x.shape[1], int) else None
    return xp.reshape(x, xp.concat([minus_one, one, *spatial]), [known, 1, *x.shape[2:]])


def _counted(node: Node, win: Window, dy: Tensor) -> Tensor | float:
    """How many pixels each window counts (ONNX spec, AveragePool: count_include_pad, ceil_mode)."""
    whole, ceil = float(math.prod(win.kernel)), _hangs_over(node)
    if not ceil and (not _is_padded(win) or node.attr("count_include_pad", 0)):
        return whole
    x = node.x
    one = x.writer.constant(np.ones((1,) * x.rank), x.dtype)
    ones = xp.broadcast_to(one, xp.concat([xp.dim(one, 0), xp.dim(one, 1), *(xp.dim(x, a) for a in _spatial(x))]))
    if not ceil:
        return _mean(node, ones) * whole
    counted = _count_by_sum(ones, win, dy)
    # Runtimes differ in what a padded window counts that hangs over the edge; the operator itself tells.
    return nonzero(counted) / _mean(node, ones) if node.attr("count_include_pad", 0) else counted


def _hangs_over(node: Node) -> bool:
    """Whether the last window may reach beyond the padding; automatic padding never lets it."""
    return bool(node.attr("ceil_mode", 0)) and node.attr("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def _mean(node: Node, ones: Tensor) -> Tensor:
    names = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")
    attributes = {n: _attribute(node, n) for n in names}
    fold = not _hangs_over(node)
    return ones.writer.op("AveragePool", ones, count_include_pad=1, fold=fold, **attributes)


def _attribute(node: Node, name: str) -> Any:
    attribute = node.raw.attributes.get(name)
    return None if attribute is None else attribute.value


def _count_by_sum(ones: Tensor, win: Window, dy: Tensor) -> Tensor:
    """Counts where the last window hangs over the edge: a sum over the picture with zeros beyond it."""
    kernel = ones.writer.constant(np.ones((1, 1, *win.kernel)), ones.dtype)
    after = [int(p) + s - 1 for p, s in zip(win.after, win.strides, strict=True)]  # type: ignore[arg-type]
    pads = [*(int(p) for p in win.before), *after]  # type: ignore[arg-type]
    counts = ones.writer.op("Conv", ones, kernel, pads=pads, strides=list(win.strides), dilations=list(win.dilations))
    return _cut(counts, dy)


def _cut(counts: Tensor, dy: Tensor) -> Tensor:
    axes = list(_spatial(dy))
    sizes = xp.concat([xp.dim(dy, a) for a in axes])
    zeros = dy.writer.constant(np.zeros(len(axes), dtype=np.int64))
    return dy.writer.op("Slice", counts, zeros, sizes, dy.writer.constant(np.asarray(axes)))


@vjp("MaxPool")  # the first maximum of each window takes all, as ONNX's Indices count it
def max_pool(node: Node, dy: Tensor, *indices: None) -> Cotangents:
    x = node.x
    names = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")
    attributes = {name: _attribute(node, name) for name in names}
    floats = xp.astype(x, dy.dtype) if x.dtype.is_integer() else x  # ONNX Runtime 1.19: no index of the lowest level
    _, where = x.writer.ops("MaxPool", floats, outputs=2, **attributes)
    zeros = xp.broadcast_to(dy.lift(0), x.writer.op("ReduceProd", xp.shape_of(x), keepdims=1), [None])
    taken = add_at("ScatterElements", zeros, xp.reshape(where, [-1]), xp.reshape(dy, [-1]), axis=0)
    return moved(node, dy, xp.reshape_like(taken, x))


@vjp("MaxUnpool")  # what is placed carries its cotangent back
def max_unpool(node: Node, dy: Tensor) -> Cotangents:
    x, (index, *shape) = node.x, node.optional_xs[1:]
    size = xp.reshape(node.writer.op("Size", x), [1])
    if size.const is not None and size.const[0] >= _COUNTED_EXACTLY:
        raise UnsupportedError(f"{size.const[0]} elements")
    numbers = xp.astype(xp.reshape(positions(size) + 1, xp.shape_of(x), x.shape), dy.dtype)
    attributes = {name: _attribute(node, name) for name in ("kernel_shape", "pads", "strides")}
    # Runtimes differ in where elements go if the output's shape is given; the operator itself tells.
    placed = node.writer.op("MaxUnpool", numbers, index, *shape, fold=False, **attributes)
    sources = xp.reshape(xp.astype(placed, size.dtype), [-1])
    sums = add_at("ScatterElements", xp.broadcast_to(dy.lift(0), size + 1), sources, xp.reshape(dy, [-1]), axis=0)
    return xp.reshape_like(xp.slice_axis(sums, 0, 1, _LAST), x)
