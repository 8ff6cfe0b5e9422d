"""Many pictures: a folder in, explained, whatever happens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxcam.batch.job import Job
    from onnxcam.batch.paths import Source


def run(
    model: str | Path | Sequence[str | Path],
    source: Source,
    out: str | Path,
    *,
    target: str | int | None = None,
    save: str | Sequence[str] = "overlay",
    image_format: str = "jpg",
    heatmap_format: str = "png",
    batch: int = 4,
    max_pixels: int | None = None,
    resume: bool = False,
    retry_errors: bool = False,
    workers: int | None = None,
    runner: str = "local",
    ray_address: str | None = None,
    report: bool = False,
    **options: Any,
) -> Job:
    """Explain many pictures, each result in its file, each picture in one line of ``out/results.jsonl``.

    Example:
        >>> import onnxcam.batch
        >>> for row in onnxcam.batch.run("model.onnx", "photos", "out", method="layercam"):  # doctest: +SKIP
        ...     print(row["source"], row.get("label"), row.get("error"))

    Args:
        model: a path, ``zoo:NAME``, or several, each behind the one before.
        source: a folder (searched through), a pattern, a list in a text file or CSV, an fsspec address, ``"-"`` for
            paths on standard input, or paths; see :mod:`onnxcam.batch.sources`.
        out: the job's folder, on this machine.
        target: what is explained, where a list's line does not say it; None: the top class.
        save: of ``overlay``, ``heatmap``, ``panel``, ``raw`` (NPZ), ``box`` (COCO), ``voc`` (Pascal VOC) and ``json``.
        image_format: of overlays and panels: jpg, png or webp.
        heatmap_format: png (8 bits), png16, npy or npz (float32).
        batch: pictures of one group, run together where the model's batch axis is free.
        max_pixels: the largest picture that is opened.
        resume: go on with the job in ``out``; one that was not begun is begun.
        retry_errors: with ``resume``: try again what failed.
        workers: threads (``ray``: processes) that each do whole groups; None: one for each core (of the cluster).
        runner: ``"local"`` or ``"ray"``.
        ray_address: of a cluster, such as ``"auto"``; None: ``RAY_ADDRESS``, or Ray is started here.
        report: also write ``out/report.html``.
        options: ``colormap``, ``blend``, ``style``, ``title`` and ``threshold`` of what is drawn; all others are
            :class:`~onnxcam.Explainer`'s, such as ``method``, ``target_layer``, ``preprocess`` and ``labels``.

    Returns:
        The job; iterate over it, or call its ``finish()``.

    Raises:
        OptionError: a setting that is none, or does not fit; two truths for one picture; a folder that holds another
            job, or the same one without ``resume``.
        ImageError: no pictures.
        OutputError: the folder cannot be written, or another process works in it. While it runs: the disk is full.
        ModelError, GradientError, UnknownNameError, RuntimeUnavailableError: as :class:`~onnxcam.Explainer`.
    """
    from onnxcam.batch import local
    from onnxcam.batch.job import Job
    from onnxcam.batch.settings import Running, Saving, Settings
    from onnxcam.image import MAX_PIXELS

    _check_out(str(out))
    running = Running(resume, retry_errors, workers, runner, ray_address, report)
    drawing = _drawing(options)
    saving = Saving(_kinds(save), image_format, heatmap_format, **drawing)
    many = workers or local.cores()
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
    settings = Settings(
        str(model) if isinstance(model, str | Path) else tuple(map(str, model)),
        {"threads": max(1, local.cores() // many) if runner == "local" else 1, **plain},
        None if target is None else str(target),
        saving,
        batch,
        MAX_PIXELS if max_pixels is None else max_pixels,
    )
    return Job(settings, source, Path(out), running)


def _kinds(save: str | Sequence[str]) -> tuple[str, ...]:
    """What is to be saved, of one text with commas or several."""
    from onnxcam.batch.settings import KINDS
    from onnxcam.errors import OptionError

    texts = [save] if isinstance(save, str) else save
    if kinds := tuple(kind.strip() for text in texts for kind in text.split(",") if kind.strip()):
        return kinds
    raise OptionError(f"save={save!r}: give one or more of {', '.join(KINDS)}")


def _check_out(out: str) -> None:
    from onnxcam.batch.remote import is_address
    from onnxcam.errors import OptionError

    if not out.strip():
        raise OptionError(f"out={out!r}: give a folder for the results")
    if is_address(out.replace(":/", "://", 1)):  # of which a Path drops a slash
        raise OptionError(
            f"the results cannot go to the address {out!r}: give a folder of this machine, and copy it when all is done"
        )


def _drawing(options: dict[str, Any]) -> dict[str, Any]:
    """Take what is `Saving`'s out of the options; the rest must be `Explainer`'s.

    Raises:
        OptionError: an option of neither.
    """
    from dataclasses import fields
    from inspect import signature

    from onnxcam.batch.settings import Saving
    from onnxcam.errors import OptionError, UnknownNameError
    from onnxcam.explainer import Explainer

    drawing = {field.name: options.pop(field.name) for field in fields(Saving) if field.name in options}
    own, theirs = list(signature(run).parameters)[:-1], list(signature(Explainer).parameters)
    if unknown := [name for name in options if name not in theirs]:
        known = dict.fromkeys((*own, *(field.name for field in fields(Saving)), *theirs))
        raise OptionError(str(UnknownNameError.of("option", unknown[0], known)))
    return drawing
