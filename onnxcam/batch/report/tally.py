"""The figures of a job, gathered in one pass over its rows, and which rows the gallery shows."""

from __future__ import annotations

import base64
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.batch.manifest import GRID, is_flagged

MOST_ERRORS = 50  # that the summary quotes; each has its card
_MOST_NAMES = 10_000  # different labels or warnings that are counted apart: a column of file names is no label

Map = NDArray[np.float64]


def grid_of(row: Mapping[str, Any]) -> NDArray[np.uint8] | None:
    """The small map of a row, uint8 (16, 16), in the frame of the picture; None where it has none."""
    try:
        return np.frombuffer(base64.b64decode(row["map"], validate=True), np.uint8).reshape(GRID, GRID)
    except (KeyError, TypeError, ValueError):
        return None


def state_of(row: Mapping[str, Any]) -> str:
    """``"error"``, or whether the top class is the true one: ``"right"``, ``"wrong"``, ``"unknown"``."""
    if "error" in row:
        return "error"
    return {True: "right", False: "wrong"}.get(row.get("correct"), "unknown")  # type: ignore[arg-type]


def class_of(row: Mapping[str, Any]) -> str:
    """What to call the explained class; "" where there is none."""
    index = row.get("class_index")
    return str(row.get("label") or ("" if index is None else f"class {index}"))


def kind_of(row: Mapping[str, Any]) -> str:
    """Of what kind the score is: the words of the target before its class, such as "logit" or "margin"."""
    words = str(row.get("target"))
    return re.split(r" of | to ", words)[0] + " less others" * (" x the mean of " in words)


def top_of(row: Mapping[str, Any]) -> str:
    """What to call the predicted class."""
    top = row.get("top") or ()
    return class_of(top[0]) if top else class_of(row)


@dataclass
class Mean:
    """Of finite numbers; others are left out."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float | None) -> None:
        """Count a number in."""
        if value is not None and math.isfinite(value):
            self.total, self.count = self.total + value, self.count + 1

    @property
    def value(self) -> float | None:
        """None of no numbers."""
        return self.total / self.count if self.count else None


@dataclass
class Judged:
    """Pictures, each counted once: rows of one picture, of several targets, are neighbours.

    Attributes:
        pictures: how many.
        known, right: those whose true class is known; of them with the right top class.
    """

    pictures: int = 0
    known: int = 0
    right: int = 0
    _last: str | None = None
    _judged: str | None = None

    def see(self, row: Mapping[str, Any]) -> bool:
        """Count the picture of a row in; whether its prediction was judged just now, for the first time."""
        source, state = str(row.get("source")), state_of(row)
        self.pictures += source != self._last
        self._last = source
        if state not in ("right", "wrong") or source == self._judged:
            return False
        self._judged = source
        self.known += 1
        self.right += state == "right"
        return True

    @property
    def accuracy(self) -> float | None:
        """Right of known; None where nothing is known."""
        return self.right / self.known if self.known else None


@dataclass
class Group(Judged):
    """Explained pictures with something in common.

    Attributes:
        count, flagged: explanations; of them with a blank map or a warning.
        kinds: of scores: "logit", "margin" and so on.
        score, probability: their means.
    """

    count: int = 0
    flagged: int = 0
    kinds: set[str] = field(default_factory=set)
    score: Mean = field(default_factory=Mean)
    probability: Mean = field(default_factory=Mean)
    _map: NDArray[np.int64] = field(default_factory=lambda: np.zeros((GRID, GRID), np.int64))
    _maps: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row in."""
        self.count += 1
        self.flagged += is_flagged(row)
        self.see(row)
        self.kinds.add(kind_of(row))
        self.score.add(row.get("score"))
        self.probability.add(row.get("probability"))
        if (grid := grid_of(row)) is not None:
            self._map += grid
            self._maps += 1

    @property
    def mean_score(self) -> float | None:
        """None of scores of several kinds, too: logits and margins have no common mean."""
        return self.score.value if len(self.kinds) == 1 else None

    @property
    def mean_map(self) -> Map | None:
        """The mean of the heatmaps, (16, 16) in [0, 1], each pulled to the same frame; None of no maps."""
        return self._map / (255.0 * self._maps) if self._maps else None


