"""The golden maps of ``tests/test_peers.py``: what the peers answer on two tiny networks, in double precision.

    python -m benchmarks.peers_golden [FOLDER]

Writes tiny_cnn.onnx, tiny_vit.onnx and an .npz beside each, as ``benchmarks.peers_torch`` does, but of the answers the
float64 ones alone, rounded to float32, and of the normal draws the seeds alone. FOLDER is tests/golden by default.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models import VisionTransformer

from benchmarks import peers_torch
from benchmarks.networks_reference import enliven, pictures
from benchmarks.peers_torch import Network, patches

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
SIZE = 20
_LAST = "encoder.layers.encoder_layer_1.ln_1"


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, given: int, made: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(given, made, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(made)
        self.conv2 = nn.Conv2d(made, made, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(made)
        self.relu = nn.ReLU()
        self.shortcut = nn.Conv2d(given, made, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Any) -> Any:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class TinyCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2))
        self.block1, self.block2 = Block(6, 6, 1), Block(6, 8, 2)
        self.fc = nn.Linear(8, 7)

    def forward(self, x: Any) -> Any:
        return self.fc(self.block2(self.block1(self.stem(x))).mean((2, 3)))


def tiny_vit() -> Any:
    return VisionTransformer(SIZE, 4, 2, 2, 16, 32, num_classes=7)


# What makes it, how it is asked, and the parts of the keys that are.
NETWORKS = {
    "tiny_cnn": (TinyCNN, Network(SIZE, ("block2", "block1"), "block1", steps=(10, 5)), ()),
    "tiny_vit": (tiny_vit, Network(SIZE, (_LAST,), _LAST, {_LAST: patches}), ("/encoder", "LeGrad", "InputX")),
}


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    peers_torch.KEPT = 0
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDEN
    folder.mkdir(exist_ok=True)
    image = torch.from_numpy(pictures(1, SIZE, seed=1))
    for name, (make, network, parts) in NETWORKS.items():
        with tempfile.TemporaryDirectory() as work:
            peers_torch.write(name, network, seeded(make), image, Path(work), parts)
            (folder / f"{name}.onnx").write_bytes((Path(work) / f"{name}.onnx").read_bytes())
            np.savez_compressed(folder / f"{name}.npz", **slim(dict(np.load(Path(work) / f"{name}.npz"))))


def seeded(make: Any) -> Any:
    """Lively weights, and statistics of pictures."""
    torch.manual_seed(0)
    model, rng = make().eval(), np.random.default_rng(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.from_numpy(np.asarray(enliven(weight.numpy(), rng))))
        norms = [m.train() for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        model(torch.from_numpy(pictures(8, SIZE, seed=2)))
    return model.eval()


def slim(found: dict[str, Any]) -> dict[str, Any]:
    """One class, but for Grad-CAM; the exact answers; and what cannot be drawn again."""
    meta, kept = json.loads(str(found["meta"])), {}
    first = int(found["logits"].argmax())
    for key, about in meta.items():
        if about["target"] == first or about["method"] == "GradCAM":
            kept[key] = {k: v for k, v in about.items() if k not in ("noise", "seconds")}
    arrays = {"image": found["image"], "logits": found["logits"]}
    for name, array in found.items():
        key, _, part = name.partition("|")
        if key in kept and part != "float32":
            arrays[name] = array.astype(np.float32) if array.dtype == np.float64 else array
        elif name.startswith("activation/"):
            arrays[name] = array
    return {"meta": np.array(json.dumps(kept)), **arrays}


if __name__ == "__main__":
    main()
