"""A graph while its operators are lowered: what is known of its values, and the nodes written so far."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx import GraphProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from onnxcam.shapes import has_rank, infer_node, types_of

T = TypeVar("T")
Array = npt.NDArray[Any]
Weights = dict[str, ir.TensorProtocol]
_LARGE = 1024  # bytes of a new constant that stays out of the graph while ONNX's tools copy it
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)


class StaysError(Exception):
    """Raised by a lowering that does not cover what the node asks for; the node stays as it is."""


class Draft:
    """The graph under work.

    Args:
        graph: the graph, or a subgraph; its nodes are replaced by :meth:`finish`.
        opset: version of the default domain.
        weights: tensors held outside the graph, by name; its inputs stand for them.
        names: every name in use, in all graphs of the model.
        outer: the graph around a subgraph.
    """

    def __init__(
        self, graph: GraphProto, opset: int, weights: Weights, names: set[str], outer: Draft | None = None
    ) -> None:
        self.graph, self.opset, self.weights, self.outer = graph, opset, weights, outer
        self.names = names
        self.nodes: list[NodeProto] = []
        self.shared: dict[Any, str] = {}
        self._types = types_of(graph)
        self._tensors = {t.name: t for t in graph.initializer} | _constants(graph)
        self._inferred = 0

    def inner(self, graph: GraphProto) -> Draft:
        """A subgraph, which sees this graph's values."""
        return Draft(graph, self.opset, self.weights, self.names, self)

    def fresh(self, name: str) -> str:
        """A name that nothing has, like ``name``."""
        tries = (f"{name}{f'_{k}' if k else ''}" for k in range(len(self.names) + 1))
        found = next(t for t in tries if t not in self.names)
        self.names.add(found)
        return found

    def type_of(self, name: str) -> TypeProto | None:
        """What is known of a value's type; nodes are looked at when their outputs are asked for."""
        while not has_rank(self._types.get(name)) and self._inferred < len(self.nodes):
            self._infer(self.nodes[self._inferred])
            self._inferred += 1
        known = self._types.get(name)
        return self.outer.type_of(name) if known is None and self.outer is not None else known

    def _infer(self, node: NodeProto) -> None:
        if node.domain not in ("", "ai.onnx"):
            return
        types = {n: t for n in node.input if n and (t := self._types.get(n)) is not None}
        with suppress(Exception):  # what cannot be told stays unknown
            known = {n: a for n in node.input if self._is_integer(n) and (a := self.array(n)) is not None}
            self._types.update(infer_node(node, types, known, self.opset))

    def _is_integer(self, name: str) -> bool:
        known = self._types.get(name)
        return known is not None and known.tensor_type.elem_type in _INTEGERS

    def renamed(self, old: str, new: str) -> None:
        """Carry over what is known of a value to its new name."""
        if old in self._types:
            self._types[new] = self._types.pop(old)

    def array(self, name: str) -> Array | None:
        """The data of a constant."""
        if name in self._tensors:
            return numpy_helper.to_array(self._tensors[name])
        if name in self.weights:
            return self.weights[name].numpy()
        return self.outer.array(name) if self.outer is not None else None

    def constant(self, array: Array, name: str) -> str:
        """A new constant; equal ones are held once."""
        key = ("constant", str(array.dtype), array.shape, array.tobytes())
        if key not in self.shared:
            self.shared[key] = self.fresh(name)
            self._hold(numpy_helper.from_array(array, self.shared[key]))
        return self.shared[key]

    def _hold(self, tensor: TensorProto) -> None:
        self._types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        if self.outer is None and len(tensor.raw_data) > _LARGE:
            self.weights[tensor.name] = cast("ir.TensorProtocol", ir.from_proto(tensor))
            self.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            self._tensors[tensor.name] = tensor
            self.graph.initializer.append(tensor)

    def finish(self) -> None:
        """Put the nodes written into the graph."""
        nodes = GraphProto(node=self.nodes).node
        del self.graph.node[:]
        self.graph.node.extend(nodes)


