"""From image to scores, stage by stage: where two networks begin to differ by more than their precision explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcam.compare.figures import counted

Array = npt.NDArray[Any]
ALLOWED: Mapping[str, float] = {"float": 0.01, "half": 0.05, "int8": 0.75}
"""The error of a channel that a precision explains; docs/compare.md says how these were chosen."""
_SETTLED = 0.2  # share of the allowance below which what follows a stage counts as in agreement
_JUMP = 4  # times the median error of the layer before: more than rounding adds in a layer
_FEWEST = 10  # pictures: below, single channels of a quantised network have too few pixels that are not 0
_UNRELATED = 0.5  # share of a stage's channels that differ, above which the networks are two


@dataclass(frozen=True)
class Stage:
    """One place where both networks were read.

    Attributes:
        what: ``"layer"``; ``"weights"``, the mean gradient of the score per channel of the explained layer; or
            ``"scores"``, the logits.
        a, b: the values' names.
        depth: as a share of the way from image to logits.
        errors: (C,), per channel or class; see :func:`errors`.
        odd: the channels whose error is larger than the precision explains, and the swapped ones.
        swapped: pairs of channels that stand in each other's place; noise that hides the size of their error does not
            hide that each one's means are the other's.
    """

    what: str
    a: str
    b: str
    depth: float
    errors: Array
    odd: tuple[int, ...]
    swapped: tuple[tuple[int, int], ...]

    @property
    def worst(self) -> float:
        """The largest error."""
        return float(self.errors.max())

    @property
    def typical(self) -> float:
        """The median error."""
        return float(np.median(self.errors))

    @property
    def title(self) -> str:
        """In words, of the first model."""
        return {"layer": f"layer {self.a}", "weights": f"the gradients at {self.a}", "scores": "the scores"}[self.what]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "what": self.what, "a": self.a, "b": self.b, "depth": self.depth, "channels": len(self.errors),
            "worst": self.worst, "median": self.typical, "odd": list(self.odd),
            "swapped": [list(pair) for pair in self.swapped],
        }  # fmt: skip


@dataclass
class Channels:
    """Sums over pictures and pixels, from which the errors of a layer's channels come.

    Maps before and after a rectifier are held against each other rectified, so that an exporter's fusion is no error.
    """

    count: int = 0
    sums: Array = field(default_factory=lambda: np.zeros(()))
    squares: Array = field(default_factory=lambda: np.zeros(()))
    off: Array = field(default_factory=lambda: np.zeros(()))
    means: list[tuple[Array, Array]] = field(default_factory=list)

    def add(self, a: Array, b: Array) -> None:
        """One picture's maps (C, h, w); of different grids they say nothing and are left out."""
        if a.shape != b.shape:
            return
        size = a.shape[1:]
        x, y = (v.reshape(len(v), -1).astype(np.float64) for v in (a, b))
        if (x.min() < 0) != (y.min() < 0):
            x, y = np.maximum(x, 0), np.maximum(y, 0)
        self.count += x.shape[1]
        self.sums, self.squares = self.sums + x.sum(axis=1), self.squares + (x * x).sum(axis=1)
        self.off = self.off + ((x - y) ** 2).sum(axis=1)
        self.means.append((_means(x.reshape(-1, *size)), _means(y.reshape(-1, *size))))

    def stage(self, a: str, b: str, depth: float, allowed: float) -> Stage | None:
        """What was found; None where nothing could be held against each other."""
        if not self.count:
            return None
        spread = np.sqrt(np.maximum(self.squares / self.count - (self.sums / self.count) ** 2, 0))
        found = errors(np.sqrt(self.off / self.count), spread)
        return _judged("layer", a, b, depth, found, allowed, *map(np.concatenate, zip(*self.means, strict=True)))


