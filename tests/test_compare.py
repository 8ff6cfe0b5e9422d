"""Two models held against each other: figures by hand, layers and classes matched, faults found, sound pairs not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from builders import FLOAT, classifier, model, png, value, weights, write
from onnx import helper, numpy_helper
from recipes import recipe

from onnxcam import Explainer
from onnxcam.compare import compare
from onnxcam.compare.pairing import places, precision
from onnxcam.compare.stages import rows_stage, verdict
from onnxcam.errors import ImageError, OptionError, UnknownNameError
from onnxcam.image import Preprocess, save_image
from onnxcam.zoo import locate

pytestmark = pytest.mark.anyruntime


@pytest.fixture
def photos(tmp_path):
    return [png(tmp_path / "photos" / f"{k}.png", seed=k) for k in range(6)]


def saved(tmp_path, name: str, proto: Any = None, labels: Any = None, **arrays: Any):
    """A file of a `classifier`, with some of its weights replaced."""
    proto = proto or classifier()
    for tensor in proto.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(arrays[tensor.name], np.float32), tensor.name))
    if labels is not None:
        proto.metadata_props.add(key="onnxcam/labels", value=json.dumps(labels))
    return write(tmp_path / f"{name}.onnx", proto)


def exchanged(array: Any, axis: int = 0) -> Any:
    order = [1, 0, *range(2, array.shape[axis])]
    return np.take(array, order, axis)


# Models


def test_a_model_is_sound_against_itself(tmp_path, photos):
    path = saved(tmp_path, "a")
    found = compare(path, path, photos)
    assert found.verdict.kind == "sound"
    assert [p.source for p in found.pairs] == [str(p) for p in photos]
    assert all(p.agreement == 1 and p.rank == 1 and p.raw_difference == 0 for p in found.pairs)
    assert found.below({"correlation": 1.0, "agreement": 1.0}) == []


def foreign() -> onnx.ModelProto:
    """The network of `classifier` as another exporter writes it: NHWC, other names, BatchNormalization, GAP by mean."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t0"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t0", "w1"], ["t1"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["t1", "one", "b1", "zero", "unit"], ["t2"], epsilon=0.0),
        helper.make_node("Relu", ["t2"], ["t3"]),
        helper.make_node("MaxPool", ["t3"], ["t5"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["t5", "w2", "b2"], ["t6"], pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["t6"], ["t7"], perm=[0, 2, 3, 1]),
        helper.make_node("Relu", ["t7"], ["t8"]),
        helper.make_node("ReduceMean", ["t8", "axes"], ["t9"], keepdims=0),
        helper.make_node("MatMul", ["t9", "wd"], ["t10"]),
        helper.make_node("Add", ["t10", "bd"], ["t11"]),
        helper.make_node("Softmax", ["t11"], ["p"]),
    ]
    held = {**weights(), "one": np.ones(6, np.float32), "zero": np.zeros(6, np.float32),
            "unit": np.ones(6, np.float32), "axes": np.array([1, 2])}  # fmt: skip
    return model(nodes, [value("x", ["n", 12, 12, 3])], [value("p", ["n", 4])], held)


def test_names_and_layouts_may_differ(tmp_path, photos):
    found = compare(saved(tmp_path, "a"), write(tmp_path / "b.onnx", foreign()), photos)
    assert (found.a["layer"], found.b["layer"]) == ("relu2", "t8")
    assert [(s.a, s.b) for s in found.stages if s.what == "layer"] == [("relu1", "t3"), ("relu2", "t8")]
    assert found.verdict.kind == "sound"
    assert max(p.raw_difference or 0 for p in found.pairs) < 1e-5
    assert max(s.worst for s in found.stages) < 1e-5


