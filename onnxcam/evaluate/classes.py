"""Which classes of the model the data's classes are, which one is explained, and whether an answer is right."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import OptionError, reason
from onnxcam.explainer import Explainer
from onnxcam.inputs import given_inputs
from onnxcam.labels import by_name, index_of
from onnxcam.model import Model
from onnxcam.programs import Plan
from onnxcam.targets import Logit

Array = NDArray[Any]
Classes = Mapping[str, tuple[int, ...]]
"""The model's classes of each of the data's; a class of the model may be several of the data's, as dog and pet."""

_GIVES = {
    "classes": "classes of which it does not tell how many there are", "dense": "a class for each pixel",
    "boxes": "boxes, as detectors do", "tokens": "written words",
}  # fmt: skip


def no_classifier(model: Model, kind: str, command: str) -> OptionError:
    """What there is to say of a model whose output is not one score for each class of a picture."""
    return OptionError(
        f"{model.label} gives {_GIVES[kind]}, and {command} takes classifiers, one score for each class of a picture: "
        "give such a model, or where this one has such an output too, its name (--output)"
    )


@dataclass(frozen=True)
class Answers:
    """What is explained, and what an answer is worth.

    Attributes:
        classes: the model's of each of the data's.
        explain: ``"truth"`` (where the data tells one) or ``"predicted"``.
    """

    classes: Classes
    explain: str

    @cached_property
    def names(self) -> dict[int, tuple[str, ...]]:
        """The data's classes of each of the model's."""
        found: dict[int, tuple[str, ...]] = {}
        for name, indices in self.classes.items():
            for k in indices:
                found[k] = (*found.get(k, ()), name)
        return found

    def explained(self, truth: str | None, logits: Array) -> int:
        """The true class, of several that it stands for the one with the highest logit; else the predicted one.

        Args:
            truth: as the data calls it.
            logits: (K,), all of them.
        """
        known = self.classes.get(truth or "", ()) if self.explain == "truth" else ()
        return max(known, key=lambda k: (logits[k], -k)) if known else int(logits.argmax())

    def right(self, index: int, shown: Collection[str]) -> bool:
        """Whether a class of the model is one that the picture shows, by the data's names."""
        return any(name in shown for name in self.names.get(index, ()))

    def same(self, a: int, b: int) -> bool:
        """Whether two classes of the model are one to the data, as two breeds are both ``dog``."""
        return a == b or self.right(a, self.names.get(b, ()))


def logits_of(explainer: Explainer, x: Array) -> Array:
    """(K,) float64: what the model says of a prepared picture."""
    others = given_inputs(explainer.model, explainer.inputs)
    answers, _ = explainer.programs.run(x, Logit((0,)), others, Plan())
    return np.asarray(answers["logits"][0], np.float64)


# ---- the table ----


def class_map(
    names: Iterable[str], labels: Sequence[str] | None, count: int | None, table: str | Path | None = None
) -> Classes:
    """The classes of the model that each class of the data stands for; classes that are none of its are left out.

    Args:
        names: of the data.
        labels: the model's class names.
        count: how many classes it has.
        table: a CSV with a line for each class of the data: its name, and behind it classes of the model, as names,
            indices or ranges of indices: ``dog,151-268``. Classes without a line are left out. None: a class is known
            by its name (whatever the case) or its index.

    Raises:
        OptionError: a table that is not understood, or names classes that the model does not have; the name of several
            classes; or none of the data's classes is known.
    """
    known = by_name(labels or ())
    given = sorted(set(names))
    if table is not None:
        lines = _lines(Path(table), lambda text: _indices(text, known, count))
        found = {name: lines[name.casefold()] for name in given if lines.get(name.casefold())}
    else:
        pairs = ((name, index_of(name, known, count)) for name in given)
        found = {name: (index,) for name, index in pairs if index is not None}
    if given and not found:
        has = f"{', '.join(labels[:4])} ..." if labels else "no names (give them with --labels)"
        raise OptionError(
            f"none of the data's classes ({', '.join(given[:4])}) is one of the model's, which has {has}: map them "
            "with --classes, a CSV of lines such as dog,151-268"
        )
    return found


def _lines(table: Path, read: Callable[[str], Iterable[int]]) -> dict[str, tuple[int, ...]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row if cell.strip()] for row in csv.reader(file)]
        return {row[0].casefold(): tuple(dict.fromkeys(k for c in row[1:] for k in read(c))) for row in rows if row}
    except (OSError, ValueError, csv.Error) as error:
        raise OptionError(
            f"cannot read the classes in {table}: {reason(error)}; give lines such as dog,151-268"
        ) from error


def _indices(text: str, known: Mapping[str, Sequence[int]], count: int | None) -> Iterable[int]:
    first, dash, last = text.partition("-")
    if dash and first.strip().isdecimal() and last.strip().isdecimal():
        found = range(int(first), int(last) + 1)
        if not found or (count is not None and found[-1] >= count):
            raise ValueError(f"{text!r} is no range of the model's {count} classes")
        return found
    if (index := index_of(text, known, count)) is None:
        raise ValueError(f"{text!r} is neither a name nor an index of the model's {count or 'unknown'} classes")
    return (index,)
