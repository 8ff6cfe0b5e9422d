"""Two models on the same pictures: how far their answers, explanations and channels differ, and where it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcam.compare.duel import Duel, on_one_frame
from onnxcam.compare.figures import Summary, counted, likeness, summary
from onnxcam.compare.pairing import (
    PRECISIONS,
    layer_for,
    matched_classes,
    of_preprocessing,
    of_scores,
    on_one_size,
    precision,
)
from onnxcam.compare.stages import Stage, Verdict, verdict
from onnxcam.errors import ImageError, ModelError, UnknownNameError
from onnxcam.explainer import Explainer
from onnxcam.explanation import Explanation
from onnxcam.image import Preprocess
from onnxcam.model import Model
from onnxcam.opening import choose_preprocess, input_spec, opened
from onnxcam.photos import find_photos

Array = npt.NDArray[Any]
ModelLike = str | Path | Model
FIGURES = {"correlation": False, "spearman": False, "iou": False, "agreement": False, "difference": True,
           "raw_difference": True, "score_difference": True}  # fmt: skip
"""What is summarised, and whether low is good."""
_BLANK = {
    "both": "both maps are blank, and left out of the figures of heatmaps",
    "a": "the first model's map is blank, the second's is not: correlation 0",
    "b": "the second model's map is blank, the first's is not: correlation 0",
}
GATES = ("correlation", "spearman", "iou", "agreement")


@dataclass(frozen=True)
class Pair:
    """What the two models say of one picture.

    Attributes:
        source: its path.
        top_a, top_b: the class that each predicts, in the first model's order.
        name_a, name_b: their names, or None.
        rank: of the first's class in the second, from 1; None where scores are not listed by class.
        explained: the class that both explanations are of, in the first model's order.
        score_a, score_b: the explained score.
        score_difference: distance of all scores, relative: ``|z_a - z_b| / |z_a|`` (Euclidean norms), or None.
        correlation, spearman, iou, difference, blank: as :class:`~onnxcam.compare.figures.Likeness`.
        raw_difference: of the raw maps, relative: ``max|cam_a - cam_b| / max|cam_a|``; None where their grids differ.
    """

    source: str
    top_a: int
    top_b: int
    name_a: str | None
    name_b: str | None
    rank: int | None
    explained: int
    score_a: float
    score_b: float
    score_difference: float | None
    correlation: float | None
    spearman: float | None
    iou: float | None
    difference: float
    blank: str
    raw_difference: float | None

    @property
    def agreement(self) -> float:
        """1 where both predict the same class, else 0."""
        return float(self.top_a == self.top_b)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "agreement": self.agreement}


@dataclass(frozen=True)
class Comparison:
    """How far two models differ on some pictures.

    Attributes:
        a, b: per model: path, hash, precision, preprocessing, layer.
        method: of the explanations.
        matched: how the second model's layer was found.
        pairs: one per picture, in the order given.
        stages: from image to scores; see :class:`~onnxcam.compare.stages.Stage`.
        verdict: what the stages say.
        failures: (path, message) of pictures that could not be compared.
        notes: what a reader should know.
    """

    a: Mapping[str, Any]
    b: Mapping[str, Any]
    method: str
    matched: str
    pairs: tuple[Pair, ...]
    stages: tuple[Stage, ...]
    verdict: Verdict
    failures: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    duel: Duel | None = field(default=None, repr=False, compare=False)

    def figures(self) -> dict[str, Summary | None]:
        """Each of :data:`FIGURES` over the pictures; None where no picture has it."""
        return {name: summary([getattr(p, name) for p in self.pairs], low) for name, low in FIGURES.items()}

    def worst(self, count: int = 6) -> list[Pair]:
        """The pictures whose heatmaps differ most: blank in one first, then by correlation; blank in both last."""
        order = {"a": -2.0, "b": -2.0, "both": 2.0}
        return sorted(self.pairs, key=lambda p: (order.get(p.blank, p.correlation or 0.0), -p.difference))[:count]

    def below(self, gates: Mapping[str, float]) -> list[str]:
        """What fails a gate, in words; none where it passes.

        Args:
            gates: the least mean of each named figure of :data:`GATES`. A gate is for two exports of one network: a
                fault fails any, and so do one that few pictures leave open and models that differ from the first layer
                on.

        Raises:
            UnknownNameError: no such figure.
        """
        if unknown := [name for name in gates if name not in GATES]:
            raise UnknownNameError.of("figure", unknown[0], GATES)
        found, figures = [], self.figures()
        for name, least in gates.items():
            one = figures[name]
            if one is None:
                found.append(f"{name}: no picture has it, so it is not {least:g}")
            elif one.mean < least:
                found.append(f"{name} {one.mean:.4f} is below {least:g}")
        return found + self._of_one_network() if gates else found

    def _of_one_network(self) -> list[str]:
        if self.verdict.at is None:  # sound, or nothing that speaks against it
            return []
        aside = ". A gate is for exports of one network; of others, read the figures"
        return [self.verdict.text + aside * (self.verdict.kind == "different")]

    def explanations(self, pair: Pair) -> tuple[Explanation, Explanation]:
        """Both explanations of a pair's picture, made again."""
        assert self.duel is not None
        return self.duel.explain(pair.source)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "version": 1, "a": dict(self.a), "b": dict(self.b), "method": self.method, "matched": self.matched,
            "verdict": self.verdict.to_dict(),
            "figures": {k: None if s is None else s.to_dict() for k, s in self.figures().items()},
            "stages": [s.to_dict() for s in self.stages], "images": [p.to_dict() for p in self.pairs],
            "failures": [{"source": source, "error": text} for source, text in self.failures],
            "notes": list(self.notes),
        }  # fmt: skip


