"""Lengths below nothing, which would end this process where a Slice sees them: told, before and after conversion."""

from __future__ import annotations

import contextlib
import itertools
import time

import numpy as np
import onnx
import pytest
from builders import model, value
from onnx import TensorProto, helper

from onnxcam import inference
from onnxcam.errors import ModelError
from onnxcam.model import load_model

pytestmark = pytest.mark.anyruntime
ENDS = [value("x", [1, 3, 12, 12])], [value("y", None)]
SLICE = {"s": [0], "e": [2**62], "a": [2]}


def cut(before: str, after: str) -> onnx.NodeProto:
    return helper.make_node("Slice", [before, "s", "e", "a"], [after])


def conv(before: str, after: str, weight: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [before, weight], [after])


def kernel(size: int, channels: int = 3) -> np.ndarray:
    return np.zeros((3, channels, size, size), np.float32)


SHRINKING = {
    "a window larger than the picture": ([conv("x", "c", "w")], {"w": kernel(100)}),
    "behind another Slice": (
        [cut("x", "p"), conv("p", "q", "v"), cut("q", "r"), conv("r", "c", "w")],
        {"v": kernel(3), "w": kernel(100)},
    ),
    "a pool": ([helper.make_node("MaxPool", ["x"], ["c"], kernel_shape=[100, 100])], {}),
    "padding taken away": ([helper.make_node("Pad", ["x", "w"], ["c"])], {"w": [0, 0, -20, 0, 0, 0, 0, 0]}),
    "a transposed convolution": (
        [helper.make_node("ConvTranspose", ["x", "w"], ["c"], pads=[50] * 4)],
        {"w": kernel(3)},
    ),
    "a negative part": ([helper.make_node("Split", ["x", "w"], ["d", "c"], axis=2)], {"w": [24, -12]}),
    "a negative scale": ([helper.make_node("Resize", ["x", "", "w"], ["c"])], {"w": np.float32([1, 1, -2, 1])}),
    "a scale that is no number": (
        [helper.make_node("Resize", ["x", "", "w"], ["c"])],
        {"w": np.float32([1, 1, np.nan, 1])},
    ),
    "an endless scale": ([helper.make_node("Resize", ["x", "", "w"], ["c"])], {"w": np.float32([1, 1, np.inf, 1])}),
    "a pool undone beyond its padding": (
        [helper.make_node("MaxUnpool", ["x", "w"], ["c"], kernel_shape=[2, 2], strides=[2, 2], pads=[50] * 4)],
        {"w": np.zeros((1, 1, 2, 2), np.int64)},
    ),
    "regions of a negative size": (
        [helper.make_node("RoiAlign", ["x", "r", "n"], ["c"], output_height=-3, output_width=3)],
        {"r": np.zeros((1, 4), np.float32), "n": [0]},
    ),
    "less than no elements": (
        [helper.make_node("TopK", ["x", "k"], ["c", "i"], axis=2)],
        {"k": [-2]},
    ),
    "expanded to a computed length": (
        [
            helper.make_node("Shape", ["x"], ["l"]),
            helper.make_node("Sub", ["l", "b"], ["t"]),
            helper.make_node("Expand", ["o", "t"], ["c"]),
        ],
        {"o": np.ones((1, 1, 1, 1), np.float32), "b": [0, 0, 20, 0]},
    ),
    "behind an input and before an output without names": (
        [
            helper.make_node("Resize", ["x", "", "k"], ["r"]),
            conv("r", "c", "w"),
            cut("c", "d"),
            helper.make_node("Dropout", ["d"], ["z", ""]),
        ],
        {"k": np.float32([1, 1, 1, 1]), "w": kernel(100)},
    ),
    "behind lengths that were numbers of two axes": (
        [
            helper.make_node("MaxPool", ["x"], ["m"], kernel_shape=[3, 3], pads=[1] * 4),
            cut("m", "b"),
            helper.make_node("Shape", ["x"], ["l"]),
            helper.make_node("Cast", ["l"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["f", "z"], ["u"]),
            helper.make_node("Squeeze", ["u", "z"], ["q"]),
            helper.make_node("Cast", ["q"], ["p"], to=TensorProto.INT64),
            helper.make_node("Reshape", ["b", "p"], ["r"]),
            conv("r", "c", "w"),
        ],
        {"z": [0], "w": kernel(100)},
    ),
}


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("how", SHRINKING)
def test_a_negative_length_before_a_slice_is_refused(how, opset):
    """Each of them ends the process where a Slice sees it."""
    nodes, held = SHRINKING[how]
    proto = model([*nodes, cut("c", "y")], *ENDS, {**held, **SLICE}, opset)
    with pytest.raises(ModelError, match=r"c has a negative length"):
        load_model(proto.SerializeToString())


@pytest.mark.parametrize(("opset", "told"), [(13, {}), (18, {"num_outputs": 9})])
def test_more_parts_than_there_is_to_part_are_refused(opset, told):
    """Of 12, eight of 2 and one of -4."""
    parted = helper.make_node("Split", ["x"], [*(f"p{k}" for k in range(8)), "c"], axis=2, **told)
    with pytest.raises(ModelError, match=r"c has a negative length"):
        load_model(model([parted, cut("c", "y")], *ENDS, SLICE, opset).SerializeToString())


def test_a_declared_negative_length_is_a_free_one():
    """Of the input, and in the body of a loop."""
    proto = model([cut("x", "y")], [value("x", [1, 3, -12, 12])], [value("y", None)], SLICE)
    assert load_model(proto.SerializeToString()).values["y"].shape[3] == 12
    ends = [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("b", [1, 3, -5, 12])]
    body = helper.make_graph([cut("b", "z"), helper.make_node("Identity", ["go"], ["on"])], "body", ends,
                             [value("on", [], TensorProto.BOOL), value("z", None)])  # fmt: skip
    loop = helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)
    opened = load_model(model([loop], *ENDS, {**SLICE, "n": np.int64(3)}).SerializeToString())
    assert len(opened.values["y"].shape) == 4


