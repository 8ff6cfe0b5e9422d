"""Where a gradient ends: steps, whose derivative is 0, and values that hold no floats."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.errors import GradientError
from onnxcam.gradients.rules import NO_GRADIENT, STRAIGHT_THROUGH
from onnxcam.graph.paths import FLOATS, carries, reads

_OF_SHAPES = {"Shape", "Size"}
_SHOWN = 5


def dead_ends(of: ir.Value, wrt: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes between ``wrt`` and ``of`` that take a value with a gradient and hand none on, in graph order."""
    graph = of.graph
    assert graph is not None
    ahead, reached = {id(v) for v in wrt}, {id(v) for v in wrt}
    ends, ways = [], []
    for node in graph:
        if node.op_type in _OF_SHAPES or not any(id(v) in reached for v in reads(node)):
            continue
        reached.update(id(v) for v in node.outputs)
        ways.append(node)
        if any(id(v) in ahead for v in reads(node)):
            handed = [v for v in node.outputs if node.op_type not in NO_GRADIENT and carries(node, v)]
            ahead.update(id(v) for v in handed)
            if not handed:
                ends.append(node)
    behind = {id(of)}
    for node in reversed(ways):
        if any(id(v) in behind for v in node.outputs):
            behind.update(id(v) for v in reads(node))
    return [n for n in ends if any(id(v) in behind for v in n.outputs)]


def steps_on_the_way(of: ir.Value, wrt: Sequence[ir.Value]) -> list[ir.Node]:
    """The dead ends that act on values, and so hide a part of what the network does: signs and roundings."""
    return [n for n in dead_ends(of, wrt) if n.op_type in ("Sign", "Floor", "Ceil", "Round") or _truncates(n)]


def _truncates(node: ir.Node) -> bool:
    source = node.inputs[0] if node.inputs else None
    return node.op_type == "Cast" and source is not None and source.dtype in FLOATS


def disconnected(of: ir.Value, lost: Sequence[ir.Value]) -> GradientError:
    """What both engines say where no differentiable way leads from the values ``lost`` to ``of``."""
    names, ends = ", ".join(str(v.name) for v in lost), dead_ends(of, lost)
    if not ends:
        return GradientError(
            f"{of.name} does not depend on {names} at all, so there is no gradient; choose a layer between the image "
            "and the score"
        )
    ways = "a layer behind them, or a method that needs no gradient"
    if any(("", n.op_type) in STRAIGHT_THROUGH or _truncates(n) for n in ends):
        ways = f"straight_through (--straight-through), which lets it pass as if they were the identity; {ways}"
    return GradientError(
        f"{of.name} depends on {names} only through operators whose derivative is 0 everywhere, so the gradient "
        f"is zero: {listed(ends)} stop it. Possible: {ways}"
    )


def listed(nodes: Sequence[ir.Node]) -> str:
    """Operators and names of the first few nodes, and how many there are."""
    named = ", ".join(f"{n.op_type} (node {n.name})" for n in nodes[:_SHOWN])
    return named + (f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else "")
