"""Boxes, pointing and weak segmentation against truths that can be counted by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from onnxcam.core.localize import Box, boxes_in, component_corners, without_small
from onnxcam.errors import OptionError
from onnxcam.evaluate.localization import (
    MAX_BOX_ACC_V2,
    THRESHOLDS,
    at_best_threshold,
    calibrated,
    component_boxes,
    fits,
    ious,
    localization_error,
    mask_iou,
    mask_ious,
    pointing_recall,
    points_at,
    region,
    rejection_threshold,
    split,
)

pytestmark = pytest.mark.anyruntime


def drawn(size, *parts):
    """A map of rectangles (x0, y0, x1, y1, value)."""
    heat = np.zeros(size, np.float32)
    for x0, y0, x1, y1, value in parts:
        heat[y0:y1, x0:x1] = value
    return heat


# ---- boxes ----


def test_iou_counts_pixels():
    """Boxes of whole pixels: the same as counting the pixels of their masks."""
    rng = np.random.default_rng(0)
    corners = [sorted(rng.integers(0, 8, 2)) + sorted(rng.integers(0, 8, 2)) for _ in range(12)]
    found = [(x0, y0, x1, y1) for x0, x1, y0, y1 in corners]
    table = ious(found, found)
    for (i, a), (j, b) in itertools.product(enumerate(found), repeat=2):
        p, q = region((8, 8), [a]), region((8, 8), [b])
        whole = (p | q).sum()
        assert table[i, j] == ((p & q).sum() / whole if whole else 0)
    assert ious([(0, 0, 2, 2)], [(1.5, 0, 3.5, 2)]).tolist() == [[pytest.approx(1 / 7)]]


def test_corners_in_another_order_are_refused():
    with pytest.raises(OptionError, match="x0 <= x1"):
        ious([(3, 0, 1, 2)], [(0, 0, 1, 1)])
    with pytest.raises(OptionError, match="x0 <= x1"):
        ious([(0, 0, float("nan"), 2)], [(0, 0, 1, 1)])


def test_a_region_holds_the_pixels_whose_centres_lie_inside():
    assert region((3, 4), [(0.5, 1, 2.5, 2), (3, 2, 9, 9)]).astype(int).tolist() == [
        [0, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 0, 1],
    ]
    assert np.argwhere(region((3, 4), [(0.5, 0.5, 1.5, 1.5)])).tolist() == [[0, 0]]
    assert not region((3, 4), []).any()


def test_localisation_takes_the_map_of_each_predicted_class_and_the_boxes_of_that_class():
    left = drawn((20, 20), (0, 0, 8, 8, 1.0), (9, 12, 20, 20, 0.14))  # the rest lies below 15 %
    right = drawn((20, 20), (12, 0, 20, 8, 0.2), (12, 12, 14, 14, 1.0))  # the larger component is the weaker one
    truth = {"cat": [(0, 0, 8, 10)], "dog": [(0, 12, 3, 20), (12, 0, 20, 9)]}
    assert localization_error([("cat", left)], truth) == 0.0
    assert localization_error([("dog", left)], truth) == 1.0
    assert localization_error([("dog", right)], truth) == 0.0
    assert localization_error([("cow", left)], truth) == 1.0
    assert localization_error([("cow", left), ("dog", left), ("cat", left)], truth) == 0.0
    assert localization_error([("cat", left)], truth, at_least=0.81) == 1.0  # 64 of 80 pixels
    assert localization_error([("cat", left)], truth, at_least=0.8) == 0.0
    assert localization_error([("cat", left)], truth, threshold=0.1) == 1.0
    assert localization_error([("cat", np.zeros((20, 20)))], truth) == 1.0
    assert localization_error([], truth) == 1.0


def test_maps_after_the_right_one_are_not_made():
    def maps():
        yield "cat", drawn((4, 4), (0, 0, 2, 2, 1.0))
        raise AssertionError("asked for more")

    assert localization_error(maps(), {"cat": [(0, 0, 2, 2)]}) == 0.0


def slow_box_ious(heat, truth, thresholds, all_components):
    """Flood fill and loops."""
    found = []
    for threshold in thresholds:
        open_pixels = {(int(r), int(c)) for r, c in np.argwhere((heat > 0) & (heat >= threshold * heat.max()))}
        parts = []
        while open_pixels:
            part, front = set(), [min(open_pixels)]
            while front:
                r, c = front.pop()
                if (r, c) in open_pixels:
                    open_pixels.remove((r, c))
                    part.add((r, c))
                    front += [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            parts.append(part)
        parts = parts if all_components else sorted(parts, key=len)[-1:]
        best = 0.0
        for part in parts:
            rows, columns = [r for r, _ in part], [c for _, c in part]
            box = (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
            best = max([best, *ious([box], truth)[0]])
        found.append(best)
    return found


@pytest.mark.parametrize("all_components", [False, True])
def test_ious_per_threshold_are_those_of_plain_loops(all_components):
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:14, :17]
    spots = [(3, 4, 9.0, 1.0), (10, 12, 4.0, 0.8), (1, 15, 2.0, 0.6)]
    heat = sum(v * np.exp(-((y - r) ** 2 + (x - c) ** 2) / s) for r, c, s, v in spots) + 0.01 * rng.random((14, 17))
    truth = [(10, 8, 15, 13), (2, 1, 8, 7)]
    levels = THRESHOLDS[::5]
    found = fits(component_boxes(heat, levels), truth, all_components)
    np.testing.assert_array_equal(found, slow_box_ious(heat, truth, levels, all_components))
    assert 0 < found.min() < found.max()


def test_max_box_acc_takes_one_threshold_for_all_images():
    table = np.array([[0.9, 0.6, 0.1], [0.2, 0.5, 0.8], [0.3, 0.2, 0.75]])

    def best(rows, *levels):
        return at_best_threshold(np.stack([(rows >= level).mean(axis=0) for level in levels]))

    assert best(table, 0.5) == 2 / 3  # at the second threshold, or the third
    assert best(table, 0.9) == 1 / 3
    # 0.3: 2, 2, 2 of 3 images; 0.5: 1, 2, 2; 0.7: 1, 0, 2
    assert best(table, *MAX_BOX_ACC_V2) == pytest.approx((2 + 2 + 2) / 9)
    assert best(table[:2], *MAX_BOX_ACC_V2) == pytest.approx((2 + 2 + 1) / 6)
    both = np.array([[[0.1, 0.7], [0.4, 0.2]], [[0.0, 0.5], [0.5, 0.5]]])  # two tables at once
    assert at_best_threshold(both).tolist() == pytest.approx([0.55, 0.5])


def test_an_image_without_true_box_is_refused():
    with pytest.raises(OptionError, match="no true box"):
        fits(component_boxes(np.ones((3, 3))), [])


def test_components_and_their_boxes():
    mask = np.zeros((6, 7), bool)
    mask[0, 0] = mask[1, 1] = mask[2, 5] = mask[4:6, 3:6] = True
    assert component_corners(mask).tolist() == [[3, 4, 6, 6], [0, 0, 2, 2], [5, 2, 6, 3]]
    assert component_corners(np.zeros((3, 3), bool)).tolist() == []
    assert without_small(mask, 2).sum() == 8
    heat = np.where(mask, 0.5, 9.0)  # what lies outside does not count
    heat[2, 5] = 0.7
    assert boxes_in(heat, mask) == [Box(5, 2, 6, 3, 0.7, 1), Box(3, 4, 6, 6, 0.5, 6), Box(0, 0, 2, 2, 0.5, 2)]


# ---- thresholds ----


def test_calibration_chooses_on_one_split_and_reports_the_other():
    table = np.array([[0.1, 0.9, 0.9], [0.9, 0.2, 0.3], [0.4, 0.8, 0.8], [0.7, 0.1, 0.0]])
    held_out = np.array([True, False, True, False])
    column, rest = calibrated(table, held_out)
    assert column == 1
    assert rest.tolist() == [0.2, 0.1]
    for wrong in (np.zeros(4, bool), np.ones(4, bool), held_out[:3]):
        with pytest.raises(OptionError, match="of 4 images are held out"):
            calibrated(table, wrong)


def test_a_split_leaves_images_on_both_sides():
    assert [int(split(n, s).sum()) for n, s in ((10, 0.2), (2, 0.01), (3, 0.99), (500, 0.3))] == [2, 1, 2, 150]
    assert split(50, seed=1).tolist() == split(50, seed=1).tolist() != split(50, seed=2).tolist()
    with pytest.raises(OptionError, match="of 1 images"):
        split(1)


# ---- masks ----


def test_mask_iou_by_hand():
    found, truth = np.array([[1, 1, 0], [0, 1, 0]], bool), np.array([[0, 1, 1], [0, 1, 0]], bool)
    assert mask_iou(found, truth) == 0.5
    assert mask_iou(found & ~found, truth & ~truth) == 0.0
    with pytest.raises(OptionError, match=r"\(2, 3\) cannot be held against one of \(3, 2\)"):
        mask_iou(found, truth.T)


def test_mask_ious_per_threshold():
    heat = drawn((4, 4), (0, 0, 4, 1, 0.3), (0, 0, 2, 1, 1.0))
    truth = drawn((4, 4), (0, 0, 2, 1, 1.0)) > 0
    assert mask_ious(heat, truth, [0.2, 0.3, 0.31, 1.0]).tolist() == [0.5, 0.5, 1.0, 1.0]


# ---- the pointing game ----


def test_the_tolerance_is_a_distance_between_pixels():
    heat = drawn((40, 50), (5, 6, 6, 7, 1.0))
    truth = drawn((40, 50), (14, 18, 30, 30, 1.0)) > 0  # 9 to the right and 12 down: 15 away
    assert points_at(heat, truth)
    assert not points_at(heat, truth, 14.99)
    assert not points_at(np.roll(heat, -1, axis=1), truth)
    inside = drawn((40, 50), (14, 18, 15, 19, 1.0))
    assert points_at(inside, truth, 0)
    assert not points_at(np.roll(inside, -1, axis=0), truth, 0)


def test_distance_to_the_nearest_pixel_of_the_mask():
    rng = np.random.default_rng(1)
    for seed in range(20):
        heat, truth = np.random.default_rng(seed).random((12, 11)), rng.random((12, 11)) < 0.03
        if not truth.any():
            continue
        top = max((heat[r, c], r, c) for r in range(12) for c in range(11))[1:]
        away = min(math.dist(top, (r, c)) for r in range(12) for c in range(11) if truth[r, c])
        assert points_at(heat, truth, away + 1e-9)
        assert away == 0 or not points_at(heat, truth, away - 1e-9)


def test_a_blank_map_points_nowhere_and_an_empty_mask_is_refused():
    assert not points_at(np.zeros((5, 5)), np.ones((5, 5), bool))
    assert not points_at(np.full((5, 5), -1.0), np.ones((5, 5), bool))
    with pytest.raises(OptionError, match="with 0 pixels"):
        points_at(np.ones((5, 5)), np.zeros((5, 5), bool))
    with pytest.raises(OptionError, match=r"\(5, 4\)"):
        points_at(np.ones((5, 5)), np.ones((5, 4), bool))


def test_rejecting_counts_for_absent_classes_and_against_present_ones():
    strength = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    points = np.array([True, False, True, True, True])
    present = np.array([True, True, False, True, False])
    assert pointing_recall(strength, points, present, 2.5).tolist() == [True, False, False, False, True]
    assert pointing_recall(strength, points, present, 2.0).tolist() == [True, False, False, True, True]
    hits = {t: int(pointing_recall(strength, points, present, t).sum()) for t in (1, 2, 3, 4, 5)}
    assert hits == {1: 2, 2: 3, 3: 2, 4: 3, 5: 3}
    assert rejection_threshold(strength, points, present) == 2.0
    assert rejection_threshold(strength, points, np.zeros(5, bool)) == float("inf")
    with pytest.raises(OptionError, match="no maps"):
        rejection_threshold(np.zeros(0), np.zeros(0, bool), np.zeros(0, bool))
