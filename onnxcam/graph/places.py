"""Where each element of a value comes from in the picture, followed through the graph.

Transformers cut the picture into tokens, roll it, split it into windows and put class tokens in front; the graph says
so in Reshapes, Transposes, Slices and Concats. They are run here, once, on places (:mod:`.marks`) instead of features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import cast

import numpy as np
import onnx_ir as ir

from onnxcam.graph.marks import (
    EVERYWHERE,
    NOWHERE,
    Complex,
    is_whole,
    located,
    merged,
    overlaid,
    raster,
    thin,
)
from onnxcam.graph.moves import MOVES, UnknownError
from onnxcam.graph.sizes import Sizes
from onnxcam.model import Model

_SPATIAL = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "Resize", "DepthToSpace", "SpaceToDepth"}
_PRODUCTS = {"MatMul", "Gemm"}
_KEEPING = {"Identity", "Cast", "Dropout", "Clip", "Softmax", "LogSoftmax", "LayerNormalization", "BatchNormalization"}
_KEEPING |= {"InstanceNormalization", "GroupNormalization", "RMSNormalization", "LpNormalization", "LRN"}
_KEEPING |= {"QuantizeLinear", "DequantizeLinear"}
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Pow", "Sum", "Mean", "Max", "Min", "Where", "PRelu", "Mod"}


def places(model: Model, path: Sequence[ir.Node], source: ir.Value) -> dict[int, Complex]:
    """The places of every value of ``path``, by ``id``; {} where the picture's size is free.

    Args:
        model: the model.
        path: the nodes from ``source`` on that carry a gradient, in graph order.
        source: the image, (N, C, H, W) or (N, H, W, C).
    """
    image = model.image_input
    if image.height is None or image.width is None or source.shape is None or len(source.shape) != 4:
        return {}
    grid = raster(image.height, image.width)
    start = grid[None, None] if image.layout == "NCHW" else grid[None, :, :, None]
    shape = (1, image.channels, *grid.shape) if image.layout == "NCHW" else (1, *grid.shape, image.channels)
    return _Walk(model, path, [(source, np.broadcast_to(start, shape))]).places


def follow(model: Model, path: Sequence[ir.Node], start: ir.Value, marks: Complex) -> dict[int, Complex]:
    """As :func:`places`, from an inner value on whose places are given."""
    return _Walk(model, path, [(start, marks)]).places


class _Walk:
    """One pass over the graph in its order: shapes at batch 1, integers, and places along the path."""

    def __init__(self, model: Model, path: Sequence[ir.Node], start: Sequence[tuple[ir.Value, Complex]]) -> None:
        self.places = {id(value): marks for value, marks in start}
        self.sizes = Sizes(model)
        for value, marks in start:
            self.sizes.tell(value, marks.shape)
        for node in path:
            self._step(node)

    def _step(self, node: ir.Node) -> None:
        function = MOVES.get(node.op_type)
        found: list[Complex] | None = None
        with suppress(ValueError, IndexError, UnknownError):
            found = function(self, node) if function is not None else [self._computed(node)]
        if found is None:
            self.sizes.infer(node)
            found = [
                np.broadcast_to(EVERYWHERE, size) for v in node.outputs if (size := self.sizes.size(v)) is not None
            ]
        for value, array in zip(node.outputs, found, strict=False):
            self.places[id(value)] = array
            self.sizes.tell(value, array.shape)

    def at(self, value: ir.Value | None) -> Complex:
        """The places of a value; elements that do not come from the picture have none.

        Raises:
            UnknownError: its shape is unknown.
        """
        if value is not None and id(value) in self.places:
            return self.places[id(value)]
        if (size := self.sizes.size(value)) is None:
            raise UnknownError
        return np.broadcast_to(NOWHERE, size)

    def integers(self, node: ir.Node, index: int) -> list[int] | None:
        """An integer input, flat; None where it is left out.

        Raises:
            UnknownError: it is unknown.
        """
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return None
        if (held := self.sizes.data(value)) is None:
            raise UnknownError
        return [int(k) for k in held.reshape(-1)]

    def _computed(self, node: ir.Node) -> Complex:
        """What an operator that is no move makes of its inputs' places."""
        first = node.inputs[0]
        if node.op_type in _SPATIAL:
            return self._spatial(node)
        if node.op_type in _PRODUCTS:
            return self._product(node)
        if node.op_type.startswith("Reduce"):
            return self._reduced(node)
        if node.op_type == "Attention":
            return self._fused(node)
        if node.op_type in _KEEPING or len([v for v in node.inputs if v is not None]) == 1:
            a = self.at(first)
            self.sizes.infer(node)
            if (self.sizes.size(node.outputs[0]) or a.shape) != a.shape:
                raise UnknownError
            return a
        if node.op_type not in _ELEMENTWISE:
            raise UnknownError
        return overlaid([self.at(v) for v in node.inputs if v is not None and id(v) in self.places], self._shape(node))

    def _shape(self, node: ir.Node) -> tuple[int, ...]:
        sizes = [self.sizes.size(v) for v in node.inputs if v is not None]
        if None in sizes:
            raise UnknownError
        return np.broadcast_shapes(*cast("list[tuple[int, ...]]", sizes))

    def _spatial(self, node: ir.Node) -> Complex:
        """A convolution or pool of the whole picture starts a grid of its own."""
        self.sizes.infer(node)
        size, a = self.sizes.size(node.outputs[0]), self.at(node.inputs[0])
        if size is None or len(size) != 4:
            raise UnknownError
        if (
            node.op_type == "Conv"
            and size[2:] == a.shape[2:]
            and set((self.sizes.size(node.inputs[1]) or ())[2:]) == {1}
        ):
            return np.broadcast_to(merged(a, (1,)), size)
        if not is_whole(a) or math.prod(size[2:]) == 1:
            raise UnknownError
        return np.broadcast_to(raster(*size[2:])[None, None], size)

    def _product(self, node: ir.Node) -> Complex:
        left, right = (id(v) in self.places for v in node.inputs[:2])
        if left and right:
            return self._attention(node)
        self.sizes.infer(node)
        a, size = self.at(node.inputs[0 if left else 1]), self.sizes.size(node.outputs[0])
        if size is None:
            raise UnknownError
        turned = node.attributes.get_int("transA" if left else "transB", 0)
        a = np.swapaxes(a, 0, 1) if turned else a
        return np.broadcast_to(merged(a, (a.ndim - (1 if left else 2),)), size)

    def _attention(self, node: ir.Node) -> Complex:
        """A product of two computed values lies where the operand lies whose places are not summed over."""
        side, (a, b) = aligned(node, self.places), map(self.at, node.inputs[:2])
        if side is None:
            raise UnknownError
        size = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
        return np.broadcast_to(a[..., :1] if side == 0 else b[..., :1, :], size)

    def _fused(self, node: ir.Node) -> Complex:
        """The operator Attention: its result lies where its queries lie."""
        self.sizes.infer(node)
        a, size = self.at(node.inputs[0]), self.sizes.size(node.outputs[0])
        if size is None or thin(a).shape[-1] != 1:
            raise UnknownError
        return np.broadcast_to(a[..., :1], size)

    def _reduced(self, node: ir.Node) -> Complex:
        a = self.at(node.inputs[0])
        axes = self.integers(node, 1)
        if axes is None:
            axes = list(node.attributes.get_ints("axes", [])) or list(range(a.ndim))
        found = merged(a, tuple(k % a.ndim for k in axes))
        return found if node.attributes.get_int("keepdims", 1) else np.squeeze(found, tuple(k % a.ndim for k in axes))


def aligned(node: ir.Node, found: Mapping[int, Complex]) -> int | None:
    """Which operand of a product of two computed values keeps its places: queries keep theirs, keys and values do not.

    None where none does.
    """
    if node.op_type == "Attention":
        return 0
    left, right = (found.get(id(v)) for v in node.inputs[:2])
    if left is not None and located(left) and thin(left).shape[-1] == 1:
        return 0
    return 1 if right is not None and located(right) and right.ndim > 1 and thin(right).shape[-2] == 1 else None
