"""An exported model that takes a picture gives what its Explainer gives for that picture, and overlays of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import FLOAT, NODES, answers, classifier, model, value, weights, write
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxcam import Explainer, load_model
from onnxcam.core.overlay import overlay
from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.export import MARK, Form, explainable, export
from onnxcam.image import Preprocess, read_image
from onnxcam.web import describe
from onnxcam.zoo import samples

SIZES = [(50, 70), (70, 41), (24, 24), (11, 7), (30, 1), (1, 1)]  # of pictures, against an input of 24


def run(path: Path, **feeds: Any) -> dict[str, Any]:
    """Of the top class, unless the file settles it."""
    if "onnxcam/class" in {i.name for i in onnx.load(path).graph.input}:
        feeds["onnxcam/class"] = np.full(len(next(iter(feeds.values()))), -1)
    return answers(path, **feeds)


def scene(height: int = 90, width: int = 120, k: int = 0) -> Any:
    """A picture of shapes, cut out."""
    return np.ascontiguousarray(read_image(samples("shapes-cnn")[k])[20 : 20 + height, 40 : 40 + width])


def noise(height: int, width: int) -> Any:
    return np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def watched(folder: Path, **options: Any) -> Path:
    """A classifier that also gives its own input, as ``seen``."""
    proto = classifier(**{"size": 24, **options})
    shape = [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    proto.graph.node.append(helper.make_node("Identity", ["image"], ["seen"]))
    proto.graph.output.append(value("seen", shape, proto.graph.input[0].type.tensor_type.elem_type))
    return write(folder / "source.onnx", proto)


def bytes_in(folder: Path, batch: int | str = "n") -> Path:
    """A classifier that takes uint8 (n, 24, 24, 3), as converters from TFLite write it."""
    front = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=FLOAT),
        helper.make_node("Div", ["floats", "full"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["image"], perm=[0, 3, 1, 2]),
    ]
    given = value("pixels", [batch, 24, 24, 3], TensorProto.UINT8)
    arrays = {**weights(), "full": np.float32(255)}
    return write(folder / "u8.onnx", model([*front, *NODES], [given], [value("logits", [batch, 4])], arrays))


# ---- the way in ----


@pytest.mark.anyruntime
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("kind", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("fit", ["stretch", "crop", "squash", "letterbox", "letterbox,align=topleft"])
def test_the_model_sees_the_grey_levels_that_preprocess_makes(tmp_path, fit, kind, antialias):
    """To the bit, whatever the size."""
    how = f"raw,crop_ratio=0.8,fit={fit},interpolation={kind},antialias={antialias}"
    ex = Explainer(watched(tmp_path), preprocess=how)
    export([ex], tmp_path / "any.onnx", form=Form(picture="any"))
    fixed = SIZES[0] if antialias else SIZES[3]
    export([ex], tmp_path / "fixed.onnx", form=Form(picture=fixed))
    for name, sizes in (("any", SIZES), ("fixed", [fixed])):
        for size in sizes:
            seen = run(tmp_path / f"{name}.onnx", image=noise(*size)[None])["seen"]
            np.testing.assert_array_equal(seen, ex.prepare(noise(*size)).tensor)


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_ties_and_blocks(tmp_path, kind):
    """Ratios of small numbers, at which many sums lie between two levels; an input of several blocks of products."""
    ex = Explainer(watched(tmp_path, size=130), preprocess=f"raw,interpolation={kind}")
    export([ex], tmp_path / "m.onnx", form=Form(picture="any"))
    for size in ((52, 325), (455, 260), (65, 390)):
        seen = run(tmp_path / "m.onnx", image=noise(*size)[None])["seen"]
        np.testing.assert_array_equal(seen, ex.prepare(noise(*size)).tensor)


@pytest.mark.parametrize(
    "how",
    [
        "imagenet,fit=stretch",
        "caffe,fit=stretch",
        "raw,color=GRAY,scale=1/255,mean=0.1/0.2/0.3,std=0.5",
        "tf,color=BGR,scale=-0.008,mean=-1/0/1,std=1/2/3",
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_grey_levels_become_what_the_model_takes(tmp_path, how, dtype):
    """A picture of the input's own size, so that nothing but the arithmetic of levels is left: equal to the bit."""
    ex = Explainer(watched(tmp_path, dtype=dtype), preprocess=how)
    export([ex], tmp_path / "m.onnx", form=Form(picture="any"))
    picture = np.stack([noise(24, 24), noise(24, 24)[::-1]])
    want = np.concatenate([ex.prepare(p).tensor for p in picture])
    np.testing.assert_array_equal(run(tmp_path / "m.onnx", image=picture)["seen"], want)


