"""Gradients along a path from a reference to the image: Integrated Gradients and GradientSHAP."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.core.baselines import baseline as reference
from onnxcam.core.probe import Probe, at_least, chunks
from onnxcam.errors import ModelError, OptionError, UnknownNameError

Array = NDArray[Any]
Seed = int | np.random.Generator


def integrated_gradients(
    probe: Probe, *, steps: int = 50, baseline: str | float | Array = "zero", rule: str = "gausslegendre"
) -> Array:
    """Integrated Gradients: ``(x - x') * integral over a in [0, 1] of df/dx(x' + a (x - x'))``.

    Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", 2017, https://arxiv.org/abs/1703.01365,
    section 3. Completeness: the attributions sum to f(x) - f(x'), up to the error of the integration rule. The paper
    sums at a = 1/m, 2/m, ..., 1 (``"riemann_right"``); Gauss-Legendre is exact for polynomials up to degree
    2 m - 1 and reaches the same error in fewer steps.

    Deviations of others: captum's ``riemann_trapezoid`` weighs its m points by 1/m, so its weights sum to 1 - 1/m;
    the trapezoid rule, which is used here, divides by m - 1.

    Args:
        probe: the model.
        steps: gradients that are computed, m.
        baseline: x'; :func:`onnxcam.core.baselines.baseline`.
        rule: ``"gausslegendre"``, ``"riemann_left"``, ``"riemann_right"``, ``"riemann_middle"``,
            ``"riemann_trapezoid"``.

    Returns:
        (C, H, W) float32, signed, in units of the score.

    Raises:
        UnknownNameError: no such rule or baseline.
        OptionError: too few steps, a baseline that does not fit or is the image itself.
        ModelError: NaN or infinite gradients.
    """
    start = one_reference(probe.x, baseline)
    return integral(probe, probe.x, start, *quadrature(rule, steps), chunks(probe, steps))


def integral(
    probe: Probe, x: Array, start: Array, points: Array, weights: Array, parts: Iterable[slice], relu: str = "plain"
) -> Array:
    """``(x - start) * sum_i weights_i df/dx(start + points_i (x - start))``, (C, H, W), for x (1, C, H, W)."""
    total = np.zeros(x.shape[1:])
    for part in parts:
        a = points[part, None, None, None].astype(np.float32)
        total += np.tensordot(weights[part].astype(np.float32), gradients(probe, start + a * (x - start), relu), axes=1)
    return np.asarray(total * (x - start)[0], dtype=np.float32)


def gradient_shap(
    probe: Probe, *, samples: int = 50, baseline: str | float | Array = "zero", noise: float = 0.0, seed: Seed = 0
) -> Array:
    """GradientSHAP: the mean of ``(x_i - b_i) * df/dx(b_i + a_i (x_i - b_i))`` over random a_i, b_i and noise.

    Expected gradients (Erion et al., "Improving performance of deep learning models with axiomatic attribution priors
    and expected gradients", 2021, https://arxiv.org/abs/1906.10670), an estimate of SHAP values (Lundberg and
    Lee, 2017, https://arxiv.org/abs/1705.07874): a_i is uniform in [0, 1], b_i is drawn from the references, x_i is
    the image plus Gaussian noise. The attributions sum to f(x) - mean f(b) in expectation.

    Args:
        probe: the model.
        samples: draws.
        baseline: the reference, or an array (N, C, H, W) to draw from; :func:`onnxcam.core.baselines.baseline`.
        noise: standard deviation of the noise, as a share of the image's range.
        seed: of the draws, in this order: all a_i, all b_i, then the noise.

    Returns:
        (C, H, W) float32, signed, in units of the score.

    Raises:
        OptionError: too few samples, noise below 0, a baseline that does not fit or is the image itself.
        ModelError: NaN or infinite gradients.
    """
    rng, x, starts = np.random.default_rng(seed), probe.x, reference(probe.x, baseline)
    at_least(1, samples=samples)
    sigma = deviation(x, noise)
    if not sigma and np.array_equal(np.broadcast_to(x, starts.shape), starts):
        raise _nothing_between()
    a = rng.uniform(size=samples).astype(np.float32)
    which = rng.integers(len(starts), size=samples)
    total = np.zeros(x.shape[1:])
    for part in chunks(probe, samples):
        start, moved = starts[which[part]], noisy(x, part, sigma, rng)
        slope = gradients(probe, start + a[part, None, None, None] * (moved - start))
        total += np.sum(slope * (moved - start), axis=0, dtype=np.float64)
    return np.asarray(total / samples, dtype=np.float32)


# Quadrature on [0, 1]: points and weights


def quadrature(rule: str, steps: int) -> tuple[Array, Array]:
    """The points and weights of a rule of integration on [0, 1], both (steps,).

    Raises:
        UnknownNameError: no such rule.
        OptionError: fewer steps than the rule needs.
    """
    if rule not in RULES:
        raise UnknownNameError.of("rule", rule, RULES)
    at_least(2 if rule == "riemann_trapezoid" else 1, steps=steps)
    return RULES[rule](steps)


def _gauss_legendre(m: int) -> tuple[Array, Array]:
    points, weights = np.polynomial.legendre.leggauss(m)
    return (points + 1) / 2, weights / 2


def _riemann(shift: float) -> Callable[[int], tuple[Array, Array]]:
    return lambda m: ((np.arange(m) + shift) / m, np.full(m, 1 / m))


def _trapezoid(m: int) -> tuple[Array, Array]:
    weights = np.full(m, 1 / (m - 1))
    weights[[0, -1]] /= 2
    return np.arange(m) / (m - 1), weights


RULES: dict[str, Callable[[int], tuple[Array, Array]]] = {
    "gausslegendre": _gauss_legendre,
    "riemann_left": _riemann(0.0),
    "riemann_right": _riemann(1.0),
    "riemann_middle": _riemann(0.5),
    "riemann_trapezoid": _trapezoid,
}

# What methods of many gradients share


def gradients(probe: Probe, x: Array, relu: str = "plain") -> Array:
    """The probe's gradient at images (B, C, H, W).

    Raises:
        ModelError: NaN or infinite values.
    """
    found = probe.gradient(x, relu)
    check_finite(found)
    return found


def check_finite(*found: Array) -> None:
    """Refuse NaN and infinity before they are averaged away or spread over a map.

    Raises:
        ModelError: there are some.
    """
    if not all(np.all(np.isfinite(a)) for a in found):
        raise ModelError(
            "the model gives NaN or infinite gradients for this input or near it; check the preprocessing and, for a "
            "float16 model, its range"
        )


def deviation(x: Array, noise: float) -> float:
    """Noise as a share of an image's range -> its standard deviation.

    Raises:
        OptionError: noise below 0, or noise of a constant image, whose range is 0.
    """
    if not (np.isfinite(noise) and noise >= 0):
        raise OptionError(f"noise={noise}: give the standard deviation as a share of the image's range, such as 0.15")
    spread = float(np.max(x)) - float(np.min(x))
    if noise and not spread:
        raise OptionError(
            f"the image is constant ({float(np.min(x)):g} everywhere), so noise={noise} of its range is no noise; give "
            "a picture, or a method without noise: saliency, integrated_gradients"
        )
    return noise * spread


def noisy(x: Array, part: slice, sigma: float, rng: np.random.Generator) -> Array:
    """As many noisy copies of an image (1, C, H, W) as ``part`` has; without noise nothing is drawn."""
    count = part.stop - part.start
    if not sigma:
        return np.repeat(x, count, axis=0)
    return np.asarray(x + sigma * rng.standard_normal((count, *x.shape[1:])), dtype=np.float32)


def one_reference(x: Array, kind: str | float | Array) -> Array:
    """(1, C, H, W): a single reference that is not the image itself.

    Raises:
        OptionError: several references, or the image itself.
    """
    start = reference(x, kind)
    if len(start) != 1:
        raise OptionError(f"{len(start)} baselines are given and one is needed; gradient_shap takes several")
    if np.array_equal(x, start):
        raise _nothing_between()
    return start


def _nothing_between() -> OptionError:
    return OptionError(
        "the baseline is the image itself, so there is nothing between them to attribute; give another baseline"
    )
