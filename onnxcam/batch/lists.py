"""Lists of paths: a text with one a line, or between NULs, and tables with a column of them."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import IO, Any, NamedTuple

from onnxcam.errors import OptionError
from onnxcam.photos import LABEL_COLUMNS, PATH_COLUMNS

_BLOCK = 1 << 16
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_COLUMNS = (PATH_COLUMNS, LABEL_COLUMNS, ("target",))
_KNOWN = [name for names in _COLUMNS for name in names]
_CLOSE = 0.8  # a letter too many, one missing, or two that changed places


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


def rows(file: IO[bytes], name: str, is_there: Callable[[str], bool], tabs: bool = False) -> Iterator[Line]:
    """The lines of a table, with the columns of its header: `PATH_COLUMNS`, `LABEL_COLUMNS` and ``target``.

    A first line without a column of paths is no header: then they are path, truth and target, in this order.

    Args:
        file: the table; it is closed at the end.
        name: what messages call it.
        is_there: whether a path of this table leads anywhere.
        tabs: cells lie between tabs; else between what the first line has of comma, tab and semicolon.

    Raises:
        OptionError: it is no table, or not in UTF-8; a header that is not understood; a line that has no path, or more
            cells than there are columns.
    """
    try:
        with _text(file) as text:
            reader = csv.reader(text, delimiter="\t" if tabs else _separator(text))
            yield from _Table(name, is_there).lines(reader)
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


class _Table:
    """What a table's lines say, by its header where it has one."""

    def __init__(self, name: str, is_there: Callable[[str], bool]) -> None:
        self._name, self._is_there = name, is_there
        self._where: Sequence[int | None] = (0, 1, 2)
        self._width = len(self._where)

    def lines(self, reader: Any) -> Iterator[Line]:
        """Line by line, of a reader of the csv module."""
        filled = (row for row in reader if any(map(str.strip, row)))
        if (first := next(filled, None)) is None:
            return
        if not self._is_header(first):
            yield self._line(first, reader.line_num)
        for row in filled:
            yield self._line(row, reader.line_num)

    def _is_header(self, first: Sequence[str]) -> bool:
        names = [cell.strip().lower() for cell in first]
        if not set(names) & set(PATH_COLUMNS):
            self._check_headless(first)
            return False
        self._where, self._width = tuple(self._column(names, known) for known in _COLUMNS), len(first)
        return True

    def _column(self, names: Sequence[str], known: Sequence[str]) -> int | None:
        """Where it stands in the header."""
        found = [k for k, name in enumerate(names) if name in known]
        if len(found) > 1:
            told = " and ".join(repr(names[k]) for k in found)
            raise OptionError(f"{self._name} has {told}, which say the same; rename all but one of these columns")
        close = [name for name in names if not found and name and get_close_matches(name, known, cutoff=_CLOSE)]
        if taken := next((name for name in close if name not in _KNOWN), None):
            raise OptionError(f"the header of {self._name} has {taken!r}: is that {_any_of(known)}? Else rename it")
        return found[0] if found else None

    def _check_headless(self, first: Sequence[str]) -> None:
        """A first line that names nothing is a header with other words, or its columns are in another order."""
        path = first[0].strip()
        if os.path.splitext(path)[1] or re.search(r"[/\\]", path) or self._is_there(first[0]):
            return
        known = "; ".join(map(_any_of, _COLUMNS))
        raise OptionError(
            f"the first line of {self._name} is no header that is known, and {path!r} is no file: name its columns "
            f"{known}; or, without a header, give lines of path,label,target"
        )

    def _line(self, row: Sequence[str], number: int) -> Line:
        place = f"line {number} of {self._name}"
        if any(map(str.strip, row[self._width :])):
            raise OptionError(
                f"{place} has {len(row)} cells for {self._width} columns: put texts with a separator in them between "
                'quotes ("), or give the table a header that names its columns'
            )
        path, truth, target = (row[at] if at is not None and at < len(row) else "" for at in self._where)
        if not path.strip():
            raise OptionError(f"{place} has no path; give lines of path,label,target")
        if not is_text(truth + target) or not (is_text(path) or self._is_there(path)):
            raise OptionError(f"{place} is not in UTF-8: save the table in UTF-8 (spreadsheets call it 'CSV UTF-8')")
        return Line(path, truth.strip() or None, target.strip() or None)


def _any_of(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def is_text(name: str) -> bool:
    """Whether a name's bytes are UTF-8; others are kept as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)
