"""One job in a folder at a time."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from onnxcam.errors import OutputError, reason


class Lock:
    """Held while a job works in a folder; the system frees it however the process ends.

    Raises:
        OutputError: another job works there, or the file system knows no locks.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file: BinaryIO = path.open("a+b", buffering=0)
        except OSError as error:
            raise OutputError(f"cannot write {str(path)!r}: {reason(error)}. Give another folder") from error
        try:
            _take(self._file)
            if not os.path.samestat(os.fstat(self._file.fileno()), os.stat(path)):
                raise BlockingIOError  # whoever held it has removed it, and another may have made its own
        except OSError as error:
            raise self._refused(path, error) from error
        with suppress(OSError):  # a full disk: whose it is would only be good to know
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.ctime()}".encode())

    def _refused(self, path: Path, error: OSError) -> OutputError:
        with self._file as file:
            file.seek(0)
            holder = file.read(1000).decode(errors="replace").strip()
        folder = str(path.parent.parent)
        if not isinstance(error, BlockingIOError | PermissionError | FileNotFoundError):
            return OutputError(f"cannot lock {str(path)!r}: {reason(error)}. Give a folder of another file system")
        return OutputError(
            f"another job works in {folder!r}{f' ({holder})' if holder else ''}: wait for its end, or give another "
            "folder"
        )

    @property
    def held(self) -> bool:
        """Whether it is not released."""
        return not self._file.closed

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
