"""Sequences and optionals whose elements are known one by one while writing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxcam.gradients.bodies.control import known, structured
from onnxcam.gradients.bodies.inline import Call, Elements, Made
from onnxcam.gradients.rules import UnsupportedError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor


def _elements(call: Call) -> Elements:
    given = call.inputs[0]
    if not isinstance(given, tuple):
        raise UnsupportedError("a tensor where a sequence belongs")
    return given


def _position(call: Call, index: int, default: int) -> int:
    given = known(call.input(index), "the position")
    return default if given is None else int(given)


@structured("SequenceEmpty")
def empty(call: Call) -> Sequence[Made]:
    """No elements."""
    return ((),)


@structured("SequenceConstruct")
def construct(call: Call) -> Sequence[Made]:
    """Its inputs."""
    return (tuple(t for t in call.inputs if isinstance(t, Tensor)),)


@structured("SequenceInsert")
def insert(call: Call) -> Sequence[Made]:
    """One more element, by default the last."""
    elements, new = _elements(call), call.input(1)
    assert new is not None
    at = _position(call, 2, len(elements))
    at = at + len(elements) if at < 0 else at
    return ((*elements[:at], new, *elements[at:]),)


@structured("SequenceErase")
def erase(call: Call) -> Sequence[Made]:
    """One element less, by default the last."""
    elements = list(_elements(call))
    del elements[_position(call, 1, -1)]
    return (tuple(elements),)


@structured("SequenceAt")
def at(call: Call) -> Sequence[Made]:
    """One of the elements."""
    return (_elements(call)[_position(call, 1, 0)],)


@structured("SequenceLength")
def length(call: Call) -> Sequence[Made]:
    """How many there are."""
    return (call.writer.constant(len(_elements(call))),)


@structured("ConcatFromSequence")
def concat(call: Call) -> Sequence[Made]:
    """The elements side by side, or along a new axis."""
    axis, elements = call.attr("axis", 0), _elements(call)
    parts = [xp.expand_dims(t, axis) for t in elements] if call.attr("new_axis", 0) else list(elements)
    return (xp.concat(parts, axis),)


@structured("SplitToSequence")
def split(call: Call) -> Sequence[Made]:
    """The pieces of a tensor; one by one, and without the axis if asked, where no sizes are given."""
    x, sizes = call.input(0), call.input(1)
    assert x is not None
    axis = call.attr("axis", 0)
    whole = x.shape[axis] if x.shape is not None else None
    if not isinstance(whole, int) or (sizes is not None and sizes.const is None):
        raise UnsupportedError("the lengths of its pieces are known at run time only")
    lengths = _lengths(whole, np.asarray(1) if sizes is None or sizes.const is None else sizes.const)
    pieces = x.writer.ops("Split", x, x.writer.constant(lengths), outputs=len(lengths), axis=axis)
    dropped = sizes is None and not call.attr("keepdims", 1)
    return (tuple(xp.squeeze(p, axis) for p in pieces) if dropped else pieces,)


def _lengths(whole: int, sizes: np.ndarray) -> list[int]:
    """Those that are given, or equal ones and a rest."""
    if sizes.ndim:
        return [int(s) for s in sizes]
    size = int(sizes)
    return [min(size, whole - start) for start in range(0, whole, size)]


@structured("Optional", "OptionalGetElement")
def optional(call: Call) -> Sequence[Made]:
    """What it holds."""
    if not call.inputs:
        raise UnsupportedError("an optional that holds nothing")
    return (call.inputs[0],)


@structured("OptionalHasElement")
def has_element(call: Call) -> Sequence[Made]:
    """Whether it holds something: it does, where it is given."""
    return (call.writer.constant(any(t is not None for t in call.inputs)),)
