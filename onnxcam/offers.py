"""Which methods a model can have, by what its graph gives."""

from __future__ import annotations

from onnxcam.errors import OnnxcamError
from onnxcam.gradients import is_differentiable
from onnxcam.graph.attention import Attention, find_attention, written_out
from onnxcam.graph.classifier import Classifier, find_classifier
from onnxcam.graph.inspect import Logits, target_layers
from onnxcam.graph.paths import first_float
from onnxcam.methods import possible
from onnxcam.model import Model


def given_by(model: Model, logits: Logits) -> set[str]:
    """Which needs of methods (:data:`onnxcam.methods.NEEDS`) the graph meets."""
    of, found = model.values[logits.name], set[str]()
    if layers := target_layers(model, logits):
        found |= {"layer", "head"}
        found |= {"gradient", "curvature"} if is_differentiable(model, of, model.values[layers[0].name]) else set()
    if isinstance(find_classifier(model, logits), Classifier):
        found |= {"classifier"}
    if isinstance(find_attention(written_out(model), logits), Attention):
        found |= {"attention"}
    try:
        pixels = first_float(model.values[model.image_input.name])
    except OnnxcamError:
        return found
    return found | ({"pixels", "biases"} if is_differentiable(model, of, pixels) else set())


def offered(model: Model, logits: Logits) -> str:
    """The methods that this model can have, in a sentence."""
    return f"Methods that this model can have: {', '.join(possible(given_by(model, logits)))}"
