"""What is written into a file is little: no second copies, nothing that is settled, the model's own part as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from builders import session
from onnx import TensorProto, helper, numpy_helper

from onnxcam import Explainer, load_model
from onnxcam.export import Form, explainable
from onnxcam.graph.symbolic import PREFIX, Writer
from onnxcam.graph.weights import entries, is_settled, weight
from onnxcam.image import read_image
from onnxcam.zoo import locate, samples

INT8 = ["shapes-net-int8-qdq", "shapes-net-int8-qoperator", "shapes-net-int8-dynamic"]


def proto_of(explainer: Explainer, **form: Any) -> onnx.ModelProto:
    return ir.to_proto(explainable([explainer], form=Form(**form)).model.ir_model)


def scenes(n: int) -> Any:
    """(n, 3, 112, 112) float32 in [0, 1]."""
    seen = [read_image(p)[::2, ::2] for p in samples("shapes-cnn")[:n]]
    return np.ascontiguousarray(np.stack(seen).transpose(0, 3, 1, 2).astype(np.float32) / 255)


@pytest.mark.parametrize("method", ["gradcam", "guided_gradcam"])
@pytest.mark.parametrize("name", INT8)
def test_an_int8_model_answers_the_same_bits(name, method):
    """Optimised, where fusion might be broken by looking, and not."""
    source = locate(f"zoo:{name}")
    proto = proto_of(Explainer(source, method=method, engine="portable"), top1=True)
    x = scenes(8)
    for optimised in (True, False):
        before, after = session(str(source), optimised), session(proto.SerializeToString(), optimised)
        feeds = {before.get_inputs()[0].name: x}
        for output in before.get_outputs():
            want, got = (s.run([output.name], feeds)[0] for s in (before, after))
            np.testing.assert_array_equal(got, want)


# Weights of a few bits, large enough to be worth it: a twin with the same floats says what comes out.

SHAPES = {"w": (96, 3, 3, 3), "v": (96, 96, 3, 3), "u": (1000, 96)}


def levels_of(name: str, per_axis: bool) -> tuple[Any, Any, Any]:
    """Levels, scale and zero point, along the first axis or one for all."""
    rng = np.random.default_rng(len(name) + ord(name))
    many = SHAPES[name][0] if per_axis else ()
    points = rng.integers(-5, 6, many).astype(np.int8)
    return rng.integers(-90, 90, SHAPES[name]).astype(np.int8), rng.uniform(1e-4, 3e-4, many).astype(np.float32), points


def network(path: Path, quantised: bool, per_axis: bool) -> Path:
    """Conv, Relu, Conv, Relu, global pool, Gemm; weights dequantised by nodes, or floats."""
    nodes, held = [], {}
    for name in SHAPES:
        q, s, z = levels_of(name, per_axis)
        if quantised:
            held |= {f"{name}_q": q, f"{name}_s": s, f"{name}_z": z}
            axis = {"axis": 0} if per_axis else {}
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", f"{name}_z"], [name], **axis))
        else:
            wide = (-1, *(1,) * (q.ndim - 1))
            held[name] = (q.astype(np.float32) - z.reshape(wide)) * s.reshape(wide)
    nodes += [
        helper.make_node("Conv", ["image", "w"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "u"], ["logits"], transB=1),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("image", TensorProto.FLOAT, ["N", 3, 12, 10])],
        [info("logits", TensorProto.FLOAT, ["N", 1000])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in held.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize("per_axis", [True, False])
@pytest.mark.parametrize("method", ["gradcam", "saliency"])
def test_weights_of_few_bits_are_not_stored_as_floats(tmp_path, method, per_axis):
    x = np.random.default_rng(0).normal(size=(2, 3, 12, 10)).astype(np.float32)
    files = [network(tmp_path / f"{q}.onnx", q, per_axis) for q in (True, False)]
    protos = [proto_of(Explainer(f, method=method, engine="portable")) for f in files]
    assert protos[0].ByteSize() < files[0].stat().st_size + 20_000
    feeds = {"image": x, "onnxcam/class": np.asarray([7, 999])}
    few, twin = (session(p.SerializeToString()).run(["heatmap"], feeds)[0] for p in protos)
    assert twin.any()
    np.testing.assert_allclose(few, twin, atol=2e-5)


@pytest.mark.parametrize(("axis", "along"), [(0, 0), (1, 0), (0, 1), (1, 1), (0, None)])
def test_entries_of_a_quantised_matrix(axis, along):
    """By hand: (levels - zero point) scale of the entries that are asked for."""
    rng = np.random.default_rng(1)
    q = rng.integers(0, 255, (300, 260)).astype(np.uint8)
    many = () if along is None else q.shape[along]
    s, z = rng.uniform(0.1, 1, many).astype(np.float32), rng.integers(0, 255, many).astype(np.uint8)
    graph, values = ir.Graph([], [], nodes=[], opset_imports={"": 18}), []
    for name, array in (("q", q), ("s", s), ("z", z)):
        kind = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        values.append(ir.Value(name=name, const_value=ir.tensor(array), type=kind, shape=ir.Shape(array.shape)))
        graph.register_initializer(values[-1])
    node = ir.node("DequantizeLinear", values, attributes={"axis": along or 0})
    node.outputs[0].name, node.outputs[0].type = "w", ir.TensorType(ir.DataType.FLOAT)
    node.outputs[0].shape = ir.Shape(q.shape)
    graph.append(node)
    writer = Writer(graph, 18)
    index = writer.input("index", ir.DataType.INT64, ["N"])
    whole = weight(writer, node.outputs[0])
    assert is_settled(whole)
    assert not is_settled(index)
    writer.output(whole, "whole")
    writer.output(entries(writer, node.outputs[0], index, axis), "some")
    run = session(ir.to_proto(ir.Model(graph, ir_version=9)).SerializeToString())
    asked = np.asarray([3, 259, 0])
    want = np.empty(q.shape, np.float32)
    for i in range(q.shape[0]):
        for j in range(q.shape[1]):
            k = () if along is None else (i, j)[along]
            want[i, j] = (float(q[i, j]) - float(z[k])) * s[k]
    got, some = run.run(["whole", "some"], {"index": asked})
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(some, want[asked] if axis == 0 else want[:, asked], rtol=1e-6)


@pytest.mark.parametrize(
    ("op_type", "stored", "attributes"),
    [
        ("Gemm", (7, 5), {"transB": 1, "alpha": 0.25}),
        ("Gemm", (5, 7), {"alpha": 0.25}),
        ("MatMul", (5, 7), {}),
    ],
)
def test_a_class_picks_its_weights(tmp_path, op_type, stored, attributes):
    """By hand: cam = sum_k alpha w_ck / (H W) relu(x)_k."""
    w = np.random.default_rng(3).normal(size=stored).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "one"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node(op_type, ["f", "w"], ["logits"], **attributes),
    ]
    one = np.random.default_rng(4).normal(size=(5, 3, 1, 1)).astype(np.float32)
    info = helper.make_tensor_value_info
    held = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(one, "one")]
    ends = [info("image", TensorProto.FLOAT, ["N", 3, 6, 4])], [info("logits", TensorProto.FLOAT, ["N", 7])]
    graph = helper.make_graph(nodes, "g", *ends, held)
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    x = np.random.default_rng(5).normal(size=(2, 3, 6, 4)).astype(np.float32)
    proto = proto_of(Explainer(path, engine="portable"), raw=True)
    assert not [n.op_type for n in proto.graph.node if n.name.startswith(PREFIX) and n.op_type in ("Gemm", "Equal")]
    cam = session(proto.SerializeToString()).run(["cam"], {"image": x, "onnxcam/class": np.asarray([6, 2])})[0]
    maps = np.maximum(np.einsum("oi,nihw->nohw", one[:, :, 0, 0], x), 0)
    for n, c in enumerate((6, 2)):
        own = (w[c] if attributes.get("transB") else w[:, c]) * attributes.get("alpha", 1.0) / 24
        np.testing.assert_allclose(cam[n], np.tensordot(own, maps[n], 1), atol=1e-6)


# What is settled, dead or doubled


@pytest.mark.parametrize("form", [{}, {"top1": True}, {"fixed_class": 2}])
@pytest.mark.parametrize("name", ["shapes-cnn", "shapes-vit", "shapes-net-keras", "shapes-unet", *INT8])
def test_nothing_idle_is_written(name, form):
    explainer = Explainer(locate(f"zoo:{name}"), engine="portable")
    graph = proto_of(explainer, **form).graph
    held, own = {t.name for t in graph.initializer}, [n for n in graph.node if n.name.startswith(PREFIX)]
    read = {n for node in graph.node for n in node.input} | {o.name for o in graph.output}
    settled = [n for n in own if all(i in held for i in n.input if i)]
    # the second matrix of a resize, a square weight apart from its transpose, the runtime's own Resize on unit rows
    assert {n.op_type for n in settled} <= {
        "Transpose",
        *{"shapes-vit": ["Mul"], "shapes-unet": ["Resize"]}.get(name, []),
    }
    assert [
        n.op_type for n in own if n.op_type == "Identity" and n.output[0] not in {o.name for o in graph.output}
    ] == []
    assert all(any(o in read for o in n.output) for n in graph.node)
    assert any(n.op_type == "ArgMax" for n in own) == ("fixed_class" not in form)
    assert not [n.name for n in own if n.op_type == "Where" and n.input[0] in held]


def test_the_models_own_nodes_stay_as_they_are():
    for name in ("shapes-cnn", "shapes-vit", "shapes-net-int8-qdq"):
        model = load_model(locate(f"zoo:{name}"))
        before = ir.to_proto(model.ir_model).graph
        after = proto_of(Explainer(model, method="guided_gradcam", engine="portable")).graph
        kept = [n for n in after.node if not n.name.startswith(PREFIX)]
        assert [n.SerializeToString() for n in kept] == [n.SerializeToString() for n in before.node]
        weights = {t.name: t for t in after.initializer}
        assert all(weights[t.name].raw_data == t.raw_data for t in before.initializer)


def test_a_resize_is_stored_once():
    """Height and width alike are one matrix, 112 x 56."""
    graph = proto_of(Explainer(locate("zoo:shapes-unet"), engine="portable")).graph
    shapes = [tuple(t.dims) for t in graph.initializer if t.name.startswith(PREFIX)]
    assert sum(s in ((112, 56), (56, 112)) for s in shapes) == 1


def headed(path: Path, head: str) -> Path:
    """Two convolutions, a pool, and a head of four classes: Gemm, or a convolution of one pixel."""
    rng = np.random.default_rng(6)
    sizes = {"w1": (16, 3, 3, 3), "w2": (8, 16, 3, 3), "v": (8, 4) if head == "Gemm" else (4, 8, 1, 1)}
    held = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in sizes.items()]
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
    ]
    steps = ("Flatten", "Gemm") if head == "Gemm" else ("Conv", "Flatten")
    for op_type, x, y in zip(steps, ("e", "s"), ("s", "logits"), strict=True):
        nodes.append(helper.make_node(op_type, [x] if op_type == "Flatten" else [x, "v"], [y]))
    info = helper.make_tensor_value_info
    ends = [info("image", TensorProto.FLOAT, ["N", 3, 8, 6])], [info("logits", TensorProto.FLOAT, ["N", 4])]
    graph = helper.make_graph(nodes, "g", *ends, held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize("head", ["Gemm", "Conv"])
def test_a_class_that_is_not_there_has_an_empty_map(tmp_path, head):
    """And leaves the others of a batch alone."""
    proto = proto_of(Explainer(headed(tmp_path / "m.onnx", head), engine="portable"), raw=True)
    x = np.random.default_rng(7).normal(size=(5, 3, 8, 6)).astype(np.float32)
    run = session(proto.SerializeToString())
    found, want = (
        run.run(["cam", "class_index"], {"image": x, "onnxcam/class": np.asarray(c)})
        for c in ([4, 3, 10**12, -1, -7], [3, 3, 3, -1, -1])
    )
    assert not found[0][[0, 2]].any()
    assert want[0][[0, 1, 2]].any()
    np.testing.assert_array_equal(found[0][[1, 3, 4]], want[0][[1, 3, 4]])
    np.testing.assert_array_equal(found[1][3:], want[1][3:])


def large(path: Path) -> Path:
    """Three convolutions, 2.5 MB."""
    rng = np.random.default_rng(8)
    sizes = {"w1": (32, 3, 3, 3), "w2": (256, 32, 3, 3), "w3": (256, 256, 3, 3), "v": (256, 5)}
    held = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32) / 20, n) for n, s in sizes.items()]
    nodes, x = [], "image"
    for k in (1, 2, 3):
        nodes += [helper.make_node("Conv", [x, f"w{k}"], [f"c{k}"], pads=[1] * 4)]
        nodes += [helper.make_node("Relu", [f"c{k}"], [f"r{k}"])]
        x = f"r{k}"
    nodes += [helper.make_node("GlobalAveragePool", [x], ["p"]), helper.make_node("Flatten", ["p"], ["f"])]
    nodes += [helper.make_node("Gemm", ["f", "v"], ["logits"])]
    info = helper.make_tensor_value_info
    ends = [info("image", TensorProto.FLOAT, ["N", 3, 8, 6])], [info("logits", TensorProto.FLOAT, ["N", 5])]
    graph = helper.make_graph(nodes, "g", *ends, held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize(("method", "layer"), [("gradcam", "r1"), ("gradcam", "r2"), ("saliency", "auto")])
def test_weights_that_gradients_read_turned_are_stored_once(tmp_path, method, layer):
    source = large(tmp_path / "m.onnx")
    explainer = Explainer(source, method=method, target_layer=layer, engine="portable")
    proto = proto_of(explainer)
    size = source.stat().st_size
    assert proto.ByteSize() - size < 0.01 * size + 50_000
    assert "ConvTranspose" not in {n.op_type for n in proto.graph.node}
    x = np.random.default_rng(9).normal(size=(2, 3, 8, 6)).astype(np.float32)
    data, feeds = proto.SerializeToString(), {"image": x, "onnxcam/class": np.asarray([1, 4])}
    quick, plain = (session(data, optimised).run(["heatmap"], feeds)[0] for optimised in (True, False))
    assert quick.any()
    np.testing.assert_allclose(quick, plain, atol=1e-5)
