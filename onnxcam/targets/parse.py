"""From what a caller writes to a target: the one place that knows the text forms."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from onnxcam.errors import OptionError
from onnxcam.graph.inspect import Kind
from onnxcam.targets.base import TOP1, ClassTarget, Target, checked_index, class_index
from onnxcam.targets.boxes import Box
from onnxcam.targets.classes import Finer, Logit, LogProbability, Margin, Probability, Rest, Sum
from onnxcam.targets.dense import Region
from onnxcam.targets.tokens import Token, Tokens
from onnxcam.targets.values import Element, Similarity

TARGETS: dict[str, type[Logit | Probability | LogProbability | Rest | Margin | Sum | Finer]] = {
    t.name: t for t in (Logit, Probability, LogProbability, Rest, Margin, Sum, Finer)
}
_COUNTS = {"margin": (2, 2), "sum": (1, 99), "finer": (1, 99)}
FORMS = {
    "CLASS": "a class by index or label: its logit, or the best box of a detector, or a word of a model that writes",
    "top1": "what the model answers (also: leave it out)",
    "logit:CLASS": "the class logit",
    "probability:CLASS": "the class probability",
    "logprob:CLASS": "the logarithm of the class probability",
    "rest:CLASS": "logit plus log-probability, ShapleyCAM's score",
    "margin:A,B": "why A rather than B: the difference of their logits",
    "sum:A,B,...": "several classes of a model of many labels: the sum of their logits",
    "finer:A or finer:A,B,...": "what sets A apart from the classes most like it, or from B, ... (Finer-CAM)",
    "CLASS@X,Y": "a segmentation's class, or the detector's box of that class, at a point of the picture, in pixels",
    "box or box:CLASS": "the best box of a detector, of any class or of one",
    "box:@X,Y or box:CLASS@X,Y": "the best box that holds a point of the picture, or else the nearest",
    "box:#INDEX": "a box by its row; where the graph suppresses boxes, by its place among those that it selects",
    "token:WORD or token:WORD@STEP": "a word of a model that writes: its logit at a step",
    "tokens or tokens:WORD,WORD,...": "the log-probability of a whole text: the one that is fed, or another",
    "similar:PICTURE": "the cosine of the picture's embedding to that of a reference picture",
    "value": "the one number that a regression gives",
    "element:I,J,...": "one element of the output",
}
"""Text forms of a target, and what they mean."""
_POINT = re.compile(r"(.*)@\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*", re.DOTALL)
_STEP = re.compile(r"(.*)@\s*(-?\d+)\s*", re.DOTALL)


def as_target(
    given: int | str | Target | None,
    labels: Sequence[str] | None,
    classes: int | None,
    kind: str = "logit",
    form: Kind = "classes",
) -> Target:
    """A target from what a caller writes: None or -1 (top-1), a class index, a label, a text of :data:`FORMS`.

    Args:
        given: what the caller writes.
        labels: class names.
        classes: how many classes the model has, or None.
        kind: the score of a class where the caller names only the class.
        form: what the model gives: classes, or boxes, pixels or words.

    Raises:
        OptionError: an index that the model does not have, or a text that is not understood.
        UnknownNameError: a label that is not in ``labels``.
    """
    if isinstance(given, Target):
        return _checked(given, classes)
    if isinstance(given, str) and (found := _parsed(given.strip(), labels, form)) is not None:
        return _checked(found, classes)
    plain = TOP1 if given is None or given == "top1" else given
    if form == "tokens":
        return Token(plain)
    if form == "boxes":
        return Box(class_index(plain, labels))
    return _checked(TARGETS[kind]((class_index(plain, labels),)), classes)


def _parsed(text: str, labels: Sequence[str] | None, form: Kind) -> Target | None:
    """A target from a text with a kind or a point; None from a plain class."""
    head, _, rest = text.partition(":")
    if labels and text.casefold() in (name.casefold() for name in labels):
        return None
    if head in TARGETS:
        names = [part for part in rest.split(",") if part.strip()]
        if head == "sum" and not names:
            raise OptionError("a sum needs classes, such as sum:1,4")
        return TARGETS[head](tuple(class_index(n, labels) for n in names) or (TOP1,))
    if head in _KINDS:
        return _KINDS[head](rest.strip())
    if (found := _POINT.fullmatch(text)) is not None:
        point = _number(found[2]), _number(found[3])
        return Box(_class(found[1]), point) if form == "boxes" else Region(_class(found[1]), point)
    return None


def _box(text: str) -> Target:
    if text.startswith("#"):
        return Box(index=_whole(text[1:], "box:#17"))
    if (found := _POINT.fullmatch(text)) is not None:
        return Box(_class(found[1]), (_number(found[2]), _number(found[3])))
    return Box(_class(text))


def _token(text: str) -> Target:
    found = _STEP.fullmatch(text)
    word, step = (found[1].strip(), int(found[2])) if found is not None else (text, None)
    return Token(_class(word), step)


def _tokens(text: str) -> Target:
    return Tokens(tuple(_class(w) for w in re.split(r"[,\s]+", text) if w))


def _similar(text: str) -> Target:
    if not text:
        raise OptionError("similar needs a reference: give a picture, such as similar:reference.jpg")
    return Similarity(text)


def _element(text: str) -> Target:
    if not text:
        raise OptionError("element needs places, such as element:3 or element:0,5; for a single number take value")
    return Element(tuple(_whole(part, "element:0,5") for part in text.split(",")))


def _value(text: str) -> Target:
    return Element() if not text else _element(text)


_KINDS: dict[str, Callable[[str], Target]] = {
    "box": _box,
    "token": _token,
    "tokens": _tokens,
    "similar": _similar,
    "element": _element,
    "value": _value,
}


def _class(text: str) -> int | str:
    """A class or word as written: -1 where nothing is."""
    plain = text.strip()
    return int(plain) if plain.lstrip("-").isdigit() else plain or TOP1


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"{text!r} is no number; a point is two of them, such as @120,64") from None


def _whole(text: str, example: str) -> int:
    if not text.strip().lstrip("-").isdigit():
        raise OptionError(f"{text!r} is no whole number; write it as in {example}")
    return int(text)


def _checked(target: Target, classes: int | None) -> Target:
    if type(target).__name__ in ("Box", "Region", "Token") or not isinstance(target, ClassTarget):
        return target
    low, high = _COUNTS.get(target.name, (1, 1))
    given = target.classes
    if not low <= len(given) <= high or len(set(given)) != len(given):
        needs = {
            "margin": "needs two classes, different ones, such as margin:281,285",
            "sum": "needs different classes, such as sum:1,4",
            "finer": "needs different classes, such as finer:281,285",
        }
        text = needs.get(target.name, f"takes one class, such as {target.name}:281")
        raise OptionError(f"a {target.name} {text}; given {', '.join(map(str, given))}")
    for index in given:
        checked_index(index, classes)
    return target


def split_output(text: str | None, outputs: Sequence[str]) -> tuple[str | None, Element | None]:
    """``NAME[3]`` -> the output's name and an element of it.

    Raises:
        OptionError: what stands in brackets are no places.
    """
    found = None if text is None or text in outputs else re.fullmatch(r"(.+)\[(.*)\]", text)
    return (text, None) if found is None else (found[1], _element(found[2].strip()))  # type: ignore[return-value]
