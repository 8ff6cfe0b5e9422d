"""Exported files of another opset than their source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from builders import NODES, classifier, external, model, session, value, weights, write
from onnx import helper

from onnxcam import Explainer, load_model
from onnxcam.errors import OptionError
from onnxcam.export import Form, explainable, opsets
from onnxcam.zoo import locate

PICTURE = np.random.default_rng(1).random((2, 3, 12, 12), dtype=np.float32)


def run(path: Path, image: Any = PICTURE, **feeds: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"image": image, "onnxcam/class": np.full(len(image), 1), **feeds}))


def opset_of(path: Path) -> dict[str, int]:
    return {o.domain: o.version for o in onnx.load(path, load_external_data=False).opset_import}


@pytest.mark.parametrize(("source", "opset"), [(13, 19), (18, 21), (21, 19), (21, 18), (19, 19), (18, 13), (13, 12)])
def test_up_and_down_give_the_same(tmp_path, source, opset):
    ex = Explainer(write(tmp_path / "s.onnx", classifier(source)), method="layercam")
    record = ex.export(tmp_path / "m.onnx", form=Form(opset=opset)).record
    ex.export(tmp_path / "own.onnx")
    assert opset_of(tmp_path / "m.onnx") == {"": opset}
    for a, b in zip(run(tmp_path / "m.onnx"), run(tmp_path / "own.onnx"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert record["source"]["sha256"] == ex.model.sha256
    own, other = ({p.key: p.value for p in onnx.load(tmp_path / n).metadata_props} for n in ("own.onnx", "m.onnx"))
    assert own == other


def test_weights_in_files_come_along(tmp_path):
    write(tmp_path / "s.onnx", external(classifier(), "s.bin", tmp_path))
    ex = Explainer(tmp_path / "s.onnx")
    ex.export(tmp_path / "m.onnx", form=Form(opset=20))
    (want,) = ex.explain_tensor(PICTURE[:1], 1)
    np.testing.assert_allclose(run(tmp_path / "m.onnx")[1][0], want.heatmap, atol=1e-5)


def test_float16_is_compared_as_float16(tmp_path):
    """Where a runtime rounds differs from opset to opset; more than that is no rounding."""
    made = explainable([Explainer(locate("zoo:shapes-net-fp16"))], form=Form(opset=20)).model
    assert made.opset == 20


@pytest.mark.parametrize(
    ("source", "opset", "message"),
    [
        (18, 11, r"opset=11: LessOrEqual 'onnxcam/\w+' needs opset 12, the lowest that this export can have"),
        (21, 11, r"opset=11: LessOrEqual 'onnxcam/\w+' needs opset 12"),
        (18, 999, rf"opset=999: the installed onnx .* knows up to {onnx.defs.onnx_opset_version()}"),
        (18, 0, r"opset=0: .* needs opset 12"),
    ],
)
def test_opsets_that_cannot_be_are_refused_before_anything_is_written(tmp_path, source, opset, message):
    path = write(tmp_path / "s.onnx", classifier(source))
    with pytest.raises(OptionError, match=message):
        Explainer(path).export(tmp_path / "m.onnx", form=Form(opset=opset))
    assert list(tmp_path.iterdir()) == [path]


def test_the_node_of_the_model_that_needs_more_is_named(tmp_path):
    gelu = helper.make_node("Gelu", ["conv2"], ["relu2"], "activation")
    nodes = [*NODES[:4], gelu, *NODES[5:]]
    proto = model(nodes, [value("image", ["n", 3, 12, 12])], [value("logits", ["n", 4])], weights(), 20)
    ex = Explainer(write(tmp_path / "s.onnx", proto))
    with pytest.raises(OptionError, match=r"opset=19: Gelu 'activation' needs opset 20, the lowest"):
        explainable([ex], form=Form(opset=19))


node = helper.make_node


@pytest.mark.parametrize(
    ("made", "opset", "least"),
    [
        (node("Gelu", ["x"], ["y"]), 20, 20),
        (node("ReduceMean", ["x", "axes"], ["y"]), 21, 18),  # the axes were an attribute
        (node("ReduceMax", ["x", "axes"], ["y"]), 22, 18),
        (node("ReduceSum", ["x", "axes"], ["y"]), 18, 13),
        (node("Resize", ["x", "", "", "s"], ["y"], antialias=1), 18, 18),
        (node("Resize", ["x", "", "", "s"], ["y"], mode="linear"), 21, 11),
        (node("Softmax", ["x"], ["y"]), 18, 13),  # the last axis by default, the second before
        (node("Cast", ["x"], ["y"], to=1), 21, 6),  # its target was a text
        (node("Cast", ["x"], ["y"], to=1, saturate=0), 21, 19),
        (node("Gemm", ["x", "w"], ["y"]), 18, 11),  # the third input could not be left out
        (node("Pad", ["x", "p"], ["y"]), 21, 11),
        (node("Pad", ["x", "p", "", "axes"], ["y"]), 21, 18),
        (node("Reshape", ["x", "s"], ["y"]), 21, 5),
        (node("Reshape", ["x", "s"], ["y"], allowzero=1), 21, 14),
        (node("Shape", ["x"], ["y"], start=1), 21, 15),
        (node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2]), 21, 19),
    ],
)
def test_the_first_opset_in_which_a_node_means_the_same(made, opset, least):
    """By hand, from the operators' changelog: https://onnx.ai/onnx/operators/."""
    names = sorted({n for n in made.input if n})
    proto = model([made], [value(n, None) for n in names], [value("y", None)], None, opset)
    graph = onnx.ModelProto.FromString(proto.SerializeToString())
    (found,) = ir.from_proto(graph).graph
    assert opsets._least(found, opset) == least


