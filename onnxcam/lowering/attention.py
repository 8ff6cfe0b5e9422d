"""Attention over heads, in the form that image models have: no masks, no past."""

from __future__ import annotations

import math

from onnxcam.lowering import MICROSOFT, lowers
from onnxcam.lowering.draft import Call, StaysError


@lowers("Attention", domain=MICROSOFT)
def attention(call: Call) -> str:
    call.refuse_inputs(mask_index=3, past=4, past_sequence_length=6)
    _refuse_settings(call, "unidirectional", "do_rotary")
    joint = call.op("MatMul", call.input(0), call.input(1))
    joint = call.op("Add", joint, call.input(2)) if call.input(2) else joint
    width = call.dims(call.input(1))[1]
    sizes = call.attr("qkv_hidden_sizes", list[int]()) or ([width // 3] * 3 if width else [])
    if len(sizes) != 3:
        raise StaysError("of unknown width")
    parts = call.ops("Split", joint, call.integers(*sizes), outputs=3, axis=-1)
    return _attend(call, parts, sizes[0], call.input(5))


@lowers("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(call: Call) -> str:
    call.refuse_inputs(key_padding_mask=4, past_key=6, past_value=7, past_sequence_length=8, cache_indirection=9)
    _refuse_settings(call, "unidirectional")
    parts = [call.input(k) for k in range(3)]
    if not all(parts) or any(len(call.dims(p)) != 3 for p in parts):
        raise StaysError("of packed operands")
    widths = [w for p in parts if (w := call.dims(p)[2]) is not None]
    if len(widths) != 3:
        raise StaysError("of unknown width")
    if call.input(3):
        biases = call.ops("Split", call.input(3), call.integers(*widths), outputs=3, axis=0)
        parts = [call.op("Add", p, b) for p, b in zip(parts, biases, strict=True)]
    return _attend(call, parts, widths[0], call.input(5))


def _refuse_settings(call: Call, *names: str) -> None:
    for name in names:
        if call.attr(name, 0):
            raise StaysError(f"{name}={call.attr(name, 0)}")
    if any(map(call.wants, range(1, len(call.node.output)))):
        raise StaysError("with more than one output")


def _attend(call: Call, parts: list[str], width: int, bias: str) -> str:
    """softmax(q k' / sqrt(d) + bias) v per head (Vaswani et al., https://arxiv.org/abs/1706.03762)."""
    heads = call.attr("num_heads", 1)
    q, k, v = (call.op("Reshape", p, call.integers(0, 0, heads, -1)) for p in parts)
    q, v = (call.op("Transpose", p, perm=[0, 2, 1, 3]) for p in (q, v))
    k = call.op("Transpose", k, perm=[0, 2, 3, 1])
    scale = call.attr("scale", 0.0) or 1 / math.sqrt(width // heads)
    scores = call.op("Mul", call.op("MatMul", q, k), call.number(scale, parts[0]))
    scores = call.op("Add", scores, bias) if bias else scores
    mixed = call.op("MatMul", call.op("Softmax", scores, axis=-1), v)
    return call.op("Reshape", call.op("Transpose", mixed, perm=[0, 2, 1, 3]), call.integers(0, 0, -1))
