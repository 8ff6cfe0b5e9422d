"""Quantised operators against the files that hold them: the runtime fuses what they are lowered to, level for level."""

from __future__ import annotations

import numpy as np
import pytest
from nodes import Arrays, agree, distance, draw, loaded, one, original
from onnx import helper

from onnxcam import load_model
from onnxcam.runtime import Session

TYPES = {"uint8": np.uint8, "int8": np.int8}
F = np.float32


def levels(name: str, *shape: int, dtype: str = "uint8") -> np.ndarray:
    info = np.iinfo(TYPES[dtype])
    seed = np.random.default_rng(sum(map(ord, name)))
    return seed.integers(info.min, info.max, shape, endpoint=True).astype(TYPES[dtype])


def triple(name: str, array: np.ndarray, scale: float, point: int) -> Arrays:
    """An operand with its scale and zero point."""
    return {name: array, f"{name}_scale": F(scale), f"{name}_point": array.dtype.type(point)}


def after(name: str, dtype: str, scale: float, point: int) -> Arrays:
    return {f"{name}_scale": F(scale), f"{name}_point": TYPES[dtype](point)}


def steps(op: str, operands: Arrays, tmp_path, domain: str = "com.microsoft", **settings) -> int:
    """Run one quantised operator; the first operand is fed. Returns how many levels the loaded model is off by."""
    first = next(k for k in operands if k not in ("y_scale", "y_point"))
    rest = {k: v for k, v in operands.items() if k != first}
    proto = one(op, {first: operands[first]}, rest, order=list(operands), domain=domain)
    proto.graph.node[0].attribute.extend(helper.make_attribute(k, v) for k, v in settings.items())
    want = original(proto, {first: operands[first]})["y"]
    model = loaded(proto, tmp_path)
    assert {n.domain for n in model.graph} == {""}, model.notes
    found = Session(model).run({first: operands[first]})[0]
    assert found.dtype == want.dtype
    assert len(np.unique(want)) > 10, "a test that saturates shows nothing"
    return int(np.abs(found.astype(int) - want.astype(int)).max())


X = {
    "uint8": triple("x", levels("x", 1, 4, 6, 5), 0.02, 110),
    "int8": triple("x", levels("x", 1, 4, 6, 5, dtype="int8"), 0.02, -5),
}


