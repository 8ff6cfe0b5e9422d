"""A copy of a path through a model, for ONNX Runtime's gradient builder: small, and in operators that it can do.

The copy is differentiated, never run: values that exist in the model are read from the model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import onnx_ir as ir

from onnxcam.gradients.rules import UnsupportedError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.paths import FLOATS
from onnxcam.graph.symbolic import Tensor, Writer

T = TypeVar("T")
Made = Tensor | tuple[Tensor, ...]
Lowering = Callable[["Node"], Made]
_KEPT_INSIDE = 1024  # bytes; larger weights are inputs of the copy, so that it stays a few kB


class Copy:
    """The path, rewritten, as a graph of its own.

    Args:
        path: the nodes, in graph order.
        wrt: what to differentiate with respect to.
        opset: version of the default domain.
        table: how each operator is rewritten; what is not in it is refused.
        gated: ids of the nodes whose gradient a ReLU policy decides.

    Attributes:
        graph: the copy.
        origins: values of the model, by the name of what stands for them in the copy.
        gates: per gated node the output of the Relu that marks its place, and the slope.
        refused: nodes that cannot be rewritten, each with the reason.
    """

    def __init__(
        self,
        path: Sequence[ir.Node],
        wrt: Sequence[ir.Value],
        opset: int,
        table: Mapping[str, Lowering],
        gated: Collection[int] = (),
    ) -> None:
        self.opset = opset
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": opset}, name="path")
        self.writer = Writer(self.graph, opset)
        self.table, self.gated = table, gated
        self.named = not any(_may_broadcast(n) for n in path)
        self.origins: dict[str, ir.Value] = {}
        self.gates: list[tuple[Tensor, Tensor]] = []
        self.refused: list[tuple[ir.Node, str]] = []
        self._values: dict[int, Tensor] = {}
        self._held: dict[int, Tensor] = {}
        self.live = {id(v) for v in wrt} | {id(v) for n in path for v in n.outputs}
        for node in path:
            try:
                self._add(node)
            except UnsupportedError as error:
                self.refused.append((node, str(error)))

    def value(self, original: ir.Value) -> Tensor:
        """What stands for ``original``; it is differentiated through."""
        if id(original) not in self.live:
            return self.held(original)
        if id(original) not in self._values:
            self._values[id(original)] = self._input(original)
        return self._values[id(original)]

    def held(self, original: ir.Value) -> Tensor:
        """The same, as a constant to the builder."""
        if id(original) not in self._held:
            weight = original.const_value
            inside = weight is not None and not original.is_graph_input() and weight.nbytes <= _KEPT_INSIDE
            self._held[id(original)] = self._initializer(original) if inside else self._input(original)
        return self._held[id(original)]

    def _new(self, original: ir.Value, **data: Any) -> ir.Value:
        value = ir.Value(name=f"v{len(self.origins)}", type=original.type, shape=self._shape(original), **data)
        self.origins[cast("str", value.name)] = original
        return value

    def _shape(self, original: ir.Value) -> ir.Shape | None:
        if original.shape is None or self.named:
            return original.shape
        return ir.Shape([d if isinstance(d, int) else None for d in original.shape])

    def _input(self, original: ir.Value) -> Tensor:
        value = self._new(original)
        self.graph.inputs.append(value)
        return self.writer.tensor(value)

    def _initializer(self, original: ir.Value) -> Tensor:
        value = self._new(original, const_value=original.const_value)
        self.graph.register_initializer(value)
        return self.writer.tensor(value)

    def _add(self, node: ir.Node) -> None:
        made = self._lowered(node)
        for original, tensor in zip(node.outputs, made if isinstance(made, tuple) else (made,), strict=False):
            self._bind(original, tensor)

    def _lowered(self, node: ir.Node) -> Made:
        lowering = self.table.get(node.op_type) if node.domain == "" else None
        if lowering is None:
            raise UnsupportedError("not among the operators whose gradient is known to be right")
        inputs = [v for v in node.inputs if v is not None and id(v) in self.live]
        for value in (*inputs, *(v for v in node.outputs if v.dtype in FLOATS)):
            if value.dtype != ir.DataType.FLOAT:
                raise UnsupportedError(f"{value.dtype} values; its kernels are for FLOAT")
            if value.shape is None:
                raise UnsupportedError(f"the rank of {value.name} is unknown")
        return lowering(Node(node, self))

    def separate(self) -> None:
        """No node reads a value twice: the builder writes an invalid graph where one does."""
        for node in list(self.graph):
            for index, value in enumerate(node.inputs):
                if value is not None and value.dtype in FLOATS and value in node.inputs[:index]:
                    again = ir.node("Identity", [value])
                    again.outputs[0].name = f"again{len(self.graph)}"
                    again.outputs[0].type, again.outputs[0].shape = value.type, value.shape
                    self.graph.insert_before(node, again)
                    node.replace_input_with(index, again.outputs[0])

    def _bind(self, original: ir.Value, tensor: Tensor) -> None:
        """Let ``tensor``, or an Identity of it where it stands for something else already, stand for ``original``."""
        taken = tensor.value.producer() is None or tensor.value.name in self.origins
        value = (self.writer.op("Identity", tensor, memo=False) if taken else tensor).value
        value.name = f"v{len(self.origins)}"
        value.type, value.shape = original.type, self._shape(original)
        self.origins[value.name] = original
        self._values[id(original)] = self.writer.tensor(value)


_BROADCASTING = {"Add", "Sub", "Mul", "Div", "Pow", "Sum", "Mean", "Max", "Min", "Where", "PRelu", "Expand"} | {
    "MatMul",
    "Gemm",
}


def _may_broadcast(node: ir.Node) -> bool:
    """Are two free axes of different names combined? The builder trusts names: it takes such axes for different ones.

    Unnamed, it looks at the lengths at run time.
    """
    if node.op_type not in _BROADCASTING:
        return False
    skipped = 2 if node.op_type == "MatMul" else 0
    out = _names(node.outputs[0])
    operands = node.inputs[2:] if node.op_type == "Gemm" else node.inputs
    inputs = [_names(v) for v in operands if v is not None and v.dtype in FLOATS]
    pairs = [p for dims in inputs for p in list(zip(dims[::-1], out[::-1], strict=False))[skipped:]]
    return any(d not in (1, o) for d, o in pairs)


def _names(value: ir.Value) -> list[int | str | None]:
    return [d if isinstance(d, int) else d.value for d in value.shape or ()]


@dataclass(frozen=True)
class Node:
    """A node as its lowering sees it.

    Attributes:
        raw: the node in the model.
        copy: where the lowering writes.
    """

    raw: ir.Node
    copy: Copy

    @property
    def x(self) -> Tensor:
        """The first input, differentiated through."""
        return self.xs[0]

    @property
    def xs(self) -> tuple[Tensor, ...]:
        """The inputs that are given, differentiated through."""
        return tuple(self.copy.value(v) for v in self.raw.inputs if v is not None)

    @property
    def y(self) -> Tensor:
        """The first output, held."""
        return self.copy.held(self.raw.outputs[0])

    def held(self, index: int) -> Tensor:
        """Input ``index``, held."""
        value = self.raw.inputs[index]
        assert value is not None
        return self.copy.held(value)

    def has(self, index: int) -> bool:
        """Is input ``index`` given?"""
        return index < len(self.raw.inputs) and self.raw.inputs[index] is not None

    def live(self, index: int) -> bool:
        """Does input ``index`` depend on what is differentiated?"""
        return self.has(index) and id(self.raw.inputs[index]) in self.copy.live

    def const(self, index: int) -> Any:
        """The array of a constant input; None where it is left out."""
        if not self.has(index):
            return None
        value = self.raw.inputs[index]
        if value is None or value.const_value is None or value.is_graph_input():
            raise UnsupportedError(f"input {index} is computed at run time; only a constant is covered")
        return value.const_value.numpy()

    def attr(self, name: str, default: T) -> T:
        """An attribute, of the type of its default."""
        found = self.raw.attributes.get(name)
        if found is None:
            return default
        return cast("T", list(found.value) if isinstance(default, list) else found.value)

    def op(self, op_type: str, *inputs: Tensor | None, **attributes: Any) -> Tensor:
        """Write one node into the copy."""
        return self.copy.writer.op(op_type, *inputs, **attributes)

    def ints(self, *numbers: int) -> Tensor:
        """A constant int64 vector."""
        return self.copy.writer.constant(np.asarray(numbers, dtype=np.int64))

    def as_it_is(self) -> tuple[Tensor, ...]:
        """The node itself."""
        inputs = [None if v is None else self.copy.value(v) for v in self.raw.inputs]
        attributes = {a.name: a.value for a in self.raw.attributes.values()}
        outputs = len(self.raw.outputs)
        return self.copy.writer.ops(self.raw.op_type, *inputs, outputs=outputs, memo=False, **attributes)

    def only(self, *indices: int) -> None:
        """Refuse where another input depends on what is differentiated."""
        if any(self.live(i) for i in range(len(self.raw.inputs)) if i not in indices):
            raise UnsupportedError("an input other than the first depends on the image")

    @property
    def gated(self) -> bool:
        """Does a policy decide its gradient?"""
        return id(self.raw) in self.copy.gated

    def gate(self, x: Tensor, slope: Tensor) -> Tensor:
        """A piecewise linear activation. Where a policy decides its gradient, a Relu marks the place."""
        slope = xp.astype(slope, x.dtype)
        if not self.gated:
            return x * slope
        mark = self.op("Relu", x, memo=False)
        self.copy.gates.append((mark, slope))
        return mark
