"""Cases of operators that pick and place: indices, conditions, caches; of running products and determinants."""

from __future__ import annotations

import itertools

import numpy as np
from cases import case, given, node, var, weight

# Gather and scatter

batched = given(np.array([[[1], [0]], [[2], [2]], [[0], [3]]]))
case("GatherND", "batch_dims", var(3, 4, 2), batched, batch_dims=1)
case("GatherND", "two batch_dims", var(2, 3, 4), given(np.array([[[1], [3], [0]], [[2], [2], [-1]]])), batch_dims=2)
case("GatherND", "batch_dims, whole indices", var(2, 3, 4), given(np.array([[1, 3], [2, -1]])), batch_dims=1)

places = given(np.array([[0, 2, 2], [0, -1, 1]]))
points = given(np.array([[1], [3], [1]]))
for how in ("max", "min", "mul"):
    opset = {"reduction": how}
    case("ScatterElements", how, var(4, 3), places, var(2, 3), **opset)
    case("ScatterElements", f"{how} along the last axis", var(2, 4), places, weight(2, 3), axis=-1, **opset)
    case("ScatterElements", f"{how}, the first fixed", weight(4, 3), places, var(2, 3), **opset)
    case("ScatterND", how, var(4, 3), points, var(3, 3), **opset)
    case("ScatterND", f"{how}, whole indices", var(2, 3), given(np.array([[0, 1], [1, 2], [0, 1]])), var(3), **opset)
zeros = given(np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 5.0], [1.5, 0.0, 0.0], [0.5, 0.7, 0.9]]), variable=True)
factors = given(np.array([[0.0, 0.0, 2.0], [3.0, 1.0, 0.0]]), variable=True)
case("ScatterElements", "mul by zeros and of zeros", zeros, places, factors, reduction="mul")
case("ScatterND", "mul by zeros and of zeros", zeros, given(np.array([[1], [1]])), factors, reduction="mul")

# TensorScatter

cache, news = (var(2, 2, 5, 3), var(2, 2, 2, 3))
for what, start, options in [
    ("", [1, 3], {}),
    ("from the first", None, {}),
    ("around the end", [4, 3], {"mode": "circular"}),
]:
    index = None if start is None else given(np.array(start))
    case("TensorScatter", what, cache, news, index, opset=24, **options)
case("TensorScatter", "axis", var(2, 5, 3), var(2, 2, 3), given(np.array([0, 3])), opset=24, axis=1)

# Compress, Unique

for what, shape, keep, options in [
    ("flat", (2, 3), [0, 1, 1, 0, 1], {}),
    ("axis", (3, 2), [0, 1, 1], {"axis": 0}),
    ("last axis, a short condition", (2, 4), [1, 0, 1], {"axis": -1}),
]:
    case("Compress", what, var(*shape), given(np.array(keep, bool)), **options)
rows = given(np.array([[3.0, 1.0], [2.0, 5.0], [2.5, 1.5]]), variable=True)
computed = [node("Greater", ["a", "level"], ["keep"])]
case("Compress", "a condition at run time", var(5), others={"level": given(np.float64(0.1))}, before=computed,
     reads=["a", "keep"], axis=0)  # fmt: skip
case("Unique", "flat", var(2, 3))
case("Unique", "not sorted", var(2, 3), sorted=0)
case("Unique", "axis", rows, axis=0, sorted=1)
case("Unique", "columns", rows, axis=1)

# ReverseSequence, OneHot

for what, lengths, axes in [
    ("", [4, 1, 3], {}),
    ("batch first", [2, 3, 1, 4], {"batch_axis": 0, "time_axis": 1}),
]:
    shape = (4, 3, 2) if not axes else (4, 4, 2)
    case("ReverseSequence", what, var(*shape), given(np.array(lengths)), **axes)
