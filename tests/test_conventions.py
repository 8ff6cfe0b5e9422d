"""Preprocessing and labels that find themselves: which source wins, and what is not followed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import classifier, png, write
from small import saved

from onnxcam import Explainer
from onnxcam.conventions import contradiction, known
from onnxcam.errors import ModelError, OptionError
from onnxcam.image import Preprocess
from onnxcam.model import load_model
from onnxcam.opening import choose_labels, choose_preprocess

pytestmark = pytest.mark.anyruntime
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TAIL = "a = Conv <pads = [1,1,1,1]> (h, w) p = GlobalAveragePool (a) f = Flatten (p) z = Gemm <transB = 1> (f, v)"
W = {"w": (4, 3, 3, 3), "v": (4, 4)}
VIT = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor", "image_std": [0.5, 0.5, 0.5], "resample": 2,
    "rescale_factor": 0.00392156862745098, "size": {"height": 24, "width": 24},
}  # fmt: skip
CLIP = {
    **VIT, "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 16}, "do_center_crop": True,
    "crop_size": {"height": 12, "width": 12},
}  # fmt: skip
NAMES = {"model_type": "vit", "id2label": {"0": "ant", "1": "bee", "2": "cat", "3": "dog"}}
TIMM = {
    "architecture": "resnet18", "num_classes": 4, "label_names": ["ant", "bee", "cat", "dog"],
    "pretrained_cfg": {"input_size": [3, 24, 24], "interpolation": "bicubic", "crop_pct": 0.95, "mean": MEAN,
                       "std": STD},
}  # fmt: skip


def model_of(folder: Path, size: int | str = 12, name: str = "model.onnx", **meta: str) -> Any:
    proto = classifier(size=size)
    for key, text in meta.items():
        proto.metadata_props.add(key=key.replace("__", "/"), value=text)
    return load_model(write(folder / name, proto))


def put(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_nothing_tells(tmp_path):
    told = known(model_of(tmp_path))
    assert (told.preprocess, told.labels, told.source) == (None, None, "")
    preprocess, notice = choose_preprocess(model_of(tmp_path), "auto")
    assert preprocess == Preprocess.parse("imagenet")
    assert "nothing in the model tells" in notice
    assert f"onnxcam doctor {tmp_path / 'model.onnx'} PHOTOS" in notice


def test_files_beside_the_model(tmp_path):
    put(tmp_path, "preprocessor_config.json", VIT)
    put(tmp_path, "config.json", NAMES)
    told = known(model_of(tmp_path))
    assert told.preprocess == Preprocess(
        "ViTImageProcessor", scale=1 / 255, mean=(0.5,) * 3, std=(0.5,) * 3, crop_ratio=1
    )
    assert told.labels == ("ant", "bee", "cat", "dog")
    assert told.source == "preprocessor_config.json (Hugging Face ViTImageProcessor)"


def test_files_above_a_folder_called_onnx_and_no_other(tmp_path, monkeypatch):
    put(tmp_path, "preprocessor_config.json", VIT)
    put(tmp_path, "config.json", NAMES)
    assert known(model_of(tmp_path / "onnx", name="model_quantized.onnx")).labels == ("ant", "bee", "cat", "dog")
    other = known(model_of(tmp_path / "weights"))
    assert (other.preprocess, other.labels) == (None, None)
    monkeypatch.chdir(tmp_path / "onnx")
    assert known(load_model("model_quantized.onnx")).source.startswith("preprocessor_config.json")


def test_links_of_a_hub_cache_are_not_followed(tmp_path):
    blob = write(tmp_path / "blobs" / "0123", classifier())
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.onnx").symlink_to(blob)
    put(snapshot, "config.json", TIMM)
    assert known(load_model(snapshot / "model.onnx")).source == "config.json (timm resnet18)"


@pytest.mark.parametrize(
    ("size", "expected"),
    [("s", (24, 24)), (24, None), (12, None)],
)
def test_a_fixed_size_goes_before_the_tools_and_the_crop_is_kept(tmp_path, size, expected):
    put(tmp_path, "config.json", TIMM)
    preprocess = known(model_of(tmp_path, size)).preprocess
    assert preprocess is not None
    assert preprocess.size == expected
    assert (preprocess.fit, preprocess.crop_ratio) == ("crop", 24 / 25)  # floor(24 / 0.95) = 25
    assert (preprocess.mean, preprocess.std, preprocess.scale) == (tuple(MEAN), tuple(STD), 1 / 255)


def test_people_go_before_metadata_before_tools_before_the_graph(tmp_path):
    """Each source is taken away in turn; all four say something else."""
    path = tmp_path / "model.onnx"
    front = "(uint8[N,3,12,12] x) => (float[N,4] z) { h = Cast <to = 1> (x) " + TAIL + " }"
    own = {"onnxcam/preprocess": '{"name": "unit"}', "onnxcam/labels": '["p", "q", "r", "s"]'}
    saved(path, front, own, **W)
    put(tmp_path, "preprocessor_config.json", CLIP)
    put(tmp_path, "config.json", NAMES)
    sidecar = put(tmp_path, "model.toml", 'preprocess = "caffe"\nlabels = ["a", "b", "c", "d"]')

    told = known(load_model(path))
    assert (told.preprocess, told.labels) == (Preprocess.parse("caffe"), ("a", "b", "c", "d"))
    assert told.source == str(sidecar)

    sidecar.unlink()
    told = known(load_model(path))
    assert (told.preprocess, told.labels) == (Preprocess.parse("unit"), ("p", "q", "r", "s"))
    assert told.source == "the model's metadata"

    saved(path, front, **W)
    told = known(load_model(path))
    assert told.labels == ("ant", "bee", "cat", "dog")
    assert told.source.startswith(
        "preprocessor_config.json (Hugging Face CLIPImageProcessor); but not its normalisation"
    )

    (tmp_path / "preprocessor_config.json").unlink()
    told = known(load_model(path))
    assert told.preprocess == Preprocess.parse("raw")
    assert told.source == "the graph: the input takes UINT8 pixels, so the model normalises itself"


@pytest.mark.parametrize(
    ("head", "front", "mean", "scale", "color"),
    [
        ("uint8[N,3,12,12] x", "h = Cast <to = 1> (x)", 0.0, 1.0, "RGB"),
        ("int8[N,3,12,12] x", "h = Cast <to = 1> (x)", 128.0, 1.0, "RGB"),
        ("float[N,3,12,12] x", "h = Sub (x, c)", 0.0, 1.0, "BGR"),
    ],
)
def test_the_graph_keeps_a_tools_resizing_but_not_its_normalisation(tmp_path, head, front, mean, scale, color):
    put(tmp_path, "preprocessor_config.json", CLIP)
    constants = {"c": np.float32([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)}
    body = f"({head}) => (float[N,4] z) {{ {front} {TAIL} }}"
    told = known(load_model(saved(tmp_path / "model.onnx", body, **W, **constants)))
    found = told.preprocess
    assert found is not None
    assert (found.scale, found.mean, found.std, found.color) == (scale, (mean,), (1.0,), color)
    assert (found.fit, found.crop_ratio, found.interpolation) == ("crop", 12 / 16, "bilinear")
    assert "but not its normalisation" in told.source


def test_a_config_of_another_model_or_tool_is_passed_over(tmp_path):
    put(tmp_path, "preprocessor_config.json", VIT)
    strange: list[Any] = [
        "{ // TypeScript", "[1, 2]", "", {"compilerOptions": {}}, {"architecture": 7, "mean": "x"}, "\ufeff{}",
        {"architecture": "r", "pretrained_cfg": {"mean": {}, "input_size": 3}},
        {**NAMES, "id2label": {"ant": 0}}, "[" * 100_000,
    ]  # fmt: skip
    for content in strange:
        put(tmp_path, "config.json", content)
        told = known(model_of(tmp_path))
        assert told.labels is None
        assert told.source == "preprocessor_config.json (Hugging Face ViTImageProcessor)"
    (tmp_path / "preprocessor_config.json").unlink()
    for content in strange:
        put(tmp_path, "config.json", content)
        assert known(model_of(tmp_path)).source == ""


def test_a_config_that_names_other_classes_is_of_another_model(tmp_path):
    put(tmp_path, "preprocessor_config.json", VIT)
    put(tmp_path, "config.json", {**NAMES, "id2label": {str(k): f"class {k}" for k in range(10)}})
    told = known(model_of(tmp_path))  # which scores four
    assert (told.preprocess, told.labels) == (None, None)


def test_a_grey_model_does_not_take_three_means(tmp_path):
    put(tmp_path, "preprocessor_config.json", {**VIT, "image_mean": MEAN})
    told = known(load_model(write(tmp_path / "model.onnx", classifier(channels=1))))
    assert told.preprocess is None


@pytest.mark.parametrize(
    "content",
    ["{'do_resize': True}", "", "[]", json.dumps({**VIT, "size": "big"}), json.dumps({**VIT, "image_std": [0, 0, 0]})],
)
def test_a_broken_preprocessor_config_is_told_and_can_be_overruled(tmp_path, content):
    path = put(tmp_path, "preprocessor_config.json", content)
    put(tmp_path, "config.json", NAMES)
    model = model_of(tmp_path)
    with pytest.raises(OptionError, match="cannot understand") as caught:
        known(model)
    assert str(path) in str(caught.value)
    assert choose_preprocess(model, "imagenet") == (Preprocess.parse("imagenet"), "")
    assert choose_labels(model, None) == ("ant", "bee", "cat", "dog")


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxcam.conventions._LARGEST", 100)
    put(tmp_path, "config.json", NAMES)
    assert known(model_of(tmp_path)).labels == ("ant", "bee", "cat", "dog")
    put(tmp_path, "config.json", {**NAMES, "more": "x" * 100})
    assert known(model_of(tmp_path)).labels is None


def test_damaged_metadata_is_told(tmp_path):
    for text in ("{", '["imagenet"]', '{"scale": "big"}', '{"colour": "RGB"}'):
        with pytest.raises(ModelError, match="onnxcam/preprocess cannot be understood"):
            known(model_of(tmp_path, onnxcam__preprocess=text))


def test_ultralytics_metadata_by_the_rank_of_the_output(tmp_path):
    told = known(model_of(tmp_path, stride="32", names="{0: 'a', 1: 'b', 2: 'c', 3: 'd'}"))
    assert told.source == "the model's metadata (YOLOv5 classifier)"
    assert told.labels == ("a", "b", "c", "d")


# What contradicts


def graph(folder: Path, front: str, head: str = "float[N,3,12,12] x", **constants: Any) -> Any:
    body = f"({head}) => (float[N,4] z) {{ {front} {TAIL} }}"
    return load_model(saved(folder / "model.onnx", body, **W, **constants))


def test_preprocessing_that_contradicts_the_graph_is_told(tmp_path):
    mean = np.float32([123.68, 116.779, 103.939]).reshape(1, 3, 1, 1)
    model = graph(tmp_path, "h = Sub (x, c)", c=mean)
    assert contradiction(model, Preprocess.parse("raw")) == ""
    assert contradiction(model, Preprocess.parse("raw,fit=crop,interpolation=bicubic")) == ""
    said = contradiction(model, Preprocess.parse("imagenet"))
    assert said.startswith(
        "preprocessing imagenet contradicts the graph: it makes -2.12 to 2.64 of grey levels, not 0 to 255"
    )
    assert "unit" in contradiction(model, Preprocess.parse("unit"))
    assert "it gives BGR, not RGB" in contradiction(model, Preprocess.parse("raw,color=BGR"))


def test_an_order_of_colours_that_the_graph_leaves_open_contradicts_nothing(tmp_path):
    model = graph(tmp_path, "h = Sub (x, c)", c=np.float32(127.5))
    assert contradiction(model, Preprocess.parse("raw,color=BGR")) == ""
    assert contradiction(model_of(tmp_path), Preprocess.parse("caffe")) == ""


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ("imagenet", ""),
        ("imagenet,fit=letterbox,antialias=false", ""),
        ("imagenet,mean=0.48/0.455/0.41", ""),  # within 2 % of the span
        ("imagenet,color=BGR", "it gives BGR, not RGB"),
        ("tf", "it makes -1 to 1"),
        ("imagenet,mean=0.481/0.458/0.408,std=0.269/0.261/0.276", "it makes"),  # CLIP's
    ],
)
def test_preprocessing_that_contradicts_a_file_is_told(tmp_path, chosen, said):
    put(tmp_path, "config.json", TIMM)
    found = contradiction(model_of(tmp_path), Preprocess.parse(chosen))
    assert (said in found) if said else found == ""
    assert ("config.json (timm resnet18)" in found) == bool(said)


def test_a_sidecar_that_contradicts_the_graph_is_used_and_told(tmp_path):
    model = graph(tmp_path, "h = Cast <to = 1> (x)", "uint8[N,3,12,12] x")
    put(tmp_path, "model.toml", 'preprocess = "imagenet"')
    preprocess, notice = choose_preprocess(model, "auto")
    assert preprocess == Preprocess.parse("imagenet")
    assert "contradicts the graph" in notice


def test_explanations_carry_what_was_found(tmp_path):
    put(tmp_path, "config.json", TIMM)
    model_of(tmp_path)
    picture = png(tmp_path / "a.png")
    found = Explainer(tmp_path / "model.onnx").explain(picture)
    assert "preprocessing timm from config.json (timm resnet18)" in found.notes
    assert found.label in ("ant", "bee", "cat", "dog")
    chosen = Explainer(tmp_path / "model.onnx", preprocess="tf", labels=["w", "x", "y", "z"]).explain(picture)
    assert chosen.label in ("w", "x", "y", "z")
    assert any("tf contradicts config.json (timm resnet18)" in note for note in chosen.notes)


# The real models: a certainty that is wrong would be worse than none


TRUTHS = {
    "mobilenetv2_int8_qdq_nhwc_u8": "raw",
    "mobilenetv2_float_nhwc_u8in": "raw",
    "mobilenetv1_050_128_float_nhwc_u8in_softmax": "raw",
}


@pytest.mark.real
def test_nothing_certain_about_a_real_model_is_wrong(real_zoo, tmp_path):
    unusable = {"mnist_cntk_noopset", "skl2onnx_iris_trees", "squeezenet_fp16_customop_debug"}
    paths = [p for p in sorted((real_zoo / "models").glob("*.onnx")) if p.stem not in unusable]
    assert len(paths) > 15
    for path in paths:
        told = known(load_model(shutil.copy(path, tmp_path / path.name)))
        assert (told.preprocess and told.preprocess.name) == TRUTHS.get(path.stem), path.stem
