"""The catalogue: each method's needs, formula, cost and paper. Everything that lists methods reads it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from onnxcam.core import (
    factorize,
    fullgrad,
    guided,
    integrate,
    perturb,
    perturb_segments,
    scorecam,
    smooth,
    tail,
    weights,
)
from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.papers import PAPERS, Paper

Formula = Callable[..., Any]
Gives = Literal["cam", "pixels", "map"]
NEEDS = {
    "layer": "a spatial layer",
    "gradient": "a gradient at the layer",
    "curvature": "second derivatives at the layer",
    "pixels": "a gradient at the image",
    "head": "a head that runs on the layer alone",
    "classifier": "global average pooling and linear layers behind it",
    "attention": "attention",
    "biases": "gradients at every bias",
}


@dataclass(frozen=True)
class Method:
    """One row: a formula of one run (``terms``, ``relu``, or both multiplied), or a ``procedure`` of many.

    Attributes:
        name: as written in options.
        title: as written in prose.
        formula: in one line.
        papers: where it comes from, the first the one to cite.
        needs: keys of :data:`NEEDS` beyond scores.
        terms: (xp, A, G) -> (N, C, h, w), the evidence per channel of a CAM; its sum over C is the map. A method that
            needs curvature takes a fourth argument, the score's Hessian at the layer times A.
        join: how terms become a map: ``"sum"``, or a projection, ``"eigen"`` or ``"kpca"``.
        relu: the policy of the gradient at the image, of methods of one run.
        pixels: (xp, gradient, x) -> attribution, both (N, C, H, W); without it, the gradient itself.
        procedure: (probe, **options) -> one raw map; :mod:`onnxcam.core.probe`.
        gives: ``"cam"`` at the target layer, ``"pixels"`` a signed attribution (C, H, W), or ``"map"`` (H, W).
        runs: inference runs per image, in words.
        budget: the option that sets how many runs there are, where one does.
        target: the kind of score that is explained unless the caller says otherwise.
        normalize: how its map becomes a heatmap unless the caller says otherwise.
        aliases: further names, as other tools have them.
    """

    name: str
    title: str
    formula: str
    papers: tuple[Paper, ...]
    needs: tuple[str, ...] = ()
    terms: Formula | None = None
    join: str = "sum"
    relu: str | None = None
    pixels: Formula | None = None
    procedure: Formula | None = None
    gives: Gives = "cam"
    runs: str = "1"
    budget: str | None = None
    target: str = "logit"
    normalize: str = "max"
    aliases: tuple[str, ...] = ()

    @property
    def paper(self) -> str:
        """The first paper, in a line."""
        return str(self.papers[0]) if self.papers else ""

    @property
    def has_layer(self) -> bool:
        """Whether there is a target layer."""
        return "layer" in self.needs

    @property
    def options(self) -> dict[str, Any]:
        """The procedure's own options with their defaults: its keyword-only parameters."""
        if self.procedure is None:
            return {}
        parameters = inspect.signature(self.procedure).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def checked(self, given: Mapping[str, Any], budget: int | None = None) -> dict[str, Any]:
        """What a caller sets, with ``budget`` as the option that it stands for.

        Raises:
            OptionError: an option that the method does not have, or a budget where runs cannot be chosen.
        """
        known = self.options
        if unknown := [k for k in given if k not in known]:
            has = ", ".join(f"{k}={v!r}" for k, v in known.items()) or "none"
            raise OptionError(f"{self.title} has no option {unknown[0]!r}; its options: {has}")
        if budget is None:
            return dict(given)
        if self.budget is None:
            raise OptionError(f"{self.title} takes {self.runs} runs an image; there is no budget to choose")
        if budget < 1:
            raise OptionError(f"budget={budget}: give a number of runs above 0")
        return {**given, self.budget: budget}


def _papers(*keys: str) -> tuple[Paper, ...]:
    return tuple(PAPERS[k] for k in keys)


_GRADCAM = _papers("selvaraju2017gradcam")
_AT_LAYER = ("layer", "gradient")

