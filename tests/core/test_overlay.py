"""Overlays against formulas worked out by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from onnxcam.core import overlay as ov
from onnxcam.errors import OptionError, UnknownNameError

pytestmark = pytest.mark.anyruntime
IMAGE = np.array([[[200, 100, 0], [0, 0, 0]], [[10, 20, 30], [255, 255, 255]]], np.uint8)
HEAT = np.array([[0.0, 1.0], [0.5, 0.25]], np.float32)


def test_jet_runs_from_blue_to_red():
    table = ov.colormap_table("jet")
    assert table[0].tolist() == [0, 0, 128]
    assert table[255].tolist() == [128, 0, 0]
    assert table[128].tolist() == [130, 255, 126]


@pytest.mark.parametrize("name", ov.COLORMAPS)
def test_every_colormap_is_opencvs_in_rgb(name):
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 256)
    bgr = cv2.applyColorMap(ramp, getattr(cv2, "COLORMAP_" + name.upper()))
    np.testing.assert_array_equal(ov.colormap_table(name), bgr[0, :, ::-1])


def test_colorize_rounds_to_the_nearest_of_256_colours():
    table = ov.colormap_table("hot")
    # 0.5 * 255 = 127.5 -> 128; 0.25 * 255 = 63.75 -> 64
    np.testing.assert_array_equal(ov.colorize(HEAT, "hot"), table[[[0, 255], [128, 64]]])


def test_a_table_cannot_be_spoilt():
    with pytest.raises(ValueError, match="read-only"):
        ov.colormap_table("jet")[0] = 0


def test_blend_by_hand():
    result = ov.overlay(IMAGE, HEAT, blend=0.25)
    # 0.75 * (200, 100, 0) + 0.25 * (0, 0, 128); 0.25 * (128, 0, 0)
    assert result[0].tolist() == [[150, 75, 32], [32, 0, 0]]
    np.testing.assert_array_equal(ov.overlay(IMAGE, HEAT, blend=0), IMAGE)
    np.testing.assert_array_equal(ov.overlay(IMAGE, HEAT, blend=1), ov.colorize(HEAT))


def test_add_by_hand():
    image = np.array([[[100, 0, 50], [0, 200, 0]]], np.uint8)
    heat = np.array([[0.0, 1.0]], np.float32)
    # sums (100, 0, 178) and (128, 200, 0), the largest is 200
    result = ov.overlay(image, heat, style="add")
    assert result.tolist() == [[[128, 0, 227], [163, 255, 0]]]
    black = ov.overlay(np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2)), style="add", colormap="hot")
    assert not black.any()


def test_mask_by_hand():
    result = ov.overlay(IMAGE, HEAT, style="mask")
    assert result.tolist() == [[[0, 0, 0], [0, 0, 0]], [[5, 10, 15], [64, 64, 64]]]


@pytest.mark.parametrize("blend", [0.0, 0.3, 0.5, 0.77, 1.0])
def test_overlays_are_the_nearest_grey_levels_of_their_formulas(blend):
    rng = np.random.default_rng(3)
    image, heat = rng.integers(0, 256, (61, 83, 3), dtype=np.uint8), rng.random((61, 83)).astype(np.float32)
    colour = ov.colorize(heat, "turbo").astype(float)
    exact = {
        "blend": (1 - blend) * image + blend * colour,
        "add": (image + colour) * 255 / (image + colour).max(),
        "mask": image * heat[..., None].astype(float),
    }
    for style, levels in exact.items():
        made = ov.overlay(image, heat, style=style, blend=blend, colormap="turbo")
        assert np.abs(made - levels).max() < 0.501, style


def test_colours_are_the_nearest_and_rounding_beyond_the_range_is_forgiven():
    heat = np.random.default_rng(4).random((50, 70)).astype(np.float32)
    ramp = ov.colormap_table("bone")[:, 2].astype(int)
    assert (np.diff(ramp) >= 0).all()
    found = ov.colorize(heat, "bone")[..., 2].astype(int)
    index = heat.astype(float) * 255
    assert ((ramp[np.floor(index).astype(int)] <= found) & (found <= ramp[np.ceil(index).astype(int)])).all()
    nearest = np.abs(index - np.rint(index)) < 0.499
    np.testing.assert_array_equal(found[nearest], ramp[np.rint(index).astype(int)][nearest])
    beyond = np.array([[-9e-5, 1 + 9e-5]])
    np.testing.assert_array_equal(ov.colorize(beyond, "hot")[0], ov.colormap_table("hot")[[0, 255]])


def test_pictures_of_one_channel_and_views():
    grey, heat = IMAGE[..., :1], HEAT[:, ::-1]
    want = ov.overlay(np.repeat(grey, 3, axis=2), np.ascontiguousarray(heat))
    np.testing.assert_array_equal(ov.overlay(grey, heat), want)
    np.testing.assert_array_equal(ov.overlay(IMAGE[:, ::-1], HEAT[:, ::-1])[:, ::-1], ov.overlay(IMAGE, HEAT))


def test_title_lies_above_the_picture_within_its_width():
    image = np.random.default_rng(0).integers(0, 256, (40, 300, 3), dtype=np.uint8)
    plain = ov.overlay(image, np.zeros((40, 300)))
    titled = ov.overlay(image, np.zeros((40, 300)), title="Straße 猫 " + "long " * 100)
    np.testing.assert_array_equal(titled[-40:], plain)
    strip = titled[:-40]
    assert strip.shape[0] > 8
    assert strip.min() < 100
    assert (strip[:, -2:] == 255).all()
    assert (strip[:1] == 255).all()
    assert (strip[-1:] == 255).all()


def test_titles_are_shortened_and_ascii():
    assert ov._fitting("abcdefgh", len, 8) == "abcdefgh"
    assert ov._fitting("abcdefgh", len, 7) == "abcd..."
    assert ov._fitting("ab defgh", len, 6) == "ab..."
    assert ov._fitting("abcdefgh", len, 2) == ""
    assert ov._ascii("Café\n übér 猫") == "Cafe uber ?"


def test_saliency_image_has_mean_half_and_deviation_a_tenth():
    g = np.array([[[-1, 0, 1], [2, 3, 1]]], np.float32) * 2.0**-20
    mean, std = 1.0, np.sqrt((4 + 1 + 0 + 1 + 4 + 0) / 6)
    expected = [round(255 * (0.5 + 0.1 * (v - mean) / std)) for v in (-1, 0, 1, 2, 3, 1)]
    assert ov.saliency_image(g).ravel().tolist() == expected
    assert (ov.saliency_image(np.full((2, 2, 3), 4.0)) == 128).all()
    spike = np.zeros((20, 20, 3))
    spike[0, 0] = 1e9
    assert ov.saliency_image(spike)[0, 0].tolist() == [255, 255, 255]


def test_diverging_is_blue_white_red():
    result = ov.diverging(np.array([[-4.0, 0.0, 4.0], [2.0, -1.0, 0.0]]))
    assert result[0].tolist() == [[0, 0, 255], [255, 255, 255], [255, 0, 0]]
    assert result[1].tolist() == [[255, 128, 128], [191, 191, 255], [255, 255, 255]]
    assert (ov.diverging(np.zeros((2, 2))) == 255).all()


def test_panel_places_every_tile():
    tiles = [np.full((3, 5, 3), 10 * i, np.uint8) for i in range(5)]
    sheet = ov.panel(tiles)  # 3 columns, 2 rows
    assert sheet.shape == (10, 23, 3)
    for index, tile in enumerate(tiles):
        y, x = divmod(index, 3)
        np.testing.assert_array_equal(sheet[7 * y : 7 * y + 3, 9 * x : 9 * x + 5], tile)
    assert (sheet[3:7] == 255).all()
    assert (sheet[7:, 18:] == 255).all()
    assert ov.panel(tiles[:4]).shape == (3, 32, 3)
    assert ov.panel(tiles[:2], columns=1).shape == (10, 5, 3)


def test_panel_labels_lie_above_their_tiles():
    tiles = [np.full((30, 80, 3), 100 + i, np.uint8) for i in range(2)]
    sheet = ov.panel(tiles, labels=["a", ""])
    strip = sheet.shape[0] - 30
    np.testing.assert_array_equal(sheet[strip:, :80], tiles[0])
    np.testing.assert_array_equal(sheet[strip:, 84:], tiles[1])
    assert sheet[:strip, :80].min() < 200
    assert sheet[:strip, 84:].min() == 255


def test_refusals():
    nan = np.array([[0.0, np.nan], [0, 0]])
    with pytest.raises(UnknownNameError, match="did you mean 'viridis'"):
        ov.colorize(HEAT, "viridiss")
    with pytest.raises(UnknownNameError, match="blend, add, mask"):
        ov.overlay(IMAGE, HEAT, style="glow")
    with pytest.raises(OptionError, match=r"blend=1\.5"):
        ov.overlay(IMAGE, HEAT, blend=1.5)
    with pytest.raises(OptionError, match=r"\(3, 2\).*\(2, 2\)"):
        ov.overlay(IMAGE, np.zeros((3, 2)))
    with pytest.raises(OptionError, match="from -1 to 3"):
        ov.overlay(IMAGE, np.array([[0.0, -1], [3, 0]]))
    with pytest.raises(OptionError, match=r"\(0, 4\)"):
        ov.colorize(np.zeros((0, 4)))
    with pytest.raises(OptionError, match="infinite"):
        ov.colorize(np.array([[0.0, np.inf]]))
    for call in (ov.colorize, ov.diverging, lambda m: ov.saliency_image(np.stack([m] * 3, 2))):
        with pytest.raises(OptionError, match="NaN"):
            call(nan)
    with pytest.raises(OptionError, match="one size"):
        ov.panel([IMAGE, IMAGE[:1]])
    with pytest.raises(OptionError, match="none"):
        ov.panel([])
    with pytest.raises(OptionError, match="1 labels for 2"):
        ov.panel([IMAGE, IMAGE], labels=["a"])
    with pytest.raises(OptionError, match="columns=0"):
        ov.panel([IMAGE], columns=0)
