"""What slides a window or samples a grid: convolutions, pools, Resize."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxcam.gradients.buildable import lower
from onnxcam.gradients.path_copy import Made, Node
from onnxcam.gradients.rules import UnsupportedError
from onnxcam.gradients.rules.linear import along, unit_rows
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor

SAME = ("SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class Window:
    """The geometry of a sliding window, per spatial axis (ONNX spec, operators Conv and AveragePool)."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]

    @classmethod
    def of(cls, node: Node, kernel: list[int]) -> Window:
        """What the attributes of ``node`` say."""
        n = len(kernel)
        strides, dilations = node.attr("strides", [1] * n), node.attr("dilations", [1] * n)
        auto, pads = node.attr("auto_pad", "NOTSET"), node.attr("pads", [0] * 2 * n)
        if auto == "NOTSET":
            return cls(kernel, strides, dilations, pads[:n], pads[n:])
        if auto == "VALID":
            return cls(kernel, strides, dilations, [0] * n, [0] * n)
        whole = cls(kernel, strides, dilations, [0] * n, [0] * n)
        total = [_same(node, whole, axis) for axis in range(n)]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        before, after = (less, more) if auto == "SAME_UPPER" else (more, less)
        return cls(kernel, strides, dilations, before, after)

    @property
    def span(self) -> list[int]:
        """Pixels from the first to the last tap, both included."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    @property
    def overhangs(self) -> bool:
        """With ceil_mode, may a window lie wholly beyond the picture?"""
        return any(a + s > r for a, s, r in zip(self.after, self.strides, self.span, strict=True))


def _same(node: Node, window: Window, axis: int) -> int:
    length, stride = _length(node.held(0), axis + 2, "auto_pad"), window.strides[axis]
    return max((math.ceil(length / stride) - 1) * stride + window.span[axis] - length, 0)


def _length(x: Tensor, axis: int, what: str) -> int:
    length = x.shape[axis] if x.shape is not None else None
    if not isinstance(length, int):
        raise UnsupportedError(f"{what}, and axis {axis} has no fixed length")
    return length


def _kernel_of(weight: Tensor) -> list[int]:
    return [_length(weight, a, "the kernel's shape is unknown") for a in range(2, weight.rank)]


@lower("Conv")
def conv(node: Node) -> Made:
    """The builder's kernel ignores auto_pad=SAME."""
    if node.attr("auto_pad", "NOTSET") not in SAME:
        return node.as_it_is()
    window = Window.of(node, _kernel_of(node.held(1)))
    attributes = {"strides": window.strides, "dilations": window.dilations, "group": node.attr("group", 1)}
    return node.op("Conv", *node.xs, pads=window.before + window.after, **attributes)


