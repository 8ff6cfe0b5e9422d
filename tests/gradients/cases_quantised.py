"""Cases of quantisers of every type, with scales per tensor, channel and block, and of integer products.

What is differentiated is the clipping; the rounding counts as the identity.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from cases import Operand, case, given, node, var, weight
from evaluator_levels import LARGEST, along
from onnx import TensorProto

SHAPE = (2, 4, 3)
CLIPPED = (node("Max", ["a", "low"], ["m"]), node("Min", ["m", "high"]))


def limits(dtype: Any) -> tuple[float, float]:
    largest = LARGEST.get(np.dtype(dtype).name)
    if largest:
        return -largest, largest
    levels = ml_dtypes.iinfo(dtype)
    margin = 0.5 if levels.bits < 8 else 0  # where rounding alone stays inside
    return levels.min - margin, levels.max + margin


def bounds(scale: Any, zero: Any, dtype: Any, axis: int = 1, block_size: int = 0) -> dict[str, Operand]:
    """Between which values nothing saturates."""
    x = np.zeros(SHAPE)
    point, step = along(np.asarray(zero, float), x, axis, block_size), along(np.asarray(scale), x, axis, block_size)
    low, high = ((bound - point) * step for bound in limits(dtype))
    return {"low": given(low), "high": given(high)}


def round_trip(what: str, scale: Any, zero: Any, dtype: Any, opset: int = 21, axis: int = 1, **settings: Any) -> None:
    """A case for each of the two operators: quantised and back, against the clipping."""
    back = {k: v for k, v in settings.items() if k == "block_size"}
    point = Operand(np.asarray(zero).astype(dtype), variable=False)
    shared: dict[str, Any] = {
        "others": bounds(scale, zero, dtype, axis, back.get("block_size", 0)),
        "forward": CLIPPED, "rank": 3, "opset": opset,
    }  # fmt: skip
    last = node("DequantizeLinear", ["q", "b", "c"], axis=axis, **back)
    first = node("QuantizeLinear", ["a", "b", "c"], ["q"], axis=axis, **settings)
    operands = (var(*SHAPE), given(scale), point)
    case("QuantizeLinear", what, *operands, outputs=["q"], after=[last], axis=axis, **settings, **shared)
    del settings
    case("DequantizeLinear", what, *operands, reads=["q", "b", "c"], before=[first], axis=axis, **back, **shared)


round_trip("uint4", 0.2, 5, ml_dtypes.uint4)
round_trip("int4", 0.2, -1, ml_dtypes.int4)
round_trip("int4 per channel", [0.1, 0.2, 0.15, 0.25], [0, 1, -2, 3], ml_dtypes.int4)
round_trip("uint16", 4e-5, 30000, np.uint16)
round_trip("int16", 5e-5, -500, np.int16)
round_trip("float8e4m3fn", 0.003, 0, ml_dtypes.float8_e4m3fn, opset=19)
round_trip("float8e5m2", 3e-5, 0, ml_dtypes.float8_e5m2, opset=19)
round_trip("zero points of one channel each", [0.01, 0.02, 0.015, 0.005], [90, 128, 200, 3], np.uint8, opset=18)
round_trip("along the last axis", [0.01, 0.02, 0.015], [-90, 0, 30], np.int8, opset=18, axis=-1)
BLOCKS = np.random.default_rng(0).uniform(0.005, 0.02, (2, 2, 3))
POINTS = np.arange(12).reshape(2, 2, 3) * 5
round_trip("in blocks", BLOCKS, POINTS, np.int8, block_size=2)
round_trip("in blocks that do not fill the axis", BLOCKS, POINTS, np.int8, block_size=3)
round_trip(
    "in blocks along the first axis", BLOCKS[:1].repeat(2, 1), POINTS[:1].repeat(2, 1), np.int8, axis=0, block_size=2
)
case(
    "QuantizeLinear", "output_dtype", var(*SHAPE), given(0.01), outputs=["q"], output_dtype=TensorProto.INT8, opset=21,
    after=[node("DequantizeLinear", ["q", "b"])], others=bounds(0.01, 0, np.int8), forward=CLIPPED, rank=3,
)  # fmt: skip
case(
    "QuantizeLinear", "precision", var(*SHAPE), given(0.01), outputs=["q"], precision=TensorProto.FLOAT, opset=23,
    after=[node("DequantizeLinear", ["q", "b"])], others=bounds(0.01, 0, np.uint8), forward=CLIPPED, rank=3,
)  # fmt: skip

# A scale that is computed: clip(x, low scale, high scale)

TO_ROWS = node("Reshape", ["b", "shape"], ["r"])


def computed_scale(what: str, *shape: int, **extra: int) -> None:
    rows = shape == (4,)
    steps = node("Mul", ["r" if rows else "b", "bottom"], ["low"]), node("Mul", ["r" if rows else "b", "top"], ["high"])
    case(
        "QuantizeLinear", f"a computed scale, {what}", var(*SHAPE, low=-200, high=200),
        var(*shape, low=0.8, high=1.2, free=False), given(np.full(4, 98, np.uint8) if rows else np.uint8(98)),
        outputs=["q"], after=[node("DequantizeLinear", ["q", "b", "c"], **extra)],
        others={"bottom": given(-98.0), "top": given(157.0)} | ({"shape": given(np.array([4, 1]))} if rows else {}),
        forward=(*((TO_ROWS,) if rows else ()), *steps, *CLIPPED), rank=3, **extra,
    )  # fmt: skip


computed_scale("a number")
computed_scale("a vector of one", 1)
computed_scale("per channel", 4, axis=1)

# Dynamic quantisation: the scale is a constant to the gradient, and nothing saturates

LEVELS = node("DynamicQuantizeLinear", ["a"], ["q", "s", "z"])
BACK = [node("DequantizeLinear", ["q", "s", "z"], ["f"]), node("CastLike", ["f", "a"])]
case(
    "DynamicQuantizeLinear", "", var(*SHAPE), outputs=["q", "s", "z"], after=BACK,
    forward=(node("Identity", ["a"]),), rank=3, single=True,
)  # fmt: skip


def integers(name: str, *shape: int, signed: bool = False) -> np.ndarray:
    levels = np.random.default_rng(len(name)).integers(0, 256, shape)
    return (levels - 128).astype(np.int8) if signed else levels.astype(np.uint8)


def product(op: str, what: str, a: Any, w: Any, zero: Any, forward: str, rank: int, **settings: Any) -> None:
    """Levels of a by levels w, as floats again, against the product of floats."""
    point = [] if zero is None else [given(zero)]
    floats = w.astype(float) - (0 if zero is None else zero)
    case(
        op, what, a, given(w), *point, reads=["q", "b", "z", "c"][: 3 + len(point)], outputs=["sums"],
        before=[LEVELS], after=as_floats("s"), others={"floats": given(floats)},
        forward=(node(forward, ["a", "floats"], **settings),), rank=rank, single=True, **settings,
    )  # fmt: skip


def as_floats(scale: str) -> list:
    return [node("CastLike", ["sums", "a"], ["f"]), node("CastLike", [scale, "a"], ["t"]), node("Mul", ["f", "t"])]


def conv_integer(what: str, channels: int, w: np.ndarray, zero: Any, **settings: Any) -> None:
    product("ConvInteger", what, var(2, channels, 5, 6), w, zero, "Conv", 4, **settings)


WEIGHT = integers("w", 3, 2, 3, 2)
conv_integer("one zero point", 2, WEIGHT, np.uint8(120), pads=[1, 0, 1, 1], strides=[2, 1])
conv_integer("no zero point", 2, WEIGHT, None, dilations=[1, 2])
conv_integer("int8 in groups", 3, integers("gr", 6, 1, 3, 2, signed=True), np.int8(0), group=3, auto_pad="SAME_UPPER")
COLUMNS = np.array([1, -2, 3, 4, 5], np.int8)
for what, zero in (("one zero point", np.int8(3)), ("a zero point per column", COLUMNS)):
    product("MatMulInteger", what, var(2, 3, 4), integers("m", 4, 5, signed=True), zero, "MatMul", 3)
MATRIX = integers("m", 4, 2)
case(
    "MatMulInteger", "no zero points", var(3, 4, low=0), weight(1), given(MATRIX), reads=["q", "c"], outputs=["sums"],
    before=[node("QuantizeLinear", ["a", "s"], ["q"])], after=as_floats("s"),
    others={"s": given(0.01), "floats": given(MATRIX.astype(float))},
    forward=(node("MatMul", ["a", "floats"]),), rank=2, single=True,
)  # fmt: skip


def on_levels(*shape: int) -> Operand:
    """Values that need no rounding, so that the gradient of one factor reads the other as it is."""
    return given(np.random.default_rng(sum(shape)).integers(-90, 90, shape) * 0.01, variable=True)


case(
    "MatMulInteger", "a zero point per row, and of both computed", on_levels(3, 4), on_levels(4, 2),
    reads=["q", "r", "rows", "zb"], outputs=["sums"],
    before=[node("QuantizeLinear", ["a", "s", "rows"], ["q"], axis=0), node("QuantizeLinear", ["b", "t", "zb"], ["r"])],
    after=[node("CastLike", ["sums", "a"], ["f"]), node("Mul", ["f", "st"])],
    others={
        "s": given([0.01] * 3), "rows": given(np.array([110, 128, 120], np.uint8)), "t": given(0.01),
        "zb": given(np.int8(4)), "st": given(0.0001),
    },
    forward=(node("MatMul", ["a", "b"]),), rank=2, single=True,
)  # fmt: skip
