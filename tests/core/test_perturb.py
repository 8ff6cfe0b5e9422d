"""Black-box methods, against plain loops and against pictures where the answer is known."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
from scipy.spatial.distance import cosine
from sklearn.linear_model import Ridge
from toys import Scored as Toy

from onnxcam.core import perturb
from onnxcam.core.perturb import aise, occlusion
from onnxcam.core.perturb_segments import coalitions, feature_ablation, kernelshap, lime, segmented, shapley
from onnxcam.core.rise import rise
from onnxcam.errors import ModelError, OptionError, UnknownNameError

pytestmark = pytest.mark.anyruntime
ALL = (
    (occlusion, {"window": 4, "stride": 2}),
    (rise, {"samples": 20}),
    (aise, {"samples": 9}),
    (feature_ablation, {"segments": "grid:3"}),
    (lime, {"samples": 20, "segments": "grid:3", "fill": "zero"}),
    (kernelshap, {"samples": 20, "segments": "grid:3", "fill": "zero"}),
)
EACH = pytest.mark.parametrize(("procedure", "options"), ALL, ids=[p.__name__ for p, _ in ALL])


def picture(height=12, width=15, channels=3, seed=0):
    return np.random.default_rng(seed).normal(size=(1, channels, height, width)).astype(np.float32)


def weighing(x, seed=1):
    """A linear score with a bias, and its weights."""
    w = np.random.default_rng(seed).normal(size=x.shape[1:])
    return lambda images: 0.3 + np.sum(images * w, axis=(1, 2, 3)), w


def patch_score(images):
    """The mean of rows 2..5, columns 8..11."""
    return images[:, :, 2:6, 8:12].mean(axis=(1, 2, 3))


def curved(images):
    """A score in which places interact."""
    m = images.mean(axis=1)
    return np.tanh(m[:, :4].mean(axis=(1, 2))) * m[:, :, :5].mean(axis=(1, 2)) + m[:, 6:, 7:].max(axis=(1, 2))


# ---- occlusion ----


@pytest.mark.parametrize(
    ("window", "stride", "fill"), [(4, 2, "zero"), ((3, 5), (2, 4), "mean"), ((12, 2), 2, 0.7), (5, 5, "blur")]
)
def test_occlusion_is_the_mean_difference_over_the_windows_at_a_pixel(window, stride, fill):
    x = picture()
    probe = Toy(curved, x)
    hidden = perturb.filled(x, fill)
    high, wide = (window, window) if isinstance(window, int) else window
    down, right = (stride, stride) if isinstance(stride, int) else stride
    whole, total, count = float(curved(x)[0]), np.zeros((12, 15)), np.zeros((12, 15))
    for i in range(math.ceil((12 - high) / down) + 1):
        for j in range(math.ceil((15 - wide) / right) + 1):
            changed = x.copy()
            for r in range(i * down, min(i * down + high, 12)):
                for c in range(j * right, min(j * right + wide, 15)):
                    changed[0, :, r, c] = hidden[0, :, r, c]
            place = slice(i * down, i * down + high), slice(j * right, j * right + wide)
            total[place] += whole - float(curved(changed)[0])
            count[place] += 1
    found = occlusion(probe, window=window, stride=stride, fill=fill)
    np.testing.assert_allclose(found, total / count, rtol=1e-4, atol=1e-5)


def test_occlusion_takes_a_fifth_of_the_shorter_side_in_steps_of_a_tenth():
    probe = Toy(patch_score, picture(40, 60))
    whole = occlusion(probe)
    assert sum(probe.calls) == 1 + 9 * 14  # windows of 8 in steps of 4
    np.testing.assert_allclose(whole, occlusion(Toy(patch_score, picture(40, 60)), window=8, stride=4))


@pytest.mark.parametrize(
    ("options", "say"),
    [
        ({"window": 13}, "12 x 15 pixels"),
        ({"window": 3, "stride": 4}, "at most 3"),
        ({"window": 0}, "at least 1"),
        ({"window": 2.5}, "window=2.5"),
        ({"window": "wide"}, "window='wide'"),
        ({"stride": "far"}, "stride='far'"),
        ({"window": (2, 3, 4)}, "height and width"),
        ({"fill": np.zeros((2, 3, 12, 15))}, "2 pictures"),
    ],
)
def test_occlusion_refuses_windows_that_do_not_fit(options, say):
    with pytest.raises(OptionError, match=say):
        occlusion(Toy(patch_score, picture()), **options)


# ---- AISE ----


def test_aise_sums_the_places_that_the_optimiser_tries(monkeypatch):
    places = [(0.2, 0.5), (0.9, 0.1), (0.5, 0.5), (0.0, 1.0)]

    def direct(loss, bounds, **options):
        assert bounds == [(0, 1), (0, 1)]
        values = [loss(np.array(p)) for p in places]
        assert values[3] == 0  # beyond the budget of three a width

    monkeypatch.setattr(perturb, "_optimiser", lambda: direct)
    x, expected = picture(), np.zeros((12, 15))
    for width in (0.1, 0.3):
        masks, gains = [], []
        for right, down in places[:3]:
            mask = np.empty((12, 15))
            for r, c in np.ndindex(12, 15):
                mask[r, c] = math.exp(-((c / 14 - right) ** 2 + (r / 11 - down) ** 2) / (2 * width**2))
            masks.append(mask)
            gains.append(float(curved(x * mask)[0] - curved(x * (1 - mask))[0]))
        part = sum((gain - min(gains)) * mask for gain, mask in zip(gains, masks, strict=True))
        expected += part / part.max()
    probe = Toy(curved, x)
    np.testing.assert_allclose(aise(probe, samples=6, widths=(0.1, 0.3)), expected, rtol=1e-4, atol=1e-5)
    assert probe.calls == [2] * 6


def test_aise_finds_a_part_that_no_window_can_keep_whole():
    x = np.ones((1, 3, 12, 15))  # every window takes more of the left half than it keeps: all gains are negative
    found = aise(Toy(lambda images: images[:, :, :, :7].mean(axis=(1, 2, 3)), x), samples=90, widths=(0.1, 0.15))
    assert found[:, :7].mean() > 2 * found[:, 8:].mean()


def test_aise_refuses_what_it_cannot_do(monkeypatch):
    for widths in ((0.1, -0.1), (), "wide", [[0.1]]):
        with pytest.raises(OptionError, match="above 0"):
            aise(Toy(patch_score, picture()), widths=widths)
    with pytest.raises(OptionError, match="at least 3"):
        aise(Toy(patch_score, picture()), samples=2)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(OptionError, match=r"onnxcam\[methods\]"):
        aise(Toy(patch_score, picture()), samples=9)


# ---- segments ----


def test_a_grid_splits_the_picture_evenly():
    found = segmented(picture(4, 7), "grid:2")
    assert found.tolist() == [[0, 0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 2, 3, 3, 3]] * 2
    assert segmented(picture(2, 9), "grid:3").max() == 5  # rows that hold no pixel are no segments


def test_own_segments_are_numbered_anew():
    labels = np.array([[7, 7, -1], [7, 30, -1]])
    assert segmented(picture(2, 3), labels).tolist() == [[1, 1, 0], [1, 2, 0]]


@pytest.mark.parametrize(("name", "channels", "most"), [("slic:12", 3, 20), ("quickshift", 3, 40), ("slic:12", 1, 20)])
def test_superpixels_follow_the_edges(name, channels, most):
    x = np.random.default_rng(0).normal(-2, 0.05, (1, channels, 60, 72)).astype(np.float32)
    x[:, 0, 30:, :36] += 3
    x[:, channels // 2, :30, 36:] += 2
    labels, fields = segmented(x, name), segmented(x, "grid:2")
    assert 4 <= len(np.unique(labels)) <= most
    pure = sum(np.bincount(fields[labels == k]).max() for k in np.unique(labels))
    assert pure > 0.99 * labels.size


@pytest.mark.parametrize(
    ("given", "error", "say"),
    [
        (np.zeros((15, 12), int), OptionError, r"\(15, 12\).*12 x 15"),
        (np.zeros((12, 15)), OptionError, "whole numbers"),
        (np.zeros((12, 15), int), OptionError, "one segment"),
        ("grid:1", OptionError, "one segment"),
        ("grid:x", OptionError, "grid:7"),
        ("quickshift:9", OptionError, "slic"),
        ("watershed", UnknownNameError, "slic, quickshift, grid"),
    ],
)
def test_segments_that_do_not_fit_are_refused(given, error, say):
    with pytest.raises(error, match=say):
        segmented(picture(), given)


def test_missing_libraries_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(OptionError, match=r"onnxcam\[methods\].*grid:7"):
        lime(Toy(patch_score, picture()))
    with pytest.raises(OptionError, match=r"onnxcam\[methods\].*ridge"):
        lime(Toy(patch_score, picture()), segments="grid:2", fit="lasso")


def shares(x, w, labels, fill):
    """Of a linear score, what each segment adds: exact for every method that hides segments."""
    return np.array([np.sum(((x[0] - fill[0]) * w)[:, labels == k]) for k in range(labels.max() + 1)])


# ---- feature ablation ----


@pytest.mark.parametrize("fill", ["zero", "segment", 0.5])
def test_feature_ablation_hides_one_segment_at_a_time(fill):
    x, labels = picture(), segmented(picture(), "grid:3")
    found = feature_ablation(Toy(curved, x), segments="grid:3", fill=fill)
    for k in range(9):
        changed = x.copy()
        for channel in range(3):
            own = np.mean(x[0, channel][labels == k])
            changed[0, channel][labels == k] = {"zero": 0, "segment": own, 0.5: 0.5}[fill]
        expected = float(curved(x)[0] - curved(changed)[0])
        np.testing.assert_allclose(found[labels == k], expected, rtol=1e-4, atol=1e-5)


# ---- LIME ----


def test_lime_recovers_a_linear_score():
    x = picture()
    score, w = weighing(x)
    labels = segmented(x, "grid:3")
    found = lime(Toy(score, x), samples=60, segments=labels, fill="mean", alpha=0.0)
    expected = shares(x, w, labels, perturb.filled(x, "mean"))
    np.testing.assert_allclose(found, expected[labels], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alpha", [1.0, 0.05])
def test_limes_fit_is_ridge_regression_weighted_by_cosine_distance(alpha):
    x, labels = picture(), segmented(picture(), "grid:3")
    rows = np.random.default_rng(5).integers(0, 2, (40, 9))
    rows[0] = 1
    scores, weights = [], []
    for row in rows:
        scores.append(float(curved(x * row[labels])[0]))
        weights.append(math.exp(-((cosine(row, np.ones(9)) if row.any() else 1.0) ** 2) / (2 * 0.4**2)))
    fitted = Ridge(alpha=alpha).fit(rows, scores, sample_weight=weights)
    options = {"samples": 40, "segments": "grid:3", "fill": "zero", "width": 0.4, "alpha": alpha, "seed": 5}
    np.testing.assert_allclose(lime(Toy(curved, x), **options), fitted.coef_[labels], rtol=1e-4, atol=1e-6)


def test_limes_lasso_meets_its_optimality_conditions():
    x, labels, alpha = picture(), segmented(picture(), "grid:3"), 0.02
    rows = np.random.default_rng(2).integers(0, 2, (50, 9))
    rows[0] = 1
    y = np.array([float(curved(x * row[labels])[0]) for row in rows])
    found = lime(Toy(curved, x), samples=50, segments="grid:3", fill="zero", fit="lasso", alpha=alpha, seed=2)
    b = np.array([found[labels == k][0] for k in range(9)], float)
    w = np.array([math.exp(-((1 - math.sqrt(row.sum() / 9)) ** 2) / (2 * 0.25**2)) for row in rows])
    w /= w.sum()
    rest = (y - w @ y) - (rows - w @ rows) @ b
    slope = (w * rest) @ (rows - w @ rows)
    assert 0 < np.sum(b != 0) < 9
    np.testing.assert_allclose(slope[b != 0], alpha * np.sign(b[b != 0]), atol=1e-4)
    assert np.all(np.abs(slope[b == 0]) <= alpha + 1e-4)


@pytest.mark.parametrize(
    ("options", "say"),
    [
        ({"fit": "tree"}, "ridge, lasso"),
        ({"width": 0.0}, "width=0"),
        ({"alpha": -1.0}, "alpha=-1"),
        ({"alpha": "x"}, "alpha=x"),
        ({"samples": 1}, "2"),
    ],
)
def test_lime_refuses_options_out_of_range(options, say):
    with pytest.raises((OptionError, UnknownNameError), match=say):
        lime(Toy(patch_score, picture()), **{"segments": "grid:2", **options})


# ---- Kernel SHAP ----


def by_permutations(value, features):
    """Shapley values as they are defined: the mean gain over all orders."""
    total = np.zeros(features)
    for order in itertools.permutations(range(features)):
        seen = np.zeros(features, int)
        for k in order:
            before = value(seen)
            seen[k] = 1
            total[k] += value(seen) - before
    return total / math.factorial(features)


def test_kernelshap_gives_shapley_values():
    x, labels = picture(), np.arange(15)[None].repeat(12, 0) // 3
    expected = by_permutations(lambda z: float(curved(x * z[labels])[0]), 5)
    found = kernelshap(Toy(curved, x), samples=30, segments=labels, fill="zero")
    np.testing.assert_allclose(found, expected[labels], rtol=1e-4, atol=1e-5)


def test_sampled_kernelshap_recovers_a_linear_score_and_keeps_the_sum():
    x = picture()
    score, w = weighing(x)
    labels = segmented(x, "grid:4")
    found = kernelshap(Toy(score, x), samples=60, segments=labels, fill="zero")
    np.testing.assert_allclose(found, shares(x, w, labels, np.zeros_like(x))[labels], rtol=1e-4, atol=1e-4)
    bent = kernelshap(Toy(curved, x), samples=20, segments="grid:4", fill="zero")
    parts = [bent[labels == k][0] for k in range(16)]
    assert sum(parts) == pytest.approx(float(curved(x)[0] - curved(0 * x)[0]), abs=1e-5)


def test_sampled_kernelshap_comes_close_to_shapley_values():
    rng = np.random.default_rng(0)
    pairs, single = rng.normal(size=(10, 10)), rng.normal(size=10)
    value = lambda z: float(single @ z + z @ pairs @ z)  # noqa: E731
    exact = single + np.diag(pairs) + (pairs + pairs.T - 2 * np.diag(np.diag(pairs))).sum(axis=1) / 2
    rows, weights = coalitions(np.random.default_rng(1), 10, 400)
    assert len(rows) == 400
    found = shapley(rows, np.array([value(z) for z in rows]), weights, 0.0, value(np.ones(10)))
    np.testing.assert_allclose(found, exact, atol=1e-6)  # pairs make quadratic games exact


def test_kernelshap_agrees_with_a_fit_that_weighs_the_ends_by_a_million():
    rng = np.random.default_rng(3)
    rows, _ = coalitions(rng, 12, 81)
    scores, weights = rng.normal(size=81), rng.uniform(0.5, 2, 81)
    design = np.concatenate([rows, np.zeros((1, 12)), np.ones((1, 12))])
    y, w = np.append(scores, [0.4, 1.9]), np.append(weights, [1e6, 1e6])
    centred, target = (a - np.average(a, axis=0, weights=w) for a in (design, y))
    fitted = np.linalg.solve(centred.T @ (w[:, None] * centred), centred.T @ (w * target))
    np.testing.assert_allclose(shapley(rows, scores, weights, 0.4, 1.9), fitted, atol=1e-4)


def test_coalitions_follow_the_shapley_kernel():
    rows, weights = coalitions(np.random.default_rng(0), 4, 14)
    assert sorted(map(tuple, rows)) == sorted(z for z in itertools.product((0, 1), repeat=4) if 0 < sum(z) < 4)
    assert [weights[rows.sum(1) == s][0] for s in (1, 2, 3)] == pytest.approx([3 / 12, 3 / 24, 3 / 12])
    drawn, ones = coalitions(np.random.default_rng(0), 5, 4000 * 2 + 1)  # enough for all 30
    assert (len(drawn), np.ptp(ones) > 0) == (30, True)
    drawn, ones = coalitions(np.random.default_rng(0), 40, 20_001)
    assert drawn.shape == (20_001, 40)
    assert set(ones) == {1.0}
    share = np.bincount(drawn.sum(axis=1), minlength=41) / 20_001
    kernel = np.array([0, *(1 / (s * (40 - s)) for s in range(1, 40)), 0])
    np.testing.assert_allclose(share, kernel / kernel.sum(), atol=0.005)
    np.testing.assert_allclose(drawn.mean(axis=0), 0.5, atol=0.01)  # no segment is preferred


# ---- all of them ----


@EACH
def test_the_map_peaks_where_the_score_looks(procedure, options):
    probe = Toy(patch_score, np.ones((1, 3, 12, 15)))
    more = {"samples": 400} if "samples" in options and procedure is not aise else {}
    segments = {"segments": np.pad(np.full((4, 4), 5), ((2, 6), (8, 3)))} if "segments" in options else {}
    found = procedure(probe, **{**options, **more, **segments, **({"samples": 60} if procedure is aise else {})})
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert 2 <= row < 6
    assert 8 <= column < 12
    assert found[2:6, 8:12].mean() > found[8:, :5].mean() + 0.1 * np.abs(found).max()


@EACH
def test_progress_ends_at_the_total(procedure, options):
    probe = Toy(patch_score, np.ones((1, 3, 12, 15)))
    procedure(probe, **options)
    done, totals = zip(*probe.progress, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == totals[0] == totals[-1]
    assert max(probe.calls) <= 4


@EACH
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused(procedure, options, bad):
    def sometimes(images):
        return (
            np.where(images[:, 0, 6, 7] == 0, bad, 1.0) if procedure not in (rise, aise) else np.full(len(images), bad)
        )

    with pytest.raises(ModelError, match="NaN or infinite"):
        procedure(Toy(sometimes, np.ones((1, 3, 12, 15))), **options)


@EACH
@pytest.mark.parametrize("level", [0.0, 5.0, -300.0])
def test_a_score_that_does_not_move_gives_an_empty_map(procedure, options, level):
    noise = np.random.default_rng(0)

    def saturated(images):  # a constant, with the rounding of its last two bits
        return np.float32(level) * (1 + np.finfo(np.float32).eps * noise.integers(-2, 3, len(images)))

    assert not np.any(procedure(Toy(saturated, picture()), **options))


@EACH
def test_an_unknown_filling_is_refused(procedure, options):
    with pytest.raises(UnknownNameError, match="zero, mean, blur"):
        procedure(Toy(patch_score, picture()), **{**options, "fill": "grey"})
