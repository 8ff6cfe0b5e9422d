"""What metrics measure: of one map, and of a method as a whole; :mod:`onnxcam.evaluate.metrics` says what it means."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.core.localize import energy_inside
from onnxcam.core.maps import resize
from onnxcam.evaluate import faithfulness, localization, sanity
from onnxcam.evaluate.case import View
from onnxcam.evaluate.data import Sample
from onnxcam.evaluate.faithfulness import Curve
from onnxcam.evaluate.statistics import spearman
from onnxcam.explainer import Explainer

Array = NDArray[Any]
Value = float | list[Any]
Checked = tuple[Array, list[tuple[float, float]]]
"""A number per picture, and the points of a curve."""

# ---- localisation ----


def error(most: int) -> Callable[[View], float]:
    """Top-``most`` localisation error of a picture; NaN on all but the first of its samples with boxes."""

    def measure(view: View) -> float:
        case = view.case
        truth = {name: s.boxes for name, s in case.shown.items() if s.boxes}
        tried = [(name, c) for c in case.top(most) for name in case.names.get(c, ()) if name in truth]
        maps = ((name, view.of_class(c).on_picture) for name, c in tried)
        first = case.is_first(lambda s: bool(s.boxes))
        return localization.localization_error(maps, truth) if first else math.nan

    return measure


def known_error(view: View) -> float:
    """Localisation error of the class that is explained, whatever the model predicts."""
    return localization.localization_error([("", view.on_picture)], {"": view.case.sample.boxes})


def box_accuracy(view: View) -> list[float]:
    """Per threshold, 1 where the box has an IoU of 0.5 with a true one."""
    ious = localization.fits(view.boxes, view.case.sample.boxes)
    return [float(v) for v in ious >= 0.5]


def box_accuracy_v2(view: View) -> list[list[float]]:
    """Per IoU of `localization.MAX_BOX_ACC_V2`."""
    ious = localization.fits(view.boxes, view.case.sample.boxes, all_components=True)
    return [[float(v) for v in ious >= level] for level in localization.MAX_BOX_ACC_V2]


def points(view: View) -> float:
    """The pointing game."""
    return float(localization.points_at(view.on_picture, view.case.region()))


def recalled(view: View) -> Value:
    """Of each predicted class: how strong its map is, whether it points at the class, whether the class is there.

    Of a class that is there, but nobody knows where, nothing can be told.
    """
    case = view.case
    if not case.is_first(_has_place):
        return math.nan
    there = {c: [case.shown[n] for n in case.names.get(c, ()) if n in case.shown] for c in case.top(5)}
    found = [pointed(view.of_class(c), own) for c, own in there.items() if all(map(_has_place, own))]
    return found or math.nan


def _has_place(sample: Sample) -> bool:
    return bool(sample.boxes or sample.mask)


def pointed(view: View, there: Sequence[Sample]) -> list[float]:
    """Strength, hit and presence."""
    hit = any(localization.points_at(view.on_picture, view.case.region(one)) for one in there)
    return [float(view.cam.max()), float(hit), float(bool(there))]


def energy(view: View) -> float:
    """Share of the energy on the object."""
    return energy_inside(view.on_picture, view.case.region())


def mask_ious(view: View) -> list[float]:
    """Per threshold, the IoU with the mask."""
    assert view.case.mask is not None
    return [float(v) for v in localization.mask_ious(view.on_picture, view.case.mask)]


# ---- faithfulness ----

GRID = tuple(k / 20 for k in range(21))
"""The shares at which the scores of deletion and insertion are kept."""
ROAD = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of the picture that are removed: every other one of the paper's, since filling them in takes its time."""


def swept(kind: str, reference: str, view: View) -> float:
    """Area under a curve of deletion or insertion."""
    sweep, case = getattr(faithfulness, kind), view.case
    asked = "mean" if reference == "grey" else reference
    make = partial(sweep, case.probability, case.x, view.heatmap, asked, batch=case.batch)
    return view.curve(f"{kind}_{reference}", make).area


def road(view: View, strongest: bool) -> Curve:
    """A curve of ROAD."""
    case, name = view.case, "road_morf" if strongest else "road_lerf"
    asked = (case.probability, case.x, view.heatmap, strongest)
    return view.curve(name, partial(faithfulness.road, *asked, shares=ROAD, seed=case.seed, batch=case.batch))


def road_difference(view: View) -> float:
    """ROAD, both ways."""
    return faithfulness.road_difference(road(view, True), road(view, False))


def coherency(view: View) -> float:
    """How alike the map of the picture seen through it is."""
    return faithfulness.coherency(view.heatmap, view.explain(view.heatmap, view.case.explained).heatmap)


def adcc(view: View) -> float:
    """Average DCC of one map."""
    lost = float(faithfulness.drop(view.case.before, view.after))
    return faithfulness.adcc(lost, coherency(view), faithfulness.complexity(view.heatmap))


_SETS = (0.01, 0.1, 0.5)  # shares of the cells
_CELLS = 14  # on the shorter side: as fine as the maps of usual layers, and the same for all methods


def sensitivity(view: View) -> float:
    """Sensitivity-n of the signed map, mean over several n."""
    case, size = view.case, (view.heatmap.shape[0], view.heatmap.shape[1])
    cell = max(1, round(min(size) / _CELLS))
    count = math.prod(math.ceil(side / cell) for side in size)
    signed = np.asarray(resize(np, view.signed, size), np.float64)
    asked = partial(faithfulness.sensitivity_n, case.logit, case.x, signed, cell=cell, seed=case.seed, batch=case.batch)
    return float(np.mean([asked(n) for n in sorted({max(1, round(share * count)) for share in _SETS})]))


def rank(view: View) -> float:
    """Rank correlation with occlusion."""
    return faithfulness.rank_correlation(view.heatmap, view.case.occlusion)


# ---- sanity ----

_OTHERS = 3


def contrast(view: View) -> float:
    """Mean rank correlation with the maps of other classes, drawn at random."""
    case = view.case
    others = np.delete(np.arange(len(case.logits)), case.explained)
    if not len(others):
        return math.nan
    drawn = np.random.default_rng(case.seed).permutation(others)[:_OTHERS]
    return float(np.mean([spearman(view.signed, view.of_class(int(c)).signed) for c in drawn]))


def randomised(explainer: Explainer, pictures: Sequence[str], options: Mapping[str, Any], seed: int) -> Checked:
    """Cascading randomisation: mean over depths and three draws."""
    seeds = range(3 * seed, 3 * seed + 3)  # of another seed, all others
    curve = sanity.randomisation(explainer.model, pictures, explainer.method, seeds=seeds, **options)
    alike = curve.values[..., sanity.FIGURES.index("absolute")]  # points, seeds, pictures
    means = alike.mean(axis=(1, 2)).tolist()
    return alike.mean(axis=(0, 1)), [(0.0, 1.0), *zip(curve.share, means, strict=True)]


def shifted(explainer: Explainer, pictures: Sequence[str], options: Mapping[str, Any], seed: int) -> Checked:
    """Input-shift invariance."""
    return sanity.input_shift(explainer.model, pictures, explainer.method, **options), []


def unstable(explainer: Explainer, pictures: Sequence[str], options: Mapping[str, Any], seed: int) -> Checked:
    """Max-sensitivity."""
    return sanity.stability(explainer, pictures, seed=seed).largest, []
