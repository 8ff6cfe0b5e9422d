"""Layer normalisations with what is fused into them, and Softmax with a bias."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto

from onnxcam.lowering import LEGACY, MICROSOFT, lowers
from onnxcam.lowering.draft import Call

_EPSILON = {"LayerNormalization": 1e-5, "SkipLayerNormalization": 1e-12}
_EPSILON |= {"SimplifiedLayerNormalization": 1e-5, "SkipSimplifiedLayerNormalization": 1e-12}


@lowers("LayerNormalization", domain=LEGACY)  # as it became standard in opset 17
def layer_normalization(call: Call) -> list[str]:
    return call.ops("LayerNormalization", *call.node.input, outputs=len(call.node.output), **call.attributes())


@lowers("SkipLayerNormalization", domain=MICROSOFT)  # outputs: normalised, mean, inverse deviation, the sum
def skip_layer_normalization(call: Call) -> list[str]:
    total = _sum(call, call.input(4))
    settings: dict[str, Any] = {"axis": -1, "epsilon": _epsilon(call)}
    if not call.wants(1) and not call.wants(2):
        return [call.op("LayerNormalization", total, *call.node.input[2:4], **settings), "", "", total]
    return [*call.ops("LayerNormalization", total, *call.node.input[2:4], outputs=3, **settings), total]


@lowers("SimplifiedLayerNormalization", domain=LEGACY)
def simplified_layer_normalization(call: Call) -> list[str]:
    return _by_root_mean_square(call, call.input(0), call.input(1), call.attr("axis", -1))


@lowers("SkipSimplifiedLayerNormalization", domain=MICROSOFT)  # outputs: normalised, none, inverse deviation, the sum
def skip_simplified_layer_normalization(call: Call) -> list[str]:
    total = _sum(call, call.input(3))
    y, inverse = _by_root_mean_square(call, total, call.input(2), -1)
    return [y, "", inverse, total]


def _sum(call: Call, bias: str) -> str:
    """The input, what was skipped, and a bias."""
    total = call.op("Add", call.input(0), call.input(1))
    return call.op("Add", total, bias) if bias else total


def _epsilon(call: Call) -> float:
    return call.attr("epsilon", _EPSILON[call.node.op_type])


def _by_root_mean_square(call: Call, x: str, scale: str, axis: int) -> list[str]:
    """x / sqrt(mean(x^2) + epsilon) scale, and the inverse root (Zhang and Sennrich, https://arxiv.org/abs/1910.07467)."""
    axes = [-1] if axis == -1 else list(range(axis % (rank := len(call.dims(x))), rank))
    narrow = call.dtype(x) == TensorProto.FLOAT16  # whose squares overflow
    wide = call.op("Cast", x, to=TensorProto.FLOAT) if narrow else x
    mean = call.op("ReduceMean", call.op("Mul", wide, wide), call.integers(*axes), keepdims=1)
    root = call.op("Sqrt", call.op("Add", mean, call.number(_epsilon(call), wide)))
    normal = call.op("Div", wide, root)
    normal = call.op("Cast", normal, to=TensorProto.FLOAT16) if narrow else normal
    inverse = call.op("Reciprocal", root) if call.wants(1) or call.wants(2) else ""
    return [call.op("Mul", normal, scale), inverse]


@lowers("BiasSoftmax", domain=MICROSOFT)
def bias_softmax(call: Call) -> str:
    return softmax_of_rest(call, call.op("Add", call.input(0), call.input(1)), call.attr("axis", 1))


def softmax_of_rest(call: Call, x: str, axis: int) -> str:
    """Softmax over an axis and all behind it together, as before opset 13."""
    rank = len(call.dims(x))
    if axis % rank == rank - 1:
        return call.op("Softmax", x, axis=-1)
    flat = call.op("Softmax", call.op("Flatten", x, axis=axis), axis=-1)
    return call.op("Reshape", flat, call.op("Shape", x))
