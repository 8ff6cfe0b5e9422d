"""Explain any ONNX image model from the ``.onnx`` file alone.

``import onnxcam`` is light: onnxruntime, cv2 and onnx are imported when they are needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {  # public names and where they live; loaded at first use
    "BlackBox": "onnxcam.blackbox",
    "Box": "onnxcam.targets",
    "Custom": "onnxcam.targets",
    "Element": "onnxcam.targets",
    "Endpoint": "onnxcam.endpoint",
    "Explainer": "onnxcam.explainer",
    "Explanation": "onnxcam.explanation",
    "Finer": "onnxcam.targets",
    "LogProbability": "onnxcam.targets",
    "Logit": "onnxcam.targets",
    "Margin": "onnxcam.targets",
    "Method": "onnxcam.methods",
    "Model": "onnxcam.model",
    "OnnxcamError": "onnxcam.errors",
    "Preprocess": "onnxcam.image",
    "Probability": "onnxcam.targets",
    "Region": "onnxcam.targets",
    "Similarity": "onnxcam.targets",
    "Sum": "onnxcam.targets",
    "Token": "onnxcam.targets",
    "Tokens": "onnxcam.targets",
    "add_gradients": "onnxcam.gradients",
    "load_model": "onnxcam.model",
    "quantus_explainer": "onnxcam.frameworks",
}
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from onnxcam.blackbox import BlackBox as BlackBox
    from onnxcam.endpoint import Endpoint as Endpoint
    from onnxcam.errors import OnnxcamError as OnnxcamError
    from onnxcam.explainer import Explainer as Explainer
    from onnxcam.explanation import Explanation as Explanation
    from onnxcam.frameworks import quantus_explainer as quantus_explainer
    from onnxcam.gradients import add_gradients as add_gradients
    from onnxcam.image import Preprocess as Preprocess
    from onnxcam.methods import Method as Method
    from onnxcam.model import Model as Model
    from onnxcam.model import load_model as load_model
    from onnxcam.targets import Box as Box
    from onnxcam.targets import Custom as Custom
    from onnxcam.targets import Element as Element
    from onnxcam.targets import Finer as Finer
    from onnxcam.targets import Logit as Logit
    from onnxcam.targets import LogProbability as LogProbability
    from onnxcam.targets import Margin as Margin
    from onnxcam.targets import Probability as Probability
    from onnxcam.targets import Region as Region
    from onnxcam.targets import Similarity as Similarity
    from onnxcam.targets import Sum as Sum
    from onnxcam.targets import Token as Token
    from onnxcam.targets import Tokens as Tokens


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxcam' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
