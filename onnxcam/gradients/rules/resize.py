"""Resize, whose every mode is linear in its input along each axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, vjp
from onnxcam.gradients.rules.linear import along, one_hot, positions, unit_rows
from onnxcam.gradients.rules.reduction import moved
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor
from onnxcam.model import Dim

_COPYING = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}


@vjp("Resize")  # y = M x along each axis, so dx = M^T dy
def resize(node: Node, dy: Tensor) -> Cotangents:
    dx = _to_input(node, dy) if 0 in node.wanted else None
    return dx, _to_region(node, dy) if 1 in node.wanted else None


def _to_input(node: Node, dy: Tensor) -> Tensor:
    repeats, axes = _whole_repeats(node), _resized_axes(node)
    dx = _pooled_sum(dy, repeats) if repeats else _pulled_back(node, dy, axes)
    shared_out = min(axes, default=0) >= 2 and not _crops(node)  # a pixel's weights are 1 in sum, in every mode
    return moved(node, dy, dx) if shared_out else dx


def _pulled_back(node: Node, dy: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in axes:
        dy = along(dy, xp.permute_dims(_responses(node, axis, dy), [1, 0]), axis, node.x)
    return dy


def _axes(node: Node) -> list[int]:
    """The axes that roi, scales and sizes are of."""
    rank = node.x.rank
    return [a % rank for a in node.attr("axes", list(range(rank)))]


def _resized_axes(node: Node) -> list[int]:
    return [axis for at, axis in enumerate(_axes(node)) if not _unchanged(node, at, axis)]


def _unchanged(node: Node, at: int, axis: int) -> bool:
    """Whether the operator leaves this axis as it is, whatever the others do."""
    before, after = _lengths(node, axis)
    scales = _scales_input(node)
    if before == after == 1:
        return True
    if scales is not None:
        return scales.const is not None and scales.const[at] == 1 and not _crops(node)
    return before is not None and before == after and not _crops(node) and not _keeps_aspect(node)


def _scales_input(node: Node) -> Tensor | None:
    """The factors, where they rather than sizes are given."""
    scales = node.input(2)
    return None if scales is None or scales.shape == (0,) else scales


def _crops(node: Node) -> bool:
    return node.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"


def _keeps_aspect(node: Node) -> bool:
    return node.attr("keep_aspect_ratio_policy", "stretch") != "stretch"


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
    units = xp.expand_dims(unit_rows(xp.dim(node.x, axis), dy), [0, 2])
    if _keeps_aspect(node):
        units, inputs, more = _beside_its_partner(node, axis, units)
        attributes |= more
    else:
        inputs = _one_axis_inputs(node, axis)
    made = node.writer.op("Resize", units, *inputs, fold=False, **attributes)
    single = made.shape is not None and made.shape[2] == 1
    return xp.squeeze(made if single else xp.slice_axis(made, 2, 0, 1), [0, 2])


_NOT_PASSED = ("axes", "keep_aspect_ratio_policy", "extrapolation_value")
_Inputs = tuple[Tensor | None, Tensor | None, Tensor | None]


def _one_axis_inputs(node: Node, axis: int) -> _Inputs:
    """roi, scales and sizes that stretch the last of four axes as the node stretches ``axis``."""
    at, scales, lines = _axes(node).index(axis), _scales_input(node), _lines(node, axis)
    roi = _region(node, at) if _crops(node) else None
    if scales is not None:
        factor = xp.slice_axis(scales, 0, at, at + 1)
        return roi, xp.concat([scales.lift([1, 1]), xp.astype(lines, scales.dtype), factor]), None
    before, after = xp.dim(node.x, axis), xp.dim(node.y, axis)
    return roi, None, xp.concat([before.lift([1]), before, lines, after])


def _region(node: Node, at: int) -> Tensor | None:
    """The roi of the last of four axes."""
    roi = node.input(1)
    if roi is None:
        return None
    count = len(_axes(node))
    begin, end = (xp.slice_axis(roi, 0, k, k + 1) for k in (at, count + at))
    return xp.concat([roi.lift([0, 0, 0]), begin, roi.lift([1, 1, 1]), end])


def _lines(node: Node, axis: int) -> Tensor:
    """How many lines the single line of units becomes, a vector of one element.

    A runtime that copies what keeps its shape would not tell how an axis that keeps its length goes along with others
    that do not: where that may be, the line is doubled if any axis of the node's changes.
    """
    one = node.writer.constant([1])
    if not _may_stay(node, axis):
        return one
    lengths = [_lengths(node, a) for a in range(node.x.rank)]
    if any(isinstance(b, int) and isinstance(a, int) and b != a for b, a in lengths):
        return one + 1
    changes = xp.astype(~(xp.shape_of(node.x) == xp.shape_of(node.y)), one.dtype)
    return xp.max(changes, 0, keepdims=True) + 1


def _may_stay(node: Node, axis: int) -> bool:
    """Whether an axis that is resized may keep its length."""
    before, after = _lengths(node, axis)
    if isinstance(before, int) and isinstance(after, int):
        return before == after
    scales = _scales_input(node)
    if scales is None or scales.const is None:
        return scales is not None or _crops(node)
    return _crops(node) or 1 < scales.const[_axes(node).index(axis)] < 2


def _beside_its_partner(node: Node, axis: int, units: Tensor) -> tuple[Tensor, _Inputs, dict[str, Any]]:
    """Units and sizes that keep the node's aspect ratio: on a second axis lies the one that decides the factor."""
    policy, sizes = node.attr("keep_aspect_ratio_policy", ""), node.input(3)
    assert sizes is not None
    partner, at = _decider(node, axis), _axes(node).index(axis)
    size = xp.slice_axis(sizes, 0, at, at + 1)
    if partner is None:
        return units, (None, None, size), {"axes": [3], "keep_aspect_ratio_policy": policy}
    one, length = xp.dim(units, 0), xp.dim(units, 1)
    lines = xp.broadcast_to(units, xp.concat([one, length, xp.dim(node.x, partner), length]), [1, None, None, None])
    at = _axes(node).index(partner)
    both = xp.concat([xp.slice_axis(sizes, 0, at, at + 1), size])
    return lines, (None, None, both), {"axes": [2, 3], "keep_aspect_ratio_policy": policy}


