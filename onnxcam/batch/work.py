"""The work on a group of pictures: decode, explain, write. The same on one machine and on many."""

from __future__ import annotations

import base64
import errno
import hashlib
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onnxcam.batch import remote, sources
from onnxcam.batch.manifest import GRID, Row
from onnxcam.batch.paths import scratch
from onnxcam.batch.plan import Item
from onnxcam.batch.results import files_of, suffixes
from onnxcam.batch.settings import Settings
from onnxcam.doctor import Watch
from onnxcam.errors import (
    GradientError,
    ImageError,
    MissingPackageError,
    OnnxcamError,
    OutputError,
    RuntimeUnavailableError,
    reason,
)
from onnxcam.explainer import Explainer, Prepared
from onnxcam.explanation import Explanation
from onnxcam.files import whole
from onnxcam.labels import by_name, index_of
from onnxcam.record import of_one_picture, of_the_job

_OF_THE_JOB = (GradientError, OutputError, RuntimeUnavailableError)  # as bad for every other picture
_OF_THE_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


@dataclass
class _Case:
    """A picture on its way."""

    item: Item
    prepared: Prepared | None = None
    found: Explanation | None = None
    error: Exception | None = None
    sha256: str | None = None
    warnings: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)


class Work:
    """Does groups of pictures; several threads may at once.

    Args:
        settings: of the job.
        out: the job's folder, where it exists.
        explainer: one that these settings describe, where it is there already.

    Attributes:
        notes: what holds for all pictures, each once, in the order in which it was found.
    """

    def __init__(self, settings: Settings, out: Path, explainer: Explainer | None = None) -> None:
        self.settings, self.out = settings, out
        self.explainer = explainer or settings.explainer()
        self._scratch = scratch(out)
        self._names = by_name(self.explainer.labels or ())
        self._lock = threading.Lock()
        self.notes: dict[str, None] = {}
        remote.forget()  # what another job in this thread had opened

    def group(self, items: Sequence[Item]) -> list[Row]:
        """Explain pictures, write their files, and give one row for each, in order; of those that are done, nothing.

        Raises:
            GradientError, MissingPackageError, RuntimeUnavailableError: no picture of this job can be explained.
            OutputError: nothing can be written any more.
        """
        cases = [self._read(item) for item in items]
        for target in dict.fromkeys(c.item.target for c in cases):
            self._explain([c for c in cases if c.prepared and c.item.target == target], target)
        return [self._finish(case) for case in cases if not case.item.done]

    def failed(self, item: Item, error: Exception) -> Row:
        """The row of a picture that is not even tried."""
        return self._failed(_Case(item, error=error))

    # The three steps

    def _read(self, item: Item) -> _Case:
        case, start = _Case(item), time.perf_counter()
        try:
            data = sources.read(item.source)
            case.sha256 = hashlib.sha256(data).hexdigest()
            picture = self.explainer.decode(data, item.source, self.settings.max_pixels)
            case.prepared = self.explainer.prepare(picture)
            if item.stamp and sources.stamp_of(item.source) != item.stamp:
                case.warnings.append("the file has changed since the job was planned")
        except Exception as error:  # whatever it is, it is about this picture
            gone = isinstance(error, ImageError) and item.stamp and not case.sha256
            case.error = ImageError(f"{error}; it was there when the job was planned") if gone else error
        case.timings["read"] = time.perf_counter() - start
        return case

    def _explain(self, cases: Sequence[_Case], target: str | None) -> None:
        """Together; where that fails, one by one, so that one picture spoils no other."""
        if not cases:
            return
        start = time.perf_counter()
        asked = self.settings.target if target is None else target
        try:
            found = self.explainer.explain_prepared([c.prepared for c in cases if c.prepared], asked)
            for case, e in zip(cases, found, strict=True):
                case.found = replace(e, source=case.item.source)
        except Exception as error:
            if isinstance(error, MissingPackageError) or (isinstance(error, _OF_THE_JOB) and target is None):
                raise
            if len(cases) == 1:
                cases[0].error = error
            else:
                for case in cases:
                    self._explain([case], target)
                return
        for case in cases:
            case.timings["explain"] = (time.perf_counter() - start) / len(cases)

    def _finish(self, case: _Case) -> Row:
        start, row = time.perf_counter(), None
        if case.found is not None:
            try:
                row = self._row(case, case.found, *self._keep(case.item.name, case.found))
            except OutputError:
                raise
            except Exception as error:
                case.error = error
        if row is None:
            self._clear(case.item.name)
        case.timings["write"] = time.perf_counter() - start
        return {**(row or self._failed(case)), "timings": _rounded(case.timings)}

    def _keep(self, name: str, e: Explanation) -> tuple[dict[str, str], dict[str, int]]:
        """Write the files; their names and sizes."""
        files, sizes = {}, {}
        for kind, (suffix, data) in files_of(e, self.settings.saving).items():
            files[kind], sizes[kind] = f"{name}.{suffix}", len(data)
            self._write(files[kind], data)
        return files, sizes

    def _write(self, name: str, data: bytes) -> None:
        path = self.out / name
        try:
            if self._scratch.is_dir():  # else the job's folder is gone, and is not to come back bit by bit
                path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path, self._scratch) as file:
                file.write(data)
        except OSError as error:
            told = f"cannot write {str(path)!r}: {reason(error)}"
            if error.errno in _OF_THE_NAME and self._scratch.is_dir():
                raise ImageError(told) from error
            raise OutputError(told) from error

    def _clear(self, name: str) -> None:
        """A picture that fails now, and did not in a run that was killed, leaves no files."""
        for suffix in self._suffixes:
            with suppress(OSError):
                (self.out / f"{name}.{suffix}").unlink()

    @cached_property
    def _suffixes(self) -> tuple[str, ...]:
        return suffixes(self.settings.saving, len(self.explainer.layers))

    # Rows

    def _failed(self, case: _Case) -> Row:
        told = {"error": _what(case.error), "kind": type(case.error).__name__}
        return {**_head(case), **told, "timings": _rounded(case.timings)}

    def _row(self, case: _Case, e: Explanation, files: dict[str, str], sizes: dict[str, int]) -> Row:
        assert e.image is not None
        told = e.to_dict()
        row = {
            **_head(case),
            "size": list(e.image.shape[:2]),
            "correct": self._correct(case.item.truth, e),
            **{key: told[key] for key in ("target", "class_index", "label", "score", "probability", "top", "method")},
            "layer": " + ".join(m.layer for m in e.maps),
            "blank": e.is_blank,
            "warnings": [*case.warnings, *filter(of_one_picture, e.notes)],
            "files": files,
            "bytes": sizes,
        }
        if "box" in self.settings.saving.kinds:
            found = e.boxes(self.settings.saving.threshold)
            row["boxes"] = [[b.x0, b.y0, b.x1 - b.x0, b.y1 - b.y0, round(b.score, 6)] for b in found]
        row["map"] = _grid(e)
        with self._lock:
            self.watch.see(e)
            self.notes.update(dict.fromkeys(filter(of_the_job, e.notes)))
        return row

    def _correct(self, truth: str | None, e: Explanation) -> bool | None:
        """Whether the top class is the true one; None where the label is no class of the model."""
        if truth is None or not e.top:
            return None
        try:
            index = index_of(truth, self._names, self.explainer.logits.classes)
        except OnnxcamError:  # the name of several classes
            return e.top[0][0] in self._names[truth.strip().casefold()]
        return None if index is None else e.top[0][0] == index

    @cached_property
    def watch(self) -> Watch:
        """Sees the explanations, and may suspect the preprocessing."""
        return Watch(self.explainer.model, self.explainer.preprocess, self.explainer.logits.classes)


