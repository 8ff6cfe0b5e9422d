"""Files that ONNX Runtime's own optimizer wrote: fused operators in them, lowered again."""

from __future__ import annotations

from pathlib import Path

import builders
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nodes import distance, draw, original

from onnxcam import Explainer, load_model
from onnxcam.errors import GradientError
from onnxcam.explanation import Explanation
from onnxcam.model import Model
from onnxcam.runtime import Session

LEVELS = ort.GraphOptimizationLevel
IMAGE = draw("image", 1, 3, 12, 10)

CONVOLUTIONS = """
agraph (float[n,3,12,10] image) => (float[n,3] y)
{
    c1 = Conv <pads = [1,1,1,1]> (image, w1, b1)
    r1 = Relu (c1)
    c2 = Conv <pads = [1,1,1,1]> (r1, w2, b2)
    s2 = Add (c2, r1)
    r2 = Relu (s2)
    c3 = Conv <strides = [2,2]> (r2, w3)
    r3 = LeakyRelu <alpha = 0.2> (c3)
    c4 = Conv (r3, w4, b4)
    r4 = Clip (c4, low, high)
    c5 = Conv (r4, w5)
    r5 = HardSigmoid <alpha = 0.3, beta = 0.4> (c5)
    g = GlobalAveragePool (r5)
    f = Flatten (g)
    d = Gemm <transB = 1> (f, w6, b6)
    h = Relu (d)
    logits = Gemm (h, w7, b7)
    y = Softmax <axis = 1> (logits)
}
"""
CONV_WEIGHTS = {
    "w1": (6, 3, 3, 3), "b1": (6,), "w2": (6, 6, 3, 3), "b2": (6,), "w3": (5, 6, 3, 3), "w4": (7, 5, 1, 1),
    "b4": (7,), "w5": (6, 7, 2, 2), "w6": (9, 6), "b6": (9,), "w7": (9, 3), "b7": (3,),
}  # fmt: skip

BLOCK = """
agraph (float[n,3,12,12] image) => (float[n,4] y)
{
    p = Conv <kernel_shape = [4,4], strides = [4,4]> (image, wp, bp)
    r = Reshape (p, flat)
    t = Transpose <perm = [0,2,1]> (r)
    t0 = Add (t, place)
    NORMAL0
    q0 = MatMul (l0, wq)
    q1 = Add (q0, bq)
    k0 = MatMul (l0, wk)
    vv = MatMul (l0, wv)
    kt = Transpose <perm = [0,2,1]> (k0)
    qk = MatMul (q1, kt)
    qs = Mul (qk, scale)
    a = Softmax <axis = 2> (qs)
    m = MatMul (a, vv)
    o0 = MatMul (m, wo)
    o1 = Add (o0, bo)
    t1 = Add (o1, t0)
    NORMAL1
    h0 = MatMul (l1, wh)
    h1 = Add (h0, bh)
    e0 = Div (h1, root)
    e1 = Erf (e0)
    e2 = Add (e1, one)
    e3 = Mul (h1, e2)
    e4 = Mul (e3, half)
    f0 = MatMul (e4, wf)
    f1 = Add (f0, bf)
    t2 = Add (f1, t1)
    NORMAL2
    mean = ReduceMean <axes = [1], keepdims = 0> (l2)
    logits = Gemm (mean, wd, bd)
    y = Softmax <axis = 1> (logits)
}
"""
NORMAL = """
    m# = ReduceMean <axes = [-1]> (t#)
    d# = Sub (t#, m#)
    s# = Pow (d#, two)
    n# = ReduceMean <axes = [-1]> (s#)
    u# = Add (n#, tiny)
    v# = Sqrt (u#)
    w# = Div (d#, v#)
    x# = Mul (w#, g#)
    l# = Add (x#, z#)
"""
BLOCK_WEIGHTS = {
    "wp": (8, 3, 4, 4), "bp": (8,), "place": (9, 8), "wq": (8, 8), "bq": (8,), "wk": (8, 8), "wv": (8, 8),
    "wo": (8, 8), "bo": (8,), "wh": (8, 16), "bh": (16,), "wf": (16, 8), "bf": (8,), "wd": (8, 4), "bd": (4,),
    **{f"{k}{i}": (8,) for k in "gz" for i in range(3)},
}  # fmt: skip


def parsed(text: str, shapes: dict[str, tuple[int, ...]], opset: int, **more: np.ndarray) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    arrays = {k: draw(k, *s, low=-0.5, high=0.7) for k, s in shapes.items()} | more
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), k) for k, a in arrays.items())
    return proto


def convolutions(opset: int = 13) -> onnx.ModelProto:
    return parsed(CONVOLUTIONS, CONV_WEIGHTS, opset, low=np.float32(0), high=np.float32(6))


