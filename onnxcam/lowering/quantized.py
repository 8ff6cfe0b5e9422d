"""Operators on quantised tensors: dequantise, compute in floats, quantise.

Runtimes fuse this form back into the kernels that the operators stood for. A tensor is dequantised once for all its
readers, so that every path of a network passes float values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from onnxcam.lowering import MICROSOFT, lowers
from onnxcam.lowering.draft import Array, Call, StaysError
from onnxcam.lowering.layouts import channels_first, channels_last
from onnxcam.lowering.normalization import softmax_of_rest


def dequantized(call: Call, position: int, axis: int = 0) -> str:
    """The floats that the tensor at ``position``, the scale and the zero point behind it stand for."""
    x = call.input(position)
    scale, point = (_number(call, call.input(position + k)) for k in (1, 2))
    per_axis = call.array(scale)
    known = call.array(point)
    if per_axis is not None and per_axis.ndim == 1 and known is not None and known.ndim == 0:
        point = call.constant(np.full(per_axis.shape, known))
    settings = {"axis": axis} if per_axis is None or per_axis.ndim else {}
    key = (x, scale, point, axis)
    if key not in call.draft.shared:
        name = f"{x}/DequantizeLinear"
        call.draft.shared[key] = call.op("DequantizeLinear", x, scale, point, name=name, **settings)
    return call.draft.shared[key]


def quantized(call: Call, x: str, position: int, like: str = "") -> str:
    """``x`` in levels of the scale and zero point at ``position``; without a zero point, of the type of ``like``."""
    scale, point = (_number(call, call.input(position + k)) for k in (0, 1))
    if not point and like and call.dtype(like) == TensorProto.INT8:
        point = call.constant(np.int8(0))
    return call.op("QuantizeLinear", x, scale, point)


def _number(call: Call, name: str) -> str:
    """A constant vector of one element as a number; anything else as it is."""
    held = call.array(name)
    return name if held is None or held.shape != (1,) else call.constant(held.reshape(()))


def _bias(call: Call, position: int, scales: tuple[int, int], factor: float = 1.0) -> str:
    """An int32 bias, whose scale is the product of two others."""
    if not call.input(position):
        return ""
    names = [_number(call, call.input(k)) for k in scales]
    held = [call.array(n) for n in names]
    product = _product(held, factor)
    scale = call.constant(product) if product is not None else call.op("Mul", *names)
    if product is None and factor != 1:
        scale = call.op("Mul", scale, call.number(factor, scale))
    name = f"{call.input(position)}/DequantizeLinear"
    return call.op("DequantizeLinear", call.input(position), scale, name=name, axis=0)


def _product(held: list[Array | None], factor: float) -> Array | None:
    a, b = held
    return None if a is None or b is None else np.asarray(a * b * np.asarray(factor, a.dtype), a.dtype)


@lowers("QLinearConv", domain="")
@lowers("QLinearConv", domain=MICROSOFT)  # x, scale, point, w, scale, point, y's scale, point, bias
def conv(call: Call) -> str:
    nhwc = call.attr("channels_last", 0)
    w, bias = dequantized(call, 3), _bias(call, 8, (1, 4))
    x = channels_first(call, dequantized(call, 0)) if nhwc else dequantized(call, 0)
    y = quantized(call, call.op("Conv", x, w, bias, **call.attributes("channels_last")), 6)
    return channels_last(call, y, call.input(0)) if nhwc else y


@lowers("QLinearMatMul", domain="")  # a may have a scale per row, b one per column
def matmul(call: Call) -> str:
    return quantized(call, call.op("MatMul", dequantized(call, 0, axis=-2), dequantized(call, 3, axis=-1)), 6)


@lowers("QGemm", domain=MICROSOFT)  # without a scale for y, y is float
def gemm(call: Call) -> str:
    a, b = dequantized(call, 0), dequantized(call, 3, axis=0 if call.attr("transB", 0) else 1)
    alpha = call.attr("alpha", 1.0)
    y = call.op("Gemm", a, b, _bias(call, 6, (1, 4), alpha), **call.attributes())
    return quantized(call, y, 7, call.input(0)) if call.input(7) else y


@lowers("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def elementwise(call: Call) -> str:
    op_type = call.node.op_type.removeprefix("QLinear")
    return quantized(call, call.op(op_type, dequantized(call, 0), dequantized(call, 3)), 6, call.input(0))


@lowers("QLinearSigmoid", "QLinearLeakyRelu", domain=MICROSOFT)
def unary(call: Call) -> str:
    op_type = call.node.op_type.removeprefix("QLinear")
    return quantized(call, call.op(op_type, dequantized(call, 0), **call.attributes()), 3, call.input(0))


@lowers("QLinearGlobalAveragePool", "QLinearAveragePool", domain=MICROSOFT)
def pool(call: Call) -> str:
    nhwc, op_type = call.attr("channels_last", 0), call.node.op_type.removeprefix("QLinear")
    x = channels_first(call, dequantized(call, 0)) if nhwc else dequantized(call, 0)
    y = quantized(call, call.op(op_type, x, **call.attributes("channels_last")), 3, call.input(0))
    return channels_last(call, y, call.input(0)) if nhwc else y


@lowers("QLinearReduceMean", domain=MICROSOFT)
def reduce_mean(call: Call) -> str:
    settings: dict[str, Any] = {"keepdims": call.attr("keepdims", 1)}
    axes = call.attr("axes", list[int]())
    given = [call.integers(*axes)] if axes else []
    return quantized(call, call.op("ReduceMean", dequantized(call, 0), *given, **settings), 3, call.input(0))


@lowers("QLinearSoftmax", domain=MICROSOFT)
def softmax(call: Call) -> str:
    x, old = dequantized(call, 0), call.attr("opset", 13) < 13
    axis = call.attr("axis", 1 if old else -1)
    y = softmax_of_rest(call, x, axis) if old else call.op("Softmax", x, axis=axis)
    return quantized(call, y, 3, call.input(0))


@lowers("QLinearConcat", domain=MICROSOFT)  # y's scale and point, then three inputs per operand
def concat(call: Call) -> str:
    operands = [dequantized(call, k) for k in range(2, len(call.node.input), 3)]
    return quantized(call, call.op("Concat", *operands, **call.attributes()), 0, call.input(2))


@lowers("QLinearWhere", domain=MICROSOFT)
def where(call: Call) -> str:
    return quantized(call, call.op("Where", call.input(0), dequantized(call, 1), dequantized(call, 4)), 7)


@lowers("QuantizeLinear", "DequantizeLinear", domain=MICROSOFT)  # which took 16 bits before the standard ones did
def quantizer(call: Call) -> str:
    wide = {call.dtype(name) for name in call.node.input} - _NARROW
    if wide and call.opset < 21:
        raise StaysError("with types that are standard from opset 21 on")
    scale, point = (_number(call, call.input(k)) for k in (1, 2))
    return call.op(call.node.op_type, call.input(0), scale, point, **call.attributes())


_NARROW = {0, TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32}
