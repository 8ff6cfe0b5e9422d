"""Means over the picture of what was written: linear operators let the mean through, so it is taken before them.

Grad-CAM weighs channels by the mean of the gradient. Of what only moved values about, that is the mean of what it
moved; behind a product by weights it is the product of the mean, one row instead of one per patch. Where nothing else
reads the gradient it is not computed at all.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.graph import symbolic as xp
from onnxcam.graph.row_rules import ROW_RULES, MixesError, Rows, picked, target
from onnxcam.graph.symbolic import PREFIX, Tensor, Writer
from onnxcam.model import dims_of

_MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Concat", "Add", "Sum", "Sub", "Neg", "Identity"}
_FACTORS = {"MatMul", "Mul"}  # linear in one input at a time
_DEPTH = 40  # nodes; a mean pays through the products next to it, not through a whole network


def known_mean(x: Tensor) -> Tensor | None:
    """The mean over the picture of maps (N, C, ...), as (N, C, 1, ...); None where it takes all of them.

    Known is what a rule noted in ``writer.means``, what lies behind products of tokens, and either of them times or
    plus a number per channel.
    """
    if (noted := x.writer.means.get(x.value)) is not None:
        return noted()
    for op_type, joined in (("Mul", operator.mul), ("Add", operator.add)):
        if (found := xp.per_channel(x, op_type)) is not None and (inner := known_mean(found[1])) is not None:
            whole: Tensor = joined(inner, found[0])
            return whole
    return _mean_of_tokens(x)


def _mean_of_tokens(x: Tensor) -> Tensor | None:
    """The mean of tokens that were folded to (N, C, h, w), as (N, C, 1, 1); None where no product lets it through."""
    node = _written(x.value)
    dims = dims_of(_input(node)) if node is not None and node.op_type == "Reshape" else ()
    grid = (x.shape or ())[2:]
    count = math.prod(n for n in grid if isinstance(n, int))
    if node is None or len(grid) != 2 or dims[1:] != ((x.shape or ())[1], count) or len(dims) != 3:
        return None
    means = _Means(x.writer)
    found = means.of(_input(node), Rows(2, 0, count), _DEPTH)
    return xp.expand_dims(found, 3) if found is not None and means.products else None


def _input(node: ir.Node, index: int = 0) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _written(value: ir.Value) -> ir.Node | None:
    """The node of a writer that makes a value."""
    node = value.producer()
    if node is None or not (node.name or "").startswith(PREFIX) or len(node.outputs) > 1:
        return None
    return None if any(v is not None and v.shape is None for v in (*node.inputs, value)) else node


class _Means:
    """Means over rows, with length 1 along their axis; None for zero.

    Attributes:
        products: how many let the mean through.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer, self.products = writer, 0
        self._known: dict[tuple[ir.Value, Rows], Tensor | None] = {}

    def of(self, value: ir.Value, rows: Rows, depth: int) -> Tensor | None:
        """The mean of rows of a value, taken up to ``depth`` nodes before it."""
        if (value, rows) not in self._known:
            node = _written(value) if depth else None
            try:
                found = self._behind(value, rows) if node is None else self._before(node, rows, depth - 1)
            except MixesError:
                found = self._behind(value, rows)
            if found is not None:  # inference loses the names of free axes
                found.value.shape = ir.Shape([1 if a == rows.axis else d for a, d in enumerate(dims_of(value))])
            self._known[value, rows] = found
        return self._known[value, rows]

    def _behind(self, value: ir.Value, rows: Rows) -> Tensor:
        x = self.writer.tensor(value)
        if (0, dims_of(value)[rows.axis]) != (rows.start, rows.stop):
            x = xp.slice_axis(x, rows.axis, rows.start, rows.stop)
        return xp.mean(x, rows.axis, keepdims=True)

    def _before(self, node: ir.Node, rows: Rows, depth: int) -> Tensor | None:
        if node.op_type in ("Slice", "Pad") and (inside := _within(node, rows)) is not None:
            return self.of(_input(node), inside, depth) if inside.count else None
        if node.op_type == "Reshape" and (source := _of_flat_product(node, rows)) is not None:
            return self._product(node, source, rows, depth)
        if node.op_type not in _MOVES | _FACTORS:
            raise MixesError
        needs = ROW_RULES[node.op_type](node, rows)
        if node.op_type in _FACTORS:
            if sum(need is not None for need in needs) != 1:
                raise MixesError
            self.products += 1
        pairs = [(v, need) for v, need in zip(node.inputs, needs, strict=True) if v is not None]
        return self._again(node, [self.writer.tensor(v) if n is None else self.of(v, n, depth) for v, n in pairs], rows)

    def _again(self, node: ir.Node, inputs: Sequence[Tensor | None], rows: Rows) -> Tensor | None:
        """What a node makes of means."""
        given = [t for t in inputs if t is not None]
        if len(given) < len(inputs):
            return _without_zeros(node, inputs, given, rows)
        if node.op_type == "Reshape":
            return xp.reshape(given[0], target(node, Rows(rows.axis, 0, 1)))
        return self.writer.op(node.op_type, *given, **{a.name: a.value for a in node.attributes.values()})

    def _product(self, node: ir.Node, source: ir.Value, rows: Rows, depth: int) -> Tensor | None:
        """(..., D) as a matrix of rows, a Gemm by weights, and the shape restored: the same of the mean."""
        mean, gemm = self.of(source, rows, depth), _written(_input(node))
        self.products += 1
        if mean is None or gemm is None:
            return None
        held = [self.writer.tensor(v) for v in gemm.inputs[1:] if v is not None]
        attributes = {a.name: a.value for a in gemm.attributes.values()}
        flat = xp.reshape(mean, [-1, *(d for d in dims_of(source)[-1:] if isinstance(d, int))])
        return xp.reshape(self.writer.op("Gemm", flat, *held, **attributes), target(node, Rows(rows.axis, 0, 1)))


