"""Settings as other tools write them, against what each tool's own transform does, worked out step by step."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest

from onnxcam.image import InputSpec, Preprocess
from onnxcam.published import hugging_face, names, timm, ultralytics

pytestmark = pytest.mark.anyruntime
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
HALF = [0.5, 0.5, 0.5]
FREE = InputSpec("NCHW", 3, None, None)


def processor(**changes: Any) -> dict[str, Any]:
    """A ``preprocessor_config.json`` as transformers 4 writes it."""
    config: dict[str, Any] = {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": MEAN, "image_std": STD,
        "image_processor_type": "ViTImageProcessor", "resample": 3, "rescale_factor": 0.00392156862745098,
        "size": {"height": 224, "width": 224},
    }  # fmt: skip
    return {key: v for key, v in {**config, **changes}.items() if v is not None}


def positions(height: int, width: int) -> Any:
    """A picture whose pixels say where they are: row in red, column in green."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)


def nearest(picture: Any, height: int, width: int) -> Any:
    """Resized so that each pixel is the one under its centre."""
    h, w = picture.shape[:2]
    rows = [math.floor((r + 0.5) * h / height) for r in range(height)]
    columns = [math.floor((c + 0.5) * w / width) for c in range(width)]
    return np.array([[picture[r, c] for c in columns] for r in rows])


def shorter_side(picture: Any, edge: int) -> Any:
    """torchvision's Resize(int): the other side is ``int(edge * long / short)``."""
    h, w = picture.shape[:2]
    return nearest(picture, edge, int(edge * w / h)) if h <= w else nearest(picture, int(edge * h / w), edge)


def centre(picture: Any, height: int, width: int) -> Any:
    top, left = round((picture.shape[0] - height) / 2), round((picture.shape[1] - width) / 2)
    return picture[top : top + height, left : left + width]


def seen(preprocess: Preprocess, picture: Any) -> Any:
    """The grey levels that the model gets, as (H, W, 3): normalisation is undone."""
    x, _ = preprocess.apply(picture, FREE)
    mean, std = (np.broadcast_to(v, 3) for v in (preprocess.mean, preprocess.std))
    levels = np.rint((x[0].transpose(1, 2, 0) * std + mean) / preprocess.scale)
    return levels[..., ::-1] if preprocess.color == "BGR" else levels


@pytest.mark.parametrize("size", [(90, 131), (131, 90), (100, 100), (61, 207)])
@pytest.mark.parametrize(
    ("config", "transform"),
    [
        # both sides
        ({"size": {"height": 56, "width": 48}}, lambda p: nearest(p, 56, 48)),
        ({"size": 56, "image_processor_type": None, "feature_extractor_type": "ViTFeatureExtractor"},
         lambda p: nearest(p, 56, 56)),
        ({"size": [56, 48]}, lambda p: nearest(p, 56, 48)),
        # the shorter side, then the centre: CLIP, DINOv2, MobileNet
        ({"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": {"height": 56, "width": 56},
          "image_processor_type": "BitImageProcessor"}, lambda p: centre(shorter_side(p, 64), 56, 56)),
        ({"size": 56, "do_center_crop": True, "crop_size": 56, "image_processor_type": None,
          "feature_extractor_type": "CLIPFeatureExtractor"}, lambda p: centre(shorter_side(p, 56), 56, 56)),
        # DeiT: both sides, then the centre
        ({"size": {"height": 64, "width": 64}, "do_center_crop": True, "crop_size": {"height": 56, "width": 56},
          "image_processor_type": "DeiTImageProcessor"}, lambda p: centre(nearest(p, 64, 64), 56, 56)),
        # ConvNeXT (ResNet's as well): int(edge / crop_pct), then a square
        ({"size": {"shortest_edge": 56}, "crop_pct": 0.875, "image_processor_type": "ConvNextImageProcessor"},
         lambda p: centre(shorter_side(p, 64), 56, 56)),
        ({"size": 56, "crop_pct": 0.9, "image_processor_type": None,
          "feature_extractor_type": "ConvNextFeatureExtractor"},
         lambda p: centre(shorter_side(p, 62), 56, 56)),  # 62.2
        # LeViT: int(256 / 224 * edge); PoolFormer: int(edge / crop_pct)
        ({"size": {"shortest_edge": 56}, "do_center_crop": True, "crop_size": {"height": 56, "width": 56},
          "image_processor_type": "LevitImageProcessor"}, lambda p: centre(shorter_side(p, 64), 56, 56)),
        ({"size": {"shortest_edge": 56}, "do_center_crop": True, "crop_size": {"height": 56, "width": 56},
          "crop_pct": 0.95, "image_processor_type": "PoolFormerImageProcessor"},
         lambda p: centre(shorter_side(p, 58), 56, 56)),  # 58.9
    ],
)  # fmt: skip
def test_hugging_faces_resize_and_crop_show_the_same_pixels(size, config, transform):
    found = hugging_face(processor(resample=0, **config))
    assert found is not None
    assert ";" not in found.source
    picture = positions(*size)
    np.testing.assert_array_equal(seen(found.preprocess, picture), transform(picture))


