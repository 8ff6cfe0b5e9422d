"""The object's pixels: Otsu's threshold, components, and edges moved to those of the picture."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from onnxcam.core.localize import threshold_mask
from onnxcam.core.segment import grabcut, otsu, segment
from onnxcam.errors import OptionError, UnknownNameError

pytestmark = pytest.mark.anyruntime


def slow_otsu(heat):
    """Every cut between two of 256 levels, in loops."""
    levels = [min(int(max(v, 0) / heat.max() * 256), 255) for v in heat.ravel().tolist()]
    best, found = -1.0, 0
    for cut in range(1, 256):
        low, high = [v for v in levels if v < cut], [v for v in levels if v >= cut]
        between = len(low) * len(high) * (np.mean(low) - np.mean(high)) ** 2 if low and high else 0.0
        if between > best * (1 + 1e-12):
            best, found = between, cut
    return found / 256


@pytest.mark.parametrize("seed", range(4))
def test_otsu_is_the_best_of_all_cuts(seed):
    rng = np.random.default_rng(seed)
    heat = np.concatenate([rng.normal(0.2, 0.1, 90), rng.normal(0.3 * seed, 0.15, 60)]).reshape(10, 15)
    assert otsu(heat) == slow_otsu(heat)


def test_otsu_is_scikit_images():
    """Theirs are the centres of bins from the least to the largest value, and what lies above them is strong."""
    rng = np.random.default_rng(3)
    heat = np.concatenate([rng.beta(2, 9, 600), rng.beta(9, 4, 300), [0.0, 1.0]])[:900].reshape(30, 30)
    heat.flat[:2] = 0.0, 1.0
    assert otsu(heat) == pytest.approx(threshold_otsu(heat), abs=1 / 256)
    np.testing.assert_array_equal(threshold_mask(heat, otsu(heat)), heat > threshold_otsu(heat) + 0.5 / 256)


def test_otsu_has_no_scale_and_counts_negative_values_as_nothing():
    heat = np.random.default_rng(0).normal(size=(20, 20))
    assert otsu(heat) == otsu(1e-9 * heat) == otsu(np.maximum(heat, 0))
    assert otsu(np.full((3, 3), 2.0)) == otsu(np.zeros((3, 3))) == 1 / 256
    with pytest.raises(OptionError, match="NaN"):
        otsu(np.array([[np.nan, 1.0]]))


def test_segments_by_threshold_component_and_area():
    heat = np.zeros((6, 8))
    heat[0:2, 0:2], heat[4, 4:8], heat[0, 7] = 0.4, 0.3, 1.0
    assert [int(segment(heat, t).sum()) for t in (0.2, 0.35, "otsu", 0.5)] == [9, 5, 9, 1]
    assert np.argwhere(segment(heat, 0.35, largest_only=True)).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert int(segment(heat, 0.2, min_area=2).sum()) == 8
    assert not segment(heat, 0.2, largest_only=True, min_area=5).any()
    assert not segment(np.zeros((3, 3)), "otsu").any()
    with pytest.raises(UnknownNameError, match=r"threshold 'otsy'.*'otsu'"):
        segment(heat, "otsy")


# ---- GrabCut ----


def scene(size=(120, 160), shift=0):
    """A dark disc on a light ground, both with noise, and a blurred spot somewhere upon it."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[: size[0], : size[1]]
    disc = np.hypot(y - size[0] * 0.5, x - size[1] * 0.45) < size[0] * 0.3
    picture = np.where(disc[..., None], (40, 60, 150), (200, 190, 160)) + rng.normal(0, 12, (*size, 3))
    heat = np.exp(-((y - size[0] * 0.44) ** 2 + (x - size[1] * 0.5) ** 2) / (2 * (size[0] * 0.2) ** 2))
    return np.clip(picture, 0, 255).astype(np.uint8), disc, heat


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("size", [(120, 160), (600, 800)])
def test_edges_move_to_those_of_the_picture(size):
    """Also where the picture is shrunk on the way: its edges are then a pixel or two coarser."""
    picture, disc, heat = scene(size)
    assert overlap(threshold_mask(heat, 0.3), disc) < 0.8
    assert overlap(grabcut(picture, heat, 0.3), disc) > 0.98
    np.testing.assert_array_equal(segment(heat, 0.3, True, picture=picture), grabcut(picture, heat, 0.3))


def test_the_picture_moves_edges_but_not_what_is_certain():
    """Colours that say nothing: above (1 + t) / 2 all is object, below t / 2 all is background."""
    heat = scene()[2]
    picture = np.random.default_rng(1).integers(0, 256, (120, 160, 3)).astype(np.uint8)
    found = grabcut(picture, heat, 0.4)
    share = heat / heat.max()
    assert found[share >= 0.701].all()
    assert not found[share < 0.199].any()
    between = (share > 0.21) & (share < 0.69)
    assert 0 < found[between].sum() < between.sum()


def test_the_answer_is_always_the_same():
    picture, _, heat = scene()
    once = grabcut(picture, heat, 0.3)
    grabcut(picture[::-1].copy(), heat, 0.2)
    np.testing.assert_array_equal(grabcut(picture, heat, 0.3), once)


def test_maps_that_seed_nothing_stay_as_they_are():
    picture = scene()[0]
    assert not grabcut(picture, np.zeros((120, 160))).any()
    assert grabcut(picture, np.ones((120, 160))).all()


def test_a_picture_of_another_size_is_refused():
    picture, _, heat = scene()
    with pytest.raises(OptionError, match=r"uint8 \(120, 160, 3\)"):
        grabcut(picture[:100], heat)
    with pytest.raises(OptionError, match="float64"):
        grabcut(picture / 255, heat)
