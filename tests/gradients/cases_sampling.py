"""Cases of operators that read between pixels, pool regions, and put images together from parts."""

from __future__ import annotations

import itertools

import numpy as np
from cases import case, given, node, var, weight

# GridSample. Most places lie inside, some beyond the edge, where each padding shows.

PADDINGS = ("zeros", "border", "reflection")
PICTURE = (2, 3, 4, 5)


def places(*shape: int, variable: bool = True):
    return (var if variable else weight)(*shape, low=-1.6, high=1.7)


case("GridSample", "", var(*PICTURE), places(2, 3, 2, 2, variable=False), mode="bilinear", until=19)
for (old, new), padding, aligned in itertools.product(
    [("bilinear", "linear"), ("nearest", "nearest"), ("bicubic", "cubic")], PADDINGS, (0, 1)
):
    named = {"padding_mode": padding, "align_corners": aligned}
    what = f"{new} {padding}{' aligned' * aligned}"
    grid = places(2, 3, 2, 2, variable=new != "nearest")
    case("GridSample", what, var(*PICTURE), grid, mode=new, opset=20, **named)
    if padding == "zeros":
        case("GridSample", f"{what}, opset 18", var(*PICTURE), grid, mode=old, until=19, **named)
for mode, padding in itertools.product(("linear", "nearest"), PADDINGS):
    grid = places(2, 2, 3, 2, 3, variable=mode != "nearest")
    case("GridSample", f"{mode} {padding} volume", var(2, 2, 3, 4, 2), grid, mode=mode, padding_mode=padding, opset=20)
case("GridSample", "single pixel, reflection", var(1, 2, 1, 3), places(1, 2, 2, 2), padding_mode="reflection", opset=20)
case(
    "GridSample",
    "single pixel, reflection aligned",
    var(1, 2, 1, 3),
    places(1, 2, 2, 2),
    padding_mode="reflection",
    align_corners=1,
    opset=20,
)
case("GridSample", "constant picture", weight(*PICTURE), places(2, 3, 2, 2), opset=20)
case(
    "GridSample",
    "spatial transformer",
    *(var(2, 3, 4, 5), var(2, 2, 3, low=-0.6, high=0.7, free=False), given([2, 3, 2, 3])),
    reads=["a", "g"],
    before=[node("AffineGrid", ["b", "c"], ["g"])],
    opset=20,
)

# AffineGrid

for aligned, dims, batch in itertools.product((0, 1), ((3, 4), (2, 3, 4)), (1, 2)):
    size = given([batch, 5, *dims])
    what = f"{len(dims)}-D, batch of {batch}{', aligned' * aligned}"
    case(
        "AffineGrid",
        what,
        var(batch, len(dims), len(dims) + 1, free=False),
        size,
        align_corners=aligned,
        opset=20,
        rank=len(dims) + 2,
    )
# Runtimes differ in where they put a single place.
case("AffineGrid", "single line, aligned", var(2, 2, 3), given([2, 1, 1, 4]), align_corners=1, opset=20, rounds=True)

# DeformConv, which ONNX Runtime 1.19 lacks

for what, x, w, made, bias, mask, attributes in [
    ("", (1, 2, 5, 4), (3, 2, 2, 2), (4, 3), False, False, {}),
    ("bias", (2, 2, 5, 4), (3, 2, 2, 2), (4, 3), True, False, {}),
    ("mask", (2, 2, 5, 4), (3, 2, 2, 2), (4, 3), False, True, {}),
    ("pads, strides", (1, 2, 6, 3), (3, 2, 3, 2), (4, 2), True, True, {"pads": [1, 0, 2, 2], "strides": [2, 2]}),
    ("dilations", (1, 2, 6, 5), (3, 2, 2, 2), (4, 3), False, False, {"dilations": [3, 2], "pads": [1, 0, 0, 0]}),
    ("groups", (1, 4, 5, 4), (6, 2, 2, 2), (4, 3), True, False, {"group": 2}),
    ("offset groups", (2, 4, 5, 4), (3, 4, 2, 2), (4, 3), False, True, {"offset_group": 2}),
    ("more offset groups", (2, 8, 4, 4), (4, 4, 2, 2), (3, 3), True, True, {"group": 2, "offset_group": 4}),
    ("three axes", (1, 2, 3, 3, 2), (2, 2, 2, 2, 1), (2, 2, 2), False, True, {}),
]:
    taps = attributes.get("offset_group", 1) * np.prod(w[2:])
    case(
        "DeformConv",
        what,
        var(*x),
        var(*w, free=False),
        var(x[0], len(made) * taps, *made, low=-1.4, high=1.3),
        var(w[0], free=False) if bias else None,
        var(x[0], taps, *made) if mask else None,
        opset=19,
        **attributes,
    )
