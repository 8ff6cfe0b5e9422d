"""Operators, rewritten in operators that ONNX Runtime's gradient builder differentiates correctly.

The builder has no gradient for many operators, and a wrong one for some; this table says how each is handed to it::

    @lower("Softsign")
    def softsign(node):
        return node.x / (1.0 + xp.abs(node.x))

It is an allow-list: what is not in it is refused. Every entry agrees with engine "portable" in
``tests/gradients/test_training.py``. Only what the gradient reads has to be right, so a piecewise linear operator may
be written ``x * slope``, with the slope taken from *held* values, which are constants to the builder.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxcam.gradients.path_copy import Lowering, Node
from onnxcam.gradients.rules import UnsupportedError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor
from onnxcam.model import Dim

Made = Tensor | tuple[Tensor, ...]
LOWERINGS: dict[str, Lowering] = {}


def lower(*op_types: str) -> Callable[[Lowering], Lowering]:
    """Register a lowering for operators of the default domain."""

    def register(function: Lowering) -> Lowering:
        LOWERINGS.update(dict.fromkeys(op_types, function))
        return function

    return register


# What the builder does right by itself


@lower("Add", "Sub", "Mul", "Div", "Neg", "Sqrt", "Exp", "Log", "Erf", "Sin", "Cos", "Tanh", "Sigmoid", "Relu", "Abs")
@lower("MatMul", "Gemm", "Conv", "GlobalAveragePool", "Softmax", "LogSoftmax", "Where", "Identity", "Cast", "Pow")
@lower("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Concat", "Split", "Gather", "Slice", "Pad")
@lower("ReduceMean", "ReduceSum", "Tile", "ReduceL2", "ReduceLogSumExp", "GatherElements", "GatherND", "Trilu")
@lower("Clip", "LeakyRelu", "AveragePool", "MaxPool", "LayerNormalization", "Max", "Min", "Reciprocal", "CumSum")
@lower("BatchNormalization","HardSigmoid","HardSwish","Sum","Resize","ConvTranspose","Elu","Selu","PRelu","Softplus")
@lower("GlobalMaxPool","LRN","InstanceNormalization","DepthToSpace","SpaceToDepth","ReduceMax","ReduceMin","Gelu","Mish")
@lower("ScatterElements","ScatterND","Einsum","Celu","Softsign","ThresholdedRelu","Mean","GroupNormalization","Dropout")
def as_it_is(node: Node) -> Made:
    return node.as_it_is()