def _head(case: _Case) -> Row:
    item = case.item
    return {
        "index": item.index,
        "source": item.source,
        "name": item.name,
        "sha256": case.sha256,
        "truth": item.truth,
    }


def _what(error: Exception | None) -> str:
    if isinstance(error, OnnxcamError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; give a smaller batch or fewer workers"
    return f"unexpected {type(error).__name__}: {error}"


def _rounded(timings: dict[str, float]) -> dict[str, float]:
    return {name: round(seconds, 6) for name, seconds in timings.items()}


def _grid(e: Explanation) -> str:
    """The heatmap in the picture's frame, area means on (16, 16) of 8 bits, as base64: mean maps, small previews."""
    small = _means(_means(np.maximum(e.heatmap_on_image(), 0)).T).T
    top = 1.0 if e.normalize != "none" else float(small.max()) or 1.0
    return base64.b64encode(np.rint(np.clip(small / top, 0, 1) * 255).astype(np.uint8).tobytes()).decode()


def _means(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(H, W) to (16, W): means of neighbouring rows, each counted once; of fewer rows, each several times."""
    edges = np.arange(GRID + 1) * len(rows) // GRID
    return np.asarray(np.add.reduceat(rows, edges[:-1], axis=0) / np.maximum(np.diff(edges), 1)[:, None], np.float32)
