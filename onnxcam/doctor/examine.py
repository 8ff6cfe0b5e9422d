"""Trying conventions on photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from onnxcam.errors import ModelError
from onnxcam.graph.inspect import Logits, find_logits
from onnxcam.graph.pixels import input_range
from onnxcam.image import InputSpec
from onnxcam.labels import Labels, misfit
from onnxcam.model import Model
from onnxcam.photos import Photo
from onnxcam.sidecar import sidecar_path

from . import evidence, ranking
from .candidates import Candidate, Field, find_by_graph, find_candidates
from .diagnosis import Diagnosis, Row
from .evidence import RunningStatistics
from .pictures import Pictures, classes_of, read_pictures
from .scenes import by_unit, units
from .trials import Answers, Trial

Numbers = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]
MOST = 100  # photos that are tried; more tell no more
_NAMED = 5  # folders or classes that a notice lists
_MORE, _TABLE = "Labels tell more: ", "--truth CSV with lines of path,label"
_BY_EYE = "Labels cannot help with this kind of model: try what is left with `onnxcam explain --preprocess`, and look"
_HOPELESS = 1.0  # nats of log-probability behind the best in the first round, and surely so: no further round


def diagnose(
    model: Model,
    photos: Sequence[Photo],
    labels: Labels | None = None,
    *,
    given: bool = False,
    output: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Try the conventions that a model's graph and surroundings leave open on photos.

    With labels the best is named by the mean log-probability of the photos' classes, over several ways of resizing
    (which average out how each photo happens to be cut), and a paired test says which others cannot be told from it
    (Fisher's randomisation, Holm's correction, 5 %). Without labels conventions are only ruled out, each for a reason
    that holds by itself: NaN; one answer to every photo; values that the model's input quantiser cannot hold; far off
    the running statistics of an unfolded BatchNormalization.

    Args:
        model: the model.
        photos: pictures, some or all with a label; of more than 100, 100 are taken, evenly spread.
        labels: class names, in index order.
        given: whether the photos' labels were given on purpose, not by the names of folders.
        output: the model output to read, where there are several.
        threads: within an operator; None lets the runtime choose.
        progress: called with (done, total) pictures run.

    Raises:
        ImageError: no photo can be read.
        OptionError, UnknownNameError: labels that the model does not have; a model of more than one picture.
        ModelError: no image input; the runtime failed, or the model answers NaN whatever is tried.
    """
    options = find_candidates(model)  # first of all: without an image nothing else is worth saying
    logits, statistics = find_logits(model, output), evidence.running_statistics(model)
    taken, notes = _spread(photos)
    truth, more, advice = _truth(taken, labels, logits, given)
    case = Case(model, logits, statistics, Trial(model, logits, statistics, threads), taken, truth, progress)
    found = case.judge(options)
    if why := found.refuted():
        found = case.judge(find_by_graph(model, options.candidates[0].preprocess))
        found = replace(found, doubt=why + _step(model, found, options.source))
    return replace(found, notes=tuple(filter(None, [misfit(labels, _count(logits)), *notes, *more])), advice=advice)


def _step(model: Model, found: Diagnosis, source: str) -> str:
    """What to do about a source that is not believed, once something better is certain."""
    if not found.certain:
        return ""
    own = model.path is not None and source == str(sidecar_path(model.path))
    return ". Mend it, or delete it" if own else ". A sidecar goes before it (--write-sidecar)"


@dataclass(frozen=True)
class Case:
    """A model and photos, on which any field of conventions can be tried.

    Attributes:
        model, logits, statistics, trial: what runs.
        photos, truth: on what, and their classes.
        progress: called with (done, total).
    """

    model: Model
    logits: Logits
    statistics: RunningStatistics | None
    trial: Trial
    photos: Sequence[Photo]
    truth: Sequence[int]
    progress: Progress | None

    def judge(self, options: Field) -> Diagnosis:
        """What the evidence says of these conventions.

        Raises:
            ImageError, ModelError: of `diagnose`.
        """
        own = options.candidates[0].preprocess if options.settled else None
        pictures = read_pictures(self.photos, self.truth, self.trial.spec, own, every=max(self.truth) >= 0)
        rounds = Rounds(self.trial, options.candidates, pictures, self.progress, max(2, self.logits.classes or 2))
        tried = zip(options.candidates, rounds.first(), strict=True)
        rows = [_observed(c, a, self.logits, self.statistics) for c, a in tried]
        held = None if options.settled else input_range(self.model)
        rows, fits = _ruled_out(rows, rounds, pictures.distinct, held), tuple[str, ...]()
        alive = any(row.possible for row in rows)
        if not alive and not options.settled:
            raise ModelError(f"{self.model.label}: {rows[0].against}, whatever is tried: export it again")
        if alive and np.any(pictures.truth >= 0):
            rows, fits = rounds.ranked(rows)
        return Diagnosis(
            options, tuple(sorted(rows, key=_place)), len(pictures.paths), int(np.sum(pictures.truth >= 0)),
            -float(np.log(rounds.classes)), fits, pictures.size, self.trial.spec.channels == 1,
            skipped=pictures.skipped, units=len(np.unique(rounds.units)),
        )  # fmt: skip


