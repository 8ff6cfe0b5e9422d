"""Grad-CAM of a linear head behind global pooling is the CAM of Zhou et al., by hand: what every head must give.

Where z = sum_c w_c mean(A_c) + b, dz/dA is w_c / pixels, its mean the same, and the map sum_c w_c A_c / pixels. The
features are computed in loops, from the source's weights alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from builders import NODES, answers, model, value, weights, write
from onnx.reference import ReferenceEvaluator

from onnxcam import Explainer
from onnxcam.export import Form

PICTURES = np.random.default_rng(11).random((4, 3, 12, 12), dtype=np.float32)
node = onnx.helper.make_node
HELD = weights()
HEADS: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "gemm": ([NODES[6], NODES[7]], {}),
    "gemm_trans_b": (
        [NODES[6], node("Gemm", ["flat", "wt", "bd"], ["logits"], transB=1)],
        {"wt": np.ascontiguousarray(HELD["wd"].T)},
    ),
    "gemm_alpha": (
        [NODES[6], node("Gemm", ["flat", "wh", "bd"], ["logits"], alpha=0.5)],
        {"wh": 2 * HELD["wd"]},
    ),
    "matmul_add": ([NODES[6], node("MatMul", ["flat", "wd"], ["z"]), node("Add", ["z", "bd"], ["logits"])], {}),
    "matmul": ([NODES[6], node("MatMul", ["flat", "wd"], ["logits"])], {}),
    "conv": (
        [node("Conv", ["gap", "wc", "bd"], ["z"]), node("Flatten", ["z"], ["logits"])],
        {"wc": np.ascontiguousarray(HELD["wd"].T)[:, :, None, None]},
    ),
}


def source(head: str) -> onnx.ModelProto:
    nodes, more = HEADS[head]
    ends = [value("image", ["n", 3, 12, 12])], [value("logits", ["n", 4])]
    read = {n for one in (*NODES[:6], *nodes) for n in one.input}
    return model([*NODES[:6], *nodes], *ends, {k: v for k, v in (HELD | more).items() if k in read})


def features(proto: onnx.ModelProto, x: Any) -> Any:
    """(N, 8, 6, 6): what is pooled."""
    wide = onnx.ModelProto.FromString(proto.SerializeToString())
    wide.graph.output.append(value("relu2", None))
    return ReferenceEvaluator(wide).run(["relu2"], {"image": x})[0].astype(np.float64)  # type: ignore[index, union-attr]


@pytest.mark.parametrize("asked", [[0, 1, 2, 3], [-1] * 4])
@pytest.mark.parametrize("head", HEADS)
def test_the_map_is_the_one_by_hand(tmp_path, head, asked):
    proto, path = source(head), tmp_path / "x.onnx"
    ex = Explainer(write(tmp_path / "m.onnx", proto), target_layer="relu2")
    ex.export(path, form=Form(raw=True, size=(6, 6)))
    found = answers(path, **{"image": PICTURES, "onnxcam/class": np.asarray(asked)})
    A, w = features(proto, PICTURES), HELD["wd"].astype(np.float64)
    z = A.mean(axis=(2, 3)) @ w + (0 if head == "matmul" else HELD["bd"])
    np.testing.assert_allclose(found["logits"], z, atol=1e-5)
    classes = [int(np.argmax(row)) if c < 0 else c for c, row in zip(asked, z, strict=True)]
    cam = np.stack([np.tensordot(w[:, c], a, 1) / 36 for c, a in zip(classes, A, strict=True)])
    assert found["class_index"].tolist() == classes
    assert np.all(np.abs(cam).max(axis=(1, 2)) > 1e-3)
    np.testing.assert_allclose(found["cam"], cam, atol=1e-6)
    lit = np.maximum(cam, 0)
    top = lit.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found["heatmap"], np.divide(lit, top, out=np.zeros_like(lit), where=top > 0), atol=1e-4)
