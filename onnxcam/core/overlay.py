"""Pictures of explanations: colour maps, overlays, signed maps, panels. All pictures are uint8 (H, W, 3), RGB."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, UnknownNameError

Pixels = NDArray[np.uint8]

COLORMAPS = (
    *("jet", "turbo", "viridis", "inferno", "magma", "plasma", "cividis", "hot", "bone", "parula", "rainbow"),
    *("hsv", "cool", "pink", "ocean", "spring", "summer", "autumn", "winter", "twilight", "twilight_shifted"),
    "deepgreen",
)
"""OpenCV's colour maps."""
DIVERGING = "diverging"
"""For signed maps: blue (against), white (0), red (for); see `diverging`."""

_GAP, _WHITE, _BLACK = 4, 255, 0


def _to_levels(values: NDArray[Any]) -> Pixels:
    """0..1 to 0..255, rounded."""
    return np.asarray(np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)


def _finite(values: NDArray[Any], what: str) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise OptionError(f"the {what} holds NaN or infinite values: it cannot be shown")
    return values.astype(np.float32)


def _heatmap(heatmap: NDArray[Any]) -> NDArray[np.float32]:
    if heatmap.ndim != 2 or not heatmap.size:
        raise OptionError(f"a heatmap has shape (H, W), not {heatmap.shape}: give one sample at a time")
    low, high = float(heatmap.min()), float(heatmap.max())
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # NaN compares false
        _finite(heatmap, "heatmap")
        raise OptionError(f"the heatmap runs from {low:g} to {high:g}, not from 0 to 1: normalise it first")
    return np.ascontiguousarray(heatmap, np.float32)


# ---- colour ----


@cache
def colormap_table(name: str) -> Pixels:
    """The 256 colours of a colour map, for 0 to 1: uint8 (256, 3), RGB, read-only.

    Raises:
        UnknownNameError: No such colour map.
    """
    if name not in COLORMAPS:
        raise UnknownNameError.of("colormap", name, COLORMAPS)
    import cv2

    ramp = np.arange(256, dtype=np.uint8)[:, None]
    bgr = cv2.applyColorMap(ramp, getattr(cv2, f"COLORMAP_{name.upper()}"))
    table = np.array(bgr[:, 0, ::-1], np.uint8)
    table.flags.writeable = False
    return table


def colorize(heatmap: NDArray[Any], colormap: str = "jet") -> Pixels:
    """Colour a heatmap.

    Args:
        heatmap: float (H, W), 0 to 1.
        colormap: One of `COLORMAPS`.

    Returns:
        uint8 (H, W, 3).

    Raises:
        UnknownNameError: No such colour map.
        OptionError: Another shape, values outside of 0 to 1, or NaN.
    """
    import cv2

    table = colormap_table(colormap)[:, None]
    return np.asarray(cv2.applyColorMap(cv2.convertScaleAbs(_heatmap(heatmap), alpha=255), table), np.uint8)


def saliency_image(gradient_map: NDArray[Any]) -> Pixels:
    """A signed pixel map as it is usually shown for guided backpropagation: mean to 0.5, deviation to 0.1, clipped.

    (Springenberg et al. 2015 show such pictures; the scaling is the convention of Keras' filter visualisations.)

    Args:
        gradient_map: float (H, W, 3), signed, any scale.

    Returns:
        uint8 (H, W, 3); a constant map is grey.

    Raises:
        OptionError: Another shape, or NaN.
    """
    if gradient_map.ndim != 3 or gradient_map.shape[2] != 3:
        raise OptionError(f"a pixel map has shape (H, W, 3), not {gradient_map.shape}")
    values = _finite(gradient_map, "pixel map").astype(np.float64)
    centred = values - values.mean()
    return _to_levels(0.5 + 0.1 * centred / (centred.std() or 1.0))


def diverging(signed: NDArray[Any]) -> Pixels:
    """A signed map in blue (against), white (0) and red (for), scaled by its largest absolute value.

    Args:
        signed: float (H, W), any scale.

    Returns:
        uint8 (H, W, 3); an all-zero map is white.

    Raises:
        OptionError: Another shape, or NaN.
    """
    if signed.ndim != 2:
        raise OptionError(f"a signed map has shape (H, W), not {signed.shape}: give one sample at a time")
    values = _finite(signed, "signed map")
    strength = values / (float(np.abs(values).max(initial=0)) or 1.0)
    red, blue = 1 + np.minimum(strength, 0), 1 - np.maximum(strength, 0)
    return _to_levels(np.stack([red, 1 - np.abs(strength), blue], axis=2))


# ---- overlays ----


def _strength(signed: NDArray[Any]) -> NDArray[np.float32]:
    strength = np.abs(signed)
    return np.asarray(strength / (strength.max() or 1.0), np.float32)


def _blend(image: Pixels, heatmap: NDArray[np.float32], colour: Pixels, share: float) -> Pixels:
    return _weighted(image, 1 - share, colour, share)


def _add(image: Pixels, heatmap: NDArray[np.float32], colour: Pixels, share: float) -> Pixels:
    import cv2

    top = int(cv2.add(image, colour, dtype=cv2.CV_16U).max())
    return _weighted(image, 255 / (top or 1), colour, 255 / (top or 1))


def _weighted(image: Pixels, share: float, colour: Pixels, other: float) -> Pixels:
    import cv2

    return np.asarray(cv2.addWeighted(image, share, colour, other, 0), np.uint8)


def _mask(image: Pixels, heatmap: NDArray[np.float32], colour: Pixels, share: float) -> Pixels:
    import cv2

    return np.asarray(cv2.multiply(image, cv2.merge([heatmap] * 3), dtype=cv2.CV_8U), np.uint8)


