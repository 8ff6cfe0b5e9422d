"""Quantised networks: what is read of them, what stops a gradient, and that they explain as their float twins do."""

from __future__ import annotations

import warnings
from pathlib import Path

import builders
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import replicas
from onnx import helper

from onnxcam import Explainer, load_model, zoo
from onnxcam.gradients import add_gradients
from onnxcam.graph.activations import activation_sites
from onnxcam.graph.inspect import find_logits, target_layers
from onnxcam.image import as_image
from onnxcam.model import Model
from onnxcam.runtime import Session

TYPES = [("QUInt8", "QUInt8"), ("QUInt8", "QInt8"), ("QInt8", "QInt8")]


def quantised(source: Path, folder: Path, feeds: list, types=TYPES[1], per_channel=False, form="QOperator") -> Path:
    """The file, quantised by ONNX Runtime's own tool on a few inputs."""
    tool = pytest.importorskip("onnxruntime.quantization", reason="ONNX Runtime comes without its quantization tool")

    class Reader(tool.CalibrationDataReader):
        def __init__(self):
            self.rest = iter(feeds)

        def get_next(self):
            return next(self.rest, None)

    activation, weight = (getattr(tool.QuantType, t) for t in types)
    target = folder / "quantised.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tool.quantize_static(
            source, target, Reader(), quant_format=getattr(tool.QuantFormat, form), per_channel=per_channel,
            activation_type=activation, weight_type=weight,
        )  # fmt: skip
    return target


def scenes() -> tuple[Explainer, list[Path], list[np.ndarray]]:
    ex = Explainer("zoo:shapes-cnn")
    photos = [Path(p) for p in zoo.samples("shapes-cnn") if str(p).endswith(".png") and "mask" not in str(p)]
    return ex, photos, [ex.preprocess.apply(as_image(p), ex.spec)[0] for p in photos]


