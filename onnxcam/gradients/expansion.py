"""Before the reverse walk: operators without a rule are written out in operators that have one.

What is written computes the same once more; the walk differentiates it instead of the node. Original nodes stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxcam.gradients.bodies import BODIES
from onnxcam.gradients.bodies.functions import has_function, write_function
from onnxcam.gradients.bodies.inline import STRUCTURED
from onnxcam.gradients.refusals import DO_NOT_FIT, Refusal
from onnxcam.gradients.relu import POLICIES
from onnxcam.gradients.rows import Copy, Shortcut
from onnxcam.gradients.rules import NO_GRADIENT, RULES, STRAIGHT_THROUGH, Node, Rule, UnsupportedError
from onnxcam.graph.paths import carries, reads
from onnxcam.graph.symbolic import Tensor, Writer


@dataclass(frozen=True)
class StandIn:
    """A value that the walk leaves for the one that was written for it."""

    value: ir.Value
    written: ir.Value


Step = ir.Node | StandIn
_HOLDING_NODES = {*STRUCTURED, "RNN", "GRU", "LSTM"}  # subgraphs, and cells with activations of their own


@dataclass
class Expansion:
    """The steps of a walk, in graph order.

    Attributes:
        writer: who writes.
        live: ids of the values that carry a gradient.
        straight_through: whether steps pass it.
        steps: nodes with a rule, and stand-ins.
        sites: those of the nodes that are the model's own; the rest only helps to write an operator.
        refused: nodes that nothing covers.
    """

    writer: Writer
    live: set[int]
    straight_through: bool = False
    steps: list[Step] = field(default_factory=list)
    sites: list[ir.Node] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)

    def add(self, node: ir.Node, own: bool = True) -> None:
        """Add a node of the path, written out where it has no rule."""
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        if self.rule(node) is not None:
            with suppress(*DO_NOT_FIT):
                self.writer.complete(node)
            self.steps.append(node)
            self.sites.extend([node] if own else [])
        else:
            self._write_out(node, own and node.op_type in _HOLDING_NODES)
        self.live.update(id(v) for v in node.outputs if carries(node, v, self.straight_through))

    def rule(self, node: ir.Node) -> Rule | None:
        """The rule for a node."""
        key = (node.domain, node.op_type)
        return RULES.get(key) or (STRAIGHT_THROUGH.get(key) if self.straight_through else None)

    def _write_out(self, node: ir.Node, own: bool) -> None:
        try:
            written = self._written(node)
        except DO_NOT_FIT as error:
            self.refused.append(Refusal(node, str(error)))
            self.steps.append(node)
            return
        pairs = [(v, t.value) for v, t in zip(node.outputs, written, strict=False) if t is not None]
        self._stand_in(pairs, {id(v) for v in reads(node)}, own)

    def _stand_in(self, pairs: Sequence[tuple[ir.Value, ir.Value]], read: set[int], own: bool) -> None:
        """Add what was written for some values, from those that it read."""
        stops = stopping(self.straight_through)
        for inner in _between([value for _, value in pairs], read):
            if inner.op_type not in stops and any(id(v) in self.live for v in reads(inner)):
                self.add(inner, own)
        for value, new in pairs:
            value.shape = new.shape if value.shape is None else value.shape
            self.steps.append(StandIn(value, new))

    def pick(self, node: ir.Node, written: Tensor, read: set[int]) -> None:
        """Add a node of the path that picks rows, which were written."""
        self._stand_in([(node.outputs[0], written.value)], read, own=False)
        self.live.add(id(node.outputs[0]))

    def skip(self, node: ir.Node) -> None:
        """Count a node of the path of which no step is needed."""
        self.sites.extend([node] if self.rule(node) is not None else [])

    def _written(self, node: ir.Node) -> Sequence[Tensor | None]:
        wanted = frozenset(i for i, v in enumerate(node.inputs) if v is not None and id(v) in self.live)
        view = Node(node, self.writer, POLICIES["plain"], wanted)
        body = BODIES.get((node.domain, node.op_type))
        if body is not None:
            found = body(view)
            return (found,) if isinstance(found, Tensor) else found
        if has_function(node, self.writer.opset):
            return write_function(view)
        raise UnsupportedError("no gradient rule")


def expand(
    writer: Writer,
    path: Sequence[ir.Node],
    wrt: Sequence[ir.Value],
    straight_through: bool = False,
    rows: Shortcut | None = None,
) -> Expansion:
    """The steps that differentiate ``path``; what is passed by ``rows`` is written for these alone."""
    expansion, copy = Expansion(writer, {id(v) for v in wrt}, straight_through), Copy(writer, rows or Shortcut())
    for node in path:
        if copy.passes(node):
            expansion.skip(node)
        elif (written := copy.picked(node)) is not None:
            expansion.pick(node, written, copy.held)
        else:
            expansion.add(node)
    return expansion


def stopping(straight_through: bool) -> set[str]:
    """The operators that stop a gradient."""
    return NO_GRADIENT - ({op for _, op in STRAIGHT_THROUGH} if straight_through else set())


def is_covered(node: ir.Node, opset: int) -> bool:
    """Whether a rule, a body or ONNX's own function covers the operator."""
    key = (node.domain, node.op_type)
    return key in RULES or key in BODIES or has_function(node, opset)


def _between(outputs: Sequence[ir.Value], inputs: set[int]) -> list[ir.Node]:
    """The nodes that lead from ``inputs`` to ``outputs``, each behind those that it reads."""
    found: dict[int, ir.Node] = {}
    stack = [(v, False) for v in reversed(outputs)]
    while stack:
        value, ready = stack.pop()
        node = value.producer()
        if node is None or id(value) in inputs or id(node) in found:
            continue
        if ready:
            found[id(node)] = node
        else:
            stack.append((value, True))
            stack.extend((v, False) for v in reversed(reads(node)))
    return list(found.values())
