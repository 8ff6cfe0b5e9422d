"""Is this file a sound ONNX graph? Everything that is checked before the graph is read.

Damaged and hostile files end here, each with a message that says what is wrong; what comes after may rely on it:
weights fill their dimensions and lie beside the model, nodes are in order, types and shapes do not contradict.
"""

from __future__ import annotations

import math
import mmap
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx import TensorProto

from onnxcam.errors import ModelError, reason

_LARGER = 1024  # bytes of a weight that is taken out; smaller ones may tell shapes
_UNCHANGING = ("Identity", "Constant", "Cast")
_LARGEST_OPSET = 2**31 - 1
_MOST_NODES = 1_000_000
_MOST_ROUNDS = 10_000
_ADDRESSES = 2**47  # bytes that processors address: of more, an inferred length is none, or the runtime refuses it


def read(file: Path) -> bytes | mmap.mmap:
    """The bytes of the file, mapped: its weights are held in memory once, by the message that is read from them.

    Raises:
        ModelError: there is none, it cannot be read, or it is empty.
    """
    if file.is_dir():
        raise ModelError(f"{file} is a folder; give the path of an .onnx file")
    try:
        with file.open("rb") as stream:
            mappable = stream.seekable() and file.stat().st_size > 0
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if mappable else stream.read()
    except FileNotFoundError:
        raise ModelError(f"{file}: no such file; check the path, or use zoo:NAME for a bundled model") from None
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}; check its permissions") from error
    if not data:
        raise ModelError(f"{file} is empty; export or download the model again")
    return data


def parse(file: Path, data: bytes | mmap.mmap) -> onnx.ModelProto:
    """The message that the bytes hold.

    Raises:
        ModelError: they hold none, or no graph.
    """
    if data[:64].startswith(b"version https://git-lfs"):
        raise ModelError(f"{file} is a Git LFS pointer, not the model; fetch the real file with `git lfs pull`")
    proto = onnx.ModelProto()
    try:
        with memoryview(data) as view:
            proto.ParseFromString(view)
    except (DecodeError, ValueError):
        raise ModelError(
            f"{file} is not an ONNX model, or is cut off ({len(data)} bytes); export or download it again"
        ) from None
    if not proto.graph.node:
        raise ModelError(f"{file} holds no graph; it is not an ONNX model, or it is cut off. Export it again")
    if garbled := next((t for t in _texts(proto) if isinstance(t, bytes)), None):
        raise ModelError(f"{file} is damaged: the name {garbled[:40]!r} is no UTF-8 text; export or download it again")
    return proto


def _texts(proto: onnx.ModelProto) -> Iterator[str | bytes]:
    """Names and metadata; protobuf gives bytes for those that are no UTF-8."""
    values = (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
    tensors, nodes = list(_all_tensors(proto)), list(all_nodes(proto))
    yield from (proto.producer_name, proto.producer_version, proto.domain, *(o.domain for o in proto.opset_import))
    yield from (named.name for named in (proto.graph, *values, *tensors))
    for node in nodes:
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
    for annotated in (proto, proto.graph, *values, *tensors, *nodes):
        yield annotated.doc_string
        yield from (t for m in annotated.metadata_props for t in (m.key, m.value))


def check_operators(file: Path, proto: onnx.ModelProto) -> int:
    """The opset of the default domain, when every operator is known.

    Raises:
        ModelError: no opset, one that is too new, or unknown operators.
    """
    imports = _imports(file, proto)
    opset: int | None = imports.get("")
    if opset is None:
        raise ModelError(
            f"{file} names no opset of the default domain (opset_import), so its operators have no defined meaning; "
            "export it again with a current exporter"
        )
    if bad := {d: v for d, v in imports.items() if not 0 < v <= _LARGEST_OPSET}:
        raise ModelError(f"{file} imports opset {bad}, which no operator set has; it is damaged, export it again")
    if opset > onnx.defs.onnx_opset_version() or proto.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{file} needs opset {opset} and IR version {proto.ir_version}; the installed onnx {onnx.__version__} "
            f"knows up to {onnx.defs.onnx_opset_version()} and {int(onnx.IR_VERSION)}. Upgrade onnx, or export with a "
            "lower opset"
        )
    if unknown := sorted(_unknown_operators(proto, imports)):
        raise ModelError(
            f"{file} uses operators that onnxcam does not know: {', '.join(unknown)}. Export it without custom "
            "operators, or remove debugging nodes"
        )
    return opset


def _imports(file: Path, proto: onnx.ModelProto) -> dict[str, int]:
    """Opsets by domain; of a domain that is named several times the entries behind the first are taken out."""
    imports: dict[str, int] = {}
    first: list[onnx.OperatorSetIdProto] = []
    for entry in proto.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if imports.setdefault(domain, entry.version) != entry.version:
            raise ModelError(
                f"{file} imports two opsets of the domain {domain!r}, {imports[domain]} and {entry.version}; it is "
                "damaged, export it again"
            )
        first += [entry] if len(imports) > len(first) else []
    del proto.opset_import[:]
    proto.opset_import.extend(first)
    return imports


