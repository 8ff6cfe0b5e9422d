"""Operators that read between pixels, for the evaluator of the gradient tests: in plain loops, in any precision."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_average_pool import AveragePool_19


def _cubic(d: float, a: float = -0.75) -> float:
    d = abs(d)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def _neighbours(at: float, mode: str) -> list[tuple[int, float]]:
    low = math.floor(at)
    if mode == "nearest":
        return [(int(np.rint(at)), 1.0)]
    if mode in ("linear", "bilinear"):
        return [(low, 1 - (at - low)), (low + 1, at - low)]
    return [(low + k, _cubic(at - low - k)) for k in (-1, 0, 1, 2)]


def _inside(i: int, n: int, padding: str, aligned: int) -> int | None:
    """The pixel that stands for pixel i of n; None for a zero."""
    if padding == "border":
        return min(max(i, 0), n - 1)
    if padding == "zeros":
        return i if 0 <= i < n else None
    while n > 1 and not 0 <= i < n:
        low, high = (0, 2 * (n - 1)) if aligned else (-1, 2 * n - 1)
        i = low - i if i < 0 else high - i
    return min(max(i, 0), n - 1)


def _read(x: np.ndarray, at: Any, mode: str, padding: str, aligned: int = 0) -> Any:
    """The value of a picture (C, ...) at a point, per channel."""
    per_axis = [
        [(_inside(i, n, padding, aligned), w) for i, w in _neighbours(float(p), mode)]
        for p, n in zip(at, x.shape[1:], strict=True)
    ]
    total = np.zeros(x.shape[0], x.dtype)
    for taps in itertools.product(*per_axis):
        if all(i is not None for i, _ in taps):
            total += x[(slice(None), *(i for i, _ in taps))] * math.prod(w for _, w in taps)
    return total


class GridSample(OpRun):  # cubic with padding by the border is wrong, and the old names of the modes are missing
    op_domain = ""

    def _run(self, x, grid, mode="linear", padding_mode="zeros", align_corners=0):
        lengths = np.array(x.shape[2:])
        y = np.zeros((*x.shape[:2], *grid.shape[1:-1]), x.dtype)
        for n, *at in itertools.product(*(range(s) for s in grid.shape[:-1])):
            p = grid[(n, *at)][::-1] + 1
            p = p * (lengths - 1) / 2 if align_corners else (p * lengths - 1) / 2
            y[(n, slice(None), *at)] = _read(x[n], p, mode, padding_mode, align_corners)
        return (y,)


class AffineGrid(OpRun):  # float32 only
    op_domain = ""

    def _run(self, theta, size, align_corners=0):
        axes = [np.linspace(-1, 1, n) if align_corners else (2 * np.arange(n) + 1) / n - 1 for n in size[2:]]
        places = np.stack([*np.meshgrid(*axes, indexing="ij")[::-1], np.ones(size[2:])], -1)
        return (np.einsum("...j,nij->n...i", places, theta).astype(theta.dtype),)


class DeformConv(OpRun):  # two spatial axes only
    op_domain = ""

    def _run(self, x, w, offset, bias=None, mask=None, group=1, offset_group=1, **attributes):
        many, kernel, outs = x.ndim - 2, w.shape[2:], w.shape[0]
        strides, dilations, pads = (attributes.get(k) or [d] * many * 2 for k, d in _WINDOW.items())
        offset = offset.reshape(x.shape[0], offset_group, *kernel, many, *offset.shape[2:])
        mask = np.ones_like(offset.take(0, 2 + many)) if mask is None else mask.reshape(offset.take(0, 2 + many).shape)
        y = np.zeros((x.shape[0], outs, *offset.shape[3 + many :]), x.dtype)
        for n, c, *at in itertools.product(*(range(s) for s in (*x.shape[:2], *y.shape[2:]))):
            part, block = c // (x.shape[1] // offset_group), c // w.shape[1]
            for k in np.ndindex(*kernel):
                shift = offset[(n, part, *k, slice(None), *at)]
                p = [at[a] * strides[a] - pads[a] + k[a] * dilations[a] + shift[a] for a in range(many)]
                (value,) = _read(x[n, c : c + 1], p, "linear", "zeros") * mask[(n, part, *k, *at)]
                mine = slice(block * outs // group, (block + 1) * outs // group)
                y[(n, mine, *at)] += w[(mine, c % w.shape[1], *k)] * value
        return (y if bias is None else y + bias.reshape(-1, *[1] * many),)


_WINDOW = {"strides": 1, "dilations": 1, "pads": 0}


class MaxRoiPool(OpRun):  # missing
    op_domain = ""

    def _run(self, x, rois, pooled_shape=None, spatial_scale=1.0):
        y = np.zeros((len(rois), x.shape[1], *pooled_shape), x.dtype)
        for r, (batch, *corners) in enumerate(rois):
            left, top, right, bottom = (math.floor(abs(c) * spatial_scale + 0.5) * np.sign(c) for c in corners)
            for at in np.ndindex(*pooled_shape):
                cut = [
                    _bin(i, first, last, k, n)
                    for i, first, last, k, n in zip(
                        at, (top, left), (bottom, right), pooled_shape, x.shape[2:], strict=True
                    )
                ]
                pixels = x[(int(batch), slice(None), *cut)].reshape(x.shape[1], -1)
                y[(r, slice(None), *at)] = pixels.max(1) if pixels.size else 0
        return (y,)


def _bin(i: int, first: float, last: float, many: int, length: int) -> slice:
    step = max(last - first + 1, 1) / many
    begin, end = (min(max(int(edge + first), 0), length) for edge in (math.floor(i * step), math.ceil((i + 1) * step)))
    return slice(begin, max(begin, end))


class AveragePool(AveragePool_19):  # no ceil_mode with automatic padding, under which nothing is to be rounded
    op_domain = ""

    def _run(self, x, auto_pad="NOTSET", ceil_mode=0, **attributes):
        if auto_pad == "VALID":
            return super()._run(x, auto_pad="NOTSET", ceil_mode=ceil_mode, **attributes)
        return super()._run(x, auto_pad=auto_pad, ceil_mode=0 if "SAME" in auto_pad else ceil_mode, **attributes)


FILLED = [AveragePool, GridSample, AffineGrid, DeformConv, MaxRoiPool]
