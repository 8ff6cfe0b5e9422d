"""Where a picture lies in the input of an exported model, and the resizes there and back, as nodes.

Sizes and offsets are computed in whole numbers, from the shape of the picture; a resize is a product with matrices that
come from them. Where the picture's size is fixed, all of that is constant, and runtimes fold it when they load.

Grey levels are Pillow's, to the level: its weights have 22 bits, grey levels 8, and float32 sums hold 24. So the upper
and the lower 11 bits of the weights are multiplied apart, and every sum is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from onnxcam.core.localize import Placement
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor, Writer
from onnxcam.image import InputSpec, Preprocess

_BLOCK = 64  # outputs of one product; of fewer, the products hardly pay for their nodes
FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64


@dataclass(frozen=True)
class Axis:
    """One axis of a :class:`~onnxcam.core.localize.Placement`: whole numbers of the graph.

    Attributes:
        source, resized, offset, size: int64 scalars, as there.
        cut: the input may show a part of the picture.
        padded: the input may have a margin.
    """

    source: Tensor
    resized: Tensor
    offset: Tensor
    size: Tensor
    cut: bool = False
    padded: bool = False

    @property
    def same(self) -> bool:
        """The picture is the input: equal constants, and equal expressions, are one tensor."""
        return self.source is self.resized is self.size and not self.cut and not self.padded

    def _shown(self, part: slice = slice(None)) -> Tensor:
        """Twice the centres of the input's pixels, in pixels of the resized picture."""
        return _odd(self.size, part) + self.offset * 2

    def inside(self) -> Tensor:
        """(size,) bool: not margin."""
        at = self._shown()
        return (at > 0) & (at < self.resized * 2)

    def _centres(self, part: slice = slice(None)) -> Tensor:
        """Of the input's pixels in the picture, times 2 resized; margins repeat the edge."""
        at = self._shown(part)
        return (_within(at, at.lift(1), self.resized * 2 - 1) if self.padded else at) * self.source

    def to_input(self, x: Tensor, axis: int, kind: str, antialias: bool) -> Tensor:
        """Grey levels (N, C, h, w) with this axis, 2 or 3, resized: :func:`onnxcam.core.maps.resize_pixels`."""
        if kind == "nearest":
            return x.writer.op("Gather", x, self._centres() / (self.resized * 2), axis=axis)
        before = 2 if kind == "bicubic" and not antialias else 0
        if before:  # a kernel that is not widened reads two pixels beyond the edge, which are the edge's again
            beyond = _within(_count(self.source + 4) - 2, self.source.lift(0), self.source - 1)
            x = x.writer.op("Gather", x, beyond, axis=axis)
        products = [self._product(x, axis, kind, antialias, before, part) for part in _blocks(self.size)]
        coarse, fine = (xp.concat(parts, axis=axis) for parts in zip(*products, strict=True))
        found = xp.floor((coarse + xp.floor((fine + 2.0**21) * 2.0**-11)) * 2.0**-11)
        return xp.minimum(xp.maximum(found, 0), 255.0) if kind == "bicubic" else found

    def _product(
        self, x: Tensor, axis: int, kind: str, antialias: bool, before: int, part: slice
    ) -> tuple[Tensor, Tensor]:
        """Sums of some of the input's pixels, with the upper and with the lower 11 bits of the weights."""
        reach = (_largest(self.source, self.resized) if antialias else self.resized) * 2
        centres = self._centres(part)
        lo, hi = self._read(centres, reach * 2 if kind == "bicubic" else reach, before)
        places = (_range(lo, hi) * 2 + (1 - 2 * before)) * self.resized
        weights = xp.floor(_matrix(centres, places, reach, 3 - axis, kind, ir.DataType.DOUBLE) * 2.0**22 + 0.5)
        upper = xp.floor(weights * 2.0**-11)
        seen = x.writer.op("Slice", x, *(xp.expand_dims(n, 0) for n in (lo, hi)), x.writer.constant([axis]))
        coarse, fine = (xp.astype(w, FLOAT) for w in (upper, weights - upper * 2.0**11))
        if axis == 3:
            return xp.matmul(seen, coarse), xp.matmul(seen, fine)
        return xp.matmul(coarse, seen), xp.matmul(fine, seen)

    def _read(self, centres: Tensor, support: Tensor, before: int) -> tuple[Tensor, Tensor]:
        """The range of pixels, counted from the first of them and ``before`` more, that some outputs read."""
        first, last = centres[0], centres[-1]
        near = _largest(first - support + self.resized * (2 * before), first.lift(0)) / (self.resized * 2)
        far = (last + support) / (self.resized * 2) + (1 + before)
        return near, far.writer.op("Min", far, self.source + 2 * before)

    def back(self, axis: int) -> Tensor:
        """The matrix from the input to the picture, 0 for what the model did not see: its input side is ``axis``."""
        centres, places = _odd(self.source) * self.resized, self._shown() * self.source
        left, right = self.offset * 2 * self.source, (self.offset + self.size) * 2 * self.source
        near = _within(centres, left, right) if self.cut else centres
        matrix = _matrix(
            near, places, _largest(self.source, self.resized) * 2, axis, margin=self.inside() if self.padded else None
        )
        if not self.cut:
            return matrix
        seen = xp.expand_dims((centres >= left) & (centres < right), axis)
        return xp.where(seen, matrix, 0.0)


