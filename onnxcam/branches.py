"""Branches that are taken for certain: an If whose condition follows from constants and fixed lengths.

TorchScript writes one for every squeeze of an axis that may have length 1. As long as it stands, nobody knows how many
axes come out of it; so the branch that is taken replaces it. What the model computes stays the same.
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
from onnx import ModelProto

from onnxcam.shapes import known_integers


def take_known(proto: ModelProto) -> tuple[ModelProto, int]:
    """Replace every If of the main graph whose condition is known by the branch that it takes.

    Returns:
        The model, the same object where nothing changed, and how many were replaced.
    """
    taken = 0
    while any(node.op_type == "If" for node in proto.graph.node):
        known = known_integers(proto)
        model = ir.from_proto(proto)
        choices = [(n, known.get(str(n.inputs[0].name))) for n in model.graph if n.op_type == "If" and n.inputs[0]]
        decided = [(node, bool(condition.item())) for node, condition in choices if condition is not None]
        if not decided:
            break
        used = _names(model.graph)
        for node, holds in decided:
            branches = [node.attributes[name].as_graph() for name in ("else_branch", "then_branch")]
            used -= _names(branches[not holds])
            _replace(model.graph, node, branches[holds], used)
        proto, taken = ir.to_proto(model), taken + len(decided)
    return proto, taken


def _names(graph: ir.Graph) -> Counter[str]:
    """How often each name occurs, subgraphs included."""
    found = Counter(str(v.name) for v in (*graph.inputs, *graph.initializers.values()))
    for node in graph:
        found.update([str(node.name), *(str(v.name) for v in node.outputs)])
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                found += _names(attribute.as_graph())
    return found


def _replace(graph: ir.Graph, node: ir.Node, branch: ir.Graph, used: Counter[str]) -> None:
    weights, nodes, results = list(branch.initializers.values()), list(branch), list(branch.outputs)
    branch.outputs.clear()
    branch.initializers.clear()
    branch.remove(nodes)
    for value in (*weights, *(v for n in nodes for v in n.outputs)):
        value.name = _fresh(value.name, used)
    for inner in nodes:
        inner.name = _fresh(inner.name, used) if inner.name else inner.name
    for value in weights:
        graph.register_initializer(value)
    graph.insert_before(node, nodes)
    made = {id(v) for n in nodes for v in n.outputs}
    for output, result in zip(node.outputs, results, strict=True):
        new = result if id(result) in made else _copied(graph, node, result)
        made.discard(id(new))  # one that comes out twice needs a copy for the second
        _take_place(output, new)
    graph.remove(node, safe=True)


def _copied(graph: ir.Graph, before: ir.Node, value: ir.Value) -> ir.Value:
    """A copy of a value that has a name of its own already: a weight, or one from outside of the branch."""
    copy = ir.node("Identity", [value])
    copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
    graph.insert_before(before, copy)
    return copy.outputs[0]


def _take_place(output: ir.Value, new: ir.Value) -> None:
    new.type = new.type or output.type
    ir.convenience.replace_all_uses_with(output, new, replace_graph_outputs=True)
    new.name, output.name = output.name, None


def _fresh(name: str | None, used: Counter[str]) -> str:
    """The name, with a number behind it where something else has it too."""
    if name is None or used[name] <= 1:
        return str(name)
    number = next(k for k in range(1, used.total() + 1) if not used[f"{name}_{k}"])
    used[name] -= 1
    used[f"{name}_{number}"] += 1
    return f"{name}_{number}"
