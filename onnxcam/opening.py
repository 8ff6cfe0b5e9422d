"""From what a caller names to a model, and how it wants its picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

from onnxcam.conventions import contradiction, known, known_labels
from onnxcam.errors import OptionError
from onnxcam.graph.surgery import join
from onnxcam.image import InputSpec, Preprocess
from onnxcam.labels import Labels, find_labels
from onnxcam.model import Model, load_model


def opened(model: str | Path | Model | Sequence[str | Path | Model]) -> Model:
    """A model from whatever tells it; several as one, each behind the one before."""
    if isinstance(model, Model):
        return model
    if isinstance(model, str | Path):
        return load_model(locate(model))
    if not model:
        raise OptionError("no model is given: give a path, zoo:NAME, or several of them")
    return reduce(join, map(opened, model))


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


def choose_preprocess(model: Model, given: str | Preprocess) -> tuple[Preprocess, str]:
    """The preprocessing, and a notice where it was chosen for the caller, or contradicts what is known for certain.

    ``"auto"`` takes what `onnxcam.conventions.known` finds, else ``imagenet`` (``unit`` of one channel).
    """
    if given != "auto":
        chosen = given if isinstance(given, Preprocess) else Preprocess.parse(given)
        return chosen, contradiction(model, chosen)
    told = known(model)
    if told.preprocess is not None:
        doubt = contradiction(model, told.preprocess)
        return told.preprocess, f"preprocessing {told.preprocess.name} from {told.source}" + (doubt and f"; {doubt}")
    preset = "imagenet" if model.image_input.channels == 3 else "unit"
    advice = f"check it with `onnxcam doctor {model.path or 'MODEL'} PHOTOS`"
    return Preprocess.parse(preset), f"preprocessing {preset} is assumed: nothing in the model tells; {advice}"


def choose_labels(model: Model, given: str | Path | Sequence[str] | None) -> Labels | None:
    """The class names that are given, or else those that are known."""
    return known_labels(model) if given is None else find_labels(given, {})
