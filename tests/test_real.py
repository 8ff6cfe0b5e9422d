"""Real models and photos that other people made: `ONNXCAM_REAL_ZOO` names their folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import replicas

from onnxcam import Explainer, load_model
from onnxcam.compare import compare
from onnxcam.errors import GradientError
from onnxcam.explanation import Explanation
from onnxcam.graph.inspect import find_logits, target_layers
from onnxcam.graph.surgery import expose
from onnxcam.image import as_image
from onnxcam.model import Model
from onnxcam.runtime import Session
from onnxcam.targets import Logit

pytestmark = pytest.mark.real
FLOWERS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Case:
    """A model, how a person reads its graph, and a picture that it gets right."""

    layout: str
    size: tuple[int | None, int | None, int | None]  # channels, height, width
    logits: str
    layer: str
    preprocess: str = "auto"
    labels: str | tuple[str, ...] | None = None
    image: str = ""
    label: str = ""


IMAGENET = "labels/imagenet1000.txt"
CAFFE = "caffe,mean=104/117/123"
ZEBRA = {"image": "photos/zebra.jpg", "label": "zebra"}
CASES: dict[str, Case] = {
    "cifar10_winml_tutorial": Case(
        "NCHW", (3, 32, 32), "modelOutput", "43", "tf", CIFAR, "photos/cat_winml.jpg", "cat"
    ),
    "deeplabv3_voc_257_nhwc": Case("NHWC", (3, 257, 257), "ResizeBilinear_3", "Relu__94:0", "tf"),
    "flowers_mobilenetv2_035_128_tf2onnx": Case(
        "NCHW", (3, 128, 128), "mobilenet_v2_alpha_0.35/dense/BiasAdd:0", "mobilenet_v2_alpha_0.35/re_lu_34/Relu6:0",
        "tf,fit=crop", FLOWERS, "photos/daisy.jpg", "daisy",
    ),
    "geometric_shapes_cnn": Case("NCHW", (1, 64, 64), "24", "13", "unit"),
    "gtsrb_cnn_nhwc_logits": Case(
        "NHWC", (3, 32, 32), "dense_23", "StatefulPartitionedCall/sequential_11/conv2d_29/Relu:0", "unit"
    ),
    "keras_mobilenetv1_025_nhwc_tf2onnx_op17": Case(
        "NHWC", (3, 224, 224), "mobilenet_0.25_224_1/reshape_2_1/Reshape:0",
        "mobilenet_0.25_224_1/conv_pw_13_relu_1/Relu6:0", "tf", IMAGENET, **ZEBRA,
    ),
    "keras_mobilenetv1_025_nhwc_tf2onnx_op9": Case(
        "NHWC", (3, 224, 224), "mobilenet_0.25_224_1/reshape_2_1/Reshape:0",
        "mobilenet_0.25_224_1/conv_pw_13_relu_1/Relu6:0", "tf", IMAGENET, **ZEBRA,
    ),
    "leafsnap30_cnn": Case(
        "NCHW", (3, 128, 128), "output", "45", "unit", "labels/leafsnap30.csv",
        "photos/leaf_acer_rubrum.jpg", "acer_rubrum",
    ),
    "mnist8_cntk_op8": Case(
        "NCHW", (1, 28, 28), "Plus214_Output_0", "ReLU114_Output_0", "raw", DIGITS, "small/handdrawn_digit3.png", "3"
    ),
    "mnist_cntk_op7": Case(
        "NCHW", (1, 28, 28), "Plus214_Output_0", "ReLU114_Output_0", "raw", DIGITS, "small/handdrawn_digit2.png", "2"
    ),
    "mnist_binary_01_cnn": Case("NCHW", (1, 28, 28), "24", "14", "raw", ("0", "1")),
    "mnist_keras2onnx_cnn_max": Case(
        "NHWC", (1, 28, 28), "dense_15", "conv2d_15_1/Identity:0", "unit", DIGITS, "small/handdrawn_digit3.png", "3"
    ),
    "mnist_keras2onnx_vanilla_nhwc": Case(
        "NHWC", (1, 28, 28), "sm1_clnM_0", "input_transposed", "unit", DIGITS, "small/handdrawn_digit3.png", "3"
    ),
    "mobilenetv1_050_128_float_nhwc_u8in_softmax": Case(
        "NHWC", (3, 128, 128), "MobilenetV1/Logits/SpatialSqueeze_prequant",
        "MobilenetV1/MobilenetV1/Conv2d_13_pointwise/Relu6_clip", "auto", "labels/imagenet1001_background.txt", **ZEBRA,
    ),
    "mobilenetv2_float_nhwc_u8in": Case(
        "NHWC", (3, 224, 224), "Add__110:0", "Relu6__107:0", "auto", IMAGENET, **ZEBRA
    ),
    "mobilenetv2_int8_qdq_nhwc_u8": Case(
        "NHWC", (3, 224, 224), "Add__110:0",
        "model_1/out_relu/Relu6;model_1/Conv_1/BiasAdd;model_1/Conv_1/Conv2D;Conv_1/kernel_1_dequant",
        "auto", IMAGENET, **ZEBRA,
    ),
    "paddle_textline_cls_mobilev3": Case("NCHW", (3, None, None), "p2o.Add.87", "hardswish_17.tmp_0", "tf,size=48x192"),
    "squeezenet11_fp16_winml": Case("NCHW", (3, 224, 224), "pool10_1", "conv10_2", CAFFE, IMAGENET, **ZEBRA),
    "squeezenet11_fp32": Case("NCHW", (3, 224, 224), "pool10_1", "conv10_2", CAFFE, IMAGENET, **ZEBRA),
    "ultraface_rfb320": Case("NCHW", (3, 240, 320), "459", "434"),
    "yolox_nano_416": Case("NCHW", (3, 416, 416), "output", "1128"),
}  # fmt: skip
CLASSIFIERS = [n for n in CASES if n not in ("deeplabv3_voc_257_nhwc", "ultraface_rfb320", "yolox_nano_416")]
REFUSED = {
    "mnist_cntk_noopset": "names no opset",
    "skl2onnx_iris_trees": "no image input",
    "squeezenet_fp16_customop_debug": "does not know: Debug",
}


def explainer(zoo: Path, name: str, **settings: object) -> Explainer:
    case = CASES[name]
    labels = zoo / case.labels if isinstance(case.labels, str) else case.labels
    return Explainer(zoo / "models" / f"{name}.onnx", case.preprocess, labels=labels, **settings)  # type: ignore[arg-type]


def picture(zoo: Path, name: str) -> np.ndarray | Path:
    """A fitting picture: a file, a test digit, or noise where the folder has none."""
    case = CASES[name]
    if case.image:
        return zoo / case.image
    if name == "mnist_binary_01_cnn":
        return np.load(zoo / "small/binary-mnist.npz")["X_test"][0].reshape(28, 28)
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (case.size[1] or 48, case.size[2] or 192, 3), dtype=np.uint8)


def test_every_model_of_the_folder_has_a_case(real_zoo):
    assert {p.stem for p in (real_zoo / "models").glob("*.onnx")} == set(CASES) | set(REFUSED)


@pytest.mark.parametrize("name", CASES)
def test_a_graph_is_read_as_a_person_reads_it(real_zoo, name):
    case, model = CASES[name], load_model(real_zoo / "models" / f"{name}.onnx")
    image = model.image_input
    assert (image.layout, (image.channels, image.height, image.width)) == (case.layout, case.size)
    logits = find_logits(model)
    assert (logits.name, target_layers(model, logits)[0].name) == (case.logits, case.layer)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_model_is_refused_clearly(real_zoo, name):
    from onnxcam.errors import ModelError

    with pytest.raises(ModelError, match=REFUSED[name]):
        Explainer(real_zoo / "models" / f"{name}.onnx")


@pytest.mark.parametrize("name", [n for n in CLASSIFIERS if CASES[n].label])
def test_a_fitting_picture_gets_its_class(real_zoo, name):
    e = explainer(real_zoo, name).explain(picture(real_zoo, name))
    assert e.label == CASES[name].label
    assert not e.is_blank


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_raw_maps_are_what_finite_differences_on_the_tail_give(real_zoo, name):
    ex = explainer(real_zoo, name)
    e, runner_up = _both(ex, picture(real_zoo, name))
    x, _ = ex.preprocess.apply(_pixels(real_zoo, name), ex.spec)
    layer, logits = ex.layers[0].value, ex.logits.name
    activations = Session(expose(ex.model, [layer])).run({ex.model.image_input.name: x}, [layer])[0].astype(np.float64)
    plain = _without_quantisers(ex.model)
    affine = replicas.affine_tail(plain, layer, logits) if activations.shape[1] > 100 else None
    for found in (e, runner_up):
        if affine is not None:
            want = replicas.affine_gradcam(affine, activations, found.class_index)
        else:
            want = replicas.gradcam(replicas.tail(plain, layer, logits), activations, found.class_index)
        assert replicas.relative(found.cam, want) <= 1e-3


def _both(ex: Explainer, image: np.ndarray | Path) -> tuple[Explanation, Explanation]:
    best = ex.explain(image)
    return best, ex.explain(image, target=best.top[1][0])


def _pixels(zoo: Path, name: str) -> np.ndarray:
    return as_image(picture(zoo, name))


def _without_quantisers(model: Model) -> Model:
    """Quantisers are steps, which have no derivative; the straight-through gradient is the one of the model without."""
    edited = model.clone()
    for node in edited.graph:
        source, output = node.inputs[0], node.outputs[0]
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or source is None or output.name in _LAYERS:
            continue
        if source.const_value is None and not output.is_graph_output():
            ir.convenience.replace_all_uses_with(output, source)
    for value in edited.values.values():
        if value.dtype in (ir.DataType.INT8, ir.DataType.UINT8) and value.const_value is None:
            value.type = None  # what were levels are floats now
    return edited


_LAYERS = {case.layer for case in CASES.values()}


@pytest.mark.parametrize("name", [n for n in CLASSIFIERS if n != "mnist_keras2onnx_vanilla_nhwc"])
def test_different_classes_have_different_maps(real_zoo, name):
    e, runner_up = _both(explainer(real_zoo, name), picture(real_zoo, name))
    a, b = e.cam / np.linalg.norm(e.cam), runner_up.cam / np.linalg.norm(runner_up.cam)
    assert np.linalg.norm(a - b) > 0.05


@pytest.mark.parametrize(
    ("name", "dog_at_least", "cat_at_most"),
    [("mobilenetv2_float_nhwc_u8in", 0.85, 0.30), ("squeezenet11_fp32", 0.70, 0.55)],
)
def test_the_dog_is_above_and_the_cat_below(real_zoo, name, dog_at_least, cat_at_most):
    photo = real_zoo / "photos/dog_cat_both.png"
    ex = explainer(real_zoo, name)
    dog, cat = (_above(ex.explain(photo, target=c)) for c in (243, 281))
    assert dog >= dog_at_least
    assert cat <= min(cat_at_most, dog - 0.25)
    against_the_dog = explainer(real_zoo, name, method="counterfactual").explain(photo, target="margin:243,281")
    assert _above(against_the_dog) <= 0.25


def _above(e: Explanation) -> float:
    """Share of the heatmap's energy above row 125 of 224, which parts the dog from the cat."""
    heatmap = e.heatmap_on_image()
    return float(heatmap[:125].sum() / heatmap.sum())


