"""Intervals, paired differences and ranks, by hand and by SciPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from onnxcam.errors import OptionError
from onnxcam.evaluate.statistics import (
    bootstrap,
    bootstrap_sums,
    difference,
    mean,
    pearson,
    ranks,
    ratio,
    spearman,
)

pytestmark = pytest.mark.anyruntime
NAN = float("nan")


def test_the_interval_is_that_of_all_possible_draws():
    """Three images: all 27 draws, each as likely; many random ones come to the same quantiles."""
    values = np.array([0.0, 1.0, 5.0])
    every = [np.mean(draw) for draw in itertools.product(values, repeat=3)]
    found = bootstrap(values, samples=20_000, level=0.8)
    assert (found.value, found.count) == (2.0, 3)
    assert (found.low, found.high) == pytest.approx(np.quantile(every, [0.1, 0.9]))


def test_the_interval_agrees_with_scipy_and_with_the_normal_one():
    values = np.random.default_rng(2).gamma(2.0, size=80)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=3).confidence_interval
    ours = bootstrap(values, samples=5000)
    half = 1.96 * values.std() / np.sqrt(80)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.1 * half)
    assert (ours.high - ours.low) / 2 == pytest.approx(half, rel=0.05)


def test_other_statistics_and_missing_values():
    rows = np.array([[1.0, 2.0], [NAN, 4.0], [3.0, 4.0]])
    found = bootstrap(rows, ratio)
    assert (found.value, found.count) == (4 / 6, 2)
    assert (found.low, found.high) == (0.5, 0.75)
    assert bootstrap([1.0, 2.0, 9.0], lambda r: float(np.median(r))).value == 2.0
    assert np.isnan(ratio(np.array([[1.0, 0.0]])))
    assert mean(np.array([1.0, 2.0])) == 1.5


def test_sums_of_draws_give_the_same_interval():
    rng = np.random.default_rng(6)
    rows = np.stack([rng.integers(0, 3, 30), rng.integers(1, 4, 30)], axis=1).astype(float)
    rows[4, 0] = NAN
    slow, quick = (
        bootstrap(rows, ratio, samples=300, seed=5),
        bootstrap_sums(rows, lambda sums: sums[:, 0] / sums[:, 1], samples=300, seed=5),
    )
    assert (quick.value, quick.low, quick.high) == pytest.approx((slow.value, slow.low, slow.high), rel=1e-12)
    assert quick.count == slow.count == 29


def test_the_same_seed_gives_the_same_interval():
    values = np.arange(20.0)
    assert bootstrap(values, seed=4) == bootstrap(values, seed=4)
    assert bootstrap(values, seed=4) != bootstrap(values, seed=5)


def test_a_paired_difference_is_surer_than_two_means():
    rng = np.random.default_rng(1)
    hard = rng.normal(size=50) * 5
    better, worse = hard + 1 + 0.1 * rng.normal(size=50), hard
    found = difference(better, worse)
    assert 0.9 < found.low < found.value < found.high < 1.1
    assert found.excludes_zero
    assert difference(worse, better).excludes_zero
    assert bootstrap(better).low < bootstrap(worse).high  # apart, they overlap
    assert not difference(better, better + rng.normal(size=50)).excludes_zero


@pytest.mark.parametrize("wrong", [[], [NAN, NAN]])
def test_nothing_to_rest_on_is_refused(wrong):
    with pytest.raises(OptionError, match=f"none of the {len(wrong)} images"):
        bootstrap(np.array(wrong))


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(OptionError, match=r"level=1\.0"):
        bootstrap([1.0], level=1.0)
    with pytest.raises(OptionError, match="2 and 3 images"):
        difference([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(OptionError, match="one size"):
        pearson(np.zeros(3), np.zeros(4))
    with pytest.raises(OptionError, match="no rank"):
        spearman(np.array([1.0, NAN]), np.array([1.0, 2.0]))


def test_equal_values_share_the_mean_of_their_ranks():
    assert ranks(np.array([3.0, 1.0, 3.0, 0.0, 3.0])).tolist() == [4.0, 2.0, 4.0, 1.0, 4.0]


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_scipys(ties):
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 40))
    b += a
    if ties:
        a, b = np.round(a), np.maximum(b, 0)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-12)
    assert pearson(1e-200 * a, 1e5 + b) == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-9)


def test_a_constant_correlates_with_nothing():
    noise = np.random.default_rng(0).random(9)
    assert spearman(np.full(9, 0.3), noise) == 0.0
    assert pearson(np.full(9, 0.1) + 1e-17, noise) == 0.0
    assert pearson(np.zeros(9), noise) == 0.0
