"""Resize, whose every mode is linear in its input along each axis."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, vjp
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor


@vjp("Resize")  # y = M x along each axis, so dx = M^T dy
def resize(node: Node, dy: Tensor) -> Cotangents:
    repeats = _whole_repeats(node)
    if repeats is not None:
        return _pooled_sum(dy, repeats)
    x, y = node.x, node.y
    if node.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise UnsupportedError("coordinate_transformation_mode=tf_crop_and_resize")
    dx = dy
    for axis in range(x.rank):
        before, after = (t.shape[axis] if t.shape is not None else None for t in (x, y))
        if before == after and before is not None:
            continue
        if not isinstance(before, int) or not isinstance(after, int):
            raise UnsupportedError(f"axis {axis} has no fixed length")
        dx = _along(dx, _matrix(node, axis, before), axis)
    return dx


def _matrix(node: Node, axis: int, length: int) -> Any:
    """(after, before): what the operator does along one axis, seen from its answer to unit vectors."""
    names, extra = _one_axis_inputs(node, axis)
    keep = {a.name for a in node.raw.attributes.values()} - {"axes", "keep_aspect_ratio_policy"}
    attributes = [ir.to_proto(a) for a in node.raw.attributes.values() if a.name in keep]
    proto = onnx.helper.make_node("Resize", ["x", "", *names], ["y"])
    proto.attribute.extend(attributes)
    evaluator = ReferenceEvaluator(proto, opsets={"": node.writer.opset})
    columns = [
        cast("list[Any]", evaluator.run(None, {"x": unit, **extra}))[0] for unit in np.eye(length, dtype=np.float32)
    ]
    return np.stack(columns, axis=1)


def _one_axis_inputs(node: Node, axis: int) -> tuple[list[str], dict[str, Any]]:
    scales, sizes = node.const(2, "scales"), node.const(3, "sizes")
    axes = node.attr("axes", list(range(node.x.rank)))
    at = [a % node.x.rank for a in axes].index(axis)
    if scales is not None and scales.size:
        return ["scales"], {"scales": scales[at : at + 1]}
    if node.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedError("keep_aspect_ratio_policy")
    return ["", "sizes"], {"sizes": sizes[at : at + 1]}


def _along(dy: Tensor, matrix: Any, axis: int) -> Tensor:
    """M^T applied along one axis."""
    order = [*(a for a in range(dy.rank) if a != axis), axis]
    moved = xp.permute_dims(dy, order) if axis != dy.rank - 1 else dy
    product = xp.matmul(moved, matrix.astype(dy.dtype.numpy()))
    return xp.permute_dims(product, np.argsort(order).tolist()) if axis != dy.rank - 1 else product


def _whole_repeats(node: Node) -> list[int] | None:
    """Whole-number scales of a nearest upsampling that repeats pixels; None for anything else."""
    mode = (
        node.attr("coordinate_transformation_mode", "half_pixel"),
        node.attr("nearest_mode", "round_prefer_floor"),
    )
    plain = mode in {
        ("asymmetric", "floor"),
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
    }
    scales = node.input(2)
    if node.attr("mode", "nearest") != "nearest" or not plain or scales is None or scales.const is None:
        return None
    whole = scales.const.size == node.x.rank and bool(np.all(scales.const == np.round(scales.const)))
    if not whole or list(scales.const[:2]) != [1, 1] or "axes" in node.raw.attributes:
        return None
    return [int(s) for s in scales.const[2:]]


def _pooled_sum(dy: Tensor, repeats: list[int]) -> Tensor:
    """Each pixel gathers the cotangents of its copies."""
    pooled = dy.writer.op("AveragePool", dy, kernel_shape=repeats, strides=repeats)
    return pooled * float(np.prod(repeats))
