"""What ``benchmarks.peers_torch`` asks of captum: attributions of the picture's numbers, (C, H, W)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from captum import attr as captum
from captum._utils.models.linear_model import SkLearnLasso

from benchmarks.peers_torch import Method, Question
from benchmarks.peers_torch_cams import TRANSFORMERS, detached

GRID = 4  # features per axis


def plain(kind: str) -> Callable[..., Any]:
    def ask(q: Question, **options: Any) -> Any:
        return detached(getattr(captum, kind)(q.model).attribute(q.x, target=q.target, **options))

    return ask


def integrated(q: Question, n_steps: int, method: str) -> Any:
    how = {"n_steps": n_steps, "method": method, "internal_batch_size": 5}
    return detached(captum.IntegratedGradients(q.model).attribute(q.x, target=q.target, **how))


def tunnel(base: str) -> Callable[..., Any]:
    def ask(q: Question, **options: Any) -> Any:
        with q.drawn(normal="noise"):
            method = captum.NoiseTunnel(getattr(captum, base)(q.model))
            return detached(method.attribute(q.x, target=q.target, **options))

    return ask


def gradient_shap(q: Question, n_samples: int, stdevs: float) -> Any:
    given = np.random.default_rng(q.seed).standard_normal((3, *q.x.shape[1:])).astype(np.float32)
    q.draws["baselines"] = [given]
    with q.drawn(normal="noise", uniform="coefficients", choice="choices"):
        method = captum.GradientShap(q.model)
        baselines = torch.from_numpy(given).to(q.x.dtype)
        return detached(method.attribute(q.x, baselines, n_samples, stdevs, target=q.target))


def at_layer(kind: str) -> Callable[..., Any]:
    def ask(q: Question, **options: Any) -> Any:
        return detached(getattr(captum, kind)(q.model, q.module).attribute(q.x, target=q.target, **options))

    return ask


def layer_map(q: Question) -> Any:
    return detached(captum.LayerGradCam(q.model, q.module).attribute(q.x, target=q.target))[:, 0]


def grid(q: Question) -> Any:
    """(1, 1, H, W): GRID x GRID squares, numbered by rows."""
    size = q.x.shape[-1]
    rows = torch.arange(size) * GRID // size
    return (rows[:, None] * GRID + rows)[None, None]


def ablation(q: Question) -> Any:
    return detached(captum.FeatureAblation(q.model).attribute(q.x, target=q.target, feature_mask=grid(q)))


def occlusion(q: Question, windows: int) -> Any:
    """Windows of a ``windows``-th of the picture plus one, by steps that do not divide it."""
    side = q.x.shape[-1] // windows + 1
    how = {"sliding_window_shapes": (q.x.shape[1], side, side), "strides": (q.x.shape[1], side - 3, side - 3)}
    q.draws["window"] = [np.array([side, side - 3])]
    return detached(captum.Occlusion(q.model).attribute(q.x, target=q.target, **how))


def surrogate(kind: str) -> Callable[..., Any]:
    def ask(q: Question, n_samples: int, **options: Any) -> Any:
        """The linear model's samples (1: kept), scores and similarities are noted."""
        with q.drawn():
            linear = {"interpretable_model": SkLearnLasso(**options)} if options else {}
            method = getattr(captum, kind)(q.model, **linear)
            fit, mask = method.interpretable_model.fit, grid(q)

            def noted(loader: Any, **options: Any) -> Any:
                for name, values in zip(("samples", "scores", "weights"), loader.dataset.tensors, strict=True):
                    q.draws[name] = [values.numpy()]
                return fit(loader, **options)

            method.interpretable_model.fit = noted
            return detached(method.attribute(q.x, target=q.target, feature_mask=mask, n_samples=n_samples))

    return ask


def _pixel(ask: Callable[..., Any], options: dict[str, Any] | None = None, **more: Any) -> Method:
    return Method(ask, options or {}, more.pop("where", "image"), "attribution", **more)


_NOISE = {"nt_samples": 4, "stdevs": 0.25}
_IG = {"n_steps": 4, "method": "gausslegendre"}
_RELUS = {"never": ("mobilenet_v2", *TRANSFORMERS)}

METHODS = {
    "captum/Saliency": _pixel(plain("Saliency")),
    "captum/Saliency signed": _pixel(plain("Saliency"), {"abs": False}),
    "captum/InputXGradient": _pixel(plain("InputXGradient")),
    "captum/IntegratedGradients": _pixel(integrated, {"n_steps": "many", "method": "gausslegendre"}),
    "captum/IntegratedGradients middle": _pixel(integrated, {"n_steps": "few", "method": "riemann_middle"}),
    "captum/IntegratedGradients trapezoid": _pixel(
        integrated, {"n_steps": "few", "method": "riemann_trapezoid"}, slow=True
    ),
    **{
        f"captum/NoiseTunnel {kind} of {base}": _pixel(
            tunnel(base), {"nt_type": kind, **_NOISE, **more}, slow=base != "Saliency", classes=False
        )
        for base, more in (("Saliency", {"abs": False}), ("IntegratedGradients", _IG))
        for kind in ("smoothgrad", "smoothgrad_sq", "vargrad")
    },
    "captum/NoiseTunnel smoothgrad of Saliency abs": _pixel(
        tunnel("Saliency"), {"nt_type": "smoothgrad", **_NOISE}, classes=False
    ),
    "captum/GradientShap": _pixel(gradient_shap, {"n_samples": 5, "stdevs": 0.1}, classes=False),
    "captum/GuidedBackprop": _pixel(plain("GuidedBackprop"), **_RELUS),
    "captum/Deconvolution": _pixel(plain("Deconvolution"), **_RELUS),
    "captum/GuidedGradCam": _pixel(at_layer("GuidedGradCam"), where="last", **_RELUS),
    "captum/GuidedGradCam bilinear": _pixel(
        at_layer("GuidedGradCam"), {"interpolate_mode": "bilinear"}, where="last", **_RELUS
    ),
    "captum/LayerGradCam": Method(layer_map, never=TRANSFORMERS),
    "captum/Occlusion": _pixel(occlusion, {"windows": 4}),
    "captum/FeatureAblation": _pixel(ablation),
    "captum/Lime": _pixel(surrogate("Lime"), {"n_samples": 60, "alpha": 1e-3}, classes=False),
    "captum/KernelShap": _pixel(surrogate("KernelShap"), {"n_samples": 60}, classes=False),
}
