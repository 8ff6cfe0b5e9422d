"""The files that a job keeps of an explanation, and what it makes of all rows: CSV and COCO."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcam.batch.manifest import Row, read_rows
from onnxcam.batch.paths import scratch
from onnxcam.batch.settings import Saving
from onnxcam.core.annotation import Annotated, voc
from onnxcam.core.overlay import DIVERGING, colorize, diverging, panel
from onnxcam.explanation import Explanation, packed
from onnxcam.files import write_whole
from onnxcam.image import encode_grey, encode_image

Made = Iterator[tuple[str, str, bytes]]

COLUMNS = (
    *("index", "source", "truth", "correct", "class_index", "label", "score", "probability", "target", "method"),
    *("layer", "blank", "warnings", "error", "kind", "files", "sha256"),
)
"""Of ``results.csv``."""


def files_of(e: Explanation, saving: Saving) -> dict[str, tuple[str, bytes]]:
    """By kind: what follows the picture's name, and the file's bytes.

    Raises:
        OptionError, ValueError: the picture cannot be drawn, or is too large for the format.
    """
    return {
        kind: (suffix, data)
        for name in saving.kinds
        if name in _MAKERS
        for kind, suffix, data in _MAKERS[name](e, saving)
    }


def suffixes(saving: Saving, layers: int) -> tuple[str, ...]:
    """All that `files_of` may let follow a picture's name, with so many layers."""
    overlays = ["overlay", *(f"overlay.{k}" for k in range(2, layers + 1))]
    pictures = [*(f"{name}.{saving.image}" for name in (*overlays, "panel"))]
    return (*pictures, f"heatmap.{_heatmap_suffix(saving)}", "raw.npz", "xml", "explanation.json")


def _heatmap_suffix(saving: Saving) -> str:
    return "png" if saving.heatmap.startswith("png") else saving.heatmap


def _overlay(e: Explanation, saving: Saving) -> Made:
    layers = (e,) if e.fuse or len(e.maps) < 2 else e.per_layer()
    for number, one in enumerate(layers, 1):
        kind = "overlay" if number == 1 else f"overlay.{number}"
        picture = one.overlay(**saving.drawing)
        yield kind, f"{kind}.{saving.image}", encode_image(picture, f".{saving.image}")


def _heatmap(e: Explanation, saving: Saving) -> Made:
    levels = e.heatmap_on_image()
    yield "heatmap", f"heatmap.{_heatmap_suffix(saving)}", _AS_HEATMAP[saving.heatmap](levels, e.normalize == "none")


def _grey(levels: int) -> Callable[[npt.NDArray[np.float32], bool], bytes]:
    """0 to ``levels``; of signed maps the middle is 0."""

    def encode(whole: npt.NDArray[np.float32], signed: bool) -> bytes:
        share = (1 + whole / (float(np.abs(whole).max()) or 1.0)) / 2 if signed else np.clip(whole, 0, 1)
        grey = np.rint(share * levels)
        return encode_grey(grey.astype(np.uint8) if levels == 255 else grey.astype(np.uint16))

    return encode


def _npy(whole: npt.NDArray[np.float32], signed: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, whole, allow_pickle=False)
    return buffer.getvalue()


def _npz(whole: npt.NDArray[np.float32], signed: bool) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, heatmap=whole)
    return buffer.getvalue()


_AS_HEATMAP = {"png": _grey(255), "png16": _grey(65535), "npy": _npy, "npz": _npz}


def _panel(e: Explanation, saving: Saving) -> Made:
    """The picture, the map, and both."""
    assert e.image is not None
    whole, signed = e.heatmap_on_image(), e.normalize == "none"
    name = saving.colormap or (DIVERGING if signed else "jet")
    colours = diverging(whole) if name == DIVERGING else colorize(whole, name)
    over = e.overlay(**{**saving.drawing, "title": None})
    sheet = panel([e.image, colours, over], labels=["picture", e.method, e.title])
    yield "panel", f"panel.{saving.image}", encode_image(sheet, f".{saving.image}")


def _raw(e: Explanation, saving: Saving) -> Made:
    yield "raw", "raw.npz", packed(e)


