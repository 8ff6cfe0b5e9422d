"""Recurrence and loops for the evaluator, in plain loops; onnx 1.23 leaves most of their attributes aside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_stft
from onnx.reference.ops.op_loop import Loop as PlainLoop
from onnx.reference.ops.op_scan import Scan as PlainScan

ACTIVATIONS = {
    "Relu": lambda x: max(x, 0),
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Softsign": lambda x: x / (1 + abs(x)),
    "Softplus": lambda x: np.log1p(np.exp(x)),
    "Affine": lambda x, alpha, beta: alpha * x + beta,
    "ScaledTanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
    "LeakyRelu": lambda x, alpha=0.01: x if x >= 0 else alpha * x,
    "ThresholdedRelu": lambda x, alpha: x if x >= alpha else 0,
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: min(max(alpha * x + beta, 0), 1),
    "Elu": lambda x, alpha=1.0: x if x >= 0 else alpha * (np.exp(x) - 1),
}
TAKES = {"Affine": "ab", "ScaledTanh": "ab", "HardSigmoid": "ab", "LeakyRelu": "a", "ThresholdedRelu": "a", "Elu": "a"}


def activations(names: list[str], alphas: list[float], betas: list[float], clip: float | None) -> Iterator[Any]:
    queues = {"a": iter(alphas or ()), "b": iter(betas or ())}
    for name in names:
        scales = [float(s) for kind in TAKES.get(name, "") if (s := next(queues[kind], None)) is not None]
        function = np.vectorize(lambda x, f=ACTIVATIONS[name], s=tuple(scales): f(x, *s), otypes=[float])
        yield lambda x, f=function, c=clip: f(x if c is None else np.clip(x, -c, c)), function


class Recurrent(OpRun):
    op_domain = ""
    names: tuple[str, ...]

    def cell(self, x, h, c, w, r, b, p, f, options):
        raise NotImplementedError

    def _run(self, x, w, r, b=None, lengths=None, h0=None, c0=None, p=None, **options):
        directions, hidden = w.shape[0], r.shape[2]
        gates = w.shape[1] // hidden
        if options.get("layout"):
            x, h0, c0 = (None if a is None else np.swapaxes(a, 0, 1) for a in (x, h0, c0))
        steps, batch = x.shape[:2]
        b = np.zeros((directions, 2 * gates * hidden)) if b is None else b
        p = np.zeros((directions, 3 * hidden)) if p is None else p
        lengths = [steps] * batch if lengths is None else lengths
        names = options.get("activations") or self.names * directions
        scales = (options.get(f"activation_{k}") for k in ("alpha", "beta"))
        functions = list(activations(names, *scales, options.get("clip")))
        y = np.zeros((steps, directions, batch, hidden))
        h, c = (np.zeros((directions, batch, hidden)) if a is None else a.astype(float) for a in (h0, c0))
        for d in range(directions):
            f = functions[d * len(self.names) : (d + 1) * len(self.names)]
            backward = d == 1 or options.get("direction") == "reverse"
            for n in range(batch):
                for t in range(lengths[n])[:: -1 if backward else 1]:
                    h[d, n], c[d, n] = self.cell(x[t, n], h[d, n], c[d, n], w[d], r[d], b[d], p[d], f, options)
                    y[t, d, n] = h[d, n]
        if options.get("layout"):
            y, h, c = y.transpose(2, 0, 1, 3), np.swapaxes(h, 0, 1), np.swapaxes(c, 0, 1)
        return tuple(a.astype(x.dtype) for a in (y, h, c)[: len(self.onnx_node.output)])


class RNN(Recurrent):
    names = ("Tanh",)

    def cell(self, x, h, c, w, r, b, p, f, options):
        wb, rb = np.split(b, 2)
        return f[0][0](w @ x + r @ h + wb + rb), c


class GRU(Recurrent):
    names = ("Sigmoid", "Tanh")

    def cell(self, x, h, c, w, r, b, p, f, options):
        (wz, wr, wh), (rz, rr, rh) = np.split(w, 3), np.split(r, 3)
        bwz, bwr, bwh, brz, brr, brh = np.split(b, 6)
        z = f[0][0](wz @ x + rz @ h + bwz + brz)
        reset = f[0][0](wr @ x + rr @ h + bwr + brr)
        inner = reset * (rh @ h + brh) if options.get("linear_before_reset") else rh @ (reset * h) + brh
        return (1 - z) * f[1][0](wh @ x + inner + bwh) + z * h, c


class LSTM(Recurrent):
    names = ("Sigmoid", "Tanh", "Tanh")

    def cell(self, x, h, c, w, r, b, p, f, options):
        wb, rb = np.split(b, 2)
        i, o, forget, g = np.split(w @ x + r @ h + wb + rb, 4)
        pi, po, pf = np.split(p, 3)
        i = f[0][0](i + pi * c)
        forget = 1 - i if options.get("input_forget") else f[0][0](forget + pf * c)
        c = forget * c + i * f[1][0](g)
        return f[0][0](o + po * c) * f[2][1](c), c


class Loop(PlainLoop):  # stacks rows where it should stack elements; does not run without a condition
    def _run(self, trips, going, *state, context=None, **_):
        body, rows, step = self.body, [], 0
        while (trips is None or step < trips) and (going is None or going):
            given = [np.asarray(step), np.asarray(True), *state]
            going, *made = self._run_body({**(context or {}), **dict(zip(body.input_names, given, strict=True))})
            state, step = tuple(made[: len(state)]), step + 1
            rows.append(made[len(state) :])
        return (*state, *(np.stack(column) for column in zip(*rows, strict=True)))


class Scan(PlainScan):  # no axes, no directions
    def __init__(self, onnx_node, run_params):
        OpRun.__init__(self, onnx_node, run_params)

    def _run(self, *given, context=None, num_scan_inputs=0, **options):
        body, count = self.body, num_scan_inputs
        state, scanned = list(given[:-count]), given[-count:]
        axes, flips = (options.get(f"scan_input_{k}") or [0] * count for k in ("axes", "directions"))
        scanned = [np.moveaxis(x, a, 0)[:: -1 if f else 1] for x, a, f in zip(scanned, axes, flips, strict=True)]
        rows = []
        for elements in zip(*scanned, strict=True):
            feeds = dict(zip(body.input_names, [*state, *elements], strict=True))
            made = self._run_body({**(context or {}), **feeds})
            state = made[: len(state)]
            rows.append(made[len(state) :])
        columns = list(zip(*rows, strict=True))
        axes, flips = (options.get(f"scan_output_{k}") or [0] * len(columns) for k in ("axes", "directions"))
        stacked = [np.stack(c[:: -1 if f else 1], a) for c, a, f in zip(columns, axes, flips, strict=True)]
        return (*state, *stacked)


class STFT(op_stft.STFT):  # both sides where nothing is said, which means one
    op_domain = ""

    def _run(self, x, step, window=None, length=None, onesided=None):
        return super()._run(x, step, window, length, onesided=1 if onesided is None else onesided)


class Optional(OpRun):  # a list
    op_domain = ""

    def _run(self, x=None, **_):
        return (x,)


class OptionalGetElement(OpRun):  # likewise
    op_domain = ""

    def _run(self, x):
        return (x,)


class Unique(OpRun):  # fails unsorted
    op_domain = ""

    def _run(self, x, axis=None, sorted=1):
        _, first, back, count = np.unique(x, True, True, True, axis)
        order = np.arange(len(first)) if sorted else np.argsort(first)
        rank = np.argsort(order)
        y = np.take(x.ravel() if axis is None else x, first[order], axis or 0)
        return (y, first[order], rank[back.ravel()], count[order])[: len(self.onnx_node.output)]


FILLED = [Unique, Optional, OptionalGetElement, RNN, GRU, LSTM, Loop, Scan, STFT]
