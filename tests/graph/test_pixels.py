"""What the first nodes of a graph tell of its pixels; expected ranges are worked out by hand from the constants."""

from __future__ import annotations

import builders
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small import saved

from onnxcam.graph.pixels import input_convention, input_range
from onnxcam.model import load_model

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
CHANNEL = (1, 3, 1, 1)
BACK = "a = Conv <pads = [1,1,1,1]> (h, w) p = GlobalAveragePool (a) f = Flatten (p) z = Gemm <transB = 1> (f, v)"
W = {"w": (4, 3, 3, 3), "v": (5, 4)}


def found(folder, front, head="float[N,3,8,8] x", **constants):
    arrays = {name: np.asarray(c) for name, c in constants.items()}
    fact = input_convention(
        load_model(saved(folder / "m.onnx", f"({head}) => (float[N,5] z) {{ {front} {BACK} }}", **W, **arrays))
    )
    return None if fact is None else (fact.preset, fact.color)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("front", "constants", "expected"),
    [
        ("m = Sub (x, c) h = Div (m, s)", {"c": MEAN.reshape(CHANNEL), "s": STD.reshape(CHANNEL)}, ("unit", "RGB")),
        ("m = Sub (x, c) h = Div (m, s)", {"c": 255 * MEAN.reshape(3, 1, 1), "s": np.float32(58)}, ("raw", "RGB")),
        ("h = Sub (x, c)", {"c": 255 * MEAN[::-1].reshape(CHANNEL)}, ("raw", "BGR")),
        ("h = Sub (x, c)", {"c": np.float32([104, 117, 123]).reshape(CHANNEL)}, ("raw", "BGR")),
        ("h = Add (c, x)", {"c": np.float32([-123.68, -116.78, -103.94]).reshape(CHANNEL)}, ("raw", "RGB")),
        ("m = Mul (x, s) n = Sub (m, c) h = Div (n, t)",
         {"s": np.float32(1 / 255), "c": MEAN.reshape(CHANNEL), "t": STD.reshape(CHANNEL)}, ("raw", "RGB")),
        ("m = Mul (x, s) h = Sub (m, c)", {"s": np.float32(2), "c": np.float32(1)}, ("unit", None)),  # 2x - 1
        ("m = Div (x, s) h = Sub (m, c)", {"s": np.float32(127.5), "c": np.float32(1)}, ("raw", None)),
        ("h = Mul (x, s)", {"s": np.float32(1 / 255)}, ("raw", None)),
        ("h = Mul (x, s)", {"s": np.float32(1 / 256)}, ("raw", None)),
        ("h = Mul (x, s)", {"s": np.float32(255)}, ("unit", None)),
        ("m = Sub (x, c) h = Div (m, s)",  # CIFAR-10's
         {"c": np.float32([0.4914, 0.4822, 0.4465]).reshape(CHANNEL),
          "s": np.float32([0.247, 0.243, 0.261]).reshape(CHANNEL)}, ("unit", None)),
        ("m = Sub (x, c) h = Mul (m, s)", {"c": np.float32(0.5), "s": np.float32(2)}, ("unit", None)),
        ("h = Sub (x, c)", {"c": np.float32(0.5)}, ("unit", None)),
        ("m = Sub (x, c) h = Div (m, s)", {"c": np.float32(0.44), "s": np.float32(0.2)}, ("unit", None)),
        ("m = Mul (x, s) h = Sub (m, c)", {"s": np.float32(255), "c": 255 * MEAN.reshape(CHANNEL)}, ("unit", "RGB")),
        ("m = Add (x, c) h = Mul (m, s)", {"c": np.float32(1), "s": np.float32(0.5)}, ("tf", None)),  # (x + 1) / 2
        ("h = Sub (c, x)", {"c": np.float32(255)}, ("raw", None)),  # inverted grey
        ("m = Cast <to = 10> (x) n = Sub (m, c) h = Cast <to = 1> (n)",
         {"c": (255 * MEAN).reshape(CHANNEL).astype(np.float16)}, ("raw", "RGB")),
        ("u = Unsqueeze (c, ax) h = Sub (x, u)", {"c": 255 * MEAN, "ax": np.int64([1, 2])}, ("raw", "RGB")),
        ("m = Sub (c, x) h = Sub (m, k)",  # inverted: 255 - x, minus its mean
         {"c": np.float32(255), "k": (255 - 255 * MEAN).reshape(CHANNEL)}, ("raw", "RGB")),
        # nothing is certain here
        ("h = Identity (x)", {}, None),
        ("h = Mul (x, s)", {"s": np.float32(0.458)}, None),
        ("h = Mul (x, s)", {"s": np.float32(0.017)}, None),  # Caffe's DenseNet: its mean is subtracted outside
        ("h = Mul (x, s)", {"s": np.float32(1 / 127.5)}, None),  # Caffe's MobileNet, the same
        ("h = Mul (x, s)", {"s": np.float32(1 / 128)}, None),  # MTCNN, the same
        ("h = Mul (x, s)", {"s": np.float32(1.1 / 255)}, None),
        ("h = Mul (x, s)", {"s": np.float32(400)}, None),
        ("m = Mul (x, s) h = Add (m, c)",  # a BatchNormalization written out, of ImageNet-normalised pictures
         {"s": np.float32(1.02), "c": np.float32([-0.03, -0.05, -0.02]).reshape(CHANNEL)}, None),
        ("m = Mul (x, s) h = Add (m, c)",
         {"s": np.float32(1.02), "c": np.float32([-0.46, -0.33, -0.52]).reshape(CHANNEL)}, None),
        ("m = Sub (x, c) h = Div (m, s)", {"c": np.float32(0.1), "s": np.float32(0.2)}, None),
        ("m = Mul (x, s) h = Sub (m, c)",  # ImageNet's numbers turned into Inception's: x is normalised already
         {"s": (STD / 0.5).reshape(CHANNEL), "c": ((0.5 - MEAN) / 0.5).reshape(CHANNEL)}, None),
        ("h = Sub (x, c)", {"c": np.float32(1.5)}, None),
        ("h = Sub (x, c)", {"c": np.float32(4000)}, None),  # 12-bit pictures
        ("h = Mul (x, s)", {"s": np.float32([0, 1, 1]).reshape(CHANNEL)}, None),
        ("m = Sub (x, c) o = Relu (x) h = Add (m, o)", {"c": np.float32(127.5)}, None),
        ("h = Mul (x, x)", {}, None),
        ("h = Sub (x, c)", {"c": np.float32(np.nan)}, None),
    ],
)  # fmt: skip
def test_the_constants_in_front_tell_range_and_order(tmp_path, front, constants, expected):
    assert found(tmp_path, front, **constants) == expected