def test_each_round_shows_what_the_next_slices_see(monkeypatch):
    """Between two Slices a convolution: two looks, then the Slice behind the second one is seen as well."""
    nodes = [conv("x", "p", "w"), cut("p", "q"), conv("q", "r", "w"), cut("r", "y")]
    proto, looks = model(nodes, *ENDS, {"w": kernel(3), **SLICE}), []
    real = onnx.shape_inference.infer_shapes
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", lambda m, **more: (looks.append(m), real(m, **more))[1])
    inference.check_lengths(proto)
    assert [[n.op_type for n in m.graph.node] for m in looks] == [["Conv"], ["Slice", "Conv"]]
    looks.clear()
    inference.check_lengths(model([cut("x", "b"), conv("b", "y", "w")], *ENDS, {"w": kernel(3), **SLICE}))
    assert looks == []  # no convolution before the Slice, no look


def chain(levels, side, **how):
    """Convolutions and Slices in turn."""
    names = ["x", *(f"v{k}" for k in range(2 * levels - 1)), "y"]
    steps = enumerate(itertools.pairwise(names))
    nodes = [cut(*ab) if k % 2 else helper.make_node("Conv", [ab[0], "w"], [ab[1]], **how) for k, ab in steps]
    return model(nodes, [value("x", [1, 3, side, side])], ENDS[1], {"w": kernel(3), **SLICE})


def test_a_long_chain_of_slices_takes_no_long_time():
    """Times of one process, the least of three: a busy machine is no slow code."""
    for how in ({}, {"pads": [1] * 4}):
        proto, times = chain(200, 800, **how).SerializeToString(), []
        for _ in range(3):
            start = time.process_time()
            load_model(proto)
            times.append(time.process_time() - start)
        assert min(times) < 2


