"""One axis of a resize: which inputs each output pixel reads, and quick products with the matrix of that.

A resize matrix is nearly all zeros, for an output reads a few neighbouring inputs. So products are taken block by block
of outputs, each with the band of inputs that it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import OptionError, UnknownNameError

# Inputs that a block reads: of more, most are multiplied by zeros; of fewer, a product hardly pays for its call.
_WIDTH, _FEWEST = 24, 8
# Products of more multiplications are spread over threads by OpenBLAS, which has one pool for all callers: threads that
# resize a picture each would wait for one another.
_ALONE = 2**18


def _hat(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys (1981), a = -0.5, as in Pillow and MATLAB."""
    t = np.abs(x)
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))


_KERNELS: dict[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float]] = {
    "bilinear": (_hat, 1.0),
    "bicubic": (_cubic, 2.0),
}
INTERPOLATIONS = (*_KERNELS, "nearest")


@dataclass(frozen=True)
class Taps:
    """Output i of an axis is the sum over t of ``weights[i, t] * in[inputs[i, t]]``.

    Attributes:
        inputs: (n_out, taps), ascending; the same input may come twice.
        weights: (n_out, taps) float64; every row sums to 1.
    """

    inputs: NDArray[np.int64]
    weights: NDArray[np.float64]

    def reads(self) -> slice:
        """The range of inputs that are read."""
        return slice(int(self.inputs.min()), int(self.inputs.max()) + 1)

    def band(self, outputs: slice) -> tuple[slice, NDArray[np.float64]]:
        """The range of inputs that some outputs read, and their weights on it, (outputs, inputs)."""
        inputs, weights = self.inputs[outputs], self.weights[outputs]
        lo, hi = int(inputs[:, 0].min()), int(inputs[:, -1].max()) + 1
        matrix = np.zeros((len(inputs), hi - lo))
        np.add.at(matrix, (np.arange(len(inputs))[:, None], inputs - lo), weights)
        return slice(lo, hi), matrix


def check_resize(n_in: int, n_out: int, kind: str) -> None:
    """Refuse what `find_taps` cannot do.

    Raises:
        UnknownNameError: An unknown ``kind``.
        OptionError: A size below 1.
    """
    if kind not in INTERPOLATIONS:
        raise UnknownNameError.of("interpolation", str(kind), INTERPOLATIONS)
    if n_in < 1 or n_out < 1:
        raise OptionError(f"cannot resize {n_in} pixels to {n_out}: both must be at least 1")


def find_taps(
    n_in: int,
    n_out: int,
    kind: str = "bilinear",
    antialias: bool = True,
    span: tuple[float, float] | None = None,
    window: tuple[int, int] | None = None,
) -> Taps:
    """What the outputs ``window`` of n_out (all by default) read; see `onnxcam.core.maps.resize_matrix`.

    Raises:
        UnknownNameError, OptionError: As `check_resize`.
    """
    check_resize(n_in, n_out, kind)
    start, stop = span or (0.0, float(n_in))
    centres = np.clip(start + (np.arange(*(window or (0, n_out))) + 0.5) * (stop - start) / n_out, 0.0, n_in)
    if kind == "nearest":
        index = np.clip(np.floor(centres).astype(np.int64), 0, n_in - 1)[:, None]
        return Taps(index, np.ones(index.shape))
    kernel, support = _KERNELS[kind]
    width = max((stop - start) / n_out, 1.0) if antialias else 1.0
    reach = support * width
    inputs = np.floor(centres - reach).astype(np.int64)[:, None] + np.arange(int(np.ceil(2 * reach)) + 1)
    weights = kernel((inputs + 0.5 - centres[:, None]) / width)
    inside = np.clip(inputs, 0, n_in - 1)
    if antialias:  # Pillow leaves out what lies beyond the edge; ONNX Resize repeats the edge pixel
        weights[inside != inputs] = 0
    return Taps(inside, weights / weights.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Bands:
    """A resize matrix, (count, n_in), in blocks.

    Attributes:
        count: Outputs.
        blocks: Outputs, inputs, and the weights of the latter in the former.
        overshoots: Whether results may leave the range of the inputs.
    """

    count: int
    blocks: tuple[tuple[slice, slice, NDArray[Any]], ...]
    overshoots: bool

    @classmethod
    def of(cls, taps: Taps, dtype: type[np.floating[Any]]) -> Bands:
        """The blocks of an axis; products with integers are taken in ``dtype``."""
        count, many = taps.inputs.shape
        read = taps.reads()
        rows = max(_FEWEST, (_WIDTH - many) * count // (read.stop - read.start))
        parts = [slice(k, min(k + rows, count)) for k in range(0, count, rows)]
        found = [(part, *taps.band(part)) for part in parts]
        blocks = tuple((part, inputs, np.asarray(weights, dtype)) for part, inputs, weights in found)
        return cls(count, blocks, bool(np.any(taps.weights < 0)))

    def down(self, x: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
        """Over the rows: (..., n_in, w) to (..., count, w).

        Of ``dtype`` uint8 are the nearest grey levels, halves rounded up, within 0..255.
        """
        out = np.empty((*x.shape[:-2], self.count, x.shape[-1]), dtype)
        self._apply(x, out)
        return out

    def across(self, x: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
        """Over the columns: (..., h, n_in) to (..., h, count); as `down`."""
        out = np.empty((*x.shape[:-1], self.count), dtype)
        self._apply(x.swapaxes(-1, -2), out.swapaxes(-1, -2))
        return out

    def _apply(self, x: NDArray[Any], out: NDArray[Any]) -> None:
        for outputs, inputs, weights in self.blocks:
            most = max(1, _ALONE // weights.size)
            for at in range(0, x.shape[-1], most):
                part = x[..., inputs, at : at + most]
                part = part if part.dtype.kind == "f" else part.astype(weights.dtype)
                self._store(weights @ part, out[..., outputs, at : at + most])

    def _store(self, found: NDArray[Any], out: NDArray[Any]) -> None:
        if out.dtype == np.uint8:
            found += 0.5  # the fraction is cut off
            if self.overshoots:
                np.clip(found, 0, 255.5, out=found)
        out[...] = found
