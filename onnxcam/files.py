"""Files, whole: written at once or not at all, and known by their hash."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from onnxcam.errors import OutputError, reason


def write_whole(path: Path, data: bytes | Iterable[bytes], scratch: Path | None = None) -> Path:
    """Write a file whole or not at all: a temporary file, then a rename.

    Args:
        path: The file.
        data: What it holds; in parts, where all at once would take much memory.
        scratch: A folder of the same file system for the temporary file; None: the file's own.

    Raises:
        OutputError: It cannot be written there.
    """
    partial = (scratch or path.parent) / f".{secrets.token_hex(6)}.part"
    try:
        with partial.open("wb") as file:
            file.writelines((data,) if isinstance(data, bytes) else data)
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {reason(error)}. Give another folder or name") from error
    finally:
        with suppress(OSError):
            partial.unlink()
    return path


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
