from __future__ import annotations

import pytest
from graphs import load

from onnxcam.errors import ModelError, UnknownNameError
from onnxcam.graph.activations import activation_sites
from onnxcam.graph.inspect import find_logits, target_layers
from onnxcam.graph.paths import cuts, first_float, float_path
from onnxcam.graph.pixels import input_convention

HEAD = "(float[N,3,8,8] x) => ({out})"
TRUNK = """
    a = Conv <pads = [1,1,1,1]> (x, w)
    r = Relu (a)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    z = Gemm <transB = 1> (f, v)
"""
W = {"w": (4, 3, 3, 3), "v": (5, 4)}


def classifier(folder, ending, out="float[N,5] y", **weights):
    return load(folder, f"(float[N,3,8,8] x) => ({out}) {{ {TRUNK} {ending} }}", **W, **weights)


@pytest.mark.parametrize(
    ("ending", "stepped"),
    [
        ("y = Identity (z)", ("Identity",)),
        ("y = Softmax <axis = 1> (z)", ("Softmax",)),
        ("y = LogSoftmax <axis = -1> (z)", ("LogSoftmax",)),
        ("y = Sigmoid (z)", ("Sigmoid",)),
        ("s = Softmax <axis = 1> (z) y = Identity (s)", ("Softmax", "Identity")),
        ("s = Softmax <axis = 1> (z) d = Cast <to = 10> (s) y = Cast <to = 1> (d)", ("Softmax", "Cast", "Cast")),
        ("k = Constant <value_ints = [0, 5]> () q = Reshape (z, k) y = Softmax <axis = 1> (q)", None),
    ],
)
def test_endings_are_stepped_over(tmp_path, ending, stepped):
    logits = find_logits(classifier(tmp_path, ending))
    if stepped is None:
        assert (logits.name, logits.stepped_over) == ("q", ("Softmax",))
    else:
        assert (logits.name, logits.stepped_over) == ("z", stepped)
    assert (logits.kind, logits.class_axis, logits.classes) == ("classes", 1, 5)


def test_quantisers_behind_the_softmax_and_before_it_are_stepped_over(tmp_path):
    ending = """
        s = Constant <value_float = 0.1> ()
        zp = Constant <value = uint8 {0}> ()
        q = QuantizeLinear (z, s, zp)
        d = DequantizeLinear (q, s, zp)
        p2 = Softmax <axis = 1> (d)
        q2 = QuantizeLinear (p2, s, zp)
        y = DequantizeLinear (q2, s, zp)
    """
    logits = find_logits(classifier(tmp_path, ending))
    assert logits.name == "z"
    assert logits.stepped_over == (
        "QuantizeLinear", "DequantizeLinear", "Softmax", "QuantizeLinear", "DequantizeLinear",
    )  # fmt: skip


def test_a_convolution_as_classifier_has_its_logits_behind_the_pool(tmp_path):
    model = load(
        tmp_path,
        """(float[N,3,8,8] x) => (float[N,5,1,1] y) {
            a = Conv <pads = [1,1,1,1]> (x, w)
            r = Relu (a)
            c = Conv (r, v)
            p = GlobalAveragePool (c)
            y = Softmax <axis = 1> (p)
        }""",
        w=(4, 3, 3, 3),
        v=(5, 4, 1, 1),
    )
    logits = find_logits(model)
    assert (logits.name, logits.kind, logits.classes) == ("p", "classes", 5)
    assert "one channel per class" in target_layers(model, logits)[0].reason


def test_of_several_outputs_the_scores_are_chosen_and_others_can_be_named(tmp_path):
    model = classifier(tmp_path, "y = Softmax <axis = 1> (z)", out="float[N,4] f, float[N,5] y")
    assert find_logits(model).output == "y"
    assert find_logits(model, "f").name == "f"
    with pytest.raises(UnknownNameError, match="known: f, y"):
        find_logits(model, "g")


def test_integer_outputs_alone_are_refused(tmp_path):
    model = classifier(tmp_path, "y = Cast <to = 7> (z)", out="int64[N, 5] y")
    with pytest.raises(ModelError, match="no output holds scores"):
        find_logits(model)


