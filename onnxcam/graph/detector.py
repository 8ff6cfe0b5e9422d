"""What a detector's outputs mean: boxes, classes, objectness, levels. Facts, each with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxcam.graph.paths import FLOATS
from onnxcam.model import Dim, Model, dims_of

Form = Literal["columns", "pair", "listed", "suppressed"]
Coding = Literal["center", "corners", "rows", "offsets", "measured", "unknown"]

_MOVING = {"Identity", "Cast", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_POINTWISE = {"Sigmoid", "Softmax", "LogSoftmax", "Clip", "Mul", "Add", "Sub", "Div", "Exp", "Where", "Sqrt"}
_PICKING = {"Slice", "Split", "Gather", "GatherND", "GatherElements", "Resize", "TopK", "ReduceMax", "Compress"}
DECODING = _MOVING | _POINTWISE | _PICKING | {"Transpose", "Concat", "QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True)
class Detector:
    """How a detector lists its boxes, before any threshold.

    Attributes:
        form: ``"columns"`` (coordinates, perhaps objectness, and classes side by side), ``"pair"`` (scores and boxes
            apart), ``"listed"`` (x0, y0, x1, y1, score, class: selected already) or ``"suppressed"`` (what a
            NonMaxSuppression in the graph reads).
        scores: the value that holds a row per box.
        boxes: the value that holds coordinates; ``scores`` itself for columns, "" where there is none.
        box_axis: of ``scores``, what counts the boxes.
        first: the column where the classes begin.
        objectness: the column that the classes are multiplied by, or None.
        coding: ``"center"`` (cx, cy, w, h), ``"corners"`` (x0, y0, x1, y1), ``"rows"`` (y0, x0, y1, x1), ``"offsets"``
            from the cells of a grid, in strides, with logarithms of sizes (YOLOX), ``"measured"`` (corners or centres,
            as the values tell) or ``"unknown"``.
        levels: (height, width) of the grids that the boxes come from, in their order; empty where the graph does not
            tell.
        selection: of a NonMaxSuppression, its output; else "".
        reason: how this is known.
    """

    form: Form
    scores: str
    boxes: str
    box_axis: int
    first: int = 0
    objectness: int | None = None
    coding: Coding = "measured"
    levels: tuple[tuple[int, int], ...] = ()
    selection: str = ""
    reason: str = ""

    @property
    def class_axis(self) -> int:
        """Of ``scores``: what counts the columns."""
        return 3 - self.box_axis


def find_suppression(model: Model) -> Detector | None:
    """The boxes and scores that the last NonMaxSuppression of a graph reads, (N, boxes, 4) and (N, C, boxes)."""
    nodes = [n for n in model.graph if n.op_type == "NonMaxSuppression"]
    if not nodes or nodes[-1].inputs[0] is None or nodes[-1].inputs[1] is None:
        return None
    node = nodes[-1]
    centred = node.attributes.get_int("center_point_box", 0) == 1
    torch = "pytorch" in (model.ir_model.producer_name or "").lower()  # hands over x before y, which IoU does not mind
    coding: Coding = "center" if centred else "corners" if torch else "rows"
    boxes, scores = (str(v.name) for v in node.inputs[:2] if v is not None)
    why = f"boxes and scores that NonMaxSuppression {node.name} selects from; {coding}"
    return Detector("suppressed", scores, boxes, 2, coding=coding, selection=str(node.outputs[0].name), reason=why)


def find_detector(model: Model, value: ir.Value, stepped_over: Sequence[str]) -> Detector:
    """How (N, boxes, columns) or (N, columns, boxes) is to be read.

    Args:
        model: the model.
        value: what holds a row per box.
        stepped_over: operators between it and the output.
    """
    partner = _partner(model, value)
    exclusive = {"Softmax", "LogSoftmax"} & set(stepped_over)
    if partner is not None or exclusive or "Sigmoid" in stepped_over:
        return _pair(value, partner)
    axis = _box_axis(dims_of(value))
    width = dims_of(value)[3 - axis]
    if width == 6 and _is_selected(value):
        why = "6 columns behind a TopK: corners, score, class"
        return Detector("listed", str(value.name), str(value.name), axis, 4, coding="corners", reason=why)
    return _columns(model, value, axis)


def class_convs(of: ir.Value, detector: Detector) -> Iterator[ir.Node]:
    """The convolutions that make the class scores, found back from the output; those of coordinates are left out."""
    seen: set[int] = set()
    stack: list[tuple[ir.Value, int | None, int]] = [(of, detector.class_axis, detector.first)]
    while stack:
        value, axis, first = stack.pop()
        node = value.producer()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if node.op_type == "Conv":
            yield node
        elif node.op_type in DECODING:
            stack.extend(_sources(node, axis, first))


# One output


def _columns(model: Model, value: ir.Value, axis: int) -> Detector:
    dims = dims_of(value)
    cuts = _cuts(value, 3 - axis)
    convs = _levels(value, axis)
    named, width = _names(model), dims[3 - axis]
    after = width - 4 if isinstance(width, int) else None
    if named and after in (named, named + 1):
        objectness, why = after == named + 1, f"{width} columns for the {named} names in the metadata"
    elif 5 in cuts:
        objectness, why = True, "a column of its own is joined between coordinates and classes"
    elif axis == 2 and 4 in cuts:
        objectness, why = False, "classes are joined right behind the coordinates (as YOLOv8 does)"
    else:
        objectness = axis == 1
        why = "a row per box (as YOLOv5 does)" if objectness else "a column per box (as YOLOv8 does)"
    levels = tuple((int(h), int(w)) for h, w in (dims_of(c.outputs[0])[2:] for c in convs or ()))  # type: ignore[arg-type]
    whole = bool(levels) and sum(h * w for h, w in levels) == dims[axis]
    coding: Coding = "offsets" if whole else "unknown" if levels else "center"
    told = f"classes behind coordinates{' and objectness' if objectness else ''}: {why}"
    if levels:
        told += f"; coordinates come straight from convolutions of {len(levels)} grids, not decoded"
    name, first = str(value.name), 5 if objectness else 4
    held = levels if whole else ()
    return Detector("columns", name, name, axis, first, 4 if objectness else None, coding, held, reason=told)


def _box_axis(dims: tuple[Dim, ...]) -> int:
    """Boxes are more than columns, or as many as the picture asks for."""
    a, b = dims[1:3]
    if isinstance(a, int) and isinstance(b, int):
        return 1 if a >= b else 2
    return 2 if isinstance(a, int) else 1


def _names(model: Model) -> int:
    """How many classes Ultralytics' metadata names; 0 where it says nothing."""
    with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return len(ast.literal_eval(model.meta.get("names", "")))
    return 0


