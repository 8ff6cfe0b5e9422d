"""Where pictures lie, in words that hold from any working folder; and whether they still do."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from onnxcam.batch.remote import is_address
from onnxcam.batch.walk import JOB
from onnxcam.errors import OptionError

Source = str | Path | Iterable[str | Path]
TMP = "tmp"
"""In what a job keeps for itself: files that are not whole yet."""


def scratch(out: Path) -> Path:
    """Where a job's files lie until they are whole: on the file system of its folder."""
    return out / JOB / TMP


def named(source: Source) -> str | Paths:
    """A source, in words by which it is known again, from whatever folder."""
    if not isinstance(source, str | Path):
        return Paths(source)
    return "-" if source == "-" else located(str(source))


def located(source: str) -> str:
    """A path from the root on, which holds from any working folder; an address as it is, but for the path in it."""
    if not is_address(source):
        return _from_root(source)
    ahead, chained, last = source.rpartition("::")
    return f"{ahead}::{_from_root(last)}" if chained and not is_address(last) else source


def _from_root(path: str) -> str:
    """Without "." and doubled separators; ".." stays, for what is before it may be a link."""
    if os.name == "nt":
        return os.path.abspath(path)
    return "/" + "/".join(part for part in os.path.join(os.getcwd(), path).split("/") if part not in ("", "."))


class Paths:
    """Paths one by one; in the end, words by which the same ones are known again, in whatever order they come."""

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self._paths, self._count, self._sum = paths, 0, 0

    def __iter__(self) -> Iterator[str | Path]:
        for path in self._paths:
            self._count += 1
            self._sum += int(hashlib.sha256(located(str(path)).encode(errors="surrogatepass")).hexdigest(), 16)
            yield path

    def __str__(self) -> str:
        digest = f"{self._sum % (1 << 256):064x}"
        return f"{self._count} paths ({digest[:12]})"


def check_apart(source: Source, out: Path) -> None:
    """Results among the pictures would be taken for pictures the next time."""
    folder = Path(source) if isinstance(source, str | Path) and os.path.isdir(source) else None
    if folder and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(out)):  # links may go round
        raise OptionError(f"the pictures lie in {str(out)!r} themselves: give another folder for the results")


def gone(row: Mapping[str, Any]) -> str | None:
    """The folder of all pictures where it is not there; else that of this one where it is empty, or what is left of it.

    A disk that was taken out leaves an empty folder, while somebody who deletes pictures on purpose leaves the others.
    """
    if is_address(row["source"]):
        return None
    above = Path(os.path.abspath(row["source"])).parents
    root = above[row["name"].count("/")]  # names mirror the folders below it
    nearest = next((folder for folder in above if os.path.isdir(folder)), root)
    return str(root) if not os.path.isdir(root) else str(nearest) if _is_empty(nearest) else None


def _is_empty(folder: Path) -> bool:
    try:
        with os.scandir(folder) as inside:
            return next(inside, None) is None
    except OSError:
        return True
