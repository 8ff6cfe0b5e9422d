"""How a gradient passes an activation: one expression per policy, used by both engines.

``dy`` is the cotangent of the activation's output, ``slope`` its local derivative ([y > 0] for a ReLU).

- plain: the true gradient, ``dy * slope``.
- guided: Guided Backpropagation, ``max(dy, 0) * slope``. Springenberg et al., "Striving for Simplicity: The All
  Convolutional Net", ICLR workshop 2015, https://arxiv.org/abs/1412.6806, figure 1.
- deconvnet: ``max(dy, 0)``, the forward mask ignored. Zeiler and Fergus, "Visualizing and Understanding
  Convolutional Networks", ECCV 2014, https://arxiv.org/abs/1311.2901, section 2.1.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxcam.errors import UnknownNameError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor

Policy = Callable[[Tensor, Tensor], Tensor]

POLICIES: dict[str, Policy] = {
    "plain": lambda dy, slope: dy * slope,
    "guided": lambda dy, slope: xp.maximum(dy, 0) * slope,
    "deconvnet": lambda dy, slope: xp.maximum(dy, 0),
}


def policy(name: str) -> Policy:
    """The policy called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in POLICIES:
        raise UnknownNameError.of("ReLU policy", name, POLICIES)
    return POLICIES[name]
