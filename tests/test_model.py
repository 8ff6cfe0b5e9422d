"""Opening models: what is refused and how, what bringing one in changes, and that files are only ever read."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import builders
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from builders import NODES, classifier, external, model, value, weights, write
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxcam import integrity, load_model
from onnxcam import model as model_module
from onnxcam.errors import ModelError, OnnxcamError, OutputError
from onnxcam.runtime import Session

X = np.random.default_rng(1).standard_normal((2, 3, 12, 12)).astype(np.float32)
IMAGE, LOGITS = value("image", ["n", 3, 12, 12]), value("logits", ["n", 4])


@pytest.fixture
def saved(tmp_path) -> Callable[[onnx.ModelProto], Path]:
    return lambda proto: write(tmp_path / "model.onnx", proto)


def refused(path: Path) -> str:
    """The message of the ModelError, which names the file."""
    with pytest.raises(ModelError) as caught:
        load_model(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def scores(path: Path, x=X):
    return Session(load_model(path)).run({"image": x}, ["logits"])[0]


# Files that are no models


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"hello, this is no model\n", "not an ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "not an ONNX model"),
        (random.Random(0).randbytes(2000), "not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "not an ONNX model"),
        (bytes(100), "not an ONNX model"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, data, said):
    path = tmp_path / "with space, ünïcode.onnx"
    path.write_bytes(data)
    assert said in refused(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "zoo:NAME" in refused(tmp_path / "none.onnx")
    assert "is a folder" in refused(tmp_path)


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    whole = classifier().SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in {*range(1, len(whole), 97), len(whole) - 1, len(whole) - 4}:
        path.write_bytes(whole[:length])
        assert "is cut off" in (said := refused(path)) or "opset" in said


# Opsets and operators


def test_no_opset_is_refused(saved):
    proto = classifier()
    del proto.opset_import[:]
    assert "names no opset" in refused(saved(proto))


@pytest.mark.parametrize(("opset", "ir_version"), [(99, 8), (18, 99)])
def test_an_opset_or_ir_version_of_the_future_is_refused(saved, opset, ir_version):
    assert "Upgrade onnx" in refused(saved(classifier(opset, ir_version=ir_version)))


@pytest.mark.parametrize("opset", [0, -1, 2**62])
def test_an_impossible_opset_is_refused(saved, opset):
    assert "damaged" in refused(saved(classifier(opset)))


def inside_a_branch(node):
    branch = helper.make_graph([node], "branch", [], [value("logits_inner", ["n", 4])])
    return helper.make_node("If", ["condition"], ["logits"], then_branch=branch, else_branch=branch)


@pytest.mark.parametrize(("domain", "shown"), [("", "Debug (opset 18)"), ("my.company", "my.company::Debug (opset 1)")])
@pytest.mark.parametrize("nested", [False, True])
def test_unknown_operators_are_named(saved, domain, shown, nested):
    odd = helper.make_node("Debug", ["flat"], ["logits_inner" if nested else "logits"], domain=domain)
    nodes = [*NODES[:-1], inside_a_branch(odd) if nested else odd]
    proto = model(nodes, [IMAGE], [LOGITS], {**weights(), "condition": np.array(True)}, domains={domain or "x": 1})
    proto.opset_import[0].version = 18
    assert shown in refused(saved(proto))


# Weights


def break_raw(t):
    t.raw_data = t.raw_data[:-3]


def lengthen_raw(t):
    t.raw_data += b"0000"


def negative(t):
    t.dims[0] = -6


def huge(t):
    t.dims[0] = 2**40


def unknown_type(t):
    t.data_type = 99


def typed_too_short(t):
    t.ClearField("raw_data")
    t.float_data.extend([1.0, 2.0])


def wrong_field(t):
    t.ClearField("raw_data")
    t.int64_data.extend([1] * int(np.prod(t.dims)))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (break_raw, "needs 648 bytes and has 645"),
        (lengthen_raw, "needs 648 bytes and has 652"),
        (negative, "negative dimension"),
        (huge, "needs"),
        (unknown_type, "unknown element type 99"),
        (typed_too_short, "needs 162 entries of float_data and has 2"),
        (wrong_field, "needs 162 entries of float_data and has 0"),
    ],
)
def test_weights_that_do_not_fill_their_dimensions_are_refused(saved, damage, said):
    proto = classifier()
    damage(proto.graph.initializer[0])
    assert said in (message := refused(saved(proto)))
    assert "'w1'" in message


def test_weights_in_typed_fields_are_as_good_as_raw_ones(saved):
    proto = classifier()
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.ClearField("raw_data")
        tensor.float_data.extend(array.ravel().tolist())
    np.testing.assert_array_equal(scores(saved(proto)), scores(saved(classifier())))


# External data


def test_external_weights_are_read_in_their_place(tmp_path):
    expected = scores(write(tmp_path / "inline.onnx", classifier()))
    path = write(tmp_path / "model.onnx", external(classifier(), "model.onnx_data", tmp_path))
    opened = load_model(path)
    assert all(isinstance(v.const_value, ir.ExternalTensor) for v in opened.graph.initializers.values())
    np.testing.assert_array_equal(scores(path), expected)


def test_external_weights_of_an_old_opset_survive_conversion(tmp_path):
    path = write(tmp_path / "model.onnx", external(classifier(9, ir_version=4), "w.bin", tmp_path))
    np.testing.assert_allclose(scores(path), builders.plain_scores(classifier(), X), rtol=1e-4, atol=1e-5)


def test_missing_external_weights_are_refused(saved):
    assert "'w.bin', which is missing" in refused(saved(external(classifier(), "w.bin")))


def test_external_weights_that_are_cut_off_are_refused(tmp_path):
    path = write(tmp_path / "model.onnx", external(classifier(), "w.bin", tmp_path))
    data = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(data[:-10])
    assert "in its external file" in refused(path)


@pytest.mark.parametrize("entry", [("offset", "-4"), ("offset", "x"), ("length", "12"), ("location", "")])
def test_external_entries_that_make_no_sense_are_refused(tmp_path, entry):
    proto = external(classifier(), "w.bin", tmp_path)
    next(e for e in proto.graph.initializer[0].external_data if e.key == entry[0]).value = entry[1]
    refused(write(tmp_path / "model.onnx", proto))


@pytest.mark.parametrize("place", ["x\0y", "a" * 5000, "a/" * 3000 + "b", "round"])
def test_external_weights_in_what_no_file_is_called_are_refused(tmp_path, place):
    (tmp_path / "round").symlink_to("round")
    refused(write(tmp_path / "model.onnx", _at(external(classifier(), "w.bin"), place)))


@pytest.mark.parametrize("how", ["parent", "absolute", "link", "linked folder", "absolute inside", "round about"])
def test_external_weights_outside_the_folder_are_refused(tmp_path, how):
    inner = tmp_path / "model"
    inner.mkdir()
    proto = external(classifier(), "w.bin", tmp_path)
    (inner / "link.bin").symlink_to(tmp_path / "w.bin")
    (inner / "folder").symlink_to(tmp_path)
    (inner / "w.bin").write_bytes((tmp_path / "w.bin").read_bytes())
    places = {
        "parent": "../w.bin",
        "absolute": str(tmp_path / "w.bin"),
        "link": "link.bin",
        "linked folder": "folder/w.bin",
        "absolute inside": str(inner / "w.bin"),  # the file is there, but ONNX wants relative paths without ..
        "round about": "../model/w.bin",
    }
    path = write(inner / "model.onnx", _at(proto, places[how]))
    assert "outside its own folder" in refused(path)


def _at(proto, location):
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = location
    return proto


def test_weights_of_a_constant_outside_the_folder_are_refused(tmp_path):
    """Every tensor may be external, not only initializers."""
    (tmp_path / "secret.bin").write_bytes(bytes(4))
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret.bin")
    nodes = [*NODES[:-1], helper.make_node("Gemm", ["flat", "wd", "bd"], ["sum"])]
    nodes += [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Add", ["sum", "c"], ["logits"])]
    path = write(tmp_path / "inner" / "model.onnx", model(nodes, [IMAGE], [LOGITS], weights()))
    assert "outside its own folder" in refused(path)


def test_a_hub_cache_of_links_works(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1f3a" / "onnx"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    write(blobs / "aaa", external(classifier(), "model.onnx_data", blobs))
    (blobs / "model.onnx_data").rename(blobs / "bbb")
    (snapshot / "model.onnx").symlink_to("../../../blobs/aaa")
    (snapshot / "model.onnx_data").symlink_to("../../../blobs/bbb")
    np.testing.assert_array_equal(
        scores(snapshot / "model.onnx"), scores(write(tmp_path / "inline.onnx", classifier()))
    )


def _anonymous_memory() -> int:
    """Bytes of this process that are not memory-mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_model_above_2_gb_is_opened_without_reading_its_weights(tmp_path):
    rows = 600_000
    proto = classifier()
    table = proto.graph.initializer.add(name="table", data_type=TensorProto.FLOAT, dims=[rows, 1024])
    table.data_location = TensorProto.EXTERNAL
    table.external_data.add(key="location", value="table.bin")
    proto.graph.node[-1].output[0] = "sum"
    proto.graph.node.append(helper.make_node("ReduceMax", ["table"], ["top"], keepdims=0))
    proto.graph.node.append(helper.make_node("Add", ["sum", "top"], ["logits"]))
    path = write(tmp_path / "model.onnx", proto)
    with (tmp_path / "table.bin").open("wb") as file:
        file.truncate(rows * 4096)  # sparse: takes no room on the disk
    before, start = _anonymous_memory(), time.perf_counter()
    opened = load_model(path)
    assert opened.nbytes() > 2**31
    assert _anonymous_memory() - before < 2**26
    assert time.perf_counter() - start < 5