_STYLES: dict[str, Callable[[Pixels, NDArray[np.float32], Pixels, float], Pixels]] = {
    "blend": _blend,
    "add": _add,
    "mask": _mask,
}
STYLES = tuple(_STYLES)


def overlay(
    image: Pixels,
    heatmap: NDArray[Any],
    *,
    style: str = "blend",
    blend: float = 0.5,
    colormap: str = "jet",
    title: str | None = None,
) -> Pixels:
    """Lay a heatmap over the picture that it explains.

    Args:
        image: uint8 (H, W, 3).
        heatmap: float (H, W), 0 to 1, of the picture's size.
        style: ``"blend"``: ``(1 - blend) * image + blend * colour``. ``"add"``: ``image + colour``, divided by its
            maximum, as in most Grad-CAM examples. ``"mask"``: ``image * heatmap``, only the evidence stays bright.
            All to the nearest grey level.
        blend: The share of the colour, 0 to 1.
        colormap: One of `COLORMAPS`; or `DIVERGING`, for a signed heatmap of any scale.
        title: Text for a strip above the picture. What is not ASCII is replaced, what is too long shortened.

    Returns:
        uint8 (H, W, 3); with a title, higher by its strip.

    Raises:
        UnknownNameError: No such style or colour map.
        OptionError: ``blend`` outside of 0 to 1, or a heatmap of another size or range.
    """
    if style not in _STYLES:
        raise UnknownNameError.of("overlay style", style, STYLES)
    if not 0 <= blend <= 1:
        raise OptionError(f"blend={blend}: it must lie between 0 (only the picture) and 1 (only the heatmap)")
    if heatmap.shape != image.shape[:2]:
        raise OptionError(
            f"the heatmap is {heatmap.shape}, the picture {image.shape[:2]}: bring it to the picture's size first"
        )
    signed = colormap == DIVERGING
    colour = diverging(heatmap) if signed else colorize(heatmap, colormap)
    values = _strength(heatmap) if signed else heatmap.astype(np.float32, copy=False)
    picture = np.ascontiguousarray(np.broadcast_to(image, colour.shape), np.uint8)
    result = _STYLES[style](picture, values, colour, blend)
    return result if title is None else _with_strip(result, title)


# ---- text and panels ----


def _ascii(text: str) -> str:
    """OpenCV below 5 draws ASCII only: drop accents, replace the rest."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" else "?" for c in " ".join(plain.split()))


def _fitting(text: str, width: Callable[[str], int], room: int) -> str:
    """``text``, or its longest beginning that fits into ``room`` with "..." behind it."""
    if width(text) <= room:
        return text
    for end in range(len(text) - 1, 0, -1):
        if width(text[:end].rstrip() + "...") <= room:
            return text[:end].rstrip() + "..."
    return ""


def _with_strip(picture: Pixels, text: str) -> Pixels:
    """``text`` in black on a white strip above the picture."""
    import cv2

    total, font = picture.shape[1], cv2.FONT_HERSHEY_SIMPLEX
    scale = min(max(total / 600, 0.35), 2.0)
    thick, margin = max(1, round(scale)), max(2, round(6 * scale))
    (_, ascent), descent = cv2.getTextSize("Ag|", font, scale, thick)
    line = _fitting(_ascii(text), lambda t: int(cv2.getTextSize(t, font, scale, thick)[0][0]), total - 2 * margin)
    strip = np.full((ascent + descent + 2 * margin, total, 3), _WHITE, np.uint8)
    cv2.putText(strip, line, (margin, margin + ascent), font, scale, (_BLACK,) * 3, thick, cv2.LINE_AA)
    return np.concatenate([strip, picture])


def panel(images: Sequence[Pixels], columns: int | None = None, labels: Sequence[str] | None = None) -> Pixels:
    """Tile pictures of one size, row by row, with thin white gaps; empty places are white.

    Args:
        images: uint8 (H, W, 3) each.
        columns: Pictures in a row; by default all of up to four, else as square as it gets.
        labels: One text per picture, on a strip above it.

    Returns:
        uint8 (rows * (H + 4) - 4, columns * (W + 4) - 4, 3); H counts the strip.

    Raises:
        OptionError: No pictures, different sizes, another number of labels, or no columns.
    """
    sizes = list(dict.fromkeys(image.shape for image in images))
    if len(sizes) != 1:
        raise OptionError(f"a panel needs pictures of one size; these are {sizes or 'none'}")
    if labels is not None and len(labels) != len(images):
        raise OptionError(f"{len(labels)} labels for {len(images)} pictures: give one each")
    if columns is not None and columns < 1:
        raise OptionError(f"columns={columns}: a panel needs at least one")
    tiles = [_with_strip(i, t) for i, t in zip(images, labels, strict=True)] if labels else list(images)
    return _tiled(tiles, columns or (len(tiles) if len(tiles) <= 4 else math.ceil(math.sqrt(len(tiles)))))


def _tiled(tiles: Sequence[Pixels], columns: int) -> Pixels:
    h, w, _ = tiles[0].shape
    columns, rows = min(columns, len(tiles)), math.ceil(len(tiles) / columns)
    sheet = np.full((rows * (h + _GAP) - _GAP, columns * (w + _GAP) - _GAP, 3), _WHITE, np.uint8)
    for index, tile in enumerate(tiles):
        y, x = index // columns * (h + _GAP), index % columns * (w + _GAP)
        sheet[y : y + h, x : x + w] = tile
    return sheet
