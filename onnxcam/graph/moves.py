"""Operators that move elements about, run on arrays of places."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from onnxcam.graph.marks import NOWHERE, Complex, compact
from onnxcam.graph.sizes import Sizes


class UnknownError(Exception):
    """The places, or a shape, cannot be told."""


class Walk(Protocol):
    """What a move asks: places and integers of its inputs.

    Attributes:
        sizes: shapes and known arrays.
    """

    sizes: Sizes

    def at(self, value: ir.Value | None) -> Complex:
        """The places of a value; :class:`UnknownError` where its shape is unknown."""

    def integers(self, node: ir.Node, index: int) -> list[int] | None:
        """An integer input, flat; None where it is left out; :class:`UnknownError` where it is unknown."""


Move = Callable[[Walk, ir.Node], list[Complex]]
MOVES: dict[str, Move] = {}


def is_move(node: ir.Node) -> bool:
    """Whether a node only moves elements about."""
    return node.op_type in MOVES


def _named(op_type: str) -> Callable[[Move], Move]:
    def register(function: Move) -> Move:
        MOVES[op_type] = function
        return function

    return register


def _along(a: Complex, axes: Sequence[int]) -> Complex:
    """Thin, but whole along some axes."""
    keep = {k % a.ndim for k in axes}
    return a[tuple(slice(0, 1) if s == 0 and k not in keep else slice(None) for k, s in enumerate(a.strides))]


def _widened(small: Complex, like: Complex, axes: Sequence[int]) -> Complex:
    """What was done to a thinned array, at the full length of the other axes."""
    keep = {k % like.ndim for k in axes}
    return np.broadcast_to(small, [small.shape[k] if k in keep else n for k, n in enumerate(like.shape)])


@_named("Reshape")
def _reshape(walk: Walk, node: ir.Node) -> list[Complex]:
    a, target = walk.at(node.inputs[0]), walk.integers(node, 1)
    assert target is not None
    copies = not node.attributes.get_int("allowzero", 0)
    return [compact(a.reshape([a.shape[k] if n == 0 and copies else n for k, n in enumerate(target)]))]


@_named("Flatten")
def _flatten(walk: Walk, node: ir.Node) -> list[Complex]:
    a, axis = walk.at(node.inputs[0]), node.attributes.get_int("axis", 1)
    return [a.reshape(math.prod(a.shape[:axis]), -1)]


@_named("Squeeze")
def _squeeze(walk: Walk, node: ir.Node) -> list[Complex]:
    axes = walk.integers(node, 1)
    return [np.squeeze(walk.at(node.inputs[0]), None if axes is None else tuple(axes))]


@_named("Unsqueeze")
def _unsqueeze(walk: Walk, node: ir.Node) -> list[Complex]:
    return [np.expand_dims(walk.at(node.inputs[0]), tuple(walk.integers(node, 1) or ()))]


@_named("Transpose")
def _transpose(walk: Walk, node: ir.Node) -> list[Complex]:
    return [np.transpose(walk.at(node.inputs[0]), list(node.attributes.get_ints("perm", [])) or None)]


@_named("Slice")
def _slice(walk: Walk, node: ir.Node) -> list[Complex]:
    a, starts, ends = walk.at(node.inputs[0]), walk.integers(node, 1), walk.integers(node, 2)
    assert starts is not None
    assert ends is not None
    axes = walk.integers(node, 3) or list(range(len(starts)))
    steps = walk.integers(node, 4) or [1] * len(starts)
    parts = [slice(None)] * a.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        parts[axis] = slice(start, None if step < 0 and end < -a.shape[axis] else end, step)
    return [a[tuple(parts)]]


@_named("Gather")
def _gather(walk: Walk, node: ir.Node) -> list[Complex]:
    a, indices = walk.at(node.inputs[0]), walk.sizes.data(node.inputs[1])
    if indices is None:
        raise UnknownError
    axis = node.attributes.get_int("axis", 0) % a.ndim
    found = np.take(_along(a, [axis]), indices.astype(np.int64), axis)
    return [np.broadcast_to(found, (*a.shape[:axis], *indices.shape, *a.shape[axis + 1 :]))]


@_named("Split")
def _split(walk: Walk, node: ir.Node) -> list[Complex]:
    a, sizes = walk.at(node.inputs[0]), walk.integers(node, 1)
    axis, count = node.attributes.get_int("axis", 0), len(node.outputs)
    if sizes is None:
        most = -(-a.shape[axis] // count)
        sizes = [most] * (count - 1) + [a.shape[axis] - most * (count - 1)]
    return list(np.split(a, np.cumsum(sizes)[:-1], axis))


@_named("Concat")
def _concat(walk: Walk, node: ir.Node) -> list[Complex]:
    arrays = [walk.at(v) for v in node.inputs]
    axis = node.attributes.get_int("axis", 0) % arrays[0].ndim
    changing = {k for a in arrays for k, step in enumerate(a.strides) if step} | {axis}
    found = np.concatenate([_along(a, sorted(changing)) for a in arrays], axis)
    return [_widened(found, arrays[0], sorted(changing))]


@_named("Pad")
def _pad(walk: Walk, node: ir.Node) -> list[Complex]:
    a, amounts = walk.at(node.inputs[0]), walk.integers(node, 1)
    assert amounts is not None
    axes = [k % a.ndim for k in walk.integers(node, 3) or range(a.ndim)]
    widths = {k: (amounts[i], amounts[i + len(axes)]) for i, k in enumerate(axes) if any(amounts[i :: len(axes)])}
    full = [widths.get(k, (0, 0)) for k in range(a.ndim)]
    if any(n < 0 for pair in full for n in pair) or node.attributes.get_string("mode", "constant") != "constant":
        raise UnknownError
    found = np.pad(_along(a, list(widths)), full, constant_values=NOWHERE)
    return [_widened(found, a, list(widths))]


@_named("Expand")
def _expand(walk: Walk, node: ir.Node) -> list[Complex]:
    a, shape = walk.at(node.inputs[0]), walk.integers(node, 1)
    return [np.broadcast_to(a, np.broadcast_shapes(a.shape, tuple(shape or ())))]


@_named("Tile")
def _tile(walk: Walk, node: ir.Node) -> list[Complex]:
    return [np.tile(walk.at(node.inputs[0]), walk.integers(node, 1) or [])]
