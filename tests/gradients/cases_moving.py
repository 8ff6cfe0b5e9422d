"""Cases of the operators that move elements about."""

from __future__ import annotations

import numpy as np
from cases import MAX, MIN, case, given, node, var, weight

SHAPE = (2, 3, 4)

for what, shape in {"to a row": [-1], "copying an axis": [0, -1], "to four axes": [2, 1, 3, 4]}.items():
    case("Reshape", what, var(*SHAPE), given(shape))
case(
    "Reshape",
    "to a computed shape",
    var(*SHAPE),
    reads=["a", "s"],
    before=[node("Shape", ["a"], ["t"]), node("Gather", ["t", "order"], ["s"])],
    others={"order": given([2, 0, 1])},
)
for axis in (0, 1, 2, -1, 3):
    case("Flatten", f"axis {axis}", var(*SHAPE), axis=axis)
case("Squeeze", "all", var(1, 3, 1, free=False))
case("Squeeze", "axis -1", var(1, 3, 1), given([-1]))
case("Unsqueeze", "", var(2, 3), given([0, -1]))
case("Transpose", "", var(*SHAPE))
case("Transpose", "perm", var(*SHAPE), perm=[2, 0, 1])
case("Expand", "", var(3, 1), given([2, 1, 4]))
case("Expand", "to a lower rank", var(2, 3, 1), given([4]))
case("Expand", "0-d", var(), given([2, 3]))
case(
    "Expand",
    "to a computed shape",
    var(3, 1),
    reads=["a", "s"],
    before=[node("Shape", ["b"], ["s"])],
    others={"b": weight(2, 3, 4)},
)
case("Tile", "", var(2, 3), given([2, 3]))
case("Tile", "one axis", var(*SHAPE), given([1, 2, 1]))
for axis in (0, 1, -1):
    shapes = [[2 + (axis % 3 == a) * k for a in range(3)] for k in range(3)]
    case("Concat", f"axis {axis}", *(var(*s) for s in shapes), axis=axis)
case("Concat", "of one", var(2, 3), axis=0)
case("Concat", "with a weight, twice the same", var(2, 3), weight(1, 3), reads=["a", "b", "a"], axis=0)
JOINED = node("Concat", ["r", "p"], axis=0)
case("Split", "uneven", var(6, 2), given([1, 2, 3]), outputs=["p", "q", "r"], after=[JOINED])
case("Split", "negative axis", var(2, 5), given([2, 1, 2]), outputs=["p", "q", "r"], axis=-1, after=[JOINED])
case("Split", "num_outputs", var(5, 2), outputs=["p", "q", "r"], num_outputs=3, after=[JOINED])

# Slice: starts, ends, axes, steps

for what, slices in {
    "": ([1], [3], [1]),
    "without axes": ([0, 1], [1, 3]),
    "end beyond the range": ([1], [100], [2]),
    "INT_MAX": ([1], [MAX], [2]),
    "negative start and end": ([-3], [-1], [2]),
    "start beyond the range": ([-100], [2], [1]),
    "negative axes": ([1, 0], [3, 2], [-1, -2]),
    "steps": ([0], [MAX], [2], [2]),
    "steps from within": ([1], [6], [2], [3]),
    "steps, the last ones not read": ([0], [4], [2], [3]),
    "reversed": ([-1], [MIN], [2], [-1]),
    "reversed, start beyond the range": ([100], [-100], [2], [-1]),
    "reversed by two, from within": ([5], [0], [2], [-2]),
    "reversed, negative end": ([-2], [-5], [2], [-1]),
    "two axes, steps": ([1, -1], [3, 0], [1, 2], [1, -3]),
    "nothing": ([2], [2], [1]),
    "nothing, reversed": ([0], [2], [1], [-1]),
}.items():
    tail = [node("Concat", ["p", "a"], axis=1)] if "nothing" in what else []
    case("Slice", what, var(2, 3, 7), *map(given, slices), outputs=["p"] if tail else ["y"], after=tail)
case(
    "Slice",
    "to computed ends",
    var(2, 6),
    given([1]),
    reads=["a", "b", "half", "one"],
    before=[node("Shape", ["a"], ["s"], start=1, end=2), node("Div", ["s", "two"], ["half"])],
    others={"one": given([1]), "two": given([2])},
)
case(
    "Slice",
    "from a computed start",
    var(2, 6),
    reads=["a", "half", "all", "one"],
    before=[node("Shape", ["a"], ["s"], start=1, end=2), node("Div", ["s", "two"], ["half"])],
    others={"one": given([1]), "two": given([2]), "all": given([MAX])},
)

