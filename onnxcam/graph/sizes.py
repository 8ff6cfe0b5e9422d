"""The shapes that values have for one picture, and the integers that follow from them.

A free batch axis leaves many lengths open, and so does shape arithmetic that inference does not follow. For one picture
everything is known: what lies beside the path is computed when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnxcam.constants import evaluated
from onnxcam.model import Model, dims_of
from onnxcam.shapes import infer_node

Array = npt.NDArray[Any]
_FOLDED = 2**20  # elements of an array that is computed


class Sizes:
    """Shapes at batch 1.

    Args:
        model: the model.
    """

    def __init__(self, model: Model) -> None:
        self.opset = model.opset
        self._known: dict[int, Array] = {}
        self._sizes: dict[int, tuple[int, ...]] = {}
        self._asked = set[int]()
        for value in model.inputs:
            self._size_of_input(value)

    def tell(self, value: ir.Value, size: tuple[int, ...]) -> None:
        """Set a shape."""
        self._sizes[id(value)] = size

    def _size_of_input(self, value: ir.Value) -> None:
        if value.shape is not None and id(value) not in self._sizes:
            dims = dims_of(value)
            batch = [1, *dims[1:]] if dims and not isinstance(dims[0], int) else list(dims)
            if all(isinstance(d, int) for d in batch):
                self._sizes[id(value)] = tuple(d for d in batch if isinstance(d, int))

    def size(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """The shape at batch 1; None where it is unknown."""
        if value is None:
            return None
        if id(value) not in self._sizes:
            if value.shape is not None and all(isinstance(d, int) for d in value.shape):
                self._sizes[id(value)] = tuple(cast("list[int]", list(dims_of(value))))
            else:
                self._ask(value)
        return self._sizes.get(id(value))

    def data(self, value: ir.Value | None) -> Array | None:
        """What a value is known to hold."""
        if value is None or value.const_value is not None:
            return None if value is None or value.const_value is None else value.const_value.numpy()
        if id(value) not in self._known:
            self._ask(value)
        return self._known.get(id(value))

    def _ask(self, value: ir.Value) -> None:
        """Compute what lies beside the path, once."""
        node = value.producer()
        if node is None or id(node) in self._asked:
            return
        self._asked.add(id(node))
        if node.op_type == "Shape":
            if (size := self.size(node.inputs[0])) is not None:
                bounds = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", len(size)))
                self._hold(node.outputs, [np.asarray(size[bounds], dtype=np.int64)])
            return
        held = [self.data(v) for v in node.inputs if v is not None]
        if all(a is not None and a.size <= _FOLDED for a in held):
            self._evaluate(node)
        if any(id(v) not in self._sizes for v in node.outputs):
            self.infer(node)

    def _evaluate(self, node: ir.Node) -> None:
        feeds = {str(v.name): self.data(v) for v in node.inputs if v is not None}
        with suppress(Exception):  # what cannot be computed stays unknown
            found = evaluated(ir.to_proto(node), {"": self.opset}, cast("dict[str, Array]", feeds))
            self._hold(node.outputs, found)

    def _hold(self, values: Sequence[ir.Value], arrays: Sequence[Array]) -> None:
        for value, array in zip(values, arrays, strict=False):
            self._known[id(value)], self._sizes[id(value)] = array, array.shape

    def infer(self, node: ir.Node) -> None:
        """The shapes of a node's outputs, by ONNX's inference on those of its inputs."""
        types, known = {}, {}
        for value in node.inputs:
            size = self.size(value)
            if value is None or size is None or value.dtype is None:
                continue
            types[str(value.name)] = onnx.helper.make_tensor_type_proto(int(value.dtype), size)
            if value.dtype == ir.DataType.INT64 and (held := self.data(value)) is not None:
                known[str(value.name)] = held
        with suppress(Exception):  # operators that inference does not know
            found = infer_node(ir.to_proto(node), types, known, self.opset)
            for value in node.outputs:
                dims = found[str(value.name)].tensor_type.shape.dim
                if all(d.HasField("dim_value") for d in dims):
                    self._sizes[id(value)] = tuple(d.dim_value for d in dims)