def _is_selected(value: ir.Value) -> bool:
    """Whether a TopK chose the rows, as detectors that need no suppression do."""
    stack, seen = [value], set[int]()
    while stack:
        node = stack.pop().producer()
        if node is None or id(node) in seen or node.op_type == "Conv":
            continue
        if node.op_type == "TopK":
            return True
        seen.add(id(node))
        stack.extend(v for v in node.inputs if v is not None)
    return False


def _cuts(value: ir.Value, axis: int | None) -> set[int]:
    """At which columns the parts begin that the columns are joined of."""
    while axis is not None and (node := value.producer()) is not None:
        if node.op_type == "Concat" and node.attributes.get_int("axis") % len(dims_of(value)) == axis:
            widths = [dims_of(v)[axis] for v in node.inputs if v is not None]
            return {sum(w for w in widths[:k] if isinstance(w, int)) for k in range(1, len(widths))}
        ahead = _sources(node, axis, 0)
        if not ahead or (node.op_type not in _MOVING and node.op_type not in ("Transpose", "Concat", "Sigmoid")):
            break
        value, axis, _ = ahead[0]
    return set()


def _levels(value: ir.Value, axis: int | None) -> list[ir.Node] | None:
    """The convolutions that the first columns come from without arithmetic, in the order of the boxes; else None."""
    node = value.producer()
    if node is None or (node.op_type not in _MOVING and node.op_type not in ("Transpose", "Concat", "Conv")):
        return None
    if node.op_type == "Conv":
        static = all(isinstance(d, int) for d in dims_of(node.outputs[0])[2:])
        return [node] if static else None
    joins = axis is not None and node.op_type == "Concat" and node.attributes.get_int("axis") % _rank(node) == axis
    ahead = [v for v in node.inputs if v is not None] if joins else [node.inputs[0]]
    found = [_levels(v, _axis_before(node, v, axis)) for v in ahead if v is not None]
    return None if None in found or not found else [c for each in found for c in each or ()]


