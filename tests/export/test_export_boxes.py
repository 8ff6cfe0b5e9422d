"""The box out of an exported model is the one that NumPy and OpenCV find in the same heatmap, to the pixel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from builders import classifier, write
from onnx.reference import ReferenceEvaluator

from onnxcam import Explainer
from onnxcam.core import localize
from onnxcam.export import Form, explainable, export
from onnxcam.export.boxes import boxes
from onnxcam.graph.symbolic import Writer
from onnxcam.image import read_image
from onnxcam.zoo import samples

RNG = np.random.default_rng(11)
Answer = Callable[[Any], Any]


def graph(n: int | str = "n", height: int | str = "h", width: int | str = "w") -> onnx.ModelProto:
    found = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="boxes")
    writer = Writer(found, 18)
    writer.output(boxes(writer.input("heatmap", ir.DataType.FLOAT, (n, height, width))), "boxes")
    proto = ir.to_proto(ir.Model(found, ir_version=8))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def answers(proto: onnx.ModelProto) -> Answer:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda heatmaps: session.run(None, {"heatmap": heatmaps})[0]


@pytest.fixture(scope="module")
def answer() -> Answer:
    """Of any number of heatmaps of any size."""
    return answers(graph())


def flooded(heatmap: Any) -> list[int]:
    """The largest component, one pixel at a time from the first one on, by a stack; of equal ones the first in OpenCV's
    order: that of the 2 x 2 blocks in which they start."""
    height, width = heatmap.shape
    strong = (heatmap > 0) & (heatmap.astype(np.float64) >= 0.15 * np.float64(heatmap.max()))
    best: tuple[int, list[int]] = (0, [0, 0, 0, 0])
    left = {(y, x) for y, x in np.ndindex(height, width) if strong[y, x]}
    for y, x in sorted(left, key=lambda at: (at[0] // 2, at[1] // 2)):
        if (y, x) not in left:
            continue
        left.discard((y, x))
        stack, seen = [(y, x)], []
        while stack:
            at = stack.pop()
            seen.append(at)
            around = {(at[0] + dy, at[1] + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            stack.extend(around)
        if len(seen) > best[0]:
            rows, columns = zip(*seen, strict=True)
            best = len(seen), [min(columns), min(rows), max(columns) + 1, max(rows) + 1]
    return best[1]


def numpy_gives(heatmap: Any) -> list[int]:
    found = localize.boxes(heatmap)
    return [found[0].x0, found[0].y0, found[0].x1, found[0].y1] if found else [0, 0, 0, 0]


def spiral(n: int) -> Any:
    """A corridor one pixel wide that winds inwards, walls of one pixel between."""
    found, (y, x), (dy, dx) = np.zeros((n, n), np.float32), (0, 0), (0, 1)
    found[0, 0] = 1

    def is_free(y: int, x: int) -> bool:
        beyond = y + dy, x + dx
        open_ = 0 <= y < n and 0 <= x < n and not found[y, x]
        return open_ and not (0 <= beyond[0] < n and 0 <= beyond[1] < n and found[beyond])

    for _ in range(2 * n):
        while is_free(y + dy, x + dx):
            y, x = y + dy, x + dx
            found[y, x] = 1
        dy, dx = dx, -dy
    return found


def comb(n: int) -> Any:
    found = np.zeros((n, n), np.float32)
    found[:, ::2] = found[-1] = 1
    return found


def snake(n: int) -> Any:
    found = np.zeros((n, n), np.float32)
    found[::2] = 1
    found[1::4, -1] = found[3::4, 0] = 1
    return found


def pattern(rows: str) -> Any:
    return np.asarray([[float(c == "#") for c in row] for row in rows.split()], np.float32)


HOSTILE = {
    "nothing": np.zeros((6, 7), np.float32),
    "below zero": np.full((6, 7), -1, np.float32),
    "everything": np.ones((6, 7), np.float32),
    "one pixel": np.ones((1, 1), np.float32),
    "a row": pattern("##.###.#"),
    "a column": pattern("# . # # . # # #"),
    "checkerboard": (np.indices((16, 16)).sum(0) % 2).astype(np.float32),
    "dots": np.kron(np.ones((8, 8)), [[1, 0], [0, 0]]).astype(np.float32),
    "diagonal": np.eye(9, dtype=np.float32),
    "other diagonal": np.eye(9, dtype=np.float32)[::-1],
    "corners": pattern("#...# ..... #...#"),
    "edges that do not meet round the picture": pattern("...### ...... ###..."),
    "under the end": pattern("###.. ...## ....."),
    "over the end": pattern("...## ###.. ....."),
    "U": pattern("#...# #...# #####"),
    "two that tie, the lower one's block first": pattern("......## #....... #......."),
    "two that tie in one row": pattern("##..## ......"),
    "larger below": pattern("##.... ...... ...###"),
    "spiral": spiral(25),
    "spiral outwards": np.ascontiguousarray(spiral(25)[::-1, ::-1]),
    "comb": comb(24),
    "comb, teeth down": np.ascontiguousarray(comb(24)[::-1]),
    "snake": snake(24),
    "snake, upright": np.ascontiguousarray(snake(24).T),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_maps(answer, name):
    heatmap = HOSTILE[name]
    want = flooded(heatmap)
    assert want == numpy_gives(heatmap)
    assert answer(heatmap[None])[0].tolist() == want
    assert name in ("nothing", "below zero") or any(want)


@pytest.mark.parametrize("density", [0.02, 0.15, 0.3, 0.45, 0.6, 0.95])
@pytest.mark.parametrize("flat", [False, True])
def test_noise_of_several_samples_at_a_time(answer, density, flat):
    """Flat noise has many components of one size; else the threshold decides what is one."""
    for height, width in ((1, 9), (9, 1), (13, 22), (31, 18)):
        kept = RNG.random((5, height, width)) < density
        heatmaps = (kept * (1 if flat else RNG.random(kept.shape))).astype(np.float32)
        heatmaps[3] = 0
        assert answer(heatmaps).tolist() == [flooded(h) for h in heatmaps]


def test_large_maps_are_opencvs(answer):
    """Where one pixel at a time would take too long: OpenCV's own labels."""
    smooth = cv2.resize(RNG.random((2, 7, 7), dtype=np.float32).transpose(1, 2, 0), (224, 224)).transpose(2, 0, 1)
    noisy = (RNG.random((3, 224, 224)) < 0.41).astype(np.float32)  # near where one component begins to cover all
    for heatmap in (*np.maximum(smooth - 0.5, 0), *noisy, spiral(224), snake(224).T, comb(224)):
        assert answer(np.ascontiguousarray(heatmap[None]))[0].tolist() == numpy_gives(heatmap)


