"""Writing nodes into a graph, as expressions.

A :class:`Tensor` stands for a value of the graph that is being written; a :class:`Writer` appends the nodes. Every node
is a standard operator of the default domain; every name starts with ``onnxcam/``. Constants fold while writing, equal
expressions are written once, and shapes are inferred node by node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnxcam.constants import evaluated
from onnxcam.model import Dim
from onnxcam.shapes import infer_node

PREFIX = "onnxcam/"
Array = npt.NDArray[Any]
_MAY_GROW = 4096  # bytes; an Expand is a node rather than a large constant
_FOLD_BELOW = 2**26  # bytes; larger constants are computed at run time rather than held twice


class Writer:
    """Appends nodes to one graph.

    Args:
        graph: the graph to write into; existing nodes are left as they are.
        opset: version of the default domain, for type inference and folding.

    Attributes:
        one_hots: of rows (N, C) that are 1 at one place and else 0, these places (N,), by the rows' value. Who writes
            such rows notes them; rules for products read entries there, rather than multiply by zeros. A place beyond
            the end means a row of zeros.
        means: of maps (N, C, ...), what writes their means over the picture, (N, C, 1, ...), from less than the maps.
            Who moves values about in a picture notes it; :func:`onnxcam.graph.symbolic.mean` reads it, and where
            nothing else reads the map it is not computed at all.
    """

    def __init__(self, graph: ir.Graph, opset: int) -> None:
        self.graph = graph
        self.opset = opset
        self._written: dict[Any, tuple[Tensor, ...]] = {}
        self._constants: dict[Any, Tensor] = {}
        self.one_hots: dict[ir.Value, Tensor] = {}
        self.means: dict[ir.Value, Callable[[], Tensor]] = {}
        self._count = max((_number(v.name) for v in _values(graph)), default=0)

    def tensor(self, value: ir.Value) -> Tensor:
        """The expression that stands for ``value``."""
        return Tensor(value, self)

    def constant(self, array: npt.ArrayLike, dtype: ir.DataType | None = None) -> Tensor:
        """A constant; it becomes an initializer when a node first reads it."""
        data = np.asarray(array, dtype=dtype.numpy() if dtype is not None else None)
        key = (str(data.dtype), data.shape, hashlib.sha1(data.tobytes()).digest())
        if key not in self._constants:
            self._constants[key] = Tensor(ir.Value(const_value=ir.Tensor(data), **_type(data)), self)
        return self._constants[key]

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[Dim]) -> Tensor:
        """A new graph input."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.graph.inputs.append(value)
        return self.tensor(value)

    def output(self, tensor: Tensor, name: str) -> None:
        """Make ``tensor`` a graph output called ``name``."""
        held = self._written_here(tensor)
        value = tensor.value if held else self.op("Identity", tensor, memo=False).value
        value.name = name
        self.graph.outputs.append(value)

    def _written_here(self, tensor: Tensor) -> bool:
        node = tensor.value.producer()
        mine = node is not None and (node.name or "").startswith(PREFIX)
        return mine and not tensor.value.is_graph_output()

    def sweep(self) -> None:
        """Remove what was written and nothing reads; nothing is written after it."""
        for node in reversed(self.graph):
            mine = (node.name or "").startswith(PREFIX)
            if mine and not any(v.uses() or v.is_graph_output() for v in node.outputs):
                self.graph.remove(node, safe=True)
        unread = [v for v in self.graph.initializers.values() if not v.uses() and not v.is_graph_output()]
        for value in unread:
            if (value.name or "").startswith(PREFIX):
                del self.graph.initializers[str(value.name)]

    def op(
        self,
        op_type: str,
        *inputs: Tensor | None,
        shape: Sequence[Dim] | None = None,
        memo: bool = True,
        fold: bool = True,
        **attributes: Any,
    ) -> Tensor:
        """Write one node with one output.

        Args:
            op_type: the operator.
            inputs: its inputs; None where one is left out.
            shape: overrides what inference finds.
            memo: return the node that is there already, if the same was written before.
            fold: compute it now if all inputs are constants.
            attributes: the node's.
        """
        return self.ops(op_type, *inputs, outputs=1, shape=shape, memo=memo, fold=fold, **attributes)[0]

    def ops(
        self,
        op_type: str,
        *inputs: Tensor | None,
        outputs: int,
        shape: Sequence[Dim] | None = None,
        memo: bool = True,
        fold: bool = True,
        **attributes: Any,
    ) -> tuple[Tensor, ...]:
        """Write one node with several outputs."""
        attrs = {k: v for k, v in attributes.items() if v is not None}
        key = (
            op_type,
            tuple(id(t.value) if t is not None else None for t in inputs),
            outputs,
            repr(sorted(attrs.items())),
        )
        if memo and key in self._written:
            return self._written[key]
        folded = self._folded(op_type, inputs, outputs, attrs) if fold else None
        made = folded or self._node(op_type, inputs, outputs, attrs, shape)
        self._written[key] = made
        return made

    def _folded(
        self, op_type: str, inputs: Sequence[Tensor | None], outputs: int, attrs: dict[str, Any]
    ) -> tuple[Tensor, ...] | None:
        """The constants that an operator on constants gives, by ONNX's reference evaluator."""
        given = [t for t in inputs if t is not None]
        if op_type == "Shape" and given[0].shape is not None:
            dims = given[0].shape[attrs.get("start", 0) : attrs.get("end")]
            known = [d for d in dims if isinstance(d, int)]
            return (self.constant(known, ir.DataType.INT64),) if len(known) == len(dims) else None
        if op_type == "Identity" or not given or any(t.value.const_value is None for t in given):
            return None
        arrays = [t.const for t in given]
        if any(a is None for a in arrays) or sum(a.nbytes for a in arrays if a is not None) > _FOLD_BELOW:
            return None
        names = ["" if t is None else f"i{k}" for k, t in enumerate(inputs)]
        node = onnx.helper.make_node(op_type, names, [f"o{k}" for k in range(outputs)], **attrs)
        feeds = {n: cast("Tensor", t).const for n, t in zip(names, inputs, strict=True) if n}
        try:
            results = evaluated(node, {"": self.opset}, cast("dict[str, Array]", feeds))
        except Exception:  # what the evaluator lacks (it says so in many ways) is left to the runtime
            return None
        given_bytes = sum(a.nbytes for a in arrays if a is not None)
        if sum(r.nbytes for r in results) > given_bytes + _MAY_GROW:
            return None
        return tuple(map(self.constant, results))

    def _node(
        self,
        op_type: str,
        inputs: Sequence[Tensor | None],
        outputs: int,
        attrs: dict[str, Any],
        shape: Sequence[Dim] | None,
    ) -> tuple[Tensor, ...]:
        for tensor in inputs:
            if tensor is not None:
                self.hold(tensor)
        name = f"{PREFIX}{op_type}_{self._next()}"
        types = self._infer(op_type, inputs, outputs, attrs)
        values = [ir.Value(name=name if k == 0 else f"{name}:{k}", type=t, shape=s) for k, (t, s) in enumerate(types)]
        if shape is not None:
            values[0].shape = ir.Shape(shape)
        operands = [t.value if t is not None else None for t in inputs]
        ir_attrs = ir.convenience.convert_attributes(attrs)
        self.graph.append(ir.Node("", op_type, operands, ir_attrs, outputs=values, name=name))
        return tuple(self.tensor(v) for v in values)

    def hold(self, tensor: Tensor) -> None:
        """Register a constant as an initializer of the graph."""
        value = tensor.value
        if value.const_value is not None and value.name is None:
            value.name = f"{PREFIX}const_{self._next()}"
            self.graph.register_initializer(value)

    def _next(self) -> int:
        self._count += 1
        return self._count

    def complete(self, node: ir.Node) -> None:
        """Tell the shapes of a node's outputs, where they are unknown and what was written since tells them."""
        unknown = [v for v in node.outputs if v.shape is None]
        inputs = [None if v is None else self.tensor(v) for v in node.inputs]
        if not unknown or node.domain or any(t is not None and t.value.dtype is None for t in inputs):
            return
        attributes = {a.name: a.value for a in node.attributes.values() if a.type != ir.AttributeType.GRAPH}
        if len(attributes) < len(node.attributes):
            return
        for value, (_, shape) in zip(
            node.outputs, self._infer(node.op_type, inputs, len(node.outputs), attributes), strict=True
        ):
            value.shape = shape if value.shape is None else value.shape

    def _infer(
        self, op_type: str, inputs: Sequence[Tensor | None], outputs: int, attrs: dict[str, Any]
    ) -> list[tuple[ir.TensorType | None, ir.Shape | None]]:
        names = ["" if t is None else f"i{k}" for k, t in enumerate(inputs)]
        outs = [f"o{k}" for k in range(outputs)]
        node = onnx.helper.make_node(op_type, names, outs, **attrs)
        known = {n: t for n, t in zip(names, inputs, strict=True) if t is not None}
        data = {n: t.const for n, t in known.items() if t.dtype == ir.DataType.INT64 and t.const is not None}
        found = infer_node(node, {n: type_proto(t) for n, t in known.items()}, data, self.opset)
        return [_from_proto(found.get(o)) for o in outs]


