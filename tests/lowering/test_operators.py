"""Each foreign operator as ONNX Runtime runs it, against the standard operators that it is lowered to."""

from __future__ import annotations

import math
from pathlib import Path

import builders
import numpy as np
import onnxruntime as ort
import pytest
from nodes import agree, draw, loaded, one, original
from onnx import helper

from onnxcam.lowering import LEGACY, LOWERINGS
from onnxcam.runtime import Session

X = draw("x", 1, 3, 6, 5)
ROWS = draw("rows", 2, 4, 6)


LEGACY_CASES = {
    "ImageScaler": {"scale": 2.0, "bias": [1.0, -2.0, 3.0]},
    "Crop": {"border": [1, 2, 1, 3]},
    "Crop of a size": {"border": [1, 2, 0, 0], "scale": [2, 3]},
    "Crop of nothing on one side": {"border": [1, 0, 0, 0]},
    "Affine": {"alpha": 2.0, "beta": 0.5},
    "ParametricSoftplus": {"alpha": 2.0, "beta": 0.5},
    "ScaledTanh": {"alpha": 2.0, "beta": 0.5},
    "Scale": {"scale": 3.0},
    "ThresholdedRelu": {"alpha": 0.5},
    "MeanVarianceNormalization": {"across_channels": 0, "normalize_variance": 1},
    "MeanVarianceNormalization over channels": {"across_channels": 1, "normalize_variance": 1},
    "MeanVarianceNormalization without variance": {"across_channels": 0, "normalize_variance": 0},
}


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("what", LEGACY_CASES)
def test_operators_that_onnx_dropped(tmp_path, what, free):
    proto = one(what.split()[0], {"x": X}, domain="", opset=7, free=free, **LEGACY_CASES[what])
    if free:
        for i, length in enumerate(X.shape):  # only the picture's size is open
            if i < 2:
                proto.graph.input[0].type.tensor_type.shape.dim[i].dim_value = length
    model = agree(proto, {"x": X}, tmp_path)
    assert "converted from opset 7 to 18" in model.notes
    assert model.opset == 18


SCALE, BIAS = draw("scale", 6), draw("bias", 6)


@pytest.mark.parametrize("opset", [12, 17, 21])
@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_normalisation_before_it_was_standard(tmp_path, opset, axis):
    inner = ROWS.shape[axis:]
    weights = {"scale": draw("s", *inner), "bias": draw("b", *inner)}
    proto = one("LayerNormalization", {"x": ROWS}, weights, domain="", opset=opset, axis=axis, epsilon=0.01)
    if opset >= 17:
        original(proto, {"x": ROWS})
        assert not any("lowered" in n for n in loaded(proto, tmp_path).notes)
    else:
        agree(proto, {"x": ROWS}, tmp_path)


@pytest.mark.parametrize("opset", [12, 18, 21])
def test_simplified_layer_normalisation(tmp_path, opset):
    outputs = ["y", "inverse"]
    for axis, inner in ((-1, (6,)), (1, (4, 6))):
        weights = {"scale": draw("s", *inner)}
        proto = one(
            "SimplifiedLayerNormalization", {"x": ROWS}, weights, outputs[: 1 if axis == 1 else 2],
            domain="", opset=opset, axis=axis, epsilon=0.01,
        )  # fmt: skip
        agree(proto, {"x": ROWS}, tmp_path)


SKIP = {"x": ROWS, "skip": draw("skip", 2, 4, 6)}
PRODUCTS = {
    "plain": ((3, 4), (4, 5), {}),
    "A transposed": ((4, 3), (4, 5), {"transA": 1}),
    "B transposed": ((3, 4), (5, 4), {"transB": 1, "alpha": 0.3}),
    "both in a batch": ((2, 2, 4, 3), (2, 2, 5, 4), {"transA": 1, "transB": 1}),
    "A by batch": ((3, 2, 2, 4), (2, 2, 4, 5), {"transBatchA": 1}),
    "B by batch": ((2, 3, 4), (4, 2, 5), {"transBatchB": 1}),
    "all of it": ((4, 2, 3), (5, 2, 4), dict.fromkeys(("transBatchA", "transA", "transBatchB", "transB"), 1)),
}


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("what", PRODUCTS)
def test_fused_matmul(tmp_path, what, free):
    a, b, attributes = PRODUCTS[what]
    feeds = {"a": draw("a", *a), "b": draw("b", *b)}
    agree(one("FusedMatMul", feeds, free=free, **attributes), feeds, tmp_path)
    if not any("Batch" in k for k in attributes):
        agree(one("TransposeMatMul", feeds, free=free, **attributes), feeds, tmp_path)


