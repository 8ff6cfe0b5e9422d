"""Cases of operators that ONNX defines by functions, which the engine differentiates as they are written there."""

from __future__ import annotations

import numpy as np
from cases import case, given, var, weight

# Attention

DOUBLE = {"softmax_precision": 11, "opset": 23}  # and a scale whose root float32 holds exactly
HEADS = (1, 2, 3, 4)  # batch, heads, tokens, channels of a head
HEADED = {"q_num_heads": 2, "kv_num_heads": 2, "scale": 0.25}
TOKENS = var(1, 3, 8, free=False)  # ONNX infers 0 channels for free ones
for what, operands, attributes in [
    ("", (var(*HEADS), var(1, 2, 5, 4), var(1, 2, 5, 2)), {"scale": 0.25}),
    ("scale", (var(*HEADS), var(*HEADS), var(*HEADS)), {"scale": 0.3}),
    ("heads in channels, causal", (TOKENS, TOKENS, TOKENS), HEADED | {"is_causal": 1}),
    ("causal", (var(*HEADS), var(*HEADS), var(*HEADS)), {"is_causal": 1, "scale": 0.25}),
    ("softcap", (var(*HEADS), var(*HEADS), var(*HEADS)), {"softcap": 1.5, "scale": 0.25}),
    ("mask", (var(*HEADS), var(*HEADS), var(*HEADS), var(3, 3, free=False)), {}),
    ("groups of queries", (var(1, 4, 3, 4), var(*HEADS), var(*HEADS)), {}),
    ("heads in channels", (TOKENS, TOKENS, TOKENS), HEADED),
]:
    case("Attention", what, *operands, **attributes, **DOUBLE)
keep = given(np.array([[True, False, True], [True, True, False], [False, True, True]]))
case("Attention", "Boolean mask", var(*HEADS), var(*HEADS), var(*HEADS), keep, scale=1.0, **DOUBLE)

# RotaryEmbedding

caches = (weight(5, 2), weight(5, 2))
for what, attributes in [("", {}), ("interleaved", {"interleaved": 1})]:
    places = given(np.array([[0, 2, 4], [1, 1, 3]]))
    case("RotaryEmbedding", what, var(2, 2, 3, 4), *caches, places, opset=23, **attributes)

# Losses

classes = given(np.array([1, 0, 2]))
for reduction in ("none", "mean", "sum"):
    weights = weight(4, low=0.3)
    case("NegativeLogLikelihoodLoss", reduction, var(3, 4), classes, weights, reduction=reduction)
    case("SoftmaxCrossEntropyLoss", reduction, var(3, 4), classes, weights, reduction=reduction)
pixels = given(np.array([[[1, 0], [2, 1]], [[0, 2], [1, 1]]]))
case("NegativeLogLikelihoodLoss", "pixels", var(2, 3, 2, 2), pixels, ignore_index=1)
case("SoftmaxCrossEntropyLoss", "pixels", var(2, 3, 2, 2), pixels, ignore_index=1)

# Newer activations

case("SwiGLU", "", var(2, 3), var(2, 3), opset=28)
case("SwiGLU", "alpha", var(2, 3), var(2, 3), opset=28, alpha=1.7)

# Recurrences (LinearAttention computes in float32, so the conformance report alone has it)

both = {"outputs": ["y", "state"], "opset": 27, "rank": 3}
case("CausalConvWithState", "", var(1, 2, 5), weight(2, 1, 3), weight(2), **both)
