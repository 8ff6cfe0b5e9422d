"""A job: a plan, the work on it, and the manifest of what is done; killed anywhere, it goes on from there."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from weakref import ref

from onnxcam.batch import local, sources
from onnxcam.batch.lock import Lock
from onnxcam.batch.manifest import Manifest, Row, add, in_order, read_rows, recover
from onnxcam.batch.plan import OWN, Plan, digest, make_plan, read_plan
from onnxcam.batch.results import write_coco, write_table
from onnxcam.batch.settings import Settings
from onnxcam.batch.work import Work
from onnxcam.errors import ImageError, OnnxcamError, OptionError, OutputError, UnknownNameError
from onnxcam.explanation import make_folder
from onnxcam.files import write_whole
from onnxcam.labels import misfit
from onnxcam.record import provenance

RUNNERS = ("local", "ray")
VERSION = 1  # of run.json
Source = str | Path | Iterable[str | Path]


class Job:
    """Pictures being explained: iterate over it for the rows, in the order in which they are finished.

    Nothing is explained before the iteration starts, and all is done when it ends; a loop that is left early, an
    exception, Ctrl-C or a kill leave a job that goes on with ``resume``.

    Attributes:
        plan: which pictures.
        counts: ``explained``, ``errors`` and ``flagged`` so far, with what earlier runs did.
        notices: what a user should hear.
        complete: every picture has its row.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        out: Path,
        *,
        resume: bool = False,
        retry_errors: bool = False,
        workers: int | None = None,
        runner: str = "local",
        ray_address: str | None = None,
        report: bool = False,
    ) -> None:
        self.settings, self.out, self.report = settings, out, report
        self._runner, self._address = _checked(runner, ray_address, workers)
        self.workers = workers or (local.cores() if runner == "local" else None)
        self._source = _named(source)
        self._stopped = False
        self._steps: ref[Generator[Row, None, None]] | None = None
        _apart(source, out)
        explainer = settings.explainer()
        explainer.check_target(settings.target)
        configuration = settings.configuration(explainer)
        self.notices = [text for text in (misfit(explainer.labels, explainer.logits.classes),) if text]
        _refuse_foreign(out)
        self._mine = not out.exists()
        self._inner = make_folder(make_folder(out) / ".onnxcam")
        self._lock = Lock(self._inner / "lock")
        self._new = not (self._inner / "plan.json").exists()
        try:
            self.plan = self._open(source, configuration, resume)
            shutil.rmtree(self.plan.scratch, ignore_errors=True)
            make_folder(self.plan.scratch)
            self._done, self.counts = recover(self._rows, self.plan, retry_errors)
            self._work = Work(settings, out, explainer)
            self._sessions = _sessions(out / "run.json") if not self._new else []
            self._describe()
        except BaseException:
            self._discard()
            self._lock.release()
            raise

    @property
    def done(self) -> int:
        """Pictures that have their row."""
        return self.counts["explained"] + self.counts["errors"]

    @property
    def complete(self) -> bool:
        """Every picture has its row."""
        return self.done == self.plan.count

    @property
    def _rows(self) -> Path:
        return self.out / "results.jsonl"

    def stop(self) -> None:
        """Finish what is begun, and begin no more; any thread may call it, and a signal's handler."""
        self._stopped = True

    def finish(self) -> dict[str, int]:
        """Do all of it, and give the counts."""
        for _ in self:
            pass
        return self.counts

    def close(self) -> None:
        """Let go of the folder, where a loop was left by an exception that is kept, or none was begun."""
        if self._steps is not None and (steps := self._steps()) is not None:
            steps.close()
        self._close()

    def __iter__(self) -> Iterator[Row]:
        if self._steps is not None:
            raise OptionError("this job was run already: make another one with resume")
        steps = self._guarded()
        self._steps = ref(steps)  # whoever lets go of the loop ends it
        return steps

    def _guarded(self) -> Generator[Row, None, None]:
        try:
            yield from self._run()
        except OutputError as error:
            raise OutputError(f"{error}. {self._next_step()}") from error
        except OnnxcamError:
            if not self.done:
                self._discard()
            raise
        finally:
            self._close()

    def _run(self) -> Iterator[Row]:
        start, now = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%S%z")
        session: dict[str, Any] = {"started": now, "seconds": 0, "explained": 0, "errors": 0}
        self._sessions.append(session)
        try:
            with Manifest(self._rows) as manifest, ExitStack() as ended:
                results = self._results()
                ended.callback(getattr(results, "close", lambda: None))  # no thread writes once this is left
                for rows in results:
                    self._check_source(rows)
                    manifest.append(rows)
                    for row in rows:
                        add(self.counts, row)
                        session["errors" if "error" in row else "explained"] += 1
                    yield from rows
        finally:
            session["seconds"] = round(time.monotonic() - start, 3)
        self._conclude()

    # The parts

    def _open(self, source: Source, configuration: dict[str, Any], resume: bool) -> Plan:
        """The plan that is there, or a new one."""
        there = read_plan(self._inner)
        if there is None:
            found = sources.entries(source, skip=self.out)
            return make_plan(self._inner, found, self._source, configuration)
        if not resume:
            done = sum(1 for _ in read_rows(self._rows))
            raise OptionError(
                f"{str(self.out)!r} holds a job already, {done} of {there.count} pictures done: go on with resume "
                "(--resume), or choose another folder"
            )
        there.check(configuration, self._source)
        return there

    def _check_source(self, rows: list[Row]) -> None:
        """Where the folder of pictures is gone, all of them would fail."""
        inside = os.path.join(self._source, "")
        if all("error" in row and row["source"].startswith(inside) for row in rows) and _is_gone(inside):
            raise ImageError(
                f"the pictures in {self._source!r} are gone: the folder is not there any more, or empty. "
                f"{self._so_far()}: bring it back, then go on with resume"
            )

    def _results(self) -> Iterator[list[Row]]:
        groups = self.plan.pending(self._done)
        if self._runner == "ray":
            from onnxcam.batch import ray

            return ray.run(self.settings, self.out, groups, self.workers, self._address, lambda: self._stopped)
        return local.run(self._work.group, groups, self.workers or local.cores(), lambda: self._stopped)

    def _conclude(self) -> None:
        """What is made of all rows."""
        if doubt := self._work.watch.suspicion():
            self.notices.append(doubt)
        if not self.complete:
            return
        in_order(self._rows, self.plan)
        write_table(self.out)
        if "box" in self.settings.saving.kinds:
            write_coco(self.out)
        self._describe()
        if self.report:
            from onnxcam.batch.report import write_report

            write_report(self.out)

    def _describe(self) -> None:
        explainer = self._work.explainer
        told = {
            "version": VERSION,
            "complete": self.complete,
            "source": self._source,
            "configuration": self.plan.configuration,
            "configuration_hash": self.plan.hash,
            **provenance(explainer.model, explainer.logits.name),
            "providers": self.settings.options.get("providers") or ["CPUExecutionProvider"],
            "runner": self._runner,
            "workers": self.workers,
            "counts": {"planned": self.plan.count, **self.counts},
            "sessions": self._sessions,
        }
        write_whole(self.out / "run.json", json.dumps(told, indent=1).encode(), self.plan.scratch)

    def _so_far(self) -> str:
        return f"{self.done} of {self.plan.count} pictures are done"

    def _next_step(self) -> str:
        if not (self._inner / "plan.json").exists():
            return "The job's folder was removed while it ran: start it again"
        return f"{self._so_far()}: make room or mend it, then go on with resume"

    def _close(self) -> None:
        if self._inner.exists() and self._lock.held:
            with suppress(OutputError):
                self._describe()
            shutil.rmtree(self.plan.scratch, ignore_errors=True)
        self._lock.release()

    def _discard(self) -> None:
        """A job that could not start leaves nothing behind."""
        if self._mine:
            shutil.rmtree(self.out, ignore_errors=True)
        elif self._new:
            shutil.rmtree(self._inner, ignore_errors=True)
            for path in (self._rows, self.out / "run.json"):
                with suppress(OSError):
                    path.unlink()


