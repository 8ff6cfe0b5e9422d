"""Native code that prints to file descriptor 2, whatever its log level, made silent."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_one = threading.Lock()  # file descriptor 2 belongs to the whole process


@contextmanager
def silent() -> Iterator[None]:
    """Drop what is printed to file descriptor 2 while the context is open; one thread at a time."""
    with _one:
        try:
            kept = os.dup(2)
        except OSError:  # there is none to print to
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
