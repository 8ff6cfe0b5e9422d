"""The whole road of a mutant, watched: which files are opened, what is printed, which errors come out."""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import fuzz_images, fuzz_models, fuzz_words
from benchmarks.fuzz import BEGUN, Outcome, Task

_MEMORY = 4 * 2**30
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LARGE = 10_000_000
_UNFORESEEN = re.compile(r"unexpected [A-Z]\w+: |Traceback")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod"}


class OutsideError(Exception):
    """A file was touched that nobody asked for."""


@dataclass(frozen=True)
class Mutant:
    """What is given to onnxcam."""

    source: str
    changes: list[str]
    data: Any


def mutant(task: Task, index: int) -> Mutant:
    """Always the same one of a seed."""
    rng = random.Random(f"{task.road} {task.seed} {index}")
    if task.road == "models":
        path = rng.choice(fuzz_models.sources(task.zoo))
        return Mutant(path.name, *reversed(fuzz_models.mutate(path.read_bytes(), rng)))
    if task.road == "images":
        name, data = rng.choice(fuzz_images.sources(task.zoo))
        return Mutant(name, *reversed(fuzz_images.mutate(data, rng)))
    source = rng.choice(fuzz_words.SOURCES + ("options",) * 6)
    return Mutant(source, *reversed(fuzz_words.mutate(source, rng)))


