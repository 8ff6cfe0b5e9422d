"""Files, whole: written at once or not at all, alone or together, and known by their hash."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from onnxcam.errors import OutputError, reason


@contextmanager
def whole(path: Path, scratch: Path | None = None, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which appears in its place once the context ends without an exception.

    Args:
        path: The file.
        scratch: A folder of the same file system for the temporary file; None: the file's own.
        durable: It is on the disk before it appears, so that a loss of power leaves the old file or the new one.

    Raises:
        OSError: It cannot be written there.
    """
    partial = (scratch or path.parent) / f".{secrets.token_hex(6)}.part"
    try:
        with partial.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink()


def write_whole(
    path: Path, data: bytes | Iterable[bytes], scratch: Path | None = None, *, durable: bool = False
) -> Path:
    """Write a file whole or not at all: a temporary file, then a rename.

    Args:
        path: The file.
        data: What it holds; in parts, where all at once would take much memory.
        scratch: As for `whole`.
        durable: As for `whole`.

    Raises:
        OutputError: It cannot be written there.
    """
    try:
        with whole(path, scratch, durable=durable) as file:
            file.writelines((data,) if isinstance(data, bytes) else data)
    except OSError as error:
        advice = "" if scratch else ". Give another folder or name"  # a job's own files have their places
        raise OutputError(f"cannot write {str(path)!r}: {reason(error)}{advice}") from error
    return path


@contextmanager
def together(*paths: Path, gone: Sequence[Path] = ()) -> Iterator[Path]:
    """A folder to write files in, which all appear in their places once the context ends without an exception.

    Where one cannot be put in its place, those before it are taken away again, and what was there comes back.

    Args:
        paths: The files, of one folder; they are written under their names in the folder that is given.
        gone: Others of that folder, which vanish as these appear.

    Raises:
        OSError: They cannot be written there.
    """
    with tempfile.TemporaryDirectory(prefix=".onnxcam-", dir=paths[-1].parent) as name:
        folder = Path(name)
        yield folder
        if len(paths) == 1 and not gone:
            os.replace(folder / paths[0].name, paths[0])
        else:
            _exchange(folder, paths, gone)


def _exchange(folder: Path, paths: Sequence[Path], gone: Sequence[Path]) -> None:
    """Put new files in the place of old ones; in between, there is none rather than one of each."""
    former = Path(tempfile.mkdtemp(dir=folder))
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in (
            *((path, former / path.name) for path in (*reversed(paths), *gone) if path.exists()),
            *((folder / path.name, path) for path in paths),
        ):
            os.replace(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            os.replace(target, source)
        raise


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
