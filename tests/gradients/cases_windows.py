"""Cases of convolution, pooling, normalisation and resizing."""

from __future__ import annotations

import itertools

import numpy as np
from cases import case, given, node, var, weight

# Conv

for what, x, w, attributes in [
    ("1-D", (1, 2, 7), (3, 2, 3), {}),
    ("1x1", (1, 3, 4, 4), (2, 3, 1, 1), {}),
    ("3x3", (2, 2, 5, 6), (3, 2, 3, 3), {}),
    ("even kernel", (1, 2, 6, 5), (3, 2, 2, 4), {"pads": [1, 1, 0, 2]}),
    ("3-D", (1, 2, 4, 5, 4), (3, 2, 3, 2, 3), {"pads": [1, 0, 1, 1, 1, 1]}),
    ("pads", (1, 2, 5, 5), (3, 2, 3, 3), {"pads": [1, 1, 1, 1]}),
    ("asymmetric pads", (1, 2, 5, 5), (3, 2, 3, 3), {"pads": [2, 0, 1, 3]}),
    ("pads beyond the kernel", (1, 2, 4, 4), (2, 2, 2, 2), {"pads": [3, 2, 2, 3]}),
    ("stride", (1, 2, 7, 7), (3, 2, 3, 3), {"strides": [2, 2]}),
    ("stride, last rows never read", (1, 2, 8, 9), (3, 2, 3, 3), {"strides": [2, 3]}),
    ("stride, pads", (1, 2, 8, 8), (3, 2, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("stride beyond the kernel", (1, 2, 9, 9), (3, 2, 1, 2), {"strides": [3, 4]}),
    ("stride along one axis", (1, 2, 7, 7), (3, 2, 3, 3), {"strides": [1, 2], "pads": [1, 1, 1, 1]}),
    ("dilations", (1, 2, 9, 9), (3, 2, 3, 3), {"dilations": [2, 3], "pads": [2, 1, 2, 1]}),
    ("dilations, strides", (1, 2, 10, 9), (3, 2, 3, 3), {"dilations": [2, 1], "strides": [2, 2]}),
    ("groups", (2, 4, 5, 5), (6, 2, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    ("groups, stride", (1, 4, 6, 6), (6, 2, 3, 3), {"group": 2, "strides": [2, 2]}),
    ("depthwise", (1, 3, 5, 5), (3, 1, 3, 3), {"group": 3}),
    ("depthwise, stride", (2, 3, 7, 8), (3, 1, 3, 3), {"group": 3, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("depthwise, stride, last rows never read", (1, 3, 8, 9), (3, 1, 3, 2), {"group": 3, "strides": [3, 4]}),
    (
        "depthwise, stride, dilations, uneven pads",
        (1, 2, 9, 8),
        (2, 1, 3, 2),
        {"group": 2, "strides": [2, 3], "dilations": [2, 1], "pads": [2, 0, 1, 1]},
    ),
    (
        "depthwise, stride, SAME_UPPER",
        (1, 2, 7, 8),
        (2, 1, 5, 3),
        {"group": 2, "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ),
    (
        "depthwise, stride, pads beyond the kernel",
        (1, 2, 6, 6),
        (2, 1, 2, 2),
        {"group": 2, "strides": [2, 2], "pads": [3, 2, 2, 3]},
    ),
    ("depthwise, 1-D, stride", (1, 2, 9), (2, 1, 4), {"group": 2, "strides": [3]}),
    ("SAME_UPPER", (1, 2, 5, 6), (3, 2, 2, 3), {"auto_pad": "SAME_UPPER"}),
    ("SAME_LOWER", (1, 2, 5, 6), (3, 2, 2, 3), {"auto_pad": "SAME_LOWER"}),
    ("SAME_UPPER, stride", (1, 2, 7, 8), (3, 2, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("SAME_LOWER, stride", (1, 2, 7, 8), (3, 2, 3, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    ("VALID", (1, 2, 6, 6), (3, 2, 3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
]:
    case("Conv", what, var(*x), weight(*w), **attributes)
    case("Conv", f"{what}, weight and bias wanted", var(*x), var(*w, free=False), var(w[0], free=False), **attributes)

# ConvTranspose

for what, x, w, attributes in [
    ("1-D", (1, 2, 5), (2, 3, 3), {}),
    ("3x3", (2, 2, 4, 5), (2, 3, 3, 3), {}),
    ("3-D", (1, 2, 3, 3, 2), (2, 2, 2, 3, 2), {"strides": [1, 2, 2]}),
    ("stride", (1, 2, 4, 4), (2, 3, 3, 3), {"strides": [2, 2]}),
    ("pads", (1, 2, 4, 4), (2, 3, 3, 3), {"pads": [1, 0, 2, 1]}),
    (
        "stride, pads, output_padding",
        (1, 2, 4, 4),
        (2, 3, 3, 3),
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    (
        "output_padding beyond the pads",
        (1, 2, 4, 4),
        (2, 3, 3, 3),
        {"strides": [3, 2], "pads": [0, 0, 1, 0], "output_padding": [2, 1]},
    ),
    ("dilations", (1, 2, 4, 4), (2, 3, 3, 3), {"dilations": [2, 2], "pads": [1, 1, 1, 1]}),
    ("groups", (1, 4, 4, 4), (4, 3, 3, 3), {"group": 2, "strides": [2, 2]}),
    ("stride beyond the kernel", (1, 2, 3, 3), (2, 2, 1, 1), {"strides": [2, 2], "output_padding": [1, 0]}),
    ("SAME_UPPER", (1, 2, 4, 3), (2, 3, 3, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 1]}),
    ("SAME_LOWER", (1, 2, 4, 3), (2, 3, 3, 2), {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
    ("output_shape", (1, 2, 4, 4), (2, 3, 3, 3), {"strides": [2, 2], "output_shape": [8, 7]}),
    (
        "output_shape, SAME_UPPER",
        (1, 2, 4, 4),
        (2, 3, 3, 3),
        {"strides": [2, 2], "output_shape": [8, 6], "auto_pad": "SAME_UPPER"},
    ),
    ("output_shape beyond the windows", (1, 2, 3, 3), (2, 3, 2, 2), {"strides": [2, 2], "output_shape": [7, 7]}),
    ("VALID", (1, 2, 4, 4), (2, 3, 3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
]:
    case("ConvTranspose", what, var(*x), weight(*w), **attributes)
    case(
        "ConvTranspose",
        f"{what}, weight and bias wanted",
        var(*x),
        var(*w, free=False),
        var(w[1] * attributes.get("group", 1), free=False),
        **attributes,
    )

# Pools

POOLS = [
    ("1-D", (1, 2, 7), {"kernel_shape": [3]}),
    ("3-D", (1, 2, 4, 5, 4), {"kernel_shape": [2, 3, 2], "strides": [1, 2, 2]}),
    ("apart", (2, 2, 6, 6), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("overlapping", (1, 2, 7, 7), {"kernel_shape": [3, 3], "strides": [2, 2]}),
    ("gaps between", (1, 2, 8, 8), {"kernel_shape": [2, 2], "strides": [3, 3]}),
    ("pads", (1, 2, 6, 6), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("asymmetric pads", (1, 2, 6, 6), {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [0, 1, 2, 0]}),
    ("ceil_mode", (1, 2, 6, 7), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    (
        "ceil_mode, pads",
        (1, 2, 6, 7),
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
    ),
    ("SAME_UPPER", (1, 2, 6, 7), {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("SAME_LOWER", (1, 2, 6, 7), {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ("SAME_UPPER, overlapping", (1, 2, 5, 6), {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}),
    ("VALID", (1, 2, 6, 7), {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "VALID"}),
    ("the whole map", (2, 3, 4, 5), {"kernel_shape": [4, 5], "strides": [2, 2]}),
    ("the whole map, padded", (2, 3, 3, 4), {"kernel_shape": [4, 5], "pads": [1, 0, 0, 1]}),
]
DILATED = ("dilations", (1, 2, 7, 8), {"kernel_shape": [2, 3], "dilations": [2, 2], "pads": [1, 1, 1, 1]})
for what, x, attributes in [*POOLS, DILATED]:
    case("MaxPool", what, var(*x), **attributes)
    case("LpPool", what, var(*x), p=3, **attributes)
    since = {"opset": 19} if "dilations" in attributes else {}
    case("AveragePool", what, var(*x), **attributes, **since)
    rounds = {"rounds": "ceil_mode" in what}  # ONNX Runtime before 1.20 counts the rim otherwise
    case("AveragePool", f"{what}, count_include_pad", var(*x), count_include_pad=1, **attributes, **since, **rounds)
case("MaxPool", "column-major indices", var(1, 2, 6, 5), kernel_shape=[2, 2], storage_order=1)
case("LpPool", "p = 2", var(1, 2, 5, 5), kernel_shape=[3, 3])
for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
    for x in ((2, 3, 5), (2, 3, 4, 5), (1, 2, 3, 2, 4)):
        case(op, f"{len(x) - 2}-D", var(*x))
case("GlobalLpPool", "p = 3", var(2, 3, 4, 5), p=3)

# Normalisations

for x in ((4, 3), (2, 3, 5), (2, 3, 4, 5)):
    statistics = [weight(3), weight(3), weight(3), weight(3, low=0.3)]
    case("BatchNormalization", f"{len(x)}-D", var(*x), *statistics)
    case("LRN", f"{len(x)}-D", var(*x), size=2, alpha=0.9, beta=0.6, bias=1.2)
case(
    "BatchNormalization",
    "epsilon, scale and bias wanted",
    var(2, 3, 4),
    var(3, free=False),
    var(3, free=False),
    weight(3),
    weight(3, low=0.3),
    epsilon=0.1,
)
case(
    "BatchNormalization",
    "statistics wanted",
    var(2, 3, 4),
    weight(3),
    weight(3),
    var(3, free=False),
    var(3, low=0.3, free=False),
)
for outputs in (["y", "m", "v"], ["n", "y", "v"], ["n", "m", "y"]):
    case(
        "BatchNormalization",
        f"training, output {outputs.index('y')}",
        *(var(2, 3, 4), var(3, free=False), var(3, free=False), var(3, free=False), var(3, low=0.3, free=False)),
        outputs=outputs,
        training_mode=1,
        momentum=0.8,
        epsilon=0.1,
        rank=3 if outputs[0] == "y" else 1,
    )
for size in (1, 3, 4, 5):
    case("LRN", f"size {size}", var(1, 6, 2, 3), size=size, alpha=0.8, beta=0.75, bias=1.5)
case("LRN", "defaults", var(1, 6, 2, 3), size=5)
for x in ((2, 3, 5), (2, 3, 4, 5)):
    case("InstanceNormalization", f"{len(x)}-D", var(*x), weight(3), weight(3), epsilon=1e-2)
case("InstanceNormalization", "scale and bias wanted", var(2, 3, 5), var(3, free=False), var(3, free=False))
for axis, scale in ((-1, (4,)), (2, (4,)), (1, (3, 4)), (-3, (2, 3, 4)), (-2, (4,))):
    case("LayerNormalization", f"axis {axis}, scale {scale}", var(2, 3, 4), weight(*scale), weight(*scale), axis=axis)
case("LayerNormalization", "no bias", var(2, 3, 4), weight(4), epsilon=0.1)
case("LayerNormalization", "scale and bias wanted", var(2, 3, 4), var(4, free=False), var(4, free=False))
for at, outputs in enumerate((["n", "y"], ["n", "", "y"])):
    case("LayerNormalization", f"output {at + 1}", var(2, 3, 4), weight(3, 4), axis=1, outputs=outputs, rank=3)
total = node("Sum", ["n", "m", "d"])
case("LayerNormalization", "all outputs", var(2, 3, 4), weight(4), weight(4), outputs=["n", "m", "d"], after=[total])
case(
    "GroupNormalization",
    "one scale per group",
    *(var(2, 4, 3, 3), var(2, free=False), var(2, free=False)),
    num_groups=2,
    epsilon=1e-2,
    until=20,
    rank=4,
)
for groups in (1, 2, 4):
    case(
        "GroupNormalization",
        f"{groups} groups",
        var(2, 4, 3, 3),
        weight(4),
        weight(4),
        num_groups=groups,
        epsilon=1e-2,
        opset=21,
        rank=4,
    )
case(
    "GroupNormalization",
    "scale and bias wanted",
    var(2, 4, 3, 3),
    var(4, free=False),
    var(4, free=False),
    num_groups=2,
    opset=21,
    rank=4,
)
for axis, scale in ((-1, (4,)), (1, (3, 4))):
    case("RMSNormalization", f"axis {axis}", var(2, 3, 4), var(*scale, free=False), axis=axis, epsilon=0.1, opset=23)
for p in (1, 2):
    case("LpNormalization", f"p = {p}, axis 1", var(2, 3, 4), p=p, axis=1)
    case("LpNormalization", f"p = {p}", var(2, 3, 4), p=p)
case("MeanVarianceNormalization", "", var(2, 3, 4, 4), rank=4)
case("MeanVarianceNormalization", "axes", var(2, 3, 4), axes=[1, -1], rank=3)

# Resize

TRANSFORMS = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
PICTURE = var(1, 2, 4, 5)


def scales(*values: float):
    return None, given(np.asarray(values, dtype=np.float32))  # of this type at every precision of the model


def sizes(*values: int):
    return None, None, given(list(values))


def resize(what, x, *how, **attributes):
    case("Resize", what, x, *how, **{k: v for k, v in attributes.items() if v})


for transform, rounding in itertools.product(TRANSFORMS, ROUNDINGS):
    named = {"mode": "nearest", "coordinate_transformation_mode": transform, "nearest_mode": rounding, "rounds": True}
    resize(f"nearest {transform} {rounding} scales", PICTURE, *scales(1, 1, 2, 1.7), **named)
    resize(f"nearest {transform} {rounding} sizes", PICTURE, *sizes(1, 2, 7, 3), **named)
for mode, transform, smooth in itertools.product(("linear", "cubic"), TRANSFORMS, (0, 1)):
    named = {"mode": mode, "coordinate_transformation_mode": transform, "antialias": smooth}
    kind = f"{mode} {transform}{' antialias' * smooth}"
    resize(f"{kind} scales", PICTURE, *scales(1, 1, 2, 0.6), **named)
    resize(f"{kind} sizes", PICTURE, *sizes(1, 2, 7, 3), **named)
resize("cubic exclude_outside", PICTURE, *scales(1, 1, 2, 1.5), mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5)
resize("nearest twice", PICTURE, *scales(1, 1, 2, 2), coordinate_transformation_mode="asymmetric", nearest_mode="floor")
resize("nearest three times and twice, half_pixel", PICTURE, *scales(1, 1, 3, 2))
resize(
    "linear align_corners to one pixel",
    PICTURE,
    *sizes(1, 2, 1, 8),
    mode="linear",
    coordinate_transformation_mode="align_corners",
)
resize(
    "nearest along the channels",
    PICTURE,
    *scales(1, 2, 2, 1),
    nearest_mode="floor",
    coordinate_transformation_mode="asymmetric",
)
resize("axes, scales", PICTURE, *scales(2, 1.5), mode="linear", axes=[2, 3])
resize("axes in another order, sizes", PICTURE, *sizes(7, 3), mode="linear", axes=[3, 2])
resize(
    "to a computed size",
    PICTURE,
    *sizes(),
    reads=["a", "", "", "s"],
    mode="linear",
    before=[node("Shape", ["a"], ["s0"]), node("Mul", ["s0", "k"], ["s"])],
    others={"k": given([1, 1, 2, 3])},
)
for mode in ("nearest", "linear", "cubic"):
    resize(
        f"{mode} crop",
        PICTURE,
        given(np.asarray([0, 0, 0.1, 0.2, 1, 1, 0.8, 1.1], np.float32)),
        None,
        given([1, 2, 6, 4]),
        mode=mode,
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=3.0,
    )
