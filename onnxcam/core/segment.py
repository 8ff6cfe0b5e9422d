"""Weak segmentation: the object's pixels, from a heatmap and, where it helps, the picture itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, UnknownNameError
from .localize import largest_component, threshold_mask, without_small

Mask = NDArray[np.bool_]
REFINEMENTS = ("grabcut",)
_BINS = 256
_ROUNDS = 5
_SIDE = 512  # GrabCut takes seconds at this size and minutes at a camera's


def otsu(heatmap: NDArray[Any]) -> float:
    """The threshold that parts strong from weak values best, as a share of the maximum.

    Otsu, "A Threshold Selection Method from Gray-Level Histograms", 1979, https://doi.org/10.1109/TSMC.1979.4310076:
    of the histogram of the positive part, in 256 bins from 0 to the maximum, the cut with the largest
    ``w0 * w1 * (mean1 - mean0)**2``; the lowest of equal ones.

    Args:
        heatmap: float (H, W); negative values count as 0.

    Returns:
        Above 0, at most 255 / 256; 1 / 256 where there is only one level.

    Raises:
        OptionError: Another shape, or NaN.
    """
    threshold_mask(heatmap, 1.0)  # checks it
    values = np.maximum(heatmap.astype(np.float64), 0)
    top = float(values.max()) or 1.0
    counts = np.bincount(np.minimum((values / top * _BINS).astype(int), _BINS - 1).ravel(), minlength=_BINS)
    below, sums = np.cumsum(counts)[:-1], np.cumsum(counts * np.arange(_BINS))
    above = counts.sum() - below
    gap = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(np.argmax(below * above * gap**2) + 1) / _BINS


def _share(heatmap: NDArray[Any], threshold: float | str) -> float:
    if isinstance(threshold, str):
        if threshold != "otsu":
            raise UnknownNameError.of("threshold", threshold, ("otsu",), "A share of the maximum will do as well")
        return otsu(heatmap)
    return threshold


def segment(
    heatmap: NDArray[Any],
    threshold: float | str = 0.15,
    largest_only: bool = False,
    min_area: int = 0,
    picture: NDArray[np.uint8] | None = None,
) -> Mask:
    """The pixels of the object.

    Args:
        heatmap: float (H, W).
        threshold: share of the maximum, above 0, at most 1; or ``"otsu"``.
        largest_only: only the largest component, diagonals connected.
        min_area: leave out components of fewer pixels.
        picture: uint8 (H, W, 3); if given, the edges of the mask are moved to the picture's by `grabcut`.

    Returns:
        Bool (H, W); empty where nothing is positive.

    Raises:
        OptionError, UnknownNameError: a threshold out of range, shapes that differ, or NaN.
    """
    share = _share(heatmap, threshold)
    mask = threshold_mask(heatmap, share)
    if picture is not None:
        mask = grabcut(picture, heatmap, share)
    return without_small(largest_component(mask) if largest_only else mask, min_area)


def grabcut(picture: NDArray[np.uint8], heatmap: NDArray[Any], threshold: float = 0.15) -> Mask:
    """Move the edges of a weak segmentation to those of the picture.

    Rother et al., "GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts", 2004,
    https://doi.org/10.1145/1015706.1015720, with the map in the user's place. With t the threshold's share of the
    maximum: object above ``(1 + t) / 2``, probably object from ``t``, probably not below it, background below
    ``t / 2``; five rounds. Of large pictures the longer side is taken as 512 pixels. Always the same answer.

    Args:
        picture: uint8 (H, W, 3).
        heatmap: float (H, W).
        threshold: share of the maximum.

    Returns:
        Bool (H, W); the plain threshold's mask where the map has no background or nothing positive.

    Raises:
        OptionError: shapes that differ, or as `threshold_mask`.
    """
    import cv2

    if picture.shape != (*heatmap.shape, 3) or picture.dtype != np.uint8:
        raise OptionError(f"the picture is {picture.dtype} {picture.shape}: it must be uint8 {(*heatmap.shape, 3)}")
    mask = threshold_mask(heatmap, threshold)
    height, width = heatmap.shape
    shrink = min(1.0, _SIDE / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    heat = cv2.resize(heatmap.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    seeds = _seeds(np.asarray(heat), threshold)
    if not (mask.any() and (seeds % 2 == 0).any() and (seeds % 2 == 1).any()):
        return mask
    cv2.setRNGSeed(0)
    small = np.ascontiguousarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    cv2.grabCut(small, seeds, None, np.zeros((1, 65)), np.zeros((1, 65)), _ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = cv2.resize(seeds % 2, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(found == 1)


def _seeds(heat: NDArray[Any], threshold: float) -> NDArray[np.uint8]:
    """OpenCV's marks: 0 background, 2 probably, 3 probably object, 1 object."""
    levels = np.array([threshold / 2, threshold, (1 + threshold) / 2]) * max(float(heat.max()), 0.0)
    return np.array([0, 2, 3, 1], np.uint8)[np.searchsorted(levels, heat, side="right")]
