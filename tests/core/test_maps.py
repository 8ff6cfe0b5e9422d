"""Maps against plain loops, ONNX's own reference and Pillow's numbers."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnxcam.core import maps
from onnxcam.core.bands import INTERPOLATIONS
from onnxcam.errors import OptionError, UnknownNameError

pytestmark = pytest.mark.anyruntime
Y, X, C = np.mgrid[:9, :13, :3]
PICTURE = ((37 * Y + 91 * X + 53 * C + 7 * X * Y) % 256).astype(np.uint8)

# Pillow 11.3, Image.fromarray(PICTURE).resize((w, h), ...), the green channel.
PILLOW = {
    ("bilinear", 4, 6): [
        [131, 132, 152, 107, 117, 120],
        [128, 140, 134, 117, 114, 126],
        [138, 136, 134, 126, 148, 149],
        [128, 123, 142, 119, 117, 123],
    ],
    ("bicubic", 4, 6): [
        [130, 132, 159, 104, 115, 120],
        [130, 139, 132, 121, 111, 126],
        [135, 135, 131, 122, 153, 153],
        [128, 121, 144, 123, 114, 121],
    ],
    ("bicubic", 11, 5): [
        [132, 161, 154, 95, 102],
        [114, 146, 109, 107, 151],
        [144, 119, 137, 120, 109],
        [145, 133, 162, 106, 82],
        [102, 164, 122, 91, 136],
        [137, 106, 77, 156, 162],
        [181, 162, 152, 159, 162],
        [111, 120, 132, 140, 140],
        [89, 130, 116, 104, 132],
        [134, 155, 134, 101, 125],
        [159, 94, 149, 152, 97],
    ],
}


def triangle_rows(n_in, n_out):
    """Antialiased bilinear in plain loops: a triangle as wide as an output pixel's spacing, renormalised."""
    scale = n_in / n_out
    width = max(scale, 1.0)
    rows = []
    for i in range(n_out):
        centre = (i + 0.5) * scale
        row = [max(0.0, 1 - abs(j + 0.5 - centre) / width) for j in range(n_in)]
        rows.append([w / sum(row) for w in row])
    return np.array(rows)


def onnx_resize(x, n_out, **attributes):
    node = helper.make_node(
        "Resize", ["x", "", "", "s"], ["y"], coordinate_transformation_mode="half_pixel", **attributes
    )
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [info("x", onnx.TensorProto.FLOAT, [len(x)]), info("s", onnx.TensorProto.INT64, [1])],
        [info("y", onnx.TensorProto.FLOAT, [n_out])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    return ReferenceEvaluator(model).run(None, {"x": x, "s": np.array([n_out], np.int64)})[0]


@pytest.mark.parametrize(("n_in", "n_out"), [(7, 224), (224, 7), (13, 6), (5, 5), (1, 4), (4, 1), (333, 100)])
def test_bilinear_is_a_widened_triangle(n_in, n_out):
    np.testing.assert_allclose(maps.resize_matrix(n_in, n_out), triangle_rows(n_in, n_out), atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [("bilinear", {"mode": "linear"}), ("bicubic", {"mode": "cubic", "cubic_coeff_a": -0.5})],
)
@pytest.mark.parametrize(("n_in", "n_out"), [(7, 31), (14, 9), (6, 6), (5, 12)])
def test_without_antialias_it_is_onnx_resize(kind, attributes, n_in, n_out):
    x = np.random.default_rng(n_in).normal(size=n_in).astype(np.float32)
    ours = maps.resize_matrix(n_in, n_out, kind, antialias=False) @ x
    np.testing.assert_allclose(ours, onnx_resize(x, n_out, **attributes), atol=1e-6)


def test_nearest_takes_the_pixel_under_the_centre():
    # centres of 4 outputs over 6 inputs: 0.75, 2.25, 3.75, 5.25; of 5 over 3: 0.3, 0.9, 1.5, 2.1, 2.7
    assert maps.resize_matrix(6, 4, "nearest").argmax(axis=1).tolist() == [0, 2, 3, 5]
    matrix = maps.resize_matrix(3, 5, "nearest")
    assert matrix.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize("kind", INTERPOLATIONS)
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("n_in", "n_out"), [(7, 224), (100, 9), (1, 3), (2, 1)])
def test_rows_sum_to_one(kind, antialias, n_in, n_out):
    matrix = maps.resize_matrix(n_in, n_out, kind, antialias)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    assert matrix.dtype == np.float32


