"""What operators give on constants: those at hand are held against ONNX's own evaluator."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnxcam.constants import evaluated

pytestmark = pytest.mark.anyruntime


def whole(*numbers: object) -> list[np.ndarray]:
    return [np.asarray(n, dtype=np.int64) for n in numbers]


AT_HAND = [
    ("Range", whole(0, 7, 1)),
    ("Range", whole(5, -4, -3)),
    ("Range", whole(3, 3, 1)),
    ("Sub", whole([[4, -2], [2**62, 0]], [7, 3])),
    ("Sub", whole(1000, 1)),
    ("Squeeze", whole([[[5], [6]]], [0, -1])),
    ("Squeeze", whole([[[5], [6]]], [0])),
]
ELSEWHERE = [
    ("Range", [np.float32(0.5), np.float32(2), np.float32(0.25)]),
    ("Sub", [np.asarray([1.5], np.float32), np.asarray([0.25], np.float32)]),
    ("Sub", [np.asarray([1], np.uint8), np.asarray([2], np.uint8)]),
    ("Squeeze", whole([[[5], [6]]])),  # every axis of length 1
]


@pytest.mark.parametrize(("op_type", "inputs"), AT_HAND + ELSEWHERE)
def test_it_is_what_the_evaluator_says(op_type, inputs):
    names = [f"i{k}" for k in range(len(inputs))]
    node, feeds = helper.make_node(op_type, names, ["y"]), dict(zip(names, inputs, strict=True))
    (want,) = ReferenceEvaluator(node, opsets={"": 18}).run(None, feeds)
    (found,) = evaluated(node, {"": 18}, feeds)
    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.shape) == (want.dtype, np.shape(want))
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize(("case", "asked"), [(AT_HAND, False), (ELSEWHERE, True)])
def test_the_evaluator_is_asked_where_it_is_needed_alone(monkeypatch, case, asked):
    monkeypatch.setitem(sys.modules, "onnx.reference", None)
    for op_type, inputs in case:
        names = [f"i{k}" for k in range(len(inputs))]
        node, feeds = helper.make_node(op_type, names, ["y"]), dict(zip(names, inputs, strict=True))
        if asked:
            with pytest.raises(ImportError):
                evaluated(node, {"": 18}, feeds)
        else:
            evaluated(node, {"": 18}, feeds)


@pytest.mark.parametrize("change", [{"domain": "other"}, {"opsets": {"": 12}}, {"opsets": {}}])
def test_another_operator_of_that_name_is_the_evaluators_matter(monkeypatch, change):
    monkeypatch.setitem(sys.modules, "onnx.reference", None)
    node = helper.make_node("Sub", ["a", "b"], ["y"], domain=change.get("domain", ""))
    a, b = whole(1, 2)
    with pytest.raises(ImportError):
        evaluated(node, change.get("opsets", {"": 18}), {"a": a, "b": b})
