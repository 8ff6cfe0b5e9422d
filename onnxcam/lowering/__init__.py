"""Operators outside the ONNX standard, rewritten in standard ones when a model is loaded.

Runtimes and their tools leave operators of their own in files (fused, quantised or channels-last ones), and old
exporters wrote operators that ONNX dropped. A lowering is a function of the call that writes the same computation in
operators of the default domain and returns the name of its result, or one name per output::

    @lowers("BiasGelu", domain=MICROSOFT)
    def bias_gelu(call):
        return gelu(call, call.op("Add", call.input(0), call.input(1)))

The result takes the name of the output that it replaces, so layers are found by the names that the file gives them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import GraphProto, ModelProto, TensorProto

from onnxcam.integrity import all_nodes, subgraphs
from onnxcam.lowering.draft import Call, Draft, StaysError, Weights
from onnxcam.shapes import opset_of

MICROSOFT, LEGACY = "com.microsoft", "onnxcam.legacy"
Lowering = Callable[[Call], str | Sequence[str]]
LOWERINGS: dict[tuple[str, str], Lowering] = {}
_QUANTISERS = {(MICROSOFT, "QuantizeLinear"), (MICROSOFT, "DequantizeLinear")}
_WIDE_QUANTISERS = 21  # the first opset whose quantisers take 16 and 4 bits
_BYTES = (TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT, TensorProto.INT32)


def lowers(*op_types: str, domain: str) -> Callable[[Lowering], Lowering]:
    """Register a lowering; the domain ``LEGACY`` holds operators that the default domain has not (any more)."""

    def register(function: Lowering) -> Lowering:
        LOWERINGS.update({(domain, op_type): function for op_type in op_types})
        return function

    return register


def set_aside(proto: ModelProto) -> None:
    """Move operators that the default domain lacks at the model's opset to a domain of their own.

    ONNX's checker and version converter know nothing of them there, and let them be.
    """
    opset = opset_of(proto)
    if not opset:
        return
    moved = False
    for node in all_nodes(proto):
        lacking = node.domain in ("", "ai.onnx") and (LEGACY, node.op_type) in LOWERINGS
        if lacking and not onnx.defs.has(node.op_type, min(opset, onnx.defs.onnx_opset_version()), ""):
            node.domain, moved = LEGACY, True
    for holder in (proto, *proto.functions) if moved else ():
        holder.opset_import.add(domain=LEGACY, version=1)


def least_opset(proto: ModelProto, least: int) -> int:
    """The opset that the lowered model needs: ``least``, or more where quantisers of 16 or 4 bits become standard."""
    wide = {t.name for t in proto.graph.initializer if t.data_type not in _BYTES}
    quantisers = (n for n in all_nodes(proto) if (n.domain, n.op_type) in _QUANTISERS)
    return max(least, _WIDE_QUANTISERS) if any(wide & set(n.input) for n in quantisers) else least


def lower(proto: ModelProto, weights: Weights, folder: Path) -> list[str]:
    """Rewrite every operator that the table holds; returns notes of what was done.

    Args:
        proto: the model, at the opset that is written; it is changed.
        weights: tensors that were taken out of it, by name; larger new ones are added.
        folder: where the external data of ``weights`` lie.
    """
    if not {(n.domain, n.op_type) for n in all_nodes(proto)} & LOWERINGS.keys():
        return []
    for tensor in weights.values():
        if isinstance(tensor, ir.ExternalTensor):
            tensor.base_dir = folder
    opset = opset_of(proto)
    done, left, before = Counter[str](), dict[str, str](), _read(proto)
    _lower_graph(Draft(proto.graph, opset, weights, _names(proto)), done, left)
    _forget(proto.graph, weights, before - _read(proto))
    used = {n.domain for n in all_nodes(proto)} | {"", "ai.onnx"}
    kept = [o for o in proto.opset_import if o.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    return [*_notes("lowered to standard operators", (f"{n} {op}" for op, n in done.items())),
            *_notes("left as they are", (f"{op} ({why})" for op, why in left.items()))]  # fmt: skip


def _notes(what: str, operators: Iterable[str]) -> list[str]:
    text = ", ".join(operators)
    return [f"{what}: {text}"] if text else []


def _names(proto: ModelProto) -> set[str]:
    graphs = [proto.graph, *(g for n in all_nodes(proto) for g in subgraphs(n))]
    values = {v.name for g in graphs for v in (*g.input, *g.output, *g.initializer, *g.value_info)}
    return values | {name for n in all_nodes(proto) for name in (*n.input, *n.output)}


def _read(proto: ModelProto) -> set[str]:
    return {v.name for v in proto.graph.output} | {name for n in all_nodes(proto) for name in n.input}


def _forget(graph: GraphProto, weights: Weights, unread: set[str]) -> None:
    """Drop constants that nothing reads any more."""
    inputs = [v for v in graph.input if not (v.name in unread and v.name in weights)]
    tensors = [t for t in graph.initializer if t.name not in unread]
    kept = GraphProto(input=inputs, initializer=tensors)
    del graph.input[:], graph.initializer[:]
    graph.input.extend(kept.input)
    graph.initializer.extend(kept.initializer)


def _lower_graph(draft: Draft, done: Counter[str], left: dict[str, str]) -> None:
    for node in list(draft.graph.node):
        for inner in subgraphs(node):
            _lower_graph(draft.inner(inner), done, left)
        function = LOWERINGS.get((node.domain, node.op_type))
        name = f"{node.domain}::{node.op_type}".removeprefix(f"{LEGACY}::").removeprefix("::")
        try:
            if function is not None:
                call = Call(node, draft)
                call.finish(function(call))
                done[name] += 1
                continue
        except StaysError as error:
            left[name] = str(error)
        draft.nodes.append(node)
    draft.finish()


from onnxcam.lowering import attention, fused, integers, layouts, legacy, normalization, quantized  # noqa: E402

__all__ = [
    "LEGACY",
    "LOWERINGS",
    "MICROSOFT",
    "Call",
    "StaysError",
    "attention",
    "fused",
    "integers",
    "layouts",
    "least_opset",
    "legacy",
    "lower",
    "lowers",
    "normalization",
    "quantized",
    "set_aside",
]
