"""``onnxcam batch``: many pictures, each result in its file, each picture in one line of a manifest."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxcam.cli.explain import ISOLATE, STRAIGHT

if TYPE_CHECKING:
    from onnxcam.batch.job import Job

_MODEL = typer.Argument(metavar="MODEL", help="An .onnx file, or zoo:NAME.")
_SOURCE = typer.Argument(
    metavar="SOURCE",
    help="A folder (searched through), a pattern in quotes, a list (.txt, .csv), - for paths on stdin, or an fsspec "
    "address such as s3://bucket/photos.",
)
_SAVE = typer.Option(
    help="What to keep: overlay, heatmap, panel, raw, box (COCO), voc (Pascal VOC), json; several with commas."
)
_THEN = typer.Option(metavar="MODEL", help="A model behind the first, such as its decoder.")
_SET = typer.Option("--set", metavar="NAME=VALUE", help="An option of the method: samples=50.")


def command(
    model: Annotated[str, _MODEL],
    source: Annotated[str, _SOURCE],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FOLDER", help="The job's folder, on this machine.")],
    save: Annotated[list[str] | None, _SAVE] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the job in that folder.")] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Try again what failed; implies --resume.")
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="Also write report.html.")] = False,
    method: Annotated[str, typer.Option(help="See `onnxcam methods`.")] = "gradcam",
    target: Annotated[
        str | None, typer.Option(help="As for `onnxcam explain`; a list's own targets come first.")
    ] = None,
    layer: Annotated[list[str] | None, typer.Option(help="Target layer; several with --fuse.")] = None,
    fuse: Annotated[str | None, typer.Option(help="Join several layers' maps: max or mean.")] = None,
    setting: Annotated[list[str] | None, _SET] = None,
    budget: Annotated[int | None, typer.Option(help="Samples, masks or steps for each image.")] = None,
    smooth: Annotated[list[str] | None, typer.Option(help="aug, eigen, or both.")] = None,
    normalize: Annotated[str | None, typer.Option(help="max, minmax, percentile or none (signed).")] = None,
    preprocess: Annotated[str, typer.Option(help="As for `onnxcam explain`.")] = "auto",
    labels: Annotated[Path | None, typer.Option(help="Class names: text, CSV or JSON.")] = None,
    engine: Annotated[str, typer.Option(help="auto, portable or training.")] = "auto",
    output: Annotated[str | None, typer.Option(help="Model output to explain, where there are several.")] = None,
    given: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=VALUE", help="A further input of the model.")
    ] = None,
    then: Annotated[list[str] | None, _THEN] = None,
    straight_through: Annotated[bool, STRAIGHT] = False,
    image_format: Annotated[str, typer.Option("--format", help="Of overlays and panels: jpg, png or webp.")] = "jpg",
    heatmap_format: Annotated[str, typer.Option(help="png (8 bits), png16, npy or npz (float32).")] = "png",
    colormap: Annotated[str | None, typer.Option(help="jet (the default), turbo, viridis, diverging, ...")] = None,
    blend: Annotated[float, typer.Option(help="Share of the colours, 0 to 1.")] = 0.5,
    style: Annotated[str, typer.Option(help="blend, add or mask.")] = "blend",
    title: Annotated[bool, typer.Option("--title", help="Write class and score above the picture.")] = False,
    threshold: Annotated[float, typer.Option(help="Of boxes: share of the map's maximum.")] = 0.15,
    batch: Annotated[int, typer.Option(help="Pictures of one run, where the model's batch axis is free.")] = 4,
    workers: Annotated[
        int | None, typer.Option(help="Threads that each do whole groups; by default one a core.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime for each worker.")] = None,
    provider: Annotated[list[str] | None, typer.Option(help="Execution provider of the runtime.")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Largest picture that is opened, in pixels.")] = None,
    runner: Annotated[str, typer.Option(help="local, or ray for several machines.")] = "local",
    ray_address: Annotated[str | None, typer.Option(help="Of a Ray cluster: auto, or HOST:6379.")] = None,
    isolate: Annotated[bool, ISOLATE] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per picture on stdout.")] = False,
) -> None:
    """Explain many pictures: a folder in, explained, whatever happens."""
    from onnxcam.batch import run
    from onnxcam.cli.job import parsed_settings
    from onnxcam.inputs import parse_inputs

    options: dict[str, Any] = {
        "method": method, "target_layer": layer or "auto", "fuse": fuse, "options": parsed_settings(setting or []),
        "budget": budget, "smooth": smooth or (), "normalize": normalize, "preprocess": preprocess, "labels": labels,
        "engine": engine, "output": output, "inputs": parse_inputs(given or []), "straight_through": straight_through,
        "providers": provider, "colormap": colormap, "blend": blend, "style": style, "title": title,
        "threshold": threshold,
    }  # fmt: skip
    if threads is not None:
        options["threads"] = threads
    if isolate:
        options["isolate"] = True
    job = run(
        [model, *then] if then else model, source, out, target=target, save="overlay" if save is None else save,
        image_format=image_format, heatmap_format=heatmap_format, batch=batch, max_pixels=max_pixels,
        resume=resume or retry_errors, retry_errors=retry_errors, workers=workers, runner=runner,
        ray_address=ray_address, report=report, **options,
    )  # fmt: skip
    raise typer.Exit(_watched(job, as_json))


def _watched(job: Job, as_json: bool) -> int:
    """Run a job with a progress bar; the exit code."""
    import json

    from onnxcam.cli.listing import say
    from onnxcam.cli.progress import Rate

    for notice in job.notices:
        say(notice)
    job.notices.clear()
    before = job.done
    if before:
        say(f"goes on: {before} of {job.plan.count} pictures are done")
    with job, _stoppable(job), Rate(job.plan.count, before) as rate:
        for row in job:
            if "error" in row:
                rate.say(row["error"] if repr(row["source"]) in row["error"] else f"{row['source']!r}: {row['error']}")
            if as_json:
                print(json.dumps(row), flush=True)
            rate.advance("error" in row)
    for notice in job.notices:
        say(notice)
    return _told(job)


def _told(job: Job) -> int:
    from onnxcam.cli.listing import say

    explained, errors, flagged = (job.counts[name] for name in ("explained", "errors", "flagged"))
    if not job.complete:
        say(_so_far(job, "stopped"))
        return 130
    said = f"{explained} explained, {errors} failed" + (f", {flagged} flagged" if flagged else "")
    say(f"{said}: {job.out / 'results.jsonl'}")
    return 0 if not errors else (2 if not explained else 1)


def _so_far(job: Job, what: str) -> str:
    return f"{what}: {job.done} of {job.plan.count} pictures are done; the same command with --resume goes on"


@contextmanager
def _stoppable(job: Job) -> Iterator[None]:
    """Ctrl-C, and what else asks a process to end, finishes what is begun; pressed again, it ends at once."""
    from onnxcam.cli.listing import say
    from onnxcam.signals import heeding, once

    asked: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if asked:
            with suppress(RuntimeError):
                say(_so_far(job, "ended at once"))
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), b"\x1b[?25h")  # the cursor, which the bar hides
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        asked.append(number)
        job.stop()
        with suppress(RuntimeError):  # where it comes in the middle of a message
            say("finishes what is begun; once more ends at once")

    with heeding(once(stop)):
        yield