def _spread(photos: Sequence[Photo]) -> tuple[Sequence[Photo], list[str]]:
    if len(photos) <= MOST:
        return photos, []
    chosen = np.linspace(0, len(photos) - 1, MOST).round().astype(int)
    return [photos[k] for k in chosen], [f"{MOST} of the {len(photos)} photos are tried, evenly spread"]


def _truth(
    photos: Sequence[Photo], labels: Labels | None, logits: Logits, given: bool
) -> tuple[list[int], list[str], str]:
    """The class of each photo, a notice where labels are not read, and what to do where there are none."""
    none, written = [-1] * len(photos), list(dict.fromkeys(p.label for p in photos if p.label is not None))
    if logits.kind != "classes":
        text = f"labels are not read: the model gives {logits.kind}, not one class for the picture"
        return none, [text] if written else [], _BY_EYE
    if not written:
        return none, [], f"{_MORE}one folder per class, or {_TABLE}"
    found = classes_of(photos, labels, _count(logits), given)
    if max(found) >= 0:
        other = [p.label for p, k in zip(photos, found, strict=True) if k < 0 and p.label is not None]
        return found, [_left_out(other)] if other else [], ""
    named = labels is not None and not misfit(labels, _count(logits))
    advice = f"folders named so, or {_TABLE}" if named else "--labels NAMES.txt, the names of its classes"
    none_of = f"the folders {_some(written)} are no classes of the model"
    return found, [f"{none_of} {_classes(labels, logits)}"], _MORE + advice


def _left_out(labels: Sequence[str]) -> str:
    """That folders are no classes, though others are."""
    which = _some(list(dict.fromkeys(labels)))
    return f"no class of the model is called {which}: of {len(labels)} photos in folders named so no label is read"


def _classes(labels: Labels | None, logits: Logits) -> str:
    if labels is not None:
        return f"({_some(labels)}): no labels"
    return f"({logits.classes or 'any number of'} classes, without names): no labels. Give their names with --labels"


def _count(logits: Logits) -> int | None:
    return 2 if logits.classes == 1 and logits.kind == "classes" else logits.classes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f", ... ({len(names)} in all)" if len(names) > _NAMED else "")


def _place(row: Row) -> tuple[bool, float, float]:
    return bool(row.against), -(row.likelihood or 0.0), row.misfit or 0.0


def _observed(candidate: Candidate, answers: Answers, logits: Logits, statistics: RunningStatistics | None) -> Row:
    classes = len(set(answers.scores.argmax(axis=1))) if logits.kind == "classes" and answers.scores.size else None
    if statistics is None or answers.mean is None or answers.square is None:
        return Row(candidate, classes)
    return Row(candidate, classes, statistics.misfit(answers.mean, answers.square))


def _ruled_out(rows: Sequence[Row], rounds: Rounds, distinct: int, held: tuple[float, float] | None) -> list[Row]:
    """The rows, with what speaks against them for certain."""
    varieties = [evidence.variety(answers.scores) for answers in rounds.first()]
    most = float(np.nanmax([*varieties, 0.0]))
    nearest = min((row.misfit for row in rows if row.misfit is not None), default=0.0)
    found = []
    for row, answers, variety in zip(rows, rounds.first(), varieties, strict=True):
        records = _by_records(row, rounds.trial.spec, held, nearest if distinct >= evidence.FEW else float("inf"))
        frozen = distinct >= evidence.FEW and variety < min(evidence.FROZEN, most / 20)
        against = records or _by_answers(answers.scores, frozen)
        found.append(replace(row, against=against, proven=bool(records)))
    return found


def _by_records(row: Row, spec: InputSpec, held: tuple[float, float] | None, nearest: float) -> str:
    """What the graph's records of its own pictures say against a convention."""
    if held is not None and (why := evidence.out_of_range(row.candidate.preprocess, spec, held)):
        return why
    if row.misfit is None or row.misfit <= nearest + evidence.MISFIT:
        return ""
    off = f"is {row.misfit:.1f} deviations off the running statistics"
    return f"{off} of the first BatchNormalization, the best {nearest:.1f}"


def _by_answers(scores: Numbers, frozen: bool) -> str:
    if scores.size and not np.all(np.isfinite(scores)):
        return "gives NaN or infinite scores"
    return f"gives one answer to {len(scores)} photos" if frozen else ""


