"""Where samples are taken, and images put together from blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxcam.gradients.rules import Cotangents, Node, vjp
from onnxcam.gradients.rules.linear import unit_rows
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor


@vjp("AffineGrid")  # grid = theta (p, 1) at the places p of an even grid
def affine_grid(node: Node, dy: Tensor) -> Cotangents:
    dims = dy.rank - 2
    rows = xp.reshape(dy, [0, -1, dims])
    columns = xp.permute_dims(rows, [0, 2, 1]) @ xp.reshape(_places(node, dims, dy), [-1, dims])
    return xp.concat([columns, xp.expand_dims(xp.sum(rows, 1), -1)], 2)


def _places(node: Node, dims: int, dy: Tensor) -> Tensor:
    """What the operator makes of the identity: runtimes differ in where they put a single place."""
    size, aligned = node.xs[1], node.attr("align_corners", 0)
    one = xp.concat([size.lift([1]), xp.slice_axis(size, 0, 1, dims + 2)])
    identity = xp.expand_dims(dy.writer.constant(np.eye(dims, dims + 1), dy.dtype), 0)
    return node.writer.op("AffineGrid", identity, one, align_corners=aligned, fold=False)


@vjp("Col2Im")  # the blocks again: a convolution whose every filter picks one pixel of the window
def col2im(node: Node, dy: Tensor) -> Cotangents:
    block, many = node.xs[2], dy.rank - 2
    size = node.writer.op("ReduceProd", block, keepdims=1)
    picks = xp.reshape(unit_rows(size, dy), xp.concat([size, block.lift([1]), block]), [None] * dy.rank)
    lengths = [xp.dim(dy, a) for a in range(2, dy.rank)]
    planes = xp.reshape(dy, xp.concat([block.lift([-1, 1]), *lengths]), [None, 1, *[None] * many])
    given: dict[str, Any] = {name: node.attr(name, [1] * many) for name in ("strides", "dilations")}
    given["pads"] = node.attr("pads", [0] * 2 * many)
    return xp.reshape_like(node.writer.op("Conv", planes, picks, **given), node.x)
