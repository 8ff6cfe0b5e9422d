"""Sanity checks: which weights are drawn and how, what is compared, and what the numbers are called in words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import _conv, classifier, model, value, weights, write
from onnx import TensorProto, helper, numpy_helper
from recipes import recipe
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from small import saved

from onnxcam import Explainer, Method, load_model
from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.evaluate.reweigh import randomised, shifted, weighted_layers
from onnxcam.evaluate.sanity import (
    Curve,
    input_shift,
    label_contrast,
    randomisation,
    similarity,
    ssim,
    stability,
    verdict,
)
from onnxcam.graph.inspect import find_logits
from onnxcam.runtime import Session
from onnxcam.zoo import locate

pytestmark = pytest.mark.anyruntime


def layers_of(source):
    opened = load_model(source)
    return opened, weighted_layers(opened, find_logits(opened))


def held(opened):
    return {n: v.const_value.numpy() for n, v in opened.graph.initializers.items() if v.const_value is not None}


def pictures(count, size=12, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


# ---- which weights ----


def test_layers_come_from_the_logits_down_with_their_normalisations():
    _, found = layers_of(locate("zoo:shapes-net-jax"))
    assert [layer.name for layer in found] == [
        "node_Gemm_65", "node_Conv_58", "node_Conv_51", "node_Conv_43", "node_Conv_37", "node_Conv_27", "node_Conv_19",
        "node_Conv_12", "node_Conv_1",
    ]  # fmt: skip
    assert (found[0].weights, found[0].fresh) == (["const_40", "const_41"], {})
    assert found[1].weights == ["kernel_oih_7"]
    assert found[1].fresh == {"const_36": 1.0, "const_37": 0.0, "const_38": 0.0, "const_39": 1.0}


def test_what_is_added_right_behind_belongs_and_what_is_a_convention_does_not(tmp_path):
    body = """(float[N,3,8,8] image) => (float[N,4] logits) {
        plain = Sub(image, mean)
        conv = Conv(plain, w)
        sum = Add(conv, bias)
        half = Mul(sum, two)
        act = Relu(half)
        later = Add(act, offset)
        again = Conv(later, w)
        pooled = GlobalAveragePool(again)
        flat = Flatten(pooled)
        product = MatMul(flat, head)
        logits = Add(product, shift)
    }"""
    sizes = {"w": (3, 3, 1, 1), "bias": (1, 3, 1, 1), "offset": (1, 3, 1, 1), "mean": (1, 3, 1, 1), "head": (3, 4)}
    _, found = layers_of(saved(tmp_path / "m.onnx", body, **sizes, shift=(4,), two=np.float32(2)))
    assert [layer.weights for layer in found] == [
        ["head", "shift"],
        ["w"],
        ["bias"],
    ]  # w: of the layer nearer the logits


def test_a_normalisation_before_the_next_layer_belongs_to_the_last():
    """Pre-activation networks: Conv, then elsewhere BatchNormalization."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], "one"),
        helper.make_node("Add", ["a", "image"], ["b"]),
        helper.make_node("BatchNormalization", ["b", "s", "o", "m", "v"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["d"], "two"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["logits"]),
    ]
    kernel = np.random.default_rng(0).random((2, 3, 3, 1, 1)).astype(np.float32)
    arrays = {"w": kernel[0], "w2": kernel[1], **{k: np.full(3, 7, np.float32) for k in "somv"}}
    proto = model(nodes, [value("image", ["n", 3, 8, 8])], [value("logits", ["n", 3])], arrays)
    opened, found = layers_of(proto.SerializeToString())
    assert [(layer.name, layer.weights) for layer in found] == [("two", ["w2"]), ("one", ["w"])]
    after = held(randomised(opened, found))
    assert {k: set(after[k]) for k in "somv"} == {"s": {1.0}, "o": {0.0}, "m": {0.0}, "v": {1.0}}