@pytest.mark.parametrize("color", ["RGB", "GRAY"])
def test_a_grey_model_sees_luma(tmp_path, color):
    ex = Explainer(watched(tmp_path, channels=1), preprocess=f"unit,color={color}")
    export([ex], tmp_path / "m.onnx", form=Form(picture=(24, 24)))
    picture = noise(24, 24)
    r, g, b = np.moveaxis(picture.astype(np.int64), 2, 0)
    luma = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16  # Rec. 601 of 65536
    seen = run(tmp_path / "m.onnx", image=picture[None])["seen"]
    np.testing.assert_array_equal(seen[0, 0], luma.astype(np.float32) * np.float32(1 / 255))


@pytest.mark.parametrize(
    ("sides", "how", "source", "want"),
    [
        (("h", "w"), "raw", (30, 20), (30, 20)),
        (("h", "w"), "raw,fit=crop", (30, 20), (30, 20)),  # of no size, nothing is cut
        ((24, "w"), "raw", (30, 25), (24, 20)),
        (("h", 24), "raw", (31, 25), (30, 24)),  # 29.76
        (("h", "w"), "raw,size=24x16,fit=crop", (30, 25), (24, 16)),
    ],
)
def test_free_sides_follow_the_picture(tmp_path, sides, how, source, want):
    proto = classifier(size=24)
    for axis, side in zip((2, 3), sides, strict=True):
        dim = proto.graph.input[0].type.tensor_type.shape.dim[axis]
        dim.CopyFrom(value("x", [side]).type.tensor_type.shape.dim[0])
    proto.graph.node.append(helper.make_node("Identity", ["image"], ["seen"]))
    proto.graph.output.append(value("seen", ["n", 3, *sides]))
    ex = Explainer(write(tmp_path / "s.onnx", proto), preprocess=how)
    export([ex], tmp_path / "m.onnx", form=Form(picture="any"))
    found = run(tmp_path / "m.onnx", image=noise(*source)[None])
    expected = ex.explain(noise(*source))
    assert found["seen"].shape[2:] == want
    np.testing.assert_array_equal(found["seen"], ex.prepare(noise(*source)).tensor)
    np.testing.assert_allclose(found["heatmap"][0], expected.heatmap_on_image(), atol=1e-5)


# ---- the way out ----


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("shapes-cnn", "unit"),
        ("shapes-cnn", "unit,fit=letterbox"),
        ("shapes-cnn", "unit,fit=crop"),
        ("shapes-cnn", "unit,color=BGR,fit=squash,interpolation=bicubic"),
        ("shapes-net-keras", "unit,fit=crop"),
        ("shapes-net-free", "unit"),
        ("shapes-net-free", "unit,size=96x80,fit=letterbox,align=topleft"),
        ("shapes-vit", "unit"),
        ("shapes-net-int8-qdq", "unit"),
    ],
)
def test_heatmap_and_overlay_are_the_explainers(tmp_path, name, how):
    ex = Explainer(f"zoo:{name}", preprocess=how)
    pictures = [scene(90, 120), scene(90, 120, k=1)]
    for picture in ("any", (90, 120)):
        export([ex], tmp_path / "m.onnx", form=Form(picture=picture, overlay=True), force=True)
        found = run(tmp_path / "m.onnx", image=np.stack(pictures))
        for k, e in enumerate(ex.explain_batch(pictures)):
            assert e.heatmap.any()
            assert found["class_index"][k] == e.class_index
            np.testing.assert_allclose(found["heatmap"][k], e.heatmap_on_image(), atol=1e-5)
            np.testing.assert_array_equal(found["overlay"][k], overlay(pictures[k], found["heatmap"][k]))


