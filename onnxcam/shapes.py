"""The type and shape of every value: ONNX's inference, and what it leaves open.

Ranks are what the gradient rules live by. ONNX's inference gives up a shape as a whole where it cannot follow the
arithmetic that makes it; here the arithmetic is computed as far as it is constant, and where a length stays unknown
the number of axes is still told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

from onnxcam import inference
from onnxcam.constants import evaluated
from onnxcam.errors import ModelError
from onnxcam.integrity import first_line

Integers = dict[str, npt.NDArray[np.integer]]
Types = dict[str, TypeProto]
T = TypeVar("T")
_INTEGERS = (TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)
_FOLDED = {"Add", "Sub", "Mul", "Div", "Mod", "Neg", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Gather", "Slice"}
_FOLDED |= {"Concat", "Range", "Max", "Min", "ConstantOfShape", "Equal", "Where", "Not", "ReduceProd", "ReduceSum"}
_FOLDED |= {"Expand", "CumSum", "Split", "Identity", "Less", "Greater", "And", "Or", "Abs", "ScatterElements", "Size"}
_FOLDED |= {"Ceil", "Floor"}
_MOVES = {"Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Reshape", "Identity"}
_STEERED = {"If", "Loop"}  # by integers
_POOLS = {"MaxPool", "AveragePool", "LpPool"}
_CLAMPS = 22  # the first opset that says which windows of ceil_mode count
_SETTLED = "onnxcam.settled"  # inference lets operators of other domains be
_LARGEST = 4096  # elements of an integer tensor that is computed
_FEW = 16  # elements of a float tensor that lengths are computed with
# Operators whose output has as many axes as their first input.
_KEEPS_RANK = {"Split", "Slice", "Pad", "Tile", "Resize", "Transpose", "ScatterElements", "ScatterND", "Trilu"}
_KEEPS_RANK |= {"CumSum", "DFT", "ReverseSequence", "CenterCropPad", "Clip", "LayerNormalization"}
_KEEPS_RANK |= {"Conv", "ConvTranspose", "DeformConv", "MaxPool", "AveragePool", "LpPool", "MaxUnpool", "GridSample"}
_KEEPS_RANK |= {"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LRN", "DepthToSpace", "Concat"}
# Operators whose outputs have a number of axes of their own.
_FIXED_RANKS = {"RNN": (4, 3), "GRU": (4, 3), "LSTM": (4, 3, 3), "STFT": (4,), "RoiAlign": (4,), "MaxRoiPool": (4,)}


def infer_shapes(file: Path, proto: ModelProto) -> tuple[Integers, list[str]]:
    """Write the type and shape of every value into the graph.

    Returns:
        The integers that the graph computes from constants and fixed lengths alone, by name; and a note where declared
        shapes were wrong.

    Raises:
        ModelError: types or shapes contradict one another.
    """
    notes = []
    try:
        inferred, known = _inferred(proto)
    except Exception:  # a runtime goes by what operators give, not by what the file says of inner values
        _forget_shapes(proto.graph)
        notes.append("the file's own shapes contradict its operators; inferred anew")
        inferred, known = _try_inferred(file, proto)
    del proto.graph.value_info[:], proto.graph.output[:]
    proto.graph.value_info.extend(inferred.graph.value_info)
    proto.graph.output.extend(inferred.graph.output)
    return known, notes


def _try_inferred(file: Path, proto: ModelProto) -> tuple[ModelProto, Integers]:
    try:
        return _inferred(proto)
    except Exception as error:
        raise ModelError(f"{file}: its operators do not fit together: {first_line(error)}. Export it again") from error


def _inferred(proto: ModelProto) -> tuple[ModelProto, Integers]:
    folded = ModelProto()
    folded.CopyFrom(proto)
    for node in folded.graph.node:  # onnx refuses the body of its own function
        if node.op_type == "MeanVarianceNormalization":
            node.CopyFrom(onnx.helper.make_node("Identity", node.input, node.output, node.name))
    known = _fold_integers(folded, {})
    inferred = _infer(folded)
    while _settle_pool(folded, types_of(inferred.graph)):
        inferred = _infer(folded)
    if _pads_by_length(folded, known):
        known = _fold_integers(folded, types_of(inferred.graph), follow=True)
        inferred = _infer(folded)
    if not _unknown(inferred.graph) and not any(node.op_type in _STEERED for node in folded.graph.node):
        return inferred, known
    more = _fold_integers(folded, types_of(inferred.graph))
    inferred = _infer(folded) if len(more) > len(known) else inferred
    _complete(inferred, more)
    return inferred, more


def _pads_by_length(proto: ModelProto, known: Integers) -> bool:
    """Whether a Pad computes how much it adds, so that each length hangs on the one before it."""
    held = known.keys() | {t.name for t in proto.graph.initializer}
    return any(node.op_type == "Pad" and len(node.input) > 1 and node.input[1] not in held for node in proto.graph.node)


def _infer(proto: ModelProto) -> ModelProto:
    inferred = inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    _mend(inferred.graph)
    return inferred


def _settle_pool(proto: ModelProto, types: Types) -> bool:
    """Free the lengths of the first pool that runtimes read in two ways, as long as there is one."""
    for node in proto.graph.node if opset_of(proto) < _CLAMPS else ():
        found = None if node.domain or not node.input else _free_pool(node, types.get(node.input[0]))
        if found is None:
            continue
        node.domain = _SETTLED
        outputs = {v.name: v for v in proto.graph.output}
        for name, free in found.items():
            (outputs.get(name) or proto.graph.value_info.add(name=name)).type.CopyFrom(free)
        if all(o.domain != _SETTLED for o in proto.opset_import):
            proto.opset_import.add(domain=_SETTLED, version=1)
        return True
    return False


def opset_of(proto: ModelProto) -> int:
    """The opset of the default domain; 0 where the model names none."""
    return next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)


def _free_pool(node: NodeProto, given: TypeProto | None) -> Types | None:
    """The types of a pool's outputs where a last window of ``ceil_mode`` starts in the padding behind; else None.

    Up to opset 21 onnx counts such a window, newer runtimes do not, older ones do: nobody knows before the run.
    """
    settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    rank, ceil = len(settings.get("kernel_shape", ())), settings.get("ceil_mode", 0)
    if node.op_type not in _POOLS or not ceil or "auto_pad" in settings or given is None or _rank_of(given) != rank + 2:
        return None
    pads, ones = settings.get("pads", [0] * 2 * rank), [1] * rank
    lengths = [d.dim_value if d.HasField("dim_value") else None for d in given.tensor_type.shape.dim]
    found: list[int | None] = lengths[:2]
    for a, (k, s, d) in enumerate(
        zip(settings["kernel_shape"], settings.get("strides", ones), settings.get("dilations", ones), strict=True)
    ):
        length, before, after = lengths[a + 2], pads[a], pads[a + rank]
        count = None if length is None else -(((k - 1) * d + 1 - length - before - after) // s) + 1
        found.append(None if count is None or length is None or (count - 1) * s >= length + before else count)
    if found[2:].count(None) == lengths[2:].count(None):
        return None
    kinds = (given.tensor_type.elem_type, TensorProto.INT64)
    pairs = zip(node.output, kinds, strict=False)
    return {name: onnx.helper.make_tensor_type_proto(kind, found) for name, kind in pairs if name}


def _mend(graph: GraphProto) -> None:
    """Free the lengths that onnx 1.23 infers wrong."""
    halved = {name for node in graph.node if node.op_type == "STFT" for name in node.output}
    for value in (*graph.value_info, *graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            zero = dim.HasField("dim_value") and dim.dim_value == 0  # a product with an unknown length (Attention)
            if zero or (value.name in halved and axis == 2):
                dim.Clear()


def types_of(graph: GraphProto) -> Types:
    """The types of the graph's values, as far as they are known."""
    found = {v.name: v.type for v in (*graph.input, *graph.value_info, *graph.output)}
    for t in graph.initializer:
        found[t.name] = onnx.helper.make_tensor_type_proto(t.data_type, t.dims)
    return found


