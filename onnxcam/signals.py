"""What asks a process to end: the signals, and one request told from two."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

STOPPING = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_ONE_REQUEST = 0.5  # seconds
_last = -_ONE_REQUEST


def heeded() -> list[signal.Signals]:
    """Those of `STOPPING` that are not ignored: ``nohup`` and shells without job control have some ignored."""
    return [number for number in STOPPING if signal.getsignal(number) not in (signal.SIG_IGN, None)]


def once(handler: Handler) -> Handler:
    """``handler``, called once where signals come twice within half a second.

    A terminal, ``timeout`` and service managers send theirs to every process of a command; what the first process
    forwards then comes a second time.
    """

    def heed(number: int, frame: FrameType | None) -> None:
        global _last
        if (now := time.monotonic()) - _last >= _ONE_REQUEST:
            _last = now
            handler(number, frame)

    return heed


@contextmanager
def heeding(handler: Handler) -> Iterator[None]:
    """Have ``handler`` called on what asks this process to end; in the main thread alone, others have no signals."""
    mine = heeded() if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.signal(number, handler) for number in mine}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
