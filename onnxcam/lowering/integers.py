"""Integer products with their scales, and weights of a few bits."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxcam.lowering import MICROSOFT, lowers
from onnxcam.lowering.draft import Array, Call, StaysError


@lowers("MatMulIntegerToFloat", domain=MICROSOFT)  # a, b, their scales, their zero points, bias
def matmul_to_float(call: Call) -> str:
    a, b, a_scale, b_scale, a_point, b_point, bias = (call.input(k) for k in range(7))
    return _scaled_product(call, (a, b, a_point, b_point), (a_scale, b_scale), bias)


@lowers("DynamicQuantizeMatMul", domain=MICROSOFT)  # a is quantised by its own range
def dynamic_matmul(call: Call) -> str:
    a, b, b_scale, b_point, bias = (call.input(k) for k in range(5))
    levels, scale, point = call.ops("DynamicQuantizeLinear", a, outputs=3)
    return _scaled_product(call, (levels, b, point, b_point), (scale, b_scale), bias)


def _scaled_product(call: Call, operands: tuple[str, ...], scales: tuple[str, str], bias: str) -> str:
    total = call.op("Cast", call.op("MatMulInteger", *operands), to=TensorProto.FLOAT)
    y = call.op("Mul", total, call.op("Mul", *scales))
    return call.op("Add", y, bias) if bias else y


@lowers("MatMulNBits", domain=MICROSOFT)  # y = A W', W (N, K) in blocks along K, each with its scale
def matmul_of_few_bits(call: Call) -> str:
    call.refuse_inputs(g_idx=4)
    weight = _unpacked(call)
    y = call.op("MatMul", call.input(0), call.constant(weight.T.copy()))
    return call.op("Add", y, call.input(5)) if call.input(5) else y


def _unpacked(call: Call) -> Array:
    """The weight (N, K) in floats."""
    n, k, size, bits = (int(call.attr(a, 4)) for a in ("N", "K", "block_size", "bits"))
    packed, scales, points = (call.array(call.input(i)) for i in (1, 2, 3))
    if packed is None or scales is None or (call.input(3) and points is None) or call.attr("weight_prepacked", 0) != 0:
        raise StaysError("of a computed weight")
    blocks = -(-k // size)
    levels = _levels(packed.reshape(n * blocks, -1), bits, size).reshape(n, blocks, size)
    middle: Array = np.asarray(2.0 ** (bits - 1))
    if points is not None and points.dtype == np.uint8:
        middle = _levels(points.reshape(n, -1), bits, blocks)[:, :, None]
    elif points is not None:
        middle = points.reshape(n, blocks, 1)
    floats = (levels.astype(np.float32) - middle) * scales.reshape(n, blocks, 1)
    return np.asarray(floats.reshape(n, -1)[:, :k], scales.dtype)


def _levels(packed: Array, bits: int, count: int) -> Array:
    """The first ``count`` levels of each row, several to a byte, the lowest bits first."""
    if bits not in (2, 4, 8):
        raise StaysError(f"bits={bits}")
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    found = (packed[:, :, None] >> shifts) & np.uint8(2**bits - 1)
    return np.asarray(found.reshape(len(packed), -1)[:, :count])