def _decider(node: Node, axis: int) -> int | None:
    """The axis whose ratio of sizes is the smallest or largest, as the policy says; None where it is this one."""
    axes, sizes = _axes(node), node.input(3)
    others = [a for a in axes if a != axis]
    if len(others) < 2:
        return others[0] if others else None
    lengths = [_lengths(node, a)[0] for a in axes]
    if sizes is None or sizes.const is None or not all(isinstance(n, int) for n in lengths):
        raise UnsupportedError("an aspect ratio kept over more than two axes, some of unknown length")
    ratios = [s / n for s, n in zip(sizes.const, lengths, strict=True)]
    pick = min if node.attr("keep_aspect_ratio_policy", "") == "not_larger" else max
    decider = axes[ratios.index(pick(ratios))]
    return None if decider == axis else decider


def _whole_repeats(node: Node) -> list[int]:
    """How often a nearest upsampling repeats each pixel, per spatial axis; empty for anything else."""
    mode = node.attr("coordinate_transformation_mode", "half_pixel"), node.attr("nearest_mode", "round_prefer_floor")
    if node.attr("mode", "nearest") != "nearest" or mode not in _COPYING or node.x.rank < 3:
        return []
    factors = [int(f) if f is not None and f == int(f) else 0 for f in _scales(node)]
    return factors[2:] if all(factors) and factors[:2] == [1, 1] and max(factors) > 1 else []


def _scales(node: Node) -> list[float | None]:
    """The factor of each axis; None where it is not known."""
    scales, rank = _scales_input(node), node.x.rank
    if scales is None:
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


def _to_region(node: Node, dy: Tensor) -> Tensor:
    """The gradient of the roi, which moves the places along each axis that are read."""
    roi = node.input(1)
    assert roi is not None
    if not _crops(node) or node.attr("mode", "nearest") == "nearest":
        return xp.zeros_like(roi, dy.dtype)
    if node.attr("mode", "nearest") == "cubic" or node.attr("antialias", 0):
        raise UnsupportedError("the roi's gradient, for cubic or antialiased resizing")
    pairs = [_edges(node, dy, roi, at, axis) for at, axis in enumerate(_axes(node))]
    return xp.concat([*(b for b, _ in pairs), *(e for _, e in pairs)])


def _edges(node: Node, dy: Tensor, roi: Tensor, at: int, axis: int) -> tuple[Tensor, Tensor]:
    """d/d begin and d/d end of one axis' places (begin (1 - t) + end t) (n - 1), with t from 0 to 1."""
    before, after = _lengths(node, axis)
    if before == 1 or (isinstance(before, int) and before == after):  # ONNX Runtime does not crop what keeps its length
        return dy.lift([0]), dy.lift([0])
    count = len(_axes(node))
    begin, end = (xp.astype(xp.slice_axis(roi, 0, k, k + 1), dy.dtype) for k in (at, count + at))
    n, m = xp.dim(node.x, axis), xp.dim(node.y, axis)
    last, steps = (xp.astype(length - 1, dy.dtype) for length in (n, m))
    t = xp.where(steps > 0, xp.astype(positions(m), dy.dtype) / xp.maximum(steps, steps.lift(1)), 0.5)
    places = (begin * (1.0 - t) + end * t) * last
    moves = xp.astype((places >= 0.0) & (places <= last) & ~(n == m), dy.dtype) * last
    below = xp.minimum(xp.astype(xp.floor(places), n.dtype), n - 2)
    slope = one_hot(below + 1, n, dy, -1) - one_hot(below, n, dy, -1)
    moved = xp.sum(_matrix_gradient(node, dy, axis) * slope, 1) * moves
    return tuple(xp.sum(moved * share, 0, keepdims=True) for share in (1.0 - t, t))  # type: ignore[return-value]


def _matrix_gradient(node: Node, dy: Tensor, axis: int) -> Tensor:
    """(after, before): the cotangent of the matrix that is applied to one axis."""
    rest = _pulled_back(node, dy, [a for a in _resized_axes(node) if a != axis])
    letters = "abcdefgh"[: dy.rank]
    read = letters.replace(letters[axis], "z")
    return dy.writer.op("Einsum", rest, node.x, equation=f"{letters},{read}->{letters[axis]}z")