def layers(model):
    return [layer.name for layer in target_layers(model, find_logits(model))]


def test_the_layer_is_the_last_map_after_its_activation_and_before_pooling(tmp_path):
    assert layers(classifier(tmp_path, "y = Softmax <axis = 1> (z)")) == ["r", "a"]


def test_residual_branches_count_only_where_they_meet(tmp_path):
    body = """(float[N,3,8,8] x) => (float[N,5] z) {
        a = Conv <pads = [1,1,1,1]> (x, w)
        r = Relu (a)
        b = Conv <pads = [1,1,1,1]> (r, u)
        br = Relu (b)
        s = Add (br, r)
        m = MaxPool <kernel_shape = [2,2], strides = [2,2]> (s)
        p = GlobalAveragePool (m)
        f = Flatten (p)
        z = Gemm <transB = 1> (f, v)
    }"""
    assert layers(load(tmp_path, body, u=(4, 4, 3, 3), **W)) == ["s", "r", "a"]


def test_squeeze_and_excitation_ends_at_its_product(tmp_path):
    body = """(float[N,3,8,8] x) => (float[N,5] z) {
        a = Conv <pads = [1,1,1,1]> (x, w)
        g = GlobalAveragePool (a)
        e = Conv (g, u)
        q = Sigmoid (e)
        s = Mul (a, q)
        p = GlobalAveragePool (s)
        f = Flatten (p)
        z = Gemm <transB = 1> (f, v)
    }"""
    assert layers(load(tmp_path, body, u=(4, 4, 1, 1), **W)) == ["s", "a"]


def test_a_picture_that_is_only_moved_about_is_no_layer(tmp_path):
    """Strided views come out of exporters as a Gather with indices from Shape and Range."""
    body = """(float[N,3,8,8] x) => (float[N,5] z) {
        s = Shape (x)
        two = Constant <value = int64 {2}> ()
        n = Gather (s, two)
        zero = Constant <value = int64 {0}> ()
        one = Constant <value = int64 {1}> ()
        i = Range (zero, n, one)
        k = Gather <axis = 2> (x, i)
        h = Mul (k, half)
        a = Conv <pads = [1,1,1,1]> (h, w)
        p = GlobalAveragePool (a)
        f = Flatten (p)
        z = Gemm <transB = 1> (f, v)
    }"""
    assert layers(load(tmp_path, body, half=(1,), **W)) == ["a"]


def test_channels_last_maps_say_so_or_are_taken_before_the_transposition(tmp_path):
    body = """(float[N,8,8,3] x) => (float[N,5] z) {
        t = Transpose <perm = [0,3,1,2]> (x)
        a = Conv <pads = [1,1,1,1]> (t, w)
        b = Transpose <perm = [0,2,3,1]> (a)
        r = Relu (b)
        axes = Constant <value_ints = [1, 2]> ()
        p = ReduceMean <keepdims = 0> (r, axes)
        z = Gemm <transB = 1> (p, v)
    }"""
    model = load(tmp_path, body, **W)
    found = target_layers(model, find_logits(model))
    assert [(layer.name, layer.layout) for layer in found] == [("r", "NHWC"), ("a", "NCHW")]


def test_a_network_without_maps_has_no_layer(tmp_path):
    body = """(float[N,3,8,8] x) => (float[N,5] z) {
        f = Flatten (x)
        z = Gemm <transB = 1> (f, v)
    }"""
    assert layers(load(tmp_path, body, v=(5, 192))) == []


def test_cuts_are_the_values_that_every_path_passes(tmp_path):
    model = classifier(tmp_path, "y = Softmax <axis = 1> (z)")
    path = float_path(model.values["y"], [model.values["x"]])
    assert [v.name for v in cuts(path, model.values["x"])] == ["a", "r", "p", "f", "z", "y"]


