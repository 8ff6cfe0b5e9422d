"""Small models of every kind of output, in ONNX's text form, with seeded weights; their scores and slopes in float64
by ONNX's reference evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from builders import write
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from replicas import in_float64

from onnxcam import Explanation

STEP = 1e-6
_MADE: dict[int, tuple[Any, ReferenceEvaluator]] = {}


def maps_and_head(classes: int = 2, side: int = 8) -> str:
    """For :func:`saved`: maps ``Relu(Conv(image, w))`` of an RGB picture, whose means ``head`` and ``bias`` read."""
    return f"""(float[N,3,{side},{side}] image) => (float[N,{classes}] logits) {{
    maps = Conv(image, w)
    act = Relu(maps)
    pooled = GlobalAveragePool(act)
    flat = Flatten(pooled)
    logits = Gemm(flat, head, bias)
}}"""


def saved(path: Path, body: str, meta: Mapping[str, str] | None = None, **weights: Any) -> Path:
    """A file of the graph ``body``; weights are arrays, or shapes to be filled with noise."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {body}')
    rng = np.random.default_rng(3)
    for name, given in weights.items():
        drawn = isinstance(given, tuple)
        array = rng.standard_normal(given).astype(np.float32) / 2 if drawn else np.asarray(given)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for key, text in (meta or {}).items():
        model.metadata_props.add(key=key, value=text)
    return write(path, model)


def picture(n: int = 1, size: int = 16, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((n, 3, size, size), dtype=np.float32)


def outputs(ex: Any, x: Any, **others: Any) -> list[Any]:
    """What the untouched model gives, in float64."""
    found: Any = _evaluator(ex.model).run(None, {ex.model.image_input.name: x.astype(np.float64), **others})
    return list(found)


def _evaluator(model: Any) -> ReferenceEvaluator:
    if id(model) not in _MADE:
        _MADE[id(model)] = model, ReferenceEvaluator(in_float64(ir.to_proto(model.ir_model)))
    return _MADE[id(model)][1]


def slope_holds(e: Explanation, f: Callable[[Any], float], x: Any, rel: float = 1e-3) -> None:
    """A saliency explanation's gradient, along three directions, is the central difference of ``f``."""
    rng = np.random.default_rng(9)
    assert e.attribution is not None
    for _ in range(3):
        d = rng.standard_normal(x.shape)
        want = (f(x + STEP * d) - f(x - STEP * d)) / (2 * STEP)
        found = float((e.attribution[None] * d).sum())
        assert abs(want) > 1e-4
        assert abs(found - want) <= rel * abs(want), (found, want)
