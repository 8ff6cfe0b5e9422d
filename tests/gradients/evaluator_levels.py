"""Quantisers in float64, for every type of level, with scales per tensor, channel and block."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from onnx import helper
from onnx.reference.op_run import OpRun

LARGEST = {"float8_e4m3fn": 448, "float8_e5m2": 57344, "float8_e4m3fnuz": 240, "float8_e5m2fnuz": 57344}
LARGEST |= {"float4_e2m1fn": 6}


class QuantizeLinear(OpRun):  # float32 inside
    op_domain = ""

    def _run(self, x, scale, zero=None, axis=1, block_size=0, output_dtype=0, saturate=1, **_):
        plain = helper.tensor_dtype_to_np_dtype(output_dtype) if output_dtype else np.uint8
        dtype = np.dtype(plain if zero is None else zero.dtype)
        levels = x / along(scale, x, axis, block_size)
        if dtype.name in LARGEST:
            limit = LARGEST[dtype.name] if saturate else np.inf
            return (np.clip(levels, -limit, limit).astype(dtype),)
        shift = 0 if zero is None else along(zero, x, axis, block_size).astype(np.int64)
        limits = ml_dtypes.iinfo(dtype)
        return (np.clip(np.rint(levels) + shift, limits.min, limits.max).astype(dtype),)


class DequantizeLinear(OpRun):  # missing at opset 18
    op_domain = ""

    def _run(self, x, scale, zero=None, axis=1, block_size=0, **_):
        shift = 0 if zero is None else along(zero, x, axis, block_size).astype(np.float64)
        return (((x.astype(np.float64) - shift) * along(scale, x, axis, block_size)).astype(scale.dtype),)


class DynamicQuantizeLinear(OpRun):  # float32 inside
    op_domain = ""

    def _run(self, x):
        low, high = min(x.min(), 0), max(x.max(), 0)
        scale = np.float32((high - low) / 255)
        zero = np.clip(np.rint(-low / scale), 0, 255)
        return (
            np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8),
            np.asarray(scale),
            np.asarray(zero, np.uint8),
        )


class MatMulInteger(OpRun):  # no zero point per row
    op_domain = ""

    def _run(self, a, b, a_point=0, b_point=0):
        rows = np.asarray(a_point, np.int32)
        rows = rows[:, None] if rows.ndim == 1 else rows
        return (((a.astype(np.int32) - rows) @ (b.astype(np.int32) - np.asarray(b_point, np.int32))).astype(np.int32),)


def along(parameter: np.ndarray, x: np.ndarray, axis: int, block_size: int = 0) -> np.ndarray:
    """A scale or zero point, shaped to go with ``x``."""
    if block_size:
        return np.repeat(parameter, block_size, axis).take(range(x.shape[axis]), axis)
    if parameter.ndim and parameter.size > 1:
        return parameter.reshape([-1 if a == axis % x.ndim else 1 for a in range(x.ndim)])
    return parameter.reshape(()) if parameter.size == 1 else parameter


FILLED = [QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, MatMulInteger]
