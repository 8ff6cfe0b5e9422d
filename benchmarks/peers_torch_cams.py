"""What ``benchmarks.peers_torch`` asks of pytorch-grad-cam and torch-cam: raw maps, before ReLU and resizing."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_grad_cam as grad_cam
import torch
from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
from pytorch_grad_cam.feature_factorization.deep_feature_factorization import dff
from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST, ClassifierOutputTarget
from torch.nn import functional
from torchcam import methods as torchcam

from benchmarks.peers_torch import Method, Question

TRANSFORMERS = ("vit_b_16", "swin_t", "tiny_vit")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without their progress bars."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def out_of_place() -> Iterator[None]:
    """No ReLU writes over its input, which is what the hooks keep of a layer in front of it (densenet121)."""
    plain = functional.relu
    functional.relu = lambda x, inplace=False: plain(x)
    try:
        yield
    finally:
        functional.relu = plain


# ---- pytorch-grad-cam ----


def gradcam(kind: str) -> Callable[..., Any]:
    """What the object's ``get_cam_image`` gives."""

    def ask(q: Question, target: str = "logit", eigen_smooth: bool = False, **options: Any) -> Any:
        score = {"logit": ClassifierOutputTarget, "rest": ClassifierOutputReST}[target](q.target)
        with getattr(grad_cam, kind)(q.model, [q.module], reshape_transform=q.fold, **options) as cam:
            return raw(cam, lambda: cam(q.x, [score], eigen_smooth=eigen_smooth), q)

    return ask


def raw(base: Any, call: Callable[[], Any], q: Question) -> Any:
    """What ``get_cam_image`` returns during a call."""
    kept = []
    plain = base.get_cam_image

    def keep(*args: Any, **options: Any) -> Any:
        kept.append(plain(*args, **options))
        return kept[0]

    base.get_cam_image = keep
    with quiet(), out_of_place(), q.drawn(uniform="weights"):
        call()
    base.activations_and_grads.gradients.clear()  # a fold leaves views, which it cannot release by itself
    base.activations_and_grads.activations.clear()
    return detached(kept[0])


def detached(x: Any) -> Any:
    return x.detach().numpy() if isinstance(x, torch.Tensor) else x


def augmented(q: Question) -> Any:
    """The heatmap: the mean is over heatmaps."""
    with grad_cam.GradCAM(q.model, [q.module], reshape_transform=q.fold) as cam:
        return cam(q.x, [ClassifierOutputTarget(q.target)], aug_smooth=True)


def finer(q: Question, alpha: float, comparison_categories: list[int]) -> Any:
    cam = grad_cam.FinerCAM(q.model, [q.module], reshape_transform=q.fold)
    how = {"target_idx": q.target, "alpha": alpha, "comparison_categories": comparison_categories}
    return raw(cam.base_cam, lambda: cam(q.x, None, **how), q)


def fullgrad(q: Question) -> Any:
    """The sum over the layers, before it is scaled to [0, 1]."""
    cam, kept = grad_cam.FullGrad(q.model, []), []
    cam.aggregate_multi_layers = lambda maps: kept.append(maps.sum(axis=1)) or maps[:, 0]
    cam(q.x, [ClassifierOutputTarget(q.target)])
    return kept[0]


def factors(q: Question, n_components: int) -> Any:
    """H of the factorisation, (n, h, w)."""
    seen = ActivationsAndGradients(q.model, [q.module], q.fold)
    seen(q.x)
    found = seen.activations[0].numpy().copy()
    seen.release()
    concepts, maps = dff(found, n_components)
    q.draws["concepts"] = [concepts]
    return maps


def guided(q: Question) -> Any:
    return grad_cam.GuidedBackpropReLUModel(q.model)(q.x, q.target).transpose(2, 0, 1)[None]


# ---- torch-cam ----


def camera(kind: str, scores: bool = True) -> Callable[..., Any]:
    """What ``compute_cams`` gives unnormalised, without its ReLU."""

    def ask(q: Question, **options: Any) -> Any:
        more = {} if q.fold is None else {"reshape_transform": q.fold}
        with getattr(torchcam, kind)(q.model, q.layer, input_shape=tuple(q.x.shape[1:]), **more, **options) as cam:
            inner = getattr(cam, "base_cam", cam)
            inner._relu = False
            # CAM's weights belong to what is pooled, which is behind the ReLU.
            with contextlib.nullcontext() if kind == "CAM" else out_of_place(), q.drawn(normal="noise"):
                given = {"scores": q.model(q.x)}
                return detached(cam(q.target, normalized=False, **(given if scores else {}))[0])

    return ask


