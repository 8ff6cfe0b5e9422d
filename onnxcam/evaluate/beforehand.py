"""Before an evaluation begins: explainers of one model, and the samples whose classes it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxcam.errors import OptionError
from onnxcam.evaluate.classes import class_map, no_classifier
from onnxcam.evaluate.data import Sample
from onnxcam.explainer import Explainer
from onnxcam.methods import find_method
from onnxcam.model import Model


def options_of(
    methods: Sequence[str], settings: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """What each method's explainer is made with, by the method's name."""
    names = dict.fromkeys(find_method(m).name for m in methods)
    own = {find_method(m).name: dict(given) for m, given in settings.items()}
    if not names or (stray := [m for m in own if m not in names]):
        raise OptionError(
            f"settings of {stray[0]}, which is not evaluated" if names else "no methods: give one or more"
        )
    layer = options.get("target_layer", "auto")
    at = {name: layer if find_method(name).has_layer else "auto" for name in names}
    return {name: {**options, "options": own.get(name), "target_layer": at[name]} for name in names}


def explainers(model: Model, options: Mapping[str, Mapping[str, Any]]) -> list[Explainer]:
    """One explainer for each method; they share their sessions.

    Raises:
        OptionError: the model is no classifier.
    """
    found = [Explainer(model, method=name, **own) for name, own in options.items()]
    logits = found[0].logits
    if logits.kind != "classes" or logits.classes is None:
        raise no_classifier(model, logits.kind, "evaluate")
    for other in found[1:]:
        other.programs = found[0].programs
    return found


def known(
    samples: Sequence[Sample], explainer: Explainer, table: str | Path | None
) -> tuple[list[Sample], dict[str, tuple[int, ...]], int, list[str]]:
    """Samples of classes that the model has (or of none), those classes, how many others there are, and what to say."""
    names = {s.truth for s in samples if s.truth is not None}
    mapped = dict(class_map(names, explainer.labels, explainer.logits.classes, table))
    kept = [s for s in samples if s.truth is None or s.truth in mapped]
    lost = len(samples) - len(kept)
    notices = [explainer.preprocess_reason] if explainer.preprocess_reason else []
    if lost:
        strange = sorted(names - set(mapped))
        some = ", ".join(strange[:6]) + (", ..." if len(strange) > 6 else "")
        notices.append(
            f"{lost} of {len(samples)} samples are left out, of classes that the model does not have: {some}"
        )
    return kept, mapped, lost, notices


def some(samples: Sequence[Sample], limit: int | None, seed: int) -> list[Sample]:
    """A random choice of pictures, in their order, with all that they show."""
    sources = list(dict.fromkeys(s.source for s in samples))
    if limit is None or limit >= len(sources):
        return list(samples)
    if limit < 1:
        raise OptionError(f"limit={limit}: give a number of pictures above 0")
    drawn = {sources[k] for k in np.random.default_rng(seed).permutation(len(sources))[:limit]}
    return [s for s in samples if s.source in drawn]


def together(samples: Sequence[Sample]) -> dict[str, dict[str, Sample]]:
    """By picture, its samples by class, without those whose annotations are wrong."""
    found: dict[str, dict[str, Sample]] = {}
    for sample in samples:
        shown = found.setdefault(sample.source, {})
        if not sample.error:
            shown[sample.truth or ""] = sample
    return found
