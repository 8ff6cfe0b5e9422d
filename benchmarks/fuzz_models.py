"""Mutants of model files: of their bytes, and of the fields of the message that they hold."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper

from benchmarks.fuzz_bytes import HOSTILE, NUMBERS, damage

ROOT = Path(__file__).parent.parent
_LARGEST = 2_700_000  # bytes of a source
_NOTHING_THERE = (ValueError, TypeError, LookupError, AttributeError, DecodeError)
_FLOATS = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e38, -1e38, 1e-45, 0.5, -1.0)
_INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_ENUM}
_UNSIGNED = {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}
_DECIMALS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}


@cache
def sources(zoo: str | None) -> tuple[Path, ...]:
    """The models that mutants are made of; those of this project, and the smaller ones of a folder."""
    own = [*sorted((ROOT / "model_zoo").glob("*.onnx")), *sorted((ROOT / "tests" / "golden").glob("*.onnx"))]
    others = sorted(Path(zoo, "models").glob("*.onnx")) if zoo else []
    return tuple(p for p in (*own, *others) if p.stat().st_size <= _LARGEST)


def beside(source: str) -> list[Path]:
    """The files of weights that a source has beside it."""
    return list((ROOT / "model_zoo").glob(f"{source}.data"))


def mutate(data: bytes, rng: random.Random) -> tuple[bytes, list[str]]:
    """A mutant's bytes, and what was done."""
    if rng.random() < 0.2:
        return damage(data, rng)
    proto = onnx.load_model_from_string(data)
    count = rng.choice((1, 1, 1, 1, 1, 2, 2, 3, 6))
    changes = [_one(proto, rng) for _ in range(count)]
    data = proto.SerializeToString()
    if rng.random() < 0.03:
        data, more = damage(data, rng)
        changes += more
    return data, changes


def _one(proto: onnx.ModelProto, rng: random.Random) -> str:
    change = rng.choice(_FIELDS) if rng.random() < 0.45 else rng.choice(_SPECIAL)
    try:
        return change(proto, rng)
    except _NOTHING_THERE as error:
        return f"{change.__name__}: {type(error).__name__}"


# Any field


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for kind, held in message.ListFields():
        if kind.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            for inner in held if _repeated(kind) else [held]:
                yield from _messages(inner)


def _repeated(kind: Any) -> bool:
    return bool(kind.is_repeated) if hasattr(kind, "is_repeated") else kind.label == FieldDescriptor.LABEL_REPEATED


def _any_field(proto: onnx.ModelProto, rng: random.Random) -> str:
    """A field of any kind; each kind as often as the next, however many of it there are."""
    groups: dict[tuple[str, str], list[tuple[Message, Any]]] = {}
    for message in _messages(proto):
        for kind, _ in message.ListFields():
            groups.setdefault((message.DESCRIPTOR.name, kind.name), []).append((message, kind))
    (owner, name), places = rng.choice(sorted(groups.items(), key=lambda item: item[0]))
    message, kind = rng.choice(places)
    pool = [getattr(m, k.name) for m, k in places]
    how = _change_many(message, kind, rng, pool) if _repeated(kind) else _change(message, kind, rng, pool)
    return f"{owner}.{name}: {how}"


def _change_many(message: Message, kind: Any, rng: random.Random, pool: list[Any]) -> str:
    held = getattr(message, kind.name)
    at = rng.randrange(len(held))
    how = rng.choice(("delete", "double", "swap", "clear", "shorten", "change", "change", "change", "of another"))
    if how == "delete":
        del held[at]
    elif how == "double":
        held.extend([held[at]] * rng.choice((1, 1, 2, 50)))
    elif how == "clear":
        del held[:]
    elif how == "shorten":
        del held[at:]
    elif how == "of another":
        other = [_copy(o) if isinstance(o, Message) else o for o in rng.choice(pool)]
        del held[:]
        held.extend(other)
    elif kind.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        held[at].CopyFrom(_copy(rng.choice(held)))
    elif how == "swap":
        other = rng.randrange(len(held))
        held[at], held[other] = held[other], held[at]
    else:
        held[at] = _value(kind, held[at], rng, [v for many in pool for v in many])
    return how


