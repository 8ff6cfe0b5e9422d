"""Ablation-CAM and Recipro-CAM against plain loops, one edit at a time."""

from __future__ import annotations

import numpy as np
import pytest
from toys import Toy

from onnxcam.core.tail import ablationcam, reciprocam
from onnxcam.errors import ModelError

pytestmark = pytest.mark.anyruntime


def ablation_loops(toy):
    A = toy.features(toy.x[0])
    score = toy.answer(A)
    cam = np.zeros(A.shape[1:])
    for k in range(len(A)):
        edited = A.copy()
        edited[k] = 0
        cam += (score - toy.answer(edited)) / abs(score) * A[k]
    return cam


@pytest.mark.parametrize("kind", ["plain", "constant"])
@pytest.mark.parametrize("bias", [3.0, -3.0])
def test_ablationcam_is_the_relative_drop_per_channel(kind, bias):
    """For a negative score too, a channel that supports the class weighs more than 0."""
    toy = Toy(kind, bias=bias)
    assert np.sign(toy.answer(toy.features(toy.x[0]))) == np.sign(bias)
    np.testing.assert_allclose(ablationcam(toy), ablation_loops(toy), rtol=1e-4, atol=1e-6)


def test_ablationcam_by_hand():
    """score = 3 a + b - 2 c, pooled by sums: drops 3 * 2, 1 * 4 and -2 * 1, the score 8."""
    toy = Toy(channels=3, size=(1, 2))
    toy.features = lambda image: np.array([[[2.0, 0.0]], [[1.0, 3.0]], [[0.0, 1.0]]])
    toy.answer = lambda maps: float(np.array([3, 1, -2]) @ maps.sum(axis=(1, 2)))
    np.testing.assert_allclose(ablationcam(toy), [[(6 * 2 + 4 * 1) / 8, (4 * 3 - 2 * 1) / 8]], rtol=1e-6)


def test_negative_channels_are_set_to_zero_not_below():
    toy = Toy(channels=3)
    rng = np.random.default_rng(3)
    signed = rng.normal(size=(3, 4, 5))
    toy.features = lambda image: signed
    np.testing.assert_allclose(ablationcam(toy), ablation_loops(toy), rtol=1e-4, atol=1e-6)


def test_a_score_of_zero_leaves_the_drops_as_they_are():
    toy = Toy(channels=2, size=(1, 2))
    toy.features = lambda image: np.array([[[2.0, 0.0]], [[0.0, 2.0]]])
    toy.answer = lambda maps: float(maps[0].sum() - maps[1].sum())
    np.testing.assert_array_equal(ablationcam(toy), [[4.0, -4.0]])


GAUSSIAN = [[1 / 16, 1 / 8, 1 / 16], [1 / 8, 1 / 4, 1 / 8], [1 / 16, 1 / 8, 1 / 16]]


def reciprocal_loops(toy, gaussian):
    A = toy.features(toy.x[0])
    _, h, w = A.shape
    found = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            left = np.zeros_like(A)
            for di in (-1, 0, 1) if gaussian else (0,):
                for dj in (-1, 0, 1) if gaussian else (0,):
                    if 0 <= i + di < h and 0 <= j + dj < w:
                        weight = GAUSSIAN[1 + di][1 + dj] if gaussian else 1
                        left[:, i + di, j + dj] = weight * A[:, i + di, j + dj]
            found[i, j] = toy.answer(left)
    return (found - found.min()) / (found.max() - found.min())


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("size", [(4, 5), (2, 2), (1, 3)])
def test_reciprocam_is_the_score_of_each_position_alone(gaussian, size):
    toy = Toy(size=size)
    found = reciprocam(toy, gaussian=gaussian)
    np.testing.assert_allclose(found, reciprocal_loops(toy, gaussian), rtol=1e-3, atol=2e-5)


def test_the_two_masks_differ():
    assert np.abs(reciprocam(Toy()) - reciprocam(Toy(), gaussian=True)).max() > 0.05


@pytest.mark.parametrize(("method", "runs"), [(ablationcam, 20), (reciprocam, 20)])
def test_no_more_features_are_edited_than_fit_one_run(method, runs):
    toy = Toy(channels=20, batch=7)
    toy.features = lambda image: np.maximum(Toy.features(toy, image), 0.1)
    method(toy)
    assert max(toy.asked) == 7
    assert sum(toy.asked) == runs + (method is ablationcam)  # and the unedited features
    assert toy.told[-1] == (runs, runs)


def test_dead_channels_cost_no_run():
    toy = Toy("constant", batch=1)
    ablationcam(toy)
    alive = sum(c.max() > 0 for c in toy.features(toy.x[0]))
    assert alive < 6
    assert sum(toy.asked) == 1 + alive


@pytest.mark.parametrize("method", [ablationcam, reciprocam])
def test_the_batch_changes_nothing(method):
    np.testing.assert_allclose(method(Toy(batch=1)), method(Toy(batch=100)), rtol=1e-6)


@pytest.mark.parametrize("method", [ablationcam, reciprocam])
def test_features_or_scores_that_tell_nothing_give_an_empty_map(method):
    silent = Toy()
    silent.features = lambda image: np.zeros((6, 4, 5))
    assert not method(silent).any()
    assert not method(Toy("flat")).any()


def test_one_channel_and_one_position():
    toy = Toy(channels=1, bias=2.0)
    np.testing.assert_allclose(ablationcam(toy), ablation_loops(toy), rtol=1e-4)
    assert not reciprocam(Toy(size=(1, 1))).any()


@pytest.mark.parametrize("method", [ablationcam, reciprocam])
def test_nan_scores_are_an_error_that_says_how_many(method):
    with pytest.raises(ModelError, match=r"\d+ of the \d+ scores .* NaN or infinite.*preprocessing"):
        method(Toy("nan", seed=1))
