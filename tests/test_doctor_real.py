"""Which preprocessing fits models that other people made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import doctor_truth
import numpy as np
import pytest
from doctor_models import (
    bare,
    crops,
    names,
    saved,
)

from onnxcam import load_model
from onnxcam.doctor import diagnose
from onnxcam.image import read_image
from onnxcam.labels import find_labels
from onnxcam.photos import Photo, find_photos


@pytest.fixture(scope="module")
def own_photos(real_zoo: Path, tmp_path_factory) -> Callable[[str], list[Photo]]:
    def find(name: str) -> list[Photo]:
        if name.startswith("mnist_binary"):
            return doctor_truth.digits(real_zoo, tmp_path_factory.mktemp("digits"))
        return doctor_truth.photos(real_zoo, name)

    return find


@pytest.mark.real
@pytest.mark.parametrize("name", doctor_truth.TRUTH)
def test_labels_name_the_convention_of_real_models(name, real_zoo, own_photos):
    labels = find_labels(real_zoo / "labels/leafsnap30.csv", {}) if name.startswith("leaf") else None
    found = diagnose(load_model(real_zoo / f"models/{name}.onnx"), own_photos(name), labels, threads=1)
    assert found.best is not None
    assert found.best.candidate.name == doctor_truth.TRUTH[name]
    if found.labelled > 10:
        assert {row.candidate.color for row in found.possible} == {found.best.candidate.color}


@pytest.mark.real
@pytest.mark.parametrize("name", [*doctor_truth.TRUTH, "paddle_textline_cls_mobilev3", "cifar10_winml_tutorial"])
def test_without_labels_the_truth_of_real_models_is_left_and_never_one_alone(name, real_zoo, own_photos):
    photos = own_photos(name) if name.startswith("mnist") else doctor_truth.photos(real_zoo, "squeezenet11_fp32")
    found = diagnose(load_model(real_zoo / f"models/{name}.onnx"), bare(photos), threads=1)
    assert {**doctor_truth.TRUTH, **doctor_truth.OTHERS}[name] in names(found)
    assert len(found.possible) > 1
    assert found.best is None


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "label", "photo"),
    [
        ("keras_mobilenetv1_025_nhwc_tf2onnx_op17", "985", "daisy"),
        ("keras_mobilenetv1_025_nhwc_tf2onnx_op17", "309", "bee"),
        ("flowers_mobilenetv2_035_128_tf2onnx", "2", "rose"),
    ],
)
def test_crops_of_one_photo_exclude_nothing(name, label, photo, real_zoo, tmp_path):
    rng, picture = np.random.default_rng(0), read_image(real_zoo / f"photos/{photo}.jpg")
    photos = saved(tmp_path, crops(picture, rng), label)
    found = diagnose(load_model(real_zoo / f"models/{name}.onnx"), photos, threads=1)
    assert (found.labelled, found.units) == (12, 1)
    assert len(found.possible) == len(found.rows)
    assert not found.certain


@pytest.mark.real
def test_not_sure_of_a_model_that_nobody_knows(real_zoo):
    found = diagnose(load_model(real_zoo / "models/geometric_shapes_cnn.onnx"), find_photos(real_zoo / "small"))
    assert found.best is None
    assert found.sentences()[0].startswith("Not sure")


@pytest.mark.real
def test_a_detector_is_no_crash(real_zoo):
    photos = [Photo(p.path, "0") for p in doctor_truth.photos(real_zoo, "squeezenet11_fp32")[:3]]
    found = diagnose(load_model(real_zoo / "models/yolox_nano_416.onnx"), photos, given=True, threads=1)
    assert "raw BGR" in names(found)
    assert "labels are not read: the model gives boxes" in found.notes[0]
