"""What is written out step by step: how much of it, what is refused, and derivatives where finite differences fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cases_control import body, const
from evaluator import evaluator
from onnx import TensorProto, helper, numpy_helper

from onnxcam import load_model
from onnxcam.errors import GradientError
from onnxcam.gradients import add_gradients
from onnxcam.gradients.bodies.inline import MOST_NODES

node = helper.make_node


def value(name: str, shape: Any, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def gradient(tmp_path: Path, nodes: Any, inputs: Any, shape: Any, opset: int = 18, **weights: Any) -> onnx.ModelProto:
    """d(y)/d(x), of a model as it is loaded."""
    held = [numpy_helper.from_array(np.asarray(a), k) for k, a in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, [value("y", shape)], held)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return ir.to_proto(add_gradients(load_model(path), of="y", wrt=["x"]).ir_model)


def written(made: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in made.graph.node if n.name.startswith("onnxcam/")]


def rnn(tmp_path: Path, steps: int, lengths: Any = None, **attributes: Any) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((1, 3, 2)), "r": rng.standard_normal((1, 3, 3))}
    weights = {k: a.astype(np.float32) for k, a in weights.items()}
    inputs = ["x", "w", "r"]
    if lengths is not None:
        weights["lengths"], inputs = np.asarray(lengths, np.int32), [*inputs, "", "lengths"]
    made = node("RNN", inputs, ["", "y"], hidden_size=3, **attributes)
    return gradient(tmp_path, [made], [value("x", [steps, 2, 2])], [1, 2, 3], **weights)


def test_a_recurrent_layer_projects_its_input_once(tmp_path: Path) -> None:
    """And one product per step each way."""
    operators = written(rnn(tmp_path, 5))
    assert operators.count("Gemm") == 2 * 5 + 1  # nothing leads back to the first state


def test_lengths_that_are_all_full_cost_nothing(tmp_path: Path) -> None:
    assert written(rnn(tmp_path, 3, [3, 3])) == written(rnn(tmp_path, 3))
    assert len(written(rnn(tmp_path, 3, [3, 2]))) > len(written(rnn(tmp_path, 3)))


@pytest.mark.parametrize(
    ("steps", "attributes", "said"),
    [
        (MOST_NODES, {}, f"{MOST_NODES} steps are too many"),
        (2, {"activations": ["Affine"]}, "affine without its scales"),
        (2, {"activations": ["Swish"]}, "the activation swish"),
        (2, {"activations": ["Tanh", "Tanh"]}, "2 activations, where it has 1"),
    ],
)
def test_layers_that_are_refused(tmp_path: Path, steps: int, attributes: dict[str, Any], said: str) -> None:
    with pytest.raises(GradientError, match=said):
        rnn(tmp_path, steps, **attributes)


STEP = body([node("Sin", ["x_in"], ["x_out"]), const("on", True)], ["i", "go", "x_in"], ["on", "x_out"])
MEASURED = body(
    [
        node("Sin", ["x_in"], ["x_out"]),
        node("ReduceMax", ["x_out"], ["most"], keepdims=0),
        node("Greater", ["most", "limit"], ["on"]),
    ],
    ["i", "go", "x_in"],
    ["on", "x_out"],
)


@pytest.mark.anyruntime
@pytest.mark.parametrize(
    ("loop", "said"),
    [
        (node("Loop", ["count", "", "x"], ["y"], body=STEP), "its trip count is computed at run time"),
        (node("Loop", ["three", "", "x"], ["y"], body=MEASURED), "its condition is computed at run time"),
        (node("Loop", ["", "", "x"], ["y"], body=STEP), f"more than {MOST_NODES} nodes"),
        (
            node("If", ["asked"], ["y"],
                 then_branch=body([node("Sin", ["x"], ["s"])], [], ["s"]),
                 else_branch=body([node("Cos", ["x"], ["c"])], [], ["c"])),
            "its condition is computed at run time",
        ),
    ],
)  # fmt: skip
def test_what_only_a_run_can_tell_is_refused(tmp_path: Path, loop: onnx.NodeProto, said: str) -> None:
    inputs = [value("x", [2]), value("count", [], TensorProto.INT64), value("asked", [], TensorProto.BOOL)]
    with pytest.raises(GradientError, match=said):
        gradient(tmp_path, [loop], inputs, [2], three=np.asarray(3), limit=np.float32(0))


def test_a_trip_count_of_the_shape(tmp_path: Path) -> None:
    """A length that the model fixes, by way of integers that it computes."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "nought"], ["n"]),
        node("Loop", ["n", "", "x"], ["y"], body=STEP),
    ]
    made = gradient(tmp_path, nodes, [value("x", [3])], [3], nought=np.asarray(0))
    x = np.float32([0.3, 0.5, 0.9])
    (dx,) = evaluator(made).run(["onnxcam/grad/x"], {"x": x, "onnxcam/seed": np.ones(3, np.float32)})
    np.testing.assert_allclose(dx, np.cos(x) * np.cos(np.sin(x)) * np.cos(np.sin(np.sin(x))), rtol=1e-5)


@pytest.mark.parametrize("how", ["max", "min"])
def test_what_ties_share(tmp_path: Path, how: str) -> None:
    """An element and what is placed on it, all alike: each takes an equal part."""
    nodes = [
        node("Split", ["x", "sizes"], ["onto", "news"]),
        node("ScatterElements", ["onto", "places", "news"], ["y"], reduction=how),
    ]
    made = gradient(tmp_path, nodes, [value("x", [5])], [2], sizes=np.asarray([2, 3]), places=np.asarray([0, 0, 1]))
    x = np.float32([1, 4, 1, 1, 4])
    (dx,) = evaluator(made).run(["onnxcam/grad/x"], {"x": x, "onnxcam/seed": np.float32([3, 1])})
    np.testing.assert_allclose(dx, [1, 0.5, 1, 1, 0.5])