# Graphs


def rewired(change: Callable[[onnx.GraphProto], object], opset: int = 18) -> onnx.ModelProto:
    proto = classifier(opset)
    change(proto.graph)
    return proto


def set_input(node, index, name):
    return lambda g: g.node[node].input.__setitem__(index, name)


def set_output(node, name):
    return lambda g: g.node[node].output.__setitem__(0, name)


def wrong_attribute(g):
    g.node[0].attribute[0].CopyFrom(helper.make_attribute("pads", 1.5))


def missing_attribute(g):
    del g.node[2].attribute[:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_input(0, 0, "relu2"), "cycle"),
        (set_input(1, 0, "nobody"), "nobody"),
        (lambda g: g.node.append(g.node[1]), "relu1"),
        (set_output(1, ""), ""),
        (wrong_attribute, "pads"),
        (missing_attribute, "kernel_shape"),
        (lambda g: g.node[0].input.append("b1"), "input"),
        (lambda g: setattr(g.initializer[0], "name", "b1"), "b1"),
        (lambda g: g.initializer[0].dims.insert(0, 1), "do not fit together"),
        (lambda g: g.node.append(inside_nothing()), "Loop"),
    ],
)
@pytest.mark.parametrize("opset", [9, 18])
def test_broken_graphs_are_refused(saved, change, said, opset):
    assert said in refused(saved(rewired(change, opset)))


