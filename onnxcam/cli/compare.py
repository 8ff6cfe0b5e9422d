"""``onnxcam compare``: how far two models explain differently, and where it begins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxcam.cli.listing import plain, say
from onnxcam.errors import OptionError

if TYPE_CHECKING:
    from onnxcam.compare import Comparison

_BELOW = typer.Option(
    metavar="[FIGURE=]LEAST",
    help="For two exports of one network: exit code 1 where the mean is lower, or the verdict is fault or different: "
    "correlation (of heatmaps; also a bare number), spearman, iou, agreement. Several if you like.",
)


def command(
    a: Annotated[str, typer.Argument(metavar="A", help="The reference: an .onnx file, or zoo:NAME.")] = "",
    b: Annotated[str, typer.Argument(metavar="B", help="The other model.")] = "",
    photos: Annotated[list[Path] | None, typer.Argument(metavar="PHOTOS", help="Files, folders, or a CSV.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for report.json and panels.")] = Path("comparison"),
    method: Annotated[str, typer.Option(help="See `onnxcam methods`.")] = "gradcam",
    target: Annotated[str | None, typer.Option(help="What both explain; by default the class that A predicts.")] = None,
    layer_a: Annotated[str, typer.Option(help="A's target layer.")] = "auto",
    layer_b: Annotated[
        str, typer.Option(help="B's; match: of the same shape, nearest in depth; auto: B's own.")
    ] = "match",
    preprocess_a: Annotated[str, typer.Option(help="A's preprocessing, as for explain.")] = "auto",
    preprocess_b: Annotated[str, typer.Option(help="B's preprocessing.")] = "auto",
    labels: Annotated[Path | None, typer.Option(help="Class names of both: text, CSV or JSON.")] = None,
    engine: Annotated[str, typer.Option(help="auto, portable or training.")] = "auto",
    worst: Annotated[int, typer.Option(help="Panels of the pictures that differ most.")] = 6,
    fail_below: Annotated[list[str] | None, _BELOW] = None,
    blind: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="A page to vote on, A and B unnamed; the key lies beside.")
    ] = None,
    votes: Annotated[
        list[Path] | None, typer.Option(help="Tally votes that such a page saved (with --key, without A, B, PHOTOS).")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The key of the page that the votes are of.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON object on stdout.")] = False,
) -> None:
    """Compare two models: two exports of one network, float and int8, or a weak one and a strong one."""
    if votes or key:
        _tally(votes, key, as_json, a)
        return
    if not (a and b and photos):
        raise OptionError("give two models and pictures, as in onnxcam compare A.onnx B.onnx PHOTOS")
    from onnxcam.cli.progress import Bar
    from onnxcam.compare import compare
    from onnxcam.explanation import make_folder

    gates = _gates(fail_below or [])
    if worst < 0:
        raise OptionError(f"--worst {worst}: give how many panels, 0 for none")
    mine, folder = not out.exists(), make_folder(out)
    try:
        if blind is not None:
            _check_page(blind)
        with Bar("comparing") as progress:
            found = compare(
                a, b, photos, method=method, target=target, layer_a=layer_a, layer_b=layer_b,
                preprocess_a=preprocess_a, preprocess_b=preprocess_b, labels=labels, progress=progress,
                engine=engine, threads=threads,
            )  # fmt: skip
        failed = found.below(gates)
        report = {**found.to_dict(), "panels": _panels(found, folder, worst), "failed": failed}
        _write(folder / "report.json", report)
    finally:
        if mine and not any(folder.iterdir()):
            folder.rmdir()
    if blind is not None:
        _blind(found, blind)
    print(json.dumps(report)) if as_json else _print(found, folder)
    for text in (*found.notes, *(f"{source}: {why}" for source, why in found.failures), *failed):
        say(text)
    raise typer.Exit(1 if failed or found.failures else 0)


def _gates(given: Sequence[str]) -> dict[str, float]:
    """``0.95`` -> {"correlation": 0.95}; ``agreement=0.99`` -> {"agreement": 0.99}."""
    from onnxcam.compare import GATES
    from onnxcam.errors import UnknownNameError

    found: dict[str, float] = {}
    for text in given:
        name, equals, value = text.rpartition("=")
        if (name if equals else "correlation") not in GATES:
            raise UnknownNameError.of("figure", name, GATES)
        try:
            least = float(value)
        except ValueError:
            least = -1.0
        if not 0 <= least <= 1:
            raise OptionError(f"--fail-below {text!r}: give the least mean, from 0 to 1, as in correlation=0.95")
        found[name or "correlation"] = least
    return found


def _panels(found: Comparison, folder: Path, count: int) -> list[str]:
    from onnxcam.compare.pictures import side_by_side
    from onnxcam.image import save_image

    names = []
    for number, pair in enumerate(found.worst(count), 1):
        names.append(f"worst-{number:02d}-{Path(pair.source).stem}.png")
        save_image(folder / names[-1], side_by_side(*found.explanations(pair)))
    return names


def _write(path: Path, report: dict[str, Any]) -> None:
    from onnxcam.files import write_whole

    write_whole(path, json.dumps(report, indent=1).encode())


def _check_page(path: Path) -> None:
    """Before hours of work: a page has a name, in a folder that is there."""
    from onnxcam.errors import OutputError

    if path.is_dir():
        raise OutputError(f"--blind {path}: this is a folder; give the page's name, as in {path / 'page.html'}")
    if not path.parent.is_dir():
        raise OutputError(f"--blind {path}: there is no folder {path.parent}; make it, or give another")


def _blind(found: Comparison, path: Path) -> None:
    from onnxcam.compare.blind import write_page
    from onnxcam.compare.figures import counted

    page, key, count = write_page(found, path)
    if any(p.name_a is None for p in found.pairs):
        say("classes without a name are shown as 'class 3': name them with --labels")
    say(f"{page} shows {counted(count)}; {key} says which side is A: keep it from voters")


def _tally(votes: Sequence[Path] | None, key: Path | None, as_json: bool, extra: str) -> None:
    from onnxcam.compare.blind import tally

    if not votes or key is None or extra:
        raise OptionError("a tally takes --votes votes.json and --key PAGE.key.json, and nothing else")
    found = tally(votes, key)
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    from onnxcam.cli.listing import table

    rows = [
        (found.model_a, str(found.a), str(found.pictures_a)), (found.model_b, str(found.b), str(found.pictures_b)),
        ("no difference", str(found.undecided), ""),
    ]  # fmt: skip
    table(("shows better why", "votes", "pictures, by majority"), rows)
    print(f"Two-sided binomial test, over pictures: p = {found.p:.3g}")


def _print(found: Comparison, folder: Path) -> None:
    from onnxcam.cli.listing import table

    rows = [
        (name, *(f"{v:.4g}" for v in (s.mean, s.median, s.worst)), f"{s.low:.4g} to {s.high:.4g}", str(s.count))
        for name, s in found.figures().items()
        if s is not None
    ]
    table(("figure", "mean", "median", "worst", "95 % of the mean", "pictures"), rows)
    stages = [(s.what, s.a, s.b, f"{s.worst:.2g}", f"{len(s.odd)} of {len(s.errors)}") for s in found.stages]
    if stages:
        table(("stage", "in A", "in B", "largest error", "channels that differ"), stages)
    layers = f"{found.a['layer']} and {found.b['layer']} ({found.matched})" if found.a["layer"] else "none"
    print(f"Layers explained: {plain(layers)}\nVerdict: {plain(found.verdict.text)}\nReport: {folder / 'report.json'}")
