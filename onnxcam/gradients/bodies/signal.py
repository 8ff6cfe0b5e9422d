"""Signals in frames."""

from __future__ import annotations

from onnxcam.gradients.bodies import Written, body
from onnxcam.gradients.rules import Node
from onnxcam.gradients.rules.linear import positions
from onnxcam.gradients.rules.signal import fourier
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor


@body("STFT")  # the Fourier transform of each frame times the window
def stft(node: Node) -> Written:
    signal, step, window = node.x, node.input(1), node.input(2)
    assert step is not None
    length, step = _frame_length(node), xp.astype(xp.reshape(step, [1]), xp.dim(signal, 1).dtype)
    count = (xp.dim(signal, 1) - length) / step + 1
    starts = xp.expand_dims(positions(count) * step, 1)
    frames = node.writer.op("Gather", signal, starts + positions(length), axis=1)
    if window is not None:
        frames = frames * xp.expand_dims(window, 1)
    return fourier(frames, node.writer.constant(2), None, onesided=node.attr("onesided", 1))


def _frame_length(node: Node) -> Tensor:
    """The given length, else the window's, else the signal's; a vector of one element."""
    given, window = node.input(3), node.input(2)
    if given is not None:
        return xp.astype(xp.reshape(given, [1]), xp.dim(node.x, 1).dtype)
    return xp.dim(node.x, 1) if window is None else xp.dim(window, 0)
