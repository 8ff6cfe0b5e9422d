"""Bias sites: the values where a constant is added, and which constant; for FullGrad."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcam.graph.inspect import Logits
from onnxcam.graph.paths import first_float, float_path, map_layouts
from onnxcam.model import Layout, Model

Array = npt.NDArray[Any]
_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_MAPS = _CONVOLUTIONS | {"BatchNormalization"}
# What may lie between a convolution and its bias, where it is added by a node of its own.
_BETWEEN = {"Identity", "Cast", "Transpose", "Mul", "Div", "Add", "Sub", "Sum", "QuantizeLinear", "DequantizeLinear"}
_HOLDING = {"DequantizeLinear", "Identity", "Cast"}


@dataclass(frozen=True)
class BiasSite:
    """A value that a constant enters.

    Attributes:
        value: its name; the bias acts through the gradient there.
        bias: float64, broadcasts against the value.
        layout: where the value's channels are, if it is a feature map that a convolution or BatchNormalization
            shifts channel by channel; None for constants of linear layers, of the image's own preprocessing, and the
            rest: they count for the score, but have no place in the picture.
        reason: what the constant is, in words.
    """

    value: str
    bias: Array
    layout: Layout | None
    reason: str

    def fold(self, a: Array) -> Array:
        """What has the form of the value -> (N, K, h, w)."""
        return np.moveaxis(a, 3, 1) if self.layout == "NHWC" else a


def bias_sites(model: Model, logits: Logits) -> list[BiasSite]:
    """Every constant that is added between image and logits, in graph order.

    A network of convolutions, linear layers, pools, BatchNormalization and ReLUs is then
    ``sum(x * df/dx) + sum over sites of sum(bias * df/dvalue)``, exactly (Srinivas and Fleuret, 2019,
    https://arxiv.org/abs/1905.00780). Where an activation saturates (ReLU6) or bends (SiLU, GELU),
    features multiply each other (squeeze-and-excitation, attention) or are normalised by their own statistics, a
    remainder is left. Biases that are computed, not constant, are no sites.
    """
    image = first_float(model.values[model.image_input.name])
    path = float_path(model.values[logits.name], [image])
    layouts = map_layouts(path)
    sites = []
    for node in path:
        found = _READERS[node.op_type](node) if node.op_type in _READERS else None
        if found is not None and np.any(found[0]):
            bias, reason = found
            value = node.outputs[0]
            layout = layouts.get(id(value)) if _shifts_a_map(node, bias, layouts.get(id(value))) else None
            sites.append(BiasSite(str(value.name), bias, layout, f"{reason} of {node.op_type} {node.name}"))
    return sites


# What each operator adds: (bias, what it is), or None


def _convolution(node: ir.Node) -> tuple[Array, str] | None:
    bias = _constant(node, 2)
    weight = node.inputs[1]
    if bias is None or weight is None or weight.shape is None:
        return None
    return bias.reshape(-1, *[1] * (len(weight.shape) - 2)), "the bias"


def _gemm(node: ir.Node) -> tuple[Array, str] | None:
    bias = _constant(node, 2)
    return None if bias is None else (node.attributes.get_float("beta", 1.0) * bias, "the bias")


def _batch_normalization(node: ir.Node) -> tuple[Array, str] | None:
    held = [_constant(node, k) for k in (1, 2, 3, 4)]
    scale, beta, mean, variance = held
    value = node.outputs[0]
    if scale is None or beta is None or mean is None or variance is None or value.shape is None:
        return None
    implied = beta - scale * mean / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return implied.reshape(-1, *[1] * (len(value.shape) - 2)), "the implicit bias"


def _sum(node: ir.Node) -> tuple[Array, str] | None:
    held = [_constant(node, k) for k in range(len(node.inputs))]
    known = [a for a in held if a is not None]
    return (np.asarray(reduce(np.add, known)), "the constant") if known else None


def _difference(node: ir.Node) -> tuple[Array, str] | None:
    left, right = _constant(node, 0), _constant(node, 1)
    if (left is None) == (right is None):
        return None
    return (left, "the constant") if left is not None else (-np.asarray(right), "the constant")


_READERS: dict[str, Callable[[ir.Node], tuple[Array, str] | None]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _gemm,
    "BatchNormalization": _batch_normalization,
    "Add": _sum,
    "Sum": _sum,
    "Sub": _difference,
}


def _constant(node: ir.Node, index: int) -> Array | None:
    """An input that is a constant, if need be one that the model stores quantised, as float64."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy()).astype(np.float64)
    maker = value.producer()
    if maker is None or maker.op_type not in _HOLDING:
        return None
    return _dequantised(maker) if maker.op_type == "DequantizeLinear" else _constant(maker, 0)


def _dequantised(node: ir.Node) -> Array | None:
    """(levels - zero point) * scale, the two given once or along one axis."""
    levels, scale, point = (_constant(node, k) for k in range(3))
    if levels is None or scale is None or scale.ndim > 1:
        return None
    along = [1] * levels.ndim
    if scale.size > 1:
        along[node.attributes.get_int("axis", 1) if levels.ndim > 1 else 0] = -1
    zero = np.zeros(1) if point is None else point
    return np.asarray((levels - zero.reshape(along)) * scale.reshape(along))


def _shifts_a_map(node: ir.Node, bias: Array, layout: Layout | None) -> bool:
    """Whether a convolution's or BatchNormalization's channels are what the constant is added to."""
    if layout is None or (node.op_type not in _MAPS and not _behind_a_convolution(node)):
        return False
    shape = (1,) * (4 - bias.ndim) + bias.shape
    axis = 3 if layout == "NHWC" else 1
    return all(n == 1 for k, n in enumerate(shape) if k != axis)


def _behind_a_convolution(node: ir.Node) -> bool:
    """One value comes in, from a convolution, with constants and moves alone on the way."""
    while node.op_type not in _CONVOLUTIONS:
        came = [v.producer() for v in node.inputs if v is not None and v.const_value is None and not _is_held(v)]
        if node.op_type not in _BETWEEN or len(came) != 1 or came[0] is None:
            return False
        node = came[0]
    return True


def _is_held(value: ir.Value) -> bool:
    """A stored constant behind one of the nodes that hold one."""
    maker = value.producer()
    return (
        maker is not None
        and maker.op_type in _HOLDING
        and all(v is None or v.const_value is not None for v in maker.inputs)
    )
