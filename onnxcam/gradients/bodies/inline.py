"""Writing a graph's nodes into another graph: what a function, a branch or a loop's body says, node by node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import onnx_ir as ir

from onnxcam.gradients.rules import UnsupportedError
from onnxcam.graph.symbolic import Tensor, Writer

Elements = tuple[Tensor, ...]  # a sequence, whose length is known
Made = Tensor | Elements | None
Known = dict[ir.Value, Any]  # what is Made; a dict cannot say so of its values and take others' as well
MOST_NODES = 10_000  # that one node of the model is written out in


@dataclass(frozen=True)
class Call:
    """A node that is written as something else.

    Attributes:
        writer: writes.
        inputs: what its inputs are.
        attributes: its own.
        known: what the values of the graph around it are.
    """

    writer: Writer
    inputs: Sequence[Made]
    attributes: Mapping[str, ir.Attr]
    known: Known

    def input(self, index: int) -> Tensor | None:
        """Input ``index``, a tensor; None where it is left out."""
        given = self.inputs[index] if index < len(self.inputs) else None
        if isinstance(given, tuple):
            raise UnsupportedError("a sequence where a tensor belongs")
        return given

    def attr(self, name: str, default: Any) -> Any:
        """The value of an attribute."""
        return self.attributes[name].value if name in self.attributes else default

    def graph(self, name: str) -> ir.Graph:
        """A subgraph."""
        return self.attributes[name].as_graph()


# Operators that are written as something else: control flow and sequences register here.
STRUCTURED: dict[str, Callable[[Call], Sequence[Made]]] = {}


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
        inputs = [None if v is None else operand(writer, v, known) for v in node.inputs]
        call = Call(writer, inputs, {k: a for k, a in given.items() if a is not None}, known)
        known.update(zip(node.outputs, _write(node, call), strict=False))


def _resolved(attribute: ir.Attr, attributes: Mapping[str, ir.Attr]) -> ir.Attr | None:
    return attributes.get(str(attribute.ref_attr_name)) if attribute.is_ref() else attribute


def operand(writer: Writer, value: ir.Value, known: Known) -> Made:
    """What ``value`` is: as ``known`` has it, else of the graph that is written into."""
    if value in known:
        return cast("Made", known[value])
    maker = value.producer()
    if isinstance(value.type, ir.TensorType) or maker is None or maker.op_type not in STRUCTURED:
        return writer.tensor(value)
    return STRUCTURED[maker.op_type](call_of(writer, maker))[maker.outputs.index(value)]


def call_of(writer: Writer, node: ir.Node) -> Call:
    """A node of the graph that is written into, as a call."""
    inputs = [None if v is None else operand(writer, v, {}) for v in node.inputs]
    return Call(writer, inputs, dict(node.attributes), {})


def _write(node: ir.Node, call: Call) -> Sequence[Made]:
    writer, op_type = call.writer, node.op_type
    if op_type in STRUCTURED:
        return STRUCTURED[op_type](call)
    inputs = [call.input(i) for i in range(len(call.inputs))]
    match op_type:
        case "Constant":
            return (constant(writer, call.attributes),)
        case "Identity" if inputs[0] is not None:
            return (inputs[0],)
    values = {name: a.value for name, a in call.attributes.items()}
    return writer.ops(op_type, *inputs, outputs=len(node.outputs), **values)


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


def weights_of(writer: Writer, graph: ir.Graph) -> Known:
    """The constants that a subgraph holds."""
    held = graph.initializers.values()
    return {v: writer.constant(v.const_value.numpy()) for v in held if v.const_value is not None}


def write_graph(writer: Writer, graph: ir.Graph, known: Known) -> list[Made]:
    """Write a subgraph's nodes, and return its outputs.

    Args:
        writer: writes.
        graph: the subgraph.
        known: what its inputs, its weights and the values around it are; it is added to.
    """
    write_nodes(writer, graph, known)
    return [operand(writer, v, known) for v in graph.outputs]