def reduction(op_type: str, opset: int, axes: Any = None, **attributes: Any) -> Any:
    """A node on x, alone in a graph, with constant axes."""
    inputs = ["x"] if axes is None else ["x", "axes"]
    made = helper.make_node(op_type, inputs, ["y"], **attributes)
    held = {} if axes is None else {"axes": np.asarray(axes, np.int64)}
    proto = model([made], [value("x", [2, 3, 4])], [value("y", None)], held, opset)
    (found,) = ir.from_proto(proto).graph
    return found


@pytest.mark.parametrize(
    ("found", "wanted", "least", "inputs", "axes"),
    [
        (reduction("ReduceMean", 18, [1, 2]), 17, 1, 1, [1, 2]),
        (reduction("ReduceMax", 20, [-1], keepdims=0, noop_with_empty_axes=0), 17, 1, 1, [-1]),
        (reduction("ReduceSum", 18, [1]), 17, 13, 2, None),
        (reduction("ReduceSum", 18, [1]), 12, 1, 1, [1]),
        (reduction("ReduceProd", 18), 17, 1, 1, None),  # all of them, before and after
        (reduction("ReduceMean", 18, []), 17, 1, 1, None),
        (reduction("ReduceMean", 18, [], noop_with_empty_axes=1), 17, 18, 2, None),  # none of them, after only
        (reduction("Squeeze", 18, [0]), 12, 1, 1, [0]),
    ],
)
def test_axes_are_told_as_the_older_opset_asks(found, wanted, least, inputs, axes):
    """By hand, from the operators' changelog: an input of ReduceSum and Squeeze from 13 on, of others from 18."""
    assert opsets._brought_down(found, 20, wanted) == least
    told = found.attributes.get("axes")
    assert (None if told is None else list(told.value)) == axes
    assert len(found.inputs) == inputs


def halves(opset: int, splits: bool = False) -> onnx.ModelProto:
    """Of float16; a Split in two parts says how many from opset 18 on."""
    proto = classifier(opset, batch=1, dtype=np.float16)
    if splits:
        proto.graph.node[4].output[0] = "before"
        proto.graph.node.insert(5, helper.make_node("Concat", ["a", "b"], ["relu2"], axis=1))
        proto.graph.node.insert(5, helper.make_node("Split", ["before"], ["a", "b"], axis=1))
    return proto


