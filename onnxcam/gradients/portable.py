"""Engine "portable": the reverse walk, written as standard ONNX operators.

It accumulates, sums broadcast axes and reports; it knows no operator. Reverse-mode differentiation as in Griewank
and Walther, "Evaluating Derivatives", 2nd edition, section 3.2.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxcam.errors import GradientError
from onnxcam.gradients.composites import composite
from onnxcam.gradients.dead_ends import disconnected
from onnxcam.gradients.expansion import Expansion, StandIn, Step
from onnxcam.gradients.refusals import DO_NOT_FIT, Refusal, refusal_error
from onnxcam.gradients.relu import POLICIES, Policy
from onnxcam.gradients.rules import Cotangents, Node, Rule, UnsupportedError, working_type
from onnxcam.graph import symbolic as xp
from onnxcam.graph.paths import FLOATS, reads
from onnxcam.graph.symbolic import PREFIX, Tensor, same_shape
from onnxcam.model import dims_of


def element_type(value: ir.Value) -> ir.DataType:
    """The type of a cotangent of ``value``: float32, or double for doubles.

    Raises:
        GradientError: the value holds integers, or has any number of axes.
    """
    if value.shape is None and (maker := value.producer()) is not None:
        raise GradientError(
            f"the number of axes of {value.name}, made by {maker.op_type}, is unknown; export the model with shape "
            "information, or without operators of other domains"
        )
    if value.dtype not in FLOATS:
        raise GradientError(f"{value.name} holds {value.dtype}, not floats; choose a float value")
    return working_type(value.dtype)


def backward(
    expansion: Expansion,
    of: ir.Value,
    seed: Tensor,
    wrt: Sequence[ir.Value],
    policy: Policy,
    rectifiers: Container[int],
) -> list[Tensor]:
    """Write the vector-Jacobian product ``seed`` -> d(of . seed)/d(v) for each v of ``wrt``.

    Args:
        expansion: the steps between ``wrt`` and ``of``, in graph order, and who writes.
        of: the value that is differentiated.
        seed: its cotangent, of :func:`element_type`.
        wrt: with respect to what.
        policy: how a gradient passes a rectifier.
        rectifiers: ids of the nodes that the policy is for; others get the plain gradient.

    Raises:
        GradientError: an operator on the path has no rule, or a rule does not cover the node (all of them are
            named), or ``of`` does not depend on one of ``wrt``.
    """
    walk = _Walk(expansion, policy, rectifiers, wrt)
    walk.cotangents[id(of)] = [seed]
    for step in reversed(expansion.steps):
        walk.step(step)
    if refused := [*expansion.refused, *walk.refused]:
        raise refusal_error(refused)
    totals = [walk.total(v) for v in wrt]
    if lost := [v for v, total in zip(wrt, totals, strict=True) if total is None]:
        raise disconnected(of, lost)
    return [total for total in totals if total is not None]


class _Walk:
    def __init__(
        self, expansion: Expansion, policy: Policy, rectifiers: Container[int], wrt: Sequence[ir.Value]
    ) -> None:
        self.writer, self.live, self.rule, self.policy = expansion.writer, expansion.live, expansion.rule, policy
        self.rectifiers, self.wrt = rectifiers, {id(v) for v in wrt}
        self.cotangents: dict[int, list[Tensor]] = {}
        self.refused: list[Refusal] = []

    def step(self, step: Step) -> None:
        if isinstance(step, StandIn):
            self.cotangents.setdefault(id(step.written), []).extend(self.cotangents.get(id(step.value), []))
        else:
            self.node(step)

    def node(self, node: ir.Node) -> None:
        dys = [self.total(v) for v in node.outputs]
        if all(dy is None for dy in dys) or self.as_a_whole(node, dys[0]):
            return
        wanted = frozenset(i for i, v in enumerate(node.inputs) if v is not None and id(v) in self.live)
        policy = self.policy if id(node) in self.rectifiers else POLICIES["plain"]
        view = Node(node, self.writer, policy, wanted)
        rule = self.rule(node)
        if rule is None:
            self.pass_zeros(node)
            return
        try:
            _check_ranks(node, wanted)
            self.distribute(node, rule.function(view, *dys), wanted, rule)
        except DO_NOT_FIT as error:
            self.refused.append(Refusal(node, str(error)))
            self.pass_zeros(node)

    def as_a_whole(self, node: ir.Node, dy: Tensor | None) -> bool:
        """Pass an activation that is written in parts, unless a cotangent between them is asked for."""
        found = composite(node) if dy is not None else None
        if dy is None or found is None or any(id(v) in self.wrt for v in found.inner):
            return False
        self.cotangents.setdefault(id(found.source), []).append(dy * found.slope(self.writer))
        return True

    def pass_zeros(self, node: ir.Node) -> None:
        """Behind a refused node the walk goes on, to find what else is refused."""
        for value in reads(node):
            if id(value) in self.live:
                zeros = xp.zeros_like(self.writer.tensor(value), working_type(value.dtype))
                self.cotangents.setdefault(id(value), []).append(zeros)

    def distribute(self, node: ir.Node, dxs: Cotangents, wanted: frozenset[int], rule: Rule) -> None:
        given = dict(enumerate(dxs if isinstance(dxs, tuple) else (dxs,)))
        for index in sorted(wanted):
            value, dx = node.inputs[index], given.get(index)
            assert value is not None
            if dx is None:
                raise UnsupportedError(f"input {index} ({value.name}) depends on the image")
            if rule.broadcasts:
                others = [v for i, v in enumerate(node.inputs) if i != index and v is not None]
                dx = unbroadcast(dx, self.writer.tensor(value), others if rule.aligned else None)
            self.cotangents.setdefault(id(value), []).append(dx)

    def total(self, value: ir.Value) -> Tensor | None:
        parts = self.cotangents.get(id(value))
        if not parts:
            return None
        if len(parts) > 1 and (whole := _side_by_side(parts)) is not None:
            parts[:] = [whole]
        if len(parts) > 2 and all(same_shape(t, self.writer.tensor(value)) and t.small is t for t in parts):
            parts[:] = [self.writer.op("Sum", *parts)]
        while len(parts) > 1:
            parts[:2] = [parts[0] + parts[1]]
        return parts[0]


@dataclass(frozen=True)
class _Piece:
    """A cotangent that is zero but for ``inner``, from ``start`` to ``stop`` of an axis."""

    inner: Tensor
    axis: int
    start: int
    stop: int
    length: int


def _side_by_side(parts: Sequence[Tensor]) -> Tensor | None:
    """The sum of cotangents that neither overlap nor leave out anything, as of queries, keys and values."""
    pieces = [piece for t in parts if (piece := _piece(t)) is not None]
    pieces.sort(key=lambda piece: piece.start)
    if len(pieces) < len(parts) or len({piece.axis for piece in pieces}) > 1:
        return None
    bounds = [0, *(piece.stop for piece in pieces)]
    if bounds[:-1] != [piece.start for piece in pieces] or bounds[-1] != pieces[0].length:
        return None
    return xp.concat([piece.inner for piece in pieces], pieces[0].axis)


def _piece(part: Tensor) -> _Piece | None:
    """What was padded with zeros along one axis."""
    node = part.small.value.producer() if part.small is part else None
    if node is None or node.op_type != "Pad" or len(node.inputs) != 2 or not (node.name or "").startswith(PREFIX):
        return None
    inner, amounts = (part.writer.tensor(v) for v in node.inputs if v is not None)
    if amounts.const is None or part.shape is None:
        return None
    before, after = amounts.const[: part.rank], amounts.const[part.rank :]
    axes = [a for a in range(part.rank) if before[a] or after[a]]
    length = part.shape[axes[0]] if len(axes) == 1 else None
    if not isinstance(length, int):
        return None
    axis = axes[0]
    return _Piece(inner, axis, int(before[axis]), length - int(after[axis]), length)


def _check_ranks(node: ir.Node, wanted: frozenset[int]) -> None:
    for value in (*(node.inputs[i] for i in sorted(wanted)), node.outputs[0]):
        if value is not None and value.shape is None:
            raise UnsupportedError(f"the rank of {value.name} is unknown; export the model with shape information")


def unbroadcast(dx: Tensor, like: Tensor, others: Sequence[ir.Value] | None = None) -> Tensor:
    """Sum ``dx`` over the axes along which ``like`` was broadcast, to the shape of ``like``; ``others`` are the inputs
    that it was broadcast against, if that is all that happened to it."""
    extra = dx.rank - like.rank
    if extra > 0:
        dx = xp.sum(dx, tuple(range(extra)))
    assert dx.shape is not None
    assert like.shape is not None
    pairs = list(enumerate(zip(dx.shape, like.shape, strict=True)))
    axes = [i for i, (d, want) in pairs if want == 1 and d != 1]
    if axes:
        dx = xp.sum(dx, axes, keepdims=True)
    free = [i for i, (d, want) in pairs if not isinstance(want, int) and (want is None or d != want)]
    if any(others is None or _may_stretch(like, axis, others) for axis in free):
        return _unbroadcast_at_run_time(dx, like)
    return dx


def _may_stretch(like: Tensor, axis: int, others: Sequence[ir.Value]) -> bool:
    """Whether one of the others may be longer along a free axis: it has the axis, and not as 1 or by the same name."""
    assert like.shape is not None
    back, want = like.rank - axis, like.shape[axis]
    for other in others:
        if other.shape is None:
            return True
        length = dims_of(other)[-back] if back <= len(other.shape) else 1
        if length != 1 and (length is None or length != want):
            return True
    return False


def _unbroadcast_at_run_time(dx: Tensor, like: Tensor) -> Tensor:
    """The same where an axis is free, and so may turn out to be 1."""
    writer = dx.writer
    differs = ~(xp.shape_of(dx) == xp.shape_of(like))
    axes = xp.squeeze(writer.op("NonZero", differs), 0)
    summed = writer.op("ReduceSum", dx, axes, keepdims=1, noop_with_empty_axes=1)
    return xp.reshape(summed, xp.shape_of(like), like.shape)
