"""Pictures of which it is known what they show, and where: folders, tables, Pascal VOC, COCO, folders of masks."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from onnxcam.errors import ImageError, OptionError, reason
from onnxcam.labels import by_name, index_of
from onnxcam.photos import LABEL_COLUMNS, PATH_COLUMNS, column, find_photos, is_picture

Corners = tuple[float, float, float, float]
Outline = str | tuple[Any, ...] | None
_MISUNDERSTOOD = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)


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
        masks: a folder of masks, each called like its picture (and in a folder like the picture's, where there are
            any); what is not black is the object.

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
    name = Path((root.findtext("filename") or "").strip() or f"{path.stem}.jpg").name
    source = pictures / name if (pictures / name).exists() else pictures / f"{path.stem}.jpg"
    for label, own in boxes.items():
        yield Sample(str(source), label, tuple(own))


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
        return counts if isinstance(counts, str) else tuple(counts), (int(height), int(width))
    return tuple(tuple(float(v) for v in polygon) for polygon in segmentation)


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
    files.sort(key=lambda p: (".mask." in p.name, p))  # the last one counts, where masks lie beside pictures
    inside = {p.relative_to(folder).as_posix().partition(".")[0]: str(p) for p in files}
    found = [replace(s, mask=_mask_of(Path(s.source), source, inside) or s.mask) for s in samples]
    if not any(s.mask for s in found):
        raise OptionError(
            f"none of the {len(files)} masks in {str(folder)!r} is called like one of the {len(samples)} pictures, "
            f"such as {Path(samples[0].source).name!r}"
        )
    return found


def _mask_of(picture: Path, source: Path, masks: Mapping[str, str]) -> str | None:
    """By the path below the data, or by the name alone."""
    below = picture.relative_to(source) if picture.is_relative_to(source) else Path(picture.name)
    names = (below.as_posix(), below.name)
    return next((masks[n.partition(".")[0]] for n in names if n.partition(".")[0] in masks), None)


# ---- which classes of the model the data's classes are ----

Classes = Mapping[str, tuple[int, ...]]


def class_map(
    names: Iterable[str], labels: Sequence[str] | None, count: int | None, table: str | Path | None = None
) -> Classes:
    """The classes of the model that each class of the data stands for; classes that are none of its are left out.

    Args:
        names: of the data.
        labels: the model's class names.
        count: how many classes it has.
        table: a CSV with a line for each class of the data: its name, and behind it classes of the model, as names,
            indices or ranges of indices: ``dog,151-268``. Classes without a line are left out. None: a class is known
            by its name (whatever the case) or its index.

    Raises:
        OptionError: a table that is not understood, or names classes that the model does not have; the name of several
            classes; or none of the data's classes is known.
    """
    known = by_name(labels or ())
    given = sorted(set(names))
    if table is not None:
        lines = _lines(Path(table), lambda text: _indices(text, known, count))
        found = {name: lines[name.casefold()] for name in given if lines.get(name.casefold())}
    else:
        pairs = ((name, index_of(name, known, count)) for name in given)
        found = {name: (index,) for name, index in pairs if index is not None}
    if given and not found:
        has = f"{', '.join(labels[:4])} ..." if labels else "no names (give them with --labels)"
        raise OptionError(
            f"none of the data's classes ({', '.join(given[:4])}) is one of the model's, which has {has}: map them "
            "with --classes, a CSV of lines such as dog,151-268"
        )
    return found


def _lines(table: Path, read: Callable[[str], Iterable[int]]) -> dict[str, tuple[int, ...]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row if cell.strip()] for row in csv.reader(file)]
        return {row[0].casefold(): tuple(dict.fromkeys(k for c in row[1:] for k in read(c))) for row in rows if row}
    except (OSError, ValueError, csv.Error) as error:
        raise OptionError(
            f"cannot read the classes in {table}: {reason(error)}; give lines such as dog,151-268"
        ) from error


def _indices(text: str, known: Mapping[str, Sequence[int]], count: int | None) -> Iterable[int]:
    first, dash, last = text.partition("-")
    if dash and first.strip().isdecimal() and last.strip().isdecimal():
        found = range(int(first), int(last) + 1)
        if not found or (count is not None and found[-1] >= count):
            raise ValueError(f"{text!r} is no range of the model's {count} classes")
        return found
    if (index := index_of(text, known, count)) is None:
        raise ValueError(f"{text!r} is neither a name nor an index of the model's {count or 'unknown'} classes")
    return (index,)
