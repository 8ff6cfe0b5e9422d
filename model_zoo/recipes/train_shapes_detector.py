"""Train shapes-detector on rendered scenes and write it as ONNX (opset 17), NonMaxSuppression inside.

    python train_shapes_detector.py [--export] [--out ../shapes-detector.onnx] [--scenes 20000] [--epochs 3]

One stage, no anchors (FCOS, Tian et al., 2019, https://arxiv.org/abs/1904.01355): each of 14 x 14 cells gives the
probability of each shape and the distances of its own centre to the four sides of the box. The cells round a box's
centre are its own. The labels are boxes and classes, nothing else.
"""

from __future__ import annotations

from pathlib import Path

import kinds
import onnx
import scenes
import torch
from torch import nn
from torch.nn import functional
from train_shapes_cnn import Residual, conv_bn

OWN = 0.8 * kinds.STRIDE  # how far, along each axis, a box's own cells lie from its centre; one cell always does
SUPPRESSION = """suppress (float[1,196,4] all_boxes, float[1,7,196] all_scores)
    => (float[found,4] boxes, float[found] scores, int64[found] classes) {
    most = Constant <value_ints: ints = [10]> ()
    overlap = Constant <value_floats: floats = [0.5]> ()
    least = Constant <value_floats: floats = [0.3]> ()
    [suppress] selected = NonMaxSuppression (all_boxes, all_scores, most, overlap, least)
    which_image_and_box = Constant <value_ints: ints = [0, 2]> ()
    which_class = Constant <value_int: int = 1> ()
    image_and_box = Gather <axis: int = 1> (selected, which_image_and_box)
    boxes = GatherND (all_boxes, image_and_box)
    scores = GatherND (all_scores, selected)
    classes = Gather <axis: int = 1> (selected, which_class)
}"""


class ShapesDetector(nn.Module):
    """(N, 3, 112, 112) RGB in [0, 1] -> boxes (N, 196, 4), x0, y0, x1, y1 in pixels, and probabilities (N, K, 196)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 24, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.stage1 = nn.Sequential(conv_bn(24, 48), nn.ReLU(), nn.MaxPool2d(2))
        self.stage2 = nn.Sequential(conv_bn(48, 64), nn.ReLU(), Residual(64, 3))
        self.class_tower = nn.Sequential(conv_bn(64, 64, 1), nn.ReLU())
        self.box_tower = nn.Sequential(conv_bn(64, 64, 1), nn.ReLU())
        self.class_head, self.box_head = nn.Conv2d(64, kinds.K, 1), nn.Conv2d(64, 4, 1)
        nn.init.constant_(self.class_head.bias, -4.0)
        self.register_buffer("centres", cell_centres(), persistent=False)

    def raw(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (N, 196, 4) and logits (N, K, 196)."""
        features = self.stage2(self.stage1(self.stem(x)))
        logits = self.class_head(self.class_tower(features)).flatten(2)
        sides = self.box_head(self.box_tower(features)).flatten(2).transpose(1, 2).float()
        away = kinds.STRIDE * torch.exp(sides)
        return torch.cat([self.centres - away[..., :2], self.centres + away[..., 2:]], 2), logits

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        boxes, logits = self.raw(x)
        return boxes, torch.sigmoid(logits)


def cell_centres() -> torch.Tensor:
    """(196, 2): x and y of each cell's centre, in pixels, row by row."""
    along = kinds.STRIDE * (torch.arange(kinds.CELLS) + 0.5)
    return torch.stack(torch.meshgrid(along, along, indexing="xy"), 2).reshape(-1, 2)


def true_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Boxes (N, K, 4) that just hold the masks (N, K, H, W); of an empty mask 0, 0, size, size."""
    sides = []
    for axis in (2, 3):  # what is left when this axis is reduced: columns, then rows
        filled = masks.any(axis).int()
        sides.append((filled.argmax(2), scenes.SIZE - filled.flip(2).argmax(2)))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], 2).float()


def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boxes (B, 4) and (B, 4)."""
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(0).prod(1)
    return shared / ((a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared)


def loss_of(model: ShapesDetector, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Focal loss of the classes (Lin et al., 2017, https://arxiv.org/abs/1708.02002), 1 - IoU and distance of boxes."""
    masks = kinds.masks(labels)
    truth, (boxes, logits) = true_boxes(masks), model.raw(x)
    middle = (truth[..., :2] + truth[..., 2:]) / 2
    away = (middle[:, :, None] - model.centres).abs().amax(3)
    own = (away <= OWN) & masks.any(3).any(2)[..., None]
    image, index, cell = own.nonzero(as_tuple=True)
    found, wanted = boxes[image, cell], truth[image, index]
    misplaced = 1 - overlap(found, wanted) + (found - wanted).abs().mean(1) / kinds.STRIDE
    entropy = functional.binary_cross_entropy_with_logits(logits.float(), own.float(), reduction="none")
    focal = (1 - torch.exp(-entropy)).square() * entropy
    return focal.sum() / len(image) + misplaced.mean()


def export(model: nn.Module, path: Path) -> None:
    """By TorchScript, one picture at a time; what NonMaxSuppression selects is gathered behind it."""
    torch.onnx.export(
        model, (torch.zeros(1, 3, scenes.SIZE, scenes.SIZE),), str(path), dynamo=False, opset_version=17,
        input_names=["image"], output_names=["all_boxes", "all_scores"],
    )  # fmt: skip
    stored, behind = onnx.load(path), onnx.parser.parse_graph(SUPPRESSION)
    stored.graph.node.extend(behind.node)
    del stored.graph.output[:]
    stored.graph.output.extend(behind.output)
    kinds.finish(stored, path)


RECIPE = kinds.Recipe("shapes-detector", __doc__, ShapesDetector, loss_of, export, scenes=20_000, epochs=3)

if __name__ == "__main__":
    kinds.main("train_shapes_detector")
