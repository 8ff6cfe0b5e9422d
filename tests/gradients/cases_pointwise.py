"""Cases of the elementwise operators, activations, matrix products, reductions and quantisers."""

from __future__ import annotations

import numpy as np
from cases import case, given, node, var, weight

SHAPE = (2, 3, 4)

# Elementwise

for op in ("Identity", "Neg", "Abs", "Exp", "Sin", "Cos", "Erf", "Dropout"):
    case(op, "", var(*SHAPE))
for op in ("Log", "Sqrt", "Reciprocal"):
    case(op, "", var(*SHAPE, low=0.2))
case("Reciprocal", "negative", var(*SHAPE, low=-2, high=-0.3))
for op in ("Asin", "Acos", "Atanh"):
    case(op, "", var(*SHAPE, low=-0.8, high=0.8))
for op in ("Atan", "Sinh", "Cosh", "Asinh"):
    case(op, "", var(*SHAPE))
case("Tan", "", var(*SHAPE, low=-1, high=1))
case("Acosh", "", var(*SHAPE, low=1.3, high=3))
case("Cast", "to double and back", var(*SHAPE), outputs=["u"], to=11, after=[node("CastLike", ["u", "a"])])
case("CastLike", "", var(*SHAPE), weight(1))
case("Sum", "of one", var(*SHAPE))
case("Mean", "of one", var(*SHAPE))
case("Sum", "of three, broadcast", var(*SHAPE), var(3, 1), var(4))
case("Mean", "of three, broadcast", var(*SHAPE), var(2, 1, 1), var())

BROADCASTS = {
    "same shape": (SHAPE, SHAPE),
    "right narrower": (SHAPE, (2, 1, 4)),
    "left narrower": ((1, 3, 1), SHAPE),
    "both narrower": ((2, 1, 4), (1, 3, 4)),
    "right of lower rank": (SHAPE, (3, 1)),
    "left of lower rank": ((4,), SHAPE),
    "right 0-d": (SHAPE, ()),
    "left 0-d": ((), SHAPE),
    "both 0-d": ((), ()),
}
for what, (left, right) in BROADCASTS.items():
    for op in ("Add", "Sub", "Mul", "Max", "Min"):
        case(op, what, var(*left), var(*right))
    case("Div", what, var(*left), var(*right, low=0.4))
    case("Pow", what, var(*left, low=0.3), var(*right))
    mixed = node("Greater", ["u", "v"], ["w"])
    case(
        "Where",
        what,
        None,
        var(*left),
        var(*right),
        reads=["w", "b", "c"],
        before=[mixed],
        others={"u": weight(2, 3, 1), "v": weight(4)},
    )
case("Mul", "by itself", var(*SHAPE), reads=["a", "a"])
case("Add", "to itself", var(*SHAPE), reads=["a", "a"])
case(
    "Where",
    "wider condition",
    None,
    var(3, 1),
    var(4),
    reads=["w", "b", "c"],
    before=[node("Greater", ["u", "v"], ["w"])],
    others={"u": weight(2, 3, 1), "v": weight(4)},
)
for exponent in (0.0, 1.0, 2.0, 3.0, -1.5, 0.5):
    case("Pow", f"to {exponent}", var(*SHAPE, low=0.3), given(exponent))
case("Pow", "negative base, whole exponents", var(*SHAPE, low=-2, high=-0.3), given([1.0, 2.0, 3.0, -2.0]))
case("Pow", "integer exponent", var(*SHAPE), given([2]))
case("Pow", "vector exponent", var(3, 4, low=0.2), given([0.0, 1.0, 2.0, 0.5]))
for op in ("Max", "Min"):
    case(op, "of one", var(*SHAPE))
    case(op, "of three, broadcast", var(*SHAPE), var(3, 1), var(4))

# Activations

for op in (
    "Relu",
    "LeakyRelu",
    "Sigmoid",
    "Tanh",
    "Softplus",
    "Softsign",
    "Elu",
    "Celu",
    "Selu",
    "Mish",
    "HardSigmoid",
    "ThresholdedRelu",
):
    case(op, "", var(*SHAPE, low=-4, high=4))
case("HardSwish", "", var(*SHAPE, low=-5, high=5))
for op in ("LeakyRelu", "Elu", "Celu", "ThresholdedRelu"):
    case(op, "alpha", var(*SHAPE), alpha=0.3)