def _voc(e: Explanation, saving: Saving) -> Made:
    assert e.image is not None
    picture = Annotated(Path(e.source).name, (e.image.shape[0], e.image.shape[1]), e.regions(saving.threshold))
    yield "voc", "xml", voc(picture).encode("utf-8", "backslashreplace")


def _json(e: Explanation, saving: Saving) -> Made:
    yield "json", "explanation.json", json.dumps(e.to_dict(), indent=1).encode()


_MAKERS: Mapping[str, Callable[[Explanation, Saving], Made]] = {
    "overlay": _overlay,
    "heatmap": _heatmap,
    "panel": _panel,
    "raw": _raw,
    "voc": _voc,
    "json": _json,
}


# ---- of the whole job ----


def write_table(out: Path) -> None:
    """``results.csv`` of ``results.jsonl``, for spreadsheets.

    Raises:
        OutputError: it cannot be written.
    """
    write_whole(out / "results.csv", _table(out), scratch(out))


def _table(out: Path) -> Iterator[bytes]:
    yield codecs.BOM_UTF8 + _line(COLUMNS)  # without the mark, Excel takes it for another encoding
    for row in read_rows(out / "results.jsonl"):
        files, warnings = "; ".join(row.get("files", {}).values()), "; ".join(row.get("warnings", ()))
        told = {**row, "warnings": warnings, "files": files}
        yield _line([_cell(told.get(name)) for name in COLUMNS])


def _line(cells: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would compute stays a text; lone surrogates are escaped."""
    if not isinstance(value, str):
        return value
    plain = value.encode("utf-8", "backslashreplace").decode()
    return f"'{plain}" if plain[:1] in ("=", "+", "-", "@", "\t", "\r") else plain


def write_coco(out: Path) -> None:
    """``boxes.json``: the boxes of ``results.jsonl`` in COCO's format, one category for each explained class.

    A picture is one image, however many of its targets are explained. What is no class gets a category of its own for
    each target, -1, -2, ..., in the order in which they come. See
    https://cocodataset.org/#format-data: ``bbox`` is [x, y, width, height] in pixels, from 0.

    Raises:
        OutputError: it cannot be written.
    """
    write_whole(out / "boxes.json", map(str.encode, _coco(out)), scratch(out))


def _coco(out: Path) -> Iterator[str]:
    categories = _Categories()
    yield '{"images": ['
    for number, row, image in _with_image(out):
        categories.of(row)
        if row["index"] == image:
            told = {"id": image, "file_name": row["source"], "height": row["size"][0], "width": row["size"][1]}
            yield ",\n"[number == 0 :] + json.dumps(told)
    yield '],\n"annotations": ['
    pairs = ((row, image, box) for _, row, image in _with_image(out) for box in row.get("boxes", ()))
    for number, (row, image, (x, y, w, h, score)) in enumerate(pairs):
        box = {"id": number, "image_id": image, "category_id": categories.of(row), "bbox": [x, y, w, h]}
        yield ",\n"[number == 0 :] + json.dumps({**box, "area": w * h, "iscrowd": 0, "score": score})
    kinds = [{"id": number, "name": name} for number, name in sorted(categories.names.items())]
    yield f'],\n"categories": {json.dumps(kinds)}}}\n'


def _with_image(out: Path) -> Iterator[tuple[int, Row, int]]:
    """What is explained, counted, and the index of its picture's first row: those of one picture are neighbours."""
    source, image = None, -1
    for number, row in enumerate(_explained(out)):
        if row["source"] != source:
            source, image = row["source"], row["index"]
        yield number, row, image


class _Categories:
    """What is explained, by number: the class's own, or one below 0 for each other target."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self._others: dict[str, int] = {}

    def of(self, row: Row) -> int:
        """The number of a row's category."""
        number: int = row["class_index"]
        name = str(row["label"] or (f"class {number}" if number >= 0 else row["target"]))
        if number < 0:
            number = self._others.setdefault(name, -1 - len(self._others))
        self.names.setdefault(number, name)
        return number


def _explained(out: Path) -> Iterator[Row]:
    return (row for row in read_rows(out / "results.jsonl") if "error" not in row)
