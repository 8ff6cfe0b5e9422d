"""Class names: from a file, a list, or the model's metadata."""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from onnxcam.errors import OptionError, reason

Labels = tuple[str, ...]
_MISUNDERSTOOD = (ValueError, TypeError, IndexError, SyntaxError, RecursionError, MemoryError, csv.Error)
_MOST = 1_000_000  # classes; a larger index is a mistake, not a class


def find_labels(given: str | Path | Sequence[str] | None, meta: Mapping[str, str]) -> Labels | None:
    """Class names in index order; None where nothing tells them.

    Args:
        given: a file (one name a line; CSV with an index column; JSON list or ``{index: name}``), or the names.
        meta: of the model: ``onnxcam/labels`` (JSON list), Ultralytics' ``names`` and what a ZipMap calls the classes
            are read.

    Raises:
        OptionError: the file cannot be read, or holds no names.
    """
    if isinstance(given, str | Path):
        return _from_file(Path(given))
    if given is not None:
        return tuple(given)
    for key in ("onnxcam/labels", "names", "ZipMap.classlabels_strings"):
        if key in meta:
            with suppress(*_MISUNDERSTOOD):  # other tools may keep other things under so plain a name
                return _from_text(meta[key]) or None
    return None


def misfit(names: Labels | None, classes: int | None) -> str:
    """What is wrong where names and classes differ in number, often by one (a background class); "" if nothing is."""
    if names is None or classes is None or len(names) == classes:
        return ""
    return f"{len(names)} names for {classes} classes: names may be missing or shifted; check the label file"


def by_name(labels: Sequence[str]) -> dict[str, list[int]]:
    """The classes that each name, or synonym of "tench, Tinca tinca", may mean; names in lower case."""
    found: dict[str, list[int]] = {}
    for k, name in enumerate(labels):
        for part in {part.strip().casefold() for part in (*name.split(","), name)}:
            found.setdefault(part, []).append(k)
    return found


def index_of(label: str, names: Mapping[str, Sequence[int]], count: int | None) -> int | None:
    """The class that a picture's label means: a name of ``names`` (:func:`by_name`), else an index; None: no class.

    Raises:
        OptionError: the name of several classes.
    """
    known = names.get(label.strip().casefold(), [])
    if len(known) > 1:
        which = " and ".join(map(str, known))
        raise OptionError(f"the photos' label {label!r} is the name of the classes {which}: give the index instead")
    if known:
        return known[0] if count is None or known[0] < count else None
    if not label.strip().isdecimal():
        return None
    return int(label) if count is None or int(label) < count else None


def _from_file(path: Path) -> Labels:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # no text; a name that no file can have
        raise OptionError(
            f"cannot read the label file {path}: {reason(error)}; give a text, CSV or JSON file"
        ) from error
    try:
        names = _from_text(text) if path.suffix.lower() == ".json" else _from_lines(path, text)
    except _MISUNDERSTOOD as error:
        raise OptionError(f"the label file {path} is not understood: {error}; give one name a line") from error
    if not names:
        raise OptionError(f"the label file {path} is empty; give one name a line, in class order")
    return names


def _from_text(text: str) -> Labels:
    try:
        data = json.loads(text)
    except ValueError:
        data = ast.literal_eval(text)
    return in_order(data)


def in_order(data: object) -> Labels:
    """Names from a list of them, or from ``{index: name}``; an index that is left out is its own name.

    Raises:
        ValueError: neither of the two, or an index that is no number.
    """
    if not isinstance(data, dict | list | tuple):
        raise ValueError("it holds neither a list nor {index: name}")
    return _by_index(data) if isinstance(data, dict) else tuple(map(str, data))


def _from_lines(path: Path, text: str) -> Labels:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if path.suffix.lower() != ".csv":
        return tuple(lines)
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    for index, name in ((0, 1), (1, 0)):
        numbered = [r for r in rows if len(r) > 1 and r[index].isdigit()]
        if len(numbered) >= len(rows) - 1 > 0:
            return _by_index({r[index]: r[name] for r in numbered})
    return tuple(r[0] for r in rows)


def _by_index(names: Mapping[str | int, str]) -> Labels:
    if not names:
        return ()
    known = {int(index): str(name) for index, name in names.items()}
    if wrong := [i for i in known if not 0 <= i < _MOST]:
        raise ValueError(f"{wrong[0]} is no class index")
    return tuple(known.get(i, str(i)) for i in range(max(known) + 1))
