"""Train shapes-vit, a small vision transformer, on rendered scenes and write it as ONNX (opset 20).

    python train_shapes_vit.py [--export] [--out ../shapes-vit.onnx] [--scenes 20000] [--epochs 4]

Which of seven shapes are in the scene? One logit per shape (multi-label), read from the class token. The stem's
convolutions overlap (Xiao et al., 2021, https://arxiv.org/abs/2106.14881) and give 14 x 14 tokens.

Beside the presence of each shape, every single token is labelled with what covers its cell (as in "token labelling",
Jiang et al., 2021, https://arxiv.org/abs/2104.10858): if the class token of the last block looked at this token alone,
the head would have to name it. So masks are labels too, and what a token hands over speaks for its own shape. Which
tokens the class token looks at, nothing supervises.
"""

from __future__ import annotations

from pathlib import Path

import kinds
import torch
from torch import nn
from torch.nn import functional

WIDTH, HEADS, BLOCKS, HIDDEN = 64, 4, 3, 128
TOKEN_WEIGHT = 5.0


def conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Attention(nn.Module):
    """Multi-head self-attention over (N, T, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(count, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q * (WIDTH // HEADS) ** -0.5 @ k.transpose(2, 3)).softmax(3)
        return self.proj((weights @ v).transpose(1, 2).reshape(count, tokens, WIDTH))


class Block(nn.Module):
    """Attention and a perceptron, each behind its normalisation and beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(WIDTH), Attention(), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ShapesVit(nn.Module):
    """(N, 3, 112, 112) RGB in [0, 1] -> logits (N, K). Class token first, then 14 x 14 tokens row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 24, 2), conv(24, 48, 2), conv(48, 64, 2), nn.Conv2d(64, WIDTH, 3, 1, 1))
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + kinds.CELLS**2, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, kinds.K)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """The last block's input (N, T, D)."""
        patches = self.stem(x).flatten(2).transpose(1, 2)
        found = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks[:-1]:
            found = block(found)
        return found

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks[-1](tokens))[:, 0])

    def read_alone(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the head says where the class token looks at one patch alone: (N, 196, K)."""
        last = self.blocks[-1]
        values = functional.linear(
            last.norm1(tokens[:, 1:]), last.attn.qkv.weight[-WIDTH:], last.attn.qkv.bias[-WIDTH:]
        )
        found = tokens[:, :1] + last.attn.proj(values)
        return self.head(self.norm(found + last.mlp(last.norm2(found))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.tokens(x))


def loss_of(model: ShapesVit, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of presence, and of what covers each token."""
    cover, tokens = kinds.coverage(labels), model.tokens(x)
    shown = functional.binary_cross_entropy_with_logits(model.read(tokens).float(), (cover.amax((2, 3)) > 0).float())
    told = model.read_alone(tokens).float().transpose(1, 2)
    return shown + TOKEN_WEIGHT * functional.binary_cross_entropy_with_logits(told, cover.flatten(2))


def export(model: nn.Module, path: Path) -> None:
    """By torch.export, with a free batch axis."""
    kinds.export_program(model, "logits", 20, path)


RECIPE = kinds.Recipe("shapes-vit", __doc__, ShapesVit, loss_of, export, scenes=20_000, epochs=4, rate=2e-3)

if __name__ == "__main__":
    kinds.main("train_shapes_vit")
