"""Ranks and lengths that ONNX's own inference leaves open."""

from __future__ import annotations

import numpy as np
import pytest
from builders import model, value, write
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnxcam import add_gradients
from onnxcam.errors import GradientError
from onnxcam.model import Model, dims_of, load_model


def opened(tmp_path, nodes, shape, arrays=None, opset=18, inputs=()) -> Model:
    """A model ``x`` -> ``y`` of these nodes, as users open it; ``inputs`` are further ones."""
    graph_inputs = [value("x", shape), *inputs]
    return load_model(write(tmp_path / "m.onnx", model(nodes, graph_inputs, [value("y", None)], arrays or {}, opset)))


def node(op, inputs, outputs=("y",), **attributes):
    return helper.make_node(op, inputs, list(outputs), **attributes)


SIZES = value("n", [2], 7)  # integers that are known at run time only
OPEN = {
    "Split": ([node("Split", ["x", "n"], ["y", "z"], axis=1)], 3),
    "Reshape": ([node("Reshape", ["x", "n"])], 2),
    "Expand": ([node("Expand", ["x", "n"])], 3),
    "ConstantOfShape": ([node("ConstantOfShape", ["n"], ["c"]), node("Neg", ["c"])], 2),
    "Squeeze": ([node("Squeeze", ["x", "n"])], 1),
    "Unsqueeze": ([node("Unsqueeze", ["x", "n"])], 5),
    "Slice": ([node("Slice", ["x", "n", "n", "n"])], 3),
    "ReduceSum, axes dropped": ([node("ReduceSum", ["x", "n"], keepdims=0)], 1),
    "ReduceSum, axes kept": ([node("ReduceSum", ["x", "n"])], 3),
    "Einsum": ([node("Einsum", ["x", "m"], equation="...ij,jk->...ik")], 3),
    "what reads it": ([node("Reshape", ["x", "n"], ["r"]), node("Relu", ["r"], ["s"]), node("Add", ["s", "r"])], 2),
}


@pytest.mark.parametrize("what", OPEN)
def test_the_number_of_axes_is_told_where_lengths_are_not(tmp_path, what) -> None:
    nodes, rank = OPEN[what]
    loaded = opened(tmp_path, nodes, [2, 3, 4], {"m": np.ones((4, 5), np.float32)}, inputs=[SIZES])
    assert len(dims_of(loaded.values["y"])) == rank


def test_lengths_follow_from_integers_that_are_computed(tmp_path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "last"], ["c"]), node("Div", ["c", "two"], ["half"]),
        node("Concat", ["half", "half"], ["sizes"], axis=0), node("Split", ["x", "sizes"], ["y", "z"], axis=2),
    ]  # fmt: skip
    loaded = opened(tmp_path, nodes, ["n", 3, 4], {"last": np.array([2]), "two": np.array([2])})
    assert dims_of(loaded.values["y"])[1:] == (3, 2)
    assert [n.op_type for n in loaded.graph] == [n.op_type for n in nodes]


def padded_as_same(x: str, to: str, stride: float) -> list:
    """Pad rows and columns for windows of three, ``(ceil(length / stride) - 1) * stride + 3 - length``, by floats."""
    n = {k: f"{to}/{k}" for k in ("shape", "last", "size", "steps", "ceil", "less", "span", "full", "lack", "half")}
    return [
        node("Shape", [x], [n["shape"]]), node("Slice", [n["shape"], "two", "four"], [n["last"]]),
        node("Cast", [n["last"]], [n["size"]], to=1), node("Div", [n["size"], f"stride{stride}"], [n["steps"]]),
        node("Ceil", [n["steps"]], [n["ceil"]]), node("Sub", [n["ceil"], "1.0"], [n["less"]]),
        node("Mul", [n["less"], f"stride{stride}"], [n["span"]]), node("Add", [n["span"], "3.0"], [n["full"]]),
        node("Sub", [n["full"], n["size"]], [n["lack"]]), node("Div", [n["lack"], "2.0"], [n["half"]]),
        node("Floor", [n["half"]], [f"{to}/before"]), node("Ceil", [n["half"]], [f"{to}/after"]),
        node("Concat", ["none", f"{to}/before", "none", f"{to}/after"], [f"{to}/floats"], axis=0),
        node("Cast", [f"{to}/floats"], [f"{to}/pads"], to=7), node("Pad", [x, f"{to}/pads"], [to]),
    ]  # fmt: skip


