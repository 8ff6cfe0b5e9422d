"""`onnxcam inspect`: what it tells of a model, as a table and as JSON."""

from __future__ import annotations

import hashlib

import builders
import numpy as np
import pytest
from builders import NODES, classifier, value, weights, write
from onnx import helper, numpy_helper

from onnxcam import runtime
from onnxcam.methods import METHODS

LONG = "StatefulPartitionedCall/model_1/block_16_project/BiasAdd;model_1/block_16_project/Conv2D;kernel_11_prequant"


@pytest.fixture
def softmaxed(tmp_path):
    nodes = [*NODES, helper.make_node("Softmax", ["logits"], ["probabilities"], "softmax", axis=1)]
    outputs = [value("probabilities", ["n", 4]), value("relu2", ["n", 8, 6, 6])]
    proto = builders.model(nodes, [value("image", ["n", 3, 12, 12])], outputs, weights(), 13, domains=None)
    proto.producer_name, proto.producer_version = "maker", "1.5"
    proto.metadata_props.add(key="names", value="['a', 'b', 'c', 'd']")
    return write(tmp_path / "softmaxed.onnx", proto)


def test_json_tells_everything(run, softmaxed):
    done = run("inspect", softmaxed, "--json")
    assert (done.code, done.err) == (0, "")
    (facts,) = done.json
    assert facts["sha256"] == hashlib.sha256(softmaxed.read_bytes()).hexdigest()
    assert (facts["opset"], facts["producer"], facts["notes"]) == (13, "maker 1.5", ["converted from opset 13 to 18"])
    assert facts["weights_bytes"] >= sum(a.nbytes for a in weights().values())
    image = facts["input"]
    assert (image["name"], image["dtype"], image["layout"], image["channels"]) == ("image", "FLOAT", "NCHW", 3)
    assert (image["batch"], image["height"], image["width"]) == (None, 12, 12)
    assert [o["name"] for o in facts["outputs"]] == ["probabilities", "relu2"]
    logits = facts["logits"]
    assert (logits["name"], logits["classes"], logits["stepped_over"]) == ("logits", 4, ["Softmax"])
    assert [layer["name"] for layer in facts["layers"]] == ["relu2", "conv2", "relu1", "conv1"]
    assert facts["layers"][0]["shape"][1:] == [8, 6, 6]
    assert all(layer["reason"] for layer in facts["layers"])
    assert facts["activations"] == {"sites": 2, "rectifiers": 2}
    assert facts["engines"]["portable"] == {"layer": "ok", "image": "ok"}
    assert facts["labels"] == 4
    assert facts["preprocess"]["name"] == "imagenet"
    assert set(METHODS) - set(facts["methods"]) == {"legrad", "rollout"}


def test_names_that_do_not_fit_the_classes_are_told(run, softmaxed):
    assert "4 class names" in run("inspect", softmaxed).out
    softmaxed.with_suffix(".toml").write_text('labels = ["a", "b", "c"]')
    assert "3 names for 4 classes: names may be missing or shifted" in run("inspect", softmaxed).out
    assert "3 names for 4 classes" in run("inspect", softmaxed, "--json").json[0]["notes"][-1]


def test_a_pool_that_no_engine_differentiates_leaves_the_methods_without_gradient(run, tmp_path):
    """Its last window begins beyond the picture: runtimes do not agree what it holds."""
    w = weights()
    pool = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}
    nodes = [*NODES[:2], helper.make_node("AveragePool", ["relu1"], ["pool"], "pool", **pool), *NODES[3:]]
    image, logits = value("image", ["N", 3, 13, 13]), value("logits", ["N", 4])
    done = run("inspect", write(tmp_path / "m.onnx", builders.model(nodes, [image], [logits], w)), "--json")
    (facts,) = done.json
    assert "pool" in facts["engines"]["portable"]["image"]
    assert {"scorecam", "rise"} <= set(facts["methods"])
    assert not {"gradcam", "saliency"} & set(facts["methods"])


def test_the_table_tells_what_a_person_needs(run, softmaxed):
    done = run("inspect", softmaxed)
    assert done.code == 0
    for part in ("opset 13, maker 1.5", "image: FLOAT NCHW, 3 channels, 12x12, batch any", "before Softmax",
                 "logits: 4 classes", "relu2; the last spatial map", "(n, 8, 6, 6)", "imagenet is assumed",
                 "converted from opset 13 to 18"):  # fmt: skip
        assert part in done.out


def test_it_needs_no_runtime(run, softmaxed, monkeypatch):
    monkeypatch.setattr(runtime, "load_runtime", None)
    monkeypatch.setattr(runtime, "Session", None)
    assert run("inspect", softmaxed).code == 0


def test_an_output_can_be_chosen(run, fails, softmaxed):
    (facts,) = run("inspect", softmaxed, "--output", "relu2", "--json").json
    assert facts["logits"]["name"] == "relu2"
    assert "did you mean 'relu2'" in fails("inspect", softmaxed, "--output", "relu3")


def renamed(proto, names):
    for node in proto.graph.node:
        for given in (node.input, node.output):
            given[:] = [names.get(name, name) for name in given]
    return proto


def test_long_names_are_whole_and_lines_fit_a_terminal(run, tmp_path, monkeypatch):
    model = write(tmp_path / "long.onnx", renamed(classifier(), {"relu2": LONG, "conv2": f"{LONG}_2"}))
    assert LONG in run("inspect", model).out  # not a terminal: nothing is folded
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("onnxcam.cli.listing._width", lambda columns, rows: None)
    out = run("inspect", model).out
    assert max(map(len, out.splitlines())) <= 80
    name_column = "".join(
        line[4:].split("  ")[0].strip() for line in out.split("target layer, best first")[1].splitlines()
    )
    assert LONG in name_column


def test_a_model_without_a_spatial_layer_says_so(run, tmp_path):
    w = numpy_helper.from_array(np.zeros((432, 4), np.float32), "w")
    nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("Gemm", ["flat", "w"], ["logits"])]
    proto = builders.model(nodes, [value("image", ["n", 3, 12, 12])], [value("logits", ["n", 4])])
    proto.graph.initializer.append(w)
    done = run("inspect", write(tmp_path / "mlp.onnx", proto))
    assert done.code == 0
    assert "none: no spatial map" in done.out
    assert "saliency" in done.out


def test_what_is_no_model_is_one_message(fails, tmp_path):
    text = tmp_path / "a.onnx"
    text.write_text("hello")
    assert "not an ONNX model" in fails("inspect", text)
    assert "no such file" in fails("inspect", tmp_path / "none.onnx")


@pytest.mark.real
def test_every_real_model_is_inspected_or_refused_in_one_message(run, real_zoo):
    refused = []
    for path in sorted((real_zoo / "models").glob("*.onnx")):
        done = run("inspect", path, "--json")
        if done.code:
            refused.append(path.stem)
            assert done.err.startswith("onnxcam: ")
            assert "unexpected" not in done.err
        else:
            assert done.json[0]["layers"], path
    assert refused == ["mnist_cntk_noopset", "skl2onnx_iris_trees", "squeezenet_fp16_customop_debug"]
