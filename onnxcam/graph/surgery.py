"""Editing a graph: expose, cut, rename, free the batch axis. Model in, new model out; the given one is not changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.graph.names import find_value
from onnxcam.model import Model, dims_of


def expose(model: Model, names: Sequence[str]) -> Model:
    """Make inner values outputs, in addition to those there are; each under its own name.

    Raises:
        UnknownNameError: no such value.
    """
    edited = model.clone()
    for name in names:
        value = find_value(edited, name)
        if not value.is_graph_output():
            edited.graph.outputs.append(value)
    return edited


def cut(model: Model, inputs: Sequence[str], outputs: Sequence[str]) -> Model:
    """The part of the model between ``inputs`` and ``outputs``; ``[layer]`` to the logits is its tail.

    Raises:
        UnknownNameError: no such value.
        OptionError: the part needs further inputs; they are named.
    """
    edited = model.clone()
    starts = [find_value(edited, n) for n in inputs]
    ends = [find_value(edited, n) for n in outputs]
    try:
        graph = ir.convenience.extract(edited.graph, starts, ends)
    except ValueError as error:
        raise OptionError(f"cannot cut {model.label} between {inputs} and {outputs}: {error}") from error
    part = ir.Model(graph, ir_version=edited.ir_model.ir_version, producer_name=edited.ir_model.producer_name)
    return replace(edited, ir_model=part)


def rename(model: Model, names: Mapping[str, str]) -> Model:
    """Give values other names.

    Raises:
        UnknownNameError: no such value.
        OptionError: a new name is taken.
    """
    edited = model.clone()
    if taken := [new for new in names.values() if new in edited.values]:
        raise OptionError(f"the name {taken[0]!r} is taken; choose another")
    for old, new in names.items():
        if old not in edited.values:
            raise UnknownNameError.of("value", old, list(edited.values))
        edited.values[old].name = new
    return edited


def make_batch_dynamic(model: Model) -> Model:
    """Free a fixed batch axis of 1, so that one run takes many images.

    It is safe where no operator hides the 1 in a constant: Reshapes whose first entry is that 1 are given a 0 (copy) or
    -1 instead; anything else that fixes it is refused.

    Raises:
        OptionError: the batch axis cannot be freed; the message names the nodes that fix it.
    """
    image = model.image_input
    if image.batch is None:
        return model
    edited = model.clone()
    stubborn = [str(n.name) for n in edited.graph if _fixes_batch(n, image.batch)]
    if image.batch != 1 or stubborn:
        found = f"nodes that fix it: {', '.join(stubborn[:5])}" if stubborn else f"it is {image.batch}, not 1"
        raise OptionError(f"the batch axis of {model.label} cannot be freed: {found}. Run images one by one")
    for node in edited.graph:
        _free_reshape(edited.graph, node)
    for value in edited.values.values():
        if value.const_value is None and value.shape is not None and not value.is_graph_input():
            value.shape = None if not value.is_graph_output() else ir.Shape(["batch", *dims_of(value)[1:]])
    for given in edited.inputs:
        given.shape = ir.Shape(["batch", *dims_of(given)[1:]])
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(edited.ir_model)
    return replace(edited, notes=(*model.notes, "batch axis made dynamic"))


def _target_shape(node: ir.Node) -> ir.Value | None:
    held = node.inputs[1] if node.op_type == "Reshape" and len(node.inputs) > 1 else None
    return held if held is not None and held.const_value is not None else None


def _fixes_batch(node: ir.Node, batch: int) -> bool:
    """Operators that would mix images, or that carry the batch length where it cannot be replaced."""
    if node.op_type in ("Expand", "Tile", "ConstantOfShape", "NonMaxSuppression", "Loop", "Scan", "If", "Einsum"):
        return True
    if node.op_type == "Resize" and len(node.inputs) > 3 and node.inputs[3] is not None:  # sizes of all axes
        return True
    if node.op_type == "Reshape":
        return _reshape_mixes(node, batch)
    return node.op_type in ("Concat", "Split", "Squeeze", "Flatten") and _touches_batch(node)


def _reshape_mixes(node: ir.Node, batch: int) -> bool:
    source, held = node.inputs[0], _target_shape(node)
    if source is None or held is None or held.const_value is None or source.const_value is not None:
        return source is None or source.const_value is None
    shape = held.const_value.numpy()
    if node.attributes.get_int("allowzero", 0) and 0 in shape:  # an empty axis, no copy
        return True
    if source.shape is None or source.shape[0] != batch or int(shape[0]) not in (0, batch, -1):
        return True
    found = node.outputs[0].shape  # -1 may hold more than the batch
    return int(shape[0]) == -1 and found is not None and found[0] != batch


def _touches_batch(node: ir.Node) -> bool:
    if node.op_type == "Flatten":
        return node.attributes.get_int("axis", 1) != 1
    if node.op_type == "Squeeze":
        axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
        return axes is None or 0 in axes.numpy()
    return node.attributes.get_int("axis", 0) == 0


def batch_free_shape(node: ir.Node) -> npt.NDArray[np.int64] | None:
    """The shape of a Reshape that names the batch, with 0 (a copy) there; None of all others."""
    held, source = _target_shape(node), node.inputs[0] if node.inputs else None
    if held is None or held.const_value is None or source is None or source.const_value is not None:
        return None
    shape = held.const_value.numpy().copy()
    if shape[0] in (0, -1):
        return None
    shape[0] = 0
    return shape


def _free_reshape(graph: ir.Graph, node: ir.Node) -> None:
    held, shape = _target_shape(node), batch_free_shape(node)
    if held is None or shape is None:
        return
    node.attributes.pop("allowzero", None)  # the new 0 copies
    value = ir.Value(name=f"{held.name}/batch/{node.name}", const_value=ir.tensor(shape))
    value.shape, value.type = ir.Shape(shape.shape), ir.TensorType(ir.DataType.INT64)
    graph.register_initializer(value)
    node.replace_input_with(1, value)


TURNED = "onnxcam/turned/"  # and a value's name: its first two axes are exchanged


def turn(model: Model, names: Sequence[str]) -> Model:
    """Put values (N, T, D), called ``TURNED`` and the name, in the way of values (T, N, D).

    Raises:
        UnknownNameError: no such value.
    """
    edited = model.clone()
    for name in names:
        value = find_value(edited, name.removeprefix(TURNED))
        readers = [(node, k) for node in value.consumers() for k, v in enumerate(node.inputs) if v is value]
        dims = dims_of(value)
        here = ir.node("Transpose", [value], {"perm": [1, 0, 2]}, name=name)
        back = ir.node("Transpose", [here.outputs[0]], {"perm": [1, 0, 2]}, name=f"{name}/back")
        here.outputs[0].name, back.outputs[0].name = name, f"{name}/back"
        for made, shape in ((here, (dims[1], dims[0], dims[2])), (back, dims)):
            made.outputs[0].type, made.outputs[0].shape = value.type, ir.Shape(shape)
        producer = value.producer()
        assert producer is not None
        edited.graph.insert_after(producer, [here, back])
        for node, k in readers:
            node.replace_input_with(k, back.outputs[0])
    return replace(edited)  # which knows the new values


def splice(model: Model, name: str, given: str) -> Model:
    """Replace a value by a new input ``given`` of its type and shape; what only led to it is left out.

    Raises:
        UnknownNameError: no such value.
    """
    edited = model.clone()
    value = find_value(edited, name)
    entry = ir.Value(name=given, type=value.type, shape=value.shape)
    ir.convenience.replace_all_uses_with(value, entry, replace_graph_outputs=True)
    edited.graph.inputs.append(entry)
    passes.RemoveUnusedNodesPass()(edited.ir_model)
    return replace(edited)  # looked up before the graph had its new input


def join(first: Model, second: Model, names: Mapping[str, str] | None = None) -> Model:
    """One model of two that follow each other, such as an encoder and a decoder.

    The inputs of ``second`` that are fed by ``first`` are no inputs any more; its others stay, and so do its outputs.
    Values of ``second`` whose names are taken get ``second/`` in front.

    Args:
        first: takes the picture.
        second: takes what ``first`` gives.
        names: output of ``first`` -> input of ``second``; None joins what has the same name, or else the one output
            and the one input that fit.

    Raises:
        UnknownNameError: no such output or input.
        OptionError: nothing fits, type or shape differ, or the opsets do.
    """
    pairs = dict(names) if names is not None else _fitting(first, second)
    ahead, behind = first.clone(), second.clone()
    given, taken = _named(ahead.outputs, "output"), _named(behind.inputs, "input")
    for out, into in pairs.items():
        _check_joint(given(out), taken(into))
    if ahead.opset != behind.opset:
        raise OptionError(f"{first.label} has opset {ahead.opset}, {second.label} {behind.opset}; export both with one")
    for out, into in pairs.items():
        value, entry = given(out), taken(into)
        behind.graph.inputs.remove(entry)
        ir.convenience.replace_all_uses_with(entry, value, replace_graph_outputs=True)
    _take_over(ahead.graph, behind.graph)
    ahead.ir_model.ir_version = max(ahead.ir_model.ir_version, behind.ir_model.ir_version)
    digest = hashlib.sha256(f"{first.sha256}{second.sha256}".encode()).hexdigest()
    notes = (
        *first.notes,
        *second.notes,
        f"{second.label} joined on: {', '.join(f'{a} -> {b}' for a, b in pairs.items())}",
    )
    meta, weights = {**first.meta, **second.meta}, (*first.weights, *second.weights)
    whole = replace(ahead, sha256=digest, notes=notes, meta=meta, weights=weights)
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(whole.ir_model)
    return whole


def _named(values: Sequence[ir.Value], kind: str) -> Callable[[str], ir.Value]:
    held = {str(v.name): v for v in values}

    def find(name: str) -> ir.Value:
        if name not in held:
            raise UnknownNameError.of(kind, name, held)
        return held[name]

    return find


def _fitting(first: Model, second: Model) -> dict[str, str]:
    """What has the same name; else the one pair of one type and rank."""
    entries = {str(v.name): v for v in second.inputs}
    same = {str(v.name): str(v.name) for v in first.outputs if v.name in entries}
    alike = [(a, b) for a in first.outputs for b in second.inputs if not _difference(a, b)]
    if same or len(alike) == 1:
        return same or {str(a.name): str(b.name) for a, b in alike}
    raise OptionError(
        f"it is not clear how {second.label} follows {first.label}: outputs {', '.join(map(_told, first.outputs))}; "
        f"inputs {', '.join(map(_told, second.inputs))}. Name the pairs: join(first, second, {{output: input}})"
    )


def _told(value: ir.Value) -> str:
    return f"{value.name} {value.dtype} {value.shape}"


def _difference(a: ir.Value, b: ir.Value) -> str:
    """Why one value cannot stand for another, or ""."""
    if a.dtype != b.dtype:
        return "their types differ"
    if a.shape is None or b.shape is None:
        return ""
    pairs = list(zip(dims_of(a), dims_of(b), strict=False))
    differ = any(isinstance(x, int) and isinstance(y, int) and x != y for x, y in pairs)
    return "their shapes differ" if differ or len(a.shape) != len(b.shape) else ""


def _check_joint(a: ir.Value, b: ir.Value) -> None:
    if why := _difference(a, b):
        raise OptionError(f"output {_told(a)} cannot be input {_told(b)}: {why}")


def _take_over(graph: ir.Graph, other: ir.Graph) -> None:
    """Move all of another graph to the end of this one, whose outputs become the other's."""
    own = [*graph.inputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs)]
    taken, nodes = {v.name for v in own}, {n.name for n in graph}
    inputs, weights, outputs = list(other.inputs), list(other.initializers.values()), list(other.outputs)
    moved = list(other)
    other.inputs.clear()
    other.outputs.clear()
    other.initializers.clear()
    other.remove(moved)
    for value in (*inputs, *weights, *(v for n in moved for v in n.outputs)):
        value.name = f"second/{value.name}" if value.name in taken else value.name
    for node in moved:
        node.name = f"second/{node.name}" if node.name in nodes else node.name
    graph.inputs.extend(inputs)
    for weight in weights:
        graph.register_initializer(weight)
    graph.extend(moved)
    graph.outputs[:] = outputs
