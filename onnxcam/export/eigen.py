"""Projections of :mod:`onnxcam.core.eigen` in a graph: a first eigenvector, by squaring a kernel matrix repeatedly."""

from __future__ import annotations

import numpy as np

from onnxcam.errors import OptionError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor

MOST_PIXELS = 1024  # of a kernel matrix, which is squared twenty times
_SQUARINGS = (
    20  # the second eigenvalue fades with the power 2^20 of its ratio to the first; closer ones blur in float32
)
_TINY = float(np.finfo(np.float32).tiny)


def projection(terms: Tensor, kind: str) -> Tensor:
    """Terms (N, C, h, w) to maps (N, h, w): ``"svd"`` or ``"eigen"``, as :func:`onnxcam.core.eigen.join`.

    Raises:
        OptionError: another projection, too many pixels, or a map whose size is not known.
    """
    if kind not in ("svd", "eigen"):
        raise OptionError(
            "a kernel projection is not exported: its kernel may have negative eigenvalues; take eigencam"
        )
    _, channels, h, w = terms.shape or (None,) * 4
    if not (isinstance(h, int) and isinstance(w, int) and isinstance(channels, int)) or h * w > MOST_PIXELS:
        what = " x ".join(str(n) if isinstance(n, int) else "any" for n in (channels, h, w))
        raise OptionError(
            f"a projection of a layer of {what} (channels, height, width) compares each pixel with each: known sizes "
            f"of up to {MOST_PIXELS} pixels are exported; take a deeper target layer, or another method"
        )
    points = xp.permute_dims(xp.reshape(terms, [0, channels, h * w]), [0, 2, 1])
    centred = points if kind == "svd" else points - xp.mean(points, axis=1, keepdims=True)
    kernel = xp.matmul(centred, xp.permute_dims(centred, [0, 2, 1]))
    found = _first(kernel, h * w)
    total = found if kind == "svd" else found * xp.sum(centred, axis=2, keepdims=True)
    found = xp.where(xp.sum(total, axis=1, keepdims=True) < 0.0, -found, found)
    return xp.reshape(found, [0, h, w])


def _first(kernel: Tensor, pixels: int) -> Tensor:
    """(N, P, P) to (N, P, 1): sqrt(lambda) u, lambda the largest eigenvalue of a positive kernel; 0 where all is 0."""
    power = _scaled(kernel)
    for _ in range(_SQUARINGS):
        power = _scaled(xp.matmul(power, power))
    squares = xp.sum(power * power, axis=2)  # of u's coordinates, but for a factor
    places = power.writer.constant(np.arange(pixels)[None, None])
    chosen = xp.astype(places == xp.expand_dims(xp.argmax(squares, axis=1), (1, 2)), power.dtype)
    column = xp.sum(power * chosen, axis=2, keepdims=True)
    unit = column / xp.sqrt(xp.maximum(xp.sum(column * column, axis=1, keepdims=True), _TINY))
    value = xp.sum(unit * xp.matmul(kernel, unit), axis=1, keepdims=True)
    return unit * xp.sqrt(xp.maximum(value, 0.0))


def _scaled(kernel: Tensor) -> Tensor:
    """Its largest absolute value becomes 1, so that squares neither overflow nor vanish."""
    top = xp.max(xp.abs(kernel), axis=(1, 2), keepdims=True)
    return kernel / xp.where(top > 0.0, top, 1.0)
