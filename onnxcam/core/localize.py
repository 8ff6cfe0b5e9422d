"""Where the evidence lies: masks, boxes and peaks of a heatmap, and the way back onto the picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from .bands import Bands, Taps, find_taps
from .maps import resize_pixels


def _checked(heatmap: NDArray[Any]) -> NDArray[Any]:
    if heatmap.ndim != 2 or not heatmap.size:
        raise OptionError(f"a heatmap has shape (H, W), not {heatmap.shape}: give one sample at a time")
    bad = int(heatmap.size - np.isfinite(heatmap).sum())
    if bad:
        raise OptionError(f"the heatmap has {bad} of {heatmap.size} values that are NaN or infinite")
    return heatmap


def threshold_mask(heatmap: NDArray[Any], threshold: float = 0.15) -> NDArray[np.bool_]:
    """What is strong: ``heatmap >= threshold * max`` (15 % of the maximum: Grad-CAM, Selvaraju 2017, 4.1).

    Args:
        heatmap: float (H, W).
        threshold: Share of the maximum, above 0, at most 1.

    Returns:
        Bool (H, W); empty where nothing is positive.

    Raises:
        OptionError: Another shape, NaN, or a threshold outside of its range.
    """
    if not 0 < threshold <= 1:
        raise OptionError(f"threshold={threshold}: it must be above 0 and at most 1")
    values = _checked(heatmap).astype(np.float64)
    return np.asarray((values > 0) & (values >= threshold * values.max()))


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Labels (H, W) from 1, 0 outside, and per label left, top, width, height and pixels; diagonals connect."""
    import cv2

    _, labels, table, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    table = np.asarray(table, np.int32)
    table[0, cv2.CC_STAT_AREA] = 0
    return np.asarray(labels, np.int32), table


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The component of ``mask`` (H, W) with the most pixels, diagonals connected; empty if ``mask`` is."""
    labels, table = _components(mask)
    return np.asarray((labels == table[:, 4].argmax()) & mask)


def without_small(mask: NDArray[np.bool_], min_area: int) -> NDArray[np.bool_]:
    """``mask`` (H, W) without its components of fewer than ``min_area`` pixels."""
    labels, table = _components(mask)
    return np.asarray((table[:, 4] >= max(min_area, 1))[labels])


def component_corners(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Boxes (K, 4) round the components of ``mask`` (H, W), the one with the most pixels first.

    x0, y0, x1, y1 in pixels, x1 and y1 one past the last.
    """
    table = _components(mask)[1][1:]
    ordered = table[np.argsort(-table[:, 4], kind="stable")]
    return np.concatenate([ordered[:, :2], ordered[:, :2] + ordered[:, 2:4]], axis=1)


@dataclass(frozen=True)
class Box:
    """A box around evidence, in pixels: x0 <= x < x1, y0 <= y < y1.

    Attributes:
        x0: Left.
        y0: Top.
        x1: Right, one past the last pixel.
        y1: Bottom, one past the last pixel.
        score: The heatmap's highest value inside.
        area: Pixels of the component inside, at most the box's own.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    score: float
    area: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1."""
        return self.x0, self.y0, self.x1, self.y1


def boxed_components(heatmap: NDArray[Any], mask: NDArray[np.bool_]) -> list[tuple[Box, NDArray[np.bool_]]]:
    """Each component of ``mask`` (H, W) within its box, scored by ``heatmap`` (H, W); as `boxes_in` orders them."""
    labels, table = _components(mask)
    found = []
    for label, (x0, y0, width, height, area) in enumerate(table[1:].tolist(), 1):
        place = np.s_[y0 : y0 + height, x0 : x0 + width]
        own = labels[place] == label
        found.append((Box(x0, y0, x0 + width, y0 + height, float(heatmap[place][own].max()), area), own))
    return sorted(found, key=lambda pair: (-pair[0].score, -pair[0].area, pair[0].y0, pair[0].x0))


