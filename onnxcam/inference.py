"""ONNX's shape inference, kept from what kills it.

Its builds end the process where a Slice follows a negative length, as a window larger than its picture leaves behind.
So every length that may be negative is looked at before a Slice sees it, and where that cannot be done, as within the
body of a Loop, another process has to survive the model first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from functools import cache
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from onnxcam.integrity import names_read, subgraphs
from onnxcam.isolation import CrashError, Worker

# Operators that make no negative length, or whose inference refuses one; what is not known to be so is looked at.
_KEEPING = set(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization Bernoulli BitShift BitwiseAnd
    BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Compress Concat Constant ConstantOfShape Cos Cosh
    CumProd CumSum DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp
    EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GreaterOrEqual GroupNormalization GRU Hardmax HardSigmoid HardSwish Identity
    InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
    LRN LSTM MatMul MatMulInteger Max Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonZero Not OneHot Or Pow
    PRelu QLinearMatMul QuantizeLinear RandomNormalLike RandomUniformLike Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
    RMSNormalization RNN Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax
    Softplus Softsign SpaceToDepth Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile Transpose Trilu
    Unsqueeze Where Xor
    """.split()  # noqa: SIM905 (a page of names)
)
# Operators that make negative lengths only of numbers below 0, or of such as overflow.
_BY_NUMBERS = {"Expand", "Pad", "Split", "Resize", "Upsample", "CenterCropPad", "RoiAlign", "TopK"}
_MOST_TIMES, _LONGEST = 2**20, 2**40  # that much longer, of such a length, is a number still
_PATIENCE = 30.0  # seconds
_LOOKS = 100  # of parts that may count with the integers of all parts before them


def infer_shapes(proto: ModelProto, **settings: bool) -> ModelProto:
    """As ``onnx.shape_inference.infer_shapes``.

    Raises:
        ValueError: a length is negative.
        onnx.shape_inference.InferenceError: types or shapes contradict one another.
    """
    check_lengths(proto)
    return _sound(onnx.shape_inference.infer_shapes(proto, **settings))


def infer_node_outputs(
    node: NodeProto, types: Mapping[str, TypeProto], opset: int, **more: Any
) -> dict[str, TypeProto]:
    """As ``onnx.shape_inference.infer_node_outputs``, of a node of the default domain; negative lengths are free.

    Raises:
        onnx.shape_inference.InferenceError: types or shapes contradict one another.
    """
    found = onnx.shape_inference.infer_node_outputs(
        onnx.defs.get_schema(node.op_type, opset, ""), node, {n: _freed(t) for n, t in types.items()},
        opset_imports=[onnx.helper.make_opsetid("", opset)], **more,
    )  # fmt: skip
    return {name: _freed(given) for name, given in found.items()}


def _freed(given: TypeProto) -> TypeProto:
    if all(d.dim_value >= 0 for d in given.tensor_type.shape.dim):
        return given
    free = TypeProto()
    free.CopyFrom(given)
    _free(free)
    return free


def _free(given: TypeProto) -> None:
    while kind := next((k for k in ("sequence_type", "optional_type") if given.HasField(k)), None):
        given = getattr(given, kind).elem_type
    for dim in given.tensor_type.shape.dim:
        if dim.dim_value < 0:
            dim.Clear()


