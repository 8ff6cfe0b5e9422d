"""What a graph tells about itself: logits, target layers, activation sites. Facts, each with its reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxcam.errors import ModelError, UnknownNameError
from onnxcam.model import Dim, Layout, Model, dims_of

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
_LEVELS = {ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.UINT16, ir.DataType.INT16}
Kind = Literal["classes", "dense", "boxes"]

_PROBABILITY = {"Softmax", "LogSoftmax", "Sigmoid"}
_QUANTISERS = {"QuantizeLinear", "DequantizeLinear"}
_TRAILING = {"Identity", "Cast", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"} | _QUANTISERS
_CONVOLUTIONS = {"Conv", "ConvTranspose", "FusedConv", "QLinearConv", "ConvInteger"}
_WEIGHTED = _CONVOLUTIONS | {"MatMul", "Gemm"}
_TO_NHWC, _TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]
_POOLS = {"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"}
# What lies between the last map and the head without computing anything of its own.
_PASSING = _POOLS | {"Identity", "Cast", "Dropout", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Pad", "Flatten"}
_DECODING = (
    _TRAILING | _PROBABILITY | {"Concat", "Slice", "Split", "Mul", "Add", "Sub", "Div", "Exp", "Gather", "Resize"}
)
_SMOOTH = {"Gelu", "HardSwish", "Elu", "Celu", "Selu", "Softplus", "Softsign", "Mish", "Tanh", "Swish"}


@dataclass(frozen=True)
class Logits:
    """Where the scores are, before they become probabilities.

    Attributes:
        name: the value.
        kind: ``"classes"`` (N, C), ``"dense"`` (a score per class and pixel) or ``"boxes"`` (a row per box).
        class_axis: which axis counts the classes.
        classes: how many, or None where the axis is free.
        output: the model output they lead to.
        stepped_over: operators between the logits and that output, from the logits on.
        reason: how this is known.
    """

    name: str
    kind: Kind
    class_axis: int
    classes: int | None
    output: str
    stepped_over: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Layer:
    """A value worth explaining.

    Attributes:
        name: the value.
        op_type: the operator that makes it.
        shape: ints, names of free axes, or None.
        layout: where its channels are: ``"NCHW"`` or ``"NHWC"``.
        reason: why it is a candidate, in words.
    """

    name: str
    op_type: str
    shape: tuple[Dim, ...]
    layout: Layout
    reason: str


@dataclass(frozen=True)
class Site:
    """An activation: a rectifier, which ReLU policies change, or a smooth one, which they do not."""

    node: str
    op_type: str
    rectifier: bool


def float_path(of: ir.Value, wrt: Sequence[ir.Value], stops: Collection[str] = ()) -> list[ir.Node]:
    """The nodes between ``wrt`` and ``of`` along values that carry a gradient, in graph order.

    Paths through shapes and indices (integers) do not count; quantised values between their quantisers do.
    """
    graph = of.graph
    assert graph is not None
    ahead = {id(v) for v in wrt}
    reached = []
    for node in graph:
        if node.op_type in stops or not any(id(v) in ahead for v in reads(node)):
            continue
        ahead.update(id(v) for v in node.outputs if _carries(node, v))
        reached.append(node)
    behind, path = {id(of)}, []
    for node in reversed(reached):
        if any(id(v) in behind and id(v) in ahead for v in node.outputs):
            behind.update(id(v) for v in reads(node))
            path.append(node)
    return path[::-1]


def _carries(node: ir.Node, output: ir.Value) -> bool:
    """Floats carry a gradient, and so do a quantiser's levels, which other nodes may move about; a Cast's do not."""
    return output.dtype in FLOATS or (output.dtype in _LEVELS and node.op_type != "Cast")


def first_float(value: ir.Value) -> ir.Value:
    """Where an integer image becomes float: the value that pixel methods differentiate at.

    Raises:
        ModelError: the image takes several ways before it is float.
    """
    while value.dtype not in FLOATS:
        ahead = {id(n): n for n in value.consumers()}
        if len(ahead) != 1:
            raise ModelError(f"{value.name} ({value.dtype}) is read by {len(ahead)} nodes before it becomes float")
        value = next(iter(ahead.values())).outputs[0]
    return value


def reads(node: ir.Node) -> list[ir.Value]:
    """A node's inputs, and what its subgraphs capture."""
    graphs = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    inner = [v for g in graphs for n in g for v in reads(n)]
    return [v for v in (*node.inputs, *inner) if v is not None]


