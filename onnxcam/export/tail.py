"""Recipro-CAM in a graph: what lies behind the target layer is written a second time, on masked copies of the layer.

The second writing reads the same weights. It runs once, on all positions of all images as one batch.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcam.core import maps
from onnxcam.core.tail import bands
from onnxcam.errors import OptionError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.paths import FLOATS, reads
from onnxcam.graph.surgery import batch_free_shape
from onnxcam.graph.symbolic import Tensor, Writer
from onnxcam.graph.tokens import Tokens
from onnxcam.layers import TargetLayer
from onnxcam.model import Model, dims_of
from onnxcam.targets import CLASS, ClassTarget, Scene, Target

MOST_BYTES = 2**28  # of the masked copies of one image's features
_ONE_RUN = "take a method of one run, such as layercam"
_INSTEAD = f"take a deeper layer (`onnxcam inspect MODEL` lists them), or {_ONE_RUN.removeprefix('take ')}"


_NESTED = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


@dataclass(frozen=True)
class Tail:
    """What lies behind a layer of a model.

    Attributes:
        model: the copy that is written into.
        scene: where the score of the plain run was written.
        layer: where the tail starts.
    """

    model: Model
    scene: Scene
    layer: TargetLayer

    def reciprocam(self, target: Target, index: Tensor, gaussian: bool = False) -> Tensor:
        """:func:`onnxcam.core.tail.reciprocam` as (N, h, w), each sample's class held.

        Args:
            target: the score.
            index: (N,) or (1,), the explained classes.
            gaussian: leave the neighbours, too.

        Raises:
            OptionError: copies too large or of unknown size, or a tail that does not run on a batch of its own.
        """
        self._check(target)
        A = self.scene.writer.tensor(self.model.values[self.layer.value])
        h, w = self._size(A)
        features = xp.expand_dims(A, 1) * xp.expand_dims(_masks(self.layer, A, (h, w), gaussian), 0)
        features = xp.reshape(features, [-1, *(_inner(A) or ())])
        again = _Again(self.model, self.scene.writer, A.value, features, h * w)
        echo = _Echo(self.scene.writer, self.scene.value, self.scene.logits, again=again, outer=self.scene, index=index)
        scores = xp.astype(target.write(echo).score, ir.DataType.FLOAT)
        found: Tensor = maps.normalize(xp, xp.reshape(scores, [-1, h, w]), "minmax")
        return found

    def _check(self, target: Target) -> None:
        logits = self.scene.logits
        if logits.kind == "dense":
            raise OptionError(f"Recipro-CAM of {logits.name}, a class per pixel, is not exported: {_ONE_RUN}")
        z = np.zeros((1, logits.classes or 1), np.float32)
        if isinstance(target, ClassTarget) and target.held(0, z, logits).key != target.key:
            raise OptionError(
                f"Recipro-CAM explains one score of all masked features, and the target {target.name!r} chooses among "
                "classes anew in each: name them, such as finer:A,B"
            )

    def _size(self, features: Tensor) -> tuple[int, int]:
        """(h, w), of a layer that can be copied that often."""
        inner, layout = _inner(features), self.layer.layout
        if inner is None:
            raise OptionError(
                f"layer {self.layer.name!r} has any size, so that Recipro-CAM's number of positions is unknown; fix "
                f"the size of the model's input, or {_ONE_RUN}"
            )
        h, w = inner[:2] if layout == "NHWC" else inner[1:] if layout == "NCHW" else (layout.height, layout.width)
        size = h * w * math.prod(inner) * features.dtype.itemsize
        if size > MOST_BYTES:
            raise OptionError(
                f"Recipro-CAM at {self.layer.name!r} runs on {h * w} copies of its features, {size / 2**20:.0f} MB for "
                f"each image, and at most {MOST_BYTES >> 20} MB are exported: {_INSTEAD}"
            )
        return h, w


def _masks(layer: TargetLayer, A: Tensor, size: tuple[int, int], gaussian: bool) -> Tensor:
    """(h * w, ...) in the layer's own form, to multiply features with; class and register tokens are kept."""
    (h, w), constant = size, A.writer.constant
    down, across = (constant(bands(n, gaussian), A.dtype) for n in size)
    spots = xp.expand_dims(down, (1, 3)) * xp.expand_dims(across, (0, 2))
    if not isinstance(layer.layout, Tokens):
        return xp.reshape(spots, [h * w, h, w, 1] if layer.layout == "NHWC" else [h * w, 1, h, w])
    column = np.full((_inner(A) or [0])[0], h * w)  # behind the patches' comes one for all other tokens
    column[layer.layout.index] = np.arange(h * w)
    kept = xp.broadcast_to(constant(1, A.dtype), [h * w, 1])
    return xp.expand_dims(xp.take(xp.concat([xp.reshape(spots, [h * w, h * w]), kept], 1), column, 1), 2)


def _inner(x: Tensor) -> list[int] | None:
    """The axes behind the batch, where there is one and all are known."""
    inner = [d for d in (x.shape or ())[1:] if isinstance(d, int)]
    return inner if x.shape and len(inner) == len(x.shape) - 1 else None


