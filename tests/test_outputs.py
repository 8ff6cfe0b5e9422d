"""Scores behind labels, maps, sequences and top-k lists."""

from __future__ import annotations

import numpy as np
import pytest
from builders import NODES, model, plain_scores, value, weights, write
from onnx import TensorProto, helper

from onnxcam import Explainer
from onnxcam.graph.inspect import find_logits
from onnxcam.model import load_model

KINDS = {
    "map": helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    ),
    "list": helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None)),
}
SOFTMAX = helper.make_node("Softmax", ["logits"], ["p"], axis=1)
CHOICE = helper.make_node("ArgMax", ["p"], ["index"], axis=1, keepdims=0)
NAMED = [
    helper.make_node("ArrayFeatureExtractor", ["names", "index"], ["name"], domain="ai.onnx.ml"),
    helper.make_node("Cast", ["name"], ["label"], to=TensorProto.INT64),
]
SPELT = helper.make_node("ArrayFeatureExtractor", ["texts", "index"], ["text"], domain="ai.onnx.ml")
ZIPPED = helper.make_node("ZipMap", ["p"], ["map"], domain="ai.onnx.ml", classlabels_int64s=[5, 6, 7, 8])
ENDINGS = {
    "an index": ([SOFTMAX, CHOICE], ["index"], "output index is what ArgMax chose; read p before it"),
    "a label": ([SOFTMAX, CHOICE, *NAMED], ["label"], "output label is what ArgMax chose; read p before it"),
    "a map": ([SOFTMAX, ZIPPED], ["map"], "output map is no tensor; read p before it"),
    "a label and a map": ([SOFTMAX, CHOICE, *NAMED, ZIPPED], ["label", "map"], "output map is no tensor; read p"),
    "a text and a map": ([SOFTMAX, CHOICE, SPELT, ZIPPED], ["text", "map"], "output map is no tensor; read p"),
    "the two best": (
        [SOFTMAX, helper.make_node("TopK", ["p", "two"], ["best", "at"])],
        ["best", "at"],
        "output best is what TopK chose; read p before it",
    ),
    "a sequence": (
        [SOFTMAX, helper.make_node("SequenceConstruct", ["p"], ["list"])],
        ["list"],
        "output list is no tensor; read p before it",
    ),
}


def saved(tmp_path, what, dtype=np.float32):
    nodes, names, _ = ENDINGS[what]
    others = {"index": 7, "label": 7, "at": 7, "text": 8}  # INT64, STRING
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    outputs = [
        helper.make_value_info(n, KINDS[n]) if n in KINDS else value(n, None, others.get(n, kind)) for n in names
    ]
    held = {"names": np.array([50, 60, 70, 80]), "two": np.array([2])}
    held["texts"] = np.array(["fifty", "sixty", "seventy", "eighty"], object)
    used = {k: v for k, v in held.items() if any(k in n.input for n in nodes)}
    proto = model(
        [*NODES, *nodes], [value("image", [2, 3, 12, 12], kind)], outputs,
        weights(dtype=dtype) | used, domains={"ai.onnx.ml": 3},
    )  # fmt: skip
    return write(tmp_path / "model.onnx", proto), proto


@pytest.mark.parametrize("what", ENDINGS)
def test_the_scores_before_are_explained(tmp_path, what) -> None:
    path, proto = saved(tmp_path, what)
    x = np.random.default_rng(1).normal(size=(2, 3, 12, 12)).astype(np.float32)
    loaded = load_model(path)
    assert any(ENDINGS[what][2] in note for note in loaded.notes)
    assert find_logits(loaded).name == "logits"
    expected = plain_scores(proto, x)
    for found, scores in zip(Explainer(loaded, method="saliency").explain_tensor(x), expected, strict=True):
        assert found.class_index == scores.argmax()
        assert found.score == pytest.approx(scores.max(), rel=1e-4)
        assert found.probability == pytest.approx(np.exp(scores.max()) / np.exp(scores).sum(), rel=1e-4)


def test_the_type_of_what_is_revealed_is_inferred(tmp_path) -> None:
    path, _ = saved(tmp_path, "an index", np.float16)
    assert find_logits(load_model(path)).name == "logits"


def test_scores_that_come_out_beside_a_label_stay_alone(tmp_path) -> None:
    nodes = [*NODES, SOFTMAX, CHOICE]
    outputs = [value("index", None, 7), value("logits", ["n", 4])]
    proto = model(nodes, [value("image", ["n", 3, 12, 12])], outputs, weights())
    loaded = load_model(write(tmp_path / "model.onnx", proto))
    assert [v.name for v in loaded.outputs] == ["index", "logits"]
    assert loaded.notes == ()


def test_a_choice_among_the_inputs_own_values_reveals_nothing(tmp_path) -> None:
    nodes = [helper.make_node("TopK", ["x", "two"], ["best", "at"])]
    proto = model(nodes, [value("x", [3, 4])], [value("best", [3, 2]), value("at", [3, 2], 7)], {"two": np.array([2])})
    loaded = load_model(write(tmp_path / "model.onnx", proto))
    assert [v.name for v in loaded.outputs] == ["best", "at"]


def test_the_class_names_of_a_map_are_the_labels(tmp_path) -> None:
    """In the order of the scores, which skl2onnx sorts."""
    spelt = helper.make_node("ZipMap", ["p"], ["map"], domain="ai.onnx.ml", classlabels_strings=["d", "é", "b", "a"])
    outputs = [helper.make_value_info("map", KINDS["map"])]
    nodes, domains = [*NODES, SOFTMAX, spelt], {"ai.onnx.ml": 3}
    proto = model(nodes, [value("image", ["n", 3, 12, 12])], outputs, weights(), domains=domains)
    x = np.random.default_rng(1).normal(size=(4, 3, 12, 12)).astype(np.float32)
    best = plain_scores(proto, x).argmax(1)
    found = Explainer(write(tmp_path / "model.onnx", proto), method="saliency").explain_tensor(x)
    assert [e.label for e in found] == [["d", "é", "b", "a"][k] for k in best]