@lower("ConvTranspose")
def conv_transpose(node: Node) -> Made:
    """Zeros between the pixels, then a convolution with the flipped kernel, input and output channels exchanged."""
    node.only(0)
    if node.attr("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.raw.attributes:
        raise UnsupportedError("auto_pad or output_shape")
    window = Window.of(node, _kernel_of(node.held(1)))
    extra = node.attr("output_padding", [0] * len(window.kernel))
    before = [r - 1 - p for r, p in zip(window.span, window.before, strict=True)]
    after = [r - 1 - p + e for r, p, e in zip(window.span, window.after, extra, strict=True)]
    if min(before + after) < 0:
        raise UnsupportedError("padding larger than the kernel")
    x, group = node.x, node.attr("group", 1)
    for index, stride in enumerate(window.strides):
        x = _apart(node, x, index + 2, stride)
    weight = _exchanged(node.held(1), group)
    bias = [node.held(2)] if node.has(2) else []
    return node.op("Conv", x, weight, *bias, pads=before + after, dilations=window.dilations, group=group)


def _apart(node: Node, x: Tensor, axis: int, stride: int) -> Tensor:
    """``stride - 1`` zeros between neighbours along one axis."""
    if stride == 1:
        return x
    dims = x.shape
    assert dims is not None
    length = dims[axis]
    lengths = [xp.dim(x, a) for a in range(x.rank)]
    lengths[axis] = lengths[axis] * stride
    after = [0] * (x.rank + 1)
    after[axis + 1] = stride - 1
    wide = xp.pad(xp.expand_dims(x, axis + 1), [0] * len(after), after)
    known = [*dims[:axis], length * stride if isinstance(length, int) else None, *dims[axis + 1 :]]
    spaced = xp.reshape(wide, xp.concat(lengths), known)
    return xp.slice_axis(spaced, axis, 0, 1 - stride)


def _exchanged(weight: Tensor, group: int) -> Tensor:
    """(C, M / g, k...) -> (M, C / g, k...), flipped."""
    shape = [_length(weight, a, "the weight's shape is unknown") for a in range(weight.rank)]
    ins, outs, kernel = shape[0], shape[1], shape[2:]
    blocks = xp.reshape(weight, [group, ins // group, outs, *kernel])
    swapped = xp.permute_dims(blocks, [0, 2, 1, *range(3, blocks.rank)])
    return xp.flip(xp.reshape(swapped, [group * outs, ins // group, *kernel]), range(2, weight.rank))


@lower("MaxPool")
def max_pool(node: Node) -> Made:
    """Gathers the maxima: the builder's kernel dies where the shape it was built for is not the shape it gets."""
    if node.attr("storage_order", 0):
        raise UnsupportedError("storage_order=1")
    if node.attr("ceil_mode", 0) and Window.of(node, node.attr("kernel_shape", list[int]())).overhangs:
        raise UnsupportedError("ceil_mode with windows that may lie wholly in the padding")
    attributes = {a.name: a.value for a in node.raw.attributes.values()}
    _, where = node.copy.writer.ops("MaxPool", node.held(0), outputs=2, **attributes)
    maxima = node.op("GatherElements", xp.reshape(node.x, [-1]), xp.reshape(where, [-1]), axis=0)
    return xp.reshape(maxima, xp.shape_of(node.y), node.y.shape)


@lower("AveragePool")
def average_pool(node: Node) -> Made:
    """A convolution of every plane with ones, divided by how many pixels each window counts."""
    window = Window.of(node, node.attr("kernel_shape", list[int]()))
    after = _reached(node, window)
    x, held = node.x, node.held(0)
    spatial = [xp.dim(held, a) for a in range(2, x.rank)]
    planes = xp.reshape(x, xp.concat([node.ints(-1, 1), *spatial]), [None, 1, *(x.shape or ())[2:]])
    ones = node.copy.writer.constant(np.ones((1, 1, *window.kernel)), x.dtype)
    geometry: dict[str, Any] = {"strides": window.strides, "dilations": window.dilations}
    summed = node.op("Conv", planes, ones, pads=window.before + after, **geometry)
    return xp.reshape(summed, xp.shape_of(node.y), node.y.shape) / _counts(node, window, after)


def _reached(node: Node, window: Window) -> list[int]:
    """Padding after the picture, as far as the last window of ceil_mode reaches."""
    if not node.attr("ceil_mode", 0):
        return window.after
    if window.overhangs:
        raise UnsupportedError("ceil_mode with windows that may lie wholly in the padding")
    if node.attr("count_include_pad", 0):
        raise UnsupportedError("ceil_mode together with count_include_pad")
    reached = []
    for axis in range(len(window.kernel)):
        length, out = (_length(t, axis + 2, "ceil_mode") for t in (node.held(0), node.y))
        reached.append((out - 1) * window.strides[axis] + window.span[axis] - length - window.before[axis])
    return [max(r, 0) for r in reached]


def _counts(node: Node, window: Window, after: list[int]) -> Tensor | float:
    if node.attr("count_include_pad", 0) or not any(window.before + after):
        return float(math.prod(window.kernel))
    counts: Any = np.ones(())
    for axis in range(len(window.kernel)):
        length = _length(node.held(0), axis + 2, "padding that is not counted")
        counts = np.multiply.outer(counts, _inside(window, axis, length, _length(node.y, axis + 2, "padding")))
    return node.copy.writer.constant(counts[None, None], node.y.dtype)


def _inside(window: Window, axis: int, length: int, windows: int) -> Any:
    """Per window, how many taps fall inside the picture along one axis."""
    starts = np.arange(windows)[:, None] * window.strides[axis] - window.before[axis]
    taps = starts + np.arange(window.kernel[axis]) * window.dilations[axis]
    return ((taps >= 0) & (taps < length)).sum(1)


@lower("GlobalMaxPool")
def global_max_pool(node: Node) -> Made:
    """The first maximum takes all."""
    flat = xp.reshape(node.held(0), [0, 0, -1])
    zero, one = (node.copy.writer.constant(np.int64(v)) for v in (0, 1))
    places = node.op("Range", zero, xp.squeeze(xp.dim(flat, 2), 0), one)
    hits = xp.astype(places == xp.argmax(flat, axis=2, keepdims=True), flat.dtype)
    summed = xp.sum(xp.reshape(node.x, [0, 0, -1]) * hits, 2)
    return xp.reshape(summed, xp.shape_of(node.y), node.y.shape)


@lower("Resize")
def resize(node: Node) -> Made:
    """Every mode is linear along each axis: products with matrices."""
    if node.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise UnsupportedError("coordinate_transformation_mode=tf_crop_and_resize")
    if node.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedError("keep_aspect_ratio_policy")
    x, axes = node.x, node.attr("axes", list(range(node.x.rank)))
    for index, axis in enumerate(a % x.rank for a in axes):
        if not _kept(node, index, axis):
            x = along(x, _responses(node, index, axis), axis, node.y)
    return x


def _scales(node: Node) -> Tensor | None:
    scales = node.held(2) if node.has(2) else None
    return None if scales is None or scales.shape == (0,) else scales


def _kept(node: Node, index: int, axis: int) -> bool:
    """Whether the operator leaves this axis as it is."""
    before, after = (t.shape[axis] if t.shape is not None else None for t in (node.held(0), node.y))
    scales = _scales(node)
    if scales is None:
        return before is not None and before == after
    if scales.const is not None and scales.const[index] == 1:
        return True
    near = scales.const is None or 0.5 < scales.const[index] < 2
    if before == after if isinstance(before, int) else near:
        raise UnsupportedError("a scale that keeps the length of an axis, which runtimes read in two ways")
    return False


def _responses(node: Node, index: int, axis: int) -> Tensor:
    """(before, after): what the operator makes of unit vectors; asked at run time, because runtimes round their way."""
    skipped = ("axes", "keep_aspect_ratio_policy", "extrapolation_value")
    attributes = {n: a.value for n, a in node.raw.attributes.items() if n not in skipped}
    before, after = xp.dim(node.held(0), axis), xp.dim(node.y, axis)
    units = xp.expand_dims(unit_rows(before, node.y), [0, 1])
    scales, sizes = _scales(node), None
    if scales is None:
        sizes = xp.concat([node.ints(1, 1), before, after])
    else:
        scales = xp.concat([scales.lift([1, 1, 1]), xp.slice_axis(scales, 0, index, index + 1)])
    made = node.copy.writer.op("Resize", units, None, scales, sizes, fold=False, **attributes)
    return xp.squeeze(made, [0, 1])
