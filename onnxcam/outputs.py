"""What comes out of a model, made tensors of scores: what lies before maps, sequences, labels and top-k lists."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

from onnxcam.errors import ModelError

_SCORES = {0, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
_SCORES |= {onnx.TensorProto.UINT8, onnx.TensorProto.INT8}
# What may lie between the index of the largest score and a label; which input it comes by.
_LABELLING = {"Cast": 0, "Identity": 0, "Reshape": 0, "Squeeze": 0, "Unsqueeze": 0, "Flatten": 0}
_LABELLING |= {"Gather": 1, "ArrayFeatureExtractor": 1, "LabelEncoder": 0}
_CHOOSING = {"ArgMax", "TopK"}


def reveal_scores(file: Path, proto: ModelProto) -> list[str]:
    """Replace outputs that are no tensors by the tensors before them, and add the scores that labels come from.

    Returns:
        What was done, in words.

    Raises:
        ModelError: no output is a tensor, or comes of one.
    """
    graph = proto.graph
    makers = {out: node for node in graph.node for out in node.output}
    kept: dict[str, ValueInfoProto] = {}
    notes = []
    for output in graph.output:
        if output.type.WhichOneof("value") in ("tensor_type", None):
            kept[output.name] = output
            continue
        found = _before(makers.get(output.name))
        notes.append(f"output {output.name} is no tensor; {f'read {found[0]} before it' if found else 'left out'}")
        for name in found:
            kept.setdefault(name, ValueInfoProto(name=name))
    if not kept:
        raise ModelError(f"{file} has no tensor output; give a model whose scores come out as a tensor")
    for name, node in {o: _chooser(makers, o) for o in kept}.items():
        if node is not None and not any(_is_score(v, makers) for v in kept.values()):
            kept.setdefault(node.input[0], ValueInfoProto(name=node.input[0]))
            notes.append(f"output {name} is what {node.op_type} chose; read {node.input[0]} before it")
    if notes:
        del graph.output[:]
        graph.output.extend(kept.values())
        _drop_unused_nodes(graph)
    return notes


def named_scores(graph: GraphProto) -> list[str]:
    """The class names that a map of scores (ONNX-ML ZipMap) puts beside them, in the order of the scores."""
    maps = (node for node in graph.node if node.op_type == "ZipMap")
    held = (a.strings for node in maps for a in node.attribute if a.name == "classlabels_strings")
    return [name.decode(errors="replace") for name in next(held, ())]


def _before(node: NodeProto | None) -> list[str]:
    """The tensors that a map (ONNX-ML ZipMap) or a sequence is made of."""
    if node is None or node.op_type not in ("ZipMap", "SequenceConstruct", "SplitToSequence"):
        return []
    return list(node.input) if node.op_type == "SequenceConstruct" else [node.input[0]]


def _chooser(makers: dict[str, NodeProto], name: str) -> NodeProto | None:
    """The node whose choice of the largest ends up in the output."""
    node = makers.get(name)
    while node is not None and node.op_type in _LABELLING and len(node.input) > _LABELLING[node.op_type]:
        node = makers.get(node.input[_LABELLING[node.op_type]])
    chooses = node is not None and node.op_type in _CHOOSING and node.input[0] in makers
    return node if chooses else None


def _is_score(value: ValueInfoProto, makers: dict[str, NodeProto]) -> bool:
    """Whether an output may hold the score of each class: floats or levels that nothing was chosen from."""
    kind = value.type.tensor_type.elem_type  # 0 where nothing is declared
    return kind in _SCORES and _chooser(makers, value.name) is None


def _drop_unused_nodes(graph: GraphProto) -> None:
    needed = {o.name for o in graph.output}
    keep = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            keep.append(node)
            needed.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(keep))
