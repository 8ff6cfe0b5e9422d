"""A line of text above a frame of a video."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from .overlay import _ascii, _fitting

Pixels = NDArray[np.uint8]
_GROUND, _INK = 24, 240


def captioned(picture: Pixels, left: str, right: str = "") -> Pixels:
    """A dark bar above the picture, with a text at its left and one at its right end.

    Args:
        picture: uint8 (H, W, 3).
        left: Shortened where both do not fit. What is not ASCII is replaced.
        right: Left out where it alone takes more than half of the width.

    Returns:
        uint8 (H + h, W, 3), h even; it depends on the width alone, so that all frames of a video have one size.
    """
    import cv2

    total = picture.shape[1]
    scale, thick, margin, base, height = _measures(total)

    def width(text: str) -> int:
        return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)[0][0])

    bar = np.full((height, total, 3), _GROUND, np.uint8)
    end = _ascii(right) if width(_ascii(right)) + 2 * margin <= total / 2 else ""
    room = total - 2 * margin - (width(end) + 2 * margin if end else 0)
    for text, x in ((_fitting(_ascii(left), width, room), margin), (end, total - margin - width(end))):
        cv2.putText(bar, text, (x, base), cv2.FONT_HERSHEY_SIMPLEX, scale, (_INK,) * 3, thick, cv2.LINE_AA)
    return np.concatenate([bar, picture])


@cache
def _measures(total: int) -> tuple[float, int, int, int, int]:
    """Scale and thickness of the letters, margin, base line and height of the bar."""
    import cv2

    scale = min(max(total / 800, 0.35), 1.5)
    thick, margin = max(1, round(scale)), max(2, round(8 * scale))
    (_, ascent), descent = cv2.getTextSize("Ag|", cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    height = ascent + descent + 2 * margin
    return scale, thick, margin, margin + ascent, height + height % 2
