"""Train shapes-vqa on rendered scenes and write it as ONNX (opset 17).

    python train_shapes_vqa.py [--out ../shapes-vqa.onnx] [--scenes 12000] [--epochs 6] [--threads 1]

Visual question answering: "is there a red star?" Every place of the image tower's last map is compared with the
question on its own (the question scales the channels and, after a mixing, shifts them, after FiLM: Perez et al. 2018),
then all are averaged. The question is the sum of its words' vectors: ``<pad>``, whose vector is zero, changes nothing.

An instrument as shapes-cnn is: beside the cross-entropy, the training asks that the evidence for "yes" lies on the
object that is asked about, that there is none where no object fits, and that the channels which the question scales
stand for one colour or shape each, found on its objects only. The image tower starts from the captioner's encoder,
which tells shapes and colours apart: run train_shapes_caption.py first.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import OrderedDict
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
import scenes
import torch
import words
from onnx import numpy_helper
from torch import nn
from torch.nn import functional
from train_shapes_cnn import EVIDENCE, HEAD_SCALE, ShapesCnn, coverage

HERE = Path(__file__).resolve().parent
WIDTH, FUSED, QUESTION_WIDTH = 64, 32, 32
DETECTORS = len(words.COLOURS) + len(scenes.CLASSES)  # one for each word that can be seen
QUESTIONS = 6  # asked about each picture of a batch
DETECTED = 10.0  # the value wanted of a detector where its object fills a cell
EVIDENCE_WEIGHT, DETECTOR_WEIGHT, LEARNING_RATE = 20.0, 10.0, 2e-3
ANY_COLOUR = len(words.COLOURS)  # a question that names no colour

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def pretrained_tower(path: Path) -> nn.Sequential:
    """The tower of shapes-cnn with the convolutions of ``path``, in which normalisation is folded in."""
    stored, tower = onnx.load(path).graph, ShapesCnn(1)
    arrays = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in stored.initializer}
    blocks = [m for m in tower.modules() if isinstance(m, nn.Sequential) and isinstance(m[-1], nn.BatchNorm2d)]
    for block, node in zip(blocks, [n for n in stored.node if n.op_type == "Conv"], strict=True):
        block[0].weight.data, block[0].bias = arrays[node.input[1]], nn.Parameter(arrays[node.input[2]])
        block[1] = nn.Identity()
    return nn.Sequential(OrderedDict(stem=tower.stem, stage1=tower.stage1, stage2=tower.stage2))


class ShapesVqa(nn.Module):
    """(N, 3, 112, 112) RGB in [0, 1] and word ids (N, T) -> logits (N, 2) of no and yes."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.word = nn.Embedding(len(words.VOCABULARY), QUESTION_WIDTH, padding_idx=words.PAD)
        self.scale, self.shift = nn.Linear(QUESTION_WIDTH, DETECTORS), nn.Linear(QUESTION_WIDTH, FUSED)
        self.detect = nn.Conv2d(WIDTH, DETECTORS, 1, bias=False)
        self.mix = nn.Conv2d(DETECTORS, FUSED, 1, bias=False)
        self.fused, self.pool = nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(FUSED, len(words.ANSWERS))

    def compare(self, detected: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        """How well each place fits the question: (N, 32, 14, 14)."""
        asked = self.word(question).sum(1)
        scale, shift = self.scale(asked)[:, :, None, None], self.shift(asked)[:, :, None, None]
        return self.fused(self.mix(detected * scale) + shift)

    def forward(self, image: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.pool(self.compare(self.detect(self.tower(image)), question)), 1))


