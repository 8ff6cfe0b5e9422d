"""The last steps of an export: what the file need not hold goes, and what some runtime gets wrong is put otherwise."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcam.graph.symbolic import PREFIX, Writer
from onnxcam.model import Model

_WORTH = 2**14  # bytes; a smaller constant is cheaper than a node more, which some runtimes run every time


def finish(model: Model, writer: Writer) -> None:
    """Make a small file of the model, and one that every runtime computes, at no cost to the others; in place.

    Nothing is written after it.
    """
    writer.sweep()
    _drop_unread(model.graph)
    _turn_twins(model.graph, writer)
    _part_transposed(model.graph, writer)
    _forget_between(model.graph)


def _drop_unread(graph: ir.Graph) -> None:
    held = graph.initializers
    for name in [n for n, v in held.items() if not (v.uses() or v.is_graph_output() or v.is_graph_input())]:
        del held[name]


def _turn_twins(graph: ir.Graph, writer: Writer) -> None:
    """Of two written matrices that are each other's transpose, such as those of a resize, keep one."""
    kept = dict[tuple[tuple[int, ...], bytes], ir.Value]()
    for value in [v for v in graph.initializers.values() if (v.name or "").startswith(PREFIX)]:
        held = None if value.const_value is None else value.const_value.numpy()
        if held is None or held.ndim != 2 or held.nbytes < _WORTH:
            continue
        twin = kept.get((held.shape[::-1], np.ascontiguousarray(held.T).tobytes()))
        if twin is None:
            kept[held.shape, held.tobytes()] = value
            continue
        turned = writer.op("Transpose", writer.tensor(twin), perm=[1, 0], fold=False, memo=False).value
        _place_before(graph, graph[0], turned)
        ir.convenience.replace_all_uses_with(value, turned)
        del graph.initializers[str(value.name)]


def _part_transposed(graph: ir.Graph, writer: Writer) -> None:
    """A gradient multiplies by the transposed of a weight that the model multiplies by. OpenVINO's CPU plugin keeps one
    prepared copy for both where the weight is square, and so computes one of the two wrongly. Twice the weight, with
    half the factor, is another constant: the same bits, a number more in the file, and folded by runtimes that load it.
    """
    twice: dict[str, ir.Value] = {}
    for node in [n for n in graph if n.op_type == "Gemm" and (n.name or "").startswith(PREFIX)]:
        weight = node.inputs[1]
        assert weight is not None
        if not _is_square(weight) or len(weight.consumers()) < 2:
            continue
        name = str(weight.name)
        if name not in twice:
            tensor = writer.tensor(weight)
            twice[name] = writer.op("Mul", tensor, tensor.lift(2), fold=False).value
            _place_before(graph, node, twice[name])
        node.replace_input_with(1, twice[name])
        node.attributes["alpha"] = ir.AttrFloat32("alpha", node.attributes.get_float("alpha", 1.0) / 2)


def _is_square(value: ir.Value) -> bool:
    held = value.const_value
    return held is not None and len(held.shape) == 2 and held.shape[0] == held.shape[1]


def _place_before(graph: ir.Graph, reader: ir.Node, value: ir.Value) -> None:
    """A node that was written last stands before its first reader."""
    node = value.producer()
    assert node is not None
    graph.remove(node)
    graph.insert_before(reader, node)


def _forget_between(graph: ir.Graph) -> None:
    """Without the shapes of what lies between, which no runtime needs, and which pin axes that a runtime may want to
    settle (tract does); and without operator sets that no node is of, at whose versions older runtimes balk."""
    between = [v for node in graph for v in node.outputs if not v.is_graph_output()]
    for value in (*between, *(v for v in graph.initializers.values() if not v.is_graph_input())):
        value.shape = None
        value.type = None
    domains = {node.domain for node in graph.all_nodes()}
    for unused in set(graph.opset_imports) - domains - {""}:
        del graph.opset_imports[unused]
