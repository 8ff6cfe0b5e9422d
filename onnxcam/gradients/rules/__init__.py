"""The table of vector-Jacobian products: one rule per operator, one file per operator family.

A rule is a function of the node and the cotangents of its outputs. It returns the cotangent of its first input, or a
tuple with one entry per input (None where there is none)::

    @vjp("Relu")                                   # dx = dy * [y > 0]
    def relu(node, dy):
        return node.gate(dy, node.y > 0)

Cotangents have the full shape of the output. A returned one may have the shape before broadcasting: the engine alone
sums it down. Rules cover opset 18 and later, and see float16 and bfloat16 as float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import onnx_ir as ir

from onnxcam.gradients.relu import Policy
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor, Writer
from onnxcam.graph.weights import entries, weight

T = TypeVar("T")
Cotangents = Tensor | tuple[Tensor | None, ...] | None
Function = Callable[..., Cotangents]


@dataclass(frozen=True)
class Rule:
    """A vector-Jacobian product.

    Attributes:
        function: the rule.
        broadcasts: the operator broadcasts its inputs, so a cotangent may have to be summed down to its input.
        aligned: it broadcasts all of them against each other, as arithmetic does.
    """

    function: Function
    broadcasts: bool = False
    aligned: bool = True


class UnsupportedError(Exception):
    """Raised by a rule that does not cover what the node asks for."""


@dataclass(frozen=True)
class Node:
    """A node as a rule sees it: inputs and outputs are expressions.

    Attributes:
        raw: the node.
        writer: where the rule writes.
        policy: how a gradient passes an activation.
        wanted: the input positions whose cotangent is of use.
    """

    raw: ir.Node
    writer: Writer
    policy: Policy
    wanted: frozenset[int]

    def input(self, index: int) -> Tensor | None:
        """Input ``index``; None where it is left out."""
        value = self.raw.inputs[index] if index < len(self.raw.inputs) else None
        return None if value is None else _widened(weight(self.writer, value))

    @property
    def x(self) -> Tensor:
        """The first input."""
        return _given(self.input(0))

    @property
    def xs(self) -> tuple[Tensor, ...]:
        """All inputs, none of them left out."""
        return tuple(_given(x) for x in self.optional_xs)

    @property
    def optional_xs(self) -> tuple[Tensor | None, ...]:
        """All inputs; None for those that are left out."""
        return tuple(self.input(i) for i in range(len(self.raw.inputs)))

    @property
    def y(self) -> Tensor:
        """The first output."""
        return self.output(0)

    def output(self, index: int) -> Tensor:
        """Output ``index``."""
        return _widened(self.writer.tensor(self.raw.outputs[index]))

    def entries(self, index: int, places: Tensor, axis: int) -> Tensor:
        """The entries ``places`` of the matrix that is input ``index``, along one axis."""
        value = self.raw.inputs[index]
        assert value is not None
        return _widened(entries(self.writer, value, places, axis))

    def attr(self, name: str, default: T) -> T:
        """An attribute, of the type of its default."""
        attribute = self.raw.attributes.get(name)
        if attribute is None:
            return default
        return cast("T", list(attribute.value) if isinstance(default, list) else attribute.value)

    def const(self, index: int, what: str) -> Any:
        """The array of a constant input; None where it is left out."""
        given = self.input(index)
        if given is None:
            return None
        if given.const is None:
            raise UnsupportedError(f"{what} is computed at run time; only a constant is covered")
        return given.const

    def gate(self, dy: Tensor, slope: Tensor) -> Tensor:
        """Pass ``dy`` through an activation of local derivative ``slope`` (a mask or a factor), by the policy."""
        return self.policy(dy, xp.astype(slope, dy.dtype))

    def mask(self, dy: Tensor, keep: Tensor) -> Tensor:
        """``dy`` where ``keep`` holds, else 0; for nodes that are no activations."""
        return dy * xp.astype(keep, dy.dtype)


def _given(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise UnsupportedError("an input that it needs is left out")
    return tensor


_NARROW = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_FOLD_CAST_BELOW = 2**16  # bytes; a larger weight is widened at run time rather than stored twice


def working_type(dtype: ir.DataType | None) -> ir.DataType:
    """The type in which gradients of such values are computed: float16 over- and underflows, so float32 stands in."""
    return ir.DataType.DOUBLE if dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT


def _widened(tensor: Tensor) -> Tensor:
    if tensor.dtype not in _NARROW:
        return tensor
    fold = tensor.const is not None and tensor.const.nbytes < _FOLD_CAST_BELOW
    return tensor.writer.op("Cast", tensor, fold=fold, to=int(ir.DataType.FLOAT))


RULES: dict[tuple[str, str], Rule] = {}
STRAIGHT_THROUGH: dict[tuple[str, str], Rule] = {}  # what stands in for a derivative of 0, where the caller asks for it
NO_GRADIENT: set[str] = set()


def vjp(
    *op_types: str,
    domain: str = "",
    broadcasts: bool = False,
    aligned: bool = True,
    straight_through: bool = False,
) -> Callable[[Function], Function]:
    """Register a rule for operators."""

    def register(function: Function) -> Function:
        for op_type in op_types:
            (STRAIGHT_THROUGH if straight_through else RULES)[domain, op_type] = Rule(function, broadcasts, aligned)
        return function

    return register


def no_gradient(*op_types: str) -> None:
    """Register operators whose outputs do not depend on their inputs differentiably."""
    NO_GRADIENT.update(op_types)


from onnxcam.gradients.rules import (  # noqa: E402  (the families register themselves)
    activation,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    resize,
    sampling,
    shaping,
    signal,
    steps,
)

__all__ = [
    "NO_GRADIENT",
    "RULES",
    "STRAIGHT_THROUGH",
    "Node",
    "UnsupportedError",
    "activation",
    "convolution",
    "elementwise",
    "indexing",
    "linear",
    "no_gradient",
    "normalization",
    "pooling",
    "quantization",
    "reduction",
    "resize",
    "sampling",
    "shaping",
    "signal",
    "steps",
    "vjp",
    "working_type",
]
