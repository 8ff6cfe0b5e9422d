"""The zoo's small model as an instrument: explanations must point at the object that they explain."""

from __future__ import annotations

import pytest

from benchmarks.shapes import Figures, measure


@pytest.fixture(scope="module")
def figures() -> Figures:
    return measure(12, seed=4_000_000)


def test_grad_cam_points_at_the_explained_object(figures):
    assert figures.pointing >= 0.92
    assert max(figures.centre, figures.random) <= 0.15


def test_grad_cam_tells_classes_apart_and_guided_backprop_does_not(figures):
    assert figures.correlation["gradcam"] <= 0.3
    assert figures.correlation["guided_backprop"] >= 0.8


def test_the_product_is_better_placed_than_either_factor(figures):
    assert figures.energy["guided_gradcam"] > max(figures.energy["gradcam"], figures.energy["guided_backprop"]) + 0.05