@pytest.mark.parametrize("fit", ["stretch", "crop", "letterbox"])
def test_heatmaps_lie_on_pictures_of_all_sizes(tmp_path, fit):
    """One file, any picture; what is cut off is 0, and a margin is left out."""
    ex = Explainer(bytes_in(tmp_path), preprocess=f"raw,fit={fit},interpolation=nearest")
    export([ex], tmp_path / "m.onnx", form=Form(picture="any", fixed_class=1))
    entry = str(load_model(tmp_path / "m.onnx").inputs[0].name)
    hidden = 0
    for size in SIZES:
        e = ex.explain(noise(*size), 1)
        found = run(tmp_path / "m.onnx", **{entry: noise(*size)[None]})["heatmap"][0]
        np.testing.assert_allclose(found, e.heatmap_on_image(), atol=1e-5)
        assert e.placement is not None
        hidden += np.sum(~e.placement.mask())
        assert not found[~e.placement.mask()].any()
    assert (hidden > 500) == (fit == "crop")


def test_other_outputs_stay_as_they_are(tmp_path):
    ex = Explainer("zoo:shapes-cnn", method="layercam")
    export([ex], tmp_path / "plain.onnx", form=Form(raw=True))
    export([ex], tmp_path / "m.onnx", form=Form(raw=True, picture="any"))
    picture = np.ascontiguousarray(scene(112, 112))
    plain = run(tmp_path / "plain.onnx", image=ex.prepare(picture).tensor)
    found = run(tmp_path / "m.onnx", image=picture[None])
    assert list(found) == list(plain)
    for name in plain:
        np.testing.assert_allclose(found[name], plain[name], atol=1e-5)


def test_the_reference_evaluator_agrees(tmp_path):
    """Nothing in the file is of one runtime alone."""
    ex = Explainer(watched(tmp_path), preprocess="imagenet,fit=letterbox,interpolation=bicubic")
    export([ex], tmp_path / "m.onnx", form=Form(picture="any", overlay=True, top1=True))
    picture = noise(30, 41)[None]
    want = run(tmp_path / "m.onnx", image=picture)
    names = list(want)
    found = dict(zip(names, ReferenceEvaluator(str(tmp_path / "m.onnx")).run(names, {"image": picture}), strict=True))
    e = ex.explain(picture[0])
    np.testing.assert_allclose(found["heatmap"], want["heatmap"], atol=1e-4)
    np.testing.assert_allclose(found["heatmap"][0], e.heatmap_on_image(), atol=1e-5)
    np.testing.assert_array_equal(found["overlay"][0], overlay(picture[0], np.asarray(found["heatmap"][0])))


# ---- overlays ----


@pytest.mark.parametrize("how", ["imagenet,fit=letterbox", "caffe", "raw", "raw,color=GRAY", "tf,scale=-0.008,mean=-1"])
def test_without_a_picture_the_overlay_shows_what_the_input_holds(tmp_path, how):
    ex = Explainer(watched(tmp_path), preprocess=how)
    export([ex], tmp_path / "m.onnx", form=Form(overlay=True, colormap="turbo", blend=0.3))
    prepared = ex.prepare(noise(50, 70))
    found = run(tmp_path / "m.onnx", image=prepared.tensor)
    shown = prepared.placement.to_input(noise(50, 70), fill=ex.preprocess.fill)
    if ex.preprocess.color == "GRAY":
        shown = np.repeat(prepared.tensor[0, 0].astype(np.uint8)[..., None], 3, axis=2)
    want = overlay(shown, found["heatmap"][0], colormap="turbo", blend=0.3)
    far = np.abs(found["overlay"][0].astype(int) - want)
    assert far.max() <= 1
    assert np.mean(far > 0) < 1e-3


def test_overlays_of_bytes_and_of_grey(tmp_path):
    bytes_, grey = bytes_in(tmp_path), write(tmp_path / "grey.onnx", classifier(channels=1, size=24))
    for path, how, name in ((bytes_, "raw", "pixels"), (grey, "unit", "image")):
        ex = Explainer(path, preprocess=how)
        export([ex], tmp_path / "m.onnx", form=Form(overlay=True), force=True)
        tensor = ex.prepare(noise(24, 24)).tensor
        found = run(tmp_path / "m.onnx", **{name: tensor})
        shown = tensor[0] if name == "pixels" else np.rint(tensor[0, 0] * 255).astype(np.uint8)[..., None]
        want = overlay(np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown, found["heatmap"][0])
        np.testing.assert_array_equal(found["overlay"][0], want)


