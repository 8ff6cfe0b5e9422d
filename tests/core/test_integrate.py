"""Integrated Gradients and GradientSHAP on functions whose integrals are known, and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from cubic import SHAPE, Broken, Cubic, by_hand

from onnxcam.core.baselines import baseline
from onnxcam.core.integrate import RULES, gradient_shap, integrated_gradients
from onnxcam.errors import ModelError, OptionError, UnknownNameError

pytestmark = pytest.mark.anyruntime


@pytest.mark.parametrize("kind", ["zero", "mean", 0.4])
def test_two_points_integrate_a_quadratic_exactly(kind):
    probe = Cubic()
    start = {"zero": np.zeros(SHAPE), "mean": np.tile(probe.x[0].mean(axis=(1, 2), keepdims=True), (1, 3, 4))}
    expected = by_hand(probe, start.get(kind, np.full(SHAPE, 0.4)).astype(np.float32))
    np.testing.assert_allclose(integrated_gradients(probe, steps=2, baseline=kind), expected, rtol=2e-5, atol=1e-5)


def test_attributions_are_complete():
    probe, start = Cubic(), np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
    found = integrated_gradients(probe, steps=4, baseline=start)
    between = probe.score(probe.x)[0] - probe.score(start[None])[0]
    assert found.sum() == pytest.approx(between, rel=1e-5)


POINTS = {
    "riemann_left": lambda m: [(i / m, 1 / m) for i in range(m)],
    "riemann_right": lambda m: [((i + 1) / m, 1 / m) for i in range(m)],
    "riemann_middle": lambda m: [((i + 0.5) / m, 1 / m) for i in range(m)],
    "riemann_trapezoid": lambda m: [(i / (m - 1), (0.5 if i in (0, m - 1) else 1) / (m - 1)) for i in range(m)],
    # Gauss-Legendre with three points, from any table: 0 and +-sqrt(3/5), weights 8/9 and 5/9, moved to [0, 1]
    "gausslegendre": lambda m: [(0.5 - 0.15**0.5, 5 / 18), (0.5, 8 / 18), (0.5 + 0.15**0.5, 5 / 18)],
}


@pytest.mark.parametrize(("rule", "steps"), [*((r, 3) for r in RULES), *((r, 7) for r in RULES if r[0] == "r")])
def test_rules_sum_over_their_points(rule, steps):
    probe = Cubic()
    total = np.zeros(SHAPE)
    for point, weight in POINTS[rule](steps):
        total += weight * probe.at(point * probe.x[0].astype(np.float64))
    found = integrated_gradients(probe, steps=steps, rule=rule)
    np.testing.assert_allclose(found, total * probe.x[0], rtol=1e-5, atol=1e-6)
    assert max(probe.asked) <= 3
    assert probe.told[-1] == (steps, steps)


def test_blur_keeps_the_sum_of_a_spot_and_spreads_it():
    x = np.zeros((1, 5, 41, 41), np.float32)
    x[0, 2, 20, 20] = 1.0
    found = baseline(x, "blur")
    sigma = 41 / 20
    weights = np.exp(-((np.arange(41) - 20.0) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    np.testing.assert_allclose(found[0, 2], np.outer(weights, weights), atol=2e-4)
    assert not found[0, [0, 1, 3, 4]].any()


def test_shap_averages_over_draws_of_points_and_references():
    probe, references = Cubic(), np.random.default_rng(1).normal(size=(4, *SHAPE)).astype(np.float32)
    found = gradient_shap(probe, samples=7, baseline=references, noise=0.2, seed=5)
    rng = np.random.default_rng(5)
    a, which = rng.uniform(size=7), rng.integers(4, size=7)
    sigma = 0.2 * (probe.x.max() - probe.x.min())
    total = np.zeros(SHAPE)
    for i in range(7):
        moved, start = probe.x[0] + sigma * rng.standard_normal(SHAPE), references[which[i]].astype(np.float64)
        total += (moved - start) * probe.at(start + a[i] * (moved - start)) / 7
    np.testing.assert_allclose(found, total, rtol=1e-4, atol=1e-4)
    assert max(probe.asked) <= 3


def test_shap_of_a_linear_score_is_exact_in_one_draw():
    probe = Cubic(a=np.zeros(SHAPE))
    probe.at = lambda image: probe.b
    found = gradient_shap(probe, samples=1, baseline=0.25)
    np.testing.assert_allclose(found, (probe.x[0] - 0.25) * probe.b, rtol=1e-5, atol=1e-6)


def test_shap_does_not_depend_on_the_batch():
    few, many = Cubic(batch=2), Cubic(batch=50)
    first = gradient_shap(few, samples=9, noise=0.1, seed=2)
    np.testing.assert_allclose(first, gradient_shap(many, samples=9, noise=0.1, seed=2), rtol=1e-5, atol=1e-6)
    assert not np.allclose(first, gradient_shap(few, samples=9, noise=0.1, seed=3), rtol=1e-2)


class Replay(np.random.Generator):
    """Draws that are given."""

    def __init__(self, noise):
        super().__init__(np.random.PCG64(0))
        self.noise = list(noise)

    def uniform(self, size):
        return np.full(size, 0.5)

    def integers(self, high, size):
        return np.zeros(size, int)

    def standard_normal(self, size):
        return np.stack([self.noise.pop(0) for _ in range(size[0])])


def test_draws_can_be_replayed():
    probe, noise = Cubic(), np.random.default_rng(9).normal(size=(4, *SHAPE))
    sigma, total = 0.1 * (probe.x.max() - probe.x.min()), np.zeros(SHAPE)
    for n in noise:
        moved = probe.x[0] + sigma * n
        total += moved * probe.at(moved / 2) / 4
    found = gradient_shap(probe, samples=4, noise=0.1, seed=Replay(noise))
    np.testing.assert_allclose(found, total, rtol=1e-4, atol=1e-4)


def test_no_gradient_gives_no_attribution():
    nothing = Cubic(a=np.zeros(SHAPE), b=np.zeros(SHAPE))
    assert not integrated_gradients(nothing).any()
    assert not gradient_shap(nothing, noise=0.1).any()


BAD = [
    ({"rule": "simpson"}, UnknownNameError, "gausslegendre"),
    ({"steps": 0}, OptionError, "steps=0"),
    ({"steps": 1, "rule": "riemann_trapezoid"}, OptionError, "at least 2"),
    ({"baseline": "black"}, UnknownNameError, "zero, mean, blur"),
    ({"baseline": np.zeros((3, 4, 4))}, OptionError, r"\(3, 4, 4\).*\(2, 3, 4\)"),
    ({"baseline": np.zeros((2, *SHAPE))}, OptionError, "gradient_shap takes several"),
    ({"baseline": np.full(SHAPE, np.nan)}, OptionError, "NaN"),
]


@pytest.mark.parametrize(("options", "error", "words"), BAD)
def test_options_that_do_not_fit(options, error, words):
    with pytest.raises(error, match=words):
        integrated_gradients(Cubic(), **options)


@pytest.mark.parametrize(("options", "words"), [({"samples": 0}, "samples=0"), ({"noise": -0.1}, "noise=-0.1")])
def test_shap_options_that_do_not_fit(options, words):
    with pytest.raises(OptionError, match=words):
        gradient_shap(Cubic(), **options)


@pytest.mark.parametrize("method", [integrated_gradients, gradient_shap])
def test_a_baseline_that_is_the_image_has_nothing_to_attribute(method):
    grey = Cubic(x=np.full((1, *SHAPE), 0.5, np.float32))
    for same in ("mean", "blur", 0.5):
        with pytest.raises(OptionError, match="the image itself"):
            method(grey, baseline=same)


def test_noise_around_the_image_is_something_to_attribute():
    probe, noise = Cubic(), np.random.default_rng(9).normal(size=(1, *SHAPE))
    step = 0.1 * (probe.x.max() - probe.x.min()) * noise[0]
    found = gradient_shap(probe, samples=1, baseline=probe.x, noise=0.1, seed=Replay(noise))
    np.testing.assert_allclose(found, step * probe.at(probe.x[0] + step / 2), rtol=1e-3, atol=1e-4)


def test_noise_of_a_constant_image_is_refused():
    with pytest.raises(OptionError, match=r"constant \(0\.5 everywhere\)"):
        gradient_shap(Cubic(x=np.full((1, *SHAPE), 0.5, np.float32)), noise=0.1)


@pytest.mark.parametrize("method", [integrated_gradients, gradient_shap])
def test_gradients_that_are_no_numbers_are_refused(method):
    with pytest.raises(ModelError, match="NaN or infinite gradients"):
        method(Broken())
