"""The reverse walk: what it accumulates, sums down, leaves alone and refuses."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from cases import node
from onnx import helper
from test_rules import opened, session
from test_special_values import model_of

from onnxcam.errors import GradientError, OptionError, UnknownNameError
from onnxcam.gradients import add_gradients
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Writer
from onnxcam.model import load_model

RNG = np.random.default_rng(7)
X = RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)


def small_cnn() -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, MaxPool, a residual Add, mean, Gemm."""

    def weight(*shape):
        return RNG.standard_normal(shape).astype(np.float32)

    nodes = [
        node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c1", "s", "b", "m", "v"], ["n1"]),
        node("Relu", ["n1"], ["r1"]),
        node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        node("Add", ["c2", "p1"], ["sum"]),
        node("Relu", ["sum"], ["r2"]),
        node("ReduceMean", ["r2", "hw"], ["g"], keepdims=0),
        node("Gemm", ["g", "w3"], ["y"], transB=1),
    ]
    weights = {"w1": weight(4, 3, 3, 3), "w2": weight(4, 4, 3, 3), "w3": weight(5, 4), "hw": np.array([2, 3])}
    weights |= {"s": weight(4), "b": weight(4), "m": weight(4), "v": np.abs(weight(4)) + 0.1}
    return model_of(nodes, {"x": X}, weights)


def plain_session(proto: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def by_name(messages) -> dict[str, bytes]:
    return {m.name: m.SerializeToString(deterministic=True) for m in messages}


@pytest.mark.parametrize("relu", ["plain", "guided", "deconvnet"])
def test_the_original_stays_byte_for_byte_and_its_outputs_bit_for_bit(tmp_path, relu) -> None:
    path = tmp_path / "cnn.onnx"
    onnx.save(small_cnn(), path)
    file = path.read_bytes()
    model = load_model(path)
    before = ir.to_proto(model.ir_model)
    edited = ir.to_proto(add_gradients(model, of="y", wrt=["x", "p1"], relu=relu).ir_model)

    assert path.read_bytes() == file
    assert ir.to_proto(model.ir_model).SerializeToString() == before.SerializeToString()
    assert by_name(edited.graph.node).items() >= by_name(before.graph.node).items()
    assert by_name(edited.graph.initializer).items() >= by_name(before.graph.initializer).items()
    assert [n.name for n in edited.graph.node][: len(before.graph.node)] == [n.name for n in before.graph.node]
    new = set(by_name(edited.graph.node)) - set(by_name(before.graph.node))
    new |= set(by_name(edited.graph.initializer)) - set(by_name(before.graph.initializer))
    new |= {o for n in edited.graph.node for o in n.output} - {o for n in before.graph.node for o in n.output}
    assert all(name.startswith("onnxcam/") for name in new)
    seed = np.ones((1, 5), np.float32)
    (plain,) = plain_session(onnx.load(path)).run(None, {"x": X})
    found = plain_session(edited).run(["y"], {"x": X, "onnxcam/seed": seed})[0]
    assert found.tobytes() == plain.tobytes()


def test_outputs_have_the_shape_and_type_of_their_value() -> None:
    edited = add_gradients(opened(small_cnn()), of="y", wrt=["x", "r2"])
    declared = {v.name: (tuple(v.shape), v.dtype) for v in edited.outputs}
    assert declared["onnxcam/grad/x"] == ((1, 3, 8, 8), ir.DataType.FLOAT)
    assert declared["onnxcam/grad/r2"] == ((1, 4, 4, 4), ir.DataType.FLOAT)
    assert [v.name for v in edited.inputs] == ["x", "onnxcam/seed"]


def vjp(proto: onnx.ModelProto, of: str, wrt: list[str], feeds, seed, **options) -> list[np.ndarray]:
    edited = ir.to_proto(add_gradients(opened(proto), of=of, wrt=wrt, **options).ir_model)
    return session(edited).run(
        [f"onnxcam/grad/{v}" for v in wrt], feeds | {"onnxcam/seed": np.asarray(seed, np.float32)}
    )


def chain(*nodes, **inputs):
    arrays = {k: np.asarray(v, np.float32) for k, v in inputs.items()}
    return model_of(nodes, arrays), arrays


def test_a_value_read_several_times_sums_what_comes_back() -> None:
    # y = x^3 + 2 x, read by three nodes and twice by one of them
    proto, feeds = chain(
        node("Mul", ["x", "x"], ["sq"]), node("Mul", ["sq", "x"], ["cube"]), node("Add", ["x", "x"], ["two"]),
        node("Add", ["cube", "two"]), x=[-2, 0.5, 3],
    )  # fmt: skip
    (dx,) = vjp(proto, "y", ["x"], feeds, [1, 10, 100])
    np.testing.assert_allclose(dx, [14, 27.5, 2900], rtol=1e-6)


def test_values_along_one_path_and_the_target_itself() -> None:
    proto, feeds = chain(node("Exp", ["x"], ["e"]), node("Mul", ["e", "e"]), x=[0.0, 1.0])
    dx, de, dy = vjp(proto, "y", ["x", "e", "y"], feeds, [1, 1])
    e = np.exp(feeds["x"])
    np.testing.assert_allclose(dx, 2 * e * e, rtol=1e-6)
    np.testing.assert_allclose(de, 2 * e, rtol=1e-6)
    np.testing.assert_allclose(dy, [1, 1])


def test_a_value_asked_for_is_no_wall_for_the_ones_before_it() -> None:
    together, feeds = chain(node("Relu", ["x"], ["r"]), node("Neg", ["r"]), x=[-1, 2])
    assert np.array_equal(vjp(together, "y", ["r", "x"], feeds, [1, 1])[1], [0, -1])


def test_an_intermediate_target() -> None:
    proto, feeds = chain(node("Mul", ["x", "x"], ["sq"]), node("Exp", ["sq"]), x=[1, 2])
    np.testing.assert_allclose(vjp(proto, "sq", ["x"], feeds, [1, 1])[0], [2, 4])


def test_a_branch_that_does_not_reach_the_target_counts_for_nothing() -> None:
    proto, feeds = chain(node("Mul", ["x", "x"], ["other"]), node("Add", ["x", "x"]), x=[5])
    assert vjp(proto, "y", ["x"], feeds, [1])[0].tolist() == [2]


def test_a_path_through_integers_counts_for_nothing() -> None:
    nodes = [
        node("Cast", ["x"], ["i"], to=7), node("Cast", ["i"], ["f"], to=1), node("Mul", ["f", "x"])
    ]  # fmt: skip
    proto, feeds = chain(*nodes, x=[2.5])
    assert vjp(proto, "y", ["x"], feeds, [1])[0].tolist() == [2]  # d(floor(x) x) without the steps


def test_axes_that_may_be_one_at_run_time_are_summed_at_run_time() -> None:
    free = helper.make_tensor_value_info("b", 1, ["rows", None])
    proto = model_of([node("Mul", ["a", "b"])], {"a": (2, 3), "b": (2, 3)})
    proto.graph.input[1].CopyFrom(free)
    edited = session(ir.to_proto(add_gradients(opened(proto), of="y", wrt=["a", "b"]).ir_model))
    a, seed = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)
    for shape in ((2, 3), (1, 3), (2, 1), (1, 1)):
        b = np.full(shape, 2, np.float32)
        da, db = edited.run(["onnxcam/grad/a", "onnxcam/grad/b"], {"a": a, "b": b, "onnxcam/seed": seed})
        axes = tuple(i for i in range(2) if shape[i] == 1)
        assert np.array_equal(db, a.sum(axes, keepdims=True) if axes else a)
        assert np.array_equal(da, np.full((2, 3), 2))