# Logits


def find_logits(model: Model, output: str | None = None) -> Logits:
    """The value whose elements are the class scores; Softmax, Sigmoid and quantisers behind it are stepped over.

    Args:
        model: the model.
        output: the name of the output to explain; None chooses.

    Raises:
        UnknownNameError: no output of that name.
        ModelError: no float output.
    """
    floats = [v for v in model.outputs if v.dtype in FLOATS or v.dtype in (ir.DataType.UINT8, ir.DataType.INT8)]
    if output is not None:
        floats = [v for v in floats if v.name == output]
        if not floats:
            raise UnknownNameError.of("output", output, [v.name or "" for v in model.outputs])
    if not floats:
        raise ModelError(f"{model.label}: no output holds scores; its outputs are integers or unknown types")
    return max((_logits_of(model, v) for v in floats), key=_plausibility)


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
    classes = dims_of(logits)[axis]
    why = f"before {', '.join(names)}" if names else "the output itself: no Softmax, Sigmoid or quantiser behind it"
    count = classes if isinstance(classes, int) else None
    return Logits(str(logits.name), kind, axis, count, str(output.name), names, why)


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
        return "boxes", rank - 1 if axis is None else axis % rank
    image = model.image_input
    last_is_pixels = dims[-1] == image.width and dims[-2] == image.height
    return "dense", axis % rank if axis is not None else (1 if last_is_pixels else _smallest(dims))


def _smallest(dims: tuple[Dim, ...]) -> int:
    sizes = {a: d for a, d in ((1, dims[1]), (len(dims) - 1, dims[-1])) if isinstance(d, int)}
    return min(sizes, key=lambda a: sizes[a], default=1)


# Target layers


def target_layers(model: Model, logits: Logits) -> list[Layer]:
    """Candidate layers, best first.

    For a classifier: maps that every float path from image to logits passes, last first, each taken after its
    normalisation, activation, residual Add or Concat and before pooling. For a dense output: the same, from the last
    map before the class convolution on. For boxes: the map before the class convolution of each level.
    """
    image = first_float(model.values[model.image_input.name])
    of = model.values[logits.name]
    path = float_path(of, [image])
    layouts = map_layouts(path)
    if logits.kind == "boxes":
        return _levels(of, path, layouts)
    found: dict[str, Layer] = {}
    for value in reversed(cuts(path, image)):
        value = _before_class_conv(value, logits) if logits.kind == "dense" else value
        value = _before_pooling(value)
        if is_map(value, layouts) and value is not of:
            found.setdefault(str(value.name), _layer(value, layouts, _reason(value, of, logits, not found)))
    return list(found.values())


def cuts(path: Sequence[ir.Node], source: ir.Value) -> list[ir.Value]:
    """The values that every path from ``source`` to the end passes, in order, without ``source``."""
    members = set(map(id, path))
    left = {id(v): sum(id(c) in members for c in v.consumers()) for n in path for v in n.outputs}
    live: dict[int, ir.Value] = {id(source): source}
    left[id(source)] = sum(id(c) in members for c in source.consumers())
    found: list[ir.Value] = []
    for node in path:
        for value in {id(v): v for v in reads(node)}.values():
            if id(value) in live:
                left[id(value)] -= 1
                if left[id(value)] <= 0:
                    del live[id(value)]
        live.update({id(v): v for v in node.outputs if left[id(v)] > 0 or node is path[-1]})
        if len(live) == 1:
            found.extend(v for v in live.values() if v is not source and v not in found[-1:])
    return found


