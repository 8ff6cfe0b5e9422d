"""The catalogue: each method's needs, formula, cost and paper. Everything that lists methods reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onnxcam.core import weights
from onnxcam.errors import UnknownNameError

Formula = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Method:
    """One row.

    A method with ``weights`` makes a CAM at the target layer; one with ``relu`` a gradient at the image, with that ReLU
    policy; one with both multiplies them.

    Attributes:
        name: as written in options.
        title: as written in prose.
        formula: in one line.
        paper: where it comes from.
        weights: channel weights from activations and gradients, or None.
        relu: the policy of the gradient at the image, or None.
        runs: inference runs per image.
    """

    name: str
    title: str
    formula: str
    paper: str
    weights: Formula | None = None
    relu: str | None = None
    runs: int = 1

    @property
    def needs(self) -> tuple[str, ...]:
        """What the model must give: a spatial layer, a gradient at it, a gradient at the image."""
        layer = ("spatial layer", "gradient at the layer") if self.weights else ()
        return (*layer, "gradient at the image") if self.relu else layer


_SELVARAJU = "Selvaraju et al., Grad-CAM, ICCV 2017, https://arxiv.org/abs/1610.02391"

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("gradcam", "Grad-CAM", "relu(sum_k mean_xy(G_k) A_k)", _SELVARAJU, weights.gradcam),
        Method(
            "hirescam",
            "HiResCAM",
            "relu(sum_k G_k * A_k)",
            "Draelos and Carin, HiResCAM, 2020, https://arxiv.org/abs/2011.08891",
            weights.hirescam,
        ),
        Method(
            "counterfactual",
            "Counterfactual Grad-CAM",
            "relu(sum_k -mean_xy(G_k) A_k)",
            f"{_SELVARAJU}, section 3.3",
            weights.counterfactual,
        ),
        Method(
            "saliency",
            "Saliency (vanilla gradient)",
            "max_c |dy/dx_c|",
            "Simonyan et al., Deep Inside Convolutional Networks, 2013, https://arxiv.org/abs/1312.6034",
            relu="plain",
        ),
        Method(
            "guided_backprop",
            "Guided Backpropagation",
            "max_c |dy/dx_c|, ReLUs pass max(dy, 0) [y > 0]",
            "Springenberg et al., Striving for Simplicity, 2015, https://arxiv.org/abs/1412.6806",
            relu="guided",
        ),
        Method(
            "deconvnet",
            "Deconvnet",
            "max_c |dy/dx_c|, ReLUs pass max(dy, 0)",
            "Zeiler and Fergus, Visualizing and Understanding CNNs, ECCV 2014, https://arxiv.org/abs/1311.2901",
            relu="deconvnet",
        ),
        Method(
            "guided_gradcam",
            "Guided Grad-CAM",
            "Guided Backpropagation * upsampled Grad-CAM",
            f"{_SELVARAJU}, section 3.2",
            weights.gradcam,
            "guided",
        ),
    )
}


def find_method(name: str) -> Method:
    """A row by name; hyphens, spaces and case do not matter.

    Raises:
        UnknownNameError: there is none; the closest are offered.
    """
    plain = name.lower().replace("-", "_").replace(" ", "_")
    plain = {"grad_cam": "gradcam", "guided_grad_cam": "guided_gradcam"}.get(plain, plain)
    if plain not in METHODS:
        raise UnknownNameError.of("method", name, METHODS, "`onnxcam methods` lists them")
    return METHODS[plain]
