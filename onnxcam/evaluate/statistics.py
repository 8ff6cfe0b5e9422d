"""How sure a number is: bootstrap intervals, differences on the same images, rank correlation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError

Array = NDArray[Any]
Statistic = Callable[[Array], float]
"""Of rows (N, ...), one per image, one number."""
FEW = 20
"""Images; of fewer, bootstrap intervals are too narrow to judge by."""


@dataclass(frozen=True)
class Estimate:
    """A number and how sure it is.

    Attributes:
        value: of all images.
        low: lower end of the interval.
        high: upper end.
        count: images that it rests on.
    """

    value: float
    low: float
    high: float
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Zero lies outside of the interval."""
        return self.low > 0 or self.high < 0


def mean(rows: Array) -> float:
    """Of (N,)."""
    return float(np.mean(rows))


def ratio(rows: Array) -> float:
    """Of (N, 2): sum of the first column over sum of the second; NaN where that is 0."""
    top, bottom = np.sum(rows, axis=0)
    return float(top / bottom) if bottom else float("nan")


def bootstrap(
    rows: Array | Sequence[float],
    statistic: Statistic = mean,
    *,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A number over images, with its percentile bootstrap interval.

    Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979, https://doi.org/10.1214/aos/1176344552: the images
    are drawn again, with replacement, ``samples`` times; the interval lies between the ``(1 - level) / 2`` and
    ``(1 + level) / 2`` quantiles of the statistic of the draws.

    Args:
        rows: (N, ...), one per image. Images with a NaN, where the metric says nothing, are left out.
        statistic: of rows, one number: `mean`, `ratio`, or, say, the best of several columns' means.
        level: of the interval.
        samples: draws.
        seed: of the draws.

    Raises:
        OptionError: no image is left, or options out of range.
    """
    kept = _kept(rows)
    found = [statistic(kept[draw]) for draw in _draws(len(kept), level, samples, seed)]
    return _estimate(statistic(kept), found, level, len(kept))


def bootstrap_sums(
    rows: Array, statistic: Callable[[Array], Array], *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> Estimate:
    """`bootstrap` of what the sum over the images tells: the same numbers, for tables of many intervals in no time.

    Args:
        rows: (N, K), one per image; those with a NaN are left out.
        statistic: of sums (S, K), (S,) numbers: of each draw.
        level, samples, seed: as of `bootstrap`, whose errors it shares.
    """
    kept = _kept(rows)
    draws = _draws(len(kept), level, samples, seed)
    times = np.stack([np.bincount(draw, minlength=len(kept)) for draw in draws]).astype(np.float64)
    return _estimate(float(statistic(kept.sum(axis=0)[None])[0]), statistic(times @ kept), level, len(kept))


def _kept(rows: Array | Sequence[float]) -> Array:
    """The rows without NaN."""
    values = np.asarray(rows, np.float64)
    kept = values[~np.isnan(values.reshape(len(values), -1)).any(axis=1)] if len(values) else values
    if not len(kept):
        raise OptionError(f"none of the {len(values)} images has a value: nothing to take an interval of")
    return kept


def _draws(count: int, level: float, samples: int, seed: int) -> Array:
    """(samples, count): the images of each draw."""
    if not 0 < level < 1 or samples < 1:
        raise OptionError(f"level={level}, samples={samples}: a level above 0 and below 1, and at least one sample")
    return np.random.default_rng(seed).integers(0, count, (samples, count))


def _estimate(value: float, found: Array | Sequence[float], level: float, count: int) -> Estimate:
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), count)


def difference(a: Array | Sequence[float], b: Array | Sequence[float], **options: Any) -> Estimate:
    """The mean difference ``a - b`` of two methods on the same images, with its interval.

    Paired: what is hard about an image is the same for both and cancels, so the interval is narrower than those of the
    two means.

    Args:
        a: (N,), one per image.
        b: (N,), of the same images in the same order.
        options: as for `bootstrap`.

    Raises:
        OptionError: different numbers of images, or as `bootstrap`.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise OptionError(f"{len(first)} and {len(second)} images: a paired difference needs the same ones for both")
    return bootstrap(first - second, **options)


def ranks(values: Array) -> Array:
    """(N,): ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place])


def pearson(a: Array, b: Array) -> float:
    """Linear correlation of two arrays of one size, value by value.

    Returns:
        -1 to 1; 0 where one of them is constant, which says nothing of the other.

    Raises:
        OptionError: different sizes, or NaN.
    """
    x, y = (np.asarray(v, np.float64).ravel() for v in (a, b))
    if x.size != y.size or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise OptionError(f"cannot correlate {a.shape} with {b.shape}: give two of one size, without NaN")
    x, y = _unit(x), _unit(y)
    return float(np.clip(x @ y, -1, 1))


def _unit(values: Array) -> Array:
    """Around 0, of length 1; all 0 where nothing but rounding is left."""
    if values.size == 0 or np.ptp(values) <= 1e-12 * np.abs(values).max():
        return np.zeros_like(values)
    scaled = values / np.abs(values).max()
    centred = scaled - scaled.mean()
    return np.asarray(centred / np.linalg.norm(centred))


def spearman(a: Array, b: Array) -> float:
    """Rank correlation: `pearson` of the `ranks` (Spearman, "The Proof and Measurement of Association", 1904).

    Returns:
        -1 to 1; 0 where one of them is constant.

    Raises:
        OptionError: different sizes, or NaN.
    """
    flat = [np.asarray(v).ravel() for v in (a, b)]
    if any(not np.isfinite(v).all() for v in flat):
        raise OptionError("NaN or infinite values have no rank")
    return pearson(ranks(flat[0]), ranks(flat[1]))
