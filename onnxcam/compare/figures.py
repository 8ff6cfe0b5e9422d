"""How alike two heatmaps are, and what many such numbers say. Array maths only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
TOP_SHARE = 0.2
_FLAT = 1e-6  # a range below this is a constant map, but for rounding
_RESAMPLES = 2000


@dataclass(frozen=True)
class Likeness:
    """How alike two heatmaps of one size are.

    Attributes:
        correlation: Pearson's, over the pixels, in [-1, 1]; None where both maps are blank: there is nothing to hold
            against each other, and no perfect agreement either. Where one is blank, or one is constant: 0. Where both
            are constant, and not blank: 1.
        spearman: the same of the pixels' ranks; ties share their mean rank.
        iou: intersection over union of the strongest fifth of the pixels, in [0, 1]; see :func:`strongest`.
        difference: the largest absolute difference of a pixel, in [0, 1].
        blank: ``""``, ``"a"``, ``"b"`` or ``"both"``: which map is zero throughout.
    """

    correlation: float | None
    spearman: float | None
    iou: float | None
    difference: float
    blank: str


def likeness(a: Array, b: Array) -> Likeness:
    """Hold two heatmaps (H, W) in [0, 1] against each other."""
    empty = not np.any(a), not np.any(b)
    blank = {(True, True): "both", (True, False): "a", (False, True): "b"}.get(empty, "")
    difference = float(np.abs(a.astype(np.float64) - b).max())
    if blank:
        none = None if blank == "both" else 0.0
        return Likeness(none, none, none, difference, blank)
    first, second = strongest(a), strongest(b)
    iou = float((first & second).sum() / (first | second).sum())
    return Likeness(pearson(a, b), pearson(ranks(a), ranks(b)), iou, difference, "")


def pearson(a: Array, b: Array) -> float:
    """Pearson's correlation over all elements; of two constants 1, of one constant 0."""
    x, y = (v.astype(np.float64).ravel() - v.mean(dtype=np.float64) for v in (a, b))
    flat = np.ptp(x) < _FLAT, np.ptp(y) < _FLAT
    if any(flat):
        return float(all(flat))
    return float(np.clip(x @ y / math.sqrt((x @ x) * (y @ y)), -1, 1))


def ranks(a: Array) -> Array:
    """The rank of each element, from 0 on; equal ones share their mean rank."""
    _, place, count = np.unique(a.ravel(), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count + 1) / 2)[place.ravel()])


def strongest(a: Array, share: float = TOP_SHARE) -> npt.NDArray[np.bool_]:
    """The share of the pixels with the highest values, those tied with the last of them as well, but no pixel of 0."""
    count = math.ceil(share * a.size)
    least = np.partition(a.ravel(), a.size - count)[a.size - count]
    return np.asarray((a >= least) & (a > 0))


@dataclass(frozen=True)
class Summary:
    """One figure over all pictures.

    Attributes:
        mean, median: of the pictures.
        worst: of any picture: the lowest, or the highest where low is good.
        low, high: 95 % interval of the mean: percentile bootstrap over the pictures, 2000 resamples, fixed seed
            (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
        count: pictures that have this figure.
    """

    mean: float
    median: float
    worst: float
    low: float
    high: float
    count: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def summary(values: Sequence[float | None], low_is_good: bool = False) -> Summary | None:
    """Over the pictures that have the figure; None where none has."""
    known = np.asarray([v for v in values if v is not None], np.float64)
    if not len(known):
        return None
    rng = np.random.default_rng(0)
    means = [known[rng.integers(0, len(known), len(known))].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    worst = known.max() if low_is_good else known.min()
    mean, median = float(known.mean()), float(np.median(known))
    return Summary(mean, median, float(worst), float(low), float(high), len(known))


def counted(pictures: int) -> str:
    """1 picture, 2 pictures."""
    return f"{pictures} picture{'s' * (pictures != 1)}"


def binomial(first: int, second: int) -> float:
    """The exact two-sided binomial test: how likely a fair coin gives so uneven counts, or more uneven ones."""
    total, few = first + second, min(first, second)
    tail = sum(math.comb(total, k) for k in range(few + 1))
    return min(1.0, float(2 * tail / 2**total))