ACTIVATIONS = {
    "none": {},
    "Relu": {"activation": "Relu"},
    "Tanh": {"activation": "Tanh"},
    "Sigmoid": {"activation": "Sigmoid"},
    "LeakyRelu": {"activation": "LeakyRelu", "activation_params": [0.2]},
    "Clip": {"activation": "Clip", "activation_params": [-0.5, 1.5]},
    "HardSigmoid": {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]},
}


@pytest.mark.parametrize("what", ACTIVATIONS)
@pytest.mark.parametrize("summand", [False, True])
def test_fused_conv(tmp_path, what, summand):
    weights = {"w": draw("w", 4, 3, 3, 3), "b": draw("b", 4)}
    feeds = {"x": X} | ({"z": draw("z", 1, 4, 3, 3)} if summand else {})
    settings = {"strides": [2, 2], "pads": [1, 1, 0, 1], "kernel_shape": [3, 3], **ACTIVATIONS[what]}
    agree(one("FusedConv", feeds, weights, order=["x", "w", "b", *list(feeds)[1:]], **settings), feeds, tmp_path)


@pytest.mark.parametrize("what", [k for k in ACTIVATIONS if k not in ("none", "Clip")])
def test_fused_gemm(tmp_path, what):
    names = {"activation_alpha": 0, "activation_beta": 1}
    parameters = ACTIVATIONS[what].get("activation_params", [])
    settings = {n: parameters[k] for n, k in names.items() if k < len(parameters)}
    settings |= {k: v for k, v in ACTIVATIONS[what].items() if k == "activation"}
    feeds, weights = {"a": draw("a", 5, 3)}, {"b": draw("b", 4, 5), "c": draw("c", 4)}
    proto = one("FusedGemm", feeds, weights, transA=1, transB=1, alpha=0.7, beta=1.3, **settings)
    agree(proto, feeds, tmp_path)


def newer_than_1_19() -> bool:
    return tuple(map(int, ort.__version__.split(".")[:2])) > (1, 19)


