"""A progress bar for methods of many runs."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

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
