"""Ways through a graph: what carries a gradient, what every way passes, how maps lie."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir

from onnxcam.errors import ModelError
from onnxcam.model import Layout

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
_LEVELS = {t for t in ir.DataType if t.name.startswith(("UINT2", "INT2", "UINT4", "INT4", "UINT8", "INT8", "FLOAT4"))}
_LEVELS |= {t for t in ir.DataType if t.name.startswith(("UINT16", "INT16", "FLOAT8"))}
_COUNTS = {ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64}
_OF_SHAPES = {"Shape", "Size", "ArgMax", "ArgMin", "NonZero", "TopK", "MaxPool", "NonMaxSuppression", "Unique"}
_SUMS = {"ConvInteger", "MatMulInteger"}
_CONVOLUTIONS = {"Conv", "ConvTranspose", "FusedConv", "QLinearConv", "ConvInteger"}
_WEIGHTED = _CONVOLUTIONS | {"MatMul", "Gemm"}
POOLS = {"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"}
# What lies between the last map and the head without computing anything of its own.
PASSING = POOLS | {"Identity", "Cast", "Dropout", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Pad", "Flatten"}
_TO_NHWC, TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]


def float_path(
    of: ir.Value, wrt: Sequence[ir.Value], stops: Collection[str] = (), straight_through: bool = False
) -> list[ir.Node]:
    """The nodes between ``wrt`` and ``of`` along values that carry a gradient, in graph order.

    Paths through shapes and indices (integers) do not count; quantised values between their quantisers do, and
    ``straight_through`` truth values and rounded numbers as well.
    """
    graph = of.graph
    assert graph is not None
    ahead = {id(v) for v in wrt}
    reached = []
    for node in graph:
        if node.op_type in stops or not any(id(v) in ahead for v in reads(node)):
            continue
        ahead.update(id(v) for v in node.outputs if carries(node, v, straight_through))
        reached.append(node)
    behind, path = {id(of)}, []
    for node in reversed(reached):
        if any(id(v) in behind and id(v) in ahead for v in node.outputs):
            behind.update(id(v) for v in reads(node))
            path.append(node)
    return path[::-1]


def carries(node: ir.Node, output: ir.Value, straight_through: bool = False) -> bool:
    """Floats carry a gradient, and so do a quantiser's levels, which other nodes may move about; a Cast's do not.

    Sums of products of levels (ConvInteger, MatMulInteger) are integers that carry one as well; a dynamic quantiser's
    scale counts as a constant. Values of unknown type do, until the operator that makes them is refused.
    """
    if node.op_type == "DynamicQuantizeLinear":
        return output is node.outputs[0]
    if output.dtype is None:
        return True
    if straight_through and output.dtype in _COUNTS and node.op_type not in _OF_SHAPES:
        return True
    if output.dtype in _LEVELS:
        return node.op_type != "Cast"
    return output.dtype in FLOATS or node.op_type in _SUMS


def first_float(value: ir.Value) -> ir.Value:
    """Where an integer image becomes float: the value that pixel methods differentiate at.

    Raises:
        ModelError: the image takes several ways before it is float.
    """
    while value.dtype not in FLOATS:
        ahead = {id(n): n for n in value.consumers() if n.op_type not in ("Shape", "Size")}
        if len(ahead) != 1:
            raise ModelError(
                f"{value.name} ({value.dtype}) is read by {len(ahead)} nodes before it becomes float, so there is no "
                "one place to differentiate at; export the model with a float input"
            )
        value = next(iter(ahead.values())).outputs[0]
    return value


def reads(node: ir.Node) -> list[ir.Value]:
    """A node's inputs, and what its subgraphs capture."""
    graphs = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    inner = [v for g in graphs for n in g for v in reads(n)]
    return [v for v in (*node.inputs, *inner) if v is not None]


def cuts(path: Sequence[ir.Node], source: ir.Value) -> list[ir.Value]:
    """The values that every path from ``source`` to the end passes, in order, without ``source``."""
    members = set(map(id, path))
    left = {id(v): sum(id(c) in members for c in v.consumers()) for n in path for v in n.outputs}
    live: dict[int, ir.Value] = {id(source): source}
    left[id(source)] = sum(id(c) in members for c in source.consumers())
    found: list[ir.Value] = []
    for node in path:
        for value in {id(v): v for v in reads(node)}.values():
            if id(value) in live:
                left[id(value)] -= 1
                if left[id(value)] <= 0:
                    del live[id(value)]
        live.update({id(v): v for v in node.outputs if left[id(v)] > 0 or node is path[-1]})
        if len(live) == 1:
            found.extend(v for v in live.values() if v is not source and v not in found[-1:])
    return found


def map_layouts(path: Sequence[ir.Node]) -> dict[int, Layout]:
    """The layout of every rank-4 value behind the first convolution or matrix product, by ``id``.

    Convolutions and pools give NCHW; a transposition changes it; everything else hands it on.
    """
    layouts: dict[int, Layout] = {}
    weighted = False
    for node in path:
        output = node.outputs[0]
        weighted = weighted or node.op_type in _WEIGHTED
        if not weighted or output.shape is None or len(output.shape) != 4:
            continue
        if node.op_type in _CONVOLUTIONS:
            layouts[id(output)] = "NCHW"
        elif layout := _handed_on(node, layouts):
            layouts.update({id(v): layout for v in node.outputs})
    return layouts


def _handed_on(node: ir.Node, layouts: Mapping[int, Layout]) -> Layout | None:
    perm = list(node.attributes.get_ints("perm", [])) if node.op_type == "Transpose" else []
    if perm in (_TO_NHWC, TO_NCHW):
        return "NHWC" if perm == _TO_NHWC else "NCHW"
    return next((layouts[id(v)] for v in node.inputs if id(v) in layouts), None)