def _within(node: ir.Node, rows: Rows) -> Rows | None:
    """Rows of a Slice, or of a Pad by zeros, counted in its input; None where it works along another axis."""
    if node.op_type == "Slice":
        cut = picked(node)
        return Rows(rows.axis, cut.start + rows.start, cut.start + rows.stop) if cut.axis == rows.axis else None
    amounts, dims = _input(node, 1).const_value, dims_of(_input(node))
    length = dims[rows.axis]
    if amounts is None or len(node.inputs) > 2 or not isinstance(length, int):
        raise MixesError
    first = int(amounts.numpy()[rows.axis])
    if any(n for k, n in enumerate(amounts.numpy()) if k % len(dims) != rows.axis) or first < 0:
        raise MixesError
    if first < rows.stop and rows.start < first + length:  # some are zeros, perhaps, and some are not
        raise MixesError
    return Rows(rows.axis, 0, 0)


def _without_zeros(
    node: ir.Node, inputs: Sequence[Tensor | None], given: Sequence[Tensor], rows: Rows
) -> Tensor | None:
    """What a node makes of means some of which are zero."""
    if not given or node.op_type not in ("Concat", "Add", "Sum", "Sub"):
        return None
    whole = tuple(1 if a == rows.axis else d for a, d in enumerate(dims_of(node.outputs[0])))
    if node.op_type in ("Add", "Sum") and whole in [t.shape for t in given]:  # not what the zeros would have stretched
        return functools.reduce(operator.add, given)
    places = [k for k, t in enumerate(inputs) if t is not None]
    if node.op_type != "Concat" or len(places) <= places[-1] - places[0]:
        raise MixesError
    axis = node.attributes.get_int("axis", 0) % given[0].rank
    lengths = [dims_of(v)[axis] if v is not None else 0 for v in node.inputs]
    known = [d for d in lengths if isinstance(d, int)]
    if len(known) < len(lengths):
        raise MixesError
    before, after = sum(known[: places[0]]), sum(known[places[-1] + 1 :])
    around = ([n if a == axis else 0 for a in range(given[0].rank)] for n in (before, after))
    return xp.pad(xp.concat(given, axis), *around)


def _of_flat_product(node: ir.Node, rows: Rows) -> ir.Value | None:
    """What was made a matrix of rows for a product that this Reshape gives its axes back to."""
    gemm = _written(_input(node))
    flat = _written(_input(gemm)) if gemm is not None and gemm.op_type == "Gemm" and len(gemm.inputs) == 2 else None
    if gemm is None or flat is None or flat.op_type != "Reshape" or bool(gemm.attributes.get_int("transA", False)):
        return None
    dims, out = dims_of(_input(flat)), dims_of(node.outputs[0])[:-1]
    kept = dims[-1:] == dims_of(_input(gemm))[-1:] and None not in dims  # a row is a token, not several
    return _input(flat) if kept and dims[:-1] == out and rows.axis < len(out) else None
