"""Activations that exporters write in parts: their gradient as one, wherever the halving and the operands stand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx_ir as ir
import pytest
from cases import node
from evaluator import evaluator
from onnx import TensorProto
from test_rules import opened, session
from test_special_values import model_of

from onnxcam.gradients import add_gradients

X = np.linspace(-6, 6, 49, dtype=np.float32).reshape(1, 7, 7)
SEED = np.random.default_rng(0).normal(size=X.shape).astype(np.float32)


def phi(t: float) -> float:
    return math.exp(-t * t / 2) / math.sqrt(2 * math.pi)


def gelu_slope(x: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda t: (1 + math.erf(t / math.sqrt(2))) / 2 + t * phi(t))(x.astype(np.float64))


def silu_slope(x: np.ndarray) -> np.ndarray:
    s = 1 / (1 + np.exp(-x.astype(np.float64)))
    return s + x * s * (1 - s)


def graded(nodes, weights=(), wrt=("x",)):
    """The edited graph and the gradients."""
    model = add_gradients(opened(model_of(nodes, {"x": X}, weights)), of="y", wrt=list(wrt))
    found = session(ir.to_proto(model.ir_model)).run([f"onnxcam/grad/{n}" for n in wrt], {"x": X, "onnxcam/seed": SEED})
    return model, found


def written(model) -> set[str]:
    return {n.op_type for n in model.graph if (n.name or "").startswith("onnxcam/")}


def gelu(scale: str, halving: str, swapped: bool, number: float) -> tuple[list, dict]:
    """GELU as exporters write it."""

    def mul(a: str, b: str, y: str):
        return node("Mul", [b, a] if swapped else [a, b], [y])

    divided = node("Div", ["x", "c"], ["t"]) if scale == "Div" else mul("x", "c", "t")
    nodes = [divided, node("Erf", ["t"], ["e"]), node("Add", ["one", "e"] if swapped else ["e", "one"], ["g"])]
    nodes += {
        "the product": [mul("x", "g", "m"), mul("m", "half", "y")],
        "x": [mul("x", "half", "m"), mul("m", "g", "y")],
        "the gate": [mul("g", "half", "m"), mul("x", "m", "y")],
    }[halving]
    c = math.sqrt(2) if scale == "Div" else math.sqrt(0.5)
    return nodes, {n: np.float32(v) for n, v in {"c": c, "one": 1, "half": number}.items()}


@pytest.mark.parametrize(
    ("scale", "halving", "swapped"),
    list(itertools.product(["Div", "Mul"], ["the product", "x", "the gate"], [False, True])),
)
def test_gelu_in_parts_is_differentiated_as_one(scale, halving, swapped) -> None:
    model, (found,) = graded(*gelu(scale, halving, swapped, 0.5))
    assert np.abs(found - SEED * gelu_slope(X)).max() < 2e-6
    assert sum(n.op_type == "Exp" for n in model.graph) == 1
    assert "Div" not in written(model)
    assert sum((n.name or "").startswith("onnxcam/") for n in model.graph) <= 9


@pytest.mark.parametrize("swapped", [False, True])
def test_silu_in_parts_is_differentiated_as_one(swapped) -> None:
    nodes = [node("Sigmoid", ["x"], ["s"]), node("Mul", ["s", "x"] if swapped else ["x", "s"])]
    model, (found,) = graded(nodes)
    assert np.abs(found - SEED * silu_slope(X)).max() < 2e-6
    assert written(model) == {"HardSigmoid", "Mul", "Add"}


def test_other_numbers_are_no_gelu() -> None:
    nodes, weights = gelu("Div", "the product", False, 0.4)
    _, (found,) = graded(nodes, weights)
    assert np.abs(found - SEED * gelu_slope(X) * 0.8).max() < 2e-6
    nodes, weights = gelu("Div", "x", False, 0.5)
    _, (found,) = graded(nodes, weights | {"c": np.float32(2)})
    slope = np.vectorize(lambda t: (1 + math.erf(t / 2)) / 2 + t / math.sqrt(4 * math.pi) * math.exp(-t * t / 4))(X)
    assert np.abs(found - SEED * slope).max() < 2e-6


def test_a_gate_of_another_value_is_no_silu() -> None:
    nodes = [node("Neg", ["x"], ["n"]), node("Sigmoid", ["n"], ["s"]), node("Mul", ["x", "s"])]
    _, (found,) = graded(nodes)
    s = 1 / (1 + np.exp(X.astype(np.float64)))
    assert np.abs(found - SEED * (s - X * s * (1 - s))).max() < 2e-6


def test_parts_that_others_read_count_once_each() -> None:
    nodes = [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["m"]), node("Add", ["m", "s"])]
    _, (found,) = graded(nodes)
    s = 1 / (1 + np.exp(-X.astype(np.float64)))
    assert np.abs(found - SEED * (silu_slope(X) + s * (1 - s))).max() < 2e-6


def test_the_cotangent_of_a_part_can_be_asked_for() -> None:
    nodes = [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"])]
    _, (dx, ds) = graded(nodes, wrt=["x", "s"])
    assert np.abs(ds - SEED * X).max() < 2e-6
    assert np.abs(dx - SEED * silu_slope(X)).max() < 4e-6
    nodes, weights = gelu("Mul", "the gate", False, 0.5)
    _, (dg,) = graded(nodes, weights, wrt=["g"])
    assert np.abs(dg - SEED * X * 0.5).max() < 2e-6


def test_a_number_of_more_axes_is_no_part() -> None:
    nodes, weights = gelu("Div", "the product", False, 0.5)
    weights["half"] = np.full((1, 1, 1, 1), 0.5, np.float32)
    model = add_gradients(opened(model_of(nodes, {"x": X}, weights)), of="y", wrt="x")
    (found,) = session(ir.to_proto(model.ir_model)).run(["onnxcam/grad/x"], {"x": X, "onnxcam/seed": SEED[None]})
    assert found.shape == X.shape
    assert np.abs(found - SEED * gelu_slope(X)).max() < 2e-6


@pytest.mark.parametrize("silu", [False, True])
def test_doubles_are_differentiated_as_doubles(silu) -> None:
    """Runtimes have no HardSigmoid of doubles."""
    nodes = [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"])] if silu else [node("Gelu", ["x"])]
    plain = model_of(nodes, {"x": X}, opset=20)
    for value in (*plain.graph.input, *plain.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    edited = add_gradients(opened(plain), of="y", wrt="x")
    assert "HardSigmoid" not in written(edited)
    feeds = {"x": X.astype(np.float64), "onnxcam/seed": SEED.astype(np.float64)}
    (found,) = evaluator(ir.to_proto(edited.ir_model)).run(["onnxcam/grad/x"], feeds)
    assert np.abs(found - SEED * (silu_slope if silu else gelu_slope)(X)).max() < 1e-12
