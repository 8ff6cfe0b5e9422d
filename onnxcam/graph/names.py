"""Finding a value by the name a person would use: a value, a node, or a module scope of the exporter."""

from __future__ import annotations

import ast

import onnx_ir as ir

from onnxcam.errors import UnknownNameError
from onnxcam.model import Model

_SCOPES = "pkg.torch.onnx.name_scopes"


def find_value(model: Model, name: str) -> ir.Value:
    """The value called ``name``; failing that the first output of the node, then the output of the module.

    Module scopes are ``layer4`` or ``layer4.1.relu``: PyTorch's dynamo exporter writes them into
    ``pkg.torch.onnx.name_scopes``, its TorchScript exporter into node names (``/layer4/layer4.1/relu/Relu``).

    Raises:
        UnknownNameError: nothing is called so; the closest names are offered.
    """
    value = model.values.get(name) or _by_node(model, name) or _by_scope(model, name)
    if value is None:
        known = [v.name for n in model.graph for v in n.outputs if v.name] + [v.name for v in model.inputs if v.name]
        hint = "`onnxcam inspect MODEL` lists the candidate layers"
        raise UnknownNameError.of("layer", name, [*scopes(model), *known], hint)
    return value


def _by_node(model: Model, name: str) -> ir.Value | None:
    return next((n.outputs[0] for n in model.graph if n.name == name), None)


def _by_scope(model: Model, scope: str) -> ir.Value | None:
    """The last value that leaves the module."""
    inside = [n for n in model.graph if scope in node_scopes(n)]
    members = set(map(id, inside))
    leaving = [
        v for n in inside for v in n.outputs if v.is_graph_output() or any(id(c) not in members for c in v.consumers())
    ]
    return leaving[-1] if leaving else None


def node_scopes(node: ir.Node) -> list[str]:
    """The modules a node belongs to, outermost first."""
    text = node.metadata_props.get(_SCOPES)
    if text:
        try:
            return [s for s in ast.literal_eval(text)[:-1] if s]
        except (ValueError, SyntaxError):
            return []
    return _dotted([p for p in (node.name or "").split("/")[:-1] if p])


def _dotted(parts: list[str]) -> list[str]:
    """The parts of a TorchScript node's name, and the modules' full names that they stand for.

    In ``/blocks/blocks.1/norm1/Add`` the second part says the first one again; the module is ``blocks.1.norm1``.
    """
    found, whole, last = dict.fromkeys(parts), "", ""
    for part in parts:
        above = whole.removesuffix(last) if last and part.startswith(f"{last}.") else f"{whole}." if whole else ""
        whole, last = above + part, part
        found[whole] = None
    return list(found)


def scopes(model: Model) -> list[str]:
    """Every module scope of the model."""
    return list(dict.fromkeys(s for n in model.graph for s in node_scopes(n)))
