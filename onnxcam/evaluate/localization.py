"""Does the map lie on the object? Numbers from a heatmap in the picture's frame, and boxes or a mask.

Heatmaps are float (H, W); boxes (x0, y0, x1, y1) in pixels, x1 and y1 one past the last, any number of them as (K, 4);
masks bool (H, W). The energy-based pointing game is :func:`onnxcam.core.localize.energy_inside`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.localize import boxes, component_corners, peak, threshold_mask
from ..errors import OptionError

Array = NDArray[Any]
Boxes = Sequence[Sequence[float]] | Array
Mask = NDArray[np.bool_]
THRESHOLDS = tuple(k / 50 for k in range(1, 51))
"""Shares of the maximum that `component_boxes` and `mask_ious` try."""


# ---- boxes ----


def _corners(given: Boxes) -> Array:
    found = np.asarray(given, np.float64).reshape(-1, 4)
    if (found[:, 2:] < found[:, :2]).any() or not np.isfinite(found).all():
        raise OptionError(f"{found.tolist()}: a box is x0, y0, x1, y1, with x0 <= x1 and y0 <= y1")
    return found


def ious(a: Boxes, b: Boxes) -> Array:
    """(K, M): intersection over union of each of K boxes with each of M; 0 to 1, and 0 for two empty ones.

    Raises:
        OptionError: corners in another order, or NaN.
    """
    first, second = _corners(a)[:, None], _corners(b)[None]
    low, high = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
    shared = np.maximum(high - low, 0).prod(axis=-1)
    whole = sum((box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (first, second)) - shared
    return np.asarray(np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0))


def region(size: tuple[int, int], found: Boxes) -> Mask:
    """Bool (H, W): the pixels whose centres lie in one of the boxes."""
    down, across = (np.arange(n) + 0.5 for n in size)
    mask = np.zeros(size, np.bool_)
    for x0, y0, x1, y1 in _corners(found):
        mask |= np.outer((down >= y0) & (down < y1), (across >= x0) & (across < x1))
    return mask


def localization_error(
    heatmaps: Iterable[tuple[Hashable, Array]],
    truth: Mapping[Any, Boxes],
    threshold: float = 0.15,
    at_least: float = 0.5,
) -> float:
    """Of one image: 0 if one of the predicted classes is there and its box lies right, else 1. Lower is better.

    Weakly supervised localisation as Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via
    Gradient-based Localization", 2017, https://arxiv.org/abs/1610.02391, section 4.1, after the rules of ILSVRC
    (https://arxiv.org/abs/1409.0575, section 4.2): for each of the top-1 or top-5 predicted classes, the map of that
    class, ReLU'd, from 15 % of its maximum on, the largest component, one box round it; right if it overlaps with any
    box of the same class by an IoU of 0.5. The mean over images is the top-1 or top-5 error.

    Args:
        heatmaps: (class, heatmap) of the predicted classes, best first; later ones are not asked for once one is right.
        truth: the boxes by class.
        threshold: share of the maximum.
        at_least: the IoU that counts as right.

    Returns:
        0.0 or 1.0.

    Raises:
        OptionError: maps or boxes that are none, or a threshold out of range.
    """
    for name, heatmap in heatmaps:
        found = boxes(heatmap, threshold) if name in truth else []
        if found and ious([found[0].corners], truth[name]).max(initial=0.0) >= at_least:
            return 0.0
    return 1.0


def component_boxes(heatmap: Array, thresholds: Sequence[float] = THRESHOLDS) -> list[Array]:
    """Per threshold the boxes (K, 4) of the map's components, the largest component's first."""
    return [component_corners(threshold_mask(heatmap, t)) for t in thresholds]


def fits(found: Sequence[Array], truth: Boxes, all_components: bool = False) -> Array:
    """Of one image, per threshold the IoU of the map's box with the true one that fits it best.

    Args:
        found: per threshold the boxes (K, 4) of `component_boxes`.
        truth: (M, 4), at least one.
        all_components: every component's box may fit, not only the largest's.

    Returns:
        (T,), 0 to 1; 0 where nothing is positive.

    Raises:
        OptionError: no true box, or boxes that are none.
    """
    if not len(truth):
        raise OptionError("there is no true box: leave the image out")
    return np.array([ious(rows[: None if all_components else 1], truth).max(initial=0.0) for rows in found])


def at_best_threshold(means: Array) -> Array:
    """What a method reaches at the threshold that is best for it over all images: of hits, MaxBoxAcc.

    Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020,
    https://arxiv.org/abs/2001.07437, section 4.1: ``max over t of mean over images of [IoU(t) >= 0.5]``. MaxBoxAccV2
    (https://arxiv.org/abs/2007.04178, section 3.2) is the mean of the same over several IoUs, each at its own best
    threshold. That the best threshold is taken makes methods comparable whatever the scale of their maps; chosen on the
    same images, it flatters: see `calibrated`.

    Args:
        means: (..., L, T), over images: per IoU and threshold; higher is better.

    Returns:
        (...), 0 to 1.
    """
    return np.asarray(means.max(axis=-1).mean(axis=-1))


MAX_BOX_ACC_V2 = (0.3, 0.5, 0.7)
"""The IoUs of MaxBoxAccV2."""


# ---- thresholds ----


def calibrated(table: Array, held_out: Mask) -> tuple[int, Array]:
    """The threshold that is best on a held-out split, and what it gives for the other images.

    Args:
        table: (N, T): a score per image and threshold, higher is better: rows of `fits` or `mask_ious`.
        held_out: bool (N,): the images to choose by.

    Returns:
        The column (the lowest of equally good ones), and the other images' scores there, in their order.

    Raises:
        OptionError: one of the two splits is empty.
    """
    if held_out.all() or not held_out.any() or held_out.shape != table.shape[:1]:
        raise OptionError(
            f"{int(held_out.sum())} of {len(table)} images are held out: some must be, and some be left to report"
        )
    column = int(table[held_out].mean(axis=0).argmax())
    return column, np.asarray(table[~held_out, column])


def split(count: int, share: float = 0.2, seed: int = 0) -> Mask:
    """Bool (count,): a random ``share`` of the images, at least one, is held out; not all of them."""
    if count < 2 or not 0 < share < 1:
        raise OptionError(f"cannot hold out {share} of {count} images: two at least, and a share between 0 and 1")
    chosen = np.random.default_rng(seed).permutation(count)[: min(max(round(count * share), 1), count - 1)]
    return np.isin(np.arange(count), chosen)


# ---- masks ----


def mask_iou(found: Mask, truth: Mask) -> float:
    """Intersection over union of a weak segmentation (:func:`onnxcam.core.segment.segment`) and a mask.

    Args:
        found: bool (H, W).
        truth: bool (H, W).

    Returns:
        0 to 1, higher is better; 0 where both are empty.

    Raises:
        OptionError: shapes that differ.
    """
    if found.shape != truth.shape:
        raise OptionError(f"a mask of {found.shape} cannot be held against one of {truth.shape}")
    whole = int((found | truth).sum())
    return float((found & truth).sum() / whole) if whole else 0.0


def mask_ious(heatmap: Array, truth: Mask, thresholds: Sequence[float] = THRESHOLDS) -> Array:
    """(T,): `mask_iou` of the map at each threshold, all components: a row for `calibrated`."""
    return np.array([mask_iou(threshold_mask(heatmap, t), truth) for t in thresholds])


# ---- the pointing game ----

TOLERANCE = 15.0


def points_at(heatmap: Array, truth: Mask, tolerance: float = TOLERANCE) -> bool:
    """Whether the map's highest point lies on the object, or no more than ``tolerance`` pixels from it.

    The pointing game: Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016,
    https://arxiv.org/abs/1608.00507, section 4.2, with its margin of 15 pixels. Its accuracy is the mean over
    classes of each class's share of hits. Higher is better. On a plateau the point is
    :func:`onnxcam.core.localize.peak`'s; a map without anything positive points nowhere.

    Args:
        heatmap: float (H, W), in pixels of the picture: that is what the margin is counted in.
        truth: bool (H, W): a mask, or the `region` of all boxes of the class.
        tolerance: in pixels, between the centres of pixels.

    Raises:
        OptionError: shapes that differ, NaN, or an empty mask.
    """
    if heatmap.shape != truth.shape or not truth.any():
        raise OptionError(f"the mask is {truth.shape} with {int(truth.sum())} pixels, the heatmap {heatmap.shape}")
    place = np.array(peak(heatmap))
    if not heatmap.max() > 0:
        return False
    return bool(((np.argwhere(truth) - place) ** 2).sum(axis=1).min() <= tolerance**2)


def pointing_recall(strength: Array, points: Mask, present: Mask, threshold: float) -> Mask:
    """The pointing game with the option to reject, one answer per predicted class of an image.

    Selvaraju et al., https://arxiv.org/abs/1610.02391, section 4.3: maps are made for each of the top-5 predicted
    classes. If the class is there, it is a hit to point at it; if it is not, it is a hit that the map stays so weak
    that it is rejected. So the recall of a map counts as well as its precision. Higher is better.

    Args:
        strength: (M,): the highest value of each raw map, before it is normalised.
        points: bool (M,): `points_at`; of no matter where the class is absent.
        present: bool (M,): whether the class is in the picture.
        threshold: a map whose ``strength`` is below it is rejected; see `rejection_threshold`.

    Returns:
        Bool (M,), the hits.
    """
    kept = np.asarray(strength) >= threshold
    return np.where(present, kept & points, ~kept)


def rejection_threshold(strength: Array, points: Mask, present: Mask) -> float:
    """The threshold of `pointing_recall` with the most hits, to be found for each method on a held-out split.

    Returns:
        One of the strengths, the lowest of equally good ones, or infinity where all had better be rejected.

    Raises:
        OptionError: nothing to choose by.
    """
    if not len(strength):
        raise OptionError("no maps to choose a threshold by: hold out some images")
    candidates = [*np.unique(strength).tolist(), float("inf")]
    hits = [int(pointing_recall(strength, points, present, t).sum()) for t in candidates]
    return float(candidates[int(np.argmax(hits))])
