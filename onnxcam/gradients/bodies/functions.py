"""Operators that ONNX defines by a function of simpler ones (onnx/defs: FunctionBody)."""

from __future__ import annotations

from typing import Any, cast

import onnx
import onnx_ir as ir

from onnxcam.gradients.bodies.inline import Known, write_nodes
from onnxcam.gradients.rules import Node
from onnxcam.graph.symbolic import Tensor, type_proto


def has_function(node: ir.Node, opset: int) -> bool:
    """Whether ONNX defines the operator by a function."""
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, opset, ""):
        return False
    schema = _schema(node.op_type, opset)
    return bool(schema.has_function or schema.has_context_dependent_function)


def write_function(node: Node) -> list[Tensor | None]:
    """Write what the operator's function says; one tensor per output."""
    proto = _function(node)
    names = list(proto.output)
    made = {name for inner in proto.node for name in inner.output}
    proto.output[:] = [n for n in names if n in made]  # Attention's lists outputs that it leaves out
    function = cast("ir.Function", ir.from_proto(proto))
    given = [node.input(i) for i in range(len(function.inputs))]
    known: Known = dict(zip(function.inputs, given, strict=True))
    write_nodes(node.writer, function, known, _attributes(node))
    found = {v.name: known[v] for v in function.outputs}
    return [found.get(name) for name in names[: len(node.raw.outputs)]]


def _attributes(node: Node) -> dict[str, ir.Attr]:
    """The node's attributes, and the defaults of those that it leaves out."""
    attributes = _schema(node.raw.op_type, node.writer.opset).attributes.items()
    defaults = {n: a.default_value for n, a in attributes if a.default_value.name}
    return {n: cast("ir.Attr", ir.from_proto(a)) for n, a in defaults.items()} | dict(node.raw.attributes)


def _function(node: Node) -> onnx.FunctionProto:
    schema = _schema(node.raw.op_type, node.writer.opset)
    if schema.has_function:
        version = max(v for v in schema.function_opset_versions if v <= node.writer.opset)
        body = schema.get_function_with_opset_version(version)
    else:
        version = max(v for v in schema.context_dependent_function_opset_versions if v <= node.writer.opset)
        types = [b"" if t is None else type_proto(t).SerializeToString() for t in node.optional_xs]
        caller = ir.to_proto(node.raw).SerializeToString()
        body = schema.get_context_dependent_function_with_opset_version(version, caller, types)
    proto = onnx.FunctionProto()
    proto.ParseFromString(body)
    return proto


def _schema(op_type: str, opset: int) -> Any:
    """ONNX's definition; the type stubs of onnx lack what it knows of functions."""
    return onnx.defs.get_schema(op_type, opset, "")
