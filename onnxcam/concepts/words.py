"""One picture's explanation in words, with the pictures that show what each word means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.concepts.record import Named, Names
from onnxcam.core import maps
from onnxcam.core.overlay import panel
from onnxcam.errors import OptionError
from onnxcam.explainer import Explainer, TargetLike
from onnxcam.explanation import Explanation, make_folder
from onnxcam.files import write_whole
from onnxcam.image import save_image
from onnxcam.layers import named_layer
from onnxcam.probe import ModelProbe
from onnxcam.programs import Plan
from onnxcam.targets import Target

Array = NDArray[Any]
Pixels = NDArray[np.uint8]
_LEAST = 240  # pixels across; below it the text over a tile is cut off
_DIMMED = 0.3  # what is left of the picture where a channel does not fire


@dataclass(frozen=True)
class Word:
    """A concept that speaks for a class, or against it.

    Attributes:
        name: the concept.
        weight: sum of the Grad-CAM weights of its channels: above 0 for the class, below 0 against it.
        channels: those of the listed channels that bear the name, the strongest first.
        drop: how much lower the score is when these channels are silenced, set to 0; above 0: they did speak for it.
        fires: one of them exceeds the level at which its name was found; if not, the concept is faint here at best.
        seen: bool (H, W), at model-input size: where the strongest exceeds that level, or half of its own maximum.
    """

    name: str
    weight: float
    channels: tuple[int, ...]
    drop: float
    fires: bool
    seen: NDArray[np.bool_] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Words:
    """Why a model answered as it did, in words.

    Attributes:
        explanation: the Grad-CAM map of the same class and layer.
        positive: what speaks for the class, the strongest first.
        negative: what speaks against it, the strongest first.
        top: channels with the largest weights, named or not.
        unnamed: how many of them have no name.
        drop: how much lower the score is when the named ones of them are silenced.
    """

    explanation: Explanation
    positive: tuple[Word, ...]
    negative: tuple[Word, ...]
    top: tuple[int, ...]
    unnamed: int
    drop: float

    @property
    def sentence(self) -> str:
        """Such as "said truck because of: wheel (+), headlight (+), not: sky (-)"."""
        e = self.explanation
        name = e.label if e.label is not None else f"class {e.class_index}"
        said = f"said {name}" if e.top[:1] and e.top[0][0] == e.class_index else f"{name}, which it did not say"
        why = ", ".join(f"{w.name} (+)" for w in self.positive)
        against = ", ".join(f"{w.name} (-)" for w in self.negative)
        parts = [f"because of: {why}" if why else "because of nothing that has a name", f"not: {against}"]
        return f"{said} {', '.join(parts if against else parts[:1])}"

    @property
    def doubt(self) -> str:
        """How much of the reason has no name; "" where all has one."""
        if not self.unnamed:
            return ""
        return f"{self.unnamed} of the {len(self.top)} channels that speak most for it have no name"

    def picture(self) -> Pixels:
        """The picture, its Grad-CAM overlay, and per word the picture with the places bright that excite it.

        Returns:
            uint8 (H, W, 3), a panel.

        Raises:
            OptionError: a tensor was explained: there is no picture.
        """
        e = self.explanation
        if e.image is None or e.placement is None:
            raise OptionError("there is no picture to show evidence in; explain a picture, not a tensor")
        words = [*((w, "+") for w in self.positive), *((w, "-") for w in self.negative)]
        shown = [_lit(e.image, e.placement.to_image(w.seen.astype(np.float32))) for w, _ in words]
        labels = [e.title, "Grad-CAM", *(f"{sign} {w.name}" for w, sign in words)]
        return panel([_readable(tile) for tile in (e.image, e.overlay(), *shown)], labels=labels)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        e = self.explanation
        return {
            "source": e.source, "class_index": e.class_index, "label": e.label, "score": e.score, "layer": e.layer,
            "sentence": self.sentence, "positive": [_plain(w) for w in self.positive],
            "negative": [_plain(w) for w in self.negative], "top": list(self.top), "unnamed": self.unnamed,
            "drop": self.drop,
        }  # fmt: skip

    def save(self, folder: str | Path, stem: str | None = None) -> dict[str, Path]:
        """Write the evidence (``STEM.words.png``) and the record (``STEM.words.json``).

        Raises:
            OutputError: the folder cannot be written.
        """
        where, name = make_folder(folder), stem or Path(self.explanation.source).stem or "explanation"
        picture = where / f"{name}.words.png"
        save_image(picture, self.picture())
        record = {**self.to_dict(), "evidence": picture.name}
        return {"evidence": picture, "record": write_whole(where / f"{name}.words.json", json.dumps(record).encode())}


def in_words(
    explainer: Explainer, image: str | Path | Array, names: Names, target: TargetLike = None, top: int = 5
) -> Words:
    """Explain one picture in words: the named ones of the channels with the largest Grad-CAM weights.

    Selvaraju et al., "Grad-CAM", 2017, https://arxiv.org/abs/1610.02391, appendix on textual explanations: the
    ``top`` channels by ``alpha_k`` (the mean over places of the score's gradient at channel k) speak for the class, the
    last ``top`` against it. Channels that are 0 all over this picture are passed over: they say nothing about it.
    Channels of one name become one word; a name on both sides stands on that of its sum.

    Behind a global average pool and one linear layer, alpha_k is the same for all pictures of a class.

    Args:
        explainer: with Grad-CAM on the layer that is named.
        image: a path, or uint8 (H, W, 3).
        names: of that layer's channels.
        target: class index or label; None for the top class.
        top: how many channels speak for the class, and how many against it.

    Raises:
        OptionError: names of another model or layer, a method other than Grad-CAM, several layers, no class.
    """
    _check(explainer, names)
    if top < 1:
        raise OptionError(f"top={top}: give at least one channel")
    chosen = explainer.check_target(target)
    if chosen.looks:
        raise OptionError(f"target {target!r}: words explain classes; give a class index or a label")
    e, x = explainer.explain(image, target), explainer.prepare(image).tensor
    A, alpha = _weighed(explainer, x, chosen)
    if (last := max((n.channel for n in names.channels), default=0)) >= len(A):
        raise OptionError(f"the layer has {len(A)} channels, counted from 0, and channel {last} has a name as well")
    for_it, against = _extremes(alpha, A, top)
    probe = ModelProbe(explainer.programs, x, chosen.fixed(e.class_index), explainer.layers[0], explainer.inputs)
    groups = _groups([*for_it, *against], names)
    named = [k for k in for_it if names.of(k)]
    *drops, whole = silenced(probe, A, [*([n.channel for n in group] for group in groups), named])
    words = [_word(group, alpha, A, e, drop) for group, drop in zip(groups, drops, strict=True)]
    return Words(
        e,
        tuple(sorted((w for w in words if w.weight > 0), key=lambda w: -w.weight)),
        tuple(sorted((w for w in words if w.weight < 0), key=lambda w: w.weight)),
        tuple(for_it),
        len(for_it) - len(named),
        whole,
    )


def silenced(probe: ModelProbe, A: Array, groups: Sequence[Sequence[int]]) -> list[float]:
    """How much lower the score is when each group of channels of ``A`` (K, h, w) is set to 0."""
    edited = np.repeat(A[None], len(groups) + 1, axis=0)
    for k, group in enumerate(groups):
        edited[k, list(group)] = 0
    scores = probe.head(edited)
    return [float(scores[-1] - s) for s in scores[:-1]]


def _weighed(explainer: Explainer, x: Array, target: Target) -> tuple[Array, Array]:
    """The target layer's activations (K, h, w) and their Grad-CAM weights (K,)."""
    layer = explainer.layers[0]
    plan = Plan(read=(layer.value,), wrt=(layer.value,))
    answers, _ = explainer.programs.run(x, target, explainer.inputs, plan)
    raw = answers[f"A/{layer.value}"]
    G = layer.fold(np.broadcast_to(answers[f"G/{layer.value}"], raw.shape))[0]
    return layer.fold(raw)[0].astype(np.float32), G.mean(axis=(1, 2), dtype=np.float64)


def _extremes(alpha: Array, A: Array, top: int) -> tuple[list[int], list[int]]:
    """The channels with the largest weights above 0, and those with the lowest below 0, each the strongest first."""
    order = [int(k) for k in np.argsort(-alpha, kind="stable") if np.any(A[k])]
    return [k for k in order[:top] if alpha[k] > 0], [k for k in order[::-1][:top] if alpha[k] < 0]


def _groups(channels: Sequence[int], names: Names) -> list[list[Named]]:
    found: dict[str, list[Named]] = {}
    for k in channels:
        if (named := names.of(k)) is not None:
            found.setdefault(named.name, []).append(named)
    return list(found.values())


def _word(group: Sequence[Named], alpha: Array, A: Array, e: Explanation, drop: float) -> Word:
    channels = sorted((n.channel for n in group), key=lambda k: -abs(alpha[k]))
    height, width = e.heatmap.shape
    strongest, levels = A[channels[0]], {n.channel: n.level for n in group}
    half, level = 0.5 * float(strongest.max()), levels[channels[0]]
    seen = maps.resize(np, strongest, (height, width)) > (half if level is None else min(level, half))
    fires = any(level is None or bool(A[k].max() > level) for k, level in levels.items())
    return Word(group[0].name, float(alpha[channels].sum()), tuple(channels), drop, fires, seen)


def _check(explainer: Explainer, names: Names) -> None:
    if explainer.method.name != "gradcam" or len(explainer.layers) != 1:
        raise OptionError(f"words are ranked by Grad-CAM's weights at one layer, not by {explainer.method.title}")
    own = explainer.layers[0]
    if names.model_sha256 and names.model_sha256 != explainer.model.sha256:
        raise OptionError(f"the names are of another model than {explainer.model.label}; name its own channels")
    if names.layer and named_layer(explainer.model, explainer.logits, names.layer).value != own.value:
        raise OptionError(
            f"the names are of layer {names.layer!r}, not of {own.name!r}: give target_layer={names.layer!r}"
        )


def _lit(image: Pixels, seen: Array) -> Pixels:
    return np.rint(image * (_DIMMED + (1 - _DIMMED) * np.clip(seen, 0, 1)[..., None])).astype(np.uint8)


def _readable(tile: Pixels) -> Pixels:
    """As it is, or whole times larger: wide enough for a label."""
    factor = max(1, -(-_LEAST // tile.shape[1]))
    return tile.repeat(factor, axis=0).repeat(factor, axis=1)


def _plain(word: Word) -> dict[str, Any]:
    return {k: v for k, v in asdict(word).items() if k != "seen"}
