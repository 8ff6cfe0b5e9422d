"""CAM by the classifier's own weights, and what must then hold of Grad-CAM and HiResCAM."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxcam import Explainer, load_model
from onnxcam.errors import OnnxcamError, OptionError
from onnxcam.graph.classifier import Classifier, find_classifier
from onnxcam.graph.inspect import find_logits
from onnxcam.runtime import Session
from onnxcam.zoo import locate
from tests import builders
from tests.replicas import relative

# What pools all of each map and is linear behind it, by the files' own graphs.
HEADS = {
    "flowers_mobilenetv2_035_128_tf2onnx": "MatMul and Add",
    "keras_mobilenetv1_025_nhwc_tf2onnx_op9": "Conv",
    "keras_mobilenetv1_025_nhwc_tf2onnx_op17": "Conv",
    "mobilenetv1_050_128_float_nhwc_u8in_softmax": "Conv",
    "mobilenetv2_float_nhwc_u8in": "MatMul and Add",
    "mobilenetv2_int8_qdq_nhwc_u8": "MatMul and Add",
    "paddle_textline_cls_mobilev3": "MatMul and Add",
    "squeezenet11_fp16_winml": "the maps are the classes",
    "squeezenet11_fp32": "the maps are the classes",
}


def noise(explainer, seed=0):
    image = explainer.model.image_input
    size = {"N": 1, "C": image.channels, "H": image.height or 48, "W": image.width or 192}
    values = np.random.default_rng(seed).uniform(0, 255, [size[a] for a in f"N{image.layout[1:]}"])
    return values.astype(explainer.spec.dtype)


def maps(source, target, **options):
    found = {}
    for method in ("cam", "gradcam", "hirescam"):
        layer = "auto" if method == "cam" else found["layer"]
        explainer = Explainer(source, method=method, target_layer=layer, **options)
        found["layer"] = explainer.layers[0].value
        found[method] = explainer.explain_tensor(noise(explainer), target)[0].cam
    return found


def test_cam_is_the_weighted_sum_of_the_maps_by_the_file_s_own_weights():
    path = locate("zoo:shapes-cnn")
    held = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    (weight,) = [a for a in held.values() if a.ndim == 2]  # (classes, channels)
    explainer = Explainer(path, method="cam")
    x = noise(explainer)
    layer = explainer.layers[0]
    from onnxcam.graph.surgery import expose

    A = Session(expose(explainer.model, [layer.value])).run({"image": x}, [layer.value])[0][0]
    for c in range(7):
        want = sum(weight[c, k] * A[k] for k in range(len(A)))
        assert relative(explainer.explain_tensor(x, c)[0].cam, want) < 1e-5


def test_of_a_margin_it_is_the_difference():
    explainer = Explainer("zoo:shapes-cnn", method="cam")
    x = noise(explainer)
    a, b, both = (explainer.explain_tensor(x, t)[0].cam for t in (2, 5, "margin:2,5"))
    np.testing.assert_allclose(both, a - b, atol=1e-4 * np.abs(a).max())


def test_grad_cam_is_cam_up_to_the_number_of_pixels_and_hires_cam_is_grad_cam():
    found = maps("zoo:shapes-cnn", 3)
    assert relative(found["gradcam"] * found["cam"].size, found["cam"]) < 1e-5
    assert relative(found["hirescam"], found["gradcam"]) < 1e-5


@pytest.mark.real
@pytest.mark.parametrize("name", HEADS)
def test_on_every_real_head(real_zoo, name):
    found = maps(real_zoo / "models" / f"{name}.onnx", 1)
    scale = np.vdot(found["cam"], found["gradcam"]) / np.vdot(found["cam"], found["cam"])
    assert relative(found["cam"] * scale, found["gradcam"]) < 1e-5
    assert relative(found["hirescam"], found["gradcam"]) < 1e-5
    assert np.ptp(found["cam"]) > 0


@pytest.mark.real
def test_no_other_real_model_has_such_a_head(real_zoo):
    heads = {}
    for path in sorted((real_zoo / "models").glob("*.onnx")):
        try:
            model = load_model(path)
            head = find_classifier(model, find_logits(model))
        except OnnxcamError:
            continue
        if isinstance(head, Classifier):
            heads[path.stem] = head.reason
    assert set(heads) == set(HEADS)
    assert all(HEADS[n] in reason for n, reason in heads.items())


def classifier(nodes, **arrays):
    """A convolution and a Relu, pooled by ``nodes`` from ``relu`` to ``logits``."""
    own = builders.weights()
    arrays = {"w1": own["w1"], "b1": own["b1"], **arrays}
    image, logits = builders.value("image", ["N", 3, 8, 8]), builders.value("logits", ["N", 4])
    return builders.model([*builders.NODES[:2], *nodes], [image], [logits], arrays)


def node(op, inputs, output, **attributes):
    return onnx.helper.make_node(op, inputs, [output], output, **attributes)


FLAT = [node("Flatten", ["gap"], "flat"), node("MatMul", ["flat", "wd"], "logits")]
WD = np.random.default_rng(5).standard_normal((6, 4)).astype(np.float32)
POOLS = {
    "GlobalAveragePool": ([node("GlobalAveragePool", ["relu1"], "gap")], {}),
    "AveragePool over all": ([node("AveragePool", ["relu1"], "gap", kernel_shape=[8, 8])], {}),
    "ReduceMean": ([node("ReduceMean", ["relu1", "axes"], "gap", keepdims=0)], {"axes": np.array([-1, -2])}),
    "ReduceSum": ([node("ReduceSum", ["relu1", "axes"], "gap", keepdims=1)], {"axes": np.array([2, 3])}),
}


@pytest.mark.parametrize("pool", POOLS)
def test_every_way_to_pool_all_is_seen(pool, tmp_path):
    nodes, arrays = POOLS[pool]
    onnx.save(classifier([*nodes, *FLAT], wd=WD, **arrays), tmp_path / "m.onnx")
    found = maps(tmp_path / "m.onnx", 2)
    scale = np.vdot(found["cam"], found["gradcam"]) / np.vdot(found["cam"], found["cam"])
    assert relative(found["cam"] * scale, found["gradcam"]) < 1e-5
    assert found["layer"] == "relu1"


@pytest.mark.parametrize(
    ("nodes", "arrays", "why"),
    [
        ([node("GlobalMaxPool", ["relu1"], "gap"), *FLAT], {}, "GlobalMaxPool"),
        ([node("AveragePool", ["relu1"], "gap", kernel_shape=[4, 4], strides=[9, 9]), *FLAT], {}, "AveragePool"),
        (
            [node("GlobalAveragePool", ["relu1"], "pool"), node("Relu", ["pool"], "gap"), *FLAT],
            {},
            "Relu gap before logits",
        ),
    ],
)
def test_other_heads_are_refused_with_what_can_be_had(nodes, arrays, why, tmp_path):
    onnx.save(classifier(nodes, wd=WD, **arrays), tmp_path / "m.onnx")
    with pytest.raises(OptionError, match=rf"needs global average pooling.*{why}.*[Mm]ethods.*gradcam") as error:
        Explainer(tmp_path / "m.onnx", method="cam")
    assert " cam," not in str(error.value)


def test_another_layer_is_refused():
    with pytest.raises(OptionError, match=r"has its weights at .* alone, not at 'stage1'"):
        Explainer("zoo:shapes-cnn", method="cam", target_layer="stage1")
