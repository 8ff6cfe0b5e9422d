"""Figures of two heatmaps and of channels, by hand."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from onnxcam.compare.figures import binomial, likeness, pearson, ranks, strongest, summary
from onnxcam.compare.stages import Channels, errors, rows_stage, swapped, verdict

pytestmark = pytest.mark.anyruntime


def exchanged(array: Any, axis: int = 0) -> Any:
    order = [1, 0, *range(2, array.shape[axis])]
    return np.take(array, order, axis)


# Figures of two heatmaps


def test_ranks_are_counted_pixel_by_pixel():
    a = np.random.default_rng(0).integers(0, 6, (5, 7))
    flat = a.ravel()
    by_hand = [sum(other < v for other in flat) + (sum(other == v for other in flat) - 1) / 2 for v in flat]
    assert ranks(a).tolist() == by_hand


def test_correlations_by_hand():
    rng = np.random.default_rng(1)
    a, b = rng.random((6, 5), np.float32), rng.random((6, 5), np.float32)
    assert pearson(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-9)
    found = likeness(a, (a**3).astype(np.float32))  # a monotone change keeps the ranks
    assert found.spearman == pytest.approx(1, abs=1e-12)
    assert found.correlation == pytest.approx(np.corrcoef(a.ravel(), a.ravel() ** 3)[0, 1], abs=1e-6)
    assert found.difference == pytest.approx(float(np.abs(a - a**3).max()), abs=1e-7)


def test_the_strongest_fifth():
    a = np.array([[0.9, 0.8, 0.1, 0.1, 0.1]] * 2)  # 2 of 10 pixels are the fifth
    assert strongest(a).tolist() == [[True, False, False, False, False]] * 2
    tied = np.array([[0.9, 0.8, 0.8, 0.0, 0.0]])
    assert strongest(tied, 0.4).tolist() == [[True, True, True, False, False]]
    few = np.array([[0.9, 0.0, 0.0, 0.0, 0.0]])
    assert strongest(few, 0.8).tolist() == [[True, False, False, False, False]]


def test_iou_of_shifted_bars():
    a, b = np.zeros((2, 5, 10), np.float32)
    a[:, 2:4] = b[:, 3:5] = 1  # 10 pixels each, 5 shared
    assert likeness(a, b).iou == pytest.approx(5 / 15)


def test_blank_and_constant_maps_are_defined():
    zero, one, some = np.zeros((2, 2)), np.ones((2, 2)), np.eye(2)
    both = likeness(zero, zero)
    assert (both.correlation, both.iou, both.blank) == (None, None, "both")
    assert likeness(zero, some) == likeness(zero, one)
    assert (likeness(some, zero).correlation, likeness(some, zero).iou, likeness(some, zero).blank) == (0, 0, "b")
    assert likeness(zero, some).blank == "a"
    assert likeness(one, one).correlation == 1
    assert likeness(one, some).correlation == 0


def test_summary_and_its_interval():
    values = np.random.default_rng(2).normal(0.9, 0.05, 400)
    found = summary([*values, None])
    assert found is not None
    assert found.count == 400
    assert (found.mean, found.median, found.worst) == pytest.approx((values.mean(), np.median(values), values.min()))
    reach = 1.96 * values.std(ddof=1) / math.sqrt(400)  # of a mean of many
    assert found.mean - found.low == pytest.approx(reach, rel=0.1)
    assert found.high - found.mean == pytest.approx(reach, rel=0.1)
    low = summary([1.0, 2.0, 5.0], low_is_good=True)
    assert low is not None
    assert low.worst == 5
    assert summary([None]) is None


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 0), (5, 5), (2, 7), (9, 1)])
def test_binomial_counts_every_outcome(first, second):
    outcomes = [sum(coins) for coins in product((0, 1), repeat=first + second)]
    as_uneven = [k for k in outcomes if abs(2 * k - first - second) >= abs(first - second)]
    assert binomial(first, second) == pytest.approx(len(as_uneven) / len(outcomes))


# Stages


def test_errors_of_channels_by_hand():
    off, spread = np.array([0.1, 0.1, 0.1, 0.0]), np.array([2.0, 1.0, 0.5, 0.0])  # the last is dead, the median is 1
    assert errors(off, spread).tolist() == [0.05, 0.1, 0.1, 0.0]


def test_channels_add_up_over_pictures():
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 4, 3, 5, 6))  # 4 pictures of 3 channels
    channels = Channels()
    for x, y in zip(a, b, strict=True):
        channels.add(x, y)
    found = channels.stage("a", "b", 0.5, 0.01)
    assert found is not None
    off = [math.sqrt(np.mean([(a[n, c] - b[n, c]) ** 2 for n in range(4)])) for c in range(3)]
    spread = [float(np.std([a[n, c] for n in range(4)])) for c in range(3)]
    assert found.errors == pytest.approx([o / max(s, sorted(spread)[1]) for o, s in zip(off, spread, strict=True)])


def test_a_map_before_its_rectifier_is_no_error_but_a_larger_one_is():
    a = np.random.default_rng(4).standard_normal((3, 4, 4))
    for other, odd in ((a, ()), (a * [[[1]], [[2]], [[1]]], (1,))):
        channels = Channels()
        channels.add(np.maximum(a, 0), other)
        found = channels.stage("a", "b", 0.5, 0.01)
        assert found is not None
        assert found.odd == odd


def test_swapped_channels_are_named():
    x = np.random.default_rng(5).standard_normal((4, 6))
    y = x[:, [0, 4, 2, 3, 1, 5]].copy()
    assert swapped(x, y, (1, 4)) == ((1, 4),)
    y[:, 2] += 3
    assert swapped(x, y, (1, 2, 4)) == ((1, 4),)
    half = x.copy()  # each has moved a little more than half-way to the other: mixed, not swapped
    half[:, [1, 4]] = 0.45 * x[:, [1, 4]] + 0.55 * x[:, [4, 1]]
    assert swapped(x, half, (1, 4)) == ()


def test_a_swap_is_seen_where_noise_hides_its_size():
    rng = np.random.default_rng(7)
    found = {}
    for name, order in (("sound", [0, 1, 2, 3, 4, 5]), ("faulty", [0, 1, 2, 3, 5, 4])):
        channels = Channels()
        for _ in range(6):
            a = rng.random((6, 4, 4)) * np.array([4, 4, 4, 4, 1, 1])[:, None, None]
            a *= rng.random((6, 1, 1))
            channels.add(a, np.maximum(a[order] + rng.normal(0, 0.12, a.shape), 0))
        found[name] = channels.stage("a", "b", 1.0, 0.5)
    assert [s and (s.worst < 0.5, s.odd, s.swapped) for s in found.values()] == [
        (True, (), ()),
        (True, (4, 5), ((4, 5),)),
    ]
    assert found["faulty"] is not None
    assert "means are the other's" in verdict([found["faulty"]], "int8").text


def test_a_layer_that_differs_as_a_whole_beyond_what_rounding_adds():
    rng = np.random.default_rng(8)
    rows = rng.standard_normal((80, 40))
    noises = rng.standard_normal(rows.shape)

    def noisy(noise: float):
        return rows_stage("layer", f"noise {noise}", "b", 0.5, rows, rows + noise * noises, 0.75)

    assert verdict([noisy(0.1), noisy(0.3)], "int8").kind == "sound"
    found = verdict([noisy(0.05), noisy(0.3), noisy(0.35)], "int8")
    assert (found.kind, found.at and found.at.a, found.at and found.at.odd) == ("fault", "noise 0.3", ())
    assert "differ as a whole" in found.text
    assert verdict([noisy(0.05), noisy(0.3)], "int8", pictures=4).kind == "unknown"


def stage(what: str, worst: float, name: str = "s", depth: float = 0.5):
    rows = np.random.default_rng(6).standard_normal((50, 8))
    other = rows.copy()
    other[:, 3] += worst * rows.std()
    return rows_stage(what, name, name, depth, rows, other, 0.01)


def test_a_layer_read_differently_is_no_fault_where_all_that_follows_agrees():
    sound, odd = stage("layer", 0, "early"), stage("layer", 1, "late")
    assert odd.worst == pytest.approx(1)
    assert verdict([odd, sound, stage("scores", 0)], "float").kind == "sound"
    assert verdict([odd, sound, stage("scores", 0)], "float", explained="late").kind == "fault"
    assert verdict([odd, sound, stage("scores", 0.005)], "float").kind == "fault"
    rows = np.random.default_rng(9).standard_normal((20, 4))
    swap = rows_stage("layer", "late", "late", 0.5, rows, exchanged(rows, axis=1), 0.01)
    assert verdict([swap, sound, stage("scores", 0)], "float").kind == "fault"
    late = verdict([sound, stage("scores", 1)], "float")
    assert (late.kind, late.at and late.at.what) == ("fault", "scores")
    said = verdict([sound, stage("weights", 0), stage("scores", 0)], "float").text
    assert said == "no fault: 1 layer, gradients and scores agree within what float explains"
    assert verdict([sound, stage("scores", 0)], "float").text.startswith("no fault: 1 layer and scores agree within")
    assert verdict([sound, sound], "float").text.startswith("no fault: 2 layers agree within")
    assert verdict([sound], "float").text.startswith("no fault: 1 layer agrees within")
    assert verdict([stage("scores", 0)], "float").kind == "unknown"
