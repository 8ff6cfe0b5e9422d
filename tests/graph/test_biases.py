"""Bias sites: which there are, and that with the image they make up the whole score."""

from __future__ import annotations

from pathlib import Path

import builders
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxcam import Explainer
from onnxcam.core.fullgrad import fullgrad
from onnxcam.graph.biases import bias_sites
from onnxcam.graph.inspect import find_logits
from onnxcam.graph.paths import first_float
from onnxcam.model import load_model
from onnxcam.probe import ModelProbe
from onnxcam.programs import Plan, Programs
from onnxcam.runtime import Session
from onnxcam.targets import as_target

RNG = np.random.default_rng(5)


def opened(folder: Path, proto: onnx.ModelProto):
    model = load_model(builders.write(folder / "model.onnx", proto))
    return model, find_logits(model)


def decomposition(model, logits, x, c=0):
    """(score, sum over the image, [sum of each site]), in float64."""
    programs, target = Programs(model, logits, Session), as_target(c, None, logits.classes)
    sites, image = bias_sites(model, logits), first_float(model.values[model.image_input.name])
    names = (str(image.name), *(s.value for s in sites))
    answers = programs.get(target, Plan(names, names), dict).run({model.image_input.name: x, **target.feeds(len(x))})
    wide = {k: np.asarray(v, np.float64) for k, v in answers.items()}
    slopes = [np.broadcast_to(wide[f"G/{n}"], wide[f"A/{n}"].shape) for n in names]
    terms = [np.sum(g * b) for g, b in zip(slopes, [wide[f"A/{image.name}"], *(s.bias for s in sites)], strict=True)]
    return wide["score"][0, 0], terms[0], terms[1:]


def node(op_type, inputs, output, **attributes):
    return helper.make_node(op_type, inputs.split(), [output], f"n_{output}", **attributes)


