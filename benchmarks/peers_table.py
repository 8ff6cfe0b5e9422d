"""Which of onnxcam's methods answers which question to a peer, and with which options; for ``benchmarks.peers``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxcam.core import factorize, perturb_segments
from onnxcam.targets import Custom, Finer, Target

Array = Any
Arrays = Mapping[str, Array]


class Replay(np.random.Generator):
    """Gives numbers that were drawn before, in the order in which they were."""

    def __init__(self, **streams: Array) -> None:
        super().__init__(np.random.PCG64(0))
        self._left = {kind: np.asarray(values).reshape(-1) for kind, values in streams.items()}

    def _next(self, kind: str, size: Any) -> Array:
        count = int(np.prod(size))
        found, self._left[kind] = self._left[kind][:count], self._left[kind][count:]
        if len(found) < count:
            raise LookupError(f"{count} numbers of {kind} are asked for, {len(found)} are left")
        return found.reshape(size)

    def standard_normal(self, size: Any = None, *_: Any, **__: Any) -> Array:
        return self._next("normal", size)

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Array:
        return loc + scale * self._next("normal", size)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Array:
        return self._next("uniform", size)

    def integers(self, *_: Any, size: Any = None, **__: Any) -> Array:
        return self._next("choice", size)


@dataclass(frozen=True)
class Asked:
    """One question to a peer, as ``benchmarks.peers_torch`` wrote it down."""

    about: Mapping[str, Any]
    draws: Arrays
    image: Array
    activation: Array

    @property
    def options(self) -> Mapping[str, Any]:
        return self.about["options"]

    @property
    def spread(self) -> float:
        return float(self.image.max()) - float(self.image.min())

    def normals(self, std: float) -> Array:
        """Noise in standard deviations."""
        return np.asarray(self.draws["noise"], np.float64) / std

    def grid(self) -> Array:
        """captum's features: GRID x GRID squares."""
        size, n = self.image.shape[-1], 4
        rows = np.arange(size) * n // size
        return rows[:, None] * n + rows


Options = Callable[[Asked], dict[str, Any]]


@dataclass(frozen=True)
class Departure:
    """Where a peer does something else than the paper.

    Attributes:
        does: what the peer does.
        line: what the paper says.
        where: the networks in which it shows; none: in all.
    """

    does: str
    line: str
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counterpart:
    """What onnxcam is asked instead.

    Attributes:
        method: of onnxcam's catalogue.
        options: its own, from the question.
        target: of the class; None for the method's default, given the class.
        relation: "equal", or but for the "sign", for a positive factor ("scale") or one for each map ("scales");
            "size": the peer gives absolute values.
        direct: (probe, question) -> map, instead of the Explainer: for draws that options do not reach.
        settings: of the Explainer.
        departs: the peer does not follow the paper, and onnxcam does.
    """

    method: str
    options: Options = lambda q: {}
    target: Callable[[int], int | str | Target] = lambda c: c
    relation: str = "equal"
    direct: Callable[[Any, Asked], Array] | None = None
    settings: Mapping[str, Any] | None = None
    departs: Departure | None = None

    def departs_on(self, network: str) -> bool:
        return self.departs is not None and (not self.departs.where or network in self.departs.where)


def _logit(c: int) -> str:
    return f"logit:{c}"


def _rest(c: int) -> Target:
    """ReST, the residual softmax target: z_c + log p_c."""

    def score(xp: Any, out: Any) -> Any:
        z = out["logits"]
        most = xp.max(z, axis=1, keepdims=True)
        total = xp.log(xp.sum(xp.exp(z - most), axis=1, keepdims=True)) + most
        own = np.eye(z.shape[1], dtype=np.float32)[c : c + 1]
        return 2.0 * xp.sum(z * own, axis=1, keepdims=True) - total

    return Custom(score, f"ReST of {c}")


def _smooth(q: Asked) -> dict[str, Any]:
    """Smooth Grad-CAM++ and the like: so many copies with noise of so many standard deviations."""
    count = q.options.get("nt_samples", q.options.get("num_samples"))
    std = q.options.get("stdevs", q.options.get("std"))
    return {"samples": count, "noise": std / q.spread, "seed": Replay(normal=q.normals(std))}