def operator_cases():
    """Name, inputs, weights, order of operands, outputs, attributes."""
    yield "Gelu", {"x": ROWS}, {}, (), ("y",), {}
    yield "FastGelu", {"x": ROWS}, {}, (), ("y",), {}
    yield "FastGelu", {"x": ROWS}, {"b": BIAS}, (), ("y",), {}
    yield "QuickGelu", {"x": ROWS}, {}, (), ("y",), {}
    yield "QuickGelu", {"x": ROWS}, {}, (), ("y",), {"alpha": 1.0}
    yield "BiasGelu", {"x": ROWS}, {"b": BIAS}, (), ("y",), {}
    skips = {"gamma": SCALE, "beta": BIAS}
    yield "SkipLayerNormalization", SKIP, skips, (), ("y",), {"epsilon": 0.01}
    yield "SkipLayerNormalization", SKIP, skips | {"b": draw("more", 6)}, (), ("y", "", "", "sum"), {}
    yield "SkipLayerNormalization", SKIP | {"skip": draw("row", 4, 6)}, skips, (), ("y",), {}
    yield "SkipLayerNormalization", SKIP, {"gamma": SCALE, "b": BIAS}, ("x", "skip", "gamma", "", "b"), ("y",), {}
    yield "SkipSimplifiedLayerNormalization", SKIP, {"gamma": SCALE}, (), ("y",), {"epsilon": 0.01}
    if newer_than_1_19():  # which leaves the bias out of the sum, and adds it at the end instead
        yield "SkipSimplifiedLayerNormalization", SKIP, {"gamma": SCALE, "b": BIAS}, (), ("y", "", "", "sum"), {}
    projection = {"w": draw("w", 6, 12, low=-0.7, high=0.7), "b": draw("b", 12)}
    yield "Attention", {"x": ROWS}, projection, (), ("y",), {"num_heads": 2}
    yield "Attention", {"x": ROWS}, projection, (), ("y",), {"num_heads": 2, "scale": 0.4}
    projection = {"w": draw("w", 6, 20), "b": draw("b", 20), "more": draw("more", 2, 2, 4, 4)}
    order = ("x", "w", "b", "", "", "more")
    yield "Attention", {"x": ROWS}, projection, order, ("y",), {"num_heads": 2, "qkv_hidden_sizes": [6, 6, 8]}
    parts = {"q": ROWS, "k": draw("k", 2, 5, 6), "v": draw("v", 2, 5, 8)}
    yield "MultiHeadAttention", parts, {}, (), ("y",), {"num_heads": 2}
    yield "MultiHeadAttention", parts, {"b": draw("b", 20)}, (), ("y",), {"num_heads": 2, "scale": 0.3}
    more = ("q", "k", "v", "", "", "more")
    yield "MultiHeadAttention", parts, {"more": draw("m", 2, 2, 4, 5)}, more, ("y",), {"num_heads": 2}
    bytes_ = {"x": draw("levels", 1, 6, 5, 3, low=0, high=255).astype(np.uint8)}
    yield "NhwcMaxPool", bytes_, {}, (), ("y",), {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [0, 1, 0, 1]}
    grid = {"grid": draw("grid", 1, 4, 4, 2, low=-1.3, high=1.3)}
    for mode in ("bilinear", "nearest", "bicubic"):
        yield "GridSample", {"x": X}, grid, (), ("y",), {"mode": mode, "padding_mode": "border", "align_corners": 1}


CASES = [pytest.param(*c, id=f"{c[0]} {k}") for k, c in enumerate(operator_cases())]


@pytest.mark.parametrize("opset", [12, 17, 20])
@pytest.mark.parametrize(("op", "inputs", "weights", "order", "outputs", "attributes"), CASES)
def test_fused_operators(tmp_path, op, inputs, weights, order, outputs, attributes, opset):
    agree(one(op, inputs, weights, outputs, order, opset=opset, **attributes), inputs, tmp_path, 2e-6)


# Operators without a kernel for the CPU, against what their documentation says


def found(proto, feeds, folder):
    model = loaded(proto, folder)
    assert {n.domain for n in model.graph} == {""}, model.notes
    return Session(model).run(feeds)[0]


