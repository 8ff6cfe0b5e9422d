from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from graphs import load

from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.graph.surgery import cut, expose, join, make_batch_dynamic, rename, splice
from onnxcam.runtime import Session

BODY = """(float[{n},3,8,8] x) => (float[{n},5] y) {{
    a = Conv <pads = [1,1,1,1]> (x, w)
    r = Relu (a)
    p = GlobalAveragePool (r)
    k = Constant <value_ints = [{first}, 4]> ()
    f = Reshape (p, k)
    z = Gemm <transB = 1> (f, v)
    y = Softmax <axis = 1> (z)
}}"""
W = {"w": (4, 3, 3, 3), "v": (5, 4)}


def model(folder, n="N", first=0):
    return load(folder, BODY.format(n=n, first=first), **W)


def noise(n=2):
    return np.random.default_rng(1).standard_normal((n, 3, 8, 8)).astype(np.float32)


def proto(m):
    return ir.to_proto(m.ir_model).SerializeToString(deterministic=True)


def test_exposing_adds_outputs_and_changes_nothing_else(tmp_path):
    given = model(tmp_path)
    before = proto(given)
    y, a, r = Session(expose(given, ["a", "r"])).run({"x": noise()})
    np.testing.assert_array_equal(r, np.maximum(a, 0))
    np.testing.assert_array_equal(y, Session(given).run({"x": noise()})[0])
    assert proto(given) == before


def test_head_and_tail_join_to_the_whole(tmp_path):
    given = model(tmp_path)
    head, tail = cut(given, ["x"], ["r"]), cut(given, ["r"], ["y"])
    between = Session(head).run({"x": noise()})[0]
    np.testing.assert_allclose(Session(tail).run({"r": between})[0], Session(given).run({"x": noise()})[0], rtol=1e-6)
    assert len(head.graph) + len(tail.graph) == len(given.graph)


def test_a_cut_that_needs_more_inputs_is_refused(tmp_path):
    body = "(float[1,3,8,8] x) => (float[1,3,8,8] y) { a = Relu (x) b = Neg (x) y = Add (a, b) }"
    with pytest.raises(OptionError, match="cannot cut"):
        cut(load(tmp_path, body), ["a"], ["y"])


def test_renaming_keeps_the_graph(tmp_path):
    given = model(tmp_path)
    renamed = rename(given, {"r": "features", "y": "probabilities"})
    assert [v.name for v in renamed.outputs] == ["probabilities"]
    np.testing.assert_array_equal(Session(renamed).run({"x": noise()})[0], Session(given).run({"x": noise()})[0])
    with pytest.raises(OptionError, match="taken"):
        rename(given, {"r": "z"})
    with pytest.raises(UnknownNameError, match="known"):
        rename(given, {"q": "b"})


@pytest.mark.parametrize("first", [1, 0, -1])
def test_a_fixed_batch_axis_is_freed(tmp_path, first):
    fixed = model(tmp_path, n=1, first=first)
    free = make_batch_dynamic(fixed)
    x = noise(3)
    want = np.concatenate([Session(fixed).run({"x": x[k : k + 1]})[0] for k in range(3)])
    np.testing.assert_allclose(Session(free).run({"x": x})[0], want, rtol=1e-5)
    assert (fixed.image_input.batch, free.image_input.batch) == (1, None)


def test_a_batch_axis_that_an_operator_fixes_stays(tmp_path):
    body = """(float[1,3,8,8] x) => (float[2,3,8,8] y) {
        y = Concat <axis = 0> (x, x)
    }"""
    with pytest.raises(OptionError, match="cannot be freed: nodes that fix it: y"):
        make_batch_dynamic(load(tmp_path, body))


def test_a_reshape_that_mixes_images_stays(tmp_path):
    body = """(float[1,3,8,8] x) => (float[3,64] y) {
        k = Constant <value_ints = [3, 64]> ()
        y = Reshape (x, k)
    }"""
    with pytest.raises(OptionError, match="cannot be freed"):
        make_batch_dynamic(load(tmp_path, body))