def _change(message: Message, kind: Any, rng: random.Random, pool: list[Any]) -> str:
    if rng.random() < 0.15:
        message.ClearField(kind.name)
        return "clear"
    if kind.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        getattr(message, kind.name).CopyFrom(_copy(rng.choice(pool)))
        return "of another"
    value = _value(kind, getattr(message, kind.name), rng, pool)
    setattr(message, kind.name, value)
    return repr(value)[:60]


def _copy(message: Message) -> Message:
    """Protobuf crashes where a message becomes a part of itself."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _value(kind: Any, old: Any, rng: random.Random, pool: list[Any]) -> Any:
    if kind.cpp_type in _INTEGERS:
        return _fitting(kind, rng.choice((*NUMBERS, old + 1, old - 1, -old, old * 2, old * 1000, *pool[:20])))
    if kind.cpp_type in _UNSIGNED:
        return abs(rng.choice(NUMBERS)) % 2**32
    if kind.cpp_type in _DECIMALS:
        return rng.choice((*_FLOATS, -old, old * 1000))
    if kind.type == FieldDescriptor.TYPE_BYTES:
        return damage(old, rng)[0] if old else rng.randbytes(8)
    return rng.choice(pool) if rng.random() < 0.6 else rng.choice(HOSTILE)


def _fitting(kind: Any, value: int) -> int:
    bits = 64 if kind.cpp_type == FieldDescriptor.CPPTYPE_INT64 else 32
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


# What is likely to hurt


def _nodes(proto: onnx.ModelProto) -> Any:
    return proto.graph.node


def _operator(proto: onnx.ModelProto, rng: random.Random) -> str:
    node = rng.choice(_nodes(proto))
    old, node.op_type = node.op_type, rng.choice(_operators())
    return f"{old} becomes {node.op_type}"


@cache
def _operators() -> tuple[str, ...]:
    return tuple(sorted({s.name for s in onnx.defs.get_all_schemas() if s.domain == ""}))


def _cycle(proto: onnx.ModelProto, rng: random.Random) -> str:
    early, late = sorted(rng.sample(range(len(_nodes(proto))), 2))
    node = _nodes(proto)[early]
    node.input[rng.randrange(len(node.input))] = _nodes(proto)[late].output[0]
    return f"{node.op_type} reads what comes later"


def _same_name(proto: onnx.ModelProto, rng: random.Random) -> str:
    taken = [o for n in _nodes(proto) for o in n.output] + [t.name for t in proto.graph.initializer]
    taken += [v.name for v in proto.graph.input]
    node = rng.choice(_nodes(proto))
    node.output[0] = rng.choice(taken)
    return f"{node.op_type} makes {node.output[0]} too"


def _remove(proto: onnx.ModelProto, rng: random.Random) -> str:
    """A node is left out, and what it made is what it was made of."""
    at = rng.randrange(len(_nodes(proto)))
    node = _nodes(proto)[at]
    for other in _nodes(proto):
        other.input[:] = [node.input[0] if name == node.output[0] else name for name in other.input]
    told = f"no {node.op_type}"
    del _nodes(proto)[at]
    return told


def _attribute(proto: onnx.ModelProto, rng: random.Random) -> str:
    node = rng.choice([n for n in _nodes(proto) if n.attribute])
    attribute = rng.choice(node.attribute)
    if attribute.ints and rng.random() < 0.7:
        values = list(attribute.ints)
        values[rng.randrange(len(values))] = rng.choice(NUMBERS)
        attribute.ints[:] = [_int64(v) for v in values]
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = _int64(rng.choice(NUMBERS))
    else:
        attribute.CopyFrom(
            helper.make_attribute(attribute.name, rng.choice((1, -1, 0.5, "x", [1], [0.5], [2**40] * 3)))
        )
    return f"{node.op_type}.{attribute.name}"


def _int64(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def _odd_attribute(proto: onnx.ModelProto, rng: random.Random) -> str:
    """One that the operator may know, but this node does not have."""
    node = rng.choice(_nodes(proto))
    name = rng.choice(("axis", "axes", "auto_pad", "group", "dilations", "to", "perm", "mode", "keepdims", "strides",
                       "ceil_mode", "output_shape", "transB", "alpha", "epsilon", "kernel_shape",
                           "allowzero"))  # fmt: skip
    value: Any = rng.choice((0, -1, 7, 2**40, 1e30, "SAME_UPPER", "x", [1, 1], [-1] * 4, [2**31] * 2, [0]))
    node.attribute.append(helper.make_attribute(name, value))
    return f"{node.op_type}.{name} = {value}"


def _dimension(proto: onnx.ModelProto, rng: random.Random) -> str:
    value = rng.choice((*proto.graph.input, *proto.graph.output, *proto.graph.value_info))
    dims = value.type.tensor_type.shape.dim
    how = rng.choice(("number", "number", "free", "more", "fewer", "name"))
    if how == "more":
        dims.add(dim_value=_int64(rng.choice(NUMBERS)))
    elif how == "fewer":
        del dims[rng.randrange(len(dims))]
    else:
        dim = rng.choice(dims)
        dim.Clear()
        if how != "free":
            setattr(dim, *(("dim_value", _int64(rng.choice(NUMBERS))) if how == "number" else ("dim_param", "n")))
    return f"{value.name}: {how}"


def _element_type(proto: onnx.ModelProto, rng: random.Random) -> str:
    value = rng.choice((*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.initializer))
    kind = rng.choice((*range(0, 24), 99, -1))
    if isinstance(value, TensorProto):
        value.data_type = kind
    else:
        value.type.tensor_type.elem_type = kind
    return f"{value.name} is of type {kind}"


def _weight(proto: onnx.ModelProto, rng: random.Random) -> str:
    """Other data for a weight: numbers that are shapes, or that are none."""
    import numpy as np

    tensor = rng.choice(_tensors(proto))
    array = np.array(onnx.numpy_helper.to_array(tensor))
    flat = array.reshape(-1)
    if array.dtype.kind in "iu":
        flat[rng.randrange(len(flat))] = np.array(rng.choice(NUMBERS) % 2**63).astype(array.dtype)
    else:
        flat[: rng.choice((1, len(flat)))] = np.array(rng.choice(_FLOATS)).astype(array.dtype)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return f"weight {tensor.name}"


def _tensors(proto: onnx.ModelProto) -> list[TensorProto]:
    inner = [a.t for n in _nodes(proto) for a in n.attribute if a.HasField("t")]
    whole = [t for t in proto.graph.initializer if t.data_location != TensorProto.EXTERNAL]
    shapes = [t for t in (*whole, *inner) if t.data_type == TensorProto.INT64]
    return [*whole, *inner, *shapes * 10]


def _cut_weight(proto: onnx.ModelProto, rng: random.Random) -> str:
    tensor = rng.choice(proto.graph.initializer)
    how = rng.choice(("shorter", "longer", "none", "dims", "typed"))
    if how == "dims":
        tensor.dims[rng.randrange(len(tensor.dims))] = _int64(rng.choice(NUMBERS))
    elif how == "typed":
        tensor.ClearField("raw_data")
        tensor.float_data.extend([0.5] * rng.choice((0, 1, 1000)))
    else:
        tensor.raw_data = {"shorter": tensor.raw_data[:-1], "longer": tensor.raw_data * 2, "none": b""}[how]
    return f"weight {tensor.name}: {how}"


PLACES = ("../canary", "../../etc/passwd", "/etc/passwd", "/dev/zero", "/proc/self/mem", ".", "", "model.onnx", "..",
           "link", "loop", "x\0y", "a" * 5000, "./../canary", "sub/../../canary", "C:\\x", "~/x", "weights.data",
               "file:///x")  # fmt: skip


def _outside(proto: onnx.ModelProto, rng: random.Random) -> str:
    """External weights."""
    tensor, place = rng.choice(_all_kinds(proto)), rng.choice(PLACES)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value=place)
    for key in ("offset", "length"):
        if rng.random() < 0.5:
            tensor.external_data.add(key=key, value=str(rng.choice((*NUMBERS, "x", "", "1e3", "4096", "٣"))))
    return f"weight {tensor.name} in {place[:30]!r}"


def _all_kinds(proto: onnx.ModelProto) -> list[TensorProto]:
    return [*proto.graph.initializer, *(a.t for n in _nodes(proto) for a in n.attribute if a.HasField("t"))]


def _branch(proto: onnx.ModelProto, rng: random.Random) -> str:
    """A node goes into both branches of an If, or into the body of a Loop of many rounds."""
    at = rng.randrange(len(_nodes(proto)))
    node = onnx.NodeProto()
    node.CopyFrom(_nodes(proto)[at])
    made = list(node.output)
    inner = [f"{name}/inner" for name in made]
    node.output[:] = inner
    nodes = [node] if rng.random() < 0.7 else [node, *_cut(inner)]
    outputs = [onnx.ValueInfoProto(name=name) for name in inner]
    if rng.random() < 0.5:
        body = helper.make_graph(nodes, "branch", [], outputs)
        condition = "always" if rng.random() < 0.7 else rng.choice(made)
        new = helper.make_node("If", [condition], made, then_branch=body, else_branch=body)
        proto.graph.initializer.append(helper.make_tensor("always", TensorProto.BOOL, [], [rng.random() < 0.5]))
    else:
        rounds = _int64(rng.choice((1, 2, 3, *NUMBERS)))
        proto.graph.initializer.append(helper.make_tensor("rounds", TensorProto.INT64, [], [rounds]))
        given = [helper.make_tensor_value_info("i", TensorProto.INT64, []),
                 helper.make_tensor_value_info("go", TensorProto.BOOL, [])]  # fmt: skip
        on = helper.make_node("Identity", ["go"], ["on"])
        body = helper.make_graph([*nodes, on], "body", given, [onnx.ValueInfoProto(name="on"), *outputs])
        new = helper.make_node("Loop", ["rounds", ""], made, body=body)
    _nodes(proto)[at].CopyFrom(new)
    return f"{node.op_type} in {new.op_type}"


def _cut(made: list[str]) -> list[onnx.NodeProto]:
    """A pool larger than its picture, and a Slice of what it leaves; ``made`` is what comes out in the end."""
    numbers = {"from": 0, "to": 2**31, "along": 2}
    told = [helper.make_node("Constant", [], [n], value_ints=[v]) for n, v in numbers.items()]
    window = helper.make_node("MaxPool", [made[0]], ["pooled"], kernel_shape=[999, 999])
    made[0] = "cut"
    return [*told, window, helper.make_node("Slice", ["pooled", *numbers], ["cut"])]


def _deep(proto: onnx.ModelProto, rng: random.Random) -> str:
    """Branches within branches."""
    depth = rng.choice((2, 5, 15, 30))  # protobuf itself refuses more than 100 messages within each other
    name = _nodes(proto)[0].output[0]
    body = helper.make_graph([helper.make_node("Identity", [name], ["d0"])], "g", [], [onnx.ValueInfoProto(name="d0")])
    for k in range(1, depth):
        node = helper.make_node("If", ["always"], [f"d{k}"], then_branch=body, else_branch=body if k < 3 else None)
        body = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name=f"d{k}")])
    _nodes(proto).append(helper.make_node("If", ["always"], ["deep"], then_branch=body))
    proto.graph.initializer.append(helper.make_tensor("always", TensorProto.BOOL, [], [True]))
    return f"{depth} branches deep"


def _function(proto: onnx.ModelProto, rng: random.Random) -> str:
    """A function that calls itself, or that has an operator's name, or that is a bomb of calls."""
    node = rng.choice(_nodes(proto))
    how = rng.choice(("itself", "operator", "bomb"))
    if how == "bomb":
        node.op_type, node.domain = "f12", "own"
        for k in range(13):
            inner = [helper.make_node(f"f{k - 1}" if k else "Relu", [f"x{j}" if j else "x"], [f"x{j + 1}"],
                                      domain="own" if k else "") for j in range(8)]  # fmt: skip
            proto.functions.append(
                helper.make_function("own", f"f{k}", ["x"], ["x8"], inner, list(proto.opset_import)))  # fmt: skip
    else:
        domain, name = ("", node.op_type) if how == "operator" else ("own", "loop")
        calls = "Relu" if how == "operator" else "loop"
        body = [helper.make_node(calls, ["x"], ["y"], domain=domain)]
        imports = [*proto.opset_import, helper.make_opsetid("own", 1)]
        proto.functions.append(helper.make_function(domain, name, ["x"], ["y"], body, imports))
        node.op_type, node.domain = name, domain
    proto.opset_import.append(helper.make_opsetid("own", 1))
    return f"function: {how}"


