"""A job: a plan, the work on it, and the manifest of what is done; killed anywhere, it goes on from there."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import ref

from onnxcam.batch import local, sources
from onnxcam.batch.beforehand import check
from onnxcam.batch.lock import Lock
from onnxcam.batch.manifest import Manifest, Row, add, in_order, no_counts, read_rows, recover
from onnxcam.batch.paths import TMP, Paths, Source, check_apart, gone, named
from onnxcam.batch.plan import OWN, Item, Plan, make_plan, read_plan
from onnxcam.batch.results import write_coco, write_table
from onnxcam.batch.settings import Running, Settings
from onnxcam.batch.walk import JOB
from onnxcam.batch.work import Work
from onnxcam.errors import ImageError, OnnxcamError, OptionError, OutputError
from onnxcam.explanation import make_folder
from onnxcam.files import write_whole
from onnxcam.labels import misfit
from onnxcam.record import provenance

VERSION = 1  # of run.json


class Job:
    """Pictures being explained: iterate over it for the rows, in the order in which they are finished.

    Nothing is explained before the iteration starts, and all is done when it ends; a loop that is left early, an
    exception, Ctrl-C or a kill leave a job that goes on with ``resume``. A ``with`` statement closes it.

    Args:
        settings: what is done to each picture.
        source: see :mod:`onnxcam.batch.sources`.
        out: the job's folder.
        running: how it is run.

    Attributes:
        plan: which pictures.
        counts: ``explained``, ``errors`` and ``flagged`` so far, with what earlier runs did.
        notices: what a user should hear.
        complete: every picture has its row.
    """

    def __init__(self, settings: Settings, source: Source, out: Path, running: Running | None = None) -> None:
        self.settings, self.out, self.running = settings, out, running or Running()
        self.workers = self.running.workers or (local.cores() if self.running.runner == "local" else None)
        self._stopped = False
        self._steps: ref[Generator[Row, None, None]] | None = None
        check_apart(source, out)
        explainer = settings.explainer()
        self._providers = check(settings, explainer, here=self.running.runner == "local")
        configuration = settings.configuration(explainer)
        self._assumed, unfit = explainer.preprocess_reason, misfit(explainer.labels, explainer.logits.classes)
        self.notices = [text for text in (self._assumed, unfit) if text]
        _refuse_foreign(out)
        self._mine = not out.exists()  # then it goes again where the job cannot start, if nothing else is in it
        self._inner = make_folder(make_folder(out) / JOB)
        self._lock = Lock(self._inner / "lock")
        self._new = not (self._inner / "plan.json").exists()
        try:
            self.plan = self._open(source, configuration)
            make_folder(self.plan.scratch)
            self._kept, self.counts = recover(self._rows, self.plan, self.running.retry_errors)
            self._there = bytearray(self.plan.count)
            self._work = Work(settings, out, explainer)
            self._provenance = provenance(explainer.model, explainer.logits.name)
            self._sessions = _sessions(out / "run.json") if not self._new else []
            self._tell_upgrade()
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

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
        session: dict[str, Any] = {"started": now, "seconds": 0, "explained": 0, "errors": 0, **self._versions}
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

    def _open(self, source: Source, configuration: dict[str, Any]) -> Plan:
        """The plan that is there, or a new one."""
        there, words = read_plan(self._inner), named(source)
        if there is None:
            found = sources.entries(source if isinstance(words, str) else words, skip=self.out)
            return make_plan(self._inner, found, words, configuration)
        if not self.running.resume:
            raise OptionError(f"{str(self.out)!r} holds a job already, {self._told(there)}, or choose another folder")
        if isinstance(words, Paths):
            deque(words, maxlen=0)  # then it knows which they are
        there.check(configuration, str(words))
        return there

    def _told(self, plan: Plan) -> str:
        """How far the job is that is there, and the next step."""
        counts = no_counts()
        for row in read_rows(self._rows):
            add(counts, row)
        done, failed = counts["explained"] + counts["errors"], counts["errors"]
        if failed and done == plan.count:
            many = "all" if failed == done else f"{failed}"
            return f"{many} of {done} pictures failed: try them again with retry_errors (--retry-errors)"
        return f"{done} of {plan.count} pictures done: go on with resume (--resume)"

    def _pending(self) -> Iterator[list[Item]]:
        """The groups that are to do; which of their pictures were there when the job was planned is kept."""
        for group in self.plan.pending(self._kept):
            for item in group:
                self._there[item.index] = bool(item.stamp)
            yield group

    def _check_source(self, rows: list[Row]) -> None:
        """Where the folder of pictures is gone, all of them would fail."""
        lost = [row for row in rows if "error" in row and not row["sha256"] and self._there[row["index"]]]
        if folder := next(filter(None, map(gone, lost)), None):
            raise ImageError(
                f"the pictures in {folder!r} are gone: the folder is not there any more, or empty. {self._so_far()}: "
                "bring it back, then go on with resume"
            )

    def _results(self) -> Iterator[list[Row]]:
        if self.running.runner == "ray":
            from onnxcam.batch import ray

            address = self.running.ray_address
            return ray.run(self.settings, self.out, self._pending(), self.workers, address, lambda: self._stopped)
        return local.run(self._work.group, self._pending(), self.workers or local.cores(), lambda: self._stopped)

    def _conclude(self) -> None:
        """What is made of all rows."""
        self.notices += filter(None, [*self._work.notes, self._work.watch.suspicion()])
        if not self.complete:
            return
        in_order(self._rows, self.plan)
        write_table(self.out)
        if "box" in self.settings.saving.kinds:
            write_coco(self.out)
        self._describe()
        if self.running.report:
            from onnxcam.batch.report import write_report

            write_report(self.out)

    @property
    def _versions(self) -> dict[str, str]:
        return {name: self._provenance["versions"][name] for name in ("onnxcam", "onnxruntime")}

    def _tell_upgrade(self) -> None:
        """Two versions seldom compute the same to the last bit."""
        now = _words(self._versions)
        earlier = [_words(session) for session in self._sessions if self._versions.keys() <= session.keys()]
        if not self.complete and (other := next((words for words in earlier if words != now), None)):
            self.notices.append(
                f"the job was begun with {other}, and goes on with {now}: results may differ in their last digits"
            )

    def _describe(self) -> None:
        told = {
            "version": VERSION,
            "complete": self.complete,
            "source": self.plan.source,
            "configuration": self.plan.configuration,
            "configuration_hash": self.plan.hash,
            **self._provenance,
            "preprocess_reason": self._assumed,
            "providers": self._providers,
            "runner": self.running.runner,
            "workers": self.workers,
            "colormap": self.settings.saving.colormap,
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
        """A job that could not start leaves nothing behind, and everything that is not its own."""
        if not self._new:
            return
        shutil.rmtree(self._inner / TMP, ignore_errors=True)
        inside = [self._inner / name for name in ("plan.json", "plan.jsonl", "lock")]
        for path in (*inside, self._rows, self.out / "run.json"):
            with suppress(OSError):
                path.unlink()
        for folder in (self._inner, *([self.out] if self._mine else ())):
            with suppress(OSError):
                folder.rmdir()


def _words(told: Mapping[str, Any]) -> str:
    return f"onnxcam {told['onnxcam']} and ONNX Runtime {told['onnxruntime']}"


def _refuse_foreign(out: Path) -> None:
    """What another program, or a job whose plan is gone, left there is not written over."""
    there = [name for name in OWN if os.path.lexists(out / name)]
    if there and not (out / JOB / "plan.json").exists():
        raise OptionError(
            f"{str(out / there[0])!r} is there already, but no plan of a job beside it: choose another folder"
        )


def _sessions(path: Path) -> list[dict[str, Any]]:
    try:
        return [session for session in json.loads(path.read_text())["sessions"] if isinstance(session, dict)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