def _unknown_operators(proto: onnx.ModelProto, imports: dict[str, int]) -> set[str]:
    functions = {(f.domain, f.name) for f in proto.functions}
    unknown = set()
    for node in all_nodes(proto):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (node.domain, node.op_type) in functions or domain.startswith(("com.microsoft", "onnxcam.")):
            continue
        if not onnx.defs.has(node.op_type, imports.get(domain, 1), domain):
            unknown.add(f"{domain + '::' if domain else ''}{node.op_type} (opset {imports.get(domain, '?')})")
    return unknown


def check_functions(file: Path, proto: onnx.ModelProto) -> None:
    """See that functions can be written out: ten that each call the one before ten times are 10 billion nodes.

    Raises:
        ModelError: one calls itself, or all of it written out is no graph of this world.
    """
    names = {(f.domain, f.name): k for k, f in enumerate(proto.functions)}
    bodies = [[names.get((n.domain, n.op_type)) for n in _nested(f.node)] for f in proto.functions]
    order = _topological([{k for k in body if k is not None} for body in bodies])
    if len(order) < len(bodies):
        stuck = proto.functions[min(set(range(len(bodies))) - set(order))]
        raise ModelError(f"{file}: its function {stuck.name[:60]!r} calls itself; export it again")
    sizes: dict[int, int] = {}
    for k in order:
        sizes[k] = sum(1 if called is None else sizes[called] for called in bodies[k])
    called = (names.get((n.domain, n.op_type)) for n in _nested(proto.graph.node))
    if (count := sum(1 if k is None else sizes[k] for k in called)) > _MOST_NODES:
        raise ModelError(
            f"{file}: with its functions written out it has {count:.3g} nodes, more than {_MOST_NODES:,}; export it "
            "without functions"
        )