def test_convnext_stretches_from_384_on():
    config = processor(size={"shortest_edge": 384}, crop_pct=0.875, image_processor_type="ConvNextImageProcessor")
    found = hugging_face(config)
    assert found is not None
    assert (found.preprocess.fit, found.preprocess.size) == ("stretch", (384, 384))


@pytest.mark.parametrize(
    ("config", "black", "level_100"),  # of red, green, blue
    [
        ({}, [-m / s for m, s in zip(MEAN, STD, strict=True)],
         [(100 / 255 - m) / s for m, s in zip(MEAN, STD, strict=True)]),
        ({"image_mean": HALF, "image_std": HALF}, [-1, -1, -1], [100 / 127.5 - 1] * 3),
        ({"image_mean": 0.5, "image_std": 0.25}, [-2] * 3, [(100 / 255 - 0.5) / 0.25] * 3),
        ({"do_normalize": False}, [0] * 3, [100 / 255] * 3),
        ({"do_normalize": None, "image_mean": None, "image_std": None}, [0] * 3, [100 / 255] * 3),
        ({"do_normalize": None, "image_mean": HALF, "image_std": HALF}, [-1] * 3, [100 / 127.5 - 1] * 3),
        ({"do_rescale": False, "image_mean": [123, 117, 104], "image_std": [1, 1, 1]},
         [-123, -117, -104], [-23, -17, -4]),
        ({"do_rescale": None, "rescale_factor": None}, [-m / s for m, s in zip(MEAN, STD, strict=True)],
         [(100 / 255 - m) / s for m, s in zip(MEAN, STD, strict=True)]),  # a feature extractor always rescaled
        # EfficientNet: x / 127.5 - 1, normalised, and divided by the deviation once more with include_top
        ({"image_processor_type": "EfficientNetImageProcessor", "rescale_factor": 1 / 127.5, "rescale_offset": True,
          "image_mean": [0.25] * 3, "image_std": HALF, "include_top": True},
         [(-1 - 0.25) / 0.5 / 0.5] * 3, [((100 / 127.5 - 1) - 0.25) / 0.5 / 0.5] * 3),
        ({"image_processor_type": "EfficientNetImageProcessor", "include_top": False, "image_mean": HALF,
          "image_std": HALF}, [-1] * 3, [100 / 127.5 - 1] * 3),
    ],
)  # fmt: skip
def test_hugging_faces_normalisation(config, black, level_100):
    found = hugging_face(processor(**config))
    assert found is not None
    spec = InputSpec("NCHW", 3, 224, 224)
    for level, expected in ((0, black), (100, level_100)):
        x, _ = found.preprocess.apply(np.full((9, 9, 3), level, np.uint8), spec)
        np.testing.assert_allclose(x[0, :, 50, 60], expected, atol=2e-6)


