"""Attributions smoothed by noise: SmoothGrad, its square, VarGrad, and Smooth Grad-CAM++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.core.integrate import (
    Seed,
    check_finite,
    deviation,
    gradients,
    integral,
    noisy,
    one_reference,
    quadrature,
)
from onnxcam.core.probe import Probe, at_least, chunks
from onnxcam.errors import UnknownNameError

Array = NDArray[Any]


def smoothgrad(
    probe: Probe,
    *,
    samples: int = 50,
    noise: float = 0.15,
    base: str = "saliency",
    steps: int = 20,
    baseline: str | float | Array = "zero",
    seed: Seed = 0,
) -> Array:
    """SmoothGrad: the mean of an attribution over noisy copies, ``1/n sum_i M(x + N(0, sigma^2))``.

    Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017, https://arxiv.org/abs/1706.03825;
    sigma is 10 to 20 % of the image's range there, and n = 50 is enough. M is signed: ``base="saliency"`` is the
    gradient itself.

    Deviations of others: captum's NoiseTunnel over Saliency averages absolute values unless it is given ``abs=False``.

    Args:
        probe: the model.
        samples: noisy copies, n.
        noise: sigma as a share of the image's range max(x) - min(x).
        base: what is averaged: one of :data:`BASES`.
        steps: of ``base="integrated_gradients"``, for each copy.
        baseline: likewise; :func:`onnxcam.core.baselines.baseline`.
        seed: of the noise.

    Returns:
        (C, H, W) float32, signed.

    Raises:
        UnknownNameError: no such base.
        OptionError: too few samples or steps, noise below 0, a constant image, a baseline that does not fit.
        ModelError: NaN or infinite gradients.
    """
    return _moments(probe, samples, noise, seed, _attribution(probe, base, steps, baseline))[0].astype(np.float32)


def smoothgrad_sq(
    probe: Probe,
    *,
    samples: int = 50,
    noise: float = 0.15,
    base: str = "saliency",
    steps: int = 20,
    baseline: str | float | Array = "zero",
    seed: Seed = 0,
) -> Array:
    """SmoothGrad squared: ``1/n sum_i M(x + N(0, sigma^2))^2``, never negative.

    Hooker et al., "A Benchmark for Interpretability Methods in Deep Neural Networks", 2019,
    https://arxiv.org/abs/1806.10758, section 4.1. Options, shapes and errors are those of :func:`smoothgrad`.
    """
    return _moments(probe, samples, noise, seed, _attribution(probe, base, steps, baseline))[1].astype(np.float32)


def vargrad(
    probe: Probe,
    *,
    samples: int = 50,
    noise: float = 0.15,
    base: str = "saliency",
    steps: int = 20,
    baseline: str | float | Array = "zero",
    seed: Seed = 0,
) -> Array:
    """VarGrad: the variance of an attribution over noisy copies, ``mean(M_i^2) - mean(M_i)^2``.

    Adebayo et al., "Local Explanation Methods for Deep Neural Networks Lack Sensitivity to Parameter Values", 2018,
    https://arxiv.org/abs/1810.03307. Options, shapes and errors are those of :func:`smoothgrad`; two samples are the
    least.
    """
    at_least(2, samples=samples)
    mean, square = _moments(probe, samples, noise, seed, _attribution(probe, base, steps, baseline))
    return np.asarray(np.maximum(square - mean**2, 0.0), dtype=np.float32)


def smooth_gradcampp(probe: Probe, *, samples: int = 25, noise: float = 0.15, seed: Seed = 0) -> Array:
    """Smooth Grad-CAM++: Grad-CAM++ with derivatives averaged over noisy copies of the image.

    Omeiza et al., "Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique for Deep Convolutional
    Neural Network Models", 2019, https://arxiv.org/abs/1908.01224. With D1, D2 and D3 the means over noisy
    copies of G, G^2 and G^3 (the derivatives of exp(score) without their common factor, as in Grad-CAM++)::

        alpha_k = D1_k / (2 D2_k + sum_xy(A_k) D3_k)        0 where the denominator is 0
        w_k = sum_xy alpha_k relu(D1_k)
        cam = sum_k w_k A_k                                 A of the image without noise

    Deviations of others: torchcam takes D2 as the numerator, and the gradient and the map A of the last noisy copy in
    place of D1 and A.

    Args:
        probe: the model, with its target layer.
        samples: noisy copies.
        noise: sigma as a share of the image's range.
        seed: of the noise.

    Returns:
        (h, w) float32, raw and signed where A is.

    Raises:
        OptionError: too few samples, noise below 0, a constant image.
        ModelError: NaN or infinite gradients.
    """
    at_least(1, samples=samples)
    rng, sigma = np.random.default_rng(seed), deviation(probe.x, noise)
    A = np.asarray(probe.activations(probe.x)[0], dtype=np.float64)
    powers = np.zeros((3, *A.shape))
    for part in chunks(probe, samples):
        G = probe.layer(noisy(probe.x, part, sigma, rng))[1].astype(np.float64)
        check_finite(G)
        powers += [np.sum(G**p, axis=0) for p in (1, 2, 3)]
    first, second, third = powers / samples
    below = 2 * second + np.sum(A, axis=(1, 2), keepdims=True) * third
    alpha = np.divide(first, below, out=np.zeros_like(first), where=below != 0)
    weights = np.sum(alpha * np.maximum(first, 0), axis=(1, 2))
    return np.asarray(np.tensordot(weights, A, axes=1), dtype=np.float32)


def _moments(
    probe: Probe, samples: int, noise: float, seed: Seed, attribution: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """Means of an attribution and of its square over noisy copies, float64 (C, H, W)."""
    at_least(1, samples=samples)
    rng, sigma = np.random.default_rng(seed), deviation(probe.x, noise)
    mean, square = np.zeros((2, *probe.x.shape[1:]))
    for part in chunks(probe, samples):
        found = attribution(noisy(probe.x, part, sigma, rng)).astype(np.float64)
        mean += found.sum(axis=0) / samples
        square += (found**2).sum(axis=0) / samples
    return mean, square


# What is smoothed: (probe, images (B, C, H, W)) -> attributions of that shape


def _of_relu(relu: str) -> Callable[[Probe, Array], Array]:
    return lambda probe, x: gradients(probe, x, relu)


def _input_x_gradient(probe: Probe, x: Array) -> Array:
    return x * gradients(probe, x)


_BASES: dict[str, Callable[[Probe, Array], Array]] = {
    "saliency": _of_relu("plain"),
    "input_x_gradient": _input_x_gradient,
    "guided_backprop": _of_relu("guided"),
    "deconvnet": _of_relu("deconvnet"),
}
BASES = (*_BASES, "integrated_gradients")


def _attribution(probe: Probe, base: str, steps: int, baseline: str | float | Array) -> Callable[[Array], Array]:
    if base not in BASES:
        raise UnknownNameError.of("base", base, BASES)
    if base != "integrated_gradients":
        return lambda x: _BASES[base](probe, x)
    start = one_reference(probe.x, baseline)
    points, weights = quadrature("gausslegendre", steps)
    parts = [slice(k, k + probe.batch) for k in range(0, steps, probe.batch)]
    return lambda x: np.stack([integral(probe, one[None], start, points, weights, parts) for one in x])