def test_convolutions_whose_padding_covers_their_window_need_no_look(monkeypatch):
    looks, real = [], onnx.shape_inference.infer_shapes
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", lambda m, **more: (looks.append(m), real(m, **more))[1])
    inference.check_lengths(chain(9, 12, pads=[1] * 4))
    inference.check_lengths(chain(9, 12, pads=[2] * 4, dilations=[2, 2], kernel_shape=[3, 3]))
    assert looks == []
    for how in ({"pads": [1] * 4, "dilations": [2, 2]}, {"pads": [2, 0, 0, 1]}, {"pads": [1] * 4, "strides": [-1, 1]}):
        with contextlib.suppress(ValueError):
            inference.check_lengths(chain(1, 12, **how))
        assert looks, how
        looks.clear()


def test_of_more_slices_than_can_be_looked_at_another_process_must_survive_the_inference(monkeypatch):
    assert load_model(chain(301, 800).SerializeToString()).values["y"].shape[3] == 198
    with pytest.raises(ModelError, match=r"ONNX's shape inference crashed \(SIG"):
        load_model(chain(301, 500).SerializeToString())
    monkeypatch.setattr(inference, "_try_elsewhere", None)
    assert load_model(chain(301, 12, pads=[1] * 4).SerializeToString()).values["y"].shape[3] == 12


def test_a_padded_window_needs_no_look_where_its_weight_is_large():
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), cut("c", "d"), conv("d", "y", "w")]
    ends = [value("x", [1, 16, 12, 12])], [value("y", None)]
    assert load_model(model(nodes, *ends, {"w": np.zeros((16, 16, 3, 3), np.float32), **SLICE}).SerializeToString())
    large = model(nodes, [*ends[0], value("w", [16, 16, 3, 3])], ends[1], SLICE)
    assert inference._looks(large.graph, [list(n.input) for n in large.graph.node]) == []


def pooled_and_cut(name, inputs, outputs, window):
    """A body that reads x from outside of it."""
    nodes = [helper.make_node("MaxPool", ["x"], ["k"], kernel_shape=[window] * 2), cut("k", "cut")]
    nodes += [helper.make_node("Identity", ["go"], ["go_on"])] if inputs else []
    held = [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in SLICE.items()]
    return helper.make_graph(nodes, name, inputs, outputs, held)


def looped(window):
    ends = [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL)]
    body = pooled_and_cut("body", ends, [value("go_on", [], TensorProto.BOOL), value("cut", None)], window)
    return [helper.make_node("Loop", ["n", ""], ["y"], body=body)], {"n": np.int64(2)}


def chosen(window, known):
    bodies = {f"{k}_branch": pooled_and_cut(k, [], [value("cut", None)], w) for k, w in (("then", window), ("else", 1))}
    if known:
        return [helper.make_node("If", ["c"], ["y"], **bodies)], {"c": np.array(True)}
    asked = [helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0), helper.make_node("Less", ["m", "zero"], ["c"])]
    return [*asked, helper.make_node("If", ["c"], ["y"], **bodies)], {"zero": np.float32(0)}


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize(
    "made",
    [looped, lambda w: chosen(w, known=False), lambda w: chosen(w, known=True)],
    ids=["a Loop", "an If", "an If that is known"],
)
def test_lengths_within_a_body_are_looked_at(made, opset):
    """Or tried in another process, which tells an honest body from one that ends it."""
    for window, honest in ((3, True), (100, False)):
        nodes, held = made(window)
        data = model(nodes, *ENDS, held, opset).SerializeToString()
        if honest:
            assert load_model(data).values["y"].dtype is not None
        else:
            with pytest.raises(ModelError, match=r"negative length|ONNX's shape inference crashed"):
                load_model(data)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("EyeLike", ["t"], ["y"], dtype=1),
        helper.make_node("RegexFullMatch", ["t"], ["y"], pattern="a"),
    ],
    ids=lambda n: n.op_type,
)
def test_a_value_without_a_type_ends_nothing(node):
    nodes = [helper.make_node("Whatever", ["x"], ["t"], domain="com.microsoft"), node]
    proto = model(nodes, *ENDS, {}, 20)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(ValueError, match="ONNX's shape inference crashed"):
        inference.infer_shapes(proto)


