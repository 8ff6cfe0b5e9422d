"""Resize, whose every mode is linear in its input along each axis."""

from __future__ import annotations

import math

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, vjp
from onnxcam.gradients.rules.linear import along, unit_rows
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor
from onnxcam.model import Dim

_COPYING = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}


@vjp("Resize")  # y = M x along each axis, so dx = M^T dy
def resize(node: Node, dy: Tensor) -> Cotangents:
    if node.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedError("keep_aspect_ratio_policy other than stretch")
    if repeats := _whole_repeats(node):
        return _pooled_sum(dy, repeats)
    dx = dy
    for axis in _resized_axes(node):
        dx = along(dx, xp.permute_dims(_responses(node, axis, dy), [1, 0]), axis, node.x)
    return dx


def _resized_axes(node: Node) -> list[int]:
    rank = node.x.rank
    axes = [a % rank for a in node.attr("axes", list(range(rank)))]
    return [a for at, a in enumerate(axes) if not _unchanged(node, at, a)]


def _unchanged(node: Node, at: int, axis: int) -> bool:
    """Whether the operator leaves this axis as it is."""
    before, after = _lengths(node, axis)
    known = isinstance(before, int) and before == after
    scales = node.input(2)
    if scales is None or scales.shape == (0,):
        return known and not _crops(node)
    if scales.const is None or scales.const[at] == 1:
        return scales.const is not None and not _crops(node)
    if known:
        raise UnsupportedError(f"a scale that keeps the length of axis {axis}, which runtimes read in two ways")
    return False


def _crops(node: Node) -> bool:
    return node.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"


def _lengths(node: Node, axis: int) -> tuple[Dim, Dim]:
    x, y = node.x.shape, node.y.shape
    assert x is not None
    assert y is not None
    return x[axis], y[axis]


def _responses(node: Node, axis: int, dy: Tensor) -> Tensor:
    """(before, after): row i is what the operator makes of a unit at i along one axis.

    The operator itself tells, at run time: runtimes differ in where they round, and this follows each of them.
    """
    attributes = {n: a.value for n, a in node.raw.attributes.items() if n not in _NOT_PASSED}
    if _crops(node):
        attributes["extrapolation_value"] = 0.0  # a constant outside the picture has no gradient
    units = xp.expand_dims(unit_rows(xp.dim(node.x, axis), dy), [0, 1])
    made = node.writer.op("Resize", units, *_one_axis_inputs(node, axis), fold=False, **attributes)
    return xp.squeeze(made, [0, 1])


_NOT_PASSED = ("axes", "keep_aspect_ratio_policy", "extrapolation_value")


def _one_axis_inputs(node: Node, axis: int) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """roi, scales and sizes that stretch the last of four axes as the node stretches ``axis``."""
    rank = node.x.rank
    axes = [a % rank for a in node.attr("axes", list(range(rank)))]
    at, count = axes.index(axis), len(axes)
    roi, scales = node.input(1), node.input(2)
    if roi is not None and _crops(node):
        begin, end = xp.slice_axis(roi, 0, at, at + 1), xp.slice_axis(roi, 0, count + at, count + at + 1)
        roi = xp.concat([roi.lift([0, 0, 0]), begin, roi.lift([1, 1, 1]), end])
    else:
        roi = None
    if scales is not None and scales.shape != (0,):
        return roi, xp.concat([scales.lift([1, 1, 1]), xp.slice_axis(scales, 0, at, at + 1)]), None
    before, after = xp.dim(node.x, axis), xp.dim(node.y, axis)
    return roi, None, xp.concat([before.lift([1, 1]), before, after])


def _whole_repeats(node: Node) -> list[int]:
    """How often a nearest upsampling repeats each pixel, per spatial axis; empty for anything else."""
    mode = node.attr("coordinate_transformation_mode", "half_pixel"), node.attr("nearest_mode", "round_prefer_floor")
    if node.attr("mode", "nearest") != "nearest" or mode not in _COPYING or node.x.rank < 3:
        return []
    factors = [int(f) if f is not None and f == int(f) else 0 for f in _scales(node)]
    return factors[2:] if all(factors) and factors[:2] == [1, 1] and max(factors) > 1 else []


def _scales(node: Node) -> list[float | None]:
    """The factor of each axis; None where it is not known."""
    scales, rank = node.input(2), node.x.rank
    if scales is None or scales.shape == (0,):
        return [_ratio(*_lengths(node, a)) for a in range(rank)]
    plain = scales.const is not None and "axes" not in node.raw.attributes
    return [float(s) for s in scales.const] if plain else [None] * rank  # type: ignore[union-attr]


def _ratio(before: Dim, after: Dim) -> float | None:
    if isinstance(before, int) and isinstance(after, int):
        return after / before
    return 1.0 if before is not None and before == after else None


def _pooled_sum(dy: Tensor, repeats: list[int]) -> Tensor:
    """Each pixel gathers the cotangents of its copies."""
    pooled = dy.writer.op("AveragePool", dy, kernel_shape=repeats, strides=repeats)
    return pooled * float(math.prod(repeats))