def test_functions_that_cannot_be_written_out_are_refused(saved):
    def calls(name: str, called: str, times: int) -> onnx.FunctionProto:
        domain = "own" if called.startswith("f") else ""
        inner = [helper.make_node(called, [f"v{k}"], [f"v{k + 1}"], domain=domain) for k in range(times)]
        imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        return helper.make_function("own", name, ["v0"], [f"v{times}"], inner, imports)

    def using(*functions: onnx.FunctionProto) -> Path:
        proto = model([*NODES[:1], helper.make_node(functions[-1].name, ["conv1"], ["y"], domain="own")],
                      [IMAGE], [value("y", None)], weights(), domains={"own": 1})  # fmt: skip
        proto.functions.extend(functions)
        return saved(proto)

    assert "its function 'f1' calls itself" in refused(using(calls("f1", "f2", 1), calls("f2", "f1", 1)))
    tower = [calls(f"f{k}", f"f{k - 1}" if k else "Relu", 10) for k in range(9)]
    assert "with its functions written out it has 1e+09 nodes" in refused(using(*tower))
    assert len(load_model(using(*tower[:3])).graph) == 1 + 10**3


def test_a_loop_that_nothing_ends_is_refused(saved):
    def looping(rounds: int, ends: str) -> Path:
        given = [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("a", None)]
        body = [helper.make_node("Relu", ["a"], ["b"]),
                helper.make_node("Identity", ["go"], ["on"]) if ends == "never" else
                helper.make_node("Less", ["i", "few"], ["on"])]  # fmt: skip
        graph = helper.make_graph(body, "body", given, [value("on", [], TensorProto.BOOL), value("b", None)])
        loop = helper.make_node("Loop", ["rounds", "", "image"], ["y"], body=graph)
        held = {"rounds": np.int64(rounds), "few": np.int64(3)}
        return saved(model([loop], [IMAGE], [value("y", None)], held))

    assert "its Loop y goes 4,611,686,018,427,387,904 rounds" in refused(looping(2**62, "never"))
    assert "its Loop y goes 10,001 rounds" in refused(looping(10**4 + 1, "never"))
    assert load_model(looping(10**4, "never")).path
    assert load_model(looping(2**62, "by its condition")).path  # as TensorFlow writes a while
    hollow = helper.make_node("Loop", ["rounds", "", "image"], ["y"])
    assert "is not a valid ONNX graph" in refused(
        saved(model([hollow], [IMAGE], [value("y", None)], {"rounds": np.int64(3)}))
    )


def test_one_opset_of_a_domain(saved):
    proto = classifier()
    proto.opset_import.extend(list(proto.opset_import))  # of itself, it goes on without end
    proto.opset_import.add(domain="ai.onnx", version=18)
    assert load_model(saved(proto)).source_opset == 18
    proto.opset_import.add(domain="", version=17)
    assert "imports two opsets of the domain '', 18 and 17" in refused(saved(proto))


def inside_nothing():
    return helper.make_node("Loop", ["", ""], ["never"], body=helper.make_graph([], "empty", [], []))


@pytest.mark.parametrize("text", [b"first_relu", b"maker", b"Relu", b"conv1", b"w2"])
def test_names_that_are_no_text_are_refused(tmp_path, text):
    proto = classifier()
    proto.producer_name = "maker"
    whole = proto.SerializeToString()
    assert text in whole
    data = whole.replace(text, b"\xe6" + text[1:])
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert "UTF-8" in refused(path)


@pytest.mark.parametrize("opset", [9, 18])
def test_nodes_out_of_order_are_brought_into_order(saved, opset):
    expected = scores(saved(classifier(opset)))
    proto = classifier(opset)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes[::-1])
    np.testing.assert_array_equal(scores(saved(proto)), expected)
    assert [n.op_type for n in load_model(saved(proto)).graph] == [n.op_type for n in nodes]


@pytest.mark.parametrize("opset", [9, 18])
def test_wrong_shapes_of_inner_values_are_forgotten_with_a_note(saved, opset):
    proto = classifier(opset)
    proto.graph.value_info.append(value("relu2", ["n", 7, 99, 99]))
    opened = load_model(saved(proto))
    shape = model_module.dims_of(opened.values["relu2"])
    assert shape[1:] == (8, 6, 6)
    assert any("contradict" in note for note in opened.notes) or opset == 9
    np.testing.assert_array_equal(scores(saved(proto)), scores(saved(classifier(opset))))