# Pad

for mode in ("constant", "reflect", "edge", "wrap"):
    since = {"opset": 19} if mode == "wrap" else {}
    case("Pad", mode, var(2, 4, 5), given([0, 1, 2, 0, 3, 1]), mode=mode, **since)
    case("Pad", f"{mode}, axes", var(2, 4, 5), given([2, 1, 0, 3]), None, given([-1, 1]), mode=mode, **since)
case("Pad", "value", var(2, 3), given([1, 0, 0, 2]), given(0.5))
case("Pad", "value wanted", var(2, 3), given([1, 0, 0, 2]), var())
case("Pad", "value wanted, negative pads", var(2, 3), given([1, -1, 0, 2]), var(1, free=False))
case("Pad", "negative pads", var(2, 4, 5), given([0, -1, 2, 0, 1, -2]))
case("Pad", "negative pads, axes", var(2, 4, 5), given([-1, -2]), None, given([2]))
case(
    "Pad",
    "computed pads",
    var(2, 4),
    reads=["a", "pads"],
    before=[node("Shape", ["a"], ["s"]), node("Concat", ["zero", "s"], ["pads"], axis=0)],
    others={"zero": given([1, 0])},
)

# Gather and scatter

for what, index, axis in [
    ("vector", [2, 0], 1),
    ("repeated", [1, 1, 0, 1], 1),
    ("negative indices", [-1, 0, -1], 2),
    ("matrix of indices", [[0, 1, 1], [2, 2, 2]], 1),
    ("scalar", 1, 1),
    ("negative scalar", -1, 0),
    ("negative axis", [0, 3, 2], -1),
    ("one index", [0], 0),
    ("a permutation", [2, 0, 1], 1),
]:
    case("Gather", what, var(*SHAPE), given(np.asarray(index)), axis=axis)
case("Gather", "int32", var(*SHAPE), given(np.asarray([1, 1], np.int32)), axis=1)
case("Gather", "of a vector", var(5), given([4, 4, 0]))
case("Gather", "scalar of a vector", var(5), given(3))
case("Gather", "many repeats of many", var(3, 300), given(np.arange(4000) * 7 % 300), axis=1)
case(
    "Gather",
    "computed indices",
    var(4, 3),
    reads=["a", "i"],
    before=[node("Shape", ["a"], ["s"]), node("Range", ["zero", "n", "one"], ["i"])],
    others={"zero": given(0), "n": given(3), "one": given(1)},
)
case("GatherElements", "axis 0", var(3, 2), given([[0, 2], [1, -1], [0, 0], [2, 2]]), axis=0)
for axis in (1, -1):
    case("GatherElements", f"axis {axis}", var(3, 4), given([[0, 2], [1, -1], [0, 0]]), axis=axis)
case("GatherND", "", var(2, 3, 4), given([[0, 1], [1, 2], [0, 1]]))
case("GatherND", "full depth, negative", var(2, 3), given([[0, 1], [-1, 2], [0, 1]]))
case("ScatterElements", "", var(3, 4), given([[0, 2, 1, -1], [1, 1, 0, 0]]), var(2, 4), axis=0)
case("ScatterElements", "axis -1, add", var(3, 4), given([[0, 2], [1, 1], [3, 0]]), var(3, 2), axis=-1, reduction="add")
case("ScatterND", "", var(4, 3), given([[2], [0]]), var(2, 3))
case("ScatterND", "add, repeated", var(4, 3), given([[2], [0], [2]]), var(3, 3), reduction="add")
for mode in ("DCR", "CRD"):
    case("DepthToSpace", mode, var(2, 8, 2, 3), blocksize=2, mode=mode)
case("DepthToSpace", "default mode, blocksize 3", var(1, 9, 2, 2), blocksize=3)
case("SpaceToDepth", "", var(2, 2, 4, 6), blocksize=2)
for upper in (0, 1):
    case("Trilu", f"upper={upper}", var(2, 4, 3), upper=upper)
    case("Trilu", f"upper={upper}, diagonal", var(2, 4, 3), given(np.asarray(1)), upper=upper)
