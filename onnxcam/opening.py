"""From what a caller names to a model, and how it wants its picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

from onnxcam.conventions import Known, contradiction, known, known_labels
from onnxcam.errors import ModelError, OnnxcamError, OptionError
from onnxcam.graph.surgery import join
from onnxcam.image import InputSpec, Preprocess
from onnxcam.isolation import CrashError, Worker
from onnxcam.labels import Labels, find_labels
from onnxcam.model import Model, load_model
from onnxcam.sidecar import read_sidecar

GivenLabels = str | Path | Sequence[str] | None


def opened(model: str | Path | Model | Sequence[str | Path | Model], worker: Worker | None = None) -> Model:
    """A model from whatever tells it; several as one, each behind the one before.

    Args:
        model: that.
        worker: opens files first, so that one that crashes native code crashes it there.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, str | Path):
        file = locate(model)
        if worker is not None:
            _try(file, worker)
        return replace(load_model(file), as_read=True)
    if not model:
        raise OptionError("no model is given: give a path, zoo:NAME, or several of them")
    return reduce(join, (opened(m, worker) for m in model))


def _try(file: Path, worker: Worker) -> None:
    try:
        worker.call(_open, file)
    except CrashError as crash:
        raise ModelError(
            f"{file}: native code {crash} while it was opened, in a process of its own; it is damaged, export it again"
        ) from crash


def _open(file: Path) -> None:
    load_model(file)


def locate(model: str | Path) -> Path:
    """The file of a path or of ``zoo:NAME``."""
    if str(model).startswith("zoo:"):
        from onnxcam import zoo

        return zoo.locate(str(model))
    return Path(model)


def input_spec(model: Model) -> InputSpec:
    """What the image module needs to know of the model's input."""
    image = model.image_input
    return InputSpec(image.layout, image.channels, image.height, image.width, image.dtype.numpy())


def choose(model: Model, preprocess: str | Preprocess, labels: GivenLabels) -> tuple[Preprocess, str, Labels | None]:
    """The preprocessing, a notice, and the class names; what lies around the model is read once.

    ``"auto"`` takes what `onnxcam.conventions.known` finds, else ``imagenet`` (``unit`` of one channel). The notice
    tells where the preprocessing was chosen for the caller, or contradicts what is known for certain. Where it is
    given, a sidecar that cannot be used stops nothing: the names are those of the next that tells, and the notice says
    so.
    """
    if preprocess != "auto":
        return _as_given(model, preprocess, labels)
    told = known(model)
    return *_found(model, told), told.labels if labels is None else find_labels(labels, {})


def _as_given(model: Model, given: str | Preprocess, labels: GivenLabels) -> tuple[Preprocess, str, Labels | None]:
    preprocess = given if isinstance(given, Preprocess) else Preprocess.parse(given)
    sidecar, trouble = None, ""
    try:
        sidecar = read_sidecar(model)
    except OnnxcamError as error:
        trouble = f"the sidecar is passed over, for the preprocessing is given: {error}"
    doubt = contradiction(model, preprocess, sidecar)
    if labels is not None:
        return preprocess, doubt, find_labels(labels, {})
    return preprocess, "; ".join(filter(None, [doubt, trouble])), known_labels(model, sidecar)


def _found(model: Model, told: Known) -> tuple[Preprocess, str]:
    if told.preprocess is not None:
        notice = f"preprocessing {told.preprocess.name} from {told.source}"
        return told.preprocess, "; ".join(filter(None, [notice, told.doubt]))
    preset = "imagenet" if model.image_input.channels == 3 else "unit"
    advice = f"check it with `onnxcam doctor {model.path or 'MODEL'} PHOTOS`"
    return Preprocess.parse(preset), f"preprocessing {preset} is assumed: nothing in the model tells; {advice}"


def choose_preprocess(model: Model, given: str | Preprocess) -> tuple[Preprocess, str]:
    """The preprocessing and the notice of `choose`, where no class names are asked for."""
    return choose(model, given, ())[:2]


def choose_labels(model: Model, given: GivenLabels) -> Labels | None:
    """The class names that are given, or else those that are known.

    Raises:
        OptionError: a sidecar that cannot be understood.
        ModelError: a sidecar of another model.
    """
    return known_labels(model, read_sidecar(model)) if given is None else find_labels(given, {})
