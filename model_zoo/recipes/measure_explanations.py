"""Do explanations of shapes-cnn point at the right object? Measured with torch alone, apart from onnxcam.

    python measure_explanations.py [--model ../shapes-cnn.onnx] [--scenes 200] [--seed 1500000]

The ONNX file is replayed node by node in torch, so its own autograd gives the reference gradients.

* pointing: the peak of Grad-CAM (Selvaraju et al. 2017), enlarged bilinearly, lies on the explained object;
* correlation: of the maps of two classes shown in one scene, for Grad-CAM and for Guided Backpropagation
  (Springenberg et al. 2015), which is known to be nearly blind to the class;
* energy: the share of a map that lies on the explained object.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import scenes
import torch
from onnx import numpy_helper
from torch.nn import functional

Tensors = dict[str, torch.Tensor]
MODEL = Path(__file__).resolve().parents[1] / "shapes-cnn.onnx"
SEED = 1_500_000


def _conv(x: list[torch.Tensor], a: dict) -> torch.Tensor:
    return functional.conv2d(*x, stride=a["strides"], padding=a["pads"][:2])


def _pool(x: list[torch.Tensor], a: dict) -> torch.Tensor:
    return functional.max_pool2d(x[0], a["kernel_shape"], a["strides"], a["pads"][:2])


Operators = dict[str, Callable[[list[torch.Tensor], dict], torch.Tensor]]
OPERATORS: Operators = {
    "Conv": _conv,
    "Relu": lambda x, a: x[0].relu(),
    "MaxPool": _pool,
    "Add": lambda x, a: x[0] + x[1],
    "GlobalAveragePool": lambda x, a: x[0].mean((2, 3), keepdim=True),
    "Flatten": lambda x, a: x[0].flatten(1),
    "Gemm": lambda x, a: x[0] @ x[1].T + x[2],
    "Identity": lambda x, a: x[0],
}


class GuidedRelu(torch.autograd.Function):
    """ReLU whose backward pass keeps positive cotangents only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy.relu() * (x > 0)


def replay(model: onnx.ModelProto, inputs: Tensors, operators: Operators) -> Tensors:
    """Every value of the graph, by name, for ``inputs``; of a node's outputs the first."""
    values = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in model.graph.initializer} | inputs
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        given = [values[name] if name else None for name in node.input]
        values[node.output[0]] = operators[node.op_type](given, attributes)
    return values


def last_map(model: onnx.ModelProto) -> str:
    return next(node.input[0] for node in model.graph.node if node.op_type == "GlobalAveragePool")


def gradcam(model: onnx.ModelProto, image: torch.Tensor, classes: list[int]) -> np.ndarray:
    """ReLU(sum_k mean(dy_c/dA_k) A_k) per class, enlarged: (C, H, W)."""
    values = replay(model, {"image": image}, OPERATORS)
    maps, cams = values[last_map(model)], []
    for c in classes:
        (gradient,) = torch.autograd.grad(values["logits"][0, c], maps, retain_graph=True)
        cams.append((gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu())
    enlarged = functional.interpolate(torch.cat(cams), image.shape[2:], mode="bilinear")
    return enlarged[:, 0].detach().numpy()


def guided_backprop(model: onnx.ModelProto, image: torch.Tensor, classes: list[int]) -> np.ndarray:
    """Guided gradient of each class logit by the pixels: (C, 3, H, W), signed."""
    guided = OPERATORS | {"Relu": lambda x, a: GuidedRelu.apply(x[0])}
    score = replay(model, {"image": image}, guided)["logits"]
    grads = [torch.autograd.grad(score[0, c], image, retain_graph=True)[0] for c in classes]
    return torch.cat(grads).numpy()


def correlation(maps: np.ndarray) -> float:
    """Mean Pearson correlation over all pairs of maps (C, ...)."""
    table = np.corrcoef(maps.reshape(len(maps), -1))
    return float(table[np.triu_indices(len(maps), 1)].mean())


def energy(maps: np.ndarray, masks: np.ndarray) -> float:
    """Mean share of each non-negative map (C, H, W) that lies in its mask (C, H, W)."""
    total = np.maximum(maps.sum((1, 2)), 1e-12)
    return float(((maps * masks).sum((1, 2)) / total).mean())


def measure(model: onnx.ModelProto, seed: int) -> dict[str, float]:
    scene = scenes.render(seed)
    classes = [o.class_index for o in scene.objects]
    masks = np.stack([o.mask for o in scene.objects])
    image = torch.from_numpy(scene.image.transpose(2, 0, 1)[None] / np.float32(255)).requires_grad_()
    cams, gradients = gradcam(model, image, classes), guided_backprop(model, image, classes)
    saliency = np.abs(gradients).max(1)
    peaks = [np.unravel_index(cam.argmax(), cam.shape) for cam in cams]
    return {
        "pointing game": float(np.mean([mask[p] for mask, p in zip(masks, peaks, strict=True)])),
        "gradcam correlation": correlation(cams),
        "guided correlation": correlation(saliency),
        "guided correlation, signed": correlation(gradients),
        "gradcam energy": energy(cams, masks),
        "guided energy": energy(saliency, masks),
        "guided gradcam energy": energy(cams * saliency, masks),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    model = onnx.load(options.model)
    rows = [measure(model, seed) for seed in range(options.seed, options.seed + options.scenes)]
    for name in rows[0]:
        print(f"{name:28s} {np.mean([row[name] for row in rows]):.4f}")


if __name__ == "__main__":
    main()