def test_values_beyond_the_picture_are_cut_off(tmp_path):
    ex = Explainer(watched(tmp_path), preprocess="unit")
    export([ex], tmp_path / "m.onnx", form=Form(overlay=True, blend=0))
    x = np.full((1, 3, 24, 24), 2.0, np.float32)
    x[:, 1] = -1
    found = run(tmp_path / "m.onnx", image=x)["overlay"]
    assert np.unique(found.reshape(-1, 3), axis=0).tolist() == [[255, 0, 255]]


@pytest.mark.parametrize("colormap", [None, "diverging"])
def test_signed_maps_are_shown_in_two_colours(tmp_path, colormap):
    ex = Explainer("zoo:shapes-cnn", normalize="none")
    pictures = np.stack([scene(), scene(k=1)])
    export([ex], tmp_path / "m.onnx", form=Form(picture="any", overlay=True, colormap=colormap, blend=0.7))
    found = run(tmp_path / "m.onnx", image=pictures)
    for k, heat in enumerate(found["heatmap"]):
        assert heat.min() < 0 < heat.max()
        np.testing.assert_allclose(heat, ex.explain(pictures[k]).heatmap_on_image(), atol=1e-5 * np.abs(heat).max())
        far = np.abs(found["overlay"][k].astype(int) - overlay(pictures[k], heat, colormap="diverging", blend=0.7))
        assert far.max() <= 1
        assert np.mean(far > 0) < 1e-2  # halves


def test_a_blank_map_leaves_a_picture(tmp_path):
    """Nothing has no colour: white, in the diverging map."""
    proto = classifier(size=24)
    for tensor in proto.graph.initializer:
        if tensor.name == "wd":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((8, 4), np.float32), "wd"))
    ex = Explainer(write(tmp_path / "s.onnx", proto), normalize="none", preprocess="raw")
    export([ex], tmp_path / "m.onnx", form=Form(picture="any", overlay=True, blend=1.0))
    found = run(tmp_path / "m.onnx", image=noise(9, 9)[None])
    assert not found["heatmap"].any()
    np.testing.assert_array_equal(found["overlay"], np.full((1, 9, 9, 3), 255))


def test_each_map_has_its_overlay(tmp_path):
    cam = Explainer("zoo:shapes-cnn")
    pixels = Explainer(cam.model, method="saliency", preprocess=cam.preprocess)
    export([cam, pixels], tmp_path / "m.onnx", form=Form(picture="any", overlay=True, boxes=True))
    picture = scene()
    found = run(tmp_path / "m.onnx", image=picture[None])
    for method, ex in (("gradcam", cam), ("saliency", pixels)):
        heat = found[f"heatmap_{method}"][0]
        np.testing.assert_array_equal(found[f"overlay_{method}"][0], overlay(picture, heat))
        e = ex.explain(picture)
        if method == "gradcam":
            [box] = e.boxes()
            np.testing.assert_allclose(found["boxes_gradcam"][0], [box.x0, box.y0, box.x1, box.y1], atol=1)
            np.testing.assert_allclose(heat, e.heatmap_on_image(), atol=1e-5)


# ---- what a file tells, and what is refused ----


def test_a_file_tells_that_it_takes_a_picture(tmp_path):
    ex = Explainer("zoo:shapes-cnn", preprocess="unit,fit=letterbox")
    export([ex], tmp_path / "m.onnx", form=Form(picture=(90, 120), overlay=True))
    meta = {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props}
    told = json.loads(meta[MARK])
    assert told["input"] == "image"
    assert told["picture"] == {"size": [90, 120], "preprocess": ex.preprocess.to_dict()}
    assert told["preprocess"] == json.loads(meta["onnxcam/preprocess"]) == Preprocess().to_dict()
    held = load_model(tmp_path / "m.onnx")
    shapes = {
        str(v.name): [d if isinstance(d, int) else d.value for d in v.shape] for v in (*held.inputs, *held.outputs)
    }
    assert shapes["image"] == shapes["overlay"] == ["N", 90, 120, 3]
    assert shapes["heatmap"] == ["N", 90, 120]


def test_a_page_feeds_such_a_model_with_the_picture_itself(tmp_path):
    export([Explainer("zoo:shapes-cnn")], tmp_path / "m.onnx", form=Form(picture="any", overlay=True))
    told = describe(load_model(tmp_path / "m.onnx"))
    assert told["input"] | {"batch": 0} == {
        "name": "image", "dtype": "uint8", "layout": "NHWC", "batch": 0, "channels": 3, "height": None, "width": None,
    }  # fmt: skip
    assert (told["how"]["fit"], told["how"]["size"], told["how"]["reversed"]) == ("stretch", None, False)


