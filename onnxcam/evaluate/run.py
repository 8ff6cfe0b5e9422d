"""The job: every sample explained and measured, in order; what is done is kept, and a killed job goes on from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from onnxcam.batch import local
from onnxcam.batch.manifest import Manifest, Row
from onnxcam.batch.paths import located
from onnxcam.batch.settings import Settings, digest
from onnxcam.core.probe import at_least
from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.evaluate import beforehand, folder
from onnxcam.evaluate.data import find_samples
from onnxcam.evaluate.metrics import CHECKED, Metric, chosen
from onnxcam.evaluate.statistics import FEW
from onnxcam.evaluate.table import Cell, Results, make_table, mean_curves, of_checks
from onnxcam.evaluate.work import Measuring, baseline_names, failure, plain
from onnxcam.explanation import Explanation
from onnxcam.files import write_whole
from onnxcam.model import Model
from onnxcam.opening import opened

METHODS = ("gradcam", "gradcampp", "xgradcam", "layercam", "hirescam")
"""What is evaluated unless the caller says otherwise."""
EXPLAINED = ("truth", "predicted")


class Evaluation:
    """Methods being evaluated: enter it, and iterate over it for the rows of each sample.

    A ``with`` statement holds the folder; a loop that is left early, an exception or a kill leave an evaluation that
    goes on with ``resume``. Arguments as for :func:`evaluate`.

    Attributes:
        samples: what is evaluated, in order.
        metrics: what is measured.
        measuring: what is done to each sample.
        configuration: all that decides what the results are.
        rows: of the samples that are done.
        checks: of whole methods, the same.
        total: steps: samples, and checks of each method.
        notices: what a user should hear.
    """

    def __init__(
        self,
        model: str | Path | Model,
        data: str | Path,
        methods: Sequence[str] = METHODS,
        metrics: Sequence[str] | None = None,
        out: str | Path | None = None,
        *,
        images: str | Path | None = None,
        masks: str | Path | None = None,
        classes: str | Path | None = None,
        explain: str = "truth",
        independent: bool = False,
        limit: int | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        batch: int = 16,
        seed: int = 0,
        workers: int | None = None,
        resume: bool = False,
        **options: Any,
    ) -> None:
        if explain not in EXPLAINED:
            raise UnknownNameError.of("class to explain", explain, EXPLAINED)
        at_least(0, seed=seed)
        at_least(1, batch=batch)
        self.data, self.seed, self.out = str(data), seed, None if out is None else Path(out)
        self.workers = workers or local.cores()
        options = {"threads": max(1, local.cores() // self.workers), **options, "batch": batch}
        self._options = beforehand.options_of(methods, settings or {}, options)
        explainers = beforehand.explainers(opened(model), self._options)
        self.model = explainers[0].model
        found = find_samples(data, images=images, masks=masks)
        self.samples, mapped, self.left_out, self.notices = beforehand.known(found, explainers[0], classes)
        self.samples = beforehand.some(self.samples, limit, seed)
        self.metrics: tuple[Metric, ...] = chosen(metrics, self.samples)
        named = {e.method.name: e for e in explainers}
        each = [m for m in self.metrics if m.check is None]
        self.measuring = Measuring(named, baseline_names(named), each, mapped, explain, independent, batch, seed)
        self._shown = beforehand.together(self.samples)
        self.configuration = self._configuration(limit)
        self.rows: list[Row] = []
        self.checks: list[Row] = []
        self._samples_done = 0
        asked = [(m, name) for m in self.metrics if m.check is not None for name in named]
        self._asked, self.total = asked, len(self.samples) + len(asked)
        self._held, self._resume = ExitStack(), resume

    def _configuration(self, limit: int | None) -> dict[str, Any]:
        told = {
            "data": located(self.data),
            "samples_sha256": digest([asdict(s) for s in self.samples]),
            "classes": self.measuring.classes,
            "metrics": [m.name for m in self.metrics],
            **{k: getattr(self.measuring, k) for k in ("explain", "independent", "batch", "seed")},
            "limit": limit,
            "methods": {n: Settings("").configuration(e) for n, e in self.measuring.explainers.items()},
        }
        return dict(json.loads(json.dumps(told)))

    @property
    def done(self) -> int:
        """Steps that are done."""
        return self._samples_done + len(self.checks)

    @property
    def _lines(self) -> int:
        """Rows of a sample: methods and baselines."""
        own = self.measuring.baselines
        return len(own) + len({b for names in own.values() for b in names})

    # The work

    def __iter__(self) -> Iterator[list[Row]]:
        return self._run()

    def _run(self) -> Generator[list[Row], None, None]:
        left = [[k] for k in range(self._samples_done, len(self.samples))]
        with ExitStack() as stack:
            append = self._keeping(folder.ROWS, stack)
            groups = local.run(self._group, left, self.workers, lambda: False)
            stack.enter_context(closing(groups))  # type: ignore[type-var]
            for rows in groups:
                append(rows)
                self.rows += rows
                self._samples_done += 1
                yield rows
            append = self._keeping(folder.CHECKS, stack) if self._asked else append
            for metric, name in self._asked[len(self.checks) :]:
                row = self._check(metric, name)
                append([row])
                self.checks.append(row)
                yield [row]

    def _keeping(self, name: str, stack: ExitStack) -> Callable[[list[Row]], None]:
        if self.out is None:
            return lambda rows: None
        return stack.enter_context(Manifest(self.out / name)).append

    def _group(self, numbers: list[int]) -> list[Row]:
        index = numbers[0]
        sample = self.samples[index]
        return list(self.measuring.rows(index, sample, self._shown[sample.source]))

    def _check(self, metric: Metric, name: str) -> Row:
        """What a method as a whole gives on some of the pictures that could be read."""
        assert metric.check is not None
        head = {"index": self._asked.index((metric, name)), "check": metric.name, "method": name, "source": ""}
        readable = list(dict.fromkeys(r["source"] for r in self.rows if "error" not in r))
        if not readable:
            return {**head, **failure(OptionError("there is no picture to check on: none could be explained"))}
        chosen = [readable[k] for k in sorted({round(k) for k in np.linspace(0, len(readable) - 1, CHECKED)})]
        try:
            values, curve = metric.check(self.measuring.explainers[name], chosen, self._options[name], self.seed)
        except Exception as error:  # whatever it is, the other methods have their own
            return {**head, **failure(error)}
        return {**head, "sources": chosen, "values": plain(values.tolist()), "curve": plain([[*p] for p in curve])}

    def _explanation(self, index: int, name: str) -> Explanation:
        sample = self.samples[index]
        return self.measuring.explanation(index, sample, self._shown[sample.source], name)

    def __enter__(self) -> Evaluation:
        """Take the folder, and what an earlier run has left there."""
        if self.out is not None:
            with ExitStack() as stack:
                stack.enter_context(folder.opened(self.out, self.configuration, self._resume))
                groups = folder.recovered(self.out / folder.ROWS, len(self.samples), self._lines)
                checks = folder.recovered(self.out / folder.CHECKS, len(self._asked), 1)
                self._held = stack.pop_all()
            self.rows, self._samples_done = [row for group in groups for row in group], len(groups)
            self.checks = [row for group in checks for row in group]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    # What came of it

    def results(self) -> Results:
        """The table of what is done; with a folder, it is written there, with the report."""
        rows = [r for r in self.rows if "error" not in r]
        further, curves = of_checks(self.checks)
        drawn = mean_curves(rows)
        drawn = {n: {**drawn.get(n, {}), **curves.get(n, {})} for n in {**drawn, **curves}}
        told = self.measuring
        table = make_table([*rows, *further], self.metrics, told.baselines, self.seed)
        found = Results(
            str(self.model.path or self.model.label), self.data, tuple(told.explainers), told.baselines,
            tuple(m.name for m in self.metrics), table, self._counts(),
            None if told.independent else _accuracy(self.rows), drawn, tuple(_failures([*self.rows, *self.checks])),
            self.configuration, (*self.notices, *_doubts(table, rows)),
        )  # fmt: skip
        if self.out is not None:
            write_whole(self.out / folder.RESULTS, json.dumps(found.to_dict(), indent=1).encode())
            from onnxcam.evaluate.page import write_page

            write_page(self.out / folder.REPORT, found, rows, self._explanation)
        return found

    def _counts(self) -> dict[str, int]:
        failed = {r["index"] for r in self.rows if "error" in r}
        pictures = len({s.source for s in self.samples})
        return {
            "pictures": pictures, "samples": len(self.samples), "errors": len(failed),
            "failed_checks": sum("error" in c for c in self.checks), "left_out": self.left_out,
        }  # fmt: skip


def evaluate(
    model: str | Path | Model,
    data: str | Path,
    methods: Sequence[str] = METHODS,
    metrics: Sequence[str] | None = None,
    out: str | Path | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Results:
    """Hold methods against what a data set tells, against the model itself, and against maps that know nothing.

    Args:
        model: a path, ``zoo:NAME``, or a loaded model: a classifier.
        data: as :func:`onnxcam.evaluate.data.find_samples` takes it.
        methods: names of the catalogue; see ``onnxcam methods``.
        metrics: names or groups of :data:`onnxcam.evaluate.metrics.METRICS`; None: the usual ones that the data allows.
        out: a folder for ``results.jsonl``, ``evaluation.json`` and ``report.html``.
        progress: called with (done, total) steps.
        options: ``images``, ``masks``: see `find_samples`; ``classes``: see `class_map`; ``explain``: the class that
            maps explain, ``"truth"`` (where the data tells one) or ``"predicted"``; ``independent=True``: classes do
            not exclude each other, and probabilities are sigmoids, where the model does not end in one; ``limit``: a
            random choice of so many pictures; ``settings``: options by method, ``{"rise": {"samples": 500}}``;
            ``batch``, ``seed``, ``workers``; ``resume``: go on with what is in ``out``; all others as
            :class:`~onnxcam.Explainer` takes them.

    Raises:
        OptionError, UnknownNameError: a choice that does not exist, or does not fit the model or the data.
        ImageError: no pictures.
        OutputError: the folder cannot be written, or another process works in it.
        ModelError, GradientError, RuntimeUnavailableError: as :class:`~onnxcam.Explainer`.
    """
    with Evaluation(model, data, methods, metrics, out, **options) as job:
        for _ in job:
            if progress is not None:
                progress(job.done, job.total)
        return job.results()


# ---- after it ----


def _accuracy(rows: Sequence[Row]) -> float | None:
    told = {r["source"]: r["correct"] for r in rows if r.get("correct") is not None}
    return sum(told.values()) / len(told) if told else None


def _doubts(table: Mapping[str, Mapping[str, Cell]], rows: Sequence[Row]) -> Iterator[str]:
    """What a reader of the table should know beforehand."""
    counts = [d.count for own in table.values() for cell in own.values() for d in cell.against.values()]
    if counts and min(counts) < FEW:
        least = min(counts)
        yield (
            f"some numbers rest on {least} picture{'s' * (least != 1)}: below {FEW}, intervals are too narrow, and no "
            "method is called better or worse than a baseline"
        )
    for name in table:
        own = [r for r in rows if r["method"] == name]
        if blank := sum(r.get("blank", False) for r in own):
            yield f"{name}: {blank} of {len(own)} maps are blank; deletion, insertion and ROAD leave them out"


def _failures(rows: Sequence[Row]) -> Iterator[tuple[str, str, str]]:
    return ((r["source"], r["method"] or "", r["error"]) for r in rows if "error" in r)