def boxes_in(heatmap: NDArray[Any], mask: NDArray[np.bool_]) -> list[Box]:
    """A box round each component of ``mask`` (H, W), scored by ``heatmap`` (H, W), the highest score first.

    Equal scores come larger first, then in reading order.
    """
    return [box for box, _ in boxed_components(heatmap, mask)]


def boxes(heatmap: NDArray[Any], threshold: float = 0.15, largest_only: bool = True, min_area: int = 0) -> list[Box]:
    """Boxes around the components of `threshold_mask`, the highest score first.

    Args:
        heatmap: float (H, W).
        threshold: Share of the maximum.
        largest_only: Only the largest component, as in Grad-CAM's weakly supervised localisation (4.1).
        min_area: Leave out components of fewer pixels.

    Returns:
        None where nothing is positive; equal scores come larger first, then in reading order.

    Raises:
        OptionError: As `threshold_mask`.
    """
    mask = threshold_mask(heatmap, threshold)
    return boxes_in(heatmap, without_small(largest_component(mask) if largest_only else mask, min_area))


def peak(heatmap: NDArray[Any]) -> tuple[int, int]:
    """(row, column) of the highest value of a heatmap (H, W).

    On a plateau: the highest pixel closest to the centre of all highest ones, the first in reading order.

    Raises:
        OptionError: Another shape, or NaN.
    """
    top = np.argwhere(_checked(heatmap) == heatmap.max())
    row, column = top[np.argmin(((top - top.mean(axis=0)) ** 2).sum(axis=1))]
    return int(row), int(column)


def energy_inside(heatmap: NDArray[Any], mask: NDArray[np.bool_]) -> float:
    """Share of the positive evidence that lies inside a mask (energy-based pointing game: Wang 2020, Score-CAM).

    Args:
        heatmap: float (H, W); negative values count as 0.
        mask: Bool (H, W).

    Returns:
        0 to 1; 0 where nothing is positive.

    Raises:
        OptionError: Shapes that differ, or NaN.
    """
    if heatmap.shape != mask.shape or mask.dtype != np.bool_:
        raise OptionError(f"the mask is {mask.dtype} {mask.shape}: it must be bool {heatmap.shape}")
    evidence = np.maximum(_checked(heatmap).astype(np.float64), 0)
    return float(evidence[mask].sum() / (evidence.sum() or 1.0))


# ---- the way to the model's input and back ----


def _scaled(source: tuple[int, int], target: tuple[int, int], cover: bool) -> tuple[int, int]:
    """Keep the aspect ratio: cover ``target`` (long side rounded down, as torchvision) or lie within it."""
    (h, w), (height, width) = source, target
    if (height * w >= width * h) == cover:
        return height, w * height // h if cover else max(1, (2 * w * height + h) // (2 * h))
    return h * width // w if cover else max(1, (2 * h * width + w) // (2 * w)), width


def _seen(source: int, resized: int, offset: int, size: int) -> NDArray[np.bool_]:
    centres = (np.arange(source) + 0.5) * resized / source - offset
    return (centres >= 0) & (centres < size)


@lru_cache(maxsize=32)
def _back(kind: str, source: int, resized: int, offset: int, size: int) -> Bands:
    """One axis of the way back, a matrix (source, size): zero rows for what the model did not see."""
    lo, hi = max(0, -offset), min(size, resized - offset)
    taps = find_taps(hi - lo, source, kind, span=(float(-offset - lo), float(resized - offset - lo)))
    seen = _seen(source, resized, offset, size)
    return Bands.of(Taps(taps.inputs + lo, np.where(seen[:, None], taps.weights, 0.0)), np.float32)


