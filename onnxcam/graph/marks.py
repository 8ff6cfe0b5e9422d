"""Arrays of places: complex numbers, ``row + 1j * column`` on a grid, and two marks for what has no place.

``NOWHERE`` stands for class and register tokens and padding, ``EVERYWHERE`` for what mixes the places of a whole
picture or window. Axes along which nothing changes have stride 0, so that wide features cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Complex = npt.NDArray[np.complex128]
NOWHERE, EVERYWHERE = complex(np.nan, 0), complex(np.inf, 0)


def raster(height: int, width: int) -> Complex:
    """(height, width): the place of every pixel."""
    return np.asarray(np.arange(height)[:, None] + 1j * np.arange(width)[None])


def thin(a: Complex) -> Complex:
    """The same with length 1 along axes where nothing changes."""
    return a[tuple(slice(0, 1) if step == 0 else slice(None) for step in a.strides)]


def compact(a: Complex) -> Complex:
    """The same with stride 0 along axes where nothing changes."""
    small = thin(a)
    for axis in range(small.ndim):
        first = small[(slice(None),) * axis + (slice(0, 1),)]
        if small.shape[axis] > 1 and np.array_equal(np.broadcast_to(first, small.shape), small, equal_nan=True):
            small = first
    return np.broadcast_to(small, a.shape)


def located(a: Complex) -> bool:
    """Whether any element has a place."""
    return bool(np.isfinite(thin(a)).any())


def overlaid(arrays: Sequence[Complex], shape: tuple[int, ...]) -> Complex:
    """Places of an elementwise combination: those of the operand that has one.

    Where two differ, an operand that is broadcast (the mean of what it is subtracted from, say) gives way; else they
    are mixed.
    """
    found, size = thin(np.broadcast_to(NOWHERE, shape)), 0
    for a in sorted(arrays, key=lambda a: -a.size):
        small = thin(a)
        free, other = ~np.isfinite(found), ~np.isfinite(small)
        mixed = ~free & ~other & (found != small) & (a.size == size)
        lone = np.where(np.isinf(found) | np.isinf(small), EVERYWHERE, NOWHERE)
        found = np.where(mixed, EVERYWHERE, np.where(~free, found, np.where(~other, small, lone)))
        size = a.size
    return np.broadcast_to(compact(found), shape)


def merged(a: Complex, axes: tuple[int, ...]) -> Complex:
    """Places of a sum over axes, which stay with length 1: the middle of what is summed, on a grid of its own.

    Where all places of the value would meet in one, nothing is left of them.
    """
    small = thin(a)
    if all(small.shape[k] == 1 for k in axes):
        return np.broadcast_to(small, [1 if k in axes else n for k, n in enumerate(a.shape)])
    finite = np.isfinite(small)
    count = finite.sum(axis=axes, keepdims=True)
    total = np.where(finite, small, 0).sum(axis=axes, keepdims=True)
    anywhere = np.isinf(small).any(axis=axes, keepdims=True)
    middle = np.where(count > 0, total / np.maximum(count, 1), np.where(anywhere, EVERYWHERE, NOWHERE))
    places = np.unique(middle[np.isfinite(middle)])
    if len(places) <= 1 and np.isfinite(middle).any():
        middle = np.where(np.isfinite(middle), EVERYWHERE, middle)
    return np.broadcast_to(regridded(middle), [1 if k in axes else n for k, n in enumerate(a.shape)])


def regridded(a: Complex) -> Complex:
    """Rows and columns numbered anew."""
    finite = np.isfinite(a)
    if not finite.any():
        return a
    found = a.copy()
    rows, columns = (np.unique(np.round(part[finite], 6), return_inverse=True)[1] for part in (a.real, a.imag))
    found[finite] = rows.reshape(-1) + 1j * columns.reshape(-1)
    return found


def is_whole(a: Complex) -> bool:
    """Whether (1, C, h, w) is a picture as it lies, perhaps padded."""
    small = thin(a)
    if a.ndim != 4 or a.shape[0] != 1 or not np.isfinite(small).any():
        return False
    grid = np.broadcast_to(small, (1, small.shape[1], *a.shape[2:]))
    finite = np.asarray(np.isfinite(grid).any(axis=(0, 1)))
    rows, columns = np.flatnonzero(finite.any(axis=1)), np.flatnonzero(finite.any(axis=0))
    grid = regridded(grid[:, :, rows][..., columns])
    return bool(np.all(grid == raster(*grid.shape[2:])))
