"""What a graph tells about itself: logits and target layers. Facts, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxcam.errors import ModelError, OptionError, UnknownNameError
from onnxcam.graph.detector import Detector, class_convs, class_count, find_detector, find_suppression
from onnxcam.graph.paths import FLOATS, PASSING, TO_NCHW, cuts, first_float, float_path, map_layouts, reads
from onnxcam.graph.symbolic import PREFIX
from onnxcam.graph.tokens import Grids, Tokens, find_grids, past_normalization
from onnxcam.model import Dim, Layout, Model, dims_of

Kind = Literal["classes", "dense", "boxes", "tokens"]

_PROBABILITY = {"Softmax", "LogSoftmax", "Sigmoid"}
_QUANTISERS = {"QuantizeLinear", "DequantizeLinear"}
_TRAILING = {"Identity", "Cast", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"} | _QUANTISERS
_DECODING = (
    _TRAILING | _PROBABILITY | {"Concat", "Slice", "Split", "Mul", "Add", "Sub", "Div", "Exp", "Gather", "Resize"}
)


@dataclass(frozen=True)
class Logits:
    """Where the scores are, before they become probabilities.

    Attributes:
        name: the value.
        kind: ``"classes"`` (N, C), ``"dense"`` (a score per class and pixel), ``"boxes"`` (a row per box) or
            ``"tokens"`` (N, T, V), a score per step and word.
        class_axis: which axis counts the classes.
        classes: how many, or None where the axis is free.
        output: the model output they lead to.
        stepped_over: operators between the logits and that output, from the logits on.
        reason: how this is known.
        detector: of boxes, how they are to be read.
    """

    name: str
    kind: Kind
    class_axis: int
    classes: int | None
    output: str
    stepped_over: tuple[str, ...]
    reason: str
    detector: Detector | None = None

    @property
    def rounded(self) -> bool:
        """Whether the model rounds its scores of classes before they come out."""
        return self.kind == "classes" and "QuantizeLinear" in self.stepped_over


@dataclass(frozen=True)
class Layer:
    """A value worth explaining.

    Attributes:
        name: the value.
        op_type: the operator that makes it.
        shape: ints, names of free axes, or None.
        layout: where its channels are, ``"NCHW"`` or ``"NHWC"``, or how its tokens fold.
        reason: why it is a candidate, in words.
    """

    name: str
    op_type: str
    shape: tuple[Dim, ...]
    layout: Layout | Tokens
    reason: str


# Logits


def find_logits(model: Model, output: str | None = None) -> Logits:
    """The value whose elements are the class scores; Softmax, Sigmoid and quantisers behind it are stepped over.

    Args:
        model: the model.
        output: the name of the output to explain; None chooses.

    Raises:
        UnknownNameError: no output of that name.
        OptionError: that output holds no scores, and others may.
        ModelError: no output does.
    """
    if output is None and (found := find_suppression(model)) is not None:
        return _suppressed(model, found)
    scores = _scores(model)
    if output is not None:
        return _logits_of(model, _named(model, scores, output))
    scores = [v for v in scores if not _is_chosen(v)] or scores
    return max((_logits_of(model, v) for v in _without_coordinates(scores)), key=_plausibility)


def _scores(model: Model) -> list[ir.Value]:
    """The outputs that may be scores: arrays of floats, or of what they are quantised to; no map that was written."""
    kinds = *FLOATS, ir.DataType.UINT8, ir.DataType.INT8
    found = [v for v in model.outputs if v.dtype in kinds and (v.shape is None or dims_of(v))]
    if not found:
        raise ModelError(
            f"{model.label}: no output holds scores of classes; its outputs are integers, single numbers or unknown "
            "types. Give a model whose scores come out as an array"
        )
    return [v for v in found if not _is_written(v)] or found


def _is_written(value: ir.Value) -> bool:
    """Made by a node of ours, as the maps of an exported model are."""
    node = value.producer()
    return node is not None and (node.name or "").startswith(PREFIX)


def _named(model: Model, scores: Sequence[ir.Value], output: str) -> ir.Value:
    by_name = {str(v.name): v for v in model.outputs}
    if output not in by_name:
        raise UnknownNameError.of("output", output, by_name)
    if (found := by_name[output]) in scores:
        return found
    what = "it explains others" if _is_written(found) else f"{found.dtype} {found.shape}"
    able = ", ".join(str(v.name) for v in scores)
    raise OptionError(f"output {output!r} holds no scores ({what}); those that may: {able}")


def _suppressed(model: Model, found: Detector) -> Logits:
    """The scores that a NonMaxSuppression selects from."""
    return Logits(
        found.scores, "boxes", found.class_axis, class_count(model, found), found.selection, (), found.reason, found
    )


def _without_coordinates(values: list[ir.Value]) -> list[ir.Value]:
    """Leave out four coordinates per box, where there is more."""
    others = [v for v in values if len(dims_of(v)) != 3 or 4 not in dims_of(v)[1:]]
    return others or values


def _is_chosen(value: ir.Value) -> bool:
    """The largest scores (TopK), of whichever classes."""
    node = value.producer()
    return node is not None and node.op_type == "TopK"


def _plausibility(logits: Logits) -> tuple[bool, bool, bool]:
    named = any(word in logits.output.lower() for word in ("logit", "score", "prob", "class", "cls"))
    return bool(_PROBABILITY & set(logits.stepped_over)), logits.kind == "classes", named


def _logits_of(model: Model, output: ir.Value) -> Logits:
    chain: list[ir.Node] = []
    value, keep = output, 0
    while (node := value.producer()) is not None and node.op_type in _TRAILING | _PROBABILITY:
        source = node.inputs[0]
        if source is None or (source.dtype not in FLOATS and node.op_type not in _QUANTISERS):
            break
        chain.append(node)
        value = source
        if node.op_type in _PROBABILITY | _QUANTISERS | {"Identity", "Cast"} and value.dtype in FLOATS:
            keep = len(chain) if _only_plain(chain[keep:]) else keep
    if keep and keep < len(chain) and _only_flattens(chain[keep]):
        keep += 1
    stepped = chain[:keep]
    logits = stepped[-1].inputs[0] if stepped else output
    assert logits is not None
    names = tuple(n.op_type for n in reversed(stepped))
    axis = next((n.attributes.get_int("axis", -1) for n in stepped if n.op_type in _PROBABILITY - {"Sigmoid"}), None)
    kind, axis = _kind(model, logits, axis)
    why = f"before {', '.join(names)}" if names else "the output itself: no Softmax, Sigmoid or quantiser behind it"
    if kind == "boxes":
        boxes = find_detector(model, logits, names)
        why, count = f"{why}; {boxes.reason}", class_count(model, boxes)
        return Logits(str(logits.name), kind, boxes.class_axis, count, str(output.name), names, why, boxes)
    classes = 1 if _is_one_score(logits) else dims_of(logits)[axis]
    count = classes if isinstance(classes, int) else None
    return Logits(str(logits.name), kind, axis, count, str(output.name), names, why)


def _is_one_score(value: ir.Value) -> bool:
    """(N,): one number per picture."""
    return len(dims_of(value)) == 1 and not isinstance(dims_of(value)[0], int)


def _only_plain(nodes: list[ir.Node]) -> bool:
    """Reshapes are stepped over only on the way to a Softmax or a quantiser, which ``nodes`` ends with."""
    return nodes[-1].op_type in _PROBABILITY | _QUANTISERS or all(n.op_type in ("Identity", "Cast") for n in nodes)


def _only_flattens(node: ir.Node) -> bool:
    """A Flatten of (N, C) or (N, C, 1, 1), as conversion from opset 12 writes before a Softmax."""
    source = node.inputs[0]
    return node.op_type == "Flatten" and source is not None and all(d == 1 for d in dims_of(source)[2:])


def _kind(model: Model, logits: ir.Value, axis: int | None) -> tuple[Kind, int]:
    dims = dims_of(logits)
    rank = len(dims)
    if rank <= 2 or all(d == 1 for d in dims[2:]):
        return "classes", min(rank - 1, 1)
    if rank == 3:
        return "tokens" if _is_worded(model, logits) else "boxes", rank - 1 if axis is None else axis % rank
    image = model.image_input
    last_is_pixels = dims[-1] == image.width and dims[-2] == image.height
    return "dense", axis % rank if axis is not None else (1 if last_is_pixels else _smallest(dims))


def _is_worded(model: Model, logits: ir.Value) -> bool:
    """Whether word ids, an integer input (N, T), lead to these scores: they are a score per step and word."""
    texts = {
        id(v)
        for v in model.inputs
        if v.dtype in (ir.DataType.INT64, ir.DataType.INT32) and v.shape is not None and len(v.shape) == 2
    }
    stack, seen = [logits], set[int]()
    while stack and texts:
        value = stack.pop()
        if id(value) in texts:
            return True
        node = value.producer()
        if node is not None and id(node) not in seen:
            seen.add(id(node))
            stack.extend(reads(node))
    return False


def _smallest(dims: tuple[Dim, ...]) -> int:
    sizes = {a: d for a, d in ((1, dims[1]), (len(dims) - 1, dims[-1])) if isinstance(d, int)}
    return min(sizes, key=lambda a: sizes[a], default=1)


# Target layers


def target_layers(model: Model, logits: Logits) -> list[Layer]:
    """Candidate layers, best first.

    For a classifier: maps and token grids that every float path from image to logits passes, last first, each taken
    after its normalisation, activation, residual Add or Concat and before pooling, as long as their patches reach the
    logits: where a class token is read, the last is the input of the last attention, after its normalisation. For a
    dense output: the same, from the last map before the class convolution on. For boxes: the map before the class
    convolution of each level.
    """
    image = first_float(model.values[model.image_input.name])
    of = model.values[logits.name]
    path = float_path(of, [image])
    if logits.detector is not None and (levels := _levels(of, logits.detector, path, Grids(map_layouts(path)))):
        return levels
    grids = find_grids(model, path, image)
    found: dict[str, Layer] = {}
    attends = any(map(_is_product, path))
    for value in reversed(cuts(path, image)):
        value = _before_class_conv(value, logits) if logits.kind == "dense" else value
        back = _before_pooling(value)
        value = back if is_map(back, grids) else value
        if not is_map(value, grids) or value is of or not grids.reaches(value) or grids.only_attended(value):
            continue
        value = value if found else past_normalization(path, value, grids)
        crossing = logits.kind in ("tokens", "boxes")  # what is written or listed looks at the map by attention
        if grids.places is not None or crossing or not (attends and _mixes_tokens(path, value)):
            found.setdefault(str(value.name), _layer(value, grids, _reason(value, of, logits, grids, not found)))
    return list(found.values())


def _mixes_tokens(path: Sequence[ir.Node], value: ir.Value) -> bool:
    """Whether attention (a product of two computed values) follows: then this is a patch embedding, no last map."""
    behind = {id(value)}
    for node in path:
        if any(id(v) in behind for v in reads(node)):
            behind.update(id(v) for v in node.outputs)
            if _is_product(node) and all(id(v) in behind for v in node.inputs):
                return True
    return False


def _is_product(node: ir.Node) -> bool:
    """A product of two computed matrices."""
    return node.op_type == "MatMul" and all(v is not None and not v.is_initializer() for v in node.inputs)


def is_map(value: ir.Value, grids: Grids) -> bool:
    """A float tensor with channels and more than one pixel or patch, computed by a convolution or matrix product."""
    layout = grids.layouts.get(id(value))
    if value.dtype not in FLOATS or layout is None:
        return False
    if isinstance(layout, Tokens):
        return True
    height_width = dims_of(value)[2:] if layout == "NCHW" else dims_of(value)[1:3]
    return any(d != 1 for d in height_width)


def _before_pooling(value: ir.Value) -> ir.Value:
    """Back over pooling and what computes nothing, but not out of NCHW."""
    while (node := value.producer()) is not None and node.op_type in PASSING and node.inputs[0] is not None:
        if list(node.attributes.get_ints("perm", [])) == TO_NCHW:
            break
        value = node.inputs[0]
    return value


def _before_class_conv(value: ir.Value, logits: Logits) -> ir.Value:
    """From a dense score map back through its resizing and the convolution that makes one channel per class."""
    node = value.producer()
    while node is not None and node.op_type in _DECODING and node.inputs[0] is not None:
        value, node = node.inputs[0], node.inputs[0].producer()
    if node is not None and node.op_type == "Conv" and value.shape is not None and value.shape[1] == logits.classes:
        value = node.inputs[0] or value
    return value


def _layer(value: ir.Value, grids: Grids, reason: str) -> Layer:
    node = value.producer()
    return Layer(str(value.name), node.op_type if node else "input", dims_of(value), grids.layouts[id(value)], reason)


def _reason(value: ir.Value, of: ir.Value, logits: Logits, grids: Grids, first: bool) -> str:
    node = value.producer()
    made = f"{node.op_type} {node.name}" if node is not None and node.name != value.name else str(node and node.op_type)
    place = "the last" if first else "an earlier"
    if logits.kind == "dense":
        return f"{place} map before the class convolution; made by {made}"
    if isinstance(layout := grids.layouts[id(value)], Tokens):
        return f"{place} tokens whose patches all reach {of.name} ({layout}); made by {made}"
    maps = " (one channel per class)" if value.shape is not None and value.shape[1] == logits.classes else ""
    return f"{place} spatial map{maps} that every float path from image to {of.name} passes; made by {made}"


def _levels(of: ir.Value, detector: Detector, path: Sequence[ir.Node], grids: Grids) -> list[Layer]:
    """One layer per level of a detector: the map before the class convolution."""
    leaves: dict[tuple[Dim, ...], ir.Node] = {}
    members = set(map(id, path))
    for node in class_convs(of, detector):
        size = dims_of(node.outputs[0])[2:]
        if id(node) in members and (size not in leaves or _channels(node) > _channels(leaves[size])):
            leaves[size] = node
    maps = [_before_pooling(v) for n in leaves.values() if (v := n.inputs[0]) is not None]
    maps = [v for v in maps if is_map(v, grids)]
    maps.sort(key=lambda v: [d if isinstance(d, int) else 0 for d in dims_of(v)[2:]])
    level = f"one of {len(maps)} levels, coarsest first" if len(maps) > 1 else "the only level"
    why = f"detector: the map before the class convolution of {level}"
    return [_layer(v, grids, why) for v in maps]


def _channels(node: ir.Node) -> int:
    channels = dims_of(node.outputs[0])[1]
    return channels if isinstance(channels, int) else 0
