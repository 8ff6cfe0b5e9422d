"""Which preprocessings a model may want: the conventions in practice, as far as nothing decides among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

from onnxcam.conventions import known
from onnxcam.graph.pixels import input_convention
from onnxcam.image import PRESETS, Preprocess
from onnxcam.model import Model

# Of normalisations in practice: both orders of the colours, or RGB alone where no pipeline gives BGR.
_BOTH = ("imagenet", "tf", "unit", "caffe", "raw")
_RGB_ONLY = {
    "clip": "imagenet,mean=0.48145466/0.4578275/0.40821073,std=0.26862954/0.26130258/0.27577711",
    "cifar": "imagenet,mean=0.4914/0.4822/0.4465,std=0.247/0.2435/0.2616",
}
_GREY = {
    "unit": "unit",
    "raw": "raw",
    "tf": "tf",
    "mnist": "unit,mean=0.1307,std=0.3081",
    "unit inverted": "unit,scale=-1/255,mean=-1",
    "raw inverted": "raw,scale=-1,mean=-255",
}
FITS: dict[str, dict[str, Any]] = {
    "stretch": {"fit": "stretch"},
    "crop 0.875": {"fit": "crop", "crop_ratio": 0.875},
    "crop 1.0": {"fit": "crop", "crop_ratio": 1.0},
    "letterbox": {"fit": "letterbox"},
}
"""The ways to resize that are tried."""


@dataclass(frozen=True)
class Candidate:
    """A convention.

    Attributes:
        scale: what its normalisation is called.
        preprocess: the convention itself.
    """

    scale: str
    preprocess: Preprocess

    @property
    def color(self) -> str:
        """``"RGB"``, ``"BGR"`` or ``"GRAY"``."""
        return self.preprocess.color

    @property
    def name(self) -> str:
        """How tables call it."""
        return self.scale if self.color == "GRAY" else f"{self.scale} {self.color}"


@dataclass(frozen=True)
class Field:
    """What there is to choose from.

    Attributes:
        candidates: the more usual ones first.
        source: what decided of them, in words; "" if nothing did.
        settled: whether that leaves no question, that of resizing included.
    """

    candidates: tuple[Candidate, ...]
    source: str
    settled: bool = False


def find_candidates(model: Model) -> Field:
    """The conventions that a model's graph and surroundings leave open.

    Raises:
        OptionError, ModelError: of `onnxcam.conventions.known`; no image input.
    """
    told = known(model)
    if told.preprocess is not None and not told.source.startswith("the graph"):
        return Field((Candidate(told.preprocess.name, told.preprocess),), told.source, settled=True)
    return find_by_graph(model)


def find_by_graph(model: Model, doubted: Preprocess | None = None) -> Field:
    """The conventions that the graph leaves open; where it leaves all of them, one that is doubted too."""
    fact, grey = input_convention(model), model.image_input.channels == 1
    if fact is None:
        usual = _grey() if grey else _coloured()
        more = [] if doubted is None or any(_alike(doubted, c) for c in usual) else [Candidate("as told", doubted)]
        return Field((*usual, *more), "")
    only = Candidate(fact.preset.partition(",")[0], Preprocess.parse(fact.preset))
    if grey:
        return Field((_recoloured(only, "GRAY"),), fact.reason)
    if fact.color is not None:
        return Field((_recoloured(only, fact.color),), fact.reason)
    return Field((only, _swapped(only)), fact.reason)


def _alike(one: Preprocess, candidate: Candidate) -> bool:
    other = candidate.preprocess
    return (one.color, one.scale, one.mean, one.std) == (other.color, other.scale, other.mean, other.std)


def _grey() -> list[Candidate]:
    return [_recoloured(Candidate(name, Preprocess.parse(text)), "GRAY") for name, text in _GREY.items()]


def _coloured() -> list[Candidate]:
    usual = [Candidate(name, PRESETS[name]) for name in _BOTH]
    rgb = [Candidate(name, Preprocess.parse(text)) for name, text in _RGB_ONLY.items()]
    return [*usual, *map(_swapped, usual), *rgb]


def _swapped(candidate: Candidate) -> Candidate:
    """The other order of colours, the statistics with it."""
    one = candidate.preprocess
    color = "BGR" if one.color == "RGB" else "RGB"
    return replace(candidate, preprocess=replace(one, color=color, mean=one.mean[::-1], std=one.std[::-1]))


def _recoloured(candidate: Candidate, color: str) -> Candidate:
    return replace(candidate, preprocess=replace(candidate.preprocess, color=color))


def as_text(preprocess: Preprocess, grey: bool = False) -> str:
    """A preprocessing as ``--preprocess`` takes it: its preset, and what differs from that.

    Args:
        preprocess: any.
        grey: leave the colour out, as for a model of one channel.
    """
    base = PRESETS.get(preprocess.name, PRESETS["raw"])
    name = preprocess.name if preprocess.name in PRESETS else "raw"
    changed = [
        f"{f.name}={_written(getattr(preprocess, f.name))}"
        for f in fields(preprocess)
        if f.name not in ("name", *(["color"] if grey else [])) and getattr(preprocess, f.name) != getattr(base, f.name)
    ]
    return ",".join([name, *changed])


def _written(value: Any) -> str:
    if value is None:
        return "model"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        whole = all(isinstance(part, int) for part in value)
        return ("x" if whole else "/").join(map(_written, value))
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    """The shortest: 1/255, 128 or 103.939; the factor is read back to the same number."""
    share = Fraction(value).limit_denominator(1000)
    if value != int(value) and share.numerator in (1, -1) and float(share) == value:
        return str(share)
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)
