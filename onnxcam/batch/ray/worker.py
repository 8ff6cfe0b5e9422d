"""What an actor does: groups of pictures, from the file in which they lie."""

from __future__ import annotations

import json
import os
import platform
import secrets
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from onnxcam import __version__, errors
from onnxcam.batch.manifest import Row
from onnxcam.batch.plan import Item, read_plan
from onnxcam.batch.settings import Settings
from onnxcam.batch.walk import JOB
from onnxcam.batch.work import Work
from onnxcam.errors import ImageError, OptionError, OutputError

Answer = dict[str, Any]
_DEATHS = 2  # of processes at the same group, before its pictures are done one by one


class Worker:
    """What an actor does: groups, from the file in which they lie, one after another."""

    def __init__(self, settings: Settings, out: Path, path: Path, folder: str, version: str) -> None:
        self._settings, self._out, self._path, self._folder, self._version = settings, out, path, folder, version
        self._work: Work | None = None
        self._me = {"actor": secrets.token_hex(6), "node": platform.node()}

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> Iterator[dict[str, list[str]]]:
        """Answers to ranges of groups, each as JSON: ``rows``, or an ``error`` of the job."""
        for place, first, many in zip(batch["place"], batch["first"], batch["many"], strict=True):
            at = int(place)
            for number in range(int(first), int(first + many)):
                answer, at = self._answer(number, at)
                yield {"answer": [json.dumps({**self._me, **answer})]}
                if "rows" not in answer:
                    break

    def _answer(self, number: int, place: int) -> tuple[Answer, int]:
        try:
            with self._path.open("rb") as file:  # opened each time: it is taken away to stop the job
                file.seek(place)
                items = [Item(*fields) for fields in json.loads(file.readline())]
                after = file.tell()
            dead: list[int] = []
            return {"number": number, "rows": self._rows(items, f"{number}", dead), "dead": len(dead)}, after
        except Exception as error:
            return self._told(error), place

    def _rows(self, items: list[Item], mark: str, dead: list[int]) -> list[Row]:
        """A picture at which the process dies again and again is one error row, not the end of the job."""
        path = self._path.with_suffix(f".{mark}")
        deaths = path.stat().st_size if path.exists() else 0
        if len(items) == 1 and deaths and "-" in mark:
            dead.append(items[0].index)
            if items[0].done:
                return []
            return [self._open().failed(items[0], ImageError(_deadly(items[0], _DEATHS + deaths)))]
        if deaths >= _DEATHS:
            return [row for item in items for row in self._rows([item], f"{mark}-{item.index}", dead)]
        with path.open("ab", buffering=0) as file:
            file.write(b".")
        try:
            return self._open().group(items)
        finally:
            path.unlink(missing_ok=True)

    def _open(self) -> Work:
        if self._work is None:
            with suppress(OSError):
                os.chdir(self._folder)  # what was given relative to it is found
            work = Work(self._settings, self._out)
            self._compare(work)
            self._work = work
        return self._work

    def _compare(self, work: Work) -> None:
        if self._version != __version__:
            raise OptionError(f"onnxcam {__version__} is installed there, not {self._version}: install the same")
        plan = read_plan(self._out / JOB)
        there, here = plan.configuration if plan else {}, self._settings.configuration(work.explainer)
        if other := [key for key in {**there, **here} if there.get(key) != here.get(key)]:
            raise OptionError(
                f"the job is another one there ({', '.join(other)}): give every machine the same model and files"
            )

    def _told(self, error: Exception) -> Answer:
        if isinstance(error, FileNotFoundError) and error.filename == str(self._path):
            error = OutputError(f"{error.filename!r} is not there: let every machine see the folder of results")
        kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__]
        return {"error": str(error) if kinds else traceback.format_exc(), "kind": (*kinds, "")[0]}


def _deadly(item: Item, deaths: int) -> str:
    return f"{item.source!r} cannot be explained: {deaths} processes died at it. Mend it, or leave it out"
