"""The opset of an exported file: another one than the source's, where it gives the same results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxcam.errors import ModelError, OptionError
from onnxcam.integrity import first_line, give_back_weights
from onnxcam.model import Model
from onnxcam.runtime import Array, Session

_FREE = 224  # the length of an axis that takes any, where two files are compared
_SAME = 1e-5
_SAME_IN_HALVES = 1e-2  # a runtime rounds float16 wherever it lacks a kernel, which differs from opset to opset
_HALVES = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_LARGE = 1024  # bytes
_BEFORE_MAX = 17


def at_opset(model: Model, opset: int) -> Model:
    """The same model at another opset: above its own by ONNX's converter, below it where every node allows it.

    Both are run on one random input; they must agree within 1e-5 of each output's largest value (1e-2 where the
    model computes in float16), and whole numbers of 8 bits, such as grey levels, within 1.

    Raises:
        OptionError: a node needs a later opset, there is no such opset, the converter fails, the runtime refuses what
            comes of it (a type that an operator takes later only), or the results differ.
        RuntimeUnavailableError: the installed runtime is too old to run it.
    """
    if opset == model.opset:
        return model
    found = _raised(model, opset) if opset > model.opset else _lowered(model, opset)
    _compare(model, found, opset)
    return found


def at_own_opset(model: Model) -> Model:
    """The model as it is, at opset 18 or later; 17 where it computes in float16 and came from an older one.

    From opset 18 on ONNX defines Relu by Max, which ONNX Runtime's processor runs in float16, slowly, where it runs an
    older Relu in float32 together with the convolution.
    """
    if model.source_opset > _BEFORE_MAX or model.opset <= _BEFORE_MAX or not _held(model) & _HALVES:
        return model
    try:
        return _lowered(model, _BEFORE_MAX)
    except OptionError:  # a node needs more
        return model


def _lowered(model: Model, opset: int) -> Model:
    """Operators whose definition is older than the opset keep it; axes that came as an input become attributes."""
    found = model.clone()
    nodes = [n for n in found.graph.all_nodes() if n.domain == ""]
    lowest, node = max(((_brought_down(n, model.opset, opset), n) for n in nodes), key=lambda pair: pair[0])
    if opset < lowest:
        raise OptionError(
            f"opset={opset}: {node.op_type} {node.name!r} needs opset {lowest}, the lowest that this export can have"
        )
    _drop_unread(found.graph)
    imports = found.ir_model.opset_imports
    imports[""] = opset
    ids = [onnx.helper.make_opsetid(domain, version) for domain, version in imports.items()]
    needed = onnx.helper.find_min_ir_version_for(ids, ignore_unknown=True)
    found.ir_model.ir_version = min(found.ir_model.ir_version, max(needed, 4))
    return found


def _brought_down(node: ir.Node, opset: int, wanted: int) -> int:
    """The first opset that a node can be of, from ``wanted`` on; its axes are told as that one asks for them."""
    least = _least(node, opset)
    older = _before(onnx.defs.get_schema(node.op_type, least)) if least > wanted else None
    axes = _known_axes(node) if older is not None and "axes" in older.attributes else None
    if axes is None:
        return least
    node.resize_inputs(1)
    node.attributes.pop("noop_with_empty_axes", None)
    if axes:
        node.attributes["axes"] = ir.AttrInt64s("axes", axes)
    return _least(node, least - 1)


def _known_axes(node: ir.Node) -> list[int] | None:
    """The axes that a constant second input tells, none for all of them; None where an attribute cannot tell that."""
    value = node.inputs[1] if len(node.inputs) == 2 else None
    held = value.const_value if value is not None and not value.is_graph_input() else None
    if (value is not None and held is None) or node.attributes.get_int("noop_with_empty_axes"):
        return None
    return [] if held is None else [int(a) for a in held.numpy().ravel()]


def _drop_unread(graph: ir.Graph) -> None:
    for name in [n for n, v in graph.initializers.items() if not (v.uses() or v.is_graph_output())]:
        del graph.initializers[name]


def _least(node: ir.Node, opset: int) -> int:
    """The first opset in which the node means what it does in this one, but for types that came later."""
    schema = onnx.defs.get_schema(node.op_type, opset)
    while (older := _before(schema)) is not None and _reads_as(node, older, schema):
        schema = older
    return schema.since_version


def _before(schema: onnx.defs.OpSchema) -> onnx.defs.OpSchema | None:
    try:
        found = onnx.defs.get_schema(schema.name, schema.since_version - 1)
    except onnx.defs.SchemaError:
        return None
    return None if found.deprecated else found


def _reads_as(node: ir.Node, older: onnx.defs.OpSchema, newer: onnx.defs.OpSchema) -> bool:
    """Whether the older definition has the attributes and inputs that the node uses, and the same defaults."""

    def stays(name: str) -> bool:
        """Of one type in both, and where the node is silent of one default."""
        a, b = older.attributes.get(name), newer.attributes.get(name)
        if a is None or b is None or a.type != b.type:
            return False
        return name in node.attributes or _default(a) == _default(b)

    return (
        all(map(stays, {*older.attributes, *node.attributes}))
        and older.min_input <= len(node.inputs) <= older.max_input
        and older.min_output <= len(node.outputs) <= older.max_output
    )


def _default(attribute: Any) -> bytes:
    found: bytes = attribute.default_value.SerializeToString()
    return found


def _raised(model: Model, opset: int) -> Model:
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise OptionError(f"opset={opset}: the installed onnx {onnx.__version__} knows up to {newest}")
    bare = model.clone()
    held = _taken_out(bare.graph)
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(bare.ir_model), opset)
    except Exception as error:
        raise OptionError(
            f"opset={opset}: ONNX's converter cannot bring the export there from {model.opset}: {first_line(error)}. "
            f"Leave it at {model.opset}, or export the source model with opset {opset}"
        ) from error
    found = ir.from_proto(proto)
    give_back_weights(found.graph, held)
    ids = [onnx.helper.make_opsetid(domain, version) for domain, version in found.opset_imports.items()]
    found.ir_version = max(found.ir_version, onnx.helper.find_min_ir_version_for(ids, ignore_unknown=True))
    return replace(bare, ir_model=found)


def _taken_out(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    """Make inputs of large weights, which the converter copies several times over, and of those in files, which it
    forgets; small ones may tell axes and sizes."""
    held = {n: t for n, v in graph.initializers.items() if (t := v.const_value) is not None and _is_apart(t)}
    for name, tensor in held.items():
        value = graph.initializers.pop(name)
        value.const_value = None
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        graph.inputs.append(value)
    return held


def _is_apart(tensor: ir.TensorProtocol) -> bool:
    return tensor.nbytes > _LARGE or isinstance(tensor, ir.ExternalTensor)


def _compare(before: Model, after: Model, opset: int) -> None:
    feeds = _feeds(before)
    names = [str(v.name) for v in before.outputs]
    near = _SAME_IN_HALVES if _held(before) & _HALVES else _SAME
    want = Session(before, optimize=False).run(feeds, names)
    try:
        got = Session(after, optimize=False).run(feeds, names)
    except ModelError as error:  # which names the source's file; the runtime's own words do not
        why = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        raise OptionError(
            f"opset={opset}: this export cannot be at it: {why}. Leave it at {before.opset}, or export the source "
            f"at {opset}"
        ) from error
    for name, a, b in zip(names, want, got, strict=True):
        if (apart := _distance(a, b)) > near:
            raise OptionError(
                f"opset={opset}: {name} is {apart:.1e} away from what it is at opset {before.opset}, on a random "
                f"input; the conversion is not right. Leave it at {before.opset}, or export the source at {opset}"
            )


def _held(model: Model) -> set[ir.DataType]:
    """The types of the weights."""
    return {v.const_value.dtype for v in model.graph.initializers.values() if v.const_value is not None}


def _distance(a: Array, b: Array) -> float:
    """The largest difference, as a part of the largest value; of 8 bits one level is none, which rounding decides."""
    if a.dtype.kind in "OSU":
        return float(not np.array_equal(a, b))
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    differ = np.abs(x - y)[~(np.isnan(x) & np.isnan(y)) & (x != y)]
    if a.dtype in (np.uint8, np.int8):
        differ = differ[differ > 1]
    return float(np.nan_to_num(differ, nan=np.inf).max(initial=0) / max(np.nanmax(np.abs(x), initial=0), 1e-30))


def _feeds(model: Model) -> dict[str, Array]:
    """Random pictures of [0, 1) or 0 to 255, and 0 for whatever else."""
    rng = np.random.default_rng(0)
    return {str(v.name): _random(v, rng) for v in model.inputs}


def _random(value: ir.Value, rng: np.random.Generator) -> Array:
    kind = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
    dims = [d if isinstance(d, int) else _FREE if k else 1 for k, d in enumerate(value.shape or ())]
    if kind == np.uint8:
        return rng.integers(0, 256, dims, np.uint8)
    return rng.random(dims).astype(kind) if kind.kind == "f" else np.zeros(dims, kind)
