"""The audit: every picture explained, measured by region, and asked again with each region replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.audit import figures, swap
from onnxcam.audit.regions import KINDS, Picture, finder, gathered
from onnxcam.audit.result import Audit, Row
from onnxcam.audit.verdict import looked_at, verdict
from onnxcam.audit.work import Auditing, named
from onnxcam.batch import local
from onnxcam.core.maps import resize, resize_pixels
from onnxcam.core.overlay import overlay
from onnxcam.core.probe import at_least
from onnxcam.errors import GradientError, ImageError, OptionError, UnknownNameError
from onnxcam.evaluate.classes import Answers, Classes, class_map, no_classifier
from onnxcam.evaluate.data import called, find_samples, paired
from onnxcam.explainer import Explainer
from onnxcam.explanation import Explanation
from onnxcam.model import Model
from onnxcam.photos import is_picture

Pixels = NDArray[np.uint8]
Progress = Callable[[int, int], None]
EXPLAINED = ("predicted", "truth")


def audit(
    model: str | Path | Model,
    data: str | Path,
    regions: str | None = None,
    *,
    masks: str | Path | None = None,
    detector: str | Path | Explainer | None = None,
    swaps: str = "other",
    counterparts: Mapping[str, str | Path] | None = None,
    explain: str = "predicted",
    classes: str | Path | None = None,
    images: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Audit:
    """Ask where the evidence lies: by region against its area, by answer, by group; and what replacing a region does.

    Args:
        model: a path, ``zoo:NAME``, or a loaded model: a classifier.
        data: as :func:`onnxcam.evaluate.data.find_samples` takes it. Its classes (or folders) are the groups.
        regions: ``"masks"``, ``"thirds"`` or ``"detector"``; None: masks where they are given, else objects where a
            detector or the data's boxes tell them, else thirds.
        masks: see :func:`onnxcam.audit.regions.read_masks`.
        detector: a second model, whose boxes (of a score of 0.5 or more) are the objects.
        swaps: what regions are replaced by: ``"other"`` (the region of a random picture with another answer; beside it,
            as a control, of one with the same answer), ``"blur"``, ``"mean"`` or ``"none"``.
        counterparts: by region, a folder of pictures called like the data's, in which that region is another.
        explain: ``"predicted"``, or ``"truth"`` where the data tells it.
        classes, images: see `class_map` and `find_samples`.
        limit: a random choice of so many pictures.
        seed: of what is drawn.
        workers: pictures side by side; None: one a core.
        progress: called with (done, total) looks at pictures.
        options: as :class:`~onnxcam.Explainer` takes them: ``method``, ``target_layer``, ``preprocess``, ...

    Raises:
        OptionError, UnknownNameError: a choice that does not exist, or does not fit the model or the data.
        ImageError: no pictures, or none that can be read.
        ModelError, GradientError, RuntimeUnavailableError: as :class:`~onnxcam.Explainer`.
    """
    _check("class to explain", explain, EXPLAINED)
    _check("swap", swaps, swap.KINDS)
    at_least(0, seed=seed)
    samples = find_samples(data, images=images)
    kind = regions or _usual(masks, detector, any(s.boxes or s.mask for s in samples))
    _check("kind of regions", kind, KINDS)
    workers = workers or local.cores()
    explainer = Explainer(model, **{"threads": max(1, local.cores() // workers), **options})
    if explainer.logits.kind != "classes":
        raise no_classifier(explainer.model, explainer.logits.kind, "audit")
    mapped = _classes({s.truth for s in samples if s.truth}, explainer, classes, explain == "truth")
    pictures = _some(gathered(samples, data), limit, seed)
    job = Auditing(
        explainer, _counterfactual(explainer, options), pictures, finder(kind, pictures, masks, detector),
        Answers(mapped, explain), swaps, _counterparts(counterparts or {}, pictures), seed,
    )  # fmt: skip
    rows, means = _looked(job, workers, progress)
    told = {
        "explain": explain, "swaps": swaps, "counterparts": sorted(counterparts or {}), "limit": limit, "seed": seed,
        "layers": [layer.name for layer in explainer.layers],
    }  # fmt: skip
    return _found(job, rows, means, kind, str(data), told)


def _check(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise UnknownNameError.of(what, given, known)


def _usual(masks: Any, detector: Any, has_boxes: bool) -> str:
    if masks is not None:
        return "masks"
    return "detector" if detector is not None or has_boxes else "thirds"


def _classes(names: set[str], explainer: Explainer, table: str | Path | None, needed: bool) -> Classes:
    """Folders may be groups that are no classes of the model."""
    try:
        return class_map(names, explainer.labels, explainer.logits.classes, table)
    except OptionError:
        if table is not None or needed:
            raise
        return {}


def _some(pictures: list[Picture], limit: int | None, seed: int) -> list[Picture]:
    if limit is None or limit >= len(pictures):
        return pictures
    if limit < 1:
        raise OptionError(f"limit={limit}: give a number of pictures above 0")
    chosen = sorted(np.random.default_rng(seed).permutation(len(pictures))[:limit].tolist())
    return [pictures[k] for k in chosen]


def _counterfactual(explainer: Explainer, options: Mapping[str, Any]) -> Explainer | None:
    """Beside maps of a layer; where its gradient can be had."""
    if not explainer.method.has_layer:
        return None
    kept = {k: v for k, v in options.items() if k not in ("method", "options", "budget", "normalize", "smooth")}
    try:
        other = Explainer(explainer.model, **{**kept, "method": "counterfactual"})
    except (GradientError, OptionError):
        return None
    other.programs = explainer.programs
    return other


def _counterparts(given: Mapping[str, str | Path], pictures: Sequence[Picture]) -> dict[str, dict[str, str]]:
    return {region: _called_alike(region, Path(folder), pictures) for region, folder in given.items()}


def _called_alike(region: str, folder: Path, pictures: Sequence[Picture]) -> dict[str, str]:
    files = {called(p.relative_to(folder)): str(p) for p in sorted(folder.rglob("*")) if is_picture(p.name)}
    kept = paired(folder, files, {p.source: p.below for p in pictures})
    if not kept:
        raise OptionError(
            f"the counterparts of {region!r} in {str(folder)!r}: none of its {len(files)} pictures is called like one "
            f"of the data's, such as {pictures[0].below}"
        )
    return kept


# ---- the work ----


class _Means:
    """Sums of maps and pictures, answer by answer, at the size of the first input."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[NDArray[Any], NDArray[Any], int]] = {}
        self.size: tuple[int, int] | None = None

    def add(self, e: Explanation) -> None:
        assert e.image is not None
        assert e.placement is not None
        self.size = self.size or (e.heatmap.shape[0], e.heatmap.shape[1])
        seen = resize_pixels(e.placement.to_input(e.image), self.size).astype(np.float64)
        heat = np.asarray(resize(np, np.maximum(e.heatmap, 0), self.size), np.float64)
        pixels, maps, count = self.sums.get(named(e), (0.0, 0.0, 0))
        self.sums[named(e)] = pixels + seen, maps + heat, count + 1

    def pictures(self) -> dict[str, Pixels]:
        found = {}
        for name, (pixels, maps, count) in sorted(self.sums.items()):
            mean = maps / (float(maps.max()) or 1.0)
            found[f"{name} ({count})"] = overlay(np.rint(pixels / count).astype(np.uint8), mean.astype(np.float32))
        return found


