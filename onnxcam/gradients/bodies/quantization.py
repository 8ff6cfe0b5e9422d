"""Integer sums of products of levels, as the float products that they stand for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcam.gradients.bodies import body
from onnxcam.gradients.rules import Node
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor


@body("ConvInteger")  # conv(x - x's zero point, w - w's zero point)
def conv_integer(node: Node) -> Tensor:
    x, w = _centred(node, 0, 2), _centred(node, 1, 3)
    attributes = {a.name: a.value for a in node.raw.attributes.values()}
    return node.writer.op("Conv", x, w, **attributes)


@body("MatMulInteger")  # (a - a's zero point) (b - b's zero point)
def matmul_integer(node: Node) -> Tensor:
    return _centred(node, 0, 2) @ _centred(node, 1, 3)


def _centred(node: Node, index: int, zero: int) -> Tensor:
    """Levels less their zero point, in floats; a vector of zero points counts rows of a or w, and columns of b."""
    x, point = node.xs[index], node.input(zero)
    floats = _floats(x)
    if point is None:
        return floats
    shift = _floats(point)
    if shift.rank == 1 and shift.shape != (1,) and (node.raw.op_type == "ConvInteger" or index == 0):
        axis = 0 if node.raw.op_type == "ConvInteger" else x.rank - 2
        shift = xp.reshape(shift, [-1 if a == axis else 1 for a in range(x.rank)])
    if floats.const is not None and shift.const is not None:  # kept as a constant, so that its gradient can flip it
        return node.writer.constant(floats.const - shift.const)
    return floats - shift


def _floats(x: Tensor) -> Tensor:
    known = x.const
    return x.writer.constant(known.astype(np.float32)) if known is not None else xp.astype(x, ir.DataType.FLOAT)
