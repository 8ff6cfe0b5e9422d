"""Weights of convolutions that are no constants: the gradient is that of the same weight as a constant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxcam import Explainer

W = np.random.default_rng(0).normal(size=(12, 8, 3, 3)).astype(np.float32)
DEEP = 1200
MASK = np.asarray([1, 0] * 12)


def of_unknown_length() -> tuple[list[NodeProto], dict[str, Any]]:
    """Every second of 24 channels, which shape inference cannot count."""
    nodes = [
        helper.make_node("NonZero", ["mask"], ["places"]),
        helper.make_node("Squeeze", ["places", "zero"], ["ix"]),
        helper.make_node("Gather", ["whole", "ix"], ["w"], axis=0),
    ]
    return nodes, {"mask": MASK, "zero": np.asarray([0]), "whole": np.repeat(W, 2, 0)}


def of_the_image() -> tuple[list[NodeProto], dict[str, Any]]:
    """The weight, plus 0 times the image's mean behind many nodes."""
    nodes = [helper.make_node("ReduceMean", ["image"], ["m0"], keepdims=0)]
    nodes += [helper.make_node("Neg", [f"m{k}"], [f"m{k + 1}"]) for k in range(DEEP)]
    nodes += [helper.make_node("Mul", [f"m{DEEP}", "zero"], ["nothing"])]
    nodes += [helper.make_node("Add", ["nothing", "base"], ["w"])]
    return nodes, {"zero": np.float32(0), "base": W}


def of_shared_constants() -> tuple[list[NodeProto], dict[str, Any]]:
    """w + w, 40 times."""
    nodes = [helper.make_node("Add", [f"s{k}", f"s{k}"], [f"s{k + 1}" if k < 39 else "w"]) for k in range(40)]
    return nodes, {"s0": W / np.float32(2.0**40)}


def model(path: Path, nodes: list[NodeProto], held: dict[str, Any]) -> Path:
    """Conv, Relu, Conv by ``w``, Relu, pool, Gemm."""
    rng = np.random.default_rng(1)
    held = held | {"w1": rng.normal(size=(8, 3, 3, 3)).astype(np.float32)}
    held |= {"v": rng.normal(size=(12, 5)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        *nodes,
        helper.make_node("Conv", ["b", "w"], ["c"], pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["logits"]),
    ]
    info = helper.make_tensor_value_info
    ends = [info("image", TensorProto.FLOAT, ["N", 3, 10, 8])], [info("logits", TensorProto.FLOAT, ["N", 5])]
    graph = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(np.asarray(a), n) for n, a in held.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize("made", [of_unknown_length, of_the_image, of_shared_constants])
def test_a_weight_that_is_computed(tmp_path, made):
    x = np.random.default_rng(2).normal(size=(2, 3, 10, 8)).astype(np.float32)
    files = [model(tmp_path / "made.onnx", *made()), model(tmp_path / "held.onnx", [], {"w": W})]
    got, want = (Explainer(f, target_layer="b", engine="portable").explain_tensor(x, target=2) for f in files)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a.heatmap, b.heatmap, rtol=1e-4, atol=1e-6)
        assert b.heatmap.any()
