"""Masks, boxes, peaks by hand, and the way to the model's input and back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxcam.core.localize import (
    Box,
    Placement,
    boxes,
    energy_inside,
    largest_component,
    peak,
    threshold_mask,
)
from onnxcam.errors import OptionError

pytestmark = pytest.mark.anyruntime
HEAT = np.array(
    [
        [0.0, 0.9, 0.1, 0.0, 0.0],
        [0.0, 0.0, 0.2, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [0.3, 0.3, 0.0, 0.0, 1.0],
        [0.3, 0.0, 0.0, 0.0, 0.0],
    ],
    np.float32,
)


def test_threshold_is_a_share_of_the_maximum_inclusive():
    assert np.argwhere(threshold_mask(HEAT, 0.3)).tolist() == [[0, 1], [3, 0], [3, 1], [3, 4], [4, 0]]
    scaled = threshold_mask(HEAT * np.float32(1e-9), 0.15)
    assert scaled.sum() == 6
    np.testing.assert_array_equal(scaled, HEAT > 0.15)
    assert threshold_mask(np.array([[0.5, 1.0]]), 0.5).tolist() == [[True, True]]


def test_nothing_positive_is_an_empty_mask():
    for nothing in (np.zeros((3, 3)), np.full((3, 3), -1.0)):
        assert not threshold_mask(nothing).any()
        assert boxes(nothing, largest_only=False) == []


def test_largest_component_joins_diagonals():
    mask = HEAT > 0.15
    assert np.argwhere(largest_component(mask)).tolist() == [[3, 0], [3, 1], [4, 0]]
    joined = largest_component(HEAT > 0.05)  # 0.1 joins the two above it: 3 pixels, first in reading order
    assert np.argwhere(joined).tolist() == [[0, 1], [0, 2], [1, 2]]
    assert not largest_component(np.zeros((2, 2), bool)).any()
    assert largest_component(np.ones((2, 2), bool)).all()


def test_boxes_are_half_open_with_score_and_area():
    assert boxes(HEAT) == [Box(0, 3, 2, 5, float(np.float32(0.3)), 3)]
    assert boxes(HEAT, largest_only=False) == [
        Box(4, 3, 5, 4, 1.0, 1),
        Box(1, 0, 3, 2, float(np.float32(0.9)), 2),
        Box(0, 3, 2, 5, float(np.float32(0.3)), 3),
    ]
    assert [box.area for box in boxes(HEAT, largest_only=False, min_area=2)] == [2, 3]


def test_peak_prefers_the_middle_of_a_plateau():
    assert peak(HEAT) == (3, 4)
    plateau = np.zeros((5, 7))
    plateau[1:4, 2:5] = 2.0
    assert peak(plateau) == (2, 3)
    assert peak(np.array([[1.0, 0.0, 0.0, 1.0]])) == (0, 0)


def test_energy_counts_positive_values_only():
    heat = np.array([[3.0, -5.0], [1.0, 0.0]])
    assert energy_inside(heat, np.array([[True, True], [False, False]])) == 0.75
    assert energy_inside(np.zeros((2, 2)), np.ones((2, 2), bool)) == 0.0


def test_what_is_no_heatmap_is_refused():
    bad = HEAT.copy()
    bad[0, 0] = np.nan
    for call in (threshold_mask, boxes, peak, lambda h: energy_inside(h, HEAT > 0)):
        with pytest.raises(OptionError, match="1 of 25 values that are NaN"):
            call(bad)
    with pytest.raises(OptionError, match=r"\(H, W\), not \(1, 5, 5\)"):
        boxes(HEAT[None])
    with pytest.raises(OptionError, match=r"threshold=1\.5"):
        threshold_mask(HEAT, 1.5)
    with pytest.raises(OptionError, match="mask is float64"):
        energy_inside(HEAT, np.ones((5, 5)))


# ---- Placement ----

PLACES = {
    "stretch": lambda source: Placement.stretch(source, (96, 128)),
    "crop": lambda source: Placement.crop(source, (112, 112), 0.875),
    "letterbox": lambda source: Placement.letterbox(source, (128, 96)),
    "corner": lambda source: Placement.letterbox(source, (97, 97), centred=False),
    "enlarge": lambda source: Placement.letterbox(source, (640, 700)),
}


def blob(shape, y, x, sigma):
    """Centred at (y, x) in edge coordinates: the centre of pixel 0 is 0.5."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2))


def centroid(heat):
    rows, columns = np.mgrid[: heat.shape[0], : heat.shape[1]] + 0.5
    return np.array([(rows * heat).sum(), (columns * heat).sum()]) / heat.sum()


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("source", [(240, 333), (333, 240), (250, 250)])
def test_a_blob_comes_back_to_its_place(name, source):
    y, x = 0.4 * source[0], 0.55 * source[1]
    placement = PLACES[name](source)
    picture = np.rint(255 * blob(source, y, x, 12)).astype(np.uint8)[..., None]
    seen = placement.to_input(picture, fill=0)[..., 0]
    back = placement.to_image(seen.astype(np.float32))
    assert back.shape == source
    np.testing.assert_allclose(centroid(back), (y, x), atol=0.1)
    assert abs(back.sum() / picture.sum() - 1) < 0.02  # neither lost nor smeared over the margin


