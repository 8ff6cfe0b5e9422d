"""Every gradient rule against finite differences, in every runtime that is installed."""

from __future__ import annotations

import contextlib
import functools
import zlib

import cases_control  # noqa: F401  (the families add their cases)
import cases_functions  # noqa: F401
import cases_moving  # noqa: F401
import cases_picking  # noqa: F401
import cases_pointwise  # noqa: F401
import cases_quantised  # noqa: F401
import cases_recurrent  # noqa: F401
import cases_sampling  # noqa: F401
import cases_signal  # noqa: F401
import cases_windows  # noqa: F401
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from cases import CASES, Case
from evaluator import evaluator
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnxcam.errors import GradientError
from onnxcam.gradients import add_gradients
from onnxcam.gradients.bodies import BODIES
from onnxcam.gradients.rules import RULES
from onnxcam.model import Model

STEP = 1e-4  # of the finite difference of fourth order: an error of 1e-16 in theory, of 1e-12 by rounding
each_case = pytest.mark.parametrize("case", CASES, ids=repr)
OLDEST = ort.__version__ == "1.19.2"
once = pytest.mark.skipif(OLDEST, reason="no runtime takes part: it runs beside the newest one, not twice")


def opened(proto: onnx.ModelProto) -> Model:
    """As the package opens a file, but for the check, which does not let double into float operators."""
    with contextlib.suppress(Exception):  # onnx refuses the body of its own MeanVarianceNormalization
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    model = ir.from_proto(proto)
    for node in model.graph:
        node.name = node.name or node.outputs[0].name
    return Model(model)


def differentiated(case: Case, dtype, opset: int | None = None, free: str = "") -> onnx.ModelProto:
    return ir.to_proto(add_gradients(opened(case.model(dtype, opset, free)), of="y", wrt=case.wrt).ir_model)


def session(proto: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


@functools.cache
def newest_opset() -> int:
    """The newest opset that the installed runtime loads."""
    values = [helper.make_tensor_value_info(name, 1, [1]) for name in "ab"]
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", values[:1], values[1:])
    for opset in range(onnx.defs.onnx_opset_version(), 18, -1):
        try:
            session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))
        except Exception:  # ONNX Runtime has its own
            continue
        return opset
    return 18


def rng_of(case: Case, purpose: int) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(case.name.encode()) + purpose)


@functools.cache
def backward(case: Case) -> ReferenceEvaluator:
    return evaluator(differentiated(case, np.float64))


@functools.cache
def reference(case: Case) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Output, gradients and seed of a case in float64."""
    feeds = case.feeds(np.float64)
    y = evaluator(case.model(np.float64)).run(None, feeds)[0]
    seed = rng_of(case, 1).uniform(-1, 1, np.shape(y))
    names = [f"onnxcam/grad/{v}" for v in case.wrt]
    return y, backward(case).run(names, feeds | {"onnxcam/seed": seed}), seed


def slope(function, x: np.ndarray, direction: np.ndarray) -> float:
    """d function(x + t direction) / dt at 0, by central differences of fourth order."""
    near, far = (function(x + k * STEP * direction) - function(x - k * STEP * direction) for k in (1, 2))
    return float((8 * near - far) / (12 * STEP))


@once
@each_case
def test_agrees_with_finite_differences(case: Case) -> None:
    forward = evaluator(case.model(np.float64, forward=True))
    feeds = case.feeds(np.float64)
    _, gradients, seed = reference(case)

    def score(name: str, value: np.ndarray) -> float:
        return np.vdot(forward.run(None, feeds | {name: value})[0], seed)

    directions = rng_of(case, 2)
    for name, gradient in zip(case.wrt, gradients, strict=True):
        assert gradient.shape == feeds[name].shape
        for _ in range(2):
            direction = directions.uniform(-1, 1, feeds[name].shape)
            expected = slope(functools.partial(score, name), feeds[name], direction)
            rel, abs_ = (1e-6, 1e-5) if case.single else (1e-7, 1e-8)
            assert np.vdot(gradient, direction) == pytest.approx(expected, rel=rel, abs=abs_), name


def run(case: Case, opset: int, proto: onnx.ModelProto, feeds, dtype=np.float32) -> list[np.ndarray]:
    """Run a gradient graph; skipped where the installed runtime lacks the operator under test itself."""
    try:
        return session(proto).run(None, feeds)
    except Exception:
        try:
            session(case.model(dtype, opset)).run(None, case.feeds(dtype))
        except Exception as error:
            pytest.skip(f"ONNX Runtime {ort.__version__} does not run the case without gradients: {str(error)[:200]}")
        raise


# Names of axes decide what is written, not how a runtime takes it: the newest one sees both kinds.
_ALL = [(case, opset, "") for case in CASES for opset in case.opsets(newest_opset())]
_ALL += [(case, case.opset, free) for case in CASES for free in (("anonymous",) if OLDEST else ("named", "anonymous"))]
VARIANTS = [
    pytest.param(*v, marks=pytest.mark.slow if not OLDEST and (v[1] > v[0].opset or v[2] == "anonymous") else ())
    for v in _ALL
]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Relative L2."""
    return float(np.linalg.norm(np.subtract(a, b, dtype=np.float64)) / max(float(np.linalg.norm(b)), 1e-12))


