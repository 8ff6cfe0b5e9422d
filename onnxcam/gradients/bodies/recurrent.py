"""RNN, LSTM and GRU, step by step (ONNX spec, RNN-22, LSTM-22, GRU-22)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcam.gradients.bodies import Written, body
from onnxcam.gradients.bodies.inline import MOST_NODES
from onnxcam.gradients.rules import Node, UnsupportedError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import PREFIX, Tensor
from onnxcam.model import Dim

State = list[Tensor]
Activation = Callable[[Tensor], Tensor]
Cell = Callable[[Sequence[Tensor], State], State]
_PER_STEP = 16  # nodes that the largest cell comes to, about

# What each activation scales by: alpha and beta, None where runtimes differ in the default.
_SCALED: dict[str, dict[str, float | None]] = {
    "affine": {"alpha": None, "beta": None},
    "leakyrelu": {"alpha": 0.01},
    "thresholdedrelu": {"alpha": None},
    "scaledtanh": {"alpha": None, "beta": None},
    "hardsigmoid": {"alpha": 0.2, "beta": 0.5},
    "elu": {"alpha": 1.0},
}
_OPERATORS = {
    **{name.lower(): name for name in ("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus")},
    **{name.lower(): name for name in ("LeakyRelu", "ThresholdedRelu", "HardSigmoid", "Elu")},
}


@dataclass(frozen=True)
class _Way:
    """One direction of the layer.

    Attributes:
        node: the layer.
        index: which of its directions.
        backward: it reads the sequence from its end.
        activations: one per kind of gate.
        x: the sequence, (steps batch, features).
        batch: the number of sequences; a name where it is free.
        steps: the length of the sequence.
        hidden: the length of the state.
    """

    node: Node
    index: int
    backward: bool
    activations: Sequence[Activation]
    x: Tensor
    batch: Dim
    steps: int
    hidden: int

    def part(self, index: int) -> Tensor | None:
        """This direction's part of an input."""
        given = self.node.input(index)
        if given is None:
            return None
        return given.writer.op("Gather", given, given.writer.constant(np.asarray(self.index)), axis=0)

    def gates(self, index: int, sizes: Sequence[int], axis: int = 0) -> list[Tensor] | list[None]:
        """This direction's part of an input, cut: ``sizes`` in multiples of the state's length."""
        part = self.part(index)
        return [None] * len(sizes) if part is None else cut(part, [s * self.hidden for s in sizes], axis)

    def projected(self, w: Tensor, bias: Tensor | None) -> list[Tensor]:
        """x W' + bias for every step, in one product: a (batch, gates) matrix per step."""
        rows = cut(_product(self.x, w, bias), [None] * self.steps)
        for row in rows:  # all of one known shape, so that nothing looks like a broadcast
            row.value.shape = ir.Shape([self.batch, row.shape[1] if row.shape is not None else None])
        return rows


def cut(x: Tensor, sizes: Sequence[int | None], axis: int = 0) -> list[Tensor]:
    """Cut along an axis; into equal parts where the sizes are None."""
    if len(sizes) == 1:
        return [x]
    if None in sizes:
        return list(x.writer.ops("Split", x, outputs=len(sizes), axis=axis, num_outputs=len(sizes)))
    lengths = x.writer.constant(np.asarray(sizes, dtype=np.int64))
    return list(x.writer.ops("Split", x, lengths, outputs=len(sizes), axis=axis))


@body("RNN")  # H = f(x W' + H R' + Wb + Rb)
def rnn(node: Node) -> Written:
    return _unrolled(node, ["Tanh"], _rnn_cell)


def _rnn_cell(way: _Way) -> tuple[list[list[Tensor]], Cell]:
    w, r, (f,) = _given(way.part(1)), _given(way.part(2)), way.activations
    wb, rb = way.gates(3, [1, 1])

    def cell(x: Sequence[Tensor], state: State) -> State:
        return [f(_product(state[0], r, x[0]))]

    return [way.projected(w, _sum(wb, rb))], cell


@body("GRU")  # H = (1 - z) g(...) + z H, where z and r = f(x W' + H R' + Wb + Rb)
def gru(node: Node) -> Written:
    return _unrolled(node, ["Sigmoid", "Tanh"], _gru_cell)


