"""Recipro-CAM out of an exported model: the head's scores of features masked one position at a time, in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import NODES, answers, classifier, model, value, weights, write
from onnx.reference import ReferenceEvaluator
from transformers import ViT, picture

from onnxcam import Explainer
from onnxcam.errors import OptionError
from onnxcam.export import MARK, Form, export
from onnxcam.image import read_image
from onnxcam.zoo import locate, samples

PICTURES = np.random.default_rng(7).random((4, 3, 12, 12), dtype=np.float32)
GAUSSIAN = np.asarray([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
node = onnx.helper.make_node
INT64, BOOL = onnx.TensorProto.INT64, onnx.TensorProto.BOOL


def run(path: Path, x: Any, asked: Any) -> dict[str, Any]:
    return answers(path, **{onnx.load(path).graph.input[0].name: x, "onnxcam/class": np.asarray(asked)})


def softmax(z: Any) -> Any:
    raised = np.exp(z - z.max())
    return raised / raised.sum()


def stretched(scores: Any) -> Any:
    return (scores - scores.min()) / (scores.max() - scores.min())


def features_of_classifier(x: Any) -> Any:
    """(8, 6, 6): up to the second ReLU."""
    head = model(NODES[:5], [value("image", ["n", 3, 12, 12])], [value("relu2", None)], weights())
    return ReferenceEvaluator(head).run(None, {"image": x[None]})[0][0]  # type: ignore[index]


def classified(features: Any) -> Any:
    held = weights()
    return features.mean(axis=(1, 2)) @ held["wd"] + held["bd"]


def expected(x: Any, asked: int, gaussian: bool = False) -> Any:
    """One position at a time, in plain loops."""
    A = features_of_classifier(x).astype(np.float64)
    index = int(np.argmax(classified(A))) if asked < 0 else asked
    scores = np.zeros((6, 6))
    for i, j in np.ndindex(6, 6):
        left = np.zeros_like(A)
        for y, x_ in np.ndindex(6, 6):
            near = abs(y - i) <= 1 and abs(x_ - j) <= 1
            share = (GAUSSIAN[y - i + 1, x_ - j + 1] if near else 0) if gaussian else float((y, x_) == (i, j))
            left[:, y, x_] = A[:, y, x_] * share
        scores[i, j] = softmax(classified(left))[index]
    return stretched(scores)


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("asked", [[-1], [2], [-1, 3, 0, 1]])
def test_positions_one_at_a_time(tmp_path, asked, gaussian):
    path = tmp_path / "exported.onnx"
    ex = Explainer(write(tmp_path / "m.onnx", classifier()), method="reciprocam", options={"gaussian": gaussian})
    ex.export(path, form=Form(raw=True))
    found = run(path, PICTURES[: len(asked)], asked)
    want = np.stack([expected(x, c, gaussian) for x, c in zip(PICTURES, asked, strict=False)])
    np.testing.assert_allclose(found["cam"], want, atol=1e-5)
    for heat, x, c in zip(found["heatmap"], PICTURES, asked, strict=False):
        (e,) = ex.explain_tensor(x[None], None if c < 0 else c)
        np.testing.assert_allclose(heat, e.heatmap, atol=1e-5)


def test_a_settled_class(tmp_path):
    path = tmp_path / "exported.onnx"
    Explainer(write(tmp_path / "m.onnx", classifier()), method="reciprocam").export(
        path, form=Form(raw=True, fixed_class=1)
    )
    (cam,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["cam"], {"image": PICTURES})
    np.testing.assert_allclose(cam, np.stack([expected(x, 1) for x in PICTURES]), atol=1e-5)


def of_one(flat: list[Any]) -> onnx.ModelProto:
    """The classifier with its batch of 1 written into a Reshape, as exporters do."""
    arrays = weights() | {"shape": np.asarray([1, 8]), "line": np.asarray([-1]), "all": np.arange(8)[None]}
    nodes = [*NODES[:6], *flat, NODES[7]]
    return model(nodes, [value("image", [1, 3, 12, 12])], [value("logits", [1, 4])], arrays)


def test_a_batch_of_one_that_is_written_into_the_model_is_freed(tmp_path):
    path = tmp_path / "exported.onnx"
    proto = of_one([node("Reshape", ["gap", "shape"], ["flat"])])
    Explainer(write(tmp_path / "m.onnx", proto), method="reciprocam").export(path, form=Form(raw=True))
    np.testing.assert_allclose(run(path, PICTURES[:1], [2])["cam"][0], expected(PICTURES[0], 2), atol=1e-5)


def test_a_batch_that_is_mixed_with_features_is_refused_and_runs_one_by_one(tmp_path):
    """Reshape to a line and Gather of its start: of several samples it would read the first alone."""
    proto = of_one([node("Reshape", ["gap", "line"], ["l"]), node("Gather", ["l", "all"], ["flat"])])
    ex = Explainer(write(tmp_path / "m.onnx", proto), method="reciprocam")
    with pytest.raises(OptionError, match=r"Reshape .*the batch is fixed there; export the model with a free batch"):
        ex.export(tmp_path / "exported.onnx")
    assert not (tmp_path / "exported.onnx").exists()
    np.testing.assert_allclose(ex.explain_tensor(PICTURES[:1], 2)[0].cam, expected(PICTURES[0], 2), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"before": 3},
        {"before": 2, "pool": "two", "plain_norm": True},
        {"permute": (5, 3, 1, 0, 2, 4)},
        {"before": 0, "pool": "mean"},
    ],
)
def test_tokens_beside_which_the_picture_goes_on(tmp_path, options):
    """The residual branch passes by the layer, each sample its own; class and register tokens are kept."""
    vit, path = ViT(**options), tmp_path / "exported.onnx"
    layer = "1.norm" if vit.pool != "mean" else "0.norm"
    ex = Explainer(write(tmp_path / "m.onnx", vit.proto()), method="reciprocam", target_layer=layer)
    ex.export(path, form=Form(raw=True))
    xs = [picture(), picture()[:, :, ::-1].copy()]
    found = run(path, np.concatenate(xs), [2, 2])["cam"]
    for x, cam in zip(xs, found, strict=True):
        A, scores = vit.run(x)[layer], np.zeros(6)
        for patch in range(6):
            left = A.copy()
            for token in range(6):
                left[vit.before + token] *= (vit.permute or range(6))[token] == patch
            scores[patch] = softmax(vit.run(x, {layer: left})["logits"])[2]
        assert np.ptp(scores) > 1e-4
        np.testing.assert_allclose(cam, stretched(scores).reshape(2, 3), atol=2e-3)


@pytest.mark.parametrize("name", ["shapes-cnn", "shapes-net-keras", "shapes-net-int8-qdq"])
@pytest.mark.parametrize("n", [1, 4])
def test_models_of_the_zoo(tmp_path, name, n):
    ex, path = Explainer(f"zoo:{name}", method="reciprocam"), tmp_path / "exported.onnx"
    ex.export(path)
    seen = np.stack([read_image(p)[::2, ::2] for p in samples("shapes-cnn")[:n]]).astype(np.float32) / 255
    x = seen if ex.model.image_input.layout == "NHWC" else np.ascontiguousarray(seen.transpose(0, 3, 1, 2))
    for asked in (None, 3):
        want = np.stack([e.heatmap for e in ex.explain_tensor(x, asked)])
        assert want.any()
        found = run(path, x, [-1 if asked is None else asked] * n)["heatmap"]
        np.testing.assert_allclose(found, want, atol=1e-4)


def test_weights_are_held_once(tmp_path):
    """What lies behind the layer is there twice as nodes, and once as numbers."""
    source, path = locate("zoo:shapes-cnn"), tmp_path / "exported.onnx"
    ex = Explainer(source, method="reciprocam", target_layer="stage1")
    ex.export(path)
    before, after = onnx.load(source).graph, onnx.load(path).graph
    convs = [sum(n.op_type == "Conv" for n in g.node) for g in (before, after)]
    assert convs[1] > convs[0]
    large = [t.name for t in after.initializer if np.prod(t.dims) > 500]
    assert {t.name for t in before.initializer} >= {n for n in large if not n.startswith("onnxcam/")}
    assert path.stat().st_size <= source.stat().st_size * 1.01 + 50_000


def test_several_methods_each_with_its_own_score(tmp_path):
    """Where no score is asked for, Recipro-CAM takes the probability, Finer-CAM its difference, Grad-CAM the logit."""
    ex = Explainer(write(tmp_path / "m.onnx", classifier()), method="reciprocam")
    own = [
        ex,
        *(Explainer(ex.model, method=m, preprocess=ex.preprocess) for m in ("gradcam", "finercam", "shapleycam")),
    ]
    path = tmp_path / "exported.onnx"
    record = export(own, path).record
    assert [m.get("target", record["target"]) for m in record["maps"].values()] == [
        "probability of the class", "logit of the class",
        "logit of the class less 0.6 x the mean of the 3 classes most like it",
        "logit and log-probability of the class",
    ]  # fmt: skip
    assert MARK in {p.key for p in onnx.load(path).metadata_props}
    found = run(path, PICTURES, [-1, 2, 3, 0])
    for one in own:
        for heat, x, c in zip(found[f"heatmap_{one.method.name}"], PICTURES, (None, 2, 3, 0), strict=True):
            np.testing.assert_allclose(heat, one.explain_tensor(x[None], c)[0].heatmap, atol=1e-4)


def test_tokens_before_the_batch(tmp_path):
    """A layer (T, N, D). The residual branch beside it has its batch second, where Recipro-CAM does not look for it."""
    path = tmp_path / "exported.onnx"
    ex = Explainer(write(tmp_path / "m.onnx", ViT(before=2, turned=True).proto()))
    x = np.concatenate([picture(), picture()[:, :, ::-1]])
    ex.export(path)
    want = np.stack([e.heatmap for e in ex.explain_tensor(x, 2)])
    assert want.any()
    np.testing.assert_allclose(run(path, x, [2, 2])["heatmap"], want, atol=1e-4)
    with pytest.raises(OptionError, match=r"which lies beside the layer, and what more samples have there"):
        Explainer(ex.model, method="reciprocam").export(tmp_path / "other.onnx")


def looped() -> onnx.ModelProto:
    """An If behind the layer."""
    nodes = onnx.helper.make_graph([node("Identity", ["flat"], ["held"])], "then", [], [value("held", None)])
    choice = [node("ReduceSum", ["flat"], ["all"], keepdims=0), node("Greater", ["all", "zero"], ["many"])]
    either = node("If", ["many"], ["chosen"], then_branch=nodes, else_branch=nodes)
    dense = node("Gemm", ["chosen", "wd", "bd"], ["logits"])
    arrays = weights() | {"zero": np.float32(0)}
    return model(
        [*NODES[:7], *choice, either, dense], [value("image", ["n", 3, 12, 12])], [value("logits", ["n", 4])], arrays
    )


def captured(op: str) -> onnx.ModelProto:
    """An If or a Loop behind the layer, whose bodies take the features from outside."""
    if op == "If":
        bodies = [
            onnx.helper.make_graph([node("Gemm", ["flat", "wd", "bd"], [f"z{k}"])], "b", [], [value(f"z{k}", ["n", 4])])
            for k in "te"
        ]
        last = [
            node("ReduceMean", ["image"], ["mean"], keepdims=0),
            node("Greater", ["mean", "zero"], ["bright"]),
            node("If", ["bright"], ["logits"], then_branch=bodies[0], else_branch=bodies[1]),
        ]
        return model([*NODES[:7], *last], *_ends(), weights() | {"zero": np.float32(0)})
    body = onnx.helper.make_graph(
        [node("Identity", ["on"], ["on_"]), node("Gemm", ["flat", "wd", "sum"], ["sum_"])], "body",
        [value("k", [], INT64), value("on", [], BOOL), value("sum", ["n", 4])],
        [value("on_", [], BOOL), value("sum_", ["n", 4])],
    )  # fmt: skip
    loop = [node("Loop", ["two", "", "zeros"], ["more"], body=body), node("Add", ["dense", "more"], ["logits"])]
    arrays = weights() | {"two": np.int64(2), "zeros": np.zeros((1, 4), np.float32)}
    return model([*NODES[:7], node("Gemm", ["flat", "wd", "bd"], ["dense"]), *loop], *_ends(), arrays)


def _ends() -> Any:
    return [value("image", ["n", 3, 12, 12])], [value("logits", ["n", 4])]


def beside() -> onnx.ModelProto:
    """What lies behind the layer has its batch from the picture's own shape."""
    ahead = [
        node("Shape", ["image"], ["shape"], start=0, end=1),
        node("Concat", ["shape", "eight"], ["rows"], axis=0),
        node("Reshape", ["gap", "rows"], ["flat"]),
    ]
    arrays = weights() | {"eight": np.asarray([8])}
    nodes = [*NODES[:6], *ahead, NODES[7]]
    return model(nodes, [value("image", ["n", 3, 12, 12])], [value("logits", ["n", 4])], arrays)