def has_rank(given: TypeProto | None) -> bool:
    """Whether the number of axes is known."""
    return given is not None and given.tensor_type.HasField("shape")


def _unknown(graph: GraphProto) -> bool:
    types = types_of(graph)
    return not all(has_rank(types.get(name)) for node in graph.node for name in node.output if name)


# Integers that tell shapes


def known_integers(proto: ModelProto) -> Integers:
    """The integers and truth values that follow from constants and from the lengths of the graph's inputs.

    What the file says of inner values is not asked, and operators that do not fit together are passed over.
    """
    draft = ModelProto()
    draft.CopyFrom(proto)
    _forget_shapes(draft.graph)
    with suppress(Exception):
        draft = inference.infer_shapes(draft, data_prop=True)
    return _fold_integers(draft, types_of(draft.graph))


def _fold_integers(proto: ModelProto, types: Types, follow: bool = False) -> Integers:
    """Compute constant shape arithmetic, and make its nodes constants.

    Args:
        proto: the model; changed.
        types: of its values, as far as they are known.
        follow: update ``types`` on the way, by what has been computed before; node by node, so it takes its time.
    """
    opsets = {o.domain: o.version for o in proto.opset_import}
    known = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.data_type in _INTEGERS}
    drawn = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if _is_little(t)}
    partly: dict[str, npt.NDArray[np.float64]] = {}
    for node in proto.graph.node:
        if follow:
            types.update(_followed(node, types, known, opset_of(proto)))
        if node.op_type == "Constant" and (held := _held(node.attribute[0])) is not None:
            known[node.output[0]] = held
        elif node.op_type == "Constant" and _is_little(node.attribute[0].t):
            drawn[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
        elif (lengths := _lengths(node, types, known, partly, opsets)) is not None:
            partly[node.output[0]] = lengths
            if not np.isnan(lengths).any():
                _make_constant(node, [lengths.astype(np.int64)], known)
        elif node.op_type in ("Shape", "Size") and (dims := _static(types.get(node.input[0]))) is not None:
            size = np.asarray(math.prod(dims), dtype=np.int64)
            shape = np.asarray(_shape_slice(node, dims), dtype=np.int64)
            _make_constant(node, [size if node.op_type == "Size" else shape], known)
        elif node.op_type in _FOLDED and node.input and all(n in known or n in drawn for n in node.input if n):
            with suppress(Exception):  # what cannot be computed stays unknown
                feeds = {n: known[n] if n in known else drawn[n] for n in node.input if n}
                found = evaluated(node, opsets, feeds)
                drawn.update((n, a) for n, a in zip(node.output, found, strict=True) if _few_floats(a))
                _make_constant(node, found, known)
    return known


def _few_floats(a: npt.NDArray[Any]) -> bool:
    return a.dtype.kind == "f" and a.size <= _FEW


def _is_little(tensor: TensorProto) -> bool:
    """Floats, so few that they may be what lengths are divided by."""
    few = tensor.data_location != TensorProto.EXTERNAL and math.prod(tensor.dims) <= _FEW
    return few and tensor.data_type == TensorProto.FLOAT


def _followed(node: NodeProto, types: Types, known: Integers, opset: int) -> Types:
    """What the types of a node's inputs, as they are known by now, tell of its outputs."""
    told = node.domain in ("", "ai.onnx") and all(n in types for n in node.input if n)
    if not told or all(_static(types.get(name)) is not None for name in node.output if name):
        return {}
    with suppress(Exception):
        return {n: t for n, t in infer_node(node, types, known, opset).items() if has_rank(t)}
    return {}


def _held(given: AttributeProto) -> npt.NDArray[np.integer] | None:
    """The integers of a Constant."""
    if given.name in ("value_int", "value_ints"):
        return np.asarray(given.i if given.name == "value_int" else given.ints, dtype=np.int64)
    return onnx.numpy_helper.to_array(given.t) if given.name == "value" and given.t.data_type in _INTEGERS else None


def _lengths(
    node: NodeProto,
    types: Types,
    known: Integers,
    partly: Mapping[str, npt.NDArray[np.float64]],
    opsets: dict[str, int],
) -> npt.NDArray[np.float64] | None:
    """A shape some of whose lengths are free, which are NaN, and what is taken from it."""
    given = types.get(node.input[0]) if node.op_type == "Shape" else None
    if given is not None and has_rank(given) and _static(given) is None:
        dims = [d.dim_value if d.HasField("dim_value") else np.nan for d in given.tensor_type.shape.dim]
        return np.asarray(_shape_slice(node, dims), dtype=np.float64)
    if node.op_type not in _MOVES or not any(name in partly for name in node.input):
        return None
    with suppress(Exception):  # an input that is not known at all, among others
        feeds = {n: known[n] if n in known else partly[n] for n in node.input if n}
        (found,) = evaluated(node, opsets, feeds)
        return np.asarray(found, dtype=np.float64)
    return None


def _make_constant(node: NodeProto, arrays: list[npt.NDArray[np.integer]], known: Integers) -> None:
    if any(a.size > _LARGEST or a.dtype.kind not in "iub" for a in arrays):
        return
    known.update(zip(node.output, arrays, strict=True))
    if len(arrays) == 1:
        value = onnx.numpy_helper.from_array(arrays[0])
        node.CopyFrom(onnx.helper.make_node("Constant", [], list(node.output), node.name, value=value))


def _static(given: TypeProto | None) -> list[int] | None:
    dims = given.tensor_type.shape.dim if given is not None and has_rank(given) else [None]
    return [d.dim_value for d in dims if d] if all(d is not None and d.HasField("dim_value") for d in dims) else None


def _shape_slice(node: NodeProto, dims: list[T]) -> list[T]:
    bounds = {a.name: a.i for a in node.attribute}
    return dims[bounds.get("start", 0) : bounds.get("end", len(dims))]


# Ranks that inference leaves open


def _complete(proto: ModelProto, known: Integers) -> None:
    """Add what a second look at each node tells of values of unknown shape."""
    types = types_of(proto.graph)
    opset = opset_of(proto)
    outputs = {v.name: v for v in proto.graph.output}
    for node in proto.graph.node:
        open_ = [name for name in node.output if name and not has_rank(types.get(name))]
        if not open_ or node.domain not in ("", "ai.onnx") or any(n and n not in types for n in node.input):
            continue
        tell = _loop_types if node.op_type == "Loop" else infer_node
        for name, found in tell(node, types, known, opset).items():
            if name in open_ and has_rank(found):
                types[name] = found
                if name in outputs:
                    outputs[name].type.CopyFrom(found)
    inner = {v.name for v in (*proto.graph.input, *proto.graph.output)} | {t.name for t in proto.graph.initializer}
    del proto.graph.value_info[:]
    named = ((n, t) for n, t in types.items() if n not in inner)
    proto.graph.value_info.extend(onnx.helper.make_value_info(n, t) for n, t in named)


def _loop_types(node: NodeProto, types: Types, known: Integers, opset: int) -> Types:
    """Of a Loop whose body gives each carried value as many axes as it takes, so that they never change."""
    body = next(a.g for a in node.attribute if a.name == "body")
    ranks = [_rank_of(types.get(name)) for name in node.input[2:]]
    if None in ranks:
        return {}
    carried = [_free(types[name], cast("int", rank)) for name, rank in zip(node.input[2:], ranks, strict=True)]
    steered = [onnx.helper.make_tensor_type_proto(t, []) for t in (TensorProto.INT64, TensorProto.BOOL)]
    given = types | dict(zip((v.name for v in body.input), steered + carried, strict=True))
    inputs = [onnx.helper.make_value_info(name, t) for name, t in given.items() if name not in known]
    weights = [*body.initializer, *(onnx.numpy_helper.from_array(a, name) for name, a in known.items())]
    graph = GraphProto(name="body", node=body.node, initializer=weights, input=inputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    found = types_of(inference.infer_shapes(model, data_prop=True).graph)
    made = [_rank_of(found.get(v.name)) for v in body.output[1:]]
    if None in made or made[: len(ranks)] != ranks:
        return {}
    grown = [cast("int", rank) + (k >= len(ranks)) for k, rank in enumerate(made)]
    elements = [found[v.name] for v in body.output[1:]]
    return {n: _free(t, rank) for n, t, rank in zip(node.output, elements, grown, strict=False)}


def _free(like: TypeProto, rank: int) -> TypeProto:
    """A tensor of as many axes, all of them free."""
    return onnx.helper.make_tensor_type_proto(like.tensor_type.elem_type, [None] * rank)


def infer_node(node: NodeProto, types: Mapping[str, TypeProto], known: Integers, opset: int) -> dict[str, TypeProto]:
    """The types of a node's outputs, by ONNX's inference, and at least the number of axes where that gives none.

    Args:
        node: of the default domain.
        types: of its inputs.
        known: integer inputs whose values are known.
        opset: of the default domain.
    """
    given = {n: types[n] for n in node.input if n in types}
    free = _free_pool(node, given.get(node.input[0])) if opset < _CLAMPS and node.input else None
    if free is not None:
        return free
    data = {n: onnx.numpy_helper.from_array(known[n], n) for n in node.input if n in known}
    found = inference.infer_node_outputs(node, given, opset, input_data=data)
    for k, name in enumerate(node.output):
        if name in found and not has_rank(found[name]) and (rank := _rank(node, k, given)) is not None:
            element = found[name].tensor_type.elem_type
            found[name] = onnx.helper.make_tensor_type_proto(element, [None] * rank)
    return found


def _rank(node: NodeProto, output: int, types: Mapping[str, TypeProto]) -> int | None:
    """The number of axes of one of a node's outputs; None where it is unknown."""
    ranks = [_rank_of(types.get(name)) for name in node.input]
    length = _length(types.get(node.input[1])) if len(node.input) > 1 else None
    if node.op_type in _FIXED_RANKS:
        return _FIXED_RANKS[node.op_type][output]
    if node.op_type == "Attention" and output > 0:
        return 4
    if node.op_type == "BatchNormalization" and output > 0:
        return 1
    if node.op_type in _KEEPS_RANK:
        return ranks[0]
    if node.op_type in ("Squeeze", "Unsqueeze") and length is not None and ranks[0] is not None:
        return ranks[0] - length if node.op_type == "Squeeze" else ranks[0] + length
    if node.op_type == "Einsum" and None not in ranks:
        return _rank_of_einsum(node, cast("list[int]", ranks))
    if node.op_type.startswith("Reduce") and ranks[0] is not None:
        return ranks[0] if _keepdims(node.attribute) else (ranks[0] - length if length is not None else None)
    return None


def _rank_of_einsum(node: NodeProto, ranks: Sequence[int]) -> int | None:
    """Of terms whose ellipses stand for different numbers of axes."""
    left, arrow, result = node.attribute[0].s.decode().replace(" ", "").partition("->")
    widths = [rank - len(t) + 3 for t, rank in zip(left.split(","), ranks, strict=False) if "..." in t]
    return len(result.replace("...", "")) + max(widths, default=0) * ("..." in result) if arrow else None


def _keepdims(attributes: Sequence[AttributeProto]) -> bool:
    return bool(next((a.i for a in attributes if a.name == "keepdims"), 1))


def _rank_of(given: TypeProto | None) -> int | None:
    return len(given.tensor_type.shape.dim) if given is not None and has_rank(given) else None


def _length(given: TypeProto | None) -> int | None:
    """The length of a vector."""
    if _rank_of(given) != 1 or given is None:
        return None
    (dim,) = given.tensor_type.shape.dim
    return dim.dim_value if dim.HasField("dim_value") else None


# What a file says


def _forget_shapes(graph: GraphProto) -> None:
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