def _gru_cell(way: _Way) -> tuple[list[list[Tensor]], Cell]:
    (w_gates, w), (r_gates, r) = ([_given(t) for t in way.gates(i, [2, 1])] for i in (1, 2))
    wb_gates, wb, rb_gates, rb = way.gates(3, [2, 1, 2, 1])
    f, g = way.activations
    late = way.node.attr("linear_before_reset", 0)

    def cell(x: Sequence[Tensor], state: State) -> State:
        h = state[0]
        z, reset = cut(f(_product(h, r_gates, x[0])), [way.hidden] * 2, axis=1)
        new = g(x[1] + reset * _product(h, r, rb) if late else _product(reset * h, r, x[1]))
        return [new + z * (h - new)]

    projected = [way.projected(w_gates, _sum(wb_gates, rb_gates)), way.projected(w, wb if late else _sum(wb, rb))]
    return projected, cell


@body("LSTM")  # C = f C + i g(...), H = o h(C), where i, o and f = sigmoid(x W' + H R' + P C + Wb + Rb)
def lstm(node: Node) -> Written:
    return _unrolled(node, ["Sigmoid", "Tanh", "Tanh"], _lstm_cell)


def _lstm_cell(way: _Way) -> tuple[list[list[Tensor]], Cell]:
    w, r, (f, g, h) = _given(way.part(1)), _given(way.part(2)), way.activations
    wb, rb = way.gates(3, [4, 4])
    p_in, p_out, p_forget = way.gates(7, [1, 1, 1])
    coupled = way.node.attr("input_forget", 0)

    def cell(x: Sequence[Tensor], state: State) -> State:
        gates = cut(_product(state[0], r, x[0]), [way.hidden] * 4, axis=1)
        enter = f(_peep(gates[0], p_in, state[1]))
        keep = 1 - enter if coupled else f(_peep(gates[2], p_forget, state[1]))
        c = keep * state[1] + enter * g(gates[3])
        return [f(_peep(gates[1], p_out, c)) * h(c), c]

    return [way.projected(w, _sum(wb, rb))], cell


def _product(x: Tensor, w: Tensor, rest: Tensor | None) -> Tensor:
    """x W' + rest"""
    return x.writer.op("Gemm", x, w, *([] if rest is None else [rest]), transB=1)


def _peep(gate: Tensor, weight: Tensor | None, c: Tensor) -> Tensor:
    return gate if weight is None else gate + weight * c


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None or a is None else a + b