def softmax(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    e = np.exp(x - x.max(axes, keepdims=True))
    return e / e.sum(axes, keepdims=True)


@pytest.mark.parametrize(("axis", "inner", "shape"), [(3, 0, (1, 1, 4, 5)), (3, 1, (2, 1, 1, 5)), (2, 0, (1, 1, 4, 5))])
def test_softmax_with_a_bias(tmp_path, axis, inner, shape):
    feeds = {"x": draw("x", 2, 3, 4, 5), "b": draw("b", *shape)}
    proto = one("BiasSoftmax", feeds, axis=axis, is_inner_broadcast=inner)
    want = softmax(feeds["x"] + feeds["b"], tuple(range(axis, 4)))
    np.testing.assert_allclose(found(proto, feeds, tmp_path), want, rtol=1e-5)


def test_biases_of_diffusion_models(tmp_path):
    feeds = {"x": ROWS, "b": BIAS, "skip": draw("skip", 2, 4, 6)}
    want = ROWS + BIAS + feeds["skip"]
    np.testing.assert_allclose(found(one("BiasAdd", feeds), feeds, tmp_path), want, rtol=1e-5)
    del feeds["skip"]
    left, right = np.split(ROWS + BIAS, 2, axis=-1)
    want = left * (0.5 * right * (1 + np.vectorize(math.erf)(right / math.sqrt(2))))
    np.testing.assert_allclose(found(one("BiasSplitGelu", feeds), feeds, tmp_path), want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_channels_last_convolutions(tmp_path, fused):
    """The weight of NhwcConv is channels-last, that of NhwcFusedConv is not."""
    w, b, z = draw("w", 4, 3, 3, 3), draw("b", 4), draw("z", 1, 6, 3, 4)
    settings = {"strides": [1, 2], "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    plain = one("FusedConv", {"x": X}, {"w": w, "b": b}, **settings)
    want = np.moveaxis(original(plain, {"x": X})["y"], 1, -1)
    feeds = {"x": np.ascontiguousarray(np.moveaxis(X, 1, -1))}
    if fused:
        want = np.maximum(want + z, 0)
        proto = one("NhwcFusedConv", feeds, {"w": w, "b": b, "z": z}, activation="Relu", **settings)
    else:
        proto = one("NhwcConv", feeds, {"w": np.moveaxis(w, 1, -1), "b": b}, **settings)
    np.testing.assert_allclose(found(proto, feeds, tmp_path), want, rtol=1e-4, atol=1e-5)


# What is not covered stays, with the reason


def test_what_is_not_covered_stays_and_is_named(tmp_path):
    proto = one("Attention", {"x": ROWS}, {"w": draw("w", 6, 12), "b": draw("b", 12)}, num_heads=2, unidirectional=1)
    model = loaded(proto, tmp_path)
    assert "left as they are: com.microsoft::Attention (unidirectional=1)" in model.notes
    assert [(n.domain, n.op_type) for n in model.graph] == [("com.microsoft", "Attention")]


def test_operators_in_branches_are_lowered_as_well(tmp_path):
    proto = one("BiasGelu", {"x": ROWS}, {"b": BIAS})
    (inner,) = proto.graph.node
    outer = helper.make_node("If", ["yes"], ["y"])
    branches = {"then_branch": inner, "else_branch": helper.make_node("Identity", ["x"], ["other"])}
    for name, made in branches.items():
        graph = helper.make_graph([made], name, [], [helper.make_empty_tensor_value_info(made.output[0])])
        outer.attribute.append(helper.make_attribute(name, graph))
    flag = helper.make_tensor_value_info("yes", 9, [])
    branches["then_branch"].output[0] = "made"
    outer.attribute[0].g.node[0].output[0] = outer.attribute[0].g.output[0].name = "made"
    del proto.graph.node[:]
    proto.graph.node.append(outer)
    proto.graph.input.append(flag)
    feeds = {"x": ROWS, "yes": np.asarray(True)}
    model = loaded(proto, tmp_path)
    assert "lowered to standard operators: 1 com.microsoft::BiasGelu" in model.notes
    np.testing.assert_allclose(Session(model).run(feeds)[0], original(proto, feeds)["y"], rtol=1e-5, atol=1e-6)


def test_weights_in_another_file_are_read_from_its_folder(tmp_path, monkeypatch):
    k, n = 32, 64
    weights = {"b": np.full((n, 2, 8), 0x3A, np.uint8), "scales": draw("s", n * 2)}
    x = {"x": draw("x", 3, k)}
    proto = one("MatMulNBits", x, weights, N=n, K=k, bits=4, block_size=16)
    want = original(proto, x)["y"]
    proto = builders.external(proto, "weights.bin", tmp_path)
    monkeypatch.chdir("/")
    model = loaded(proto, tmp_path)
    np.testing.assert_allclose(Session(model).run(x)[0], want, rtol=1e-4, atol=1e-5)
    assert not {"b", "scales"} & set(model.graph.initializers)


def test_every_lowering_has_a_test():
    text = "".join(p.read_text() for p in Path(__file__).parent.glob("test_*.py"))
    assert {op for _, op in LOWERINGS if op not in text} == set()
    assert {op for domain, op in LOWERINGS if domain == LEGACY} == {w.split()[0] for w in LEGACY_CASES} | {
        "LayerNormalization", "SimplifiedLayerNormalization"
    }  # fmt: skip
