"""Independent replicas: raw CAMs by finite differences on the tail of a model, in float64, without any gradient code.

The tail from the target layer to the logits is evaluated by ONNX's reference evaluator. Grad-CAM's weights are
derivatives along directions: d/dt f(A + t 1_k) is the sum over pixels of G_k; HiResCAM's map is a derivative too:
d/dt f(A + t (A * 1_xy)) is sum_k G_k(x, y) A_k(x, y).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from onnxcam.graph.surgery import cut
from onnxcam.model import Model
from onnxcam.runtime import Session

Float = npt.NDArray[np.float64]
_NARROW = {TensorProto.FLOAT, TensorProto.FLOAT16}


def in_float64(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph computing in float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    for tensor in wide.graph.initializer:
        _widen(tensor)
    for node in wide.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i in _NARROW:
                attribute.i = TensorProto.DOUBLE
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type in _NARROW:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del wide.graph.value_info[:]
    for imported in wide.opset_import:  # the reference evaluator has DequantizeLinear from 19 on, otherwise the same
        if imported.domain == "" and any(n.op_type == "DequantizeLinear" for n in wide.graph.node):
            imported.version = max(imported.version, 19)
    return wide


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _NARROW:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def tail(model: Model, layer: str, logits: str) -> Callable[[Float], Float]:
    """f(A) -> (C,) logits in float64, for A of shape (1, K, H, W)."""
    part = cut(model, [layer], [logits])
    evaluator = ReferenceEvaluator(in_float64(ir.to_proto(part.ir_model)))

    def run(activations: Float) -> Float:
        found: Any = evaluator.run(None, {layer: activations.astype(np.float64)})
        return np.asarray(found[0], dtype=np.float64).reshape(-1)

    return run


_AFFINE = {
    "GlobalAveragePool",
    "AveragePool",
    "ReduceMean",
    "Reshape",
    "Flatten",
    "Squeeze",
    "MatMul",
    "Gemm",
    "Conv",
    "Add",
}
_AFFINE |= {"Identity", "Transpose", "Shape", "Slice", "Cast", "Concat", "Constant", "DequantizeLinear", "Unsqueeze"}


def affine_tail(model: Model, layer: str, logits: str) -> Callable[[Float], Float] | None:
    """f(A) in float32 by the runtime, where the tail is affine: there differences need no small step."""
    part = cut(model, [layer], [logits])
    if not {n.op_type for n in part.graph} <= _AFFINE:
        return None
    session = Session(part)
    dtype = part.inputs[0].dtype.numpy()
    return lambda A: session.run({layer: A.astype(dtype)})[0].reshape(-1).astype(np.float64)


def affine_gradcam(f: Callable[[Float], Float], A: Float, c: int) -> Float:
    """As :func:`gradcam`, for an affine f: the sum over pixels of G_k is f(1_k) - f(0), exactly."""
    _, channels, height, width = A.shape
    base = f(np.zeros_like(A))[c]
    units = np.zeros((channels, *A.shape))
    units[np.arange(channels), 0, np.arange(channels)] = 1.0
    alphas = np.array([f(u)[c] - base for u in units]) / (height * width)
    return np.einsum("k,khw->hw", alphas, A[0])


def derivative(f: Callable[[Float], Float], at: Float, direction: Float, c: int, step: float = 1e-5) -> float:
    """Central difference of f_c at a point along a direction."""
    scale = step / max(1e-12, float(np.abs(direction).max()))
    return float((f(at + scale * direction)[c] - f(at - scale * direction)[c]) / (2 * scale))


def gradcam(f: Callable[[Float], Float], A: Float, c: int) -> Float:
    """(h, w) raw Grad-CAM map of class c, for A of shape (1, K, h, w)."""
    _, channels, height, width = A.shape
    total = np.zeros((height, width))
    for k in range(channels):
        one = np.zeros_like(A)
        one[0, k] = 1.0
        total += derivative(f, A, one, c) / (height * width) * A[0, k]
    return total


def hirescam(f: Callable[[Float], Float], A: Float, c: int) -> Float:
    """(h, w) raw HiResCAM map of class c, for A of shape (1, K, h, w)."""
    _, _, height, width = A.shape
    found = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            pixel = np.zeros_like(A)
            pixel[:, :, y, x] = A[:, :, y, x]
            found[y, x] = derivative(f, A, pixel, c) if np.any(pixel) else 0.0
    return found


def relative(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """||a - b|| / ||b||."""
    wide = np.asarray(b, dtype=np.float64)
    return float(np.linalg.norm(np.asarray(a, dtype=np.float64) - wide) / np.linalg.norm(wide))
