"""The array API (https://data-apis.org/array-api) on graphs: a formula on these functions writes itself as nodes.

The functions carry the names of NumPy's, so a formula written against a namespace ``xp`` runs on arrays with
``xp = numpy`` and writes the same formula into a graph with ``xp = symbolic``. Arithmetic is :class:`Tensor`'s own.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcam.graph.writer import PREFIX, Tensor, Writer, matmul, same_shape, shape_of, type_proto
from onnxcam.model import Dim

__all__ = ["PREFIX", "Tensor", "Writer", "matmul", "same_shape", "shape_of", "type_proto"]
_LAST = np.iinfo(np.int64).max  # the end of an axis, to Slice
Axis = int | Sequence[int] | None


def _unary(op_type: str, doc: str) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        return x.writer.op(op_type, x)

    function.__doc__ = doc
    return function


abs = _unary("Abs", "Absolute value.")
ceil = _unary("Ceil", "Round up.")
cos = _unary("Cos", "Cosine.")
exp = _unary("Exp", "e to the power.")
floor = _unary("Floor", "Round down.")
log = _unary("Log", "Natural logarithm.")
logical_not = _unary("Not", "Logical negation.")
sigmoid = _unary("Sigmoid", "1 / (1 + exp(-x)).")
sign = _unary("Sign", "-1, 0 or 1.")
sin = _unary("Sin", "Sine.")
sqrt = _unary("Sqrt", "Square root.")
tanh = _unary("Tanh", "Hyperbolic tangent.")


def maximum(x: Tensor, y: Tensor | npt.ArrayLike) -> Tensor:
    """Elementwise maximum; against 0 it is a Relu."""
    zero = not isinstance(y, Tensor) and np.ndim(y) == 0 and y == 0
    return x.writer.op("Relu", x) if zero else x.writer.op("Max", x, x.lift(y))


def minimum(x: Tensor, y: Tensor | npt.ArrayLike) -> Tensor:
    """Elementwise minimum."""
    return x.writer.op("Min", x, x.lift(y))


def where(condition: Tensor, x: Tensor | float, y: Tensor | float) -> Tensor:
    """``x`` where the condition holds, else ``y``; one of them is a tensor."""
    like = x if isinstance(x, Tensor) else y
    assert isinstance(like, Tensor)
    return like.writer.op("Where", condition, like.lift(x), like.lift(y))


def astype(x: Tensor, dtype: ir.DataType) -> Tensor:
    """Cast; nothing is written where the type is right already."""
    return x if x.dtype == dtype else x.each(lambda t: t.writer.op("Cast", t, to=int(dtype)))


def _axes(x: Tensor, axis: Axis) -> Tensor | None:
    if axis is None:
        return None
    return x.writer.constant(np.atleast_1d(np.asarray(axis, dtype=np.int64)))


def _reduce(op_type: str, x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    nothing = axis is not None and not isinstance(axis, int) and len(axis) == 0
    if op_type != "ReduceSum" and _is_flat(x, axis):
        x = x.small  # the node stays: channels-last converters (onnx2tf) tell by it which axes are the picture's
    return x if nothing else x.writer.op(op_type, x, _axes(x, axis), keepdims=int(keepdims))


def _is_flat(x: Tensor, axis: Axis) -> bool:
    """Whether ``x`` is a pending broadcast along these axes alone: mean, maximum and minimum are its operand's."""
    small, like = x.small.shape, x.shape
    if x.small is x or axis is None or small is None or like is None or len(small) != len(like):
        return False
    over = {a % len(like) for a in np.atleast_1d(axis)}
    return builtins.all(d == 1 if k in over else d is not None and d == like[k] for k, d in enumerate(small))


