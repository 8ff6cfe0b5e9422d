"""What an exported file is spared or given so that every runtime computes it, at no cost to the others."""

from __future__ import annotations

import onnx_ir as ir

from onnxcam.graph.symbolic import PREFIX, Writer
from onnxcam.model import Model


def forget_between(model: Model) -> None:
    """Without the shapes of what lies between, which no runtime needs, and which pin axes that a runtime may want to
    settle (tract does); and without operator sets that no node is of, at whose versions older runtimes balk."""
    graph = model.graph
    between = [v for node in graph for v in node.outputs if not v.is_graph_output()]
    for value in (*between, *(v for v in graph.initializers.values() if not v.is_graph_input())):
        value.shape = None
        value.type = None
    domains = {node.domain for node in graph.all_nodes()}
    for unused in set(graph.opset_imports) - domains - {""}:
        del graph.opset_imports[unused]


def part_transposed(model: Model, writer: Writer) -> None:
    """A gradient multiplies by the transposed of a weight that the model multiplies by. OpenVINO's CPU plugin keeps one
    prepared copy for both where the weight is square, and so computes one of the two wrongly. Twice the weight, with
    half the factor, is another constant: the same bits, a number more in the file, and folded by runtimes that load it.
    """
    twice: dict[str, ir.Value] = {}
    for node in [n for n in model.graph if n.op_type == "Gemm" and (n.name or "").startswith(PREFIX)]:
        weight = node.inputs[1]
        assert weight is not None
        if not _is_square(weight) or len(weight.consumers()) < 2:
            continue
        name = str(weight.name)
        twice[name] = twice[name] if name in twice else _doubled(model, writer, weight, node)
        node.replace_input_with(1, twice[name])
        node.attributes["alpha"] = ir.AttrFloat32("alpha", node.attributes.get_float("alpha", 1.0) / 2)


def _doubled(model: Model, writer: Writer, weight: ir.Value, reader: ir.Node) -> ir.Value:
    tensor = writer.tensor(weight)
    found = writer.op("Mul", tensor, tensor.lift(2), fold=False).value
    node = found.producer()
    assert node is not None
    model.graph.remove(node)
    model.graph.insert_before(reader, node)
    return found


def _is_square(value: ir.Value) -> bool:
    held = value.const_value
    return held is not None and len(held.shape) == 2 and held.shape[0] == held.shape[1]
