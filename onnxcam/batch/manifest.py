"""The manifest: one JSON line for each finished picture, written after its files are in place."""

from __future__ import annotations

import json
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from onnxcam.batch.plan import Plan
from onnxcam.errors import OutputError, reason

Row = dict[str, Any]
_EVERY = 5.0  # seconds between two fsyncs


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a manifest; a last line that was cut off is left out."""
    for _, row in _lines(path):
        yield row


def _lines(path: Path) -> Iterator[tuple[bytes, Row]]:
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            with suppress(ValueError):
                if isinstance(row := json.loads(line), dict) and isinstance(row.get("index"), int):
                    yield line, row


def recover(path: Path, plan: Plan, retry_errors: bool = False) -> bytearray:
    """Which groups of the plan are finished; what the manifest holds of others is taken out of it.

    A group is finished if each of its pictures has its line, and the files of that line are there in full size.

    Args:
        path: the manifest.
        plan: the job's plan.
        retry_errors: groups with a picture that failed count as unfinished.

    Returns:
        1 or 0 for each group.
    """
    seen = bytearray(plan.count)
    for _, row in _lines(path):
        if 0 <= row["index"] < plan.count and _stands(path.parent, row, retry_errors):
            seen[row["index"]] = 1
    done = bytearray(all(seen[k * plan.batch : (k + 1) * plan.batch]) for k in range(plan.groups))
    _keep(path, plan, done)
    return done


def _stands(out: Path, row: Row, retry_errors: bool) -> bool:
    if "error" in row:
        return not retry_errors
    try:
        return all((out / file).stat().st_size == row["bytes"][kind] for kind, file in row["files"].items())
    except (OSError, KeyError, TypeError, AttributeError):
        return False


def _keep(path: Path, plan: Plan, done: bytearray) -> None:
    """Rewrite the manifest with the lines of finished groups, each once."""
    if not path.exists():
        return
    seen = bytearray(plan.count)
    with _rewritten(path) as new:
        for line, row in _lines(path):
            index = row["index"]
            if 0 <= index < plan.count and done[index // plan.batch] and not seen[index]:
                seen[index] = 1
                new.write(line)


@contextmanager
def _rewritten(path: Path) -> Iterator[BinaryIO]:
    """A new file in the place of an old one, once it is whole."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as new:
            yield new
            new.flush()
            os.fsync(new.fileno())
        os.replace(part, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink()


def in_order(path: Path, count: int) -> None:
    """Bring the lines into the order of the plan, where groups were finished in another."""
    places, sorted_already, last = array("q", [-1]) * count, True, -1
    with path.open("rb") as lines:
        place = 0
        for line in lines:
            index = json.loads(line)["index"]
            places[index], sorted_already, last = place, sorted_already and index > last, index
            place += len(line)
    if sorted_already:
        return
    with path.open("rb") as lines, _rewritten(path) as new:
        for place in places:
            if place >= 0:
                lines.seek(place)
                new.write(lines.readline())


class Manifest:
    """Appends rows: those of a group at once, or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._synced = time.monotonic()
        try:
            self._file: BinaryIO = path.open("ab", buffering=0)
        except OSError as error:
            raise _unwritable(path, error) from error

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows.

        Raises:
            OutputError: the disk is full, or gone; what was written of these rows is taken back.
        """
        data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        start = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:]) or 0
            if time.monotonic() - self._synced > _EVERY:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(start)
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Bring everything to the disk."""
        with suppress(OSError):
            os.fsync(self._file.fileno())
        self._file.close()


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {str(path)!r}: {reason(error)}")


def add(counts: dict[str, int], row: Row) -> None:
    """Count a row: ``explained``, ``errors``, and ``flagged``: a blank map, or a warning."""
    counts["errors" if "error" in row else "explained"] += 1
    counts["flagged"] += bool("error" not in row and (row["blank"] or row["warnings"]))