@pytest.mark.parametrize(
    ("relu", "expected"),
    [("plain", [0, 0, -3, 4]), ("guided", [0, 0, 0, 4]), ("deconvnet", [0, 2, 0, 4])],
)
@pytest.mark.parametrize("rectifier", ["Relu", "Max", "Clip"])
def test_relu_policies(relu, expected, rectifier) -> None:
    inputs = {"Relu": ["x"], "Max": ["x", "zero"], "Clip": ["x", "zero"]}[rectifier]
    weights = {"zero": np.float32(0)} if "zero" in inputs else {}
    proto = model_of([node(rectifier, inputs)], {"x": (4,)}, weights)
    feeds = {"x": np.array([-1, -2, 3, 4], np.float32)}
    assert vjp(proto, "y", ["x"], feeds, [-1, 2, -3, 4], relu=relu)[0].tolist() == expected


def test_policies_leave_what_is_no_rectifier() -> None:
    proto = model_of([node("Max", ["x", "one"], ["m"]), node("Relu", ["m"])], {"x": (2,)}, {"one": np.float32(-9)})
    found = vjp(proto, "y", ["x"], {"x": np.array([-20, 3], np.float32)}, [1, 1], relu="deconvnet")
    assert found[0].tolist() == [0, 1]


def test_missing_rules_are_named_all_at_once() -> None:
    own = {"domain": "com.acme"}
    nodes = [node("Blur", ["x"], ["a"], **own), node("Neg", ["a"], ["b"]), node("Warp", ["b"], ["c"], **own)]
    nodes += [node("Blur", ["c"], **own)]
    proto = model_of(nodes, {"x": (1, 2)})
    proto.opset_import.append(helper.make_opsetid("com.acme", 1))
    proto.graph.value_info.extend(helper.make_tensor_value_info(n, 1, [1, 2]) for n in "abc")
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [1, 2]))
    with pytest.raises(GradientError) as error:
        add_gradients(opened(proto), of="y", wrt="x", engine="portable")
    message = str(error.value)
    assert "com.acme::Blur (node a, opset 1): no gradient rule (and 1 more like it)" in message
    assert "com.acme::Warp (node c, opset 1): no gradient rule" in message


