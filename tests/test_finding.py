"""What is written down of methods of many runs, how many sessions are kept, and settings that would mislead."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from builders import classifier, write
from small import picture, saved

from onnxcam import Explainer, load_model
from onnxcam.errors import ModelError, OptionError
from onnxcam.image import read_image
from onnxcam.record import _best
from onnxcam.targets import Custom
from onnxcam.zoo import samples

MODEL = "zoo:shapes-cnn"
SCENE = samples("shapes-cnn")[4]


def test_guided_grad_cam_is_a_product_with_the_rectified_map_however_it_is_shown():
    plain = Explainer(MODEL, method="guided_gradcam").explain(SCENE, "star").attribution
    for shown in ("none", "minmax", "percentile"):
        e = Explainer(MODEL, method="guided_gradcam", normalize=shown).explain(SCENE, "star")
        np.testing.assert_array_equal(e.attribution, plain)


def test_the_raw_map_of_several_views_is_their_mean_and_the_pictures_follow():
    smoothed = Explainer(MODEL, smooth="aug").explain(SCENE, "star")
    plain = Explainer(MODEL)
    x = plain.preprocess.apply(read_image(SCENE), plain.spec)[0]
    views = []
    for factor in (0.9, 1.0, 1.1):
        views.append(plain.explain_tensor((x * factor).astype(np.float32), "star")[0].cam)
        views.append(plain.explain_tensor((x[..., ::-1] * factor).astype(np.float32), "star")[0].cam[:, ::-1])
    np.testing.assert_allclose(smoothed.cam, np.mean(views, axis=0), atol=1e-5)
    assert np.abs(smoothed.recipe("hook").astype(int) - plain.explain(SCENE, "star").recipe("hook")).max() > 1


def test_raw_pictures_of_fused_layers_are_refused_and_of_each_are_not():
    e = Explainer(MODEL, target_layer=["stage1", "auto"], fuse="max").explain(SCENE, "star")
    for draw in (lambda one: one.recipe("hook"), lambda one: one.signed_overlay()):
        with pytest.raises(OptionError, match=r"no common scale.*per_layer"):
            draw(e)
        for one in e.per_layer():
            draw(one)


def test_a_procedure_s_record_tells_the_engine_that_it_used():
    assert Explainer(MODEL, method="rise", budget=8).explain(SCENE).engine == ""
    assert Explainer(MODEL, method="integrated_gradients", budget=2).explain(SCENE).engine == "portable"


@pytest.mark.real
def test_a_procedure_on_a_quantised_network_says_so(real_zoo):
    path = real_zoo / "models" / "mobilenetv2_int8_qdq_nhwc_u8.onnx"
    e = Explainer(path, method="integrated_gradients", budget=1).explain(real_zoo / "photos" / "zebra.jpg")
    assert any("quantised network is differentiated" in n for n in e.notes)
    assert not any("differentiated" in n for n in Explainer(path, method="rise", budget=2).explain(
        real_zoo / "photos" / "zebra.jpg").notes)  # fmt: skip


def test_sessions_do_not_pile_up():
    explainer = Explainer(MODEL)
    for c in range(20):
        explainer.explain(SCENE, Custom(lambda xp, out, c=c: out["logits"][:, c % 7] * float(c + 1)))
    assert len(explainer.programs.built) <= 12
    assert explainer.explain(SCENE, "star").label == "star"


@pytest.mark.parametrize(
    ("settings", "say"),
    [
        ({"method": "reciprocam", "options": {"gaussian": "False"}}, "gaussian='False': give true or false"),
        ({"method": "rise", "options": {"seed": -1}}, "seed=-1: give a whole number, not below 0"),
        ({"method": "smoothgrad", "options": {"noise": -0.5}}, "noise=-0.5: give a number, not below 0"),
        ({"batch": 0}, "batch=0"),
    ],
)
def test_settings_that_would_mislead_are_refused(settings, say):
    with pytest.raises(OptionError, match=say):
        Explainer(MODEL, **settings)


def test_a_fixed_batch_that_a_resize_holds_is_run_one_by_one(tmp_path):
    """A Resize to sizes names the batch among them."""
    body = """(float[1,3,16,16] x) => (float[1,4] z) {
        a = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w)
        r = Relu (a)
        up = Resize <mode="nearest"> (r, , , sizes)
        p = GlobalAveragePool (up)
        f = Flatten (p)
        z = MatMul (f, v)
    }"""
    path = saved(tmp_path / "m.onnx", body, w=(6, 3, 3, 3), v=(6, 4), sizes=np.array([1, 6, 12, 12]))
    free = body.replace("float[1,", "float[N,").replace("up = Resize <mode=\"nearest\"> (r, , , sizes)",
                                              "up = Resize <mode=\"nearest\"> (r, , scales)")  # fmt: skip
    other = saved(tmp_path / "f.onnx", free, w=(6, 3, 3, 3), v=(6, 4), scales=np.array([1, 1, 1.5, 1.5], np.float32))
    for method in ("scorecam", "occlusion"):
        a, b = (Explainer(p, preprocess="unit", method=method).explain_tensor(picture())[0] for p in (path, other))
        np.testing.assert_allclose(a.cam, b.cam, atol=1e-5)


def test_attributions_take_one_row_of_further_inputs_per_sample():
    explainer = Explainer("zoo:shapes-vqa", inputs={"question": np.array([[5, 6, 3, 17], [5, 6, 3, 14]])})
    x = np.random.default_rng(0).random((2, 3, 112, 112), dtype=np.float32)
    found = explainer.attributions(x, np.array([1, 1]))
    for k in range(2):
        alone = explainer.explain_tensor(x[k : k + 1], 1, {"question": explainer.inputs["question"][k : k + 1]})[0]
        np.testing.assert_allclose(found[k, 0], alone.heatmap, atol=1e-6)


def test_quantus_gets_the_weights_as_they_are_now(tmp_path):
    """Its sanity checks change a model in place; here the file behind a path."""
    from onnxcam.frameworks import quantus_explainer

    explain, x = quantus_explainer("saliency"), picture(size=12)
    first = explain(str(write(tmp_path / "m.onnx", classifier())), x, [1])
    proto = classifier()
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(-2 * onnx.numpy_helper.to_array(tensor), tensor.name))
    second = explain(str(write(tmp_path / "m.onnx", proto)), x, [1])
    assert first.shape == second.shape == (1, 3, 12, 12)
    assert np.abs(first - second).max() > 0.1 * np.abs(first).max()


def test_attention_methods_take_scores_of_classes(tmp_path):
    from transformers import ViT

    path = write(tmp_path / "vit.onnx", ViT().proto())
    explainer = Explainer(path, method="legrad", preprocess="unit")
    image = explainer.model.image_input
    x = np.random.default_rng(0).random((1, image.channels, image.height, image.width), dtype=np.float32)
    with pytest.raises(OptionError, match="score of a class, which they ask of every block"):
        explainer.explain_tensor(x, "element:1")
    assert explainer.explain_tensor(x, 1)[0].heatmap.any()


def test_an_element_of_a_fixed_batch_is_explained(tmp_path):
    """Its class index is a constant, which is an output as any other."""
    body = """(float[1,3,16,16] x) => (float[1,4] z) {
        a = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w)
        r = Relu (a)
        p = GlobalAveragePool (r)
        f = Flatten (p)
        z = MatMul (f, v)
    }"""
    path = saved(tmp_path / "m.onnx", body, w=(6, 3, 3, 3), v=(6, 4))
    for method in ("gradcam", "rise", "ablationcam"):
        options = {"budget": 8} if method == "rise" else {}
        maps = [
            Explainer(path, preprocess="unit", method=method, **options).explain_tensor(picture(), t)[0]
            for t in ("element:2", "logit:2")
        ]
        np.testing.assert_allclose(maps[0].cam, maps[1].cam, atol=1e-6)
        assert (maps[0].class_index, maps[1].class_index) == (-1, 2)


def test_a_map_of_nothing_but_negative_values_is_told_so():
    from onnxcam import BlackBox

    picture_of_noise = np.random.default_rng(0).integers(50, 250, (16, 16, 3), dtype=np.uint8)
    box = BlackBox(lambda p: -p.mean((1, 2, 3)), method="occlusion", options={"fill": "zero"})
    e = box.explain(picture_of_noise, 0)
    assert e.is_blank
    assert e.cam.max() < 0
    assert any("all that it holds is negative" in n and "counterfactual" in n for n in e.notes)


@pytest.mark.parametrize(
    ("settings", "say"),
    [
        ({"method": "integrated_gradients", "options": {"rule": 3, "steps": 2}}, "cannot run with rule=3"),
        ({"method": "occlusion", "options": {"window": []}}, r"cannot run with window=\[\]"),
    ],
)
def test_options_that_a_procedure_chokes_on_are_named(settings, say):
    with pytest.raises(OptionError, match=say):
        Explainer(MODEL, **settings).explain(SCENE)


def test_rows_that_make_no_sense_are_refused():
    from onnxcam import Method

    for given, say in (
        ({"needs": ("layer",)}, "needs either a formula"),
        ({"terms": lambda xp, A: A}, "has a formula at a layer"),
        ({"terms": lambda xp, A: A, "needs": ("layer", "luck")}, "needs 'luck'; known: layer"),
    ):
        with pytest.raises(OptionError, match=say):
            Method("mine", "Mine", "", (), **given)


def test_budget_and_its_option_at_once_are_refused():
    with pytest.raises(OptionError, match="samples=9 and budget=5 set the same"):
        Explainer(MODEL, method="rise", options={"samples": 9}, budget=5)
    with pytest.raises(OptionError, match="a sum needs classes"):
        Explainer(MODEL).explain(SCENE, "sum:")


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([1, 5, 2, 5, 3, 4], [1, 3, 5, 4, 2]),
        ([0, 7, 7, 7, 7, 7, 7, 9], [7, 1, 2, 3, 4]),  # six share the places that are left: the first four
        ([2, 2, 2, 2, 2, 2, 2], [0, 1, 2, 3, 4]),
        ([3, 9, 3], [1, 0, 2]),
        ([4], [0]),
        ([-0.0, 0.0, -1, -2, -3, 0.0], [0, 1, 5, 2, 3]),
    ],
)
def test_of_equal_scores_the_first_class_comes_first(scores, best):
    assert _best(np.array(scores, np.float32)).tolist() == best


def test_more_samples_than_a_fixed_batch_take_several_runs(tmp_path):
    free = Explainer(MODEL)
    fixed = free.model.clone()
    for each in (*fixed.inputs, *fixed.outputs):
        each.shape = ir.Shape([2, *list(each.shape)[1:]])
    pairs = Explainer(load_model(fixed.save(tmp_path / "two.onnx")))
    scenes = samples("shapes-cnn")[:5]
    x = np.concatenate([free.preprocess.apply(read_image(s), free.spec)[0] for s in scenes])
    found = pairs.explain_tensor(x, 2)
    assert len(found) == 5
    for k, e in enumerate(found):
        (alone,) = free.explain_tensor(x[k : k + 1], 2)
        assert e.score == pytest.approx(alone.score, abs=1e-4)
        np.testing.assert_allclose(e.cam, alone.cam, atol=1e-5)


def test_threads_that_ask_at_once_share_one_session():
    explainer = Explainer(MODEL)
    x = explainer.preprocess.apply(read_image(SCENE), explainer.spec)[0]
    made, start, found = [], threading.Barrier(4), []
    new_session = explainer.programs._new_session
    explainer.programs._new_session = lambda model: made.append(1) or new_session(model)

    def work():
        start.wait()
        found.extend(explainer.explain_tensor(x))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len({e.heatmap.tobytes() for e in found}) == 1
    assert len(found) == 4


def test_a_gradient_of_another_shape_than_its_layer_is_the_files_fault(monkeypatch):
    """As of a damaged file whose noted shapes are wrong."""
    explainer = Explainer(MODEL)
    run = explainer.programs.run

    def contradictory(*given):
        answers, program = run(*given)
        return {k: v[:, :8, 0, 0] if k.startswith("G/") else v for k, v in answers.items()}, program

    monkeypatch.setattr(explainer.programs, "run", contradictory)
    with pytest.raises(ModelError, match=r"is \(1, 64, 14, 14\), and its gradient \(1, 8\); the shapes that are noted"):
        explainer.explain(SCENE)