class Tensor:
    """A value of the graph being written, usable like an array.

    A broadcast stays pending (see :func:`expand_like`) until something needs the expanded value: arithmetic with a
    tensor of the full shape, or with a number, works on the smaller one.

    Attributes:
        writer: who writes it.
    """

    __slots__ = ("_like", "_small", "_value", "writer")
    __array_ufunc__ = None  # numpy arrays on the left hand side give way to the reflected operators below

    def __init__(self, value: ir.Value, writer: Writer) -> None:
        self._value: ir.Value | None = value
        self.writer = writer
        self._small: Tensor | None = None
        self._like: Tensor | None = None

    @classmethod
    def pending(cls, small: Tensor, like: Tensor) -> Tensor:
        """``small``, to be expanded to the shape of ``like`` when that is needed."""
        tensor = cls(small.value, small.writer)
        tensor._value, tensor._small, tensor._like = None, small, like
        return tensor

    @property
    def value(self) -> ir.Value:
        """The graph value; a pending broadcast is written now."""
        if self._value is None:
            assert self._small is not None
            assert self._like is not None
            self._value = self.writer.op("Expand", self._small, shape_of(self._like), shape=self._like.shape).value
        return self._value

    @property
    def small(self) -> Tensor:
        """What broadcasts to this tensor: the operand of a pending broadcast, else itself."""
        return self if self._small is None else self._small

    @property
    def dtype(self) -> ir.DataType:
        """ONNX element type."""
        if self._small is not None:
            return self._small.dtype
        assert self.value.dtype is not None, f"type of {self.value.name} unknown"
        return self.value.dtype

    @property
    def shape(self) -> tuple[Dim, ...] | None:
        """Ints, names of symbolic axes and None; None as a whole where even the rank is unknown."""
        if self._like is not None:
            return self._like.shape
        if self.value.shape is None:
            return None
        return tuple(d if isinstance(d, int) else d.value for d in self.value.shape)

    @property
    def rank(self) -> int:
        """Number of axes."""
        if self.shape is None:
            raise ValueError(f"the rank of {self.value.name} is unknown")
        return len(self.shape)

    @property
    def const(self) -> Array | None:
        """The array, where it is known while writing."""
        if self._value is None:
            return None
        held = self.value.const_value
        return None if held is None or self.value.is_graph_input() else held.numpy()

    def lift(self, other: Tensor | npt.ArrayLike) -> Tensor:
        """``other`` as a tensor of this one's writer; plain numbers and arrays take its element type."""
        return other if isinstance(other, Tensor) else self.writer.constant(other, self.dtype)

    def _binary(self, op_type: str, other: Tensor | npt.ArrayLike, swap: bool = False) -> Tensor:
        a, b = (self.lift(other), self) if swap else (self, self.lift(other))
        for pending, full in ((a, b), (b, a)):
            if pending._small is None or full._small is not None:
                continue
            if same_shape(pending, full):
                a, b = (pending._small, b) if pending is a else (a, pending._small)
                break
            if _fits_in(full, pending):  # a number, or one row for all: the result is as pending as its operand
                small = pending._small._binary(op_type, full, swap=full is a)
                return small if same_shape(small, pending) else Tensor.pending(small, cast("Tensor", pending._like))
        if op_type == "Mul" and (_is_one(a, b) or _is_one(b, a)):
            return b if _is_one(a, b) else a
        return self.writer.op(op_type, a, b)

    def __add__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self._binary("Add", other)

    def __radd__(self, other: npt.ArrayLike) -> Tensor:
        return self._binary("Add", other, swap=True)

    def __sub__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self._binary("Sub", other)

    def __rsub__(self, other: npt.ArrayLike) -> Tensor:
        return self._binary("Sub", other, swap=True)

    def __mul__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self._binary("Mul", other)

    def __rmul__(self, other: npt.ArrayLike) -> Tensor:
        return self._binary("Mul", other, swap=True)

    def __truediv__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self._binary("Div", other)

    def __rtruediv__(self, other: npt.ArrayLike) -> Tensor:
        return self._binary("Div", other, swap=True)

    def __pow__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self._binary("Pow", other)

    def __rpow__(self, other: npt.ArrayLike) -> Tensor:
        return self._binary("Pow", other, swap=True)

    def __matmul__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return matmul(self, cast("Array", other))

    def __rmatmul__(self, other: npt.ArrayLike) -> Tensor:
        return matmul(cast("Array", other), self)

    def each(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """An elementwise function of this tensor; a pending broadcast stays pending."""
        if self._small is None:
            return function(self)
        return Tensor.pending(function(self._small), cast("Tensor", self._like))

    def __neg__(self) -> Tensor:
        return self.each(lambda t: t.writer.op("Neg", t))

    def __gt__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self._binary("Greater", other)

    def __lt__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self._binary("Less", other)

    def __ge__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self._binary("GreaterOrEqual", other)

    def __le__(self, other: Tensor | npt.ArrayLike) -> Tensor:
        return self._binary("LessOrEqual", other)

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return self._binary("Equal", cast("Tensor", other))

    __hash__ = object.__hash__

    def __and__(self, other: Tensor) -> Tensor:
        return self._binary("And", other)

    def __or__(self, other: Tensor) -> Tensor:
        return self._binary("Or", other)

    def __invert__(self) -> Tensor:
        return self.writer.op("Not", self)

    __iter__ = None  # indexing alone would make it a sequence without an end

    def __getitem__(self, places: Any) -> Tensor:
        """Basic indexing as NumPy's; :func:`onnxcam.graph.indexing.indexed`."""
        from onnxcam.graph.indexing import indexed

        return indexed(self, places)

    def __repr__(self) -> str:
        name = self._value.name if self._value is not None else f"pending {self.small.value.name}"
        return f"Tensor({name}, {self.dtype}, {self.shape})"


def shape_of(x: Tensor) -> Tensor:
    """The shape as an int64 vector: a constant where it is known, else a Shape node."""
    dims = x.shape
    if dims is not None and all(isinstance(d, int) for d in dims):
        return x.writer.constant(np.asarray(dims, dtype=np.int64))
    return x.writer.op("Shape", x)


def matmul(x: Tensor | Array, y: Tensor | Array) -> Tensor:
    """Matrix product; a NumPy array on either side is a constant."""
    like = x if isinstance(x, Tensor) else y
    assert isinstance(like, Tensor)
    return like.writer.op("MatMul", like.lift(x), like.lift(y))


def same_shape(x: Tensor, like: Tensor) -> bool:
    """Whether two shapes are known to be equal."""
    return x.shape is not None and None not in x.shape and x.shape == like.shape


def _fits_in(x: Tensor, like: Tensor) -> bool:
    """Whether ``x`` is known to broadcast to the shape of ``like``: each of its axes is 1, or as long as that."""
    if x.shape is None or like.shape is None or len(x.shape) > len(like.shape):
        return False
    return all(d == 1 or (d is not None and d == e) for d, e in zip(x.shape[::-1], like.shape[::-1], strict=False))


def _is_one(x: Tensor, other: Tensor) -> bool:
    """``x * other`` is ``other``: x is the number 1, and has no more axes."""
    known = x.const
    return known is not None and known.size == 1 and known.ndim <= other.rank and bool(np.all(known == 1))


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.initializers.values(), *(v for node in graph for v in node.outputs)]


def _number(name: str | None) -> int:
    """The number that a writer gave to a name; 0 for names that are not a writer's."""
    tail = (name or "").partition(":")[0].rpartition("_")[2]
    return int(tail) if (name or "").startswith(PREFIX) and tail.isdecimal() else 0


def _type(data: Array) -> dict[str, Any]:
    return {"type": ir.TensorType(ir.DataType.from_numpy(data.dtype)), "shape": ir.Shape(data.shape)}


def type_proto(tensor: Tensor) -> onnx.TypeProto:
    """ONNX's message of a tensor's type and shape."""
    return onnx.helper.make_tensor_type_proto(int(tensor.dtype), tensor.shape)


def _from_proto(proto: onnx.TypeProto | None) -> tuple[ir.TensorType | None, ir.Shape | None]:
    if proto is None:
        return None, None
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return ir.TensorType(ir.DataType(tensor.elem_type)), None
    dims = [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim]
    return ir.TensorType(ir.DataType(tensor.elem_type)), ir.Shape(dims)
