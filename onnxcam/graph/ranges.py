"""What values a tensor can take, as far as the graph alone tells."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxcam.graph.paths import PASSING, POOLS

Range = tuple[float, float]
EVERYTHING: Range = (-math.inf, math.inf)
_UNIT = {"Sigmoid", "Softmax", "HardSigmoid"}
_BOUNDING = {"Relu", "Clip"}
_KEEPING = (PASSING | POOLS | {"QuantizeLinear", "DequantizeLinear", "Slice", "Gather", "DepthToSpace"}) - {
    "Pad",
    "LpPool",
}


def value_range(value: ir.Value | None) -> Range:
    """The smallest and largest value that ``value`` can hold, by what makes it; infinite where nothing bounds it."""
    node = value.producer() if value is not None else None
    if node is None:
        return EVERYTHING
    if node.op_type in _UNIT:
        return 0.0, 1.0
    low, high = value_range(node.inputs[0]) if node.op_type in _KEEPING | _BOUNDING else EVERYTHING
    if node.op_type == "Relu":
        return max(low, 0.0), max(high, 0.0)
    if node.op_type == "Clip":
        floor, ceiling = _number(node, 1, -math.inf), _number(node, 2, math.inf)
        return min(max(low, floor), ceiling), max(min(high, ceiling), floor)
    if node.op_type in ("Max", "Min"):
        return _of_extremum(node)
    return low, high


def _of_extremum(node: ir.Node) -> Range:
    pick = max if node.op_type == "Max" else min
    ranges = [
        (_number(node, i), _number(node, i)) if _is_constant(v) else value_range(v) for i, v in enumerate(node.inputs)
    ]
    return pick(r[0] for r in ranges), pick(r[1] for r in ranges)


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and value.const_value.size == 1


def _number(node: ir.Node, index: int, default: float = 0.0) -> float:
    """A constant input of one element; ``default`` where it is left out or computed."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or value.const_value is None or value.const_value.size != 1:
        return default
    return float(np.asarray(value.const_value.numpy()).reshape(()))
