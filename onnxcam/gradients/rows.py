"""Before the reverse walk: where a head reads few rows of a value, only these rows are differentiated.

A transformer's head reads the class token alone, yet its last block is computed for all tokens, and a reverse walk
through it carries a cotangent that is zero in every row but one. So the rows that count are computed once more, by a
few small nodes beside the model's own, from as far up as operators work row by row (queries do, keys and values do
not), and the walk passes through these nodes instead. It gives the same gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import onnx_ir as ir

from onnxcam.graph import symbolic as xp
from onnxcam.graph.moves import is_move
from onnxcam.graph.paths import reads
from onnxcam.graph.row_rules import ROW_RULES, MixesError, Needs, Rows, picked, target
from onnxcam.graph.symbolic import Tensor, Writer
from onnxcam.graph.weights import weight
from onnxcam.model import Dim, dims_of

_FEW = 4  # rows are few where there are this many times as many
_PRODUCTS = {"MatMul", "Gemm", "Einsum", "Attention"}


@dataclass
class Shortcut:
    """Which nodes of a path are passed by rows.

    Attributes:
        nodes: those of whose output few rows are asked, by ``id``: which, and what these need of the inputs.
        picks: those that ask few rows of their input for all of their output, by ``id``: which.
    """

    nodes: dict[int, tuple[Rows, Needs]] = field(default_factory=dict)
    picks: dict[int, Rows] = field(default_factory=dict)


def shortcut(path: Sequence[ir.Node], of: ir.Value, wrt: Sequence[ir.Value]) -> Shortcut:
    """How to pass by rows what the cotangent of ``of`` reaches in few rows; empty where that saves no product.

    Args:
        path: the nodes between ``wrt`` and ``of``, in graph order.
        of: the value that is differentiated.
        wrt: with respect to what.
    """
    asked: dict[int, Rows | None] = {id(v): None for v in (of, *wrt)}
    found = Shortcut()
    for node in reversed(path):
        for value, need in _needs(node, asked, found):
            asked[id(value)] = _joined([asked.get(id(value), need), need], value)
    _start_late(path, found)
    return found if any(n.op_type in _PRODUCTS for n in path if id(n) in found.nodes) else Shortcut()


def _start_late(path: Sequence[ir.Node], found: Shortcut) -> None:
    """Where all of a value is computed anyway, rows are cut out behind what only moves it, not before."""
    made: set[int] = set()
    for node in path:
        if id(node) not in found.nodes:
            continue
        if is_move(node) and not any(id(v) in made for v in node.inputs):
            del found.nodes[id(node)]
        else:
            made.update(id(v) for v in node.outputs)


def _needs(node: ir.Node, asked: Mapping[int, Rows | None], found: Shortcut) -> Iterator[tuple[ir.Value, Rows | None]]:
    """What a node needs of each value that it reads; ``found`` is told how it is passed."""
    try:
        needs = _by_rows(node, _joined([asked[id(v)] for v in node.outputs if id(v) in asked], node.outputs[0]), found)
    except MixesError:
        return ((v, None) for v in reads(node))
    return ((v, need) for v, need in zip(node.inputs, needs, strict=True) if v is not None)


def _by_rows(node: ir.Node, rows: Rows | None, found: Shortcut) -> Needs:
    if any(v.shape is None for v in (*reads(node), *node.outputs)):
        raise MixesError
    if rows is None:
        found.picks[id(node)] = first = picked(node)
        return [first, *[None] * (len(node.inputs) - 1)]
    rule = ROW_RULES.get(node.op_type) if node.domain == "" else None
    if rule is None:
        raise MixesError
    needs = rule(node, rows)
    found.nodes[id(node)] = rows, needs
    return needs


def _joined(parts: Sequence[Rows | None], value: ir.Value) -> Rows | None:
    """The few rows of a value that hold all parts; None where they are many."""
    known = [rows for rows in parts if rows is not None]
    if len(known) < len(parts) or any(a.axis != b.axis for a, b in pairwise(known)):
        return None
    both = Rows(known[0].axis, min(r.start for r in known), max(r.stop for r in known))
    length = dims_of(value)[both.axis]
    return None if isinstance(length, int) and _FEW * both.count > length else both


class Copy:
    """Writes the rows of a path's values, node by node in graph order.

    Args:
        writer: who writes.
        plan: which rows of what.

    Attributes:
        held: ids of the model's own values that were read.
    """

    def __init__(self, writer: Writer, plan: Shortcut) -> None:
        self.writer, self.plan = writer, plan
        self.held: set[int] = set()
        self._made: dict[int, tuple[Rows, Tensor]] = {}

    def passes(self, node: ir.Node) -> bool:
        """Write rows of a node's outputs, if that is all that is asked of them."""
        if id(node) not in self.plan.nodes:
            return False
        rows, needs = self.plan.nodes[id(node)]
        for value, tensor in zip(node.outputs, self._written(node, rows, needs), strict=True):
            tensor.value.shape = ir.Shape(_dims(dims_of(value), rows))
            self._made[id(value)] = rows, tensor
        return True

    def picked(self, node: ir.Node) -> Tensor | None:
        """The output of a node that picks rows, from those; None if others of its input are differentiated too."""
        rows, value = self.plan.picks.get(id(node)), node.inputs[0]
        if rows is None or id(value) not in self._made:
            return None
        assert value is not None
        found = self._read(value, rows)
        same = len(dims_of(node.outputs[0])) == found.rank
        return found if same else xp.squeeze(found, rows.axis)

    def _written(self, node: ir.Node, rows: Rows, needs: Needs) -> Sequence[Tensor]:
        inputs = [None if v is None else self._read(v, need) for v, need in zip(node.inputs, needs, strict=True)]
        if inputs[0] is not None and node.op_type in ("Reshape", "Flatten"):
            return [xp.reshape(inputs[0], target(node, rows))]
        attributes = {a.name: a.value for a in node.attributes.values()}
        return self.writer.ops(node.op_type, *inputs, outputs=len(node.outputs), **attributes)

    def _read(self, value: ir.Value, rows: Rows | None) -> Tensor:
        """All of a value, or rows of it."""
        if id(value) in self._made and rows is not None:
            have, tensor = self._made[id(value)]
            return _cut(tensor, rows, have.start) if have != rows else tensor
        self.held.add(id(value))
        return weight(self.writer, value) if rows is None else _cut(self.writer.tensor(value), rows)


def _cut(x: Tensor, rows: Rows, first: int = 0) -> Tensor:
    found = xp.slice_axis(x, rows.axis, rows.start - first, rows.stop - first)
    found.value.shape = ir.Shape(_dims(x.shape or (), rows))
    return found


def _dims(dims: Sequence[Dim], rows: Rows) -> list[Dim]:
    """The shape of rows, which inference does not tell of operators that it does not follow along free axes."""
    return [rows.count if axis == rows.axis else d for axis, d in enumerate(dims)]
