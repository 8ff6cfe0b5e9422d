"""Nodes that cannot be differentiated, and how errors name them: all at once, with the reason of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError

from onnxcam.errors import GradientError
from onnxcam.gradients.rules import UnsupportedError

# What a rule raises for a node whose attributes contradict its tensors, besides what it refuses on purpose.
DO_NOT_FIT = (UnsupportedError, ValueError, TypeError, IndexError, InferenceError, ValidationError)


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


def unknown_ranks(path: Sequence[ir.Node]) -> list[Refusal]:
    """The nodes of the path whose output could have any number of axes."""
    return [Refusal(n, f"the rank of {n.outputs[0].name} is unknown") for n in path if n.outputs[0].shape is None]


def doubtful_pools(graph: ir.Graph) -> list[Refusal]:
    """Pools whose last window starts in the padding behind, up to opset 21.

    ONNX Runtime takes the output for longer than it makes it, and folds lengths accordingly, so that whatever is
    written behind such a pool would read a wrong length.
    """
    reason = "a last window of ceil_mode starts in the padding, which runtimes count or not; export with opset 22"
    return [Refusal(n, reason) for n in graph if n.attributes.get_int("ceil_mode", 0) and _is_doubtful(n)]


def _is_doubtful(pool: ir.Node) -> bool:
    x, y = pool.inputs[0], pool.outputs[0]
    if x is None or x.shape is None or y.shape is None or len(x.shape) != len(y.shape):
        return False
    return any(isinstance(n, int) and not isinstance(m, int) for n, m in zip(x.shape, y.shape, strict=True))


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
