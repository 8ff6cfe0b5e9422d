"""Progress on stderr: a bar for a terminal, plain lines for a file."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from types import TracebackType
from typing import Any

from onnxcam.cli.listing import plain, say

_BETWEEN = 10.0  # seconds between two plain lines
_FEW = 64  # score calls that are over before a bar would be read


class Bar:
    """A context that gives a function of (done, total), or None where stderr is no terminal."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Any:
        return self._advance if sys.stderr.isatty() else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _advance(self, done: int, total: int) -> None:
        if self._bar is None:
            if total <= _FEW:
                return
            from rich.console import Console
            from rich.progress import Progress, TimeRemainingColumn

            self._bar = Progress(
                *Progress.get_default_columns()[:-1],
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title)
        self._bar.update(self._task, completed=done, total=total)


class Rate:
    """A context that shows how far a job is: its rate, the time left where ``total`` is known, what failed."""

    def __init__(self, total: int | None, done: int = 0) -> None:
        self._total, self._done, self._before, self._failed = total, done, done, 0
        self._start = self._told = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Rate:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total, completed=self._done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return (self._done - self._before) / max(time.monotonic() - self._start, 1e-9)

    def advance(self, failed: bool = False) -> None:
        """One picture more."""
        self._done += 1
        self._failed += failed
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=self._figures)
        elif time.monotonic() - self._told >= _BETWEEN:
            self._told = time.monotonic()
            say(self._line)

    def say(self, text: str) -> None:
        """A message beside the progress."""
        if self._bar is None:
            say(text)
        else:
            from rich.text import Text

            self._bar.console.print(Text(f"onnxcam: {plain(text)}"), soft_wrap=True)

    @property
    def _line(self) -> str:
        if self._total is None:
            return f"{self._done}, {self._figures}"
        left = (self._total - self._done) / max(self.rate, 1e-9)
        return f"{self._done} of {self._total}, {self._figures}, {timedelta(seconds=round(left))} left"

    @property
    def _figures(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self.rate:.3g} a second{failed}"