def _means(a: Array) -> Array:
    """(4, C): of the upper, lower, left and right half of a map (C, h, w)."""
    down, across = max(1, a.shape[1] // 2), max(1, a.shape[2] // 2)
    halves = a[:, :down], a[:, -down:], a[:, :, :across], a[:, :, -across:]
    return np.stack([half.mean(axis=(1, 2)) for half in halves])


def rows_stage(what: str, a: str, b: str, depth: float, x: Array, y: Array, allowed: float) -> Stage:
    """A stage of one number per picture and channel: ``x``, ``y`` (N, C)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    scale = x.std() or np.abs(x).max() or 1.0
    found = np.sqrt(((x - y) ** 2).mean(axis=0)) / scale
    return _judged(what, a, b, depth, found, allowed, x, y)


def errors(off: Array, spread: Array) -> Array:
    """The error of each channel: ``off_c / max(spread_c, median of the spreads of all live channels)``.

    Two unrelated channels of equal spread have 1.4; where one constant stands for another channel it is 1.

    Args:
        off: (C,), root mean square of the difference.
        spread: (C,), standard deviation in the first model, over pictures and pixels.
    """
    live = spread[spread > 1e-6 * spread.max(initial=0)]
    typical = float(np.median(live)) if len(live) else 1.0
    return np.asarray(off / np.maximum(spread, typical))


def _judged(what: str, a: str, b: str, depth: float, found: Array, allowed: float, x: Array, y: Array) -> Stage:
    pairs = swapped(x, y, list(map(int, np.flatnonzero(found > _SETTLED * allowed))))
    odd = {int(c) for c in np.flatnonzero(found > allowed)} | {c for pair in pairs for c in pair}
    return Stage(what, a, b, depth, found, tuple(sorted(odd)), pairs)


def swapped(x: Array, y: Array, among: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Pairs of channels ``among`` these where each one's means (N,) are the other's; ``x``, ``y`` (N, C)."""
    chosen = list(among)
    if not chosen:
        return ()
    away = np.sqrt(((x[:, chosen, None] - y[:, None, chosen]) ** 2).mean(axis=0))  # (of x, of y)
    nearest = away.argmin(axis=0)
    mutual = [(i, int(j)) for i, j in enumerate(nearest) if i < j and nearest[j] == i]
    clear = [(i, j) for i, j in mutual if away[i, j] + away[j, i] < 0.5 * (away[i, i] + away[j, j])]
    return tuple((chosen[i], chosen[j]) for i, j in clear)


@dataclass(frozen=True)
class Verdict:
    """What the stages say.

    Attributes:
        kind: ``"sound"``: one network, the differences are those of its precision; ``"fault"``: one network, and
            something in it is wrong; ``"different"``: two networks, or two preprocessings; ``"unknown"``: no stage
            could be compared.
        text: in words.
        at: the first stage that differs, or None.
    """

    kind: str
    text: str
    at: Stage | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": self.kind, "text": self.text, "at": None if self.at is None else self.at.to_dict()}


def verdict(stages: Sequence[Stage], precision: str, explained: str = "", pictures: int = _FEWEST) -> Verdict:
    """From stages in order, image first: the first one with an odd channel, or where the median error jumps.

    A layer that differs while all that follows agrees is read differently, not computed wrongly: it counts only if it
    is the explained one, or if channels are swapped.

    Args:
        stages: as read.
        precision: of :data:`ALLOWED`; the coarser one of the two.
        explained: the first model's explained layer.
        pictures: how many were read.
    """
    if not any(s.what == "layer" for s in stages):
        return Verdict("unknown", "not known: no layer could be compared, channel by channel")
    settled = _SETTLED * ALLOWED[precision]
    for k, stage in enumerate(stages):
        alone = all(s.worst < settled for s in stages[k + 1 :]) and k + 1 < len(stages)
        before = stages[k - 1].typical if k and stage.what == "layer" else np.inf
        jumps = stage.typical > max(_JUMP * before, settled)
        if (stage.odd or jumps) and not (alone and stage.a != explained and not stage.swapped):
            return _certain(_of(stage, k, before, precision), precision, pictures)
    return Verdict("sound", f"no fault: {_read(stages)} within what {precision} explains")


def _read(stages: Sequence[Stage]) -> str:
    """What was compared, and no more: 5 layers, gradients and scores agree."""
    kinds = [s.what for s in stages]
    layers = kinds.count("layer")
    parts = [f"{layers} layer{'s' * (layers != 1)}"]
    parts += [name for what, name in (("weights", "gradients"), ("scores", "scores")) if what in kinds]
    listed = ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + parts[-1]
    return f"{listed} agree{'s' * (layers == len(parts) == 1)}"


def _certain(found: Verdict, precision: str, pictures: int) -> Verdict:
    if precision != "int8" or pictures >= _FEWEST or found.kind != "fault":
        return found
    few = f"{counted(pictures)} {'is' if pictures == 1 else 'are'} too few for int8, {_FEWEST} are needed"
    return Verdict("unknown", f"not known: {few}; perhaps a {found.text}", found.at)


def _of(stage: Stage, place: int, before: float, precision: str) -> Verdict:
    share = len(stage.odd) / len(stage.errors)
    if stage.what == "layer" and place == 0 and share > _UNRELATED:
        text = (
            f"the models differ from {stage.title} on, the first that was read, in {share:.0%} of its channels: they "
            "are two networks, or one of them gets its picture in another way (see preprocess)"
        )
        return Verdict("different", text, stage)
    where = "from there on" if stage.what == "layer" else "while all layers agree"
    explained = f"error {stage.worst:.2g}; {precision} explains {ALLOWED[precision]:g}"
    if stage.worst <= ALLOWED[precision]:
        explained += ", but not that each one's means are the other's"
    if not stage.odd:
        explained = f"median error {stage.typical:.2g}, in the layer before {before:.2g}"
    return Verdict("fault", f"fault: {_which(stage)} ({explained}), {where}", stage)


def _which(stage: Stage) -> str:
    if not stage.odd:
        return f"the channels of {stage.title} differ as a whole"
    kind, many = ("classes", len(stage.odd)) if stage.what == "scores" else ("channels", len(stage.odd))
    if stage.swapped and 2 * len(stage.swapped) == many:
        pairs = "; ".join(f"{i} and {j}" for i, j in stage.swapped)
        return f"{kind} {pairs} of {stage.title} are swapped"
    listed = ", ".join(map(str, stage.odd[:8])) + (", ..." if many > 8 else "")
    return f"{many} of {len(stage.errors)} {kind} of {stage.title} differ: {listed}"
