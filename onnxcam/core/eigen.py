"""From terms (:mod:`onnxcam.core.weights`) to a map: their sum, or a projection on what varies most among pixels.

A projection takes each pixel as a point with one coordinate per channel. Applied to the terms of any CAM it smooths
the map (*eigen smoothing*); applied to the activations it is Eigen-CAM or KPCA-CAM. NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, UnknownNameError

Array = NDArray[Any]
MOST_PIXELS = 4096  # of a kernel matrix, which holds pixels x pixels numbers
# A spread of four units in the last place of float32 is what rounding alone puts on a constant.
_NOISE = 4 * float(np.finfo(np.float32).eps)


def eigen(terms: Array) -> Array:
    """The first principal component of the pixels: X v, X the centred terms (pixels, C), v its first singular vector.

    Of the evidence G * A it is EigenGrad-CAM, of any CAM's terms *eigen smoothing*; both are known from pytorch-
    grad-cam. A singular vector has no sign of its own. The one taken makes the map grow where the sum of the terms
    grows (a positive covariance with it); where the two are unrelated, the pixel that stands out most is positive.
    Peers take the sign that the linear algebra library happens to give, so that maps may come out inverted.

    Args:
        terms: (N, C, h, w).

    Returns:
        (N, h, w), signed, of zero mean, in units of the terms. 0 where the pixels do not differ by more than rounding;
        NaN for a sample that holds a value that is not finite.
    """
    return _each(terms, _first_component)


def svd(terms: Array) -> Array:
    """Eigen-CAM's projection: X v, X the terms (pixels, C) as they are, not centred, v the first singular vector of X.

    Muhammad and Yeasin, Eigen-CAM, 2020, https://arxiv.org/abs/2008.00299: O = U S V^T, map = O V_1. Peers centre the
    pixels first. Of the two signs the one with the larger sum is taken: behind a ReLU, that of the activations.

    Args:
        terms: (N, C, h, w), Eigen-CAM's are the activations.

    Returns:
        (N, h, w), signed, in units of the terms; NaN as in :func:`eigen`.
    """
    return _each(terms, _first_component, centre=False)


def kpca(terms: Array) -> Array:
    """The first kernel principal component of the pixels, with the kernel tanh(<x, y> / C + 1) of the centred terms.

    Karmani et al., KPCA-CAM, 2024, https://arxiv.org/abs/2410.00267 (of the activations); kernel and constants are
    those of its reference implementation. The sign is fixed as in :func:`eigen`.

    Args:
        terms: (N, C, h, w).

    Returns:
        (N, h, w), signed, without a unit; 0 and NaN as in :func:`eigen`.

    Raises:
        OptionError: more than 4096 pixels, whose kernel matrix would be too large.
    """
    pixels = terms.shape[-2] * terms.shape[-1]
    if pixels > MOST_PIXELS:
        raise OptionError(
            f"a kernel projection of {terms.shape[-2]}x{terms.shape[-1]} pixels compares each with each, up to "
            f"{MOST_PIXELS}: take a deeper target layer, or Eigen-CAM"
        )
    return _each(terms, _first_kernel_component)


def _sum(terms: Array) -> Array:
    return np.asarray(terms.sum(axis=1))


_JOINS: dict[str, Callable[[Array], Array]] = {"sum": _sum, "eigen": eigen, "svd": svd, "kpca": kpca}
JOINS = tuple(_JOINS)


def join(terms: Array, kind: str = "sum") -> Array:
    """Terms (N, C, h, w) to raw maps (N, h, w): ``"sum"`` over the channels, ``"eigen"``, ``"svd"`` or ``"kpca"``.

    Raises:
        UnknownNameError: an unknown ``kind``.
        OptionError: too many pixels for ``"kpca"``.
    """
    if kind not in _JOINS:
        raise UnknownNameError.of("join", str(kind), JOINS)
    return _JOINS[kind](terms)


def _each(terms: Array, component: Callable[[Array], Array], centre: bool = True) -> Array:
    """``component`` of each sample's pixels (h * w, C), with its sign fixed."""
    n, channels, h, w = terms.shape
    points = terms.reshape(n, channels, h * w).transpose(0, 2, 1).astype(np.float64)
    return np.stack([_map(x, component, centre) for x in points]).reshape(n, h, w).astype(terms.dtype)


def _map(x: Array, component: Callable[[Array], Array], centre: bool) -> Array:
    if not np.isfinite(x).all():
        return np.full(len(x), np.nan)
    centred = x - x.mean(axis=0) if centre else x
    if np.abs(centred).max() <= (_NOISE if centre else 0) * np.abs(x).max():
        return np.zeros(len(x))
    return _oriented(component(centred), centred.sum(axis=1) if centre else np.ones(len(x)))


def _oriented(projection: Array, total: Array) -> Array:
    """The projection, or its negative: see :func:`eigen`."""
    one, other = (v / (np.abs(v).max() or 1) for v in (projection, total))
    agreement = float(one @ other)
    if abs(agreement) <= 1e-9 * float(np.linalg.norm(one) * np.linalg.norm(other)):
        agreement = float(projection[np.abs(projection).argmax()])
    return -projection if agreement < 0 else projection


def _first_component(x: Array) -> Array:
    """By the smaller of the products X X^T and X^T X: one vector does not need the whole decomposition of X."""
    unit = np.abs(x).max()  # whose square neither overflows nor vanishes
    scaled = x / unit
    if len(x) > x.shape[1]:
        _, vectors = np.linalg.eigh(scaled.T @ scaled)
        return np.asarray(x @ vectors[:, -1])
    values, vectors = np.linalg.eigh(scaled @ scaled.T)
    return np.asarray(vectors[:, -1] * np.sqrt(values[-1]) * unit)


def _first_kernel_component(x: Array) -> Array:
    """sqrt(lambda) u of the doubly centred kernel matrix, lambda its largest eigenvalue."""
    kernel = np.tanh(x @ x.T / x.shape[1] + 1.0)
    kernel = kernel - kernel.mean(axis=0) - kernel.mean(axis=1, keepdims=True) + kernel.mean()
    values, vectors = np.linalg.eigh(kernel)
    return np.asarray(vectors[:, -1] * np.sqrt(max(float(values[-1]), 0.0)))
