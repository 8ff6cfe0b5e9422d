"""Which rows of its inputs an operator needs for rows of its output: one rule per operator that works row by row.

A rule is a function of the node and of the rows of its output. It returns what these need of each input: rows along an
axis of that, or None for all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxcam.model import Dim, dims_of

_END = 2**31 - 1  # from here on, a Slice goes to the end of any axis


@dataclass(frozen=True)
class Rows:
    """Neighbouring places along one axis of a value."""

    axis: int
    start: int
    stop: int

    @property
    def count(self) -> int:
        """How many they are."""
        return self.stop - self.start

    def along(self, axis: int) -> Rows:
        """The same places along another axis."""
        return Rows(axis, self.start, self.stop)


Needs = Sequence[Rows | None]
RowRule = Callable[[ir.Node, Rows], Needs]
ROW_RULES: dict[str, RowRule] = {}


class MixesError(Exception):
    """Raised where rows of the output need other rows of an input."""


def _rows(*op_types: str) -> Callable[[RowRule], RowRule]:
    def register(function: RowRule) -> RowRule:
        ROW_RULES.update(dict.fromkeys(op_types, function))
        return function

    return register


def _demand(fits: bool) -> None:
    if not fits:
        raise MixesError


def _given(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise MixesError
    return value


def _dims(node: ir.Node, index: int = 0) -> tuple[Dim, ...]:
    return dims_of(_given(node, index))


def _integers(node: ir.Node, index: int) -> list[int]:
    """A constant input, flat."""
    value = _given(node, index)
    if value.const_value is None or value.is_graph_input():
        raise MixesError
    return [int(n) for n in value.const_value.numpy().reshape(-1)]


def _only_first(node: ir.Node, rows: Rows) -> Needs:
    return [rows, *[None] * (len(node.inputs) - 1)]


def _aligned(node: ir.Node, index: int, rows: Rows) -> Rows | None:
    """Rows of an input that is broadcast to the output, axes aligned at the right; None where it has one for all."""
    if node.inputs[index] is None:
        return None
    dims, out = _dims(node, index), dims_of(node.outputs[0])
    axis = len(dims) - len(out) + rows.axis
    if axis < 0 or dims[axis] == 1:
        return None
    _demand(dims[axis] is not None and dims[axis] == out[rows.axis])
    return rows.along(axis)


# Picking


def picked(node: ir.Node) -> Rows:
    """The rows of its input that a Gather or Slice by constants picks.

    Raises:
        MixesError: it picks in another way, or the node is none of these.
    """
    if node.op_type == "Slice":
        cut = _sliced(node)
        _demand(len(cut) == 1)
        _demand(cut[0].count == 1 or isinstance(_dims(node)[cut[0].axis], int))  # a free axis may end among them
        return cut[0]
    _demand(node.op_type == "Gather")
    places, dims = _integers(node, 1), _dims(node)
    _demand(len(places) == 1 and len(_dims(node, 1)) < 2)
    axis = node.attributes.get_int("axis", 0) % len(dims)
    return _settled(axis, places[0], places[0] + 1 or _END, dims[axis])


def _settled(axis: int, start: int, stop: int, length: Dim) -> Rows:
    """Rows counted from the front and within the axis."""
    if isinstance(length, int):
        start, stop, _ = slice(start, stop).indices(length)
    _demand(0 <= start < stop < _END)
    return Rows(axis, start, stop)


def _sliced(node: ir.Node) -> list[Rows]:
    """What a Slice takes along each axis that it cuts."""
    dims, starts, stops = _dims(node), _integers(node, 1), _integers(node, 2)
    axes = _integers(node, 3) if len(node.inputs) > 3 and node.inputs[3] else list(range(len(starts)))
    steps = _integers(node, 4) if len(node.inputs) > 4 else [1] * len(starts)
    _demand(all(step == 1 for step in steps))
    places = [(a % len(dims), start, stop) for a, start, stop in zip(axes, starts, stops, strict=True)]
    cut = [(a, start, stop) for a, start, stop in places if start != 0 or not _reaches(stop, dims[a])]
    return [_settled(a, start, stop, dims[a]) for a, start, stop in cut]


def _reaches(stop: int, length: Dim) -> bool:
    return stop >= (length if isinstance(length, int) else _END)


@_rows("Slice")
def _slice(node: ir.Node, rows: Rows) -> Needs:
    _demand(all(cut.axis != rows.axis for cut in _sliced(node)))
    return _only_first(node, rows)


@_rows("Gather")
def _gather(node: ir.Node, rows: Rows) -> Needs:
    rank, more = len(_dims(node)), len(_dims(node, 1)) - 1
    axis = node.attributes.get_int("axis", 0) % rank
    _demand(not axis <= rows.axis <= axis + more)
    return [rows if rows.axis < axis else rows.along(rows.axis - more), None]


@_rows("Split")
def _split(node: ir.Node, rows: Rows) -> Needs:
    _demand(node.attributes.get_int("axis", 0) % len(_dims(node)) != rows.axis)
    return _only_first(node, rows)


@_rows("Concat")
def _concat(node: ir.Node, rows: Rows) -> Needs:
    _demand(node.attributes.get_int("axis", 0) % len(_dims(node)) != rows.axis)
    return [rows] * len(node.inputs)


# Element by element

_POINTWISE = ("Identity", "Cast", "Add", "Sub", "Mul", "Div", "Pow", "Sum", "Mean", "Max", "Min", "Where", "Clip")
_FUNCTIONS = ("Neg", "Abs", "Exp", "Log", "Sqrt", "Reciprocal", "Erf", "Sin", "Cos", "Tanh", "Sigmoid", "HardSigmoid")
_ACTIVATIONS = ("Relu", "LeakyRelu", "ThresholdedRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "HardSwish", "Mish")


@_rows(*_POINTWISE, *_FUNCTIONS, *_ACTIVATIONS, "Swish", "Softplus", "Softsign")
def _pointwise(node: ir.Node, rows: Rows) -> Needs:
    return [_aligned(node, k, rows) for k in range(len(node.inputs))]


# Along other axes


@_rows("Softmax", "LogSoftmax")
def _softmax(node: ir.Node, rows: Rows) -> Needs:
    _demand(node.attributes.get_int("axis", -1) % len(_dims(node)) != rows.axis)
    return [rows]


@_rows("LayerNormalization", "RMSNormalization")
def _layer_normalization(node: ir.Node, rows: Rows) -> Needs:
    _demand(rows.axis < node.attributes.get_int("axis", -1) % len(_dims(node)) and len(node.outputs) == 1)
    return _only_first(node, rows)


@_rows("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare")
def _reduce(node: ir.Node, rows: Rows) -> Needs:
    rank = len(_dims(node))
    axes = {a % rank for a in _integers(node, 1)}
    left = [a for a in range(rank) if node.attributes.get_int("keepdims", 1) or a not in axes]
    _demand(left[rows.axis] not in axes and len(axes) > 0)
    return [rows.along(left[rows.axis]), None]


# Moving axes


@_rows("Transpose")
def _transpose(node: ir.Node, rows: Rows) -> Needs:
    rank = len(_dims(node))
    return [rows.along(list(node.attributes.get_ints("perm", range(rank - 1, -1, -1)))[rows.axis])]


@_rows("Squeeze")
def _squeeze(node: ir.Node, rows: Rows) -> Needs:
    dims = _dims(node)
    axes = {a % len(dims) for a in _integers(node, 1)}
    return [rows.along([a for a in range(len(dims)) if a not in axes][rows.axis]), None]


@_rows("Unsqueeze")
def _unsqueeze(node: ir.Node, rows: Rows) -> Needs:
    rank = len(dims_of(node.outputs[0]))
    axes = {a % rank for a in _integers(node, 1)}
    _demand(rows.axis not in axes)
    return [rows.along(rows.axis - sum(a < rows.axis for a in axes)), None]


@_rows("Reshape", "Flatten")
def _reshape(node: ir.Node, rows: Rows) -> Needs:
    """Of an axis that stays, with as many elements before it."""
    target(node, rows)
    out, dims = dims_of(node.outputs[0]), _dims(node)
    same = [a for a, d in enumerate(dims) if d == out[rows.axis] and _as_many(dims[:a], out[: rows.axis])]
    _demand(out[rows.axis] not in (None, 1) and len(same) == 1)
    return _only_first(node, rows.along(same[0]))


def _as_many(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    """Whether two groups of axes have as many elements."""
    counts = [math.prod(d for d in dims if isinstance(d, int)) for dims in (a, b)]
    names = [sorted(str(d) for d in dims if not isinstance(d, int)) for dims in (a, b)]
    return None not in (*a, *b) and counts[0] == counts[1] and names[0] == names[1]


def target(node: ir.Node, rows: Rows) -> list[int]:
    """What rows of the output of a Reshape are reshaped to.

    Raises:
        MixesError: more than one other axis is free.
    """
    dims = [rows.count if a == rows.axis else d for a, d in enumerate(dims_of(node.outputs[0]))]
    free = [d for d in dims if not isinstance(d, int)]
    _demand(len(free) < 2)
    return [d if isinstance(d, int) else -1 for d in dims]


# Products


@_rows("MatMul")
def _matmul(node: ir.Node, rows: Rows) -> Needs:
    """Rows of the left matrix or columns of the right one; parts of both, where they are matrices of a batch."""
    ranks, last = [len(_dims(node, k)) for k in (0, 1)], len(dims_of(node.outputs[0])) - 1
    _demand(min(ranks) > 1)
    if rows.axis >= last - 1:
        return [None, rows.along(ranks[1] - 1)] if rows.axis == last else [rows.along(ranks[0] - 2), None]
    return [_aligned(node, k, rows) for k in (0, 1)]


@_rows("Gemm")
def _gemm(node: ir.Node, rows: Rows) -> Needs:
    _demand(rows.axis == 0)
    bias = [_aligned(node, 2, rows)] if len(node.inputs) > 2 else []
    return [rows.along(node.attributes.get_int("transA", 0)), None, *bias]


@_rows("Einsum")
def _einsum(node: ir.Node, rows: Rows) -> Needs:
    terms, arrow, result = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    _demand(bool(arrow) and "." not in terms)
    letter, length = result[rows.axis], dims_of(node.outputs[0])[rows.axis]
    _demand(all(term.count(letter) < 2 for term in terms.split(",")))
    places = [term.find(letter) for term in terms.split(",")]
    _demand(all(_dims(node, k)[a] == length for k, a in enumerate(places) if a >= 0))
    return [rows.along(a) if a >= 0 else None for a in places]


@_rows("Attention")
def _attention(node: ir.Node, rows: Rows) -> Needs:
    """Queries; keys and values are read whole."""
    dims = _dims(node)
    _demand(rows.axis == len(dims) - 2 and len(node.outputs) == 1)
    _demand(not any(node.inputs[4:]) and not node.attributes.get_int("is_causal", 0))
    mask = [_aligned_mask(node, dims[-2], rows)] if len(node.inputs) > 3 else []
    return [rows, None, None, *mask, *[None] * len(node.inputs[4:])]


def _aligned_mask(node: ir.Node, queries: Dim, rows: Rows) -> Rows | None:
    """A mask has one row for each query, or one for all."""
    if node.inputs[3] is None or (dims := _dims(node, 3))[-2] == 1:
        return None
    _demand(dims[-2] is not None and dims[-2] == queries)
    return rows.along(len(dims) - 2)