def test_refusals_of_rules_are_named_all_at_once() -> None:
    nodes = [
        node("Dropout", ["x", "", "true"], ["d"]), node("Det", ["d"], ["e"]), node("Dropout", ["e", "", "true"]),
    ]  # fmt: skip
    proto = model_of(nodes, {"x": (2, 30, 30)}, {"true": np.asarray(True)})
    with pytest.raises(GradientError) as error:
        add_gradients(opened(proto), of="y", wrt="x", engine="portable")
    message = str(error.value)
    assert "Dropout (node y, opset 18): training_mode=1 (and 1 more like it)" in message
    assert "Det (node e, opset 18): matrices of 30 rows" in message
    assert "onnxcam inspect MODEL" in message


def test_an_integer_target_is_an_error() -> None:
    proto = model_of([node("ArgMax", ["x"])], {"x": (2, 3)})
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 7, [1, 3]))
    with pytest.raises(GradientError, match="y holds INT64, not floats"):
        add_gradients(opened(proto), of="y", wrt="x")


def test_an_unknown_rank_is_named() -> None:
    proto = model_of([node("Reshape", ["x", "s"], ["r"]), node("Softmax", ["r"])], {"x": (2, 3)})
    proto.graph.input.append(helper.make_tensor_value_info("s", 7, [None]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [None, None]))
    with pytest.raises(GradientError, match=r"the rank of r is unknown; export the model with shape information"):
        add_gradients(opened(proto), of="y", wrt="x", engine="portable")


def test_gradients_of_gradients() -> None:
    """A second writer on the same graph: no name is used twice, and d/dx sum(s x^3) = 3 x^2, 6 x."""
    proto, feeds = chain(node("Mul", ["x", "x"], ["sq"]), node("Mul", ["sq", "x"]), x=[1.0, -2.0])
    model = add_gradients(opened(proto), of="y", wrt="x").clone()
    writer = Writer(model.graph, model.opset)
    slope = writer.tensor(model.values["onnxcam/grad/x"])
    writer.output(xp.sum(slope * 0.25, 0, keepdims=True), "total")
    first = ir.to_proto(model.ir_model)
    onnx.checker.check_model(first, full_check=True)
    names = [o for n in first.graph.node for o in n.output] + [t.name for t in first.graph.initializer]
    assert len(names) == len(set(names))
    found = session(first).run(["onnxcam/grad/x", "total"], feeds | {"onnxcam/seed": np.ones(2, np.float32)})
    np.testing.assert_allclose(found[0], [3, 12], rtol=1e-6)
    np.testing.assert_allclose(found[1], [3.75], rtol=1e-6)


def test_the_same_model_gives_the_same_bytes() -> None:
    proto = small_cnn()
    once, again = (ir.to_proto(add_gradients(opened(proto), of="y", wrt="x").ir_model) for _ in range(2))
    assert once.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)


def test_gradients_are_not_added_twice() -> None:
    proto = model_of([node("Relu", ["x"])], {"x": (2, 3)}, {})
    once = add_gradients(opened(proto), of="y", wrt="x")
    with pytest.raises(OptionError, match="already, as add_gradients names"):
        add_gradients(once, of="y", wrt="x")
    with pytest.raises(OptionError, match="open it with load_model"):
        add_gradients("model.onnx", of="y", wrt="x")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrt", [[], ["x", "x"], None, 3, ["x", 3]], ids=str)
def test_wrt_is_a_list_of_different_names(wrt) -> None:
    with pytest.raises(OptionError, match="list of different ones"):
        add_gradients(opened(model_of([node("Neg", ["x"])], {"x": (2,)})), of="y", wrt=wrt)


def test_all_unknown_names_are_told() -> None:
    with pytest.raises(UnknownNameError, match=r"(?s)'z1'.*'z2'") as error:
        add_gradients(opened(model_of([node("Neg", ["x"])], {"x": (2,)})), of="z1", wrt=["x", "z2"])
    assert "onnxcam/seed" not in str(error.value)


