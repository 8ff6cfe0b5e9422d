"""The plan of a job: which pictures, in which order, under which names; on disk, so that it may be of any length."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any, BinaryIO

from onnxcam.batch.paths import TMP, Paths, located
from onnxcam.batch.remote import is_address, parts_of
from onnxcam.batch.settings import differences, digest
from onnxcam.batch.sources import Entry
from onnxcam.errors import ImageError, OptionError, OutputError, reason
from onnxcam.files import whole

VERSION = 1
OWN = ("results.jsonl", "results.csv", "run.json", "boxes.json", "report.html")
"""What a job keeps in its folder beside the files of the pictures."""
_LONGEST = 200  # bytes of a name in a folder, to which suffixes come; file systems take 255
_FORBIDDEN = r'[<>:"|?*\\\x00-\x1f]|[. ]$' if os.name == "nt" else r"\x00"
_LIKE_OURS = re.compile(
    r"(^(\.onnxcam|results\.\w+|run\.json|boxes\.json|report(-\d+)?\.html)"
    r"|\.(overlay|heatmap|panel|raw|explanation)(\.\d+)?\.\w+)%*$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Item:
    """A picture of the plan.

    Attributes:
        index: its place.
        source: its whole path, or its address.
        name: where its results go: relative, with "/", without suffix; no two items share one.
        truth: its label, where something tells it.
        target: what to explain of it, where something tells it.
        stamp: size and time when the plan was made; "" where unknown.
        done: it has its results: only what is run with it is to do.
    """

    index: int
    source: str
    name: str
    truth: str | None
    target: str | None
    stamp: str
    done: bool = False


@dataclass(frozen=True)
class Plan:
    """A finished plan.

    Attributes:
        folder: where it lies.
        source: what it was made from: as `located` gives it, or the words of `Paths`.
        configuration: of the job.
        count: pictures.
        size: bytes of the list.
    """

    folder: Path
    source: str
    configuration: dict[str, Any]
    count: int
    size: int

    @property
    def scratch(self) -> Path:
        """Where files lie until they are whole."""
        return self.folder / TMP

    @property
    def hash(self) -> str:
        """The configuration's, by which jobs are told apart."""
        return digest(self.configuration)

    @property
    def batch(self) -> int:
        """Pictures of a group."""
        return int(self.configuration["batch"])

    def check(self, configuration: dict[str, Any], source: str) -> None:
        """See to it that a job may go on with this plan.

        Raises:
            OptionError: it was made for another source or configuration.
        """
        out, step = repr(str(self.folder.parent)), "resume it as it was started, or choose another folder"
        if self.source != source:
            raise OptionError(f"the job in {out} is about {self.source!r}, not {source!r}: {step}")
        if told := "; ".join(differences(self.configuration, configuration)):
            raise OptionError(f"the job in {out} was started otherwise ({told}): {step}")

    def items(self) -> Iterator[Item]:
        """The pictures, in order; read from the disk as they are asked for."""
        with (self.folder / "plan.jsonl").open(encoding="ascii") as lines:
            for index, line in enumerate(lines):
                yield Item(index, *json.loads(line))

    def pending(self, done: Sequence[int] | bytearray) -> Iterator[list[Item]]:
        """The groups with a picture whose entry in ``done`` is 0, whole."""
        items = self.items()
        while group := list(islice(items, self.batch)):
            if not all(done[item.index] for item in group):
                yield [replace(item, done=bool(done[item.index])) for item in group]


