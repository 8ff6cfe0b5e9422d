"""Gradients that are zero: what stops them is named, and a straight-through estimate passes it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from builders import write
from cases import node
from onnx import helper
from test_rules import opened, session
from test_special_values import model_of

from onnxcam import Explainer, add_gradients
from onnxcam.errors import GradientError, OptionError

F = np.float32
ENDS = {
    "not connected": ([node("Neg", ["x"])], "z", "does not depend on z at all"),
    "through a shape": ([node("Shape", ["x"], ["i"]), node("Cast", ["i"], to=1)], "x", "does not depend on x at all"),
    "through integers": ([node("Cast", ["x"], ["i"], to=7), node("Cast", ["i"], to=1)], "x", r"Cast \(node i\) stop"),
    "through a comparison": (
        [node("Greater", ["x", "z"], ["g"]), node("Cast", ["g"], to=1)],
        "x",
        r"Greater \(node g\) stop it\. Possible: straight_through",
    ),
    "through a step": ([node("Neg", ["x"], ["n"]), node("Floor", ["n"])], "x", r"Floor \(node y\) stop it"),
    "through two": (
        [node("Sign", ["x"], ["a"]), node("Round", ["x"], ["b"]), node("Add", ["a", "b"])],
        "x",
        r"Sign \(node a\), Round \(node b\) stop it",
    ),
    "through the largest": ([node("Hardmax", ["x"])], "x", r"Hardmax \(node y\) stop it\. Possible: a layer behind"),
}


@pytest.mark.parametrize("what", ENDS)
@pytest.mark.parametrize("engine", ["portable", pytest.param("training", marks=pytest.mark.training)])
def test_what_stops_the_gradient_is_named(what, engine) -> None:
    nodes, wrt, message = ENDS[what]
    proto = model_of(nodes, {"x": (2,), "z": (2,)})
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [None]))
    with pytest.raises(GradientError, match=message):
        add_gradients(opened(proto), of="y", wrt=wrt, engine=engine)


X = np.array([-1.5, -0.3, 0.2, 2.0], F)
INSIDE = np.array([0, 1, 1, 0], F)  # within one of the threshold
STRAIGHT = {
    "sign": ([node("Sign", ["x"])], INSIDE),
    "rounding": ([node("Round", ["x"], ["r"]), node("Mul", ["r", "x"])], X + np.round(X)),
    "truncation": ([node("Cast", ["x"], ["i"], to=7), node("Cast", ["i"], to=1)], np.ones(4, F)),
    "a threshold": ([node("Greater", ["x", "zero"], ["g"]), node("Cast", ["g"], to=1)], INSIDE / 2),
    "a threshold from below": ([node("Less", ["x", "zero"], ["g"]), node("Cast", ["g"], to=1)], -INSIDE / 2),
    "a negated threshold": (
        [node("Less", ["x", "zero"], ["g"]), node("Not", ["g"], ["h"]), node("Cast", ["h"], to=1)],
        INSIDE / 2,
    ),
    "a choice of two constants": (
        [node("GreaterOrEqual", ["x", "zero"], ["g"]), node("Where", ["g", "one", "minus"])],
        INSIDE,
    ),
    "a choice that is a ReLU": (
        [node("Greater", ["x", "zero"], ["g"]), node("Where", ["g", "x", "zero"])],
        np.array([0, 0, 1, 1], F),
    ),
}


@pytest.mark.parametrize("what", STRAIGHT)
def test_straight_through_passes_steps(what) -> None:
    nodes, expected = STRAIGHT[what]
    weights = {k: v for k, v in {"zero": F(0), "one": F(1), "minus": F(-1)}.items() if any(k in n.input for n in nodes)}
    proto = model_of(nodes, {"x": (4,)}, weights)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [4]))
    edited = ir.to_proto(add_gradients(opened(proto), of="y", wrt="x", straight_through=True).ir_model)
    found = session(edited).run(["onnxcam/grad/x"], {"x": X, "onnxcam/seed": np.ones(4, F)})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_straight_through_is_the_portable_engines() -> None:
    proto = model_of([node("Neg", ["x"])], {"x": (2,)})
    with pytest.raises(OptionError, match="portable"):
        add_gradients(opened(proto), of="y", wrt="x", engine="training", straight_through=True)


def binarised(tmp_path, skip: bool = False):
    """conv, sign, conv, mean: with a way round the sign if asked. Its file, and an image."""
    rng = np.random.default_rng(3)
    weights = {"w": rng.normal(size=(4, 3, 3, 3)).astype(F), "v": np.sign(rng.normal(size=(5, 4, 3, 3))).astype(F)}
    nodes = [node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]), node("Sign", ["a"], ["s"])]
    nodes += [node("Add", ["s", "a"], ["b"])] if skip else []
    nodes += [node("Conv", ["b" if skip else "s", "v"], ["c"], pads=[1, 1, 1, 1])]
    nodes += [node("GlobalAveragePool", ["c"], ["p"]), node("Flatten", ["p"])]
    proto = model_of(nodes, {"x": (1, 3, 8, 8)}, weights)
    return write(tmp_path / "binarised.onnx", proto), rng.normal(size=(1, 3, 8, 8)).astype(F)


def test_a_binarised_network_is_refused_with_the_way_out(tmp_path) -> None:
    path, x = binarised(tmp_path)
    with pytest.raises(GradientError, match=r"Sign \(node s\) stop it\. Possible: straight_through \(--straight-"):
        Explainer(path, method="saliency").explain_tensor(x)
    (found,) = Explainer(path, method="saliency", straight_through=True).explain_tensor(x)
    assert np.abs(found.attribution).max() > 0
    assert not any("steps stop" in note for note in found.notes)


def test_a_gradient_that_passes_in_part_says_so(tmp_path) -> None:
    path, x = binarised(tmp_path, skip=True)
    (found,) = Explainer(path, method="saliency").explain_tensor(x)
    assert any("steps stop a part of the gradient: Sign (node s)" in note for note in found.notes)
