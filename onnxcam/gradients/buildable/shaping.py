"""Operators that move elements about."""

from __future__ import annotations

import numpy as np

from onnxcam.gradients.buildable import lower
from onnxcam.gradients.path_copy import Made, Node
from onnxcam.gradients.rules import UnsupportedError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor
from onnxcam.model import dims_of


@lower("Dropout")
def dropout(node: Node) -> Made:
    return node.x


@lower("ScatterElements", "ScatterND")  # the builder takes every reduction for none
def scatter(node: Node) -> Made:
    if (reduction := node.attr("reduction", "none")) != "none":
        raise UnsupportedError(f"reduction={reduction}")
    return node.as_it_is()


@lower("Split")  # the builder forgets the outputs that nothing reads
def split(node: Node) -> Made:
    axis = node.attr("axis", 0) % node.x.rank
    start, pieces = node.ints(0), []
    for value in node.raw.outputs:
        piece = node.copy.held(value)
        end = start + xp.dim(piece, axis)
        pieces.append(node.op("Slice", node.x, start, end, node.ints(axis), shape=piece.shape))
        start = end
    return tuple(pieces)


@lower("Slice")  # the builder's kernel fails on some negative steps
def slice_(node: Node) -> Made:
    steps = node.const(4)
    if steps is None or bool(np.all(steps > 0)):
        return node.as_it_is()
    starts, ends, axes, x = node.const(1), node.const(2), node.const(3), node.x
    for axis, start, end, step in zip(range(len(starts)) if axes is None else axes, starts, ends, steps, strict=True):
        length = dims_of(node.raw.inputs[0])[axis] if node.raw.inputs[0] is not None else None
        if not isinstance(length, int):
            raise UnsupportedError(f"a negative step, and axis {axis} has no fixed length")
        stop = None if step < 0 and end < -length else int(end)
        taken = range(length)[int(start) : stop : int(step)]
        x = node.op("Gather", x, node.ints(*taken), axis=int(axis))
    return x


@lower("Pad")
def pad(node: Node) -> Made:
    node.only(0)
    if (mode := node.attr("mode", "constant")) != "constant":
        raise UnsupportedError(f"mode={mode}")
    pads, rank = node.const(1), node.x.rank
    axes = range(rank) if node.const(3) is None else [int(a) % rank for a in node.const(3)]
    before, after = [0] * rank, [0] * rank
    for index, axis in enumerate(axes):
        before[axis], after[axis] = int(pads[index]), int(pads[index + len(axes)])
    return node.op("Pad", node.x, node.ints(*before, *after))


@lower("DepthToSpace")
def depth_to_space(node: Node) -> Made:
    b, (n, c, h, w) = node.ints(node.attr("blocksize", 1)), (xp.dim(node.held(0), a) for a in range(4))
    rest = c / (b * b)
    if node.attr("mode", "DCR") == "DCR":
        return _rearranged(node, [n, b, b, rest, h, w], [0, 3, 4, 1, 5, 2])
    return _rearranged(node, [n, rest, b, b, h, w], [0, 1, 4, 2, 5, 3])


@lower("SpaceToDepth")
def space_to_depth(node: Node) -> Made:
    b, (n, c, h, w) = node.ints(node.attr("blocksize", 1)), (xp.dim(node.held(0), a) for a in range(4))
    return _rearranged(node, [n, c, h / b, b, w / b, b], [0, 3, 5, 1, 2, 4])


def _rearranged(node: Node, dims: list[Tensor], order: list[int]) -> Tensor:
    split = xp.reshape(node.x, xp.concat(dims), [None] * len(dims))
    return xp.reshape(xp.permute_dims(split, order), xp.shape_of(node.y), node.y.shape)