@pytest.mark.parametrize("channels_last", [0, 1])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("x", "w"), [("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")])
@pytest.mark.parametrize("bias", [False, True])
def test_qlinearconv(tmp_path, x, w, per_channel, bias, channels_last):
    weight = triple("w", levels("w", 6, 4, 3, 3, dtype=w) // 4, 0.03, 20 if w == "uint8" and not per_channel else 0)
    if per_channel:
        zero = TYPES[w](100 if w == "uint8" else 0)
        weight |= {"w_scale": np.linspace(0.01, 0.03, 6, dtype=F), "w_point": np.full(6, zero)}
    operands = X[x] | weight | after("y", x, 0.08, X[x]["x_point"])
    if bias:
        operands["b"] = np.arange(-3, 3, dtype=np.int32) * 500
    if channels_last:
        operands["x"] = np.ascontiguousarray(np.moveaxis(operands["x"], 1, -1))
    settings = {"pads": [1, 0, 1, 1], "strides": [1, 2], "kernel_shape": [3, 3]}
    settings |= {"channels_last": 1} if channels_last else {}
    domain = "com.microsoft" if channels_last else ""
    assert steps("QLinearConv", operands, tmp_path, domain, **settings) == 0


def test_one_zero_point_for_scales_per_channel(tmp_path):
    """DequantizeLinear, run by itself, wants as many of both."""
    weight = triple("w", levels("w", 6, 4, 3, 3, dtype="int8"), 0, 0) | {
        "w_scale": np.linspace(0.005, 0.01, 6, dtype=F)
    }
    assert steps("QLinearConv", X["uint8"] | weight | after("y", "uint8", 0.08, 110), tmp_path, "") == 0
    Session(load_model(tmp_path / "model.onnx"), optimize=False).run({"x": X["uint8"]["x"]})


@pytest.mark.parametrize("x", TYPES)
@pytest.mark.parametrize("per_column", [False, True])
def test_qlinearmatmul(tmp_path, x, per_column):
    a = triple("a", levels("a", 2, 5, 8, dtype=x), 0.02, 3)
    b = triple("b", levels("b", 8, 6, dtype=x), 0.01, 7)
    if per_column:
        b |= {"b_scale": np.linspace(0.005, 0.02, 6, dtype=F), "b_point": np.full(6, TYPES[x](7))}
    assert steps("QLinearMatMul", a | b | after("y", x, 0.1, 9), tmp_path, "") == 0


@pytest.mark.parametrize("x", TYPES)
@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("to_float", [False, True])
def test_qgemm(tmp_path, x, flip, to_float):
    a = triple("a", levels("a", 8, 5, dtype=x) if flip else levels("a", 5, 8, dtype=x), 0.02, 3)
    b = triple("b", levels("b", 6, 8, dtype="int8") if flip else levels("b", 8, 6, dtype="int8"), 0.01, 0)
    if flip:
        b |= {"b_scale": np.linspace(0.005, 0.02, 6, dtype=F), "b_point": np.zeros(6, np.int8)}
    c = {"c": np.arange(6, dtype=np.int32) * 300}
    settings = {"transA": flip, "transB": flip, "alpha": 1.0}
    if to_float:
        operands = a | b | c
        proto = one("QGemm", {"a": operands.pop("a")}, operands, **settings)
        feeds = {"a": a["a"]}
        assert distance(Session(loaded(proto, tmp_path)).run(feeds)[0], original(proto, feeds)["y"]) <= 1e-6
    else:
        y = after("y", x, 0.2, 128 if x == "uint8" else 9)
        assert steps("QGemm", a | b | c | y, tmp_path, **settings) == 0


@pytest.mark.parametrize("x", TYPES)
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_qlinear_arithmetic(tmp_path, op, x):
    b = triple("b", levels("b", 4, 1, 1, dtype=x), 0.015, 20)
    assert steps(op, X[x] | b | after("y", x, 0.04, 12), tmp_path) == 0


@pytest.mark.parametrize("x", TYPES)
@pytest.mark.parametrize(
    ("op", "scale", "settings"),
    [
        ("QLinearSigmoid", 1 / 256, {}),
        ("QLinearLeakyRelu", 0.02, {"alpha": 0.2}),
        ("QLinearGlobalAveragePool", 0.01, {"channels_last": 0}),
        ("QLinearGlobalAveragePool", 0.01, {"channels_last": 1}),
        ("QLinearAveragePool", 0.02, {"kernel_shape": [2, 3], "pads": [0, 1, 1, 1], "strides": [1, 2]}),
        ("QLinearAveragePool", 0.02, {"kernel_shape": [2, 2], "channels_last": 1, "count_include_pad": 1}),
        ("QLinearSoftmax", 1 / 256, {"axis": 2, "opset": 13}),
        ("QLinearSoftmax", 1 / 256, {"axis": 3, "opset": 12}),
        ("QLinearSoftmax", 1 / 256, {"axis": 2, "opset": 12}),
    ],
    ids=str,
)
def test_qlinear_functions(tmp_path, op, scale, settings, x):
    operands = X[x] | after("y", x, scale, 0 if "256" in str(scale) else 30)
    if "Global" in op:
        operands["x"] = levels("many", *((1, 2, 2, 40) if settings.get("channels_last") else (1, 40, 2, 2)), dtype=x)
    # The channels-last kernel for int8 rounds a mean differently from the one for channels first.
    assert steps(op, operands, tmp_path, **settings) <= (x == "int8" and settings.get("channels_last", 0))


@pytest.mark.parametrize("keepdims", [0, 1])
def test_qlinearreducemean(tmp_path, keepdims):
    """No build has a kernel for the CPU."""
    x = levels("many", 1, 40, 2, 2)
    operands = triple("x", x, 0.02, 110) | after("y", "uint8", 0.013, 30)
    rest = {k: v for k, v in operands.items() if k != "x"}
    proto = one("QLinearReduceMean", {"x": x}, rest, axes=[2, 3], keepdims=keepdims)
    want = np.clip(np.rint((x.astype(F) - 110).mean((2, 3), keepdims=bool(keepdims)) * 0.02 / 0.013) + 30, 0, 255)
    np.testing.assert_array_equal(Session(loaded(proto, tmp_path)).run({"x": x})[0], want)


def test_qlinearconcat(tmp_path):
    operands = after("y", "uint8", 0.025, 100) | X["uint8"] | triple("b", levels("b", 1, 2, 6, 5), 0.03, 90)
    assert steps("QLinearConcat", operands, tmp_path, axis=1) == 0


def test_qlinearwhere(tmp_path):
    x = X["uint8"]
    operands = {"c": levels("c", 1, 4, 6, 5) > 128} | x | triple("b", levels("b", 1, 4, 6, 5), 0.03, 90)
    assert steps("QLinearWhere", operands | after("y", "uint8", 0.03, 120), tmp_path) == 0


# Integer products, few bits, wide levels


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("b", TYPES)
def test_products_with_their_scales(tmp_path, b, per_column, bias, opset):
    weights = {"b": levels("b", 8, 6, dtype=b), "b_scale": F(0.02), "b_point": TYPES[b](5)}
    if per_column:
        weights |= {"b_scale": np.linspace(0.01, 0.03, 6, dtype=F), "b_point": np.arange(6, dtype=TYPES[b])}
    weights |= {"bias": draw("bias", 6)} if bias else {}
    x = {"x": draw("x", 2, 5, 8)}
    agree(one("DynamicQuantizeMatMul", x, weights, opset=opset), x, tmp_path)
    feeds = {"a": levels("a", 2, 5, 8)}
    scales = {"a_scale": F(0.03), "a_point": np.uint8(7)}
    order = ["a", "b", "a_scale", "b_scale", "a_point", "b_point", *(["bias"] if bias else [])]
    agree(one("MatMulIntegerToFloat", feeds, weights | scales, order=order, opset=opset), feeds, tmp_path)


@pytest.mark.parametrize("bits", [4, 8, 2])
@pytest.mark.parametrize("points", ["none", "packed", "floats"])
@pytest.mark.parametrize("bias", [False, True])
def test_weights_of_few_bits(tmp_path, bits, points, bias):
    n, k, size = 6, 40, 16
    blocks = -(-k // size)
    x = {"x": draw("x", 2, 3, k)}
    weights = {"b": levels("b", n, blocks, size * bits // 8), "scales": draw("s", n * blocks, low=0.01, high=0.1)}
    if points == "packed":
        weights["points"] = levels("p", n * -(-blocks * bits // 8))
    if points == "floats":
        weights["points"] = draw("p", n * blocks, low=1, high=3)
    order = ["x", "b", "scales", "points" if "points" in weights else "", "", "bias" if bias else ""]
    weights |= {"bias": draw("bias", n)} if bias else {}
    proto = one("MatMulNBits", x, weights, order=order, N=n, K=k, bits=bits, block_size=size)
    agree(proto, x, tmp_path, 1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_quantisers_of_microsoft_become_standard_ones(tmp_path, dtype):
    """Opset 21 is the first whose QuantizeLinear takes 16 bits."""
    info, x = np.iinfo(dtype), {"x": draw("x", 2, 3, 4)}
    weights = {"s": F(4 / (info.max - info.min)), "z": np.asarray((info.max + info.min) // 2, dtype)}
    proto = one("QuantizeLinear", x, weights, ["q"])
    proto.graph.node.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], domain="com.microsoft"))
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("y", 1, [2, 3, 4]))
    model = agree(proto, x, tmp_path, 1e-7)
    assert model.opset == (21 if dtype.endswith("16") else 18)
