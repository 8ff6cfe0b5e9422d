"""Cases of RNN, LSTM and GRU."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import case, given, node, var, weight

STEPS, BATCH, FEATURES, HIDDEN = 3, 2, 2, 3
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FIXED = {"fixed": "no fixed length"}


def layer(
    op: str, what: str, ways: int = 1, wanted: bool = False, rest: Any = (), x: Any = None, **options: Any
) -> None:
    """A layer on fixed weights, or on weights that are wanted too, with what else it reads."""
    rows, make = GATES[op] * HIDDEN, var if wanted else weight
    shapes = [(ways, rows, FEATURES), (ways, rows, HIDDEN), (ways, 2 * rows)]
    operands = [make(*s, low=-1, high=1) for s in shapes]
    if ways == 2:
        options["direction"] = "bidirectional"
    x = var(STEPS, BATCH, FEATURES) if x is None else x
    case(op, what, x, *operands, *rest, hidden_size=HIDDEN, **FIXED | options)


def state(ways: int = 1) -> Any:
    return var(ways, BATCH, HIDDEN, low=-1, high=1)


LAST = {"RNN": ("", "y"), "GRU": ("", "y"), "LSTM": ("", "", "y")}
for op in GATES:
    layer(op, "")
    layer(op, "weights wanted", wanted=True)
    layer(op, "both ways, weights wanted", ways=2, wanted=True)
    layer(op, "backward", direction="reverse")
    layer(op, "last state", ways=2, outputs=LAST[op])
    layer(op, "first state wanted", ways=2, rest=[None, state(2)])
    layer(op, "clip", clip=0.4)
    lengths = given(np.array([3, 1], np.int32))
    layer(op, "lengths", ways=2, rest=[lengths, state(2)], outputs=("y", "final"))
    layer(op, "lengths, last state", ways=2, rest=[lengths, state(2)], outputs=LAST[op])
    layer(op, "lengths that are all full", rest=[given(np.array([3, 3], np.int32))])
    layer(op, "batch first", ways=2, rest=[None, var(BATCH, 2, HIDDEN)], x=var(BATCH, STEPS, FEATURES), layout=1)
    layer(op, "batch first, last state", x=var(BATCH, STEPS, FEATURES), layout=1, outputs=LAST[op])
    layer(op, "one step", x=var(1, BATCH, FEATURES))
    # The batch may be free; a Reshape fixes the rest.
    shape = given(np.array([STEPS, -1, FEATURES]))
    layer(
        op, "free batch", ways=2, x=var(BATCH, STEPS * FEATURES), others={"shape": shape}, fixed="",
        before=[node("Reshape", ["a", "shape"], ["x"])], reads=["x", "b", "c", "d"], outputs=LAST[op],
    )  # fmt: skip
    weights = [weight(1, GATES[op] * HIDDEN, n) for n in (FEATURES, HIDDEN)]
    case(op, "no bias", var(STEPS, BATCH, FEATURES), *weights, hidden_size=HIDDEN, **FIXED)

layer("GRU", "linear before reset", ways=2, wanted=True, rest=[None, state(2)], linear_before_reset=1)
layer("GRU", "linear before reset, clip", linear_before_reset=1, clip=0.4)
peepholes = [None, state(2), state(2), var(2, 3 * HIDDEN, low=-1, high=1)]
layer("LSTM", "peepholes, both states and weights wanted", ways=2, wanted=True, rest=peepholes)
layer("LSTM", "last of the hidden states", outputs=("", "y", "cell"))
layer("LSTM", "coupled gates", rest=[None, None, state()], input_forget=1)
layer("LSTM", "coupled gates, peepholes", rest=[None, None, state(), weight(1, 3 * HIDDEN)], input_forget=1)
layer("LSTM", "peepholes, clip, a large cell state", rest=[None, None, var(1, BATCH, HIDDEN, low=-3, high=3)], clip=0.4)
lengths = given(np.array([2, 3], np.int32))
layer("LSTM", "lengths, cell state", ways=2, rest=[lengths, state(2), state(2)], outputs=LAST["LSTM"])

# Lengths that come at run time.
counted = [
    node("ReduceMax", ["a"], ["most"], keepdims=0),
    node("Sigmoid", ["most"], ["part"]),
    node("Ceil", ["part"], ["rounded"]),
    node("Cast", ["rounded"], ["one"], to=6),
    node("Add", ["one", "few"], ["lengths"]),
]
for op in GATES:
    few = {"few": given(np.array([2, 0], np.int32))}
    layer(op, "lengths at run time", before=counted, others=few, reads=["a", "b", "c", "d", "lengths"])

SCALED = {
    "Affine": (0.7, 0.2),
    "LeakyRelu": (0.3,),
    "ThresholdedRelu": (0.2,),
    "ScaledTanh": (0.8, 1.3),
    "HardSigmoid": (0.3, 0.45),
    "Elu": (0.6,),
    "Relu": (),
    "Sigmoid": (),
    "Softsign": (),
    "Softplus": (),
}
for name, scales in SCALED.items():
    attributes = {f"activation_{k}": [s] for k, s in zip(("alpha", "beta"), scales, strict=False)}
    layer("RNN", f"activation {name}", activations=[name], **attributes)
layer(
    "GRU",
    "scales that the first activation does not take",
    activations=["Sigmoid", "LeakyRelu"],
    activation_alpha=[0.3],
)
layer(
    "LSTM", "scales of several activations", activations=["HardSigmoid", "LeakyRelu", "Affine"],
    activation_alpha=[0.3, 0.4, 0.7], activation_beta=[0.45, 0.1],
)  # fmt: skip
layer(
    "GRU", "activations of either way", ways=2, activations=["Sigmoid", "Tanh", "HardSigmoid", "Softsign"],
    activation_alpha=[0.3], activation_beta=[0.45],
)  # fmt: skip