@pytest.mark.parametrize(("level", "expected"), [(255.0, ("raw", "BGR")), (1.0, ("unit", "BGR"))])
def test_a_mean_of_the_size_of_the_image_as_matlab_writes(tmp_path, level, expected):
    ramp = np.linspace(-0.1, 0.1, 64).reshape(8, 8)  # its own mean is 0
    image = (MEAN[::-1].reshape(3, 1, 1) + ramp) * level
    assert found(tmp_path, "h = Sub (x, c)", c=image[None].astype(np.float32)) == expected


def test_channels_at_the_end_are_followed_through_a_transpose(tmp_path):
    body = "m = Sub (x, c) h = Transpose <perm = [0,3,1,2]> (m)"
    assert found(tmp_path, body, "float[N,8,8,3] x", c=255 * MEAN[::-1]) == ("raw", "BGR")
    body = "m = Transpose <perm = [0,3,1,2]> (x) h = Sub (m, c)"
    assert found(tmp_path, body, "float[N,8,8,3] x", c=255 * MEAN.reshape(3, 1, 1)) == ("raw", "RGB")


def test_integer_pixels_are_raw_and_what_follows_their_cast_tells_the_order(tmp_path):
    front = "m = Cast <to = 1> (x) h = Sub (m, c)"
    mean = np.float32([103.939, 116.779, 123.68]).reshape(CHANNEL)
    assert found(tmp_path, front, "uint8[N,3,8,8] x", c=mean) == ("raw", "BGR")
    levels = "m = DequantizeLinear (x, s, z0) h = Sub (m, c)"
    steps = {"s": np.float32(1 / 255), "z0": np.uint8(0), "c": MEAN.reshape(CHANNEL)}
    assert found(tmp_path, levels, "uint8[N,3,8,8] x", **steps) == ("raw", "RGB")
    assert found(tmp_path, front, "uint8[N,3,8,8] x", c=np.float32(0)) == ("raw", None)
    assert found(
        tmp_path, "h = DequantizeLinear (x, s, z0)", "int8[N,3,8,8] x", s=np.float32(1 / 127.5), z0=np.int8(0)
    ) == (
        "raw,mean=128",
        None,
    )


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        (255 * MEAN, ("raw", "RGB")),
        (255 * MEAN[::-1], ("raw", "BGR")),
        (np.float32([127, 128, 126]), ("raw", None)),
        (np.float32([0.02, -0.03, 0.01]), None),  # pictures that were normalised before
        (MEAN, None),  # of 0 to 1, or bright ones of -1 to 1: there is no telling
        (np.float32([300, 290, 280]), None),
    ],
)
def test_statistics_of_a_batch_normalisation_tell_grey_levels_from_all_else(tmp_path, mean, expected):
    arrays = {"g": np.ones(3), "b": np.zeros(3), "m": mean, "u": np.full(3, 3000.0)}
    arrays = {name: a.astype(np.float32) for name, a in arrays.items()}
    assert found(tmp_path, "h = BatchNormalization (x, g, b, m, u)", **arrays) == expected