def _versions(proto: onnx.ModelProto, rng: random.Random) -> str:
    if rng.random() < 0.3:
        proto.ir_version = _int64(rng.choice((3, 4, 8, 11, *NUMBERS)))
        return f"IR version {proto.ir_version}"
    rng.choice(proto.opset_import).version = version = _int64(rng.choice((*range(1, 27), *NUMBERS)))
    return f"opset {version}"


def _metadata(proto: onnx.ModelProto, rng: random.Random) -> str:
    key = rng.choice(("names", "onnxcam/labels", "preprocess", "Image.BitmapPixelFormat", "mean", "std", "imgsz",
                      "onnxcam", "onnxcam/preprocess", "stride", "task"))  # fmt: skip
    value = rng.choice((*HOSTILE, "[" * 5000, "{0: 'a'}", "{9999999999: 'a'}", "[1e999]", "null", '["\\ud800"]',
                        "{'a': {}}", "-1", "nan", "[[0]]", "()" * 2000, "-" * 3000, '{"mean": [null]}'))  # fmt: skip
    proto.metadata_props.add(key=key, value=value)
    return f"{key} = {value[:30]!r}"


def _names(proto: onnx.ModelProto, rng: random.Random) -> str:
    """A value's name, everywhere."""
    old = rng.choice([o for n in _nodes(proto) for o in n.output] + [v.name for v in proto.graph.input])
    new = rng.choice(HOSTILE)
    for names in (names for n in _nodes(proto) for names in (n.input, n.output)):
        names[:] = [new if name == old else name for name in names]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        value.name = new if value.name == old else value.name
    return f"{old} is called {new[:30]!r}"


