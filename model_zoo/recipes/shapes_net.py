"""shapes-net: one small network of the usual parts, written by every exporter from the same weights.

Convolutions with BatchNorm, a residual Add, a Concat of two branches, global average pool, linear head. The weights
live in ``shapes-net.npz`` under PyTorch's names (``stem.0.weight``, OIHW): each exporter's script takes them there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from train_shapes_cnn import Residual, conv_bn

HERE = Path(__file__).resolve().parent
WEIGHTS, WEAK_WEIGHTS = HERE / "shapes-net.npz", HERE / "shapes-net-weak.npz"


class ShapesNet(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> logits (N, K). Stride 8: 14 x 14 cells of a scene; any height and width."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        self.stem = conv_bn(3, 24, stride=2)
        self.pool1 = nn.MaxPool2d(3, 2, 1)
        self.residual1 = Residual(24, 3)
        self.widen = conv_bn(24, 48)
        self.pool2 = nn.MaxPool2d(2)
        self.narrow, self.broad = conv_bn(48, 24, 1), conv_bn(48, 24, 3)
        self.residual2 = Residual(48, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(48, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.residual1(self.pool1(torch.relu(self.stem(x))))
        x = self.pool2(torch.relu(self.widen(x)))
        return self.residual2(torch.relu(torch.cat([self.narrow(x), self.broad(x)], 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.pool(self.features(x)), 1))


def save(model: ShapesNet, path: Path) -> None:
    state = {k: v.detach().numpy() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    np.savez(path, **state)


def load(path: Path = WEIGHTS) -> ShapesNet:
    """The network in inference mode, with the weights of ``path``."""
    model = ShapesNet()
    state = {k: torch.from_numpy(v) for k, v in np.load(path).items()}
    missing, unknown = model.load_state_dict(state, strict=False)
    if unknown or not all(k.endswith("num_batches_tracked") for k in missing):
        raise SystemExit(f"{path} is of another network: missing {missing}, unknown {unknown}")
    return model.eval()
