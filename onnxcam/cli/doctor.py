"""``onnxcam doctor``: which preprocessing fits?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxcam.errors import OptionError

if TYPE_CHECKING:
    from onnxcam.doctor import Diagnosis, Row
    from onnxcam.model import Model

_PHOTOS = typer.Argument(metavar="PHOTOS", help="A folder (one folder per class tells the classes), a CSV, pictures.")


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx file, or zoo:NAME.")],
    photos: Annotated[list[Path], _PHOTOS],
    labels: Annotated[Path | None, typer.Option(help="Class names: text, CSV or JSON.")] = None,
    truth: Annotated[Path | None, typer.Option(help="CSV with lines of path,label: what the photos show.")] = None,
    output: Annotated[str | None, typer.Option(help="Model output to read, where there are several.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime.")] = None,
    write_sidecar: Annotated[
        bool, typer.Option("--write-sidecar", help="Write MODEL.toml with the answer, if it is certain.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Find the preprocessing that fits a model: by its graph and files, else by trying conventions on photos.

    Exit codes: 0 the order of colours and the scale are certain; 1 they are not, or a photo could not be read;
    2 cannot start.
    """
    from onnxcam.cli.progress import Bar
    from onnxcam.doctor import diagnose
    from onnxcam.opening import choose_labels, opened
    from onnxcam.photos import find_photos

    subject = opened(model)
    found_photos = find_photos(photos, truth)
    given = truth is not None or any(p.suffix.lower() == ".csv" for p in photos)
    if given and all(p.label is None for p in found_photos):
        raise OptionError(f"{truth or photos[0]} has no labels; give lines of path,label, or leave the CSV out")
    with Bar("trying conventions") as progress:
        found = diagnose(
            subject, found_photos, choose_labels(subject, labels),
            given=given, output=output, threads=threads, progress=progress,
        )  # fmt: skip
    for note in (*found.notes, *found.skipped):
        print(f"onnxcam: {note}", file=sys.stderr)
    if as_json:
        print(json.dumps({"model": subject.label, **found.to_dict()}))
    else:
        _show(found, model)
    if write_sidecar:
        _write(found, subject, labels)
    raise typer.Exit(0 if found.certain and not found.skipped else 1)


def _show(found: Diagnosis, model: str) -> None:
    from onnxcam.cli.listing import table

    table(("convention", "right", "log-likelihood", "verdict"), [_row(row, found) for row in found.rows])
    print("\n".join(found.sentences()))
    if found.text:
        print(f"\nUse it:     onnxcam explain {model} PHOTO... --preprocess {found.text}")
    if found.certain and not found.field.settled:
        print("Make it stick: the same command with --write-sidecar writes it beside the model")


def _row(row: Row, found: Diagnosis) -> tuple[str, str, str, str]:
    right = "" if row.accuracy is None else f"{row.accuracy:.0%}"
    likelihood = "" if row.likelihood is None else f"{row.likelihood:.2f}"
    return row.candidate.name, right, likelihood, found.verdict_on(row)


def _write(found: Diagnosis, model: Model, labels: Path | None) -> None:
    from onnxcam.opening import choose_labels
    from onnxcam.sidecar import sidecar_path, write_sidecar

    if not found.certain or model.path is None:
        why = "the answer is not certain" if model.path is not None else "the model is no file"
        print(f"onnxcam: no sidecar is written: {why}", file=sys.stderr)
        return
    path = sidecar_path(model.path)
    if path.exists():
        print(f"onnxcam: {path} is there already and stays; delete it to have it written anew", file=sys.stderr)
        return
    names = choose_labels(model, labels)
    write_sidecar(path, sha256=model.sha256, preprocess=found.preprocess, labels=names)
    print(f"onnxcam: wrote {path}", file=sys.stderr)