def sum(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Sum over axes; of maps (N, C, ...) times a number per channel, summed over the channels, a matrix product."""
    scaled = per_channel(x, "Mul") if axis in (1, (1,)) and not keepdims and x.small is x else None
    return _reduce("ReduceSum", x, axis, keepdims) if scaled is None else _mixed(*scaled)


def per_channel(x: Tensor, op_type: str) -> tuple[Tensor, Tensor] | None:
    """(N, C, 1, ...) and (N, C, ...), of which ``x`` was written as the product (Mul) or the sum (Add)."""
    node = x.value.producer()
    if node is None or node.op_type != op_type or not (node.name or "").startswith(PREFIX):
        return None
    a, b = (x.writer.tensor(v) for v in node.inputs if v is not None)
    return next(((each, maps) for each, maps in ((a, b), (b, a)) if _isper_channel(each, maps, x)), None)


def _isper_channel(each: Tensor, maps: Tensor, x: Tensor) -> bool:
    known, dims = each.shape or (), x.shape or ()
    same = len(known) == len(dims) > 2 and known[1] == dims[1] is not None
    return same and {*known[2:]} == {1} and maps.shape == dims


def _mixed(each: Tensor, maps: Tensor) -> Tensor:
    """sum_c each_c maps_c: maps are read once, as rows of pixels."""
    dims = maps.shape or ()
    rows = reshape(maps, [0, dims[1] if isinstance(dims[1], int) else 0, -1])
    found = matmul(reshape(each, [0, 1, -1]), rows)
    sizes = [dim(maps, a) for a in builtins.range(2, maps.rank)]
    return reshape(found, concat([maps.writer.constant([-1]), *sizes]), [dims[0], *dims[2:]])


def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Mean over axes; over the picture from less than the maps, where that is known."""
    from onnxcam.graph.means import known_mean  # which is written with these functions

    known = known_mean(x) if keepdims and x.small is x and _is_picture(x, axis) else None
    return known or _reduce("ReduceMean", x, axis, keepdims)


def _is_picture(x: Tensor, axis: Axis) -> bool:
    """Whether the axes are all of (N, C, ...) but the first two."""
    return axis is not None and x.shape is not None and {*np.atleast_1d(axis)} == {*range(2, x.rank)} != set()


def max(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Maximum over axes."""
    return _reduce("ReduceMax", x, axis, keepdims)


def min(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Minimum over axes."""
    return _reduce("ReduceMin", x, axis, keepdims)


def argmax(x: Tensor, axis: int, keepdims: bool = False) -> Tensor:
    """Index of the first maximum along one axis, int64."""
    return x.writer.op("ArgMax", x, axis=axis, keepdims=int(keepdims))


def dim(x: Tensor, axis: int) -> Tensor:
    """Length of one axis as an int64 vector of one element."""
    known = x.shape[axis] if x.shape is not None else None
    axis = axis % x.rank
    if isinstance(known, int):
        return x.writer.constant(np.asarray([known], dtype=np.int64))
    return x.writer.op("Shape", x, start=axis, end=axis + 1)


def reshape(x: Tensor, shape: Sequence[int] | Tensor, dims: Sequence[Dim] | None = None) -> Tensor:
    """Reshape (0 copies an axis, -1 infers one); ``dims`` tells the result's shape where ``shape`` is a tensor."""
    target = shape if isinstance(shape, Tensor) else x.writer.constant(np.asarray(shape, dtype=np.int64))
    return x.writer.op("Reshape", x, target, shape=dims)


def reshape_like(x: Tensor, like: Tensor) -> Tensor:
    """Reshape to the shape of ``like``."""
    if same_shape(x, like):
        return x
    dims = [d if isinstance(d, int) else -1 for d in like.shape or (None, None)]
    told = dims.count(-1) == 1 and 0 not in dims  # one free axis follows from the others
    return reshape(x, dims if told else shape_of(like), like.shape)


def broadcast_to(x: Tensor, shape: Sequence[int] | Tensor, dims: Sequence[Dim] | None = None) -> Tensor:
    """Expand to ``shape``."""
    target = shape if isinstance(shape, Tensor) else x.writer.constant(np.asarray(shape, dtype=np.int64))
    return x.writer.op("Expand", x, target, shape=dims)


def expand_like(x: Tensor, like: Tensor) -> Tensor:
    """Expand to the shape of ``like``, when that is needed."""
    return x if same_shape(x, like) else Tensor.pending(x.small, like)


def permute_dims(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Transpose by a permutation; what was transposed while writing is not transposed twice."""
    node = x.value.producer()
    if node is not None and node.op_type == "Transpose" and (node.name or "").startswith(PREFIX):
        assert node.inputs[0] is not None
        first = node.attributes.get_ints("perm", [])
        x, axes = x.writer.tensor(node.inputs[0]), [first[a] for a in axes]
    return x if list(axes) == [*range(len(axes))] else x.writer.op("Transpose", x, perm=list(axes))


def expand_dims(x: Tensor, axis: int | Sequence[int]) -> Tensor:
    """Insert axes of length 1."""
    return x.writer.op("Unsqueeze", x, _axes(x, axis))


def squeeze(x: Tensor, axis: int | Sequence[int]) -> Tensor:
    """Remove axes of length 1."""
    return x.writer.op("Squeeze", x, _axes(x, axis))


def concat(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Concatenate."""
    return tensors[0] if len(tensors) == 1 else tensors[0].writer.op("Concat", *tensors, axis=axis)


def zeros_like(x: Tensor, dtype: ir.DataType | None = None) -> Tensor:
    """Zeros of the shape of ``x``, and of its type unless another is given."""
    return expand_like(x.writer.constant(0, dtype or x.dtype), x)


def ones_like(x: Tensor) -> Tensor:
    """Ones of the shape and type of ``x``."""
    return expand_like(x.writer.constant(1, x.dtype), x)


def slice_axis(x: Tensor, axis: int, start: int, stop: int, step: int = 1) -> Tensor:
    """``x[start:stop:step]`` along one axis."""
    bounds = [x.writer.constant(np.asarray([v], dtype=np.int64)) for v in (start, stop, axis, step)]
    return x.writer.op("Slice", x, *bounds)


def take(x: Tensor, indices: npt.ArrayLike, axis: int) -> Tensor:
    """Entries along one axis, in the order of ``indices``; neighbours are a slice."""
    places = np.asarray(indices, dtype=np.int64)
    if len(places) and np.array_equal(places, np.arange(places[0], places[0] + len(places))):
        known = x.shape[axis] if x.shape is not None else None
        return x if len(places) == known else slice_axis(x, axis, int(places[0]), int(places[-1]) + 1)
    return x.writer.op("Gather", x, x.writer.constant(places), axis=axis)


def flip(x: Tensor, axis: int | Sequence[int]) -> Tensor:
    """Reverse along axes."""
    for a in np.atleast_1d(axis):
        x = slice_axis(x, int(a), -1, -(2**31), -1)
    return x


def pad(x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Zeros before and after; negative amounts crop."""
    x = _crop(x, [builtins.max(-b, 0) for b in before], [builtins.max(-a, 0) for a in after])
    amounts = [builtins.max(v, 0) for v in (*before, *after)]
    return x.writer.op("Pad", x, x.writer.constant(np.asarray(amounts, dtype=np.int64))) if any(amounts) else x


def _crop(x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    cuts = [(b, -a if a else _LAST, axis) for axis, (b, a) in enumerate(zip(before, after, strict=True)) if a or b]
    if not cuts:
        return x
    return x.writer.op("Slice", x, *(x.writer.constant(np.asarray(v, dtype=np.int64)) for v in zip(*cuts, strict=True)))
