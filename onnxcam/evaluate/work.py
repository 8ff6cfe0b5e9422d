"""The work on one sample: read, explained by every method, measured; one row for each method and baseline."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import GradientError, MissingPackageError, OnnxcamError, OptionError, RuntimeUnavailableError
from onnxcam.evaluate.baselines import centre_gaussian, heatmap_of, random_map
from onnxcam.evaluate.case import Case, View
from onnxcam.evaluate.classes import Answers, Classes, logits_of
from onnxcam.evaluate.data import Sample
from onnxcam.evaluate.faithfulness import Curve, Predict, seen_through
from onnxcam.evaluate.masks import located, within
from onnxcam.evaluate.measures import GRID
from onnxcam.evaluate.metrics import Metric
from onnxcam.explainer import Explainer, Prepared
from onnxcam.explanation import Explanation
from onnxcam.inputs import given_inputs
from onnxcam.probe import ModelProbe
from onnxcam.targets import Logit, Probability, Target

Array = NDArray[Any]
Row = dict[str, Any]
BASELINES = ("random", "centre")
FINE = "_fine"
"""What a baseline's name ends in at the resolution of pixels, where methods of both resolutions are compared."""
_OF_THE_JOB = (GradientError, MissingPackageError, RuntimeUnavailableError)


@dataclass(frozen=True)
class Measuring:
    """What is done to each sample.

    Attributes:
        explainers: by name of the method; all of one model.
        baselines: by method, the names of its own.
        metrics: what is measured of each map.
        classes: the model's classes of each of the data's.
        explain: ``"truth"`` (of the sample, where it has one) or ``"predicted"``.
        independent: classes do not exclude each other, though the model does not say it by a Sigmoid.
        batch: pictures of one run.
        seed: of all that is drawn.
    """

    explainers: Mapping[str, Explainer]
    baselines: Mapping[str, tuple[str, ...]]
    metrics: Sequence[Metric]
    classes: Classes
    explain: str = "truth"
    independent: bool = False
    batch: int = 16
    seed: int = 0

    @cached_property
    def first(self) -> Explainer:
        """Prepares pictures, and is asked for scores."""
        return next(iter(self.explainers.values()))

    @cached_property
    def answers(self) -> Answers:
        """Which class is explained, and which answers are right."""
        return Answers(self.classes, self.explain)

    def rows(self, index: int, sample: Sample, shown: Mapping[str, Sample]) -> list[Row]:
        """One row for each method, then for each baseline; of a picture that cannot be read a single one.

        Args:
            index: of the sample.
            sample: the sample.
            shown: those of the same picture, by class.

        Raises:
            GradientError, MissingPackageError, RuntimeUnavailableError: no picture can be explained.
        """
        head = {"index": index, "source": sample.source, "truth": sample.truth}
        try:
            if sample.error:
                raise OptionError(sample.error)
            prepared = self.first.prepare(sample.source)
            case = self._case(index, sample, shown, prepared)
            case.region()  # a mask that cannot be read is as bad as a picture
        except _OF_THE_JOB:
            raise
        except Exception as error:  # whatever it is, it is about this picture
            return [{**head, "method": None, **failure(error)}]
        best = case.top(1)[0]
        head |= {
            "explained": case.explained,
            "predicted": best,
            "correct": None if sample.truth is None else self.answers.right(best, shown),
            "probability": _rounded(case.before),
        }
        return [{**head, "method": name, **told} for name, told in self._measured(case, prepared)]

    def explanation(self, index: int, sample: Sample, shown: Mapping[str, Sample], name: str) -> Explanation:
        """The explanation of a method behind a row, made again."""
        prepared = self.first.prepare(sample.source)
        case = self._case(index, sample, shown, prepared)
        return self.explainers[name].explain_prepared([prepared], case.explained)[0]

    # The case

    def _case(self, index: int, sample: Sample, shown: Mapping[str, Sample], prepared: Prepared) -> Case:
        size = prepared.placement.source
        sample = within(sample, size)
        others = {name: located(one, size) for name, one in shown.items()}
        shown = {name: sample if name == (sample.truth or "") else one for name, one in others.items()}
        own = self._probe(prepared.tensor, Logit((0,)))
        logits = logits_of(self.first, prepared.tensor)
        explained = self.answers.explained(sample.truth, logits)
        logit = self._probe(prepared.tensor, Logit((explained,))).score
        if self.independent:
            probability: Predict = partial(_sigmoid, logit)
        else:
            probability = self._probe(prepared.tensor, Probability((explained,))).score
        return Case(
            sample, shown, own.x, prepared.placement, logits, explained, self.answers.names, probability,
            logit, self.batch, zlib.crc32(f"{self.seed} {index}".encode()),
        )  # fmt: skip

    def _probe(self, x: Array, target: Target) -> ModelProbe:
        others = given_inputs(self.first.model, self.first.inputs)
        return ModelProbe(self.first.programs, x, target, None, others, self.batch)

    # Maps

    def _measured(self, case: Case, prepared: Prepared) -> list[tuple[str, Row]]:
        found: list[tuple[str, Row]] = []
        sizes: dict[str, tuple[int, int]] = {}
        for name, explainer in self.explainers.items():
            try:
                view = self._view(explainer, prepared, case, None, case.explained)
                sizes.update(dict.fromkeys(self.baselines[name], (view.cam.shape[0], view.cam.shape[1])))
                found.append((name, self._values(view)))
            except _OF_THE_JOB:
                raise
            except Exception as error:
                found.append((name, failure(error)))
        for name in dict.fromkeys(b for own in self.baselines.values() for b in own):
            found.append((name, self._of_baseline(name, case, sizes.get(name))))
        return found

    def _of_baseline(self, name: str, case: Case, size: tuple[int, int] | None) -> Row:
        if size is None:
            return failure(OptionError("no method of its resolution could explain the picture"))
        try:
            return self._values(_baseline(name, case, size, None, case.explained))
        except Exception as error:
            return failure(error)

    def _view(self, explainer: Explainer, prepared: Prepared, case: Case, through: Array | None, index: int) -> View:
        tensor = prepared.tensor if through is None else self._seen(prepared.tensor, through)
        e = explainer.explain_tensor(tensor, index)[0]
        signed = e.cam if e.attribution is None else e.attribution.sum(axis=0)
        return View(case, e.cam, signed, e.heatmap, partial(self._view, explainer, prepared, case))

    def _seen(self, tensor: Array, heatmap: Array) -> Array:
        """The model's own input, seen through a heatmap."""
        last = self.first.spec.layout == "NHWC"
        x = np.moveaxis(tensor, -1, 1) if last else tensor
        seen = seen_through(x.astype(np.float32), heatmap)
        laid = np.moveaxis(seen, 1, -1) if last else seen
        return np.ascontiguousarray(np.rint(laid) if tensor.dtype.kind in "iu" else laid, tensor.dtype)

    def _values(self, view: View) -> Row:
        values = {m.name: plain(m.measure(view)) if m.suits(view.case.sample) else None for m in self.metrics}
        curves = {name: _sampled(curve) for name, curve in view.curves.items()}
        blank = {} if view.heatmap.any() else {"blank": True}
        return {"values": values, **blank, **({"curves": curves} if curves else {})}


