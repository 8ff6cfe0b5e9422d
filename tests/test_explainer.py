from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import replicas
from builders import classifier, plain_scores, value, write
from onnx import numpy_helper

from onnxcam import Explainer, zoo
from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.graph.surgery import expose
from onnxcam.image import read_image
from onnxcam.programs import Plan
from onnxcam.runtime import Session
from onnxcam.targets import Margin, Probability

MODEL = "zoo:shapes-cnn"


@pytest.fixture(scope="module")
def scene() -> Path:
    return zoo.samples("shapes-cnn")[0]


@pytest.fixture(scope="module")
def gradcam() -> Explainer:
    return Explainer(MODEL)


@pytest.fixture(scope="module")
def at_layer(gradcam: Explainer, scene: Path):
    """The tail of the model as a function, the activations it starts from, and the model's logits, for one scene."""
    x, _ = gradcam.preprocess.apply(read_image(scene), gradcam.spec)
    layer = gradcam.layers[0].value
    session = Session(expose(gradcam.model, [layer]))
    logits, activations = session.run({"image": x})
    return replicas.tail(gradcam.model, layer, "logits"), activations.astype(np.float64), logits[0]


@pytest.mark.parametrize(("method", "sign"), [("gradcam", 1), ("counterfactual", -1)])
@pytest.mark.parametrize("c", [0, 3, 6])
def test_raw_map_is_what_finite_differences_on_the_tail_give(at_layer, scene, method, sign, c):
    f, A, logits = at_layer
    e = Explainer(MODEL, method=method).explain(scene, target=c)
    assert replicas.relative(e.cam, sign * replicas.gradcam(f, A, c)) < 1e-4
    assert e.score == pytest.approx(logits[c], rel=1e-5)


def test_hirescam_is_what_finite_differences_give_where_the_tail_is_not_linear(scene):
    layer = "/stage2/stage2.0/stage2.0.0/Conv_output_0"
    ex = Explainer(MODEL, method="hirescam", target_layer=layer)
    x, _ = ex.preprocess.apply(read_image(scene), ex.spec)
    _, activations = Session(expose(ex.model, [layer])).run({"image": x})
    f = replicas.tail(ex.model, layer, "logits")
    pixels = [(2, 3), (7, 7), (10, 4)]
    e = ex.explain(scene, target=1)
    A = activations.astype(np.float64)
    for y, z in pixels:
        pixel = np.zeros_like(A)
        pixel[:, :, y, z] = A[:, :, y, z]
        assert e.cam[y, z] == pytest.approx(replicas.derivative(f, A, pixel, 1, 1e-6), rel=1e-3, abs=1e-6)
    assert replicas.relative(e.cam, Explainer(MODEL, target_layer=layer).explain(scene, target=1).cam) > 0.05


def test_the_heatmap_is_the_rectified_map_upsampled_and_divided_by_its_maximum(gradcam, scene):
    e = gradcam.explain(scene)
    rectified = np.maximum(e.cam, 0)
    size, n = 112, rectified.shape[0]
    up = np.zeros((n, size))  # bilinear with half-pixel centres, in plain loops
    for i in range(size):
        at = np.clip((i + 0.5) * n / size - 0.5, 0, n - 1)
        low = int(np.floor(at))
        up[low, i] += 1 - (at - low)
        up[min(low + 1, n - 1), i] += at - low
    want = up.T @ rectified @ up
    np.testing.assert_allclose(e.heatmap, want / want.max(), atol=2e-6)
    assert e.heatmap.max() == 1.0


def test_any_class_comes_from_the_same_session(gradcam, scene):
    by_index = gradcam.explain(scene, target=3)
    assert (by_index.class_index, by_index.label) == (3, "star")
    assert np.array_equal(by_index.cam, gradcam.explain(scene, target="Star").cam)
    assert len(gradcam.programs.built) == 1
    other = gradcam.explain(scene, target=0)
    assert np.corrcoef(by_index.cam.ravel(), other.cam.ravel())[0, 1] < 0.5


def test_top1_is_the_largest_logit(gradcam, scene, at_layer):
    logits = at_layer[2]
    e = gradcam.explain(scene)
    assert e.class_index == int(np.argmax(logits)) == e.top[0][0]
    assert [i for i, _, _ in e.top] == list(np.argsort(-logits)[:5])


def test_margin_is_the_difference_of_two_maps(gradcam, scene):
    a, b = gradcam.explain(scene, target=1), gradcam.explain(scene, target=5)
    margin = gradcam.explain(scene, target=Margin((1, 5)))
    np.testing.assert_allclose(margin.cam, a.cam - b.cam, atol=1e-5 * np.abs(a.cam).max())
    assert margin.score == pytest.approx(a.score - b.score, rel=1e-5)
    assert margin.target == "margin of square (1) over heart (5)"


