"""Small models, one per operator and attribute, on which every gradient rule is held against finite differences.

A case is one node (or a few). Its variables are graph inputs and are differentiated; its constants are initializers.
Values are drawn from the case's name. They are spread evenly and shuffled, so that neighbours are far apart compared
with the step of a finite difference: no kink, no tie, unless a case gives its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper


@dataclass(frozen=True)
class Operand:
    """An input of the node under test.

    Attributes:
        array: its values, in float64 where they are floats.
        variable: a graph input that is differentiated, rather than an initializer.
        free: its axes may be free.
    """

    array: Any
    variable: bool
    free: bool = True


@dataclass(frozen=True)
class Spread:
    """Evenly spread values of a shape, to be drawn when the case has its name."""

    shape: tuple[int, ...]
    low: float
    high: float
    variable: bool
    free: bool

    def draw(self, rng: np.random.Generator) -> Operand:
        count = int(np.prod(self.shape))
        steps = (rng.permutation(count) + rng.uniform(0.2, 0.8)) / max(count, 1)
        array = (self.low + (self.high - self.low) * steps).reshape(self.shape)
        return Operand(array, self.variable, self.free)


def var(*shape: int, low: float = -2, high: float = 2, free: bool = True) -> Spread:
    """A variable; ``free=False`` keeps its axes fixed where the others' are free."""
    return Spread(shape, low, high, True, free)


def weight(*shape: int, low: float = -1, high: float = 1) -> Spread:
    """A constant."""
    return Spread(shape, low, high, False, False)


def given(values: Any, variable: bool = False) -> Operand:
    """Values as they are; only float64 takes the model's float type."""
    return Operand(np.asarray(values), variable)


@dataclass(frozen=True, eq=False)
class Case:
    """A small model.

    Attributes:
        name: operator and what is special about it.
        op: the operator under test.
        nodes: the graph; its output is ``y``.
        operands: by value name.
        opset, until: the oldest and newest opset to try.
        fixed: what a rule says to free axes; "" where it covers them.
        forward: nodes that stand in for ``nodes`` in the finite difference: for rounding, whose gradient is a
            convention, and where the reference evaluator has the operator wrong.
        rounds: runtimes round a coordinate differently here, so each is held against itself.
        rank: of the output, where ONNX cannot infer it.
        single: float32 whatever the model's type: integer sums are scaled in it.
    """

    name: str
    op: str
    nodes: tuple[onnx.NodeProto, ...]
    operands: dict[str, Operand]
    opset: int = 18
    until: int = 99
    fixed: str = ""
    forward: tuple[onnx.NodeProto, ...] = ()
    rounds: bool = False
    rank: int | None = None
    single: bool = False

    def __repr__(self) -> str:
        return self.name

    def summed(self) -> Case:
        """The case with its output summed over the last axis."""
        renamed = [onnx.NodeProto.FromString(n.SerializeToString()) for n in self.nodes]
        for made in renamed:
            made.output[:] = ["whole" if o == "y" else o for o in made.output]
        last = {"last": Operand(np.asarray([-1]), variable=False)}
        total = helper.make_node("ReduceSum", ["whole", "last"], ["y"], keepdims=0)
        return replace(self, nodes=(*renamed, total), operands=self.operands | last, rank=None)

    @property
    def wrt(self) -> list[str]:
        return [name for name, operand in self.operands.items() if operand.variable]

    def opsets(self, newest: int = onnx.defs.onnx_opset_version()) -> list[int]:
        """The oldest opset, and each later one at which an operator of the case changes."""
        changes = {s.since_version for n in self.nodes for s in _schemas(n.op_type)}
        return [self.opset, *sorted(v for v in changes if self.opset < v <= min(newest, self.until))]

    def feeds(self, dtype: Any) -> dict[str, np.ndarray]:
        return {name: _cast(o.array, dtype) for name, o in self.operands.items() if o.variable}

    def model(self, dtype: Any, opset: int | None = None, free: str = "", forward: bool = False) -> onnx.ModelProto:
        """The model with floats of ``dtype``; ``free`` is "named" or "anonymous" for axes of no fixed length."""
        inputs, weights = [], []
        for name, operand in self.operands.items():
            array = _cast(operand.array, dtype)
            if operand.variable:
                shape = _free(name, array.shape, free if operand.free else "")
                inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape))
            else:
                weights.append(onnx.numpy_helper.from_array(array, name))
        nodes = self.forward if forward and self.forward else self.nodes
        shape = None if self.rank is None else [None] * self.rank
        output = helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
        graph = helper.make_graph(list(nodes), "case", inputs, [output], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset or self.opset)], ir_version=10)


def _schemas(op_type: str) -> list[onnx.defs.OpSchema]:
    return [s for s in _HISTORY if s.name == op_type and not s.deprecated]


_HISTORY = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""]


def _cast(array: np.ndarray, dtype: Any) -> np.ndarray:
    return array.astype(dtype) if array.dtype == np.float64 else array


def _free(name: str, shape: Sequence[int], free: str) -> list[Any]:
    named = {"": list(shape), "named": [f"{name}_{a}" for a in range(len(shape))], "anonymous": [None] * len(shape)}
    return named[free]


CASES: list[Case] = []
_SETTINGS = ("opset", "until", "fixed", "forward", "rounds", "rank", "single")


def case(
    op: str,
    what: str,
    *operands: Spread | Operand | None,
    reads: Sequence[str] = (),
    outputs: Sequence[str] = ("y",),
    before: Sequence[onnx.NodeProto] = (),
    after: Sequence[onnx.NodeProto] = (),
    others: dict[str, Spread | Operand] | None = None,
    **options: Any,
) -> None:
    """Add a case. Operands are called a, b, c, ... in order; the node reads these unless ``reads`` says otherwise."""
    name = f"{op} {what}".strip()
    assert name not in {c.name for c in CASES}, f"two cases {name}"
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    letters = [chr(ord("a") + i) if o is not None else "" for i, o in enumerate(operands)]
    named = {n: o for n, o in zip(letters, operands, strict=True) if o is not None} | (others or {})
    drawn = {n: o.draw(rng) if isinstance(o, Spread) else o for n, o in named.items()}
    settings = {k: options.pop(k) for k in _SETTINGS if k in options}
    CASES.append(Case(name, op, (*before, node(op, reads or letters, outputs, **options), *after), drawn, **settings))


def node(op: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


MAX, MIN = np.iinfo(np.int64).max, np.iinfo(np.int64).min
