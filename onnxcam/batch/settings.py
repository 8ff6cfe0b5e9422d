"""What a job does to each picture, and what it keeps: one record, whose hash says whether two jobs are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from onnxcam.batch.plan import digest
from onnxcam.core.overlay import overlay
from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.explainer import Explainer
from onnxcam.image import MAX_PIXELS

KINDS = ("overlay", "heatmap", "panel", "raw", "box", "json")
"""What can be kept of a picture; ``box`` also makes ``boxes.json`` (COCO) of the whole job."""
IMAGE_FORMATS = ("jpg", "png", "webp")
HEATMAP_FORMATS = ("png", "png16", "npy", "npz")


@dataclass(frozen=True)
class Saving:
    """What is kept of each picture.

    Attributes:
        kinds: of :data:`KINDS`.
        image: the format of overlays and panels, of :data:`IMAGE_FORMATS`.
        heatmap: the format of heatmaps, of :data:`HEATMAP_FORMATS`: grey levels of 8 or 16 bits, or float32.
        colormap, blend, style, title: how overlays are drawn; see :meth:`onnxcam.Explanation.overlay`.
        threshold: share of the maximum, for boxes.

    Raises:
        UnknownNameError, OptionError: a value that is none of these.
    """

    kinds: tuple[str, ...] = ("overlay",)
    image: str = "jpg"
    heatmap: str = "png"
    colormap: str | None = None
    blend: float = 0.5
    style: str = "blend"
    title: bool = False
    threshold: float = 0.15

    def __post_init__(self) -> None:
        _known("result to save", self.kinds, KINDS)
        _known("image format", (self.image,), IMAGE_FORMATS)
        _known("heatmap format", (self.heatmap,), HEATMAP_FORMATS)
        if not 0 < self.threshold <= 1:
            raise OptionError(f"threshold={self.threshold}: it must be above 0 and at most 1")
        nothing = np.zeros((1, 1), np.float32)
        overlay(
            np.zeros((1, 1, 3), np.uint8), nothing, style=self.style, blend=self.blend, colormap=self.colormap or "jet"
        )

    @property
    def drawing(self) -> dict[str, Any]:
        """As :meth:`onnxcam.Explanation.overlay` takes it."""
        return {"style": self.style, "blend": self.blend, "colormap": self.colormap, "title": self.title or None}


def _known(kind: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise UnknownNameError.of(kind, name, known)


@dataclass(frozen=True)
class Settings:
    """What a job does.

    Attributes:
        model: a path, ``zoo:NAME``, or several, each behind the one before.
        options: keywords of :class:`~onnxcam.Explainer`, all of them JSON values.
        target: what is explained where an item does not say it; see :data:`onnxcam.targets.FORMS`.
        saving: what is kept.
        batch: pictures of one group, which is run together where the model's batch axis is free.
        max_pixels: the largest picture that is opened.
    """

    model: str | tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    target: str | None = None
    saving: Saving = field(default_factory=Saving)
    batch: int = 4
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        for name in ("batch", "max_pixels"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)}: give a number above 0")

    def explainer(self) -> Explainer:
        """The explainer that these settings describe."""
        return Explainer(self.model, **self.options)

    def configuration(self, explainer: Explainer) -> dict[str, Any]:
        """All that decides what the results are, as JSON values: what ``auto`` chose included."""
        chosen = {
            "model_sha256": explainer.model.sha256,
            "logits": explainer.logits.name,
            "element": explainer.element,
            "method": explainer.method.name,
            "options": explainer.options,
            "layers": [layer.name for layer in explainer.layers],
            **asdict(explainer.shaping),
            "smooth": explainer.smooth,
            "engine": explainer.programs.engine,
            "straight_through": explainer.programs.straight_through,
            "inputs": explainer.inputs,
            "preprocess": explainer.preprocess.to_dict(),
            "labels_sha256": None if explainer.labels is None else digest(list(explainer.labels)),
        }
        own = {"target": self.target, "saving": asdict(self.saving), "batch": self.batch, "max_pixels": self.max_pixels}
        return dict(json.loads(json.dumps({**chosen, **own}, default=_plain)))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