def read_plan(folder: Path) -> Plan | None:
    """The plan in a folder; None where there is none, or it was not finished.

    Raises:
        OptionError: it is damaged, or of another version.
    """
    path = folder / "plan.json"
    if not path.exists():
        return None
    try:
        told = json.loads(path.read_bytes())
        if told.pop("version") != VERSION:
            raise ValueError("written by another version")
        plan = Plan(folder, **told)
        if (size := (folder / "plan.jsonl").stat().st_size) != plan.size:
            raise ValueError(f"its list has {size} bytes instead of {plan.size}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OptionError(f"the plan of this job, {path}, cannot be read: {error}. Start in another folder") from error
    return plan


def make_plan(folder: Path, entries: Iterable[Entry], source: str | Paths, configuration: dict[str, Any]) -> Plan:
    """Sort what was found, leave out what is named twice, and keep it.

    Raises:
        ImageError: there are no pictures.
        OptionError: two truths for one picture and target.
        OutputError: the folder cannot be written.
    """
    scratch = folder / TMP
    try:
        scratch.mkdir(exist_ok=True)
        with closing(sqlite3.connect("")) as found:  # a temporary file: sorted, without repeats, of any length
            found.execute("pragma journal_mode = off")
            _gather(found, entries)
            source = str(source)  # of paths that come one by one known only now
            with whole(folder / "plan.jsonl", scratch, durable=True) as lines:
                number = _write(found, lines, _key(source))
                size = lines.tell()
        if not number:
            raise ImageError(f"no pictures in {source}: give a folder, a pattern or a list of them")
        told: dict[str, Any] = {"source": source, "configuration": configuration, "count": number, "size": size}
        with whole(folder / "plan.json", scratch, durable=True) as file:
            file.write(json.dumps({"version": VERSION, **told}, indent=1).encode())
    except sqlite3.Error as error:
        raise OutputError(
            f"the plan cannot be sorted: {error}. There must be room for it in the folder of temporary files, which "
            "the variable SQLITE_TMPDIR names"
        ) from error
    except OSError as error:
        raise OutputError(f"the plan cannot be written to {folder}: {reason(error)}. Give another folder") from error
    return Plan(folder, **told)


def _gather(found: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    found.execute(
        "create table entry (source blob, target text, truth text, stamp text, primary key (source, target, truth)) "
        "without rowid"
    )
    found.executemany(
        "insert or ignore into entry values (?, ?, ?, ?)",
        ((_bytes(located(e.source)), _text(e.target), _text(e.truth), _text(e.stamp)) for e in entries),
    )
    twice = "select source, min(truth), max(truth) from entry where truth != '' group by source, target"
    for where, one, other in found.execute(f"{twice} having min(truth) != max(truth)"):
        raise OptionError(
            f"{_str(where)!r} is listed with two truths, {json.loads(one)!r} and {json.loads(other)!r}: keep one"
        )


def _text(given: str | None) -> str:
    """What a database takes: JSON escapes lone surrogates."""
    return "" if given is None else json.dumps(given)


def _bytes(text: str) -> bytes:
    """Any text, lone surrogates included."""
    return text.encode(errors="surrogatepass")


def _write(found: sqlite3.Connection, lines: BinaryIO, root: Sequence[str]) -> int:
    """Write the list; the number of its lines."""
    shared = _shared((_key(_str(row[0])) for row in found.execute("select source from entry")), root)
    found.execute("create table name (folded blob primary key) without rowid")
    number = 0
    each = "select source, target, max(truth), stamp from entry group by source, target order by source, target"
    for source, target, truth, stamp in found.execute(each):
        where, (asked, told, known) = _str(source), (json.loads(t) if t else None for t in (target, truth, stamp))
        name = _unused(found, name_of(_key(where)[shared:], asked), where)
        lines.write(json.dumps([where, name, told, asked, known]).encode() + b"\n")
        number += 1
    return number


def _str(data: bytes) -> str:
    return data.decode(errors="surrogatepass")


def _unused(found: sqlite3.Connection, name: str, source: str) -> str:
    """A name that no item has: not even another way of writing it, which some file systems take for the same."""
    names = (f"{name}~{_short(f'{source}~{k}')}" if k else name for k in count())
    return next(one for one in names if _taken(found, one))


def _taken(found: sqlite3.Connection, name: str) -> bool:
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
    return bool(found.execute("insert or ignore into name values (?)", (_bytes(folded),)).rowcount)


def _key(source: str) -> tuple[str, ...]:
    """The parts of a path or address, by which folders are mirrored."""
    if is_address(source):
        return parts_of(source)
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
    *folders, last = [_safe(p) for p in parts if p] or [""]
    if target is not None:
        slug = re.sub(r"[^\w.+-]+", "-", target)[:40]
        last += f"@{slug}" + ("" if slug == target else f"-{_short(target)}")
    return "/".join([*(_folder(f) for f in folders), _cut(last)])


def _safe(part: str) -> str:
    """What cannot be a name, as %XX."""
    pattern = r"\." if part in (".", "..") else _FORBIDDEN
    return re.sub(pattern, lambda found: f"%{ord(found[0]):02X}", part)


def _folder(name: str) -> str:
    """A folder that is called like one of our files gets another name, which no other folder can have."""
    return _cut(f"{name}%" if _LIKE_OURS.search(name) else name)


def _cut(name: str) -> str:
    """Names leave room for suffixes."""
    data = _bytes(name)
    if len(data) <= _LONGEST:
        return name
    return data[: _LONGEST - 9].decode(errors="ignore") + "~" + _short(name)


def _short(text: str) -> str:
    return hashlib.sha256(_bytes(text)).hexdigest()[:8]