def _given(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise UnsupportedError("its weights are left out")
    return tensor


def _unrolled(node: Node, defaults: Sequence[str], make: Callable[[_Way], tuple[list[list[Tensor]], Cell]]) -> Written:
    """Run the cell over the sequence, once per direction, and stack what comes out."""
    by_batch = node.attr("layout", 0)
    x = xp.permute_dims(node.x, [1, 0, 2]) if by_batch else node.x
    ways = _ways(node, x, defaults)
    alive = _alive(ways[0])
    runs = [_run(way, *make(way), _initial(way, x, len(defaults) == 3), alive) for way in ways]
    y = xp.concat([_stacked(rows, x, ways[0]) for rows, _ in runs], axis=1)
    last = [xp.concat([xp.expand_dims(s, 0) for s in states]) for states in zip(*(s for _, s in runs), strict=True)]
    if by_batch:
        return (xp.permute_dims(y, [2, 0, 1, 3]), *(xp.permute_dims(s, [1, 0, 2]) for s in last))
    return (y, *last)


def _ways(node: Node, x: Tensor, defaults: Sequence[str]) -> list[_Way]:
    direction, r = node.attr("direction", "forward"), _given(node.input(2))
    steps, features, hidden = _fixed(x, 0, "sequence"), _fixed(x, 2, "input"), _fixed(r, 2, "state")
    count = 2 if direction == "bidirectional" else 1
    if steps * count * _PER_STEP > MOST_NODES:
        raise UnsupportedError(f"{steps} steps are too many to be written out")
    flat = xp.reshape(x, [-1, features])
    kinds = len(defaults)
    found = _activations(node, list(defaults) * count, kinds)
    assert x.shape is not None
    batch = x.shape[1] or f"{PREFIX}batch_{node.raw.name}"
    rest = (flat, batch, steps, hidden)
    return [
        _Way(node, d, d == 1 or direction == "reverse", found[d * kinds : (d + 1) * kinds], *rest) for d in range(count)
    ]


def _fixed(x: Tensor, axis: int, what: str) -> int:
    length = x.shape[axis] if x.shape is not None else None
    if not isinstance(length, int):
        raise UnsupportedError(f"the {what} has no fixed length")
    return length


def _initial(way: _Way, x: Tensor, two: bool) -> State:
    """The states before the first step: zeros unless given."""
    dims = [way.batch, way.hidden]
    zeros = xp.broadcast_to(x.lift(0), xp.concat([xp.dim(x, 1), x.writer.constant([way.hidden])]), dims)
    by_batch = way.node.attr("layout", 0)
    states = []
    for index in (5, 6)[: 1 + two]:
        given = way.node.input(index)
        if given is None:
            states.append(zeros)
        else:
            at = given.writer.constant(np.asarray(way.index))
            states.append(given.writer.op("Gather", given, at, axis=1 if by_batch else 0, shape=dims))
    return states


def _alive(way: _Way) -> list[Tensor | None]:
    """Per step: which sequences of the batch last that long, (batch, 1); None where all do."""
    lengths = way.node.input(4)
    if lengths is None:
        return [None] * way.steps
    column = lengths.writer.op("Unsqueeze", lengths, lengths.writer.constant([1]), shape=[way.batch, 1])
    masks = [column > step for step in range(way.steps)]
    return [None if m.const is not None and m.const.all() else m for m in masks]


def _run(
    way: _Way, projected: list[list[Tensor]], cell: Cell, state: State, alive: list[Tensor | None]
) -> tuple[list[Tensor], State]:
    """The hidden state of every step, and the states after the last; a sequence that is over keeps its own."""
    rows: dict[int, Tensor] = {}
    for t in reversed(range(way.steps)) if way.backward else range(way.steps):
        new, mask = cell([p[t] for p in projected], state), alive[t]
        rows[t] = new[0] if mask is None else xp.where(mask, new[0], new[0].lift(0))
        state = new if mask is None else [xp.where(mask, n, s) for n, s in zip(new, state, strict=True)]
    return [rows[t] for t in range(way.steps)], state


def _stacked(rows: list[Tensor], x: Tensor, way: _Way) -> Tensor:
    """(batch, hidden) of every step -> (steps, 1, batch, hidden)."""
    shape = xp.concat([x.writer.constant([way.steps, 1]), xp.dim(x, 1), x.writer.constant([way.hidden])])
    assert x.shape is not None
    return xp.reshape(xp.concat(rows), shape, [way.steps, 1, x.shape[1], way.hidden])


def _activations(node: Node, defaults: list[str], kinds: int) -> list[Activation]:
    """As named; the scales are taken in order by those that have one."""
    names = [str(n).lower() for n in node.attr("activations", list[str]()) or defaults]
    if len(names) != len(defaults):
        raise UnsupportedError(f"{len(names)} activations, where it has {len(defaults)}")
    clip = node.attr("clip", 0.0)
    scales = {kind: iter(node.attr(f"activation_{kind}", list[float]())) for kind in ("alpha", "beta")}
    found = []
    for position, name in enumerate(names):
        taken = {kind: next(scales[kind], default) for kind, default in _SCALED.get(name, {}).items()}
        if None in taken.values():
            raise UnsupportedError(f"{name} without its scales, for which runtimes take different defaults")
        limit = clip if position % kinds < 2 else 0.0  # runtimes do not clip the cell state on its way to the third
        found.append(_activation(name, {k: float(v) for k, v in taken.items() if v is not None}, limit))
    return found


def _activation(name: str, scales: dict[str, Any], limit: float) -> Activation:
    def clipped(x: Tensor) -> Tensor:
        return x.writer.op("Clip", x, x.lift(-limit), x.lift(limit)) if limit else x

    if name == "affine":
        return lambda x: clipped(x) * scales["alpha"] + scales["beta"]
    if name == "scaledtanh":
        return lambda x: xp.tanh(clipped(x) * scales["beta"]) * scales["alpha"]
    if name not in _OPERATORS:
        raise UnsupportedError(f"the activation {name}")
    return lambda x: x.writer.op(_OPERATORS[name], clipped(x), **scales)
