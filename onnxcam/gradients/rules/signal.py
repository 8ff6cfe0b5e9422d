"""The Fourier transform."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, no_gradient, vjp
from onnxcam.gradients.rules.linear import positions
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor

no_gradient("MelWeightMatrix", "Multinomial", "BitCast")  # of rounded edges, of chance, of bits

_AXIS_IS_AN_INPUT = 20  # the first opset where DFT takes its axis so


def fourier(x: Tensor, axis: Tensor, length: Tensor | None, inverse: int = 0, onesided: int = 0) -> Tensor:
    """DFT along one axis; the last holds real and imaginary parts."""
    flags: dict[str, Any] = {"inverse": inverse, "onesided": onesided}
    if x.writer.opset < _AXIS_IS_AN_INPUT:
        assert axis.const is not None
        return x.writer.op("DFT", x, length, axis=int(axis.const), **flags)
    return x.writer.op("DFT", x, length, axis, **flags)


@vjp("DFT")  # y = F x, so dx = conj(F)' dy, which is n times the inverse transform; for that one, the transform / n
def dft(node: Node, dy: Tensor) -> Cotangents:
    x, axis, inverse = node.x, _axis(node), node.attr("inverse", 0)
    given, lines = node.input(1), x.writer.op("Gather", xp.shape_of(x), axis, axis=0)
    halved = bool(inverse and node.attr("onesided", 0))
    n = (2 * (lines - 1) if halved else lines) if given is None else xp.astype(xp.reshape(given, []), lines.dtype)
    if halved:
        return _half(node, dy, n, lines, axis)
    whole, size = fourier(dy, axis, n, inverse=1 - inverse), xp.astype(n, dy.dtype)
    dx = _real_if(whole / size if inverse else whole * size, x)
    return dx if given is None else _fitted(dx, lines - n, axis, x)


def _axis(node: Node) -> Tensor:
    if node.writer.opset < _AXIS_IS_AN_INPUT:
        return node.writer.constant(node.attr("axis", 1))
    given = node.input(2)
    return node.writer.constant(-2) if given is None else xp.reshape(given, [])


def _half(node: Node, dy: Tensor, n: Tensor, lines: Tensor, axis: Tensor) -> Tensor:
    """For the half spectrum of a real signal: every line but the first and the one at n / 2 stands for two."""
    if node.input(1) is not None and not np.all((lines == n / 2 + 1).const):
        raise UnsupportedError("dft_length is not known to fit the half spectrum: dft_length // 2 + 1 lines")
    k = positions(xp.reshape(lines, [1]))
    stands_for = 2 - xp.astype(k == 0, dy.dtype) - xp.astype(k * 2 == n, dy.dtype)
    places = node.writer.constant(np.ones(dy.rank, np.int64))
    column = node.writer.op("ScatterElements", places, xp.reshape(axis, [1]), places.lift([-1]))
    factor = xp.reshape(stands_for / xp.astype(n, dy.dtype), column, [None] * dy.rank)
    return fourier(dy, axis, n, onesided=1) * factor


def _real_if(dx: Tensor, x: Tensor) -> Tensor:
    """The real part where the input is real."""
    if x.shape is not None and x.shape[-1] == 2:
        return dx
    zero, last = dx.writer.constant([0]), dx.writer.constant([-1])
    dims = None if dx.shape is None or x.shape is None else [*dx.shape[:-1], x.shape[-1]]
    return dx.writer.op("Slice", dx, zero, xp.dim(x, -1), last, shape=dims)


def _fitted(dx: Tensor, missing: Tensor, axis: Tensor, x: Tensor) -> Tensor:
    """Zeros for lines that were not read; what was read beyond the last is dropped."""
    if missing.const is not None and not missing.const:
        return dx
    pads = xp.concat([missing.lift([0]), xp.reshape(missing, [1])])
    return dx.writer.op("Pad", dx, pads, dx.lift(0), xp.reshape(axis, [1]), shape=x.shape)
