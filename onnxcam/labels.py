"""Class names: from a file, a list, or the model's metadata."""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxcam.errors import OptionError

Labels = tuple[str, ...]


def find_labels(given: str | Path | Sequence[str] | None, meta: Mapping[str, str]) -> Labels | None:
    """Class names in index order; None where nothing tells them.

    Args:
        given: a file (one name a line; CSV with an index column; JSON list or ``{index: name}``), or the names.
        meta: the model's ``metadata_props``: ``onnxcam/labels`` (JSON list) or Ultralytics' ``names`` are read.

    Raises:
        OptionError: the file cannot be read, or holds no names.
    """
    if isinstance(given, str | Path):
        return _from_file(Path(given))
    if given is not None:
        return tuple(given)
    for key in ("onnxcam/labels", "names"):
        if key in meta:
            return _from_text(meta[key])
    return None


def _from_file(path: Path) -> Labels:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the label file {path}: {error}; give a text, CSV or JSON file") from error
    try:
        names = _from_text(text) if path.suffix == ".json" else _from_lines(path, text)
    except (ValueError, TypeError, IndexError) as error:
        raise OptionError(f"the label file {path} is not understood: {error}; give one name a line") from error
    if not names:
        raise OptionError(f"the label file {path} is empty; give one name a line, in class order")
    return names


def _from_text(text: str) -> Labels:
    data = json.loads(text) if text.lstrip().startswith("[") or '"' in text else ast.literal_eval(text)
    return _by_index(data) if isinstance(data, dict) else tuple(map(str, data))


def _from_lines(path: Path, text: str) -> Labels:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if path.suffix != ".csv":
        return tuple(lines)
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    for index, name in ((0, 1), (1, 0)):
        numbered = [r for r in rows if len(r) > 1 and r[index].isdigit()]
        if len(numbered) >= len(rows) - 1 > 0:
            return _by_index({r[index]: r[name] for r in numbered})
    return tuple(r[0] for r in rows)


def _by_index(names: Mapping[str | int, str]) -> Labels:
    known = {int(index): str(name) for index, name in names.items()}
    return tuple(known.get(i, str(i)) for i in range(max(known) + 1))
