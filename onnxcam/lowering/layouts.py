"""Channels-last operators: the standard ones between transpositions, which a runtime cancels against its own."""

from __future__ import annotations

from onnxcam.lowering import MICROSOFT, lowers
from onnxcam.lowering.draft import Call, StaysError
from onnxcam.lowering.fused import activate


def channels_first(call: Call, x: str) -> str:
    """(N, ..., C) to (N, C, ...)."""
    rank = len(call.dims(x))
    return call.op("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)])


def channels_last(call: Call, x: str, like: str) -> str:
    """(N, C, ...) to (N, ..., C), of as many axes as ``like``."""
    return call.op("Transpose", x, perm=[0, *range(2, len(call.dims(like))), 1])


@lowers("NhwcMaxPool", domain=MICROSOFT)
def nhwc_max_pool(call: Call) -> str:
    pooled = call.op("MaxPool", channels_first(call, call.input(0)), **call.attributes())
    return channels_last(call, pooled, call.input(0))


@lowers("NhwcConv", domain=MICROSOFT)  # the weight is channels-last as well
def nhwc_conv(call: Call) -> str:
    x, w = (channels_first(call, call.input(k)) for k in range(2))
    return channels_last(call, call.op("Conv", x, w, call.input(2), **call.attributes()), call.input(0))


@lowers("NhwcFusedConv", domain=MICROSOFT)  # the weight is not
def nhwc_fused_conv(call: Call) -> str:
    settings = call.attributes("activation", "activation_params")
    product = call.op("Conv", channels_first(call, call.input(0)), *call.node.input[1:3], **settings)
    total = channels_last(call, product, call.input(0))
    total = call.op("Add", total, call.input(3)) if call.input(3) else total
    return activate(call, total, call.attr("activation_params", list[float]()))


@lowers("GridSample", domain=MICROSOFT)  # as it became standard; its modes were renamed in opset 20
def grid_sample(call: Call) -> str:
    mode = call.attr("mode", "bilinear")
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise StaysError(f"mode {mode}")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode) if call.opset >= 20 else mode
    return call.op("GridSample", *call.node.input, mode=mode, **call.attributes("mode"))