def test_the_layer_of_the_same_shape_nearest_in_depth(tmp_path, photos):
    """Three convolutions of one shape: the second's middle one belongs to the first's middle one."""
    nodes, arrays, last = [], {}, "image"
    for k in range(3):
        arrays[f"w{k}"] = np.random.default_rng(k).standard_normal((3, 3, 3, 3)).astype(np.float32)
        nodes += [helper.make_node("Conv", [last, f"w{k}"], [f"c{k}"], pads=[1] * 4),
                  helper.make_node("Relu", [f"c{k}"], [f"r{k}"])]  # fmt: skip
        last = f"r{k}"
    nodes += [helper.make_node("GlobalAveragePool", [last], ["g"]), helper.make_node("Flatten", ["g"], ["logits"])]
    shapes = [value("image", ["n", 3, 8, 8])], [value("logits", ["n", 3])]
    path = write(tmp_path / "a.onnx", model(nodes, *shapes, arrays))
    found = compare(path, path, photos[:1], layer_a="r1")
    assert (found.b["layer"], found.pairs[0].correlation) == ("r1", pytest.approx(1))
    assert compare(path, path, photos[:1], layer_a="c1").b["layer"] == "c1"  # before its activation as well
    assert compare(path, path, photos[:1], layer_a="r1", layer_b="r2").b["layer"] == "r2"
    depths = {p.layer.name: (p.depth, p.late) for p in places(Explainer(path))}
    assert depths["r1"] == (2 / 3, 0)
    assert depths["c1"] == (2 / 3, 1)


def test_classes_in_another_order_are_matched_by_name(tmp_path, photos):
    order, names = [2, 0, 3, 1], ["ant", "bee", "cat", "dog"]
    w = weights()
    moved = {"wd": w["wd"][:, order], "bd": w["bd"][order]}
    a = saved(tmp_path, "a", labels=names)
    b = saved(tmp_path, "b", labels=[names[k] for k in order], **moved)
    for target in (None, "dog", 3, "margin:dog,ant"):
        found = compare(a, b, photos, target=target)
        assert found.verdict.kind == "sound", target
        assert all(p.agreement == 1 and (p.correlation or 1) > 0.999 for p in found.pairs)
        assert all(p.score_a == pytest.approx(p.score_b, abs=1e-5) for p in found.pairs)
    assert "another order" in " ".join(found.notes)
    unnamed = compare(a, saved(tmp_path, "c", **moved), photos)  # by index, then
    assert unnamed.verdict.kind == "fault"


def test_names_of_some_classes_alone_match_no_order(tmp_path, photos):
    a = saved(tmp_path, "a", labels=["ant", "bee"])
    b = saved(tmp_path, "b", labels=["bee", "ant"])
    with pytest.raises(OptionError, match=r"2 names for 4 classes, in another order.*names of all 4 for both"):
        compare(a, b, photos)
    assert compare(a, a, photos[:1]).verdict.kind == "sound"


# Faults


def test_swapped_channels_of_the_last_map_are_found(tmp_path, photos):
    w = weights()
    b = saved(tmp_path, "b", w2=exchanged(w["w2"]), b2=exchanged(w["b2"]))
    found = compare(saved(tmp_path, "a"), b, photos)
    assert found.verdict.kind == "fault"
    assert "channels 0 and 1 of layer relu2 are swapped" in found.verdict.text
    assert found.below({"correlation": -1.0}) == [found.verdict.text]
    assert found.below({}) == []


def test_a_fault_in_front_is_found_where_it_begins(tmp_path, photos):
    w = weights()
    b = saved(tmp_path, "b", w1=exchanged(w["w1"]), b1=exchanged(w["b1"]))
    found = compare(saved(tmp_path, "a"), b, photos).verdict
    assert (found.kind, found.at and found.at.a, found.at and found.at.swapped) == ("fault", "relu1", ((0, 1),))


