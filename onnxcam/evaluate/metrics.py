"""The catalogue of metrics: what each needs, what it means, which way is good. All that lists metrics reads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.evaluate import faithfulness, measures
from onnxcam.evaluate.case import View
from onnxcam.evaluate.data import Sample
from onnxcam.evaluate.localization import MAX_BOX_ACC_V2
from onnxcam.evaluate.measures import Checked, Value
from onnxcam.explainer import Explainer

Need = Literal["boxes", "region", "mask"]
Pool = Literal["mean", "class", "threshold", "reject"]
NEEDS = {"boxes": "boxes", "region": "boxes or masks", "mask": "masks"}


@dataclass(frozen=True)
class Metric:
    """One row.

    Attributes:
        name: as written in options.
        group: of :data:`GROUPS`.
        title: as written in prose.
        higher: whether higher is better.
        meaning: in one line, with its range.
        source: where it comes from.
        measure: a map -> a number, NaN where it says nothing; or what ``pool`` makes one of.
        needs: what the data must tell.
        pool: how numbers of many maps become one. ``mean``; ``class``: the mean of each class's mean; ``threshold``:
            of a row of numbers per map, the column with the best mean; ``reject``: see `localization.pointing_recall`.
        cost: runs of the model for each map, in words.
        curves: the names of the curves that it draws.
        levels: of ``threshold``: how many rows of numbers a map gives, each with a best column of its own.
        check: of metrics that try a method as a whole, instead of ``measure``: (explainer, pictures, its options, seed)
            -> a number per picture, and the points of a curve.
    """

    name: str
    group: str
    title: str
    higher: bool
    meaning: str
    source: str
    measure: Callable[[View], Value] = lambda view: math.nan
    needs: Need | None = None
    pool: Pool = "mean"
    cost: str = "0"
    curves: tuple[str, ...] = ()
    levels: int = 1
    check: Callable[[Explainer, Sequence[str], Mapping[str, Any], int], Checked] | None = None

    def suits(self, sample: Sample) -> bool:
        """Whether a sample has what it needs."""
        has = {"boxes": bool(sample.boxes), "mask": bool(sample.mask)}
        return self.needs is None or has.get(self.needs, any(has.values()))


# ---- the rows ----

_PAPER = "Grad-CAM (Selvaraju 2017, https://arxiv.org/abs/1610.02391)"
_CHOE = "Choe 2020 (https://arxiv.org/abs/2001.07437)"
_RISE = "RISE (Petsiuk 2018, https://arxiv.org/abs/1806.07421)"
_PP = "Grad-CAM++ (Chattopadhay 2018, https://arxiv.org/abs/1710.11063)"
_POPPI = "Poppi 2021 (https://arxiv.org/abs/2104.10252)"
_RONG = "Rong 2022 (https://arxiv.org/abs/2202.00449)"
_GROUNDS = {"blur": "a blurred picture", "grey": "its mean colour", "zero": "zeros"}

LOCALISATION = (
    Metric("localisation_top1", "localisation", "Top-1 localisation error", False,
           "share of pictures where the predicted class is not there, or its box has IoU < 0.5 with the true one",
           f"{_PAPER}, 4.1", measures.error(1), "boxes", cost="1 map"),
    Metric("localisation_top5", "localisation", "Top-5 localisation error", False,
           "the same, right if one of the five best classes is there and boxed", f"{_PAPER}, 4.1", measures.error(5),
           "boxes", cost="up to 5 maps"),
    Metric("localisation_known", "localisation", "Localisation error, class known", False,
           "share of samples whose explained class has a box with IoU < 0.5, whatever the model predicts",
           f"GT-known loc. of Singh 2017 (https://arxiv.org/abs/1704.04232), 4.1; the box as {_PAPER}",
           measures.known_error, "boxes"),
    Metric("max_box_acc", "localisation", "MaxBoxAcc", True,
           "share of samples whose map's box has IoU >= 0.5 with the true one that fits it best, at the threshold that "
           "is best for the method", f"{_CHOE}, 4.1", measures.box_accuracy, "boxes", "threshold"),
    Metric("max_box_acc_v2", "localisation", "MaxBoxAccV2", True,
           "the same, mean over IoU 0.3, 0.5 and 0.7, the best of all components",
           "Choe 2020 (https://arxiv.org/abs/2007.04178), 3.2", measures.box_accuracy_v2, "boxes", "threshold",
           levels=len(MAX_BOX_ACC_V2)),
    Metric("pointing_game", "localisation", "Pointing game", True,
           "share of maps whose peak lies on the object or within 15 pixels, mean over classes",
           "Zhang 2016 (https://arxiv.org/abs/1608.00507)", measures.points, "region", "class"),
    Metric("pointing_recall", "localisation", "Pointing game with recall", True,
           "share of the maps of the top-5 classes that point at the class, or are too weak where it is absent",
           f"{_PAPER}, 4.3", measures.recalled, "region", "reject", "5 maps"),
    Metric("energy", "localisation", "Energy-based pointing game", True,
           "share of the map's energy that lies on the object", "Score-CAM (Wang 2020, https://arxiv.org/abs/1910.01279)",
           measures.energy, "region"),
    Metric("mask_iou", "localisation", "IoU of weak segmentation", True,
           "mean IoU with the mask, at the threshold that is best for the method", f"{_PAPER}, 4.2", measures.mask_ious,
           "mask", "threshold"),
)  # fmt: skip


def _ranked(measure: Callable[[View], float]) -> Callable[[View], float]:
    """NaN for a map that is the same everywhere: pixels that it does not rank would be judged by their place."""
    return lambda view: measure(view) if np.ptp(view.heatmap) > 0 else math.nan


def _sweeps(kind: str, title: str, higher: bool, words: str) -> tuple[Metric, ...]:
    return tuple(
        Metric(f"{kind}_{ground}", "faithfulness", f"{title}, {ground}", higher,
               words.format(_GROUNDS[ground]), f"{_RISE}, 4.1", _ranked(partial(measures.swept, kind, ground)),
               cost="51", curves=(f"{kind}_{ground}",))
        for ground in ("blur", "grey", "zero")
    )  # fmt: skip


FAITHFULNESS = (
    *_sweeps("deletion", "Deletion", False, "mean probability while the strongest pixels become {} first"),
    *_sweeps("insertion", "Insertion", True, "mean probability while the strongest pixels come first, out of {}"),
    Metric("road", "faithfulness", "ROAD", True,
           "half of how much more probability is left without the weakest pixels than without the strongest",
           f"{_RONG}, 4", _ranked(measures.road_difference), cost="10", curves=("road_morf", "road_lerf")),
    Metric("road_morf", "faithfulness", "ROAD, most relevant first", False,
           "mean probability without the strongest pixels, filled in from their neighbours", f"{_RONG}, 4",
           _ranked(lambda view: measures.road(view, True).mean), cost="5", curves=("road_morf",)),
    Metric("road_lerf", "faithfulness", "ROAD, least relevant first", True,
           "mean probability without the weakest pixels, filled in from their neighbours", f"{_RONG}, 4",
           _ranked(lambda view: measures.road(view, False).mean), cost="5", curves=("road_lerf",)),
    Metric("average_drop", "faithfulness", "Average drop", False,
           "share of the probability that is lost when the picture is seen through the map", f"{_PP}, 4.1",
           lambda view: float(faithfulness.drop(view.case.before, view.after)), cost="1"),
    Metric("increase", "faithfulness", "Increase in confidence", True,
           "share of pictures whose probability grows when seen through the map", f"{_PP}, 4.1",
           lambda view: float(faithfulness.increase(view.case.before, view.after)), cost="1"),
    Metric("average_gain", "faithfulness", "Average gain", True,
           "how much of what is missing to certainty is gained when seen through the map",
           "Opti-CAM (Zhang 2023, https://arxiv.org/abs/2301.07002)",
           lambda view: float(faithfulness.gain(view.case.before, view.after)), cost="1"),
    Metric("coherency", "faithfulness", "Coherency", True,
           "how alike the map is when the picture is seen through it, 0.5 for unrelated maps", f"{_POPPI}, 3.2",
           measures.coherency, cost="1 map"),
    Metric("complexity", "faithfulness", "Complexity", False, "mean of the map: how much of the picture it marks",
           f"{_POPPI}, 3.2", lambda view: faithfulness.complexity(view.heatmap)),
    Metric("adcc", "faithfulness", "ADCC", True, "harmonic mean of coherency, 1 - complexity and 1 - drop",
           f"{_POPPI}, 3.2", measures.adcc, cost="1, and 1 map"),
    Metric("sensitivity_n", "faithfulness", "Sensitivity-n", True,
           "correlation of the signed map's sum over random squares (of a grid of 14) and the logit lost without them, "
           "n = 1, 10, 50 % of them",
           "Ancona 2018 (https://arxiv.org/abs/1711.06104)", measures.sensitivity, cost="303"),
    Metric("rank_correlation", "faithfulness", "Rank correlation with occlusion", True,
           "Spearman's correlation of the map and an occlusion map of the logit", f"{_PAPER}, 5.3", measures.rank,
           cost="about 100 a picture"),
)  # fmt: skip

SANITY = (
    Metric("label_contrast", "sanity", "Label contrast", False,
           "Spearman's correlation with the maps of three other classes: 1 does not tell classes apart",
           "the class sensitivity of Adebayo 2018 (https://arxiv.org/abs/1810.03292)", measures.contrast,
           cost="3 maps"),
    Metric("randomisation", "sanity", "Parameter randomisation", False,
           "rank correlation with the maps of networks whose weights are random from the logits on, mean of all depths",
           "Adebayo 2018 (https://arxiv.org/abs/1810.03292)", cost="36 networks", curves=("randomisation",),
           check=measures.randomised),
    Metric("input_shift", "sanity", "Input shift", False,
           "largest change of the map where a shift of the input is taken off again inside the model; 0 is invariant",
           "Kindermans 2017 (https://arxiv.org/abs/1711.00867)", cost="2 maps", check=measures.shifted),
    Metric("stability", "sanity", "Max-sensitivity", False,
           "largest relative change of the map under noise of 2 % that leaves the prediction",
           "Yeh 2019 (https://arxiv.org/abs/1901.09392)", cost="10 maps", check=measures.unstable),
)  # fmt: skip
CHECKED = 50
"""Pictures that a check is made on, at most."""

GROUPS: dict[str, tuple[Metric, ...]] = {"localisation": LOCALISATION, "faithfulness": FAITHFULNESS, "sanity": SANITY}
METRICS: dict[str, Metric] = {m.name: m for rows in GROUPS.values() for m in rows}
USUAL = (
    "localisation_top1", "max_box_acc", "pointing_game", "energy", "mask_iou", "insertion_blur", "deletion_blur",
    "road",
)  # fmt: skip
"""What is measured unless the caller says otherwise, as far as the data allows."""


def chosen(names: Sequence[str] | None, samples: Sequence[Sample]) -> tuple[Metric, ...]:
    """The metrics that are asked for: names, or groups (as far as the data allows).

    Raises:
        UnknownNameError: no such metric.
        OptionError: the data does not tell what one needs, or nothing is left.
    """
    found = dict.fromkeys(_named(names, samples))
    for metric in found:
        if not any(map(metric.suits, samples)):
            raise OptionError(
                f"{metric.name} needs {NEEDS[metric.needs or 'region']}, and the data has none: leave it out, or give "
                "annotations (Pascal VOC, COCO, a CSV with boxes) or --masks"
            )
    if not found:
        raise OptionError(f"no metrics: give some of {', '.join(METRICS)}")
    return tuple(found)


def _named(names: Sequence[str] | None, samples: Sequence[Sample]) -> Iterable[Metric]:
    """A group stands for those of its metrics that the data allows."""
    for name in USUAL if names is None else names:
        plain = name.strip().lower().replace("-", "_").replace("localization", "localisation")
        if plain not in METRICS and plain not in GROUPS:
            raise UnknownNameError.of("metric", name, [*METRICS, *GROUPS])
        rows = GROUPS.get(plain) or (METRICS[plain],)
        yield from (m for m in rows if (len(rows) == 1 and names is not None) or any(map(m.suits, samples)))
