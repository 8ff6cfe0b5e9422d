"""``onnxcam evaluate``: are the explanations any good?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxcam.cli.listing import plain, say
from onnxcam.errors import OptionError

if TYPE_CHECKING:
    from onnxcam.evaluate.run import Evaluation
    from onnxcam.evaluate.table import Cell, Results

_DATA = typer.Argument(
    metavar="DATA",
    help="A folder (one folder a class), a CSV (path, class, box, mask), a folder of Pascal VOC, or COCO's .json.",
)
_CLASSES = typer.Option(metavar="MAP.csv", help="The data's classes as classes of the model: lines like dog,151-268.")
_METHODS = typer.Option(help="Names, with commas; see `onnxcam methods`. By default five of the CAM family.")
_METRICS = typer.Option(help="Names or groups (localisation, faithfulness, sanity), with commas; `list` lists them.")
_EXPLAIN = typer.Option(help="The class that maps explain: truth (where the data tells it) or predicted.")
_SET = typer.Option("--set", metavar="METHOD.NAME=VALUE", help="An option of a method: rise.samples=500.")


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx file, or zoo:NAME: a classifier.")] = "",
    data: Annotated[str, _DATA] = "",
    methods: Annotated[str | None, _METHODS] = None,
    metrics: Annotated[str | None, _METRICS] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for results, JSON and report.html.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the evaluation in that folder.")] = False,
    images: Annotated[Path | None, typer.Option(help="COCO's pictures, if not beside the JSON.")] = None,
    masks: Annotated[Path | None, typer.Option(help="A folder of masks, each called like its picture.")] = None,
    classes: Annotated[Path | None, _CLASSES] = None,
    explain: Annotated[str, _EXPLAIN] = "truth",
    independent: Annotated[
        bool, typer.Option("--independent", help="Classes do not exclude each other: sigmoid, not softmax.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="So many pictures, drawn at random.")] = None,
    setting: Annotated[list[str] | None, _SET] = None,
    layer: Annotated[str, typer.Option(help="Target layer of the methods that have one.")] = "auto",
    preprocess: Annotated[str, typer.Option(help="As for `onnxcam explain`.")] = "auto",
    labels: Annotated[Path | None, typer.Option(help="Class names: text, CSV or JSON.")] = None,
    output: Annotated[str | None, typer.Option(help="Model output to explain, where there are several.")] = None,
    engine: Annotated[str, typer.Option(help="auto, portable or training.")] = "auto",
    batch: Annotated[int, typer.Option(help="Pictures of one run.")] = 16,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Pictures side by side; by default one a core.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime for each.")] = None,
    provider: Annotated[list[str] | None, typer.Option(help="Execution provider of the runtime.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The results as one JSON object on stdout.")] = False,
) -> None:
    """Do maps lie on the object, do they show what the model uses, do they beat maps that know nothing?

    Exit codes: 0 all pictures were evaluated; 1 some could not be, or a check failed; 2 cannot start.
    """
    if metrics == "list":
        _list(as_json)
        return
    if not model or not data:
        raise OptionError("evaluate takes a model and data: onnxcam evaluate MODEL DATA")
    _alone()
    from onnxcam.evaluate.run import METHODS, Evaluation

    options: dict[str, Any] = {
        "images": images, "masks": masks, "classes": classes, "explain": explain, "independent": independent,
        "limit": limit, "settings": _settings(setting or []), "target_layer": layer, "preprocess": preprocess,
        "labels": labels, "output": output, "engine": engine, "batch": batch, "seed": seed, "workers": workers,
        "providers": provider, **({} if threads is None else {"threads": threads}),
    }  # fmt: skip
    with Evaluation(
        model, data, _names(methods) or METHODS, _names(metrics) or None, out, resume=resume, **options
    ) as job:
        _watched(job)
        found = job.results()
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        show(found)
        print("".join(f"{plain(note)}\n" for note in found.notes[len(job.notices) :]), end="")
    if out is not None:
        say(f"wrote {out / 'report.html'}")
    raise typer.Exit(_code(found))


def _alone() -> None:
    """Read when NumPy is imported: its threads wait for each other's small matrices, on cores that pictures share."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _names(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _settings(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``METHOD.NAME=VALUE`` by method."""
    from onnxcam.cli.job import parsed_settings

    found: dict[str, dict[str, Any]] = {}
    for text in given:
        method, dot, rest = text.partition(".")
        if not dot or "=" not in rest:
            raise OptionError(f"--set {text}: write METHOD.NAME=VALUE, such as rise.samples=500")
        found.setdefault(method, {}).update(parsed_settings([rest]))
    return found


def _watched(job: Evaluation) -> None:
    """Run a job with a progress bar; failures are told as they come."""
    from onnxcam.cli.progress import Rate

    for notice in job.notices:
        say(notice)
    if job.done:
        say(f"goes on: {job.done} of {job.total} steps are done")
    with Rate(job.total, job.done) as rate:
        for rows in job:
            failed = [row for row in rows if "error" in row]
            for row in failed:
                where = repr(row["source"]) if row["source"] else row["check"]
                of = f" ({row['method']})" if row["method"] else ""
                rate.say(f"{where}{of}: {row['error']}")
            rate.advance(bool(failed))


def _code(found: Results) -> int:
    if not found.failures:
        return 0
    return 2 if not any(found.table.values()) else 1


# ---- tables ----


def show(found: Results) -> None:
    """Print the table of an evaluation."""
    from onnxcam.cli.listing import table
    from onnxcam.evaluate.metrics import METRICS

    heads = [f"{m} {'^' if METRICS[m].higher else 'v'}" for m in found.metrics]
    table(("method", *heads), [(name, *_line(found, name)) for name in found.names])
    print("\n".join(_told(found)))


def _line(found: Results, name: str) -> Iterator[str]:
    return (_cell(found.cell(name, m)) for m in found.metrics)


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    e = cell.estimate
    return f"{e.value:.3f}{'*' if cell.beats else ''} ({e.low:.3f} to {e.high:.3f})"


def _told(found: Results) -> Iterator[str]:
    from onnxcam.evaluate.statistics import FEW

    counts = found.counts
    pictures = f"{counts['pictures']} picture{'s' * (counts['pictures'] != 1)}"
    accuracy = "" if found.accuracy is None else f"; the model is right on {found.accuracy:.1%}"
    checks = f", {counts['failed_checks']} checks failed" if counts["failed_checks"] else ""
    samples = f"{counts['samples']} sample{'s' * (counts['samples'] != 1)}"
    yield f"{samples} in {pictures}, {counts['errors']} failed{checks}{accuracy}."
    yield "^ higher is better, v lower is better; in brackets 95 % intervals (bootstrap over pictures)."
    yield (
        "* better than random and centre, maps that know nothing, by the whole interval of the paired difference, on "
        f"{FEW} pictures or more."
    )


def _list(as_json: bool) -> None:
    from onnxcam.cli.listing import table
    from onnxcam.evaluate.metrics import METRICS, NEEDS

    if as_json:
        names = ("name", "group", "title", "higher", "meaning", "needs", "cost", "source")
        print(json.dumps([{n: getattr(m, n) for n in names} for m in METRICS.values()]))
        return
    rows = [
        (m.name, m.group, "higher" if m.higher else "lower", NEEDS.get(m.needs or "", ""), m.cost, m.meaning, m.source)
        for m in METRICS.values()
    ]
    table(("metric", "group", "good is", "needs", "runs a map", "meaning", "source"), rows)