def _matrix(
    centres: Tensor,
    places: Tensor,
    reach: Tensor,
    axis: int,
    kind: str = "bilinear",
    dtype: ir.DataType = FLOAT,
    margin: Tensor | None = None,
) -> Tensor:
    """Weights of the inputs at ``places``, along ``axis``, for the outputs at ``centres``; they sum to 1.

    The numerators are whole, and exact in float32 up to 2^24: a picture of 16 000 pixels against an input of 512.
    """
    far = xp.astype(xp.expand_dims(places, 1 - axis), dtype) - xp.astype(xp.expand_dims(centres, axis), dtype)
    support, far = xp.astype(reach, dtype), xp.abs(far)
    weights = _cubic(far / support) if kind == "bicubic" else xp.maximum(support - far, 0)
    if margin is not None:
        weights = weights * xp.astype(xp.expand_dims(margin, 1 - axis), FLOAT)
    return weights / xp.sum(weights, axis=axis, keepdims=True)


def _cubic(t: Tensor) -> Tensor:
    """Keys (1981), a = -0.5."""
    near, far = (t * 1.5 - 2.5) * t * t + 1.0, ((t * -0.5 + 2.5) * t - 4.0) * t + 2.0
    return xp.where(t < 1.0, near, xp.where(t < 2.0, far, 0.0))


def _range(start: Tensor, stop: Tensor) -> Tensor:
    """``start`` to ``stop - 1``."""
    if start.const is not None and stop.const is not None:
        return start.writer.constant(np.arange(int(start.const), int(stop.const)))
    return start.writer.op("Range", start, stop, start.lift(1))


def _count(n: Tensor) -> Tensor:
    """0 to n - 1."""
    return _range(n.lift(0), n)


def _odd(n: Tensor, part: slice = slice(None)) -> Tensor:
    """1, 3, ... 2 n - 1, or a part of them: twice the centres of pixels."""
    if part == slice(None):
        return _count(n) * 2 + 1
    return n.writer.constant(np.arange(part.start, part.stop) * 2 + 1)