def test_a_quantised_twin_explains_alike(real_zoo):
    photo = real_zoo / "photos/zebra.jpg"
    a, b = (
        explainer(real_zoo, n).explain(photo) for n in ("mobilenetv2_float_nhwc_u8in", "mobilenetv2_int8_qdq_nhwc_u8")
    )
    assert np.corrcoef(a.cam.ravel(), b.cam.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("a", "b", "off"),
    [
        ("squeezenet11_fp32", "squeezenet11_fp16_winml", 0.02),
        ("keras_mobilenetv1_025_nhwc_tf2onnx_op9", "keras_mobilenetv1_025_nhwc_tf2onnx_op17", 1e-4),
    ],
)
def test_two_files_of_a_real_network_are_sound(real_zoo, a, b, off):
    case = CASES[a]
    photos = [real_zoo / "photos" / f"{name}.jpg" for name in ("zebra", "bee", "daisy")]
    settings = {"preprocess_a": case.preprocess, "preprocess_b": case.preprocess, "labels": real_zoo / str(case.labels)}
    found = compare(*(real_zoo / "models" / f"{name}.onnx" for name in (a, b)), photos, **settings)
    assert found.verdict.kind == "sound", found.verdict.text
    assert max(s.worst for s in found.stages) < off
    assert all(p.agreement == 1 and p.correlation > 0.999 for p in found.pairs)
    other = {**settings, "preprocess_b": "unit"}
    assert compare(*(real_zoo / "models" / f"{a}.onnx",) * 2, photos[:1], **other).verdict.kind == "different"


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_pixel_methods_explain_and_save_on_every_classifier(real_zoo, name, tmp_path):
    image = picture(real_zoo, name)
    plain = explainer(real_zoo, name, method="saliency").explain(image)
    guided = explainer(real_zoo, name, method="guided_gradcam").explain(image)
    assert plain.attribution is not None
    assert guided.attribution is not None
    assert np.linalg.norm(plain.attribution) > 0
    assert replicas.relative(guided.attribution, plain.attribution) > 0.01
    assert set(guided.save(tmp_path)) == {"overlay", "attribution", "arrays", "record"}