@pytest.mark.parametrize(
    ("scale", "zero", "expected"),
    [
        (1.0, np.uint8(0), "raw"),
        (1 / 255, np.uint8(0), "unit"),
        (2 / 255, np.int8(0), "tf"),  # -1.004 to 0.996
        (2 / 255, np.uint8(127), "tf"),
        (4.758 / 255, np.int8(-14), "imagenet"),  # -2.127 to 2.631
        (4.758 / 255, np.uint8(60), None),
    ],
)
def test_a_quantiser_in_front_covers_the_range_of_its_pictures(tmp_path, scale, zero, expected):
    front = "q = QuantizeLinear (x, s, zp) h = DequantizeLinear (q, s, zp)"
    assert found(tmp_path, front, s=np.float32(scale), zp=zero) == (expected and (expected, None))


def test_normalisation_behind_quantisers_is_seen(tmp_path):
    front = """q = QuantizeLinear (x, s, zp) d = DequantizeLinear (q, s, zp) m = Sub (d, c)
        r = QuantizeLinear (m, s, zs) h = DequantizeLinear (r, s, zs)"""
    constants = {"s": np.float32(1), "zp": np.uint8(0), "zs": np.int8(0), "c": 255 * MEAN.reshape(CHANNEL)}
    assert found(tmp_path, front, **constants) == ("raw", "RGB")


def test_winmls_image_scaler(tmp_path):
    scaler = helper.make_node("ImageScaler", ["image"], ["scaled"], bias=[-123.68, -116.779, -103.939], scale=1.0)
    first = helper.make_node("Conv", ["scaled", "w1", "b1"], ["conv1"], pads=[1, 1, 1, 1])
    image, logits = builders.value("image", ["n", 3, 12, 12]), builders.value("logits", ["n", 4])
    proto = builders.model([scaler, first, *builders.NODES[1:]], [image], [logits], builders.weights(), 7, 3)
    for tensor in proto.graph.initializer:  # before IR version 4 weights are inputs as well
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    onnx.save(proto, tmp_path / "m.onnx")
    fact = input_convention(load_model(tmp_path / "m.onnx"))
    assert fact is not None
    assert (fact.preset, fact.color) == ("raw", "RGB")


def test_one_channel(tmp_path):
    body = "(float[N,1,8,8] x) => (float[N,5] z) { m = Sub (x, c) h = Div (m, s) " + BACK + " }"
    weights = {"w": (4, 1, 3, 3), "v": (5, 4)}
    for mean, std, expected in ((33.3, 78.6, "raw"), (0.1307, 0.3081, "unit")):
        path = saved(tmp_path / "m.onnx", body, **weights, c=np.float32(mean), s=np.float32(std))
        fact = input_convention(load_model(path))
        assert fact is not None
        assert (fact.preset, fact.color) == (expected, None)


def test_one_channel_of_an_unknown_mean(tmp_path):
    body = "(float[N,1,8,8] x) => (float[N,5] z) { m = Sub (x, c) h = Div (m, s) " + BACK + " }"
    path = saved(tmp_path / "m.onnx", body, w=(4, 1, 3, 3), v=(5, 4), c=np.float32(0.13), s=np.float32(0.98))
    assert input_convention(load_model(path)) is None  # MNIST's mean, but not its deviation


@pytest.mark.parametrize(
    ("kind", "zero", "low", "high"),
    [
        (np.uint8, 51, -0.2, 0.8),
        (np.int8, -77, -0.2, 0.8),
        (None, 0, 0.0, 1.0),  # without a zero point: uint8
    ],
)
def test_the_range_that_a_quantiser_holds_behind_what_moves_pixels(tmp_path, kind, zero, low, high):
    given = ", zp" if kind else ""
    nodes = f"t = Transpose <perm = [0,3,1,2]> (x) q = QuantizeLinear (t, s{given}) h = DequantizeLinear (q, s{given})"
    body = f"(float[N,8,8,3] x) => (float[N,5] z) {{ {nodes} {BACK} }}"
    arrays = {**W, "s": np.float32(1 / 255), **({"zp": kind(zero)} if kind else {})}
    held = input_range(load_model(saved(tmp_path / "m.onnx", body, **arrays)))
    assert held == pytest.approx((low, high), abs=1e-5)