@pytest.mark.parametrize("left_out", [{}, {"image_mean": None, "image_std": None}])
def test_mobilevit_takes_blue_first_and_does_not_normalise(left_out):
    config = processor(
        **left_out, image_processor_type="MobileViTImageProcessor", do_normalize=None, do_flip_channel_order=True,
        size={"shortest_edge": 288}, do_center_crop=True, crop_size={"height": 256, "width": 256},
    )  # fmt: skip
    found = hugging_face(config)
    assert found is not None
    assert (found.preprocess.fit, found.preprocess.crop_ratio) == ("crop", 256 / 288)
    x, _ = found.preprocess.apply(np.full((9, 9, 3), (255, 0, 51), np.uint8), FREE)
    assert x.shape == (1, 3, 256, 256)
    np.testing.assert_allclose(x[0, :, 9, 9], [0.2, 0, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("code", "kernel", "exact"),
    [(0, "nearest", True), (2, "bilinear", True), (3, "bicubic", True), (1, "bicubic", False), (4, "bilinear", False)],
)
def test_resampling_is_pillows_code(code, kernel, exact):
    found = hugging_face(processor(resample=code))
    assert found is not None
    assert found.preprocess.interpolation == kernel
    assert ("resampling is taken as" not in found.source) == exact


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"image_processor_type": "DetrImageProcessor", "size": {"shortest_edge": 800, "longest_edge": 1333}},
         "free size is not followed"),
        ({"image_processor_type": None, "feature_extractor_type": "DetrFeatureExtractor", "size": 800,
          "max_size": 1333}, "free size is not followed"),
        ({"do_resize": False}, "which the tool does not"),
        ({"keep_aspect_ratio": True, "image_processor_type": "DPTImageProcessor"}, "keep_aspect_ratio is not followed"),
        ({"size": {"height": 40, "width": 40}, "do_center_crop": True, "crop_size": {"height": 56, "width": 56}},
         "beyond the resized picture"),
        ({"size": None}, "it says no size"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_said(config, said):
    found = hugging_face(processor(**config))
    assert found is not None
    assert said in found.source
    assert found.preprocess.mean == tuple(MEAN)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_mean": None}, "no image_mean"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is"),
        ({"image_std": ["a", "b", "c"]}, "image_std is"),
        ({"size": {"width": 224}}, "no size of pictures"),
        ({"size": {"height": 0, "width": 224}}, "no size of pictures"),
        ({"size": "large"}, "no size of pictures"),
        ({"resample": 9}, "resample is 9"),
    ],
)
def test_settings_that_such_a_file_cannot_hold(changes, said):
    with pytest.raises(ValueError, match=said):
        hugging_face(processor(**changes))


def test_processors_of_sounds_and_words_are_passed_over():
    speech = {
        "do_normalize": True, "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1,
        "padding_side": "right", "padding_value": 0.0, "return_attention_mask": False, "sampling_rate": 16000,
    }  # fmt: skip
    assert hugging_face(speech) is None
    assert hugging_face({**speech, "image_processor_type": "x"}) is None
    assert hugging_face({"processor_class": "BertProcessor"}) is None


# timm


