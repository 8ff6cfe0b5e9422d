"""An exported model answers in one ordinary run what its Explainer answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import NODES, answers, classifier, model, session, value, weights, write

from onnxcam import Explainer, gradients, load_model
from onnxcam.errors import GradientError, OptionError, OutputError
from onnxcam.export import MARK, Form, explainable, export
from onnxcam.gradients.rules import RULES
from onnxcam.image import read_image
from onnxcam.methods import METHODS
from onnxcam.zoo import locate, samples

EXPORTED = [m.name for m in METHODS.values() if m.procedure is None and m.join != "kpca"]
CAMS = [name for name in EXPORTED if METHODS[name].gives == "cam"]


def scenes(n: int) -> Any:
    """(n, 3, 112, 112) float32 in [0, 1]."""
    seen = [read_image(p)[::2, ::2] for p in samples("shapes-cnn")[:n]]
    return np.ascontiguousarray(np.stack(seen).transpose(0, 3, 1, 2).astype(np.float32) / 255)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("method", EXPORTED)
def test_heatmaps_are_the_explainers(tmp_path, method, n):
    ex, path, x = Explainer("zoo:shapes-cnn", method=method), tmp_path / "m.onnx", scenes(n)
    ex.export(path)
    lit = []
    for asked in (-1, 3):
        want = ex.explain_tensor(x, None if asked < 0 else asked)
        found = answers(path, **{"image": x, "onnxcam/class": np.full(n, asked)})
        heat = np.stack([e.heatmap for e in want])
        lit.append(heat.any())
        np.testing.assert_allclose(found["heatmap"], heat, atol=1e-4)
        assert found["class_index"].tolist() == [e.class_index for e in want]
    assert any(lit)


@pytest.mark.parametrize(
    "name", ["shapes-vit", "shapes-net-keras", "shapes-net-free", "shapes-net-int8-qdq", "shapes-unet"]
)
@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_other_models(tmp_path, name, method):
    """Tokens, NHWC, any size, int8, a class per pixel."""
    ex, path = Explainer(f"zoo:{name}", method=method), tmp_path / "m.onnx"
    ex.export(path)
    image = ex.model.image_input
    x = scenes(2) if image.layout == "NCHW" else np.moveaxis(scenes(2), 1, 3)
    x = np.ascontiguousarray(x[:, :, :96, :80]) if image.height is None else x
    want = np.stack([e.heatmap for e in ex.explain_tensor(x, 2)])
    found = answers(path, **{image.name: x, "onnxcam/class": np.full(2, 2)})["heatmap"]
    assert want.any()
    np.testing.assert_allclose(found, want, atol=1e-4)


def test_each_sample_has_its_own_class(tmp_path):
    ex, path, x = Explainer("zoo:shapes-cnn"), tmp_path / "m.onnx", scenes(3)
    ex.export(path)
    found = answers(path, **{"image": x, "onnxcam/class": np.asarray([5, -1, 0])})
    want = [ex.explain_tensor(x[k : k + 1], c)[0] for k, c in enumerate((5, None, 0))]
    np.testing.assert_allclose(found["heatmap"], np.stack([e.heatmap for e in want]), atol=1e-4)


def test_what_the_model_answered_it_still_answers(tmp_path):
    """In name, order and, with optimisation off, to the last bit."""
    source, path = locate("zoo:shapes-cnn"), tmp_path / "m.onnx"
    Explainer(source, method="guided_gradcam").export(path)
    before, after = session(source, optimize=False), session(path, optimize=False)
    names = [o.name for o in before.get_outputs()]
    assert [o.name for o in after.get_outputs()] == [*names, "heatmap", "class_index"]
    assert [i.name for i in after.get_inputs()] == [*(i.name for i in before.get_inputs()), "onnxcam/class"]
    x = scenes(2)
    for a, b in zip(
        before.run(None, {"image": x}), after.run(names, {"image": x, "onnxcam/class": np.full(2, -1)}), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("form", "index"), [(Form(top1=True), None), (Form(fixed_class="star"), 3), (Form(fixed_class=1), 1)]
)
def test_a_settled_class_needs_no_input(tmp_path, form, index):
    ex, path, x = Explainer("zoo:shapes-cnn"), tmp_path / "m.onnx", scenes(3)
    ex.export(path, form=form)
    found, want = answers(path, image=x), ex.explain_tensor(x, index)
    np.testing.assert_allclose(found["heatmap"], np.stack([e.heatmap for e in want]), atol=1e-4)
    assert found["class_index"].tolist() == [e.class_index for e in want]


def test_other_scores(tmp_path):
    ex, path, x = Explainer("zoo:shapes-cnn"), tmp_path / "m.onnx", scenes(2)
    ex.export(path, target="margin:star,heart")
    want = ex.explain_tensor(x, "margin:star,heart")
    np.testing.assert_allclose(answers(path, image=x)["heatmap"], np.stack([e.heatmap for e in want]), atol=1e-4)


def test_several_methods_and_layers_in_one_file(tmp_path):
    x, path = scenes(2), tmp_path / "m.onnx"
    cams = Explainer("zoo:shapes-cnn", target_layer=["stage1", "stage2"])
    pixels = Explainer(cams.model, method="saliency", preprocess=cams.preprocess)
    record = export([cams, pixels], path, form=Form(raw=True)).record
    found = answers(path, **{"image": x, "onnxcam/class": np.full(2, -1)})
    assert list(record["maps"]) == ["heatmap_gradcam_stage1", "heatmap_gradcam_stage2", "heatmap_saliency"]
    for k, e in enumerate(cams.explain_tensor(x)):
        for m in e.maps:
            np.testing.assert_allclose(found[f"heatmap_gradcam_{m.layer}"][k], m.heatmap, atol=1e-4)
            np.testing.assert_allclose(found[f"cam_gradcam_{m.layer}"][k], m.cam, rtol=1e-3, atol=1e-4)
    for k, e in enumerate(pixels.explain_tensor(x)):
        np.testing.assert_allclose(found["heatmap_saliency"][k], e.heatmap, atol=1e-4)


def test_every_output_has_a_shape(tmp_path):
    path = tmp_path / "m.onnx"
    Explainer("zoo:shapes-net-keras").export(path, form=Form(raw=True, size=(40, 30)))
    shapes = {o.name: o.shape for o in session(path).get_outputs()}
    batch = session(path).get_inputs()[0].shape[0]
    assert shapes["heatmap"] == [batch, 40, 30]
    assert shapes["cam"][1:] == [14, 14]
    assert shapes["class_index"] == [batch]


def test_a_file_tells_what_it_is(tmp_path):
    path = tmp_path / "m.onnx"
    ex = Explainer("zoo:shapes-cnn")
    ex.export(path, form=Form(fixed_class="heart"))
    meta = {p.key: p.value for p in onnx.load(path).metadata_props}
    told = json.loads(meta[MARK])
    assert told["source"] == {"name": "shapes-cnn.onnx", "sha256": ex.model.sha256}
    assert told["maps"] == {"heatmap": {"method": "gradcam", "layer": ex.layers[0].name, "normalize": "max"}}
    assert told["classes"] == {"onnxcam/class": 5}
    assert json.loads(meta["onnxcam/labels"]) == list(ex.labels)
    assert json.loads(meta["onnxcam/preprocess"]) == ex.preprocess.to_dict() == told["preprocess"]


def test_it_costs_little_room_and_holds_nothing_twice(tmp_path):
    source, path = locate("zoo:shapes-cnn"), tmp_path / "m.onnx"
    Explainer(source).export(path)
    assert path.stat().st_size <= source.stat().st_size * 1.01 + 50_000
    graph = onnx.load(path).graph
    held = [onnx.numpy_helper.to_array(t) for t in graph.initializer]
    assert len({(a.dtype.str, a.shape, a.tobytes()) for a in held}) == len(held)
    read = {n for node in graph.node for n in node.input} | {o.name for o in graph.output}
    assert {t.name for t in graph.initializer} <= read
    assert all(any(o in read for o in node.output) for node in graph.node)


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({"method": "rise"}, {}, "RISE needs .* runs .*one run"),
        ({"method": "kpcacam"}, {}, "kernel projection is not exported"),
        ({"smooth": "aug"}, {}, "smooth=aug looks at the image several times"),
        ({}, {"target": "star@5,5"}, "looking at each image"),
        ({}, {"target": "star", "form": Form(fixed_class=1)}, "both say what is explained"),
        ({}, {"target": "star", "form": Form(top1=True)}, "both say which class"),
        ({"normalize": "percentile"}, {}, "sorts pixels"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path, options, given, message):
    path = tmp_path / "m.onnx"
    model = "zoo:shapes-unet" if "@" in str(given.get("target")) else "zoo:shapes-cnn"
    with pytest.raises(OptionError, match=message):
        Explainer(model, **options).export(path, **given)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_stays(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_text("mine")
    with pytest.raises(OptionError, match=r"is there already.*--force"):
        Explainer("zoo:shapes-cnn").export(path)
    assert path.read_text() == "mine"
    Explainer("zoo:shapes-cnn").export(path, force=True)
    with pytest.raises(OptionError, match=r"explainable model already \(gradcam of shapes-cnn.onnx\)"):
        explainable([Explainer(path)])


def test_the_source_is_never_written_to(tmp_path):
    path = write(tmp_path / "m.onnx", classifier())
    before = path.read_bytes()
    with pytest.raises(OutputError, match="own file"):
        Explainer(path).export(path, force=True)
    assert path.read_bytes() == before


def test_names_that_the_model_uses_itself_stay_its_own(tmp_path):
    source = onnx.load(locate("zoo:shapes-cnn"))
    old = source.graph.output[0].name
    for node in source.graph.node:
        node.output[:] = ["heatmap" if o == old else o for o in node.output]
    source.graph.output[0].name = "heatmap"
    onnx.save(source, tmp_path / "s.onnx")
    ex, x = Explainer(tmp_path / "s.onnx"), scenes(1)
    ex.export(tmp_path / "m.onnx")
    found = answers(tmp_path / "m.onnx", **{"image": x, "onnxcam/class": np.asarray([-1])})
    np.testing.assert_allclose(found["onnxcam/heatmap"][0], ex.explain_tensor(x)[0].heatmap, atol=1e-4)
    assert found["heatmap"].shape == (1, load_model(locate("zoo:shapes-cnn")).outputs[0].shape[1])


def two_heads() -> onnx.ModelProto:
    other = onnx.helper.make_node("Gemm", ["flat", "we"], ["other"])
    arrays = weights() | {"we": np.random.default_rng(3).random((8, 7), dtype=np.float32)}
    outputs = [value("logits", ["n", 4]), value("other", ["n", 7])]
    return model([*NODES, other], [value("image", ["n", 3, 12, 12])], outputs, arrays)


def test_explainers_of_different_outputs_are_refused(tmp_path):
    source = write(tmp_path / "m.onnx", two_heads())
    first = Explainer(source, output="logits")
    with pytest.raises(OptionError, match=r"gradcam explains 'logits' and layercam 'other'.*one file each"):
        explainable([first, Explainer(source, output="other", method="layercam")])
    with pytest.raises(OptionError, match=r"gradcam explains .*one file each"):
        explainable([first, Explainer(source, output="logits[1]", method="layercam")])
    assert explainable([first, Explainer(source, output="logits", method="layercam")])


def test_explainers_of_different_models_are_refused(tmp_path):
    one = write(tmp_path / "a.onnx", classifier())
    other = write(tmp_path / "b.onnx", classifier(seed=1))
    with pytest.raises(OptionError, match=r"explains \S+a.onnx and layercam \S+b.onnx.*one model.*one file each"):
        explainable([Explainer(one), Explainer(other, method="layercam")])
    made = [load_model(p) for p in (one, other)]
    unnamed = [Explainer(m.__class__(m.ir_model), method=k) for m, k in zip(made, ("gradcam", "layercam"), strict=True)]
    with pytest.raises(OptionError, match="one model"):
        explainable(unnamed)


def test_no_explainers_are_refused():
    with pytest.raises(OptionError, match="no explainer"):
        explainable([])


def test_the_training_engine_is_not_exported(tmp_path):
    source = write(tmp_path / "m.onnx", classifier())
    with pytest.raises(OptionError, match=r"engine='training' .*only ONNX Runtime .*engine='auto'"):
        Explainer(source, engine="training").export(tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_where_a_rule_is_missing_the_export_does_not_fall_to_the_training_engine(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(gradients, "_choose", lambda *given: asked.append(given) or "training")
    ex = Explainer(write(tmp_path / "m.onnx", classifier()))
    assert {node.domain for node in explainable([ex]).model.graph.all_nodes()} == {""}
    assert asked == []
    assert ex.programs.engine == "auto"


def test_a_missing_rule_is_refused_with_the_next_step(tmp_path, monkeypatch):
    monkeypatch.delitem(RULES, ("", "GlobalAveragePool"))
    ex = Explainer(write(tmp_path / "m.onnx", classifier()), target_layer="relu1")
    with pytest.raises(GradientError, match=r"(?s)GlobalAveragePool.*holds standard operators only; a layer nearer"):
        explainable([ex])


def branching(inner: str) -> onnx.ModelProto:
    """Its second output comes of an If with an inner value of that name."""
    made = onnx.helper.make_node
    kept = [made("Identity", ["logits"], [inner]), made("Neg", [inner], ["a"])]
    bodies = [
        onnx.helper.make_graph(kept, "then", [], [value("a", ["n", 4])]),
        onnx.helper.make_graph([made("Identity", ["logits"], ["b"])], "else", [], [value("b", ["n", 4])]),
    ]
    last = [
        made("ReduceMean", ["image"], ["mean"], keepdims=0),
        made("Greater", ["mean", "zero"], ["bright"]),
        made("If", ["bright"], ["other"], then_branch=bodies[0], else_branch=bodies[1]),
    ]
    outputs = [value("logits", ["n", 4]), value("other", ["n", 4])]
    arrays = weights() | {"zero": np.float32(0)}
    return model([*NODES, *last], [value("image", ["n", 3, 12, 12])], outputs, arrays)


@pytest.mark.parametrize("inner", ["heatmap", "cam", "class_index"])
def test_names_in_branches_are_taken_too(tmp_path, inner):
    path = tmp_path / "x.onnx"
    Explainer(write(tmp_path / "m.onnx", branching(inner)), output="logits").export(path, form=Form(raw=True))
    onnx.checker.check_model(path)
    new = [o.name for o in onnx.load(path).graph.output][2:]
    alike = ["heatmap", "cam"] if inner == "heatmap" else [inner]
    assert new == [f"onnxcam/{n}" if n in alike else n for n in ("heatmap", "cam", "class_index")]
    image = np.ones((1, 3, 12, 12), np.float32)
    assert set(new) < set(answers(path, **{"image": image, "onnxcam/class": np.asarray([1])}))


def test_the_name_of_a_picture_is_not_one_of_a_branch(tmp_path):
    proto = onnx.ModelProto.FromString(branching("inner").SerializeToString().replace(b"image", b"photo"))
    for one in (n for a in proto.graph.node[-1].attribute for n in a.g.node):
        one.input[:] = ["image" if v == "inner" else v for v in one.input]
        one.output[:] = ["image" if v == "inner" else v for v in one.output]
    path = tmp_path / "x.onnx"
    Explainer(write(tmp_path / "m.onnx", proto), output="logits").export(path, form=Form(picture="any", top1=True))
    onnx.checker.check_model(path)
    assert [i.name for i in onnx.load(path).graph.input] == ["onnxcam/image"]


def stripped(path: Path) -> Path:
    proto = onnx.load(path)
    del proto.metadata_props[:]
    onnx.save(proto, path)
    return path


def test_an_export_that_lost_its_mark(tmp_path):
    """With its class input it is known all the same; without, its outputs stay, and new ones are counted."""
    source = write(tmp_path / "m.onnx", classifier())
    Explainer(source).export(tmp_path / "x.onnx")
    with pytest.raises(OptionError, match=r"explainable model already .*input onnxcam/class.*export its source"):
        explainable([Explainer(stripped(tmp_path / "x.onnx"), output="logits")])
    last = source
    for k in range(3):
        Explainer(last, output="logits").export(tmp_path / f"{k}.onnx", form=Form(top1=True))
        last = stripped(tmp_path / f"{k}.onnx")
    onnx.checker.check_model(last)
    assert list(answers(last, image=np.ones((1, 3, 12, 12), np.float32))) == [
        "logits", "heatmap", "class_index", "onnxcam/heatmap", "onnxcam/class_index", "onnxcam/heatmap_2",
        "onnxcam/class_index_2",
    ]  # fmt: skip


def test_each_map_tells_its_own_normalization(tmp_path):
    source = write(tmp_path / "m.onnx", classifier())
    both = [Explainer(source), Explainer(source, method="layercam", normalize="none")]
    maps = explainable(both).record["maps"]
    assert {n: m["normalize"] for n, m in maps.items()} == {"heatmap_gradcam": "max", "heatmap_layercam": "none"}


def test_a_fixed_class_is_not_whichever_is_on_top(tmp_path):
    with pytest.raises(OptionError, match="is the top class, whichever it is: say top1"):
        Explainer("zoo:shapes-cnn").export(tmp_path / "x.onnx", form=Form(fixed_class=-1))
    assert not (tmp_path / "x.onnx").exists()


def test_no_more_names_are_kept_than_there_are_classes(tmp_path):
    ex = Explainer("zoo:shapes-cnn", labels=[f"n{k}" for k in range(1000)])
    assert json.loads(ex.export(tmp_path / "x.onnx").model.meta["onnxcam/labels"]) == [f"n{k}" for k in range(7)]
