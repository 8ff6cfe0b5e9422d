"""Engine "training": the gradient builder of onnxruntime-training."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxcam.errors import GradientError
from onnxcam.gradients.relu import Policy
from onnxcam.graph.symbolic import Tensor, Writer
from onnxcam.model import Model


def why_not(path: Sequence[ir.Node]) -> str:
    """Why this engine cannot differentiate the path; empty where it can."""
    return "not built yet"


def backward(
    model: Model,
    writer: Writer,
    path: Sequence[ir.Node],
    of: ir.Value,
    seed: Tensor,
    wrt: Sequence[ir.Value],
    policy: Policy,
) -> list[Tensor]:
    """Write the vector-Jacobian product by the gradient builder."""
    raise GradientError(f"the training engine cannot do this: {why_not(path)}")
