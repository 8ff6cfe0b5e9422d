"""``onnxcam audit``: where does the evidence lie?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxcam.cli.listing import plain, say

if TYPE_CHECKING:
    from onnxcam.audit import Audit
    from onnxcam.evaluate.statistics import Estimate
    from onnxcam.explainer import Explainer

_DATA = typer.Argument(
    metavar="DATA",
    help="A folder (one folder a class or group), a CSV (path, class, box, mask), a folder of Pascal VOC, or COCO's "
    ".json.",
)
_REGIONS = typer.Option(help="masks, thirds, or detector (objects against background); by default what is given.")
_MASKS = typer.Option(
    help="A folder of masks: NAME.REGION.png for each region, or NAME.png with regions.json naming its levels."
)
_DETECTOR = typer.Option(help="A second .onnx model whose boxes are the objects; by default the data's boxes are.")
_SWAP = typer.Option(
    metavar="HOW|REGION=FOLDER",
    help="What regions are replaced by: other (that of a picture with another answer), blur, mean (colour), none; or "
    "a folder of counterparts, called like the pictures, in which that region is another. Several if you like.",
)


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx file, or zoo:NAME: a classifier.")],
    data: Annotated[str, _DATA],
    regions: Annotated[str | None, _REGIONS] = None,
    masks: Annotated[Path | None, _MASKS] = None,
    detector: Annotated[str | None, _DETECTOR] = None,
    detector_preprocess: Annotated[str, typer.Option(help="The detector's, as for `onnxcam explain`.")] = "auto",
    swap: Annotated[list[str] | None, _SWAP] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for report.html, JSON and pictures.")] = None,
    explain: Annotated[str, typer.Option(help="The class that maps explain: predicted or truth.")] = "predicted",
    method: Annotated[str, typer.Option(help="See `onnxcam methods`.")] = "gradcam",
    layer: Annotated[str, typer.Option(help="Target layer.")] = "auto",
    classes: Annotated[
        Path | None, typer.Option(metavar="MAP.csv", help="The data's classes as the model's: lines like dog,151-268.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="COCO's pictures, if not beside the JSON.")] = None,
    limit: Annotated[int | None, typer.Option(help="So many pictures, drawn at random.")] = None,
    preprocess: Annotated[str, typer.Option(help="As for `onnxcam explain`.")] = "auto",
    labels: Annotated[Path | None, typer.Option(help="Class names: text, CSV or JSON.")] = None,
    output: Annotated[str | None, typer.Option(help="Model output to explain, where there are several.")] = None,
    engine: Annotated[str, typer.Option(help="auto, portable or training.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Pictures side by side; by default one a core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The results as one JSON object on stdout.")] = False,
) -> None:
    """Where does the evidence lie: on the object or its background, in the sky or on the ground?

    Exit codes: 0 all pictures were audited; 1 some could not be; 2 cannot start.
    """
    from onnxcam.audit import audit
    from onnxcam.audit.result import results_folder
    from onnxcam.cli.progress import Bar

    by, counterparts = _swaps(swap or [])
    if out is not None:
        results_folder(out)
    with Bar("auditing") as progress:
        found = audit(
            model, data, regions, masks=masks, detector=_opened(detector, detector_preprocess), swaps=by,
            counterparts=counterparts, explain=explain, classes=classes, images=images, limit=limit, seed=seed,
            workers=workers, progress=progress, method=method, target_layer=layer, preprocess=preprocess,
            labels=labels, output=output, engine=engine,
        )  # fmt: skip
    report = None if out is None else found.save(out)
    print(json.dumps(found.to_dict())) if as_json else show(found)
    for text in (*found.notes, *(f"{r['source']!r}: {r['error']}" for r in found.rows if "error" in r)):
        say(text)
    if report is not None:
        say(f"wrote {report}")
    raise typer.Exit(1 if found.counts["errors"] else 0)


def _opened(detector: str | None, preprocess: str) -> Explainer | None:
    from onnxcam.explainer import Explainer

    return None if detector is None else Explainer(detector, preprocess)


def _swaps(given: Sequence[str]) -> tuple[str, dict[str, str]]:
    """How regions are replaced, and the counterparts of some."""
    pairs = [text.partition("=") for text in given]
    plain_ones = [name for name, equals, _ in pairs if not equals]
    return (plain_ones or ["other"])[-1], {name: folder for name, equals, folder in pairs if equals}


def show(found: Audit) -> None:
    """Print the tables of an audit, and its verdict."""
    from onnxcam.cli.listing import table

    rows = [
        (s.region, "all" if s.answer is None else s.answer, str(s.ratio.count), _percent(s.energy), _percent(s.area),
         _interval(s.ratio), f"{s.p:.2g}",
         "-" if s.against is None else _percent(s.against), _percent(s.centre))
        for s in found.shares
    ]  # fmt: skip
    if rows:
        table(("region", "answer", "pictures", "evidence", "area", "ratio", "p", "against", "centre"), rows)
    if found.swaps:
        table(("region", "replaced by", "answers that flip", "control"), [
            (s.region, s.by, _flips(s.flips), "-" if s.control is None else _flips(s.control)) for s in found.swaps
        ])  # fmt: skip
    if found.contrasts:
        table(("contrast", "in region", "difference", "p"), [
            (f"{c.a} against {c.b}", c.region or "", _interval(c.estimate), f"{c.p:.2g}") for c in found.contrasts
        ])  # fmt: skip
    print("\n".join(_told(found)))


def _told(found: Audit) -> list[str]:
    from onnxcam.compare.figures import counted

    counts = found.counts
    right = "" if found.accuracy is None else f"; {found.accuracy:.1%} right"
    return [
        f"{counted(counts['pictures'])}, {counts['errors']} failed, {counts['blank']} with blank maps, "
        f"{counts['unknown']} without regions{right}. In brackets 95 % intervals.",
        *(plain(text) for text in found.verdict),
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _interval(of: Estimate) -> str:
    from onnxcam.audit.result import LEAST

    return f"{of.value:.2f}" + (f" ({of.low:.2f} to {of.high:.2f})" if of.count >= LEAST else "")


def _flips(of: Estimate) -> str:
    return f"{100 * of.value:.0f} % ({100 * of.low:.0f} to {100 * of.high:.0f}), of {of.count}"