def test_a_fault_behind_all_layers_is_found_in_the_gradients(tmp_path, photos):
    b = saved(tmp_path, "b", wd=exchanged(weights()["wd"]))
    found = compare(saved(tmp_path, "a"), b, photos).verdict
    assert found.kind == "fault"
    assert "channels 0 and 1 of the gradients at relu2 are swapped" in found.text
    shifted = saved(tmp_path, "c", bd=weights()["bd"] + [0, 0, 1, 0])
    late = compare(saved(tmp_path, "a"), shifted, photos).verdict
    assert (late.kind, late.at and late.at.what, late.at and late.at.odd) == ("fault", "scores", (2,))


def test_a_channel_of_another_scale_is_found(tmp_path, photos):
    w = weights()
    scale = np.array([1, 1, 1.05, 1, 1, 1, 1, 1])
    b = saved(tmp_path, "b", w2=w["w2"] * scale[:, None, None, None], b2=w["b2"] * scale)
    found = compare(saved(tmp_path, "a"), b, photos).verdict
    assert (found.kind, found.at and found.at.odd) == ("fault", (2,))


def test_half_precision_is_sound(tmp_path, photos):
    half = write(tmp_path / "b.onnx", classifier(dtype=np.float16))
    found = compare(saved(tmp_path, "a"), half, photos)
    assert (precision(Explainer(half)), found.verdict.kind) == ("half", "sound")
    assert 1e-5 < max(s.worst for s in found.stages) < 0.02


def test_two_networks_are_told_apart_from_a_fault(tmp_path, photos):
    found = compare(saved(tmp_path, "a"), write(tmp_path / "b.onnx", classifier(seed=1)), photos)
    assert found.verdict.kind == "different"
    assert found.verdict.at is not None
    assert found.verdict.at.a == "relu1"
    failed = found.below({"agreement": 0.0})
    assert len(failed) == 1
    assert failed[0].startswith(found.verdict.text)
    assert "A gate is for exports of one network" in failed[0]


def test_what_few_pictures_leave_open_fails_a_gate(tmp_path, photos):
    path = saved(tmp_path, "a")
    sound = compare(path, path, photos)
    rows = np.random.default_rng(10).standard_normal((20, 4))
    swap = rows_stage("layer", "late", "late", 0.5, rows, exchanged(rows, axis=1), 0.75)
    open_ = verdict([swap], "int8", pictures=1)
    assert open_.text.startswith("not known: 1 picture is too few for int8, 10 are needed; perhaps a fault: channels 0")
    assert replace(sound, verdict=open_).below({"agreement": 0.0}) == [open_.text]
    assert replace(sound, verdict=verdict([], "int8")).below({"agreement": 0.0}) == []


def test_another_preprocessing_is_told_and_fails_a_gate(tmp_path, photos):
    proto = classifier()
    proto.metadata_props.add(key="onnxcam/preprocess", value=json.dumps(Preprocess.parse("raw").to_dict()))
    path = write(tmp_path / "a.onnx", proto)
    found = compare(path, path, photos, preprocess_b="imagenet")
    assert found.notes[0] == "A: preprocessing raw from the model's metadata"
    assert found.notes[1].startswith("B: preprocessing imagenet contradicts the model's metadata: it makes")
    assert found.verdict.kind == "different"
    assert found.below({"agreement": 0.0})
    same = compare(path, path, photos[:1])
    assert same.notes == ("A and B: preprocessing raw from the model's metadata",)
    bare = saved(tmp_path, "b")
    assert compare(bare, bare, photos[:1]).notes[0].startswith("A and B: preprocessing imagenet is assumed: nothing")


def test_a_class_per_picture_and_several_are_told_apart(tmp_path, photos):
    def ending(name: str):
        proto = classifier()
        proto.graph.node.append(helper.make_node(name, ["logits"], ["p"]))
        proto.graph.output[0].CopyFrom(value("p", ["n", 4]))
        return saved(tmp_path, name, proto)

    single, other, untold = ending("Softmax"), ending("Sigmoid"), saved(tmp_path, "c")

    def said(a, b):
        return " ".join(n for n in compare(a, b, photos[:1]).notes if "agreement" in n)

    assert said(single, other).startswith(
        "B ends in Sigmoid: any number of classes per picture. A ends in Softmax: one class per picture. agreement is"
    )
    assert said(other, untold).startswith("A ends in Sigmoid: any number of classes per picture. B does not tell")
    assert said(other, other) == said(single, untold) == ""