def test_shapes_are_inferred_for_every_value(saved):
    opened = load_model(saved(classifier(batch=1)))
    found = {name: model_module.dims_of(v) for name, v in opened.values.items() if v.const_value is None}
    assert found["conv1"] == found["relu1"] == (1, 6, 12, 12)
    assert found["relu2"] == (1, 8, 6, 6)
    assert found["flat"] == (1, 8)


def test_shapes_computed_by_constants_are_known(saved):
    """PyTorch's TorchScript exporter writes unflatten(-1, ...) with a Mod, which shape inference does not know."""
    held = {"last": np.array([-1]), "rank": np.array([4]), "zero": np.array([0]), "split": np.array([3, 4])}
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Mod", ["last", "rank"], ["axis"]),
        helper.make_node("Reshape", ["axis", "last"], ["end"]),
        helper.make_node("Slice", ["shape", "zero", "end"], ["lead"]),
        helper.make_node("Concat", ["lead", "split"], ["target"], axis=0),
        helper.make_node("Reshape", ["image", "target"], ["y"]),
    ]
    opened = load_model(saved(model(nodes, [value("image", ["n", 3, 12, 12])], [value("y", None)], held)))
    assert model_module.dims_of(opened.values["y"])[1:] == (3, 12, 3, 4)
    assert [n.op_type for n in opened.graph] == [n.op_type for n in nodes]


# Outputs, functions, constants


def test_the_tensor_before_a_zipmap_becomes_the_output(saved):
    zipmap = helper.make_node(
        "ZipMap", ["probabilities"], ["map"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3]
    )
    nodes = [*NODES, helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1), zipmap]
    entry = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    mapped = helper.make_value_info("map", helper.make_sequence_type_proto(entry))
    path = saved(model(nodes, [IMAGE], [mapped], weights(), domains={"ai.onnx.ml": 1}))
    opened = load_model(path)
    assert [v.name for v in opened.outputs] == ["probabilities"]
    assert "read probabilities before it" in opened.notes[0]
    expected = np.exp(z := scores(saved(classifier()))) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(Session(opened).run({"image": X})[0], expected, rtol=1e-5)


def test_a_sequence_output_is_left_out_where_a_tensor_remains(saved):
    nodes = [*NODES, helper.make_node("SequenceConstruct", ["logits"], ["list"])]
    listed = helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None)
    opened = load_model(saved(model(nodes, [IMAGE], [listed, LOGITS], weights())))
    assert [v.name for v in opened.outputs] == ["logits"]
    assert "SequenceConstruct" not in {n.op_type for n in opened.graph}
    empty = [*NODES, helper.make_node("SequenceEmpty", [], ["list"])]
    assert "no tensor output" in refused(saved(model(empty, [IMAGE], [listed], weights())))


@pytest.mark.parametrize("opset", [12, 18])
def test_functions_are_inlined(saved, opset):
    body = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Add", ["r", "a"], ["b"])]
    double = helper.make_function("mine", "Odd", ["a"], ["b"], body, [helper.make_opsetid("", opset)])
    nodes = [*NODES[:-1], helper.make_node("Gemm", ["flat", "wd", "bd"], ["raw"])]
    nodes.append(helper.make_node("Odd", ["raw"], ["logits"], domain="mine"))
    proto = model(nodes, [IMAGE], [LOGITS], weights(), opset, domains={"mine": 1})
    proto.functions.append(double)
    plain = scores(saved(classifier(opset)))
    path = saved(proto)
    assert {n.domain for n in load_model(path).graph} == {""}
    np.testing.assert_allclose(scores(path), np.maximum(plain, 0) + plain, rtol=1e-5)


def test_functions_that_nothing_calls_are_dropped(saved):
    proto = classifier()
    stray = helper.make_node("Relu", ["a"], ["b"])
    proto.functions.append(helper.make_function("mine", "Stray", ["a"], ["b"], [stray], [helper.make_opsetid("", 18)]))
    opened = load_model(saved(proto))
    assert not opened.ir_model.functions


def test_constant_nodes_become_weights(saved):
    held = weights()
    constants = [
        helper.make_node("Constant", [], [k], value=numpy_helper.from_array(held.pop(k))) for k in ("w1", "bd")
    ]
    path = saved(model([*constants, *NODES], [IMAGE], [LOGITS], held))
    opened = load_model(path)
    assert {"w1", "bd"} <= set(opened.graph.initializers)
    assert "Constant" not in {n.op_type for n in opened.graph}
    np.testing.assert_array_equal(scores(path), scores(saved(classifier())))


def test_constants_of_every_attribute_become_weights(saved):
    """value, value_float, value_floats, value_int, value_ints (Constant-12)."""
    given = {"value_float": 2.0, "value_floats": [1.0, 3.0], "value_int": 5, "value_ints": [7]}
    constants = [helper.make_node("Constant", [], [name], **{name: v}) for name, v in given.items()]
    opened = load_model(saved(model([*constants, *NODES], [IMAGE], [LOGITS], weights())))
    for name, expected in given.items():
        found = opened.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(found, expected)
        assert found.shape == np.shape(expected)