def test_integer_pixels_become_float_where_they_are_cast(tmp_path):
    body = """(uint8[N,8,8,3] x) => (float[N,5] z) {
        t = Transpose <perm = [0,3,1,2]> (x)
        d = Cast <to = 1> (t)
        a = Conv <pads = [1,1,1,1]> (d, w)
        p = GlobalAveragePool (a)
        f = Flatten (p)
        z = Gemm <transB = 1> (f, v)
    }"""
    model = load(tmp_path, body, **W)
    assert first_float(model.values["x"]).name == "d"
    assert (model.image_input.layout, model.image_input.channels) == ("NHWC", 3)
    assert input_convention(model).preset == "raw"


@pytest.mark.parametrize(
    ("front", "preset"),
    [
        ("h = Sub (x, c) ", "raw"),
        ("m = Div (x, c) h = Sub (m, s)", "raw"),
        ("h = Sub (x, s)", "unit"),
        ("h = Identity (x)", None),
    ],
)
def test_normalisation_in_front_tells_the_range_of_pixels(tmp_path, front, preset):
    body = f"""(float[N,3,8,8] x) => (float[N,5] z) {{
        c = Constant <value_float = 127.5> ()
        s = Constant <value_float = 0.5> ()
        {front}
        a = Conv <pads = [1,1,1,1]> (h, w)
        p = GlobalAveragePool (a)
        f = Flatten (p)
        z = Gemm <transB = 1> (f, v)
    }}"""
    found = input_convention(load(tmp_path, body, **W))
    assert (found.preset if found else None) == preset


CONSTANTS = """
    zero = Constant <value_float = 0.0> ()
    three = Constant <value_float = 3.0> ()
    six = Constant <value_float = 6.0> ()
"""


@pytest.mark.parametrize(
    ("activation", "rectifiers", "sites"),
    [
        ("y = Relu (x)", 1, 1),
        ("y = Clip (x, zero, six)", 1, 1),
        ("y = Max (x, zero)", 1, 1),
        ("y = LeakyRelu (x)", 1, 1),
        ("r = Relu (x) y = Min (r, six)", 1, 1),
        ("r = Relu (x) y = Relu (r)", 2, 2),
        ("y = Clip (x, three, six)", 0, 0),
        ("y = Max (x, three)", 0, 0),
        ("s = Sigmoid (x) y = Mul (x, s)", 0, 1),
        ("y = Sigmoid (x)", 0, 0),
        ("a = Add (x, three) c = Clip (a, zero, six) m = Mul (x, c) y = Div (m, six)", 0, 1),
        ("h = HardSigmoid (x) y = Mul (x, h)", 0, 1),
        ("y = HardSwish (x)", 0, 1),
        ("k = Div (x, six) e = Erf (k) a = Add (e, three) m = Mul (x, a) y = Mul (m, six)", 0, 1),
    ],
)
def test_activation_sites(tmp_path, activation, rectifiers, sites):
    model = load(tmp_path, f"(float[1,3,8,8] x) => (float[1,3,8,8] y) {{ {CONSTANTS} {activation} }}")
    found = activation_sites(float_path(model.values["y"], [model.values["x"]]))
    assert (sum(s.rectifier for s in found), len(found)) == (rectifiers, sites)


def test_a_shape_read_from_integer_pixels_is_no_second_way(tmp_path):
    body = """(uint8[N,3,8,8] x) => (float[N,5] z, int64[4] s) {
        s = Shape (x)
        d = Cast <to = 1> (x)
        a = Conv <pads = [1,1,1,1]> (d, w)
        p = GlobalAveragePool (a)
        f = Flatten (p)
        z = Gemm <transB = 1> (f, v)
    }"""
    assert first_float(load(tmp_path, body, **W).values["x"]).name == "d"


def test_a_patch_embedding_before_attention_is_no_layer(tmp_path):
    body = """(float[N,3,8,8] x) => (float[N,5] z) {
        a = Conv <strides = [2,2]> (x, w)
        k = Constant <value_ints = [0, 4, -1]> ()
        t = Reshape (a, k)
        u = Transpose <perm = [0,2,1]> (t)
        m = MatMul (u, t)
        b = MatMul (m, u)
        axes = Constant <value_ints = [1]> ()
        p = ReduceMean <keepdims = 0> (b, axes)
        z = Gemm <transB = 1> (p, v)
    }"""
    assert layers(load(tmp_path, body, **W)) == ["b"]
