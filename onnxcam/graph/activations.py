"""Activation sites: which nodes rectify, and so heed a ReLU policy, and which are smooth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcam.graph.ranges import level_range, value_range

_SMOOTH = {"Gelu", "HardSwish", "Elu", "Celu", "Selu", "Softplus", "Softsign", "Mish", "Tanh", "Swish"}

_SUMS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sum", "BatchNormalization"}
_MOVING = {"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}


@dataclass(frozen=True)
class Site:
    """An activation: a rectifier, which ReLU policies change, or a smooth one, which they do not."""

    node: str
    op_type: str
    rectifier: bool


def activation_sites(nodes: Sequence[ir.Node]) -> list[Site]:
    """Every activation among ``nodes``: functional, in-place and reused ones alike, each where it is applied."""
    return [Site(str(n.name), n.op_type, rectifier=is_rectifier(n)) for n in nodes if is_rectifier(n) or _is_smooth(n)]


def is_rectifier(node: ir.Node) -> bool:
    """Relu, LeakyRelu, PRelu, ThresholdedRelu, Max(x, 0), Clip from 0 that is not the gate of a hard-swish.

    So is a quantiser that cuts sums off at 0: quantised networks keep of a ReLU or ReLU6 its saturation alone.
    """
    if node.op_type in ("Relu", "LeakyRelu", "PRelu", "ThresholdedRelu"):
        return True
    if node.op_type == "Max":
        return len(node.inputs) == 2 and any(_is_zero(v) for v in node.inputs)
    if node.op_type == "QuantizeLinear":
        return _cuts_off_at_zero(node) and _is_sum(node.inputs[0])
    return node.op_type == "Clip" and len(node.inputs) > 1 and _is_zero(node.inputs[1]) and not _gates_its_input(node)


def _cuts_off_at_zero(node: ir.Node) -> bool:
    """The zero point is the lowest level, and what is quantised can be negative."""
    point = node.inputs[2] if len(node.inputs) > 2 else None
    if point is not None and point.const_value is None:
        return False
    zero = np.zeros(1) if point is None or point.const_value is None else point.const_value.numpy().astype(np.float64)
    return bool(np.all(zero == level_range(node.outputs[0].dtype)[0])) and value_range(node.inputs[0])[0] < 0


def _is_sum(value: ir.Value | None) -> bool:
    """Whether a convolution, product or sum makes the value, and no activation of its own."""
    while value is not None and (node := value.producer()) is not None and node.op_type in _MOVING:
        value = node.inputs[0]
    node = value.producer() if value is not None else None
    return node is not None and node.op_type in _SUMS


def _is_smooth(node: ir.Node) -> bool:
    gates = node.op_type in ("Sigmoid", "HardSigmoid", "Clip", "Erf") and _gates_its_input(node)
    return node.op_type in _SMOOTH or gates


def _is_zero(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and bool(np.all(value.const_value.numpy() == 0))


def _gates_its_input(node: ir.Node) -> bool:
    """SiLU, GELU and hard-swish in parts: ``f(a x + b) * x``."""
    source = _unscaled(node.inputs[0])
    ahead = list(node.outputs[0].consumers())
    for consumer in ahead:
        if consumer.op_type in ("Div", "Add") or (consumer.op_type == "Mul" and _has_constant(consumer)):
            ahead.extend(consumer.outputs[0].consumers())
    return any(c.op_type == "Mul" and any(_unscaled(v) is source for v in c.inputs) for c in ahead[:8])


def _has_constant(node: ir.Node) -> bool:
    return any(v is not None and v.const_value is not None for v in node.inputs)


def _unscaled(value: ir.Value | None) -> ir.Value | None:
    """``x`` from ``a x + b`` with constant a and b."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type not in ("Add", "Sub", "Mul", "Div") or not _has_constant(node):
            break
        rest = [v for v in node.inputs if v is not None and v.const_value is None]
        if len(rest) != 1:
            break
        value = rest[0]
    return value
