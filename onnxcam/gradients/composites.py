"""Activations that exporters write in parts, differentiated as wholes: x Sigmoid(x), and x (1 + Erf(x / sqrt(2))) / 2.

Part by part, each multiplication and each constant of them costs a pass over the map on the way back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcam.gradients.rules.activation import gelu_slope, silu_slope
from onnxcam.graph.symbolic import Tensor, Writer


@dataclass(frozen=True)
class Composite:
    """An activation in parts.

    Attributes:
        source: what it is applied to.
        inner: the values between, whose cotangents are not needed.
        slope: writes its derivative, float32.
    """

    source: ir.Value
    inner: tuple[ir.Value, ...]
    slope: Callable[[Writer], Tensor]


def composite(node: ir.Node) -> Composite | None:
    """The activation whose last part is ``node``."""
    if node.op_type != "Mul" or node.domain or node.outputs[0].dtype != ir.DataType.FLOAT:
        return None
    found = _silu(node) or _gelu(node)
    if found is None or found.source.shape is None or found.source.shape != node.outputs[0].shape:
        return None  # not known, or a number of more axes adds some
    return found


def _silu(node: ir.Node) -> Composite | None:
    for x, gate in _both_ways(node):
        maker = gate.producer()
        if maker is not None and maker.op_type == "Sigmoid" and maker.inputs[0] is x:
            return Composite(x, (gate,), lambda w, s=gate: silu_slope(w.tensor(s), w.tensor(node.outputs[0])))  # type: ignore[misc]
    return None


def _gelu(node: ir.Node) -> Composite | None:
    """The halving is the last factor, or that of x, or that of 1 + Erf."""
    for a, b in _both_ways(node):
        if _is_number(b, 0.5):
            found = _erf_gate(*pair) if (pair := _factors(a.producer())) else None
            return None if found is None else _gelu_of(found[0], (a, *found[1]))
        if (half := _other(a, "Mul", 0.5)) is not None and (found := _erf_gate(half, b)) is not None:
            return _gelu_of(found[0], (a, *found[1]))
        if (half := _other(b, "Mul", 0.5)) is not None and (found := _erf_gate(a, half)) is not None:
            return _gelu_of(found[0], (b, *found[1]))
    return None


def _gelu_of(x: ir.Value, inner: tuple[ir.Value, ...]) -> Composite:
    return Composite(x, inner, lambda w: gelu_slope(w.tensor(x)))


def _factors(node: ir.Node | None) -> tuple[ir.Value, ir.Value] | None:
    return next(_both_ways(node), None) if node is not None and node.op_type == "Mul" else None


def _erf_gate(a: ir.Value, b: ir.Value) -> tuple[ir.Value, tuple[ir.Value, ...]] | None:
    """``x`` and the values between, where one of the two is x and the other one 1 + Erf(x / sqrt(2))."""
    for x, gate in ((a, b), (b, a)):
        erf = _other(gate, "Add", 1.0)
        maker = erf.producer() if erf is not None else None
        scaled = maker.inputs[0] if maker is not None and maker.op_type == "Erf" else None
        if erf is None or scaled is None:
            continue
        source = _other(scaled, "Mul", math.sqrt(0.5)) or _other(scaled, "Div", math.sqrt(2))
        if source is x:
            return x, (gate, erf, scaled)
    return None


def _other(value: ir.Value | None, op_type: str, number: float) -> ir.Value | None:
    """The operand beside a number, where ``value`` is made of the two."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != op_type or node.domain:
        return None
    pairs = _both_ways(node) if op_type != "Div" else iter([(node.inputs[0], node.inputs[1])])
    return next((a for a, b in pairs if _is_number(b, number)), None)


def _both_ways(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    a, b = node.inputs
    if a is not None and b is not None:
        yield from ((a, b), (b, a))


def _is_number(value: ir.Value | None, number: float) -> bool:
    held = value.const_value if value is not None and not value.is_graph_input() else None
    return held is not None and held.size == 1 and bool(np.isclose(held.numpy(), number, rtol=1e-6).all())
