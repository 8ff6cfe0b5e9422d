"""What an exported Grad-CAM does not compute: a mean gradient is known behind what only moves values about.

Maps by hand, from the features alone. Let P make each of its values as a mean of pixels of A_c, with weights that are 1
in sum, or as the largest of some. Then z = sum_c w_c mean(m P(A_c)), with a fixed m of pixels, has gradients at A_c
that are w_c mean(m) in sum, whatever P is, and the map is sum_c w_c mean(m) A_c / pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import NODES, answers, model, value, weights, write
from onnx.reference import ReferenceEvaluator

from onnxcam import Explainer
from onnxcam.export import Form

node = onnx.helper.make_node
RNG = np.random.default_rng(5)
PICTURES = RNG.random((3, 3, 12, 12), dtype=np.float32)
HELD = weights() | {
    "twice": np.asarray([1, 1, 2, 3], np.float32),
    "wide": np.asarray([1, 1, 1.5, 2.5], np.float32),
    "class": np.ascontiguousarray(weights()["wd"].T)[:, :, None, None],
    "dense": np.asarray([1, 1, 2, 2], np.float32),
}
CUBIC = {"mode": "cubic", "coordinate_transformation_mode": "align_corners"}
POOL = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
MOVES: dict[str, list[onnx.NodeProto]] = {
    "max pool": [node("MaxPool", ["relu2"], ["P"], strides=[2, 2], **POOL)],
    "average pool": [node("AveragePool", ["relu2"], ["P"], **POOL)],
    "average pool with zeros": [node("AveragePool", ["relu2"], ["P"], kernel_shape=[2, 2], count_include_pad=1)],
    "average pool that hangs over": [node("AveragePool", ["relu2"], ["P"], strides=[2, 2], ceil_mode=1, **POOL)],
    "linear resize": [node("Resize", ["relu2", "", "wide"], ["P"], mode="linear")],
    "repeated pixels": [node("Resize", ["relu2", "", "twice"], ["P"], mode="nearest")],
    "nearest pixels": [node("Resize", ["relu2", "", "wide"], ["P"], mode="nearest")],
    "two of them": [
        node("Resize", ["relu2", "", "wide"], ["B"], **CUBIC),
        node("MaxPool", ["B"], ["P"], kernel_shape=[2, 2], strides=[2, 2]),
    ],
}
SPARED = {"MaxPool", "ScatterElements", "AveragePool", "Resize", "Conv", "ConvTranspose"}


def source(moves: list[onnx.NodeProto]) -> tuple[onnx.ModelProto, float]:
    """The model, and the mean of its m."""
    bare = [*NODES[:5], *moves]
    size = features(bare, "P").shape[2:]
    held = HELD | {"m": RNG.uniform(0.5, 2, (1, 1, *size)).astype(np.float32)}
    nodes = [*bare, node("Mul", ["P", "m"], ["MP"]), node("GlobalAveragePool", ["MP"], ["gap"]), *NODES[6:]]
    return made(nodes, held, [value("logits", ["n", 4])]), float(held["m"].mean())


def made(nodes: list[onnx.NodeProto], held: dict[str, Any], outputs: list[Any]) -> onnx.ModelProto:
    read = {n for one in nodes for n in one.input}
    given = [value("image", ["n", 3, 12, 12])]
    return model(nodes, given, outputs, {k: v for k, v in held.items() if k in read})


def features(nodes: list[onnx.NodeProto], name: str) -> Any:
    """A value, by ONNX's evaluator or, where that is wrong of pools that hang over, by ONNX Runtime."""
    proto = made(nodes, HELD, [value(name, None)])
    if any(n.op_type == "AveragePool" for n in nodes):
        return onnxruntime.InferenceSession(proto.SerializeToString()).run([name], {"image": PICTURES})[0]
    return ReferenceEvaluator(proto).run([name], {"image": PICTURES})[0]  # type: ignore[index]


def written(path: Path) -> set[str]:
    """The operators that the export added."""
    return {n.op_type for n in onnx.load(path).graph.node if n.name.startswith("onnxcam/")}


def by_hand(classes: Any, factor: float) -> Any:
    A = features(NODES[:5], "relu2").astype(np.float64)
    w = HELD["wd"].astype(np.float64)
    return np.stack([np.tensordot(w[:, c], a, 1) * factor / 36 for c, a in zip(classes, A, strict=True)])


