"""Where the pictures of a job come from: folders, patterns, lists, tables, standard input; paths or addresses.

A *folder* is searched through; hidden files and folders are left out, links are followed. A *pattern* holds ``*``,
``?``, ``[...]`` or ``**`` (any folders), unless a file of that very name exists. A *list* is a text file (.txt, .lst),
a pipe, or ``-`` (standard input): a path or address a line, or, where it holds a NUL, between NULs. A *table* (.csv,
.tsv) has a column of paths, and may have one of truths and one of targets. Anything else is a picture.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from onnxcam.batch import lists, remote, walk
from onnxcam.errors import ImageError, OptionError, reason
from onnxcam.image import read_file
from onnxcam.photos import is_picture, no_pictures

LIMIT = 1 << 30
"""Files larger than this, in bytes, are not read: no picture that is decoded is."""

_LISTS, _TABLES = (".txt", ".lst"), (".csv", ".tsv")
_NOWHERE = "there is no such file or folder"


@dataclass(frozen=True)
class Entry:
    """A picture that was found.

    Attributes:
        source: its path, as `os.fsdecode` gives it, or its address.
        truth: its label: of a table, or the folder below the source, one folder a class; None where nothing tells.
        target: what to explain of it: of a table; None where nothing tells.
        stamp: what changes when the file does: ``"size-mtime_ns"``, or what a listing at an address tells; ``""``
            where it is unknown, or there is no such file.
    """

    source: str
    truth: str | None = None
    target: str | None = None
    stamp: str = ""


def entries(source: str | Path | Iterable[str | Path], *, skip: Path | None = None) -> Iterator[Entry]:
    """The pictures of a source, one by one, in no order; what is named twice comes twice.

    Whatever is named comes, be it there or not: `read` says what is wrong with it.

    Args:
        source: a folder, a pattern, a list, a table, ``-``, one picture; or an iterable of paths and addresses of
            pictures and folders.
        skip: a folder that is not entered: where results go.

    Raises:
        ImageError: there is no such file or folder; no picture; a folder or list cannot be read.
        OptionError: a table or list that is none; ``skip`` is the source; fsspec, or a package of it, is missing.
        UnknownNameError: an address of an unknown scheme.
    """
    avoided = walk.Disk().identity(str(skip)) if skip is not None else None
    if isinstance(source, str | os.PathLike):
        given = os.fsdecode(source)
        found = _of(_plain(given), avoided)
    else:
        given, found = None, _listed(_lines_of(source), "", avoided)
    first = next(found, None)
    if first is None:
        raise no_pictures(given) if given and os.path.isdir(given) else _nothing(given)
    yield first
    yield from found


def _nothing(given: str | None) -> ImageError:
    where = "an empty list" if given is None else "standard input" if given == "-" else repr(given)
    return ImageError(
        f"no pictures in {where}: give a folder, a pattern such as 'photos/**/*.jpg', or a list with a path a line"
    )


def read(source: str, limit: int | None = LIMIT) -> bytes:
    """The bytes of a picture's file, at a path or an address.

    Args:
        source: an `Entry`'s.
        limit: refuse more bytes than this; None: any number.

    Raises:
        ImageError: there is no such file; it is a folder, or no ordinary file; it is too large, or cannot be opened.
    """
    path = _plain(source)
    if remote.is_address(path):
        return remote.read(path, limit)
    try:
        told = os.stat(path)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ELOOP:
            raise ImageError(f"cannot read {path!r}: {reason(error)}") from error
        if not lists.is_text(path) and isinstance(error, FileNotFoundError):
            hint = "its name is not in UTF-8; if a list named it, save that in UTF-8"
            raise ImageError(f"cannot read {path!r}: there is no such file: {hint}") from error
        return read_file(path)  # which says why not
    if stat.S_ISDIR(told.st_mode):
        _check_listing(path)
    elif limit is not None and told.st_size > limit:
        raise ImageError(f"cannot read {path!r}: {told.st_size:,} bytes, more than the limit of {limit:,}")
    return read_file(path)


def stamp_of(source: str) -> str:
    """What changes when the file does, as in `Entry`; at an address by a request. ``""`` where it is unknown."""
    path = _plain(source)
    return remote.stamp_of(path) if remote.is_address(path) else walk.disk_stamp(path)


def _check_listing(folder: str) -> None:
    try:
        with os.scandir(folder) as inside:
            next(inside, None)
    except OSError as error:
        raise ImageError(f"cannot read {folder!r}: a folder that cannot be listed: {reason(error)}") from error


def _plain(source: str) -> str:
    """A path where an address is one of this machine."""
    path = re.sub(r"^(file|local)://", "", source)
    return path.lstrip("/") if path != source and re.match(r"/+[A-Za-z]:[/\\]", path) and os.name == "nt" else path


# What a source is


def _of(source: str, skip: object) -> Iterator[Entry]:
    if source == "-":
        return _listed(lists.lines(sys.stdin.buffer, "standard input"), "", skip)
    return _of_address(source, skip) if remote.is_address(source) else _of_path(source, skip)


def _of_path(source: str, skip: object) -> Iterator[Entry]:
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError) as error:
        if walk.MAGIC.search(source):
            return _matched(source, skip)
        why = _NOWHERE if isinstance(error, FileNotFoundError) else reason(error)
        raise ImageError(f"cannot read {source!r}: {why}") from error
    if stat.S_ISDIR(mode):
        return _inside(source, walk.Pattern(), skip)
    pipe = not stat.S_ISREG(mode) and not is_picture(os.path.basename(source))
    return _of_file(source, _LISTS[0] if pipe else os.path.splitext(source)[1].lower(), skip)


def _of_address(source: str, skip: object) -> Iterator[Entry]:
    remote.check(remote.schemes_of(source))
    path = remote.path_of(source)
    kind = os.path.splitext(path)[1].lower()
    root, names = remote.pattern(source)
    if names.parts:
        return _at(root, names, skip)
    if kind not in (*_LISTS, *_TABLES) and not is_picture(os.path.basename(path)):
        tree = remote.Remote(source)
        if tree.is_folder():
            return _at(source, names, skip)
        if not tree.exists():
            raise ImageError(f"cannot read {source!r}: {_NOWHERE}")
    return _of_file(source, kind, skip)


def _of_file(source: str, kind: str, skip: object) -> Iterator[Entry]:
    if kind in _LISTS:
        return _listed(lists.lines(_stream(source), repr(source)), source, skip)
    if kind in _TABLES:
        return _listed(lists.rows(_stream(source), repr(source), _is_there(source), kind == ".tsv"), source, skip)
    return iter([Entry(source, stamp=stamp_of(source))])


def _stream(source: str) -> IO[bytes]:
    if remote.is_address(source):
        return remote.stream(source)
    try:
        return open(source, "rb")
    except OSError as error:
        raise ImageError(f"cannot read the list {source!r}: {reason(error)}") from error


def _matched(source: str, skip: object) -> Iterator[Entry]:
    """What a pattern of paths names."""
    separator = r"[/\\]" if os.name == "nt" else "/"
    parts = re.split(separator, source)
    starts = [0, *(m.end() for m in re.finditer(separator, source)), len(source)]
    first, names = walk.split(parts, lambda count: os.path.lexists(source[: starts[count]]))
    return _inside(source[: starts[first]], names, skip)


def _inside(folder: str, names: walk.Pattern, skip: object) -> Iterator[Entry]:
    return (Entry(f.path, f.below, None, f.stamp) for f in walk.walk(walk.Disk(), folder, names, skip))


def _at(address: str, names: walk.Pattern, skip: object) -> Iterator[Entry]:
    tree = remote.Remote(address)
    return (Entry(tree.address(f.path), f.below, None, f.stamp) for f in walk.walk(tree, tree.root, names, skip))


# What a line of a list is


def _lines_of(paths: Iterable[str | Path]) -> Iterator[lists.Line]:
    for path in paths:
        if not isinstance(path, str | os.PathLike):
            raise OptionError(f"a picture of a batch is a path or an address, not {type(path).__name__}")
        yield lists.Line(os.fsdecode(path))


def _listed(lines: Iterable[lists.Line], origin: str, skip: object) -> Iterator[Entry]:
    for line in lines:
        path = _located(line.path, origin)
        itself = True
        try:
            for found in _below(path, skip):
                itself = False
                yield replace(found, truth=line.truth or found.truth, target=line.target)
        except ImageError:  # of a folder, perhaps after its first pictures: whoever reads it is told why
            itself = True
        if itself:
            yield Entry(path, line.truth, line.target, "" if remote.is_address(path) else stamp_of(path))


def _below(path: str, skip: object) -> Iterator[Entry]:
    """The pictures of a folder in a list; of a picture none."""
    if remote.is_address(path):
        remote.check(remote.schemes_of(path))  # here and now, not for every picture
        return _at(path, walk.Pattern(), skip) if path.endswith("/") else iter(())
    return _inside(path, walk.Pattern(), skip) if os.path.isdir(path) else iter(())


def _elsewhere(path: str, origin: str) -> str:
    """What a list names that lies at an address: whoever wrote it is not to reach the files of this machine."""
    if os.path.isabs(path) or remote.is_here(path):
        raise OptionError(
            f"the list {origin!r} names a file of this machine, {path!r}; a list at an address may name addresses, and "
            "what lies beside it: keep the list here if it is to be believed"
        )
    return path if remote.is_address(path) else remote.beside(origin, path)


def _is_there(origin: str) -> Callable[[str], bool]:
    """Whether a path of this list leads anywhere; of an address it is believed."""

    def look(path: str) -> bool:
        found = _located(path, origin)
        return (remote.is_address(found) and not remote.is_address(origin)) or os.path.lexists(found)

    return look


def _located(path: str, origin: str) -> str:
    """A path from beside its list where it is there, else from the working folder; blanks around it count last."""
    if remote.is_address(origin):
        return _elsewhere(path, origin)
    path = _plain(path)
    if remote.is_address(path):
        return path
    folder = os.path.dirname(origin)
    choices = [os.path.join(base, p) for p in (path, path.strip()) for base in (folder, "")]
    return next((choice for choice in choices if os.path.lexists(choice)), choices[0])
