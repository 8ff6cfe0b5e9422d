"""FullGrad: the gradient at the image and at every bias, as one map."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.core import maps
from onnxcam.core.integrate import check_finite, gradients
from onnxcam.core.probe import Probe
from onnxcam.errors import UnknownNameError

Array = NDArray[Any]
RESCALES = ("channel", "layer")


def fullgrad(probe: Probe, *, rescale: str = "channel") -> Array:
    """FullGrad: ``psi(x * df/dx) + sum over biases b and their channels c of psi(b_c * df/db_c)``.

    Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization", 2019,
    https://arxiv.org/abs/1905.00780: psi takes the absolute value, rescales it to [0, 1] and upsamples it
    bilinearly. The biases are those of convolutions, and the ones that BatchNormalization implies,
    ``beta - gamma * mean / sqrt(var + epsilon)``. For a network of ReLUs the terms without psi, those of its linear
    layers included, sum to the score.

    The paper applies psi to each channel of each bias; its authors' published code rescales the channels of a layer
    by their common extremes (``rescale="layer"``).

    Args:
        probe: the model.
        rescale: ``"channel"`` or ``"layer"``: over what psi takes the smallest and the largest value.

    Returns:
        (H, W) float32, never negative.

    Raises:
        UnknownNameError: no such rescaling.
        ModelError: NaN or infinite gradients.
    """
    if rescale not in RESCALES:
        raise UnknownNameError.of("rescale", rescale, RESCALES)
    sites = [(gradients(probe, probe.x), probe.x), *probe.bias_gradients(probe.x)]
    check_finite(*(G for G, _ in sites))
    size = (probe.x.shape[2], probe.x.shape[3])
    return np.asarray(sum(_psi(G * b, size, rescale) for G, b in sites), dtype=np.float32)


def _psi(term: Array, size: tuple[int, int], rescale: str) -> Array:
    """(1, K, h, w) -> (H, W): the sum over channels of psi. Upsampling is linear, so it comes after the sum."""
    strength = np.abs(term[0], dtype=np.float64)
    if rescale == "layer":
        scaled = maps.normalize(np, strength.reshape(-1, strength.shape[-1]), "minmax").reshape(strength.shape)
    else:
        scaled = maps.normalize(np, strength, "minmax")
    return np.asarray(maps.resize(np, np.sum(scaled, axis=0), size))
