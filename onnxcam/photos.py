"""Lists of pictures, with labels where a folder's names or a table tell them."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxcam.errors import ImageError, OptionError, reason

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pbm", ".pgm", ".ppm", ".pnm"}
)
"""What is taken for a picture in a folder; a file that is named itself may have any suffix."""

_MASK = ".mask.png"  # the ground truth beside a sample, no picture of its own

PATH_COLUMNS = ("path", "file", "filename", "image", "source")
"""What the column of paths in a table may be called."""

LABEL_COLUMNS = ("truth", "label", "class")
"""What the column of labels may be called; the first of these that is there."""


@dataclass(frozen=True)
class Photo:
    """A picture's file, and its class as the source writes it: an index or a name; None where nothing tells."""

    path: Path
    label: str | None = None


def find_photos(source: str | Path | Sequence[str | Path], labels: str | Path | None = None) -> list[Photo]:
    """The pictures of a folder, a CSV, or a list of any of these and of files; sorted by path within a folder.

    In a folder (searched through) a picture's label is the name of the folder below ``source`` that it lies in, one
    folder a class; pictures that lie in ``source`` itself have none. A CSV has a column of paths, relative to
    itself, and one of labels; it may have a header.

    Args:
        source: what to look through.
        labels: a CSV of labels for these pictures, by path relative to the CSV; or by the file's name, where a line
            has no folder, or its path leads nowhere.

    Raises:
        ImageError: no such folder, or no picture in it. A missing picture is left for whoever reads it.
        OptionError: a CSV that cannot be read, has no lines, gives two labels for one picture, or names none of them.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    found = [photo for one in sources for photo in _of(Path(one))]
    if not found:
        raise ImageError(f"no pictures in {', '.join(map(str, sources)) or 'an empty list'}: give files, or folders")
    return found if labels is None else _labelled(found, Path(labels))


def _of(source: Path) -> list[Photo]:
    if source.is_dir():
        return _in_folder(source)
    if not source.exists() and source.suffix.lower() not in SUFFIXES:
        raise ImageError(f"cannot read {str(source)!r}: there is no such file or folder")
    if source.suffix.lower() == ".csv":
        return [Photo(path, label) for path, label in _rows(source)]
    return [Photo(source)]


def _in_folder(folder: Path) -> list[Photo]:
    files = sorted(p for p in folder.rglob("*") if is_picture(p.name) and p.is_file())
    inner = [(p, p.relative_to(folder).parts) for p in files]
    shown = [(p, parts) for p, parts in inner if not any(part.startswith(".") for part in parts)]
    if not shown:
        raise no_pictures(str(folder))
    return [Photo(p, parts[0] if len(parts) > 1 else None) for p, parts in shown]


def is_picture(name: str) -> bool:
    """Whether a file of this name in a folder is taken: by its suffix; neither hidden nor a sample's mask."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".") and not name.endswith(_MASK)


def no_pictures(source: str) -> ImageError:
    """What there is to say of a folder without pictures."""
    return ImageError(f"no pictures in {source!r}: it holds none of {', '.join(sorted(SUFFIXES))}")


def _rows(table: Path) -> list[tuple[Path, str | None]]:
    """(path, label) of each line."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OptionError(f"cannot read the table {table}: {reason(error)}; give lines of path,label") from error
    if not rows:
        raise OptionError(f"{table} has no lines; give lines of path,label")
    path, label = 0, 1
    header = [cell.lower() for cell in rows[0]]
    if (named := column(header, PATH_COLUMNS)) is not None:
        found = column(header, (*LABEL_COLUMNS, "target"))
        path, label, rows = named, len(header) if found is None else found, rows[1:]
    read = [(table.parent / r[path], (r[label] if label < len(r) else "") or None) for r in rows if len(r) > path]
    _check(table, read)
    return read


def _check(table: Path, rows: Sequence[tuple[Path, str | None]]) -> None:
    """Each picture has one label."""
    told: dict[Path, str] = {}
    for path, label in rows:
        if label is not None and told.setdefault(_real(path), label) != label:
            raise OptionError(f"{table} says both {told[_real(path)]!r} and {label!r} of {path.name}; keep one line")


def _real(path: Path) -> Path:
    """Where it leads; of a name that no file can have, and of links that go round, itself."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path


def column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """Where the first of ``names`` that a table's header has stands in it."""
    return next((header.index(name) for name in names if name in header), None)


def _labelled(photos: Sequence[Photo], table: Path) -> list[Photo]:
    told = _told(table)
    whole = {_real(path): label for path, label in told.items()}
    loose = {path: label for path, label in _elsewhere(photos, told).items() if _has_name_only(path, table)}
    found = [Photo(p.path, whole.get(_real(p.path), _by_name(loose, p.path.name))) for p in photos]
    if not any(p.label for p in found):
        raise OptionError(f"{table} names none of the {len(photos)} pictures: {first_line(table)}")
    return found


def _told(table: Path) -> dict[Path, str]:
    return {path: label for path, label in _rows(table) if label}


def first_line(table: Path) -> str:
    """What the first line of a table of labels reads as, with what it should be."""
    path, label = next(iter(_rows(table)), (Path(), None))
    read = f"path {path.name!r} and {'no label' if label is None else f'label {label!r}'}"
    return f"its first line reads as {read}; give lines of path,label, with a comma between them"


def strays(photos: Sequence[Photo], table: str | Path) -> list[str]:
    """The names in a table of labels that are none of these pictures."""
    names, others = {photo.path.name for photo in photos}, _elsewhere(photos, _told(Path(table)))
    return [path.name for path in others if path.name not in names or not _has_name_only(path, Path(table))]


def _elsewhere(photos: Sequence[Photo], told: Mapping[Path, str]) -> dict[Path, str]:
    """The labels whose path is none of the photos'."""
    whole = {_real(photo.path) for photo in photos}
    return {path: label for path, label in told.items() if _real(path) not in whole}


def _has_name_only(path: Path, table: Path) -> bool:
    """Whether a path in a table stands for its name: it has no folder, or leads to no other picture."""
    return path.parent == table.parent or not path.exists()


def _by_name(told: Mapping[Path, str], name: str) -> str | None:
    """The label of the one path that ends in this name."""
    labels = [label for path, label in told.items() if path.name == name]
    return labels[0] if len(labels) == 1 else None
