"""RISE: random soft masks, weighted by the scores that they leave; as in :mod:`onnxcam.core.perturb`."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from onnxcam.core.maps import resize_matrix
from onnxcam.core.perturb import Fill, blend, filled, steady
from onnxcam.core.probe import Array, Probe, at_least, scores
from onnxcam.errors import OptionError

_LOOK, _LEAST = 100, 200
"""Masks between two looks at the error, and before the first: the same ones whatever the batch."""


def rise(
    probe: Probe,
    *,
    samples: int = 2000,
    cells: int = 7,
    keep: float = 0.5,
    fill: Fill = "zero",
    standard_error: float = 0.0,
    seed: int | np.random.Generator = 0,
) -> Array:
    """RISE: the mean of random soft masks, weighted by the scores that they leave.

    Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018,
    https://arxiv.org/abs/1806.07421, equation 6.

    ``S = 1 / (E[M] N) * sum_i f(x * M_i) M_i`` with ``E[M] = keep``. The paper takes 4000 masks for VGG16, 8000 for
    ResNet50; the noise falls with the root of their number. How many a picture needs differs widely: with
    ``standard_error`` above 0 no more masks are made once the map is known that well (:class:`Precision`), looked at
    after 200 masks and then every 100. The map is then the mean over the first of the ``samples`` masks, the same ones
    whatever the batch, and the probe is told how many they were.

    Args:
        probe: the model.
        samples: number of masks N; with ``standard_error``, at most.
        cells: cells of a mask along a side.
        keep: the share of cells that stay visible.
        fill: what hides; :func:`~onnxcam.core.baselines.baseline`.
        standard_error: the error that is good enough, the largest of the map as a share of the map's range, such as
            0.05; 0: all masks are made.
        seed: of the random masks: first ``random((N, cells, cells)) < keep``, then shifts down and right.

    Returns:
        (H, W), in units of the score; all of one sign if the scores are.

    Raises:
        OptionError, UnknownNameError: options out of range.
        ModelError: scores that are no numbers.
    """
    at_least(1, samples=samples, cells=cells)
    if not 0 < keep < 1:
        raise OptionError(f"keep={keep}: the share of visible cells is above 0 and below 1")
    if not standard_error >= 0:
        raise OptionError(f"standard_error={standard_error}: give a share of the map's range, such as 0.05, or 0")
    rng, size = np.random.default_rng(seed), (int(probe.x.shape[2]), int(probe.x.shape[3]))
    grids = rng.random((samples, cells, cells)) < keep
    masks = Masks(grids, np.stack([rng.integers(0, math.ceil(n / cells), samples) for n in size], axis=1), size)
    hidden, known = filled(probe.x, fill), Precision(masks)

    def enough(found: Array) -> bool:
        return bool(standard_error) and known.within(standard_error, found)

    found = scores(probe, samples, lambda part, out: blend(probe.x, hidden, masks.of(part), out), enough)
    if standard_error:
        found = found[: known.count] if known.enough else found
        _tell(probe, known, samples, standard_error)
    return np.zeros(size, np.float32) if steady(found) else (masks.mean(found) / keep).astype(np.float32)


def _tell(probe: Probe, known: Precision, samples: int, wanted: float) -> None:
    seen = f"after {known.count} of {samples} masks"
    text = f"the largest standard error of the map is {known.error:.1%} of its range {seen}"
    if known.count == 0:
        probe.note(f"all {samples} masks were made, and the standard error not looked at: that takes {_LEAST}")
    elif known.enough:
        probe.note(text)
    elif known.error == math.inf:
        probe.note(f"the map cannot be told from noise {seen}; give more samples")
    elif known.error > wanted:
        probe.note(f"{text}, above the {wanted:.1%} asked for; give more samples")
    else:
        probe.note(f"{text}; all were made, as it takes {_LEAST} to go by it")


class Masks:
    """Soft masks (H, W): a grid of cells, one cell larger than the picture when stretched, cut out at a shift.

    A cell is ``ceil(side / s)`` pixels; the grid is stretched bilinearly to ``(s + 1) * cell`` pixels.

    Args:
        grids: (N, s, s), which cells are seen.
        shifts: (N, 2), down and right, from 0 to below a cell.
        size: (H, W).
    """

    def __init__(self, grids: Array, shifts: Array, size: tuple[int, int]) -> None:
        s = grids.shape[1]
        self.grids, self.shifts = grids, shifts
        cells = [math.ceil(n / s) for n in size]
        matrices = [resize_matrix(s, (s + 1) * cell) for cell in cells]
        self._down, self._across = (  # per shift the (s, side) that stretches and cuts
            sliding_window_view(m, n, axis=0)[:cell] for m, n, cell in zip(matrices, size, cells, strict=True)
        )

    def of(self, part: slice, every: int = 1) -> Array:
        """(B, H, W) float32; with ``every``, of each axis only each so many-th pixel."""
        down, across = self.shifts[part].T
        rows, columns = self._down[down][..., ::every], self._across[across][..., ::every]
        return np.asarray(rows.transpose(0, 2, 1) @ self.grids[part].astype(np.float32) @ columns)

    def mean(self, weights: Array) -> Array:
        """(H, W) float64: the mean of the first masks, each times its weight.

        Masks of one shift are summed as grids, and stretched together.
        """
        count, cells = len(weights), self.grids.shape[1:]
        total = np.zeros((len(self._down), len(self._across), *cells))
        np.add.at(total, tuple(self.shifts[:count].T), weights[:, None, None] * self.grids[:count])
        narrow = np.tensordot(total, self._across, ((1, 3), (0, 1)))
        return np.asarray(np.tensordot(self._down, narrow, ((0, 1), (0, 1))) / count)


class Precision:
    """How well the mean of scored masks is known: its largest standard error, as a share of its range.

    At a pixel p the mean of ``v_i = y_i M_i(p)`` over N masks has the standard error ``std(v) / sqrt(N)``. The range is
    the map's maximum less its minimum; of a map of noise that is large too, and would end the search before anything is
    found. So every second mask's map says where they are, and the other masks' map how far apart, and the other way
    round. Pixels are looked at four to a cell, between which masks hardly bend.

    Attributes:
        count: masks that were looked at.
        error: the error after these.
        enough: whether it was found to be low enough, so that these masks do.
    """

    def __init__(self, masks: Masks) -> None:
        self._masks, self.count, self.error, self.enough = masks, 0, math.inf, False
        self._every = max(1, min(len(masks._down), len(masks._across)) // 4)
        self._halves = self._squares = np.zeros(())

    def within(self, wanted: float, found: Array) -> bool:
        """Whether the masks that were scored so far, (n,), are enough."""
        while len(found) - self.count >= _LOOK:
            part = slice(self.count, self.count + _LOOK)
            values = self._masks.of(part, self._every) * found[part, None, None]
            self._halves = self._halves + np.stack([values[k::2].sum(axis=0).ravel() for k in (0, 1)])
            self._squares = self._squares + np.square(values).sum(axis=0).ravel()
            self.count = part.stop
            self.error = self._error()
            if self.count >= _LEAST and self.error <= wanted:
                self.enough = True
                break
        return self.enough

    def _error(self) -> float:
        n, (a, b) = self.count, self._halves / (self.count / 2)
        variance = (self._squares / n - ((a + b) / 2) ** 2) * n / (n - 1)
        spread = (a[b.argmax()] - a[b.argmin()] + b[a.argmax()] - b[a.argmin()]) / 2
        return math.sqrt(max(0.0, variance.max()) / n) / spread if spread > 0 else math.inf