class _Again:
    """Values behind a layer, written a second time, on other features; each when it is asked for.

    Args:
        model: is read and written into.
        writer: writes.
        start: the layer.
        features: what stands for it.
        count: how many samples come of one.
    """

    def __init__(self, model: Model, writer: Writer, start: ir.Value, features: Tensor, count: int) -> None:
        self._model, self._writer, self._count = model, writer, count
        self._batch = model.image_input.batch
        self._behind = _reached(model.graph, {start})
        self._given = _reached(model.graph, set(model.graph.inputs))
        self._made = {start: features}

    def __call__(self, value: ir.Value) -> Tensor:
        """What a value becomes."""
        if value not in self._made:
            asked = _leading(value, self._behind - self._made.keys())
            for node in [n for n in self._model.graph if n in asked]:
                self._write(node)
        return self._made[value] if value in self._made else self._beside(value)

    def _write(self, node: ir.Node) -> None:
        if node.domain or any(a.type in _NESTED for a in node.attributes.values()):
            raise self._refused(node, "it is no plain operator")
        inputs = [None if v is None else self(v) for v in node.inputs]
        attributes = {a.name: _plain(a.value) for a in node.attributes.values()}
        shape = batch_free_shape(node) if self._batch else None
        if shape is not None:
            inputs[1] = self._writer.constant(shape)
            attributes.pop("allowzero", None)
        made = self._writer.ops(node.op_type, *inputs, outputs=len(node.outputs), **attributes)
        pairs = dict(zip(node.outputs, made, strict=True))
        if not all(self._is_repeated(v, t) for v, t in pairs.items() if v.uses()):
            raise self._refused(node, "the batch is fixed there")
        self._made.update(pairs)

    def _is_repeated(self, value: ir.Value, made: Tensor) -> bool:
        """Of a fixed batch: whether a value has it, and nothing else, in front, so that each sample is on its own."""
        if self._batch is None:
            return True
        dims = list(dims_of(value)) if value.shape is not None else [None]
        return dims[0] == self._batch and made.shape == (self._batch * self._count, *dims[1:])

    def _refused(self, node: ir.Node, why: str) -> OptionError:
        free = "export the model with a free batch axis, or " if self._batch else ""
        return OptionError(
            f"Recipro-CAM runs what lies behind its layer on a batch of its own, and {node.op_type} (node {node.name}) "
            f"cannot: {why}; {free}{_INSTEAD}"
        )

    def _beside(self, value: ir.Value) -> Tensor:
        """A value that does not depend on the layer: the same for all positions."""
        found = self._writer.tensor(value)
        return self.repeated(found) if value in self._given else found

    def repeated(self, x: Tensor) -> Tensor:
        """(N, ...) to (N * count, ...), each sample for all its positions; what is one for all samples stays."""
        if x.const is not None and (x.shape or (0,))[0] == 1:
            return x
        inner, first = _inner(x), (x.shape or (0,))[0]
        lengths = x.dtype not in FLOATS and inner != []  # of axes, which would not be those of more samples
        if inner is None or lengths or (isinstance(first, int) and first != self._batch):
            raise OptionError(
                f"Recipro-CAM's second run reads {x.value.name} {x.dtype} {x.shape}, which lies beside the layer, and "
                f"what more samples have there is not known: {_INSTEAD}"
            )
        many = xp.broadcast_to(xp.expand_dims(x, 1), [1, self._count, *[1] * len(inner)])
        return xp.reshape(many, [-1, *inner])


@dataclass(frozen=True)
class _Echo(Scene):
    """The scene of a score on the second writing.

    Attributes:
        again: writes it.
        outer: the scene of the plain run, whose inputs are the same.
        index: the classes explained there.
    """

    again: Any = None
    outer: Any = None
    index: Any = None

    def tensor(self, name: str | None = None) -> Tensor:
        """A value of the model, on the masked features."""
        found: Tensor = self.again(super().tensor(name).value)
        return found

    def input(self, name: str, dtype: ir.DataType, *dims: Any) -> Tensor:
        """An input of the plain run for all positions; the class is what it was there."""
        found: Tensor = self.again.repeated(self.index if name == CLASS else self.outer.input(name, dtype, *dims))
        return found


def _reached(graph: ir.Graph, start: Set[ir.Value]) -> set[ir.Value]:
    """What depends on one of ``start``, with them; weights that are inputs, too, do not count."""
    found = {v for v in start if v.const_value is None}
    for node in graph:
        if any(v in found for v in reads(node)):
            found.update(node.outputs)
    return found


def _leading(value: ir.Value, among: Set[ir.Value]) -> set[ir.Node]:
    """The nodes by which a value is made of values ``among`` which it is."""
    found, asked = set[ir.Node](), [value]
    while asked:
        one = asked.pop()
        node = one.producer()
        if one in among and node is not None and node not in found:
            found.add(node)
            asked.extend(reads(node))
    return found


def _plain(value: Any) -> Any:
    return ir.to_proto(value) if isinstance(value, ir.TensorProtocol) else value
