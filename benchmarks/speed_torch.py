"""The peers' side of ``python -m benchmarks``; needs torch, torchvision, grad-cam, torchcam and captum, not onnxcam.

    python -m benchmarks.speed_torch make NETWORK SIZE FOLDER    the network as .onnx, its weights, its picture
    python -m benchmarks.speed_torch serve QUESTION.json         the process of one peer

Every peer is asked as its documentation shows: its object is made once, then called per picture. Two things are mended,
and neither costs: ReLUs do not write over their input, which hooks keep (densenet121), and pytorch-grad-cam's Score-CAM
upsamples without aligned corners, as its paper's code does; so maps can be held against onnxcam's.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed_worker import Call, Steps, serve

BATCH = 16  # of Captum's calls that would take all at once


def main() -> None:
    warnings.filterwarnings("ignore")
    what, *rest = sys.argv[1:]
    if what == "make":
        make_network(rest[0], int(rest[1]), Path(rest[2]))
    else:
        sys.argv[1:] = rest
        serve(make)


def make_network(name: str, size: int, folder: Path) -> None:
    """NETWORK-SIZE.onnx (free batch), .pt and .npz: the picture, the layer's activation, the logits; tells versions."""
    import torch

    from benchmarks.networks_reference import pictures
    from benchmarks.networks_torch import LAYERS, build
    from benchmarks.peers_torch import export

    model, image = build(name, size), torch.from_numpy(pictures(1, size, seed=1))
    path = folder / f"{name}-{size}"
    kept: list[Any] = []
    handle = model.get_submodule(LAYERS[name]).register_forward_hook(lambda m, i, o: kept.append(o.detach().clone()))
    with torch.no_grad():
        logits = model(image)
    handle.remove()
    export(model, image, path.with_suffix(".onnx"))
    torch.save(model, path.with_suffix(".pt"))
    arrays = {"image": image.numpy(), "activation": kept[0].numpy(), "logits": logits.numpy()}
    np.savez(path.with_suffix(".npz"), **arrays)
    print(json.dumps({p: version(p) for p in ("torch", "torchvision", "grad-cam", "torchcam", "captum")}))


def make(question: dict[str, Any], steps: Steps) -> Call:
    """A call of the peer's method on the network."""
    import torch
    import torchvision  # noqa: F401  (the pickled network is of its classes)

    peer = PEERS[question["who"]]
    peer(None, question)  # imports alone
    steps.done("import")
    torch.set_num_threads(question["threads"])
    relu, torch.nn.functional.relu = torch.nn.functional.relu, lambda x, inplace=False: relu(x)
    model = torch.load(Path(question["model"]).with_suffix(".pt"), weights_only=False).eval()
    call = peer(Asked(model, torch.from_numpy(np.load(question["image"])), question), question)
    steps.done("build")
    return lambda: {kind: _plain(found) for kind, found in call().items()}


class Asked:
    """One question: the network, its pictures, where and what for."""

    def __init__(self, model: Any, x: Any, question: Mapping[str, Any]) -> None:
        from benchmarks.networks_torch import LAYERS

        self.model, self.x, self.target = model, x, int(question["target"])
        self.name = LAYERS[question["network"]]
        self.module = model.get_submodule(self.name)
        self.fold = patches if question["network"].startswith("vit") else None


def patches(tokens: Any) -> Any:
    """(N, 1 + h h, C) to (N, C, h, h), without the class token."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side)


def _plain(found: Any) -> Any:
    return found.detach().numpy() if hasattr(found, "detach") else np.asarray(found)


def forward(q: Asked | None, question: Mapping[str, Any]) -> Any:
    """The bare network, without gradients."""
    import torch

    if q is None:
        return None

    def call() -> dict[str, Any]:
        with torch.inference_mode():
            return {"logits": q.model(q.x)}

    return call


def grad_cam(q: Asked | None, question: Mapping[str, Any]) -> Any:
    import pytorch_grad_cam
    import torch
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if q is None:
        return None
    if question["method"] == "guided_backprop":
        guided = pytorch_grad_cam.GuidedBackpropReLUModel(q.model)
        return lambda: {"attribution": guided(q.x, q.target).transpose(2, 0, 1)[None]}
    torch.nn.UpsamplingBilinear2d = partial(torch.nn.Upsample, mode="bilinear")
    kind = {"gradcam": "GradCAM", "layercam": "LayerCAM", "scorecam": "ScoreCAM"}[question["method"]]
    cam = getattr(pytorch_grad_cam, kind)(q.model, [q.module], reshape_transform=q.fold)
    scores = [ClassifierOutputTarget(q.target)] * len(q.x)

    def call() -> dict[str, Any]:
        found = {"heatmap": cam(q.x, scores)}
        if q.fold:  # it cannot release what a fold leaves
            cam.activations_and_grads.gradients.clear()
            cam.activations_and_grads.activations.clear()
        return found

    return call


def torch_cam(q: Asked | None, question: Mapping[str, Any]) -> Any:
    import torch
    from torchcam import methods

    if q is None:
        return None
    kind = {"gradcam": "GradCAM", "layercam": "LayerCAM", "scorecam": "ScoreCAM"}[question["method"]]
    more = {} if q.fold is None else {"reshape_transform": q.fold}
    cam = getattr(methods, kind)(q.model, q.name, input_shape=tuple(q.x.shape[1:]), **more)
    classes = [q.target] * len(q.x)

    def gradients() -> dict[str, Any]:
        return {"shown": cam(classes, q.model(q.x))[0]}

    def scores() -> dict[str, Any]:
        with torch.inference_mode():
            q.model(q.x)
        return {"shown": cam(classes)[0]}

    return scores if kind == "ScoreCAM" else gradients


def captum(q: Asked | None, question: Mapping[str, Any]) -> Any:
    from captum import attr

    if q is None:
        return None
    calls: dict[str, Callable[[], dict[str, Any]]] = {
        "gradcam": lambda: {"cam": camera.attribute(q.x, target=q.target)[:, 0]},
        "guided_backprop": lambda: {"attribution": guided.attribute(q.x, target=q.target)},
        "integrated_gradients": lambda: {
            "attribution": path.attribute(q.x, target=q.target, n_steps=50, internal_batch_size=BATCH)
        },
        "occlusion": lambda: {"hidden": hiding.attribute(q.x, target=q.target, **_windows(question))},
    }
    camera, guided = attr.LayerGradCam(q.model, q.module), attr.GuidedBackprop(q.model)
    path, hiding = attr.IntegratedGradients(q.model), attr.Occlusion(q.model)
    return calls[question["method"]]


def _windows(question: Mapping[str, Any]) -> dict[str, Any]:
    side, stride = question["options"]["window"], question["options"]["stride"]
    return {
        "sliding_window_shapes": (3, side, side),
        "strides": (3, stride, stride),
        "perturbations_per_eval": BATCH,
    }


PEERS = {"torch": forward, "pytorch-grad-cam": grad_cam, "torch-cam": torch_cam, "captum": captum}

if __name__ == "__main__":
    main()
