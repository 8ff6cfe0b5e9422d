"""The work on many machines: Ray Data deals groups out to actors, each with a session of its own.

What is to do lies in a file of the job's folder, which every machine sees; Ray moves numbers and rows about, never
pictures. It starts actors again that die, and gives their work to those that are left.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple
from itertools import takewhile
from pathlib import Path
from typing import Any

from onnxcam import __version__, errors
from onnxcam.batch import sources
from onnxcam.batch.manifest import Row
from onnxcam.batch.paths import scratch
from onnxcam.batch.plan import Item
from onnxcam.batch.ray.cluster import check, connected, first_line, share
from onnxcam.batch.ray.worker import Answer, Worker
from onnxcam.batch.remote import is_address
from onnxcam.batch.settings import Settings
from onnxcam.errors import OnnxcamError, OptionError, OutputError, reason

__all__ = ["check", "run"]

_RANGES, _LONGEST = 2000, 64  # groups are dealt out one by one, as long as these are not more; at most 64 together
_SPOILT = 8  # pictures at which the process dies, with none explained: then it is not the pictures
_IDLE = 3  # rounds in which nothing is done, before the job ends


def run(
    settings: Settings,
    out: Path,
    groups: Iterable[list[Item]],
    workers: int | None,
    address: str | None,
    stopped: Callable[[], bool],
) -> Iterator[list[Row]]:
    """The rows of each group, in any order.

    Args:
        settings: of the job, whose plan lies in ``out``.
        out: the job's folder, which every machine of the cluster sees under this path.
        groups: what is to do.
        workers: actors; None: as many as the cluster has room for.
        address: of a cluster; None: ``RAY_ADDRESS``, or Ray is started on this machine.
        stopped: asked after each group; once it is true, what is begun is finished, and no more is begun.

    Raises:
        OptionError: no Ray, no cluster, no room in it; a machine that does not see the files, or has another model.
        GradientError, OutputError, RuntimeUnavailableError: as :class:`~onnxcam.batch.work.Work`.
    """
    check(address)
    todo = _Todo(out, groups)
    try:
        if not todo.left:
            return
        with connected(address, settings, workers):
            yield from _rounds(settings, todo, workers, stopped)
    finally:
        todo.close()


class _Todo:
    """The groups that are to do: in a file; where each begins, and whether it is left, in memory."""

    def __init__(self, out: Path, groups: Iterable[list[Item]]) -> None:
        self.out = Path(os.path.abspath(out))
        self.path = scratch(self.out) / f"ray-{secrets.token_hex(6)}.jsonl"
        self._places = array("q")
        try:
            with self.path.open("wb") as file:
                for group in groups:
                    self._places.append(file.tell())
                    file.write(json.dumps([astuple(item) for item in group]).encode() + b"\n")
        except OSError as error:
            raise OutputError(f"cannot write {str(self.path)!r}: {reason(error)}") from error
        self._left = bytearray(b"\1") * len(self._places)

    @property
    def left(self) -> int:
        """Groups that are not done."""
        return self._left.count(1)

    def ranges(self) -> list[dict[str, int]]:
        """What is left, as neighbours that one actor does one after another."""
        longest, found = min(_LONGEST, -(-self.left // _RANGES)), list[dict[str, int]]()
        for number, left in enumerate(self._left):
            if not left:
                continue
            last = found[-1] if found else {}
            if last and last["first"] + last["many"] == number and last["many"] < longest:
                last["many"] += 1
            else:
                found.append({"place": self._places[number], "first": number, "many": 1})
        return found

    def done(self, number: int) -> bool:
        """Strike a group off; False where it was before."""
        was, self._left[number] = self._left[number], 0
        return bool(was)

    def close(self) -> None:
        """No actor finds any more to do."""
        with suppress(OSError):
            self.path.unlink()


def _rounds(settings: Settings, todo: _Todo, workers: int | None, stopped: Callable[[], bool]) -> Iterator[list[Row]]:
    """Deal out what is left, until nothing is; again where Ray itself stumbled."""
    import ray

    idle, lost, seen = 0, None, _Seen()
    while (before := todo.left) and not stopped():
        try:
            with closing(_answers(settings, todo, workers)) as answers:
                for answer in takewhile(lambda a: seen.goes_on(a, stopped()), answers):
                    if stopped():
                        todo.close()
                    if "rows" in answer and todo.done(answer["number"]):
                        yield answer["rows"]
        except ray.exceptions.RayError as error:
            lost = error
        idle = 0 if todo.left < before else idle + 1
        if idle >= _IDLE:
            raise OptionError(
                f"Ray lost the work on {before} groups {idle} times over ({first_line(lost)}): look after the cluster "
                "(ray status), then go on with resume"
            ) from lost


class _Seen:
    """What the answers tell about the actors and machines that gave them."""

    def __init__(self) -> None:
        self._actors, self._stopped, self._sound = set[str](), set[str](), set[str]()
        self._dead, self._explained = 0, False

    def goes_on(self, answer: Answer, stopped: bool) -> bool:
        """Whether more answers are to be waited for.

        Raises:
            OnnxcamError: what is wrong with the job.
        """
        self._actors.add(answer["actor"])
        if stopped and "rows" not in answer:
            self._stopped.add(answer["actor"])
            return self._stopped < self._actors
        if "error" in answer:
            kind = getattr(errors, answer["kind"], None) or RuntimeError
            raise kind(f"on the machine {answer['node']!r}: {answer['error']}")
        self._check(answer)
        return True

    def _check(self, answer: Answer) -> None:
        node, rows = answer["node"], answer["rows"]
        if any(row["sha256"] for row in rows):
            self._sound.add(node)
        if node not in self._sound and (hidden := next(filter(_readable_here, rows), None)):
            raise OptionError(
                f"the machine {node!r} cannot read {hidden['source']!r}, which can be read here: let every machine see "
                "the pictures under the same path, then go on with resume"
            )
        self._dead += answer["dead"]
        self._explained = self._explained or any("error" not in row for row in rows)
        if self._dead >= _SPOILT and not self._explained:
            raise OptionError(
                f"the processes die at each picture, on the machine {node!r} at last: try the model there with "
                "'onnxcam explain'"
            )


def _readable_here(row: Row) -> bool:
    if "error" not in row or row["sha256"] or is_address(row["source"]):
        return False
    try:
        return bool(sources.read(row["source"]))
    except OnnxcamError:
        return False


def _answers(settings: Settings, todo: _Todo, workers: int | None) -> Generator[Answer, None, None]:
    """Of actors that Ray Data holds, as they come."""
    import ray

    many, cpus, gpus = share(settings, [n["Resources"] for n in ray.nodes() if n["Alive"]], workers)
    ranges = todo.ranges()
    data = ray.data.from_items(ranges, override_num_blocks=len(ranges))
    data.context.enable_progress_bars = False
    data.context.target_max_block_size = 1  # each answer is sent at once
    given = (settings, todo.out, todo.path, os.getcwd(), __version__)
    fixed = {"batch_size": 1, "batch_format": "numpy", "num_cpus": cpus, "num_gpus": gpus}
    pool = ray.data.ActorPoolStrategy(size=min(many, len(ranges)))
    data = data.map_batches(Worker, fn_constructor_args=given, compute=pool, **fixed)
    with _ended(iter(data.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0))) as batches:
        for batch in batches:
            yield from map(json.loads, batch["answer"])


@contextmanager
def _ended(batches: Any) -> Iterator[Any]:
    """Ray Data stops when this is left; where the process ends first, before Ray: after it, it would wait for ever."""
    atexit.register(batches.close)
    try:
        with closing(batches):
            yield batches
    finally:
        atexit.unregister(batches.close)
