"""The work on many machines: Ray Data deals groups out to actors, each with a session of its own.

What is to do lies in a file of the job's folder, which every machine sees; Ray moves numbers and rows about, never
pictures. It starts actors again that die, and gives their work to those that are left.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import platform
import secrets
import signal
import threading
import traceback
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple
from itertools import takewhile
from pathlib import Path
from typing import Any

from onnxcam import __version__, errors
from onnxcam.batch import local, sources
from onnxcam.batch.manifest import Row
from onnxcam.batch.plan import Item, read_plan
from onnxcam.batch.remote import is_address
from onnxcam.batch.settings import Settings
from onnxcam.batch.work import Work
from onnxcam.errors import ImageError, OnnxcamError, OptionError, OutputError, reason
from onnxcam.quiet import silent

Answer = dict[str, Any]

_GPU = ("CUDA", "Tensorrt", "NvTensorRTRTX", "ROCM", "MIGraphX")  # providers that take a GPU of Ray's
_RANGES, _LONGEST = 2000, 64  # groups are dealt out one by one, as long as these are not more; at most 64 together
_DEATHS = 2  # of processes at the same group, before its pictures are done one by one
_SPOILT = 8  # pictures at which the process dies, with none explained: then it is not the pictures
_IDLE = 3  # rounds in which nothing is done, before the job ends
_STORE = 200 << 20  # bytes of Ray's memory for results on their way, on this machine


def check(address: str | None) -> None:
    """Whether there is Ray, and an address that can be used.

    Raises:
        OptionError: no Ray, or the address of a Ray client.
    """
    if _where(address).startswith("ray://"):
        raise OptionError(
            f"the address {_where(address)!r} is a Ray client's, but the job must be started where its files are seen: "
            "on a machine of the cluster, with the address 'auto' (--ray-address auto); from elsewhere by "
            "'ray job submit'"
        )
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise OptionError(
            f"the runner 'ray' needs Ray Data ({error}): pip install 'onnxcam[ray]', or take the runner 'local'"
        ) from error


def _where(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


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
        with _connected(address, settings, workers):
            yield from _rounds(settings, todo, workers, stopped)
    finally:
        todo.close()


class _Todo:
    """The groups that are to do: in a file; where each begins, and whether it is left, in memory."""

    def __init__(self, out: Path, groups: Iterable[list[Item]]) -> None:
        self.out = Path(os.path.abspath(out))
        self.path = self.out / ".onnxcam" / "tmp" / f"ray-{secrets.token_hex(6)}.jsonl"
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


class Worker:
    """What an actor does: groups, from the file in which they lie, one after another."""

    def __init__(self, settings: Settings, out: Path, path: Path, folder: str, version: str) -> None:
        self._settings, self._out, self._path, self._folder, self._version = settings, out, path, folder, version
        self._work: Work | None = None
        self._me = {"actor": secrets.token_hex(6), "node": platform.node()}

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> Iterator[dict[str, list[str]]]:
        """Answers to ranges of groups, each as JSON: ``rows``, or an ``error`` of the job."""
        for place, first, many in zip(batch["place"], batch["first"], batch["many"], strict=True):
            at = int(place)
            for number in range(int(first), int(first + many)):
                answer, at = self._answer(number, at)
                yield {"answer": [json.dumps({**self._me, **answer})]}
                if "rows" not in answer:
                    break

    def _answer(self, number: int, place: int) -> tuple[Answer, int]:
        try:
            with self._path.open("rb") as file:  # opened each time: it is taken away to stop the job
                file.seek(place)
                items = [Item(*fields) for fields in json.loads(file.readline())]
                after = file.tell()
            dead: list[int] = []
            return {"number": number, "rows": self._rows(items, f"{number}", dead), "dead": len(dead)}, after
        except Exception as error:
            return self._told(error), place

    def _rows(self, items: list[Item], mark: str, dead: list[int]) -> list[Row]:
        """A picture at which the process dies again and again is one error row, not the end of the job."""
        path = self._path.with_suffix(f".{mark}")
        deaths = path.stat().st_size if path.exists() else 0
        if len(items) == 1 and deaths and "-" in mark:
            dead.append(items[0].index)
            return [self._open().failed(items[0], ImageError(_deadly(items[0], _DEATHS + deaths)))]
        if deaths >= _DEATHS:
            return [row for item in items for row in self._rows([item], f"{mark}-{item.index}", dead)]
        with path.open("ab", buffering=0) as file:
            file.write(b".")
        try:
            return self._open().group(items)
        finally:
            path.unlink(missing_ok=True)

    def _open(self) -> Work:
        if self._work is None:
            with suppress(OSError):
                os.chdir(self._folder)  # what was given relative to it is found
            work = Work(self._settings, self._out)
            self._compare(work)
            self._work = work
        return self._work

    def _compare(self, work: Work) -> None:
        if self._version != __version__:
            raise OptionError(f"onnxcam {__version__} is installed there, not {self._version}: install the same")
        plan = read_plan(self._out / ".onnxcam")
        there, here = plan.configuration if plan else {}, self._settings.configuration(work.explainer)
        if other := [key for key in {**there, **here} if there.get(key) != here.get(key)]:
            raise OptionError(
                f"the job is another one there ({', '.join(other)}): give every machine the same model and files"
            )

    def _told(self, error: Exception) -> Answer:
        if isinstance(error, FileNotFoundError) and error.filename == str(self._path):
            error = OutputError(f"{error.filename!r} is not there: let every machine see the folder of results")
        kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__]
        return {"error": str(error) if kinds else traceback.format_exc(), "kind": (*kinds, "")[0]}


def _deadly(item: Item, deaths: int) -> str:
    return f"{item.source!r} cannot be explained: {deaths} processes died at it. Mend it, or leave it out"


# The driver


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
                f"Ray lost the work on {before} groups {idle} times over ({_first_line(lost)}): look after the cluster "
                "(ray status), then go on with resume"
            ) from lost


def _first_line(error: BaseException | None) -> str:
    return next((line for line in str(error or "").splitlines() if line.strip()), "it does not say why")


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

    many, cpus, gpus = _share(settings, [n["Resources"] for n in ray.nodes() if n["Alive"]], workers)
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


def _share(
    settings: Settings, nodes: Sequence[Mapping[str, float]], workers: int | None
) -> tuple[int, float, float | None]:
    """How many actors; the CPUs and the share of a GPU of each."""
    cpus = int(settings.options.get("threads") or 1)
    if any(str(p).startswith(_GPU) for p in settings.options.get("providers") or ()):
        total = sum(int(node.get("GPU", 0)) for node in nodes if node.get("CPU", 0) >= cpus)
        many = workers or total
        together = -(-many // total) if total else 0
        gpus = None if not together else 1.0 if together == 1 else (10_000 // together) / 10_000
        needs = f"a GPU and {cpus} CPUs"
    else:
        total = sum(int(node.get("CPU", 0) // cpus) for node in nodes)
        many, gpus, needs = workers or total, None, f"{cpus} CPUs"
    if not total:
        raise OptionError(f"no machine of the {len(nodes)} of the cluster has {needs} for an actor: add one that does")
    return many, cpus, gpus


@contextmanager
def _connected(address: str | None, settings: Settings, workers: int | None) -> Iterator[None]:
    """Ray, quiet; what was started for the job ends with it."""
    import ray

    if ray.is_initialized():
        yield
        return
    where, options = _where(address), dict[str, Any]()
    if where == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        cpus = int(settings.options.get("threads") or 1)
        options = {"num_cpus": (workers or -(-local.cores() // cpus)) * cpus, "include_dashboard": False}
        options["object_store_memory"] = _STORE
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with _undisturbed(), silent():
        try:
            ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise OptionError(
                f"no Ray at {where!r}: {_first_line(error)}. Start one with 'ray start --head', or give no address"
            ) from error
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        with _hushed():
            yield
    finally:
        ray.shutdown()


@contextmanager
def _hushed() -> Iterator[None]:
    """Ray tells of what dies, and of what it does about it, on standard output, where rows belong; it has no switch."""
    from ray._private import worker

    before = getattr(worker, "print_to_stdstream", None)
    worker.print_to_stdstream = lambda *given, **options: None
    try:
        yield
    finally:
        worker.print_to_stdstream = before


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ray puts a handler of its own in the place of the caller's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
