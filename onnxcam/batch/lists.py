"""Lists of paths: a text with one a line, or between NULs, and tables with a column of them."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

from onnxcam.errors import OptionError
from onnxcam.photos import LABEL_COLUMNS, PATH_COLUMNS, column

_BLOCK = 1 << 16
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Line(NamedTuple):
    """A path as it is written, and what a table says of it."""

    path: str
    truth: str | None = None
    target: str | None = None


def lines(file: IO[bytes], name: str) -> Iterator[Line]:
    """The paths of a text, without empty lines: everything else may be part of a name.

    Between NULs where its first 64 KiB hold one (``find -print0``), else one a line. Bytes that are no text stay in
    the name as `os.fsdecode` keeps them; a text that begins with the mark of UTF-16 is read as such.

    Args:
        file: the text.
        name: what messages call it.

    Raises:
        OptionError: it is no list.
    """
    head = file.read(_BLOCK)
    if head[:2] in _UTF16:
        parts: Iterator[str] = iter(_utf16(head + file.read(), name).split("\n"))
        ends = "\r"
    else:
        separator = b"\0" if b"\0" in head else b"\n"
        ends = "" if separator == b"\0" else "\r"
        parts = map(os.fsdecode, _split(file, head.removeprefix(codecs.BOM_UTF8), separator, name))
    return (Line(part.removesuffix(ends)) for part in parts if part.strip())


def _utf16(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-16")
    except UnicodeDecodeError as error:
        raise OptionError(f"{name} is no list of paths: {error}; give a path a line, in UTF-8") from error


def _split(file: IO[bytes], block: bytes, separator: bytes, name: str) -> Iterator[bytes]:
    rest = b""
    while block:
        *whole, rest = (rest + block).split(separator)
        yield from whole
        if len(rest) > _BLOCK:
            raise OptionError(f"{name} is no list of paths: it has a line of more than {_BLOCK:,} bytes")
        block = file.read(_BLOCK)
    yield rest


def rows(file: IO[bytes], name: str, tabs: bool = False) -> Iterator[Line]:
    """The lines of a table, with the columns of its header: `PATH_COLUMNS`, `LABEL_COLUMNS` and ``target``.

    A first line without a column of paths is no header: then they are path, truth and target, in this order.

    Args:
        file: the table; it is closed at the end.
        name: what messages call it.
        tabs: cells lie between tabs; else between what the first line has of comma, tab and semicolon.

    Raises:
        OptionError: it is no table; a line has no path.
    """
    try:
        with _text(file) as text:
            yield from _cells(csv.reader(text, delimiter="\t" if tabs else _separator(text)), name)
    except (UnicodeError, csv.Error) as error:
        raise OptionError(f"cannot read the table {name}: {error}; give lines of path,label,target") from error


def _text(file: IO[bytes]) -> io.TextIOWrapper:
    encoding = "utf-16" if file.read(2) in _UTF16 else "utf-8-sig"
    file.seek(0)
    return io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="")


def _separator(text: io.TextIOWrapper) -> str:
    first = text.readline(_BLOCK)
    text.seek(0)
    return next((s for s in ",\t;" if s in first), ",")


def _cells(reader: Any, name: str) -> Iterator[Line]:
    where: Sequence[int | None] | None = None
    for row in reader:
        if not any(map(str.strip, row)):
            continue
        if where is None and (where := _columns(row)) is not None:
            continue
        where = where or (0, 1, 2)
        yield _line(row, where, f"line {reader.line_num} of {name}")


def _columns(header: Sequence[str]) -> tuple[int | None, ...] | None:
    names = [cell.strip().lower() for cell in header]
    path = column(names, PATH_COLUMNS)
    return None if path is None else (path, column(names, LABEL_COLUMNS), column(names, ("target",)))


def _line(row: Sequence[str], where: Sequence[int | None], place: str) -> Line:
    path, truth, target = (row[at] if at is not None and at < len(row) else "" for at in where)
    if not path.strip():
        raise OptionError(f"{place} has no path; give lines of path,label,target")
    return Line(path, truth.strip() or None, target.strip() or None)