def _ends(proto: onnx.ModelProto, rng: random.Random) -> str:
    """Other inputs or outputs."""
    values = rng.choice((proto.graph.input, proto.graph.output))
    how = rng.choice(("inner", "weight", "none", "untyped"))
    if how == "none":
        del values[:]
    elif how == "untyped":
        values[0].ClearField("type")
    else:
        names = [o for n in _nodes(proto) for o in n.output] if how == "inner" else [
            t.name for t in proto.graph.initializer]  # fmt: skip
        values.add().CopyFrom(helper.make_tensor_value_info(rng.choice(names), 1, None))
    return f"ends: {how}"


def _sparse(proto: onnx.ModelProto, rng: random.Random) -> str:
    values = helper.make_tensor("sparse", 1, [2], [1.0, 2.0])
    indices = helper.make_tensor("", 7, [2], [0, rng.choice((1, -5, 2**62))])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [rng.choice((4, 2**40))]))
    rng.choice(_nodes(proto)).input[0] = "sparse"
    return "a sparse weight"


Change = Callable[[onnx.ModelProto, random.Random], str]
_FIELDS: tuple[Change, ...] = (_any_field,)
_SPECIAL: tuple[Change, ...] = (
    _operator, _cycle, _same_name, _remove, _attribute, _attribute, _attribute, _odd_attribute, _dimension, _dimension,
    _element_type, _weight, _weight, _weight, _cut_weight, _outside, _branch, _branch, _deep, _function, _versions,
    _metadata, _names, _ends, _sparse,
)  # fmt: skip