def _baseline(name: str, case: Case, size: tuple[int, int], through: Array | None, index: int) -> View:
    """A map that knows nothing; another input or class draws another random one."""
    seed = (case.seed, zlib.crc32(f"{name} {index} {through is None}".encode()))
    cam = random_map(size, seed) if name.startswith("random") else centre_gaussian(size)
    heatmap = heatmap_of(cam, (case.x.shape[2], case.x.shape[3]))
    return View(case, cam, cam, heatmap, partial(_baseline, name, case, size))


def _sigmoid(logit: Predict, x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.asarray(logit(x), np.float64))))


def failure(error: Exception) -> Row:
    """What a row tells of an error."""
    told = str(error) if isinstance(error, OnnxcamError) else f"unexpected {type(error).__name__}: {error}"
    return {"error": told, "kind": type(error).__name__}


# ---- numbers as they are kept ----


def plain(value: Any) -> Any:
    """Six digits are kept, and NaN as None."""
    return [plain(v) for v in value] if isinstance(value, list) else _rounded(value)


def _rounded(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    number = float(f"{value:.6g}")
    return int(number) if number.is_integer() else number


def _sampled(curve: Curve) -> list[Any]:
    """The scores at the shares of :data:`GRID`; of a curve of few points, at its own."""
    scores = np.interp(GRID, curve.shares, curve.scores) if len(curve.shares) >= len(GRID) else curve.scores
    return [float(f"{v:.4g}") for v in scores.tolist()]


def baseline_names(explainers: Mapping[str, Explainer]) -> dict[str, tuple[str, ...]]:
    """By method, the baselines of its resolution: that of the target layer, or that of the input."""
    fine = {name: e.method.gives != "cam" for name, e in explainers.items()}
    mixed = len(set(fine.values())) > 1
    return {name: tuple(b + FINE if is_fine and mixed else b for b in BASELINES) for name, is_fine in fine.items()}