def test_float16_stays_below_the_opset_that_makes_relu_slow(tmp_path):
    """And is what it would be there: of float16 weights that came from an older opset, and where every node can be."""
    ex = Explainer(write(tmp_path / "s.onnx", halves(13)))
    own = explainable([ex], form=Form(raw=True)).model
    assert own.opset == 17
    later = explainable([ex], form=Form(raw=True, opset=18)).model
    assert later.opset == 18
    feeds = {"image": PICTURE[:1].astype(np.float16), "onnxcam/class": np.asarray([2])}
    for a, b in zip(
        *(session(m.save(tmp_path / f"{m.opset}.onnx")).run(None, feeds) for m in (own, later)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=2e-3)
    for proto, opset in ((halves(18), 18), (classifier(13), 18), (halves(13, splits=True), 18)):
        assert explainable([Explainer(write(tmp_path / "o.onnx", proto))]).model.opset == opset


def broken(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    found.opset_import[0].version = opset
    for one in found.graph.node:
        one.op_type = "Identity" if one.op_type == "Relu" else one.op_type
    return found


def test_a_wrong_conversion_is_found_out(tmp_path, monkeypatch):
    ex = Explainer(write(tmp_path / "s.onnx", classifier()))
    monkeypatch.setattr(onnx.version_converter, "convert_version", broken)
    with pytest.raises(OptionError, match=r"opset=20: logits is \S+ away from what it is at opset 18.*not right"):
        explainable([ex], form=Form(opset=20))


def test_a_wrong_opset_below_is_found_out(tmp_path, monkeypatch):
    """Were the default axis overlooked, Softmax of opset 12 would take all axes from the second on together."""
    monkeypatch.setattr(opsets, "_default", lambda attribute: b"")
    nodes = [
        helper.make_node("Softmax", ["image"], ["shares"], "softmax"),
        helper.make_node("GlobalAveragePool", ["shares"], ["gap"]),
        helper.make_node("Flatten", ["gap"], ["logits"]),
    ]
    proto = model(nodes, [value("image", [1, 3, 8, 8])], [value("logits", [1, 3])], None, 18)
    with pytest.raises(OptionError, match=r"opset=12: logits is .* away"):
        opsets.at_opset(load_model(write(tmp_path / "s.onnx", proto)), 12)


def test_a_type_that_an_operator_takes_later_only_is_refused(tmp_path):
    """Min takes whole numbers from opset 12 on, and keeps a class within those that there are."""
    ex = Explainer(write(tmp_path / "s.onnx", classifier()), normalize="none")
    ex.export(tmp_path / "m.onnx", form=Form(opset=12))
    with pytest.raises(OptionError, match=r"opset=11: .*int64.*Leave it at 18"):
        explainable([ex], form=Form(opset=11))


def test_a_converter_that_fails_is_named(tmp_path, monkeypatch):
    def failing(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        raise RuntimeError("no adapter for Foo\nand a page of C++")

    ex = Explainer(write(tmp_path / "s.onnx", classifier()))
    monkeypatch.setattr(onnx.version_converter, "convert_version", failing)
    with pytest.raises(OptionError, match=r"ONNX's converter cannot bring .* from 18: no adapter for Foo\. Leave it"):
        explainable([ex], form=Form(opset=20))


def test_a_grey_level_of_rounding_is_no_other_result():
    """Of an overlay; two levels are, and so is one of any other whole number."""
    grey = np.asarray([0, 7, 200], np.uint8)
    assert opsets._distance(grey, np.asarray([1, 7, 199], np.uint8)) == 0
    assert opsets._distance(grey, np.asarray([2, 7, 200], np.uint8)) == 0.01
    assert opsets._distance(np.asarray([4]), np.asarray([5])) == 0.25


def test_an_overlay_that_rounds_otherwise_is_taken(tmp_path, monkeypatch):
    raised = opsets._raised

    def nudged(model: Any, opset: int) -> Any:
        found = raised(model, opset)
        (cast,) = [n for n in found.graph if n.outputs[0].name == "overlay"]
        held = ir.Value(name="held", const_value=ir.tensor(np.float32(0.998)))
        found.graph.register_initializer(held)
        more = ir.Node("", "Mul", [cast.inputs[0], held], name="more")
        more.outputs[0].name = "nudged"
        found.graph.insert_before(cast, more)
        cast.replace_input_with(0, more.outputs[0])
        return found

    monkeypatch.setattr(opsets, "_raised", nudged)
    ex = Explainer(write(tmp_path / "s.onnx", classifier(batch=1)))
    assert explainable([ex], form=Form(opset=20, overlay=True)).model.opset == 20
