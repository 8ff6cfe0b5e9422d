"""What was found in a picture, in the forms that annotation tools read: COCO's JSON and Pascal VOC's XML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from .localize import Box, boxed_components

Mask = NDArray[np.bool_]
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


@dataclass(frozen=True)
class Region:
    """One thing that was found.

    Attributes:
        label: the class.
        box: where, in pixels of the picture.
        mask: bool (H, W), its pixels.
    """

    label: str
    box: Box
    mask: Mask


@dataclass(frozen=True)
class Annotated:
    """A picture and what was found in it.

    Attributes:
        file: its name.
        size: (H, W) in pixels.
        regions: what was found.
    """

    file: str
    size: tuple[int, int]
    regions: Sequence[Region]


def regions(label: str, heatmap: NDArray[Any], mask: Mask) -> list[Region]:
    """One region per component of ``mask`` (H, W), scored by ``heatmap`` (H, W), the highest score first."""
    found = []
    for box, own in boxed_components(heatmap, mask):
        whole = np.zeros_like(mask)
        whole[box.y0 : box.y1, box.x0 : box.x1] = own
        found.append(Region(label, box, whole))
    return found


# ---- shapes ----


def rle(mask: Mask) -> dict[str, Any]:
    """COCO's uncompressed run lengths: ``{"size": [H, W], "counts": [...]}``, column by column, zeros first."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]), mask.size)
    return {"size": list(mask.shape), "counts": np.diff(ends, prepend=0).tolist()}


def polygons(mask: Mask) -> list[NDArray[np.int32]]:
    """The outlines of ``mask`` (H, W), along the edges of its pixels.

    Returns:
        One (K, 2) of corners (x, y) per outline, without the first repeated at the end, straight runs as one. The
        object lies on the right of the way: outer outlines run clockwise as seen on the screen, holes the other way,
        and the areas (`area`) add up to the pixels of the mask. Pixels that touch at a corner alone are apart.
    """
    ahead = _edges(mask)
    found = []
    while ahead:
        first = next(iter(ahead))
        way = [first]
        while (at := _turned(ahead[way[-1]], way[-1][1], ahead)) != first:
            way.append(at)
        for at in way:
            del ahead[at]
        turns = [here for (here, now), (_, before) in zip(way, [way[-1], *way], strict=False) if now != before]
        found.append(np.array(turns, np.int32))
    return found


Point = tuple[int, int]
_WAYS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up: turning right is the next one


def _edges(mask: Mask) -> dict[tuple[Point, int], Point]:
    """The edges between a pixel of the mask and one outside: (start, way) -> end."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    corner = ((0, 0), (1, 0), (1, 1), (0, 1))  # where the top, right, bottom and left edge of a pixel start
    found = {}
    for way, (beyond, (dx, dy)) in enumerate(zip(neighbours, corner, strict=True)):
        for y, x in np.argwhere(inside & ~beyond).tolist():
            start = (x + dx, y + dy)
            found[start, way] = (start[0] + _WAYS[way][0], start[1] + _WAYS[way][1])
    return found


def _turned(at: Point, way: int, ahead: dict[tuple[Point, int], Point]) -> tuple[Point, int]:
    """The next edge: right where two pixels touch at a corner, so that each outline stays round its own pixel."""
    return next((at, turn) for turn in ((way + 1) % 4, way, (way + 3) % 4) if (at, turn) in ahead)


def area(outline: NDArray[Any]) -> float:
    """The area inside an outline (K, 2), in pixels; negative for a hole."""
    x, y = outline[:, 0].astype(np.float64), outline[:, 1].astype(np.float64)
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


# ---- files ----


def coco(pictures: Sequence[Annotated]) -> dict[str, Any]:
    """COCO's "instances" (https://cocodataset.org/#format-data), for ``json.dump``.

    ``bbox`` is x, y, width, height in pixels; ``segmentation`` polygons, or run lengths where the mask has holes.
    Classes are numbered from 1 in the order of their names, pictures and annotations in their own.
    """
    names = sorted({region.label for picture in pictures for region in picture.regions})
    pairs = [(number, region) for number, picture in enumerate(pictures, 1) for region in picture.regions]
    return {
        "images": [
            {"id": number, "file_name": p.file, "height": p.size[0], "width": p.size[1]}
            for number, p in enumerate(pictures, 1)
        ],
        "annotations": [
            {"id": own, "image_id": number, "category_id": names.index(region.label) + 1, **_shape(region)}
            for own, (number, region) in enumerate(pairs, 1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }


def _shape(region: Region) -> dict[str, Any]:
    outlines, box = polygons(region.mask), region.box
    whole = all(area(outline) > 0 for outline in outlines)
    return {
        "bbox": [box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0],
        "area": int(region.mask.sum()),
        "segmentation": [outline.ravel().tolist() for outline in outlines] if whole else rle(region.mask),
        "iscrowd": 0,
        "score": box.score,
    }


def voc(picture: Annotated) -> str:
    """Pascal VOC's XML (http://host.robots.ox.ac.uk/pascal/VOC/): pixels are counted from 1, both ends included.

    Characters of names that XML does not allow, such as control characters, become U+FFFD.
    """
    root = ElementTree.Element("annotation")
    _text(root, "filename", picture.file)
    _fields(root, "size", width=picture.size[1], height=picture.size[0], depth=3)
    ElementTree.SubElement(root, "segmented").text = "0"
    for region in picture.regions:
        box = region.box
        item = _fields(root, "object", name=region.label, pose="Unspecified", truncated=0, difficult=0)
        _fields(item, "bndbox", xmin=box.x0 + 1, ymin=box.y0 + 1, xmax=box.x1, ymax=box.y1)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _fields(parent: ElementTree.Element, tag: str, /, **values: object) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag)
    for key, value in values.items():
        _text(element, key, value)
    return element


def _text(parent: ElementTree.Element, tag: str, value: object) -> None:
    ElementTree.SubElement(parent, tag).text = _FORBIDDEN.sub("\ufffd", str(value))
