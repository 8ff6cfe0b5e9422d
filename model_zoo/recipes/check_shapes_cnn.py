"""Held-out accuracy of shapes-cnn, from the ONNX file alone: fresh scenes, ONNX Runtime, NumPy.

python check_shapes_cnn.py [--model ../shapes-cnn.onnx] [--scenes 2000] [--seed 1000000]
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import scenes

MODEL = Path(__file__).resolve().parents[1] / "shapes-cnn.onnx"
Floats = npt.NDArray[np.float32]


def tensor(images: list[npt.NDArray[np.uint8]]) -> Floats:
    """uint8 (H, W, 3) pictures as the model's input: float32 (N, 3, H, W) in [0, 1]."""
    return np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255


def predictions(model: Path, first_seed: int, count: int, batch: int = 50) -> tuple[Floats, Floats]:
    """Logits and truth (0 or 1), both (N, K), for ``count`` consecutive seeds."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    logits, truth = [], []
    for start in range(first_seed, first_seed + count, batch):
        shown = [scenes.render(seed) for seed in range(start, min(start + batch, first_seed + count))]
        logits.append(session.run(["logits"], {"image": tensor([s.image for s in shown])})[0])
        truth += [scenes.presence(s) for s in shown]
    return np.concatenate(logits), np.stack(truth)


def accuracies(logits: Floats, truth: Floats) -> dict[str, float]:
    """Three readings, the last the strictest: each label, the top-1 class, the whole set of classes."""
    right = (logits > 0) == (truth > 0)
    return {
        "label": float(right.mean()),
        "top1": float(truth[np.arange(len(truth)), logits.argmax(1)].mean()),
        "exact_set": float(right.all(1).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=scenes.HELDOUT_SEED)
    options = parser.parse_args()
    content = options.model.read_bytes()
    print(f"sha256     {hashlib.sha256(content).hexdigest()}\nbytes      {len(content)}")
    logits, truth = predictions(options.model, options.seed, options.scenes)
    for name, value in accuracies(logits, truth).items():
        print(f"{name:10s} {value:.4f}")
    for name, right in zip(scenes.CLASSES, ((logits > 0) == (truth > 0)).mean(0), strict=True):
        print(f"  {name:8s} {right:.4f}")


if __name__ == "__main__":
    main()
