"""What explain makes of its own answers: doubts of the preprocessing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from doctor_models import (
    CLASSES,
    nearest,
    normalised,
    opened,
    quantised,
    scenes,
)
from onnx import helper

from onnxcam import Explainer
from onnxcam.doctor import Watch
from onnxcam.doctor.scenes import thumbnail
from onnxcam.image import InputSpec, Preprocess, save_image
from onnxcam.model import Model
from onnxcam.photos import Photo

pytestmark = pytest.mark.anyruntime


def watched(explained: Model, preprocess: str, photos: Sequence[Photo]) -> str:
    explainer = Explainer(explained, preprocess, method="saliency")
    watch = Watch(explained, explainer.preprocess, explainer.logits.classes)
    for photo in photos:
        watch.see(explainer.explain(photo.path))
    return watch.suspicion()


def test_suspicion_by_running_statistics(tmp_path):
    model_of_unit = normalised("unit RGB", tmp_path)
    assert watched(model_of_unit, "unit", scenes(tmp_path)) == ""
    assert re.search(r"reaches bn1 is far \(\d+\.\d deviations\)", watched(model_of_unit, "raw", scenes(tmp_path, 3)))
    assert watched(model_of_unit, "raw", scenes(tmp_path, 2)) == ""  # one flat picture has no spread at all
    assert "onnxcam doctor" in watched(model_of_unit, "raw", scenes(tmp_path, 3))


def test_the_watch_keeps_little_and_looks_at_few_pixels(tmp_path, monkeypatch):
    plain, photo = nearest("unit RGB"), scenes(tmp_path, 1)[0]
    explainer = Explainer(plain, "unit", method="saliency")
    watch, found = Watch(plain, explainer.preprocess, explainer.logits.classes), explainer.explain(photo.path)
    monkeypatch.setattr(Preprocess, "apply", counted := _Counted(Preprocess.apply))
    for k in range(200):
        watch.see(replace(found, image=np.full((900, 1300, 3), k, np.uint8)))
    assert len(watch._top) == len(watch._thumbs) == 64
    assert (watch._pictures, len(counted.pixels)) == ([], 64)  # no running statistics: nothing to hold them against
    assert max(counted.pixels) < 200 * 200
    assert thumbnail(np.kron(np.arange(4, dtype=np.uint8)[:, None, None], np.ones((300, 900, 3), np.uint8)), 4)[
        :, 2, 1
    ] == pytest.approx([0, 1, 2, 3], abs=0.1)


class _Counted:
    """`Preprocess.apply`, with the sizes that it was given."""

    def __init__(self, apply: Callable[..., Any]) -> None:
        self.apply, self.pixels = apply, list[int]()

    def __get__(self, one: Preprocess, owner: type) -> Callable[..., Any]:
        def run(picture: np.ndarray, spec: InputSpec) -> Any:
            self.pixels.append(picture.shape[0] * picture.shape[1])
            return self.apply(one, picture, spec)

        return run


def test_suspicion_by_one_answer(tmp_path):
    nodes = [helper.make_node("Clip", ["image", "", "one"], ["held"]),
             helper.make_node("GlobalAveragePool", ["held"], ["pooled"]),
             helper.make_node("Flatten", ["pooled"], ["logits"])]  # fmt: skip
    saturating = opened(nodes, {"one": np.float32(1)}, classes=3)
    photos = scenes(tmp_path, 3)
    for k, photo in enumerate(photos):
        save_image(photo.path, np.random.default_rng(k).integers(2, 90 * k + 50, (9, 9, 3)).astype(np.uint8))
    assert "3 different pictures get one and the same answer" in watched(saturating, "raw", photos)
    assert watched(saturating, "unit", photos) == ""
    assert watched(saturating, "raw", photos[:2]) == ""
    assert watched(saturating, "raw", photos[:1] * 5) == ""  # one picture, five times


def test_suspicion_by_guesses(tmp_path):
    def sure(factor: float) -> Model:
        nodes = [helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
                 helper.make_node("Flatten", ["pooled"], ["flat"]),
                 helper.make_node("Gemm", ["flat", "w"], ["z"]),
                 helper.make_node("Softmax", ["z"], ["logits"])]  # fmt: skip
        return opened(nodes, {"w": factor * np.eye(3, CLASSES, dtype=np.float32)})

    assert "no class of 6 stands out for any of 4 pictures" in watched(sure(0.5), "unit", scenes(tmp_path, 4))
    assert watched(sure(20.0), "unit", scenes(tmp_path, 4)) == ""


def usual(first: float, slope: float) -> Model:
    """Scores of 100 classes, of which five are high whatever the picture, with the picture's share in all of them."""
    w = np.random.default_rng(0).normal(0, slope, (3, 100)).astype(np.float32)
    b = np.zeros(100, np.float32)
    b[:5] = first, 1.9, 1.8, 1.7, 1.6
    nodes = [helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
             helper.make_node("Flatten", ["pooled"], ["flat"]),
             helper.make_node("Gemm", ["flat", "w", "b"], ["logits"])]  # fmt: skip
    return opened(nodes, {"w": w, "b": b}, classes=100)


def test_suspicion_by_best_classes_that_hardly_vary(tmp_path):
    photos = scenes(tmp_path, 6)
    for k, photo in enumerate(photos):  # blue, green, cyan, ...
        save_image(photo.path, np.full((8, 8, 3), 255 * ((k + 1) >> np.arange(3) & 1), np.uint8))
    doubt = "much the same for 6 quite different pictures"
    assert doubt in watched(usual(2.0, 0.05), "unit", photos)
    assert watched(usual(2.0, 2.0), "unit", photos) == ""  # other pictures, other classes
    assert watched(usual(9.0, 0.05), "unit", photos) == ""  # one class, and sure of it
    assert watched(usual(2.0, 0.05), "unit", photos[:4]) == ""  # too few to tell
    for k, photo in enumerate(photos):  # pictures that are much alike may well have much the same classes
        save_image(photo.path, np.full((8, 8, 3), 100 + k, np.uint8))
    assert watched(usual(2.0, 0.05), "unit", photos) == ""


def test_suspicion_by_the_input_quantiser(tmp_path):
    assert "input quantiser holds" in watched(quantised(-0.8, 0.9), "raw", scenes(tmp_path, 1))
    assert watched(quantised(-0.8, 0.9), "tf", scenes(tmp_path, 1)) == ""
