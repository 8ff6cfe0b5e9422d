"""``onnxcam words``: names for channels, and explanations made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxcam.cli.listing import plain, say

if TYPE_CHECKING:
    from onnxcam.concepts import Names, Words
    from onnxcam.explainer import Explainer

_MODEL = typer.Argument(metavar="MODEL", help="An .onnx file, or zoo:NAME.")
_CONCEPTS = typer.Argument(
    metavar="CONCEPTS", help="A folder: images/ and masks/CONCEPT/ with masks of the same names; or CONCEPT/ each."
)
_IMAGES = typer.Argument(metavar="IMAGE...", help="Pictures.")
_NAMES = typer.Option(
    "--names", help="What `onnxcam words name` wrote; or JSON {CHANNEL: NAME}, or CSV lines of channel,name."
)
_AT_LEAST = typer.Option(help="Least IoU (masks, 0.04) or AUC (folders, 0.9) of a name.")
_LAYER = typer.Option(help="Target layer.")
_PREPROCESS = typer.Option(help="As for `onnxcam explain`.")
_LABELS = typer.Option(help="Class names: text, CSV or JSON.")
_THREADS = typer.Option(help="Threads of the runtime.")
_JSON = typer.Option("--json", help="JSON on stdout.")
app = typer.Typer(
    help='Explain in words: "said truck because of: wheel (+), headlight (+), not: sky (-)".', no_args_is_help=True
)


@app.command("name")
def name(
    model: Annotated[str, _MODEL],
    concepts: Annotated[Path, _CONCEPTS],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of names.")] = Path("names.json"),
    at_least: Annotated[float | None, _AT_LEAST] = None,
    layer: Annotated[str, _LAYER] = "auto",
    preprocess: Annotated[str, _PREPROCESS] = "auto",
    threads: Annotated[int | None, _THREADS] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Find out which concept each channel of a layer stands for."""
    from onnxcam.cli.progress import Bar
    from onnxcam.concepts import name_channels, read_examples
    from onnxcam.explainer import Explainer

    examples = read_examples(concepts)
    explainer = Explainer(model, preprocess=preprocess, target_layer=layer, threads=threads)
    with Bar("naming channels") as progress:
        found = name_channels(explainer, examples, at_least, progress=progress)
    found.save(out)
    if as_json:
        print(out.read_text())
    else:
        _show(found)
        print(f"Use them:   onnxcam words explain {plain(model)} PHOTO... --names {plain(str(out))}")
    if found.doubt:
        say(found.doubt)
    if not found.channels:
        say(f"no channel of {found.layer} has a name; show more pictures, or take another layer (onnxcam inspect)")
        raise typer.Exit(1)


def _show(found: Names) -> None:
    from onnxcam.cli.listing import table

    rows = []
    for concept in found.concepts:
        own = sorted((n for n in found.channels if n.name == concept), key=lambda n: -n.score)
        best = f"{own[0].channel} ({own[0].how} {own[0].score:.3f})" if own else "none"
        rows.append((concept, str(len(own)), best))
    table(("concept", "channels", "best"), rows)
    print(f"{len(found.channels)} of {found.count} channels of {plain(found.layer)} have a name.")


@app.command("explain")
def explain(
    model: Annotated[str, _MODEL],
    images: Annotated[list[Path], _IMAGES],
    names: Annotated[Path, _NAMES],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for evidence and records.")] = Path("words"),
    target: Annotated[str | None, typer.Option(help="Class index or label; by default the predicted.")] = None,
    top: Annotated[int, typer.Option(help="How many channels speak for the class, how many against it.")] = 5,
    layer: Annotated[str | None, _LAYER] = None,
    preprocess: Annotated[str, _PREPROCESS] = "auto",
    labels: Annotated[Path | None, _LABELS] = None,
    threads: Annotated[int | None, _THREADS] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Say why, in the words of named channels; each with the picture that shows what it means."""
    from onnxcam.concepts import load_names
    from onnxcam.errors import ImageError
    from onnxcam.explainer import Explainer
    from onnxcam.explanation import make_folder

    known = load_names(names)
    where = layer or known.layer or "auto"
    explainer = Explainer(model, preprocess=preprocess, target_layer=where, labels=labels, threads=threads)
    make_folder(out)
    failures = 0
    for path, stem in _stems(images):
        try:
            _one(explainer, path, known, target, top, out, stem, as_json)
        except ImageError as error:
            failures += 1
            say(str(error))
            if as_json:
                print(json.dumps({"source": str(path), "error": str(error)}), flush=True)
    raise typer.Exit(0 if not failures else (2 if failures == len(images) else 1))


def _stems(images: Sequence[Path]) -> list[tuple[Path, str]]:
    from onnxcam.cli.job import stems

    return list(zip(images, stems(images), strict=True))


def _one(
    explainer: Explainer, path: Path, known: Names, target: str | None, top: int, out: Path, stem: str, as_json: bool
) -> None:
    from onnxcam.concepts import in_words

    found = in_words(explainer, path, known, target, top)
    files = found.save(out, stem)
    if as_json:
        print(json.dumps(_told(found, files)), flush=True)
        return
    print(f"{plain(path.name)}: {plain(found.sentence)}")
    if found.doubt:
        print(f"  {found.doubt}")
    rows = [
        ("+" if w.weight > 0 else "-", w.name, f"{w.weight:.3g}", f"{w.drop:.3g}", "yes" if w.fires else "faint",
         ", ".join(map(str, w.channels)))
        for w in (*found.positive, *found.negative)
    ]  # fmt: skip
    if rows:
        from onnxcam.cli.listing import table

        table(("", "word", "weight", "score without it falls by", "in this picture", "channels"), rows)
    print(f"  {plain(str(files['evidence']))}")


def _told(found: Words, files: dict[str, Path]) -> dict[str, Any]:
    return {**found.to_dict(), "files": {k: str(p) for k, p in files.items()}}