def test_a_segmenter_tells_the_dog_from_the_background(real_zoo):
    ex = explainer(real_zoo, "deeplabv3_voc_257_nhwc")
    photo = real_zoo / "photos/dog_cat_both.png"
    e = ex.explain(photo, target="margin:12,0")
    x, _ = ex.preprocess.apply(as_image(photo), ex.spec)
    found = Session(ex.model).run({ex.model.image_input.name: x})[0][0].argmax(axis=-1) == 12
    assert e.heatmap[found].sum() / e.heatmap.sum() > 0.9 > 2 * found.mean()


@pytest.mark.parametrize("name", ["ultraface_rfb320", "yolox_nano_416"])
def test_a_class_of_a_detectors_whole_picture_is_refused_with_what_is_possible(real_zoo, name):
    with pytest.raises(GradientError, match=r"a row per box.*box:CLASS"):
        explainer(real_zoo, name).explain(np.zeros((64, 64, 3), np.uint8), Logit((1,)))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("optimize", [False, True])
def test_original_outputs_survive(real_zoo, name, optimize):
    """Bit-identical without the runtime's fusions; <= 1e-5 relative with them.

    A runtime without float16 kernels rounds a float16 value only where something reads it: <= 1e-3, its last place.
    """
    from onnxcam import add_gradients

    model = load_model(real_zoo / "models" / f"{name}.onnx")
    logits = find_logits(model)
    layer = target_layers(model, logits)[0].name
    edited = add_gradients(model, logits.name, [layer, "input"])
    image = model.image_input
    height, width = image.height or 48, image.width or 96
    shape = (1, image.channels, height, width) if image.layout == "NCHW" else (1, height, width, image.channels)
    rng = np.random.default_rng(0)
    x = (rng.random(shape) * (255 if image.dtype == ir.DataType.UINT8 else 1)).astype(image.dtype.numpy())
    names = [str(v.name) for v in model.outputs]
    want = Session(model, optimize=optimize).run({image.name: x}, names)
    probe = Session(expose(model, [logits.name]), optimize=False).run({image.name: x}, [logits.name])[0]
    seed = rng.standard_normal(probe.shape).astype(np.float32)  # of float16 models as well
    got = Session(edited, optimize=optimize).run({image.name: x, "onnxcam/seed": seed}, names)
    for a, b in zip(got, want, strict=True):
        if not optimize and a.dtype != np.float16:
            np.testing.assert_array_equal(a, b)
        elif "int8" not in name:  # reading inside breaks int8 fusion; the Explainer then asks the untouched model
            assert replicas.relative(a, b) <= (1e-3 if a.dtype == np.float16 else 1e-5)


def test_a_quantised_network_answers_as_it_does_untouched(real_zoo):
    """Reading inner values breaks int8 fusion, so the answer comes from a session of its own."""
    name = "mobilenetv2_int8_qdq_nhwc_u8"
    ex = explainer(real_zoo, name, method="saliency")
    plain = Session(ex.model)
    for photo in ("zebra.jpg", "bee.jpg", "lion_lr.png", "daisy.jpg"):
        x, _ = ex.preprocess.apply(as_image(real_zoo / "photos" / photo), ex.spec)
        want = plain.run({ex.model.image_input.name: x})[0][0]
        e = ex.explain(real_zoo / "photos" / photo)
        assert (e.class_index, e.probability) == (int(want.argmax()), pytest.approx(float(want.max()), abs=1e-6))
        assert any("from the untouched model" in note for note in e.notes)
