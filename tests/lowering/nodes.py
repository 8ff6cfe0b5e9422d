"""Models of one foreign operator, run as they are in ONNX Runtime and as they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from onnxcam import load_model
from onnxcam.model import Model
from onnxcam.runtime import Session

MICROSOFT = "com.microsoft"
Arrays = dict[str, Any]


def draw(name: str, *shape: int, low: float = -2, high: float = 2) -> np.ndarray:
    seed = sum(map(ord, name)) + len(shape)
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def one(
    op_type: str,
    inputs: Arrays,
    weights: Arrays | None = None,
    outputs: Sequence[str] = ("y",),
    order: Sequence[str] = (),
    domain: str = MICROSOFT,
    opset: int = 17,
    free: bool = False,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node; ``order`` are its operands ("" for none), ``free`` leaves the lengths of axes open."""
    weights = weights or {}
    given = list(order or [*inputs, *weights])
    node = helper.make_node(op_type, given, list(outputs), "the node", domain=domain, **attributes)
    types = {k: helper.np_dtype_to_tensor_dtype(np.asarray(a).dtype) for k, a in inputs.items()}
    shapes = {k: [f"{k}{i}" for i in range(np.ndim(a))] if free else np.shape(a) for k, a in inputs.items()}
    values = [helper.make_tensor_value_info(k, types[k], shapes[k]) for k in inputs]
    results = [helper.make_empty_tensor_value_info(o) for o in outputs if o]
    held = [numpy_helper.from_array(np.asarray(a), k) for k, a in weights.items()]
    graph = helper.make_graph([node], "graph", values, results, held)
    domains = dict.fromkeys([domain] if domain else [], 1) | {"": opset}
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in domains.items()], ir_version=8)


def original(proto: onnx.ModelProto, feeds: Arrays, optimize: bool = True) -> dict[str, np.ndarray]:
    """What ONNX Runtime makes of the file; skipped where it cannot run it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel  # the layouts of level "all" depend on the processor
    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if optimize else levels.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = session.run(None, feeds)
    except Exception as error:
        pytest.skip(f"ONNX Runtime {ort.__version__} does not run it: {str(error)[:150]}")
    return dict(zip((o.name for o in session.get_outputs()), found, strict=True))


def loaded(proto: onnx.ModelProto, folder: Path) -> Model:
    """The file as the package opens it; nothing foreign is left."""
    path = folder / "model.onnx"
    onnx.save(proto, path)
    return load_model(path)


def agree(proto: onnx.ModelProto, feeds: Arrays, folder: Path, tolerance: float = 1e-5) -> Model:
    """Hold the loaded model against the file, every output by its name."""
    want, model = original(proto, feeds), loaded(proto, folder)
    assert {n.domain for n in model.graph} <= {"", "ai.onnx"}, model.notes
    assert any("lowered to standard operators" in note for note in model.notes)
    names = [str(v.name) for v in model.outputs]
    assert names == list(want)
    for name, found in zip(names, Session(model).run(feeds, names), strict=True):
        assert found.dtype == want[name].dtype, name
        assert found.shape == want[name].shape, name
        assert distance(found, want[name]) <= tolerance, name
    return model


def distance(found: np.ndarray, want: np.ndarray) -> float:
    """Largest difference, relative to the largest value."""
    a, b = (np.asarray(v, np.float64) for v in (found, want))
    return float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-12))