def _tunnel(base: str) -> Options:
    def options(q: Asked) -> dict[str, Any]:
        steps = {"steps": q.options["n_steps"]} if "n_steps" in q.options else {}
        return {**_smooth(q), "base": base, **steps}

    return options


def _sscam(q: Asked) -> dict[str, Any]:
    count, std = q.options["num_samples"], q.options["std"]
    return {"samples": count, "sigma": std, "seed": Replay(normal=q.normals(std))}


def _integrated(q: Asked) -> dict[str, Any]:
    return {"steps": q.options["n_steps"], "rule": q.options.get("method", "riemann_trapezoid")}


def _gradient_shap(q: Asked) -> dict[str, Any]:
    std = q.options["stdevs"]
    seed = Replay(uniform=q.draws["coefficients"], choice=q.draws["choices"], normal=q.normals(std))
    return {"samples": q.options["n_samples"], "noise": std / q.spread, "baseline": q.draws["baselines"], "seed": seed}


def _occlusion(q: Asked) -> dict[str, Any]:
    window, stride = q.draws["window"].tolist()
    return {"window": window, "stride": stride}


def _segments(q: Asked) -> dict[str, Any]:
    return {"segments": q.grid()}


def _asked(probe: Any, q: Asked) -> tuple[Array, Array]:
    """captum's coalitions, and onnxcam's scores of them."""
    rows = q.draws["samples"].astype(int)
    return rows, perturb_segments._asked(probe, q.grid(), rows, "zero")


def _lime(probe: Any, q: Asked) -> Array:
    """captum's samples and similarities, which are those of pixels."""
    rows, found = _asked(probe, q)
    return perturb_segments.lasso(rows, found, q.draws["weights"], q.options["alpha"])[q.grid()]


def _kernelshap(probe: Any, q: Asked) -> Array:
    """captum's coalitions; its first two are the whole and the empty one."""
    rows, found = _asked(probe, q)
    values = perturb_segments.shapley(rows[2:], found[2:], np.ones(len(rows) - 2), found[1], found[0])
    return values[q.grid()]


