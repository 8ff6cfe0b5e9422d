"""Cases of branches, loops and sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from cases import case, given, node, var, weight
from onnx import TensorProto, helper, numpy_helper

COUNTED = {"fixed": "no fixed length"}


def body(nodes: Sequence[onnx.NodeProto], inputs: Sequence[str], outputs: Sequence[str], **weights: Any) -> Any:
    """A subgraph."""
    held = [numpy_helper.from_array(np.asarray(a), k) for k, a in weights.items()]
    ends = [[_end(n) for n in names] for names in (inputs, outputs)]
    return helper.make_graph(list(nodes), "body", *ends, held)


def const(name: str, number: Any) -> onnx.NodeProto:
    return node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(number)))


def _end(name: str) -> onnx.ValueInfoProto:
    """Of a loop, the number of the step and whether to go on; others take the types around the subgraph."""
    own = {"i": TensorProto.INT64, "j": TensorProto.INT64, "go": TensorProto.BOOL, "go1": TensorProto.BOOL}
    return helper.make_tensor_value_info(name, own[name], []) if name in own else onnx.ValueInfoProto(name=name)


YES, NO = (given(np.array(b)) for b in (True, False))

# If: both branches capture what is differentiated, one of them by way of an inner value

branches = {
    "then_branch": body([node("Mul", ["a", "b"], ["p"]), node("Tanh", ["p"], ["t"])], [], ["t"]),
    "else_branch": body([node("Exp", ["b"], ["e"]), node("Sub", ["a", "e"], ["t"])], [], ["t"]),
}
for what, condition in {"then": YES, "else": NO}.items():
    case("If", what, var(2, 3), var(2, 3), others={"on": condition}, reads=["on"], **branches)
same = {f"{k}_branch": body([node("Identity", ["a"], ["t"])], [], ["t"]) for k in ("then", "else")}
case("If", "what comes out is what is differentiated", var(2, 3), others={"on": YES}, reads=["on"], **same)
case(
    "If", "weights inside, an inner If", var(2, 3), others={"on": YES, "off": NO}, reads=["on"],
    then_branch=body(
        [
            node("CastLike", ["w", "a"], ["w2"]),
            node("Mul", ["a", "w2"], ["m"]),
            node("If", ["off"], ["t"],
                 then_branch=body([node("Neg", ["m"], ["t1"])], [], ["t1"]),
                 else_branch=body([node("Mul", ["m", "a"], ["t2"])], [], ["t2"])),
        ],
        [], ["t"], w=np.float32([[1, 2, 3]]),
    ),
    else_branch=body([node("Neg", ["a"], ["t3"])], [], ["t3"]),
)  # fmt: skip
case(
    "If", "two outputs, one of them read", var(2, 3), others={"on": YES}, reads=["on"], outputs=["u", "v"],
    after=[node("Mul", ["u", "a"], ["y"])],
    then_branch=body([node("Sin", ["a"], ["s"]), node("Cos", ["a"], ["c"])], [], ["s", "c"]),
    else_branch=body([node("Cos", ["a"], ["s1"]), node("Sin", ["a"], ["c1"])], [], ["s1", "c1"]),
)  # fmt: skip

# Loop

step = [
    node("Mul", ["h_in", "b"], ["p"]),
    node("Sin", ["p"], ["h"]),
    const("on", True),
    node("Identity", ["h"], ["row"]),
]
loops = {"body": body(step, ["i", "go", "h_in"], ["on", "h", "row"])}
THREE = given(np.array(3))
for what, outputs in {"carried": ["y", "rest"], "stacked": ["final", "y"]}.items():
    rank = 2 + (what == "stacked")
    case("Loop", what, var(2, 3), var(2, 3), others={"n": THREE, "on0": YES}, reads=["n", "on0", "a"],
         outputs=outputs, rank=rank, **loops)  # fmt: skip
case("Loop", "no condition, not run at all", var(2, 3), weight(2, 3), others={"n": given(np.array(0))},
     reads=["n", "", "a"], outputs=["y", "rest"], rank=2, **loops)  # fmt: skip
case("Loop", "forbidden from the start", var(2, 3), weight(2, 3), others={"on0": NO},
     reads=["", "on0", "a"], outputs=["y", "rest"], rank=2, **loops)  # fmt: skip
case(
    "Loop", "until its condition fails", var(2, 3), others={"on0": YES}, reads=["", "on0", "a"], rank=2,
    body=body(
        [const("three", 3), node("Less", ["i", "three"], ["on"]), node("Sin", ["x"], ["x1"])],
        ["i", "go", "x"], ["on", "x1"],
    ),
)  # fmt: skip
case(
    "Loop", "two carried values, which change places, and the number of the step", var(2, 3), var(2, 3),
    others={"n": THREE}, reads=["n", "", "a", "b"], outputs=["y", "other"], rank=2,
    body=body(
        [
            node("CastLike", ["i", "u"], ["k"]),
            node("Mul", ["u", "v"], ["w"]),
            node("Add", ["w", "k"], ["w1"]),
            node("Identity", ["u"], ["v1"]),
            const("on", True),
        ],
        ["i", "go", "u", "v"], ["on", "w1", "v1"],
    ),
)  # fmt: skip
case(
    "Loop", "rows of a captured value by their number", var(4, 3), others={"n": THREE}, reads=["n", ""], rank=2,
    body=body(
        [
            node("Gather", ["a", "i"], ["r"]),
            node("Mul", ["r", "r"], ["q"]),
            const("on", True),
        ],
        ["i", "go"], ["on", "q"],
    ),
)  # fmt: skip
inner = body(
    [node("Mul", ["z_in", "x_in"], ["m"]), node("Tanh", ["m"], ["z"]), const("on1", True)],
    ["j", "go1", "z_in"], ["on1", "z"],
)  # fmt: skip
case(
    "Loop", "in a loop", var(2, 3), others={"n": given(np.array(2))}, reads=["n", "", "a"], rank=2,
    body=body(
        [node("Loop", ["n", "", "x_in"], ["x"], body=inner), const("on", True)],
        ["i", "go", "x_in"], ["on", "x"],
    ),
)  # fmt: skip
case(
    "Loop", "a carried sequence", var(2, 3), others={"n": THREE}, before=[node("SequenceEmpty", [], ["s0"], dtype=1)],
    reads=["n", "", "s0"], outputs=["s"], after=[node("ConcatFromSequence", ["s"], ["y"], axis=0)], rank=2,
    body=body(
        [
            node("CastLike", ["i", "a"], ["k"]),
            node("Pow", ["a", "k"], ["r"]),
            node("SequenceInsert", ["s_in", "r"], ["s1"]),
            const("on", True),
        ],
        ["i", "go", "s_in"], ["on", "s1"],
    ),
)  # fmt: skip

# Scan

sums = body(
    [node("Mul", ["h_in", "x"], ["p"]), node("Add", ["p", "x"], ["h"]), node("Identity", ["h"], ["row"])],
    ["h_in", "x"], ["h", "row"],
)  # fmt: skip
case("Scan", "last state", var(3), var(4, 3), outputs=["y", "rest"], body=sums, num_scan_inputs=1, **COUNTED)
case("Scan", "rows", var(3), var(4, 3), outputs=["final", "y"], body=sums, num_scan_inputs=1, **COUNTED)
case(
    "Scan", "axes and directions", var(3), var(3, 4), outputs=["final", "y"], body=sums, num_scan_inputs=1,
    scan_input_axes=[1], scan_input_directions=[1], scan_output_axes=[-1], scan_output_directions=[1], **COUNTED,
)  # fmt: skip
case(
    "Scan", "two inputs that run against one another, a captured value", var(3, 4), var(4, 3), var(3),
    reads=["a", "b"], num_scan_inputs=2, scan_input_axes=[1, 0], scan_input_directions=[0, 1], **COUNTED,
    body=body([node("Mul", ["u", "v"], ["p"]), node("Mul", ["p", "c"], ["q"])], ["u", "v"], ["q"]),
)  # fmt: skip
case(
    "Scan", "two states, two outputs", var(3), var(3), var(4, 3), outputs=["s", "t", "y", "z"], num_scan_inputs=1,
    body=body(
        [node("Mul", ["s_in", "x"], ["s1"]), node("Add", ["t_in", "s1"], ["t1"]), node("Sin", ["t1"], ["o"]),
         node("Cos", ["s1"], ["q"])],
        ["s_in", "t_in", "x"], ["s1", "t1", "o", "q"],
    ), **COUNTED,
)  # fmt: skip

# Sequences; free axes are refused only where a length says how many elements there are

pieces = {
    "two and a rest": {"sizes": given(np.array(2))},
    "sizes": {"sizes": given(np.array([1, 3, 1]))},
    "one by one": {},
}
for what, sizes in pieces.items():
    reads, at = ["a", *sizes], {"at": given(np.array(-1))}
    case("SplitToSequence", f"{what}, the last", var(2, 5), reads=reads, others=sizes | at, axis=1, outputs=["s"],
         after=[node("SequenceAt", ["s", "at"], ["y"])], rank=2, fixed="known at run time only")  # fmt: skip
    case("SplitToSequence", f"{what}, joined", var(5, 2), reads=reads, others=sizes, axis=0, outputs=["s"],
         after=[node("ConcatFromSequence", ["s"], ["y"], axis=1)] if what == "one by one" else
         [node("ConcatFromSequence", ["s"], ["y"], axis=0)], rank=2, fixed="known at run time only")  # fmt: skip
case("SplitToSequence", "without the axis", var(2, 5), axis=1, keepdims=0, outputs=["s"], rank=2,
     after=[node("ConcatFromSequence", ["s"], ["y"], axis=0, new_axis=1)], fixed="known at run time only")  # fmt: skip
case("SplitToSequence", "sizes, which keep the axis", var(2, 4), reads=["a", "sizes"], axis=1, keepdims=0, rank=2,
     others={"sizes": given(np.array([1, 2, 1])), "at": given(np.array(0))}, fixed="known at run time only",
     outputs=["s"], after=[node("SequenceAt", ["s", "at"], ["y"])])  # fmt: skip
case("SequenceConstruct", "joined along a new axis", var(2, 3, free=False), var(2, 3, free=False), outputs=["s"],
     rank=3, after=[node("ConcatFromSequence", ["s"], ["y"], axis=-1, new_axis=1)])  # fmt: skip
edits = [
    const("one", 1),
    const("nought", 0),
    node("SequenceConstruct", ["a", "b"], ["s"]),
    node("SequenceInsert", ["s", "c", "one"], ["s1"]),
    node("SequenceErase", ["s1", "nought"], ["s2"]),
    node("SequenceErase", ["s2"], ["s3"]),
    node("Add", ["a", "b"], ["sum"]),
    node("SequenceInsert", ["s3", "sum"], ["s4"]),
    node("SequenceLength", ["s4"], ["n"]),
    node("Sub", ["n", "one"], ["at"]),
    node("SequenceAt", ["s4", "at"], ["last"]),
    node("SequenceAt", ["s4", "nought"], ["first"]),
    node("Mul", ["first", "last"], ["t"]),
]
other = body([node("Add", ["a", "b"], ["p"]), node("Add", ["p", "c"], ["t1"])], [], ["t1"])
case("If", "sequences inside, one after the other", *[var(2, 3, free=False) for _ in range(3)], reads=["on"],
     others={"on": YES}, then_branch=body(edits, [], ["t"]), else_branch=other, rank=2)  # fmt: skip
case("SequenceInsert", "at a place, and one left out", *[var(2, 3, free=False) for _ in range(2)],
     reads=["s", "b", "one"], before=[node("SequenceConstruct", ["a", "a"], ["s"])], outputs=["s1"], rank=2,
     after=[node("SequenceErase", ["s1", "nought"], ["s2"]), node("ConcatFromSequence", ["s2"], ["y"], axis=1)],
     others={"one": given(np.array(1)), "nought": given(np.array(0))})  # fmt: skip
case("Optional", "got back", var(2, 3), outputs=["o"], after=[node("OptionalGetElement", ["o"], ["x"]),
     node("Sin", ["x"], ["y"])], rank=2)  # fmt: skip