def _checked(runner: str, address: str | None, workers: int | None) -> tuple[str, str | None]:
    if runner not in RUNNERS:
        raise UnknownNameError.of("runner", runner, RUNNERS)
    if address is not None and runner != "ray":
        raise OptionError(f"ray_address={address!r} belongs to the runner 'ray'; this one is {runner!r}")
    if workers is not None and workers < 1:
        raise OptionError(f"workers={workers}: give a number above 0")
    if runner == "ray":
        from onnxcam.batch import ray

        ray.check(address)
    return runner, address


def _named(source: Source) -> str:
    """A source, in words by which it is known again."""
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, Sequence):
        return f"{len(source)} paths ({digest([str(p) for p in source])[:12]})"
    return "a list of paths"


def _is_folder(source: Source) -> bool:
    return isinstance(source, str | Path) and os.path.isdir(source)


def _refuse_foreign(out: Path) -> None:
    """What another program, or a job whose plan is gone, left there is not written over."""
    there = [name for name in OWN if os.path.lexists(out / name)]
    if there and not (out / ".onnxcam" / "plan.json").exists():
        raise OptionError(
            f"{str(out / there[0])!r} is there already, but no plan of a job beside it: choose another folder"
        )


def _is_gone(folder: str) -> bool:
    """Whether a folder is not there, or empty, as the place of a disk is that was taken out."""
    try:
        with os.scandir(folder) as inside:
            return next(inside, None) is None
    except OSError:
        return True


def _apart(source: Source, out: Path) -> None:
    """Results among the pictures would be taken for pictures the next time."""
    if _is_folder(source) and Path(str(source)).resolve().is_relative_to(out.resolve()):
        raise OptionError(f"the pictures lie in {str(out)!r} themselves: give another folder for the results")


def _sessions(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_text())["sessions"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