for what, options in {"": {}, "first axis": {"axis": 0}, "inner axis": {"axis": 1}}.items():
    index, depth = given(np.array([[0, 2, -1], [7, 1, 1]])), given(np.array(4))
    case("OneHot", f"values {what}".strip(), var(2), reads=["index", "depth", "a"],
         others={"index": index, "depth": depth}, **options)  # fmt: skip

# CumProd

some = given(np.array([[0.5, 0.0, 2.0, -1.5], [1.2, 0.7, 0.0, 0.0], [0.0, 3.0, -2.0, 0.4]]), variable=True)
for what, x in {"": var(3, 4), "with zeros": some}.items():
    for axis, exclusive, reverse in itertools.product((0, -1), (0, 1), (0, 1)):
        name = " ".join([what, f"axis {axis}", *["exclusive"] * exclusive, *["reverse"] * reverse])
        case("CumProd", name, x, given(np.array(axis)), exclusive=exclusive, reverse=reverse, opset=26)

# Det: of one matrix, of several, of one that has no inverse

for shape in [(1, 1), (2, 2), (3, 3), (2, 1, 1), (2, 3, 2, 2), (2, 4, 4)]:
    case("Det", str(shape), var(*shape))
case("Det", "of a singular matrix", given(np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 1.0]]), variable=True))

# What is picked is computed at run time, by numbers that do not fold

one = [
    node("ReduceMax", ["a"], ["most"], keepdims=0),
    node("Sigmoid", ["most"], ["part"]),
    node("Ceil", ["part"], ["rounded"]),
    node("Cast", ["rounded"], ["one"], to=7),
]


def later(name: str, constant: str) -> list:
    """An integer input that holds a constant, but is not known to; k is the first of a case."""
    return [*(one if constant == "k" else []), node("Mul", ["one", constant], [name])]


for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
           "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"):  # fmt: skip
    for keep in (0, 1):
        low = {"low": 0.2} if op == "ReduceLogSum" else {}
        axes = {"k": given(np.array([0, -1]))}
        case(op, f"axes at run time, keepdims {keep}", var(2, 3, 4, **low), before=later("axes", "k"), others=axes,
             reads=["a", "axes"], keepdims=keep, rank=3 if keep else 1)  # fmt: skip
nothing = [
    *one,
    node("Sub", ["one", "one"], ["zero"]),
    node("NonZero", ["zero"], ["none"]),
    node("Reshape", ["none", "flat"], ["axes"]),
]
for noop in (0, 1):
    numbers = {"flat": given(np.array([-1]))}
    case("ReduceMean", f"no axes at run time, noop {noop}", var(2, 3), before=nothing, reads=["a", "axes"],
         others=numbers, noop_with_empty_axes=noop, rank=2)  # fmt: skip

bounds = {
    "k": given(np.array([3, -1])),
    "ends": given(np.array([-20, 9])),
    "axes0": given(np.array([1, -3])),
    "steps0": given(np.array([-2, 1])),
}
cut = [*later("starts", "k"), *later("axes", "axes0"), *later("steps", "steps0")]
case("Slice", "axes and steps at run time", var(3, 5, 2), before=cut, others=bounds, rank=3,
     reads=["a", "starts", "ends", "axes", "steps"])  # fmt: skip
case("Slice", "axes at run time", var(3, 5, 2), before=cut, rank=3, reads=["a", "k", "ends", "axes", "steps0"],
     others=bounds)  # fmt: skip
for mode in ("constant", "edge", "reflect", "wrap"):
    amounts = {"k": given(np.array([1, 1, 2, -1])), "axes0": given(np.array([-1, 0])), "none": given(np.float64(0))}
    for what, reads in {"pads": ("pads", "axes0"), "axes": ("k", "axes"), "pads and axes": ("pads", "axes")}.items():
        if mode == "wrap" and what != "pads":
            continue
        case("Pad", f"{mode}, {what} at run time", var(3, 4), before=[*later("pads", "k"), *later("axes", "axes0")],
             others=amounts, reads=["a", reads[0], "", reads[1]], mode=mode, opset=19, rank=2)  # fmt: skip
