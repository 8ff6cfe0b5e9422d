"""Score-CAM and its family: a channel weighs as much as the score of the image seen through it.

Each channel of the target layer, upsampled to the image and brought to [0, 1], masks the image; the weight of the
channel is what the masked image scores above a blank one (the Channel-wise Increase of Confidence). No gradient is
needed, one run per channel is. Masks are made a batch at a time, so that memory does not grow with the channels.

The maps are raw: the ReLU of the papers comes with the heatmap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, UnknownNameError
from . import maps
from .probe import Array, Probe, at_least, finite, scores

Seed = int | np.random.Generator
NOISY = ("mask", "input")
_Look = Callable[[Array, NDArray[Any], Array], object]


def scorecam(probe: Probe, *, softmax: bool = True) -> Array:
    """Score-CAM: L = sum_k alpha_k A_k, alpha = softmax over k of f(X * s(Up(A_k))) - f(0).

    Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks", 2020,
    https://arxiv.org/abs/1910.01279, equations 6 to 10 and algorithm 1; f is the logit ("f^c as the logit of class
    c"), s the min-max normalisation of equation 8, the blank image X_b is 0 ("baseline input X_b is set to 0").
    A constant channel hides everything: its increase is 0, and it adds nothing to the map.

    Deviations of others: pytorch-grad-cam upsamples with aligned corners; torch-cam normalises before it upsamples
    (algorithm 1: "Upsample", then "normalize the activation map"). tf-keras-vis and the authors' code take class
    probabilities as weights, without the softmax over channels and without the blank image: nearest to that is
    ``softmax=False`` with the probability as target.

    Args:
        probe: the model, on one image.
        softmax: weights as in algorithm 1; False: the increase of confidence itself, equation 10. A confident model's
            logits are far apart, so that the softmax leaves few channels.

    Returns:
        (h, w), raw.

    Raises:
        ModelError: a score that is no finite number.
    """
    A = probe.activations(probe.x)[0]
    return _joined(A, _varies(A), _masked(probe, A, np.ones(1)), softmax)


def faster_scorecam(probe: Probe, *, channels: int = 10, softmax: bool = True) -> Array:
    """Score-CAM with the channels of largest spatial variance alone.

    Tabayashi, "Faster Score-CAM", 2020, https://github.com/tabayashi0117/Score-CAM: channels that hardly vary tell
    little; ten are enough for a similar map. tf-keras-vis calls the number ``max_N``.

    Args:
        probe: the model, on one image.
        channels: how many channels are kept; all of them where there are fewer.
        softmax: see `scorecam`.

    Returns:
        (h, w), raw.

    Raises:
        OptionError: ``channels`` below 1.
        ModelError: a score that is no finite number.
    """
    at_least(1, channels=channels)
    A = probe.activations(probe.x)[0]
    kept = A[np.argsort(-A.var(axis=(1, 2)), kind="stable")[:channels]]
    return _joined(kept, _varies(kept), _masked(probe, kept, np.ones(1)), softmax)


def sscam(probe: Probe, *, samples: int = 35, sigma: float = 2.0, noisy: str = "mask", seed: Seed = 0) -> Array:
    """SS-CAM: Score-CAM whose increase of confidence is a mean over noise: f(X * (s(Up(A_k)) + n)), n ~ N(0, sigma^2).

    Wang et al., "SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization", 2020,
    https://arxiv.org/abs/2006.14255, which smooths in two places: SS-CAM(1) adds the noise to the mask, SS-CAM(2) to
    the masked image, X * s(Up(A_k)) + n.

    Deviations of others: the authors' code adds the noise of SS-CAM(1) to the upsampled channel before it is
    normalised, and never normalises it. torch-cam has SS-CAM(1) as here, but for `scorecam`'s order of normalising.

    Args:
        probe: the model, on one image.
        samples: draws of noise per channel.
        sigma: standard deviation of the noise; the mask spans [0, 1].
        noisy: ``"mask"`` for SS-CAM(1), ``"input"`` for SS-CAM(2).
        seed: of the noise, drawn sample by sample, within a sample channel by channel.

    Returns:
        (h, w), raw.

    Raises:
        OptionError: ``samples`` below 1, ``sigma`` below 0.
        UnknownNameError: another ``noisy``.
        ModelError: a score that is no finite number.
    """
    at_least(1, samples=samples)
    if not sigma >= 0:
        raise OptionError(f"sigma={sigma}: the standard deviation of the noise is 0 or more")
    if noisy not in NOISY:
        raise UnknownNameError.of("place of the noise", str(noisy), NOISY)
    draw, x, A = np.random.default_rng(seed), probe.x, probe.activations(probe.x)[0]

    def look(masks: Array, _: NDArray[Any], out: Array) -> None:
        seen = masks if noisy == "mask" else np.multiply(masks, x, out=out)
        seen += draw.normal(0.0, sigma, seen.shape).astype(np.float32)
        if noisy == "mask":
            np.multiply(seen, x, out=out)

    everyone = np.ones(len(A), bool)  # even a constant channel's noise shows something of the image
    return _joined(A, _varies(A), _increase(probe, A, everyone, samples, look), True)


def iscam(probe: Probe, *, steps: int = 10) -> Array:
    """IS-CAM: Score-CAM whose increase of confidence is a mean along a path: f(X * c_i s(Up(A_k))), i = 1 ... N.

    Naidu et al., "IS-CAM: Integrated Score-CAM for axiomatic-based explanations", 2020,
    https://arxiv.org/abs/2010.03023: the masked image is summed up step by step, c_i = sum_{p=1..i} p / N, so that the
    path leads beyond the image itself (c_N = (N + 1) / 2).

    Deviations of others: torch-cam's only in `scorecam`'s order of normalising.

    Args:
        probe: the model, on one image.
        steps: N.

    Returns:
        (h, w), raw.

    Raises:
        OptionError: ``steps`` below 1.
        ModelError: a score that is no finite number.
    """
    at_least(1, steps=steps)
    A = probe.activations(probe.x)[0]
    return _joined(A, _varies(A), _masked(probe, A, np.cumsum(np.arange(1, steps + 1)) / steps), True)


def _masked(probe: Probe, A: Array, shares: NDArray[Any]) -> Array:
    """The increase of confidence of the image under every mask times each of ``shares``; 0 for constant channels."""
    factors, x = np.asarray(shares, np.float32), probe.x

    def look(masks: Array, turns: NDArray[Any], out: Array) -> None:
        np.multiply(factors[turns, None, None, None] * masks, x, out=out)

    return _increase(probe, A, _varies(A), len(shares), look)


def _increase(probe: Probe, A: Array, which: Array, turns: int, look: _Look) -> Array:
    """(K,) float64: mean over turns of f(look(mask, turn)) - f(0), for the channels ``which``; 0 for the others."""
    chosen, size = np.flatnonzero(which), probe.x.shape[-2:]

    def images(part: slice, out: Array) -> None:
        turn, place = np.divmod(np.arange(part.start, part.stop), len(chosen))
        masks = maps.resize(np, A[chosen[place]], size)
        maps.stretch(masks)
        look(masks[:, None], turn, out)

    increase = np.zeros(len(A))
    if len(chosen):
        blank = finite(probe.score(np.zeros_like(probe.x)))[0]
        found = scores(probe, turns * len(chosen), images).reshape(turns, len(chosen))
        increase[chosen] = np.mean(found, axis=0, dtype=np.float64) - blank
    return increase


def _varies(A: Array) -> Array:
    """(K,) bool: which channels are more than a constant; a NaN counts, and shows in the scores."""
    return np.asarray(np.any(maps.normalize(np, A, "minmax"), axis=(1, 2)))


def _joined(A: Array, varies: Array, increase: Array, softmax: bool) -> Array:
    weights = increase
    if not np.any(increase[varies]):  # the score is the same whatever is seen: the softmax would make noise of it
        return np.zeros(A.shape[1:], np.float32)
    if softmax:
        weights = np.exp(increase - increase.max())
        weights = weights / weights.sum()
    return np.tensordot(weights * varies, A, axes=1).astype(np.float32)
