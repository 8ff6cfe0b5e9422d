"""Branches and loops whose course is known while writing: what they do, one step after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnxcam.gradients.bodies import BODIES, Written
from onnxcam.gradients.bodies.inline import MOST_NODES, STRUCTURED, Call, Made, call_of, weights_of, write_graph
from onnxcam.gradients.rules import Node, UnsupportedError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor


def structured(*op_types: str) -> Callable[[Callable[[Call], Sequence[Made]]], Callable[[Call], Sequence[Made]]]:
    """Register how operators are written, as nodes of the model and inside subgraphs."""

    def register(function: Callable[[Call], Sequence[Made]]) -> Callable[[Call], Sequence[Made]]:
        for op_type in op_types:
            STRUCTURED[op_type] = function
            BODIES["", op_type] = _body
        return function

    return register


def _body(node: Node) -> Written:
    """What comes out; a sequence carries nothing by itself, and its readers find what it holds."""
    made = STRUCTURED[node.raw.op_type](call_of(node.writer, node.raw))
    return [t if isinstance(t, Tensor) else None for t in made]


def known(tensor: Tensor | None, what: str) -> Any:
    """The number that steers; None where it is left out."""
    if tensor is None:
        return None
    if tensor.const is None:
        raise UnsupportedError(f"{what} is computed at run time")
    return tensor.const.item()


@structured("If")
def branch(call: Call) -> Sequence[Made]:
    """The branch that is taken."""
    graph = call.graph("then_branch" if known(call.input(0), "its condition") else "else_branch")
    return write_graph(call.writer, graph, call.known | weights_of(call.writer, graph))


class _Repeated:
    """A loop's body, written as often as it runs, as long as that stays small."""

    def __init__(self, call: Call) -> None:
        self.writer, self.graph = call.writer, call.graph("body")
        self.around = call.known | weights_of(call.writer, self.graph)
        self.first, self.steps = len(call.writer.graph), 0

    def step(self, values: Sequence[Made]) -> list[Made]:
        """One more run, on these inputs."""
        self.steps += 1
        if max(len(self.writer.graph) - self.first, self.steps) > MOST_NODES:
            raise UnsupportedError(f"written out it is more than {MOST_NODES} nodes")
        return write_graph(self.writer, self.graph, self.around | dict(zip(self.graph.inputs, values, strict=True)))


@structured("Loop")
def loop(call: Call) -> Sequence[Made]:
    """Carried values, then what each run of the body gave, stacked."""
    trips, going, state = known(call.input(0), "its trip count"), call.input(1), list(call.inputs[2:])
    body, rows, yes = _Repeated(call), [], call.writer.constant(True)
    while (trips is None or body.steps < trips) and known(going, "its condition") is not False:
        made = body.step([call.writer.constant(body.steps), yes, *state])
        going, state = _tensor(made[0]), made[1 : 1 + len(state)]
        rows.append([_tensor(t) for t in made[1 + len(state) :]])
    return [*state, *(_stacked(column, 0) for column in zip(*rows, strict=True))]


@structured("Scan")
def scan(call: Call) -> Sequence[Made]:
    """The same over the elements of its inputs."""
    count = call.attr("num_scan_inputs", 0)
    state, scanned = list(call.inputs[:-count]), [_tensor(t) for t in call.inputs[-count:]]
    axes, flips = (call.attr(f"scan_input_{n}", [0] * count) for n in ("axes", "directions"))
    columns = [_elements(x, axis, flip) for x, axis, flip in zip(scanned, axes, flips, strict=True)]
    body, rows = _Repeated(call), []
    for elements in zip(*columns, strict=True):
        made = body.step([*state, *elements])
        state = made[: len(state)]
        rows.append([_tensor(t) for t in made[len(state) :]])
    outs = len(body.graph.outputs) - len(state)
    axes, flips = (call.attr(f"scan_output_{n}", [0] * outs) for n in ("axes", "directions"))
    ordered = [c[::-1] if flip else c for c, flip in zip(zip(*rows, strict=True), flips, strict=True)]
    return [*state, *(_stacked(column, axis) for column, axis in zip(ordered, axes, strict=True))]


def _tensor(made: Made) -> Tensor:
    if not isinstance(made, Tensor):
        raise UnsupportedError("a sequence where a tensor belongs")
    return made


def _elements(x: Tensor, axis: int, flip: int) -> list[Tensor]:
    """The slices along one axis, without it."""
    length = x.shape[axis] if x.shape is not None else None
    if not isinstance(length, int):
        raise UnsupportedError("the scanned axis has no fixed length")
    slices = x.writer.ops("Split", x, outputs=length, axis=axis, num_outputs=length)
    return [xp.squeeze(s, axis) for s in (slices[::-1] if flip else slices)]


def _stacked(column: Sequence[Tensor], axis: int) -> Tensor:
    return xp.concat([xp.expand_dims(t, axis) for t in column], axis)
