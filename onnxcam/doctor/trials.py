"""Running a model on pictures under a convention: scores, and what its first BatchNormalization is given."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxcam.errors import OptionError
from onnxcam.graph.inspect import Logits
from onnxcam.graph.surgery import expose, make_batch_dynamic
from onnxcam.image import Preprocess
from onnxcam.model import Model
from onnxcam.opening import input_spec
from onnxcam.runtime import Array, Session

from .evidence import RunningStatistics, moments
from .pictures import Pixels

Numbers = npt.NDArray[np.float64]
_TOGETHER = 2**21  # pixels of one run


@dataclass(frozen=True)
class Answers:
    """What a model answers to N pictures.

    Attributes:
        scores: (N, M), the logits, flat; M is 0 where their number differs from picture to picture.
        mean, square: (N, C), of what its first BatchNormalization is given: the mean, and that of the squares; None
            without one.
    """

    scores: Numbers
    mean: Numbers | None = None
    square: Numbers | None = None


class Trial:
    """A model, ready to run under any convention.

    Args:
        model: what to run.
        logits: where its scores are.
        statistics: of its first BatchNormalization, if there is one.
        threads: within an operator; None lets the runtime choose.

    Raises:
        OptionError: it takes more than a picture.
    """

    def __init__(
        self, model: Model, logits: Logits, statistics: RunningStatistics | None = None, threads: int | None = None
    ) -> None:
        _check_inputs(model)
        self.spec, self._image = input_spec(model), model.image_input
        self._names = list(dict.fromkeys([logits.name, *([statistics.value] if statistics else [])]))
        self._normalised = statistics is not None
        whole, self._fixed = expose(model, self._names), self._image.batch
        with suppress(OptionError):
            whole, self._fixed = make_batch_dynamic(whole), None
        self._session = Session(whole, threads=threads)

    def run(self, preprocess: Preprocess, pictures: Sequence[Pixels]) -> Answers:
        """Answers to pictures that have the model's size already.

        Raises:
            ModelError: the runtime failed.
        """
        plain = replace(preprocess, fit="stretch", size=None)
        xs = [plain.apply(p, self.spec)[0] for p in pictures]
        parts = [self._part(np.concatenate(group)) for group in self._groups(xs)]
        scores = _flat([row for part in parts for row in part[0]])
        if not self._normalised:
            return Answers(scores)
        return Answers(scores, *(np.concatenate([part[1][k] for part in parts]) for k in (0, 1)))

    def _groups(self, xs: Sequence[Array]) -> list[list[Array]]:
        side = max(1, _TOGETHER // (xs[0].size or 1)) if self._fixed is None and len({x.shape for x in xs}) == 1 else 1
        return [list(xs[k : k + side]) for k in range(0, len(xs), side)]

    def _part(self, x: Array) -> tuple[list[Array], tuple[Numbers, Numbers]]:
        """The scores of each picture, and moments."""
        count = len(x)
        filled = np.repeat(x, self._fixed, axis=0) if self._fixed else x
        scores, *inner = self._session.run({self._image.name: filled}, self._names)
        rows = [np.asarray(s, np.float64).ravel() for s in _per_picture(scores, len(filled))[:count]]
        a = np.asarray(inner[0] if inner else scores, np.float64)[:count]
        return rows, moments(a) if self._normalised else (np.empty(0), np.empty(0))


def _check_inputs(model: Model) -> None:
    image = model.image_input.name
    more = [str(v.name) for v in model.inputs if v.name != image and v not in model.unread_inputs]
    if more:
        raise OptionError(
            f"{model.label} takes more than one picture: {', '.join([image, *more])}. Doctor tries models of one "
            "picture alone; explain with --preprocess and compare by eye"
        )


def _per_picture(scores: Array, count: int) -> Array:
    return scores if scores.ndim and len(scores) == count else scores.reshape(1, -1)


def _flat(rows: Sequence[Array]) -> Numbers:
    same = len({r.shape for r in rows}) == 1
    return np.stack(rows).astype(np.float64) if same else np.empty((len(rows), 0))
