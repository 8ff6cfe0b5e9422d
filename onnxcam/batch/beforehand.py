"""What is wrong with a job itself is told before it starts, not once for each picture."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from onnxcam.batch.settings import Settings
from onnxcam.core.localize import Placement
from onnxcam.explainer import Explainer
from onnxcam.image import as_image
from onnxcam.inputs import given_inputs
from onnxcam.runtime import Session
from onnxcam.targets import TOP1, Box, Region, Target, View


def check(settings: Settings, explainer: Explainer, here: bool = True) -> list[str]:
    """See to it that the runtime takes the model, that its inputs are given, and that there is what is explained.

    Args:
        settings: of the job.
        explainer: one that they describe.
        here: it runs on this machine; others may have other execution providers.

    Returns:
        The execution providers that a session has.

    Raises:
        OptionError, UnknownNameError, ImageError, ModelError, RuntimeUnavailableError: no picture can be explained.
    """
    _check_target(explainer, explainer.check_target(settings.target))
    given_inputs(explainer.model, explainer.inputs)
    asked, threads = settings.options.get("providers"), settings.options.get("threads")
    session = Session(explainer.model, asked if here else None, threads, worker=explainer.worker)
    return session.providers if here or asked is None else list(asked)


class _LookError(Exception):
    """The target looks at the picture: what comes then is about that one."""


def _check_target(explainer: Explainer, target: Target) -> None:
    """What a target that looks at pictures says before it sees one; then its class."""
    if not target.looks:
        return
    nowhere = Placement.stretch((1, 1), (1, 1))
    names, words = explainer.labels, explainer.vocabulary
    view = View(explainer.logits, explainer.model.label, names, words, nowhere, {}, _peek, _embed)
    with suppress(_LookError):
        target.settled(view)
    if isinstance(target, Box | Region) and target.of != TOP1:
        view.class_index(target.of, explainer.logits.classes)


def _peek(names: Sequence[str]) -> NoReturn:
    raise _LookError


def _embed(picture: Any) -> NoReturn:
    as_image(picture)
    raise _LookError
