"""What was found about a model's preprocessing, and how it is said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxcam.image import Preprocess

from . import ranking
from .candidates import FITS, Candidate, Field, as_text


@dataclass(frozen=True)
class Row:
    """One convention, and what was found of it.

    Attributes:
        candidate: the convention.
        classes: how many different classes are answered; None where the model has no classes.
        misfit: distance from the running statistics of the first BatchNormalization, see
            `onnxcam.doctor.evidence.RunningStatistics`; None without one.
        against: why it is ruled out; "" if it is not.
        proven: whether that is a record in the graph, not elimination by the answers.
        accuracy: share of the labelled photos that are right, over the ways of resizing that were tried.
        likelihood: their mean log-probability, natural logarithm.
        peak: the same, in the way of resizing where it is highest.
        units_right: of how many units of photos half of the answers or more are right, see `Diagnosis.units`.
        classes_right: of how many classes.
        p: that it is no worse than the best all the same; None of the best.
    """

    candidate: Candidate
    classes: int | None = None
    misfit: float | None = None
    against: str = ""
    proven: bool = False
    accuracy: float | None = None
    likelihood: float | None = None
    peak: float | None = None
    units_right: int = 0
    classes_right: int = 0
    p: float | None = None

    @property
    def possible(self) -> bool:
        """Whether nothing rules it out."""
        return not self.against and (self.p is None or self.p >= ranking.LEVEL)

    def beats(self, guess: float) -> bool:
        """Whether it does better than a guess of that log-probability, in answers and in probability."""
        if self.peak is None or self.accuracy is None:
            return False
        return self.peak > guess and self.accuracy > math.exp(guess)


@dataclass(frozen=True)
class Diagnosis:
    """What the evidence allows to say.

    Attributes:
        field: the conventions that graph and surroundings left open.
        rows: what was found of each, best first; those ruled out last.
        photos, labelled: how many were tried, and how many of them have a class.
        guess: the log-probability of a guess among the model's classes.
        fits: the ways of resizing that cannot be told apart, best first; empty where there was no such question.
        size: (height, width) that was tried where the model takes any; None: its own.
        grey: the model has one channel.
        notes: what a reader should know, such as labels that were none.
        skipped: photos that could not be read, with the reason.
        advice: what would tell more where labels do not.
        units: as how many independent ones the labelled photos count, see `onnxcam.doctor.scenes.units`.
        doubt: what the model's surroundings say, and why it was not believed; "" if it was, or they say nothing.
    """

    field: Field
    rows: tuple[Row, ...]
    photos: int
    labelled: int
    guess: float
    fits: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    grey: bool = False
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    advice: str = ""
    doubt: str = ""
    units: int = 0

    @property
    def possible(self) -> tuple[Row, ...]:
        """The conventions that the evidence cannot tell apart, best first."""
        return tuple(row for row in self.rows if row.possible)

    @property
    def best(self) -> Row | None:
        """The one that is named: the best by labels, or the only one left. None: not sure."""
        if self.labelled and not self.field.settled:
            first = self.possible[0]
            return first if self._beats_guessing and len(self._first) == 1 else None
        return self.possible[0] if len(self.possible) == 1 else None

    @property
    def certain(self) -> bool:
        """Whether the order of colours and the scale are settled, among what was tried, by proof or by labels."""
        if self.best is None or len(self.possible) > 1:
            return False
        return self.field.settled or self._proven or bool(self.labelled and self._wide)

    @property
    def preprocess(self) -> Preprocess | None:
        """What to use: the convention named, resized in its preset's way unless that is surely worse."""
        if self.best is None:
            return None
        one = self.best.candidate.preprocess
        if self.field.settled:
            return one
        own = next((n for n, fit in FITS.items() if _has(one, fit)), "")
        if self.fits and own not in self.fits:
            one = replace(one, **FITS[self.fits[0]])
        return replace(one, size=self.size)

    @property
    def text(self) -> str:
        """`preprocess`, as ``--preprocess`` takes it; "" if none is named."""
        return "" if self.preprocess is None else as_text(self.preprocess, self.grey)

    def sentences(self) -> list[str]:
        """The verdict in words, the most important first."""
        if self.field.settled:
            return [f"{self.rows[0].candidate.name}: decided by {self.field.source}", *self._check()]
        found = self._by_labels() if self.labelled else self._without_labels()
        return [*found, *([self.doubt] if self.doubt else [])]

    def refuted(self) -> str:
        """Why what the surroundings say cannot be right; "" where nothing speaks against it, or they say nothing."""
        row = self.rows[0]
        if not self.field.settled or (not row.against and (not self.labelled or row.beats(self.guess))):
            return ""
        told = f"{self.field.source} says {as_text(row.candidate.preprocess, self.grey)}"
        if row.against:
            return f"{told}, but that {row.against}"
        share = f"{row.accuracy:.0%} of {self._labelled} right"
        return f"{told}, but with that the model is no better than guessing ({share})"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        rows = [
            {
                "name": row.candidate.name, "preprocess": as_text(row.candidate.preprocess, self.grey),
                "possible": row.possible, "against": row.against or None, "accuracy": row.accuracy,
                "log_likelihood": row.likelihood, "p": row.p, "classes": row.classes, "misfit": row.misfit,
            }
            for row in self.rows
        ]  # fmt: skip
        return {
            "best": None if self.best is None else self.best.candidate.name,
            "preprocess": self.text or None,
            "certain": self.certain,
            "tried": len(self.rows),
            "possible": [row.candidate.name for row in self.possible],
            "fits": list(self.fits),
            "photos": self.photos,
            "labelled": self.labelled,
            "independent": self.units,
            "decided_by": self.field.source or None,
            "verdict": self.sentences(),
            "doubt": self.doubt or None,
            "notes": list(self.notes),
            "skipped": list(self.skipped),
            "candidates": rows,
        }

    @property
    def _beats_guessing(self) -> bool:
        return any(row.beats(self.guess) and (self._proven or self._no_luck(row)) for row in self.possible[:1])

    def _no_luck(self, row: Row) -> bool:
        """Whether guesses would hardly be right as often."""
        return ranking.by_chance(row.units_right, self.units, math.exp(self.guess)) < ranking.LEVEL

    @property
    def _proven(self) -> bool:
        """Whether records in the graph leave one convention."""
        return len(self.possible) == 1 and all(row.proven for row in self.rows if not row.possible)

    @property
    def _wide(self) -> bool:
        """Whether photos of enough classes are right."""
        return self.possible[0].classes_right >= self._wanted

    @property
    def _wanted(self) -> int:
        """Of how many classes half of the photos must be right before anything is certain: one may be a favourite."""
        return min(_CLASSES, round(math.exp(-self.guess)))

    @property
    def _first(self) -> list[Row]:
        """Those that no other is ahead of."""
        most = max(row.likelihood or -math.inf for row in self.possible)
        return [row for row in self.possible if (row.likelihood or -math.inf) > most - ranking.ALIKE]

    # Sentences

    def verdict_on(self, row: Row) -> str:
        """What is said of one convention, in words."""
        if row.against:
            return f"no: {row.against}"
        if row is self.best:
            return "certain" if self.certain else "best" if len(self.possible) > 1 else "the only one left"
        if row.p is None:
            off = "" if row.misfit is None else f", {row.misfit:.1f} deviations off the running statistics"
            return f"possible{off}"
        return f"{'possible' if row.possible else 'worse'} (p = {row.p:.2g})"

    @property
    def _labelled(self) -> str:
        return _photos(self.labelled, "labelled ")

    def _check(self) -> list[str]:
        share = self.rows[0].accuracy
        return [] if share is None else [f"With it {share:.0%} of {self._labelled} are right"]

    def _by_labels(self) -> list[str]:
        if not self._beats_guessing:
            return [
                f"Not sure: no convention makes the model better than guessing on {self._labelled}, beyond chance. "
                "Check that the labels are its classes (a background class shifts all by one), "
                "and the photos of its kind"
            ]
        best = self.best
        if best is None:
            names = _listed([row.candidate.name for row in self._first])
            return [
                f"Not sure: {names} fit {self._labelled} alike ({self._first[0].accuracy:.0%} right)",
                *self._more(),
            ]
        share = f"{best.accuracy or 0:.0%} right of {self._labelled}"
        lines = [f"{best.candidate.name} fits best of the {len(self.rows)} tried: {share}"]
        if not self.grey:
            lines.append(self._question("Colour", [row.candidate.color for row in self.rows], best.candidate.color))
        lines.append(self._question("Scale", [row.candidate.scale for row in self.rows], best.candidate.scale))
        if self.fits:
            lines.append(f"Resize: {_listed(self.fits)}{'' if len(self.fits) == 1 else ' cannot be told apart'}")
        return [*lines, *self._more()]

    def _more(self) -> list[str]:
        """What certain means, or what it takes."""
        needed, tried = self._needed(), len(self.rows)
        if self.certain:
            return [] if self._proven else [f"Certain among the {tried} tried: one that is none of them goes unseen"]
        if len(self.possible) == 1:
            half = f"that takes {self._wanted} classes of which half of the photos are right"
            return [f"Not certain: {half}; here it is {self.possible[0].classes_right}"]
        if self.units >= needed:
            return []
        count = sum(not row.against for row in self.rows)
        least = f"among {count} conventions that takes {needed} at the very least"
        few = "" if self.units == self.labelled else f", which count as {self.units} ({_ONE}),"
        return [f"{_photos(self.labelled)}{few} cannot make it certain: {least}"]

    def _question(self, about: str, names: Sequence[str], best: str) -> str:
        """One line: the answer, and what cannot be told from it."""
        others = {name: row for name, row in zip(names[::-1], self.rows[::-1], strict=True) if name != best}
        if not others:
            return f"{about}: {best}, {f'by the graph: {self.field.source}' if self.field.source else 'the only one'}"
        left = [name for name in dict.fromkeys(names) if name in others and others[name].possible]
        if not left:
            chance = max((row.p for row in others.values() if row.p is not None), default=0.0)
            return f"{about}: {best}{', certain' if self._wide else ''} (any other: p <= {chance:.2g})"
        p = others[left[0]].p
        ahead = "" if p is None else f"; {best} is ahead, p = {p:.2g}"
        return f"{about}: {_listed([best, *left])} cannot be told apart{ahead}"

    def _needed(self) -> int:
        """The fewest photos with which the test can come out below its level."""
        others = max(1, sum(not row.against for row in self.rows) - 1)
        return next(n for n in range(1, 64) if others * 2.0**-n < ranking.LEVEL)

    def _without_labels(self) -> list[str]:
        names = [row.candidate.name for row in self.possible]
        ground = f" ({self.field.source})" if self.field.source else ""
        advice = [self.advice] if self.advice else []
        if self.best is not None:
            gone = [row.candidate.name for row in self.rows if not row.possible]
            if self.certain:
                all_else = f"all else of the {len(self.rows)} tried" if gone else "all else"
                return [f"{names[0]}: {all_else} contradicts the model's own records{ground}"]
            return [f"{names[0]} by elimination, not proven{ground}; the runner-ups: {_listed(gone)}", *advice]
        which = "any of the table" if len(names) > _FEW else _listed(names)
        return [f"Not sure: {len(names)} of {len(self.rows)} conventions are left{ground}: {which}", *advice]


_FEW = 8  # names that a sentence lists
_ONE = "near-duplicates are one, and so are photos of one class where they show fewer than half of the classes"
_CLASSES = 3  # of which half of the photos are right, before labels make anything certain


def _photos(count: int, kind: str = "") -> str:
    return f"{count} {kind}photo{'' if count == 1 else 's'}"


def _has(preprocess: Preprocess, fit: dict[str, Any]) -> bool:
    return all(getattr(preprocess, key) == value for key, value in fit.items())


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
