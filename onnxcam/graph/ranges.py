"""What values a tensor can take, as far as the graph alone tells."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcam.graph.paths import PASSING, POOLS

Range = tuple[float, float]
EVERYTHING: Range = (-math.inf, math.inf)
_BOUNDED = dict.fromkeys(("Sigmoid", "Softmax", "HardSigmoid"), (0.0, 1.0)) | {"Tanh": (-1.0, 1.0)}
_BOUNDED |= dict.fromkeys(("Abs", "Exp", "Softplus"), (0.0, math.inf))
_KEEPING = PASSING | POOLS | {"Slice", "Split", "Gather", "DepthToSpace", "SpaceToDepth", "Expand", "Tile"}
_KEEPING = (_KEEPING | {"ReduceMean", "ReduceMax", "ReduceMin"}) - {"Pad", "LpPool"}
_DEEPEST = 200  # nodes that are followed back
# The largest float of the narrow types; what is beyond it is cut off.
_LARGEST = {"FLOAT8E4M3FN": 448.0, "FLOAT8E4M3FNUZ": 240.0, "FLOAT8E5M2": 57344.0, "FLOAT8E5M2FNUZ": 57344.0}
_LARGEST |= {"FLOAT4E2M1": 6.0}


def value_range(value: ir.Value | None) -> Range:
    """The smallest and largest value that ``value`` can hold, by what makes it; infinite where nothing bounds it."""
    return _Search().of(value)


def level_range(dtype: ir.DataType | None) -> Range:
    """The lowest and highest level of a quantised type."""
    if dtype is None or dtype.name in _LARGEST:
        largest = math.inf if dtype is None else _LARGEST[dtype.name]
        return -largest, largest
    if not dtype.is_integer():
        return EVERYTHING
    bits = dtype.bitwidth
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if dtype.is_signed() else (0.0, 2.0**bits - 1)


class _Search:
    """One look back through the graph; every value is looked at once."""

    def __init__(self) -> None:
        self.found: dict[ir.Value, Range] = {}
        self.depth = 0

    def of(self, value: ir.Value | None) -> Range:
        if value is None or self.depth > _DEEPEST:
            return EVERYTHING
        if value not in self.found:
            self.depth += 1
            self.found[value] = self._look(value)
            self.depth -= 1
        return self.found[value]

    def _look(self, value: ir.Value) -> Range:
        node = value.producer()
        if value.const_value is not None and value.const_value.size:
            array = _array(value)
            return float(array.min()), float(array.max())
        if node is None or (value is not node.outputs[0] and node.op_type != "Split"):
            return level_range(value.dtype)
        if node.op_type in _KEEPING:
            return self.of(node.inputs[0])
        function = getattr(self, f"_{node.op_type.lower()}", None)
        return _BOUNDED.get(node.op_type, level_range(value.dtype)) if function is None else function(node)

    def _relu(self, node: ir.Node) -> Range:
        low, high = self.of(node.inputs[0])
        return max(low, 0.0), max(high, 0.0)

    def _clip(self, node: ir.Node) -> Range:
        low, high = self.of(node.inputs[0])
        floor, ceiling = _number(node, 1, -math.inf), _number(node, 2, math.inf)
        return min(max(low, floor), ceiling), max(min(high, ceiling), floor)

    def _max(self, node: ir.Node) -> Range:
        ranges = [self.of(v) for v in node.inputs]
        return max(r[0] for r in ranges), max(r[1] for r in ranges)

    def _min(self, node: ir.Node) -> Range:
        ranges = [self.of(v) for v in node.inputs]
        return min(r[0] for r in ranges), min(r[1] for r in ranges)

    def _concat(self, node: ir.Node) -> Range:
        return _union([self.of(v) for v in node.inputs])

    def _where(self, node: ir.Node) -> Range:
        return _union([self.of(v) for v in node.inputs[1:]])

    def _pad(self, node: ir.Node) -> Range:
        source = self.of(node.inputs[0])
        if node.attributes.get_string("mode", "constant") != "constant":
            return source
        given = node.inputs[2] if len(node.inputs) > 2 else None
        return _union([source, (0.0, 0.0) if given is None else self.of(given)])

    def _resize(self, node: ir.Node) -> Range:
        cubic = node.attributes.get_string("mode", "nearest") == "cubic"
        frame = node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
        return EVERYTHING if cubic or frame else self.of(node.inputs[0])

    def _mul(self, node: ir.Node) -> Range:
        (a, b), (c, d) = (self.of(v) for v in node.inputs)
        corners = [0.0 if 0 in (p, q) else p * q for p in (a, b) for q in (c, d)]
        return min(corners), max(corners)

    def _add(self, node: ir.Node) -> Range:
        ranges = [self.of(v) for v in node.inputs]
        return sum(r[0] for r in ranges), sum(r[1] for r in ranges)

    def _quantizelinear(self, node: ir.Node) -> Range:
        """In levels."""
        bottom, top = level_range(node.outputs[0].dtype)
        low, high = self.of(node.inputs[0])
        known = _scale_and_point(node)
        if known is None:
            return bottom, top
        scale, point = known
        levels = np.clip(np.round([low / scale, high / scale]) + point, bottom, top)
        return float(levels.min()), float(levels.max())

    def _dequantizelinear(self, node: ir.Node) -> Range:
        low, high = self.of(node.inputs[0])
        known = _scale_and_point(node)
        if known is None:
            return EVERYTHING
        scale, point = known
        return float(np.min((low - point) * scale)), float(np.max((high - point) * scale))


def _union(ranges: list[Range]) -> Range:
    return min(r[0] for r in ranges), max(r[1] for r in ranges)


def _scale_and_point(node: ir.Node) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """A quantiser's constant scale and zero point; None where they are computed, or given per block."""
    scale = _constant(node, 1)
    point = _constant(node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else np.asarray(0.0)
    if scale is None or point is None or scale.ndim > 1 or not np.all(scale > 0):
        return None
    return scale, point


def _constant(node: ir.Node, index: int) -> npt.NDArray[np.float64] | None:
    value = node.inputs[index]
    return None if value is None or value.const_value is None else _array(value)


def _array(value: ir.Value) -> npt.NDArray[np.float64]:
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy()).astype(np.float64)


def _number(node: ir.Node, index: int, default: float = 0.0) -> float:
    """A constant input of one element; ``default`` where it is left out or computed."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or value.const_value is None or value.const_value.size != 1:
        return default
    return float(np.asarray(value.const_value.numpy()).reshape(()))
