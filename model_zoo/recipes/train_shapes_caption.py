"""Train shapes-caption on rendered scenes and write it as ONNX (opset 17): one file, and encoder and decoder apart.

    python train_shapes_caption.py [--out ..] [--scenes 16000] [--epochs 5] [--threads 1]

A captioner as in Show, Attend and Tell (Xu et al. 2015), with one glance for each word: a GRU reads the caption so
far, each step's state looks at the places of the last feature map by softmax attention, and what it sees is read out
together with the state as the next word's logits. The GRU sees words only, so that pictures enter by attention alone.

An instrument as shapes-cnn is: beside the cross-entropy of the next word, the training asks that the attention of a
colour and of a noun lies on the object that they name, and that the read-out finds each word on its objects only. The
encoder starts from shapes-cnn's convolutions.
"""

from __future__ import annotations

import argparse
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import scenes
import torch
import words
from torch import nn
from torch.nn import functional
from train_shapes_cnn import STRIDE
from train_shapes_vqa import LEARNING_RATE, finish, pretrained_tower

HERE = Path(__file__).resolve().parent
WIDTH, STATE, GLANCE, CELLS = 64, 64, 32, scenes.SIZE // STRIDE
EVIDENCE = 8.0  # the logit wanted of a noun where its object fills a cell
READ_SCALE = 4.0  # the read-out learns at this scale, or its weights would need many steps to grow
ATTENTION_WEIGHT, EVIDENCE_WEIGHT = 0.3, 10.0
SEEN = slice(words.ID[words.COLOUR_NAMES[0]], len(words.VOCABULARY))  # the words that can be seen: colours and nouns
OBJECT_STEPS = tuple((words.COLOUR_STEPS[i], words.NOUN_STEPS[i]) for i in (0, 1))

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class Decoder(nn.Module):
    """Features (N, 64, 14, 14) and the caption so far (N, T) -> logits (N, T, V) of each step's next word."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(len(words.VOCABULARY), GLANCE)
        self.gru = nn.GRU(GLANCE, STATE, batch_first=True)
        self.query = nn.Linear(STATE, GLANCE)
        self.key = nn.Linear(WIDTH, GLANCE, bias=False)
        self.place = nn.Parameter(torch.zeros(CELLS * CELLS, GLANCE))
        self.read = nn.Linear(WIDTH, len(words.VOCABULARY), bias=False)
        self.expect = nn.Linear(STATE, len(words.VOCABULARY))

    def look(self, features: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each step's state (N, T, S), attention over the places (N, T, 196), and what it sees (N, T, C)."""
        places = features.reshape(-1, WIDTH, CELLS * CELLS).transpose(1, 2)
        state, _ = self.gru(self.word(tokens))
        keys = self.key(places) + self.place
        glance = torch.softmax(self.query(state) @ keys.transpose(1, 2), 2)
        return state, glance, glance @ places

    def forward(self, features: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        state, _, seen = self.look(features, tokens)
        return self.read(seen) + self.expect(state)


class ShapesCaption(nn.Module):
    """Encoder, (N, 3, 112, 112) RGB in [0, 1] -> features (N, 64, 14, 14), and decoder as one: logits (N, T, V)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = pretrained_tower(HERE.parent / "shapes-cnn.onnx"), Decoder()

    def forward(self, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(image), tokens)


# ---------------------------------------------------------------- data


def _cells(mask: np.ndarray) -> np.ndarray:
    return mask.reshape(CELLS, STRIDE, CELLS, STRIDE).mean((1, 3)).astype(np.float16)


def _rendered(seed: int) -> tuple[np.ndarray, ...] | None:
    """Image, caption, cover (colours and nouns, 14, 14), cover of the two ends (2, 14, 14)."""
    shown = words.render(seed)
    named = words.ends(shown)
    if named is None:
        return None
    cover = np.zeros((len(words.COLOURS) + len(scenes.CLASSES), CELLS, CELLS), np.float16)
    for thing, colour in zip(shown.scene.objects, shown.colours, strict=True):
        cover[colour] += _cells(thing.mask)
        cover[len(words.COLOURS) + thing.class_index] += _cells(thing.mask)
    both = np.stack([_cells(shown.scene.objects[i].mask) for i in named])
    return shown.scene.image.transpose(2, 0, 1), words.tokens(words.caption(shown, named)), cover, both


def dataset(first_seed: int, count: int) -> Batch:
    """Images uint8 (M, 3, H, W), captions int64 (M, 9), covers of words and of the ends, of all scenes not disputed."""
    with get_context("spawn").Pool(2) as pool:
        rows = pool.map(_rendered, range(first_seed, first_seed + count), chunksize=200)
    found = [row for row in rows if row is not None]
    images, captions, cover, both = (torch.from_numpy(np.stack(column)) for column in zip(*found, strict=True))
    return images, captions, cover, both


def mirrored(caption: torch.Tensor) -> torch.Tensor:
    """Captions of the mirrored pictures: left and right change places."""
    return caption[:, [0, 1, 6, 7, 4, 5, 2, 3, 8]]


def augmented(data: Batch) -> Batch:
    """A random flip to the side, a random flip upside down and a little noise for the batch; images in [0, 1]."""
    images, caption, cover, both = data
    x = images.float() / 255 + 0.02 * torch.rand(len(images), 1, 1, 1) * torch.randn(images.shape)
    x, cover, both = x.clamp(0, 1), cover.float(), both.float()
    if torch.rand(()) < 0.5:
        x, cover, both, caption = x.flip(3), cover.flip(3), both.flip(1, 3), mirrored(caption)
    if torch.rand(()) < 0.5:
        x, cover, both = x.flip(2), cover.flip(2), both.flip(2)
    return x, caption, cover, both


# ---------------------------------------------------------------- training


def loss_of(model: ShapesCaption, data: Batch) -> torch.Tensor:
    """Cross-entropy of the next word, of the attention's place, and squared error of the seen words' place."""
    x, caption, cover, both = data
    with torch.autocast("cpu", torch.bfloat16):
        features = model.encoder(x.contiguous(memory_format=torch.channels_last))
    maps, decoder = features.float(), model.decoder
    state, glance, seen = decoder.look(maps, caption[:, :-1])
    logits = READ_SCALE * decoder.read(seen) + decoder.expect(state)
    said = functional.cross_entropy(logits.flatten(0, 1), caption[:, 1:].flatten())
    onto = torch.stack([(glance[:, steps] * place.flatten(1)[:, None]).sum(2)
                        for steps, place in zip(map(list, OBJECT_STEPS), both.unbind(1), strict=True)])  # fmt: skip
    looked = -(onto + 1e-4).log().mean()
    weight = decoder.read.weight[SEEN, :, None, None] * (READ_SCALE / EVIDENCE)
    error = functional.conv2d(maps, weight) - cover
    misplaced = torch.where(cover > 0, error, error.relu()).square().mean()
    return said + ATTENTION_WEIGHT * looked + EVIDENCE_WEIGHT * misplaced


def train(model: ShapesCaption, data: Batch, epochs: int, batch: int = 64) -> None:
    count = len(data[0]) // batch * batch
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    steps = epochs * (count // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        started, total = time.time(), 0.0
        for rows in torch.randperm(len(data[0]))[:count].split(batch):
            loss = loss_of(model, augmented(tuple(part[rows] for part in data)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * batch / count
        print(f"epoch {epoch + 1}/{epochs}: loss {total:.4f}, {time.time() - started:.0f} s", flush=True)
    model.decoder.read.weight.data *= READ_SCALE


# ---------------------------------------------------------------- export


def export(model: ShapesCaption, folder: Path) -> None:
    """Write the three files, with free batch and word axes; vocabulary and preprocessing go into ``metadata_props``."""
    model = model.eval().to(memory_format=torch.contiguous_format)
    image = torch.zeros(2, 3, scenes.SIZE, scenes.SIZE)
    features, tokens = torch.zeros(2, WIDTH, CELLS, CELLS), torch.ones(2, 5, dtype=torch.int64)
    picture, language = {"preprocess": {"name": "unit"}}, {"vocabulary": words.VOCABULARY}
    write(model, (image, tokens), ["image", "tokens"], "logits", folder / "shapes-caption.onnx", picture | language)
    write(model.encoder, (image,), ["image"], "features", folder / "shapes-caption-encoder.onnx", picture)
    decoder = folder / "shapes-caption-decoder.onnx"
    write(model.decoder, (features, tokens), ["features", "tokens"], "logits", decoder, language)


def write(model: nn.Module, example: tuple, inputs: list[str], output: str, path: Path, properties: dict) -> None:
    axes = {"image": {0: "N"}, "features": {0: "N"}, "tokens": {0: "N", 1: "T"}, "logits": {0: "N", 1: "T"}}
    torch.onnx.export(
        model, example, str(path), dynamo=False, opset_version=17,
        input_names=inputs, output_names=[output], dynamic_axes={name: axes[name] for name in [*inputs, output]},
    )  # fmt: skip
    finish(path, **properties)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parent)
    parser.add_argument("--scenes", type=int, default=16_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    data = dataset(scenes.TRAIN_SEED, options.scenes)
    model = ShapesCaption().to(memory_format=torch.channels_last)
    train(model, data, options.epochs)
    export(model, options.out)


if __name__ == "__main__":
    main()
