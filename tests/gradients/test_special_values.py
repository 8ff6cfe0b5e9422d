"""What finite differences cannot tell: kinks, ties, borders of the domain, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cases import node
from evaluator import evaluator
from onnx import helper
from test_rules import opened, session

from onnxcam.errors import GradientError
from onnxcam.gradients import add_gradients

NAN = float("nan")


def model_of(nodes, inputs, weights=(), outputs=("y",), opset=18) -> onnx.ModelProto:
    """A float32 model; ``inputs`` are arrays or shapes by name, ``weights`` arrays by name."""
    shapes = {n: list(v) if isinstance(v, tuple) else list(np.shape(v)) for n, v in inputs.items()}
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(n, 1, s) for n, s in shapes.items()],
        [helper.make_tensor_value_info(n, 1, None) for n in outputs],
        [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in dict(weights).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def gradients(nodes, weights=(), seed=None, opset=18, **inputs) -> list[np.ndarray]:
    """d sum(seed * y) / d input, in ONNX Runtime."""
    arrays = {n: np.asarray(v, np.float32) for n, v in inputs.items()}
    plain = model_of(nodes, arrays, weights, opset=opset)
    y = session(plain).run(None, arrays)[0]
    edited = ir.to_proto(add_gradients(opened(plain), of="y", wrt=list(arrays)).ir_model)
    cotangent = np.ones_like(y) if seed is None else np.asarray(seed, np.float32)
    return session(edited).run([f"onnxcam/grad/{n}" for n in arrays], arrays | {"onnxcam/seed": cotangent})


def gradient(nodes, weights=(), seed=None, opset=18, **inputs) -> list:
    return gradients(nodes, weights, seed, opset, **inputs)[0].tolist()


F = np.float32


@pytest.mark.parametrize(
    ("op", "x", "expected"),
    [
        ("Relu", [-1, 0, 2], [0, 0, 1]),
        ("LeakyRelu", [-1, 0, 2], [0.01, 0.01, 1]),
        ("Abs", [-1, 0, 2], [-1, 0, 1]),
        ("Sqrt", [0, 4, -1], [np.inf, 0.25, NAN]),
        ("Log", [0, 2], [np.inf, 0.5]),
        ("Reciprocal", [2, -0.5], [-0.25, -4]),
        ("HardSigmoid", [-2.5, 0, 2.5], [0, 0.2, 0]),
        ("HardSwish", [-4, -3, 0, 3, 4], [0, 0, 0.5, 1, 1]),
        ("ThresholdedRelu", [0.5, 1, 2], [0, 0, 1]),
        ("Elu", [-1e4, 0, 1], [0, 1, 1]),
        ("Softplus", [-100, 0, 100], [0, 0.5, 1]),
        ("Sigmoid", [-100, 0, 100], [0, 0.25, 0]),
        ("Erf", [-30, 0, 30], [0, 2 / np.sqrt(np.pi), 0]),
        ("Gelu", [-30, 0, 30], [0, 0.5, 1]),
        ("Mish", [-100, 100], [0, 1]),
        ("Celu", [-1e4, 1e4], [0, 1]),
        ("Selu", [-1e4, 1e4], [0, 1.0507010]),
    ],
)
def test_at_kinks_and_at_the_ends(op, x, expected) -> None:
    found = gradient([node(op, ["x"])], x=x, opset=20)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 6, [0, 0, 1, 0, 0]), (None, 6, [1, 1, 1, 0, 0]), (0, None, [0, 0, 1, 1, 1])]
)
def test_clip_stops_at_its_bounds_and_beyond(low, high, expected) -> None:
    bounds = {n: F(v) for n, v in (("low", low), ("high", high)) if v is not None}
    clip = node("Clip", ["x", "low" if low is not None else "", "high" if high is not None else ""])
    assert gradient([clip], bounds, x=[-1, 0, 3, 6, 7]) == expected


@pytest.mark.parametrize(
    ("exponent", "x", "expected"),
    [
        (2.0, [0, -3, 3], [0, -6, 6]),
        (1.0, [0, -3, 3], [1, 1, 1]),
        (0.0, [0, -3, 3], [0, 0, 0]),
        (3.0, [0, -2, 2], [0, 12, 12]),
        (0.5, [0, 4], [np.inf, 0.25]),
    ],
)
def test_pow_at_zero_and_below(exponent, x, expected) -> None:
    assert gradient([node("Pow", ["x", "p"])], {"p": F(exponent)}, x=x) == expected


def test_pow_by_a_computed_exponent_at_zero() -> None:
    dx, dp = gradients([node("Pow", ["x", "p"])], x=[0, 0, 0, 2, -2], p=[0, 1, 2, 3, 2])
    assert dx.tolist() == [0, 1, 0, 12, -4]
    np.testing.assert_allclose(dp, [0, 0, 0, 8 * np.log(2), 0], rtol=1e-6)


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_ties_of_inputs_share_the_cotangent(op) -> None:
    shares = gradients([node(op, ["a", "b", "c"])], seed=[6, 6], a=[1, 1], b=[1, 5], c=[1, -5])
    assert np.sum(shares, axis=0).tolist() == [6, 6]
    assert [s[0] for s in shares] == [2, 2, 2]


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_ties_of_a_reduction_share_the_cotangent(op) -> None:
    assert gradient([node(op, ["x"], keepdims=0)], seed=6.0, x=[[3, 3], [3, 3]]) == [[1.5, 1.5], [1.5, 1.5]]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"kernel_shape": [2], "strides": [2]}, [1, 0, 2, 0]),
        ({"kernel_shape": [2], "strides": [1]}, [1, 2, 3, 0]),
        ({"kernel_shape": [3], "strides": [1], "pads": [1, 1]}, [3, 3, 4, 0]),
    ],
)
def test_max_pool_gives_a_tie_to_the_first_once(attributes, expected) -> None:
    count = 4 if "pads" in attributes else len(range(0, 3, attributes["strides"][0]))
    seed = [[np.arange(1, count + 1)]]
    assert gradient([node("MaxPool", ["x"], **attributes)], seed=seed, x=[[[5, 5, 5, 5]]]) == [[expected]]


def test_global_max_pool_gives_a_tie_to_the_first() -> None:
    assert gradient([node("GlobalMaxPool", ["x"])], x=[[[[1, 7], [7, 7]]]]) == [[[[0, 1], [0, 0]]]]


@pytest.mark.parametrize(
    ("x", "expected"), [([2, 3, 4], [12, 8, 6]), ([0, 3, 4], [12, 0, 0]), ([0, 3, 0], [0, 0, 0]), ([0], [1])]
)
def test_product_with_zeros(x, expected) -> None:
    assert gradient([node("ReduceProd", ["x"])], x=x) == expected


@pytest.mark.parametrize("nodes", [["ReduceL2"], ["ReduceL1"], ["LpNormalization"], ["GlobalLpPool"]])
def test_norms_of_zero_have_no_nan(nodes) -> None:
    assert np.isfinite(gradient([node(nodes[0], ["x"])], x=np.zeros((1, 2, 3)))).all()


def test_softmax_of_large_logits() -> None:
    found = gradient([node("Softmax", ["x"])], seed=[[1, 0, 0]], x=[[1000, 1000, -1000]])
    assert found == [[0.25, -0.25, 0]]


def test_quantiser_stops_where_it_saturates() -> None:
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"])]
    x = np.array([-1, 0, 0.1, 25.4, 25.5, 30])
    found = gradient(nodes, {"s": F(0.1), "z": np.uint8(0)}, x=x.reshape(1, 1, 6))
    np.testing.assert_allclose(found, [[[0, 0, 1, 1, 0, 0]]], rtol=1e-6)


def test_quantiser_of_a_vector_stops_where_rounding_is_not_all() -> None:
    """Calibration puts the largest of a few numbers at the last level."""
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"])]
    found = gradient(nodes, {"s": F(0.1), "z": np.uint8(0)}, x=[[-1, -0.06, -0.04, 0.1, 25.5, 25.54, 25.56, 30]])
    np.testing.assert_allclose(found, [[0, 0, 1, 1, 1, 1, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_windows_of_lowest_levels(dtype) -> None:
    """ONNX Runtime 1.19 gives no index for a maximum that is the lowest level of its type."""
    zero = np.asarray(np.iinfo(dtype).min, dtype)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("MaxPool", ["q"], ["p"], kernel_shape=[2], strides=[2]),
        node("DequantizeLinear", ["p", "s", "z"]),
    ]
    found = gradient(nodes, {"s": F(0.1), "z": zero}, x=[[[0, -3, 1, 2, -1, -2, 0.5, 0]]])
    np.testing.assert_allclose(found, [[[0, 0, 0, 1, 0, 0, 1, 0]]], rtol=1e-6)


def test_output_padding_beyond_the_stride() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((1, 2, 2, 2)).astype(np.float32)
    nodes = [node("ConvTranspose", ["x", "w"], dilations=[3, 3], output_padding=[2, 1])]
    plain = model_of(nodes, {"x": (1, 1, 3, 3)}, {"w": w})
    # ONNX Runtime 1.19 computes such an operator wrongly, so the reference evaluator is asked alone.
    forward = evaluator(plain)
    rows = np.array([forward.run(None, {"x": u.reshape(1, 1, 3, 3)})[0] for u in np.eye(9, dtype=np.float32)])
    seed = rng.standard_normal(rows.shape[1:]).astype(np.float32)
    edited = evaluator(ir.to_proto(add_gradients(opened(plain), of="y", wrt="x").ir_model))
    found = edited.run(["onnxcam/grad/x"], {"x": np.zeros((1, 1, 3, 3), np.float32), "onnxcam/seed": seed})[0]
    np.testing.assert_allclose(found.ravel(), rows.reshape(9, -1) @ seed.ravel(), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:overflow")  # in the evaluator's own forward pass
@pytest.mark.parametrize("scale", [1e-5, 3e3])
def test_gradients_of_float16_neither_vanish_nor_overflow(scale) -> None:
    """Two factors whose product float16 holds, but not what lies between; and a square that it does not hold."""
    weights = {"a": np.array([scale], np.float16), "b": np.array([1 / scale], np.float16), "c": np.ones(2, np.float16)}
    nodes = [node("Mul", ["x", "b"], ["u"]), node("Mul", ["u", "a"], ["v"]), node("Mul", ["v", "a"], ["w"])]
    nodes += [node("LayerNormalization", ["w", "c"], epsilon=0.0)]
    wide = [{k: v.astype(np.float64) for k, v in weights.items()}, np.float64, np.array([[300, 100]], np.float64)]
    narrow = [weights, np.float16, np.array([[300, 100]], np.float16)]
    found = []
    for held, dtype, x in (narrow, wide):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        values = [helper.make_tensor_value_info(n, kind, [1, 2]) for n in "xy"]
        initializers = [onnx.numpy_helper.from_array(v, k) for k, v in held.items()]
        graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializers)
        plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        edited = ir.to_proto(add_gradients(opened(plain), of="w", wrt="x").ir_model)
        seed = np.array([[1e-4, 300]], np.float32 if dtype == np.float16 else np.float64)
        found.append(evaluator(edited).run(["onnxcam/grad/x"], {"x": x, "onnxcam/seed": seed})[0])
    assert found[0].dtype == np.float32
    np.testing.assert_allclose(found[0], found[1], rtol=5e-3)


REFUSED = {
    "Dropout in training": ([node("Dropout", ["x", "", "true"])], "training_mode=1"),
    "automatic padding, stride beyond the kernel": (
        [node("ConvTranspose", ["x", "k"], auto_pad="SAME_UPPER", strides=[2, 2])],
        "stride beyond the kernel",
    ),
}
WEIGHTS = {
    "c": np.ones(2, F),
    "true": np.asarray(True),
    "sizes": np.array([2, 2, 7, 7]),
    "w": np.ones(2, F),
    "scales": np.array([1, 1, 1.2, 2], F),
    "k": np.ones((2, 2, 1, 1), F),
    "zero": np.uint8(0),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals_name_node_operator_opset_and_reason(what) -> None:
    nodes, reason = REFUSED[what]
    wrt = ["x", "v"] if "v" in nodes[0].input else ["x"]
    used = {i for n in nodes for i in n.input}
    weights = {k: v for k, v in WEIGHTS.items() if k in used}
    proto = model_of(nodes, {"x": (2, 2, 2, 2)} | ({"v": (2,)} if "v" in wrt else {}), weights)
    model = opened(proto)
    with pytest.raises(GradientError, match=rf"(?s)\(node \w+, opset 18\): .*({reason})"):
        add_gradients(model, of="y", wrt=wrt)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        *[(-3, -0.2), (-0.3, 0.1), (0, 6), (0, 1e-3), (1e-3, 1), (6, 8e5), (7e5, 8e5), (-5, 0), (2e-38, 1)],
        *[(-1, -1e-35), (-3e37, 6), (0, 2e37)],
    ],
)
def test_a_clip_passes_the_gradient_up_to_the_last_number_before_its_bounds(low, high) -> None:
    low, high = F(low), F(high)
    tiny = np.finfo(np.float32).smallest_normal
    above = np.nextafter(low, F(np.inf)) if low else tiny
    below = np.nextafter(high, F(-np.inf)) if high else -tiny
    x = [[-F(3e38), np.nextafter(low, -F(np.inf)), low, above, (low + high) / 2, below, high, F(3e38)]]
    found = gradient([node("Clip", ["x", "low", "high"])], {"low": low, "high": high}, x=x)
    assert found == [[0, 0, 0, 1, 1, 1, 0, 0]]


def test_relu_passes_the_gradient_from_the_smallest_normal_number_on() -> None:
    tiny = np.finfo(np.float32).smallest_normal
    x = [-np.inf, -3e38, -tiny, -0.0, 0.0, tiny, 1e-30, 3e38, np.inf]
    assert gradient([node("Relu", ["x"])], seed=np.full(9, 2.0), x=x) == [0, 0, 0, 0, 0, 2, 2, 2, 2]


@pytest.mark.parametrize(("op", "bounds"), [("Relu", {}), ("Clip", {"low": F(0), "high": F(6)})])
def test_no_mask_rests_on_a_beta_of_zero(op, bounds) -> None:
    """OpenVINO reads it as the default, 0.5."""
    edited = add_gradients(opened(model_of([node(op, ["x", *bounds])], {"x": (3,)}, bounds)), of="y", wrt=["x"])
    masks = [n for n in edited.ir_model.graph if n.op_type == "HardSigmoid"]
    assert [n.attributes["beta"].as_float() != 0 for n in masks] == [True] * (len(bounds) or 1)


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.3])
def test_the_slope_of_a_leaky_relu_is_exact(slope) -> None:
    x = [-3e38, -1e-30, 0.0, 1e-30, 3e38]
    found = gradient([node("LeakyRelu", ["x"], alpha=slope)], x=x)
    assert found == [F(slope), F(slope), F(slope), 1, 1]


def test_the_lowest_and_the_highest_number_are_no_bounds() -> None:
    """As old exporters write a Clip that has one bound."""
    most = np.finfo(np.float32).max
    x = [-7.0, 0.0, 5.0, 7.0]
    assert gradient([node("Clip", ["x", "low", "high"])], {"low": -most, "high": F(6)}, x=x) == [1, 1, 1, 0]
    assert gradient([node("Clip", ["x", "low", "high"])], {"low": F(0), "high": most}, x=x) == [0, 0, 1, 1]
    assert gradient([node("ThresholdedRelu", ["x"], alpha=-float(most))], x=x) == [1, 1, 1, 1]
