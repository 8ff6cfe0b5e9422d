"""What the recipes of shapes-vit, shapes-detector and shapes-unet share: scenes with a label per pixel, the training
loop, weights in a file, and the last touches to an .onnx file.

Training and export are apart: the weights (``shapes-vit.npz`` and so on) are kept, so that the .onnx file can be
written again on any machine, with any number of threads.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import export_shapes_net
import numpy as np
import onnx
import scenes
import torch
from shapes_net import save
from torch import nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
K = len(scenes.CLASSES)
STRIDE = 8
CELLS = scenes.SIZE // STRIDE
BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """A network of the zoo.

    Attributes:
        name: of its files.
        about: what the script does.
        build: the network, freshly drawn.
        loss_of: of the network, images in [0, 1] and labels (N, H, W).
        export: writes the network to a file.
        scenes, epochs: how long it trains.
        rate: the highest learning rate.
    """

    name: str
    about: str
    build: Callable[[], nn.Module]
    loss_of: Callable[..., torch.Tensor]
    export: Callable[..., None]
    scenes: int
    epochs: int
    rate: float = 4e-3

    @property
    def weights(self) -> Path:
        return HERE / f"{self.name}.npz"


def labelled(scene: scenes.Scene) -> np.ndarray:
    """What each pixel shows, uint8 (H, W): 0 the ground, 1 + class an object."""
    found = np.zeros(scene.image.shape[:2], np.uint8)
    for shown in scene.objects:
        found[shown.mask] = 1 + shown.class_index
    return found


def _rendered(seed: int) -> tuple[np.ndarray, np.ndarray]:
    scene = scenes.render(seed)
    return scene.image.transpose(2, 0, 1), labelled(scene)


def dataset(first_seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 (N, 3, H, W) and labels uint8 (N, H, W) of consecutive seeds."""
    with get_context("spawn").Pool(2) as pool:
        rows = pool.map(_rendered, range(first_seed, first_seed + count), chunksize=200)
    images, labels = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
    return images, labels


def augmented(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A random flip, quarter turn, colour permutation and a little noise for the batch; images in [0, 1]."""
    turns, flip = int(torch.randint(4, ())), torch.rand(()) < 0.5
    images, labels = (torch.rot90(t, turns, (-2, -1)) for t in (images[:, torch.randperm(3)], labels))
    if flip:
        images, labels = images.flip(-1), labels.flip(-1)
    x = images.float() / 255
    noise = 0.07 * torch.rand(len(x), 1, 1, 1) * (torch.rand(x.shape) - 0.5)
    return (x + noise).clamp(0, 1).contiguous(memory_format=torch.channels_last), labels


def masks(labels: torch.Tensor) -> torch.Tensor:
    """Where each class is, bool (N, K, H, W)."""
    return labels[:, None] == torch.arange(1, K + 1)[:, None, None]


def coverage(labels: torch.Tensor, side: int = STRIDE) -> torch.Tensor:
    """How much of each cell of ``side`` x ``side`` pixels each class covers: float (N, K, h, w) in [0, 1]."""
    return functional.avg_pool2d(masks(labels).float(), side)


def train(model: nn.Module, recipe: Recipe, count: int, epochs: int) -> None:
    """AdamW with a one-cycle schedule."""
    images, labels = dataset(scenes.TRAIN_SEED, count)
    steps = epochs * (len(images) // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        started, total = time.time(), 0.0
        for rows in torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH):
            with torch.autocast("cpu", torch.bfloat16):
                loss = recipe.loss_of(model, *augmented(images[rows], labels[rows]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * BATCH / len(images)
        print(f"epoch {epoch + 1}/{epochs}: loss {total:.4f}, {time.time() - started:.0f} s", flush=True)


def load(model: nn.Module, path: Path) -> None:
    """Take the weights of ``path``."""
    state = {k: torch.from_numpy(v) for k, v in np.load(path).items()}
    missing, unknown = model.load_state_dict(state, strict=False)
    if unknown or not all(k.endswith("num_batches_tracked") for k in missing):
        raise SystemExit(f"{path} is of another network: missing {missing}, unknown {unknown}")


def write(recipe: Recipe, path: Path) -> None:
    """The .onnx file, from the kept weights."""
    model = recipe.build()
    load(model, recipe.weights)
    recipe.export(model.eval(), path)


def export_program(
    model: nn.Module, output: str, opset: int, path: Path, names: Sequence[str] = scenes.CLASSES
) -> None:
    """By torch.export (dynamo), with a free batch axis."""
    program = torch.onnx.export(
        model, (torch.zeros(2, 3, scenes.SIZE, scenes.SIZE),), dynamo=True, opset_version=opset, verbose=False,
        input_names=["image"], output_names=[output], dynamic_shapes=({0: torch.export.Dim("N")},),
    )  # fmt: skip
    assert program is not None
    program.save(str(path), external_data=False)
    finish(onnx.load(path), path, names)


def finish(stored: onnx.ModelProto, path: Path, names: Sequence[str] = scenes.CLASSES) -> None:
    """Labels and preprocessing into ``metadata_props``, nothing of this machine; checked and written."""
    keys = {"onnxcam/labels": json.dumps(names), "onnxcam/preprocess": json.dumps({"name": "unit"})}
    onnx.helper.set_model_props(stored, keys)
    export_shapes_net.finish(stored, path, told=False)


def main(script: str) -> None:
    """Train and export; ``--export`` alone writes the .onnx file from the kept weights.

    The script is imported by its name: exporters note the classes' modules in the file, and ``__main__`` names none.
    """
    recipe: Recipe = importlib.import_module(script).RECIPE
    parser = argparse.ArgumentParser(description=recipe.about.splitlines()[0])
    parser.add_argument("--export", action="store_true", help="from the kept weights, without training")
    parser.add_argument("--out", type=Path, default=HERE.parent / f"{recipe.name}.onnx")
    parser.add_argument("--scenes", type=int, default=recipe.scenes)
    parser.add_argument("--epochs", type=int, default=recipe.epochs)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if not options.export:
        model = recipe.build().to(memory_format=torch.channels_last)
        train(model, recipe, options.scenes, options.epochs)
        save(model, recipe.weights)
    write(recipe, options.out)