def test_weights_listed_as_inputs_are_no_inputs(saved):
    proto = classifier(8, ir_version=3)
    proto.graph.input.extend(value(t.name, t.dims) for t in proto.graph.initializer)
    opened = load_model(saved(proto))
    assert [v.name for v in opened.inputs] == [v.name for v in opened.graph.inputs] == ["image"]
    np.testing.assert_array_equal(scores(saved(proto)), scores(saved(classifier(8))))


# Conversion

SMALL = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4) ** 1.5


def resized(nodes, opset, arrays=None):
    return model(nodes, [value("image", [1, 1, 3, 4])], [value("y", None)], arrays, opset)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scale", [1.5, 2.0])
@pytest.mark.parametrize("op", ["Upsample", "Resize"])
def test_the_sampling_rule_of_old_resizes_is_kept(saved, op, mode, scale):
    """Upsample-9 and Resize-10 sample at x / scale: nearest rounds down, linear is asymmetric."""
    opset = 9 if op == "Upsample" else 10
    node = helper.make_node(op, ["image", "scales"], ["y"], mode=mode)
    path = saved(resized([node], opset, {"scales": np.array([1, 1, scale, scale], np.float32)}))
    expected = _sampled(_sampled(SMALL, 2, scale, mode), 3, scale, mode)
    np.testing.assert_allclose(Session(load_model(path)).run({"image": SMALL})[0], expected, rtol=1e-5)


def test_old_resizes_inside_a_graph_keep_rule_and_name(saved):
    nodes = [
        helper.make_node("Upsample", ["image", "scales"], ["wide"], mode="linear"),
        helper.make_node("Upsample", ["wide", "scales"], ["wider"], mode="nearest"),
        helper.make_node("Relu", ["wider"], ["y"]),
    ]
    opened = load_model(saved(resized(nodes, 9, {"scales": np.array([1, 1, 1.5, 2], np.float32)})))
    expected = SMALL
    for mode in ("linear", "nearest"):
        expected = _sampled(_sampled(expected, 2, 1.5, mode), 3, 2, mode)
    np.testing.assert_allclose(Session(opened).run({"image": SMALL})[0], expected, rtol=1e-5)
    assert {"wide", "wider"} <= set(opened.values)


def _sampled(x, axis, scale, mode):
    at = np.minimum(np.arange(int(x.shape[axis] * scale)) / scale, x.shape[axis] - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    share = np.zeros(len(at)) if mode == "nearest" else at - low
    shape = [-1 if a == axis else 1 for a in range(4)]
    return x.take(low, axis) * (1 - share.reshape(shape)) + x.take(high, axis) * share.reshape(shape)


def test_a_resize_of_opset_11_keeps_its_own_default(saved):
    """half_pixel, not the asymmetric rule of opset 10."""
    node = helper.make_node("Resize", ["image", "", "scales"], ["y"], mode="linear")
    proto = resized([node], 13, {"scales": np.array([1, 1, 2, 2], np.float32)})
    expected = ReferenceEvaluator(proto).run(None, {"image": SMALL})[0]
    found = Session(load_model(saved(proto))).run({"image": SMALL})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 17])
def test_old_opsets_are_converted_and_say_so(saved, opset):
    path = saved(classifier(opset, ir_version=4))
    opened = load_model(path)
    assert (opened.opset, opened.source_opset) == (18, opset)
    assert f"converted from opset {opset} to 18" in opened.notes
    np.testing.assert_allclose(scores(path), builders.plain_scores(classifier(), X), rtol=1e-4, atol=1e-5)


def test_wrong_types_of_inner_values_do_not_stop_the_conversion(saved):
    proto = classifier(9)
    proto.graph.value_info.append(value("w2", [7], TensorProto.DOUBLE))
    opened = load_model(saved(proto))
    assert opened.values["w2"].dtype == ir.DataType.FLOAT
    np.testing.assert_array_equal(scores(saved(proto)), scores(saved(classifier(9))))


def test_newer_opsets_are_kept(saved):
    opened = load_model(saved(classifier(21)))
    assert (opened.opset, opened.source_opset, opened.notes) == (21, 21, ())


def test_a_graph_that_the_converter_refuses_is_refused(saved):
    ones = np.ones(1, np.float32)
    train = helper.make_node("BatchNormalization", ["image", "s", "b", "m", "v"], ["y"], is_test=0)
    proto = resized([train], 6, {"s": ones, "b": ones, "m": ones, "v": ones})
    assert "(opset 6) cannot be converted to opset 18" in refused(saved(proto))


def real_models(zoo: Path) -> list[Path]:
    return sorted((zoo / "models").glob("*.onnx"))