def legrad(q: Question, blocks: int) -> Any:
    """Of the last blocks, 0 for all."""
    with torchcam.LeGrad(q.model, list(q.model.encoder.layers)[-blocks:]) as cam:
        q.model(q.x)
        return detached(cam(q.target, normalized=False)[0])


_PLAIN = ["GradCAM", "HiResCAM", "GradCAMElementWise", "GradCAMPlusPlus", "XGradCAM", "LayerCAM", "EigenGradCAM"]
_CLASSLESS = ["EigenCAM", "KPCA_CAM", "FEM", "RandomCAM"]
_UNSIGNED = ("EigenGradCAM", "EigenCAM", "KPCA_CAM")
_HEADS = {"tiny_cnn": "fc", "resnet18": "fc", "mobilenet_v2": "classifier.1", "densenet121": "classifier"}

METHODS = {
    **{f"pytorch_grad_cam/{k}": Method(gradcam(k), free_sign=k in _UNSIGNED) for k in _PLAIN},
    **{f"pytorch_grad_cam/{k}": Method(gradcam(k), classes=False, free_sign=k in _UNSIGNED) for k in _CLASSLESS},
    "pytorch_grad_cam/GradCAM eigen_smooth": Method(gradcam("GradCAM"), {"eigen_smooth": True}, free_sign=True),
    "pytorch_grad_cam/GradCAM aug_smooth": Method(augmented, where="last", kind="heatmap"),
    # It multiplies folded weights with activations that are not folded.
    "pytorch_grad_cam/ShapleyCAM": Method(gradcam("ShapleyCAM"), never=TRANSFORMERS),
    "pytorch_grad_cam/ShapleyCAM ReST": Method(gradcam("ShapleyCAM"), {"target": "rest"}, never=TRANSFORMERS),
    "pytorch_grad_cam/FinerCAM": Method(finer, {"alpha": 1.0, "comparison_categories": [1, 2, 3]}),
    "pytorch_grad_cam/AblationCAM": Method(gradcam("AblationCAM"), {}, "few", classes=False, never=TRANSFORMERS),
    "pytorch_grad_cam/ScoreCAM": Method(gradcam("ScoreCAM"), {}, "few", classes=False),
    "pytorch_grad_cam/FullGrad": Method(fullgrad, where="image", never=TRANSFORMERS),
    "pytorch_grad_cam/DeepFeatureFactorization": Method(
        factors, {"n_components": 4}, "last", kind="factors", classes=False, never=TRANSFORMERS
    ),
    "pytorch_grad_cam/GuidedBackpropReLUModel": Method(
        guided, where="image", kind="attribution", never=("mobilenet_v2", *TRANSFORMERS)
    ),
    **{f"torchcam/{k}": Method(camera(k)) for k in ("GradCAM", "GradCAMpp", "XGradCAM", "LayerCAM", "FinerCAM")},
    "torchcam/SmoothGradCAMpp": Method(camera("SmoothGradCAMpp", scores=False), {"num_samples": 3, "std": 0.3}),
    "torchcam/ScoreCAM": Method(camera("ScoreCAM", scores=False), {}, "few", classes=False),
    "torchcam/SSCAM": Method(
        camera("SSCAM", scores=False), {"num_samples": 2, "std": 2.0}, "few", classes=False, slow=True
    ),
    "torchcam/ISCAM": Method(camera("ISCAM", scores=False), {"num_samples": 4}, "few", classes=False, slow=True),
    **{
        f"torchcam/CAM {name}": Method(camera("CAM", scores=False), {"fc_layer": head}, "last", only=(name,))
        for name, head in _HEADS.items()
    },
    "torchcam/LeGrad": Method(legrad, {"blocks": 1}, "image", only=("vit_b_16", "tiny_vit")),
    "torchcam/LeGrad all": Method(legrad, {"blocks": 0}, "image", only=("vit_b_16", "tiny_vit")),
}
