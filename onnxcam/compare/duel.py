"""Two explainers on one picture after another: explanations, scores and channels of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcam.compare.pairing import Place, matched_layers, place, places
from onnxcam.compare.stages import ALLOWED, Channels, Stage, rows_stage
from onnxcam.core.maps import resize
from onnxcam.errors import GradientError
from onnxcam.explainer import Explainer
from onnxcam.explanation import Explanation
from onnxcam.image import as_image
from onnxcam.programs import Plan
from onnxcam.targets import as_target

Array = npt.NDArray[Any]
_LONGEST = 256  # pixels of the frame on which heatmaps of different crops are compared
Both = tuple[Explanation, Explanation]


@dataclass(frozen=True)
class Reading:
    """What one model holds for one picture.

    Attributes:
        maps: (C, h, w) of each matched layer.
        weights: (C,), the score's mean gradient per channel of the explained layer; None where there is none.
        scores: (K,), of all classes; a dense output's are means over its pixels.
    """

    maps: Sequence[Array]
    weights: Array | None
    scores: Array


class Duel:
    """Two explainers, and what their channels told so far.

    Args:
        first, second: the explainers.
        classes: of each class of the first, its index in the second; None where they count none.
        target: what both explain; None for the class that the first predicts.

    Attributes:
        layers: the matched layers.
        reads: whether channels are compared.
    """

    def __init__(
        self, first: Explainer, second: Explainer, classes: npt.NDArray[np.int64] | None, target: int | str | None
    ) -> None:
        self.first, self.second, self.classes, self.target = first, second, classes, target
        of_classes = first.logits.kind in ("classes", "dense") and classes is not None
        self.layers = matched_layers(places(first), places(second)) if of_classes else []
        self.reads, self._channels = of_classes, [Channels() for _ in self.layers]
        self._weights: list[tuple[Array, Array]] = []
        self._scores: list[tuple[Array, Array]] = []

    def explain(self, source: str) -> Both:
        """Both explanations of a picture, of the same class."""
        return self._both(source)[0]

    def meet(self, source: str) -> tuple[Both, tuple[Array, Array] | None]:
        """Both explanations of a picture, and both models' scores in the first's order; the channels are noted."""
        both, readings = self._both(source, read=self.reads)
        if readings is None:
            return both, None
        a, b = readings
        for channels, x, y in zip(self._channels, a.maps, b.maps, strict=True):
            channels.add(x, y)
        if a.weights is not None and b.weights is not None and a.weights.shape == b.weights.shape:
            self._weights.append((a.weights, b.weights))
        scores = a.scores, b.scores[self.classes]
        self._scores.append(scores)
        return both, scores

    def _both(self, source: str, read: bool = False) -> tuple[Both, tuple[Reading, Reading] | None]:
        picture = as_image(source)
        one = self._read(self.first, picture, self.target, 0) if read else None
        a = self.first.explain(picture, self.target)
        target = self.target_for_second(a)
        other = self._read(self.second, picture, target, 1) if read else None
        b = self.second.explain(picture, target)
        both = replace(a, source=source), replace(b, source=source)
        return both, None if one is None or other is None else (one, other)

    def target_for_second(self, a: Explanation) -> int | str | None:
        """A plain class becomes the second model's index of it; other targets are read by each model itself."""
        plain = self.target is None or a.target.startswith("logit of ") or isinstance(self.target, int)
        if self.classes is None or a.class_index < 0 or not plain:
            return self.target
        return int(self.classes[a.class_index])

    def index_in_first(self, b: int) -> int:
        """The first model's index of a class of the second."""
        return b if self.classes is None or b < 0 else int(np.flatnonzero(self.classes == b)[0])

    def _read(self, explainer: Explainer, picture: Array, target: int | str | None, side: int) -> Reading | None:
        """Before it is explained: what reads more layers serves the explanation as well, in one session."""
        method, logits = explainer.method, explainer.logits
        chosen = as_target(target, explainer.labels, logits.classes, method.target, logits.kind)
        if chosen.looks:
            return None
        layers = [pair[side].layer for pair in self.layers]
        x, _ = explainer.preprocess.apply(picture, explainer.spec)
        at = explainer.layers[0] if explainer.layers else None
        read = tuple(dict.fromkeys([layer.value for layer in (*layers, *([at] if at else []))]))
        wrt = (at.value,) if at else ()
        try:
            answers, _ = explainer.programs.run(x, chosen, explainer.inputs, Plan(read, wrt))
        except GradientError:
            answers, _ = explainer.programs.run(x, chosen, explainer.inputs, Plan(read))
        maps = [layer.fold(answers[f"A/{layer.value}"])[0] for layer in layers]
        scores = answers["logits"][0]
        scores = scores.reshape(len(scores), -1).mean(axis=1, dtype=np.float64)
        return Reading(maps, _weights(answers, at), scores)

    def stages(self, precision: str) -> list[Stage]:
        """What the channels told, from the image to the scores."""
        allowed = ALLOWED[precision]
        pairs = zip(self._channels, self.layers, strict=True)
        found = [c.stage(p.layer.name, q.layer.name, p.depth, allowed) for c, (p, q) in pairs]
        stages = [s for s in found if s is not None]
        if self._weights:
            at = [_place(e) for e in (self.first, self.second)]
            x, y = map(np.stack, zip(*self._weights, strict=True))
            stages.append(rows_stage("weights", at[0].layer.name, at[1].layer.name, at[0].depth, x, y, allowed))
        if self._scores:
            x, y = map(np.stack, zip(*self._scores, strict=True))
            names = self.first.logits.name, self.second.logits.name
            stages.append(rows_stage("scores", *names, 1.0, x, y, allowed))
        return stages


def _place(explainer: Explainer) -> Place:
    return place(explainer, explainer.layers[0])


def _weights(answers: dict[str, Array], at: Any) -> Array | None:
    if at is None or f"G/{at.value}" not in answers:
        return None
    whole = np.broadcast_to(answers[f"G/{at.value}"], answers[f"A/{at.value}"].shape)
    return np.asarray(at.fold(whole)[0].mean(axis=(1, 2), dtype=np.float64))


def on_one_frame(a: Explanation, b: Explanation) -> tuple[Array, Array]:
    """Both heatmaps, pixel on pixel: of the input where both models see the same part of the picture at one size,
    else of the part of the picture that both see."""
    if a.placement == b.placement or a.placement is None or b.placement is None:
        return a.heatmap, b.heatmap
    seen = a.placement.mask() & b.placement.mask()
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    x, y = a.heatmap_on_image()[window], b.heatmap_on_image()[window]
    if max(x.shape) <= _LONGEST:
        return x, y
    scale = _LONGEST / max(x.shape)
    size = max(1, round(x.shape[0] * scale)), max(1, round(x.shape[1] * scale))
    return np.asarray(resize(np, x, size)), np.asarray(resize(np, y, size))