def test_span_covers_a_part_and_repeats_the_edge():
    ramp = np.arange(8, dtype=np.float32) + 0.5
    inner = maps.resize_matrix(8, 4, span=(2.0, 4.0)) @ ramp  # centres 2.25, 2.75, 3.25, 3.75
    np.testing.assert_allclose(inner, [2.25, 2.75, 3.25, 3.75], atol=1e-6)
    beyond = maps.resize_matrix(8, 3, span=(-3.0, 0.0)) @ ramp
    np.testing.assert_allclose(beyond, 0.5, atol=1e-6)


def test_resize_is_separable_over_leading_axes():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    rows, columns = triangle_rows(4, 9), triangle_rows(5, 3)
    expected = np.zeros((2, 3, 9, 3))
    for n, c, i, j in np.ndindex(2, 3, 9, 3):
        expected[n, c, i, j] = sum(rows[i, k] * x[n, c, k, m] * columns[j, m] for k in range(4) for m in range(5))
    np.testing.assert_allclose(maps.resize(np, x, (9, 3)), expected, atol=1e-6)


def test_resize_refuses_what_it_cannot_do():
    class Unknown:
        shape = (1, "h", 7)

    with pytest.raises(OptionError, match="unknown size"):
        maps.resize(np, Unknown(), (4, 4))
    with pytest.raises(UnknownNameError, match="did you mean 'bilinear'"):
        maps.resize_matrix(3, 4, "bilinaer")
    with pytest.raises(OptionError, match="at least 1"):
        maps.resize_matrix(3, 0)


@pytest.mark.parametrize(("kind", "h", "w"), PILLOW)
def test_pixels_are_pillows(kind, h, w):
    assert maps.resize_pixels(PICTURE, (h, w), kind)[..., 1].tolist() == PILLOW[kind, h, w]


def test_pixels_are_computed_in_pillows_fixed_point():
    """The first of 10 to 4 weighs 7, 9, 5 and 1 over 22; times 2^22, rounded: 1334550, 1715850, 953251 and 190650."""
    above = np.array([0, 0, 11, 0] + [0] * 6, np.uint8)  # 11 * 953251 = 2.5 * 2^22 + 1
    below = np.array([1, 0, 0, 4] + [0] * 6, np.uint8)  # 1334550 + 4 * 190650 = 0.5 * 2^22 - 2
    for pixels, first in ((above, 3), (below, 0)):
        assert maps.resize_pixels(pixels[:, None, None], (4, 1))[0, 0, 0] == first
        assert maps.resize_pixels(pixels[None, :, None], (1, 4))[0, 0, 0] == first


@pytest.mark.parametrize("kind", INTERPOLATIONS)
@pytest.mark.parametrize("antialias", [True, False])
def test_a_window_is_a_cut_of_the_whole(kind, antialias):
    image = np.random.default_rng(1).integers(0, 256, (301, 211, 3), dtype=np.uint8)
    for size in ((97, 80), (400, 500), (301, 20)):
        whole = maps.resize_pixels(image, size, kind, antialias)
        part = maps.resize_pixels(image, size, kind, antialias, (60, 3, 90, 19))
        np.testing.assert_array_equal(part, whole[60:90, 3:19])


def test_pixels_far_larger_than_a_block_follow_the_matrix():
    image = np.random.default_rng(2).integers(0, 256, (700, 2, 1), dtype=np.uint8)
    exact = triangle_rows(700, 150) @ image[:, 0, 0]
    assert np.abs(maps.resize_pixels(image, (150, 2))[:, 0, 0] - exact).max() <= 0.5 + 1e-4


def test_weighted_sum_by_hand():
    A = np.array([[[[1, 2], [3, 4]], [[10, 0], [0, -1]]]], np.float32)
    per_channel = np.array([2, -0.5], np.float32).reshape(1, 2, 1, 1)
    assert maps.weighted_sum(np, per_channel, A).tolist() == [[[-3, 4], [6, 8.5]]]
    per_value = np.array([[[[1, 0], [0, 1]], [[0.5, 7], [7, 2]]]], np.float32)
    assert maps.weighted_sum(np, per_value, A).tolist() == [[[6, 0], [0, 2]]]