def is_map(value: ir.Value, layouts: Mapping[int, Layout]) -> bool:
    """A float tensor with channels and more than one pixel, computed by a convolution or matrix product."""
    layout = layouts.get(id(value))
    if value.dtype not in FLOATS or layout is None:
        return False
    height_width = dims_of(value)[2:] if layout == "NCHW" else dims_of(value)[1:3]
    return any(d != 1 for d in height_width)


def map_layouts(path: Sequence[ir.Node]) -> dict[int, Layout]:
    """The layout of every rank-4 value behind the first convolution or matrix product, by ``id``.

    Convolutions and pools give NCHW; a transposition changes it; everything else hands it on.
    """
    layouts: dict[int, Layout] = {}
    weighted = False
    for node in path:
        output = node.outputs[0]
        weighted = weighted or node.op_type in _WEIGHTED
        if not weighted or output.shape is None or len(output.shape) != 4:
            continue
        if node.op_type in _CONVOLUTIONS:
            layouts[id(output)] = "NCHW"
        elif layout := _handed_on(node, layouts):
            layouts.update({id(v): layout for v in node.outputs})
    return layouts


def _handed_on(node: ir.Node, layouts: Mapping[int, Layout]) -> Layout | None:
    perm = list(node.attributes.get_ints("perm", [])) if node.op_type == "Transpose" else []
    if perm in (_TO_NHWC, _TO_NCHW):
        return "NHWC" if perm == _TO_NHWC else "NCHW"
    return next((layouts[id(v)] for v in node.inputs if id(v) in layouts), None)


def _before_pooling(value: ir.Value) -> ir.Value:
    """Back over pooling and what computes nothing, but not out of NCHW."""
    while (node := value.producer()) is not None and node.op_type in _PASSING and node.inputs[0] is not None:
        if list(node.attributes.get_ints("perm", [])) == _TO_NCHW:
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


def _layer(value: ir.Value, layouts: Mapping[int, Layout], reason: str) -> Layer:
    node = value.producer()
    return Layer(str(value.name), node.op_type if node else "input", dims_of(value), layouts[id(value)], reason)


def _reason(value: ir.Value, of: ir.Value, logits: Logits, first: bool) -> str:
    node = value.producer()
    made = f"{node.op_type} {node.name}" if node is not None and node.name != value.name else str(node and node.op_type)
    place = "the last" if first else "an earlier"
    if logits.kind == "dense":
        return f"{place} map before the class convolution; made by {made}"
    maps = " (one channel per class)" if value.shape is not None and value.shape[1] == logits.classes else ""
    return f"{place} spatial map{maps} that every float path from image to {of.name} passes; made by {made}"


def _levels(of: ir.Value, path: Sequence[ir.Node], layouts: Mapping[int, Layout]) -> list[Layer]:
    """One layer per level of a detector: the map before the convolution with the most channels."""
    leaves: dict[tuple[Dim, ...], ir.Node] = {}
    stack, seen, members = [of], set[int](), set(map(id, path))
    while stack:
        node = stack.pop().producer()
        if node is None or id(node) in seen or id(node) not in members:
            continue
        seen.add(id(node))
        if node.op_type == "Conv":
            size = dims_of(node.outputs[0])[2:]
            if size not in leaves or _channels(node) > _channels(leaves[size]):
                leaves[size] = node
        elif node.op_type in _DECODING:
            stack.extend(v for v in node.inputs if v is not None)
    maps = [_before_pooling(v) for n in leaves.values() if (v := n.inputs[0]) is not None]
    maps = [v for v in maps if is_map(v, layouts)]
    maps.sort(key=lambda v: [d if isinstance(d, int) else 0 for d in dims_of(v)[2:]])
    why = f"detector: the map before the class convolution of one of {len(maps)} levels, coarsest first"
    return [_layer(v, layouts, why) for v in maps]


def _channels(node: ir.Node) -> int:
    channels = dims_of(node.outputs[0])[1]
    return channels if isinstance(channels, int) else 0


# Activations


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