@dataclass
class Rounds:
    """What candidates answer to pictures: all in the first way of resizing; to labelled ones in every way.

    Attributes:
        trial, candidates, pictures: what runs on what.
        progress: called with (done, total).
        classes: how many the model has.
    """

    trial: Trial
    candidates: Sequence[Candidate]
    pictures: Pictures
    progress: Progress | None = None
    classes: int = 2
    _first: list[Answers] = field(default_factory=list)
    _done: int = 0
    _total: int = 0

    def first(self) -> list[Answers]:
        """The answers of every candidate to every picture, in the first way of resizing."""
        if not self._first:
            pictures = next(iter(self.pictures.fits.values()))
            self._total = len(self.candidates) * len(pictures)
            self._first = [self._run(c, pictures) for c in self.candidates]
        return self._first

    @property
    def units(self) -> npt.NDArray[np.int64]:
        """For each labelled photo the number of the unit that it is counted with, see `onnxcam.doctor.scenes.units`."""
        labelled = self.pictures.truth >= 0
        return units(self.pictures.scenes[labelled], self.pictures.truth[labelled], self.classes)

    def _run(self, candidate: Candidate, pictures: Sequence[npt.NDArray[np.uint8]]) -> Answers:
        found = self.trial.run(candidate.preprocess, pictures)
        self._done += len(pictures)
        if self.progress is not None:
            self.progress(self._done, self._total)
        return found

    def ranked(self, rows: Sequence[Row]) -> tuple[list[Row], tuple[str, ...]]:
        """The rows with what labels tell, and the ways of resizing that cannot be told apart, best first."""
        labelled, units = np.flatnonzero(self.pictures.truth >= 0), self.units
        truth = self.pictures.truth[labelled]
        scores = [[answers.scores[labelled]] for answers in self.first()]
        likely = [[by_unit(ranking.log_likelihood(s[0], truth), units)] for s in scores]
        alive = self._hopeful(rows, likely)
        further = list(self.pictures.fits.values())[1:]
        self._total += len(alive) * len(further) * len(labelled)
        for i in alive:
            for pictures in further:
                found = self._run(self.candidates[i], [pictures[k] for k in labelled]).scores
                scores[i].append(found)
                likely[i].append(by_unit(ranking.log_likelihood(found, truth), units))
        best = max(alive, key=lambda i: float(np.mean(likely[i])))
        values = dict(zip(others := [i for i in _open(rows) if i != best], _values(likely, best, others), strict=True))
        rights = [np.mean([ranking.right(s, truth) for s in several], axis=0) for several in scores]
        shown = np.unique(truth, return_inverse=True)[1]
        judged = [
            replace(
                row,
                accuracy=float(rights[i].mean()),
                units_right=self._mostly(rights[i], units),
                classes_right=self._mostly(rights[i], shown),
                likelihood=float(np.mean(likely[i])),
                peak=max(float(one.mean()) for one in likely[i]),
                p=values.get(i),
            )
            for i, row in enumerate(rows)
        ]
        return judged, self._fits(likely[best])

    def _mostly(self, rights: Numbers, groups: npt.NDArray[np.int64]) -> int:
        """In how many groups of photos half of the answers are right, and more than guesses would be."""
        shares = by_unit(rights, groups)
        return int(np.sum((shares >= 0.5) & (shares > 1 / self.classes)))

    def _hopeful(self, rows: Sequence[Row], likely: Sequence[Sequence[Numbers]]) -> list[int]:
        """Those that a further round may find to be the best."""
        open_rows = _open(rows)
        means = {i: float(likely[i][0].mean()) for i in open_rows}
        best = max(open_rows, key=lambda i: means[i])
        values = dict(zip(open_rows, ranking.compared(likely[best][0], [likely[i][0] for i in open_rows]), strict=True))
        return [i for i in open_rows if values[i] >= ranking.LEVEL or means[best] - means[i] < _HOPELESS]

    def _fits(self, likely: Sequence[Numbers]) -> tuple[str, ...]:
        """The ways of resizing that the best convention cannot tell apart."""
        names = list(self.pictures.fits)
        if len(names) < 2:
            return ()
        order = sorted(range(len(names)), key=lambda k: -float(likely[k].mean()))
        values = ranking.compared(likely[order[0]], [likely[k] for k in order[1:]])
        left = [k for k, p in zip(order[1:], values, strict=True) if p >= ranking.LEVEL]
        return tuple(names[k] for k in [order[0], *left])


def _open(rows: Sequence[Row]) -> list[int]:
    return [i for i, row in enumerate(rows) if not row.against]


def _values(likely: Sequence[Sequence[Numbers]], best: int, others: Sequence[int]) -> list[float]:
    """P values against the best, each over the ways of resizing that both have been through."""
    flips = []
    for i in others:
        shared = min(len(likely[i]), len(likely[best]))
        difference = np.mean(likely[best][:shared], axis=0) - np.mean(likely[i][:shared], axis=0)
        flips.append(ranking.sign_flip(difference))
    return ranking.holm(flips)
