"""The folder of an evaluation: one job at a time, what it was started with, and the rows that are done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from onnxcam.batch.lock import Lock
from onnxcam.batch.manifest import Row
from onnxcam.batch.settings import differences
from onnxcam.batch.walk import JOB
from onnxcam.errors import OptionError, OutputError, reason
from onnxcam.explanation import make_folder
from onnxcam.files import write_whole

VERSION = 1
_TOLD = 4  # differences that are named
ROWS, CHECKS, RESULTS, REPORT = "results.jsonl", "checks.jsonl", "evaluation.json", "report.html"


@contextmanager
def opened(out: Path, configuration: Mapping[str, Any], resume: bool) -> Iterator[None]:
    """Hold the folder; a new one gets its plan, of another one it is checked that the job may go on there.

    Raises:
        OptionError: it holds an evaluation, and ``resume`` is not asked for, or it was started otherwise; or files of
            something else.
        OutputError: it cannot be written, or another process works there.
    """
    plan = out / JOB / "evaluation.json"
    there = [name for name in (ROWS, CHECKS, RESULTS, REPORT) if os.path.lexists(out / name)]
    if there and not plan.exists():
        raise OptionError(f"{str(out / there[0])!r} is there already, but of no evaluation: choose another folder")
    mine = not out.exists()
    inner = make_folder(make_folder(out) / JOB)
    lock = Lock(inner / "lock")
    new = not plan.exists()
    try:
        if new:
            told = {"version": VERSION, "configuration": configuration}
            write_whole(plan, json.dumps(told, indent=1).encode(), durable=True)
        else:
            _check(plan, configuration, resume)
        yield
    finally:
        if new and not _has_rows(out):
            _discard(out, inner, plan, mine)
        lock.release()


def _has_rows(out: Path) -> bool:
    with suppress(OSError):
        return (out / ROWS).stat().st_size > 0
    return False


def _discard(out: Path, inner: Path, plan: Path, mine: bool) -> None:
    """An evaluation that could not start leaves nothing behind, and everything that is not its own."""
    for path in (plan, inner / "lock", out / ROWS):
        with suppress(OSError):
            path.unlink()
    for place in (inner, *([out] if mine else ())):
        with suppress(OSError):
            place.rmdir()


def _check(plan: Path, configuration: Mapping[str, Any], resume: bool) -> None:
    where = repr(str(plan.parent.parent))
    if not resume:
        raise OptionError(
            f"{where} holds an evaluation already: go on with resume (--resume), or choose another folder"
        )
    try:
        read = json.loads(plan.read_bytes())
        if read["version"] != VERSION:
            raise ValueError("written by another version")
        before = dict(read["configuration"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(f"{plan} cannot be read: {reason(error)}. Start in another folder") from error
    if told := list(differences(before, dict(configuration))):
        more = f"; {len(told) - _TOLD} more" if len(told) > _TOLD else ""
        raise OptionError(
            f"the evaluation in {where} was started otherwise ({'; '.join(told[:_TOLD])}{more}): resume it as "
            "it was started, or choose another folder"
        )


def recovered(path: Path, count: int, lines: int) -> list[list[Row]]:
    """The rows of each sample that is done; what is behind the last whole one is cut off.

    Samples are done in order, so that those that are done are the first ones.

    Args:
        path: the rows.
        count: samples of the job.
        lines: rows of each; a sample that could not be read has one, without a method.

    Raises:
        OutputError: it cannot be read or cut off.
    """
    done: list[list[Row]] = []
    end = 0
    try:
        for rows, size in _groups(path) if path.exists() else ():
            whole = len(rows) == lines or rows[0].get("method") is None
            if not whole or rows[0]["index"] != len(done) or len(done) == count:
                break
            done.append(rows)
            end += size
        if path.exists():
            os.truncate(path, end)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {reason(error)}") from error
    return done


def _groups(path: Path) -> Iterator[tuple[list[Row], int]]:
    """The rows of each sample, and their bytes."""
    for _, pairs in groupby(_lines(path), key=lambda pair: pair[0]["index"]):
        group = list(pairs)
        yield [row for row, _ in group], sum(size for _, size in group)


def _lines(path: Path) -> Iterator[tuple[Row, int]]:
    """Up to the first one that is cut off or damaged."""
    with path.open("rb") as file:
        for line in file:
            row: Any = None
            with suppress(ValueError, RecursionError):
                row = json.loads(line)
            if not line.endswith(b"\n") or not isinstance(row, dict) or not _is_row(row):
                return
            yield row, len(line)


def _is_row(row: Row) -> bool:
    return {"index", "source", "method"} <= row.keys() and ("error" in row or "values" in row)
