"""Edited pictures and their scores: plain loops, hand-computed cases, and what other packages answer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from onnxcam.core.impute import linear_imputation
from onnxcam.core.localize import energy_inside
from onnxcam.errors import ModelError, OptionError, UnknownNameError
from onnxcam.evaluate.faithfulness import (
    Curve,
    adcc,
    coherency,
    complexity,
    deletion,
    drop,
    gain,
    increase,
    insertion,
    occlusion_map,
    rank_correlation,
    road,
    road_difference,
    seen_through,
    sensitivity_n,
    strongest_first,
)
from onnxcam.evaluate.localization import points_at

pytestmark = pytest.mark.anyruntime
GOLDENS = Path(__file__).parent / "goldens" / "peers.npz"


class Counting:
    """A score that is not linear in the picture, and how much was asked for at a time."""

    def __init__(self, size=(2, 5, 6), seed=0):
        self.weights = np.random.default_rng(seed).normal(size=size)
        self.asked = []

    def __call__(self, x):
        self.asked.append(len(x))
        return np.tanh(np.sum(x * self.weights, axis=(1, 2, 3))) + 2


@pytest.fixture
def picture():
    return np.random.default_rng(1).normal(size=(1, 2, 5, 6))


@pytest.fixture
def heat():
    """With equal values, as a ReLU leaves them."""
    return np.maximum(np.random.default_rng(2).normal(size=(5, 6)), 0)


# ---- deletion and insertion ----


@pytest.mark.parametrize("step", [1, 7, 30, None])
@pytest.mark.parametrize("keep", [False, True])
def test_sweeps_are_those_of_plain_loops(picture, heat, step, keep):
    predict = Counting()
    curve = (insertion if keep else deletion)(predict, picture, heat, -0.5, step=step, batch=4)
    pixels = sorted(((-heat[r, c], r, c) for r in range(5) for c in range(6)), key=lambda p: p)
    now = np.full_like(picture, -0.5) if keep else picture.copy()
    shares, scores, done = [0.0], [Counting()(now)[0]], 0
    while done < 30:
        for _, r, c in pixels[done : done + (step or 1)]:
            now[0, :, r, c] = picture[0, :, r, c] if keep else -0.5
        done = min(done + (step or 1), 30)
        shares.append(done / 30)
        scores.append(Counting()(now)[0])
    np.testing.assert_allclose(curve.shares, shares, rtol=1e-12)
    np.testing.assert_allclose(curve.scores, scores, rtol=1e-12)
    assert curve.area == pytest.approx(np.trapezoid(scores, shares), rel=1e-12)
    assert max(predict.asked) <= 4
    assert sum(predict.asked) == len(shares)


def test_a_step_is_a_fiftieth_where_none_is_given():
    x, heat = np.zeros((1, 1, 20, 31)), np.random.default_rng(0).random((20, 31))
    curve = deletion(lambda x: np.ones(len(x)), x, heat)
    assert [round(620 * s) for s in curve.shares[[1, 2, -2, -1]]] == [13, 26, 611, 620]  # 620 / 50, rounded up


def test_references(picture, heat):
    """What is left in the end is the reference."""
    predict = Counting()
    grey = np.broadcast_to(picture.mean(axis=(2, 3), keepdims=True), picture.shape)
    assert deletion(predict, picture, heat, "mean").scores[-1] == pytest.approx(predict(grey)[0], rel=1e-6)
    assert deletion(predict, picture, heat, "zero").scores[-1] == 2.0
    assert insertion(predict, picture, heat, "blur").scores[0] not in (2.0, predict(grey)[0], predict(picture)[0])
    for sweep in (deletion, insertion):
        ends = sweep(predict, picture, heat, "blur").scores[[0, -1]]
        assert predict(picture)[0] in ends
    with pytest.raises(UnknownNameError, match="baseline 'gray'"):
        deletion(predict, picture, heat, "gray")


def test_areas_by_hand():
    """Four pixels, of which the score counts the two that the map shows last."""
    x = np.ones((1, 1, 2, 2))
    heat = np.array([[4.0, 3.0], [2.0, 1.0]])
    predict = lambda x: x[:, 0, 1].sum(axis=1) / 2  # noqa: E731
    assert deletion(predict, x, heat, step=1).scores.tolist() == [1, 1, 1, 0.5, 0]
    assert deletion(predict, x, heat, step=1).area == 0.75
    assert insertion(predict, x, heat, 0.0, step=1).area == 0.25
    assert insertion(predict, x, -heat, 0.0, step=1).area == 0.75
    assert deletion(predict, x, heat, step=3).area == 0.75 * 0.75 + 0.25 * 0.25  # a last step of one pixel


def test_equal_values_come_in_reading_order():
    assert strongest_first(np.array([[0.0, 1.0], [1.0, 0.0]])).tolist() == [1, 2, 0, 3]


# ---- the picture seen through the map ----


def test_seen_through_by_hand():
    x = np.array([[[[2.0, 4.0]], [[6.0, 8.0]]]])
    heat = np.array([[0.25, 1.0]])
    assert seen_through(x, heat).tolist() == [[[[0.5, 4.0]], [[1.5, 8.0]]]]
    assert seen_through(x, heat, "mean").tolist() == [[[[0.25 * 2 + 0.75 * 3, 4.0]], [[0.25 * 6 + 0.75 * 7, 8.0]]]]
    with pytest.raises(OptionError, match="from 0 to 1"):
        seen_through(x, 2 * heat)


def test_drop_increase_and_gain_by_hand():
    before, after = np.array([0.8, 0.5, 0.4, 1.0, 0.0]), np.array([0.2, 0.75, 0.4, 0.9, 0.3])
    np.testing.assert_allclose(drop(before, after), [0.75, 0, 0, 0.1, 0])
    assert increase(before, after).tolist() == [0, 1, 0, 0, 1]
    np.testing.assert_allclose(gain(before, after), [0, 0.5, 0, 0, 0.3])
    for metric in (drop, increase, gain):
        with pytest.raises(OptionError, match="Softmax or Sigmoid"):
            metric(np.array([3.2]), np.array([0.2]))


def test_adcc_by_hand():
    assert adcc(0.5, 0.5, 0.5) == pytest.approx(0.5)
    assert adcc(drop=0.2, coherency=0.9, complexity=0.4) == pytest.approx(3 / (1 / 0.9 + 1 / 0.6 + 1 / 0.8))
    assert adcc(1.0, 0.9, 0.1) == adcc(0.1, 0.0, 0.1) == adcc(0.1, 0.9, 1.0) == 0.0
    assert complexity(np.array([[0.5, 0.0], [-1.0, 0.0]])) == 0.375
    rising, falling = np.array([[0.0, 0.5, 1.0]]), np.array([[1.0, 0.5, 0.0]])
    assert [coherency(rising, m) for m in (rising, 3 * rising + 1, falling)] == pytest.approx([1, 1, 0])
    assert coherency(rising, np.ones((1, 3))) == 0.5


# ---- ROAD ----


@pytest.mark.parametrize("strongest", [True, False])
def test_road_removes_shares_by_rank(picture, heat, strongest):
    shares = (0.1, 0.5, 0.75)
    curve = road(Counting(), picture, heat, strongest, shares=shares, noise=0, batch=2)
    sign = -1 if strongest else 1
    order = sorted((sign * heat[r, c], r, c) for r in range(5) for c in range(6))
    for share, score in zip(shares, curve.scores, strict=True):
        missing = np.zeros((5, 6), bool)
        for _, r, c in order[: round(30 * share)]:
            missing[r, c] = True
        filled = linear_imputation(picture[0], missing)
        assert score == pytest.approx(Counting()(filled[None])[0], rel=1e-12)
    assert curve.shares.tolist() == list(shares)
    assert curve.mean == pytest.approx(curve.scores.mean())


def test_noise_comes_on_filled_pixels_alone_in_spreads_of_the_picture(heat):
    x, seen = 40 * np.random.default_rng(3).normal(size=(1, 3, 30, 30)) + 7, []
    heat = np.random.default_rng(4).random((30, 30))

    def predict(pictures):
        seen.extend(pictures)
        return np.zeros(len(pictures))

    for noise in (0.0, 0.05):
        road(predict, x, heat, shares=(0.5,), noise=noise, seed=2)
    grain = seen[1] - seen[0]
    missing = np.zeros(900, bool)
    missing[np.argsort(-heat.ravel())[:450]] = True
    assert not grain[:, ~missing.reshape(30, 30)].any()
    assert grain[:, missing.reshape(30, 30)].std() == pytest.approx(0.05 * x.std(), rel=0.05)
    road(predict, x, heat, shares=(0.5,), noise=0.05, seed=2)
    road(predict, x, heat, shares=(0.5,), noise=0.05, seed=3)
    np.testing.assert_array_equal(seen[2], seen[1])
    assert not np.array_equal(seen[3], seen[1])


def test_the_difference_of_both_orders():
    most, least = (Curve(np.array([0.1, 0.9]), np.array(s)) for s in ([0.2, 0.1], [1.0, 0.5]))
    assert road_difference(most, least) == pytest.approx((0.8 + 0.4) / 4)


@pytest.mark.parametrize("shares", [(), (0.0, 0.5), (0.5, 1.0), (0.5, 0.4)])
def test_shares_that_do_not_fit_are_refused(picture, heat, shares):
    with pytest.raises(OptionError, match="rising numbers"):
        road(Counting(), picture, heat, shares=shares)


# ---- sums and ranks ----


def test_the_exact_contributions_of_a_linear_score_are_perfect(picture):
    weights = Counting().weights

    def linear(x):
        return (x * weights).sum(axis=(1, 2, 3)) + 3

    exact = (picture[0] * weights).sum(axis=0)
    for n in (1, 5, 29):
        assert sensitivity_n(linear, picture, exact, n, batch=7) == pytest.approx(1, abs=1e-9)
        assert sensitivity_n(linear, picture, -2 * exact, n) == pytest.approx(-1, abs=1e-9)
    blurred = exact + np.random.default_rng(0).normal(size=exact.shape) * exact.std()
    assert sensitivity_n(linear, picture, blurred, 5, samples=2000) == pytest.approx(
        stats.pearsonr(exact.ravel(), blurred.ravel()).statistic, abs=0.05
    )  # sums over random sets correlate as the values do


def test_sensitivity_is_a_correlation_over_random_sets(picture, heat):
    """The sets as they are drawn, the rest in plain loops."""
    rng, sums, losses = np.random.default_rng(6), [], []
    for _ in range(40):
        members = rng.permutation(30) < 8
        without = picture.copy().reshape(2, 30)
        without[:, members] = 0.25
        sums.append(math.fsum(heat.ravel()[members]))
        losses.append(Counting()(picture)[0] - Counting()(without.reshape(1, 2, 5, 6))[0])
    want = stats.pearsonr(sums, losses).statistic
    assert abs(want) > 0.01
    assert sensitivity_n(Counting(), picture, heat, 8, 0.25, samples=40, seed=6) == pytest.approx(want, abs=1e-9)


def test_cells_are_missing_as_one(picture, heat):
    """Cells of 2 x 2 pixels on 5 x 6: nine, the last row of them cut off."""
    seen = []

    def predict(x):
        seen.extend(x)
        return Counting()(x)

    found = sensitivity_n(predict, picture, heat, 4, 9.0, cell=2, samples=30)
    missing = [(x[0] == 9.0) for x in seen[1:]]
    sums = [heat[m].sum() for m in missing]
    assert found == pytest.approx(
        stats.pearsonr(sums, [Counting()(picture)[0] - Counting()(x[None])[0] for x in seen[1:]])[0]
    )
    for mask in missing:
        blocks = [mask[r : r + 2, c : c + 2] for r in (0, 2, 4) for c in (0, 2, 4)]
        assert sum(bool(b.all()) for b in blocks) == 4
        assert sum(bool(b.any()) for b in blocks) == 4
    assert len({m.tobytes() for m in missing}) > 20
    with pytest.raises(OptionError, match=r"n=9: .* 9, are the same"):
        sensitivity_n(predict, picture, heat, 9, cell=2)


def test_a_saturated_score_or_a_flat_map_tells_nothing(picture, heat):
    rounding = lambda x: 1 + 1e-9 * Counting()(x)  # noqa: E731
    assert sensitivity_n(rounding, picture, heat, 5) == 0.0
    assert sensitivity_n(Counting(), picture, np.ones((5, 6)), 5) == 0.0
    with pytest.raises(OptionError, match="n=30"):
        sensitivity_n(Counting(), picture, heat, 30)
    with pytest.raises(OptionError, match="samples=1"):
        sensitivity_n(Counting(), picture, heat, 3, samples=1)


def test_occlusion_and_its_rank_correlation(picture, heat):
    """Single pixels hidden one by one."""
    found = occlusion_map(Counting(), picture, window=1, stride=1, reference=0.5, batch=8)
    want = np.zeros((5, 6))
    for r in range(5):
        for c in range(6):
            without = picture.copy()
            without[0, :, r, c] = 0.5
            want[r, c] = Counting()(picture)[0] - Counting()(without)[0]
    np.testing.assert_allclose(found, want, atol=1e-6)
    assert rank_correlation(heat, found) == pytest.approx(stats.spearmanr(heat.ravel(), want.ravel()).statistic)
    assert rank_correlation(np.exp(want), found) == pytest.approx(1)


# ---- bad input ----

METRICS = {
    "deletion": deletion,
    "insertion": insertion,
    "road": road,
    "sensitivity_n": lambda p, x, h, **o: sensitivity_n(p, x, h, 3, **o),
}


@pytest.mark.parametrize("name", METRICS)
def test_what_does_not_fit_is_refused(picture, heat, name):
    metric, predict = METRICS[name], Counting()
    with pytest.raises(OptionError, match=r"\(5, 5\).*\(5, 6\)"):
        metric(predict, picture, heat[:, :5])
    with pytest.raises(OptionError, match="without NaN"):
        metric(predict, picture, np.where(heat > 0, heat, np.nan))
    with pytest.raises(OptionError, match=r"\(2, 2, 5, 6\).*one at a time"):
        metric(predict, np.repeat(picture, 2, axis=0), heat)
    with pytest.raises(OptionError, match="uint8"):
        metric(predict, picture.astype(np.uint8), heat)
    with pytest.raises(OptionError, match="batch=0"):
        metric(predict, picture, heat, batch=0)
    with pytest.raises(ModelError, match="NaN or infinite"):
        metric(lambda x: np.full(len(x), np.nan), picture, heat)


# ---- the answers of other packages (benchmarks/metrics.py) ----


@pytest.fixture(scope="module")
def peers():
    with np.load(GOLDENS) as arrays:
        return {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in arrays.items()}


def answers(peers, k, channels=3):
    first, second = peers["first"][: channels * 168], peers["second"]

    def predict(x):
        z = np.exp(np.tanh(x.reshape(len(x), -1) @ first) @ second)
        return z[:, peers["classes"][k]] / z.sum(axis=1)

    return predict


@pytest.mark.parametrize("k", range(4))
def test_peers_of_the_masked_picture(peers, k):
    predict, x, heat = answers(peers, k), peers["pictures"][k : k + 1], peers["maps"][k]
    before, after = predict(x)[0], predict(seen_through(x, heat))[0]
    assert drop(before, after) == pytest.approx(peers["torchcam_drop"][k], abs=1e-6)
    assert increase(before, after) == peers["torchcam_increase"][k] == peers["grad_cam_increase"][k]
    assert drop(before, after) * before == pytest.approx(peers["grad_cam_drop"][k], abs=1e-6)
    assert coherency(heat, peers["maps"][k - 1]) == pytest.approx(peers["grad_cam_coherency"][k], abs=1e-6)
    assert complexity(heat) == pytest.approx(peers["grad_cam_complexity"][k], abs=1e-6)


@pytest.mark.parametrize("k", range(4))
def test_peers_of_the_curves(peers, k):
    predict, x, heat = answers(peers, k), peers["pictures"][k : k + 1], peers["maps"][k]
    assert deletion(predict, x, heat, "zero", step=17).area == pytest.approx(peers["torchcam_deletion"][k], abs=1e-6)
    assert insertion(predict, x, heat, "zero", step=17).area == pytest.approx(peers["torchcam_insertion"][k], abs=1e-6)
    flipped = deletion(answers(peers, k, 1), x[:, :1], heat, "zero", step=14).scores[1:]
    np.testing.assert_allclose(flipped, peers["quantus_flipped"][k], atol=1e-6)
    shares = (0.1, 0.2, 0.5, 0.8, 0.9)
    for strongest, key in ((True, "grad_cam_morf"), (False, "grad_cam_lerf")):
        scores = road(predict, x, heat, strongest, shares=shares, noise=0).scores
        np.testing.assert_allclose(scores[::-1], peers[key][k], atol=3e-5)  # 1e-5 of the values, through the network


def test_peers_of_the_filled_picture(peers):
    x, heat = peers["pictures"][0], peers["maps"][0]
    np.testing.assert_allclose(linear_imputation(x, heat > 0.4), peers["quantus_imputed"], atol=3e-5)
    half = heat >= np.median(heat)
    np.testing.assert_allclose(linear_imputation(x, half), peers["grad_cam_morf_picture"], atol=3e-5)


@pytest.mark.parametrize("k", range(4))
def test_peers_of_the_masks(peers, k):
    heat = peers["maps"][k]
    mass = energy_inside(heat, np.roll(heat > 0.4, 2, axis=1))
    assert mass == pytest.approx(peers["quantus_mass"][k], abs=1e-6)
    assert points_at(heat, np.roll(heat > 0.4, 3, axis=1), tolerance=0) == bool(peers["quantus_points"][k])