@pytest.mark.parametrize(
    ("proto", "options", "target", "message"),
    [
        (classifier(size="s"), {}, None, r"layer 'relu2' has any size.*fix the size of the model's input"),
        (
            classifier(size=240),
            {"target_layer": "relu1"},
            None,
            "57600 copies of its features, 75938 MB for each image, and at most 256 MB are exported: take a deeper",
        ),
        (classifier(), {}, "finer:1", "chooses among classes anew in each: name them"),
        (looped(), {"target_layer": "relu2"}, None, "If .*cannot: it is no plain operator"),
        (captured("If"), {"target_layer": "relu2"}, None, "If .*cannot: it is no plain operator"),
        (captured("Loop"), {"target_layer": "relu2"}, None, "Loop .*cannot: it is no plain operator"),
        (beside(), {}, None, r"reads rows INT64 \(2,\), which lies beside the layer"),
    ],
)
def test_what_cannot_run_on_a_batch_of_its_own_is_refused(tmp_path, proto, options, target, message):
    ex = Explainer(write(tmp_path / "m.onnx", proto), method="reciprocam", **options)
    with pytest.raises(OptionError, match=message):
        ex.export(tmp_path / "exported.onnx", target=target)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_class_per_pixel_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"a class per pixel, is not exported: take a method of one run"):
        Explainer("zoo:shapes-unet", method="reciprocam").export(tmp_path / "exported.onnx")