def rich():
    """Each way in which a graph adds a constant, between ReLUs, pools and a residual sum."""
    arrays = {
        "mean": np.full((1, 3, 1, 1), 0.4),
        "w1": RNG.normal(size=(4, 3, 3, 3)) / 3,
        "b1": RNG.normal(size=4),
        "scale": RNG.normal(size=4) + 1,
        "beta": RNG.normal(size=4),
        "mu": RNG.normal(size=4),
        "var": RNG.uniform(0.5, 2, size=4),
        "w2": RNG.normal(size=(4, 4, 1, 1)),
        "zero": np.zeros(4),
        "b2": RNG.normal(size=4),
        "w3": RNG.normal(size=(4, 5, 2, 2)) / 2,
        "b3": RNG.normal(size=5),
        "half": np.full(1, 0.5),
        "there": RNG.normal(size=(1, 1, 8, 8)),
        "away": RNG.normal(size=(1, 5, 1, 1)),
        "w4": RNG.normal(size=(5, 6)),
        "b4": RNG.normal(size=6),
        "from": RNG.normal(size=6),
        "w5": RNG.normal(size=(6, 3)),
        "b5": RNG.normal(size=(1, 3)),
    }
    nodes = [
        node("Sub", "image mean", "centred"),
        node("Conv", "centred w1 b1", "conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "conv scale beta mu var", "normal", epsilon=1e-3),
        node("Relu", "normal", "relu"),
        node("Conv", "relu w2 zero", "bare"),
        node("Transpose", "bare", "last", perm=[0, 2, 3, 1]),
        node("Add", "last b2", "added"),
        node("Transpose", "added", "first", perm=[0, 3, 1, 2]),
        node("Add", "first relu", "residual"),
        node("MaxPool", "residual", "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("ConvTranspose", "pool w3 b3", "up", strides=[2, 2]),
        node("Sum", "there up half", "placed"),
        node("LeakyRelu", "placed", "leaky"),
        node("Sub", "leaky away", "less"),
        node("GlobalAveragePool", "less", "gap"),
        node("Flatten", "gap", "flat"),
        node("MatMul", "flat w4", "product"),
        node("Add", "b4 product", "dense"),
        node("Relu", "dense", "hidden"),
        node("Sub", "from hidden", "turned"),
        node("Gemm", "turned w5 b5", "logits", beta=0.5),
    ]
    return builders.model(
        nodes,
        [builders.value("image", ["n", 3, 8, 8])],
        [builders.value("logits", ["n", 3])],
        {k: v.astype(np.float32) for k, v in arrays.items()},
    ), arrays


EXPECTED = {
    "centred": (None, lambda a: -a["mean"].ravel()),
    "conv": ("NCHW", lambda a: a["b1"]),
    "normal": ("NCHW", lambda a: a["beta"] - a["mu"] * a["scale"] / (a["var"] + 1e-3) ** 0.5),
    "added": ("NHWC", lambda a: a["b2"]),
    "up": ("NCHW", lambda a: a["b3"]),
    "placed": (None, lambda a: a["there"].ravel() + 0.5),
    "less": (None, lambda a: -a["away"].ravel()),
    "dense": (None, lambda a: a["b4"]),
    "turned": (None, lambda a: a["from"]),
    "logits": (None, lambda a: a["b5"].ravel() / 2),
}


def test_every_constant_is_found_with_its_value_and_place(tmp_path):
    proto, arrays = rich()
    sites = {s.value: s for s in bias_sites(*opened(tmp_path, proto))}
    assert list(sites) == list(EXPECTED)
    for name, (layout, bias) in EXPECTED.items():
        np.testing.assert_allclose(sites[name].bias.ravel(), bias(arrays), rtol=1e-5, atol=1e-6)
        assert sites[name].layout == layout, name
    assert sites["normal"].reason == "the implicit bias of BatchNormalization n_normal"


@pytest.mark.parametrize("c", [0, 2])
def test_image_and_biases_make_up_the_score(tmp_path, c):
    model, logits = opened(tmp_path, rich()[0])
    x = RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)
    score, image, biases = decomposition(model, logits, x, c)
    assert image + sum(biases) == pytest.approx(score, rel=1e-4)
    assert all(abs(b) > 1e-3 * abs(score) for b in biases), "a term that is 0 proves nothing"


def test_the_classifier_of_plain_loops_is_complete(tmp_path):
    proto = builders.classifier()
    x = RNG.normal(size=(1, 3, 12, 12)).astype(np.float32)
    model, logits = opened(tmp_path, proto)
    _, image, biases = decomposition(model, logits, x, 1)
    assert image + sum(biases) == pytest.approx(builders.plain_scores(proto, x)[0, 1], rel=1e-4)
    assert [s.value for s in bias_sites(model, logits)] == ["conv1", "conv2", "logits"]


@pytest.mark.parametrize(
    ("shape", "axis", "point"), [((6,), 0, None), ((6,), 0, 2), ((1, 6, 1, 1), 1, 3), ((6, 1, 1), 0, None)]
)
def test_a_bias_stored_quantised_is_read_as_floats(tmp_path, shape, axis, point):
    levels, scale = np.array([3, -2, 8, 1, 5, -7], np.int8), np.linspace(0.01, 0.06, 6).astype(np.float32)
    held = {"q": levels.reshape(shape), "s": scale} | ({} if point is None else {"z": np.full(6, point, np.int8)})
    proto = builders.classifier()
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, k) for k, a in held.items())
    proto.graph.node.insert(0, helper.make_node("DequantizeLinear", list(held), ["further"], axis=axis))
    proto.graph.node[1].output[0] = "own"
    of = ["own", "further"] if len(shape) > 1 else ["spread", "further"]
    proto.graph.node.insert(2, helper.make_node("Add", of, ["conv1" if len(shape) > 1 else "shifted"]))
    if len(shape) == 1:  # along the last axis: the map is NHWC there
        proto.graph.node.insert(2, helper.make_node("Transpose", ["own"], ["spread"], perm=[0, 2, 3, 1]))
        proto.graph.node.insert(4, helper.make_node("Transpose", ["shifted"], ["conv1"], perm=[0, 3, 1, 2]))
    site = bias_sites(*opened(tmp_path, proto))[1]
    np.testing.assert_allclose(site.bias.ravel(), (levels - float(point or 0)) * scale.astype(float), rtol=1e-6)
    assert (site.bias.size, site.layout) == (6, "NCHW" if len(shape) > 1 else "NHWC")


def test_what_saturates_leaves_a_remainder(tmp_path):
    """ReLU6 at its ceiling passes neither gradient nor bias."""
    nodes = [
        node("Conv", "image w b", "conv"),
        node("Clip", "conv low high", "clip"),
        node("GlobalAveragePool", "clip", "gap"),
        node("Flatten", "gap", "logits"),
    ]
    arrays = {"w": np.ones((2, 1, 1, 1)), "b": np.array([1.0, 0.5]), "low": np.array(0.0), "high": np.array(6.0)}
    given, scores = builders.value("image", [1, 1, 1, 2]), builders.value("logits", [1, 2])
    proto = builders.model(nodes, [given], [scores], {k: v.astype(np.float32) for k, v in arrays.items()})
    score, image, biases = decomposition(*opened(tmp_path, proto), np.array([[[[2.0, 9.0]]]], np.float32))
    assert (score, image, biases) == (pytest.approx(4.5), pytest.approx(1.0), [pytest.approx(0.5)])


