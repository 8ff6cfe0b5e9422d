"""What is known of the real zoo: the convention that each model was trained with, and what its photos show."""

from __future__ import annotations

import csv
from pathlib import Path

from onnxcam.photos import Photo

PHOTOS = Path(__file__).with_name("imagenet_photos.csv")
"""The real zoo's photos by file name, each with the ImageNet class that we see in it; blank where it shows none."""

TRUTH = {
    "squeezenet11_fp16_winml": "caffe BGR",
    "squeezenet11_fp32": "caffe BGR",
    "mobilenetv2_int8_qdq_nhwc_u8": "raw RGB",
    "mobilenetv2_float_nhwc_u8in": "raw RGB",
    "mobilenetv1_050_128_float_nhwc_u8in_softmax": "raw RGB",
    "keras_mobilenetv1_025_nhwc_tf2onnx_op9": "tf RGB",
    "keras_mobilenetv1_025_nhwc_tf2onnx_op17": "tf RGB",
    "flowers_mobilenetv2_035_128_tf2onnx": "tf RGB",
    "leafsnap30_cnn": "unit RGB",
    "mnist_binary_01_cnn": "raw",
}
"""Those that photos with labels are there for."""

OTHERS = {
    "cifar10_winml_tutorial": "tf RGB",
    "deeplabv3_voc_257_nhwc": "tf RGB",
    "gtsrb_cnn_nhwc_logits": "unit RGB",
    "mnist_cntk_op7": "raw",
    "mnist8_cntk_op8": "raw",
    "mnist_keras2onnx_cnn_max": "unit",
    "mnist_keras2onnx_vanilla_nhwc": "unit",
    "paddle_textline_cls_mobilev3": "tf RGB",
    "ultraface_rfb320": "tf RGB",
    "yolox_nano_416": "raw BGR",
}


def photos(zoo: Path, name: str) -> list[Photo]:
    """The photos that fit a model of `TRUTH`, with its classes; for the digits see `digits`."""
    if name.startswith("flowers"):
        return [Photo(zoo / f"photos/{f}.jpg", str(k)) for f, k in (("daisy", 0), ("rose", 2), ("tulip", 4))]
    if name.startswith("leafsnap"):
        return [Photo(zoo / "photos/leaf_acer_rubrum.jpg", "acer_rubrum")]
    shift = 1 if name.startswith("mobilenetv1_050") else 0  # class 0 is background
    with PHOTOS.open(newline="") as file:
        rows = [(row["file"], row["label"]) for row in csv.DictReader(file)]
    return [Photo(zoo / "photos" / f, str(int(k) + shift) if k else None) for f, k in rows]


def digits(zoo: Path, folder: Path, count: int = 24) -> list[Photo]:
    """Test digits 0 and 1, written as pictures."""
    import numpy as np

    from onnxcam.image import save_image

    with np.load(zoo / "small/binary-mnist.npz") as data:
        pictures, classes = data["X_test"][:count].reshape(-1, 28, 28), data["y_test"][:count]
    found = []
    for k, (picture, label) in enumerate(zip(pictures, classes, strict=True)):
        save_image(folder / f"{k}.png", picture)
        found.append(Photo(folder / f"{k}.png", str(label)))
    return found