def test_where_no_channel_is_compared_the_verdict_gives_the_figures(tmp_path):
    scene = tmp_path / "scene.png"
    save_image(scene, recipe("scenes").render(5_000_000).image)
    found = compare("zoo:shapes-detector", "zoo:shapes-detector", scene)
    assert (found.verdict.kind, found.verdict.text) == (
        "unknown",
        "not known: channels are compared of classifiers and of a score per class and pixel only. What is known are "
        "the figures: correlation 1 and agreement 1, in the mean of 1 picture",
    )


@pytest.mark.slow
def test_the_zoo_exports_are_sound_and_a_swap_in_each_is_found(tmp_path):
    scenes = recipe("scenes")
    for k in range(10):
        save_image(tmp_path / f"{k}.png", scenes.render(5_000_000 + k).image)
    for name in ("shapes-net-torchscript", "shapes-net-int8-qdq"):
        sound = compare("zoo:shapes-net-torchscript", f"zoo:{name}", tmp_path)
        assert sound.verdict.kind == "sound", sound.verdict.text
        proto = onnx.load(locate(name))
        broken = tmp_path / "broken.onnx"
        onnx.save(_last_conv_swapped(proto), broken)
        found = compare("zoo:shapes-net-torchscript", broken, tmp_path)
        assert (found.verdict.kind, found.verdict.at and found.verdict.at.odd) == ("fault", (0, 1))


def _last_conv_swapped(proto: onnx.ModelProto) -> onnx.ModelProto:
    """With every initializer of the last Conv's weight and bias, behind a DequantizeLinear or not."""
    made, held = {n.output[0]: n for n in proto.graph.node}, {t.name: t for t in proto.graph.initializer}
    conv = [n for n in proto.graph.node if n.op_type == "Conv"][-1]
    names = [s for n in conv.input[1:] for s in (made[n].input if n in made else [n]) if s in held]
    for name in names:
        array = numpy_helper.to_array(held[name])
        if array.ndim:
            held[name].CopyFrom(numpy_helper.from_array(exchanged(array), name))
    return proto


# Blank maps, other sizes, bad pictures


def test_blank_maps_are_told_and_not_counted_as_perfect(tmp_path, photos):
    w = weights()
    against = -np.abs(w["wd"])
    a, b = saved(tmp_path, "a"), saved(tmp_path, "b", wd=against)
    both = compare(b, b, photos)
    assert {p.blank for p in both.pairs} == {"both"}
    assert both.figures()["correlation"] is None
    assert "6 of 6 pictures: both maps are blank" in " ".join(both.notes)
    assert both.below({"correlation": 0.5})[0].startswith("correlation: no picture has it")
    one = compare(a, b, photos)
    seen = [p for p in one.pairs if p.blank == "b"]
    assert seen
    assert all(p.correlation == p.iou == 0 for p in seen)
    order = [("", 0.9), ("both", None), ("", -0.2), ("a", 0.0)]
    mixed = [replace(one.pairs[0], blank=blank, correlation=r) for blank, r in order]
    assert [p.correlation for p in replace(one, pairs=tuple(mixed)).worst(4)] == [0.0, -0.2, 0.9, None]