def _blocks(n: Tensor) -> list[slice]:
    """Parts of n outputs, for a part reads few of the inputs; one where n is not known."""
    if n.const is None:
        return [slice(None)]
    size = int(n.const)
    ends = np.linspace(0, size, -(-size // _BLOCK) + 1).astype(int).tolist()
    return [slice(a, b) for a, b in pairwise(ends)]


def _largest(a: Tensor, b: Tensor) -> Tensor:
    return a.writer.op("Max", a, b)


def _within(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return x.writer.op("Min", x.writer.op("Max", x, low), high)


# ---- where a picture lies in the input ----


def axes_of(preprocess: Preprocess, spec: InputSpec, height: Tensor, width: Tensor) -> list[Axis]:
    """:meth:`onnxcam.image.Preprocess.place`, of a picture whose size may be known only when the model runs."""
    known = height.const, width.const
    if known[0] is not None and known[1] is not None:
        return _settled(height.writer, preprocess.place((int(known[0]), int(known[1])), spec))
    sides = preprocess.size or (spec.height, spec.width)
    if preprocess.fit == "stretch" or sides[0] is None or sides[1] is None:
        size = _stretched(sides, height, width)
        return [Axis(n, s, n.lift(0), s) for n, s in zip((height, width), size, strict=True)]
    fixed = sides[0], sides[1]
    letterbox = preprocess.fit == "letterbox"
    resized = _resized(preprocess, fixed, height, width)
    made = []
    for source, length, side in zip((height, width), resized, fixed, strict=True):
        offset = _offset(preprocess, length, side, max(fixed))
        made.append(Axis(source, length, offset, height.lift(side), cut=not letterbox, padded=letterbox))
    return made


def _settled(writer: Writer, place: Placement) -> list[Axis]:
    made = []
    for row in zip(place.source, place.resized, place.offset, place.size, strict=True):
        source, resized, offset, size = (writer.constant(np.asarray(n, np.int64)) for n in row)
        cut, padded = row[2] > 0 or row[2] + row[3] < row[1], row[1] < row[3]
        made.append(Axis(source, resized, offset, size, cut, padded))
    return made


def _stretched(sides: tuple[int | None, int | None], height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """The input's size; a side that is free follows the other, or the picture."""
    if sides[0] is not None and sides[1] is not None:
        return height.lift(sides[0]), width.lift(sides[1])
    if sides[0] is not None:
        return height.lift(sides[0]), _proportional(height.lift(sides[0]), width, height)
    if sides[1] is not None:
        return _proportional(width.lift(sides[1]), height, width), width.lift(sides[1])
    return height, width


def _proportional(fixed: Tensor, side: Tensor, other: Tensor) -> Tensor:
    """``fixed * side / other``, halves to even, at least 1."""
    ratio = xp.astype(fixed * side, FLOAT) / xp.astype(other, FLOAT)
    return _largest(xp.astype(rounded(ratio), INT64), side.lift(1))


def _resized(preprocess: Preprocess, size: tuple[int, int], height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """The size of the whole picture before it is cut or padded."""
    cover = preprocess.fit != "letterbox"
    whole = (round(size[0] / preprocess.crop_ratio), round(size[1] / preprocess.crop_ratio)) if cover else size
    tall, wide = (height.lift(n) for n in whole)
    if preprocess.fit == "squash":
        return tall, wide
    upright = tall * width >= wide * height
    upright = upright if cover else ~upright

    def along(long: Tensor, side: Tensor, short: Tensor) -> Tensor:
        return long * side / short if cover else _largest((long * 2 * side + short) / (short * 2), long.lift(1))

    return xp.where(upright, tall, along(height, wide, width)), xp.where(upright, along(width, tall, height), wide)


def _offset(preprocess: Preprocess, resized: Tensor, side: int, longest: int) -> Tensor:
    """Of the input's first pixel in the resized picture, halves to even; negative in a letterbox."""
    if preprocess.fit == "letterbox":
        return -((resized.lift(side) - resized) / (2 if preprocess.align == "center" else longest + 1))
    return xp.astype(rounded(xp.astype(resized - side, FLOAT) * 0.5), INT64)


def rounded(x: Tensor) -> Tensor:
    """The nearest whole number, halves to even."""
    return x.writer.op("Round", x)
