"""Damaged and hostile files, seeded and repeatable: each gives a result or an error of onnxcam, and nothing else.

    python -m benchmarks.fuzz models --count 5000 --seed 0 [--zoo FOLDER] [--workers 2]
    python -m benchmarks.fuzz images --count 5000
    python -m benchmarks.fuzz words --count 2000
    python -m benchmarks.fuzz models --only 1234 --keep here      one mutant, in this process

Each mutant runs in a process that may take 4 GB, killed after ``--limit`` seconds of processor time, or of sleep;
seconds in which the machine lets it wait, or stops it, do not count. What counts as a failure: a crash, a hang, an
error that is not one of onnxcam's, a file that is written outside of the output folder or read outside of the model's.
Exit code 1 where there was one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

FAILURES = ("crash", "hang", "untyped", "outside")
BEGUN = "begun"
_FRESH_AFTER = 400  # mutants of one process
_STEP = 0.2  # seconds between two looks
_ASLEEP = {"S", "D"}  # states of proc(5): it waits of its own accord


@dataclass
class Outcome:
    """What became of a mutant.

    Attributes:
        index: which one; with the seed it makes the same file again.
        source: what it was made of.
        changes: what was done to that.
        kind: ``result``, ``error`` (one of onnxcam's), or one of ``FAILURES``; ``begun`` until then.
        parsed: it got past the parser.
        said: the error, its class first.
        seconds: until then.
    """

    index: int
    source: str = ""
    changes: list[str] = field(default_factory=list)
    kind: str = "result"
    parsed: bool = False
    said: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Task:
    """Which mutants, and where."""

    road: str
    seed: int
    zoo: str | None
    folder: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("road", choices=("models", "images", "words"))
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--zoo", help="a folder whose models/*.onnx and odd/* are mutated too")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit", type=float, default=10.0, help="seconds for each")
    parser.add_argument("--only", type=int, help="this mutant alone, in this process")
    parser.add_argument("--keep", help="a folder for the files of that one")
    given = parser.parse_args()
    if given.only is not None:
        folder = given.keep or tempfile.mkdtemp()
        print(json.dumps(asdict(_here(Task(given.road, given.seed, given.zoo, folder), given.only)), indent=1))
        return
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        task = Task(given.road, given.seed, given.zoo, name)
        indices = range(given.start, given.start + given.count)
        sys.exit(report(outcomes(task, indices, given.workers, given.limit), given.road))


def _here(task: Task, index: int) -> Outcome:
    from benchmarks.fuzz_roads import Road, confine

    Path(task.folder).mkdir(parents=True, exist_ok=True)
    confine(Path(task.folder).resolve())
    return Road(task, Path(task.folder), keep=True).go(index)


def report(found: Iterator[Outcome], road: str) -> int:
    """Print failures as they come, and the counts in the end."""
    kinds, errors, parsed, total, slowest = Counter[str](), Counter[str](), 0, 0, 0.0
    for outcome in found:
        kinds[outcome.kind] += 1
        parsed += outcome.parsed
        total += 1
        slowest = max(slowest, outcome.seconds)
        if outcome.kind == "error":
            errors[outcome.said.partition(":")[0]] += 1
        if outcome.kind in FAILURES:
            print(json.dumps(asdict(outcome)), flush=True)
    told = ", ".join(f"{kinds[kind]} {kind}" for kind in ("result", "error", *FAILURES))
    print(f"{total} {road}: {told}; {parsed / max(total, 1):.0%} got past the parser; the slowest took {slowest:.1f} s")
    print("errors: " + ", ".join(f"{n} {name}" for name, n in errors.most_common()))
    return int(any(kinds[kind] for kind in FAILURES))


# Processes


def outcomes(task: Task, indices: range, workers: int, limit: float) -> Iterator[Outcome]:
    """Every mutant's, by a pool of processes; one that crashes or hangs is replaced."""
    waiting = iter(indices)
    pool = [_Child(task, k) for k in range(workers)]
    try:
        busy = [child for child in pool if child.next(waiting)]
        while busy:
            ready = wait([c.connection for c in busy], timeout=_STEP)
            for child in list(busy):
                outcome = child.outcome(child.connection in ready, limit)
                if outcome is not None:
                    yield outcome
                    if not child.next(waiting):
                        busy.remove(child)
    finally:
        for child in pool:
            child.end()


class _Child:
    def __init__(self, task: Task, number: int) -> None:
        self.task, self.number, self.done = task, number, 0
        self.process: Any = None
        self.begun = Outcome(-1)
        self.index, self.slept, self.spent, self.looked = -1, 0.0, 0.0, 0.0

    def next(self, waiting: Iterator[int]) -> bool:
        self.index = next(waiting, -1)
        if self.index < 0:
            return False
        if self.process is None or self.done >= _FRESH_AFTER:
            self._start()
        self.done += 1
        self.connection.send(self.index)
        self.begun = Outcome(self.index, "never made")
        self.slept, self.spent, self.looked = 0.0, self._state()[1], time.monotonic()
        return True

    def _start(self) -> None:
        self.end()
        folder = Path(tempfile.mkdtemp(dir=self.task.folder))
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.task, str(folder), theirs), daemon=False)
        self.process.start()
        theirs.close()
        self.connection.recv()  # it is ready: its imports are not the mutant's time
        self.done = 0

    def outcome(self, ready: bool, limit: float) -> Outcome | None:
        if ready:
            try:
                found: Outcome = self.connection.recv()
            except (EOFError, ConnectionError):
                return self._lost()
            if found.kind != BEGUN:
                return found
            self.begun, self.slept, self.spent = found, 0.0, self._state()[1]
            return None
        asleep, spent = self._state()
        before, self.looked = self.looked, time.monotonic()
        if asleep:  # a look that comes late comes from a machine that was stopped
            self.slept += min(self.looked - before, 2 * _STEP)
        if spent - self.spent < limit and self.slept < limit:
            return None
        self.end()
        return self._failed("hang", f"it took more than {limit:g} s")

    def _lost(self) -> Outcome:
        self.process.join()
        code = self.process.exitcode
        self.end()
        return self._failed("crash", signal.Signals(-code).name if code < 0 else f"exit code {code}")

    def _failed(self, kind: str, said: str) -> Outcome:
        return replace(self.begun, kind=kind, said=said)

    def _state(self) -> tuple[bool, float]:
        """Whether all of its threads are asleep, and seconds of processor time; fields 3, 14 and 15 in proc(5)."""
        place = Path(f"/proc/{self.process.pid}")
        spent = sum(map(int, _fields(place)[11:13])) / os.sysconf("SC_CLK_TCK")
        states = set[str]()
        for thread in (place / "task").iterdir():
            with suppress(OSError):  # it has just ended
                states.add(_fields(thread)[0])
        return states <= _ASLEEP, spent

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
        self.process = None


def _fields(place: Path) -> list[str]:
    """Those of a stat file, from the third on."""
    return (place / "stat").read_text().rpartition(")")[2].split()


def _serve(task: Task, folder: str, connection: Connection) -> None:
    from benchmarks.fuzz_roads import Road, confine

    confine(Path(folder))
    road = Road(task, Path(folder))
    connection.send("ready")
    while True:
        try:
            index = connection.recv()
        except EOFError:
            return
        connection.send(road.go(index, connection.send))


if __name__ == "__main__":
    main()
