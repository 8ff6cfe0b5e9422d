"""Train shapes-unet on rendered scenes and write it as ONNX (opset 18).

    python train_shapes_unet.py [--export] [--out ../shapes-unet.onnx] [--scenes 10000] [--epochs 3]

Segmentation: for each pixel the logits of the background and of seven shapes. A U-Net (Ronneberger et al., 2015,
https://arxiv.org/abs/1505.04597) of three levels, 56, 28 and 14 cells wide, transposed convolutions on the way up and
a skip at each level; a Resize brings the logits from 56 x 56 to the pixels.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import kinds
import scenes
import torch
from torch import nn
from torch.nn import functional
from train_shapes_cnn import conv_bn


def layers(*widths: int, stride: int = 1) -> nn.Sequential:
    """3 x 3 convolutions from width to width, the first with ``stride``."""
    pairs = list(pairwise(widths))
    parts = [(conv_bn(a, b, stride=1 if k else stride), nn.ReLU()) for k, (a, b) in enumerate(pairs)]
    return nn.Sequential(*(part for pair in parts for part in pair))


class ShapesUnet(nn.Module):
    """(N, 3, 112, 112) RGB in [0, 1] -> logits (N, 1 + K, 112, 112), the background's first."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = layers(3, 24, 24, stride=2)
        self.down2 = layers(24, 48, 48, stride=2)
        self.down3 = layers(48, 64, 64, 64, stride=2)
        self.up3 = nn.ConvTranspose2d(64, 32, 2, 2)
        self.join2 = layers(32 + 48, 32)
        self.up2 = nn.ConvTranspose2d(32, 16, 2, 2)
        self.join1 = layers(16 + 24, 16)
        self.head = nn.Conv2d(16, 1 + kinds.K, 1)

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, 1 + K, 56, 56)."""
        at1 = self.down1(x)
        at2 = self.down2(at1)
        at3 = self.down3(at2)
        found = self.join2(torch.cat([self.up3(at3), at2], 1))
        return self.head(self.join1(torch.cat([self.up2(found), at1], 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(self.coarse(x), scale_factor=2.0, mode="bilinear", align_corners=False)


def loss_of(model: ShapesUnet, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy at 56 x 56, each cell's share of the classes as truth."""
    shares = kinds.coverage(labels, 2)
    truth = torch.cat([1 - shares.sum(1, keepdim=True), shares], 1)
    return functional.cross_entropy(model.coarse(x).float(), truth)


def export(model: nn.Module, path: Path) -> None:
    """By torch.export, with a free batch axis."""
    kinds.export_program(model, "logits", 18, path, ("background", *scenes.CLASSES))


RECIPE = kinds.Recipe("shapes-unet", __doc__, ShapesUnet, loss_of, export, scenes=10_000, epochs=3)

if __name__ == "__main__":
    kinds.main("train_shapes_unet")