def confine(folder: Path) -> None:
    """Limit this process, and put everything that it may write of its own accord into a folder."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**28, 2**28))
    for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME", "ONNXCAM_CACHE"):
        os.environ[name] = str(folder)
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", ONNXCAM_OFFLINE="1")
    tempfile.tempdir, sys.dont_write_bytecode = str(folder), True


def _foreign(path: str) -> bool:
    """Whether a damaged model may point there, and nothing else has a reason to read it."""
    return os.path.basename(path) == "canary" or path in map(
        os.path.realpath, filter(os.path.isabs, fuzz_models.PLACES)
    )


class Road:
    """Goes it with one mutant after the other.

    Args:
        task: which mutants.
        folder: for their files.
        keep: leave the files of the last one.
    """

    def __init__(self, task: Task, folder: Path, keep: bool = False) -> None:
        import cv2
        import numpy as np

        cv2.setNumThreads(1)
        warnings.simplefilter("ignore")
        self.task, self.folder, self.keep = task, folder.resolve(), keep
        self.picture = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        self.touched: list[str] = []
        self._watching = False
        (self.folder / "canary").write_text("no weights\n")
        sys.addaudithook(self._see)

    def go(self, index: int, begins: Callable[[Outcome], None] = lambda _: None) -> Outcome:
        """What becomes of a mutant; ``begins`` is told which it is."""
        made = mutant(self.task, index)
        outcome = Outcome(index, made.source, [change[:60] for change in made.changes], BEGUN)
        begins(outcome)
        outcome.kind = "result"
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        (work / "out").mkdir(parents=True)
        os.chdir(work)
        self.touched.clear()
        start, self._watching = time.perf_counter(), True
        try:
            getattr(self, f"_{self.task.road}")(made, work, outcome)
        except BaseException as error:
            _judge(error, outcome)
        finally:
            self._watching = False
        outcome.seconds = round(time.perf_counter() - start, 3)
        if self.touched:
            outcome.kind, outcome.said = "outside", "; ".join(self.touched[:3])
        if not self.keep:
            os.chdir(self.folder)
            shutil.rmtree(work, ignore_errors=True)
        return outcome

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python tells every file that it opens (PEP 578)."""
        if not self._watching:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes):
                self._check(os.fsdecode(path), bool((flags or 0) & _WRITES))
                if self.task.road == "models" and _foreign(os.path.realpath(os.fsdecode(path))):
                    self.touched.append(f"read {os.fsdecode(path)}")
        elif event in _CHANGES and isinstance(arguments[0], str | bytes):
            self._check(os.fsdecode(arguments[0]), True)

    def _check(self, name: str, writes: bool) -> None:
        path = os.path.realpath(name)
        if writes and path != os.devnull and not path.startswith(str(self.folder) + os.sep):
            self.touched.append(f"wrote {path}")

    # The roads

    def _models(self, made: Mutant, work: Path, outcome: Outcome) -> None:
        import onnx

        with contextlib.suppress(Exception):
            outcome.parsed = bool(onnx.load_model_from_string(made.data).graph.node)
        (work / "in").mkdir()
        path = work / "in" / "model.onnx"
        path.write_bytes(made.data)
        os.symlink(work.parent / "canary", work / "in" / "link")
        os.symlink("loop", work / "in" / "loop")
        for data in fuzz_models.beside(made.source):
            shutil.copy(data, path.parent)
        before = _tree(path.parent)
        steps: list[Callable[[], object]] = [
            lambda: self._inspect(path),
            lambda: self._explain(path, work / "out", outcome),
        ]
        if outcome.index % 3 == 0:
            steps.append(lambda: self._gradients(path))
        if _trains() and outcome.index % 4 == 0:
            steps.append(lambda: self._train(path))
        errors = []
        for step in steps:
            try:
                step()
            except BaseException as error:
                if not _typed(error):
                    raise
                errors.append(error)
        if _tree(path.parent) != before:
            self.touched.append("changed the folder of the model")
        if errors:
            raise errors[0]

    def _inspect(self, path: Path) -> None:
        from onnxcam.cli.inspect import command

        with contextlib.redirect_stdout(io.StringIO()) as printed:
            command(str(path))
        _check_printed(printed.getvalue())

    def _explain(self, path: Path, out: Path, outcome: Outcome) -> None:
        from onnxcam import Explainer

        rng = random.Random(outcome.index)
        method = rng.choice(("gradcam", "gradcam", "gradcam", "layercam", "guided_backprop", "saliency", "eigencam"))
        explainer = Explainer(path, method=method, engine="portable", threads=1)
        try:
            explainer.explain(self.picture).save(out)
        finally:
            if outcome.index % 2:
                explainer.export(out / "explainable.onnx")

    def _gradients(self, path: Path) -> None:
        from onnxcam import add_gradients, load_model

        add_gradients(load_model(path), "logits", "input", engine="portable")

    def _train(self, path: Path) -> None:
        from onnxcam import Explainer

        Explainer(path, engine="training", threads=1).explain(self.picture)

    def _images(self, made: Mutant, work: Path, outcome: Outcome) -> None:
        from onnxcam.image import read_image

        path = work / made.source
        path.write_bytes(made.data)
        picture = read_image(path)
        outcome.parsed = True
        found = _explainer().explain(picture)
        if picture.size < _LARGE:  # an overlay of 169 million pixels is drawn and packed for 8 seconds
            found.save(work / "out")

    def _words(self, made: Mutant, work: Path, outcome: Outcome) -> None:
        from onnxcam.cli import main

        (work / "photos").mkdir()
        for name, data in made.data.files.items():
            (work / name).write_bytes(data)
        shutil.copy(fuzz_models.ROOT / "tests" / "golden" / "tiny_cnn.onnx", work / "model.onnx")
        for name in ("photo.png", "photos/a.png"):
            shutil.copy(fuzz_models.ROOT / "model_zoo" / "samples" / "scene-3.png", work / name)
        outcome.parsed = True
        sys.argv, code = ["onnxcam", *made.data.arguments], 0
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _no_input():
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
        outcome.kind = "error" if code else "result"
        outcome.said = f"exit code {code}: {err.getvalue()[-300:]}" if code else ""
        if _UNFORESEEN.search(err.getvalue()) or code not in (0, 1, 2):
            outcome.kind = "untyped"
        _check_printed(out.getvalue() + err.getvalue())


@contextlib.contextmanager
def _no_input() -> Any:
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(b"photo.png\n"))
    try:
        yield
    finally:
        sys.stdin = before


def _check_printed(text: str) -> None:
    """A terminal obeys what is printed."""
    if found := _CONTROL.search(text):
        at = found.start()
        raise OutsideError(f"printed {found[0]!r} in {text[max(0, at - 40) : at + 20]!r}")


def _tree(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.is_symlink()}


def _typed(error: BaseException) -> bool:
    from onnxcam.errors import OnnxcamError

    return isinstance(error, OnnxcamError)


def _judge(error: BaseException, outcome: Outcome) -> None:
    import traceback

    outcome.kind = "error" if _typed(error) else "untyped"
    outcome.said = f"{type(error).__name__}: {error}"[:600]
    if outcome.kind == "untyped":
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        outcome.said += " @ " + " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))


@cache
def _trains() -> bool:
    from onnxruntime.capi import _pybind_state

    return hasattr(_pybind_state, "GradientGraphBuilder")


@cache
def _explainer() -> Any:
    from onnxcam import Explainer

    return Explainer(fuzz_models.ROOT / "tests" / "golden" / "tiny_cnn.onnx", preprocess="unit", threads=1)
