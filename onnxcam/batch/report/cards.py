"""One card of the gallery for each row: thumbnails, and the facts that its large view tells."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from onnxcam.batch import sources
from onnxcam.batch.manifest import is_flagged
from onnxcam.batch.remote import is_address
from onnxcam.batch.report.page import markup, number, visible
from onnxcam.batch.report.tally import class_of, grid_of, state_of
from onnxcam.core.maps import resize, resize_pixels
from onnxcam.core.overlay import COLORMAPS, colorize, overlay
from onnxcam.errors import ImageError, OnnxcamError
from onnxcam.image import MAX_PIXELS, decode_image
from onnxcam.pages import data_uri

Pixels = NDArray[np.uint8]
SIDE = 224  # of a thumbnail, at most
_QUALITY = 75
_PATIENCE = 8
_LONGEST = 2000  # letters of a fact
_KEPT_OUT = ("map", "bytes", "label")  # of the facts: they are shown in other ways


@dataclass
class Painter:
    """Makes cards; several threads may at once.

    Attributes:
        out: the job's folder.
        colormap: of maps that have no overlay on the disk.
        max_pixels: the largest picture that is opened.
    """

    out: Path
    colormap: str = "jet"
    max_pixels: int = MAX_PIXELS
    _lost: int = 0  # addresses in a row that gave nothing

    @classmethod
    def of(cls, out: Path, run: Mapping[str, Any]) -> Painter:
        """One that paints and reads as the job did."""
        chosen = run.get("configuration") or {}
        colormap = run.get("colormap") or (chosen.get("saving") or {}).get("colormap")
        return cls(out, colormap if colormap in COLORMAPS else "jet", chosen.get("max_pixels") or MAX_PIXELS)

    def card(self, row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """A card's HTML and its facts as JSON values."""
        if "error" in row:
            return _error_card(row), _facts(row)
        picture, why = self._picture(row)
        return _card(row, picture, self._overlay(row, picture)), {**_facts(row), **({"without": why} if why else {})}

    def _picture(self, row: Mapping[str, Any]) -> tuple[Pixels | None, str]:
        """The picture that was explained, small, or why there is none."""
        try:
            data = self._read(row["source"])
            if row.get("sha256") not in (None, hashlib.sha256(data).hexdigest()):
                return None, "the picture has changed since it was explained: only the overlay is shown"
            return _small(decode_image(data, row["source"], max_pixels=self.max_pixels)), ""
        except (OnnxcamError, OSError, ValueError, KeyError, MemoryError) as error:
            return None, visible(f"only the overlay is shown: {error}")

    def _read(self, source: str) -> bytes:
        """Addresses are given up after some failures in a row: a server that is gone may take a minute for each."""
        far = is_address(source)
        if far and self._lost >= _PATIENCE:
            raise ImageError(f"cannot read {source!r}: it was not tried, as {_PATIENCE} addresses in a row had failed")
        try:
            data = sources.read(source)
        except OnnxcamError:
            self._lost += far
            raise
        self._lost = 0 if far else self._lost
        return data

    def _overlay(self, row: Mapping[str, Any], picture: Pixels | None) -> Pixels | None:
        """The overlay that the job has written; else the row's own small map, painted."""
        found = self._written(row)
        if found is not None:
            return found
        if (grid := grid_of(row)) is None:
            return None
        size = picture.shape[:2] if picture is not None else _within(row.get("size") or (SIDE, SIDE))
        heat = enlarged(grid / 255.0, (size[0], size[1]))
        return colorize(heat, self.colormap) if picture is None else overlay(picture, heat, colormap=self.colormap)

    def _written(self, row: Mapping[str, Any]) -> Pixels | None:
        name = (row.get("files") or {}).get("overlay")
        if not name or not _is_inside(name):
            return None
        try:
            made = decode_image((self.out / name).read_bytes(), name, max_pixels=2 * self.max_pixels)
        except (OnnxcamError, OSError, ValueError, MemoryError):
            return None
        height = (row.get("size") or made.shape)[0]
        return _small(made[max(made.shape[0] - height, 0) :])  # a head line stands above the picture


def enlarged(grid: NDArray[np.floating[Any]], size: tuple[int, int]) -> NDArray[np.float32]:
    """A small map at another size, float32 (H, W) in [0, 1]."""
    return np.asarray(np.clip(resize(np, grid.astype(np.float32), size), 0, 1), np.float32)


def address(name: str) -> str:
    """A file beside the page, as a relative link; whatever bytes are in its name."""
    return "./" + quote(os.fsencode(name))


def _is_inside(name: str) -> bool:
    parts = Path(name).parts
    return not Path(name).is_absolute() and ".." not in parts


def _within(size: Any) -> tuple[int, int]:
    """A thumbnail's (height, width), of a picture's."""
    height, width = size[0], size[1]
    factor = min(1.0, SIDE / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _small(picture: Pixels) -> Pixels:
    size = _within(picture.shape)
    return picture if size == picture.shape[:2] else resize_pixels(picture, size)


# ---- facts ----


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """All that the row tells but its map, in letters that can be shown."""
    facts = {k: _shown(v) for k, v in row.items() if k not in _KEPT_OUT}
    links = {k: address(v) for k, v in (row.get("files") or {}).items() if _is_inside(v)}
    return {
        **facts,
        "class": visible(class_of(row)),
        "state": state_of(row),
        "flagged": is_flagged(row),
        "links": {visible(k): v for k, v in links.items()},
    }


def _shown(value: Any) -> Any:
    """JSON that every browser reads: no NaN, no lone surrogates, no letter that is not seen."""
    if isinstance(value, str):
        return visible(value if len(value) <= _LONGEST else value[:_LONGEST] + "…")
    if isinstance(value, dict):
        return {visible(str(k)): _shown(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_shown(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- HTML ----

_MARKS = {"right": "&#10003;", "wrong": "&#10007;"}  # not by colour alone


def _image(kind: str, picture: Pixels | None) -> str:
    return "" if picture is None else f'<img class="{kind}" alt="" src="{data_uri(picture, quality=_QUALITY)}">'


def _card(row: Mapping[str, Any], picture: Pixels | None, painted: Pixels | None) -> str:
    inner = _image("picture", picture) + _image("overlay", painted) or '<span class="none">no picture</span>'
    flag = "blank map" if row.get("blank") else "warning" if row.get("warnings") else ""
    state, truth, chance = state_of(row), row.get("truth"), row.get("probability")
    figures = number(row.get("score")) + ("" if chance is None else f" &middot; p {number(chance, 3)}")
    lines = [
        f'<div><p class="class">{markup(class_of(row))}</p><p class="figures">{figures}</p></div><div>',
        f'<p class="truth {state}">{_MARKS.get(state, "")} {markup(str(truth))}</p>' if truth else "",
        f'<p class="flag">{flag}</p>' if flag else "",
        "</div>",
    ]
    return _framed(state, markup(str(row.get("name"))), inner, "".join(lines))


def _error_card(row: Mapping[str, Any]) -> str:
    inner = f'<span class="none">{markup(str(row.get("kind")))}</span>'
    text = markup(str(row["error"])[:300])
    return _framed("error", markup(str(row.get("name"))), inner, f'<p class="message">{text}</p>')


def _framed(kind: str, name: str, inner: str, lines: str) -> str:
    return (
        f'<li class="card {kind}"><button type="button" class="look" title="{name}">{inner}'
        f'<span class="unseen">{name}: all facts</span></button><p class="name">{name}</p>{lines}</li>\n'
    )
