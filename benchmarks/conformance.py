"""Gradients on the ONNX backend node suite: what each engine gets right, wrong, or refuses.

The denominator is fixed: the cases of ``conformance_cases.txt``, which ONNX Runtime runs and which are differentiable
in at least one float32 input, and those of newer opsets, which only ONNX's reference evaluator runs. A case is right
if, for every float32 input and every float output that depend on one another, the directional derivatives agree with
central differences of the case's own model. ``make conformance`` writes the table of docs/operators.md.
"""

from __future__ import annotations

import functools
import re
import tempfile
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from onnxcam.errors import OnnxcamError
from onnxcam.gradients import add_gradients
from onnxcam.model import Model, load_model
from onnxcam.shapes import opset_of

CASES = Path(__file__).with_name("conformance_cases.txt")
STEPS = (1e-2, 3e-3)  # of the central differences that must agree
SIDE = 1e-3  # step of the one-sided differences, which differ at a kink
FLOAT32 = 1.2e-7  # its rounding
AGREE = 0.05  # how far two differences may be apart, relative
KINK = 0.01  # how far one-sided ones may be apart where there is no kink
SLOPE = 1e-4  # a smaller derivative counts as none
DIRECTIONS = 12
ATTEMPTS = 6  # at the case's own inputs, then beside them
NEWEST = 25  # the newest opset of the list
_FLOATS = (np.float16, np.float32, np.float64)
Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], list[np.ndarray]]


@dataclass(frozen=True)
class Verdict:
    """What became of a case: "right", "wrong", "refused" or "untested", and why."""

    outcome: str
    why: str = ""


def listed() -> list[str]:
    """The names of the list."""
    return [line for line in CASES.read_text().splitlines() if line and not line.startswith("#")]


def newer_cases() -> list[str]:
    """The cases of opsets that the runtime of the list does not load."""
    return [n for n, c in suite().items() if opset_of(c.model) > NEWEST and {*map(_domain, c.model.graph.node)} == {""}]


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else str(node.domain)


@functools.cache
def suite() -> dict[str, Any]:
    """The backend node suite of the installed onnx."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in collect_testcases(None)}


def feeds_of(case: Any) -> Arrays:
    """The inputs of a case's first data set, as arrays; what is no tensor is left out."""
    given = zip(case.model.graph.input, case.data_sets[0][0], strict=False)
    pairs = ((v.name, numpy_helper.to_array(a) if isinstance(a, onnx.TensorProto) else a) for v, a in given)
    return {name: np.asarray(a) for name, a in pairs if isinstance(a, np.ndarray | np.generic)}


def prepared(
    case: Any, feeds: Arrays, free: bool, constant: bool, weights: bool = False
) -> tuple[onnx.ModelProto, Arrays]:
    """The case's model and what is fed to it.

    Args:
        case: of the suite.
        feeds: its inputs.
        free: make every axis of the float inputs symbolic.
        constant: make inputs that hold no floats (axes, shapes, indices) constants, as exporters do.
        weights: make all inputs but the first constants.
    """
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    held = [n for n, a in feeds.items() if constant and a.dtype.kind not in "fV"]
    held = list(feeds)[1:] if weights else held
    inputs = [v for v in model.graph.input if v.name not in held]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.graph.initializer.extend(numpy_helper.from_array(feeds[n], n) for n in held)
    if free:
        _free(model.graph)
    return model, {n: a for n, a in feeds.items() if n not in held}


def _free(graph: onnx.GraphProto) -> None:
    fixed = _lengths_that_the_operator_needs(graph)
    for value in graph.input:
        tensor = value.type.tensor_type
        if tensor.elem_type == onnx.TensorProto.FLOAT:
            for axis, dim in enumerate(tensor.shape.dim):
                if (value.name, axis) not in fixed:
                    dim.dim_param = f"{value.name}_{axis}"
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]


def _lengths_that_the_operator_needs(graph: onnx.GraphProto) -> set[tuple[str, int]]:
    """A convolution's kernel, and the steps that recurrent operators and Scan are unrolled to."""
    found: set[tuple[str, int]] = set()
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "DeformConv"):
            found.update((node.input[1], axis) for axis in range(2, 5))
        elif node.op_type in ("RNN", "GRU", "LSTM", "Scan"):
            found.update((name, axis) for name in node.input for axis in range(4))
    return found