def free_negative_lengths(graph: GraphProto) -> None:
    """Some exporters write -1 for a free axis; ONNX leaves it out."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        _free(value.type)
    for body in (body for node in graph.node for body in subgraphs(node)):
        free_negative_lengths(body)


def check_lengths(proto: ModelProto) -> None:
    """Look at the lengths that Slices will see, from one to the next.

    Raises:
        ValueError: one is negative, or too large for any computer, or ONNX crashes.
    """
    if any(map(_cannot_be_told, proto.graph.node)):
        _try_elsewhere(proto)
    if not any(map(_slices, proto.graph.node)):
        return
    for given in proto.graph.input:
        if any(d.dim_value > _LONGEST for d in given.type.tensor_type.shape.dim):
            raise ValueError(f"{given.name} has a length of more than {_LONGEST}")
    reads = _reads(proto.graph)
    looks = _looks(proto.graph, reads)
    if len(looks) > _LOOKS:
        _try_elsewhere(proto)
    elif looks:
        draft = _Draft(proto, reads)
        for shown in looks:
            draft.look(shown)


def _cannot_be_told(node: NodeProto) -> bool:
    """Whether its inference may crash for a reason that is seen during that alone."""
    if node.op_type in ("EyeLike", "RegexFullMatch"):  # of an input without a type
        return True
    if node.op_type == "GatherND":
        return any(a.name == "batch_dims" and a.i < 0 for a in node.attribute)
    return any(any(map(_cannot_be_told, body.node)) or _cuts_and_slices(body) for body in subgraphs(node))


def _cuts_and_slices(body: GraphProto) -> bool:
    if not any(map(_slices, body.node)):
        return False
    return bool(_looks(body, _reads(body)))


def _reads(graph: GraphProto) -> list[list[str]]:
    return [list(filter(None, names_read(node))) for node in graph.node]


def _try_elsewhere(proto: ModelProto) -> None:
    """Infer it in a process of its own: one that crashes there would have ended this one.

    Raises:
        ValueError: it crashed, or did not end in time.
    """
    try:
        Worker(_PATIENCE).call(_try, proto.SerializeToString())
    except CrashError as error:
        raise ValueError(f"ONNX's shape inference {error}") from None


def _try(data: bytes) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # of an assertion that fails, the error tells
    with suppress(Exception):  # it is raised again where it counts
        onnx.shape_inference.infer_shapes(data, data_prop=True)


def _looks(graph: GraphProto, reads: Sequence[Sequence[str]]) -> list[list[int]]:
    """Which nodes each look is the first to show: a Slice is shown one look after the last that may shrink before it.

    What is shown last has nothing behind it that would have to be kept from seeing it, and is left out.
    """
    numbers = {t.name: t for t in graph.initializer}
    kernels = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    kernels |= {t.name: list(t.dims) for t in graph.initializer}
    shown, shrunk = dict[str, int](), dict[str, int]()  # by value: its look, and that of the last that may shrink
    found = list[list[int]]()
    for k, node in enumerate(graph.node):
        read = [name for name in reads[k] if name in shown]
        look = max((shown[name] for name in read), default=0)
        cut = max((shrunk[name] for name in read), default=-1)
        if _slices(node):
            look = max(look, cut + 1)
        if _may_shrink(node, numbers, kernels):
            cut = look
        made = list(filter(None, node.output))
        shown |= dict.fromkeys(made, look)
        shrunk |= dict.fromkeys(made, cut)
        found += [[] for _ in range(len(found), look + 1)]
        found[look].append(k)
    return found[:-1]


class _Draft:
    """A graph that is inferred part by part; what one part found out is an input of the next."""

    def __init__(self, proto: ModelProto, reads: Sequence[Sequence[str]]) -> None:
        graph = proto.graph
        self._proto, self._nodes, self._reads = proto, graph.node, reads
        self._maker = {name: k for k, node in enumerate(graph.node) for name in node.output if name}
        self._weights = {t.name: t for t in graph.initializer}
        self._inputs = {v.name: v for v in graph.input}
        self._told = {v.name: v for v in (*graph.value_info, *graph.output)}
        self._types, self._counted = dict[str, TypeProto](), set(self._weights)
        for node in graph.node:
            if _is_counted(node, self._counted):
                self._counted.update(filter(None, node.output))

    def look(self, shown: Iterable[int]) -> None:
        """Infer these nodes, and those before them whose numbers ONNX counts with, which cannot be handed over.

        Raises:
            ValueError: a length is negative.
        """
        asked, given = set[int](), dict[str, ValueInfoProto]()
        left = list(shown)
        while left:
            k = left.pop()
            if k in asked:
                continue
            asked.add(k)
            for name in self._reads[k]:
                if name in self._inputs:
                    given[name] = self._inputs[name]
                elif name in self._types and name not in self._counted:
                    given[name] = ValueInfoProto(name=name, type=self._types[name])
                elif name in self._maker:
                    left.append(self._maker[name])
        part = _sound(onnx.shape_inference.infer_shapes(self._excerpt(sorted(asked), given), data_prop=True))
        self._types |= {v.name: v.type for v in (*part.graph.value_info, *part.graph.output)}

    def _excerpt(self, asked: Sequence[int], given: Mapping[str, ValueInfoProto]) -> ModelProto:
        nodes = [self._nodes[k] for k in asked]
        names = dict.fromkeys(n for k, node in zip(asked, nodes, strict=True) for n in (*self._reads[k], *node.output))
        graph = GraphProto(
            name="part",
            node=nodes,
            initializer=[self._weights[n] for n in names if n in self._weights],
            sparse_initializer=self._proto.graph.sparse_initializer,
            input=given.values(),
            value_info=[self._told[n] for n in names if n in self._told and n not in given],
        )
        more = {"opset_import": self._proto.opset_import, "functions": self._proto.functions}
        return ModelProto(ir_version=self._proto.ir_version, graph=graph, **more)


def _is_counted(node: NodeProto, counted: Set[str]) -> bool:
    """Whether ONNX may know the numbers that a node makes, as it does of shapes, and not their type alone."""
    read = [name in counted for name in node.input if name]
    if node.op_type in ("Constant", "Shape", "Size"):
        return True
    if node.op_type in ("Cast", "Gather", "Slice", "Squeeze", "Unsqueeze"):
        return read[:1] == [True]
    if node.op_type in ("Add", "Concat", "Mul", "Sub"):
        return all(read)
    return any(read) and (node.domain not in ("", "ai.onnx") or node.op_type in _counting())


@cache
def _counting() -> set[str]:
    """Operators whose numbers ONNX computes; newer releases may have more."""
    return {s.name for s in onnx.defs.get_all_schemas_with_history() if s.has_data_propagation_function}


def _slices(node: NodeProto) -> bool:
    return node.op_type == "Slice" or any(_slices(inner) for graph in subgraphs(node) for inner in graph.node)


def _may_shrink(node: NodeProto, numbers: Mapping[str, TensorProto], kernels: Mapping[str, list[int]]) -> bool:
    if bodies := subgraphs(node):
        return any(_may_shrink(inner, numbers, kernels) for graph in bodies for inner in graph.node)
    if node.op_type in _KEEPING:
        return False
    if node.op_type not in _BY_NUMBERS:
        return not _padded(node, kernels)
    given = [name for name in node.input[1:] if name]
    told = [a for a in node.attribute if a.name not in ("axis", "axes")]
    if node.op_type == "Split" and len(node.output) > 2 and not given and all(a.name != "split" for a in told):
        return True  # 12 into 9 parts: eight of 2 and one of -4
    attributes = [v for a in told for v in (a.i, a.f, *a.ints, *a.floats)]
    return not all(name in numbers and _sane(numbers[name]) for name in given) or not all(map(_fits, attributes))


def _padded(node: NodeProto, kernels: Mapping[str, list[int]]) -> bool:
    """Whether a convolution's window fits even into nothing, so that a length that is none stays none at worst."""
    if node.op_type != "Conv" or len(node.input) < 2 or node.input[1] not in kernels:
        return False
    kernel, given = kernels[node.input[1]][2:], {a.name: list(a.ints) for a in node.attribute if a.ints}
    ones, n = [1] * len(kernel), len(kernel)
    pads, steps = given.get("pads", [0] * 2 * n), [given.get(k, ones) for k in ("strides", "dilations")]
    if any(a.name == "auto_pad" for a in node.attribute) or given.get("kernel_shape", kernel) != kernel:
        return False
    if len(pads) != 2 * n or any(len(step) != n or min(step, default=1) < 1 for step in steps):
        return False
    return all(0 <= d * (k - 1) <= a + b for d, k, a, b in zip(steps[1], kernel, pads[:n], pads[n:], strict=True))


def _sane(tensor: TensorProto) -> bool:
    return all(map(_fits, onnx.numpy_helper.to_array(tensor).ravel().tolist()))


def _fits(number: float) -> bool:
    return 0 <= number <= _MOST_TIMES  # not a NaN


def _sound(proto: ModelProto) -> ModelProto:
    for value in (*proto.graph.value_info, *proto.graph.output):
        if any(d.dim_value < 0 for d in value.type.tensor_type.shape.dim):
            raise ValueError(f"{value.name} has a negative length: what makes it reads more than there is")
    return proto