@pytest.mark.parametrize("top", [1.0, 0.7, 3e-39, 1e30])
def test_the_threshold_is_float64s(answer, top):
    """One step of float32 above and below 15 % of the maximum."""
    heatmap = np.zeros((5, 9), np.float32)
    heatmap[2, 4] = top
    bound = np.float32(0.15 * np.float64(heatmap.max()))
    heatmap[2, 3], heatmap[2, 5], heatmap[1, 4] = np.nextafter(bound, 0), np.nextafter(bound, np.inf), bound
    found = answer(heatmap[None])[0].tolist()
    assert found == flooded(heatmap) == numpy_gives(heatmap)
    assert (found[0], found[2]) == (4, 6)


@pytest.mark.parametrize("size", [(1, 24, 17), ("n", 24, 17), (1, "h", 17)])
def test_sizes_known_or_not_and_the_reference_evaluator(size):
    proto = graph(*size)
    noise = (RNG.random((4, 1, 24, 17)) < [[[[0.0]]], [[[0.2]]], [[[0.4]]], [[[1.0]]]]).astype(np.float32)
    for heatmaps in noise:
        want = [flooded(h) for h in heatmaps]
        assert answers(proto)(heatmaps).tolist() == want
        (found,) = ReferenceEvaluator(proto).run(None, {"heatmap": heatmaps})
        assert found.tolist() == want


def exported(path: Path, x: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: x, "onnxcam/class": np.full(len(x), -1)}
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def test_a_model_gives_the_explainers_box(tmp_path):
    scenes = [read_image(p)[::2, ::2] for p in samples("shapes-cnn")[:4]]
    x = np.ascontiguousarray(np.stack(scenes).transpose(0, 3, 1, 2).astype(np.float32) / 255)
    ex, path = Explainer("zoo:shapes-cnn"), tmp_path / "m.onnx"
    ex.export(path, form=Form(boxes=True))
    found = exported(path, x)
    want = [e.boxes()[0] for e in ex.explain_tensor(x)]
    assert found["boxes"].tolist() == [[b.x0, b.y0, b.x1, b.y1] for b in want]
    assert len({tuple(b) for b in found["boxes"].tolist()}) == 4
    output = next(o for o in onnx.load(path).graph.output if o.name == "boxes").type.tensor_type
    assert [d.dim_value or d.dim_param for d in output.shape.dim][1:] == [4]
    assert output.elem_type == onnx.TensorProto.FLOAT


def test_several_maps_have_a_box_each(tmp_path):
    ex = Explainer(write(tmp_path / "s.onnx", classifier()), target_layer=["relu1", "relu2"])
    pixels = Explainer(ex.model, method="saliency", preprocess=ex.preprocess)
    export([ex, pixels], tmp_path / "m.onnx", form=Form(boxes=True))
    found = exported(tmp_path / "m.onnx", RNG.random((3, 3, 12, 12), dtype=np.float32))
    names = ["gradcam_relu1", "gradcam_relu2", "saliency"]
    assert [n for n in found if n.startswith("boxes")] == [f"boxes_{n}" for n in names]
    for name in names:
        assert found[f"boxes_{name}"].tolist() == [flooded(h) for h in found[f"heatmap_{name}"]]
        assert found[f"boxes_{name}"].any()


def test_a_detectors_boxes_stay_its_own(tmp_path):
    proto = classifier()
    for node in proto.graph.node:
        node.output[:] = ["boxes" if o == "logits" else o for o in node.output]
    proto.graph.output[0].name = "boxes"
    made = explainable([Explainer(write(tmp_path / "s.onnx", proto))], form=Form(boxes=True, class_index=False))
    assert [o.name for o in made.model.outputs] == ["boxes", "heatmap", "onnxcam/boxes"]