def _beside(feeds: Arrays, attempt: int) -> Arrays:
    """The float inputs moved a little, where the case's own lie at a kink and any slope between two is right."""
    rng = np.random.default_rng(attempt)

    def moved(a: np.ndarray) -> np.ndarray:
        return a + (rng.uniform(0.03, 0.1, a.shape) * rng.choice([-1, 1], a.shape)).astype(a.dtype)

    return {n: moved(a) if attempt and a.dtype == np.float32 else a for n, a in feeds.items()}


def runner(model: onnx.ModelProto) -> Run:
    """Runs a model in ONNX Runtime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)  # type: ignore[no-any-return]


def evaluator(model: onnx.ModelProto) -> Run:
    """Runs a model in ONNX's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(model)
    return lambda feeds: evaluator.run(None, feeds)  # type: ignore[return-value]


def opened(model: onnx.ModelProto) -> Model:
    """As users open it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.onnx"
        path.write_bytes(model.SerializeToString())
        return load_model(path)


def judge(
    name: str,
    engine: str = "portable",
    free: bool = False,
    constant: bool = True,
    newer: bool = False,
    weights: bool = False,
) -> Verdict:
    """Judge one case."""
    case = suite()[name]
    make = evaluator if newer else runner
    for held in sorted({constant, False}, reverse=True):  # one runtime refuses some models with a constant for an input
        model, fed = prepared(case, feeds_of(case), free, held, weights and held)
        try:
            forward = make(model)
            forward(fed)
            break
        except Exception as error:
            problem = str(error)[:150]
    else:
        return Verdict("untested", f"does not run without gradients: {problem}")
    fed, pairs = _slopes(model, forward, fed)
    if not pairs:
        return Verdict("untested", "not differentiable by finite differences")
    outcomes = [_judge_output(model, make, fed, output, slopes, engine) for output, slopes in pairs.items()]
    return next((o for o in outcomes if o.outcome != "right"), Verdict("right"))


@dataclass(frozen=True)
class Slope:
    """A directional derivative of <seed, output> by an input."""

    seed: np.ndarray
    direction: np.ndarray
    value: float
    spread: float  # of the central differences
    doubt: float
    smooth: bool


Slopes = dict[str, dict[str, list[Slope]]]  # by output and input


def _slopes(model: onnx.ModelProto, forward: Run, feeds: Arrays) -> tuple[Arrays, Slopes]:
    """Where to judge, and the slopes there: beside the case's own inputs where those lie at a kink."""
    places: list[tuple[float, Arrays, Slopes]] = []
    wanted: dict[str, set[str]] = {}
    for attempt in range(ATTEMPTS):
        moved = _beside(feeds, attempt)
        found = _differentiable(model, forward, moved)
        wanted = wanted or {o: set(by_input) for o, by_input in found.items()}
        every = [[s.smooth for s in found.get(o, {}).get(n, [])] for o, names in wanted.items() for n in names]
        share = min(map(_share, every), default=1.0)
        places.append((share, moved, found))
        if share > 0.5:
            break
    _, moved, found = max(places, key=lambda place: place[0])
    return moved, {o: {n: _smooth(found.get(o, {}).get(n, [])) for n in names} for o, names in wanted.items()}


def _share(smooth: list[bool]) -> float:
    """How many directions meet no kink; less than 0 where some meet one, and least where there is no derivative."""
    return (sum(smooth) / DIRECTIONS - (not all(smooth))) if smooth else -2.0


def _smooth(slopes: list[Slope]) -> list[Slope]:
    return [s for s in slopes if s.smooth] or slopes


def _differentiable(model: onnx.ModelProto, forward: Run, feeds: Arrays) -> Slopes:
    """The slopes of those outputs and inputs that depend differentiably on one another."""
    found: Slopes = {}
    base = forward(feeds)
    for k, output in enumerate(v.name for v in model.graph.output):
        if not isinstance(base[k], np.ndarray) or base[k].dtype not in _FLOATS or not np.all(np.isfinite(base[k])):
            continue
        for name, x in feeds.items():
            if x.dtype != np.float32 or not x.size:
                continue
            rng = np.random.default_rng(zlib.crc32(f"{output}/{name}".encode()))
            seed = rng.uniform(0.5, 1.5, base[k].shape) * rng.choice([-1, 1], base[k].shape)
            score = functools.partial(_score, forward, feeds, name, k, seed)
            terms = seed * base[k]
            try:
                slopes = [_slope(score, terms, seed, _direction(rng, x.shape, some)) for some in range(DIRECTIONS)]
            except ValueError:  # the shape of the output depends on the values of this input
                continue
            kept = [s for s in slopes if abs(s.value) >= SLOPE and s.spread <= AGREE * abs(s.value)]
            if kept:
                found.setdefault(output, {})[name] = kept
    return found


