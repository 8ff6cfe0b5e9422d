"""From what a caller names to a model, and how it wants its picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

from onnxcam.errors import OptionError
from onnxcam.graph.inspect import input_convention
from onnxcam.graph.surgery import join
from onnxcam.image import InputSpec, Preprocess
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
    """The preprocessing, and a notice where it was chosen for the caller.

    ``"auto"`` takes the model's own metadata, else what its graph decides, else ``imagenet``.
    """
    if isinstance(given, Preprocess):
        return given, ""
    if given != "auto":
        return Preprocess.parse(given), ""
    if (own := model.meta.get("onnxcam/preprocess")) is not None:
        return Preprocess.from_dict(json.loads(own)), "preprocessing from the model's metadata"
    if (found := input_convention(model)) is not None:
        return Preprocess.parse(found.preset), f"preprocessing {found.preset}: {found.reason}"
    preset = "imagenet" if model.image_input.channels == 3 else "unit"
    return Preprocess.parse(preset), f"preprocessing {preset} is assumed: nothing in the model tells; check it"
