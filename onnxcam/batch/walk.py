"""Folders searched through, and patterns of names: on a disk, or in whatever else can list a folder.

One directory is held at a time, the names of folders still to be entered, and a number for each that was: memory is
that of the largest folder.
"""

from __future__ import annotations

import fnmatch
import heapq
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from onnxcam.errors import ImageError, OptionError, reason
from onnxcam.photos import SUFFIXES, is_picture


class Item(NamedTuple):
    """What a folder holds: a name, the whole path, and whether it is a folder, or a link; ``facts`` are its tree's."""

    name: str
    path: str
    is_folder: bool
    facts: Any = None
    is_link: bool = False


class Found(NamedTuple):
    """A picture: its path; the folder below the root that it lies in; its stamp, ``""`` where unknown."""

    path: str
    below: str | None
    stamp: str


class Tree(Protocol):
    """What can be searched."""

    def listing(self, folder: str) -> Iterable[Item]:
        """What lies in a folder; of a job's results, their `JOB` first. Raises: OSError."""

    def identity(self, folder: str) -> object:
        """What tells a folder from all others, by whatever path it is reached; None where that is unknown."""

    def stamp(self, item: Item) -> str:
        """What changes when the file does; ``""`` where unknown."""


class Disk:
    """The folders of this machine."""

    def listing(self, folder: str) -> Iterator[Item]:
        """What lies in a folder, as the system gives it: unsorted. Raises: OSError."""
        if os.path.exists(os.path.join(folder, JOB, "plan.json")):
            yield Item(JOB, os.path.join(folder, JOB), True)
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if entry.name != JOB:
                    path = os.path.join(folder, entry.name)
                    yield Item(entry.name, path, _holds(entry.is_dir), None, _holds(entry.is_symlink))

    def identity(self, folder: str) -> object:
        """The folder's device and number, in one: millions may be kept."""
        try:
            told = os.stat(folder or ".")
        except (OSError, ValueError):
            return None
        return told.st_dev << 64 | told.st_ino if told.st_ino else os.path.realpath(folder)  # some give no numbers

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


def _holds(asked: Callable[[], bool]) -> bool:
    try:
        return asked()
    except OSError:  # a link to itself
        return False


JOB = ".onnxcam"
"""The folder that makes a folder one of results."""

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
    depth: int = 0


class _Waiting:
    """The folders still to be entered: first all that are reached without a link, then the shortest link."""

    def __init__(self, root: _Folder) -> None:
        self._folders = [root]
        self._links: list[tuple[int, str, _Folder]] = []

    def add(self, folder: _Folder, is_link: bool) -> None:
        """One more."""
        if is_link:
            heapq.heappush(self._links, (folder.depth, folder.path, folder))
        else:
            self._folders.append(folder)

    def __iter__(self) -> Iterator[_Folder]:
        while self._folders or self._links:
            yield self._folders.pop() if self._folders else heapq.heappop(self._links)[2]


class _Entered:
    """Which folders were entered, and for which states: a pattern may ask for other names of one by another way."""

    def __init__(self) -> None:
        self._states: dict[object, frozenset[int]] = {}
        self._same: dict[frozenset[int], frozenset[int]] = {}  # one of each: there may be millions of folders

    def new(self, identity: object, states: frozenset[int]) -> frozenset[int]:
        """Those of the states that the folder was not entered for, and is from now on."""
        if identity is None:
            return states
        before = self._states.get(identity, frozenset())
        after = before | states
        self._states[identity] = self._same.setdefault(after, after)
        return states - before


def walk(tree: Tree, root: str, pattern: Pattern, skip: object = None) -> Iterator[Found]:
    """The pictures below a folder, in no order.

    Each folder is entered once, by its own path where that lies below the root, else by the shortest way of links to
    it. One with the results of a job is not, unless it is the root. A folder that cannot be listed, and one that is
    called like a picture and holds nothing, is found itself, for whoever reads it to say why.

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
    waiting = _Waiting(_Folder(root, None, Pattern.START))
    entered = _Entered()
    for folder in waiting:
        identity = tree.identity(folder.path)
        states = entered.new(identity, folder.states)
        if not states or (identity is not None and identity == skip):
            continue
        try:
            yield from _enter(tree, folder._replace(states=states), pattern, waiting)
        except OSError as error:
            if not folder.depth:
                raise ImageError(f"cannot list {root!r}: {reason(error)}") from error
            yield _itself(folder)


def _enter(tree: Tree, folder: _Folder, pattern: Pattern, waiting: _Waiting) -> Iterator[Found]:
    empty = True
    for item in tree.listing(folder.path):
        if item.name == JOB and folder.depth:
            return
        states = pattern.step(folder.states, item.name)
        below = folder.below if folder.depth else item.name
        if item.is_folder and states:
            waiting.add(_Folder(item.path, below, states, folder.depth + 1), item.is_link)
            empty = False
        elif not item.is_folder and pattern.takes(states, item.name):
            yield Found(item.path, folder.below, tree.stamp(item))
            empty = False
    if empty and folder.depth and pattern.takes(folder.states, os.path.basename(folder.path.rstrip("/"))):
        yield _itself(folder)


def _itself(folder: _Folder) -> Found:
    return Found(folder.path, folder.below if folder.depth > 1 else None, "")


def split(parts: Sequence[str], exists: Any) -> tuple[int, Pattern]:
    """Where the names of a path turn into a pattern, and that pattern; a name that ``exists`` is none.

    Args:
        parts: the names.
        exists: tells of a number of first parts whether there is such a folder.
    """
    first = next((n for n, part in enumerate(parts) if MAGIC.search(part) and not exists(n + 1)), len(parts))
    return first, Pattern(parts[first:])
