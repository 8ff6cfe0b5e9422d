"""The plan of a job: which pictures, in which order, under which names; on disk, so that it may be of any length."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from onnxcam.batch.sources import Entry
from onnxcam.errors import ImageError, OptionError, OutputError, reason
from onnxcam.files import write_whole

VERSION = 1
_LONGEST = 200  # bytes of a name in a folder, to which suffixes come; file systems take 255
_ENDS_LIKE_OURS = re.compile(r"\.(overlay|heatmap|panel|raw|explanation)(\.\d+)?\.\w+%*$", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][\w+.-]+://|[A-Za-z][\w+.-]+::")


@dataclass(frozen=True)
class Item:
    """A picture of the plan.

    Attributes:
        index: its place.
        source: path or address.
        name: where its results go: relative, with "/", without suffix; no two items share one.
        truth: its label, where something tells it.
        target: what to explain of it, where something tells it.
        stamp: size and time when the plan was made; "" where unknown.
    """

    index: int
    source: str
    name: str
    truth: str | None
    target: str | None
    stamp: str


@dataclass(frozen=True)
class Plan:
    """A finished plan.

    Attributes:
        folder: where it lies.
        source: what it was made from, as it was written.
        configuration: of the job.
        count: pictures.
    """

    folder: Path
    source: str
    configuration: dict[str, Any]
    count: int

    @property
    def hash(self) -> str:
        """The configuration's, by which jobs are told apart."""
        return digest(self.configuration)

    @property
    def batch(self) -> int:
        """Pictures of a group."""
        return int(self.configuration["batch"])

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return -(-self.count // self.batch)

    def items(self) -> Iterator[Item]:
        """The pictures, in order; read from the disk as they are asked for."""
        with (self.folder / "plan.jsonl").open(encoding="ascii") as lines:
            for index, line in enumerate(lines):
                yield Item(index, *json.loads(line))

    def pending(self, done: Sequence[int] | bytearray) -> Iterator[list[Item]]:
        """The groups whose entry in ``done`` is 0."""
        items = self.items()
        for number in range(self.groups):
            group = list(islice(items, self.batch))
            if not done[number]:
                yield group


def read_plan(folder: Path) -> Plan | None:
    """The plan in a folder; None where there is none, or it was not finished.

    Raises:
        OptionError: it is damaged, or of another version.
    """
    path = folder / "plan.json"
    if not path.exists():
        return None
    try:
        told = json.loads(path.read_text())
        if told.pop("version") != VERSION:
            raise ValueError("written by another version")
        return Plan(folder, **told)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(f"the plan of this job, {path}, cannot be read: {error}. Start in another folder") from error


def make_plan(folder: Path, entries: Iterable[Entry], source: str, configuration: dict[str, Any]) -> Plan:
    """Sort what was found, leave out what is named twice, and keep it.

    Raises:
        ImageError: there are no pictures.
        OutputError: the folder cannot be written.
    """
    try:
        with closing(sqlite3.connect("")) as found:  # a temporary file: sorted, without repeats, of any length
            _gather(found, entries)
            count = _write(found, folder / "plan.jsonl", _key(source))
    except (OSError, sqlite3.Error) as error:
        what = reason(error) if isinstance(error, OSError) else error
        raise OutputError(f"the plan cannot be written to {folder}: {what}. Give another folder") from error
    if not count:
        raise ImageError(f"no pictures in {source}: give a folder, a pattern or a list of them")
    plan = Plan(folder, source, configuration, count)
    told = {"version": VERSION, "source": source, "configuration": configuration, "count": count}
    write_whole(folder / "plan.json", json.dumps(told, indent=1).encode())
    return plan


def _gather(found: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    found.execute(
        "create table entry (source blob, target text, truth text, stamp text, primary key (source, target)) "
        "without rowid"
    )
    found.executemany(
        "insert or ignore into entry values (?, ?, ?, ?)",
        ((os.fsencode(e.source), _text(e.target), _text(e.truth), e.stamp) for e in entries),
    )


def _text(given: str | None) -> str:
    """What a database takes: JSON escapes lone surrogates."""
    return "" if given is None else json.dumps(given)


def _write(found: sqlite3.Connection, path: Path, root: Sequence[str]) -> int:
    keys = (_key(os.fsdecode(row[0])) for row in found.execute("select source from entry"))
    shared = _shared(keys, root)
    count = 0
    with path.open("w", encoding="ascii") as lines:
        for source, target, truth, stamp in found.execute("select * from entry order by source, target"):
            where, asked = os.fsdecode(source), json.loads(target) if target else None
            told = json.loads(truth) if truth else None
            lines.write(json.dumps([where, name_of(_key(where)[shared:], asked), told, asked, stamp]) + "\n")
            count += 1
    return count


def _key(source: str) -> tuple[str, ...]:
    """The parts of a path or address, by which folders are mirrored."""
    if _SCHEME.match(source):
        scheme, _, rest = source.partition(":")
        return (scheme, *(p for p in rest.split("/") if p))
    return ("", *(p for p in os.path.abspath(source).replace(os.sep, "/").split("/") if p))


def _shared(keys: Iterable[tuple[str, ...]], root: Sequence[str]) -> int:
    """How many first parts all keys share; the whole source's where that is a folder of them all."""
    first = next(iter(keys := iter(keys)), ())
    common = list(first[:-1])
    inside = first[: len(root)] == tuple(root) and len(first) > len(root)
    for key in keys:
        while tuple(common) != key[: len(common)] or len(common) == len(key):
            common.pop()
        inside = inside and key[: len(root)] == tuple(root) and len(key) > len(root)
    return len(root) if inside else len(common)


def name_of(parts: Sequence[str], target: str | None) -> str:
    """The name under which results are kept: the picture's own folders and name, and the target of a list's line."""
    *folders, last = [_safe(p) for p in parts]
    if target is not None:
        slug = re.sub(r"[^\w.+-]+", "-", target)[:40]
        last += f"@{slug}" + ("" if slug == target else f"-{_short(target)}")
    return "/".join([*(_folder(f) for f in folders), _cut(last)])


def _safe(part: str) -> str:
    return part.replace(".", "%2E") if part in (".", "..") else part


def _folder(name: str) -> str:
    """A folder that is called like one of our files gets another name, which no other folder can have."""
    return _cut(f"{name}%" if _ENDS_LIKE_OURS.search(name) else name)


def _cut(name: str) -> str:
    """Names leave room for suffixes."""
    data = os.fsencode(name)
    if len(data) <= _LONGEST:
        return name
    return data[: _LONGEST - 9].decode(errors="ignore") + "~" + _short(name)


def digest(value: Any) -> str:
    """The SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _short(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]