def pretrained(**changes: Any) -> dict[str, Any]:
    cfg = {
        "tag": "a1_in1k", "custom_load": False, "input_size": [3, 56, 56], "fixed_input_size": False,
        "interpolation": "nearest", "crop_pct": 0.9, "crop_mode": "center", "mean": MEAN, "std": STD,
        "num_classes": 1000, "first_conv": "conv1", "classifier": "fc",
    }  # fmt: skip
    return {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": {**cfg, **changes}}


@pytest.mark.parametrize("size", [(90, 131), (131, 90), (61, 207)])
@pytest.mark.parametrize(
    ("changes", "transform"),
    [
        ({}, lambda p: centre(shorter_side(p, 62), 56, 56)),  # floor(62.2)
        ({"crop_pct": 0.95}, lambda p: centre(shorter_side(p, 58), 56, 56)),  # floor(58.9)
        ({"crop_pct": 1.0}, lambda p: centre(shorter_side(p, 56), 56, 56)),
        ({"crop_mode": "squash"}, lambda p: centre(nearest(p, 62, 62), 56, 56)),
        ({"crop_mode": "squash", "crop_pct": 1.0}, lambda p: nearest(p, 56, 56)),
    ],
)
def test_timms_resize_and_crop_show_the_same_pixels(size, changes, transform):
    picture = positions(*size)
    old = {"architecture": "resnet18", **pretrained(**changes)["pretrained_cfg"]}  # everything at the top, as at first
    for config in (pretrained(**changes), old):
        found = timm(config)
        assert found is not None
        np.testing.assert_array_equal(seen(found.preprocess, picture), transform(picture))
        assert found.source == "config.json (timm resnet18)"


def test_timms_border_keeps_the_whole_picture_on_the_mean():
    found = timm(pretrained(crop_mode="border", crop_pct=1.0))
    assert found is not None
    levels = seen(found.preprocess, positions(28, 56))
    np.testing.assert_array_equal(levels[14:42], positions(28, 56))
    assert np.all(levels[:14] == 114)  # 255 * (0.485 + 0.456 + 0.406) / 3 = 114.495
    assert np.all(levels[42:] == 114)


def test_timms_test_size_counts_where_it_is_the_models():
    config = pretrained(test_input_size=[3, 72, 72], test_crop_pct=1.0)
    for fixed, size, share in (
        ((72, 72), (72, 72), 1.0),
        ((56, 56), (56, 56), 56 / 62),
        ((None, None), (56, 56), 56 / 62),
    ):
        found = timm(config, fixed)
        assert found is not None
        assert (found.preprocess.size, found.preprocess.crop_ratio) == (size, share)


def test_other_peoples_config_json_is_no_timm():
    assert timm({"architecture": "x86"}) is None
    assert timm({"mean": [0, 0, 0], "std": [1, 1, 1]}) is None
    assert timm({}) is None


# Ultralytics


def exported(**changes: Any) -> dict[str, str]:
    """``metadata_props`` as the exporter of YOLOv8 and later writes them: every value as Python prints it."""
    meta = {
        "description": "Ultralytics YOLOv8n model trained on coco.yaml", "author": "Ultralytics",
        "date": "2024-05-01T10:00:00", "version": "8.2.9", "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com", "stride": "32", "task": "detect", "batch": "1", "imgsz": "[96, 128]",
        "names": "{0: 'person', 1: 'bicycle'}",
    }  # fmt: skip
    return {key: v for key, v in {**meta, **changes}.items() if v is not None}


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb"])
def test_ultralytics_detectors_get_a_letterbox(task):
    found = ultralytics(exported(task=task), 3)
    assert found is not None
    assert found.source == f"the model's metadata (Ultralytics 8.2.9, task {task})"
    picture = np.full((50, 100, 3), (255, 102, 0), np.uint8)
    x, _ = found.preprocess.apply(picture, FREE)
    # 50 x 100 grows by 1.28 to 64 x 128, which leaves (96 - 64) / 2 = 16 rows of grey 114 above and below
    assert x.shape == (1, 3, 96, 128)
    np.testing.assert_allclose(x[0, :, :16], 114 / 255, atol=1e-6)
    np.testing.assert_allclose(x[0, :, 80:], 114 / 255, atol=1e-6)
    for channel, level in enumerate((1.0, 0.4, 0.0)):
        np.testing.assert_allclose(x[0, channel, 16:80], level, atol=1e-6)
    assert not found.preprocess.antialias


@pytest.mark.parametrize(("height", "width"), [(37, 61), (61, 37), (200, 333), (96, 128), (301, 17)])
def test_ultralytics_letterbox_shows_opencvs_pixels(height, width):
    """Its own steps: one ratio, sides rounded, half of the rest rounded after 0.1 is taken off, OpenCV's bilinear."""
    picture = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    ratio = min(96 / height, 128 / width)
    wide, high = round(width * ratio), round(height * ratio)
    top, left = round((96 - high) / 2 - 0.1), round((128 - wide) / 2 - 0.1)
    expected = np.full((96, 128, 3), 114, np.uint8)
    expected[top : top + high, left : left + wide] = cv2.resize(picture, (wide, high), interpolation=cv2.INTER_LINEAR)
    found = ultralytics(exported(), 3)
    assert found is not None
    levels = seen(found.preprocess, picture)
    np.testing.assert_allclose(levels, expected, atol=1)  # OpenCV computes in 11 bits


def test_rtdetr_is_stretched_and_unknown_tasks_are_left_open():
    for changes in ({"description": "Ultralytics rtdetr-l model"}, {"head": "RTDETRDecoder"}):
        found = ultralytics(exported(**changes), 3)
        assert found is not None
        assert found.preprocess.fit == "stretch"
    assert ultralytics(exported(task="depth"), 4) is None
    assert ultralytics({"names": "{0: 'a'}"}, 2) is None


@pytest.mark.parametrize(("version", "antialias"), [("8.0.196", False), ("8.3.40", True)])
def test_ultralytics_classifiers_get_the_central_square(version, antialias):
    found = ultralytics(exported(task="classify", imgsz="[64, 64]", version=version), 2)
    assert found is not None
    assert found.preprocess.antialias == antialias
    near = Preprocess.from_dict({**found.preprocess.to_dict(), "interpolation": "nearest"})
    picture = positions(90, 131)
    np.testing.assert_array_equal(seen(near, picture), centre(shorter_side(picture, 64), 64, 64))
    black, _ = found.preprocess.apply(np.zeros((9, 9, 3), np.uint8), FREE)
    assert np.all(black == 0)


def test_yolov5_says_less():
    detector, classifier = (ultralytics({"stride": "32", "names": "{0: 'a'}"}, rank) for rank in (3, 2))
    assert detector is not None
    assert classifier is not None
    assert (detector.preprocess.fit, detector.preprocess.mean, detector.preprocess.scale) == (
        "letterbox",
        (0.0,),
        1 / 255,
    )
    white, _ = classifier.preprocess.apply(np.full((8, 8, 3), 255, np.uint8), InputSpec("NCHW", 3, 8, 8))
    np.testing.assert_allclose(white[0, :, 4, 4], [(1 - m) / s for m, s in zip(MEAN, STD, strict=True)], rtol=1e-5)
    assert (classifier.preprocess.fit, classifier.preprocess.crop_ratio) == ("crop", 1.0)


# Class names


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "vit", "id2label": {"1": "dog", "0": "cat, kitty"}}, ("cat, kitty", "dog")),
        ({"architectures": ["A"], "id2label": {"0": "cat", "2": "cow"}}, ("cat", "1", "cow")),
        ({"model_type": "vit", "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, None),
        ({"model_type": "vit", "id2label": {"0": "cat", "1": "LABEL_1"}}, ("cat", "LABEL_1")),
        ({"id2label": {"0": "cat"}}, None),
        ({"model_type": "vit"}, None),
        ({"architecture": "r", "label_names": ["n01", "n02"], "label_descriptions": {"n01": "tench", "n02": "shark"}},
         ("tench", "shark")),
        ({"architecture": "r", "pretrained_cfg": {"label_names": ["a", "b"]}}, ("a", "b")),
        ({"architecture": "r", "label_names": {"0": "a", "3": "b"}}, ("a", "1", "2", "b")),
        ({"label_names": ["a"]}, None),
    ],
)  # fmt: skip
def test_class_names(config, expected):
    assert names(config) == expected
