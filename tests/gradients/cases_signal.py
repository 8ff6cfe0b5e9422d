"""Cases of the Fourier transform."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from cases import case, given, var, weight


def length(n: int | None) -> Any:
    return None if n is None else given(np.array(n))


# The transform and its inverse, of real and of complex signals, cut and padded; to opset 19 the axis is an attribute

for parts, n, inverse in itertools.product((1, 2), (None, 3, 7), (0, 1)):
    what = f"of {parts} parts, dft_length {n}" + ", inverse" * inverse
    case("DFT", what, var(2, 5, parts), length(n), inverse=inverse, opset=18, until=19)
    case("DFT", f"{what}, axis an input", var(2, 5, 3, parts), length(n), length(1), inverse=inverse, opset=20)
for n in (None, 4, 7):
    case("DFT", f"half, dft_length {n}", var(2, 5, 1), length(n), onesided=1, opset=20)
case("DFT", "half, axis an attribute", var(4, 3, 1), axis=0, onesided=1, until=19)
case("DFT", "of an even length", var(2, 4, 2), opset=20)
for lines, n in [(3, None), (3, 4), (3, 5)]:
    case("DFT", f"half, inverse, {lines} lines, dft_length {n}", var(2, lines, 2), length(n), onesided=1, inverse=1,
         opset=20, fixed="half spectrum" * (n is not None))  # fmt: skip
case("DFT", "half, inverse, first axis", var(3, 2, 2), None, length(0), onesided=1, inverse=1, opset=20)

# STFT

step = given(np.array(2))
for what, operands, options in [
    ("window", (var(2, 9, 1), step, var(4)), {"onesided": 1}),
    ("window, both sides", (var(2, 9, 1), step, var(4)), {"onesided": 0}),
    ("frame_length", (var(2, 9, 1), given(np.array(3)), None, given(np.array(4))), {"onesided": 1}),
    ("window and frame_length", (var(2, 9, 1), step, weight(5), given(np.array(5))), {"onesided": 1}),
]:
    case("STFT", what, *operands, rank=4, **options)