def transformer(opset: int = 12) -> onnx.ModelProto:
    text = BLOCK
    for i in range(3):
        text = text.replace(f"NORMAL{i}", NORMAL.replace("#", str(i)))
    numbers = {"two": 2, "tiny": 1e-5, "root": np.sqrt(2), "one": 1, "half": 0.5, "scale": 0.35}
    more = {k: np.float32(v) for k, v in numbers.items()} | {"flat": np.array([0, 8, -1])}
    return parsed(text, BLOCK_WEIGHTS, opset, **more)


def optimised(proto: onnx.ModelProto, level: ort.GraphOptimizationLevel, path: Path, *without: str) -> onnx.ModelProto:
    """What the installed ONNX Runtime writes, with some of its optimizers off."""
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 4
    options.optimized_model_filepath = str(path)
    providers = ["CPUExecutionProvider"]
    ort.InferenceSession(proto.SerializeToString(), options, providers, disabled_optimizers=set(without))
    return onnx.load(path)


def operators(proto: onnx.ModelProto) -> set[str]:
    return {f"{n.domain}::{n.op_type}" for n in proto.graph.node if n.domain}


@pytest.mark.parametrize("level", [LEVELS.ORT_ENABLE_EXTENDED, LEVELS.ORT_ENABLE_ALL], ids=str)
@pytest.mark.parametrize(
    ("build", "opset", "wanted"),
    [
        (convolutions, 13, {"FusedConv", "FusedGemm"}),
        (transformer, 12, {"BiasGelu", "SkipLayerNormalization", "FusedMatMul"}),
        (transformer, 17, {"BiasGelu", "SkipLayerNormalization", "FusedMatMul"}),
    ],
)
def test_an_optimised_file_is_lowered_to_what_it_computes(tmp_path, build, opset, wanted, level):
    proto = build(opset)
    shape = [d.dim_value or 1 for d in proto.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"image": draw("image", *shape)}
    fused = optimised(proto, level, tmp_path / "fused.onnx", "NchwcTransformer")
    assert {f"com.microsoft::{op}" for op in wanted} <= operators(fused)
    model = load_model(tmp_path / "fused.onnx")
    assert {n.domain for n in model.graph} == {""}, model.notes
    want = original(fused, feeds)["y"]
    assert distance(Session(model).run(feeds)[0], want) <= 1e-5
    assert distance(original(proto, feeds)["y"], want) <= 1e-5
    for method in ("saliency", "gradcam") if build is convolutions else ("saliency",):
        a, b = (explained(m, method, feeds["image"]) for m in (model, plain(proto, tmp_path)))
        assert distance(a.cam, b.cam) <= 1e-4
        assert a.class_index == b.class_index


def explained(model: Model, method: str, x: np.ndarray) -> Explanation:
    return Explainer(model, preprocess="unit", method=method).explain_tensor(x)[0]


def plain(proto: onnx.ModelProto, folder: Path) -> Model:
    return load_model(builders.write(folder / "plain.onnx", proto))


def test_layers_keep_the_names_that_the_file_gives_them(tmp_path):
    fused = optimised(convolutions(), LEVELS.ORT_ENABLE_EXTENDED, tmp_path / "fused.onnx")
    model = load_model(tmp_path / "fused.onnx")
    names = {name for node in fused.graph.node for name in node.output}
    assert names <= set(model.values)
    by_name = {n.name: n for n in model.graph}
    for node in fused.graph.node:
        if node.name:
            assert by_name[node.name].outputs[0].name == node.output[0]


def test_a_file_for_one_processor_is_refused_by_the_operator(tmp_path):
    """Layouts in blocks of channels depend on the processor; the block's size is not in the file."""
    proto = builders.classifier(opset=13)
    for tensor in proto.graph.initializer:
        if tensor.name in ("w1", "b1", "w2", "b2"):
            dims = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,)}[tensor.name]
            tensor.CopyFrom(onnx.numpy_helper.from_array(draw(tensor.name, *dims), tensor.name))
        if tensor.name == "wd":
            tensor.CopyFrom(onnx.numpy_helper.from_array(draw("wd", 16, 4), "wd"))
    fused = optimised(proto, LEVELS.ORT_ENABLE_ALL, tmp_path / "fused.onnx")
    if "com.microsoft.nchwc::Conv" not in operators(fused):
        pytest.skip("this processor has no layout of its own")
    with pytest.raises(GradientError, match=r"com\.microsoft\.nchwc::Conv"):
        Explainer(tmp_path / "fused.onnx", method="saliency").explain(np.zeros((12, 12, 3), np.uint8))
