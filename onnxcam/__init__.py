"""Explain any ONNX image model from the ``.onnx`` file alone.

``import onnxcam`` is light: onnxruntime, cv2 and onnx are imported when they are needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {  # public names and where they live; loaded at first use
    "BlackBox": "onnxcam.blackbox",
    "Endpoint": "onnxcam.endpoint",
    "Explainer": "onnxcam.explainer",
    "Explanation": "onnxcam.explanation",
    "Method": "onnxcam.methods",
    "Model": "onnxcam.model",
    "OnnxcamError": "onnxcam.errors",
    "Preprocess": "onnxcam.image",
    "add_gradients": "onnxcam.gradients",
    "load_model": "onnxcam.model",
}
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from onnxcam.blackbox import BlackBox as BlackBox
    from onnxcam.endpoint import Endpoint as Endpoint
    from onnxcam.errors import OnnxcamError as OnnxcamError
    from onnxcam.explainer import Explainer as Explainer
    from onnxcam.explanation import Explanation as Explanation
    from onnxcam.gradients import add_gradients as add_gradients
    from onnxcam.image import Preprocess as Preprocess
    from onnxcam.methods import Method as Method
    from onnxcam.model import Model as Model
    from onnxcam.model import load_model as load_model


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxcam' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