def all_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of the graph, of its subgraphs and of the functions."""
    yield from _nested(proto.graph.node)
    for function in proto.functions:
        yield from _nested(function.node)


def _nested(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from _nested(graph.node)


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The bodies of an If, Loop or Scan."""
    return [g for a in node.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node and those within it read; "" where an input is left out."""
    yield from node.input
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from names_read(inner)


def _all_tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    yield from proto.graph.initializer
    for node in all_nodes(proto):
        for graph in subgraphs(node):
            yield from graph.initializer
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.HasField("t") else attribute.tensors


# External data


def locate_external_data(file: Path, proto: onnx.ModelProto) -> tuple[Path, ...]:
    """Point every external tensor at its real file, relative to the folder of the real model file.

    Returns:
        Those files, in the order of their names in the model.

    Raises:
        ModelError: the file is missing, or lies outside the model's folder.
    """
    home = file.resolve().parent
    checked: dict[str, str] = {}
    for tensor in _all_tensors(proto):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        for entry in tensor.external_data:
            if entry.key == "location":
                if entry.value not in checked:
                    checked[entry.value] = _external_location(file, home, entry.value)
                entry.value = checked[entry.value]
    return tuple(home / checked[name] for name in sorted(checked))


def _external_location(file: Path, home: Path, location: str) -> str:
    try:
        real = (file.parent / location).resolve()
        there = real.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a name that no file can have, links that go round
        raise ModelError(
            f"{file} keeps weights in {location[:60]!r}, which is no name of a file ({reason(error)}); export it again"
        ) from error
    inside = not Path(location).is_absolute() and ".." not in Path(location).parts
    # A hub cache links both files into one folder of blobs: the link's target lies beside the resolved model.
    if not inside or not (real.is_relative_to(home) or real.is_relative_to(file.parent.resolve())):
        raise ModelError(
            f"{file} keeps weights in {location!r}, outside its own folder; that is refused for safety. Move the "
            "weights beside the model and save it again"
        )
    if not there:
        raise ModelError(f"{file} keeps its weights in {location!r}, which is missing; put that file beside it")
    if not real.is_relative_to(home):
        raise ModelError(f"{file} is a link whose weights {location!r} are not beside its target; copy both files")
    return str(real.relative_to(home))


# Weights


def check_weights(file: Path, proto: onnx.ModelProto) -> None:
    """Hold the size of every weight's data against its dimensions.

    Raises:
        ModelError: data are missing or do not fit, or a name is used twice.
    """
    names = [t.name for t in proto.graph.initializer]
    if twice := next((n for n, count in Counter(names).items() if count > 1), None):
        raise ModelError(f"{file} holds two weights called {twice!r}; export it again")
    for tensor in _all_tensors(proto):
        if problem := _misfit(file, tensor):
            raise ModelError(
                f"{file}: weight {tensor.name!r} {list(tensor.dims)} {problem}; export or download it again"
            )


def _misfit(file: Path, tensor: TensorProto) -> str:
    """What is wrong with a tensor, or ""."""
    if tensor.data_type not in _ELEMENT_TYPES:
        return f"has the unknown element type {tensor.data_type}"
    if any(d < 0 for d in tensor.dims):
        return "has a negative dimension"
    count = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        held, needed, unit = len(tensor.string_data), count, "strings"
    elif tensor.data_location == TensorProto.EXTERNAL:
        held, needed, unit = _external_bytes(file, tensor), _bytes(tensor, count), "bytes in its external file"
    elif tensor.HasField("raw_data"):
        held, needed, unit = len(tensor.raw_data), _bytes(tensor, count), "bytes"
    else:
        held, needed, unit = _typed_entries(tensor, count)
    return "" if held == needed else f"needs {needed} {unit} and has {held}"


_ELEMENT_TYPES = {int(t) for t in ir.DataType} - {TensorProto.UNDEFINED}
_TYPED: dict[int, tuple[str, int]] = {
    TensorProto.FLOAT: ("float_data", 1),
    TensorProto.COMPLEX64: ("float_data", 2),
    TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.COMPLEX128: ("double_data", 2),
    TensorProto.INT64: ("int64_data", 1),
    TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
}


def _typed_entries(tensor: TensorProto, count: int) -> tuple[int, int, str]:
    """Entries of the typed field (onnx.proto, TensorProto): held, needed; below 8 bits several share one."""
    name, per_element = _TYPED.get(tensor.data_type, ("int32_data", 1))
    narrow = ir.DataType(tensor.data_type).bitwidth < 8
    return len(getattr(tensor, name)), _bytes(tensor, count) if narrow else count * per_element, f"entries of {name}"


def _bytes(tensor: TensorProto, count: int) -> int:
    return math.ceil(count * ir.DataType(tensor.data_type).bitwidth / 8)


def _external_bytes(file: Path, tensor: TensorProto) -> int:
    """Bytes that an external tensor has: its length, else up to the end of the file; -1 where the file is shorter."""
    entries = {e.key: e.value for e in tensor.external_data}
    if not entries.get("location"):
        return -1
    size = (file.resolve().parent / entries["location"]).stat().st_size
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries["length"]) if "length" in entries else _bytes(tensor, math.prod(tensor.dims))
    except ValueError:
        return -1
    return length if 0 <= offset <= offset + length <= size else max(size - max(offset, 0), -1)


# The graph


def take_weights(proto: onnx.ModelProto) -> dict[str, ir.TensorProtocol]:
    """Leave a skeleton: large weights become inputs without data, small ones constants that no input overrides.

    ONNX's C++ tools copy a message several times over, so they get the skeleton; :func:`give_back_weights` ends it.
    """
    graph = proto.graph
    held = {t.name: t for t in graph.initializer}
    large = {n: t for n, t in held.items() if _is_large(t)}
    small = [t for n, t in held.items() if n not in large]
    inputs = [v for v in graph.input if v.name not in held]
    inputs += [onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in large.values()]
    proto.ir_version = max(proto.ir_version, 4)
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(small)
    graph.input.extend(inputs)
    return {name: ir.from_proto(tensor) for name, tensor in large.items()}


def _is_large(tensor: TensorProto) -> bool:
    if tensor.data_type == TensorProto.STRING:  # a classifier's labels
        return False
    return tensor.data_location == TensorProto.EXTERNAL or _bytes(tensor, math.prod(tensor.dims)) > _LARGER


def give_back_weights(graph: ir.Graph, weights: Mapping[str, ir.TensorProtocol]) -> None:
    """Make the inputs that stand for weights initializers again."""
    stand_ins = {v.name: v for v in graph.inputs if v.name in weights}
    for name, value in stand_ins.items():
        graph.inputs.remove(value)
        value.const_value = weights[str(name)]
        graph.register_initializer(value)


def check_sizes(file: Path, graph: ir.Graph) -> None:
    """Lengths may be damaged so that a run would take all memory there is, which ends whatever the system picks.

    Many values that are held at a time may still do so, and those in bodies or of lengths that only a run tells.

    Raises:
        ModelError: one value alone takes more than half of the memory that there is.
    """
    room = _memory() / 2
    made = [v for node in graph for v in node.outputs if v.uses() or v.is_graph_output()]
    idle = [v for v in graph.inputs if not v.uses()]  # a run is given them nevertheless
    for value in (*idle, *made):
        if value.shape is None or value.dtype in (None, ir.DataType.STRING, ir.DataType.UNDEFINED):
            continue
        size = math.prod(d for d in value.shape if isinstance(d, int)) * value.dtype.itemsize
        node = value.producer()
        if size <= room or (node is not None and size >= _ADDRESSES):
            continue
        maker = f", which {node.op_type} makes," if node is not None else ""
        raise ModelError(
            f"{file}: {str(value.name)[:60]!r}{maker} has the lengths {str(value.shape)[:100]} and takes "
            f"{size / 2**30:,.1f} GB, more than half of the memory that there is ({room / 2**29:,.1f} GB). If they are "
            f"as meant, export the model for a smaller picture or batch"
        )


def _memory() -> int:
    """Bytes of this machine, or of the container; a terabyte where the system does not tell (Windows)."""
    if not hasattr(os, "sysconf"):
        return 2**40
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # of the second and the first kind of cgroups
        with suppress(OSError, ValueError):  # there is none, or it says "max"
            most = min(most, int(Path("/sys/fs/cgroup", limit).read_text()))
    return most


def check_structure(file: Path, proto: onnx.ModelProto) -> None:
    """Bring the nodes into order, then let ONNX's checker look at every name, operator and attribute.

    Raises:
        ModelError: a cycle, a name that nothing makes or that is made twice, a wrong attribute.
    """
    _sort_nodes(file, proto.graph)
    _check_loops(file, proto)
    _keep_inner_values(proto.graph)
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(proto)
    del skeleton.graph.value_info[:]
    skeleton.graph.name = skeleton.graph.name or "graph"
    for value in (*skeleton.graph.input, *skeleton.graph.output):  # shapes may be left out; the checker wants them
        if not value.HasField("type") or value.type.HasField("tensor_type"):
            value.type.tensor_type.elem_type = value.type.tensor_type.elem_type or TensorProto.FLOAT
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(skeleton)
    except Exception as error:  # it has exceptions of several kinds
        raise ModelError(f"{file} is not a valid ONNX graph: {first_line(error)}. Export it again") from error


def _check_loops(file: Path, proto: onnx.ModelProto) -> None:
    """A number of rounds that no condition ends is waited for."""
    numbers = {t.name: t for t in _all_tensors(proto) if t.data_type == TensorProto.INT64 and t.name}
    for node in all_nodes(proto):
        bodies = subgraphs(node)
        if node.op_type != "Loop" or not bodies or not node.input or node.input[0] not in numbers:
            continue
        rounds, body = onnx.numpy_helper.to_array(numbers[node.input[0]]), bodies[0]
        computed = {out: n for n in body.node for out in n.output}
        ends = computed.get(body.output[0].name) if body.output else None
        if rounds.size == 1 and rounds.item() > _MOST_ROUNDS and (ends is None or ends.op_type in _UNCHANGING):
            raise ModelError(
                f"{file}: its Loop {(node.name or node.output[0])[:60]} goes {rounds.item():,} rounds, and no "
                f"condition ends it; more than {_MOST_ROUNDS:,} are not waited for"
            )


def _keep_inner_values(graph: onnx.GraphProto) -> None:
    """Inputs and weights say their types themselves; what the file notes of them besides may be wrong."""
    known = {v.name for v in (*graph.input, *graph.initializer)}
    inner = [v for v in graph.value_info if v.name not in known]
    del graph.value_info[:]
    graph.value_info.extend(inner)


def _sort_nodes(file: Path, graph: onnx.GraphProto) -> None:
    """Kahn's algorithm; nodes stay in file order where that order is valid already."""
    makers = {out: k for k, node in enumerate(graph.node) for out in node.output if out}
    needs = [{makers[name] for name in names_read(node) if name in makers} for node in graph.node]
    if all(all(n < k for n in needed) for k, needed in enumerate(needs)):
        return
    order = _topological(needs)
    if len(order) < len(needs):
        stuck = graph.node[min(set(range(len(needs))) - set(order))]
        name = stuck.name or ", ".join(stuck.output)
        raise ModelError(f"{file}: its nodes form a cycle ({stuck.op_type} {name} waits for it); export it again")
    nodes = [graph.node[k] for k in order]
    ordered = onnx.GraphProto(node=nodes)
    del graph.node[:]
    graph.node.extend(ordered.node)


def _topological(needs: list[set[int]]) -> list[int]:
    followers: dict[int, list[int]] = {}
    for k, needed in enumerate(needs):
        for n in needed:
            followers.setdefault(n, []).append(k)
    waiting = [len(needed) for needed in needs]
    order = [k for k, count in enumerate(waiting) if count == 0]
    for k in order:
        for follower in followers.get(k, []):
            waiting[follower] -= 1
            if waiting[follower] == 0:
                order.append(follower)
    return order


def first_line(error: Exception) -> str:
    """The first line of another library's message, cut to a readable length."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