@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES)
def test_a_mean_gradient_takes_no_gradient(tmp_path, moves):
    proto, factor = source(moves)
    path, asked = tmp_path / "x.onnx", [3, 0, 1]
    ex = Explainer(write(tmp_path / "m.onnx", proto), target_layer="relu2", engine="portable")
    ex.export(path, form=Form(raw=True))
    found = answers(path, **{"image": PICTURES, "onnxcam/class": np.asarray(asked)})
    np.testing.assert_allclose(found["cam"], by_hand(asked, factor), atol=1e-6)
    assert not written(path) & SPARED
    Explainer(ex.model, method="layercam", target_layer="relu2").export(path, force=True)
    assert written(path) & SPARED, "pixel by pixel it is needed"


def test_zeros_that_were_counted_take_their_part(tmp_path):
    """What a window gives to the margin is lost: by central differences."""
    zeros = node("AveragePool", ["relu2"], ["P"], count_include_pad=1, **POOL)
    proto, _ = source([zeros])
    ex = Explainer(write(tmp_path / "m.onnx", proto), target_layer="relu2", engine="portable")
    ex.export(tmp_path / "x.onnx", form=Form(raw=True))
    found = answers(tmp_path / "x.onnx", **{"image": PICTURES, "onnxcam/class": np.asarray([2, 2, 2])})
    m = next(onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "m")[0, 0]
    kept = sum(
        m[i, j] / m.size / 9
        for i in range(6)
        for j in range(6)
        for a in (-1, 0, 1)
        for b in (-1, 0, 1)
        if 0 <= i + a < 6 and 0 <= j + b < 6
    )
    np.testing.assert_allclose(found["cam"], by_hand([2, 2, 2], float(kept)), atol=1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_class_per_pixel_takes_no_gradient(tmp_path, channels_last):
    """Over the pixels that a class wins, or over all, its gradients are 1 in sum: A is mixed by its row of weights."""
    ends = [
        node("Conv", ["relu2", "class", "bd"], ["small"]),
        node("Resize", ["small", "", "dense"], ["z"], mode="linear"),
    ]
    last = [node("Transpose", ["z"], ["logits"], perm=[0, 2, 3, 1])] if channels_last else []
    ends[-1].output[0] = "z" if channels_last else "logits"
    shape = ["n", 12, 12, 4] if channels_last else ["n", 4, 12, 12]
    proto = made([*NODES[:5], *ends, *last], HELD, [value("logits", shape)])
    ex = Explainer(write(tmp_path / "m.onnx", proto), target_layer="relu2", engine="portable")
    ex.export(tmp_path / "x.onnx", form=Form(raw=True))
    for asked in ([0, 1, 2], [3, 3, 3]):
        found = answers(tmp_path / "x.onnx", **{"image": PICTURES, "onnxcam/class": np.asarray(asked)})
        np.testing.assert_allclose(found["cam"], by_hand(asked, 1.0), atol=1e-6)
    z = np.moveaxis(found["logits"], -1, 1) if channels_last else found["logits"]
    wins = (z == z.max(axis=1, keepdims=True)).any(axis=(2, 3))
    assert 0 < wins.sum() < wins.size, "some class wins no pixel"
    assert written(tmp_path / "x.onnx").isdisjoint({"Resize", "Conv"})
    found = answers(tmp_path / "x.onnx", **{"image": PICTURES, "onnxcam/class": np.asarray([-1] * 3)})
    assert found["class_index"].tolist() == [top_class(one) for one in z]


def top_class(z: Any) -> int:
    """Of logits (C, H, W): whose mean over the pixels that it wins, or over all, is the largest; in loops."""
    means = []
    for c in range(len(z)):
        own = [z[c, i, j] for i, j in np.ndindex(z.shape[1:]) if z[c, i, j] == z[:, i, j].max()]
        means.append(np.mean(own or z[c].ravel()))
    return int(np.argmax(means))


def test_the_top_class_of_pixels_is_the_one_by_hand(tmp_path):
    """Of logits below 0, where a sum over no pixel would be the largest: the fourth class wins none."""
    x = np.random.default_rng(9).uniform(0, 9, (8, 3, 5, 6)).astype(np.float32)
    held = {"w": -np.eye(4, 3, dtype=np.float32)[:, :, None, None], "b": np.asarray([0, 0, 0, -9.5], np.float32)}
    nodes = [node("Relu", ["image"], ["kept"], "layer"), node("Conv", ["kept", "w", "b"], ["logits"])]
    given, scores = value("image", ["n", 3, 5, 6]), value("logits", ["n", 4, 5, 6])
    ex = Explainer(write(tmp_path / "m.onnx", model(nodes, [given], [scores], held)), method="saliency")
    ex.export(tmp_path / "x.onnx", form=Form(top1=True))
    found = answers(tmp_path / "x.onnx", image=x)
    want = [top_class(z) for z in found["logits"]]
    assert set(want) == {0, 1, 2}
    assert found["class_index"].tolist() == want


DENSE = {
    "gemm": [node("Gemm", ["flat", "into"], ["h"], alpha=0.5)],
    "gemm of a weight turned": [node("Gemm", ["flat", "turned"], ["h"], transB=1, alpha=0.5)],
    "product": [node("MatMul", ["flat", "into"], ["twice_h"]), node("Mul", ["twice_h", "half"], ["h"])],
}


@pytest.mark.parametrize("dense", DENSE.values(), ids=DENSE)
def test_of_a_dense_layer_behind_flattened_maps_the_means_of_its_weight_are_read(tmp_path, dense):
    """z = W2' max(W1' flat(maxpool(A)) / 2, 0): the gradients of a map are, in sum, those of all its rows of W1."""
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(8 * 9, 10)).astype(np.float32), rng.normal(size=(10, 4)).astype(np.float32)
    held = HELD | {"into": first, "turned": first.T.copy(), "out": second, "half": np.float32(0.5)}
    pool = node("MaxPool", ["relu2"], ["P"], kernel_shape=[2, 2], strides=[2, 2])
    ends = [node("Relu", ["h"], ["kept"], "kept"), node("Gemm", ["kept", "out"], ["logits"])]
    nodes = [*NODES[:5], pool, node("Flatten", ["P"], ["flat"]), *dense, *ends]
    proto = made(nodes, held, [value("logits", ["n", 4])])
    ex = Explainer(write(tmp_path / "m.onnx", proto), target_layer="relu2", engine="portable")
    ex.export(tmp_path / "x.onnx", form=Form(raw=True, size=(6, 6)))
    found = answers(tmp_path / "x.onnx", **{"image": PICTURES, "onnxcam/class": np.asarray([0, 3, 1])})
    A = features(NODES[:5], "relu2").astype(np.float64)
    for n, c in enumerate([0, 3, 1]):
        flat = A[n].reshape(8, 3, 2, 3, 2).max(axis=(2, 4)).ravel()
        slope = 0.5 * second[:, c] * (flat @ first > 0)
        of_maps = [sum(first[k * 9 + p] @ slope for p in range(9)) / 36 for k in range(8)]
        np.testing.assert_allclose(found["cam"][n], np.tensordot(of_maps, A[n], 1), atol=1e-5)
    assert not written(tmp_path / "x.onnx") & SPARED
    readers = [n for n in onnx.load(tmp_path / "x.onnx").graph.node if {"into", "turned"} & {*n.input}]
    assert [n.op_type for n in readers if n.name.startswith("onnxcam/")] == ["Reshape"]


def test_channels_are_mixed_by_one_product(tmp_path):
    """sum_c w_c A_c reads A once; a weight per pixel as well as per channel is no such product."""
    for method, product in (("gradcam", True), ("hirescam", False)):
        nodes = [*NODES[:5], node("Mul", ["relu2", "m"], ["P"]), node("GlobalAveragePool", ["P"], ["gap"]), *NODES[6:]]
        m = RNG.uniform(0.5, 2, (1, 1, 6, 6)).astype(np.float32)
        proto = made(nodes, HELD | {"m": m}, [value("logits", ["n", 4])])
        ex = Explainer(write(tmp_path / "m.onnx", proto), method=method, target_layer="relu2", engine="portable")
        ex.export(tmp_path / "x.onnx", form=Form(raw=True, size=(6, 6)), force=True)
        found = answers(tmp_path / "x.onnx", **{"image": PICTURES, "onnxcam/class": np.asarray([0, 1, 2])})
        want = by_hand([0, 1, 2], 1.0) * (m.mean() if product else m[0])
        np.testing.assert_allclose(found["cam"], want, atol=1e-6)
        assert ("MatMul" in written(tmp_path / "x.onnx")) is product