# Two outputs


def _partner(model: Model, value: ir.Value) -> ir.Value | None:
    """The output of four coordinates per box that goes with these scores."""
    for output in model.outputs:
        if output is value or output.dtype not in FLOATS or output.shape is None or len(output.shape) != 3:
            continue
        if 4 in dims_of(output)[1:] and _count(dims_of(output)) in (*dims_of(value)[1:], None):
            return output
    return None


def _count(dims: tuple[Dim, ...]) -> Dim:
    return dims[1] if dims[2] == 4 else dims[2]


def _pair(value: ir.Value, partner: ir.Value | None) -> Detector:
    name, dims = str(value.name), dims_of(value)
    if partner is None:
        why = "scores alone: no output of four coordinates per box goes with them"
        return Detector("pair", name, "", _box_axis(dims), coding="unknown", reason=why)
    boxes = dims_of(partner)
    axis = 1 if boxes[2] == 4 else 2
    axis = axis if _count(boxes) in (dims[axis], None) else 3 - axis
    raw = _levels(partner, 1 if boxes[2] == 4 else 2) is not None
    why = f"scores apart from {partner.name}, four coordinates per box" + (
        ", which come straight from convolutions: their anchors are not in the graph" if raw else ""
    )
    return Detector("pair", name, str(partner.name), axis, coding="unknown" if raw else "measured", reason=why)


# Following an axis back


def _sources(node: ir.Node, axis: int | None, first: int) -> list[tuple[ir.Value, int | None, int]]:
    """A node's inputs with the axis of the columns there, and from which column on they count."""
    given = [v for v in node.inputs if v is not None and v.const_value is None]
    if axis is not None and node.op_type == "Concat" and node.attributes.get_int("axis") % _rank(node) == axis:
        return _joined(given, axis, first)
    return [(v, _axis_before(node, v, axis), first) for v in given]


def _joined(given: Sequence[ir.Value], axis: int, first: int) -> list[tuple[ir.Value, int | None, int]]:
    """The parts that hold columns from ``first`` on."""
    found: list[tuple[ir.Value, int | None, int]] = []
    start = 0
    for value in given:
        width = dims_of(value)[axis]
        stop = start + width if isinstance(width, int) else None
        if stop is None or stop > first:
            found.append((value, axis, max(0, first - start)))
        start = stop or start
    return found


def _rank(node: ir.Node) -> int:
    return len(dims_of(node.outputs[0]))


def _axis_before(node: ir.Node, source: ir.Value, axis: int | None) -> int | None:
    """Where an axis of a node's output is in its input; None where that is lost."""
    if axis is None or source.shape is None or node.outputs[0].shape is None:
        return None
    if node.op_type == "Transpose":
        perm = list(node.attributes.get_ints("perm", range(_rank(node) - 1, -1, -1)))
        return perm[axis]
    if node.op_type not in _MOVING:
        return axis if len(source.shape) == _rank(node) and node.op_type not in _PICKING else None
    length = dims_of(node.outputs[0])[axis]
    places = [k for k, d in enumerate(dims_of(source)) if d == length and k > 0 and isinstance(d, int)]
    return axis if axis in places else places[-1] if places else None


def class_count(model: Model, detector: Detector) -> int | None:
    """How many classes there are; 0 where there are too few columns for any, None where that is free."""
    if detector.form == "listed":
        return None
    width = dims_of(model.values[detector.scores])[detector.class_axis]
    return max(0, width - detector.first) if isinstance(width, int) else None
