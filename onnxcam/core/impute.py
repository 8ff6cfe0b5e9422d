"""Pixels that are missing, filled in from those around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError

Array = NDArray[Any]
_PRECISION = 1e-5  # of the residual, against the values: far below the noise that is added
_ROUNDS = 200
_SMALL = 8  # a grid of this side is smoothed until it is solved
_DAMPING = 0.8
_TINY = float(np.finfo(np.float64).tiny)


def linear_imputation(x: Array, missing: NDArray[np.bool_]) -> Array:
    """Fill in pixels so that each is the weighted mean of its neighbours.

    Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022,
    https://arxiv.org/abs/2202.00449, section 4.2: side by side weighs 1/6, corner to corner 1/12; neighbours beyond the
    border are left out and the weights of the others grow. All missing pixels are unknowns of one sparse, symmetric
    linear system, solved here by conjugate gradients behind a multigrid step, to about 1e-5 of the values.

    Args:
        x: (C, H, W).
        missing: bool (H, W).

    Returns:
        (C, H, W), of x's type; what is not missing stays as it is.

    Raises:
        OptionError: shapes that differ, or nothing is known.
    """
    if missing.shape != x.shape[1:] or missing.dtype != np.bool_:
        raise OptionError(f"the missing pixels are {missing.dtype} {missing.shape}: give bool {x.shape[1:]}")
    if missing.all():
        raise OptionError("all pixels are missing: leave some, or nothing is known to fill them in from")
    shift = x[:, ~missing].astype(np.float64).mean(axis=1)
    values = np.ascontiguousarray(np.moveaxis(x, 0, -1) - shift, np.float32)
    found = _solve(missing, _around(np.where(missing[..., None], 0.0, values)))
    return np.where(missing, np.moveaxis(found + shift, -1, 0), x).astype(x.dtype)


def _around(values: Array) -> Array:
    """(H, W, C): the weighted sum of the eight neighbours, 0 beyond the border."""
    import cv2

    kernel = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]]) / 12
    return np.asarray(cv2.filter2D(values, -1, kernel, borderType=cv2.BORDER_CONSTANT)).reshape(values.shape)


def _solve(missing: NDArray[np.bool_], right: Array) -> Array:
    """Conjugate gradients, all channels as one system: ``weight * v - around(v) = right``."""
    grids = _grids(missing, right.shape[-1])
    unknown, weight = grids[0].unknown, grids[0].weight
    v, residual = np.zeros_like(right), unknown * right
    way, product = np.zeros_like(right), 1.0
    enough = _PRECISION * float(np.abs(residual).max())
    for _ in range(_ROUNDS):
        if float(np.abs(residual).max()) <= enough:
            break
        z = _cycle(grids, residual)
        before, product = product, _dot(residual, z)
        way *= product / before
        way += z
        moved = unknown * (weight * way - _around(way))
        step = product / _dot(way, moved)
        v += step * way
        residual -= step * moved
    return v


def _dot(a: Array, b: Array) -> float:
    return max(float(np.einsum("hwc,hwc->", a, b)), _TINY)


def _spread(values: Array, channels: int) -> Array:
    """(H, W) -> float32 (H, W, C): products of whole arrays take a fraction of the time of those that are broadcast."""
    return np.repeat(values.astype(np.float32)[..., None], channels, axis=-1)


# ---- the multigrid step ----


@dataclass(frozen=True)
class _Grid:
    """One resolution: its weights, 1 at the unknowns, and there the damped inverse of the weights."""

    weight: Array
    unknown: Array
    step: Array


def _grids(missing: NDArray[np.bool_], channels: int) -> list[_Grid]:
    """Each half as fine as the one before; unknown is what was unknown altogether."""
    grids = []
    while True:
        weight = _around(np.ones((*missing.shape, channels), np.float32))
        unknown = _spread(missing, channels)
        grids.append(_Grid(weight, unknown, unknown * (np.float32(_DAMPING) / weight)))
        if max(missing.shape) <= _SMALL:
            return grids
        missing = _quarters(_spread(missing, 1), "edge")[..., 0] > 3.5


def _quarters(values: Array, beyond: str = "constant") -> Array:
    """(H, W, C) -> the sums of two by two pixels; an odd last row or column gets a neighbour first."""
    h, w, _ = values.shape
    even = np.pad(values, [(0, h % 2), (0, w % 2), (0, 0)], mode=beyond) if h % 2 or w % 2 else values  # type: ignore[call-overload]
    rows = even[::2] + even[1::2]
    return np.asarray(rows[:, ::2] + rows[:, 1::2])


def _doubled(values: Array, shape: tuple[int, ...]) -> Array:
    """Each pixel four times."""
    import cv2

    whole = cv2.resize(values, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    return np.asarray(whole).reshape(2 * len(values), -1, shape[2])[: shape[0], : shape[1]]


def _cycle(grids: list[_Grid], right: Array) -> Array:
    """One V-cycle, which is symmetric: smooth, correct on the coarser grid, smooth."""
    grid, *coarser = grids
    v = grid.step * right
    for _ in range(0 if coarser else _SMALL):
        v += grid.step * _rest(grid, v, right)
    if coarser:
        rest = _quarters(_rest(grid, v, right) * grid.unknown)
        v += _doubled(_cycle(coarser, rest), right.shape) * grid.unknown
        v += grid.step * _rest(grid, v, right)
    return np.asarray(v)


def _rest(grid: _Grid, v: Array, right: Array) -> Array:
    rest = _around(v)
    rest += right
    rest -= grid.weight * v
    return rest
