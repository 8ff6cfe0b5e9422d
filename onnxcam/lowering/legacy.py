"""Operators that the default domain has no longer, or that runtimes put into it."""

from __future__ import annotations

import numpy as np

from onnxcam.lowering import LEGACY, lowers
from onnxcam.lowering.draft import Call, StaysError


@lowers("ImageScaler", domain=LEGACY)  # y = scale x + bias, per channel
def image_scaler(call: Call) -> str:
    scaled = call.op("Mul", call.input(0), call.number(call.attr("scale", 1.0), call.input(0)))
    bias = np.asarray(call.attr("bias", [0.0]), np.float32).reshape(-1, 1, 1)
    return call.op("Add", scaled, call.constant(bias))


@lowers("Scale", domain=LEGACY)  # y = scale x
def scale(call: Call) -> str:
    return call.op("Mul", call.input(0), call.number(call.attr("scale", 1.0), call.input(0)))


@lowers("Affine", domain=LEGACY)  # y = alpha x + beta
def affine(call: Call) -> str:
    x = call.input(0)
    return call.op(
        "Add", call.op("Mul", x, call.number(call.attr("alpha", 1.0), x)), call.number(call.attr("beta", 0.0), x)
    )


@lowers("Crop", domain=LEGACY)  # border = left, top, right, bottom; scale = height, width instead of the last two
def crop(call: Call) -> str:
    left, top, right, bottom = call.attr("border", [0, 0, 0, 0])
    last = np.iinfo(np.int64).max
    ends = [-bottom if bottom else last, -right if right else last]
    if size := call.attr("scale", list[int]()):
        ends = [top + size[0], left + size[1]]
    return call.op("Slice", call.input(0), call.integers(top, left), call.integers(*ends), call.integers(2, 3))


@lowers("ParametricSoftplus", domain=LEGACY)  # y = alpha log(1 + exp(beta x))
def parametric_softplus(call: Call) -> str:
    x = call.input(0)
    inner = call.op("Softplus", call.op("Mul", x, call.number(call.attr("beta", 1.0), x)))
    return call.op("Mul", inner, call.number(call.attr("alpha", 1.0), x))


@lowers("ScaledTanh", domain=LEGACY)  # y = alpha tanh(beta x)
def scaled_tanh(call: Call) -> str:
    x = call.input(0)
    inner = call.op("Tanh", call.op("Mul", x, call.number(call.attr("beta", 1.0), x)))
    return call.op("Mul", inner, call.number(call.attr("alpha", 1.0), x))


@lowers("ThresholdedRelu", domain=LEGACY)  # as it became standard in opset 10
def thresholded_relu(call: Call) -> str:
    return call.op("ThresholdedRelu", call.input(0), alpha=call.attr("alpha", 1.0))


@lowers("MeanVarianceNormalization", domain=LEGACY)  # opset 9 gave it axes instead of the two switches
def mean_variance_normalization(call: Call) -> str:
    x = call.input(0)
    if (rank := len(call.dims(x))) < 3:
        raise StaysError(f"of {rank} axes")
    axes = [0, *((1,) if call.attr("across_channels", 0) else ()), *range(2, rank)]
    if call.attr("normalize_variance", 1):
        return call.op("MeanVarianceNormalization", x, axes=axes)
    return call.op("Sub", x, call.op("ReduceMean", x, call.integers(*axes), keepdims=1))
