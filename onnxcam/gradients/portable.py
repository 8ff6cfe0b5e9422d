"""Engine "portable": the reverse walk, written as standard ONNX operators.

It accumulates, sums broadcast axes and reports; it knows no operator. Reverse-mode differentiation as in Griewank
and Walther, "Evaluating Derivatives", 2nd edition, section 3.2.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError

from onnxcam.errors import GradientError
from onnxcam.gradients.relu import POLICIES, Policy
from onnxcam.gradients.rules import Cotangents, Node, Rule, UnsupportedError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.paths import FLOATS
from onnxcam.graph.symbolic import Tensor, Writer

# What a rule raises for a node whose attributes contradict its tensors, besides what it refuses on purpose.
_DO_NOT_FIT = (UnsupportedError, ValueError, TypeError, IndexError, InferenceError, ValidationError)
Table = Mapping[tuple[str, str], Rule]


@dataclass(frozen=True)
class Refusal:
    """A node that stands on the path and cannot be differentiated."""

    node: ir.Node
    reason: str

    def __str__(self) -> str:
        domain = f"{self.node.domain}::" if self.node.domain else ""
        return f"{domain}{self.node.op_type} (node {self.node.name}, opset {_opset(self.node)}): {self.reason}"


def _opset(node: ir.Node) -> int | None:
    graph = node.graph
    return graph.opset_imports.get(node.domain) if isinstance(graph, ir.Graph) else node.version


def missing_rules(path: Sequence[ir.Node], rules: Table) -> list[Refusal]:
    """The nodes of the path that no rule covers."""
    return [Refusal(n, "no gradient rule") for n in path if (n.domain, n.op_type) not in rules]


def unknown_ranks(path: Sequence[ir.Node]) -> list[Refusal]:
    """The nodes of the path whose output could have any number of axes."""
    return [Refusal(n, f"the rank of {n.outputs[0].name} is unknown") for n in path if n.outputs[0].shape is None]


def element_type(value: ir.Value) -> ir.DataType:
    """The type of a cotangent of ``value``.

    Raises:
        GradientError: the value holds integers.
    """
    if value.dtype not in FLOATS:
        raise GradientError(f"{value.name} holds {value.dtype}, not floats; choose a float value")
    return value.dtype


def disconnected(of: ir.Value, value: ir.Value) -> GradientError:
    """What both engines say where no differentiable way leads from ``value`` to ``of``."""
    return GradientError(
        f"{of.name} does not depend on {value.name} through differentiable operators, so there is no gradient; choose "
        "a layer between the image and the score"
    )


def backward(
    writer: Writer,
    path: Sequence[ir.Node],
    of: ir.Value,
    seed: Tensor,
    wrt: Sequence[ir.Value],
    policy: Policy,
    rectifiers: Container[int],
    rules: Table,
) -> list[Tensor]:
    """Write the vector-Jacobian product ``seed`` -> d(of . seed)/d(v) for each v of ``wrt``.

    Args:
        writer: writes into the graph of all these.
        path: the nodes between ``wrt`` and ``of``, in graph order.
        of: the value that is differentiated.
        seed: its cotangent.
        wrt: with respect to what.
        policy: how a gradient passes a rectifier.
        rectifiers: ids of the nodes that the policy is for; others get the plain gradient.
        rules: the table.

    Raises:
        GradientError: an operator on the path has no rule, or a rule does not cover the node (all of them are
            named), or ``of`` does not depend on one of ``wrt``.
    """
    if refused := missing_rules(path, rules):
        raise refusal_error(refused)
    walk = _Walk(writer, policy, rectifiers, rules, {id(v) for n in path for v in n.outputs} | {id(v) for v in wrt})
    walk.cotangents[id(of)] = [seed]
    for node in reversed(path):
        walk.step(node)
    if walk.refused:
        raise refusal_error(walk.refused)
    return [walk.result(v, of) for v in wrt]


class _Walk:
    def __init__(
        self, writer: Writer, policy: Policy, rectifiers: Container[int], rules: Table, live: set[int]
    ) -> None:
        self.writer, self.policy, self.rules, self.live = writer, policy, rules, live
        self.rectifiers = rectifiers
        self.cotangents: dict[int, list[Tensor]] = {}
        self.refused: list[Refusal] = []

    def step(self, node: ir.Node) -> None:
        dys = [self.total(v) for v in node.outputs]
        if all(dy is None for dy in dys):
            return
        wanted = frozenset(i for i, v in enumerate(node.inputs) if v is not None and id(v) in self.live)
        policy = self.policy if id(node) in self.rectifiers else POLICIES["plain"]
        view = Node(node, self.writer, policy, wanted)
        rule = self.rules[node.domain, node.op_type]
        try:
            _check_ranks(node, wanted)
            self.distribute(node, rule.function(view, *dys), wanted, rule.broadcasts)
        except _DO_NOT_FIT as error:
            self.refused.append(Refusal(node, str(error)))
            dtype = next(dy.dtype for dy in dys if dy is not None)
            for value in node.inputs:  # the walk goes on, to find what else is refused
                if value is not None and id(value) in self.live:
                    self.cotangents.setdefault(id(value), []).append(xp.zeros_like(self.writer.tensor(value), dtype))

    def distribute(self, node: ir.Node, dxs: Cotangents, wanted: frozenset[int], broadcasts: bool) -> None:
        given = dict(enumerate(dxs if isinstance(dxs, tuple) else (dxs,)))
        for index in sorted(wanted):
            value, dx = node.inputs[index], given.get(index)
            assert value is not None
            if dx is None:
                raise UnsupportedError(f"input {index} ({value.name}) depends on the image")
            dx = unbroadcast(dx, self.writer.tensor(value)) if broadcasts else dx
            self.cotangents.setdefault(id(value), []).append(dx)

    def total(self, value: ir.Value) -> Tensor | None:
        parts = self.cotangents.get(id(value))
        if not parts:
            return None
        while len(parts) > 1:
            parts[:2] = [parts[0] + parts[1]]
        return parts[0]

    def result(self, value: ir.Value, of: ir.Value) -> Tensor:
        total = self.total(value)
        if total is None:
            raise disconnected(of, value)
        return total


def _check_ranks(node: ir.Node, wanted: frozenset[int]) -> None:
    for value in (*(node.inputs[i] for i in sorted(wanted)), node.outputs[0]):
        if value is not None and value.shape is None:
            raise UnsupportedError(f"the rank of {value.name} is unknown; export the model with shape information")


def unbroadcast(dx: Tensor, like: Tensor) -> Tensor:
    """Sum ``dx`` over the axes along which ``like`` was broadcast, to the shape of ``like``."""
    extra = dx.rank - like.rank
    if extra > 0:
        dx = xp.sum(dx, tuple(range(extra)))
    assert dx.shape is not None
    assert like.shape is not None
    pairs = list(enumerate(zip(dx.shape, like.shape, strict=True)))
    axes = [i for i, (d, want) in pairs if want == 1 and d != 1]
    if axes:
        dx = xp.sum(dx, axes, keepdims=True)
    if any(not isinstance(want, int) and (want is None or d != want) for _, (d, want) in pairs):
        return _unbroadcast_at_run_time(dx, like)
    return dx


def _unbroadcast_at_run_time(dx: Tensor, like: Tensor) -> Tensor:
    """The same where an axis is free, and so may turn out to be 1."""
    writer = dx.writer
    differs = ~(xp.shape_of(dx) == xp.shape_of(like))
    axes = xp.squeeze(writer.op("NonZero", differs), 0)
    summed = writer.op("ReduceSum", dx, axes, keepdims=1, noop_with_empty_axes=1)
    return xp.reshape(summed, xp.shape_of(like), like.shape)


def refusal_error(refused: Sequence[Refusal]) -> GradientError:
    """One error that names every refusal, grouped by operator and reason."""
    groups: dict[tuple[str, str, str], list[Refusal]] = {}
    for r in refused:
        groups.setdefault((r.node.domain, r.node.op_type, r.reason), []).append(r)
    lines = [f"  {same[0]}{f' (and {len(same) - 1} more like it)' * (len(same) > 1)}" for same in groups.values()]
    return GradientError(
        "the portable engine cannot differentiate these operators on the path:\n" + "\n".join(lines) + "\n"
        "Choose a layer nearer to the output; `onnxcam inspect MODEL` says whether the training engine can do it"
    )
