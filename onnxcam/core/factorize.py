"""Deep Feature Factorization: the few patterns of channels that a layer's pixels are made of.

The factors come from scikit-learn's coordinate descent, whose 70 steps reach what takes 1000 multiplicative updates.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingPackageError, OptionError
from .probe import Probe

Array = NDArray[Any]


class Concepts(NamedTuple):
    """What a layer was factorised into: A is about the sum over concepts of map * vector.

    Attributes:
        maps: (N, concepts, h, w), >= 0: how strongly each concept is there. A concept's largest value, among all
            images, is 1.
        vectors: (concepts, C), in units of A: what the layer holds where the concept is there with strength 1.
    """

    maps: Array
    vectors: Array


def factorize(A: Array, concepts: int = 5, *, seed: int | np.random.Generator = 0) -> Concepts:
    """Concepts that the pixels of all images share, by non-negative matrix factorisation of the activations.

    Collins et al., Deep Feature Factorization for Concept Discovery, 2018, https://arxiv.org/abs/1806.10206, section 3:
    pixels x channels ~ maps @ vectors, all of them >= 0, least squares. The paper has ReLU activations; a channel that
    goes below 0 is lifted by its minimum first, and the vectors are lowered again. (pytorch-grad-cam moves every
    channel to a minimum of 0, and leaves the scale of maps against vectors to chance.)

    Args:
        A: (N, C, h, w), activations.
        concepts: how many.
        seed: of the random start.

    Raises:
        OptionError: fewer than one concept, more than there are pixels or channels, activations that are not finite,
            or scikit-learn is not installed.
    """
    n, channels, h, w = A.shape
    if not 1 <= concepts <= min(channels, n * h * w):
        raise OptionError(
            f"concepts={concepts}: the layer has {channels} channels and {n * h * w} pixels; give 1 to "
            f"{min(channels, n * h * w)}"
        )
    if not np.isfinite(A).all():
        raise OptionError("the activations hold NaN or infinity: look for the step of the model that makes them")
    columns = A.transpose(1, 0, 2, 3).reshape(channels, -1).astype(np.float64)
    lift = np.minimum(columns.min(axis=1, keepdims=True), 0.0)
    vectors, maps = _factors(columns - lift, concepts, np.random.default_rng(seed))
    peak = maps.max(axis=1)
    scale = np.where(peak > 0, peak, 1.0)
    maps = (maps / scale[:, None]).reshape(concepts, n, h, w).transpose(1, 0, 2, 3)
    return Concepts(maps.astype(A.dtype), ((vectors * scale + lift).T).astype(A.dtype))


def _factors(X: Array, rank: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """X (C, pixels) ~ W (C, rank) @ H (rank, pixels), from a random start of the size of X."""
    try:
        from sklearn.decomposition import non_negative_factorization
        from sklearn.exceptions import ConvergenceWarning
    except ImportError as error:
        raise MissingPackageError(
            "Deep Feature Factorization needs scikit-learn: pip install 'onnxcam[methods]'"
        ) from error
    size = np.sqrt(X.mean() / rank)
    if size == 0:
        return np.zeros((X.shape[0], rank)), np.zeros((rank, X.shape[1]))
    H = np.abs(size * rng.standard_normal((rank, X.shape[1])))
    W = np.abs(size * rng.standard_normal((X.shape[0], rank)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits of the factors do not show in a map
        W, H, _ = non_negative_factorization(X, W, H, n_components=rank, init="custom")
    return W, H


def dff(probe: Probe, *, concepts: int = 5, concept: int = 0, seed: int | np.random.Generator = 0) -> Array:
    """The map of one concept of one image, (h, w), >= 0, at most 1: :func:`factorize`.

    Concepts are ordered by what they score for the class: the head is run on maps that hold a concept's vector at every
    pixel.

    Args:
        probe: asked for the activations, and for the head's answer to each concept.
        concepts: how many to find.
        concept: which one to show; 0 speaks most for the class.
        seed: of the random start.

    Raises:
        OptionError: there is no such concept, or those of :func:`factorize`.
    """
    if not 0 <= concept < concepts:
        raise OptionError(f"concept={concept}: there are {concepts}; give 0 (most for the class) to {concepts - 1}")
    found = factorize(probe.activations(probe.x), concepts, seed=seed)
    maps, vectors = found.maps[0], found.vectors
    everywhere = np.broadcast_to(vectors[:, :, None, None], (*vectors.shape, *maps.shape[1:]))
    order = np.argsort(-probe.head(everywhere), kind="stable")
    return np.asarray(maps[order[concept]])