def _looked(job: Auditing, workers: int, progress: Progress | None) -> tuple[list[Row], dict[str, Pixels]]:
    means, first = _Means(), []
    total = 2 * len(job.pictures)
    for done, (row, e) in enumerate(_side_by_side(job.measured, range(len(job.pictures)), workers), 1):
        first.append(row)
        if e is not None and not e.is_blank:
            means.add(e)
        if progress is not None:
            progress(done, total)
    known = {row["index"]: row for row in first if row.get("regions")}
    rows = {row["index"]: row for row in first}
    for done, row in enumerate(_side_by_side(partial(job.swapped, rows=known), known, workers), 1):
        rows[row["index"]] = row
        if progress is not None:
            progress(total - len(known) + done, total)
    return [rows[k] for k in sorted(rows)], means.pictures()


def _side_by_side(do: Callable[[int], Any], indices: Any, workers: int) -> Iterator[Any]:
    for group in local.run(lambda one: [do(one[0])], ([k] for k in indices), workers, lambda: False):
        yield from group


# ---- what came of it ----


def _found(
    job: Auditing, rows: list[Row], means: dict[str, Pixels], kind: str, data: str, configuration: Mapping[str, Any]
) -> Audit:
    good = [r for r in rows if "error" not in r]
    if not good:
        raise ImageError(f"none of the {len(rows)} pictures could be explained; the first: {rows[0]['error']}")
    telling = [r for r in good if r["regions"] and not r["blank"]]
    found = figures.shares(telling, job.seed)
    overall = [s for s in found if s.answer is None]
    changed = figures.swaps(good, job.seed)
    first = next(iter([*looked_at(overall, changed), *overall]), None)
    pairs = [(first.region, s.region) for s in overall if first is not None and s is not first]
    known = {r["index"]: r for r in good if r["regions"]}
    right = [r["correct"] for r in good if r["correct"] is not None]
    return Audit(
        str(job.explainer.model.path or job.explainer.model.label), data, job.explainer.method.name, kind,
        _counts(rows, good), sum(right) / len(right) if right else None, found,
        figures.contrasts(telling, pairs, job.seed), changed, verdict(overall, changed), tuple(_notes(job, good)),
        configuration, rows, means, partial(job.look, rows=known),
    )  # fmt: skip


def _counts(rows: Sequence[Row], good: Sequence[Row]) -> dict[str, int]:
    return {
        "pictures": len(rows), "errors": len(rows) - len(good), "blank": sum(r["blank"] for r in good),
        "unknown": sum(not r["regions"] for r in good),
    }  # fmt: skip


def _notes(job: Auditing, good: Sequence[Row]) -> Iterator[str]:
    if job.explainer.preprocess_reason:
        yield job.explainer.preprocess_reason
    if not any(r["regions"] for r in good):
        yield (
            "no picture has a known region: are masks empty, or does the detector need another preprocessing "
            "(--detector-preprocess)?"
        )
    failed = [r["swap_error"] for r in good if "swap_error" in r]
    if failed:
        yield f"in {len(failed)} pictures no region could be replaced; the first: {failed[0]}"
    if (
        job.by == "other"
        and not job.counterparts
        and all(job.answers.same(r["predicted"], good[0]["predicted"]) for r in good)
    ):
        yield "all answers are the same, so that no region can be swapped for that of a picture with another answer"
