"""Maps that know nothing of the model: what a method has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..core import maps
from ..errors import OptionError

Map = NDArray[np.float32]
_WIDTH = 0.25  # of a side


def random_map(size: tuple[int, int], seed: int | Sequence[int] = 0) -> Map:
    """Uniform noise from 0 to 1.

    Args:
        size: (h, w) of the method's own map: noise at the resolution of the picture would look finer than any method's.
        seed: of the noise; give each image its own, such as ``(seed, number)``.

    Returns:
        (h, w) float32, a ``cam``.

    Raises:
        OptionError: a side below 1.
    """
    _check(size)
    return np.random.default_rng(seed).random(size, dtype=np.float32)


def centre_gaussian(size: tuple[int, int]) -> Map:
    """A Gaussian round the centre, since photographers put things there: 1 in the middle, of a quarter side's width.

    ``exp(-((y - H/2)**2 / (2 (H/4)**2) + (x - W/2)**2 / (2 (W/4)**2)))`` at the centres of the pixels.

    Args:
        size: (h, w) of the method's own map.

    Returns:
        (h, w) float32, a ``cam``.

    Raises:
        OptionError: a side below 1.
    """
    _check(size)
    down, across = (np.exp(-((((np.arange(n) + 0.5) / n - 0.5) / _WIDTH) ** 2) / 2) for n in size)
    return np.outer(down, across).astype(np.float32)


def _check(size: tuple[int, int]) -> None:
    if min(size) < 1:
        raise OptionError(f"a map of size {size} has no values: give (h, w), both at least 1")


def heatmap_of(cam: Map, size: tuple[int, int]) -> Map:
    """Bring a baseline to the model's input as methods are: ReLU, bilinear to ``size = (H, W)``, over the maximum."""
    grown = maps.resize(np, maps.relu(np, cam[None]), size)
    return np.asarray(maps.normalize(np, grown)[0], np.float32)