class _Start(np.random.Generator):
    """The start that scikit-learn's factorisation takes for ``random_state=0``."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))
        self._state = np.random.RandomState(0)

    def standard_normal(self, size: Any = None, *_: Any, **__: Any) -> Array:
        return self._state.standard_normal(size=size)


def _factors(probe: Any, q: Asked) -> Array:
    """From the peer's own start; each concept's map has 1 as its largest value."""
    return factorize.factorize(probe.activations(probe.x), q.options["n_components"], seed=_Start()).maps[0]


_ALPHA = "eq. 19: alpha = G^2 / (2 G^2 + sum(A) G^3)"
_EARLY = Departure(
    "brings channels to [0, 1] at feature size, then upsamples", 'algorithm 1: "Upsample", then "normalize"'
)
_RECTIFIERS = Departure(
    "changes nn.ReLU modules alone, not the functional ReLU before the pooling", "the rule is for every rectifier",
    ("densenet121",),
)  # fmt: skip

COUNTERPARTS: dict[str, Counterpart] = {
    "pytorch_grad_cam/GradCAM": Counterpart("gradcam"),
    "pytorch_grad_cam/HiResCAM": Counterpart("hirescam"),
    "pytorch_grad_cam/GradCAMElementWise": Counterpart("elementwise"),
    "pytorch_grad_cam/GradCAMPlusPlus": Counterpart(
        "gradcampp", departs=Departure("adds 1e-6 to the denominator of alpha", _ALPHA)
    ),
    "pytorch_grad_cam/XGradCAM": Counterpart("xgradcam"),
    "pytorch_grad_cam/LayerCAM": Counterpart("layercam"),
    "pytorch_grad_cam/EigenGradCAM": Counterpart("eigengradcam", relation="sign"),
    "pytorch_grad_cam/EigenCAM": Counterpart(
        "eigencam",
        relation="sign",
        departs=Departure("centres the pixels first", "O = U S V^T of the activations O, the map is O V_1"),
    ),
    "pytorch_grad_cam/KPCA_CAM": Counterpart("kpcacam", relation="sign"),
    "pytorch_grad_cam/FEM": Counterpart(
        "fem",
        departs=Departure(
            "weighs A by the mean of its binary map", "the binary maps (2 sigma), weighted by the mean of A"
        ),
    ),
    "pytorch_grad_cam/RandomCAM": Counterpart("randomcam", lambda q: {"seed": Replay(uniform=q.draws["weights"])}),
    "pytorch_grad_cam/ShapleyCAM": Counterpart("shapleycam", target=_logit),
    "pytorch_grad_cam/ShapleyCAM ReST": Counterpart("shapleycam", target=_rest),
    "pytorch_grad_cam/GradCAM eigen_smooth": Counterpart("gradcam", settings={"smooth": "eigen"}, relation="sign"),
    "pytorch_grad_cam/GradCAM aug_smooth": Counterpart(
        "gradcam",
        settings={"smooth": "aug"},
        departs=Departure(
            "subtracts the smallest value of each rectified map, so that it is 0 somewhere",
            "eq. 2: max(sum_k alpha_k A_k, 0), 0 where nothing speaks for the class",
            ("tiny_cnn", "resnet18", "mobilenet_v2", "densenet121", "vgg16", "swin_t"),
        ),
    ),
    "pytorch_grad_cam/FinerCAM": Counterpart(
        "finercam",
        target=lambda c: Finer((c,), strength=1.0),
        departs=Departure(
            "weighs similar classes by their probabilities, through which the gradient goes too",
            "y^c - gamma y^d, averaged over the similar classes d",
        ),
    ),
    "pytorch_grad_cam/AblationCAM": Counterpart(
        "ablationcam",
        departs=Departure(
            "where the layer's smallest value is not 0, sets a channel to 1e7 below it",
            "the score when the channel is set to 0",
            ("mobilenet_v2",),
        ),
    ),
    "pytorch_grad_cam/ScoreCAM": Counterpart(
        "scorecam",
        departs=Departure("upsamples with aligned corners", "the authors' code upsamples without aligned corners"),
    ),
    "pytorch_grad_cam/FullGrad": Counterpart(
        "fullgrad",
        departs=Departure(
            "adds 1e-7 to what it divides by, so that channels of small gradients are damped",
            "psi rescales to [0, 1]",
            ("tiny_cnn", "mobilenet_v2", "vgg16"),
        ),
    ),
    "pytorch_grad_cam/DeepFeatureFactorization": Counterpart(
        "dff",
        relation="scales",
        direct=_factors,
        departs=Departure(
            "subtracts each channel's smallest value first",
            "the rectified activations are factorised",
            ("densenet121", "vgg16"),
        ),
    ),
    "pytorch_grad_cam/GuidedBackpropReLUModel": Counterpart("guided_backprop", departs=_RECTIFIERS),
    "torchcam/CAM": Counterpart("cam"),
    "torchcam/GradCAM": Counterpart("gradcam"),
    "torchcam/GradCAMpp": Counterpart(
        "gradcampp",
        departs=Departure("divides a copy, which is dropped: alpha = G^2", _ALPHA),
    ),
    "torchcam/XGradCAM": Counterpart("xgradcam"),
    "torchcam/LayerCAM": Counterpart("layercam"),
    "torchcam/FinerCAM": Counterpart("finercam"),
    "torchcam/LeGrad": Counterpart("legrad", lambda q: {"blocks": q.options["blocks"]}),
    "torchcam/SmoothGradCAMpp": Counterpart(
        "smooth_gradcampp",
        _smooth,
        departs=Departure(
            "D2 for D1 above; the gradient and the map of the last noisy copy for D1 and A",
            "alpha = D1 / (2 D2 + sum(A) D3), w = sum alpha relu(D1), the image's A",
        ),
    ),
    "torchcam/ScoreCAM": Counterpart("scorecam", departs=_EARLY),
    "torchcam/SSCAM": Counterpart("sscam", _sscam, departs=_EARLY),
    "torchcam/ISCAM": Counterpart("iscam", lambda q: {"steps": q.options["num_samples"]}, departs=_EARLY),
    "captum/Saliency": Counterpart("saliency", relation="size"),
    "captum/Saliency signed": Counterpart("saliency"),
    "captum/InputXGradient": Counterpart("input_x_gradient"),
    "captum/IntegratedGradients": Counterpart("integrated_gradients", _integrated),
    "captum/IntegratedGradients middle": Counterpart("integrated_gradients", _integrated),
    "captum/IntegratedGradients trapezoid": Counterpart(
        "integrated_gradients",
        _integrated,
        departs=Departure("weighs n points by 1/n, in sum 1 - 1/n", "the trapezoid rule: 1/(n - 1), in sum 1"),
    ),
    **{
        f"captum/NoiseTunnel {kind} of {their}": Counterpart(name, _tunnel(base))
        for kind, name in (("smoothgrad", "smoothgrad"), ("smoothgrad_sq", "smoothgrad_sq"), ("vargrad", "vargrad"))
        for their, base in (("Saliency", "saliency"), ("IntegratedGradients", "integrated_gradients"))
    },
    "captum/NoiseTunnel smoothgrad of Saliency abs": Counterpart(
        "smoothgrad",
        _tunnel("saliency"),
        departs=Departure("averages absolute values", "1/n sum_i M(x + N(0, sigma^2)), M = dS/dx"),
    ),
    "captum/GradientShap": Counterpart("gradient_shap", _gradient_shap),
    "captum/GuidedBackprop": Counterpart("guided_backprop", departs=_RECTIFIERS),
    "captum/Deconvolution": Counterpart("deconvnet", departs=_RECTIFIERS),
    "captum/GuidedGradCam": Counterpart(
        "guided_gradcam",
        relation="scale",
        departs=Departure("repeats the nearest pixel", "section 3.2: upsampled bilinearly"),
    ),
    "captum/GuidedGradCam bilinear": Counterpart("guided_gradcam", relation="scale", departs=_RECTIFIERS),
    "captum/LayerGradCam": Counterpart("gradcam"),
    "captum/Occlusion": Counterpart("occlusion", _occlusion, _logit),
    "captum/FeatureAblation": Counterpart("feature_ablation", _segments, _logit),
    "captum/Lime": Counterpart("lime", target=_logit, direct=_lime),
    "captum/KernelShap": Counterpart("kernelshap", target=_logit, direct=_kernelshap),
    "paper/Grad-CAM++": Counterpart("gradcampp"),
    "paper/XGrad-CAM": Counterpart("xgradcam"),
    "paper/FEM": Counterpart("fem"),
    "paper/Eigen-CAM": Counterpart("eigencam", relation="sign"),
    "paper/Smooth Grad-CAM++": Counterpart("smooth_gradcampp", _smooth),
    "paper/Shapley-CAM": Counterpart("shapleycam", target=_rest),
    "paper/Grad-CAM augmented": Counterpart("gradcam", settings={"smooth": "aug"}),
    "paper/Deep Feature Factorization": Counterpart("dff", relation="scales", direct=_factors),
    "paper/Score-CAM": Counterpart("scorecam"),
    "paper/SS-CAM": Counterpart("sscam", _sscam),
    "paper/IS-CAM": Counterpart("iscam", lambda q: {"steps": q.options["num_samples"]}),
    "paper/Ablation-CAM": Counterpart("ablationcam"),
    "paper/FullGrad": Counterpart("fullgrad"),
    "paper/Integrated Gradients trapezoid": Counterpart("integrated_gradients", _integrated),
    "paper/Guided Backpropagation": Counterpart("guided_backprop"),
    "paper/Deconvnet": Counterpart("deconvnet"),
    "paper/Guided Grad-CAM": Counterpart("guided_gradcam"),
}
