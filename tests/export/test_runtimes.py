"""Exported models on runtimes that are no ONNX Runtime, and what makes a file fit for them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from builders import classifier, model, value, write
from onnx.reference import ReferenceEvaluator

from benchmarks.runtimes_document import Cell, document, figures, sheets
from onnxcam import Explainer, add_gradients, load_model
from onnxcam.export import Form

METHODS = (
    "gradcam", "layercam", "gradcampp", "eigencam",
    "saliency", "guided_backprop", "guided_gradcam", "input_x_gradient",
)  # fmt: skip
RNG = np.random.default_rng(5)
PICTURE = RNG.random((1, 3, 12, 12), dtype=np.float32)


def evaluated(path: Path, feeds: dict[str, Any], names: list[str]) -> list[Any]:
    return list(ReferenceEvaluator(str(path)).run(names, feeds))


def seen_by_opencv(path: Path, feeds: dict[str, Any], names: list[str]) -> list[Any]:
    net = cv2.dnn.readNetFromONNX(str(path))
    for name, array in feeds.items():
        net.setInput(array, name)
    return list(net.forward(names))


@pytest.mark.parametrize("runtime", [evaluated, seen_by_opencv])
@pytest.mark.parametrize("method", METHODS)
def test_other_runtimes_give_the_explainers_heatmap(tmp_path, method, runtime):
    source, path = write(tmp_path / "m.onnx", classifier()), tmp_path / "exported.onnx"
    ex = Explainer(source, method=method)
    ex.export(path)
    lit = []
    for asked in (0, 1, 2, 3, -1):
        (want,) = ex.explain_tensor(PICTURE, None if asked < 0 else asked)
        feeds = {"image": PICTURE, "onnxcam/class": np.asarray([asked])}
        heat, index, scores = runtime(path, feeds, ["heatmap", "class_index", "logits"])
        np.testing.assert_allclose(np.squeeze(heat), want.heatmap, atol=2e-5)
        assert np.ravel(index).tolist() == [want.class_index]
        assert np.ravel(scores)[want.class_index] == pytest.approx(want.score, rel=1e-4)
        lit.append(want.heatmap.any())
    assert sum(lit) >= 2


def test_no_shape_is_written_but_of_inputs_and_outputs(tmp_path):
    """A runtime that settles the batch finds no file that says otherwise in between."""
    proto = onnx.shape_inference.infer_shapes(classifier())
    assert proto.graph.value_info
    proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 5))
    path = tmp_path / "exported.onnx"
    Explainer(write(tmp_path / "m.onnx", proto)).export(path)
    found = onnx.load(path)
    assert [v.name for v in found.graph.value_info] == []
    assert [(o.domain, o.version) for o in found.opset_import] == [("", 18)]
    shapes = {v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in found.graph.output}
    assert shapes == {"logits": ["n", 4], "heatmap": ["n", 12, 12], "class_index": ["n"]}
    onnx.checker.check_model(found, full_check=True)


def flattened(kind: str) -> onnx.ModelProto:
    """The batch behind the Reshape has another name than the one before it, so that no name tells that they are one."""
    node = onnx.helper.make_node
    rng = np.random.default_rng(2)
    arrays = {
        "w": rng.standard_normal((5, 3, 3, 3)).astype(np.float32),
        "shape": np.asarray([-1, 5 * 36]),
        "d": rng.standard_normal((5 * 36, 4)).astype(np.float32),
        "e": rng.standard_normal(4).astype(np.float32),
    }
    dense = {
        "Gemm": [node("Gemm", ["flat", "d", "e"], ["logits"])],
        "MatMul": [node("MatMul", ["flat", "d"], ["product"]), node("Add", ["product", "e"], ["logits"])],
    }[kind]
    nodes = [
        node("Conv", ["image", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("Reshape", ["r", "shape"], ["flat"]),
        *dense,
    ]
    return model(nodes, [value("image", ["n", 3, 12, 12])], [value("logits", ["m", 4])], arrays)


@pytest.mark.parametrize("kind", ["Gemm", "MatMul"])
def test_what_a_dense_layer_multiplies_is_not_broadcast(tmp_path, kind):
    """No axis is looked for at run time (NonZero), which OpenVINO cannot read; the gradient is the weights' column."""
    proto, path = flattened(kind), tmp_path / "exported.onnx"
    ex = Explainer(write(tmp_path / "m.onnx", proto), target_layer="r")
    ex.export(path)
    assert "NonZero" not in {n.op_type for n in onnx.load(path).graph.node}
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    (A,) = ReferenceEvaluator(model(proto.graph.node[:2], proto.graph.input, [value("r", None)], arrays)).run(
        None, {"image": PICTURE}
    )
    for c in range(4):
        (found,) = ex.explain_tensor(PICTURE, c)
        G = arrays["d"][:, c].reshape(5, 36).mean(axis=1)
        np.testing.assert_allclose(found.cam, np.einsum("c,chw->hw", G, A[0]), atol=1e-5)


