"""ONNX's shape inference, kept from what kills it.

Its builds end the process where a Slice follows a negative length, as a window larger than its picture leaves behind.
So every length that may be negative is looked at before a Slice sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

from onnxcam.integrity import subgraphs

# Operators that may make a length smaller than nothing; those of the second row only by integers below 0.
_SHRINKING = {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv", "MaxPool", "AveragePool", "LpPool"}
_BY_NUMBERS = {"Pad", "Split", "Resize", "Upsample", "CenterCropPad", "MaxUnpool"}
_LOOKS = 300  # each of them infers all that comes before, so that time grows with their square


def infer_shapes(proto: ModelProto, **settings: bool) -> ModelProto:
    """As ``onnx.shape_inference.infer_shapes``.

    Raises:
        ValueError: a length is negative.
        onnx.shape_inference.InferenceError: types or shapes contradict one another.
    """
    check_lengths(proto)
    return _sound(onnx.shape_inference.infer_shapes(proto, **settings))


def infer_node_outputs(
    node: NodeProto, types: Mapping[str, TypeProto], opset: int, **more: Any
) -> dict[str, TypeProto]:
    """As ``onnx.shape_inference.infer_node_outputs``, of a node of the default domain; negative lengths are free.

    Raises:
        onnx.shape_inference.InferenceError: types or shapes contradict one another.
    """
    found = onnx.shape_inference.infer_node_outputs(
        onnx.defs.get_schema(node.op_type, opset, ""), node, {n: _freed(t) for n, t in types.items()},
        opset_imports=[onnx.helper.make_opsetid("", opset)], **more,
    )  # fmt: skip
    return {name: _freed(given) for name, given in found.items()}


def _freed(given: TypeProto) -> TypeProto:
    if all(d.dim_value >= 0 for d in given.tensor_type.shape.dim):
        return given
    free = TypeProto()
    free.CopyFrom(given)
    _free(free)
    return free


def _free(given: TypeProto) -> None:
    for dim in given.tensor_type.shape.dim:
        if dim.dim_value < 0:
            dim.Clear()


def free_negative_lengths(graph: GraphProto) -> None:
    """Some exporters write -1 for a free axis; ONNX leaves it out."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        _free(value.type)
    for body in (body for node in graph.node for body in subgraphs(node)):
        free_negative_lengths(body)


def check_lengths(proto: ModelProto) -> None:
    """Look at the lengths that Slices will see, from one to the next.

    Raises:
        ValueError: one is negative, or too many Slices follow one another for each to be looked at.
    """
    nodes = proto.graph.node
    if not any(map(_slices, nodes)):
        return
    numbers = {t.name: t for t in proto.graph.initializer}
    shrinking = [_may_shrink(node, numbers) for node in nodes]
    reads = [set(_reads(node)) for node in nodes]
    after = _behind(nodes, reads, shrinking)
    hidden = [_slices(node) and late for node, late in zip(nodes, after, strict=True)]
    for _ in range(_LOOKS):
        if not any(hidden):
            return
        unseen = [h or u for h, u in zip(hidden, _behind(nodes, reads, hidden), strict=True)]
        _sound(onnx.shape_inference.infer_shapes(_without(proto, unseen), data_prop=True))
        shrinking = [s and u for s, u in zip(shrinking, unseen, strict=True)]
        hidden = [h and late for h, late in zip(hidden, _behind(nodes, reads, shrinking), strict=True)]
    if any(hidden):
        raise ValueError(f"more than {_LOOKS} Slices follow one another with what may cut lengths between them")


def _without(proto: ModelProto, left_out: Iterable[bool]) -> ModelProto:
    draft = ModelProto()
    draft.CopyFrom(proto)
    del draft.graph.node[:]
    draft.graph.node.extend(node for node, out in zip(proto.graph.node, left_out, strict=True) if not out)
    return draft


def _behind(nodes: Iterable[NodeProto], reads: Iterable[set[str]], causes: Iterable[bool]) -> list[bool]:
    """Which of the nodes have a cause before them; nodes are in order."""
    tainted: set[str] = set()
    found = []
    for node, read, cause in zip(nodes, reads, causes, strict=True):
        found.append(not tainted.isdisjoint(read))
        if cause or found[-1]:
            tainted.update(node.output)
    return found


def _reads(node: NodeProto) -> Iterator[str]:
    yield from node.input
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from _reads(inner)


def _slices(node: NodeProto) -> bool:
    return node.op_type == "Slice" or any(_slices(inner) for graph in subgraphs(node) for inner in graph.node)


def _may_shrink(node: NodeProto, numbers: dict[str, TensorProto]) -> bool:
    if node.op_type in _SHRINKING:
        return not _padded(node, numbers)
    if node.op_type not in _BY_NUMBERS:
        return any(_may_shrink(inner, numbers) for graph in subgraphs(node) for inner in graph.node)
    given = [name for name in node.input[1:] if name]
    attributes = [v for a in node.attribute for v in (*a.ints, *a.floats)]
    return any(name not in numbers or _below_0(numbers[name]) for name in given) or any(v < 0 for v in attributes)


def _padded(node: NodeProto, numbers: dict[str, TensorProto]) -> bool:
    """Whether a convolution's window fits even into nothing, so that a length that is none stays none at worst."""
    if node.op_type != "Conv" or len(node.input) < 2 or node.input[1] not in numbers:
        return False
    kernel, given = list(numbers[node.input[1]].dims[2:]), {a.name: list(a.ints) for a in node.attribute if a.ints}
    ones, n = [1] * len(kernel), len(kernel)
    pads, steps = given.get("pads", [0] * 2 * n), [given.get(k, ones) for k in ("strides", "dilations")]
    if any(a.name == "auto_pad" for a in node.attribute) or given.get("kernel_shape", kernel) != kernel:
        return False
    if len(pads) != 2 * n or any(len(step) != n or min(step, default=1) < 1 for step in steps):
        return False
    return all(0 <= d * (k - 1) <= a + b for d, k, a, b in zip(steps[1], kernel, pads[:n], pads[n:], strict=True))


def _below_0(tensor: TensorProto) -> bool:
    return bool((onnx.numpy_helper.to_array(tensor) < 0).any())


def _sound(proto: ModelProto) -> ModelProto:
    for value in (*proto.graph.value_info, *proto.graph.output):
        if any(d.dim_value < 0 for d in value.type.tensor_type.shape.dim):
            raise ValueError(f"{value.name} has a negative length: what makes it reads more than there is")
    return proto
