"""Attributions smoothed by noise, against plain loops over the same draws."""

from __future__ import annotations

import numpy as np
import pytest
from cubic import SHAPE, Broken, Cubic, by_hand

from onnxcam.core.smooth import BASES, smooth_gradcampp, smoothgrad, smoothgrad_sq, vargrad
from onnxcam.errors import ModelError, OptionError, UnknownNameError

pytestmark = pytest.mark.anyruntime


class Layered(Cubic):
    """A layer of 5 maps with a gradient that is different everywhere, and 0 in the last map."""

    def __init__(self, **options):
        super().__init__(**options)
        self.mix = np.random.default_rng(2).normal(size=(5, 2))

    def maps(self, image):
        a = np.maximum(np.einsum("kc,chw->khw", self.mix, image.astype(np.float64)), 0)
        g = np.sin(3 * a + self.mix[:, :1, None] + image.mean())
        g[4] = 0
        return a, g

    def activations(self, x):
        return np.stack([self.maps(i)[0] for i in x]).astype(np.float32)

    def layer(self, x):
        self.asked.append(len(x))
        found = [self.maps(i) for i in x]
        return tuple(np.stack([f[k] for f in found]).astype(np.float32) for k in (0, 1))


def copies(probe, samples, noise, seed):
    """All noisy copies at once, drawn in one piece."""
    z = np.random.default_rng(seed).standard_normal((samples, *SHAPE))
    return probe.x[0] + noise * (probe.x.max() - probe.x.min()) * z


BY_LOOPS = {
    "saliency": lambda probe, i: probe.at(i),
    "input_x_gradient": lambda probe, i: i * probe.at(i),
    "guided_backprop": lambda probe, i: np.maximum(probe.at(i), 0),
    "deconvnet": lambda probe, i: 5 * probe.at(i),
    "integrated_gradients": lambda probe, i: by_hand(Cubic(x=i[None]), np.full(SHAPE, 0.3)),
}


@pytest.mark.parametrize("base", BASES)
def test_means_and_variances_of_every_base(base):
    probe = Cubic()
    each = np.stack([BY_LOOPS[base](probe, i) for i in copies(probe, 7, 0.1, 4)])
    options = {"samples": 7, "noise": 0.1, "seed": 4, "base": base, "steps": 5, "baseline": 0.3}
    largest = np.abs(each).max()
    expected = {smoothgrad: each.mean(axis=0), smoothgrad_sq: (each**2).mean(axis=0), vargrad: each.var(axis=0)}
    for method, wanted in expected.items():
        np.testing.assert_allclose(method(probe, **options), wanted, rtol=1e-4, atol=1e-5 * largest)
    assert max(probe.asked) <= 3


def test_variance_is_the_second_moment_less_the_square_of_the_first():
    options = {"samples": 6, "noise": 0.2, "seed": 1}
    mean, square = smoothgrad(Cubic(), **options), smoothgrad_sq(Cubic(), **options)
    np.testing.assert_allclose(vargrad(Cubic(), **options), square - mean**2, rtol=1e-3, atol=1e-4)


def test_without_noise_the_base_itself_comes_out():
    probe = Cubic()
    np.testing.assert_allclose(smoothgrad(probe, samples=2, noise=0), probe.at(probe.x[0]), rtol=1e-5, atol=1e-6)
    assert vargrad(probe, samples=2, noise=0).max() < 1e-9


def test_draws_do_not_depend_on_the_batch():
    few, many = (smoothgrad(Cubic(batch=b), samples=9) for b in (2, 50))
    np.testing.assert_allclose(few, many, rtol=1e-5, atol=1e-6)
    assert not np.allclose(few, smoothgrad(Cubic(), samples=9, seed=1), rtol=1e-2)


def test_a_generator_may_stand_for_the_seed():
    by_seed = smoothgrad(Cubic(), samples=4, seed=8)
    np.testing.assert_array_equal(smoothgrad(Cubic(), samples=4, seed=np.random.default_rng(8)), by_seed)


def gradcampp_by_loops(probe, images):
    """The paper's sums, place by place."""
    a = probe.maps(probe.x[0])[0]
    slopes = [probe.maps(i)[1] for i in images]
    cam = np.zeros(a.shape[1:])
    for k in range(len(a)):
        weight = 0.0
        for y in range(a.shape[1]):
            for x in range(a.shape[2]):
                d1, d2, d3 = (sum(g[k, y, x] ** p for g in slopes) / len(slopes) for p in (1, 2, 3))
                below = 2 * d2 + a[k].sum() * d3
                weight += (d1 / below if below else 0.0) * max(d1, 0.0)
        cam += weight * a[k]
    return cam


def test_smooth_gradcampp_averages_three_orders():
    probe = Layered()
    found = smooth_gradcampp(probe, samples=8, noise=0.1, seed=3)
    expected = gradcampp_by_loops(probe, copies(probe, 8, 0.1, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert max(probe.asked) <= 3
    assert probe.told[-1] == (8, 8)


def test_smooth_gradcampp_of_one_gradient_by_hand():
    probe = Layered()
    probe.maps = lambda image: (np.array([[[1.0, 3.0]]]), np.array([[[0.5, -1.0]]]))
    found = smooth_gradcampp(probe, samples=3, noise=0.1)
    alpha = 0.5 / (2 * 0.25 + 4 * 0.125)
    np.testing.assert_allclose(found, [[alpha * 0.5 * 1, alpha * 0.5 * 3]], rtol=1e-6)


def test_smooth_gradcampp_divides_by_what_is_below_zero_as_well():
    probe, slopes = Layered(), [0.6, 0.6, 0.6, -1.2]
    probe.layer = lambda x: (None, np.array([slopes.pop(0) for _ in x]).reshape(-1, 1, 1, 1))
    probe.activations = lambda x: np.full((1, 1, 1, 1), 20.0)
    mean, second, third = 0.15, (3 * 0.36 + 1.44) / 4, (3 * 0.216 - 1.728) / 4
    weight = mean / (2 * second + 20 * third) * mean
    assert weight < 0
    np.testing.assert_allclose(smooth_gradcampp(probe, samples=4), [[weight * 20]], rtol=1e-5)


ALL = [smoothgrad, smoothgrad_sq, vargrad, smooth_gradcampp]


@pytest.mark.parametrize("method", ALL)
def test_a_constant_image_is_refused(method):
    with pytest.raises(OptionError, match="the image is constant"):
        method(Layered(x=np.zeros((1, *SHAPE), np.float32)))


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize(("options", "words"), [({"samples": 0}, "samples=0"), ({"noise": float("nan")}, "noise=nan")])
def test_counts_and_shares_that_do_not_fit(method, options, words):
    with pytest.raises(OptionError, match=words):
        method(Layered(), **options)


def test_one_sample_has_no_variance():
    with pytest.raises(OptionError, match="at least 2"):
        vargrad(Cubic(), samples=1)


def test_an_unknown_base_is_named_with_those_there_are():
    with pytest.raises(UnknownNameError, match=r"'salience'.*'saliency'.*integrated_gradients"):
        smoothgrad(Cubic(), base="salience")


@pytest.mark.parametrize("base", BASES)
def test_gradients_that_are_no_numbers_are_refused(base):
    with pytest.raises(ModelError, match="NaN or infinite gradients"):
        vargrad(Broken(), base=base)


def test_a_layer_whose_gradients_are_no_numbers_is_refused():
    probe = Layered()
    probe.maps = lambda image: (np.ones((2, 3, 3)), np.full((2, 3, 3), np.inf))
    with pytest.raises(ModelError, match="NaN or infinite gradients"):
        smooth_gradcampp(probe)