case("DeformConv", "image wanted", var(1, 2, 5, 4), weight(3, 2, 2, 2), weight(1, 8, 4, 3), opset=19)

# RoiAlign and MaxRoiPool: regions inside, across the edge, beyond it, and turned inside out

REGIONS = np.array([[0.3, 0.7, 5.2, 4.1], [2.1, 1.3, 6.63, 9.77], [-3.1, -2.2, 2, 3.3], [3.3, 4.1, 3.6, 4.3]])
IMAGES = given([0, 1, 0, 1])
for mode, transform, ratio in itertools.product(("avg", "max"), ("half_pixel", "output_half_pixel"), (0, 2)):
    case(
        "RoiAlign",
        f"{mode} {transform} sampling_ratio {ratio}",
        var(2, 2, 5, 6),
        given(REGIONS, variable=True),
        IMAGES,
        mode=mode,
        coordinate_transformation_mode=transform,
        sampling_ratio=ratio,
        output_height=2,
        output_width=3,
    )
case("RoiAlign", "defaults", var(1, 2, 5, 6), given(REGIONS), given([0] * 4))
for mode, ratio in itertools.product(("avg", "max"), (0, 3)):
    case(
        "RoiAlign",
        f"{mode} spatial_scale, inside out, sampling_ratio {ratio}",
        *(var(1, 2, 5, 6), given(np.vstack([REGIONS, [[8.2, 7.1, 2.3, 4.4]]])), given([0] * 5)),
        mode=mode,
        spatial_scale=0.4,
        sampling_ratio=ratio,
        output_height=2,
        output_width=2,
    )
NUMBERED = np.hstack([[[0.0], [1], [0], [1], [1], [0]], np.vstack([REGIONS, [[30, 30, 40, 40], [4, 4, 1, 1]]])])
for scale in (1.0, 0.6):
    case(
        "MaxRoiPool",
        f"spatial_scale {scale}",
        var(2, 2, 5, 6),
        given(NUMBERED),
        pooled_shape=[2, 3],
        spatial_scale=scale,
    )
case("MaxRoiPool", "more bins than pixels", var(2, 2, 3, 3), given(NUMBERED), pooled_shape=[5, 4])

# MaxUnpool

PLACES = given([[[[5, 7], [13, 15]], [[16, 18], [26, 31]]]])
case("MaxUnpool", "", var(1, 2, 2, 2), PLACES, kernel_shape=[2, 2], strides=[2, 2])
case("MaxUnpool", "pads", var(1, 2, 2, 2), PLACES, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 0, 1])
shared = given([[[[5, 7], [7, 15]], [[16, 18], [18, 18]]]])
case("MaxUnpool", "a place taken twice", var(1, 2, 2, 2), shared, kernel_shape=[2, 2], strides=[2, 2])
case("MaxUnpool", "1-D", var(2, 1, 3), given([[[0, 3, 4]], [[7, 8, 11]]]), kernel_shape=[2], strides=[2])
# Runtimes differ in where elements go if the output's shape is given.
case(
    "MaxUnpool",
    "output_shape",
    *(var(1, 2, 2, 2), PLACES, given([1, 2, 5, 4])),
    kernel_shape=[2, 2],
    strides=[2, 2],
    rounds=True,
    rank=4,
)
case(
    "MaxUnpool",
    "of what MaxPool kept",
    var(1, 2, 4, 5),
    reads=["m", "i"],
    before=[node("MaxPool", ["a"], ["m", "i"], kernel_shape=[2, 3], strides=[2, 2])],
    kernel_shape=[2, 3],
    strides=[2, 2],
)

# Col2Im

for what, x, image, block, attributes in [
    ("", (1, 10, 4), (4, 7), (2, 5), {"strides": [2, 2]}),
    ("overlapping", (2, 8, 6), (3, 4), (2, 2), {}),
    ("pads", (1, 8, 16), (3, 4), (2, 2), {"pads": [1, 0, 1, 1]}),
    ("dilations, strides", (1, 12, 4), (5, 5), (2, 3), {"dilations": [2, 1], "strides": [2, 2]}),
    ("three axes", (1, 16, 4), (2, 3, 3), (2, 2, 2), {}),
    ("one axis", (2, 6, 3), (5,), (3,), {}),
]:
    case("Col2Im", what, var(*x), given(list(image)), given(list(block)), **attributes)