_BLACK_BOX = (
    Method(
        "occlusion", "Occlusion sensitivity", "mean over the windows W at a pixel of y(x) - y(x without W)",
        _papers("zeiler2014visualizing"), procedure=perturb.occlusion, gives="map", runs="about 100",
        target="probability", aliases=("occlusion_sensitivity", "occlusion_map"),
    ),
    Method(
        "rise", "RISE", "1 / (E[M] N) sum_i y(x * M_i) M_i, M_i random soft masks", _papers("petsiuk2018rise"),
        procedure=perturb.rise, gives="map", runs="2000", budget="samples", target="probability", normalize="minmax",
    ),
    Method(
        "aise", "AISE", "sum_i (g_i - min g) K_i, g_i = y(x * K_i) - y(x * (1 - K_i)), Gaussians K_i found by DIRECT",
        _papers("openvino2024aise"), procedure=perturb.aise, gives="map", runs="300", budget="samples",
        target="probability", normalize="minmax",
    ),
    Method(
        "feature_ablation", "Feature ablation", "y(x) - y(x without segment k)", _papers("zeiler2014visualizing"),
        procedure=perturb_segments.feature_ablation, gives="map", runs="1 per segment (64)", target="probability",
    ),
    Method(
        "lime", "LIME", "b of the weighted linear fit y(x of z) = a + z b, z random coalitions of segments",
        _papers("ribeiro2016why"), procedure=perturb_segments.lime, gives="map", runs="1000", budget="samples",
        target="probability",
    ),
    Method(
        "kernelshap", "Kernel SHAP", "Shapley values of segments by a linear fit with Shapley's kernel",
        _papers("lundberg2017unified", "covert2021improving"), procedure=perturb_segments.kernelshap, gives="map",
        runs="1002", budget="samples", target="probability", aliases=("kernel_shap", "shap"),
    ),
)  # fmt: skip

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method(
            "gradcam",
            "Grad-CAM",
            "relu(sum_k mean_xy(G_k) A_k)",
            _GRADCAM,
            _AT_LAYER,
            terms=weights.gradcam,
            aliases=("grad_cam",),
        ),
        Method(
            "hirescam",
            "HiResCAM",
            "relu(sum_k G_k * A_k)",
            _papers("draelos2020hirescam"),
            _AT_LAYER,
            terms=weights.hirescam,
        ),
        Method(
            "counterfactual",
            "Counterfactual Grad-CAM",
            "relu(sum_k -mean_xy(G_k) A_k)",
            _GRADCAM,
            _AT_LAYER,
            terms=weights.counterfactual,
        ),
        Method(
            "cam",
            "CAM",
            "relu(sum_k w_k A_k), w the classifier's row of the class",
            _papers("zhou2016learning"),
            (*_AT_LAYER, "classifier"),
            terms=weights.cam,
        ),
        Method(
            "elementwise",
            "Element-wise Grad-CAM",
            "sum_k max(G_k * A_k, 0)",
            _papers("pillai2021explainable"),
            _AT_LAYER,
            terms=weights.elementwise,
            aliases=("gradcam_elementwise", "elementwise_cam"),
        ),
        Method(
            "gradcampp",
            "Grad-CAM++",
            "relu(sum_k w_k A_k), w_k = sum_xy max(G_k, 0) G_k^2 / (2 G_k^2 + G_k^3 sum_xy(A_k))",
            _papers("chattopadhay2018gradcampp"),
            _AT_LAYER,
            terms=weights.gradcampp,
            aliases=("gradcam_plus_plus",),
        ),
        Method(
            "xgradcam",
            "XGrad-CAM",
            "relu(sum_k w_k A_k), w_k = sum_xy(G_k * A_k) / sum_xy(A_k)",
            _papers("fu2020axiom"),
            _AT_LAYER,
            terms=weights.xgradcam,
        ),
        Method(
            "layercam",
            "LayerCAM",
            "relu(sum_k max(G_k, 0) * A_k)",
            _papers("jiang2021layercam"),
            _AT_LAYER,
            terms=weights.layercam,
        ),
        Method(
            "shapleycam",
            "ShapleyCAM",
            "relu(sum_k mean_xy(G_k - (H A)_k / 2) A_k), H the Hessian",
            _papers("cai2025cams"),
            (*_AT_LAYER, "curvature"),
            terms=weights.shapleycam,
        ),
        Method(
            "eigencam",
            "Eigen-CAM",
            "relu(first principal component of the pixels of A)",
            _papers("muhammad2020eigencam"),
            ("layer",),
            terms=weights.activations,
            join="eigen",
        ),
        Method(
            "eigengradcam",
            "EigenGrad-CAM",
            "relu(first principal component of the pixels of G * A)",
            _papers("muhammad2020eigencam"),
            _AT_LAYER,
            terms=weights.hirescam,
            join="eigen",
            aliases=("eigen_grad_cam",),
        ),
        Method(
            "kpcacam",
            "KPCA-CAM",
            "relu(first kernel principal component of the pixels of A)",
            _papers("karmani2024kpcacam"),
            ("layer",),
            terms=weights.activations,
            join="kpca",
        ),
        Method(
            "fem",
            "FEM (Feature Explanation Method)",
            "relu(sum_k mean_xy(A_k) [A_k > mean_xy(A_k) + 2 std_xy(A_k)])",
            _papers("fuad2020features"),
            ("layer",),
            terms=weights.fem,
        ),
        Method(
            "dff",
            "Deep Feature Factorization",
            "one of the maps h_j >= 0 of A_k ~ sum_j h_j w_jk, w >= 0",
            _papers("collins2018deep"),
            ("layer", "head"),
            procedure=factorize.dff,
            runs="1, and 1 of the head per concept",
            aliases=("deep_feature_factorization",),
        ),
        Method(
            "randomcam",
            "RandomCAM",
            "relu(sum_k u_k A_k), u_k drawn from [-1, 1]",
            (),
            ("layer",),
            procedure=weights.randomcam,
        ),
        Method(
            "scorecam",
            "Score-CAM",
            "relu(sum_k softmax_k(f(X * s(Up(A_k))) - f(0)) A_k)",
            _papers("wang2020scorecam"),
            ("layer",),
            procedure=scorecam.scorecam,
            runs="1 per channel",
        ),
        Method(
            "faster_scorecam",
            "Faster Score-CAM",
            "Score-CAM on the channels of largest variance",
            _papers("wang2020scorecam"),
            ("layer",),
            procedure=scorecam.faster_scorecam,
            runs="1 per channel kept (10)",
            budget="channels",
        ),
        Method(
            "sscam",
            "SS-CAM (Smoothed Score-CAM)",
            "relu(sum_k softmax_k(mean_n f(X * (s(Up(A_k)) + n)) - f(0)) A_k)",
            _papers("wang2020sscam"),
            ("layer",),
            procedure=scorecam.sscam,
            runs="35 per channel",
            budget="samples",
            aliases=("smoothed_scorecam",),
        ),
        Method(
            "iscam",
            "IS-CAM (Integrated Score-CAM)",
            "relu(sum_k softmax_k(mean_i f(c_i X * s(Up(A_k))) - f(0)) A_k)",
            _papers("naidu2020iscam"),
            ("layer",),
            procedure=scorecam.iscam,
            runs="10 per channel",
            budget="steps",
            aliases=("integrated_scorecam",),
        ),
        Method(
            "ablationcam",
            "Ablation-CAM",
            "relu(sum_k (y - y[A_k = 0]) / |y| A_k)",
            _papers("desai2020ablationcam"),
            ("layer", "head"),
            procedure=tail.ablationcam,
            runs="1, and 1 of the head per channel",
        ),
        Method(
            "reciprocam",
            "Recipro-CAM",
            "minmax_ij y[A alone at (i, j)]",
            _papers("byun2024reciprocam", "byun2023vitreciprocam"),
            ("layer", "head"),
            procedure=tail.reciprocam,
            runs="1, and 1 of the head per position",
            target="probability",
            aliases=("vit_reciprocam",),
        ),
        Method(
            "saliency",
            "Saliency (vanilla gradient)",
            "max_c |dy/dx_c|",
            _papers("simonyan2013deep"),
            ("pixels",),
            relu="plain",
            gives="pixels",
            aliases=("vanilla_gradient", "gradient"),
        ),
        Method(
            "input_x_gradient",
            "Input x Gradient",
            "x * dy/dx",
            _papers("shrikumar2016not"),
            ("pixels",),
            relu="plain",
            pixels=guided.input_x_gradient,
            gives="pixels",
            aliases=("gradient_x_input",),
        ),
        Method(
            "guided_backprop",
            "Guided Backpropagation",
            "max_c |dy/dx_c|, ReLUs pass max(dy, 0) [y > 0]",
            _papers("springenberg2015striving"),
            ("pixels",),
            relu="guided",
            gives="pixels",
        ),
        Method(
            "deconvnet",
            "Deconvnet",
            "max_c |dy/dx_c|, ReLUs pass max(dy, 0)",
            _papers("zeiler2014visualizing"),
            ("pixels",),
            relu="deconvnet",
            gives="pixels",
            aliases=("deconvolution",),
        ),
        Method(
            "guided_gradcam",
            "Guided Grad-CAM",
            "Guided Backpropagation * upsampled Grad-CAM",
            _GRADCAM,
            (*_AT_LAYER, "pixels"),
            terms=weights.gradcam,
            relu="guided",
            gives="pixels",
            aliases=("guided_grad_cam",),
        ),
        Method(
            "deconv_gradcam",
            "Deconvnet Grad-CAM",
            "Deconvnet * upsampled Grad-CAM",
            (*_GRADCAM, *_papers("zeiler2014visualizing")),
            (*_AT_LAYER, "pixels"),
            terms=weights.gradcam,
            relu="deconvnet",
            gives="pixels",
            aliases=("deconvnet_gradcam",),
        ),
        Method(
            "integrated_gradients",
            "Integrated Gradients",
            "(x - x') * integral_0^1 dy/dx(x' + a (x - x')) da",
            _papers("sundararajan2017axiomatic"),
            ("pixels",),
            procedure=integrate.integrated_gradients,
            gives="pixels",
            runs="50",
            budget="steps",
            aliases=("ig",),
        ),
        Method(
            "smoothgrad",
            "SmoothGrad",
            "mean_i M(x + noise_i), M the gradient or another base",
            _papers("smilkov2017smoothgrad"),
            ("pixels",),
            procedure=smooth.smoothgrad,
            gives="pixels",
            runs="50",
            budget="samples",
        ),
        Method(
            "smoothgrad_sq",
            "SmoothGrad squared",
            "mean_i M(x + noise_i)^2",
            _papers("hooker2019benchmark", "smilkov2017smoothgrad"),
            ("pixels",),
            procedure=smooth.smoothgrad_sq,
            gives="pixels",
            runs="50",
            budget="samples",
            aliases=("smoothgrad_squared",),
        ),
        Method(
            "vargrad",
            "VarGrad",
            "variance_i M(x + noise_i)",
            _papers("adebayo2018local"),
            ("pixels",),
            procedure=smooth.vargrad,
            gives="pixels",
            runs="50",
            budget="samples",
        ),
        Method(
            "gradient_shap",
            "GradientSHAP (expected gradients)",
            "mean_i (x_i - b_i) dy/dx(b_i + a_i (x_i - b_i)), a_i and b_i drawn",
            _papers("lundberg2017unified", "erion2021improving"),
            ("pixels",),
            procedure=integrate.gradient_shap,
            gives="pixels",
            runs="50",
            budget="samples",
            aliases=("expected_gradients",),
        ),
        Method(
            "smooth_gradcampp",
            "Smooth Grad-CAM++",
            "relu(sum_k w_k A_k), derivatives of Grad-CAM++ averaged over noisy images",
            _papers("omeiza2019smooth"),
            _AT_LAYER,
            procedure=smooth.smooth_gradcampp,
            runs="26",
            budget="samples",
        ),
        Method(
            "fullgrad",
            "FullGrad",
            "psi(x * dy/dx) + sum over biases of psi(b * dy/db), psi = upsampled, rescaled magnitude",
            _papers("srinivas2019full"),
            ("pixels", "biases"),
            procedure=fullgrad.fullgrad,
            gives="map",
            runs="2",
        ),
        *_BLACK_BOX,
    )
}


def find_method(name: str) -> Method:
    """A row by name or alias; hyphens, spaces and case do not matter.

    Raises:
        UnknownNameError: there is none; the closest are offered.
    """
    plain = _plain(name)
    for method in METHODS.values():
        if plain in map(_plain, (method.name, *method.aliases)):
            return method
    raise UnknownNameError.of("method", name, METHODS, "`onnxcam methods` lists them")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "").replace("++", "pp")


def possible(has: Iterable[str]) -> list[str]:
    """The names of the methods whose needs are met by what a model ``has``."""
    there = set(has)
    return [m.name for m in METHODS.values() if there.issuperset(m.needs)]
