"""Train shapes-cnn on rendered scenes and write it as ONNX (opset 17).

    python train_shapes_cnn.py [--out ../shapes-cnn.onnx] [--scenes 20000] [--epochs 6] [--threads 2]

The task is multi-label: one logit per shape class, "is this shape in the scene?". Linear head on a global average
pool, so a class score is a sum over the places of the last feature map (14 x 14). The model is an instrument to
test explanations with, so the training makes their right answer known, with two terms beside the cross-entropy:

* the evidence for a class (the score's summands) must lie on the object of that class: its mask is a label too;
* positive head weights are shared by the classes: what tells them apart is inhibition. Guided Backpropagation, which
  drops negative cotangents, is then as blind to the class as it is in large networks.
"""

from __future__ import annotations

import argparse
import json
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
import scenes
import torch
from torch import nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
STRIDE = 8
EVIDENCE = 200.0  # the summand wanted where an object fills a cell: a 2.2 % object then adds 4.4 to its logit
HEAD_SCALE = 10.0  # the head learns at this scale, or its weights would need many steps to grow
EVIDENCE_WEIGHT, SHARING_WEIGHT = 20.0, 1.0


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """relu(x + f(x)), f two convolutions of ``width`` channels."""

    def __init__(self, width: int, second_kernel: int) -> None:
        super().__init__()
        self.first = nn.Sequential(conv_bn(width, width), nn.ReLU())
        self.second = conv_bn(width, width, second_kernel)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(x + self.second(self.first(x)))


class ShapesCnn(nn.Module):
    """(N, 3, 112, 112) RGB in [0, 1] -> logits (N, K). Stride 8, receptive field 57 pixels at the last map."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 24, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.stage1 = nn.Sequential(conv_bn(24, 32), nn.ReLU(), conv_bn(32, 48), nn.ReLU(), nn.MaxPool2d(2))
        self.stage2 = nn.Sequential(conv_bn(48, 64), nn.ReLU(), Residual(64, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.stage2(self.stage1(self.stem(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.pool(self.features(x)), 1))


def coverage(scene: scenes.Scene) -> np.ndarray:
    """How much of each cell of the last map each class covers: float16 (K, 14, 14) in [0, 1]."""
    cells = scenes.SIZE // STRIDE
    cover = np.zeros((len(scenes.CLASSES), cells, cells), np.float16)
    for shown in scene.objects:
        cover[shown.class_index] = shown.mask.reshape(cells, STRIDE, cells, STRIDE).mean((1, 3))
    return cover


def _rendered(seed: int) -> tuple[np.ndarray, np.ndarray]:
    scene = scenes.render(seed)
    return scene.image.transpose(2, 0, 1), coverage(scene)


def dataset(first_seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 (N, 3, H, W) and coverage float16 (N, K, 14, 14) of consecutive seeds."""
    with get_context("spawn").Pool(2) as pool:
        rows = pool.map(_rendered, range(first_seed, first_seed + count), chunksize=200)
    images, covers = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
    return images, covers


def augmented(images: torch.Tensor, cover: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A random flip, quarter turn, colour permutation and a little noise for the batch; images in [0, 1]."""
    turns, axes = int(torch.randint(4, ())), [3] if torch.rand(()) < 0.5 else []
    x = torch.rot90(images[:, torch.randperm(3)], turns, (2, 3)).flip(axes).float() / 255
    noise = 0.02 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)
    return (x + noise).clamp(0, 1), torch.rot90(cover, turns, (2, 3)).flip(axes).float()


def loss_of(model: ShapesCnn, x: torch.Tensor, cover: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of presence, squared error of the evidence's place, spread of the positive head weights."""
    with torch.autocast("cpu", torch.bfloat16):
        features = model.features(x)
    weight, maps = model.head.weight, features.float()
    logits = functional.linear(HEAD_SCALE * maps.mean((2, 3)), weight, model.head.bias)
    presence = functional.binary_cross_entropy_with_logits(logits, (cover.amax((2, 3)) > 0).float())
    error = functional.conv2d(maps, weight[:, :, None, None]) * HEAD_SCALE / EVIDENCE - cover
    misplaced = torch.where(cover > 0, error, error.relu()).square().mean()
    return presence + EVIDENCE_WEIGHT * misplaced + SHARING_WEIGHT * weight.relu().var(0).sum()


def train(model: ShapesCnn, images: torch.Tensor, covers: torch.Tensor, epochs: int, batch: int = 64) -> None:
    steps = epochs * (len(images) // batch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        started, total = time.time(), 0.0
        for rows in torch.randperm(len(images))[: len(images) // batch * batch].split(batch):
            x, cover = augmented(images[rows], covers[rows])
            loss = loss_of(model, x.contiguous(memory_format=torch.channels_last), cover)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * batch / len(images)
        print(f"epoch {epoch + 1}/{epochs}: loss {total:.4f}, {time.time() - started:.0f} s", flush=True)
    model.head.weight.data *= HEAD_SCALE


def export(model: nn.Module, path: Path) -> None:
    """Write ``model`` with a free batch axis; labels and preprocessing go into ``metadata_props``."""
    model = model.eval().to(memory_format=torch.contiguous_format)
    torch.onnx.export(
        model, (torch.zeros(1, 3, scenes.SIZE, scenes.SIZE),), str(path), dynamo=False, opset_version=17,
        input_names=["image"], output_names=["logits"], dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
    )  # fmt: skip
    stored = onnx.load(path)
    for node in stored.graph.node:
        node.ClearField("doc_string")
    keys = {"onnxcam/labels": json.dumps(scenes.CLASSES), "onnxcam/preprocess": json.dumps({"name": "unit"})}
    onnx.helper.set_model_props(stored, keys)
    onnx.checker.check_model(stored, full_check=True)
    onnx.save(stored, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "shapes-cnn.onnx")
    parser.add_argument("--scenes", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images, covers = dataset(scenes.TRAIN_SEED, options.scenes)
    model = ShapesCnn(len(scenes.CLASSES)).to(memory_format=torch.channels_last)
    train(model, images, covers, options.epochs)
    export(model, options.out)


if __name__ == "__main__":
    main()