def test_a_gather_from_before_the_first_axis_ends_nothing():
    node = helper.make_node("GatherND", ["x", "i"], ["y"], batch_dims=-3)
    with pytest.raises(ModelError, match="ONNX's shape inference crashed"):
        load_model(model([node], *ENDS, {"i": np.zeros((1, 1), np.int64)}).SerializeToString())


def test_a_free_axis_written_as_minus_one_is_free_in_functions_and_sequences():
    named = [helper.make_node("Constant", [], [n], value_ints=v) for n, v in SLICE.items()]
    inner = [*named, helper.make_node("Abs", ["q"], ["k"]), cut("k", "o")]
    function = helper.make_function("my", "F", ["q"], ["o"], inner, [helper.make_opsetid("", 18)])
    function.value_info.append(value("k", [1, 3, -1, 12]))
    proto = model([helper.make_node("F", ["x"], ["y"], domain="my")], *ENDS, {})
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("my", 1))
    proto.ir_version = 10
    assert load_model(proto.SerializeToString()).values["y"].dtype is not None
    listed = helper.make_tensor_sequence_value_info("l", TensorProto.FLOAT, [1, 3, -1, 12])
    nodes = [
        helper.make_node("SequenceAt", ["l", "s"], ["c"]),
        cut("c", "d"),
        helper.make_node("Add", ["d", "x"], ["y"]),
    ]
    graph = model(nodes, [*ENDS[0], listed], ENDS[1], {**SLICE, "s": np.int64(0)}).graph
    inference.free_negative_lengths(graph)
    assert not graph.input[1].type.sequence_type.elem_type.tensor_type.shape.dim[2].HasField("dim_value")


def test_far_down_a_chain_a_negative_length_is_found():
    with pytest.raises(ModelError, match="has a negative length"):
        load_model(chain(9, 12).SerializeToString())


def test_a_single_node_takes_negative_lengths_as_free_ones():
    types = {n: helper.make_tensor_type_proto(k, d) for n, k, d in
             (("x", 1, [1, 3, -7, 12]), ("s", 7, [1]), ("e", 7, [1]), ("a", 7, [1]))}  # fmt: skip
    data = {n: onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in SLICE.items()}
    found = inference.infer_node_outputs(cut("x", "y"), types, 18, input_data=data)
    dims = found["y"].tensor_type.shape.dim
    assert [d.dim_value if d.HasField("dim_value") else None for d in dims] == [1, 3, None, 12]


@pytest.mark.parametrize(
    ("op", "held"),
    [
        ("STFT", {"k": np.int64(4), "w": np.ones(100, np.float32)}),
        ("DFT", {"k": np.int64(-5)}),
    ],
)
def test_signals_shorter_than_nothing_are_refused(op, held):
    node = helper.make_node(op, ["x", *held], ["c"], **({"axis": 1} if op == "DFT" else {}))
    ends = [value("x", [1, 12, 1])], [value("y", None)]
    with pytest.raises(ModelError, match=r"c has a negative length"):
        load_model(model([node, cut("c", "y")], *ends, {**held, **SLICE, "a": [1]}, 18).SerializeToString())


def test_operators_that_keep_lengths_are_of_onnx():
    assert {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""} >= inference._KEEPING


def test_numbers_that_are_known_to_onnx_are_of_these_operators():
    """Others would have to be told whether one of their inputs is enough."""
    told = {"Add", "Cast", "Concat", "Gather", "Mul", "Shape", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze"}
    assert inference._counting() <= told
