"""Figures of several explanations: methods x classes, and a sweep over layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcam.core.overlay import panel
from onnxcam.explanation import Explanation
from onnxcam.methods import METHODS

Pixels = npt.NDArray[np.uint8]
_COLUMNS = 6  # of a sweep that has the page for itself
_LEAST = 240  # pixels across; below it the text over a tile is cut off
Draw = Callable[[Explanation], Pixels]


def grid(picture: Pixels, found: Sequence[Sequence[Explanation]], draw: Draw) -> Pixels:
    """A row per method, a column per target, the picture itself in front."""
    tiles, labels = [], []
    for row in found:
        tiles += [picture, *map(draw, row)]
        labels += [METHODS[row[0].method].title, *(e.title for e in row)]
    return panel(_alike(tiles), columns=1 + len(found[0]), labels=labels)


def layers(picture: Pixels, found: Sequence[Sequence[Explanation]], draw: Draw) -> Pixels:
    """A row per method and target, a column per layer from the image on, the picture itself in front."""
    tiles, labels = [], []
    for e in (e for row in found for e in row):
        parts = e.per_layer()
        tiles += [picture, *map(draw, parts)]
        labels += [f"{METHODS[e.method].title}: {e.title}", *(f"{_size(p.cam)} {_short(p.layer)}" for p in parts)]
    rows = sum(len(row) for row in found)
    columns = len(tiles) // rows if rows > 1 else min(len(tiles), _COLUMNS)
    return panel(_alike(tiles), columns=columns, labels=labels)


def _size(cam: npt.NDArray[Any]) -> str:
    return "x".join(map(str, cam.shape))


def _short(layer: str) -> str:
    """The end of a long name is what tells layers apart."""
    return layer if len(layer) <= 24 else "..." + layer[-21:]


def _alike(tiles: Sequence[Pixels]) -> list[Pixels]:
    """All of one size: the largest, and wide enough to be read."""
    from onnxcam.core.maps import resize_pixels

    height, width = max(t.shape[:2] for t in tiles)
    factor = max(1, -(-_LEAST // width))
    size = (height * factor, width * factor)
    return [
        t if t.shape[:2] == size else resize_pixels(t, size, "nearest" if factor > 1 else "bilinear") for t in tiles
    ]