def _rendered(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shown = words.render(seed)
    colours = np.full(len(scenes.CLASSES), -1)
    colours[[o.class_index for o in shown.scene.objects]] = shown.colours
    return shown.scene.image.transpose(2, 0, 1), coverage(shown.scene), colours


def dataset(first_seed: int, count: int) -> Batch:
    """Images uint8 (N, 3, H, W), coverage float16 (N, K, 14, 14), and each class's colour or -1, int64 (N, K)."""
    with get_context("spawn").Pool(2) as pool:
        rows = pool.map(_rendered, range(first_seed, first_seed + count), chunksize=200)
    images, covers, colours = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
    return images, covers, colours


def question_table() -> torch.Tensor:
    """Word ids of every question: int64 (colours + 1, K, T), the last row without a colour."""
    names = (*words.COLOUR_NAMES, None)
    length = len(words.question("star", "red").split())
    rows = [[words.tokens(words.question(shape, name), length) for shape in scenes.CLASSES] for name in names]
    return torch.from_numpy(np.array(rows))


def drawn_questions(colours: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A random question per row of ``colours`` (N, K): shape, colour and answer, each (N,).

    Two of three ask for a shape that is there; of all, one third each: no colour, the shape's own, any.
    """
    there = (colours >= 0).float()
    shape = torch.multinomial(0.65 * there / there.sum(1, True) + 0.35 * (1 - there) / (1 - there).sum(1, True), 1)
    own, kind = colours.gather(1, shape)[:, 0], torch.randint(3, (len(colours),))
    other = torch.randint(ANY_COLOUR, own.shape)
    colour = torch.where((kind == 1) & (own >= 0), own, torch.where(kind == 0, ANY_COLOUR, other))
    return shape[:, 0], colour, (own >= 0) & ((colour == own) | (colour == ANY_COLOUR))


def augmented(images: torch.Tensor, cover: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A random flip, quarter turn and a little noise for the batch; images in [0, 1]."""
    turns, axes = int(torch.randint(4, ())), [3] if torch.rand(()) < 0.5 else []
    x = torch.rot90(images, turns, (2, 3)).flip(axes).float() / 255
    noise = 0.02 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)
    return (x + noise).clamp(0, 1), torch.rot90(cover, turns, (2, 3)).flip(axes).float()


def misplaced(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean squared error of a map; where nothing is wanted, only what is above zero is wrong."""
    error = found - wanted
    return torch.where(wanted > 0, error, error.relu()).square().mean()


def seen_words(cover: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """Where each colour and each shape is: (N, 13, 14, 14) from the shapes' cover and their colours."""
    tinted = functional.one_hot(colours + 1, len(words.COLOURS) + 1)[..., 1:].float()
    return torch.cat([torch.einsum("nkc,nkhw->nchw", tinted, cover), cover], 1)


def loss_of(model: ShapesVqa, x: torch.Tensor, truth: Batch, strictness: float) -> torch.Tensor:
    """Cross-entropy of the answer, and the squared errors of the places of "yes" and of each seen word.

    ``strictness`` weighs the places of "yes" and grows from 0 to 1: from the start at 1, as nearly no place is to
    say yes, every fused channel can go silent for good.
    """
    cover, colours, table = truth
    row = torch.arange(len(x)).repeat_interleave(QUESTIONS)
    shape, colour, answer = drawn_questions(colours[row])
    with torch.autocast("cpu", torch.bfloat16):
        detected = model.detect(model.tower(x))
        fused = model.compare(detected[row], table[colour, shape])
    maps, weight = fused.float(), model.head.weight
    logits = functional.linear(HEAD_SCALE * maps.mean((2, 3)), weight, model.head.bias)
    evidence = torch.einsum("nchw,c->nhw", maps, weight[1]) * HEAD_SCALE / EVIDENCE
    placed = misplaced(evidence, cover[row, shape] * answer[:, None, None])
    named = misplaced(detected.float() / DETECTED, seen_words(cover, colours))
    said = functional.cross_entropy(logits, answer.long())
    return said + strictness * EVIDENCE_WEIGHT * len(scenes.CLASSES) * placed + DETECTOR_WEIGHT * named


def train(model: ShapesVqa, data: Batch, epochs: int, batch: int = 64) -> None:
    images, covers, colours = data
    steps, table = epochs * (len(images) // batch), question_table()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        started, total = time.time(), 0.0
        for rows in torch.randperm(len(images))[: len(images) // batch * batch].split(batch):
            x, cover = augmented(images[rows], covers[rows])
            x = x.contiguous(memory_format=torch.channels_last)
            loss = loss_of(model, x, (cover, colours[rows], table), schedule.last_epoch / steps)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * batch / len(images)
        print(f"epoch {epoch + 1}/{epochs}: loss {total:.4f}, {time.time() - started:.0f} s", flush=True)
    model.head.weight.data *= HEAD_SCALE


def finish(path: Path, **properties: object) -> None:
    """Strip what tells of the machine, and add ``properties`` as JSON under ``onnxcam/``."""
    stored = onnx.load(path)
    for node in stored.graph.node:
        node.ClearField("doc_string")
    onnx.helper.set_model_props(stored, {f"onnxcam/{key}": json.dumps(value) for key, value in properties.items()})
    onnx.checker.check_model(stored, full_check=True)
    onnx.save(stored, path)


def export(model: nn.Module, path: Path) -> None:
    """Write ``model`` with free batch and word axes; vocabulary and preprocessing go into ``metadata_props``."""
    model = model.eval().to(memory_format=torch.contiguous_format)
    example = (torch.zeros(2, 3, scenes.SIZE, scenes.SIZE), torch.ones(2, 5, dtype=torch.int64))
    axes = {"image": {0: "N"}, "question": {0: "N", 1: "T"}, "answer": {0: "N"}}
    torch.onnx.export(
        model, example, str(path), dynamo=False, opset_version=17, dynamic_axes=axes,
        input_names=["image", "question"], output_names=["answer"],
    )  # fmt: skip
    finish(path, labels=words.ANSWERS, preprocess={"name": "unit"}, vocabulary=words.VOCABULARY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "shapes-vqa.onnx")
    parser.add_argument("--scenes", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    data = dataset(scenes.TRAIN_SEED, options.scenes)
    tower = pretrained_tower(HERE.parent / "shapes-caption-encoder.onnx")
    model = ShapesVqa(tower).to(memory_format=torch.channels_last)
    train(model, data, options.epochs)
    export(model, options.out)


if __name__ == "__main__":
    main()
