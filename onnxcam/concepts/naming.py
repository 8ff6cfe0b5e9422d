"""Which concept a channel stands for: by masks of the concept, or by pictures that show it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.concepts.examples import Example
from onnxcam.concepts.record import Named, Names
from onnxcam.core import maps
from onnxcam.errors import OptionError
from onnxcam.evaluate.statistics import ranks
from onnxcam.explainer import Explainer, Prepared
from onnxcam.programs import Plan

Array = NDArray[Any]
Progress = Callable[[int, int], None]
TOP_SHARE = 0.005
LEAST_IOU, LEAST_AUC = 0.04, 0.9
_FEWEST = 5  # pictures of a concept, for an AUC to say something
_AT_ONCE = 64  # channels that are brought to the input's size together
_SHUFFLES = 50


def name_channels(
    explainer: Explainer,
    examples: Sequence[Example],
    at_least: float | None = None,
    batch: int = 16,
    progress: Progress | None = None,
) -> Names:
    """Name the channels of the explainer's target layer.

    With masks, Network Dissection (Bau et al., "Network Dissection: Quantifying Interpretability of Deep Visual
    Representations", 2017, https://arxiv.org/abs/1704.05796, section 2.3): over all pictures, IoU of where the channel,
    brought to the input's size, is above its level and where the concept is; the level is that which 0.5 % of its
    activations on all pictures exceed. The best concept names the channel if its IoU is at least 0.04.

    With a folder of pictures per concept: the area under the ROC curve by which the channel's largest activation tells
    pictures of the concept from those of all others. The best concept names the channel if it is at least 0.9. A few
    pictures are told apart so well by chance: how many channels get a name when the concepts are dealt out among the
    pictures at random is told (``by_chance``, the mean of 50 deals).

    A channel fires on 0.5 % of all places whatever it stands for: of a concept that covers a share ``s`` of all pixels
    no channel can have an IoU above ``0.005 / s``. What covers more than an eighth of them, such as backgrounds, cannot
    get a name at 0.04.

    Args:
        explainer: whose target layer it is; its method does not matter.
        examples: of one kind; `read_examples` reads them from a folder.
        at_least: another IoU or AUC.
        batch: pictures of one run, where the model takes many.
        progress: called with (done, total) pictures; masks take two rounds.

    Raises:
        OptionError: examples of both kinds, fewer than two concepts, or fewer than five pictures of one without masks.
        ImageError: a picture or a mask that cannot be read.
    """
    masked, concepts = _kinds(examples)
    runs = _Runs(explainer, examples, batch, progress, (2 if masked else 1) * len(examples))
    level, peaks = _levels(runs)
    least, how = (LEAST_IOU, "iou") if masked else (LEAST_AUC, "auc")
    least, by_chance = least if at_least is None else at_least, None
    if masked:
        scores = _ious(runs, concepts, level)
    else:
        shown, placed = [e.concept for e in examples], np.stack([ranks(column) for column in peaks.T])
        scores, by_chance = _aucs(placed, shown, concepts), _by_chance(placed, shown, concepts, least)
    found = [
        Named(k, concepts[c], round(float(row[c]), 4), how, float(level[k]))
        for k, row in enumerate(scores)
        if row[c := int(row.argmax())] >= least
    ]
    return Names(tuple(found), runs.layer.name, len(scores), explainer.model.sha256, tuple(concepts), by_chance)


def _kinds(examples: Sequence[Example]) -> tuple[bool, list[str]]:
    """Whether masks tell, and the concepts."""
    shown = [e.concept for e in examples if e.concept]
    masked = not shown
    if shown and len(shown) < len(examples):
        raise OptionError("some examples have masks, others a concept as a whole: name channels by one kind")
    concepts = sorted({c for e in examples for c in e.masks} if masked else set(shown))
    few = [c for c in concepts if not masked and shown.count(c) < _FEWEST]
    if len(concepts) < (1 if masked else 2) or few:
        told = f"{few[0]!r} has {shown.count(few[0])}" if few else f"there are {len(concepts)} concepts"
        raise OptionError(f"{told}: give two folders at least, with {_FEWEST} pictures each; or masks")
    return masked, concepts


class _Runs:
    """Activations of all examples, batch by batch, as often as they are asked for."""

    def __init__(
        self, explainer: Explainer, examples: Sequence[Example], batch: int, progress: Progress | None, total: int
    ) -> None:
        if not explainer.layers:
            raise OptionError(f"{explainer.method.title} has no target layer, and words need one; take gradcam")
        self.explainer, self.examples, self.layer = explainer, examples, explainer.layers[0]
        self._batch, self._progress, self._total, self._done = batch, progress, total, 0

    def __iter__(self) -> Iterator[tuple[Example, Prepared, Array]]:
        """Each example with its activations (K, h, w)."""
        for start in range(0, len(self.examples), self._batch):
            part = self.examples[start : start + self._batch]
            prepared = [self.explainer.prepare(e.image) for e in part]
            yield from zip(part, prepared, self._activations(prepared), strict=True)
            self._done += len(part)
            if self._progress is not None:
                self._progress(self._done, self._total)

    def _activations(self, prepared: Sequence[Prepared]) -> list[Array]:
        tensors = [p.tensor for p in prepared]
        alike = len({x.shape for x in tensors}) == 1
        return [a for x in ([np.concatenate(tensors)] if alike else tensors) for a in self._run(x)]

    def _run(self, x: Array) -> Array:
        ex, name = self.explainer, self.layer.value
        answers, _ = ex.programs.run(x, ex.check_target(None), ex.inputs, Plan(read=(name,)))
        folded: Array = self.layer.fold(answers[f"A/{name}"]).astype(np.float32)
        return folded


def _levels(runs: _Runs) -> tuple[Array, Array]:
    """Per channel, what 0.5 % of its activations exceed (K,), and its peak on each picture (N, K)."""
    top, peaks, places = np.zeros((0, 0), np.float32), [], 0
    for _, _, A in runs:
        flat = A.reshape(len(A), -1)
        places = max(places, flat.shape[1])
        kept = 1 + math.ceil(TOP_SHARE * places * len(runs.examples))
        top = _largest(np.concatenate([top.reshape(len(A), -1), flat], axis=1), kept)
        peaks.append(flat.max(axis=1))
    count = max(1, round(TOP_SHARE * places * len(runs.examples)))  # of them exceed the next one
    return np.sort(top, axis=1)[:, ::-1][:, min(count, top.shape[1] - 1)], np.stack(peaks)


def _largest(values: Array, count: int) -> Array:
    return values if values.shape[1] <= count else np.partition(values, -count, axis=1)[:, -count:]


def _ious(runs: _Runs, concepts: Sequence[str], level: Array) -> Array:
    """(K, C)."""
    shared, fired, there = np.zeros((len(level), len(concepts))), np.zeros(len(level)), np.zeros(len(concepts))
    for example, prepared, A in runs:
        masks = _masks(example, prepared, concepts)
        size = masks.shape[1:]
        flat = masks.reshape(len(concepts), -1).T.astype(np.float32)
        firing = np.flatnonzero(A.max(axis=(1, 2)) > level)  # growing a map adds no higher values
        for start in range(0, len(firing), _AT_ONCE):
            part = firing[start : start + _AT_ONCE]
            above = (maps.resize(np, A[part], size) > level[part, None, None]).reshape(-1, flat.shape[0])
            shared[part] += above.astype(np.float32) @ flat
            fired[part] += above.sum(axis=1)
        there += flat.sum(axis=0)
    whole = fired[:, None] + there - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def _masks(example: Example, prepared: Prepared, concepts: Sequence[str]) -> NDArray[np.bool_]:
    """(C, H, W), in the model's input."""
    place = prepared.placement
    size = prepared.picture.shape[:2]
    found = np.zeros((len(concepts), *place.size), np.bool_)
    for k, concept in enumerate(concepts):
        if concept in example.masks:
            levels = example.mask(concept, (size[0], size[1])).astype(np.uint8)[..., None]
            found[k] = place.to_input(levels, "nearest", antialias=False, fill=0)[..., 0] > 0
    return found


def _aucs(placed: Array, shown: Sequence[str], concepts: Sequence[str]) -> Array:
    """(K, C), of ranks (K, N): how likely the peak on a picture of the concept exceeds that on another one; ties count
    half."""
    found = []
    for concept in concepts:
        own = np.asarray([c == concept for c in shown])
        m, n = int(own.sum()), int((~own).sum())
        found.append((placed[:, own].sum(axis=1) - m * (m + 1) / 2) / (m * n))
    return np.stack(found, axis=1)


def _by_chance(placed: Array, shown: Sequence[str], concepts: Sequence[str], least: float) -> float:
    """How many channels get a name, on average, where pictures have the concepts of others."""
    rng = np.random.default_rng(0)
    deals = (rng.permutation(np.array(shown, object)).tolist() for _ in range(_SHUFFLES))
    return float(np.mean([(_aucs(placed, deal, concepts).max(axis=1) >= least).sum() for deal in deals]))
