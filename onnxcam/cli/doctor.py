"""``onnxcam doctor``: which preprocessing fits?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxcam.cli.listing import say
from onnxcam.errors import OptionError

if TYPE_CHECKING:
    from onnxcam.doctor import Diagnosis, Row
    from onnxcam.labels import Labels
    from onnxcam.model import Model
    from onnxcam.photos import Photo

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

    Exit codes: 0 the order of colours and the scale are certain; 1 they are not, or what is known of the model
    says otherwise, or a photo could not be read; 2 cannot start, such as where --write-sidecar finds a file.
    """
    from onnxcam.cli.progress import Bar
    from onnxcam.conventions import place_of_sidecar
    from onnxcam.doctor import diagnose
    from onnxcam.opening import choose_labels, opened

    subject = opened(model)
    place = place_of_sidecar(subject) if write_sidecar else None  # before anything is tried
    found_photos, tables = _photos(photos, truth)
    names = choose_labels(subject, labels)
    with Bar("trying conventions") as progress:
        found = diagnose(
            subject, found_photos, names,
            given=bool(tables), output=output, threads=threads, progress=progress,
        )  # fmt: skip
    for note in (*_unused(found_photos, truth), *found.notes, *found.skipped):
        say(note)
    if as_json:
        print(json.dumps({"model": subject.label, **found.to_dict()}))
    else:
        _show(found, model)
        if found.certain and not (found.field.settled or found.doubt or write_sidecar):
            print(_stick(found, subject))
    if place is not None:
        _write(found, subject, place, names)
    raise typer.Exit(0 if found.certain and not found.doubt and not found.skipped else 1)


def _photos(given: Sequence[Path], truth: Path | None) -> tuple[list[Photo], list[Path]]:
    """The photos, and the tables that tell their classes."""
    from onnxcam.photos import find_photos, first_line

    found = find_photos(given, truth)
    tables = [p for p in (truth, *given) if p is not None and p.suffix.lower() == ".csv"] or ([truth] if truth else [])
    if tables and all(p.label is None for p in found):
        raise OptionError(f"{tables[0]} has no labels: {first_line(tables[0])}, or leave the table out")
    return found, tables


def _unused(photos: Sequence[Photo], truth: Path | None) -> list[str]:
    """A notice of labels that belong to none of the photos."""
    from onnxcam.photos import strays

    names = [] if truth is None else strays(photos, truth)
    if not names:
        return []
    more = ", ..." if len(names) > 3 else ""
    which = ", ".join(names[:3]) + more
    return [f"{truth}: {len(names)} of its labels belong to none of the {len(photos)} photos: {which}"]


def _show(found: Diagnosis, model: str) -> None:
    from onnxcam.cli.listing import plain, table

    columns = ("convention", *(("right", "log-likelihood") if found.labelled else ()), "verdict")
    table(columns, [_row(row, found) for row in found.rows])
    print("\n".join(map(plain, found.sentences())))
    if found.text:
        print(f"\nUse it:     onnxcam explain {model} PHOTO... --preprocess {found.text}")


def _row(row: Row, found: Diagnosis) -> tuple[str, ...]:
    right = "" if row.accuracy is None else f"{row.accuracy:.0%}"
    likelihood = "" if row.likelihood is None else f"{row.likelihood:.2f}"
    return row.candidate.name, *((right, likelihood) if found.labelled else ()), found.verdict_on(row)


def _stick(found: Diagnosis, model: Model) -> str:
    """How the answer is kept."""
    from onnxcam.conventions import place_of_sidecar

    try:
        place_of_sidecar(model)
    except OptionError as why:
        return f'Make it stick: preprocess = "{found.text}" in a sidecar; {why}'
    return "Make it stick: the same command with --write-sidecar writes it beside the model"


def _write(found: Diagnosis, model: Model, path: Path, names: Labels | None) -> None:
    from onnxcam.sidecar import write_sidecar

    if not found.certain:
        say("no sidecar is written: the answer is not certain")
        return
    write_sidecar(path, sha256=model.sha256, preprocess=found.preprocess, labels=names)
    say(f"wrote {path}")
