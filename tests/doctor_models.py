"""Models whose right convention is known because we made them, and pictures for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from builders import classifier, model, value
from onnx import TensorProto, helper

from onnxcam import load_model
from onnxcam.doctor import Diagnosis, find_candidates
from onnxcam.image import Preprocess, read_image, save_image
from onnxcam.model import Model
from onnxcam.photos import Photo

CLASSES, SIDE, SPREAD = 6, 8, 22


ALL = [c.name for c in find_candidates(load_model(classifier().SerializeToString())).candidates]


USUAL = [name for name in ALL if "clip" not in name and "cifar" not in name]


def colours() -> np.ndarray:
    """(K, 3), one mean colour per class: warm and dim, as photos are."""
    return np.random.default_rng(5).integers((70, 40, 20), (250, 200, 180), (CLASSES, 3)).astype(np.float64)


def line(name: str) -> tuple[list[int], np.ndarray, np.ndarray]:
    """A convention by hand: the order of the channels, and ``slope * grey + shift`` of each."""
    scale, color = name.split()
    mean = np.array({"imagenet": (123.675, 116.28, 103.53), "caffe": (123.68, 116.779, 103.939)}.get(scale, (0.0,) * 3))
    if scale == "tf":
        mean = np.full(3, 127.5)
    deviation = {"imagenet": np.array((58.395, 57.12, 57.375)), "tf": np.full(3, 127.5), "unit": np.full(3, 255.0)}
    over = deviation.get(scale, np.ones(3))
    order = [0, 1, 2] if color == "RGB" else [2, 1, 0]
    return order, 1 / over[order], (-mean / over)[order]


def nearest(name: str, spread: float = SPREAD, **changes: Any) -> Model:
    """Tells the mean colour of a picture, if it is given under the convention ``name``: Gaussian classes, exactly."""
    order, slope, shift = line(name)
    centres, deviation = colours()[:, order] * slope + shift, spread * slope
    w = (centres / deviation**2).T.astype(np.float32)
    b = -(centres**2 / deviation**2).sum(axis=1).astype(np.float32) / 2
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    return opened(nodes, {"w": w, "b": b}, **changes)


def opened(
    nodes: Sequence[Any], arrays: dict[str, Any], channels: int = 3, classes: int = CLASSES, **more: Any
) -> Model:
    size = more.get("size", SIDE)
    kind = more.get("kind", TensorProto.FLOAT)
    given = value("image", ["n", channels, size, size], kind)
    return load_model(model(nodes, [given], [value("logits", ["n", classes])], arrays).SerializeToString())


def coloured(folder: Path, count: int = 24, size: tuple[int, int] = (10, 12)) -> list[Photo]:
    """Pictures of the classes' colours, off by as much as the classes are wide."""
    rng, found = np.random.default_rng(2), []
    for k in range(count):
        mean = colours()[k % CLASSES] + rng.normal(0, SPREAD, 3)
        picture = np.clip(mean + rng.normal(0, 5, (*size, 3)), 0, 255).astype(np.uint8)
        save_image(folder / f"{k}.png", picture)
        found.append(Photo(folder / f"{k}.png", str(k % CLASSES)))
    return found


def names(found: Diagnosis) -> list[str]:
    return [row.candidate.name for row in found.possible]


def bare(photos: Sequence[Photo]) -> list[Photo]:
    return [Photo(p.path) for p in photos]


def clouds(rng: np.random.Generator, side: int = 120) -> np.ndarray:
    """(side, side, 3): a picture with large patterns, as photos have."""
    fine = np.kron(rng.normal(0, 1, (6, 6, 3)), np.ones((side // 6, side // 6, 1)))
    return np.clip(128 + 50 * fine + rng.normal(0, 5, fine.shape), 0, 255).astype(np.uint8)


def crops(picture: np.ndarray, rng: np.random.Generator, count: int = 12) -> list[np.ndarray]:
    """Random crops of 80 % of each side."""
    sides = [int(0.8 * n) for n in picture.shape[:2]]
    corners = [[int(rng.integers(0, n - s + 1)) for n, s in zip(picture.shape, sides, strict=False)]
               for _ in range(count)]  # fmt: skip
    return [picture[y : y + sides[0], x : x + sides[1]] for y, x in corners]


def by_hand(name: str, path: Path) -> np.ndarray:
    order, slope, shift = line(name)
    return read_image(path).mean(axis=(0, 1))[order] * slope + shift


def saved(folder: Path, pictures: Sequence[np.ndarray], label: str) -> list[Photo]:
    for k, picture in enumerate(pictures):
        save_image(folder / f"{label}.{k}.png", picture)
    return [Photo(folder / f"{label}.{k}.png", label) for k in range(len(pictures))]


def normalised(name: str, folder: Path) -> Model:
    """Conv, BatchNormalization with the statistics of pictures under the convention ``name``, Relu, pool, linear."""
    rng = np.random.default_rng(0)
    order, slope, shift = line(name)
    w = rng.normal(0, 1, (16, 3))
    pictures = np.stack([natural(rng) for _ in range(16)]).reshape(-1, 3)
    y = (pictures[:, order] * slope + shift) @ w.T
    arrays = {"w": w[:, :, None, None], "gamma": np.ones(16), "beta": np.zeros(16), "mean": y.mean(0), "var": y.var(0),
              "wd": rng.normal(0, 1, (16, CLASSES)), "bd": np.zeros(CLASSES)}  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["conv"]),
        helper.make_node("BatchNormalization", ["conv", "gamma", "beta", "mean", "var"], ["bn"], "bn1"),
        helper.make_node("Relu", ["bn"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "wd", "bd"], ["logits"]),
    ]
    return opened(nodes, {k: v.astype(np.float32) for k, v in arrays.items()})


def natural(rng: np.random.Generator) -> np.ndarray:
    """(8, 8, 3): colours that vary from picture to picture, and less within one."""
    return np.clip(rng.normal((124, 116, 104), 45, 3) + rng.normal(0, 35, (SIDE, SIDE, 3)), 0, 255)


def scenes(folder: Path, count: int = 8) -> list[Photo]:
    rng = np.random.default_rng(9)
    for k in range(count):
        save_image(folder / f"{k}.png", natural(rng).astype(np.uint8))
    return [Photo(folder / f"{k}.png") for k in range(count)]


def quantised(low: float, high: float) -> Model:
    """An input quantiser that holds ``low`` to ``high``."""
    step = np.float32((high - low) / 255)
    zero = np.uint8(round(-low / step))
    nodes = [helper.make_node("QuantizeLinear", ["image", "step", "zero"], ["q"]),
             helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["x"]),
             helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
             helper.make_node("Flatten", ["pooled"], ["logits"])]  # fmt: skip
    return opened(nodes, {"step": step, "zero": zero}, classes=3)


def says(of: Model, preprocess: str) -> Model:
    return replace(of, meta={"onnxcam/preprocess": json.dumps(Preprocess.parse(preprocess).to_dict())})