@pytest.mark.parametrize("name", ["stretch", "crop", "letterbox"])
def test_the_way_back_is_interpolation_pixel_by_pixel(name):
    """Enlarging, each pixel of the picture lies between four of the heatmap; at the border the edge is repeated."""
    source = (150, 210)
    placement = {
        "stretch": Placement.stretch(source, (48, 64)),
        "crop": Placement.crop(source, (56, 56), 0.875),
        "letterbox": Placement.letterbox(source, (64, 48)),
    }[name]
    heat = np.random.default_rng(8).random(placement.size).astype(np.float32)
    rows, columns = (
        [((i + 0.5) * resized / n - offset, max(0, -offset), min(size, resized - offset), size) for i in range(n)]
        for n, resized, offset, size in zip(source, placement.resized, placement.offset, placement.size, strict=True)
    )

    def between(at, lo, hi):
        first = min(max(int(np.floor(at - 0.5)), lo), hi - 1)
        share = min(max(at - 0.5 - first, 0.0), 1.0)
        return first, min(first + 1, hi - 1), share

    want = np.zeros(source)
    for (i, (y, *inside, h)), (j, (x, *within, w)) in itertools.product(enumerate(rows), enumerate(columns)):
        if 0 <= y < h and 0 <= x < w:
            (top, bottom, down), (left, right, across) = between(y, *inside), between(x, *within)
            upper, lower = ((1 - across) * heat[r, left] + across * heat[r, right] for r in (top, bottom))
            want[i, j] = (1 - down) * upper + down * lower
    np.testing.assert_allclose(placement.to_image(heat), want, atol=1e-6)
    np.testing.assert_array_equal(placement.to_image(heat) > 0, placement.mask() & (want > 0))


def test_crop_geometry_is_torchvisions():
    # Resize(256): 480 x 640 -> 256 x 341 (341.33 rounded down); CenterCrop(224): top 16, left round(58.5) = 58
    placement = Placement.crop((480, 640), (224, 224), 0.875)
    assert (placement.resized, placement.offset) == ((256, 341), (16, 58))
    assert Placement.crop((224, 224), (224, 224), 0.875).resized == (256, 256)
    assert Placement.crop((100, 1000), (240, 320), 1.0).resized == (240, 2400)


def test_letterbox_geometry():
    centred = Placement.letterbox((100, 200), (416, 416))
    assert (centred.resized, centred.offset) == ((208, 416), (-104, 0))
    corner = Placement.letterbox((200, 100), (416, 416), centred=False)
    assert (corner.resized, corner.offset) == ((416, 208), (0, 0))
    assert Placement.letterbox((1, 5000), (64, 64)).resized == (1, 64)


def test_mask_is_what_the_crop_covers_and_all_of_a_letterbox():
    placement = Placement((100, 200), (50, 100), (0, 25), (50, 50))  # columns 50 to 150 of the picture
    mask = placement.mask()
    assert mask[:, 50:150].all()
    assert mask.sum() == 100 * 100
    back = placement.to_image(np.ones((50, 50), np.float32))
    np.testing.assert_allclose(back, mask, atol=1e-6)
    assert Placement.letterbox((100, 200), (64, 64)).mask().all()
    # pixels 1.5 to 2.5 of the picture: the centre of pixel 1 lies on the edge that counts
    assert Placement((2, 4), (4, 8), (0, 3), (4, 2)).mask()[0].tolist() == [False, True, False, False]


def test_letterbox_margin_does_not_bleed_into_the_picture():
    placement = Placement.letterbox((40, 80), (64, 64))  # rows 16 to 48 hold the picture
    heat = np.full((64, 64), 7, np.float32)
    heat[16:48] = 1
    np.testing.assert_allclose(placement.to_image(heat), 1, atol=1e-6)


def test_fill_surrounds_the_picture():
    placed = Placement.letterbox((2, 4), (4, 4)).to_input(np.full((2, 4, 3), 9, np.uint8), fill=114)
    assert placed[..., 0].tolist() == [[114] * 4, [9] * 4, [9] * 4, [114] * 4]


def test_bicubic_stays_in_range():
    heat = np.zeros((8, 8), np.float32)
    heat[:, 4:] = 1
    back = Placement.stretch((64, 64), (8, 8)).to_image(heat, "bicubic")
    assert (back.min(), back.max()) == (0, 1)


def test_boxes_go_back_exactly_and_are_clipped():
    crop = Placement((480, 640), (256, 341), (16, 58), (224, 224))
    x0, y0, x1, y1 = crop.box_to_image((0, 0, 224, 224))
    assert (y0, y1) == (30, 450)
    np.testing.assert_allclose((x0, x1), (58 * 640 / 341, 282 * 640 / 341))
    letterbox = Placement.letterbox((100, 200), (416, 416))
    np.testing.assert_allclose(letterbox.box_to_image((208, 0, 416, 208)), (100, 0, 200, 50))


def test_a_heatmap_of_another_size_is_refused():
    with pytest.raises(OptionError, match=r"\(7, 7\).*\(8, 8\)"):
        Placement.stretch((64, 64), (8, 8)).to_image(np.zeros((7, 7)))