def test_the_input_has_a_name_of_its_own(tmp_path):
    """``image`` is an inner value here."""
    ex = Explainer(bytes_in(tmp_path), preprocess="raw")
    export([ex], tmp_path / "m.onnx", form=Form(picture="any"))
    assert [v.name for v in load_model(tmp_path / "m.onnx").inputs] == ["onnxcam/image", "onnxcam/class"]
    found = run(tmp_path / "m.onnx", **{"onnxcam/image": noise(24, 24)[None]})
    np.testing.assert_allclose(found["heatmap"][0], ex.explain(noise(24, 24)).heatmap, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"picture": "all"}, OptionError, "'any', or height and width"),
        ({"picture": (0, 5)}, OptionError, "picture=0x5: height and width must be at least 1"),
        ({"size": (5, 0)}, OptionError, "size=5x0: height and width must be at least 1"),
        ({"picture": (99999, 1)}, OptionError, "picture=99999x1: .* 65,535 a side; give the size of the pictures"),
        ({"picture": (13378, 13378)}, OptionError, "178,970,884 pixels, and at most 178,956,970 are possible"),
        ({"size": (13378, 13378)}, OptionError, "size=13378x13378: .* give a smaller one, or leave it out"),
        ({"picture": "any", "size": (5, 5)}, OptionError, "of the picture's size; leave size out"),
        ({"overlay": True, "size": (5, 5)}, OptionError, "an overlay needs a heatmap of the picture's size"),
        ({"colormap": "turbo"}, OptionError, "ask for one, too"),
        ({"overlay": True, "blend": 1.5}, OptionError, "between 0 .* and 1"),
        ({"overlay": True, "colormap": "turb"}, UnknownNameError, "turbo"),
    ],
)
def test_forms_that_make_no_sense_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        Form(**settings)


def test_what_does_not_fit_the_model_is_refused(tmp_path):
    signed = Explainer("zoo:shapes-cnn", normalize="none")
    with pytest.raises(OptionError, match="normalize=none gives signed maps, and jet"):
        explainable([signed], form=Form(overlay=True, colormap="jet"))
    other = Explainer("zoo:shapes-cnn", preprocess="unit,size=50x50")
    with pytest.raises(OptionError, match=r"size=\(50, 50\): the model takes"):
        explainable([other], form=Form(picture="any"))
    unit = Explainer(bytes_in(tmp_path), preprocess="unit")
    for name, form in (("picture", Form(picture="any")), ("overlay", Form(overlay=True))):
        with pytest.raises(OptionError, match=rf"^{name}: .*normalises in its graph.*use 'raw'; or leave {name} out"):
            explainable([unit], form=form)


# ---- real models ----


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("mobilenetv2_float_nhwc_u8in", "auto"),
        ("mobilenetv2_int8_qdq_nhwc_u8", "auto"),
        ("keras_mobilenetv1_025_nhwc_tf2onnx_op17", "tf,fit=crop"),
        ("squeezenet11_fp32", "caffe,mean=104/117/123"),
        ("squeezenet11_fp16_winml", "caffe,mean=104/117/123,fit=letterbox"),
        ("flowers_mobilenetv2_035_128_tf2onnx", "auto"),
        ("mnist8_cntk_op8", "raw"),
    ],
)
def test_real_photos(real_zoo, tmp_path, name, how):
    ex = Explainer(real_zoo / "models" / f"{name}.onnx", preprocess=how)
    export([ex], tmp_path / "m.onnx", form=Form(picture="any", overlay=True))
    entry = load_model(tmp_path / "m.onnx").inputs[0].name
    near = 1e-3 if "fp16" in name else 1e-5  # the file is of another opset there, where runtimes round at other places
    for file in ("dog_cat_both.png", "zebra.jpg", "daisy.jpg"):
        photo = read_image(real_zoo / "photos" / file)
        e, found = ex.explain(photo), run(tmp_path / "m.onnx", **{str(entry): photo[None]})
        assert found["class_index"][0] == e.class_index
        np.testing.assert_allclose(found["heatmap"][0], e.heatmap_on_image(), atol=near)
        np.testing.assert_array_equal(found["overlay"][0], overlay(photo, found["heatmap"][0]))
