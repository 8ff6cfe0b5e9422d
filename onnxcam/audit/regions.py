"""The regions of a picture: from masks, thirds, or boxes of objects."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import ImageError, OptionError, reason
from onnxcam.evaluate.data import MARK, Corners, Sample, below, called, paired
from onnxcam.evaluate.localization import region
from onnxcam.evaluate.masks import read_mask
from onnxcam.explainer import Explainer, Prepared
from onnxcam.image import read_image
from onnxcam.inputs import given_inputs
from onnxcam.looks import Looks
from onnxcam.photos import is_picture
from onnxcam.targets.boxes import likely_boxes

Mask = NDArray[np.bool_]
KINDS = ("masks", "thirds", "detector")
REST, OBJECT, BACKGROUND = "rest", "object", "background"
DOWN = ("top third", "middle third", "bottom third")
ACROSS = ("left third", "centre third", "right third")
_TABLES = ("regions.json", "regions.csv")


@dataclass(frozen=True)
class Picture:
    """A picture of the data.

    Attributes:
        source: its file.
        below: its path below the data, without suffix: what masks and counterparts are called.
        truth: its class (or folder); None where nothing tells, or it shows several.
        samples: what the data tells of it, class by class.
    """

    source: str
    below: str
    truth: str | None
    samples: tuple[Sample, ...]


Finder = Callable[[Picture, Prepared], dict[str, Mask]]
"""The regions of a picture by name, bool (H, W) of its size; none where nothing is known of it."""


def gathered(samples: Sequence[Sample], data: str | Path) -> list[Picture]:
    """Samples of one picture become one."""
    own: dict[str, list[Sample]] = {}
    for one in samples:
        own.setdefault(one.source, []).append(one)
    return [
        Picture(source, below(Path(source), Path(data)), many[0].truth if len(many) == 1 else None, tuple(many))
        for source, many in own.items()
    ]


def finder(
    kind: str, pictures: Sequence[Picture], masks: str | Path | None, detector: str | Path | Explainer | None
) -> Finder:
    """What finds the regions of each picture.

    Args:
        kind: of :data:`KINDS`.
        pictures: all of them.
        masks: for ``"masks"``: the folder, see :func:`read_masks`.
        detector: for ``"detector"``: a second model; None takes the boxes (or masks) of the data.

    Raises:
        OptionError: a folder or boxes are missing, or of none of the pictures.
    """
    if kind == "masks":
        if masks is None:
            raise OptionError("regions of kind masks need a folder of masks: give it with masks (--masks)")
        return read_masks(Path(masks), pictures)
    if kind == "thirds":
        return lambda picture, prepared: thirds(prepared.placement.mask())
    if detector is not None:
        return _by_detector(detector if isinstance(detector, Explainer) else Explainer(detector))
    if not any(s.boxes or s.mask for p in pictures for s in p.samples):
        raise OptionError(
            "the data has no boxes: give a detector (--detector DETECTOR.onnx), annotations of Pascal VOC or COCO, or "
            "other regions (thirds, masks)"
        )
    return _annotated


# ---- thirds ----


def thirds(seen: Mask) -> dict[str, Mask]:
    """Top, middle and bottom, left, centre and right of what the model sees of a picture, bool (H, W) each."""
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    found: dict[str, Mask] = {}
    for axis, (places, names) in enumerate(((rows, DOWN), (columns, ACROSS))):
        for name, part in zip(names, np.array_split(places, 3), strict=True):
            mask = np.zeros(seen.shape, np.bool_)
            mask[(part, slice(None)) if axis == 0 else (slice(None), part)] = True
            found[name] = mask & seen
    return found


# ---- objects ----


def _annotated(picture: Picture, prepared: Prepared) -> dict[str, Mask]:
    size = (prepared.picture.shape[0], prepared.picture.shape[1])
    mask = np.zeros(size, np.bool_)
    for sample in picture.samples:
        own = read_mask(sample.mask, size)
        mask |= region(size, sample.boxes) if own is None else own
    return _apart(mask)


def _by_detector(explainer: Explainer) -> Finder:
    looks = Looks(
        explainer.programs, explainer.preprocess, explainer.spec, explainer.labels, explainer.vocabulary
    )  # fmt: skip
    others = given_inputs(explainer.model, explainer.inputs)
    known: dict[str, list[Corners]] = {}  # a picture is asked for often, as the donor of others

    def boxes(prepared: Prepared) -> list[Corners]:
        own = explainer.prepare(prepared.picture)
        corners = likely_boxes(looks.view(own.tensor, others, own.placement))
        found = [own.placement.box_to_image((x0, y0, x1, y1)) for x0, y0, x1, y1 in corners.tolist()]
        return [b for b in found if b[0] < b[2] and b[1] < b[3]]

    def find(picture: Picture, prepared: Prepared) -> dict[str, Mask]:
        if picture.source not in known:
            known[picture.source] = boxes(prepared)
        return _apart(region((prepared.picture.shape[0], prepared.picture.shape[1]), known[picture.source]))

    return find


def _apart(mask: Mask) -> dict[str, Mask]:
    return {OBJECT: mask, BACKGROUND: ~mask} if mask.any() else {}


# ---- masks ----


def read_masks(folder: Path, pictures: Sequence[Picture]) -> Finder:
    """Regions from a folder of masks, each called like its picture (and in a folder like the picture's).

    Either a file for each region, ``NAME.REGION.png``, in which all that is not black belongs to it; or one label
    image, ``NAME.png`` or ``NAME.mask.png``, with the regions' names in ``regions.json``, ``{"1": "sky", "2":
    "ground"}``, or ``regions.csv``, lines of ``1,sky``: a grey level, or a colour such as ``#87ceeb``. Several levels
    of one name are one region. What belongs to no region is the region ``rest``.

    Raises:
        OptionError: no folder, names that are not understood, or masks of none of the pictures.
    """
    if not folder.is_dir():
        raise OptionError(f"masks={str(folder)!r} is no folder: give one with masks called like each picture")
    names = _names(folder)
    files = _indexed(folder, labelled=bool(names))
    own = paired(folder, files, {p.source: p.below for p in pictures})
    if not own:
        raise OptionError(
            f"no mask in {str(folder)!r} is called like one of the {len(pictures)} pictures: for {pictures[0].below} "
            f"give {pictures[0].below}.REGION.png for each region, or {pictures[0].below}.png with the names of its "
            "levels in regions.json"
        )

    def find(picture: Picture, prepared: Prepared) -> dict[str, Mask]:
        size = (prepared.picture.shape[0], prepared.picture.shape[1])
        found: dict[str, Mask] = {}
        for name, path in own.get(picture.source, {}).items():
            pixels = _read(path, size)
            found |= {name: np.asarray(pixels.any(axis=2))} if name else _labelled(pixels, names)
        rest = ~np.any([*found.values()], axis=0) if found else np.zeros(size, np.bool_)
        return {**found, **({REST: rest} if rest.any() else {})}

    return find


def _indexed(folder: Path, labelled: bool) -> dict[str, dict[str, Path]]:
    """Files by what their picture is called, by region; "" of a label image."""
    found: dict[str, dict[str, Path]] = {}
    paths = sorted(folder.rglob("*"), key=lambda p: (p.stem.endswith(MARK), p))  # where masks lie beside pictures
    for path in paths:
        if is_picture(path.name) or path.name.endswith(".png"):
            whole = called(path.relative_to(folder))
            stem, dot, name = whole.rpartition(".")
            if labelled:
                found.setdefault(whole.removesuffix(MARK), {})[""] = path
            elif dot and stem.rpartition("/")[2] and "/" not in name:
                found.setdefault(stem, {})[name] = path
    return found


def _read(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    pixels = read_image(path)
    if pixels.shape[:2] != size:
        raise ImageError(
            f"the mask {str(path)!r} has {pixels.shape[0]} x {pixels.shape[1]} pixels, its picture {size[0]} x "
            f"{size[1]}: give one of that size"
        )
    return pixels


def _labelled(pixels: NDArray[np.uint8], names: Mapping[tuple[int, int, int], str]) -> dict[str, Mask]:
    found: dict[str, Mask] = {}
    for colour, name in names.items():
        own = (pixels == np.array(colour, np.uint8)).all(axis=2)
        if own.any():
            found[name] = found.get(name, np.zeros(own.shape, np.bool_)) | own
    return found


def _names(folder: Path) -> dict[tuple[int, int, int], str]:
    path = next((folder / name for name in _TABLES if (folder / name).exists()), None)
    if path is None:
        return {}
    try:
        if path.suffix == ".json":
            pairs = list(json.loads(path.read_text(encoding="utf-8-sig")).items())
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                pairs = [(row[0], row[1]) for row in csv.reader(file) if any(map(str.strip, row))]
        return {_colour(str(level).strip()): str(name).strip() for level, name in pairs}
    except (OSError, ValueError, AttributeError, IndexError, csv.Error) as error:
        raise OptionError(
            f'cannot read the names of regions in {path}: {reason(error)}; give {{"1": "sky"}}, or lines of 1,sky'
        ) from error


def _colour(text: str) -> tuple[int, int, int]:
    if re.fullmatch("#[0-9a-fA-F]{6}", text):
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:], 16)
    if not (text.isdecimal() and int(text) < 256):
        raise ValueError(f"{text!r} is neither a grey level from 0 to 255 nor a colour such as #87ceeb")
    return (int(text),) * 3