case("LeakyRelu", "negative alpha", var(*SHAPE), alpha=-0.3)
case("Selu", "alpha, gamma", var(*SHAPE), alpha=1.2, gamma=0.7)
case("HardSigmoid", "alpha, beta", var(*SHAPE), alpha=0.4, beta=0.3)
case("Gelu", "", var(*SHAPE, low=-3, high=3), opset=20)
case("Gelu", "tanh", var(*SHAPE, low=-3, high=3), opset=20, approximate="tanh")
case("Swish", "", var(*SHAPE, low=-3, high=3), opset=24)
case("Swish", "alpha", var(*SHAPE, low=-3, high=3), opset=24, alpha=1.7)
case("Shrink", "", var(*SHAPE), lambd=0.6, bias=0.4)
for what, slope in {"per channel": (3, 1), "one slope": (1,), "per element": SHAPE, "0-d": ()}.items():
    case("PRelu", what, var(*SHAPE), var(*slope))
case("Clip", "", var(*SHAPE), given(-0.7), given(0.9))
case("Clip", "without upper bound", var(*SHAPE), given(-0.7))
case("Clip", "without lower bound", var(*SHAPE), None, given(0.6))
case("Clip", "without bounds", var(*SHAPE))
case("Clip", "computed bounds", var(*SHAPE), given(-0.71, variable=True), given(0.93, variable=True))
case("Clip", "relu6", var(*SHAPE, low=-3, high=9), given(0.0), given(6.0))

# Matrix products

for what, (left, right) in {
    "matrices": ((3, 4), (4, 2)),
    "vector, matrix": ((4,), (4, 2)),
    "matrix, vector": ((3, 4), (4,)),
    "vectors": ((4,), (4,)),
    "vector, batch": ((4,), (2, 4, 3)),
    "batch, vector": ((2, 3, 4), (4,)),
    "batch, matrix": ((2, 3, 4), (4, 5)),
    "matrix, batch": ((3, 4), (2, 4, 5)),
    "batches": ((2, 3, 4), (2, 4, 5)),
    "broadcast batches": ((2, 1, 3, 4), (5, 4, 2)),
    "batch of one": ((1, 3, 4), (2, 4, 5)),
    "square batches": ((2, 3, 3), (2, 3, 3)),
}.items():
    case("MatMul", what, var(*left), var(*right))
case("MatMul", "by a weight", var(2, 4), weight(4, 3))
for ta in (0, 1):
    for tb in (0, 1):
        a, b = (4, 2) if ta else (2, 4), (3, 4) if tb else (4, 3)
        case("Gemm", f"transA={ta} transB={tb}", var(*a), var(*b), var(3), transA=ta, transB=tb)
        case(
            "Gemm",
            f"transA={ta} transB={tb} alpha beta",
            var(*a),
            var(*b),
            var(2, 1),
            transA=ta,
            transB=tb,
            alpha=0.7,
            beta=-1.3,
        )
case("Gemm", "without C", var(2, 4), var(4, 3))
case("Gemm", "0-d C", var(2, 4), var(4, 3), var(), beta=0.5)
case("Gemm", "full C", var(2, 4), var(4, 3), var(2, 3))
for equation, shapes in {
    "ij,jk->ik": ((2, 3), (3, 4)),
    "bhqd,bhkd->bhqk": ((2, 2, 3, 4), (2, 2, 5, 4)),
    "bqhd,bkhd->bhqk": ((2, 3, 2, 4), (2, 5, 2, 4)),
    "i,j->ij": ((3,), (4,)),
    "ij->ji": ((2, 3),),
    "ij->i": ((2, 3),),
    "bij,jk->bik": ((2, 3, 4), (4, 5)),
    "ab,bc,cd->ad": ((2, 3), (3, 4), (4, 2)),
    "ij,ij": ((2, 3), (2, 3)),
    "ij,jk": ((2, 3), (3, 4)),
    "...ij,...jk->...ik": ((2, 3, 4), (2, 4, 5)),
    "...ab,...bc->...ac": ((2, 3, 4), (4, 5)),
    "...ij,...jk": ((1, 3, 4), (2, 4, 5)),
    "...i->...": ((2, 3, 4),),
    "ij,jk->ki": ((2, 1), (3, 4)),
    "...i,j->...": ((2, 3, 4), (2,)),
    "ii->i": ((3, 3),),
    "iij->j": ((3, 3, 2),),
    "...ii,ji->...j": ((2, 3, 3), (4, 3)),
}.items():
    rank = 3 if equation.startswith("...ab") else None  # onnx knows it for terms of the same number of axes only
    case("Einsum", equation, *(var(*s) for s in shapes), equation=equation, rank=rank)

# Reductions

