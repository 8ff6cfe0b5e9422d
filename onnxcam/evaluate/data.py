"""Pictures of which it is known what they show, and where: folders, tables, Pascal VOC, COCO, folders of masks."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

from onnxcam.errors import ImageError, OptionError, reason
from onnxcam.photos import LABEL_COLUMNS, PATH_COLUMNS, column, find_photos, is_picture

Corners = tuple[float, float, float, float]
Outline = str | tuple[Any, ...] | None
T = TypeVar("T")
_MISUNDERSTOOD = (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
_FARTHEST = 1e9  # pixels from the picture


@dataclass(frozen=True)
class Sample:
    """One class in one picture. A picture that shows several classes is several samples, one behind the other.

    Attributes:
        source: the picture's file.
        truth: the class as the data calls it; None where nothing tells.
        boxes: round every object of this class: (x0, y0, x1, y1) in pixels, x1 and y1 one past the last.
        mask: its pixels: the file of a mask, or COCO's segmentations; see :func:`onnxcam.evaluate.masks.read_mask`.
        error: what is wrong with what the data tells of it, which makes it a row of error; None if nothing.
    """

    source: str
    truth: str | None = None
    boxes: tuple[Corners, ...] = ()
    mask: Outline = None
    error: str | None = None


def find_samples(
    data: str | Path, *, images: str | Path | None = None, masks: str | Path | None = None
) -> list[Sample]:
    """Read what a data set tells of its pictures; the pictures themselves are not opened.

    What is wrong with one picture's annotations is told by its sample's ``error``, and spoils no other.

    Args:
        data: a folder, one folder a class (or without classes); a CSV with a column of paths, and where it has them of
            classes, boxes (``box``: four numbers, or ``x0``, ``y0``, ``x1``, ``y1``) and masks; a folder of Pascal
            VOC, pictures and XML files side by side or in ``JPEGImages`` and ``Annotations``; or COCO's JSON.
        images: COCO's pictures, where they are not beside the JSON file.
        masks: a folder of masks, each called like its picture, ``7.png`` or ``7.mask.png`` for ``7.jpg`` (and in a
            folder like the picture's, where there are any); what is not black is the object.

    Raises:
        ImageError: no pictures.
        OptionError: nothing of it is understood, or masks of none of the pictures.
    """
    source = Path(data)
    if images is not None and source.suffix.lower() != ".json":
        raise OptionError(f"images={str(images)!r} belongs to COCO's JSON; {str(source)!r} names its pictures itself")
    found = list(_read(source, images))
    if not found:
        raise ImageError(f"no annotated pictures in {str(source)!r}: {_KINDS}")
    if all(s.error for s in found):
        raise OptionError(str(found[0].error))
    return found if masks is None else _with_masks(found, source, Path(masks))


_KINDS = (
    "give a folder per class, a CSV, a folder of Pascal VOC (.jpg and .xml), COCO's .json, or pictures with --masks"
)


def _read(source: Path, images: str | Path | None) -> Iterator[Sample]:
    if source.suffix.lower() == ".json":
        return _coco(source, Path(images) if images is not None else None)
    if source.suffix.lower() == ".csv":
        return _table(source)
    if any((source / "Annotations").glob("*.xml")):
        return _voc(source / "Annotations", source / "JPEGImages")
    if source.is_dir() and any(source.glob("*.xml")):
        return _voc(source, source)
    return (Sample(str(p.path), p.label) for p in find_photos(source))


# ---- Pascal VOC ----


def _voc(annotations: Path, pictures: Path) -> Iterator[Sample]:
    for path in sorted(annotations.glob("*.xml")):
        try:
            yield from _of_xml(ElementTree.parse(path).getroot(), path, pictures)
        except (*_MISUNDERSTOOD, ElementTree.ParseError) as error:
            told = f"{path} is no annotation of Pascal VOC: {reason(error)}. Mend or remove it"
            yield Sample(str(path), error=told)


def _of_xml(root: ElementTree.Element, path: Path, pictures: Path) -> Iterator[Sample]:
    """Objects marked difficult are left out, as VOC's own scoring does; pixels count from 1, both ends included."""
    boxes: dict[str, list[Corners]] = {}
    for item in root.iter("object"):
        if (item.findtext("difficult") or "0").strip() in ("", "0"):
            x0, y0, x1, y1 = (float(_text(item, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
            boxes.setdefault(_text(item, "name"), []).append(_box(x0 - 1, y0 - 1, x1, y1))
    source = str(_picture_of(path, pictures, (root.findtext("filename") or "").strip()))
    for label, own in boxes.items():
        yield Sample(source, label, tuple(own))


def _picture_of(path: Path, pictures: Path, told: str) -> Path:
    """What the XML names; where that is gone, or was renamed, the picture that is called like the XML."""
    name = Path(told).name or f"{path.stem}.jpg"
    if (pictures / name).exists():
        return pictures / name
    alike = (p for folder in (pictures, path.parent) for p in sorted(folder.glob(f"{escape(path.stem)}.*")))
    return next((p for p in alike if is_picture(p.name)), pictures / name)


def _box(x0: float, y0: float, x1: float, y1: float) -> Corners:
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"the box {x0:g} {y0:g} {x1:g} {y1:g} is not x0 y0 x1 y1 in pixels, x0 < x1 and y0 < y1")
    return x0, y0, x1, y1


def _text(item: ElementTree.Element, place: str) -> str:
    text = item.findtext(place)
    if text is None:
        raise ValueError(f"an object without {place}")
    return text.strip()


# ---- COCO ----


def _coco(path: Path, images: Path | None) -> Iterator[Sample]:
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
        classes = {c["id"]: str(c["name"]) for c in told["categories"]}
        files = {p["id"]: str(p["file_name"]) for p in told["images"]}
        groups = sorted(_by_class(told["annotations"]).items())
    except _MISUNDERSTOOD as error:
        raise OptionError(
            f"{path} is not COCO's JSON of instances (images, annotations, categories): {reason(error)}"
        ) from error
    for (number, kind), own in groups:
        try:
            yield Sample(_beside(path, images, files[number]), classes[kind], *_shapes(own))
        except _MISUNDERSTOOD as error:
            why = f"no such id: {error}" if isinstance(error, KeyError) else reason(error)
            where = f"image_id {number}, category_id {kind}"
            yield Sample(
                str(path), error=f"{path} is not COCO's JSON of instances at {where}: {why}. Mend or remove it"
            )


def _by_class(annotations: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], list[Mapping[str, Any]]]:
    """By picture and class; crowds are areas of many objects without a box of their own, and are left out."""
    found: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for one in annotations:
        if not one.get("iscrowd"):
            found.setdefault((one["image_id"], one["category_id"]), []).append(one)
    return found


def _shapes(own: Sequence[Mapping[str, Any]]) -> tuple[tuple[Corners, ...], Outline]:
    corners = (tuple(float(v) for v in one["bbox"]) for one in own if "bbox" in one)
    boxes = tuple(_box(x, y, x + w, y + h) for x, y, w, h in corners)
    outlines = tuple(_frozen(one["segmentation"]) for one in own if one.get("segmentation"))
    return boxes, outlines if len(outlines) == len(own) else None


def _frozen(segmentation: Any) -> Any:
    """Polygons, or run lengths with the size of their mask."""
    if isinstance(segmentation, dict):
        counts, (height, width) = segmentation["counts"], segmentation["size"]
        return counts if isinstance(counts, str) else tuple(map(int, counts)), (int(height), int(width))
    outlines = tuple(tuple(float(v) for v in polygon) for polygon in segmentation)
    if any(len(line) % 2 or not all(abs(v) < _FARTHEST for v in line) for line in outlines):
        raise ValueError("a polygon that is not x0 y0 x1 y1 ... in pixels")
    return outlines


def _beside(path: Path, images: Path | None, name: str) -> str:
    places = (images,) if images is not None else (path.parent, path.parent / "images", path.parent.parent / "images")
    return str(next((place / name for place in places if (place / name).exists()), places[0] / name))


# ---- tables ----

_BOX, _SIDES, _MASK = ("box", "bbox"), ("x0", "y0", "x1", "y1"), ("mask",)


def _table(path: Path) -> Iterator[Sample]:
    """One line per object; those of one picture and class are one sample."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OptionError(
            f"cannot read the table {path}: {reason(error)}; give lines of path,class, in UTF-8"
        ) from error
    header = [cell.lower() for cell in rows[0]] if rows else []
    if column(header, PATH_COLUMNS) is None:
        return (Sample(str(p.path), p.label) for p in find_photos(path))
    found: dict[tuple[str, str | None], Sample] = {}
    for number, row in enumerate(rows[1:], 2):
        one = _of_line(path, number, dict(zip(header, row, strict=False)))
        known = found.setdefault((one.source, one.truth), replace(one, boxes=()))
        wrong = known.error or one.error
        if known.mask and one.mask and known.mask != one.mask:
            wrong = wrong or f"{path}, line {number}: a second mask of {one.source!r}; draw all of a class into one"
        boxes = (*known.boxes, *one.boxes)
        found[one.source, one.truth] = replace(known, boxes=boxes, mask=known.mask or one.mask, error=wrong)
    return iter(sorted(found.values(), key=lambda s: s.source))


def _of_line(path: Path, number: int, cells: Mapping[str, str]) -> Sample:
    def cell(names: Sequence[str]) -> str:
        return next((cells[name] for name in names if name in cells), "")

    sides = cell(_BOX).replace(",", " ").split() or [cells[s] for s in _SIDES if cells.get(s)]
    boxes: tuple[Corners, ...] = ()
    wrong = None
    try:
        boxes = (_box(*map(float, sides)),) if sides else ()
    except (TypeError, ValueError):
        told = " ".join(sides)
        wrong = f"{path}, line {number}: the box {told!r} is not x0 y0 x1 y1 in pixels, x0 < x1 and y0 < y1"
    mask = cell(_MASK)
    outline = str(path.parent / mask) if mask else None
    return Sample(str(path.parent / cell(PATH_COLUMNS)), cell(LABEL_COLUMNS) or None, boxes, outline, wrong)


# ---- folders of masks ----


def _with_masks(samples: Sequence[Sample], source: Path, folder: Path) -> list[Sample]:
    if not folder.is_dir():
        raise OptionError(f"masks={str(folder)!r} is no folder: give one with a mask called like each picture")
    files = [p for p in folder.rglob("*") if is_picture(p.name) or p.name.endswith(".png")]
    files.sort(key=lambda p: (p.stem.endswith(MARK), p))  # the last one counts, where masks lie beside pictures
    inside = {called(p.relative_to(folder)).removesuffix(MARK): str(p) for p in files}
    own = paired(folder, inside, {s.source: below(Path(s.source), source) for s in samples})
    if not own:
        raise OptionError(
            f"none of the {len(files)} masks in {str(folder)!r} is called like one of the {len(samples)} pictures, "
            f"such as {Path(samples[0].source).name!r}"
        )
    return [replace(s, mask=own.get(s.source, s.mask)) for s in samples]


MARK = ".mask"
"""Ends what masks are called that lie beside their pictures."""


def called(path: Path) -> str:
    """A path without its last suffix: ``a.b/frame.0001`` of ``a.b/frame.0001.png``."""
    return path.with_suffix("").as_posix()


def below(picture: Path, data: Path) -> str:
    """What files that belong to a picture are called: its path below the data, without its last suffix."""
    root = data if data.is_dir() else data.parent
    return called(picture.relative_to(root) if picture.is_relative_to(root) else Path(picture.name))


def paired(folder: Path, files: Mapping[str, T], pictures: Mapping[str, str]) -> dict[str, T]:
    """By picture, the file that is called like it: by its path, or by its name alone.

    Args:
        folder: of the files.
        files: by path without suffix.
        pictures: what each is called, see `below`.

    Raises:
        OptionError: a file that is known by its name alone may be of two pictures.
    """
    found: dict[str, T] = {}
    by_name: dict[str, str] = {}
    for source, path in pictures.items():
        name = path if path in files else path.rpartition("/")[2]
        if name in files:
            found[source] = files[name]
        if name in files and name != path and (other := by_name.setdefault(name, source)) != source:
            raise OptionError(
                f"{name} in {str(folder)!r} may belong to {other!r} or to {source!r}: lay such files into folders like "
                "those of the pictures"
            )
    return found