def test_maps_of_two_input_sizes_are_held_against_each_other_on_the_picture(tmp_path, photos):
    a, b = saved(tmp_path, "a"), write(tmp_path / "b.onnx", classifier(size=24))
    found = compare(a, b, photos[:2], target=1, preprocess_b="imagenet,fit=stretch")
    assert "no layer of the shape 8x6x6" in found.matched
    assert found.verdict.kind == "unknown"
    for pair in found.pairs:
        x, y = (e.heatmap_on_image() for e in found.explanations(pair))
        seen = found.explanations(pair)[0].placement
        assert seen is not None
        inside = seen.mask()
        assert 0 < inside.sum() < inside.size  # the first model sees the centre alone
        assert pair.correlation == pytest.approx(np.corrcoef(x[inside], y[inside])[0, 1], abs=1e-6)


def test_a_model_of_any_size_gets_that_of_the_other(tmp_path, photos):
    free = saved(tmp_path, "free", classifier(size="s"))
    fixed, other = saved(tmp_path, "fixed"), saved(tmp_path, "other", classifier(size=24))
    for pair, at in (((fixed, free), "b"), ((free, fixed), "a")):
        found = compare(*pair, photos)
        assert found.verdict.kind == "sound", found.verdict.text
        assert all(p.correlation == pytest.approx(1) and p.raw_difference == 0 for p in found.pairs)
        assert getattr(found, at)["preprocess"]["size"] == [12, 12]
        assert f"{at.upper()} takes pictures of any size, and gets 12x12 here, that of the other" in found.notes[0]
        assert "imagenet is assumed" in found.notes[1]
    one = photos[:1]
    told = [compare(fixed, free, one, preprocess_b="imagenet,size=16x16"), compare(other, fixed, one)]
    assert told[0].b["preprocess"]["size"] == [16, 16]
    assert [n.notes[0].partition(":")[0] for n in told] == ["A sees 12x12, B 16x16", "A sees 24x24, B 12x12"]
    assert not any(" sees " in note or " gets " in note for note in compare(free, free, one).notes)
    half = saved(tmp_path, "half", classifier(size="s"))
    proto = onnx.load(half)
    proto.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 20  # of free height alone: 12x12 does not fit
    found = compare(fixed, saved(tmp_path, "half", proto), one)
    assert "A sees 12x12, B each picture at a size of its own" in found.notes[0]


def test_bad_pictures_are_told(tmp_path, photos):
    (tmp_path / "photos" / "bad.png").write_bytes(b"no picture")
    path = saved(tmp_path, "a")
    found = compare(path, path, tmp_path / "photos")
    assert len(found.pairs) == 6
    assert [source for source, _ in found.failures] == [str(tmp_path / "photos" / "bad.png")]
    with pytest.raises(ImageError, match=r"of 1 picture none could be compared.*bad\.png"):
        compare(path, path, tmp_path / "photos" / "bad.png")


# Models of other questions


def test_models_of_other_questions_are_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxcam.runtime.Session.run", lambda *_: pytest.fail("it ran"))
    a = saved(tmp_path, "a", labels=["ant", "bee", "cat", "dog"])
    other = saved(tmp_path, "b", labels=["ant", "bee", "cat", "fly"])
    with pytest.raises(OptionError, match=r"only in the first dog; only in the second fly\..*labels"):
        compare(a, other, "nowhere")
    with pytest.raises(OptionError, match="the first has 4 classes, the second 5"):
        compare(a, write(tmp_path / "c.onnx", classifier(classes=5)), "nowhere")
    dense = model(
        [helper.make_node("Conv", ["image", "w"], ["map"], kernel_shape=[1, 1])],
        [value("image", ["n", 3, 12, 12])], [value("map", ["n", 4, 12, 12], FLOAT)],
        {"w": np.ones((4, 3, 1, 1), np.float32)},
    )  # fmt: skip
    with pytest.raises(OptionError, match="scores of classes, the second a score per class and pixel"):
        compare(a, write(tmp_path / "d.onnx", dense), "nowhere", method="saliency")


def test_a_gate_of_no_figure_is_refused(tmp_path, photos):
    path = saved(tmp_path, "a")
    with pytest.raises(UnknownNameError, match="agreement"):
        compare(path, path, photos[:1]).below({"agreemnt": 1.0})
