"""Files, whole: written at once or not at all, and known by their hash."""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from onnxcam.errors import OutputError, reason


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file whole or not at all: a temporary file in the same folder, then a rename.

    Raises:
        OutputError: It cannot be written there.
    """
    partial = path.with_name(f".{secrets.token_hex(6)}.part")
    try:
        partial.write_bytes(data)
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
