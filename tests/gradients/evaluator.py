"""ONNX's reference evaluator in float64, with its gaps filled.

onnx 1.23 has some operators in float32 only, for some ranks only, or wrong (each says which). They are here in plain
loops; ``test_the_oracle_agrees_with_the_runtime`` holds all of it against ONNX Runtime.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import evaluator_levels
import evaluator_loops
import evaluator_sampling
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_pad import Pad_18 as PlainPad
from onnx.reference.ops.op_resize import Resize as PlainResize


class Erf(OpRun):  # float32 inside
    op_domain = ""

    def _run(self, x):
        return (np.asarray(np.vectorize(math.erf)(x), x.dtype),)


class Gelu(OpRun):  # likewise
    op_domain = ""

    def _run(self, x, approximate="none"):
        if approximate == "tanh":
            inner = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        else:
            inner = np.vectorize(math.erf)(x / math.sqrt(2))
        return (np.asarray(0.5 * x * (1 + inner), x.dtype),)


class HardSwish(OpRun):  # a function whose constants are float32
    op_domain = ""

    def _run(self, x):
        return (x * np.clip(x / 6 + 0.5, 0, 1),)


class LRN(OpRun):  # counts images where it should count channels
    op_domain = ""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):
        total = np.zeros_like(x)
        for c in range(x.shape[1]):
            low, high = max(0, c - (size - 1) // 2), min(x.shape[1] - 1, c + math.ceil((size - 1) / 2))
            total[:, c] = sum(x[:, k] ** 2 for k in range(low, high + 1))
        return (x / (bias + alpha / size * total) ** beta,)


class LpNormalization(OpRun):  # p = 1 without the absolute value
    op_domain = ""

    def _run(self, x, axis=-1, p=2):
        return (x / (np.abs(x) ** p).sum(axis, keepdims=True) ** (1 / p),)


class MeanVarianceNormalization(OpRun):  # a function whose constants are float32
    op_domain = ""

    def _run(self, x, axes=(0, 2, 3)):
        axes = tuple(axes)
        return ((x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-9),)


class GroupNormalization(OpRun):  # float32 inside
    op_domain = ""

    def _run(self, x, scale, bias, epsilon=1e-5, num_groups=1, **_):
        groups = x.reshape(x.shape[0], num_groups, -1)
        centred = groups - groups.mean(2, keepdims=True)
        normal = (centred / np.sqrt(groups.var(2, keepdims=True) + epsilon)).reshape(x.shape)
        if len(scale) == num_groups:  # before opset 21
            scale, bias = (np.repeat(v, x.shape[1] // num_groups) for v in (scale, bias))
        return (normal * scale.reshape(-1, *[1] * (x.ndim - 2)) + bias.reshape(-1, *[1] * (x.ndim - 2)),)


class GatherElements(OpRun):  # no negative axis
    op_domain = ""

    def _run(self, x, index, axis=0):
        return (np.take_along_axis(x, index, axis),)


class Resize(PlainResize):  # ascending axes only; cubic weights in float32
    op_domain = ""

    def _run(self, x, roi=None, scales=None, sizes=None, axes=None, cubic_coeff_a=-0.75, **attributes):
        attributes["cubic_coeff_a"] = float(cubic_coeff_a)
        if axes is None:
            return super()._run(x, roi, scales, sizes, **attributes)
        axes = [a % x.ndim for a in axes]
        order = np.argsort(axes)
        scales, sizes = (v if v is None or not len(v) else np.asarray(v)[order] for v in (scales, sizes))
        if roi is not None and len(roi):
            roi = np.asarray(roi).reshape(2, -1)[:, order].reshape(-1)
        return super()._run(x, roi, scales, sizes, axes=sorted(axes), **attributes)


class GlobalMaxPool(OpRun):  # 2-D only
    op_domain = ""

    def _run(self, x):
        return (x.max(tuple(range(2, x.ndim)), keepdims=True),)


class GlobalLpPool(OpRun):  # missing
    op_domain = ""

    def _run(self, x, p=2):
        return ((np.abs(x) ** p).sum(tuple(range(2, x.ndim)), keepdims=True) ** (1 / p),)


class Pad(PlainPad):  # no negative amounts
    op_domain = ""

    def _run(self, data, pads, constant_value=None, axes=None, mode=None):
        axes = list(range(data.ndim)) if axes is None else [int(a) % data.ndim for a in axes]
        for i, a in enumerate(axes):
            cut = [slice(None)] * data.ndim
            cut[a] = slice(max(-int(pads[i]), 0), data.shape[a] + min(int(pads[len(axes) + i]), 0))
            data = data[tuple(cut)]
        return super()._run(data, np.maximum(pads, 0), constant_value, np.asarray(axes), mode=mode)


def _windows(node: Any, x: np.ndarray, kernel: list[int]):
    """Yields (output position, [input position or None for padding]) of every window, per spatial axis."""
    n = len(kernel)
    strides, dilations = node["strides"] or [1] * n, node["dilations"] or [1] * n
    per_axis = []
    for a in range(n):
        size, reach = x.shape[a + 2], (kernel[a] - 1) * dilations[a] + 1
        before, after = _pads(node, a, n, size, reach, strides[a])
        steps = (size + before + after - reach) / strides[a]
        count = (math.ceil(steps) if node["ceil_mode"] else math.floor(steps)) + 1
        if node["ceil_mode"] and (count - 1) * strides[a] >= size + before:
            count -= 1  # a window that starts in the padding behind does not count
        taps = [[o * strides[a] - before + k * dilations[a] for k in range(kernel[a])] for o in range(count)]
        per_axis.append([[t if 0 <= t < size else None for t in row] for row in taps])
    return per_axis


def _pads(node: Any, axis: int, n: int, size: int, reach: int, stride: int) -> tuple[int, int]:
    auto = node["auto_pad"] or "NOTSET"
    if auto == "NOTSET":
        pads = node["pads"] or [0] * 2 * n
        return pads[axis], pads[axis + n]
    total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0) if auto != "VALID" else 0
    return (total // 2, total - total // 2) if auto == "SAME_UPPER" else (total - total // 2, total // 2)


def _pool(node: Any, x: np.ndarray, kernel: list[int]):
    """Yields (index of the output, its input positions) over all pictures and channels."""
    per_axis = _windows(node, x, kernel)
    for n, c in itertools.product(range(x.shape[0]), range(x.shape[1])):
        for where in itertools.product(*(range(len(rows)) for rows in per_axis)):
            taps = itertools.product(*(rows[o] for rows, o in zip(per_axis, where, strict=True)))
            yield (n, c, *where), [(n, c, *t) for t in taps if None not in t]


class MaxPool(OpRun):  # wrong indices; wrong size for SAME_LOWER
    op_domain = ""

    def _run(self, x, **attributes):
        found = {
            o: max(taps, key=lambda t: x[t]) for o, taps in _pool(_options(attributes), x, attributes["kernel_shape"])
        }
        shape = [max(o[a] for o in found) + 1 for a in range(x.ndim)]
        flat = np.array([np.ravel_multi_index(t, x.shape) for t in found.values()], np.int64).reshape(shape)
        values = np.array([x[t] for t in found.values()], x.dtype).reshape(shape)
        return (values, flat) if len(self.output) > 1 else (values,)


class LpPool(OpRun):  # ceil_mode differs from the runtime's
    op_domain = ""

    def _run(self, x, p=2, **attributes):
        sums = {
            o: sum(abs(x[t]) ** p for t in taps)
            for o, taps in _pool(_options(attributes), x, attributes["kernel_shape"])
        }
        shape = [max(o[a] for o in sums) + 1 for a in range(x.ndim)]
        return (np.array(list(sums.values()), x.dtype).reshape(shape) ** (1 / p),)


def _options(attributes: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(("strides", "dilations", "pads", "auto_pad", "ceil_mode")) | attributes


class ConvTranspose(OpRun):  # groups fail, and so does automatic padding with output_shape
    op_domain = ""

    def _run(self, x, w, b=None, group=1, **attributes):
        options = (
            dict.fromkeys(("strides", "dilations", "pads", "auto_pad", "output_padding", "output_shape")) | attributes
        )
        n = x.ndim - 2
        strides, dilations = options["strides"] or [1] * n, options["dilations"] or [1] * n
        extra, kernel = options["output_padding"] or [0] * n, w.shape[2:]
        whole = [(x.shape[a + 2] - 1) * strides[a] + (kernel[a] - 1) * dilations[a] + 1 + extra[a] for a in range(n)]
        outs = w.shape[1] * group
        full = np.zeros((x.shape[0], outs, *whole), x.dtype)
        for i, o in itertools.product(range(x.shape[1]), range(w.shape[1])):
            channel = i // (x.shape[1] // group) * w.shape[1] + o
            for at, k in itertools.product(np.ndindex(*x.shape[2:]), np.ndindex(*kernel)):
                place = tuple(p * s + t * d for p, s, t, d in zip(at, strides, k, dilations, strict=True))
                full[(slice(None), channel, *place)] += x[(slice(None), i, *at)] * w[(i, o, *k)]
        y = _cut(full, x, strides, options)
        return (y if b is None else y + b.reshape(-1, *[1] * n),)


def _cut(full: np.ndarray, x: np.ndarray, strides: list[int], options: dict[str, Any]) -> np.ndarray:
    n, auto = len(strides), options["auto_pad"] or "NOTSET"
    pads = options["pads"] or [0] * 2 * n
    shape = options["output_shape"] or ([x.shape[a + 2] * strides[a] for a in range(n)] if "SAME" in auto else None)
    for a in range(n):
        size, before = full.shape[a + 2], pads[a]
        length = size - before - pads[a + n]
        if shape:
            length, total = shape[a], max(size - shape[a], 0)
            before = total // 2 if auto == "SAME_UPPER" else total - total // 2
        room = [(0, max(before + length - size, 0)) if i == a + 2 else (0, 0) for i in range(full.ndim)]
        full = np.take(np.pad(full, room), range(before, before + length), axis=a + 2)
    return full


FILLED = [
    Erf,
    GroupNormalization,
    GatherElements,
    Resize,
    Gelu,
    HardSwish,
    LRN,
    LpNormalization,
    MeanVarianceNormalization,
    GlobalMaxPool,
    GlobalLpPool,
    Pad,
    MaxPool,
    LpPool,
    ConvTranspose,
    *evaluator_levels.FILLED,
    *evaluator_loops.FILLED,
    *evaluator_sampling.FILLED,
]


def evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """Runs a model node by node in the precision that it is written in."""
    return ReferenceEvaluator(model, new_ops=FILLED)