@dataclass(frozen=True)
class Placement:
    """Where a picture lies in the model's input: resized as a whole, then cut or padded.

    Pixel (r, c) of the input is pixel (r, c) + ``offset`` of the resized picture; a negative offset is padding.
    All pairs are (vertical, horizontal).
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def stretch(cls, source: tuple[int, int], size: tuple[int, int]) -> Placement:
        """The whole picture, its aspect ratio lost."""
        return cls(source, size, (0, 0), size)

    @classmethod
    def crop(cls, source: tuple[int, int], size: tuple[int, int], ratio: float, keep_aspect: bool = True) -> Placement:
        """The centre: resized to cover ``size / ratio``, then cut (torchvision's Resize and CenterCrop).

        Without ``keep_aspect`` it is stretched to ``size / ratio`` (DeiT's; timm's ``squash``).
        """
        whole = round(size[0] / ratio), round(size[1] / ratio)
        resized = _scaled(source, whole, cover=True) if keep_aspect else whole
        corner = round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2)
        return cls(source, resized, corner, size)

    @classmethod
    def letterbox(cls, source: tuple[int, int], size: tuple[int, int], centred: bool = True) -> Placement:
        """The whole picture with its aspect ratio, padded on both sides, or at the bottom and right."""
        resized = _scaled(source, size, cover=False)
        share = 2 if centred else max(size) + 1
        return cls(source, resized, (-((size[0] - resized[0]) // share), -((size[1] - resized[1]) // share)), size)

    def _axes(self) -> list[tuple[int, int, int, int]]:
        return list(zip(self.source, self.resized, self.offset, self.size, strict=True))

    def to_input(
        self, picture: NDArray[np.uint8], kind: str = "bilinear", antialias: bool = True, fill: int = 114
    ) -> NDArray[np.uint8]:
        """Resize, cut and pad: uint8 (H0, W0, C) to (H, W, C); see `resize_pixels`."""
        (top, bottom), (left, right) = (
            (max(0, offset), min(resized, offset + size)) for _, resized, offset, size in self._axes()
        )
        y, x = self.offset
        canvas = np.full((*self.size, picture.shape[2]), fill, np.uint8)
        pixels = resize_pixels(picture, self.resized, kind, antialias, (top, left, bottom, right))
        canvas[top - y : bottom - y, left - x : right - x] = pixels
        return canvas

    def to_image(self, heatmap: NDArray[Any], kind: str = "bilinear") -> NDArray[np.float32]:
        """Bring a heatmap back onto the original picture; what the model did not see gets 0.

        Args:
            heatmap: float (H, W), the size of the model's input. Its letterbox margin is left out.
            kind: ``"bilinear"``, ``"bicubic"`` (kept within the heatmap's own range) or ``"nearest"``.

        Returns:
            float32 (H0, W0), the size of the picture.

        Raises:
            OptionError: A heatmap of another size.
        """
        if heatmap.shape != self.size:
            raise OptionError(f"the heatmap is {heatmap.shape}, the model's input {self.size}: resize it first")
        down, across = (_back(kind, *axis) for axis in self._axes())
        values = heatmap.astype(np.float32)
        whole = across.across(down.down(values, np.float32), np.float32)
        return np.clip(whole, min(0.0, float(values.min())), max(0.0, float(values.max())), out=whole)

    def mask(self) -> NDArray[np.bool_]:
        """Bool (H0, W0): True where the model looked; pixel centres decide."""
        down, across = (_seen(*axis) for axis in self._axes())
        return np.logical_and.outer(down, across)

    def point_to_input(self, x: float, y: float) -> tuple[float, float]:
        """A point (x, y) in pixels of the picture, in pixels of the model's input; beyond it where it is cut off."""
        (height, tall, top, _), (width, wide, left, _) = self._axes()
        return x * wide / width - left, y * tall / height - top

    def box_to_image(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Bring a box (x0, y0, x1, y1) in pixels of the model's input to pixels of the picture, clipped to it."""

        def back(value: float, source: int, resized: int, offset: int, size: int) -> float:
            return min(max((value + offset) * source / resized, 0.0), float(source))

        vertical, horizontal = self._axes()
        x0, y0, x1, y1 = box
        return back(x0, *horizontal), back(y0, *vertical), back(x1, *horizontal), back(y1, *vertical)