def test_relu_keeps_what_is_positive():
    assert maps.relu(np, np.array([-1.0, 0.0, 2.5])).tolist() == [0.0, 0.0, 2.5]


def test_normalize_by_hand_and_per_sample():
    x = np.array([[[-2, 0], [1, 4]], [[1, 1], [3, 5]]], np.float32)
    np.testing.assert_allclose(maps.normalize(np, x, "max"), [[[0, 0], [0.25, 1]], [[0.2, 0.2], [0.6, 1]]], rtol=1e-6)
    np.testing.assert_allclose(maps.normalize(np, x, "minmax"), [[[0, 1 / 3], [0.5, 1]], [[0, 0], [0.5, 1]]], rtol=1e-6)
    assert maps.normalize(np, x, "none") is x


@pytest.mark.parametrize("kind", ["max", "minmax"])
@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1.0, 1e30])
def test_normalize_does_not_care_about_the_scale(kind, scale):
    x = np.array([[0, 1], [3, 4]], np.float32)
    y = maps.normalize(np, x * np.float32(scale), kind)
    np.testing.assert_allclose(y, [[0, 0.25], [0.75, 1]], rtol=1e-5)
    assert y.dtype == np.float32


def test_nothing_is_never_stretched_to_noise():
    noise = np.array([[5, 5], [5, np.nextafter(np.float32(5), np.float32(6))]], np.float32)
    denormal = np.array([[0, 1e-42], [1e-41, 0]], np.float32)
    for flat in (np.zeros((2, 2), np.float32), np.full((2, 2), -3, np.float32), denormal):
        assert maps.normalize(np, flat, "max").tolist() == [[0, 0], [0, 0]]
    for flat in (np.zeros((2, 2), np.float32), np.full((2, 2), -3, np.float32), denormal, noise):
        assert maps.normalize(np, flat, "minmax").tolist() == [[0, 0], [0, 0]]
    assert maps.normalize(np, np.full((2, 2), 3, np.float32), "max").tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("kind", ["max", "minmax"])
def test_nan_stays_visible_and_in_its_sample(kind):
    x = np.array([[[0, 1], [np.nan, 4]], [[0, 1], [2, 4]]], np.float32)
    y = maps.normalize(np, x, kind)
    assert np.isnan(y[0]).all()
    assert y[1].tolist() == [[0, 0.25], [0.5, 1]]


def test_fuse():
    a, b = np.array([[0.0, 1.0]]), np.array([[0.5, 0.25]])
    assert maps.fuse(np, [a, b]).tolist() == [[0.5, 1.0]]
    assert maps.fuse(np, [a, b, b], "mean").tolist() == [[1 / 3, 0.5]]
    with pytest.raises(OptionError, match="at least one"):
        maps.fuse(np, [])
    with pytest.raises(OptionError, match=r"\(1, 2\), \(2, 2\)"):
        maps.fuse(np, [a, np.zeros((2, 2))])
    with pytest.raises(UnknownNameError, match="max, mean"):
        maps.fuse(np, [a], "median")


def test_unknown_normalization():
    with pytest.raises(UnknownNameError, match="did you mean 'minmax'"):
        maps.normalize(np, np.zeros((2, 2)), "min-max")


def test_bicubic_kernel_is_keys():
    # a = -0.5 half a pixel away: 0.5625, one and a half away: -0.0625; whole pixels: 1 and 0
    row = maps.resize_matrix(8, 16, "bicubic")[8]  # centre 4.25: distances 0.25, 0.75, 1.25, 1.75

    def keys(t):
        return 1.5 * t**3 - 2.5 * t**2 + 1 if t < 1 else -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2

    expected = [keys(abs(j + 0.5 - 4.25)) if abs(j + 0.5 - 4.25) < 2 else 0 for j in range(8)]
    np.testing.assert_allclose(row, expected, atol=1e-7)
    assert math.isclose(expected[4], 0.8671875)