def test_probability_weights_classes_by_softmax(gradcam, scene, at_layer):
    logits = at_layer[2].astype(np.float64)
    p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    cams = np.stack([gradcam.explain(scene, target=c).cam for c in range(7)])
    want = p[2] * (cams[2] - np.einsum("c,chw->hw", p, cams))
    e = gradcam.explain(scene, target=Probability((2,)))
    np.testing.assert_allclose(e.cam, want, atol=2e-5 * np.abs(want).max())
    assert e.score == pytest.approx(p[2], rel=1e-4)


def test_guided_gradcam_is_the_product_and_its_cam_is_grad_cam_bit_for_bit(gradcam, scene):
    guided = Explainer(MODEL, method="guided_gradcam").explain(scene, target=1)
    backprop = Explainer(MODEL, method="guided_backprop").explain(scene, target=1)
    plain = gradcam.explain(scene, target=1)
    assert np.array_equal(guided.cam, plain.cam)
    assert np.array_equal(guided.attribution, backprop.attribution * plain.heatmap)
    relus = sum(n.op_type == "Relu" for n in gradcam.model.graph)
    assert any(f"changed {relus} of {relus} activations" in note for note in guided.notes)


@pytest.mark.parametrize("method", ["saliency", "guided_backprop", "deconvnet"])
def test_pixel_maps_are_the_largest_channel(method, scene):
    e = Explainer(MODEL, method=method).explain(scene, target=1)
    assert e.attribution.shape == (3, 112, 112)
    raw = np.abs(e.attribution).max(axis=0)
    np.testing.assert_allclose(e.heatmap, raw / raw.max(), rtol=1e-6)


def test_saliency_is_the_derivative_of_the_logit():
    ex = Explainer(MODEL, method="saliency")
    rng = np.random.default_rng(0)
    x = rng.random((1, 3, 112, 112), dtype=np.float32)  # noise: a scene's flat areas tie in MaxPool
    e = ex.explain_tensor(x, target=1)[0]
    f = replicas.tail(ex.model, "image", "logits")
    direction = rng.standard_normal(x.shape)
    want = replicas.derivative(f, x.astype(np.float64), direction, 1, 1e-7)
    assert float((e.attribution * direction[0]).sum()) == pytest.approx(want, rel=1e-3)


def test_guided_methods_differ_from_the_gradient_as_their_definitions_say(scene):
    maps = {m: Explainer(MODEL, method=m).explain(scene, target=1).attribution for m in
            ("saliency", "guided_backprop", "deconvnet")}  # fmt: skip
    assert replicas.relative(maps["guided_backprop"], maps["saliency"]) > 0.1
    assert replicas.relative(maps["deconvnet"], maps["guided_backprop"]) > 0.1


def test_a_batch_gives_what_its_images_give(gradcam):
    scenes = zoo.samples("shapes-cnn")[:4]
    together = gradcam.explain_batch(scenes, target=2)
    for e, path in zip(together, scenes, strict=True):
        alone = gradcam.explain(path, target=2)
        np.testing.assert_allclose(e.cam, alone.cam, atol=1e-5)
        assert e.source == str(path)
        assert e.score == pytest.approx(alone.score, rel=1e-5)


def test_several_layers_give_one_map_each_or_fuse(scene):
    names = ["/stage2/stage2.2/relu/Relu_output_0", "/stage2/stage2.1/Relu"]
    e = Explainer(MODEL, target_layer=names).explain(scene, target=1)
    assert [m.layer for m in e.maps] == names
    singles = [Explainer(MODEL, target_layer=n).explain(scene, target=1) for n in names]
    for m, single in zip(e.maps, singles, strict=True):
        np.testing.assert_array_equal(m.heatmap, single.heatmap)
    assert [p.layer for p in e.per_layer()] == names
    fused = Explainer(MODEL, target_layer=names, fuse="max").explain(scene, target=1)
    np.testing.assert_array_equal(fused.heatmap, np.maximum(singles[0].heatmap, singles[1].heatmap))


def test_a_module_scope_names_a_layer(gradcam, scene):
    e = Explainer(MODEL, target_layer="stage2").explain(scene, target=1)
    assert np.array_equal(e.cam, gradcam.explain(scene, target=1).cam)
    assert e.layer == "stage2"


def test_tensors_are_explained_as_pictures_are(gradcam, scene):
    x, _ = gradcam.preprocess.apply(read_image(scene), gradcam.spec)
    two = gradcam.explain_tensor(np.concatenate([x, x * 0.5]), target=4)
    assert np.array_equal(two[0].cam, gradcam.explain_batch([scene, scene], target=4)[0].cam)
    assert replicas.relative(two[1].cam, two[0].cam) > 1e-3
    with pytest.raises(OptionError, match="lay the map over"):
        two[0].overlay()


