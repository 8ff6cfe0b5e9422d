"""GELUs, and products with what runtimes fuse into them: a bias, a transposition, an activation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnxcam.lowering import MICROSOFT, lowers
from onnxcam.lowering.draft import Call, StaysError


@lowers("Gelu", domain=MICROSOFT)
def plain_gelu(call: Call) -> str:
    return gelu(call, call.input(0))


@lowers("BiasGelu", domain=MICROSOFT)
def bias_gelu(call: Call) -> str:
    return gelu(call, call.op("Add", call.input(0), call.input(1)))


@lowers("FastGelu", domain=MICROSOFT)
def fast_gelu(call: Call) -> str:
    x = call.op("Add", call.input(0), call.input(1)) if call.input(1) else call.input(0)
    return gelu(call, x, approximate="tanh")


@lowers("QuickGelu", domain=MICROSOFT)  # y = x sigmoid(alpha x)
def quick_gelu(call: Call) -> str:
    x, alpha = call.input(0), call.attr("alpha", 1.702)
    inner = x if alpha == 1 else call.op("Mul", x, call.number(alpha, x))
    return call.op("Mul", x, call.op("Sigmoid", inner))


@lowers("BiasSplitGelu", domain=MICROSOFT)  # the left half of the channels, times the GELU of the right
def bias_split_gelu(call: Call) -> str:
    left, right = call.ops("Split", call.op("Add", call.input(0), call.input(1)), outputs=2, axis=-1, num_outputs=2)
    return call.op("Mul", left, gelu(call, right))


def gelu(call: Call, x: str, approximate: str = "none") -> str:
    """x / 2 (1 + erf(x / sqrt 2)), or with tanh (Hendrycks and Gimpel, https://arxiv.org/abs/1606.08415)."""
    if call.opset >= 20:
        return call.op("Gelu", x, approximate=approximate)
    if approximate == "tanh":
        cubic = call.op("Mul", call.op("Pow", x, call.number(3, x)), call.number(0.044715, x))
        inner = call.op("Mul", call.op("Add", x, cubic), call.number(math.sqrt(2 / math.pi), x))
        gate = call.op("Tanh", inner)
    else:
        gate = call.op("Erf", call.op("Div", x, call.number(math.sqrt(2), x)))
    half = call.op("Mul", x, call.number(0.5, x))
    return call.op("Mul", half, call.op("Add", gate, call.number(1, x)))


@lowers("BiasAdd", domain=MICROSOFT)
def bias_add(call: Call) -> str:
    return call.op("Add", call.op("Add", call.input(0), call.input(1)), call.input(2))


@lowers("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)  # y = alpha A' B'
def fused_matmul(call: Call) -> str:
    a, b = (_transposed(call, k, letter) for k, letter in enumerate("AB"))
    product = call.op("MatMul", a, b)
    alpha = call.attr("alpha", 1.0)
    return product if alpha == 1 else call.op("Mul", product, call.number(alpha, call.input(0)))


def _transposed(call: Call, index: int, letter: str) -> str:
    """The operand with its last two axes exchanged, or its first axis moved to the rows."""
    x, matrix, batch = call.input(index), call.attr(f"trans{letter}", 0), call.attr(f"transBatch{letter}", 0)
    if not matrix and not batch:
        return x
    rank = len(call.dims(x))
    if rank < 2:
        return x
    axes = [*range(1, rank - 1), 0, rank - 1] if batch else list(range(rank))
    if matrix:
        axes[-2:] = axes[:-3:-1]
    return call.op("Transpose", x, perm=axes)


@lowers("FusedGemm", domain=MICROSOFT)
def fused_gemm(call: Call) -> str:
    settings = call.attributes("activation", "activation_alpha", "activation_beta", "activation_gamma")
    product = call.op("Gemm", *call.node.input, **settings)
    given = [call.attr(f"activation_{n}", math.nan) for n in ("alpha", "beta", "gamma")]
    return activate(call, product, [v for v in given if not math.isnan(v)])


@lowers("FusedConv", domain=MICROSOFT)  # y = activation(conv(x) + z)
def fused_conv(call: Call) -> str:
    product = call.op("Conv", *call.node.input[:3], **call.attributes("activation", "activation_params"))
    total = call.op("Add", product, call.input(3)) if call.input(3) else product
    return activate(call, total, call.attr("activation_params", list[float]()))


_PARAMETERS = {
    "LeakyRelu": ("alpha",),
    "Elu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Selu": ("alpha", "gamma"),
}
_PLAIN = {"Relu", "Tanh", "Sigmoid", "Softplus", "Softsign", "HardSwish"}


def activate(call: Call, x: str, parameters: Sequence[float]) -> str:
    """What the attribute ``activation`` asks for."""
    activation = call.attr("activation", "")
    if not activation:
        return x
    if activation == "Clip":
        return call.op("Clip", x, *(call.number(v, x) for v in parameters))
    names = () if activation in _PLAIN else _PARAMETERS.get(activation)
    if names is None or len(parameters) > len(names):
        raise StaysError(f"activation {activation}")
    settings: dict[str, Any] = dict(zip(names, parameters, strict=False))
    return call.op(activation, x, **settings)
