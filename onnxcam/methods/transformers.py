"""Methods that read the attention maps of transformers."""

from __future__ import annotations

from onnxcam.core import attention
from onnxcam.methods.row import Method, papers

TRANSFORMERS = (
    Method(
        "legrad", "LeGrad", "mean_l mean_heads,queries relu(ds^l / dP^l)", papers("bousselham2025legrad"),
        ("attention",), procedure=attention.legrad, gives="map", runs="1",
    ),
    Method(
        "rollout", "Attention rollout", "mean of the rows read of prod_l (mean_heads P^l + I) / 2",
        papers("abnar2020quantifying"), ("attention",), procedure=attention.rollout, gives="map", runs="1",
        aliases=("attention_rollout",),
    ),
)  # fmt: skip
