"""Does a preprocessing look wrong, by what explaining with it gave? A cheap look, made to raise no false alarm."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt

from onnxcam.errors import OnnxcamError
from onnxcam.explanation import Explanation
from onnxcam.graph.pixels import input_range
from onnxcam.graph.surgery import cut
from onnxcam.image import Preprocess
from onnxcam.model import Model
from onnxcam.opening import input_spec
from onnxcam.runtime import Session

from . import evidence
from .scenes import thumbnail

_KEPT = 8  # pictures that are looked at again
_ANSWERS = 64  # that are kept, the first ones: every two of them are compared
_THUMB = 8  # pixels of a side: the colours in the large
_FAR = 4.0  # off the running statistics: 16 times the spread; right ones were never above 1.7
_UNIFORM = 1.5  # times the probability of a guess
_SEVERAL, _MANY = 5, 100  # pictures and classes, from which on different pictures should have different best classes
_OTHER = 10.0  # grey levels between pictures that are more than frames of one scene
_SHARED, _UNLIKE, _SURE = 0.5, 50.0, 0.7  # right ones share at most 0.38 of their best five; crops of one share more


@dataclass
class Watch:
    """Sees explanations, and keeps of them what a suspicion needs.

    Attributes:
        model: what is explained.
        preprocess: what is doubted.
        classes: how many; None: unknown.
    """

    model: Model
    preprocess: Preprocess
    classes: int | None = None
    _top: list[dict[int, float]] = field(default_factory=list)
    _sure: list[float] = field(default_factory=list)
    _blank: list[bool] = field(default_factory=list)
    _thumbs: list[npt.NDArray[np.float64]] = field(default_factory=list)
    _seen: set[tuple[tuple[int, ...], bytes]] = field(default_factory=set)
    _pictures: list[npt.NDArray[np.generic]] = field(default_factory=list)

    def see(self, found: Explanation) -> None:
        """Keep what matters of an explanation; of several of one picture, the first."""
        if found.image is None or len(self._top) == _ANSWERS:
            return
        thumb = thumbnail(found.image, _THUMB)
        if (mark := (found.image.shape, thumb.tobytes())) in self._seen:
            return
        self._seen.add(mark)
        self._top.append({index: score for index, _, score in found.top})
        self._blank.append(bool(found.maps) and not any(np.any(m.cam) for m in found.maps))
        if found.probability is not None and found.top and found.class_index == found.top[0][0]:
            self._sure.append(found.probability)
        self._thumbs.append(thumb)
        if self._statistics is not None and len(self._pictures) < _KEPT:
            self._pictures.append(self.preprocess.apply(found.image, input_spec(self.model))[0])

    @cached_property
    def _statistics(self) -> evidence.RunningStatistics | None:
        return evidence.running_statistics(self.model)

    def suspicion(self) -> str:
        """Why the preprocessing looks wrong, with advice; "" if it does not, or there is too little to tell."""
        why = self._by_records() or self._by_answers()
        if not why:
            return ""
        advice = f"find the right one with `onnxcam doctor {self.model.path or 'MODEL'} PHOTOS`"
        return f"the preprocessing {self.preprocess.name} looks wrong: {why}; {advice}"

    def _by_records(self) -> str:
        held, spec = input_range(self.model), input_spec(self.model)
        if held is not None and (why := evidence.out_of_range(self.preprocess, spec, held)):
            return f"it {why}"
        statistics = self._statistics
        if statistics is None or len(self._pictures) < evidence.FEW:
            return ""
        with suppress(OnnxcamError):  # what lies before it may take more than the picture
            return self._by_statistics(statistics)
        return ""

    def _by_statistics(self, statistics: evidence.RunningStatistics) -> str:
        session = Session(cut(self.model, [self.model.image_input.name], [statistics.value]), threads=1)
        moments = [evidence.moments(session.run({self.model.image_input.name: x})[0]) for x in self._pictures]
        far = statistics.misfit(*(np.concatenate(part) for part in zip(*moments, strict=True)))
        if far <= _FAR:
            return ""
        return f"what reaches {statistics.node} is far ({far:.1f} deviations) off what it met in training"

    def _by_answers(self) -> str:
        count = len(self._top)
        if count < evidence.FEW:
            return ""
        if _same(self._top) and self._unlike() >= _OTHER:
            return f"{count} different pictures get one and the same answer"
        if self._guesses():
            return f"no class of {self.classes} stands out for any of {count} pictures"
        if self._hardly_varies():
            return f"the best classes are much the same for {count} quite different pictures"
        return f"the map is empty for all {count} pictures" if all(self._blank) else ""

    def _guesses(self) -> bool:
        """Whether every best class is hardly likelier than a guess."""
        told = self.classes is not None and self.classes > 2 and len(self._sure) == len(self._top)
        return told and max(self._sure) * (self.classes or 1) < _UNIFORM

    def _hardly_varies(self) -> bool:
        """Whether unlike pictures share their best classes, none of which is sure."""
        if len(self._top) < _SEVERAL or (self.classes or 0) < _MANY:
            return False
        shared = np.mean([len(a.keys() & b.keys()) / max(1, len(a)) for a, b in combinations(self._top, 2)])
        sure = np.mean([_share(top) for top in self._top])
        return bool(shared >= _SHARED and sure < _SURE and self._unlike() >= _UNLIKE)

    def _unlike(self) -> float:
        """Grey levels between the colours in the large of any two pictures."""
        return float(np.mean([np.abs(a - b).mean() for a, b in combinations(self._thumbs, 2)]))


def _share(top: dict[int, float]) -> float:
    """The best class's probability among the best."""
    scores = np.asarray(list(top.values()))
    return float(1 / np.exp(scores - scores.max()).sum())


def _same(answers: Sequence[dict[int, float]]) -> bool:
    """Whether the best classes and their scores are the same for all."""
    first = answers[0]
    if not first or any(other.keys() != first.keys() for other in answers):
        return False
    scores = np.asarray([[other[k] for k in first] for other in answers])
    return bool(np.ptp(scores, axis=0).max() < evidence.FROZEN * np.abs(scores).max())