def test_all_values_without_a_way_are_told() -> None:
    proto = model_of([node("Neg", ["x"])], {"x": (2,), "u": (2,), "v": (2,)})
    with pytest.raises(GradientError, match="y does not depend on u, v at all"):
        add_gradients(opened(proto), of="y", wrt=["u", "x", "v"])


def test_an_integer_is_no_value_to_differentiate_at() -> None:
    nodes = [node("ArgMax", ["x"], ["i"], axis=1), node("Cast", ["i"], ["f"], to=1), node("Add", ["f", "x"])]
    with pytest.raises(GradientError, match="i holds INT64, not floats"):
        add_gradients(opened(model_of(nodes, {"x": (2, 3)})), of="y", wrt="i")


@pytest.mark.parametrize(
    "wrong", [{"of": None}, {"of": ["y"]}, {"relu": None}, {"relu": ["plain"]}, {"engine": 3}], ids=str
)
def test_of_relu_and_engine_are_names(wrong) -> None:
    with pytest.raises(OptionError, match="of, relu and engine are names"):
        add_gradients(opened(model_of([node("Neg", ["x"])], {"x": (2,)})), **{"of": "y", "wrt": "x"} | wrong)


@pytest.mark.parametrize("name", ["onnxcam/seed", "onnxcam/grad/x"])
def test_names_of_what_is_written_must_be_free(name) -> None:
    nodes = [node("Neg", ["x"], [name]), node("Relu", [name])]
    with pytest.raises(OptionError, match=f"values called {name} already"):
        add_gradients(opened(model_of(nodes, {"x": (2,)})), of="y", wrt="x")


def test_an_output_of_unknown_rank_is_told_with_its_maker() -> None:
    proto = model_of([node("Blur", ["x"], domain="com.acme")], {"x": (1, 2)})
    proto.opset_import.append(helper.make_opsetid("com.acme", 1))
    with pytest.raises(GradientError, match="the number of axes of y, made by Blur, is unknown"):
        add_gradients(opened(proto), of="y", wrt="x")


def test_cotangents_that_do_not_fit_together_are_told() -> None:
    """Of a weight for 2 channels on a value of 3: ONNX's inference does not hold one against the other."""
    nodes = [node("Relu", ["x"], ["r"]), node("Conv", ["r", "w"], ["c"]), node("Add", ["c", "r"], ["y"])]
    proto = model_of(nodes, {"x": (1, 3, 5, 5)}, {"w": np.ones((3, 2, 1, 1), np.float32)})
    with pytest.raises(GradientError, match=r"the values of the model do not fit together: .*dimensions"):
        add_gradients(opened(proto), of="y", wrt="x", engine="portable")


def test_policies_leave_what_a_body_writes_by_itself() -> None:
    """RoiAlign clamps its places by Max with 0: no activation of the model's."""
    nodes = [
        node("ReduceMean", ["x", "one"], ["m"]), node("Add", ["boxes", "m"], ["r"]),
        node("RoiAlign", ["f", "r", "at"], output_height=2, output_width=2, sampling_ratio=2),
    ]  # fmt: skip
    boxes = np.float32([[1, 1.2, 4.3, 5.1]])
    proto = model_of(nodes, {"x": (1, 4), "f": (1, 2, 7, 7)}, {"one": [1], "boxes": boxes, "at": np.array([0])})
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [1, 2, 2, 2]))
    with pytest.warns(UserWarning, match="changed 0 of 0 activations"):
        guided = add_gradients(opened(proto), of="y", wrt="x", relu="guided")
    assert "changed 0 of 0 activations" in guided.notes[-1]


@pytest.mark.parametrize("op", ["RNN", "If"])
def test_policies_change_activations_inside_of_cells_and_branches(op) -> None:
    if op == "RNN":
        cell = {"w": np.ones((1, 2, 2), np.float32), "v": np.zeros((1, 2, 2), np.float32)}
        nodes = [node("RNN", ["x", "w", "v"], hidden_size=2, activations=["Relu"])]
        proto = model_of(nodes, {"x": (3, 1, 2)}, cell)
    else:
        branches = {
            f"{name}_branch": helper.make_graph(
                [helper.make_node(kind, ["x"], [name])], name, [], [helper.make_tensor_value_info(name, 1, [2])]
            )
            for name, kind in (("then", "Relu"), ("else", "Neg"))
        }
        proto = model_of([helper.make_node("If", ["yes"], ["y"], **branches)], {"x": (2,)}, {"yes": np.asarray(True)})
    guided = add_gradients(opened(proto), of="y", wrt="x", relu="guided")
    assert f"changed {3 if op == 'RNN' else 1} of {3 if op == 'RNN' else 1} activations" in guided.notes[-1]
