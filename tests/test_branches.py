"""An If whose condition is known gives way to the branch that it takes, and the model computes the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from builders import model, value, write
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxcam import load_model
from onnxcam.errors import ModelError
from onnxcam.gradients import add_gradients
from onnxcam.model import Model

X = np.random.default_rng(0).standard_normal((2, 3, 1, 5)).astype(np.float32)
node = helper.make_node


def branch(name: str, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], **weights: Any) -> onnx.GraphProto:
    held = [numpy_helper.from_array(np.asarray(a), k) for k, a in weights.items()]
    return helper.make_graph(list(nodes), name, [], [value(o, None) for o in outputs], held)


def fork(condition: str, then: onnx.GraphProto, otherwise: onnx.GraphProto, *outputs: str) -> onnx.NodeProto:
    return node("If", [condition], outputs, then_branch=then, else_branch=otherwise)


def has_length_one(x: str, axis: int, found: str) -> list[onnx.NodeProto]:
    """As TorchScript asks it."""
    names = [f"{found}_{k}" for k in ("shape", "axis", "length", "one")]
    return [
        node("Shape", [x], [names[0]]),
        node("Constant", [], [names[1]], value=numpy_helper.from_array(np.asarray(axis))),
        node("Gather", [names[0], names[1]], [names[2]], axis=0),
        node("Constant", [], [names[3]], value=numpy_helper.from_array(np.asarray(1))),
        node("Equal", [names[2], names[3]], [found]),
    ]


def squeezed(x: str, axis: int, y: str) -> list[onnx.NodeProto]:
    """squeeze(x, axis) as TorchScript writes it for opset 11."""
    then = branch("then", [node("Squeeze", [x], ["inner"], axes=[axis])], ["inner"])
    otherwise = branch("else", [node("Identity", [x], ["inner"])], ["inner"])
    return [*has_length_one(x, axis, f"{y}_asked"), fork(f"{y}_asked", then, otherwise, y)]


def session(loaded: Model) -> ort.InferenceSession:
    data = ir.to_proto(loaded.ir_model).SerializeToString()
    return ort.InferenceSession(data, providers=["CPUExecutionProvider"])


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Model]:
    """Opens a model, and holds what it computes against what the file does."""

    def open_(
        nodes: Sequence[onnx.NodeProto], outputs: Sequence[str] = ("y",), opset: int = 18, **weights: Any
    ) -> Model:
        inputs, given = (
            [value("x", ["n", 3, 1, 5]), value("on", [], TensorProto.BOOL)],
            {"x": X, "on": np.asarray(True)},
        )
        proto = model(nodes, inputs, [value(o, None) for o in outputs], weights, opset)
        loaded = load_model(write(tmp_path / "model.onnx", proto))
        before = ReferenceEvaluator(proto).run(list(outputs), given)  # ONNX Runtime refuses branches that cannot fit
        after = session(loaded).run(list(outputs), given)
        for a, b in zip(before, after, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        return loaded

    return open_


def operators(loaded: Model) -> list[str]:
    return [n.op_type for n in loaded.graph]


@pytest.mark.parametrize(("axis", "taken", "rank"), [(2, "Squeeze", 3), (1, "Identity", 4), (-1, "Identity", 4)])
def test_a_squeeze_of_an_axis_of_known_length(opened, axis: int, taken: str, rank: int) -> None:
    loaded = opened(squeezed("x", axis, "y"), opset=11)
    assert "If" not in operators(loaded)
    assert operators(loaded)[-1] == taken
    assert loaded.outputs[0].name == "y"
    assert len(loaded.outputs[0].shape) == rank
    assert "1 If replaced by the branch that it always takes" in loaded.notes


def test_a_length_that_is_free_stays_a_question(opened) -> None:
    loaded = opened(squeezed("x", 0, "y"), opset=11)
    assert "If" in operators(loaded)
    assert not any("If" in note for note in loaded.notes)


def test_one_question_after_the_other(opened) -> None:
    """What the second asks is known once the first is answered."""
    loaded = opened([*squeezed("x", 2, "row"), *squeezed("row", 2, "again"), node("Relu", ["again"], ["y"])], opset=11)
    assert "If" not in operators(loaded)
    assert len(loaded.outputs[0].shape) == 3
    assert "2 If replaced by the branch that it always takes" in loaded.notes


def test_what_a_branch_captures_and_holds(opened) -> None:
    w, b = np.float32([[1], [2], [3]]), np.float32(0.5)
    then = branch("then", [node("Mul", ["outer", "w"], ["t"]), node("Add", ["t", "b"], ["u"])], ["u"], w=w)
    otherwise = branch("else", [node("Neg", ["outer"], ["u"])], ["u"])
    nodes = [node("Relu", ["x"], ["outer"]), fork("yes", then, otherwise, "z"), node("Sqrt", ["z"], ["y"])]
    loaded = opened(nodes, yes=np.asarray(True), b=b)
    assert operators(loaded) == ["Relu", "Mul", "Add", "Sqrt"]
    assert loaded.graph.node(1).name == "t"


def test_names_that_branches_share(opened) -> None:
    """Branches of different forks may use the same names, for values and for weights."""
    ones = [np.full(3, k, np.float32).reshape(3, 1, 1) for k in range(4)]
    forks = [
        fork(
            "no",
            branch("then", [node("Add", [x, "w"], ["t"]), node("Exp", ["t"], ["u"])], ["u"], w=ones[k]),
            branch("else", [node("Mul", [x, "w"], ["t"], "n"), node("Tanh", ["t"], ["u"], "m")], ["u"], w=ones[k + 1]),
            y,
        )
        for k, (x, y) in enumerate([("x", "t_1"), ("t_1", "y")])
    ]
    loaded = opened(forks, no=np.asarray(False))
    assert operators(loaded) == ["Mul", "Tanh"] * 2
    assert len({n.name for n in loaded.graph}) == 4


def test_forks_within_forks(opened) -> None:
    leaf = branch("leaf", [node("Mul", ["deep", "deep"], ["square"])], ["square"])
    other = branch("other", [node("Identity", ["deep"], ["same"])], ["same"])
    inner = fork("yes", leaf, other, "inner")
    then = branch("then", [node("Add", ["x", "x"], ["deep"]), inner], ["inner"])
    otherwise = branch("else", [node("Neg", ["x"], ["inner"])], ["inner"])
    loaded = opened([fork("yes", then, otherwise, "y")], yes=np.asarray([True]))
    assert operators(loaded) == ["Add", "Mul"]
    assert loaded.outputs[0].shape == loaded.inputs[0].shape


def test_a_fork_that_nobody_can_answer_within_one_that_is_known(opened) -> None:
    leaf = branch("leaf", [node("Mul", ["deep", "deep"], ["square"])], ["square"])
    other = branch("other", [node("Neg", ["deep"], ["same"])], ["same"])
    then = branch("then", [node("Add", ["x", "x"], ["deep"]), fork("on", leaf, other, "inner")], ["inner"])
    otherwise = branch("else", [node("Neg", ["x"], ["inner"])], ["inner"])
    assert operators(opened([fork("yes", then, otherwise, "y")], yes=np.asarray(True))) == ["Add", "If"]


def test_outputs_that_the_branch_does_not_compute(opened) -> None:
    """A weight, the same value twice, and two outputs of one node."""
    w = np.arange(5, dtype=np.float32)
    then = branch("then", [node("Split", ["x"], ["p", "q"], axis=3, num_outputs=2)], ["w", "p", "p", "q"], w=w)
    otherwise = branch("else", [node("Neg", ["x"], [f"n{k}"]) for k in range(4)], [f"n{k}" for k in range(4)])
    loaded = opened([fork("yes", then, otherwise, "a", "b", "c", "d")], ("a", "b", "c", "d"), yes=np.asarray(True))
    assert sorted(operators(loaded)) == ["Identity", "Identity", "Split"]
    assert [v.name for v in loaded.outputs] == ["a", "b", "c", "d"]


def test_a_branch_that_is_never_taken_may_not_fit(opened) -> None:
    axes = {"axes": np.asarray([3])}
    then = branch("then", [node("Squeeze", ["x", "axes"], ["t"])], ["t"])
    otherwise = branch("else", [node("Relu", ["x"], ["t"])], ["t"])
    loaded = opened([*has_length_one("x", 3, "asked"), fork("asked", then, otherwise, "y")], **axes)
    assert operators(loaded)[-1] == "Relu"


def test_what_the_file_says_of_inner_values_is_not_asked(tmp_path: Path) -> None:
    then = branch("then", [node("Identity", ["half"], ["t"])], ["t"])
    otherwise = branch("else", [node("Neg", ["half"], ["t"])], ["t"])
    nodes = [node("Split", ["x"], ["half", "rest"], axis=3, num_outputs=2), *has_length_one("half", 0, "asked")]
    proto = model([*nodes, fork("asked", then, otherwise, "y")], [value("x", ["n", 3, 1, 4])], [value("y", None)])
    proto.graph.value_info.append(value("half", [1, 3, 1, 2]))
    assert "If" in operators(load_model(write(tmp_path / "model.onnx", proto)))


def repeated(nodes: Sequence[onnx.NodeProto]) -> onnx.NodeProto:
    """Three runs over x of nodes from s to t; s is carried, and what t was is stacked."""
    on = node("Constant", [], ["on"], value=numpy_helper.from_array(np.asarray(True)))
    ends = [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), onnx.ValueInfoProto(name="s")]
    outputs = [value("on", [], TensorProto.BOOL), *(onnx.ValueInfoProto(name=n) for n in ("t", "row"))]
    body = helper.make_graph([*nodes, node("Neg", ["t"], ["row"]), on], "body", ends, outputs)
    return node("Loop", ["three", "", "x"], ["last", "rows"], body=body)


@pytest.mark.parametrize(
    ("nodes", "ranks"),
    [
        ([node("Add", ["s", "x"], ["t"])], [4, 5]),  # reads from outside of the loop
        ([node("Flatten", ["s"], ["m"]), node("Unsqueeze", ["m", "axes"], ["t"])], [4, 5]),
        ([node("Unsqueeze", ["s", "axis"], ["t"])], [None, None]),  # one more axis every time
    ],
    ids=["sum", "there and back", "grows"],
)
def test_what_a_loop_carries(tmp_path: Path, nodes: Sequence[onnx.NodeProto], ranks: list[int | None]) -> None:
    """It has as many axes at the end as at the start if the body says so."""
    weights = {"three": np.asarray(3), "axes": np.asarray([0, 3]), "axis": np.asarray([0])}
    behind = [node("Tanh", ["last"], ["y"]), node("Tanh", ["rows"], ["z"])]
    given = [value("x", ["n", 3, 1, 5])]
    proto = model([repeated(nodes), *behind], given, [value("y", None), value("z", None)], weights)
    loaded = load_model(write(tmp_path / "model.onnx", proto))
    assert [None if v.shape is None else len(v.shape) for v in loaded.outputs] == ranks


def test_a_scan_over_a_batch_is_refused(tmp_path: Path) -> None:
    """Converting one changes the inputs of the model."""
    body = helper.make_graph(
        [node("Add", ["s", "x"], ["t"])], "body", [value("s", [2]), value("x", [2])], [value("t", [2])]
    )
    scan = node("Scan", ["", "start", "rows"], ["y"], body=body, num_scan_inputs=1)
    given = [value("start", [1, 2]), value("rows", [1, 3, 2])]
    path = write(tmp_path / "model.onnx", model([scan], given, [value("y", [1, 2])], opset=8, ir_version=3))
    with pytest.raises(ModelError, match="Scan over a batch"):
        load_model(path)


def test_gradients_pass(opened) -> None:
    loaded = opened([*squeezed("x", 2, "row"), node("Mul", ["row", "row"], ["y"])], opset=11)
    made = add_gradients(loaded, of="y", wrt=["x"])
    given = {"x": X, "on": np.asarray(True), "onnxcam/seed": np.ones((2, 3, 5), np.float32)}
    (dx,) = session(made).run(["onnxcam/grad/x"], given)
    np.testing.assert_allclose(dx, 2 * X, rtol=1e-6)