@pytest.mark.parametrize("zero", [False, True])
def test_a_reshape_that_counts_zeros_as_lengths_is_freed_where_it_has_none(tmp_path, zero):
    """PyTorch's exporter writes allowzero=1 into every Reshape; a 0 there is an empty axis, no copy."""
    shape = "[1, 0, 4]" if zero else "[1, 192]"
    body = f"""(float[1,3,8,8] x) => (float[1,k] y) {{
        k = Constant <value_ints = {shape}> ()
        y = Reshape <allowzero = 1> (x, k)
    }}"""
    fixed = load(tmp_path, body)
    if zero:
        with pytest.raises(OptionError, match="cannot be freed"):
            make_batch_dynamic(fixed)
        return
    x = noise(3)
    np.testing.assert_array_equal(Session(make_batch_dynamic(fixed)).run({"x": x})[0], x.reshape(3, 192))


def test_a_spliced_value_is_an_input_that_can_be_found(tmp_path):
    given = model(tmp_path)
    before, x = proto(given), noise()
    edited = splice(given, "r", "features")
    assert edited.values["features"].is_graph_input()
    assert not {"a", "r", "w"} & set(edited.values)
    r, y = (Session(m).run({"x": x})[k] for m, k in ((expose(given, ["r"]), 1), (given, 0)))
    np.testing.assert_array_equal(Session(edited).run({"features": r, "x": x})[0], y)
    assert proto(given) == before


# Two models as one

FIRST = """(float[N,3,8,8] x) => (float[N,4,8,8] features, float[N,3,8,8] twice) {
    a = Conv <pads = [1,1,1,1]> (x, w)
    features = Relu (a)
    twice = Add (x, x)
}"""
SECOND = """(float[N,4,8,8] features, float[N,5] shift) => (float[N,5] z) {
    a = Relu (features)
    p = GlobalAveragePool (a)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, w)
    z = Add (y, shift)
}"""


def two(folder, second=SECOND):
    (folder / "b").mkdir()
    return load(folder, FIRST, w=(4, 3, 3, 3)), load(folder / "b", second, w=(5, 4))


@pytest.mark.parametrize("names", [None, {"features": "features"}])
def test_two_models_joined_give_what_one_after_the_other_gives(tmp_path, names):
    first, second = two(tmp_path)
    shift = np.float32([[1, 2, 3, 4, 5]] * 2)
    features, _ = Session(first).run({"x": noise()})
    (want,) = Session(second).run({"features": features, "shift": shift})
    before = proto(first), proto(second)
    whole = join(first, second, names)
    (found,) = Session(whole, optimize=False).run({"x": noise(), "shift": shift})
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    assert [v.name for v in whole.inputs] == ["x", "shift"]
    assert [v.name for v in whole.outputs] == ["z"]
    assert "second/a" in whole.values  # the name was taken, and so was the weight's
    assert (proto(first), proto(second)) == before


def test_files_of_weights_are_those_of_both(tmp_path):
    first, second = two(tmp_path)
    first, second = (replace(m, weights=(tmp_path / n,)) for m, n in ((first, "a.data"), (second, "b.data")))
    assert join(first, second).weights == (tmp_path / "a.data", tmp_path / "b.data")


def test_other_names_that_fit_one_way_only_are_joined(tmp_path):
    first, second = two(tmp_path, SECOND.replace("features", "maps"))
    assert [v.name for v in join(first, second).inputs] == ["x", "shift"]


@pytest.mark.parametrize(
    ("second", "names", "error", "say"),
    [
        (SECOND, {"feature": "features"}, UnknownNameError, "did you mean 'features'"),
        (SECOND, {"features": "shift"}, OptionError, "their shapes differ"),
        (SECOND, {"twice": "features"}, OptionError, "their shapes differ"),
        (SECOND.replace("float[N,4,8,8] features", "float16[N,4,8,8] features").replace("a = Relu (features)",
         "h = Relu (features) a = Cast <to=1> (h)"), None, OptionError, "their types differ"),
        (SECOND.replace("features", "maps").replace("float[N,4,8,8]", "float[N,C,8,8]"), None, OptionError,
         "Name the pairs"),
    ],
)  # fmt: skip
def test_models_that_do_not_follow_each_other_are_refused(tmp_path, second, names, error, say):
    first, behind = two(tmp_path, second)
    with pytest.raises(error, match=say):
        join(first, behind, names)
