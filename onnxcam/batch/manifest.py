"""The manifest: one JSON line for each finished picture, written after its files are in place."""

from __future__ import annotations

import json
import os
import re
import time
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from onnxcam.batch.plan import Plan
from onnxcam.errors import OutputError, reason
from onnxcam.files import whole

Row = dict[str, Any]
GRID = 16
"""Rows and columns of the small map that each row keeps."""
_INDEX, _PAGE = re.compile(rb'\{"index": (\d{1,18})\b'), 4096  # how each line begins; pictures of one page of marks
_EVERY = 5.0  # seconds between two fsyncs


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a manifest, of each picture the last one; a last line that was cut off is left out."""
    again = _again(path)
    return (row for place, _, row in _lines(path) if again.get(row["index"], place) == place)


def _again(path: Path) -> dict[int, int]:
    """Of pictures with several lines, as while failed ones are tried again: where the last one begins."""
    pages, again, place = defaultdict[int, bytearray](lambda: bytearray(_PAGE)), dict[int, int](), 0
    with suppress(FileNotFoundError), path.open("rb") as lines:
        for line in lines:
            if (found := _INDEX.match(line)) and line.endswith(b"\n"):
                page, at = divmod(int(found[1]), _PAGE)
                if pages[page][at]:
                    again[int(found[1])] = place
                pages[page][at] = 1
            place += len(line)
    return again


def _lines(path: Path) -> Iterator[tuple[int, bytes, Row]]:
    """Each line that is a row, behind the place where it begins."""
    if not path.exists():
        return
    place = 0
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            with suppress(ValueError, RecursionError):
                if isinstance(row := json.loads(line), dict) and isinstance(row.get("index"), int):
                    yield place, line, row
            place += len(line)


def recover(path: Path, plan: Plan, retry_errors: bool = False) -> tuple[bytearray, dict[str, int]]:
    """Which pictures of the plan are done; the lines that hold for none are taken out of the manifest.

    A line holds if its picture is in the plan, its files are there in full size, and no later one of the picture holds.

    Args:
        path: the manifest.
        plan: the job's plan.
        retry_errors: pictures that failed are not done; their lines stay until there are new ones.

    Returns:
        1 or 0 for each picture, and the counts of `add` of those that are done.

    Raises:
        OutputError: it cannot be written.
    """
    done, places = bytearray(plan.count), array("q", [-1]) * plan.count
    for place, _, row in _lines(path):
        if 0 <= (index := row["index"]) < plan.count and _stands(path.parent, row):
            places[index], done[index] = place, not (retry_errors and "error" in row)
    with _mending(path):
        return done, _keep(path, plan, places, done)


def _stands(out: Path, row: Row) -> bool:
    if "error" in row:
        return True
    try:
        return all((out / file).stat().st_size == row["bytes"][kind] for kind, file in row["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _keep(path: Path, plan: Plan, places: array[int], done: bytearray) -> dict[str, int]:
    """Leave the lines that begin at these places: by cutting off the end where that does, else in a new file."""
    counts, end, gaps = no_counts(), 0, False
    for place, line, row in _at(path, places):
        gaps, end = gaps or place != end, place + len(line)
        if done[row["index"]]:
            add(counts, row)
    if gaps:
        with whole(path, plan.scratch, durable=True) as new:
            new.writelines(line for _, line, _ in _at(path, places))
    elif path.exists() and path.stat().st_size > end:
        os.truncate(path, end)
    return counts


def _at(path: Path, places: array[int]) -> Iterator[tuple[int, bytes, Row]]:
    for place, line, row in _lines(path):
        if 0 <= row["index"] < len(places) and places[row["index"]] == place:
            yield place, line, row


@contextmanager
def _mending(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from error


def in_order(path: Path, plan: Plan) -> None:
    """Bring the lines into the order of the plan, of each picture the last one.

    Raises:
        OutputError: it cannot be written.
    """
    with _mending(path):
        places, lines_there = array("q", [-1]) * plan.count, 0
        for place, _, row in _lines(path):
            places[row["index"]] = place
            lines_there += 1
        if lines_there == plan.count and all(here < there for here, there in pairwise(places)):
            return
        with path.open("rb") as lines, whole(path, plan.scratch, durable=True) as new:
            for place in places:
                lines.seek(place)
                new.write(lines.readline())


class Manifest:
    """Appends rows: those of a group at once, or not at all.

    Raises:
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._synced = time.monotonic()
        with _mending(path):
            self._file: BinaryIO = path.open("ab", buffering=0)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows.

        Raises:
            OutputError: the disk is full, or gone; what was written of these rows is taken back.
        """
        data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        with _mending(self.path):
            self._check()
            start = self._file.seek(0, os.SEEK_END)
            try:
                self._write(data)
            except BaseException:  # Ctrl-C included
                with suppress(OSError):
                    self._file.truncate(start)
                raise

    def _check(self) -> None:
        """What is written to a file that was deleted is lost without a word."""
        if os.fstat(self._file.fileno()).st_nlink == 0:
            raise FileNotFoundError("it was deleted while the job runs")

    def _write(self, data: bytes) -> None:
        written = 0
        while written < len(data):
            written += self._file.write(data[written:]) or 0
        if time.monotonic() - self._synced > _EVERY:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Bring everything to the disk; what goes wrong counts where nothing has before."""
        try:
            with self._file as file:
                os.fsync(file.fileno())
        except OSError as why:
            if error is None:
                raise _unwritable(self.path, why) from why


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {str(path)!r}: {reason(error)}")


def no_counts() -> dict[str, int]:
    """Of a job that has not begun; for `add`."""
    return {"explained": 0, "errors": 0, "flagged": 0}


def add(counts: dict[str, int], row: Row) -> None:
    """Count a row: ``explained``, ``errors``, and ``flagged``."""
    counts["errors" if "error" in row else "explained"] += 1
    counts["flagged"] += is_flagged(row)


def is_flagged(row: Mapping[str, Any]) -> bool:
    """A blank map, or a warning."""
    return bool(row.get("blank") or row.get("warnings"))
