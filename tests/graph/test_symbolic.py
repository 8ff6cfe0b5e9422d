"""Array expressions against NumPy, and what the writer does with them."""

from __future__ import annotations

import operator

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor, Writer

OPSET = 18
RNG = np.random.default_rng(0)
A, B = RNG.uniform(0.2, 2, (2, 3, 4)), RNG.uniform(-2, 2, (2, 3, 4))
ROW = RNG.uniform(-1, 1, (4,))


def drawing(*dims, dtype=ir.DataType.DOUBLE, names="abc"):
    """A writer on an empty graph, and one input per shape."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="g")
    writer = Writer(graph, OPSET)
    return writer, [writer.input(n, dtype, d) for n, d in zip(names, dims, strict=False)]


def model_of(writer: Writer) -> onnx.ModelProto:
    model = ir.to_proto(ir.Model(writer.graph, ir_version=10))
    onnx.checker.check_model(model, full_check=True)
    return model


def value(writer: Writer, result: Tensor, **feeds) -> np.ndarray:
    """What the expression gives, by the reference evaluator; its declared shape and type must hold."""
    writer.output(result, "out")
    out = writer.graph.outputs[0]
    found = ReferenceEvaluator(model_of(writer)).run(["out"], feeds)[0]
    assert found.dtype == out.dtype.numpy()
    assert len(out.shape) == found.ndim
    assert all(not isinstance(d, int) or d == n for d, n in zip(out.shape, found.shape, strict=True))
    return found


def check(expression, *arrays, equals) -> None:
    """``expression`` on tensors of fixed, named and unknown shape."""
    for free in ("fixed", "named", "unknown"):
        shapes = {
            "fixed": [a.shape for a in arrays],
            "named": [tuple(f"{n}{i}" for i in range(a.ndim)) for n, a in zip("abc", arrays, strict=False)],
            "unknown": [(None,) * a.ndim for a in arrays],
        }[free]
        writer, tensors = drawing(*shapes)
        found = value(writer, expression(*tensors), **dict(zip("abc", arrays, strict=False)))
        np.testing.assert_allclose(found, equals, rtol=1e-12, err_msg=free)


@pytest.mark.parametrize("name", ["abs", "ceil", "cos", "exp", "floor", "sign", "sin", "tanh"])
def test_functions_of_one_tensor(name) -> None:
    check(getattr(xp, name), B, equals=getattr(np, name)(B))


@pytest.mark.parametrize("name", ["log", "sqrt"])
def test_functions_of_positive_numbers(name) -> None:
    check(getattr(xp, name), A, equals=getattr(np, name)(A))


BINARY = ["add", "sub", "mul", "truediv", "gt", "lt", "ge", "le", "eq"]


@pytest.mark.parametrize("name", BINARY)
def test_operators(name) -> None:
    act = getattr(operator, name)
    check(act, A, B, equals=act(A, B))
    check(act, A, ROW, equals=act(A, ROW))
    check(lambda a: act(a, 0.5), A, equals=act(A, 0.5))
    check(lambda a: act(a, ROW), A, equals=act(A, ROW))


@pytest.mark.parametrize("name", BINARY)
def test_operators_with_numpy_on_the_left(name) -> None:
    act = getattr(operator, name)
    check(lambda a: act(ROW, a), A, equals=act(ROW, A))
    check(lambda a: act(2.0, a), A, equals=act(2.0, A))
    check(lambda a: act(np.float64(2), a), A, equals=act(2.0, A))


def test_powers_products_and_signs() -> None:
    check(lambda a: a**2, B, equals=B**2)
    check(lambda a, b: a**b, A, B, equals=A**B)
    check(lambda a: 2.0**a, B, equals=2.0**B)
    check(lambda a: ROW @ xp.permute_dims(a, [0, 2, 1]), A, equals=ROW @ A.swapaxes(1, 2))
    check(lambda a: a @ np.eye(4), A, equals=A)
    check(lambda a: np.ones((5, 3)) @ a, A, equals=np.ones((5, 3)) @ A)
    check(lambda a, b: a @ xp.permute_dims(b, [0, 2, 1]), A, B, equals=A @ B.swapaxes(1, 2))
    check(lambda a: -a, B, equals=-B)


def test_logic() -> None:
    check(lambda a: (a > 0) & (a < 1), B, equals=(B > 0) & (B < 1))
    check(lambda a: (a < 0) | (a > 1), B, equals=(B < 0) | (B > 1))
    check(lambda a: ~(a > 0), B, equals=~(B > 0))
    check(lambda a: xp.logical_not(a > 0), B, equals=~(B > 0))


def test_extrema_and_choice() -> None:
    check(lambda a: xp.maximum(a, 0), B, equals=np.maximum(B, 0))
    check(lambda a: xp.maximum(a, 0.3), B, equals=np.maximum(B, 0.3))
    check(xp.maximum, A, B, equals=np.maximum(A, B))
    check(lambda a: xp.minimum(a, 0), B, equals=np.minimum(B, 0))
    check(lambda a, b: xp.where(b > 0, a, 0.0), A, B, equals=np.where(B > 0, A, 0))
    check(lambda a, b: xp.where(b > 0, -1.0, a), A, B, equals=np.where(B > 0, -1, A))


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize("axis", [None, 1, -1, (0, 2), ()])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(name, axis, keepdims) -> None:
    check(lambda a: getattr(xp, name)(a, axis, keepdims), B, equals=getattr(np, name)(B, axis=axis, keepdims=keepdims))


def test_argmax_takes_the_first() -> None:
    ties = np.array([[1.0, 3, 3], [2, 2, 0]])
    check(lambda a: xp.argmax(a, 1), ties, equals=[1, 0])
    check(lambda a: xp.argmax(a, 1, keepdims=True), ties, equals=[[1], [0]])


def test_shapes() -> None:
    check(xp.shape_of, A, equals=A.shape)
    check(lambda a: xp.dim(a, 1), A, equals=[3])
    check(lambda a: xp.dim(a, -1), A, equals=[4])
    check(lambda a: xp.reshape(a, [0, -1]), A, equals=A.reshape(2, -1))
    check(lambda a, b: xp.reshape_like(xp.reshape(a, [-1]), b), A, B, equals=A)
    check(lambda a: xp.permute_dims(a, [2, 0, 1]), A, equals=A.transpose(2, 0, 1))
    check(lambda a: xp.expand_dims(a, 1), A, equals=A[:, None])
    check(lambda a: xp.expand_dims(a, [0, -1]), A, equals=A[None, ..., None])
    check(lambda a: xp.squeeze(xp.expand_dims(a, 0), 0), A, equals=A)
    check(lambda a, b: xp.concat([a, b], 1), A, B, equals=np.concatenate([A, B], 1))
    check(lambda a: xp.concat([a]), A, equals=A)


def test_broadcasts() -> None:
    full = np.broadcast_to(ROW, A.shape)
    check(lambda a: xp.broadcast_to(a, [2, 3, 4]), ROW, equals=full)
    check(xp.expand_like, ROW, A, equals=full)
    check(xp.zeros_like, A, equals=0 * A)
    check(xp.ones_like, A, equals=1 + 0 * A)
    check(lambda a: xp.astype(xp.zeros_like(a, ir.DataType.INT64), ir.DataType.DOUBLE), A, equals=0 * A)


def test_a_pending_broadcast_is_as_good_as_the_real_one() -> None:
    full = np.broadcast_to(ROW, A.shape)
    check(lambda a, b: xp.expand_like(a, b) * b, ROW, A, equals=full * A)
    check(lambda a, b: b - xp.expand_like(a, b), ROW, A, equals=A - full)
    check(lambda a, b: 3.0 / -xp.expand_like(a, b), ROW, A, equals=3.0 / -full)
    check(lambda a, b: xp.expand_like(a, b) + xp.expand_like(a, b), ROW, A, equals=2 * full)
    check(lambda a, b: xp.sum(xp.expand_like(a, b) * 2.0, 0), ROW, A, equals=(2 * full).sum(0))
    square = RNG.uniform(0, 1, (2, 3, 3))
    edge = square[:, :, :1]
    spread = np.broadcast_to(edge, square.shape)
    check(lambda a, b: xp.expand_like(a, b) @ b, edge, square, equals=spread @ square)
    check(lambda a, b: b @ xp.expand_like(a, b), edge, square, equals=square @ spread)


@pytest.mark.parametrize(
    ("start", "stop", "step"), [(1, 3, 1), (0, 100, 2), (-2, 100, 1), (-1, -100, -1), (2, 0, -1), (-100, -1, 1)]
)
def test_slices(start, stop, step) -> None:
    check(lambda a: xp.slice_axis(a, 2, start, stop, step), A, equals=A[:, :, slice(start, _python(stop), step)])


def _python(stop: int) -> int | None:
    return None if stop == -100 else stop


def test_flips_and_paddings() -> None:
    check(lambda a: xp.flip(a, 1), A, equals=A[:, ::-1])
    check(lambda a: xp.flip(a, [0, -1]), A, equals=A[::-1, :, ::-1])
    check(lambda a: xp.pad(a, [0, 1, 0], [0, 0, 2]), A, equals=np.pad(A, [(0, 0), (1, 0), (0, 2)]))
    check(lambda a: xp.pad(a, [0, -1, 0], [0, 0, -2]), A, equals=A[:, 1:, :-2])
    check(lambda a: xp.pad(a, [1, -1, 0], [0, 2, -1]), A, equals=np.pad(A[:, 1:, :-1], [(1, 0), (0, 2), (0, 0)]))
    check(lambda a: xp.pad(a, [0, 0, 0], [0, 0, 0]), A, equals=A)


def test_casts() -> None:
    writer, (a,) = drawing((3,))
    assert xp.astype(a, ir.DataType.DOUBLE) is a
    found = value(writer, xp.astype(a, ir.DataType.INT64), a=np.array([1.7, -1.7, 0]))
    assert found.tolist() == [1, -1, 0]


# The writer


def op_types(writer: Writer) -> list[str]:
    return [n.op_type for n in writer.graph]


def test_constants_fold() -> None:
    writer, (a,) = drawing((2, 3))
    two = writer.constant(2.0)
    folded = xp.sqrt(two * 8.0) + xp.sum(writer.constant(np.ones((3, 3))), 0)
    assert folded.const.tolist() == [7, 7, 7]
    assert op_types(writer) == []
    assert xp.shape_of(a).const.tolist() == [2, 3]
    assert (a * folded).shape == (2, 3)
    assert op_types(writer) == ["Mul"]
    assert len(writer.graph.initializers) == 1


def test_folding_can_be_put_off() -> None:
    writer, _ = drawing()
    assert writer.op("Neg", writer.constant([1.0]), fold=False).const is None
    assert op_types(writer) == ["Neg"]


def test_what_the_evaluator_cannot_do_is_left_to_the_runtime() -> None:
    writer, _ = drawing()
    cropped = writer.op("Pad", writer.constant(np.arange(4.0)), writer.constant([-1, 0]))
    assert op_types(writer) == ["Pad"]
    assert cropped.shape == (3,)


def test_a_large_broadcast_is_a_node_and_not_a_constant() -> None:
    writer, (a,) = drawing((64, 64, 64))
    ones = xp.broadcast_to(writer.constant(1.0), [64, 64, 64])
    assert ones.const is None
    assert xp.broadcast_to(writer.constant(1.0), [2, 2]).const.tolist() == [[1, 1], [1, 1]]
    writer.output(a * ones * 3.0, "out")
    assert sum(v.const_value.nbytes for v in writer.graph.initializers.values()) < 4096


def test_equal_expressions_are_written_once() -> None:
    writer, (a, b) = drawing((2, 3), (2, 3))
    first, second = xp.exp(a * b), xp.exp(a * b)
    assert first.value is second.value
    assert op_types(writer) == ["Mul", "Exp"]
    assert xp.exp(b * a).value is not first.value
    assert xp.sum(a, 0).value is not xp.sum(a, 1).value
    assert writer.op("Exp", a, memo=False).value is not writer.op("Exp", a, memo=False).value


def test_equal_constants_are_stored_once() -> None:
    writer, (a,) = drawing((2, 3))
    writer.output(a * 5.0 + 5.0, "out")
    assert len(writer.graph.initializers) == 1
    assert writer.constant(5).value is not writer.constant(5.0).value


def test_a_product_with_one_is_not_written() -> None:
    _, (a,) = drawing((2, 3))
    assert (a * 1.0) is a
    assert (1.0 * a) is a
    assert (a * np.ones((1, 1, 1))).shape == (1, 2, 3)


def test_names_of_axes_are_kept() -> None:
    writer, (a, b) = drawing(("N", 3, "H", "W"), ("N", 3, "H", "W"))
    assert xp.exp(a * b).shape == ("N", 3, "H", "W")
    assert xp.sum(a, (2, 3), keepdims=True).shape == ("N", 3, 1, 1)
    assert xp.mean(a, 1).shape == ("N", "H", "W")
    assert xp.permute_dims(a, [0, 2, 3, 1]).shape == ("N", "H", "W", 3)
    assert xp.reshape_like(a, b) is a
    assert xp.dim(a, 1).const.tolist() == [3]
    assert xp.dim(a, 0).const is None
    assert xp.expand_like(xp.sum(a, (2, 3), keepdims=True), a).shape == ("N", 3, "H", "W")
    assert writer.constant(np.ones(3)).shape == (3,)


def test_unknown_axes_are_never_taken_for_equal() -> None:
    writer, (a, b) = drawing((None, None, 3), (None, None, 3))
    writer.output(xp.reshape_like(a, b), "out")
    assert op_types(writer) == ["Shape", "Reshape"]


def test_one_unknown_axis_follows_from_the_others() -> None:
    writer, (a, b) = drawing((None, 6), (None, 2, 3))
    result, x = xp.reshape_like(a, b), np.arange(24.0).reshape(4, 6)
    assert op_types(writer) == ["Reshape"]
    assert np.array_equal(value(writer, result, a=x, b=np.zeros((4, 2, 3))), x.reshape(4, 2, 3))


def test_every_name_has_the_prefix_and_none_repeats() -> None:
    writer, (a,) = drawing((2, 3))
    writer.output(xp.exp(a * 2.0) + 1.0, "first")
    second = Writer(writer.graph, OPSET)
    second.output(xp.exp(second.tensor(a.value) * 3.0) + 1.0 - 4.0, "second")
    names = [v.name for n in writer.graph for v in n.outputs] + list(writer.graph.initializers)
    assert len(names) == len(set(names))
    assert all(n.startswith("onnxcam/") for n in set(names) - {"first", "second"})
    model_of(writer)


def test_an_output_that_was_there_before_is_copied_not_renamed() -> None:
    writer, (a,) = drawing((2, 3))
    twice = a * 2.0
    writer.output(a, "input")
    writer.output(twice, "once")
    writer.output(twice, "again")
    assert a.value.name == "a"
    assert [v.name for v in writer.graph.outputs] == ["input", "once", "again"]
    assert op_types(writer) == ["Mul", "Identity", "Identity"]
    found = ReferenceEvaluator(model_of(writer)).run(None, {"a": np.ones((2, 3))})
    assert [f.max() for f in found] == [1, 2, 2]


def test_existing_nodes_stay_as_they_are() -> None:
    proto = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"], name="mine")],
        "g",
        [helper.make_tensor_value_info("x", 1, [2])],
        [helper.make_tensor_value_info("y", 1, [2])],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    before = model.graph.node[0].SerializeToString()
    held = ir.from_proto(model)
    writer = Writer(held.graph, OPSET)
    writer.output(writer.tensor(held.graph.outputs[0]) * 2.0, "twice")
    after = ir.to_proto(held)
    assert after.graph.node[0].SerializeToString() == before
    assert [o.name for o in after.graph.output] == ["y", "twice"]


def test_a_weight_is_a_constant_and_an_input_with_a_default_is_not() -> None:
    writer, _ = drawing()
    weight = ir.Value(
        name="w", const_value=ir.tensor(np.ones(2)), type=ir.TensorType(ir.DataType.DOUBLE), shape=ir.Shape([2])
    )
    writer.graph.register_initializer(weight)
    assert writer.tensor(weight).const.tolist() == [1, 1]
    writer.graph.inputs.append(weight)
    assert writer.tensor(weight).const is None
