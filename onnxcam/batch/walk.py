"""Folders searched through, and patterns of names: on a disk, or in whatever else can list a folder.

One directory is held at a time, and the names of folders still to be entered: memory is that of the largest folder.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from onnxcam.errors import ImageError, OptionError, reason
from onnxcam.photos import SUFFIXES, is_picture


class Item(NamedTuple):
    """What a folder holds: a name, the whole path, and whether it is a folder itself; ``facts`` are its tree's own."""

    name: str
    path: str
    is_folder: bool
    facts: Any = None


class Found(NamedTuple):
    """A picture: its path; the folder below the root that it lies in; its stamp, ``""`` where unknown."""

    path: str
    below: str | None
    stamp: str


class Tree(Protocol):
    """What can be searched."""

    def listing(self, folder: str) -> Iterable[Item]:
        """What lies in a folder. Raises: OSError."""

    def identity(self, folder: str) -> object:
        """What tells a folder from all others, by whatever path it is reached; None where that is unknown."""

    def stamp(self, item: Item) -> str:
        """What changes when the file does; ``""`` where unknown."""


class Disk:
    """The folders of this machine."""

    def listing(self, folder: str) -> Iterator[Item]:
        """What lies in a folder, as the system gives it: unsorted. Raises: OSError."""
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                yield Item(entry.name, os.path.join(folder, entry.name), _is_folder(entry))

    def identity(self, folder: str) -> object:
        """The folder's device and number."""
        try:
            told = os.stat(folder or ".")
        except (OSError, ValueError):
            return None
        return told.st_dev, told.st_ino

    def stamp(self, item: Item) -> str:
        """The file's size and time."""
        return disk_stamp(item.path)


def disk_stamp(path: str) -> str:
    """``"size-mtime_ns"`` of a file; ``""`` of none."""
    try:
        told = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{told.st_size}-{told.st_mtime_ns}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


MAGIC = re.compile(r"[*?[]")
"""What makes a name a pattern."""


class Pattern:
    """The names below a root that are asked for: ``*``, ``?``, ``[seq]`` within a name, ``**`` for any folders.

    Hidden names are taken only by a part that begins with a dot. What lies in a folder that matches is taken as well.
    A path is matched name by name: a state is the number of parts that have found their names; the last takes all.

    Args:
        parts: one a level; none: everything.
    """

    START = frozenset([0])

    def __init__(self, parts: Sequence[str] = ()) -> None:
        self.parts = tuple(part for part in parts if part not in ("", "."))
        ending = os.path.splitext(self.parts[-1])[1] if self.parts else ""
        self._own = bool(ending.strip(".")) and not MAGIC.search(ending) and ending.lower() not in SUFFIXES

    def step(self, states: Iterable[int], name: str) -> frozenset[int]:
        """The states after one more name."""
        return frozenset(after for state in self._open(states) if (after := self._after(state, name)) is not None)

    def takes(self, states: Iterable[int], name: str) -> bool:
        """Whether a file of this name, with these states after it, is asked for."""
        matched = len(self.parts) in self._open(states)
        return matched and (is_picture(name) or (self._own and fnmatch.fnmatch(name, self.parts[-1])))

    def _open(self, states: Iterable[int]) -> Iterator[int]:
        """These, and what follows ``**``, which may stand for no folder."""
        for state in states:
            yield state
            while state < len(self.parts) and self.parts[state] == "**":
                state += 1
                yield state

    def _after(self, state: int, name: str) -> int | None:
        part = self.parts[state] if state < len(self.parts) else "**"
        if name.startswith(".") and not part.startswith("."):
            return None
        if part == "**":
            return state
        return state + 1 if name == part or fnmatch.fnmatch(name, part) else None


class _Folder(NamedTuple):
    path: str
    below: str | None
    states: frozenset[int]
    above: Any  # (identity, above) of the folders that led here


def walk(tree: Tree, root: str, pattern: Pattern, skip: object = None) -> Iterator[Found]:
    """The pictures below a folder, in no order.

    A link to a folder is followed, unless it leads to one that it lies in. A folder that cannot be listed, and one
    that is called like a picture and holds nothing, is found itself, for whoever reads it to say why.

    Args:
        tree: what is searched.
        root: where to begin.
        pattern: which names.
        skip: the identity of a folder that is not entered.

    Raises:
        ImageError: the root cannot be listed.
        OptionError: the root is to be skipped.
    """
    if skip is not None and tree.identity(root) == skip:
        raise OptionError(f"the results would lie among the pictures of {root or '.'!r}: give another folder for them")
    waiting = [_Folder(root, None, Pattern.START, None)]
    while waiting:
        folder = waiting.pop()
        identity = tree.identity(folder.path)
        if identity is not None and (identity == skip or identity in _chain(folder.above)):
            continue
        try:
            yield from _enter(tree, folder, pattern, waiting, (identity, folder.above))
        except OSError as error:
            if folder.above is None:
                raise ImageError(f"cannot list {root!r}: {reason(error)}") from error
            yield _itself(folder)


def _enter(tree: Tree, folder: _Folder, pattern: Pattern, waiting: list[_Folder], chain: Any) -> Iterator[Found]:
    empty = True
    for item in tree.listing(folder.path):
        states = pattern.step(folder.states, item.name)
        below = item.name if folder.above is None else folder.below
        if item.is_folder and states:
            waiting.append(_Folder(item.path, below, states, chain))
            empty = False
        elif not item.is_folder and pattern.takes(states, item.name):
            yield Found(item.path, folder.below, tree.stamp(item))
            empty = False
    if empty and folder.above is not None and pattern.takes(folder.states, os.path.basename(folder.path.rstrip("/"))):
        yield _itself(folder)


def _itself(folder: _Folder) -> Found:
    at_the_root = folder.above[1] is None
    return Found(folder.path, None if at_the_root else folder.below, "")


def _chain(above: Any) -> Iterator[object]:
    while above is not None:
        identity, above = above
        yield identity


def split(parts: Sequence[str], exists: Any) -> tuple[int, Pattern]:
    """Where the names of a path turn into a pattern, and that pattern; a name that ``exists`` is none.

    Args:
        parts: the names.
        exists: tells of a number of first parts whether there is such a folder.
    """
    first = next((n for n, part in enumerate(parts) if MAGIC.search(part) and not exists(n + 1)), len(parts))
    return first, Pattern(parts[first:])
