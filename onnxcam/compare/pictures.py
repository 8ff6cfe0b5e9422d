"""Side by side: the picture, what the one model says, what the other says, and where they differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcam import pages
from onnxcam.core.maps import resize_pixels
from onnxcam.core.overlay import overlay, panel
from onnxcam.explanation import Explanation

Pixels = npt.NDArray[np.uint8]
_SIZES = 224, 512  # of a tile's longer side: wide enough for its head line, and no larger than a screen shows


def tile(picture: Pixels) -> Pixels:
    """Brought to a size that can be looked at; uint8 (H, W, 3)."""
    height, width = picture.shape[:2]
    longest = max(height, width)
    factor = min(max(longest, _SIZES[0]), _SIZES[1]) / longest
    if factor == 1:
        return picture
    size = max(1, round(height * factor)), max(1, round(width * factor))
    return resize_pixels(picture, size, "nearest" if factor > 1 else "bilinear")


def side_by_side(a: Explanation, b: Explanation) -> Pixels:
    """Four tiles: picture, overlay of A, overlay of B, ``|A - B|`` on a scale that is the same for all pictures."""
    assert a.image is not None
    away = np.abs(a.heatmap_on_image() - b.heatmap_on_image())
    tiles = [a.image, a.overlay(), b.overlay(), overlay(a.image, away, blend=0.7, colormap="inferno")]
    labels = ["picture", f"A: {a.title}", f"B: {b.title}", f"|A - B| up to {float(away.max()):.2g}"]
    return panel([tile(t) for t in tiles], columns=4, labels=labels)


def data_uri(picture: Pixels) -> str:
    """A tile as text, for a page of its own: a JPEG, for photos a quarter of a PNG."""
    return pages.data_uri(tile(picture))


def overlays(a: Explanation, b: Explanation) -> tuple[Any, Any, Any]:
    """Picture and both overlays, as :func:`data_uri`."""
    assert a.image is not None
    return data_uri(a.image), data_uri(a.overlay()), data_uri(b.overlay())