@dataclass
class Truth(Judged):
    """Explained pictures of one true class, and what they were taken for."""

    taken_for: Counter[str] = field(default_factory=Counter)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row in."""
        if self.see(row) and state_of(row) == "wrong":
            self.taken_for[top_of(row)] += 1


class Spread:
    """Items of a stream of any length, evenly spread over it; the memory stays flat."""

    def __init__(self, most: int) -> None:
        self._most, self._step, self.seen = most, 1, 0
        self._kept: list[int] = []

    def add(self, item: int) -> None:
        """Offer an item; each 2^k-th is kept, k grows with the stream."""
        if self.seen % self._step == 0:
            self._kept.append(item)
        self.seen += 1
        if len(self._kept) > 2 * self._most:
            self._kept, self._step = self._kept[::2], self._step * 2

    def take(self, count: int) -> list[int]:
        """As many of the kept ones, evenly; all where there are fewer."""
        kept = self._kept
        return kept if len(kept) <= count else [kept[k * len(kept) // count] for k in range(count)]


@dataclass
class Figures:
    """What the summary says, over all rows.

    Attributes:
        rows: how many there are.
        all: pictures, those that failed included.
        whole: all explained pictures.
        classes: by explained class, (index, name).
        truths: by the true class's name.
        errors: by kind.
        quoted: of the first errors: name of the picture, kind, message.
        predicted: of every picture its top class is explained.
        blank: maps that are zero everywhere.
        warnings: by their words.
        words: the different methods, layers and targets, the first few.
        seconds: the mean of each step.
    """

    rows: int = 0
    all: Judged = field(default_factory=Judged)
    whole: Group = field(default_factory=Group)
    classes: dict[tuple[int | None, str], Group] = field(default_factory=dict)
    truths: dict[str, Truth] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    quoted: list[tuple[str, str, str]] = field(default_factory=list)
    predicted: bool = True
    blank: int = 0
    warnings: Counter[str] = field(default_factory=Counter)
    words: dict[str, list[str]] = field(default_factory=lambda: {"method": [], "layer": [], "target": []})
    seconds: dict[str, Mean] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row in."""
        self.rows += 1
        self.all.see(row)
        for step, seconds in (row.get("timings") or {}).items():
            self.seconds.setdefault(step, Mean()).add(seconds)
        if "error" in row:
            self._add_error(row)
        else:
            self._add_explained(row)

    def _add_error(self, row: Mapping[str, Any]) -> None:
        self.errors[str(row.get("kind"))] += 1
        if len(self.quoted) < MOST_ERRORS:
            self.quoted.append((str(row.get("name")), str(row.get("kind")), str(row["error"])))

    def _add_explained(self, row: Mapping[str, Any]) -> None:
        self.whole.add(row)
        self.classes.setdefault((row.get("class_index"), class_of(row)), Group()).add(row)
        truth = row.get("truth")
        if truth is not None and (truth in self.truths or len(self.truths) < _MOST_NAMES):
            self.truths.setdefault(truth, Truth()).add(row)
        self.predicted &= [row.get("class_index")] == [one.get("class_index") for one in (row.get("top") or ())[:1]]
        self.blank += bool(row.get("blank"))
        for warning in row.get("warnings") or ():
            if warning in self.warnings or len(self.warnings) < _MOST_NAMES:
                self.warnings[warning] += 1
        for kind, known in self.words.items():
            if len(known) < 4 and (word := str(row.get(kind) or "")) and word not in known:
                known.append(word)


@dataclass(frozen=True)
class Shown:
    """Which rows have a card.

    Attributes:
        indexes: of these rows; None: all have one.
        count: how many.
        first: errors, flagged and wrong ones among them; ``of_first``: of so many.
        of_first: see ``first``.
    """

    indexes: frozenset[int] | None
    count: int
    first: int = 0
    of_first: int = 0

    def __contains__(self, row: Mapping[str, Any]) -> bool:
        return self.indexes is None or row["index"] in self.indexes


def gather(rows: Iterable[Mapping[str, Any]], most: int) -> tuple[Figures, Shown]:
    """Add up all rows, and choose at most ``most`` of them for the gallery.

    Where there are more, errors, flagged and wrong ones come first, then the others; each evenly spread over the job.
    """
    figures, first, others = Figures(), Spread(most), Spread(most)
    for row in rows:
        figures.add(row)
        notable = state_of(row) in ("error", "wrong") or is_flagged(row)
        (first if notable else others).add(row["index"])
    if figures.rows <= most:
        return figures, Shown(None, figures.rows)
    chosen = first.take(most)
    indexes = frozenset([*chosen, *others.take(most - len(chosen))])
    return figures, Shown(indexes, len(indexes), len(chosen), first.seen)
