"""Operators, rewritten in operators that ONNX Runtime's gradient builder differentiates correctly.

The builder has no gradient for many operators, and a wrong one for some. The table says how each is handed to it, one
file per operator family::

    @lower("Softsign")
    def softsign(node):
        return node.x / (xp.abs(node.x) + 1.0)

It is an allow-list: what is not in it is refused. Every entry is held against engine "portable" in
``tests/gradients/test_training.py``. Only what the gradient reads has to be right, so a piecewise linear operator may
be written ``x * slope``, with the slope taken from *held* values, which are constants to the builder.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxcam.gradients.path_copy import Lowering, Made, Node

LOWERINGS: dict[str, Lowering] = {}


def lower(*op_types: str) -> Callable[[Lowering], Lowering]:
    """Register a lowering for operators of the default domain."""

    def register(function: Lowering) -> Lowering:
        LOWERINGS.update(dict.fromkeys(op_types, function))
        return function

    return register


@lower("Add", "Sub", "Mul", "Div", "Neg", "Reciprocal", "Abs", "Sqrt", "Exp", "Log", "Erf", "Sin", "Cos")
@lower("Sigmoid", "Tanh", "Softmax", "LogSoftmax", "Identity", "Cast")
@lower("GlobalAveragePool", "ReduceSum", "ReduceMean")
@lower("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "Concat")
@lower("Gather", "GatherElements", "GatherND", "Trilu")
def as_it_is(node: Node) -> Made:
    """What the builder does right by itself."""
    return node.as_it_is()


from onnxcam.gradients.buildable import (  # noqa: E402  (the families register themselves)
    activation,
    arithmetic,
    normalization,
    shaping,
    windows,
)

__all__ = ["LOWERINGS", "activation", "arithmetic", "lower", "normalization", "shaping", "windows"]