def compare(
    a: ModelLike,
    b: ModelLike,
    photos: str | Path | Sequence[str | Path],
    *,
    method: str = "gradcam",
    target: int | str | None = None,
    layer_a: str = "auto",
    layer_b: str = "match",
    preprocess_a: str | Preprocess = "auto",
    preprocess_b: str | Preprocess = "auto",
    labels: str | Path | Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Comparison:
    """Hold two models against each other, picture by picture.

    Args:
        a, b: paths, ``zoo:NAME``, or loaded models; ``a`` is the reference.
        photos: as :func:`onnxcam.photos.find_photos` takes them.
        method: of the explanations.
        target: what both explain, as an Explainer takes it; None: the class that ``a`` predicts.
        layer_a: the first's target layer.
        layer_b: the second's; ``"match"`` is the layer of the same shape nearest in depth.
        preprocess_a, preprocess_b: each model's own by default.
        labels: class names of both, in the order of each; None: what each model tells.
        progress: called with (done, total) pictures.
        options: further ones of both explainers.

    Raises:
        OptionError: the models answer different questions.
        ImageError: no picture, or none that can be read.
    """
    models = opened(a), opened(b)
    mine, other = (choose_preprocess(*both) for both in zip(models, (preprocess_a, preprocess_b), strict=True))
    *sized, at = on_one_size((input_spec(models[0]), mine[0]), (input_spec(models[1]), other[0]))
    first = _explainer(models[0], (sized[0], mine[1]), method, labels, options, layer_a)
    own = _explainer(models[1], (sized[1], other[1]), method, labels, options, "auto")
    names = own.labels or first.labels
    make = partial(_explainer, models[1], (sized[1], other[1]), method, names, options)
    classes = matched_classes(first, own)
    second, matched = layer_for(first, make) if layer_b == "match" else (make(layer_b), "named by the caller")
    duel = Duel(first, second, classes, target)
    found = [str(p.path) for p in find_photos(photos)]
    pairs, failures = _pairs(duel, found, progress)
    if not pairs:
        raise ImageError(f"of {counted(len(found))} none could be compared; the first: {': '.join(failures[0])}")
    coarser = max(precision(first), precision(second), key=PRECISIONS.index)
    stages = tuple(duel.stages(coarser))
    said = verdict(stages, coarser, first.layers[0].value if first.layers else "", len(pairs))
    told, notes = (_told(first), _told(second)), (*at, *_notes(duel, pairs))
    report = Comparison(*told, first.method.name, matched, tuple(pairs), stages, said, tuple(failures), notes, duel)
    return report if said.at or said.kind != "unknown" else replace(report, verdict=_by_figures(report, duel))


def _by_figures(found: Comparison, duel: Duel) -> Verdict:
    """Where no channel could be compared: why, and what is known all the same."""
    why = "no layer of the one model has the shape and the depth of a layer of the other"
    if not duel.reads:
        why = "channels are compared of classifiers and of a score per class and pixel only"
    means = {k: s.mean for k, s in found.figures().items() if k in ("agreement", "correlation") and s is not None}
    known = " and ".join(f"{name} {mean:.4g}" for name, mean in means.items())
    text = f"not known: {why}. What is known are the figures: {known}, in the mean of {counted(len(found.pairs))}"
    return Verdict("unknown", text)


def _explainer(
    model: Model, chosen: tuple[Preprocess, str], method: str, names: Any, options: Mapping[str, Any], layer: str
) -> Explainer:
    made = Explainer(model, chosen[0], layer, method, labels=names, **options)
    made.preprocess_reason = chosen[1]  # of the choice, before it got the other's size
    return made


def _pairs(
    duel: Duel, sources: Sequence[str], progress: Callable[[int, int], None] | None
) -> tuple[list[Pair], list[tuple[str, str]]]:
    pairs, failures = [], []
    for done, source in enumerate(sources, 1):
        try:
            pairs.append(_pair(duel, source))
        except (ImageError, ModelError) as error:  # of this picture: NaN may come of one alone
            failures.append((source, str(error)))
        if progress is not None:
            progress(done, len(sources))
    return pairs, failures


def _pair(duel: Duel, source: str) -> Pair:
    (a, b), scores = duel.meet(source)
    alike = likeness(*on_one_frame(a, b))
    top_a, top_b = (e.top[0][0] if e.top else e.class_index for e in (a, b))
    names = [e.top[0][1] if e.top else e.label for e in (a, b)]
    rank, score_difference = None, None
    if scores is not None:
        z_a, z_b = scores
        rank = 1 + int(np.sum(z_b > z_b[top_a]))
        score_difference = float(np.linalg.norm(z_a - z_b) / (np.linalg.norm(z_a) or 1.0))
    return Pair(
        source, top_a, duel.index_in_first(top_b), names[0], names[1], rank, a.class_index, a.score, b.score,
        score_difference, **asdict(alike), raw_difference=_raw_difference(a.cam, b.cam),
    )  # fmt: skip


def _raw_difference(a: Array, b: Array) -> float | None:
    if a.shape != b.shape:
        return None
    return float(np.abs(a.astype(np.float64) - b).max() / (np.abs(a).max() or 1.0))


def _told(explainer: Explainer) -> dict[str, Any]:
    model = explainer.model
    layer = explainer.layers[0] if explainer.layers else None
    return {
        "model": str(model.path or model.label), "sha256": model.sha256, "precision": precision(explainer),
        "preprocess": explainer.preprocess.to_dict(), "preprocess_reason": explainer.preprocess_reason,
        "layer": layer.name if layer else "", "layer_reason": layer.reason if layer else "",
        "logits": explainer.logits.name,
    }  # fmt: skip


def _notes(duel: Duel, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """What the figures do not show."""
    notes = [*of_preprocessing(duel.first, duel.second), *of_scores(duel.first, duel.second)]
    for blank, text in _BLANK.items():
        if count := sum(p.blank == blank for p in pairs):
            notes.append(f"{count} of {counted(len(pairs))}: {text}")
    if duel.classes is not None and np.any(duel.classes != np.arange(len(duel.classes))):
        notes.append("the classes stand in another order in the second model; they are matched by name")
    return tuple(notes)