def _direction(rng: np.random.Generator, shape: tuple[int, ...], number: int) -> np.ndarray:
    """Every other direction moves a few elements only, so that it meets fewer kinks."""
    direction = rng.uniform(-1, 1, shape)
    few = rng.permutation(direction.size).reshape(shape) < 5
    return (direction * few if number % 2 else direction).astype(np.float32)


def _score(forward: Run, feeds: Arrays, name: str, k: int, seed: np.ndarray, moved: np.ndarray) -> float:
    y = forward({**feeds, name: feeds[name] + moved})[k]
    if y.shape != seed.shape:
        raise ValueError(f"{y.shape} is not {seed.shape}")
    return float(np.vdot(seed, y.astype(np.float64)))


def _slope(score: Callable[[np.ndarray], float], terms: np.ndarray, seed: np.ndarray, direction: np.ndarray) -> Slope:
    def at(step: float) -> float:
        return score(np.float32(step) * direction)

    coarse, fine = ((at(step) - at(-step)) / (2 * step) for step in STEPS)
    here, ahead, behind = at(0), at(SIDE), at(-SIDE)
    near, kink = (ahead - behind) / (2 * SIDE), abs((ahead - here) - (here - behind)) / SIDE
    rounding = FLOAT32 * (float(np.linalg.norm(terms)) + abs(here))
    doubt = max(abs(coarse - fine), abs(coarse - near)) + rounding / STEPS[0]
    smooth = max(kink, abs(coarse - near)) <= KINK * abs(coarse) + 4 * rounding / SIDE
    return Slope(seed, direction, coarse, abs(coarse - fine), doubt, smooth)


def _judge_output(
    model: onnx.ModelProto,
    make: Callable[[onnx.ModelProto], Run],
    feeds: Arrays,
    output: str,
    slopes: Mapping[str, Sequence[Slope]],
    engine: str,
) -> Verdict:
    try:
        edited = ir.to_proto(add_gradients(opened(model), of=output, wrt=list(slopes), engine=engine).ir_model)
    except OnnxcamError as error:
        return Verdict("refused", re.sub(r"\S*case\.onnx", "the model", str(error)))
    if engine == "portable" and (strange := _strange(edited)):
        return Verdict("wrong", f"it writes {strange}, no standard operator at the model's opset")
    outputs = [v.name for v in edited.graph.output]
    run = make(edited)
    for name, found in slopes.items():
        seed = found[0].seed.astype(np.float32)
        gradient = run({**feeds, "onnxcam/seed": seed})[outputs.index(f"onnxcam/grad/{name}")]
        if gradient.shape != feeds[name].shape:
            return Verdict("wrong", f"d {output} / d {name} has shape {gradient.shape}, not {feeds[name].shape}")
        for s in found:
            got = float(np.vdot(gradient.astype(np.float64), s.direction))
            if not abs(got - s.value) <= 2 * s.doubt + 2e-3 * abs(s.value) + 1e-5:
                return Verdict("wrong", f"d {output} / d {name} is {got:.6g} along a direction, not {s.value:.6g}")
    return Verdict("right")


def _strange(edited: onnx.ModelProto) -> str:
    """An operator that the portable engine wrote and that is none of the default domain at the model's opset."""
    written = (n for n in edited.graph.node if n.name.startswith("onnxcam/"))
    opset = opset_of(edited)
    return next((f"{n.domain}::{n.op_type}" for n in written if not is_standard(n, opset)), "")


def is_standard(node: Any, opset: int) -> bool:
    """Of the default domain, and in that opset."""
    if node.domain or not onnx.defs.has(node.op_type, opset, ""):
        return False
    return not onnx.defs.get_schema(node.op_type, opset, "").deprecated
