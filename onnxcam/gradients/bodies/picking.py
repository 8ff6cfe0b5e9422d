"""Operators that pick or place what they are told to, written with Gather and scatter."""

from __future__ import annotations

from typing import Any

from onnxcam.gradients.bodies import Written, body
from onnxcam.gradients.rules import Node, UnsupportedError
from onnxcam.gradients.rules.linear import positions
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor


@body("Compress")  # the places whose condition holds
def compress(node: Node) -> Written:
    condition = node.input(1)
    assert condition is not None
    return _picked(node, xp.reshape(node.writer.op("NonZero", condition), [-1]))


@body("Unique")  # each value from where it comes first
def unique(node: Node) -> Written:
    attributes: dict[str, Any] = {"axis": _axis(node), "sorted": node.attr("sorted", 1)}
    _, first = node.writer.ops("Unique", node.x, outputs=2, **attributes)
    return _picked(node, first)


def _picked(node: Node, places: Tensor) -> Tensor:
    axis = _axis(node)
    x = xp.reshape(node.x, [-1]) if axis is None else node.x
    return node.writer.op("Gather", x, places, axis=axis or 0)


def _axis(node: Node) -> int | None:
    return node.attr("axis", 0) if "axis" in node.raw.attributes else None


@body("TensorScatter")  # the update takes the places from its write index on, around the end if circular
def tensor_scatter(node: Node) -> Written:
    past, update = node.x, node.input(1)
    assert update is not None
    axis = node.attr("axis", -2) % past.rank
    if axis == 0:
        raise UnsupportedError("the batch as the sequence axis")
    index = _along(positions(xp.dim(update, axis)), axis, past.rank)
    start = node.input(2)
    if start is not None:
        index = index + _along(start, 0, past.rank)
    if node.attr("mode", "linear") == "circular":
        index = node.writer.op("Mod", index, xp.dim(past, axis))
    index = xp.broadcast_to(index, xp.shape_of(update), update.shape)
    return node.writer.op("ScatterElements", past, index, update, axis=axis)


def _along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """A vector along one axis of ``rank``."""
    return xp.expand_dims(vector, [a for a in range(rank) if a != axis])
