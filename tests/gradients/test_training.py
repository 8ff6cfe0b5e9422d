"""Engine "training" against engine "portable": operator by operator, on small networks, on real models."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from cases import CASES, Case
from onnx import helper, numpy_helper
from onnxruntime.capi import _pybind_state
from test_rules import VARIANTS, by_units, distance, opened, reference, session

from onnxcam.errors import GradientError, ModelError, OnnxcamError
from onnxcam.gradients import add_gradients, training
from onnxcam.gradients.buildable import LOWERINGS, as_it_is
from onnxcam.gradients.path_copy import Copy
from onnxcam.gradients.rules import RULES
from onnxcam.graph.inspect import find_logits, target_layers
from onnxcam.graph.paths import float_path
from onnxcam.isolation import Worker
from onnxcam.model import Model, load_model
from onnxcam.runtime import Session

BUILDER = hasattr(_pybind_state, "GradientGraphBuilder")
needs_builder = pytest.mark.skipif(not BUILDER, reason="the installed onnxruntime is not the training build")
pytestmark = pytest.mark.training

# Operators of the allow-list, and what of them is refused. Both may grow better only on purpose.
ALLOWED = """
Abs Add AveragePool BatchNormalization Cast Celu Clip Concat Conv ConvTranspose Cos DepthToSpace Div Dropout Elu Erf
Exp Expand Flatten Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish
Identity InstanceNormalization LRN LayerNormalization LeakyRelu Log LogSoftmax MatMul Max MaxPool Mean Min Mish Mul
Neg PRelu Pad Pow Reciprocal ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize
ScatterElements ScatterND Selu Sigmoid Sin Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum
Tanh ThresholdedRelu Tile Transpose Trilu Unsqueeze Where
"""
AT_RUN_TIME = "input N is computed at run time; only a constant is covered"
PARTLY_REFUSED = {
    "AveragePool": {
        "auto_pad, and axis N has no fixed length",
        "ceil_mode together with count_include_pad",
        "ceil_mode with windows that may lie wholly in the padding",
        "ceil_mode, and axis N has no fixed length",
        "padding that is not counted, and axis N has no fixed length",
    },
    "BatchNormalization": {"an input other than the first depends on the image"},
    "Cast": {"DOUBLE values; its kernels are for FLOAT"},
    "Clip": {"an input other than the first depends on the image"},
    "Conv": {"auto_pad, and axis N has no fixed length"},
    "ConvTranspose": {"an input other than the first depends on the image", "auto_pad or output_shape"},
    "InstanceNormalization": {"an input other than the first depends on the image"},
    "LayerNormalization": {"an input other than the first depends on the image", "the saved statistics are read"},
    "MaxPool": {"storage_order=N"},
    "PRelu": {"an input other than the first depends on the image"},
    "Pad": {
        "an input other than the first depends on the image",
        AT_RUN_TIME,
        "mode=edge",
        "mode=reflect",
        "mode=wrap",
    },
    "Pow": {"an input other than the first depends on the image"},
    **{op: {AT_RUN_TIME} for op in ("ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMin")},
    "Resize": {
        "a scale that keeps the length of an axis, which runtimes read in two ways",
        "coordinate_transformation_mode=tf_crop_and_resize",
        "keep_aspect_ratio_policy",
    },
    "ScatterElements": {f"reduction={r}" for r in ("add", "max", "min", "mul")},
    "ScatterND": {f"reduction={r}" for r in ("add", "max", "min", "mul")},
    "Slice": {"a negative step, and axis N has no fixed length", AT_RUN_TIME},
}
REAL_REFUSED = {
    "mobilenetv2_int8_qdq_nhwc_u8.onnx": "QuantizeLinear .*not among the operators",
    "squeezenet11_fp16_winml.onnx": "FLOAT16 values; its kernels are for FLOAT",
}
QUANTISED = {"QuantizeLinear", "DequantizeLinear"}


def refusals(model: Model, of: str, wrt: list[str]) -> set[tuple[str, str]]:
    values = [model.values[w] for w in wrt]
    copy = Copy(float_path(model.values[of], values), values, model.opset, LOWERINGS)
    return {(n.op_type, re.sub(r"\d+", "N", reason)) for n, reason in copy.refused}


def gradients(model: Model, of: str, wrt: list[str], feeds, engine: str, relu: str = "plain") -> list[np.ndarray]:
    made = ir.to_proto(add_gradients(model, of, wrt, engine=engine, relu=relu).ir_model)
    return session(made).run([f"onnxcam/grad/{w}" for w in wrt], feeds)


def weights(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(sum(shape) * 31 + len(shape))
    return (rng.normal(size=shape) / np.sqrt(max(np.prod(shape[1:]), 1))).astype(np.float32)


# Operator by operator


def test_allow_list() -> None:
    assert set(LOWERINGS) == set(ALLOWED.split())
    assert {c.op for c in CASES} >= set(LOWERINGS), "an operator without a case"


@pytest.mark.anyruntime
def test_refusals_are_the_known_ones() -> None:
    """Of the allowed operators, over every case, with fixed and with free axes."""
    seen: dict[str, set[str]] = {}
    for case in CASES:
        if not QUANTISED & {n.op_type for n in case.nodes}:
            for free in ("", "named", "anonymous"):
                for op, reason in refusals(opened(case.model(np.float32, free=free)), "y", case.wrt):
                    seen.setdefault(op, set()).add(reason)
    assert {op: reasons for op, reasons in seen.items() if op in LOWERINGS} == PARTLY_REFUSED


DANGEROUS = [
    ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1}, "wholly in the padding"),
    ("AveragePool", [], {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1}, "wholly in the padding"),
    ("ConvTranspose", [weights(2, 2, 1, 1)], {"pads": [1, 1, 1, 1]}, "padding larger than the kernel"),
    ("BatchNormalization", [weights(2, 1)[:, 0]] * 4, {"training_mode": 1}, "training_mode=1"),
    ("Gelu", [], {}, ""),
    (
        "Resize",
        [None, None, np.asarray([8, 9])],
        {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"},
        "keep_asp",
    ),
    ("Resize", [None, np.float32([1.01, 2])], {"axes": [2, 3]}, "keeps the length"),
]


@pytest.mark.parametrize(("op", "extra", "attributes", "reason"), DANGEROUS)
def test_refuses_the_rest(op: str, extra: list, attributes: dict, reason: str) -> None:
    names = ["x", *("" if e is None else f"e{k}" for k, e in enumerate(extra))]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("x", 1, [1, 2, 8, 8])],
        [helper.make_tensor_value_info("y", 1, [None] * 4)],
        [numpy_helper.from_array(e, f"e{k}") for k, e in enumerate(extra) if e is not None],
    )
    model = opened(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))
    said = " ".join(f"{o}: {r}" for o, r in refusals(model, "y", ["x"]))
    assert reason.replace("1", "N") in said if reason else said == ""


@pytest.mark.parametrize(("case", "opset", "free"), VARIANTS if BUILDER else [], ids=str)
def test_agrees_with_portable(case: Case, opset: int, free: str) -> None:
    proto = case.model(np.float32, opset, free)
    model = opened(proto)
    if refusals(model, "y", case.wrt):
        with pytest.raises(GradientError, match=r"training engine cannot do this: .*engine='portable'"):
            add_gradients(model, "y", case.wrt, engine="training")
        return
    if "Resize" in case.name and "negative axes" in case.name:
        pytest.skip("onnxruntime 1.19.2 dies on negative axes of Resize, gradient or not")
    try:
        session(proto).run(None, case.feeds(np.float32))
    except Exception as error:
        pytest.skip(f"ONNX Runtime {ort.__version__} does not run the case without gradients: {str(error)[:200]}")
    _, wanted, seed = reference(case)
    wanted = [by_units(case, opset, seed)] if case.rounds else wanted
    made = add_gradients(model, "y", case.wrt, engine="training")
    assert training.kernels(made) <= training.PROVEN
    feeds = case.feeds(np.float32) | {"onnxcam/seed": np.asarray(seed, dtype=np.float32)}
    found = session(ir.to_proto(made.ir_model)).run([f"onnxcam/grad/{w}" for w in case.wrt], feeds)
    for name, gradient, want in zip(case.wrt, found, wanted, strict=True):
        assert gradient.shape == want.shape
        assert distance(gradient, want) < 1e-4, name


# On small networks


RECTIFIERS = {
    "Relu": ("Relu", [], {}),
    "Clip": ("Clip", [np.float32(0), np.float32(2.5)], {}),
    "LeakyRelu": ("LeakyRelu", [], {"alpha": 0.2}),
    "PRelu": ("PRelu", [weights(4, 1, 1)], {}),
    "ThresholdedRelu": ("ThresholdedRelu", [], {"alpha": 0.3}),
    "Max": ("Max", [np.float32(0)], {}),
}


def network(rectifier: str, size: int | str = 12, opset: int = 18) -> Model:
    """Batch normalisation, a residual sum, a concatenation, both pools, three rectifiers, a Transpose."""
    op, extra, attributes = RECTIFIERS[rectifier]
    names = [f"extra{k}" for k in range(len(extra))]
    arrays = dict(zip(names, extra, strict=True))
    arrays |= {"w1": weights(4, 3, 3, 3), "w2": weights(4, 4, 3, 3), "w3": weights(4, 8, 1, 1), "w4": weights(4, 5)}
    arrays |= {"scale": weights(4, 1).ravel() + 1, "bias": weights(4, 2)[:, 0], "mean": weights(4, 3)[:, 0]}
    arrays |= {"var": np.abs(weights(4, 4)[:, 0]) + 0.5, "shape": np.asarray([0, -1], dtype=np.int64)}
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "w1"], ["c1"], pads=[1] * 4),
        make("BatchNormalization", ["c1", "scale", "bias", "mean", "var"], ["n1"]),
        make(op, ["n1", *names], ["r1"], **attributes),
        make("MaxPool", ["r1"], ["p1"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        make("Conv", ["p1", "w2"], ["c2"], pads=[1] * 4),
        make(op, ["c2", *names], ["r2"], **attributes),
        make("Add", ["p1", "r2"], ["sum"]),
        make("AveragePool", ["sum"], ["p2"], kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, count_include_pad=1),
        make("Concat", ["sum", "p2"], ["both"], axis=1),
        make("Conv", ["both", "w3"], ["c3"]),
        make(op, ["c3", *names], ["layer"], **attributes),
        make("Transpose", ["layer"], ["moved"], perm=[0, 2, 3, 1]),
        make("ReduceMean", ["moved", "axes"], ["pooled"], keepdims=0),
        make("MatMul", ["pooled", "w4"], ["logits"]),
    ]
    arrays["axes"] = np.asarray([1, 2], dtype=np.int64)
    batch = "batch" if isinstance(size, str) else 2
    graph = helper.make_graph(
        nodes, "network", [helper.make_tensor_value_info("x", 1, [batch, 3, size, size])],
        [helper.make_tensor_value_info("logits", 1, [batch, 5])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
    )  # fmt: skip
    return opened(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))


def network_feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {"x": np.float32(rng.normal(size=(2, 3, 12, 12))), "onnxcam/seed": np.float32(rng.normal(size=(2, 5)))}


@needs_builder
@pytest.mark.parametrize("size", [12, "side"])
@pytest.mark.parametrize("relu", ["plain", "guided", "deconvnet"])
@pytest.mark.parametrize("rectifier", RECTIFIERS)
def test_networks_and_policies(rectifier: str, relu: str, size: int | str) -> None:
    model, wrt, feeds = network(rectifier, size), ["layer", "x", "sum"], network_feeds()
    portable = gradients(model, "logits", wrt, feeds, "portable", relu)
    found = gradients(model, "logits", wrt, feeds, "training", relu)
    for name, gradient, want in zip(wrt, found, portable, strict=True):
        assert np.linalg.norm(want) > 1e-3, name
        assert distance(gradient, want) < 1e-5, name
    if relu != "plain":
        assert distance(found[1], gradients(model, "logits", wrt, feeds, "training")[1]) > 0.05


@needs_builder
def test_seed_and_its_own_value() -> None:
    feeds = network_feeds()
    own, layer = gradients(network("Relu"), "logits", ["logits", "layer"], feeds, "training")
    np.testing.assert_array_equal(own, feeds["onnxcam/seed"])
    assert distance(layer, gradients(network("Relu"), "logits", ["layer"], feeds, "portable")[0]) < 1e-6


@needs_builder
@pytest.mark.parametrize("opset", [18, 19, 20, 21])
def test_original_graph_stays(opset: int) -> None:
    """Not mutated; the old nodes stand first, byte for byte; new ones wear the prefix; outputs are bit-identical."""
    model = network("Relu", opset=opset)
    before = ir.to_proto(model.ir_model).SerializeToString()
    made = ir.to_proto(add_gradients(model, "logits", ["layer", "x"], engine="training").ir_model)
    assert ir.to_proto(model.ir_model).SerializeToString() == before
    old = onnx.load_model_from_string(before).graph.node
    assert [n.SerializeToString() for n in made.graph.node[: len(old)]] == [n.SerializeToString() for n in old]
    assert len(made.graph.node) > len(old)
    for node in made.graph.node[len(old) :]:
        assert all(name.startswith("onnxcam/") for name in (node.name, *filter(None, node.output)))
    assert {"ReluGrad", "ConvGrad"} <= {n.op_type for n in made.graph.node if n.domain == "com.microsoft"}
    assert "com.microsoft" in {o.domain for o in made.opset_import}
    feeds = network_feeds()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    run = lambda data: ort.InferenceSession(data, options).run  # noqa: E731
    was = run(before)(["logits"], {"x": feeds["x"]})[0]
    np.testing.assert_array_equal(run(made.SerializeToString())(["logits"], feeds)[0], was)


@needs_builder
def test_forward_work_is_not_done_twice() -> None:
    made = add_gradients(network("Relu"), "logits", ["x"], engine="training").graph
    written = [n for n in made if n.name.startswith("onnxcam/")]
    assert not [n.op_type for n in written if n.op_type in ("Conv", "MatMul", "Relu", "BatchNormalization")]
    weights_read = {v.name for n in written if n.op_type == "ConvGrad" for v in n.inputs if v is not None}
    assert {"w1", "w2", "w3"} <= weights_read


@needs_builder
def test_gradient_has_the_shape_of_its_value() -> None:
    made = add_gradients(network("Relu", "side"), "logits", ["layer", "x"], engine="training")
    for name in ("layer", "x"):
        gradient, value = made.values[f"onnxcam/grad/{name}"], made.values[name]
        assert (gradient.dtype, gradient.shape) == (value.dtype, value.shape)


@needs_builder
def test_does_not_depend() -> None:
    with pytest.raises(GradientError, match="layer does not depend on logits"):
        add_gradients(network("Relu"), "layer", ["x", "logits"], engine="training")


# The choice of the engine


@needs_builder
def test_auto_is_portable_unless_a_rule_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def engine() -> str:
        return add_gradients(network("Relu"), "logits", "x").notes[-1]

    assert "engine portable" in engine()
    monkeypatch.delitem(RULES, ("", "BatchNormalization"))
    assert "engine training" in engine()
    monkeypatch.delitem(LOWERINGS, "BatchNormalization")
    with pytest.raises(GradientError, match=r"BatchNormalization.*no gradient rule"):
        engine()


@needs_builder
def test_why_not_names_every_refusal() -> None:
    model = network("Relu")
    assert training.why_not(list(model.graph), model) == ""
    path = [ir.node(op, [model.values["x"]], name=f"my_{op}") for op in ("Tan", "TopK", "Tan")]
    said = training.why_not(path)
    assert re.search(r"Tan \(opset \d+\): not among .*; 2 nodes, such as my_Tan; TopK \(opset", said)


@needs_builder
def test_why_not_of_a_newer_model() -> None:
    model = network("Relu", opset=22)
    assert "opset 22, and onnxruntime-training 1.19.2 loads up to 21" in training.why_not(list(model.graph))
    with pytest.raises(GradientError, match=r"opset 22.*Use engine='portable'"):
        add_gradients(model, "logits", "x", engine="training")
    model = network("Relu")
    model.ir_model.ir_version = 11
    assert "IR version 11, and onnxruntime-training 1.19.2 loads up to 10" in training.why_not([], model)


def test_why_not_with_another_build(monkeypatch: pytest.MonkeyPatch) -> None:
    if BUILDER:
        monkeypatch.delattr(_pybind_state, "GradientGraphBuilder")
    assert f"onnxruntime {ort.__version__} is not the training build; pip install" in training.why_not([])
    with pytest.raises(GradientError, match=r"not the training build.*Use engine='portable'"):
        add_gradients(network("Relu"), "logits", "x", engine="training")


def test_why_not_without_a_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "onnxruntime-training is not installed" in training.why_not([])


# Native code


@needs_builder
def test_builds_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    add_gradients(network("Relu"), "logits", "x", engine="training")
    os.write(2, b"still there\n")
    assert capfd.readouterr().err == "still there\n"


@needs_builder
def test_a_failing_build_gives_stderr_back(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOWERINGS, "BatchNormalization", as_it_is)
    with pytest.raises(GradientError, match=r"gradient builder failed: .*Use engine='portable'"):
        add_gradients(network("Relu"), "logits", "x", engine="training")
    os.write(2, b"still there\n")
    assert capfd.readouterr().err == "still there\n"


@needs_builder
def test_never_imports_torch() -> None:
    script = (
        "import sys, onnxruntime  # which looks for torch itself, and does without\n"
        "class Watch:\n"
        "    def find_spec(self, name, *rest):\n"
        "        assert name.partition('.')[0] != 'torch', 'imports torch'\n"
        "sys.meta_path.insert(0, Watch())\n"
        "from test_training import network\n"
        "from onnxcam.gradients import add_gradients\n"
        "add_gradients(network('Relu'), 'logits', 'x', engine='training')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_builder
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to read the resident memory from")
def test_builds_do_not_leak() -> None:
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    model = network("Relu")
    megabytes = []
    for _ in range(40):
        add_gradients(model, "logits", ["layer", "x"], engine="training")
        megabytes.append(resident())
    assert megabytes[-1] - megabytes[9] < 8, megabytes


def pooled() -> tuple[Model, dict[str, np.ndarray]]:
    """The gradient of a MaxPool with free axes, and feeds."""
    graph = helper.make_graph(
        [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])],
        "pool",
        [helper.make_tensor_value_info("x", 1, [1, 8, None, None])],
        [helper.make_tensor_value_info("y", 1, [1, 8, None, None])],
    )
    model = opened(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    feeds = {"x": weights(1, 8, 64, 64), "onnxcam/seed": weights(1, 8, 32, 32)}
    return add_gradients(model, "y", "x", engine="training"), feeds


@needs_builder
@pytest.mark.skipif(os.name != "posix", reason="names the signal")
def test_what_kills_kills_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder's own gradient of this MaxPool dies by SIGSEGV when it runs; lowered, it runs."""
    model, feeds = pooled()
    assert training.is_proven(model)
    alone = Session(model).run(feeds)
    np.testing.assert_array_equal(Session(model, worker=Worker()).run(feeds)[-1], alone[-1])
    monkeypatch.setitem(LOWERINGS, "MaxPool", as_it_is)
    model, feeds = pooled()
    assert not training.is_proven(model)
    with pytest.raises(ModelError, match=r"ONNX Runtime crashed \(SIG[A-Z]+\) while it ran the model"):
        Session(model, worker=Worker()).run(feeds)