def test_what_is_computed_or_no_shift_of_channels_has_no_place(tmp_path):
    """A product with the image's mean, positions added to a map of a matrix product, a bias computed from the image."""
    nodes = [
        node("Conv", "image w own", "conv"),
        node("ReduceMean", "image", "own", axes=[0, 2, 3], keepdims=0),
        node("Transpose", "conv", "last", perm=[0, 2, 3, 1]),
        node("MatMul", "last m", "mixed"),
        node("Add", "mixed b", "token"),
        node("ReduceMean", "token", "logits", axes=[1, 2], keepdims=0),
    ]
    nodes = [nodes[1], nodes[0], *nodes[2:]]
    arrays = {"w": RNG.normal(size=(3, 3, 1, 1)), "m": RNG.normal(size=(3, 4)), "b": RNG.normal(size=4)}
    given, scores = builders.value("image", [1, 3, 4, 4]), builders.value("logits", [1, 4])
    proto = builders.model(nodes, [given], [scores], {k: v.astype(np.float32) for k, v in arrays.items()}, opset=17)
    assert [(s.value, s.layout) for s in bias_sites(*opened(tmp_path, proto))] == [("token", None)]


def test_fullgrad_of_a_graph_is_fullgrad_of_its_biases(tmp_path):
    """The probe answers with gradients folded to (B, K, h, w): finite differences on each bias agree."""
    proto, arrays = rich()
    model, logits = opened(tmp_path, proto)
    x = RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)
    probe = ModelProbe(Programs(model, logits, Session), x, as_target(1, None, logits.classes))
    found = probe.bias_gradients(x)
    assert [g.shape[1] for g, _ in found] == [4, 4, 4, 5]
    for (g, b), name in zip(found, ["b1", "beta", "b2", "b3"], strict=True):
        for k in range(len(arrays[name])):
            slope = (nudged(proto, name, k, 1e-4, x) - nudged(proto, name, k, -1e-4, x)) / 2e-4
            assert g[0, k].sum() == pytest.approx(slope, rel=2e-3, abs=2e-4), (name, k)
        assert b.shape == (len(arrays[name]), 1, 1)
    explained = Explainer(tmp_path / "model.onnx", preprocess="unit", method="fullgrad").explain_tensor(x, 1)[0]
    np.testing.assert_allclose(explained.cam, fullgrad(probe), rtol=1e-5)


def nudged(proto, name, k, step, x):
    """The score of class 1 in float64 with one element of one initializer moved."""
    from onnx.reference import ReferenceEvaluator
    from replicas import in_float64

    wide = in_float64(proto)
    for tensor in wide.graph.initializer:
        if tensor.name == name:
            moved = onnx.numpy_helper.to_array(tensor).copy()
            moved.reshape(-1)[k] += step
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, name))
    return ReferenceEvaluator(wide).run(None, {"image": x.astype(np.float64)})[0][0, 1]


def test_an_integer_image_counts_from_its_first_float(tmp_path):
    proto = builders.classifier(batch=1)
    proto.graph.input[0].CopyFrom(builders.value("pixels", [1, 3, 12, 12], TensorProto.UINT8))
    proto.graph.node.insert(0, helper.make_node("Cast", ["pixels"], ["image"], to=TensorProto.FLOAT))
    x = RNG.integers(0, 9, size=(1, 3, 12, 12), dtype=np.uint8)
    model, logits = opened(tmp_path, proto)
    score, image, biases = decomposition(model, logits, x, 2)
    assert image + sum(biases) == pytest.approx(score, rel=1e-4)


def test_the_shapes_model_is_complete():
    explainer = Explainer("zoo:shapes-cnn")
    x = RNG.uniform(size=(1, 3, 112, 112)).astype(np.float32)
    for c in (0, 1):
        score, image, biases = decomposition(explainer.model, explainer.logits, x, c)
        assert image + sum(biases) == pytest.approx(score, rel=1e-4)


# Networks of ReLUs alone, by several producers; maps: feature maps that a bias shifts
COMPLETE = {
    "cifar10_winml_tutorial": 4,
    "geometric_shapes_cnn": 2,
    "gtsrb_cnn_nhwc_logits": 2,
    "leafsnap30_cnn": 4,
    "mnist8_cntk_op8": 2,
    "mnist_keras2onnx_cnn_max": 2,
    "squeezenet11_fp32": 26,
}


@pytest.mark.real
@pytest.mark.parametrize("name", COMPLETE)
def test_real_networks_are_complete(real_zoo, name):
    explainer = Explainer(real_zoo / "models" / f"{name}.onnx")
    x, _ = explainer.preprocess.apply(RNG.integers(0, 256, (240, 240, 3), dtype=np.uint8), explainer.spec)
    score, image, biases = decomposition(explainer.model, explainer.logits, x)
    assert image + sum(biases) == pytest.approx(score, rel=1e-4)
    assert sum(s.layout is not None for s in bias_sites(explainer.model, explainer.logits)) == COMPLETE[name]
