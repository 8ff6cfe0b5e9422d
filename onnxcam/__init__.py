"""Explain any ONNX image model from the ``.onnx`` file alone."""

from __future__ import annotations

__version__ = "0.1.0"