def test_lengths_that_each_hang_on_the_padding_before(tmp_path) -> None:
    """9 x 8, windows of three: padded 11 x 10 at stride 1; 5 x 4 of stride 2 come of 11 x 9, of 5 x 4 again 7 x 6."""
    nodes = [
        *padded_as_same("x", "p", 1), *padded_as_same("x", "q", 2),
        node("MaxPool", ["q"], ["r"], kernel_shape=[3, 3], strides=[2, 2]), *padded_as_same("r", "y", 1),
    ]  # fmt: skip
    floats = {"1.0": [1, 1], "2.0": [2, 2], "3.0": [3, 3], "stride1": [1, 1], "stride2": [2, 2], "none": [0, 0]}
    arrays = {k: np.array(v, np.float32) for k, v in floats.items()} | {"two": np.array([2]), "four": np.array([4])}
    loaded = opened(tmp_path, nodes, ["n", 3, 9, 8], arrays)
    assert {k: dims_of(loaded.values[k])[1:] for k in "pqry"} == {
        "p": (3, 11, 10), "q": (3, 11, 9), "r": (3, 5, 4), "y": (3, 7, 6),
    }  # fmt: skip
    assert [n.op_type for n in loaded.graph] == [n.op_type for n in nodes]


def test_known_integers_are_noted_where_they_are_computed(tmp_path) -> None:
    """Axes by Range of a rank, as ONNX's function of RMSNormalization has them."""
    nodes = [
        node("Shape", ["x"], ["s"]), node("Size", ["s"], ["rank"]), node("Range", ["one", "rank", "one"], ["axes"]),
        node("ReduceMean", ["x", "axes"]),
    ]  # fmt: skip
    loaded = opened(tmp_path, nodes, [2, 3, 4], {"one": np.int64(1)})
    assert loaded.values["axes"].const_value.numpy().tolist() == [1, 2]
    assert dims_of(loaded.values["y"]) == (2, 1, 1)
    copy = loaded.clone()
    assert copy.values["axes"].const_value.numpy().tolist() == [1, 2]
    saved = loaded.save(tmp_path / "again.onnx")
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    found = ReferenceEvaluator(str(saved)).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, x.mean((1, 2), keepdims=True))


def test_a_mean_variance_normalisation_has_the_shape_of_its_input(tmp_path) -> None:
    loaded = opened(tmp_path, [node("MeanVarianceNormalization", ["x"])], ["n", 3, 4, 5])
    assert dims_of(loaded.values["y"]) == ("n", 3, 4, 5)
    assert [n.op_type for n in loaded.graph] == ["MeanVarianceNormalization"]


def test_attention_of_free_channels_has_free_channels(tmp_path) -> None:
    nodes = [node("Attention", ["x", "x", "x"], ["a"], q_num_heads=2, kv_num_heads=2), node("Neg", ["a"])]
    loaded = opened(tmp_path, nodes, ["n", "t", "c"], opset=23)
    assert dims_of(loaded.values["a"])[2] != 0


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("opset", [18, 22])
def test_a_window_that_starts_in_the_padding_behind_may_count_or_not(tmp_path, op, opset) -> None:
    """7 + 2 in steps of 2 are 5 windows of 2 rounded up, the last of which sees nothing; 6 + 2 are 4."""
    setting = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}
    nodes = [node(op, ["x"], ["p"], **setting), node(op, ["p"], ["q"], **setting), node("Relu", ["q"])]
    loaded = opened(tmp_path, nodes, ["n", 2, 7, 6], opset=opset)
    free = [not isinstance(d, int) for d in (*dims_of(loaded.values["p"])[2:], *dims_of(loaded.values["y"])[2:])]
    assert free == [opset < 22, False] * 2
    assert {n.domain for n in loaded.graph} == {""}
    if opset < 22:
        with pytest.raises(GradientError, match=r"(?s)Pool \(node p, opset 18\): a last window.*export with opset 22"):
            add_gradients(loaded, of="y", wrt="q")


def test_inputs_with_a_default_are_told(tmp_path) -> None:
    weight = value("w", [2])
    loaded = opened(tmp_path, [node("Add", ["x", "w"])], [3, 2], {"w": np.ones(2, np.float32)}, inputs=[weight])
    assert "inputs with a default value are constants here: w" in loaded.notes
