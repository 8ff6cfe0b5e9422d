"""Activation sites: which nodes rectify, and so heed a ReLU policy, and which are smooth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

_SMOOTH = {"Gelu", "HardSwish", "Elu", "Celu", "Selu", "Softplus", "Softsign", "Mish", "Tanh", "Swish"}


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
    """Relu, LeakyRelu, PRelu, ThresholdedRelu, Max(x, 0), or Clip from 0 that is not the gate of a hard-swish."""
    if node.op_type in ("Relu", "LeakyRelu", "PRelu", "ThresholdedRelu"):
        return True
    if node.op_type == "Max":
        return len(node.inputs) == 2 and any(_is_zero(v) for v in node.inputs)
    return node.op_type == "Clip" and len(node.inputs) > 1 and _is_zero(node.inputs[1]) and not _gates_its_input(node)


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
