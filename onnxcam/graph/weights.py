"""Weights as gradients read them: floats, without a second copy of what the model stores in fewer bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir

from onnxcam.constants import evaluated
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor, Writer

_KEPT_BELOW = 2**16  # bytes of levels; the floats of larger ones are computed when a runtime loads the file
_EVALUATED_BELOW = 2**26
_READING = {"Cast", "Sub", "Mul", "DequantizeLinear"}


def weight(writer: Writer, value: ir.Value) -> Tensor:
    """The expression for ``value``; a constant that the model stores quantised is read as floats.

    A second reader of its DequantizeLinear would have runtimes dequantise it twice in every run. A small one becomes a
    constant; a large one is written as ``(levels - zero point) scale`` of the constants that are there, which runtimes
    compute once, when they load the file.
    """
    node = _dequantizer(value)
    if node is None:
        return writer.tensor(value)
    size = sum(v.const_value.nbytes for v in node.inputs if v is not None and v.const_value is not None)
    if size > _KEPT_BELOW and _is_plain(node):
        return _floats(node, _parts(writer, node), fold=False)
    return writer.tensor(value) if size > _EVALUATED_BELOW else _evaluated(writer, node)


def entries(writer: Writer, value: ir.Value, index: Tensor, axis: int) -> Tensor:
    """The entries ``index`` (N,) of a matrix along one axis; of a quantised one, no others are dequantised."""
    node = _dequantizer(value)
    if node is None or not _is_plain(node):
        return writer.op("Gather", weight(writer, value), index, axis=axis)
    own = _axis(node) == axis
    levels, *others = _parts(writer, node)
    assert levels is not None
    chosen = [writer.op("Gather", p, index) if p is not None and own and _is_vector(p) else p for p in others]
    return _floats(node, [writer.op("Gather", levels, index, axis=axis), *chosen])


def is_settled(weight: Tensor) -> bool:
    """Whether runtimes know a weight when they load the file: a constant, or what reads one stored in fewer bits."""
    while weight.const is None:
        node = weight.value.producer()
        if node is None or node.op_type not in _READING:
            return False
        if any(v is not None and v.const_value is None for v in node.inputs[1:]):
            return False
        weight = weight.writer.tensor(cast("ir.Value", node.inputs[0]))
    return True


def _dequantizer(value: ir.Value) -> ir.Node | None:
    """The DequantizeLinear of constants that makes ``value``."""
    node = value.producer()
    constant = node is not None and all(v is None or v.const_value is not None for v in node.inputs)
    return node if node is not None and constant and node.op_type == "DequantizeLinear" else None


def _is_plain(node: ir.Node) -> bool:
    """Of a scale per tensor or per channel, in levels that runtimes cast."""
    levels = cast("ir.Value", node.inputs[0]).dtype
    return levels is not None and levels.bitwidth >= 8 and not node.attributes.get_int("block_size", 0)


def _axis(node: ir.Node) -> int:
    rank = len(cast("ir.Shape", cast("ir.Value", node.inputs[0]).shape))
    return node.attributes.get_int("axis", 1) % max(rank, 1)


def _parts(writer: Writer, node: ir.Node) -> list[Tensor | None]:
    """Levels, scale and zero point, where that is not 0."""
    levels, scale, *rest = [None if v is None else writer.tensor(v) for v in node.inputs]
    return [levels, scale, *(p for p in rest if p is not None and np.any(p.const))]


def _is_vector(parameter: Tensor) -> bool:
    return parameter.rank == 1 and parameter.shape != (1,)


def _floats(node: ir.Node, inputs: Sequence[Tensor | None], fold: bool = True) -> Tensor:
    """(levels - zero point) scale, where scale and zero point are numbers or vectors along the node's axis."""
    levels, scale, point = (*inputs, None)[:3]
    assert levels is not None
    assert scale is not None
    write, dtype = levels.writer.op, int(cast("ir.DataType", node.outputs[0].dtype))
    found = write("Cast", levels, to=dtype, fold=fold)
    if point is not None:
        found = write("Sub", found, _along(node, write("Cast", point, to=dtype), levels.rank), fold=fold)
    return write("Mul", found, xp.astype(_along(node, scale, levels.rank), found.dtype), fold=fold)


def _along(node: ir.Node, parameter: Tensor, rank: int) -> Tensor:
    axis = _axis(node)
    return xp.reshape(parameter, [-1 if a == axis else 1 for a in range(rank)]) if _is_vector(parameter) else parameter


def _evaluated(writer: Writer, node: ir.Node) -> Tensor:
    held = {f"i{k}": v.const_value.numpy() for k, v in enumerate(node.inputs) if v is not None and v.const_value}
    names = ["" if v is None else f"i{k}" for k, v in enumerate(node.inputs)]
    attributes: dict[str, Any] = {a.name: a.value for a in node.attributes.values()}
    proto = onnx.helper.make_node("DequantizeLinear", names, ["y"], **attributes)
    # The reference evaluator has the operator from opset 19 on; what it computes did not change.
    (found,) = evaluated(proto, {"": max(writer.opset, 19)}, held)
    return writer.constant(found, node.outputs[0].dtype)
