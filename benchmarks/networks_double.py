"""An ONNX graph run in float64, for ``benchmarks.networks_check``: ONNX's reference implementation.

Two of its operators are wrong in onnx 1.23 (groups of ConvTranspose; ceil_mode and indices of MaxPool) and are written
here for two spatial axes, with explicit padding and undilated windows, which is all that the exporters use.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


class ConvTranspose(OpRun):
    op_domain = ""

    def _run(self, x: Any, w: Any, bias: Any = None, **given: Any) -> tuple[Any]:
        n, channels, *sizes = x.shape
        groups, kernel = given.get("group") or 1, w.shape[2:]
        strides, dilations = given.get("strides") or [1, 1], given.get("dilations") or [1, 1]
        pads, extra = given.get("pads") or [0] * 4, given.get("output_padding") or [0, 0]
        reach = [(m - 1) * s + 1 for m, s in zip(sizes, strides, strict=True)]
        whole = [r + (k - 1) * d + e for r, k, d, e in zip(reach, kernel, dilations, extra, strict=True)]
        parts = x.reshape(n, groups, channels // groups, *sizes)
        weights = w.reshape(groups, channels // groups, *w.shape[1:])
        y = np.zeros((n, groups, w.shape[1], *whole), x.dtype)
        for i, j in np.ndindex(*kernel):
            top, left = i * dilations[0], j * dilations[1]
            rows, columns = slice(top, top + reach[0], strides[0]), slice(left, left + reach[1], strides[1])
            y[..., rows, columns] += np.einsum("ngchw,gcm->ngmhw", parts, weights[..., i, j], optimize=True)
        y = y[..., pads[0] : whole[0] - pads[2], pads[1] : whole[1] - pads[3]]
        y = y.reshape(n, groups * w.shape[1], *y.shape[3:])
        return (y if bias is None else y + bias.reshape(-1, 1, 1),)


class MaxPool(OpRun):
    op_domain = ""

    def _run(self, x: Any, **given: Any) -> tuple[Any, ...]:
        kernel = given["kernel_shape"]
        strides, pads = given.get("strides") or [1, 1], given.get("pads") or [0] * 4
        counts = [
            _count(x.shape[a + 2] + pads[a], pads[a + 2], kernel[a], strides[a], bool(given.get("ceil_mode")))
            for a in (0, 1)
        ]
        places = np.arange(x.size).reshape(x.shape)
        amounts = [(0, 0), (0, 0), *((pads[a], pads[a + 2] + kernel[a] + strides[a]) for a in (0, 1))]
        values, numbers = np.pad(x, amounts, constant_values=-np.inf), np.pad(places, amounts)
        taps = [
            (..., *(slice(t, t + (c - 1) * s + 1, s) for t, c, s in zip(tap, counts, strides, strict=True)))
            for tap in np.ndindex(*kernel)
        ]
        windows = np.stack([values[t] for t in taps])
        first = windows.argmax(0)[None]
        found = [np.take_along_axis(a, first, 0)[0] for a in (windows, np.stack([numbers[t] for t in taps]))]
        return tuple(found[: len(self.output)])


def _count(size: int, after: int, kernel: int, stride: int, ceil: bool) -> int:
    """Windows along an axis of ``size``, padding before included; none starts in the padding after."""
    steps = (size + after - kernel) / stride
    count = (math.ceil(steps) if ceil else math.floor(steps)) + 1
    return count - 1 if ceil and (count - 1) * stride >= size else count


def run_double(file: Path, feeds: dict[str, Any], names: list[str]) -> list[Any]:
    return list(ReferenceEvaluator(str(file), new_ops=[ConvTranspose, MaxPool]).run(names, feeds))