def answers(path: Path, feeds: dict) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("types", TYPES, ids="-".join)
def test_a_quantised_classifier_of_the_zoo(tmp_path, types, per_channel):
    ex, photos, tensors = scenes()
    name = ex.model.image_input.name
    path = quantised(zoo.locate("shapes-cnn"), tmp_path, [{name: x} for x in tensors], types, per_channel)
    model = load_model(path)
    assert any("QLinearConv" in note for note in model.notes)
    session, outputs = Session(model), [str(v.name) for v in model.outputs]
    for x in tensors:
        for found, want in zip(session.run({name: x}, outputs), answers(path, {name: x}), strict=True):
            np.testing.assert_array_equal(found, want)
    logits = find_logits(model)
    assert (logits.classes, logits.output, logits.stepped_over) == (7, "logits", ("QuantizeLinear", "DequantizeLinear"))
    assert target_layers(model, logits)[0].name == "/stage2/stage2.2/Add_output_0_quantized/DequantizeLinear"
    twin = Explainer(model, preprocess=ex.preprocess)
    for photo in photos:
        a = ex.explain(photo)
        b = twin.explain(photo)
        assert b.class_index == a.class_index
        assert np.corrcoef(a.cam.ravel(), b.cam.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("form", ["QOperator", "QDQ"])
def test_the_gradient_stops_where_a_quantiser_saturates(tmp_path, form):
    """The tool drops each ReLU: the quantiser's lower bound is all that is left of it."""
    x = np.random.default_rng(0).uniform(0, 1, (1, 3, 12, 12)).astype(np.float32)
    source = builders.write(tmp_path / "float.onnx", builders.classifier(batch=1))
    path = quantised(source, tmp_path, [{"image": x}], ("QUInt8", "QInt8"), True, form)
    a, b = (Explainer(p, preprocess="unit", method="saliency").explain_tensor(x, target=1)[0] for p in (source, path))
    assert "Relu" not in {n.op_type for n in load_model(path).graph}
    assert np.corrcoef(a.attribution.ravel(), b.attribution.ravel())[0, 1] > 0.9  # rounding moves maxima of a pool
    both = (Explainer(p, preprocess="unit", method="guided_backprop") for p in (source, path))
    c, d = (ex.explain_tensor(x, target=1)[0].attribution for ex in both)
    assert np.corrcoef(c.ravel(), d.ravel())[0, 1] > 0.9
    assert replicas.relative(d, b.attribution) > 0.3


def test_a_dynamically_quantised_network_explains_as_its_float_twin(tmp_path):
    """DynamicQuantizeLinear, ConvInteger and MatMulInteger, whose sums are scaled afterwards."""
    tool = pytest.importorskip("onnxruntime.quantization", reason="ONNX Runtime comes without its quantization tool")
    x = np.random.default_rng(0).uniform(0, 1, (1, 3, 12, 12)).astype(np.float32)
    source = builders.write(tmp_path / "float.onnx", builders.classifier(batch=1))
    target = tmp_path / "dynamic.onnx"
    tool.quantize_dynamic(source, target, weight_type=tool.QuantType.QUInt8)
    assert {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"} <= {n.op_type for n in load_model(target).graph}
    for method in ("gradcam", "saliency", "guided_backprop"):
        a, b = (Explainer(p, preprocess="unit", method=method).explain_tensor(x, target=1)[0] for p in (source, target))
        assert b.score == pytest.approx(a.score, abs=0.05)
        assert np.corrcoef(a.cam.ravel(), b.cam.ravel())[0, 1] > 0.9


# Saturation as an activation


def tail(kind: str, zero: int, scale: float = 0.05) -> onnx.ModelProto:
    """A convolution (or what ``kind`` says) into a uint8 quantiser, and back."""
    rng = np.random.default_rng(1)
    makers = {
        "Conv": [helper.make_node("Conv", ["image", "w"], ["c"])],
        "Relu": [helper.make_node("Conv", ["image", "w"], ["p"]), helper.make_node("Relu", ["p"], ["c"])],
        "Tanh": [helper.make_node("Conv", ["image", "w"], ["p"]), helper.make_node("Tanh", ["p"], ["c"])],
        "Transpose": [
            helper.make_node("Conv", ["image", "w"], ["p"]),
            helper.make_node("Transpose", ["p"], ["c"], perm=[0, 2, 3, 1]),
        ],
        "sum of rectified": [
            helper.make_node("Conv", ["image", "w"], ["p"]),
            helper.make_node("Relu", ["p"], ["r"]),
            helper.make_node("Add", ["r", "r"], ["c"]),
        ],
        "padded": [
            helper.make_node("Conv", ["image", "w"], ["p"]),
            helper.make_node("Relu", ["p"], ["r"]),
            helper.make_node("Pad", ["r", "amounts"], ["c"]),
        ],
        "requantised": [
            helper.make_node("Conv", ["image", "w"], ["p"]),
            helper.make_node("QuantizeLinear", ["p", "s", "z"], ["pq"]),
            helper.make_node("DequantizeLinear", ["pq", "s", "z"], ["pd"]),
            helper.make_node("MaxPool", ["pd"], ["c"], kernel_shape=[2, 2]),
        ],
    }
    nodes = [
        *makers[kind],
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["q"], "rounding"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    arrays = {"w": rng.standard_normal((2, 3, 1, 1)).astype(np.float32), "s": np.float32(scale), "z": np.uint8(zero)}
    arrays |= {"amounts": np.array([0, 0, 1, 1, 0, 0, 1, 1])} if kind == "padded" else {}
    image = builders.value("image", [1, 3, 6, 6])
    return builders.model(nodes, [image], [builders.value("y", [None] * 4)], arrays, 18)


RECTIFIERS = {
    ("Conv", 0): ["QuantizeLinear"],
    ("Conv", 128): [],
    ("Relu", 0): ["Relu"],
    ("Tanh", 0): [],
    ("Transpose", 0): ["QuantizeLinear"],
    ("sum of rectified", 0): ["Relu"],
    ("padded", 0): ["Relu"],
    ("requantised", 0): ["QuantizeLinear"],
}


@pytest.mark.parametrize(("kind", "zero"), RECTIFIERS)
def test_a_quantiser_that_cuts_sums_off_at_zero_is_an_activation(tmp_path, kind, zero):
    model = load_model(builders.write(tmp_path / "m.onnx", tail(kind, zero)))
    sites = activation_sites(list(model.graph))
    assert [s.op_type for s in sites if s.rectifier] == RECTIFIERS[kind, zero]


def pulled_back(model: Model, relu: str, seed: np.ndarray, x: np.ndarray) -> np.ndarray:
    edited = add_gradients(model, "y", "input", relu=relu)
    return Session(edited).run({"image": x, "onnxcam/seed": seed}, ["onnxcam/grad/input"])[0]


@pytest.mark.parametrize("relu", ["plain", "guided", "deconvnet"])
def test_policies_act_on_such_a_quantiser(tmp_path, relu):
    proto = tail("Conv", 0, scale=0.005)
    model = load_model(builders.write(tmp_path / "m.onnx", proto))
    rng = np.random.default_rng(2)
    x, seed = (rng.standard_normal(s).astype(np.float32) for s in ((1, 3, 6, 6), (1, 2, 6, 6)))
    w = onnx.numpy_helper.to_array(proto.graph.initializer[0])[:, :, 0, 0]
    c = np.einsum("oi,nihw->nohw", w, x)
    level = np.clip(np.rint(c / 0.005), 0, 255)
    inside = (level > 0) & (level < 255)
    assert 0.1 < inside.mean() < 0.9
    dy = {"plain": seed * inside, "guided": np.maximum(seed, 0) * inside, "deconvnet": np.maximum(seed, 0)}[relu]
    np.testing.assert_allclose(
        pulled_back(model, relu, seed, x), np.einsum("oi,nohw->nihw", w, dy), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["Relu", "padded", "requantised", "sum of rectified"])
def test_what_cannot_be_cut_off_has_no_mask(tmp_path, kind):
    """A level at the bottom is no saturation where nothing below it can come: after a ReLU, padded, pooled or added."""
    model = load_model(builders.write(tmp_path / "m.onnx", tail(kind, 0)))
    edited = add_gradients(model, "y", "input")
    below = [n for n in edited.graph if n.op_type == "Greater" and n.inputs[0].producer().op_type == "Cast"]
    assert len(below) == (1 if kind == "requantised" else 0)


# Models whose only output is quantised


def ending(softmax: bool, scale: float, dtype=np.uint8) -> onnx.ModelProto:
    """`classifier`, whose scores or probabilities come out as levels."""
    proto = builders.classifier(batch=1)
    levels = np.iinfo(dtype)
    last = "p" if softmax else "logits"
    if softmax:
        proto.graph.node.append(helper.make_node("Softmax", ["logits"], ["p"], axis=1))
    proto.graph.node.append(helper.make_node("QuantizeLinear", [last, "s", "z"], ["y"]))
    zero = levels.min if softmax else (levels.min + levels.max + 1) // 2
    arrays = {"s": np.float32(scale), "z": np.asarray(zero, dtype)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), k) for k, a in arrays.items())
    del proto.graph.output[:]
    proto.graph.output.append(builders.value("y", [1, 4], helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))
    return proto


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("softmax", [False, True])
def test_scores_are_read_before_the_quantiser_of_the_output(tmp_path, softmax, dtype):
    x = np.random.default_rng(3).uniform(0, 1, (1, 3, 12, 12)).astype(np.float32)
    plain = Explainer(builders.write(tmp_path / "f.onnx", builders.classifier(batch=1)), preprocess="unit")
    want = plain.explain_tensor(x)[0]
    path = builders.write(tmp_path / "q.onnx", ending(softmax, 1 / 256 if softmax else 0.05, dtype))
    ex = Explainer(path, preprocess="unit")
    assert ex.logits.name == "logits"
    assert ex.logits.stepped_over == (("Softmax", "QuantizeLinear") if softmax else ("QuantizeLinear",))
    found = ex.explain_tensor(x)[0]
    assert (found.class_index, found.score) == (want.class_index, pytest.approx(want.score, rel=1e-5))
    np.testing.assert_allclose(found.cam, want.cam, rtol=1e-4, atol=1e-6)
    assert not any("tie" in note for note in found.notes)


def test_a_tie_of_the_models_own_output_is_flagged(tmp_path):
    x = np.random.default_rng(3).uniform(0, 1, (1, 3, 12, 12)).astype(np.float32)
    ex = Explainer(builders.write(tmp_path / "q.onnx", ending(False, 100.0)), preprocess="unit")
    assert any("a tie of 4 classes" in note for note in ex.explain_tensor(x)[0].notes)
    assert not any("tie" in note for note in ex.explain_tensor(x, target=2)[0].notes)


# The float twin of a real network

FLOAT, INT8 = "mobilenetv2_float_nhwc_u8in", "mobilenetv2_int8_qdq_nhwc_u8"
LAST = ("Relu6__107:0", "model_1/out_relu/Relu6;model_1/Conv_1/BiasAdd;model_1/Conv_1/Conv2D;Conv_1/kernel_1_dequant")
# Both exports name these values alike: expansions in the middle (384 maps of 14 x 14; 576 before a stride of 2), a sum.
MIDDLE = ("Relu6__65:0", "Relu6__83:0", "model_1/block_9_add/add_prequant")


@pytest.fixture(scope="module")
def correlations(real_zoo):
    """Per photo: the raw maps' correlation at the last layer and at those in the middle, and the image gradient's."""
    models = [load_model(real_zoo / "models" / f"{name}.onnx") for name in (FLOAT, INT8)]
    cams = [Explainer(m, target_layer=[LAST[k], *MIDDLE]) for k, m in enumerate(models)]
    pixels = [Explainer(m, method="saliency") for m in models]
    rows = []
    for photo in sorted((real_zoo / "photos").iterdir()):
        top = cams[0].explain(photo).class_index
        a, b = ([m.cam for m in ex.explain(photo, target=top).maps] for ex in cams)
        a.append(pixels[0].explain(photo, target=top).attribution)
        b.append(pixels[1].explain(photo, target=top).attribution)
        rows.append([np.corrcoef(u.ravel(), v.ravel())[0, 1] for u, v in zip(a, b, strict=True)])
    assert len(rows) == 26
    return np.array(rows).T


@pytest.mark.real
def test_a_quantised_twin_explains_alike_at_the_last_layer(correlations):
    assert correlations[0].min() >= 0.98


@pytest.mark.real
@pytest.mark.parametrize("layer", range(1, len(MIDDLE) + 1))
def test_a_quantised_twin_explains_alike_in_the_middle(correlations, layer):
    found = correlations[layer]
    assert np.median(found) >= 0.93
    assert found.mean() >= 0.92
    assert np.quantile(found, 0.1) >= 0.85
    assert found.min() >= 0.7  # a leaf, of which the network knows no class


@pytest.mark.real
def test_a_quantised_twin_has_a_like_image_gradient(correlations):
    """Pixel gradients pass 52 layers of masks that rounding may flip."""
    assert np.median(correlations[-1]) >= 0.75
    assert correlations[-1].min() >= 0.55
