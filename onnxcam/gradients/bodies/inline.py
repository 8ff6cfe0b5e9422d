"""Writing a graph's nodes into another graph: what a function, a branch or a loop's body says, node by node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx_ir as ir

from onnxcam.gradients.rules import UnsupportedError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor, Writer

Known = dict[ir.Value, Tensor | None]


def write_nodes(
    writer: Writer, nodes: Iterable[ir.Node], known: Known, attributes: Mapping[str, ir.Attr] | None = None
) -> None:
    """Write ``nodes`` on what ``known`` holds for their inputs, and add their outputs to it.

    Args:
        writer: writes; it folds what is constant.
        nodes: in order, of the default domain.
        known: by value of the inner graph; what is missing belongs to the outer graph. It is added to.
        attributes: what attributes of a function that refer to its caller's stand for.
    """
    for node in nodes:
        if node.domain not in ("", "ai.onnx"):
            raise UnsupportedError(f"it holds {node.domain}::{node.op_type}, which has no standard form")
        given = {a.name: _resolved(a, attributes or {}) for a in node.attributes.values()}
        inputs = [None if v is None else _operand(writer, v, known) for v in node.inputs]
        made = _write(writer, node, inputs, {k: a for k, a in given.items() if a is not None}, known)
        known.update(zip(node.outputs, made, strict=False))


def _resolved(attribute: ir.Attr, attributes: Mapping[str, ir.Attr]) -> ir.Attr | None:
    return attributes.get(str(attribute.ref_attr_name)) if attribute.is_ref() else attribute


def _operand(writer: Writer, value: ir.Value, known: Known) -> Tensor | None:
    return known[value] if value in known else writer.tensor(value)


def _write(
    writer: Writer, node: ir.Node, inputs: list[Tensor | None], attributes: dict[str, ir.Attr], known: Known
) -> tuple[Tensor, ...]:
    match node.op_type:
        case "Constant":
            return (constant(writer, attributes),)
        case "Identity" if inputs[0] is not None:
            return (inputs[0],)
        case "Shape" if inputs[0] is not None and not attributes:
            return (xp.shape_of(inputs[0]),)
        case "If":
            return _branch(writer, inputs[0], attributes, known)
    values = {name: a.value for name, a in attributes.items()}
    return writer.ops(node.op_type, *inputs, outputs=len(node.outputs), **values)


def constant(writer: Writer, attributes: Mapping[str, ir.Attr]) -> Tensor:
    """What a Constant node holds."""
    attribute = next(iter(attributes.values()))
    if attribute.type == ir.AttributeType.TENSOR:
        return writer.constant(attribute.as_tensor().numpy())
    kinds: dict[str, Any] = {"FLOAT": ir.DataType.FLOAT, "INT": ir.DataType.INT64}
    kind = next((t for name, t in kinds.items() if attribute.type.name.startswith(name)), None)
    if kind is None:
        raise UnsupportedError(f"it holds a constant of type {attribute.type.name}")
    return writer.constant(attribute.value, kind)


def _branch(
    writer: Writer, condition: Tensor | None, attributes: Mapping[str, ir.Attr], known: Known
) -> tuple[Tensor, ...]:
    """The branch of an If whose condition is known."""
    if condition is None or condition.const is None:
        raise UnsupportedError("an If whose condition is computed at run time")
    graph = attributes["then_branch" if condition.const.item() else "else_branch"].as_graph()
    write_graph(writer, graph, known)
    found = [_operand(writer, v, known) for v in graph.outputs]
    return tuple(t for t in found if t is not None)


def write_graph(writer: Writer, graph: ir.Graph, known: Known) -> None:
    """Write a subgraph's nodes; its inputs are in ``known``, and its outputs are after it."""
    known.update((v, writer.constant(v.const_value.numpy())) for v in graph.initializers.values() if v.const_value)
    write_nodes(writer, graph, known)
