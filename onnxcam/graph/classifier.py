"""Global average pooling and the linear layers behind it: what makes a map of classes out of a classifier's weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from onnxcam.graph.inspect import Logits
from onnxcam.graph.paths import first_float, float_path
from onnxcam.model import Layout, Model, dims_of

# Operators that are linear in their first input when the others are constants.
_LINEAR = {"Gemm", "MatMul", "Conv", "Add", "Sub", "Mul", "Div", "BatchNormalization"}
_MOVING = {"Identity", "Cast", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}
_ROUNDING = {"QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True)
class Classifier:
    """A head of global average pooling and linear layers, or of pooling alone (the maps are the classes).

    Attributes:
        layer: the map that is pooled.
        pooled: what pooling makes of it, (N, K) or (N, K, 1, 1).
        layout: where the map's channels are.
        reason: how this is known.
    """

    layer: str
    pooled: str
    layout: Layout
    reason: str


def find_classifier(model: Model, logits: Logits) -> Classifier | str:
    """The head, or in words why there is none of this kind."""
    value, linear = model.values[logits.name], list[str]()
    image = first_float(model.values[model.image_input.name])
    computed = {id(v) for n in float_path(value, [image]) for v in n.outputs}
    while (node := value.producer()) is not None:
        if (layout := _pools_all(node)) and node.inputs[0] is not None:
            between = " and ".join(linear[::-1]) or "nothing: the maps are the classes"
            why = f"{node.op_type} {node.name} takes the mean of each map; behind it {between}"
            return Classifier(str(node.inputs[0].name), str(node.outputs[0].name), layout, why)
        source = _passes(node, computed)
        if source is None:
            return f"{node.op_type} {node.name} before {logits.name} is neither linear nor global average pooling"
        linear += [node.op_type] if node.op_type in _LINEAR else []
        value = source
    return f"there is no global average pooling before {logits.name}"


def _passes(node: ir.Node, computed: Collection[int]) -> ir.Value | None:
    """The one computed input of a node that is linear in it; None where there is none, or it is not linear."""
    if node.op_type not in _LINEAR | _MOVING | _ROUNDING:
        return None
    found = [v for v in node.inputs if v is not None and id(v) in computed]
    first = node.op_type not in ("Div", "Gemm", "Conv", "BatchNormalization") or node.inputs[0] in found
    return found[0] if len(found) == 1 and first else None


def _pools_all(node: ir.Node) -> Layout | None:
    """The layout of a map whose pixels are averaged (or summed) to one."""
    source = node.inputs[0] if node.inputs else None
    if source is None or source.shape is None or len(source.shape) != 4:
        return None
    if node.op_type == "GlobalAveragePool":
        return "NCHW"
    if node.op_type == "AveragePool":
        kernel, size = node.attributes.get_ints("kernel_shape", []), dims_of(source)[2:]
        whole = tuple(kernel) == size and not any(node.attributes.get_ints("pads", []))
        return "NCHW" if whole else None
    if node.op_type not in ("ReduceMean", "ReduceSum"):
        return None
    axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    found = None if axes is None else sorted(int(a) % 4 for a in axes.numpy())
    layouts: dict[tuple[int, ...], Layout] = {(2, 3): "NCHW", (1, 2): "NHWC"}
    return layouts.get(tuple(found)) if found else None