@pytest.mark.real
def test_real_models_answer_after_opening_as_before(real_zoo):
    """Random inputs; optimisation off, so that only the conversion can differ."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    checked = 0
    for path in real_models(real_zoo):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        try:
            opened = load_model(path)
            assert opened.image_input
        except ModelError:
            continue
        original = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feeds = {i.name: _noise(i) for i in original.get_inputs()}
        names = [v.name for v in opened.outputs]
        before = original.run(names, feeds)
        after = Session(opened, optimize=False).run(feeds, names)
        for name, a, b in zip(names, before, after, strict=True):
            error = np.abs(a.astype(np.float64) - b).max() / max(np.abs(a).max(), 1e-30)
            allowed = 2**-11 if a.dtype == np.float16 else 1e-5  # half a unit in the last place
            assert error <= allowed, f"{path.name} {name}: {error}"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest == opened.sha256
        checked += 1
    assert checked == 21


def _noise(given):
    rng = np.random.default_rng(0)
    shape = [d if isinstance(d, int) and d > 0 else (1 if k == 0 else 48) for k, d in enumerate(given.shape)]
    if "uint8" in given.type:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    kind = {"tensor(float)": np.float32, "tensor(float16)": np.float16}[given.type]
    return rng.uniform(0, 1, shape).astype(kind)


@pytest.mark.real
def test_real_files_that_are_unusable_are_refused(real_zoo):
    folder = real_zoo / "models"
    assert "names no opset" in refused(folder / "mnist_cntk_noopset.onnx")
    assert "Debug (opset 7)" in refused(folder / "squeezenet_fp16_customop_debug.onnx")
    with pytest.raises(ModelError, match="no image input"):
        load_model(folder / "skl2onnx_iris_trees.onnx").image_input  # noqa: B018


# Saving


def test_a_model_comes_back_from_its_own_file(tmp_path, saved):
    opened = load_model(saved(classifier(9, ir_version=4)))
    copy = opened.save(tmp_path / "über copy.onnx")
    np.testing.assert_array_equal(scores(copy), scores(opened.path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "über copy.onnx"]


def test_external_weights_go_into_the_saved_file(tmp_path):
    opened = load_model(_with_data(tmp_path))
    (tmp_path / "b").mkdir()
    copy = opened.save(tmp_path / "b" / "copy.onnx")
    expected = scores(opened.path)
    (tmp_path / "a" / "w.bin").unlink()
    np.testing.assert_array_equal(scores(copy), expected)


def _with_data(folder: Path) -> Path:
    (folder / "a").mkdir()
    return write(folder / "a" / "model.onnx", external(classifier(), "w.bin", folder / "a"))


def test_above_the_limit_the_weights_are_saved_beside_the_model(tmp_path, saved, monkeypatch):
    monkeypatch.setattr(model_module, "_PROTO_LIMIT", 2**26)
    opened = load_model(saved(classifier()))
    copy = opened.save(tmp_path / "copy.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.onnx", "copy.onnx.data", "model.onnx"]
    assert (tmp_path / "copy.onnx.data").stat().st_size > 0.9 * opened.nbytes()
    np.testing.assert_array_equal(scores(copy), scores(opened.path))
    for own in ("copy.onnx", "copy.onnx.data"):
        with pytest.raises(OutputError, match="own file"):
            load_model(copy).save(tmp_path / own.removesuffix(".data"))


@pytest.mark.parametrize("how", ["itself", "link", "hard link"])
def test_the_models_own_file_is_never_written(tmp_path, saved, how):
    path = saved(classifier())
    before = path.read_bytes()
    target = path if how == "itself" else tmp_path / "other.onnx"
    if how == "link":
        target.symlink_to(path)
    elif how == "hard link":
        os.link(path, target)
    with pytest.raises(OutputError, match="own file"):
        load_model(path).save(target)
    assert path.read_bytes() == before


def test_opening_and_running_leave_the_folder_as_it_was(tmp_path, saved):
    path = saved(classifier(9, ir_version=4))
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        scores(path)
    finally:
        tmp_path.chmod(0o755)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_saving_where_nothing_can_be_written_is_refused(tmp_path, saved):
    opened = load_model(saved(classifier()))
    with pytest.raises(OutputError, match="cannot write"):
        opened.save(opened.path / "below a file.onnx")
    with pytest.raises(OutputError, match="cannot write"):
        opened.save(tmp_path / "no such folder" / "x.onnx")


def test_a_write_that_fails_midway_leaves_nothing(tmp_path, saved, monkeypatch):
    opened = load_model(saved(classifier()))
    target = tmp_path / "copy.onnx"
    target.write_bytes(b"what was there")

    def full(model, path, **more):
        Path(path).write_bytes(b"half a mo")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_module.ir, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        opened.save(target)
    assert target.read_bytes() == b"what was there"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.onnx", "model.onnx"]


def test_a_clone_is_edited_alone(saved):
    opened = load_model(saved(classifier()))
    copy = opened.clone()
    copy.graph.remove(copy.graph[-1], safe=False)
    assert (len(opened.graph), len(copy.graph)) == (8, 7)


# Image inputs


def entry(dims, dtype=TensorProto.FLOAT, nodes=(), arrays=None, more=()):
    """A model with an input `image` of these dimensions, read by ``nodes``."""
    return model(nodes, [*more, value("image", dims, dtype)], [value("y", None)], arrays)


CONV = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
W3, W1 = {"w": np.zeros((2, 3, 3, 3), np.float32)}, {"w": np.zeros((2, 1, 3, 3), np.float32)}
TO_NCHW = helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2])
SAME = helper.make_node("Identity", ["image"], ["x"])


@pytest.mark.parametrize(
    ("proto", "expected", "reason"),
    [
        (entry([1, 3, 8, 9], nodes=[SAME, CONV], arrays=W3), ("NCHW", 1, 3, 8, 9), "feeds Conv conv"),
        (entry(["n", 1, "h", "w"], nodes=[SAME, CONV], arrays=W1), ("NCHW", None, 1, None, None), "1 channel"),
        (entry(["a", "b", "c", "d"], nodes=[SAME, CONV], arrays=W3), ("NCHW", None, 3, None, None), "3 channels"),
        (entry([1, 8, 9, 3], nodes=[TO_NCHW, CONV], arrays=W3), ("NHWC", 1, 3, 8, 9), "3 channels"),
        (entry(["n", None, None, None], nodes=[TO_NCHW, CONV], arrays=W3), ("NHWC", None, 3, None, None), "3 channels"),
        (entry([1, 3, 3, 3], nodes=[TO_NCHW, CONV], arrays=W3), ("NHWC", 1, 3, 3, 3), "3 channels"),
        (entry([-1, 3, 8, 9], nodes=[SAME, CONV], arrays=W3), ("NCHW", None, 3, 8, 9), "3 channels"),
        (
            entry([1, 8, 9, 3], TensorProto.UINT8, [
                helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
                helper.make_node("Transpose", ["f"], ["x"], perm=[0, 3, 1, 2]), CONV], W3),
            ("NHWC", 1, 3, 8, 9), "3 channels",
        ),
        (entry([1, 3, 8, 9], nodes=[helper.make_node("Relu", ["image"], ["y"])]), ("NCHW", 1, 3, 8, 9), "axis 1"),
        (entry([1, 8, 9, 3], nodes=[helper.make_node("Relu", ["image"], ["y"])]), ("NHWC", 1, 3, 8, 9), "axis 3"),
        (entry([1, 4, 8, 9], nodes=[SAME, CONV], arrays={"w": np.zeros((2, 4, 3, 3), np.float32)}),
         ("NCHW", 1, 4, 8, 9), "4 channels"),
    ],
)  # fmt: skip
def test_the_image_input_is_understood(saved, proto, expected, reason):
    image = load_model(saved(proto)).image_input
    assert (image.layout, image.batch, image.channels, image.height, image.width) == expected
    assert reason in image.reason


def test_the_image_is_found_among_several_inputs(saved):
    info = value("info", ["n", 4])
    nodes = [SAME, CONV, helper.make_node("Identity", ["info"], ["z"])]
    proto = entry([1, 3, 8, 9], nodes=nodes, arrays=W3, more=[info])
    proto.graph.output.append(value("z", None))
    assert load_model(saved(proto)).image_input.name == "image"


@pytest.mark.parametrize(
    ("dims", "dtype"),
    [([1, 16], TensorProto.FLOAT), ([1, 3, 8, 9], TensorProto.INT64), ([1, 7, 8, 9], TensorProto.FLOAT)],
)
def test_a_model_without_an_image_says_what_it_takes(saved, dims, dtype):
    proto = entry(dims, dtype, [helper.make_node("Identity", ["image"], ["y"])])
    proto.graph.output[0].type.tensor_type.elem_type = dtype
    with pytest.raises(ModelError, match="no image input") as caught:
        load_model(saved(proto)).image_input  # noqa: B018
    assert "image" in str(caught.value)
    assert ", ".join(map(str, dims)) in str(caught.value)


def test_a_negative_length_is_a_free_axis(saved):
    """Shape inference of Slice aborts the process on one."""
    parts = {"starts": np.array([0]), "ends": np.array([5]), "axes": np.array([2])}
    cut = helper.make_node("Slice", ["image", "starts", "ends", "axes"], ["y"])
    proto = model([cut], [value("image", [1, 3, -8, 9])], [value("y", None)], parts)
    opened = load_model(saved(proto))
    assert not isinstance(model_module.dims_of(opened.values["image"])[2], int)
    assert opened.image_input.height is None


@pytest.mark.parametrize(
    "dims", [[1, 3, 2**31, 8], [10**9, 3, 8, 8], [1, 3, 4096, 8192], [64, 3, 2048, 2048], [1, 3, 32769, 8]]
)
def test_an_input_that_no_picture_fills_is_refused(saved, dims):
    proto = entry(dims, nodes=[helper.make_node("ReduceMax", ["image"], ["y"], keepdims=0)])
    with pytest.raises(ModelError, match="no picture fills"):
        load_model(saved(proto)).image_input  # noqa: B018


# Damage by chance: whatever is done to a file, it opens or says why not


def _damaged(rng: random.Random) -> bytes:
    data = classifier(rng.choice([9, 13, 18]), ir_version=4).SerializeToString()
    if rng.random() < 0.4:
        spoilt = bytearray(data)
        for _ in range(rng.choice([1, 3, 9])):
            spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
        return bytes(spoilt[: rng.choice([len(spoilt), len(spoilt), rng.randrange(len(spoilt))])])
    proto = onnx.ModelProto()
    proto.ParseFromString(data)
    for _ in range(rng.choice([1, 2])):
        rng.choice(DAMAGE)(proto.graph, rng)
    return proto.SerializeToString()


def _names(g):
    return ["", *(v for n in g.node for v in (*n.input, *n.output))]


def _dim(g, rng):
    dims = rng.choice(g.initializer).dims
    dims[rng.randrange(len(dims))] = rng.choice([0, -1, 2, 7, 2**31, 2**62])


def _declared(g, rng):
    shape = rng.choice([*g.input, *g.output]).type.tensor_type.shape
    rng.choice([shape.dim[0], shape.dim[-1], shape.dim.add()]).dim_value = rng.choice([0, -5, 3, 2**40])


def _empty_branch(g, rng):
    node = helper.make_node("If", [rng.choice(_names(g))], list(g.node[4].output))
    node.attribute.append(helper.make_attribute("then_branch", helper.make_graph([], "none", [], [])))
    g.node[4].CopyFrom(node)


OPERATORS = sorted({s.name for s in onnx.defs.get_all_schemas() if s.domain == ""})
DAMAGE: list[Callable[[onnx.GraphProto, random.Random], object]] = [
    lambda g, r: r.choice(g.node).input.__setitem__(0, r.choice(_names(g))),
    lambda g, r: r.choice(g.node).output.__setitem__(0, r.choice(_names(g))),
    lambda g, r: setattr(r.choice(g.node), "op_type", r.choice(OPERATORS)),
    lambda g, r: g.node.remove(r.choice(g.node)),
    lambda g, r: g.node.append(r.choice(g.node)),
    lambda g, r: r.choice(g.node).ClearField("attribute"),
    lambda g, r: setattr(r.choice(g.initializer), "raw_data", r.randbytes(r.randrange(9))),
    lambda g, r: setattr(r.choice(g.initializer), "data_type", r.randrange(30)),
    lambda g, r: g.initializer.remove(r.choice(g.initializer)),
    lambda g, r: g.initializer.append(r.choice(g.initializer)),
    lambda g, r: setattr(r.choice([*g.input, *g.output]), "name", r.choice(_names(g))),
    lambda g, r: setattr(r.choice([*g.input, *g.output]).type.tensor_type, "elem_type", r.randrange(26)),
    lambda g, r: g.ClearField(r.choice(["input", "output"])),
    _dim,
    _declared,
    _empty_branch,
]  # fmt: skip


def _open_damaged(seeds: range, path: Path) -> None:
    for seed in seeds:
        path.write_bytes(_damaged(random.Random(seed)))
        try:
            opened = load_model(path)
            _ = opened.image_input
            Session(opened, threads=1)
        except OnnxcamError:
            continue
        except BaseException as error:
            path.with_suffix(".txt").write_text(f"seed {seed}: {type(error).__name__}: {error}")
            os._exit(1)
        path.with_suffix(".opened").write_text(str(seed))


def test_a_value_that_no_memory_holds_is_refused_before_it_runs(saved, monkeypatch):
    """Of lengths that are free, those that are not must fit."""
    nodes = [helper.make_node("Pad", ["image", "p"], ["big"], name="padding"), helper.make_node("Relu", ["big"], ["y"])]
    padded = model(nodes, [IMAGE], [value("y", None)], {"p": [0, 0, 0, 0, 0, 0, 2**20, 2**20]})
    said = refused(saved(padded))
    assert "'big', which Pad makes, has the lengths" in said
    assert "GB, more than half of the memory that there is" in said
    assert "takes 12,288." in said
    small = model(nodes, [IMAGE], [value("y", None)], {"p": [0, 0, 0, 0, 0, 0, 0, 52]})  # 9216 bytes
    monkeypatch.setattr(integrity, "_memory", lambda: 2 * 9216)
    assert load_model(saved(small)).values["big"].shape[3] == 64
    monkeypatch.setattr(integrity, "_memory", lambda: 2 * 9216 - 1)
    assert "more than half" in refused(saved(small))
    idle = helper.make_node("Relu", ["image"], ["y"])
    assert load_model(saved(model([nodes[0], idle], [IMAGE], [value("y", None)], {"p": [0] * 6 + [0, 52]}))).values["y"]
    vast = value("vast", [2**33, 2**33])  # which nothing reads, but a run is given
    assert "'vast' has the lengths" in refused(saved(model([idle], [IMAGE, vast], [value("y", None)], {})))


def test_a_container_has_the_memory_that_it_was_given(monkeypatch):
    machine, asked = integrity._memory(), []
    monkeypatch.setattr(Path, "read_text", lambda path: (asked.append(path), "max\n" if len(asked) == 1 else "4096")[1])
    assert integrity._memory() == 4096 < machine
    assert [p.name for p in asked] == ["memory.max", "memory.limit_in_bytes"]


def test_damage_is_told_and_kills_nothing(tmp_path):
    path = tmp_path / "damaged.onnx"
    child = multiprocessing.get_context("spawn").Process(target=_open_damaged, args=(range(300), path))
    child.start()
    child.join(60)
    told = path.with_suffix(".txt").read_text() if path.with_suffix(".txt").exists() else ""
    if child.is_alive():
        child.kill()
        told = "it hangs"
    assert child.exitcode == 0, told or f"killed by signal {child.exitcode}; the file is {path}"
    assert path.with_suffix(".opened").exists(), "nothing opened: the damage is too heavy to prove anything"