def test_new_weights_have_the_mean_and_spread_of_the_old_ones():
    proto = classifier()
    rng = np.random.default_rng(1)
    arrays = weights() | {"w2": rng.normal(3, 0.1, (60, 6, 3, 3)), "wd": rng.normal(-2, 5, (60, 400))}
    arrays |= {"b2": rng.normal(0, 1, 60), "bd": np.full(400, 0.5)}
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), k) for k, a in arrays.items())
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 400
    opened, found = layers_of(proto.SerializeToString())
    before, after = held(opened), held(randomised(opened, found, seed=3))
    assert after["w2"].mean() == pytest.approx(3, abs=0.01)
    assert after["w2"].std() == pytest.approx(0.1, abs=0.005)
    assert after["wd"].mean() == pytest.approx(-2, abs=0.15)
    assert after["wd"].std() == pytest.approx(5, abs=0.15)
    assert abs(np.corrcoef(before["w2"].ravel(), after["w2"].ravel())[0, 1]) < 0.1
    np.testing.assert_array_equal(after["bd"], before["bd"])  # no spread, no change
    np.testing.assert_array_equal(held(opened)["w2"], arrays["w2"].astype(np.float32))  # the given model stays


def test_one_seed_draws_a_layer_alike_whichever_others_are_drawn():
    opened, found = layers_of(classifier().SerializeToString())
    whole, top, other = (
        held(randomised(opened, part, seed)) for part, seed in ((found, 0), (found[:1], 0), (found, 1))
    )
    np.testing.assert_array_equal(whole["wd"], top["wd"])
    np.testing.assert_array_equal(top["w1"], held(opened)["w1"])
    assert not np.array_equal(whole["w1"], held(opened)["w1"])
    assert not np.array_equal(whole["w1"], other["w1"])
    one, two = (
        (whole[k].ravel()[:100] - a.mean()) / a.std() for k in ("w1", "w2") if (a := held(opened)[k]) is not None
    )
    assert not np.allclose(one, two, atol=0.1)  # each array has numbers of its own
    assert {k: a.tobytes() for k, a in held(randomised(opened, [])).items()} == {
        k: a.tobytes() for k, a in held(opened).items()
    }


def test_levels_of_quantised_weights_are_drawn_and_stay_levels():
    opened, found = layers_of(locate("zoo:shapes-net-int8-qdq"))
    assert len(found) == len(layers_of(locate("zoo:shapes-net-torchscript"))[1])
    after, before = held(randomised(opened, found)), held(opened)
    name = next(n for n in found[1].weights if before[n].ndim == 4)
    assert after[name].dtype == before[name].dtype == np.int8
    assert len(np.unique(after[name])) > 50
    assert np.mean(after[name] == before[name]) < 0.1
    answers = [
        Session(m).run({"image": np.zeros((1, 3, 112, 112), np.float32)})[0]
        for m in (opened, randomised(opened, found))
    ]
    assert not np.allclose(*answers)


# ---- how alike ----


def test_ssim_is_scikit_image_s():
    rng = np.random.default_rng(2)
    a = rng.random((20, 31)).astype(np.float32)
    b = np.clip(a + rng.normal(0, 0.2, a.shape), 0, 1).astype(np.float32)
    assert ssim(a, b) == pytest.approx(structural_similarity(a.astype(float), b.astype(float), data_range=1), abs=1e-12)
    assert ssim(a, a) == pytest.approx(1)
    with pytest.raises(OptionError, match="at least 7 across"):
        ssim(a[:5], b[:5])


