"""Every gradient rule against finite differences, in every runtime that is installed."""

from __future__ import annotations

import functools
import zlib

import cases_moving  # noqa: F401  (the families add their cases)
import cases_pointwise  # noqa: F401
import cases_windows  # noqa: F401
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from cases import CASES, Case
from onnx.reference import ReferenceEvaluator

from onnxcam.errors import GradientError
from onnxcam.gradients import add_gradients
from onnxcam.gradients.rules import RULES
from onnxcam.model import Model, load_model

STEP = 1e-4


@pytest.fixture(scope="session")
def opened(tmp_path_factory):
    """Opens a ModelProto as the package opens a file."""
    path = tmp_path_factory.mktemp("cases") / "case.onnx"

    def open_(proto: onnx.ModelProto) -> Model:
        path.write_bytes(proto.SerializeToString())
        return load_model(path)

    return open_


def session(proto: onnx.ModelProto, optimised: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


@functools.cache
def newest_opset() -> int:
    """The newest opset of the installed runtime."""
    for opset in range(onnx.defs.onnx_opset_version(), 18, -1):
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["a"], ["b"])],
            "g",
            [onnx.helper.make_tensor_value_info("a", 1, [1])],
            [onnx.helper.make_tensor_value_info("b", 1, [1])],
        )
        try:
            session(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10))
        except Exception:
            continue
        return opset
    return 18


def differentiated(opened, case: Case, dtype, opset: int | None = None, free: str = "") -> onnx.ModelProto:
    model = opened(case.model(dtype, opset, free))
    return ir.to_proto(add_gradients(model, of="y", wrt=case.wrt).ir_model)


def seed_of(case: Case, shape) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(case.name.encode()) + 1).uniform(-1, 1, shape)


def run(model, feeds, case, opened):
    pass


FORWARD: dict[str, np.ndarray] = {}
GRADIENTS: dict[str, list[np.ndarray]] = {}


def reference(opened, case: Case) -> list[np.ndarray]:
    """The gradients of a case in float64, by onnx's reference evaluator."""
    if case.name not in GRADIENTS:
        evaluator = ReferenceEvaluator(differentiated(opened, case, np.float64))
        feeds = case.feeds(np.float64)
        y = ReferenceEvaluator(case.model(np.float64)).run(None, feeds)[0]
        seeded = feeds | {"onnxcam/seed": seed_of(case, y.shape)}
        GRADIENTS[case.name] = evaluator.run([f"onnxcam/grad/{v}" for v in case.wrt], seeded)
    return GRADIENTS[case.name]


def slope(function, x: np.ndarray, direction: np.ndarray, step: float) -> float:
    """d function(x + t direction) / dt at 0, by central differences of fourth order."""
    near, far = (function(x + k * step * direction) - function(x - k * step * direction) for k in (1, 2))
    return float((8 * near - far) / (12 * step))


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_agrees_with_finite_differences(case: Case, opened) -> None:
    forward = ReferenceEvaluator(case.model(np.float64, forward=True))
    feeds = case.feeds(np.float64)
    seed = None

    def score(name, value):
        y = forward.run(None, feeds | {name: value})[0]
        return np.vdot(y, seed)

    seed = seed_of(case, np.shape(forward.run(None, feeds)[0]))
    rng = np.random.default_rng(zlib.crc32(case.name.encode()) + 2)
    for name, gradient in zip(case.wrt, reference(opened, case), strict=True):
        assert gradient.shape == feeds[name].shape
        assert gradient.dtype == np.float64
        for _ in range(2):
            direction = rng.uniform(-1, 1, feeds[name].shape)
            expected = slope(functools.partial(score, name), feeds[name], direction, STEP)
            assert np.vdot(gradient, direction) == pytest.approx(expected, rel=1e-7, abs=1e-8), name
