"""Train shapes-net, and a weak twin, on rendered scenes; writes their weights as .npz.

    python train_shapes_net.py [--scenes 20000] [--epochs 8] [--threads 2]

The network names a shape of the scene: Softmax over the classes, held to an equal share for each shape that is there.
No mask is shown to it. The weak twin has the same parts, but sees 8,000 scenes four times.
"""

from __future__ import annotations

import argparse
import time

import scenes
import torch
from shapes_net import WEAK_WEIGHTS, WEIGHTS, ShapesNet, save
from torch.nn import functional
from train_shapes_cnn import augmented, dataset

BATCH = 64


def loss_of(model: ShapesNet, x: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        features = model.features(x.contiguous(memory_format=torch.channels_last))
    logits = model.head(features.float().mean((2, 3)))
    return functional.cross_entropy(logits, present / present.sum(1, keepdim=True))


def train(images: torch.Tensor, covers: torch.Tensor, epochs: int, seed: int) -> ShapesNet:
    torch.manual_seed(seed)
    model = ShapesNet(len(scenes.CLASSES)).to(memory_format=torch.channels_last)
    steps = epochs * (len(images) // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        started, total = time.time(), 0.0
        for rows in torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH):
            x, cover = augmented(images[rows], covers[rows])
            loss = loss_of(model, x, (cover.amax((2, 3)) > 0).float())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * BATCH / len(images)
        print(f"epoch {epoch + 1}/{epochs}: loss {total:.4f}, {time.time() - started:.0f} s", flush=True)
    return model.eval().to(memory_format=torch.contiguous_format)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images, covers = dataset(scenes.TRAIN_SEED, options.scenes)
    save(train(images[:8000], covers[:8000], 4, seed=1), WEAK_WEIGHTS)
    save(train(images, covers, options.epochs, seed=0), WEIGHTS)


if __name__ == "__main__":
    main()