@pytest.mark.parametrize(("case", "opset", "free"), VARIANTS, ids=str)
def test_runtime_computes_the_same(case: Case, opset: int, free: str) -> None:
    if opset > newest_opset():
        pytest.skip(f"ONNX Runtime {ort.__version__} loads opsets up to {newest_opset()}")
    if free and case.fixed:
        with pytest.raises(GradientError, match=case.fixed):
            differentiated(case, np.float32, opset, free)
        return
    y, gradients, seed = reference(case)
    feeds = case.feeds(np.float32) | {"onnxcam/seed": seed.astype(np.float32)}
    found = run(case, opset, differentiated(case, np.float32, opset, free), feeds)
    if not case.rounds:
        assert distance(found[0], y) < 1e-5
        expected = gradients
    else:
        expected = [by_units(case, opset, seed)]
    for name, gradient, want in zip(case.wrt, found[1:], expected, strict=True):
        assert gradient.shape == want.shape
        assert distance(gradient, want) < 1e-5, name


def by_units(case: Case, opset: int, seed: np.ndarray) -> np.ndarray:
    """The gradient of a linear operator in the runtime itself, from what it makes of each unit."""
    plain = session(case.model(np.float32, opset))
    (name,) = case.wrt
    shape = case.feeds(np.float32)[name].shape
    units = np.eye(int(np.prod(shape)), dtype=np.float32)
    return np.array([np.vdot(plain.run(None, {name: u.reshape(shape)})[0], seed) for u in units]).reshape(shape)


@once
@pytest.mark.parametrize("case", [c for c in CASES if c.rank is None], ids=repr)
def test_takes_a_cotangent_that_is_still_to_be_broadcast(case: Case) -> None:
    y = reference(case)[0]
    if np.ndim(y) == 0:
        pytest.skip("the output is a number, to which nothing is broadcast")
    feeds, names = case.feeds(np.float64), [f"onnxcam/grad/{v}" for v in case.wrt]
    row = rng_of(case, 3).uniform(-1, 1, y.shape[:-1])
    whole = feeds | {"onnxcam/seed": np.broadcast_to(row[..., None], y.shape)}
    expected = backward(case).run(names, whole)
    summed = evaluator(differentiated(case.summed(), np.float64)).run(names, feeds | {"onnxcam/seed": row})
    for name, gradient, want in zip(case.wrt, summed, expected, strict=True):
        assert gradient.shape == want.shape
        assert distance(gradient, want) < 1e-12, name


def test_every_rule_has_a_case() -> None:
    told = {op for _, op in (*RULES, *BODIES)} - {"OptionalHasElement"}  # a truth value, which carries nothing
    assert told - {op for case in CASES for op in operators(case.nodes)} == set()


def operators(nodes) -> set[str]:
    """Those of the nodes and of their subgraphs."""
    inner = [operators(a.g.node) for n in nodes for a in n.attribute if a.HasField("g")]
    return {n.op_type for n in nodes}.union(*inner)


@once
@each_case
def test_writes_standard_operators_only(case: Case) -> None:
    model = differentiated(case, np.float32)
    written = [n for n in model.graph.node if n.name.startswith("onnxcam/")]
    assert written or case.op == "Identity"
    assert all(n.domain == "" and not onnx.defs.get_schema(n.op_type, case.opset).deprecated for n in written)
    refused = case.op == "MeanVarianceNormalization" or (case.op == "Einsum" and case.rank)  # by onnx's own inference
    if not refused and case.until == 99:  # and by its checker where the operator is deprecated
        onnx.checker.check_model(model, full_check=True)


FIRST_OF_EACH = list({case.op: case for case in reversed(CASES)}.values())


@pytest.mark.parametrize("case", FIRST_OF_EACH, ids=repr)
def test_float16(case: Case) -> None:
    if case.opset > newest_opset():
        pytest.skip(f"ONNX Runtime {ort.__version__} loads opsets up to {newest_opset()}")
    feeds = case.feeds(np.float16)
    _, gradients, seed = reference(case)
    found = run(
        case,
        case.opset,
        differentiated(case, np.float16),
        feeds | {"onnxcam/seed": seed.astype(np.float32)},
        np.float16,
    )
    for name, gradient, want in zip(case.wrt, found[1:], gradients, strict=True):
        assert gradient.dtype == np.float32
        assert distance(gradient, want) < 1e-2, name
