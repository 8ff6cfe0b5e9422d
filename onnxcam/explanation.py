"""Explanation: maps, scores and provenance of one image; overlay, boxes, save, load."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcam.core.annotation import Region, regions
from onnxcam.core.localize import Box, Placement
from onnxcam.errors import OptionError, OutputError, UnknownNameError, reason
from onnxcam.files import write_whole
from onnxcam.image import Preprocess, save_image

Float = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
VERSION = 1  # of the JSON record


@dataclass(frozen=True)
class LayerMap:
    """The map of one target layer.

    Attributes:
        layer: as the caller spelt it, or the value's name.
        reason: why this layer.
        cam: (h, w) float32, the signed map at feature size, before ReLU; for pixel methods at input size.
        heatmap: (H, W) float32 in [0, 1], at model-input size.
    """

    layer: str
    reason: str
    cam: Float
    heatmap: Float


@dataclass(frozen=True)
class Explanation:
    """Why a model answered as it did, for one image.

    Attributes:
        heatmap: (H, W) float32 in [0, 1] at model-input size; of several layers, the fused one, else the first.
        maps: one per target layer; empty layer name for pixel methods.
        score: the explained score (a logit unless another target was chosen).
        class_index: the explained class.
        label: its name, or None.
        probability: of that class, where the model ends in Softmax or Sigmoid.
        top: the best classes as (index, label or None, logit), best first.
        target: the score in words.
        method: the catalogue's name.
        engine: which engine wrote the gradient; "" where the method needs none.
        attribution: (C, H, W) float32, signed, of pixel methods; else None.
        notes: what a reader should know: a blank map, a tied arg-max, assumptions.
        provenance: model, hashes, versions.
        preprocess: how the picture became the input; None for tensors.
        placement: where the picture lies in the input; None for tensors.
        image: uint8 (H0, W0, 3), the original picture, or None.
        source: its path, or "".
        fuse: how the maps of several layers were joined to ``heatmap``; None where they were not.
        normalize: how raw maps became heatmaps; ``"none"``: not at all, they are signed and of any scale.
    """

    heatmap: Float
    maps: tuple[LayerMap, ...]
    score: float
    class_index: int
    label: str | None
    probability: float | None
    top: tuple[tuple[int, str | None, float], ...]
    target: str
    method: str
    engine: str
    attribution: Float | None = None
    notes: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    preprocess: Preprocess | None = None
    placement: Placement | None = None
    image: Pixels | None = field(default=None, repr=False)
    source: str = ""
    fuse: str | None = None
    normalize: str = "max"

    @property
    def cam(self) -> Float:
        """(h, w) float32, signed, at feature size: of the first target layer."""
        return self.maps[0].cam

    @property
    def layer(self) -> str:
        """The first target layer; empty for methods that need none."""
        return self.maps[0].layer

    @property
    def is_blank(self) -> bool:
        """Nothing speaks for the score in this map."""
        return not bool(np.any(self.heatmap))

    @property
    def title(self) -> str:
        """Class and score, for a picture's head line."""
        if not re.fullmatch(r"logit of [^,]*", self.target):
            return f"{self.target} {self.score:.3g}"
        name = self.label if self.label is not None else f"class {self.class_index}"
        return f"{name} {self.probability:.2f}" if self.probability is not None else f"{name} {self.score:.3g}"

    def per_layer(self) -> tuple[Explanation, ...]:
        """One explanation per target layer, each with that layer's map."""
        return tuple(replace(self, heatmap=m.heatmap, maps=(m,), fuse=None) for m in self.maps)

    def heatmap_on_image(self, kind: str = "bilinear") -> Float:
        """(H0, W0) float32 in [0, 1] in pixels of the original picture; 0 where the model did not look."""
        return (self._whole if kind == "bilinear" else self._on_image(kind)).copy()

    @cached_property
    def _whole(self) -> Float:
        """What most results of one picture start from."""
        return self._on_image("bilinear")

    def _on_image(self, kind: str) -> Float:
        if self.placement is None:
            return self.heatmap
        whole = self.placement.to_image(self.heatmap, kind)
        return whole if self.normalize == "none" else np.clip(whole, 0.0, 1.0, out=whole)

    def overlay(
        self,
        image: npt.NDArray[Any] | None = None,
        *,
        style: str = "blend",
        blend: float = 0.5,
        colormap: str | None = None,
        title: str | bool | None = None,
    ) -> Pixels:
        """The heatmap over the original picture: uint8 (H0, W0, 3) RGB, taller by a head line if it has a title.

        Args:
            image: another picture of the heatmap's size; needed where tensors were explained.
            style: ``"blend"``, ``"add"`` or ``"mask"``.
            blend: share of the colours, 0 to 1.
            colormap: a name of :data:`onnxcam.core.overlay.COLORMAPS`, or ``"diverging"`` for signed maps; None takes
                ``"jet"``, for maps that were not normalised ``"diverging"``.
            title: a head line; True for class and score.

        Raises:
            OptionError: no picture is known.
        """
        from onnxcam.core.overlay import DIVERGING, overlay

        picture = self.image if image is None else image
        if picture is None:
            raise OptionError("there is no picture to lay the map over; give one: e.overlay(image)")
        heatmap = self._whole if image is None else self.heatmap
        text = self.title if title is True else (title or None)
        colours = colormap or (DIVERGING if self.normalize == "none" else "jet")
        return overlay(picture, heatmap, style=style, blend=blend, colormap=colours, title=text)

    def signed_overlay(self, blend: float = 0.7) -> Pixels:
        """The raw map over the picture, red for the score and blue against it: uint8 (H0, W0, 3) RGB.

        Raises:
            OptionError: the maps of several layers were fused, which have no common scale.
        """
        self._unfused()
        from onnxcam.core.maps import resize

        raw = np.asarray(resize(np, self.cam, (self.heatmap.shape[0], self.heatmap.shape[1])), np.float32)
        return replace(self, heatmap=raw, normalize="none").overlay(blend=blend)

    def recipe(self, name: str) -> Pixels:
        """The picture that a well-known kind of script would have made of this map: uint8 (H, W, 3) RGB.

        Args:
            name: a name of :data:`onnxcam.core.recipes.RECIPES`.

        Raises:
            UnknownNameError: no such recipe.
            OptionError: no picture is known, the map is constant, or the model did not see the whole photo.
        """
        from onnxcam.core.recipes import find_recipe

        chosen = find_recipe(name)
        self._unfused()
        if self.image is None or self.placement is None:
            raise OptionError("there is no picture to draw on; explain a picture, not a tensor")
        seen = self.placement
        if not chosen.whole:
            return chosen.draw(self.cam, seen.to_input(self.image))
        if (seen.offset, seen.resized) != ((0, 0), seen.size):
            raise OptionError(
                f"recipe {name!r} lays the map over the whole photo, but the model saw a part of it or a margin; "
                "give the preprocessing fit=stretch"
            )
        return chosen.draw(self.cam, self.image)

    def _unfused(self) -> None:
        if self.fuse:
            raise OptionError("the raw maps of several layers have no common scale; take one of e.per_layer()")

    def attribution_image(self) -> Pixels:
        """Pixel methods: the signed gradient as a grey-centred picture, uint8 (H, W, 3) RGB.

        Raises:
            OptionError: the method makes no pixel map.
        """
        from onnxcam.core.overlay import saliency_image

        if self.attribution is None:
            raise OptionError(f"method {self.method} has no pixel attribution; use overlay(), or guided_gradcam")
        signed = np.moveaxis(self.attribution, 0, -1)
        return saliency_image(np.repeat(signed, 3, axis=2) if signed.shape[2] == 1 else signed)

    def mask(
        self,
        threshold: float | str = 0.15,
        largest_only: bool = False,
        min_area: int = 0,
        refine: str | None = None,
    ) -> npt.NDArray[np.bool_]:
        """The pixels that the map marks as the object: bool (H0, W0), the size of the original picture.

        Args:
            threshold: share of the map's maximum, or ``"otsu"`` (:func:`onnxcam.core.segment.otsu`).
            largest_only: only the largest component.
            min_area: leave out components of fewer pixels.
            refine: ``"grabcut"`` moves the edges to those of the picture (:func:`onnxcam.core.segment.grabcut`).

        Raises:
            OptionError, UnknownNameError: a threshold or refinement that does not exist, or no picture to refine by.
        """
        from onnxcam.core.segment import REFINEMENTS, segment

        if refine is not None and refine not in REFINEMENTS:
            raise UnknownNameError.of("refinement", refine, REFINEMENTS)
        if refine and self.image is None:
            raise OptionError(
                f"refine={refine!r} needs the picture, but only a tensor was explained; explain a picture"
            )
        return segment(self._whole, threshold, largest_only, min_area, self.image if refine else None)

    def boxes(
        self,
        threshold: float | str = 0.15,
        largest_only: bool = True,
        min_area: int = 0,
        refine: str | None = None,
    ) -> list[Box]:
        """Boxes round the components of :meth:`mask`, in pixels of the original picture, the highest score first."""
        from onnxcam.core.localize import boxes_in

        return boxes_in(self._whole, self.mask(threshold, largest_only, min_area, refine))

    def regions(
        self,
        threshold: float | str = 0.15,
        largest_only: bool = True,
        min_area: int = 0,
        refine: str | None = None,
    ) -> list[Region]:
        """:meth:`boxes`, each with its class and pixels: what :mod:`onnxcam.core.annotation` writes as COCO or VOC."""
        number = str(self.class_index) if self.class_index >= 0 else self.target
        return regions(self.label or number, self._whole, self.mask(threshold, largest_only, min_area, refine))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON values."""
        return {
            "version": VERSION,
            "source": self.source,
            "class_index": self.class_index,
            "label": self.label,
            "score": self.score,
            "probability": self.probability,
            "target": self.target,
            "top": [{"class_index": i, "label": name, "logit": z} for i, name, z in self.top],
            "method": self.method,
            "engine": self.engine,
            "fuse": self.fuse,
            "normalize": self.normalize,
            "layers": [{"name": m.layer, "reason": m.reason, "shape": list(m.cam.shape)} for m in self.maps],
            "blank": self.is_blank,
            "notes": list(self.notes),
            "preprocess": None if self.preprocess is None else self.preprocess.to_dict(),
            "placement": None if self.placement is None else _placement_record(self.placement),
            **self.provenance,
        }

    def save(self, folder: str | Path, stem: str | None = None, **style: Any) -> dict[str, Path]:
        """Write overlay (PNG, one per layer), arrays (NPZ) and record (JSON), each file whole or not at all.

        Args:
            folder: is made where it does not exist.
            stem: first part of the file names; None takes the picture's and the method's.
            style: as for :meth:`overlay`.

        Returns:
            The files by kind: ``overlay`` (if there is a picture), ``attribution`` (pixel methods: the signed gradient
            round grey), ``arrays``, ``record``.

        Raises:
            OutputError: the folder cannot be written.
        """
        pictures = self._pictures(style)
        where = make_folder(folder)
        name = stem or f"{Path(self.source).stem or 'explanation'}.{self.method}"
        files = {
            kind: where / f"{name}{kind.removeprefix('overlay') and '.' + kind.replace('overlay.', '')}.png"
            for kind in pictures
        }
        for kind, picture in pictures.items():
            save_image(files[kind], picture)
        files["arrays"] = write_whole(where / f"{name}.npz", packed(self))
        record = {**self.to_dict(), "files": {k: p.name for k, p in files.items()}}
        files["record"] = write_whole(where / f"{name}.json", json.dumps(record, indent=1).encode())
        return files

    def _pictures(self, style: dict[str, Any]) -> dict[str, Pixels]:
        """What :meth:`save` writes as PNG: ``overlay`` (``overlay.2``, ... of further layers), ``attribution``."""
        found: dict[str, Pixels] = {}
        if self.image is not None:
            for number, one in enumerate((self,) if self.fuse else self.per_layer()):
                found["overlay" if number == 0 else f"overlay.{number + 1}"] = one.overlay(**{"title": True, **style})
        if self.attribution is not None:
            found["attribution"] = self.attribution_image()
        return found

    @staticmethod
    def load(record: str | Path) -> Explanation:
        """Read what :meth:`save` wrote, from its JSON record; the picture itself is not read again.

        Raises:
            OptionError: not such a record, or its arrays are missing.
        """
        return _load(Path(record))

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        from onnxcam.core.overlay import colorize
        from onnxcam.image import encode_image

        return encode_image(self.overlay(title=True) if self.image is not None else colorize(self.heatmap))


def make_folder(folder: str | Path) -> Path:
    """Make a folder and check that it can be written.

    Raises:
        OutputError: it cannot.
    """
    where = Path(folder)
    try:
        where.mkdir(parents=True, exist_ok=True)
        if not os.access(where, os.W_OK):
            raise PermissionError(13, "permission denied")
    except (OSError, ValueError) as error:  # a name that no folder can have
        raise OutputError(f"cannot write to the folder {where}: {reason(error)}; choose another") from error
    return where


def packed(e: Explanation) -> bytes:
    """The arrays of an explanation, as :meth:`Explanation.save` keeps them: the bytes of an .npz file."""
    arrays: dict[str, npt.NDArray[Any]] = {"heatmap": e.heatmap}
    for number, m in enumerate(e.maps):
        arrays |= {f"cam_{number}": m.cam, f"heatmap_{number}": m.heatmap}
    if e.attribution is not None:
        arrays["attribution"] = e.attribution
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _placement_record(placement: Placement) -> dict[str, Any]:
    from dataclasses import asdict

    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(placement).items()}


_OWN: tuple[str, ...] = (
    "version",
    "source",
    "class_index",
    "label",
    "score",
    "probability",
    "target",
    "top",
    "method",
    "engine",
)
_OWN += ("layers", "blank", "notes", "preprocess", "placement", "files", "fuse", "normalize")


def _load(path: Path) -> Explanation:
    try:
        record = json.loads(path.read_text())
        with np.load(path.with_name(record["files"]["arrays"])) as arrays:
            return _assembled(record, dict(arrays))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(f"{path} is no record of an explanation, or its arrays are missing: {error}") from error


def _assembled(record: dict[str, Any], arrays: dict[str, Any]) -> Explanation:
    layers: Sequence[dict[str, Any]] = record["layers"]
    maps = [LayerMap(m["name"], m["reason"], arrays[f"cam_{i}"], arrays[f"heatmap_{i}"]) for i, m in enumerate(layers)]
    place, plain = record["placement"], {"normalize": "max", **record}
    return Explanation(
        heatmap=arrays["heatmap"],
        maps=tuple(maps),
        top=tuple((t["class_index"], t["label"], t["logit"]) for t in record["top"]),
        attribution=arrays.get("attribution"),
        notes=tuple(record["notes"]),
        provenance={k: v for k, v in record.items() if k not in _OWN},
        preprocess=None if record["preprocess"] is None else Preprocess.from_dict(record["preprocess"]),
        placement=None if place is None else Placement(**{k: _tuple(v) for k, v in place.items()}),
        **{
            k: plain[k]
            for k in (
                "score",
                "class_index",
                "label",
                "probability",
                "target",
                "method",
                "engine",
                "source",
                "fuse",
                "normalize",
            )
        },
    )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
