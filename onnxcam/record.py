"""From raw maps and scores to Explanations: shaping, notes, provenance."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from onnxcam import __version__
from onnxcam.core import guided, maps
from onnxcam.errors import ModelError
from onnxcam.explanation import Explanation, LayerMap
from onnxcam.gradients import Backward
from onnxcam.graph.inspect import Logits
from onnxcam.layers import TargetLayer
from onnxcam.methods import Method
from onnxcam.model import Model
from onnxcam.runtime import Array, installed_builds, load_runtime
from onnxcam.targets import TOP1, Target

_TOP = 5
_OF_ONE_PICTURE = re.compile(
    "the map is blank|the top class is a tie|the model's own output is rounded to a tie|the box scores only|"
    r"class \d+ wins in most boxes|the (log-)?probability is saturated|the largest standard error .* above the|"
    "the map cannot be told from noise"
)
_OF_THE_JOB = re.compile(
    "explained at |ReLU policy |steps stop |a quantised network |the graph suppresses the boxes|"
    r"all \d+ masks were made"
)


def of_one_picture(note: str) -> bool:
    """Whether a note of an explanation is a doubt about this picture's."""
    return bool(_OF_ONE_PICTURE.match(note))


def of_the_job(note: str) -> bool:
    """Whether a note holds for all pictures that a model is asked about in the same way."""
    return bool(_OF_THE_JOB.match(note))


@dataclass(frozen=True)
class Shaping:
    """How a raw map becomes a heatmap.

    Attributes:
        normalize: ``"max"`` (ReLU, then divide by the maximum), ``"minmax"``, ...; :func:`onnxcam.core.maps.normalize`.
        fuse: ``"max"`` or ``"mean"`` of several layers; None keeps them apart.
    """

    normalize: str = "max"
    fuse: str | None = None

    def heat(self, cam: Array, size: tuple[int, int]) -> Array:
        """(N, h, w) raw -> (N, H, W). Grad-CAM's ReLU comes before upsampling; "minmax" shows both signs."""
        rectified = maps.relu(np, cam) if self.normalize in ("max", "percentile") else cam
        return np.asarray(maps.normalize(np, maps.resize(np, rectified, size), self.normalize))


