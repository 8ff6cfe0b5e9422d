"""The formulas of the CAM methods that take one run, written once for both worlds.

``xp`` is the array namespace (NumPy, or the symbolic one that writes ONNX nodes); ``A`` are the activations of the
target layer and ``G`` the gradient of the score with respect to them, both (N, C, H, W). A function returns *terms*,
the evidence per channel and pixel, (N, C, H, W) in units of the score unless it says otherwise; the map is their sum
over the channels, or a projection of them (:mod:`onnxcam.core.eigen`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .probe import Probe

Array = Any
_PIXELS = (2, 3)


def _over(xp: Any, x: Array, y: Array) -> Array:
    """x / y, and 0 where y is 0."""
    empty = y == 0.0
    return xp.where(empty, 0.0, x / xp.where(empty, 1.0, y))


def _mean(xp: Any, x: Array) -> Array:
    """Over the pixels; of an array that is one number per channel, broadcast, that number."""
    if isinstance(x, np.ndarray) and x.size and not any(x.strides[a] for a in _PIXELS):
        return x[:, :, :1, :1]
    return xp.mean(x, axis=_PIXELS, keepdims=True)


def _sum(xp: Any, x: Array) -> Array:
    return xp.sum(x, axis=_PIXELS, keepdims=True)


def activations(xp: Any, A: Array, G: Array = None) -> Array:
    """A as it is: what Eigen-CAM and KPCA-CAM project. Class-agnostic, in units of A."""
    return A


def cam(xp: Any, A: Array, G: Array) -> Array:
    """w_k A_k, with ``G`` the gradient at the pooled features, (N, C, 1, 1): the classifier's row of the class.

    Zhou et al., Learning Deep Features for Discriminative Localization, 2016, https://arxiv.org/abs/1512.04150, eq. 2.
    The mean of the map over the pixels is the logit less its bias.
    """
    return G * A


def gradcam(xp: Any, A: Array, G: Array) -> Array:
    """alpha_k A_k with alpha_k = mean over pixels of G_k.

    Selvaraju et al., Grad-CAM, 2017, https://arxiv.org/abs/1610.02391, eq. 1 and 2. Behind a global average pool and a
    linear classifier it is CAM divided by the number of pixels.
    """
    return _mean(xp, G) * A


def counterfactual(xp: Any, A: Array, G: Array) -> Array:
    """-alpha_k A_k: what speaks against the class. https://arxiv.org/abs/1610.02391, section 3.3."""
    return -_mean(xp, G) * A


def hirescam(xp: Any, A: Array, G: Array) -> Array:
    """G_k * A_k, pixel by pixel; also what EigenGrad-CAM projects.

    Draelos and Carin, Use HiResCAM instead of Grad-CAM, 2020, https://arxiv.org/abs/2011.08891, eq. 5.
    """
    return G * A


def elementwise(xp: Any, A: Array, G: Array) -> Array:
    """max(G_k * A_k, 0), pixel by pixel: HiResCAM of which each channel keeps only what speaks for the class.

    Pillai and Pirsiavash, Explainable Models with Consistent Interpretations, 2021,
    https://www.csee.umbc.edu/~hpirsiav/papers/gc_aaai21.pdf; GradCAMElementWise in pytorch-grad-cam.
    """
    return xp.maximum(G * A, 0.0)


def gradcampp(xp: Any, A: Array, G: Array) -> Array:
    """w_k A_k with w_k = sum over pixels of alpha_k max(G_k, 0), alpha_k = G_k^2 / (2 G_k^2 + G_k^3 sum(A_k)).

    Chattopadhay et al., Grad-CAM++, 2018, https://arxiv.org/abs/1710.11063, eq. 19: the second and third derivatives
    are those of exp(score) behind layers that are linear in A. Where G_k is not 0, alpha_k is 1 / (2 + G_k sum(A_k)),
    which is how it is computed. The factor exp(score), the same at every pixel, is left out.

    pytorch-grad-cam adds 1e-6 to the denominator of alpha_k. With the gradients of order 1e-3 that are usual behind an
    average pool, G_k^2 is no larger than that, and the weights lean towards sum(max(G_k, 0)^3); torch-cam 0.5.0, whose
    division has no effect, gives just that. Here the units of activations and score do not bend the map.
    """
    alpha = _over(xp, xp.maximum(G, 0.0), 2.0 + G * _sum(xp, A))
    return _sum(xp, alpha) * A


def xgradcam(xp: Any, A: Array, G: Array) -> Array:
    """w_k A_k with w_k = sum over pixels of (A_k / sum(A_k)) G_k, and 0 for a channel whose sum is 0.

    Fu et al., Axiom-based Grad-CAM, 2020, https://arxiv.org/abs/2008.02312, eq. 8. So a channel's terms add up to its
    share of the score, sum(G_k A_k). pytorch-grad-cam adds 1e-7 to sum(A_k), torch-cam 1e-8.
    """
    return _over(xp, _sum(xp, G * A), _sum(xp, A)) * A


def layercam(xp: Any, A: Array, G: Array) -> Array:
    """max(G_k, 0) * A_k, pixel by pixel.

    Jiang et al., LayerCAM, 2021, https://doi.org/10.1109/TIP.2021.3089943. The scaling by tanh with which the paper
    fuses early layers is not part of a single layer's map.
    """
    return xp.maximum(G, 0.0) * A


def fem(xp: Any, A: Array, G: Array = None) -> Array:
    """mean(A_k) [A_k > mean(A_k) + 2 std(A_k)]: where a channel is unusually active. Class-agnostic, in units of A.

    Fuad et al., Features Understanding in 3D CNNs for Actions Recognition in Video, 2020,
    https://doi.org/10.1109/IPTA50016.2020.9286629: binary maps by the 2-sigma rule, weighted by the channel's mean.
    pytorch-grad-cam swaps the two: there, A_k is weighted by the mean of its binary map.
    """
    mean = _mean(xp, A)
    spread = xp.sqrt(_mean(xp, (A - mean) * (A - mean)))
    return xp.where(mean + 2.0 * spread < A, mean, 0.0)


def shapleycam(xp: Any, A: Array, G: Array, HA: Array) -> Array:
    """w_k A_k with w_k = mean over pixels of (G_k - HA_k / 2), ``HA`` the score's Hessian at the layer times A.

    Cai, CAMs as Shapley Value-based Explainers, 2025, https://arxiv.org/abs/2501.06261: the second-order expansion of
    each activation's Shapley value. Where the score is linear in the activations behind the layer, HA is 0 and the map
    is Grad-CAM's; so the paper explains logit + log-probability, which is curved everywhere.
    """
    return _mean(xp, G - 0.5 * HA) * A


def randomcam(probe: Probe, *, seed: int | np.random.Generator = 0) -> Array:
    """Channels weighted at random, uniformly in [-1, 1]: the baseline that a CAM has to beat. (h, w), in units of A.

    Args:
        probe: asked for the activations, once.
        seed: of the weights; the same seed weights the same channels alike on every image.
    """
    A = probe.activations(probe.x)[0]
    drawn = np.random.default_rng(seed).uniform(-1.0, 1.0, size=len(A))
    return np.tensordot(drawn.astype(A.dtype), A, axes=1)
