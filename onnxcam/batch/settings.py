"""What a job does to each picture, and what it keeps: one record, whose hash says whether two jobs are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from onnxcam.core.overlay import overlay
from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.explainer import Explainer
from onnxcam.files import sha256_of
from onnxcam.image import MAX_PIXELS

KINDS = ("overlay", "heatmap", "panel", "raw", "box", "voc", "json")
"""What can be kept of a picture; ``box`` makes ``boxes.json`` (COCO) of the whole job, ``voc`` a Pascal VOC file."""
IMAGE_FORMATS = ("jpg", "png", "webp")
HEATMAP_FORMATS = ("png", "png16", "npy", "npz")
RUNNERS = ("local", "ray")
_MATTERS_TO = {
    **dict.fromkeys(("image", "colormap", "blend", "style"), ("overlay", "panel")),
    **{"heatmap": ("heatmap",), "title": ("overlay",), "threshold": ("box", "voc")},
}


@dataclass(frozen=True)
class Saving:
    """What is kept of each picture.

    Attributes:
        kinds: of :data:`KINDS`; kept in their order, each once.
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
        object.__setattr__(self, "kinds", tuple(kind for kind in KINDS if kind in self.kinds))
        _known("image format", (self.image,), IMAGE_FORMATS)
        _known("heatmap format", (self.heatmap,), HEATMAP_FORMATS)
        if not 0 < self.threshold <= 1:
            raise OptionError(f"threshold={self.threshold}: it must be above 0 and at most 1")
        nothing = np.zeros((1, 1), np.float32)
        overlay(
            np.zeros((1, 1, 3), np.uint8), nothing, style=self.style, blend=self.blend, colormap=self.colormap or "jet"
        )

    @property
    def effective(self) -> dict[str, Any]:
        """What decides what the files are: a box's threshold where boxes are kept, and so on; the rest is None."""
        kept = {name for name, kinds in _MATTERS_TO.items() if set(kinds) & set(self.kinds)}
        return {name: value if name in (*kept, "kinds") else None for name, value in asdict(self).items()}

    @property
    def drawing(self) -> dict[str, Any]:
        """As :meth:`onnxcam.Explanation.overlay` takes it."""
        return {"style": self.style, "blend": self.blend, "colormap": self.colormap, "title": self.title or None}


def _known(kind: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise UnknownNameError.of(kind, name, known)


def _counted(name: str, given: object) -> None:
    if not isinstance(given, int) or given < 1:
        raise OptionError(f"{name}={given!r}: give a whole number above 0")


@dataclass(frozen=True)
class Settings:
    """What a job does.

    Attributes:
        model: a path, ``zoo:NAME``, or several, each behind the one before.
        options: keywords of :class:`~onnxcam.Explainer`, all of them JSON values.
        target: what is explained where an item does not say it; see :data:`onnxcam.targets.FORMS`. None: the top
            class, as ``"top1"``.
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
            _counted(name, getattr(self, name))
        if self.target == "top1":
            object.__setattr__(self, "target", None)

    def explainer(self) -> Explainer:
        """The explainer that these settings describe."""
        return Explainer(self.model, **self.options)

    def configuration(self, explainer: Explainer) -> dict[str, Any]:
        """All that decides what the results are, as JSON values: what ``auto`` chose included."""
        chosen = {
            "model_sha256": explainer.model.sha256,
            "weights_sha256": [sha256_of(path) for path in explainer.model.weights],
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
        own = {name: getattr(self, name) for name in ("target", "batch", "max_pixels")}
        told = {**chosen, **own, "saving": self.saving.effective}
        return dict(json.loads(json.dumps(told, default=_plain)))


def digest(value: Any) -> str:
    """The SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What is not the same, each ``key.key: value, now value``."""
    one, other = dict(_flat(before)), dict(_flat(now))
    for key in {**one, **other}:
        if one.get(key) != other.get(key):
            yield f"{key}: {', now '.join(_cut_to_differ(json.dumps(one.get(key)), json.dumps(other.get(key))))}"


def _flat(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _cut_to_differ(*texts: str) -> Iterator[str]:
    """Long texts from shortly before the place where they part."""
    same = next((k for k, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), 0)
    start = max(0, same - 20) if max(map(len, texts)) > 60 else 0
    for text in texts:
        shown = f"{'...' * bool(start)}{text[start:]}"
        yield shown if len(shown) <= 60 else f"{shown[:57]}..."


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


@dataclass(frozen=True)
class Running:
    """How a job is run: nothing of it changes the results.

    Attributes:
        resume: go on with a job that is there; one that was not begun is begun.
        retry_errors: with ``resume``: try again what failed.
        workers: threads, or processes; None: one for each core (of the cluster).
        runner: of :data:`RUNNERS`.
        ray_address: of a cluster.
        report: make the report in the end.

    Raises:
        UnknownNameError, OptionError: a value that does not fit; no Ray.
    """

    resume: bool = False
    retry_errors: bool = False
    workers: int | None = None
    runner: str = "local"
    ray_address: str | None = None
    report: bool = False

    def __post_init__(self) -> None:
        _known("runner", (self.runner,), RUNNERS)
        if self.ray_address is not None and self.runner != "ray":
            raise OptionError(f"ray_address={self.ray_address!r} belongs to the runner 'ray', not to {self.runner!r}")
        if self.workers is not None:
            _counted("workers", self.workers)
        if self.runner == "ray":
            from onnxcam.batch import ray

            ray.check(self.ray_address)