@pytest.mark.parametrize("lengths", [(1, 3), (3, 3), (3, 1)])
@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_what_may_be_broadcast_still_is_summed(tmp_path, op, lengths):
    """Two free axes of which either may be 1: only the run tells which was stretched."""
    proto = model(
        [onnx.helper.make_node(op, ["a", "b"], ["y"])],
        [value("a", ["p", 2]), value("b", ["q", 2])],
        [value("y", [None, 2])],
    )
    edited = add_gradients(load_model(write(tmp_path / "m.onnx", proto)), of="y", wrt=["a", "b"])
    a, b = (RNG.random((n, 2), dtype=np.float32) for n in lengths)
    dy = RNG.random((max(lengths), 2), dtype=np.float32)
    session = onnxruntime.InferenceSession(
        ir.to_proto(edited.ir_model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = session.run(["onnxcam/grad/a", "onnxcam/grad/b"], {"a": a, "b": b, "onnxcam/seed": dy})
    for got, own, other in zip(found, (a, b), (b, a), strict=True):
        full = dy * np.broadcast_to(other if op == "Mul" else 1, dy.shape)
        want = full.sum(axis=0, keepdims=True) if len(own) == 1 and len(dy) > 1 else full
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_square_weight_is_not_multiplied_by_as_it_lies_and_transposed(tmp_path):
    """OpenVINO's CPU plugin takes one for the other; the values stay the same, to the last bit."""
    node, rng = onnx.helper.make_node, np.random.default_rng(4)
    arrays = {
        k: rng.standard_normal(s).astype(np.float32) for k, s in {"w": (6, 3, 3, 3), "d": (6, 6), "e": (6, 4)}.items()
    }
    nodes = [
        node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["gap"]),
        node("Flatten", ["gap"], ["flat"]),
        node("MatMul", ["flat", "d"], ["hidden"]),
        node("MatMul", ["hidden", "e"], ["logits"]),
    ]
    proto = model(nodes, [value("image", ["n", 3, 12, 12])], [value("logits", ["n", 4])], arrays)
    ex, path = Explainer(write(tmp_path / "m.onnx", proto), target_layer="r"), tmp_path / "exported.onnx"
    ex.export(path, form=Form(raw=True))
    graph = onnx.load(path).graph
    readers = [n.op_type for n in graph.node if "d" in n.input]
    assert sorted(readers) == ["MatMul", "Mul"]
    assert {i.name: list(i.dims) for i in graph.initializer if list(i.dims) == [6, 6]} == {"d": [6, 6]}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for c in range(4):
        (want,) = ex.explain_tensor(PICTURE, c)
        (cam,) = session.run(["cam"], {"image": PICTURE, "onnxcam/class": np.asarray([c])})
        np.testing.assert_allclose(cam[0], want.cam, rtol=1e-5, atol=1e-6)


# ---- the page of what runs where ----


def told(green: bool, error: str = "", far: float = 0.0, r: float = 1.0) -> dict[str, Any]:
    return {"green": green, "outputs": {"heatmap": {"max": far, "r": r, "top": 1.0}}} | (
        {"error": error} if error else {}
    )


def test_the_page_counts_what_is_green_and_gives_the_reason_of_what_is_red(tmp_path):
    places = [(m, c) for m in ("net", "net-zipmap", "old-int8") for c in ("gradcam", "saliency")]
    cells = [Cell(m, c, f"{m}.{c}.onnx") for m, c in places[:-1]]
    found = {
        "net.gradcam": told(True, far=2e-5),
        "net.saliency": told(False, r=0.5),
        "net-zipmap.gradcam": told(False, error="STRING is not known"),
        "old-int8.gradcam": told(False, far=0.25),
    }
    (tmp_path / "opencv.json").write_text(json.dumps({"version": "opencv 5", "cells": found}))
    made = sheets(cells, tmp_path)
    rows = list(csv.reader(figures(made).splitlines()))
    assert [dict(zip(rows[0], row, strict=True))["gradcam"] for row in rows[1:]] == ["2e-5", "fails (2)", "2e-1 (3)"]
    assert [dict(zip(rows[0], row, strict=True))["saliency"] for row in rows[1:]] == ["0.5000 (1)", "", "-"]
    page = document(made)
    assert "| [OpenCV dnn](#opencv-dnn) | opencv 5 |  |  | 1/3 |  |  |  | 0/1 |  |  |  |" in page
    assert page.startswith("# Where exported models run\n\n3 models")
    _, section = page.split("## OpenCV dnn\n\n")
    assert section.splitlines()[:4] == [
        "1. Unexplained: other values",
        "   - saliency: net",
        "2. OpenCV reads no model with an output of labels (strings).",
        "   - gradcam: net-zipmap",
    ]


def test_the_page_and_its_table_of_figures_say_the_same():
    """Counted anew: a green figure has no number behind it, and the number of a red one has its reason on the page."""
    docs = Path(__file__).parents[2] / "docs"
    page, rows = (docs / "runtimes.md").read_text(), list(csv.reader((docs / "runtimes.csv").open()))
    summary = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| [")]
    sections = dict(part.split("\n\n", 1) for part in page.split("\n## ")[1:])
    assert len(summary) == len(sections) >= 6
    for line in summary:
        title, _, *shares = (text.strip() for text in line)
        name = title[1 : title.index("]")]
        held = [row[2:] for row in rows[1:] if row[0] == name]
        counted = []
        for column in zip(*held, strict=True):
            ran = [figure for figure in column if figure not in ("", "-")]
            counted.append(f"{sum('(' not in figure for figure in ran)}/{len(ran)}" if ran else "")
        assert counted == (shares + [""] * 10)[:10]
        numbers = {int(n) for row in held for figure in row for n in re.findall(r"\((\d+)\)", figure)}
        assert numbers == {int(n) for n in re.findall(r"^(\d+)\. ", sections[name], re.MULTILINE)}
        assert "Unexplained" not in sections[name]
