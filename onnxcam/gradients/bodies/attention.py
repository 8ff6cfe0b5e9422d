"""Attention as vision transformers use it; what else the operator can do is written as ONNX's function has it."""

from __future__ import annotations

import math

from onnxcam.gradients.bodies import Written, body
from onnxcam.gradients.bodies.functions import write_function
from onnxcam.gradients.rules import Node
from onnxcam.graph.attention import attend, by_head, joined
from onnxcam.graph.symbolic import Tensor
from onnxcam.model import Dim


@body("Attention")  # y = softmax(scale q k') v, per head
def attention(node: Node) -> Written:
    given = [node.input(i) for i in range(len(node.raw.inputs))]
    width = node.x.shape[-1] if node.x.shape is not None else None
    heads = node.attr("q_num_heads", 0) if node.x.rank == 3 else 1
    if not _is_plain(node, given) or not isinstance(width, int) or heads < 1:
        return write_function(node)
    q, k, v = (by_head(t, heads) for t in given[:3] if t is not None)
    scale = node.attr("scale", 0.0) or 1 / math.sqrt(width / heads)
    return joined(attend(q, k, v, scale)[1], node.x.rank)


def _is_plain(node: Node, given: list[Tensor | None]) -> bool:
    """Whether there is neither mask nor cache, nor heads that share keys."""
    counts: list[Dim] = [node.attr("q_num_heads", 0), node.attr("kv_num_heads", 0)]
    if node.x.rank == 4:
        counts = [t.shape[1] if t.shape is not None else None for t in given[:2] if t is not None]
    used = any(t is not None for t in given[3:]) or len(node.raw.outputs) > 1
    changed = node.attr("is_causal", 0) or node.attr("softcap", 0.0)
    windows = max(node.attr("left_window_size", -1), node.attr("right_window_size", -1)) >= 0
    return not used and not changed and not windows and counts[0] == counts[1] and counts[0] is not None