@dataclass(frozen=True)
class Raw:
    """What a method found for N samples, before any shaping.

    Attributes:
        answers: ``score`` (N, 1), ``class_index`` (N,), ``logits`` (N, C), perhaps ``probabilities`` and ``own``.
        cams: one (N, h, w) float32 per target layer; for methods without a layer, their one map.
        signed: (N, C, H, W) of pixel methods.
        walk: the reverse walk, where there was one.
        quantised: prediction and score come from the untouched model.
        more: the ``cams`` of further views of the same images, whose heatmaps are averaged with these.
        notes: per sample, what the method told; () for nothing.
    """

    answers: Mapping[str, Array]
    cams: Sequence[Array]
    signed: Array | None = None
    walk: Backward | None = None
    quantised: bool = False
    more: Sequence[Sequence[Array]] = ()
    notes: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Recorder:
    """Makes the records of one explainer.

    Attributes:
        label: how messages call the model.
        logits: where its scores are.
        method: the method.
        layers: its target layers.
        labels: class names.
        shaping: how raw maps become heatmaps.
        provenance: what was explained, for the record.
    """

    label: str
    logits: Logits
    method: Method
    layers: Sequence[TargetLayer]
    labels: Sequence[str] | None
    shaping: Shaping
    provenance: Mapping[str, Any]

    def explanations(self, target: Target, raw: Raw, size: tuple[int, int]) -> list[Explanation]:
        """One per sample; ``size`` is the model's input (H, W)."""
        heats = [self._heat(views, size) for views in zip(raw.cams, *raw.more, strict=True)]
        fuse = self.shaping.fuse
        signed = raw.signed
        if signed is not None and heats:  # a product with a rectified map, however the result is shown
            heats = [replace(self, shaping=Shaping())._heat(v, size) for v in zip(raw.cams, *raw.more, strict=True)]
        whole = maps.fuse(np, heats, fuse) if fuse and heats else (heats[0] if heats else None)
        if signed is not None:
            signed = guided.guided_gradcam(np, signed, whole) if whole is not None else signed
            whole = maps.normalize(np, guided.magnitude(np, signed), self.shaping.normalize)
        assert whole is not None
        cams = [np.asarray(_mean(views), np.float32) for views in zip(raw.cams, *raw.more, strict=True)]
        parts = [self._maps(k, cams, heats, whole, signed) for k in range(len(whole))]
        return [self._one(k, target, raw, whole[k], parts[k], signed) for k in range(len(whole))]

    def _heat(self, views: Sequence[Array], size: tuple[int, int]) -> Array:
        """Of several views, the mean of their heatmaps."""
        return _mean([self.shaping.heat(cam, size) for cam in views])

    def _maps(
        self, k: int, cams: Sequence[Array], heats: Sequence[Array], whole: Array, signed: Array | None
    ) -> tuple[LayerMap, ...]:
        if not self.layers or signed is not None:
            none = TargetLayer("", "", "NCHW", "this method needs no layer")
            layer = self.layers[0] if self.layers else none
            cam = cams[0][k] if cams else guided.magnitude(np, signed)[k]
            return (LayerMap(layer.name, layer.reason, cam, whole[k]),)
        pairs = zip(self.layers, cams, heats, strict=True)
        return tuple(LayerMap(layer.name, layer.reason, cam[k], heat[k]) for layer, cam, heat in pairs)

    def _one(
        self, k: int, target: Target, raw: Raw, heatmap: Array, parts: tuple[LayerMap, ...], signed: Array | None
    ) -> Explanation:
        answers = raw.answers
        logits, index = answers["logits"][k], int(answers["class_index"][k])
        if not np.all(np.isfinite(logits)) or not np.all(np.isfinite(heatmap)):
            what = "scores" if not np.all(np.isfinite(logits)) else "gradients"
            raise ModelError(
                f"{self.label} gives NaN or infinite {what} for this input; check the preprocessing and, for a "
                "float16 model, its range"
            )
        best = _best(logits)
        return Explanation(
            heatmap=np.ascontiguousarray(heatmap, dtype=np.float32),
            maps=parts,
            score=float(answers["score"][k, 0]),
            class_index=index,
            label=self._name(index),
            probability=_probability(answers, k, index),
            top=tuple((int(i), self._name(int(i)), float(logits[i])) for i in best) if index >= 0 else (),
            target=self._words(target, index),
            method=self.method.name,
            engine=raw.walk.engine if raw.walk else "",
            attribution=None if signed is None else signed[k],
            notes=(
                *target.notes,
                *(raw.notes[k] if raw.notes else ()),
                *self._notes(target, logits, heatmap, raw, parts),
                *filter(None, [target.doubt(float(answers["score"][k, 0]))]),
                *self._ties(target, answers, k),
            ),
            provenance={**self.provenance, **target.facts},
            fuse=self.shaping.fuse,
            normalize=self.shaping.normalize,
        )

    def _name(self, index: int) -> str | None:
        return self.labels[index] if self.labels and 0 <= index < len(self.labels) else None

    def _words(self, target: Target, index: int) -> str:
        names = [index, *target.classes[1:]]
        said = [f"class {i}" if self._name(i) is None else f"{self._name(i)} ({i})" for i in names]
        return target.describe(said)

    def _notes(self, target: Target, logits: Array, heatmap: Array, raw: Raw, parts: Sequence[LayerMap]) -> list[str]:
        notes, walk = [], raw.walk
        if self.logits.stepped_over:
            notes.append(f"explained at {self.logits.name}, {self.logits.reason}")
        if target.classes[:1] == (TOP1,) and (tied := int(np.sum(logits == logits.max()))) > 1:
            notes.append(f"the top class is a tie of {tied} classes; the first was explained")
        if self.method.relu not in (None, "plain") and walk is not None:
            notes.append(f"ReLU policy {self.method.relu} changed {walk.changed} of {walk.sites} activations")
        if walk is not None and walk.stopped:
            notes.append(f"steps stop a part of the gradient: {walk.stopped}; straight_through lets it pass")
        if raw.quantised:
            notes.append(
                "a quantised network is differentiated: its quantisers pass the gradient straight through where they "
                "do not saturate; prediction and score come from the untouched model"
            )
        if not np.any(heatmap):
            notes.append(self._why_blank(parts))
        return notes

    def _ties(self, target: Target, answers: Mapping[str, Array], k: int) -> list[str]:
        """What quantisers at the end make equal, though the scores before them differ."""
        own = answers.get("own", answers.get("probabilities")) if self.logits.rounded else None
        tied = 0 if own is None or target.classes[:1] != (TOP1,) else int(np.sum(own[k] == own[k].max()))
        return [f"the model's own output is rounded to a tie of {tied} classes at the top"] if tied > 1 else []

    def _why_blank(self, parts: Sequence[LayerMap]) -> str:
        if all(part.cam.max() <= 0 and part.cam.min() < 0 for part in parts):
            return (
                "the map is blank: all that it holds is negative, it speaks against the score. Show it with normalize "
                "'none', or ask for what speaks against it: counterfactual"
            )
        if self.method.name == "counterfactual":
            return (
                "the map is blank: nothing in the picture speaks against this class at this layer (all weighted "
                "features support it). Ask against which class: target 'margin:OTHER,CLASS' with gradcam"
            )
        if not self.layers:
            return "the map is blank: no part of the picture changes the score. Check the preprocessing and the target"
        return "the map is blank: nothing at this layer speaks for the score. Try another layer, class or hirescam"


def _mean(views: Sequence[Array]) -> Array:
    return views[0] if len(views) == 1 else np.asarray(np.mean(views, axis=0))


def _best(logits: Array) -> Array:
    """The classes of the highest scores, best first; of equal ones the first."""
    least = -np.partition(-logits, _TOP - 1)[_TOP - 1] if len(logits) > _TOP else -np.inf
    found = np.flatnonzero(logits >= least)  # all that are as good as the last place
    return found[np.argsort(-logits[found], kind="stable")][:_TOP]


def _probability(answers: Mapping[str, Array], k: int, index: int) -> float | None:
    if index < 0 or "probabilities" not in answers:
        return None
    own = answers["probabilities"][k].reshape(-1)
    return float(own[index]) if len(own) == answers["logits"][k].size else None  # else it is no row per picture


def provenance(model: Model, logits: str) -> dict[str, Any]:
    """What was explained, by hash, and with which versions."""
    return {
        "model": str(model.path) if model.path else "",
        "model_sha256": model.sha256,
        "logits": logits,
        "versions": dict(_versions()),
    }


@cache
def _versions() -> dict[str, Any]:
    """Reading what is installed takes longer than a small model's run."""
    return {"onnxcam": __version__, "onnxruntime": load_runtime().__version__, "builds": installed_builds()}
