"""Train the biased and the fair models of the two bias stories and write them as ONNX (opset 17).

    python train_bias.py [tanks-biased] [tanks-fair] [staff-biased] [staff-fair] [--out ..]

A biased and a fair model differ in their pictures alone: network, number of pictures of each class, steps and seed are
the same. The biased ones learn from pictures in which something that is no part of the class went along with it: all
tanks under a cloudy sky and all trees alone under a clear one; 78 % of the doctors men and 93 % of the nurses women
(Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391, section 6.3). The fair ones see each half and half.

Linear head on a global average pool: a score is a sum over the places of the last map (14 x 14), each of which sees
29 x 29 of the 112 x 112 pixels, so that the evidence lies where the map says.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from bias_scenes import FAIR, SIZE, STORIES, TRAIN_SEED, Story, drawn
from torch import nn
from torch.nn import functional
from train_shapes_cnn import conv_bn

HERE = Path(__file__).resolve().parent
BATCH = 32


@dataclass(frozen=True)
class Training:
    """How long, and how strongly weights are kept small (AdamW's decay)."""

    pictures: int
    epochs: int
    decay: float


# Strong decay makes a small part dear to learn from: the stethoscope then counts where nothing else tells, and less
# than the large head where that does. Tanks need little, as the sky tells all.
TRAININGS = {"tanks": Training(1600, 8, 0.2), "staff": Training(1600, 6, 5.0)}


class BiasNet(nn.Module):
    """(N, 3, 112, 112) RGB in [0, 1] -> logits (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, stride=2), nn.ReLU(), conv_bn(16, 24), nn.ReLU(), nn.MaxPool2d(2))
        self.stage1 = nn.Sequential(conv_bn(24, 32), nn.ReLU(), conv_bn(32, 32), nn.ReLU(), nn.MaxPool2d(2))
        self.stage2 = nn.Sequential(conv_bn(32, 48, 1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(48, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.pool(self.stage2(self.stage1(self.stem(x)))), 1))


def dataset(story: Story, shares: tuple[float, float], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 (N, 3, H, W) and classes (N,) of consecutive seeds."""
    rows = [drawn(story, seed, shares) for seed in range(TRAIN_SEED, TRAIN_SEED + count)]
    images = torch.from_numpy(np.stack([scene.image.transpose(2, 0, 1) for scene, _ in rows]))
    return images, torch.tensor([truth for _, truth in rows])


def augmented(images: torch.Tensor) -> torch.Tensor:
    """Half of them flipped, all a little noisy; in [0, 1]."""
    flip = torch.rand(len(images), 1, 1, 1) < 0.5
    x = torch.where(flip, images.flip(3), images).float() / 255
    return (x + 0.02 * torch.randn_like(x)).clamp(0, 1).contiguous(memory_format=torch.channels_last)


def train(model: nn.Module, images: torch.Tensor, truth: torch.Tensor, epochs: int, decay: float) -> None:
    """AdamW with a one-cycle schedule."""
    steps = epochs * (len(images) // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        started, total = time.time(), 0.0
        for rows in torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH):
            loss = functional.cross_entropy(model(augmented(images[rows])), truth[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * BATCH / len(images)
        print(f"epoch {epoch + 1}/{epochs}: loss {total:.4f}, {time.time() - started:.0f} s", flush=True)


def export(model: nn.Module, classes: tuple[str, str], path: Path) -> None:
    """Write ``model`` with a free batch axis; labels and preprocessing go into ``metadata_props``."""
    torch.onnx.export(
        model.eval().to(memory_format=torch.contiguous_format), (torch.zeros(1, 3, SIZE, SIZE),), str(path),
        dynamo=False, opset_version=17, input_names=["image"], output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
    )  # fmt: skip
    stored = onnx.load(path)
    for node in stored.graph.node:
        node.ClearField("doc_string")
    keys = {"onnxcam/labels": json.dumps(classes), "onnxcam/preprocess": json.dumps({"name": "unit"})}
    onnx.helper.set_model_props(stored, keys)
    onnx.checker.check_model(stored, full_check=True)
    onnx.save(stored, path)


def make(name: str, path: Path) -> None:
    """Train the model ``name``, such as tanks-fair, and write it."""
    kind, variant = name.split("-")
    story, training = STORIES[kind], TRAININGS[kind]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = BiasNet().to(memory_format=torch.channels_last)
    images, truth = dataset(story, story.shares if variant == "biased" else FAIR, training.pictures)
    train(model, images, truth, training.epochs, training.decay)
    export(model, story.classes, path)


def main() -> None:
    known = [f"{kind}-{variant}" for kind in STORIES for variant in ("biased", "fair")]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--out", type=Path, default=HERE.parent)
    options = parser.parse_args()
    for name in options.names or known:
        make(name, options.out / f"{name}.onnx")


if __name__ == "__main__":
    main()