@pytest.mark.parametrize(
    ("x", "say"),
    [
        (np.zeros((1, 3, 100, 112), np.float32), r"takes float32 \(any, 3, 112, 112\), NCHW"),
        (np.zeros((1, 3, 112, 112), np.float64), "is float64"),
        (np.zeros((3, 112, 112), np.float32), "the tensor is"),
        (np.zeros((0, 3, 112, 112), np.float32), "the tensor is"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(gradcam, x, say):
    with pytest.raises(OptionError, match=say):
        gradcam.explain_tensor(x)


@pytest.mark.parametrize(
    ("settings", "say"),
    [
        ({"method": "gradcm"}, "did you mean 'gradcam'"),
        ({"engine": "portabel"}, "did you mean 'portable'"),
        ({"target_layer": "/stage2/stage2.2/relu/Relu_output_1"}, "did you mean '/stage2/stage2.2/relu/Relu_output_0'"),
        ({"output": "logit"}, "did you mean 'logits'"),
        ({"preprocess": "imagnet"}, "did you mean 'imagenet'"),
        ({"fuse": "min"}, "known: max, mean"),
    ],
)
def test_unknown_names_offer_the_closest(settings, say):
    with pytest.raises(UnknownNameError, match=say):
        Explainer(MODEL, **settings)


@pytest.mark.parametrize(
    ("target", "say"),
    [
        (7, "0 to 6"),
        (-2, "0 to 6"),
        ("margin:1", "needs two classes"),
        ("margin:1,1", "needs two classes"),
        ("probability:1,2", "takes one class"),
        (1.5, "not 1.5"),
    ],
)
def test_targets_out_of_range_are_refused(gradcam, scene, target, say):
    with pytest.raises(OptionError, match=say):
        gradcam.explain(scene, target=target)


def test_a_label_that_is_not_there_offers_the_closest(gradcam, scene):
    with pytest.raises(UnknownNameError, match="did you mean 'heart'"):
        gradcam.explain(scene, target="hart")


@pytest.mark.parametrize("name", ["/Flatten_output_0", "image", "/pool/GlobalAveragePool_output_0", "logits"])
def test_a_layer_that_is_no_map_is_refused(name):
    with pytest.raises(OptionError, match="needs a float map"):
        Explainer(MODEL, target_layer=name)


def test_a_weight_is_no_layer(gradcam):
    weight = next(n for n, v in gradcam.model.graph.initializers.items() if v.shape is not None and len(v.shape) == 4)
    with pytest.raises(OptionError, match="needs a float map"):
        Explainer(MODEL, target_layer=weight)


@pytest.mark.parametrize(
    ("settings", "say"),
    [
        ({"method": "saliency", "target_layer": "stage2"}, "has no target layer"),
        ({"method": "saliency", "fuse": "max"}, "has no target layer"),
        ({"fuse": "max"}, "joins the maps of several layers"),
        ({"method": "guided_gradcam", "target_layer": ["stage1", "stage2"]}, "multiplies one map"),
        ({"threads": 99999}, "give 1 to 1024"),
        ({"normalize": "nothing"}, "unknown normalization"),
    ],
)
def test_settings_without_effect_are_refused(scene, settings, say):
    with pytest.raises((OptionError, UnknownNameError), match=say):
        Explainer(MODEL, **settings).explain(scene)


def test_a_fused_map_is_what_is_drawn(scene, tmp_path):
    from onnxcam.image import read_image

    e = Explainer(MODEL, target_layer=["stage1", "stage2"], fuse="mean").explain(scene)
    files = e.save(tmp_path)
    assert [k for k in files if k.startswith("overlay")] == ["overlay"]
    np.testing.assert_array_equal(read_image(files["overlay"])[-224:], e.overlay())
    apart = Explainer(MODEL, target_layer=["stage1", "stage2"]).explain(scene).save(tmp_path, "apart")
    assert [k for k in apart if k.startswith("overlay")] == ["overlay", "overlay.2"]


def test_independent_classes_have_independent_probabilities(gradcam, scene, tmp_path):
    import onnx_ir as ir

    from onnxcam import load_model

    edited = gradcam.model.clone()
    node = ir.Node("", "Sigmoid", [edited.values["logits"]])
    edited.graph.append(node)
    node.outputs[0].name, node.outputs[0].type = "p", ir.TensorType(ir.DataType.FLOAT)
    node.outputs[0].shape = ir.Shape(["N", 7])
    edited.graph.outputs[:] = [node.outputs[0]]
    e = Explainer(load_model(edited.save(tmp_path / "s.onnx"))).explain(scene, target="probability:1")
    logit = gradcam.explain(scene, target=1)
    assert e.score == pytest.approx(e.probability, rel=1e-5)
    np.testing.assert_allclose(e.cam, logit.cam * e.score * (1 - e.score), atol=1e-5 * np.abs(logit.cam).max())


def test_a_blank_counterfactual_is_flagged_and_a_margin_offered():
    black = np.zeros((112, 112, 3), np.uint8)
    ex = Explainer(MODEL, method="counterfactual")
    found = [ex.explain(black, target=c) for c in range(7)]
    blank = [e for e in found if e.cam.max() <= 0]
    for e in blank:
        assert e.is_blank
        assert not e.heatmap.any()
        assert any("margin" in n for n in e.notes)
    never = Explainer(MODEL, normalize="max").explain_tensor(np.zeros((1, 3, 112, 112), np.float32), 0)[0]
    assert never.is_blank == (never.cam.max() <= 0)


def test_the_original_outputs_do_not_change(gradcam, scene):
    x, _ = gradcam.preprocess.apply(read_image(scene), gradcam.spec)
    target = Margin((0, 1))
    feeds = {"image": x, **target.feeds(1)}
    program = gradcam.programs.get(target, Plan(wrt=(gradcam.layers[0].value,)), lambda: feeds)
    np.testing.assert_array_equal(
        program.session.run(feeds, ["logits"])[0], Session(gradcam.model).run({"image": x})[0]
    )


@pytest.mark.training
@pytest.mark.parametrize("proven", [True, False])
def test_the_training_engine_explains_alike_wherever_it_runs(gradcam, scene, monkeypatch, proven):
    """Kernels that are not known to be sound run in a process of their own."""
    from onnxcam.gradients import training
    from onnxcam.isolation import Worker

    if why := training.why_not([]):
        pytest.skip(f"no training engine: {why}")
    begun, ready = [], Worker.ready
    monkeypatch.setattr(Worker, "ready", lambda self: (begun.append(self), ready(self))[1])
    if not proven:
        monkeypatch.setattr(training, "PROVEN", frozenset())
    e = Explainer(MODEL, engine="training").explain(scene, target=1)
    assert replicas.relative(e.cam, gradcam.explain(scene, target=1).cam) < 1e-5
    assert e.engine == "training"
    assert bool(begun) is not proven


def test_a_fixed_batch_is_filled_up_and_the_filling_dropped(gradcam, tmp_path):
    import onnx_ir as ir

    from onnxcam import load_model

    fixed = gradcam.model.clone()
    for each in (*fixed.inputs, *fixed.outputs):
        each.shape = ir.Shape([2, *list(each.shape)[1:]])
    ex = Explainer(load_model(fixed.save(tmp_path / "two.onnx")))
    assert ex.model.image_input.batch == 2
    scenes = zoo.samples("shapes-cnn")[:3]
    for e, path in zip(ex.explain_batch(scenes, target=2), scenes, strict=True):
        np.testing.assert_allclose(e.cam, gradcam.explain(path, target=2).cam, atol=1e-5)
    assert len(ex.explain_batch(scenes)) == 3


def test_an_input_that_nothing_reads_is_no_hindrance(tmp_path):
    proto = classifier()
    proto.graph.input.insert(0, value("left/over:0", ["n", 3, 4, 4]))
    path, x = write(tmp_path / "m.onnx", proto), np.random.default_rng(0).normal(size=(1, 3, 12, 12)).astype(np.float32)
    (found,) = Explainer(path, method="saliency").explain_tensor(x)
    (plain,) = Explainer(write(tmp_path / "p.onnx", classifier()), method="saliency").explain_tensor(x)
    np.testing.assert_array_equal(found.attribution, plain.attribution)


def test_an_output_that_is_no_row_per_picture_tells_no_probability(tmp_path):
    """Its axis of pictures is squeezed away, so that nothing says whose probabilities they are."""
    proto = classifier()
    proto.graph.node.add(op_type="Softmax", input=["logits"], output=["p"])
    proto.graph.node.add(op_type="Reshape", input=["p", "line"], output=["squeezed"])
    proto.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "line"))
    del proto.graph.output[:]
    proto.graph.output.append(value("squeezed", None))
    explainer = Explainer(write(tmp_path / "model.onnx", proto), preprocess="unit")
    picture = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    e = explainer.explain(picture, target=2)
    scores = plain_scores(proto, explainer.prepare(picture).tensor)[0]
    assert (e.probability, e.score) == (None, pytest.approx(scores[2], rel=1e-5))