REDUCTIONS = (
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
    "ReduceProd",
)
for op in (*REDUCTIONS, "ReduceLogSum"):
    low = 0.2 if op == "ReduceLogSum" else -2
    x = var(*SHAPE, low=low)
    case(op, "all axes", x)
    case(op, "all axes, no keepdims", x, keepdims=0)
    case(op, "axis 1", x, given([1]))
    case(op, "axes 0 and -1, no keepdims", x, given([0, -1]), keepdims=0)
    case(op, "axes -1 and 0, out of order", x, given([-1, 0]))
    case(op, "no axes, noop", x, noop_with_empty_axes=1)
    case(op, "empty axes", x, given(np.zeros(0, np.int64)), keepdims=0)
for op in ("Softmax", "LogSoftmax"):
    for axis in (-1, 1, 0):
        case(op, f"axis {axis}", var(*SHAPE), axis=axis)
    case(op, "default axis", var(2, 5))
for exclusive in (0, 1):
    for reverse in (0, 1):
        case(
            "CumSum",
            f"exclusive={exclusive} reverse={reverse}",
            var(*SHAPE),
            given(-2),
            exclusive=exclusive,
            reverse=reverse,
        )
case("TopK", "largest", var(3, 6), given([2]), outputs=["y", "i"])
case("TopK", "smallest along 0, unsorted ties apart", var(5, 2), given([3]), outputs=["y", "i"], axis=0, largest=0)

# Quantisers, against the clipping that they are but for their rounding

ROUND_TRIP = node("DequantizeLinear", ["q", "b", "c"])


def through(low: str, high: str) -> tuple:
    """clip(x, low, high), with the bounds per channel where the scale is."""
    return (node("Max", ["a", low], ["m"]), node("Min", ["m", high]))


UINT8 = given(64).array.astype("uint8")
case(
    "QuantizeLinear",
    "per tensor",
    var(*SHAPE),
    given(0.02),
    given(UINT8),
    outputs=["q"],
    after=[ROUND_TRIP],
    others={"low": given(-1.28), "high": given(3.82)},
    forward=through("low", "high"),
    rank=3,
)
case(
    "DequantizeLinear",
    "after a saturating int8 quantiser",
    var(*SHAPE),
    given(0.01),
    given(UINT8.astype("int8")),
    reads=["q", "b", "c"],
    before=[node("QuantizeLinear", ["a", "b", "c"], ["q"])],
    others={"low": given(-1.92), "high": given(0.63)},
    forward=through("low", "high"),
    rank=3,
)
SCALES = given([0.01, 0.02, 0.015])
ZEROS = given([[0, 10, -20]][0]).array.astype("int8")
case(
    "QuantizeLinear",
    "per channel",
    var(*SHAPE),
    SCALES,
    given(ZEROS),
    outputs=["q"],
    axis=1,
    after=[node("DequantizeLinear", ["q", "b", "c"], axis=1)],
    others={"low": given([[-1.28], [-2.76], [-1.62]]), "high": given([[1.27], [2.34], [2.205]])},
    forward=through("low", "high"),
    rank=3,
)
case(
    "QuantizeLinear",
    "negative axis, no zero point",
    var(2, 4, 3),
    SCALES,
    outputs=["q"],
    axis=-1,
    after=[node("DequantizeLinear", ["q", "b"], axis=-1)],
    others={"low": given([0.0, 0.0, 0.0]), "high": given([2.55, 5.1, 3.825])},
    forward=through("low", "high"),
    rank=3,
)
for what, moved in {
    "a pooled level": [node("MaxPool", ["q"], ["r"], kernel_shape=[2], strides=[1])],
    "a reshaped and sliced level": [
        node("Transpose", ["q"], ["t"], perm=[0, 2, 1]),
        node("Slice", ["t", "one", "three", "one"], ["r"]),
    ],
}.items():
    stand_in = [node("Clip", ["a", "low", "high"], ["q"]), *moved, node("Identity", ["r"])]
    case(
        "DequantizeLinear",
        f"of {what}",
        var(2, 3, 4),
        given(0.04),
        given(UINT8.astype("int8") * 0),
        reads=["r", "b", "c"],
        before=[node("QuantizeLinear", ["a", "b", "c"], ["q"]), *moved],
        others={"low": given(-5.12), "high": given(5.08), "one": given([1]), "three": given([3])},
        forward=stand_in,
        rank=3,
    )

numbers = given([[2.3, -3.1, 4.2], [-0.7, 5.3, 1.9]], variable=True)
case("Mod", "", numbers, given([1.1, 0.8, -1.3], variable=True), fmod=1)