# CenterCropPad, which ONNX defines by a function

for what, x, shape, attributes in [
    ("crops", (4, 5, 6), (2, 2, 3), {}),
    ("pads", (2, 3), (5, 4), {}),
    ("crops and pads", (2, 6, 3), (5, 3, 3), {}),
    ("axes", (2, 5, 6, 3), (2, 9), {"axes": [1, -2]}),
]:
    case("CenterCropPad", what, var(*x), given(list(shape)), rank=len(x), **attributes)

# Resize: the aspect ratio kept, scales that keep a length, and the roi's gradient


def numbers(*values: float):
    return given(np.asarray(values, np.float32))


WIDE = var(1, 2, 4, 7)
for policy, mode in itertools.product(("not_larger", "not_smaller"), ("nearest", "linear", "cubic")):
    named = {"mode": mode, "keep_aspect_ratio_policy": policy, "axes": [2, 3]}
    case("Resize", f"{mode} {policy}", WIDE, None, None, given([7, 9]), **named)
    smooth = int(mode != "nearest")
    case("Resize", f"{mode} {policy}, shrinking", WIDE, None, None, given([3, 4]), **named, antialias=smooth)
case(
    "Resize",
    "not_larger, a length kept",
    *(var(1, 1, 3, 9), None, None, given([4, 10])),
    mode="linear",
    keep_aspect_ratio_policy="not_larger",
    axes=[2, 3],
)
case(
    "Resize",
    "not_larger, one axis",
    *(WIDE, None, None, given([5])),
    mode="linear",
    keep_aspect_ratio_policy="not_larger",
    axes=[3],
)
case(
    "Resize",
    "not_larger, axes in another order",
    *(WIDE, None, None, given([9, 7])),
    mode="linear",
    keep_aspect_ratio_policy="not_larger",
    axes=[3, 2],
)
case(
    "Resize",
    "not_larger, all axes",
    *(var(1, 1, 4, 7), None, None, given([3, 3, 7, 9])),
    mode="linear",
    keep_aspect_ratio_policy="not_larger",
    fixed="aspect ratio kept over more than two axes",
)
for mode in ("nearest", "linear", "cubic"):
    case("Resize", f"{mode}, a scale that keeps a length", WIDE, None, numbers(1, 1, 1.2, 1.5), mode=mode)
    # ONNX Runtime copies what keeps its shape as a whole, where ONNX interpolates.
    case("Resize", f"{mode}, scales that keep all lengths", WIDE, None, numbers(1, 1, 1.2, 1.1), mode=mode, rounds=True)
CROP = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 3.0}
REGION = given([0.11, 0.23, 0.83, 1.07], variable=True)
for what, axes, how in [
    ("crop", [2, 3], (None, given([6, 4]))),
    ("crop to one line", [2, 3], (None, given([1, 5]))),
    ("crop by scales", [2, 3], (numbers(0.5, 2),)),
    ("crop, axes in another order", [3, 2], (None, given([4, 6]))),
]:
    case("Resize", f"{what}, roi wanted", WIDE, REGION, *how, mode="linear", axes=axes, **CROP)
# ONNX Runtime does not crop along an axis that keeps its length, where ONNX does.
case(
    "Resize",
    "crop that keeps a length",
    *(WIDE, numbers(0.11, 0.23, 0.83, 0.9), None, given([4, 5])),
    mode="linear",
    axes=[2, 3],
    coordinate_transformation_mode="tf_crop_and_resize",
    rounds=True,
)

# Pools and convolutions whose padding depends on free lengths

for auto, include in (("SAME_UPPER", 0), ("SAME_UPPER", 1), ("SAME_LOWER", 0), ("SAME_LOWER", 1), ("VALID", 0)):
    case(
        "AveragePool",
        f"ceil_mode, {auto}{', count_include_pad' * include}",
        var(1, 2, 6, 7),
        auto_pad=auto,
        ceil_mode=1,
        count_include_pad=include,
        kernel_shape=[3, 2],
        strides=[2, 2],
    )
for op in ("MaxPool", "AveragePool", "LpPool"):
    window = {"kernel_shape": [2, 2, 1], "dilations": [1, 2, 1], "pads": [0, 1, 0, 1, 0, 0], "strides": [1, 2, 1]}
    case(op, "3-D, dilations, ceil_mode", var(1, 2, 3, 6, 2), ceil_mode=1, opset=19, **window)