def maps_of(opened, x, classes):
    """Grad-CAM of `builders.classifier` before the ReLU, in plain NumPy, for each class."""
    w = {k: a.astype(np.float64) for k, a in held(opened).items() if a.dtype.kind == "f"}
    first = np.maximum(_conv(x.astype(np.float64), w["w1"], w["b1"]), 0)
    n, c, h, wide = first.shape
    second = np.maximum(_conv(first.reshape(n, c, h // 2, 2, wide // 2, 2).max((3, 5)), w["w2"], w["b2"]), 0)
    logits = second.mean((2, 3)) @ w["wd"] + w["bd"]
    chosen = logits.argmax(1) if classes is None else classes
    return np.einsum("nkhw,kn->nhw", second, w["wd"][:, chosen]), chosen


DRAWN = [("cascading", [(0,), (0, 1), (0, 1, 2)]), ("independent", [(0,), (1,), (2,)])]


@pytest.mark.parametrize(("mode", "rows"), DRAWN)
def test_the_curve_compares_maps_of_the_first_class_before_and_after(mode, rows, tmp_path):
    path = write(tmp_path / "m.onnx", classifier(seed=22))
    images = [p // d for p, d in zip(pictures(4), (1, 40, 1, 40), strict=True)]
    curve = randomisation(path, images, mode=mode, seeds=(0, 5), points=3, preprocess="unit")
    opened, found = layers_of(path)
    x = np.stack(images).transpose(0, 3, 1, 2) / 255
    before, classes = maps_of(opened, x, None)
    assert len(set(classes)) > 1
    for p, row in enumerate(rows):
        for s, seed in enumerate((0, 5)):
            after, _ = maps_of(randomised(opened, [found[k] for k in row], seed), x, classes)
            want = [
                (spearmanr(a.ravel(), b.ravel())[0], spearmanr(abs(a).ravel(), abs(b).ravel())[0])
                for a, b in zip(before, after, strict=True)
            ]
            np.testing.assert_allclose(curve.values[p, s, :, :2], want, atol=0.02)  # float32 may swap two ranks
    assert curve.layers == ("dense", "second", "first")
    assert curve.share == (pytest.approx((1 / 3, 2 / 3, 1)) if mode == "cascading" else pytest.approx((1 / 3,) * 3))
    each = curve.values[..., 0].mean(axis=1)
    assert [e.value for e in curve.estimates("signed")] == pytest.approx(list(each.mean(axis=1)))
    assert curve.estimates("ssim")[0].count == 4


def test_points_are_spread_from_the_logits_to_the_image():
    curve = randomisation("zoo:shapes-net-torchscript", [np.zeros((112, 112, 3), np.uint8)], seeds=(0,), points=3)
    assert curve.layers == ("/head/Gemm", "/narrow/narrow.0/Conv", "/stem/stem.0/Conv")
    assert curve.share == pytest.approx((1 / 9, 5 / 9, 1))


def test_where_drawing_changes_nothing_the_map_stays(tmp_path):
    """Weights without any spread are drawn as they were: the identity."""
    proto = classifier()
    constant = {k: np.full_like(a, 0.1 + abs(a.flat[0])) for k, a in weights().items()}
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(numpy_helper.from_array(a, k) for k, a in constant.items())
    for method in ("gradcam", "saliency"):
        curve = randomisation(write(tmp_path / "m.onnx", proto), pictures(2), method, seeds=(0,), preprocess="unit")
        assert curve.values.min() > 1 - 1e-12


def test_a_method_that_ignores_the_weights_is_caught(tmp_path):
    path = write(tmp_path / "m.onnx", classifier())
    edges = Method(
        "edges", "Edges", "|dx|", (), procedure=lambda probe: np.abs(np.diff(probe.x[0].sum(axis=0), axis=1, append=0)),
        gives="map",
    )  # fmt: skip
    curve = randomisation(path, pictures(3), edges, seeds=(0, 1), preprocess="unit")
    assert curve.values.min() > 1 - 1e-9
    assert "hardly falls" in verdict(curve)


def test_a_blank_map_has_changed():
    explainer = Explainer("zoo:shapes-net-torchscript")
    scene = recipe("scenes").render(11).image
    full, blank = explainer.explain(scene), explainer.explain_tensor(np.zeros((1, 3, 112, 112), np.float32))[0]
    object.__setattr__(blank, "maps", tuple(type(m)(m.layer, m.reason, 0 * m.cam, 0 * m.heatmap) for m in blank.maps))
    assert similarity(full, blank)[:2] == (0, 0)
    assert similarity(full, full) == pytest.approx((1, 1, 1))


def test_grad_cam_falls_at_once_and_guided_backprop_hardly_falls():
    scenes = [recipe("scenes").render(seed).image for seed in range(7_500_000, 7_500_004)]
    model, options = "zoo:shapes-net-torchscript", {"seeds": (0,), "points": 3, "threads": 1}
    gradcam, guided = (randomisation(model, scenes, m, **options) for m in ("gradcam", "guided_backprop"))
    assert "falls at once" in verdict(gradcam)
    assert "hardly falls" in verdict(guided)
    assert gradcam.estimates("signed")[0].value < 0.3
    assert guided.estimates("signed")[1].value > 0.7


def test_what_cannot_be_randomised_is_said(tmp_path):
    path = write(tmp_path / "m.onnx", classifier())
    with pytest.raises(UnknownNameError, match="cascading, independent"):
        randomisation(path, pictures(1), mode="cascade")
    with pytest.raises(OptionError, match="3 layers with weights, 0 pictures"):
        randomisation(path, [])
    with pytest.raises(UnknownNameError, match="signed, absolute, ssim"):
        Curve("gradcam", "cascading", ("a",), (1.0,), np.zeros((1, 1, 1, 3))).estimates("hog")


# ---- the class, a shift, noise ----


def test_label_contrast_of_known_heads(tmp_path):
    """Grad-CAM behind an average pool is linear in the head: a class of opposite weights has the opposite map."""
    arrays = weights(2)
    head = np.stack([arrays["wd"][:, 0], -arrays["wd"][:, 0], 3 * arrays["wd"][:, 0], arrays["wd"][:, 3]], axis=1)
    bias = np.asarray([9, 0, 0, 0], np.float32)  # the first is predicted
    proto = classifier(seed=2)
    for tensor in proto.graph.initializer:
        if tensor.name in ("wd", "bd"):
            tensor.CopyFrom(numpy_helper.from_array({"wd": head, "bd": bias}[tensor.name], tensor.name))
    path, images = write(tmp_path / "m.onnx", proto), pictures(2)
    found = label_contrast(Explainer(path, preprocess="unit"), images)
    before, _ = maps_of(load_model(path), np.stack(images).transpose(0, 3, 1, 2) / 255, np.zeros(2, int))
    last, _ = maps_of(load_model(path), np.stack(images).transpose(0, 3, 1, 2) / 255, np.full(2, 3))
    for row, a, b in zip(found, before, last, strict=True):
        assert sorted(row) == pytest.approx(sorted([-1, 1, spearmanr(a.ravel(), b.ravel())[0]]), abs=0.02)
    assert label_contrast(Explainer(path, preprocess="unit"), images, others=1).shape == (2, 1)


def test_a_shift_that_is_made_up_for_changes_no_answer(tmp_path):
    path = write(tmp_path / "m.onnx", classifier())
    opened = load_model(path)
    x = np.random.default_rng(0).random((2, 3, 12, 12), dtype=np.float32)
    other = shifted(opened, -0.7)
    plain, moved = (Session(m).run({"image": v})[0] for m, v in ((opened, x), (other, x - np.float32(0.7))))
    np.testing.assert_allclose(moved, plain, atol=1e-5)  # at the padded border too
    assert not np.allclose(Session(other).run({"image": x})[0], plain, atol=1e-2)


def test_gradients_stay_under_a_shift_and_products_with_the_input_move(tmp_path):
    path, images = write(tmp_path / "m.onnx", classifier(seed=3)), pictures(3)
    for method in ("gradcam", "saliency"):
        assert input_shift(path, images, method, preprocess="unit").max() < 1e-3
    found = input_shift(path, images, "input_x_gradient", shift=0.4, preprocess="unit")
    explainer = Explainer(path, method="saliency", preprocess="unit")
    for image, moved in zip(images, found, strict=True):
        gradient = explainer.explain(image).attribution
        product = (gradient * image.transpose(2, 0, 1) / 255).sum(axis=0)
        assert moved == pytest.approx(0.4 * abs(gradient.sum(axis=0)).max() / abs(product).max(), rel=1e-3)


def test_the_shift_is_the_range_unless_given(tmp_path):
    path, images = write(tmp_path / "m.onnx", classifier(seed=3)), [np.full((12, 12, 3), 51, np.uint8)]
    images[0][2, 3] = 255
    found, asked, other = (
        input_shift(path, images, "integrated_gradients", shift=s, preprocess="unit") for s in (None, -0.8, 0.8)
    )
    np.testing.assert_allclose(found, asked, rtol=1e-4)
    assert abs(other - asked) > 0.01  # the way from black is another one


def test_integers_are_not_shifted(tmp_path):
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "w"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    image = value("image", ["n", 3, 8, 8], TensorProto.UINT8)
    proto = model(nodes, [image], [value("logits", ["n", 2])], {"w": np.ones((2, 3, 3, 3), np.float32)})
    with pytest.raises(OptionError, match="takes floats"):
        input_shift(write(tmp_path / "m.onnx", proto), pictures(1, 8), preprocess="raw")


LINEAR = """(float[N,3,4,4] image) => (float[N,2] logits) {
    maps = Conv(image, w)
    flat = Flatten(maps)
    logits = Add(flat, bias)
}"""


def test_stability_of_a_linear_model_by_hand(tmp_path):
    """The gradient is the weights, whatever the image; its product with the image moves with the noise alone."""
    kernel = np.random.default_rng(5).standard_normal((2, 3, 4, 4)).astype(np.float32)
    path = saved(tmp_path / "m.onnx", LINEAR, w=kernel, bias=np.asarray([100, 0], np.float32))
    image = pictures(1, 4)[0]
    still = stability(Explainer(path, method="saliency", preprocess="unit"), [image])
    assert (still.largest[0], still.mean[0], still.kept[0]) == (0, 0, 10)
    found = stability(
        Explainer(path, method="input_x_gradient", preprocess="unit"), [image], radius=0.1, draws=6, seed=2
    )
    x = image.transpose(2, 0, 1) / 255
    noise = np.random.default_rng([2, 0]).uniform(-0.1, 0.1, (6, 3, 4, 4)) * (x.max() - x.min())
    moved = [np.linalg.norm((d * kernel[0]).sum(0)) / np.linalg.norm((x * kernel[0]).sum(0)) for d in noise]
    assert found.largest[0] == pytest.approx(max(moved), rel=1e-4)
    assert found.mean[0] == pytest.approx(np.mean(moved), rel=1e-4)


def test_draws_that_change_the_answer_do_not_count(tmp_path):
    kernel = np.random.default_rng(5).standard_normal((2, 3, 4, 4)).astype(np.float32)
    image = pictures(1, 4)[0]
    x = image.transpose(2, 0, 1) / 255
    scores = (kernel * x).sum((1, 2, 3))
    lead = np.asarray([scores[1] - scores[0] + 0.05, 0], np.float32)  # class 0 is ahead by 0.05
    path = saved(tmp_path / "m.onnx", LINEAR, w=kernel, bias=lead)
    explainer = Explainer(path, method="input_x_gradient", preprocess="unit")
    found = stability(explainer, [image], radius=0.1, draws=20)
    noise = np.random.default_rng([0, 0]).uniform(-0.1, 0.1, (20, 3, 4, 4)) * (x.max() - x.min())
    left = [d for d in noise if ((kernel[0] - kernel[1]) * d).sum() > -0.05]
    assert 0 < len(left) < 20
    assert found.kept[0] == len(left)
    moved = [np.linalg.norm((d * kernel[0]).sum(0)) / np.linalg.norm((x * kernel[0]).sum(0)) for d in left]
    assert found.largest[0] == pytest.approx(max(moved), rel=1e-4)
    blank = saved(tmp_path / "b.onnx", LINEAR, w=0 * kernel, bias=lead)
    assert math.isnan(stability(Explainer(blank, method="saliency", preprocess="unit"), [image]).mean[0])
    with pytest.raises(OptionError, match="radius=0"):
        stability(explainer, [image], radius=0)


# ---- words ----


def curve_of(signed, absolute=None, mode="cascading", method="gradcam"):
    values = np.zeros((len(signed), 2, 5, 3))
    values[..., 0] = np.asarray(signed)[:, None, None]
    values[..., 1] = np.asarray(absolute or [0] * len(signed))[:, None, None]
    share = [(k + 1) / len(signed) for k in range(len(signed))]
    return Curve(method, mode, tuple("abcdef"[: len(signed)]), tuple(share), values)


@pytest.mark.parametrize(
    ("signed", "said"),
    [
        ([0.1, 0.9, 0.4, 0.0], "hardly falls"),
        ([0.9, 0.6, 0.5, 0.0], "hardly falls"),
        ([0.9, 0.4, 0.0, 0.0], "falls slowly"),
        ([0.31, 0.1, 0.0, 0.0], "falls slowly"),
        ([0.3, 0.1, 0.0, 0.0], "falls at once"),
        ([-0.9, 0.1, 0.0, 0.0], "falls at once"),
    ],
)
def test_the_words_follow_the_numbers(signed, said):
    text = verdict(curve_of(signed))
    assert said in text
    assert f"Grad-CAM: with random weights in a alone the map has a rank correlation of {signed[0]:.2f}" in text
    assert sum(f"It {words}: " in text for words in ("hardly falls", "falls slowly", "falls at once")) == 1


def test_places_that_stay_are_said():
    assert "same places, other signs" in verdict(curve_of([0.0, 0, 0], [0.8, 0, 0]))
    assert "same places" not in verdict(curve_of([0.0, 0, 0], [0.4, 0.9, 0]))


@pytest.mark.parametrize(("first", "said"), [(0.1, "falls at once"), (0.9, "ask for more points")])
def test_one_point_tells_no_more_than_it_can(first, said):
    curve = Curve("gradcam", "cascading", ("a",), (0.1,), np.full((1, 1, 3, 3), first))
    assert said in verdict(curve)
    assert "hardly" not in verdict(curve)


def test_the_words_of_single_layers_name_the_extremes():
    text = verdict(curve_of([0.5, -0.2, 0.9], mode="independent"))
    assert "matters most at b (-0.20" in text
    assert "least at c (0.90" in text
