"""Each recipe against the steps of the scripts that it stands for, written with the functions that they call."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from onnxcam.core.recipes import RECIPES, additive, find_recipe, hook, matlab, matlab_jet
from onnxcam.errors import OptionError, UnknownNameError

pytestmark = pytest.mark.anyruntime


@pytest.fixture
def cam():
    return np.random.default_rng(3).standard_normal((7, 9)).astype(np.float32)


@pytest.fixture
def picture():
    return np.random.default_rng(4).integers(0, 256, (75, 100, 3), dtype=np.uint8)


def test_the_hook_scripts(cam, picture, tmp_path):
    scaled = cam - np.min(cam)
    scaled = np.uint8(255 * (scaled / np.max(scaled)))
    height, width, _ = picture.shape
    heat = cv2.applyColorMap(cv2.resize(scaled, (width, height)), cv2.COLORMAP_JET)
    cv2.imwrite(str(tmp_path / "cam.png"), heat * 0.3 + picture[..., ::-1] * 0.7)
    theirs = cv2.imread(str(tmp_path / "cam.png"))[..., ::-1].astype(int)
    assert np.abs(hook(cam, picture) - theirs).max() <= 1
    assert np.abs(hook(-cam, picture) - theirs).max() > 20


def test_the_additive_scripts(cam, picture):
    grown = cv2.resize(np.maximum(cam, 0), (picture.shape[1], picture.shape[0]))
    grown = (grown - grown.min()) / (grown.max() - grown.min())
    heat = np.float32(cv2.applyColorMap(np.uint8(255 * grown), cv2.COLORMAP_JET))[..., ::-1] / 255
    both = heat + np.float32(picture) / 255
    theirs = np.uint8(255 * (both / both.max())).astype(int)
    off = np.abs(additive(cam, picture) - theirs)
    assert off.max() <= 4  # one step of jet, where float32 lies on the border of two colours
    assert np.mean(off <= 1) > 0.999


def cubic(x):
    """Keys' kernel with a = -0.5, as imresize has it."""
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def imresize(line, size):
    """One axis of MATLAB's imresize when it grows: half-pixel centres, indices mirrored at the ends."""
    n, out = len(line), []
    for k in range(size):
        centre = (k + 0.5) * n / size - 0.5
        taps = range(int(np.floor(centre)) - 2, int(np.floor(centre)) + 4)
        mirrored = [-i - 1 if i < 0 else 2 * n - 1 - i if i >= n else i for i in taps]
        weights = [cubic(centre - i) for i in taps]
        out.append(sum(w * line[i] for w, i in zip(weights, mirrored, strict=True)) / sum(weights))
    return out


def test_matlab_s_example(cam, picture):
    unit = (cam.astype(float) - cam.min()) / (cam.max() - cam.min())
    tall = np.array([imresize(column, picture.shape[0]) for column in unit.T]).T
    grown = np.array([imresize(row, picture.shape[1]) for row in tall])
    index = np.floor((grown - grown.min()) / (grown.max() - grown.min()) * 256).clip(0, 255).astype(int)
    theirs = np.rint(0.5 * picture + 127.5 * matlab_jet()[index])
    off = np.abs(matlab(cam, picture) - theirs)
    assert off.max() <= 1


def test_matlab_s_jet():
    """Entries of jet(256) as MATLAB prints them."""
    table = matlab_jet()
    assert table.shape == (256, 3)
    for row, want in {
        0: (0, 0, 0.515625),
        31: (0, 0, 1),
        32: (0, 0.015625, 1),
        95: (0, 1, 1),
        255: (0.5, 0, 0),
    }.items():
        np.testing.assert_array_equal(table[row], want)
    np.testing.assert_array_equal(table[127], (0.5, 1, 0.5))


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_is_stretched_to_noise(name, picture):
    for bad in (np.zeros((7, 7)), np.full((7, 7), np.nan)):
        with pytest.raises(OptionError, match="constant"):
            find_recipe(name).draw(bad, picture)


def test_unknown_recipes_are_refused():
    with pytest.raises(UnknownNameError, match="hook"):
        find_recipe("hok")
