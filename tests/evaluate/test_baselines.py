"""The maps that a method has to beat."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxcam.errors import OptionError
from onnxcam.evaluate.baselines import centre_gaussian, heatmap_of, random_map
from onnxcam.record import Shaping

pytestmark = pytest.mark.anyruntime


def test_the_gaussian_by_hand():
    found = centre_gaussian((3, 4))
    for row in range(3):
        for column in range(4):
            y, x = (row + 0.5 - 1.5) / (3 / 4), (column + 0.5 - 2) / (4 / 4)
            assert found[row, column] == pytest.approx(math.exp(-(y * y + x * x) / 2), rel=1e-6)


def test_noise_is_uniform_and_belongs_to_its_seed():
    noise = random_map((100, 200), (3, 1))
    values = np.sort(noise.ravel())
    assert np.abs(values - np.linspace(0, 1, values.size)).max() < 0.02  # as a uniform distribution rises
    np.testing.assert_array_equal(noise, random_map((100, 200), (3, 1)))
    assert np.abs(np.corrcoef(noise.ravel(), random_map((100, 200), (3, 2)).ravel())[0, 1]) < 0.03


def test_they_reach_the_input_as_methods_maps_do():
    """By the road that records take, not by a copy of it."""
    for cam in (random_map((7, 5), 4), centre_gaussian((7, 5)), random_map((3, 3)) - 0.7):
        np.testing.assert_array_equal(heatmap_of(cam, (40, 33)), Shaping().heat(cam[None], (40, 33))[0])


def test_a_map_without_size_is_refused():
    for make in (random_map, centre_gaussian):
        with pytest.raises(OptionError, match=r"\(0, 7\)"):
            make((0, 7))