@needs_builder
def test_the_proven_kernels_are_those_that_the_cases_run() -> None:
    """Each of them runs in `test_agrees_with_portable`, in this process, and no other."""
    seen = set()
    for case in CASES:
        model = opened(case.model(np.float32, free="anonymous"))
        if not refusals(model, "y", case.wrt):
            seen |= training.kernels(add_gradients(model, "y", case.wrt, engine="training"))
    assert seen == training.PROVEN


# On real models


def real_feeds(model: Model) -> dict[str, np.ndarray]:
    rng, feeds = np.random.default_rng(5), {}
    for value in model.inputs:
        assert value.shape is not None
        free = {2: 48, 3: 192} if value.name == model.image_input.name and model.image_input.height is None else {}
        shape = [d if isinstance(d, int) and d > 0 else free.get(axis, 1) for axis, d in enumerate(value.shape)]
        whole = value.dtype.is_integer()
        feeds[str(value.name)] = (rng.integers(0, 256, shape) if whole else rng.random(shape)).astype(
            value.dtype.numpy()
        )
    return feeds


def real_seed(model: Model, of: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    exposed = add_gradients(model, of, of, engine="portable")
    (value,) = (v for v in exposed.inputs if v.name == "onnxcam/seed")
    shape = [d if isinstance(d, int) else 1 for d in value.shape]
    return np.random.default_rng(6).normal(size=shape).astype(value.dtype.numpy())


@needs_builder
@pytest.mark.real
def test_real_models(real_zoo: Path) -> None:
    refused, distances = {}, {}
    for file in sorted((real_zoo / "models").glob("*.onnx")):
        try:
            model = load_model(file)
            of = find_logits(model).name
            wrt = [layer.name for layer in target_layers(model, find_logits(model))[:1]] + ["input"]
        except OnnxcamError:
            continue  # not an image model that onnxcam opens: the loader's own tests say which and why
        try:
            add_gradients(model, of, wrt, engine="training")
        except GradientError as error:
            refused[file.name] = str(error)
            continue
        feeds = real_feeds(model)
        feeds["onnxcam/seed"] = real_seed(model, of, feeds)
        for relu in ("plain", "guided", "deconvnet"):
            found, want = (gradients(model, of, wrt, feeds, engine, relu) for engine in ("training", "portable"))
            assert all(np.linalg.norm(w) > 0 for w in want), file.name
            distances[file.name, relu] = max(distance(f, w) for f, w in zip(found, want, strict=True))
    assert len(distances) >= 3 * 17
    assert {key: d for key, d in distances.items() if d > 1e-4} == {}
    assert set(refused) == set(REAL_REFUSED)
    for name, reason in REAL_REFUSED.items():
        assert re.search(reason, refused[name]), refused[name]
