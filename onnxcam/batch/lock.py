"""One job in a folder at a time."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from onnxcam.errors import OutputError, reason


class Lock:
    """Held while a job works in a folder; the system frees it however the process ends.

    Raises:
        OutputError: another job works there.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file: BinaryIO = path.open("a+b")
        except OSError as error:
            raise OutputError(f"cannot write {str(path)!r}: {reason(error)}. Give another folder") from error
        try:
            _take(self._file)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read(1000).decode(errors="replace").strip()
            self._file.close()
            raise OutputError(
                f"another job works in {str(path.parent.parent)!r}{f' ({holder})' if holder else ''}: wait for its "
                "end, or give another folder"
            ) from error
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.ctime()}".encode())
        self._file.flush()

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Let others in."""
        self._file.close()


def _take(file: BinaryIO) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(1 << 20)  # a byte beyond the text, which others may still read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
