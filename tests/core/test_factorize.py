"""Factorisation of planted concepts, and the peer's numbers where the random start is the same."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from onnxcam.core.factorize import dff, factorize
from onnxcam.errors import OptionError

pytestmark = pytest.mark.anyruntime
sklearn = pytest.importorskip("sklearn.decomposition", reason="scikit-learn is not installed")

# Two concepts in different pixels and channels, of two images: nothing else has these as its factors.
MAPS = np.zeros((2, 2, 2, 3), np.float32)  # images, concepts, h, w
MAPS[0, 0, 0], MAPS[1, 0, 1, 1] = [2, 4, 0], 1
MAPS[0, 1, 1], MAPS[1, 1, 0, 0] = [0, 5, 5], 10
VECTORS = np.array([[1, 3, 0, 0], [0, 0, 2, 6]], np.float32)
PLANTED = np.einsum("nkhw,kc->nchw", MAPS, VECTORS)


def test_planted_concepts_are_found_with_their_scale():
    found = factorize(PLANTED, 2)
    order = np.argsort(found.vectors[:, 0])[::-1]  # the concept of the first channel first
    np.testing.assert_allclose(found.maps[:, order], MAPS / [[[[4]], [[10]]]], atol=1e-3)
    np.testing.assert_allclose(found.vectors[order], VECTORS * [[4], [10]], atol=0.05)


def test_channels_below_zero_are_lifted_and_lowered_again():
    shift = np.array([0, -7, 0, -1], np.float32)[:, None, None]
    found = factorize(PLANTED + shift, 2)
    order = np.argsort(found.vectors[:, 0])[::-1]
    np.testing.assert_allclose(found.maps[:, order], MAPS / [[[[4]], [[10]]]], atol=1e-3)
    np.testing.assert_allclose(found.vectors[order], VECTORS * [[4], [10]] + shift[:, 0, 0], atol=0.05)


def test_a_channel_that_is_always_on_is_part_of_the_concepts():
    """Moving its minimum to 0 would take it out of them."""
    found = factorize(np.full((1, 3, 2, 2), 5, np.float32), 1)
    np.testing.assert_allclose(found.maps, 1, rtol=1e-4)
    np.testing.assert_allclose(found.vectors, 5, rtol=1e-4)


class OldDraws(np.random.Generator):
    """Draws what ``np.random.RandomState`` draws, as scikit-learn does."""

    def __init__(self, seed):
        super().__init__(np.random.PCG64(0))
        self.old = np.random.RandomState(seed)

    def standard_normal(self, size=None):
        return self.old.standard_normal(size)


def test_from_the_same_start_it_is_sklearns_nmf():
    A = np.maximum(np.random.default_rng(1).normal(size=(1, 9, 5, 6)), 0)
    A[:, :, 0, 0] = 0
    model = sklearn.NMF(n_components=3, init="random", random_state=0)
    columns = model.fit_transform(A[0].reshape(9, 30))
    found = factorize(A, 3, seed=OldDraws(0))
    peak = model.components_.max(axis=1)
    np.testing.assert_allclose(found.maps[0].reshape(3, 30), model.components_ / peak[:, None], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.vectors, (columns * peak).T, rtol=1e-9, atol=1e-12)
    assert factorize(A, 3, seed=4).maps.tolist() == factorize(A, 3, seed=4).maps.tolist()


def test_a_layer_that_is_silent_has_empty_concepts():
    found = factorize(np.zeros((1, 4, 2, 3), np.float32), 3)
    assert not found.maps.any()
    assert not found.vectors.any()


@pytest.mark.parametrize("concepts", [0, -1, 5])
def test_impossible_numbers_of_concepts(concepts):
    with pytest.raises(OptionError, match=r"4 channels and 12 pixels; give 1 to 4"):
        factorize(PLANTED, concepts)


def test_activations_that_are_not_finite():
    with pytest.raises(OptionError, match="NaN"):
        factorize(np.where(PLANTED > 0, PLANTED, np.nan), 2)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    with pytest.raises(OptionError, match=r"onnxcam\[methods\]"):
        factorize(PLANTED, 2)


class Head:
    """Average pool and one row of a classifier behind the planted layer of the first image."""

    x = np.zeros((1, 3, 8, 8), np.float32)

    def __init__(self, row):
        self.row = np.array(row)

    def activations(self, x):
        return PLANTED[:1]

    def head(self, A):
        return A.mean(axis=(2, 3)) @ self.row


def test_concepts_are_shown_in_the_order_of_their_scores():
    first, second = np.array([[0.5, 1, 0], [0, 0, 0]]), np.array([[0, 0, 0], [0, 1, 1]])
    for row, best, other in (
        ([1, 0, 0, 0], first, second),
        ([0, 0, 1, 0], second, first),
        ([-1, 0, 0, 0], second, first),
    ):
        np.testing.assert_allclose(dff(Head(row), concepts=2), best, atol=1e-3)
        np.testing.assert_allclose(dff(Head(row), concepts=2, concept=1), other, atol=1e-3)
    with pytest.raises(OptionError, match=r"concept=2: there are 2; give 0 .* to 1"):
        dff(Head([1, 0, 0, 0]), concepts=2, concept=2)