def _constants(graph: GraphProto) -> dict[str, TensorProto]:
    nodes = (n for n in graph.node if n.op_type == "Constant" and n.attribute[0].name == "value")
    return {n.output[0]: n.attribute[0].t for n in nodes}


@dataclass
class Call:
    """A node that is lowered, as its lowering sees it: values are names.

    Attributes:
        node: the node.
        draft: the graph that it stands in.
    """

    node: NodeProto
    draft: Draft
    _written: list[NodeProto] = field(default_factory=list)

    @property
    def opset(self) -> int:
        """Version of the default domain that is written."""
        return self.draft.opset

    def input(self, index: int) -> str:
        """Input ``index``; "" where it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def refuse_inputs(self, **positions: int) -> None:
        """Leave the node as it is where one of these inputs is given."""
        for name, index in positions.items():
            if self.input(index):
                raise StaysError(f"with {name}")

    def wants(self, index: int) -> bool:
        """Whether output ``index`` has a name."""
        return index < len(self.node.output) and bool(self.node.output[index])

    def attr(self, name: str, default: T) -> T:
        """An attribute, of the type of its default."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return cast("T", value.decode() if isinstance(value, bytes) else value)
        return default

    def attributes(self, *without: str) -> dict[str, Any]:
        """The node's attributes but for some."""
        return {a.name: helper.get_attribute_value(a) for a in self.node.attribute if a.name not in without}

    def dtype(self, name: str) -> int:
        """ONNX element type of a value; 0 where it is unknown."""
        known = self.draft.type_of(name)
        return 0 if known is None else known.tensor_type.elem_type

    def dims(self, name: str) -> list[int | None]:
        """The lengths of a value's axes, None for a free one."""
        known = self.draft.type_of(name)
        if known is None or not has_rank(known):
            raise StaysError(f"the rank of {name} is unknown")
        return [d.dim_value if d.HasField("dim_value") else None for d in known.tensor_type.shape.dim]

    def array(self, name: str) -> Array | None:
        """The data of a constant; None for what is computed."""
        return self.draft.array(name) if name else None

    def number(self, value: float, like: str) -> str:
        """A number of the element type of ``like``."""
        dtype = self.dtype(like) or TensorProto.FLOAT
        return self.constant(np.asarray(value, dtype=helper.tensor_dtype_to_np_dtype(dtype)))

    def integers(self, *values: int) -> str:
        """A vector of int64."""
        return self.constant(np.asarray(values, dtype=np.int64))

    def constant(self, array: npt.ArrayLike) -> str:
        """A new constant."""
        return self.draft.constant(np.asarray(array), f"{self.node.output[0]}/constant")

    def op(self, op_type: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Write a node with one output; ``name`` is what the output is called like."""
        return self.ops(op_type, *inputs, outputs=1, name=name, **attributes)[0]

    def ops(self, op_type: str, *inputs: str, outputs: int, name: str = "", **attributes: Any) -> list[str]:
        """Write a node with several outputs."""
        made = [self.draft.fresh(name or f"{self.node.output[0]}/{op_type}") for _ in range(outputs)]
        given = [*inputs]
        while given and not given[-1]:
            given.pop()
        node = helper.make_node(op_type, given, made, **attributes)
        self.draft.nodes.append(node)
        self._written.append(node)
        return made

    def finish(self, results: str | Sequence[str]) -> None:
        """Give the results the names of the node's outputs, and the node that makes the first one the node's name."""
        names = [results] if isinstance(results, str) else list(results)
        for wanted, made in zip(self.node.output, names, strict=False):
            if not wanted:
                continue
            maker = next((n for n in self._written if made in n.output), None)
            if maker is None or made in self.draft.shared.values():
                made = self.op("Identity", made)
                maker = self._written[-1]
            self._rename(made, wanted)
            if wanted == self.node.output[0]:
                maker.name = self.node.name

    def _rename(self, old: str, new: str) -> None:
        for node in self._written:
            node.input[:] = [new if n == old else n for n in node.input]
            node.output[:] = [new if n == old else n for n in node.output]
        self.draft.renamed(old, new)
