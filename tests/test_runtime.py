"""ONNX Runtime: finding it, what is wrong with an installation, sessions."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types
import warnings

import builders
import numpy as np
import onnx_ir as ir
import pytest
from builders import classifier, value, write
from onnx import helper

from onnxcam import load_model, runtime
from onnxcam.errors import ModelError, OptionError, RuntimeUnavailableError
from onnxcam.isolation import Worker

X = np.random.default_rng(1).standard_normal((2, 3, 12, 12)).astype(np.float32)


@pytest.fixture
def fresh():
    """load_runtime() looks anew, now and afterwards."""
    runtime.load_runtime.cache_clear()
    yield
    runtime.load_runtime.cache_clear()


def pretend(monkeypatch, *builds):
    def version(name):
        if name not in builds:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(importlib.metadata, "version", version)


# The installation


def test_no_runtime_says_what_to_install(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    pretend(monkeypatch)
    with pytest.raises(
        RuntimeUnavailableError, match=r"no ONNX Runtime is installed.*onnxcam\[training\].*onnxcam\[cpu\]"
    ):
        runtime.load_runtime()


def test_a_broken_pair_says_what_to_uninstall(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", type(sys)("onnxruntime"))  # what half a removal leaves
    pretend(monkeypatch, "onnxruntime", "onnxruntime-training-cpu")
    with pytest.raises(RuntimeUnavailableError, match="uninstall all of them") as caught:
        runtime.load_runtime()
    assert "onnxruntime==1.2.3" in str(caught.value)
    assert "onnxruntime-training-cpu==1.2.3" in str(caught.value)


def test_a_pair_that_works_is_a_warning(fresh, monkeypatch):
    pretend(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    with pytest.warns(UserWarning, match="several ONNX Runtime builds"):
        assert runtime.load_runtime().InferenceSession


def test_one_build_is_no_warning(fresh, monkeypatch):
    pretend(monkeypatch, "onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runtime.load_runtime()


@pytest.mark.anyruntime
@pytest.mark.parametrize("failure", ["raise OSError('libcudart.so.12: cannot open')", "raise RuntimeError('ABI')", ""])
def test_on_the_command_line_it_is_one_message(tmp_path, failure):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(failure)
    model = write(tmp_path / "model.onnx", classifier())
    picture = builders.png(tmp_path / "a.png")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from onnxcam.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "explain", model, picture, "-o", tmp_path / "out"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "cannot be imported" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


# Too old for a model


@pytest.mark.parametrize(("opset", "ir_version"), [(23, 10), (18, 11)])
def test_a_runtime_too_old_for_the_model_says_so(tmp_path, opset, ir_version):
    if tuple(map(int, runtime.load_runtime().__version__.split(".")[:2])) > (1, 20):
        pytest.skip("this ONNX Runtime is new enough for opset 23 and IR 11")
    opened = load_model(write(tmp_path / "model.onnx", classifier(opset, ir_version=ir_version)))
    with pytest.raises(RuntimeUnavailableError, match=f"too old.*opset {opset}, IR version {ir_version}") as caught:
        runtime.Session(opened)
    assert "onnxcam[cpu]" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "Unsupported model IR version: 11, max supported IR version: 10",
        "Opset 25 is under development and support for this is limited.",
        "Fatal error: RMSNormalization(23) is not a registered function/op",
    ],
)
def test_what_runtimes_say_of_models_that_are_too_new(tmp_path, text):
    opened = runtime.packed(load_model(write(tmp_path / "model.onnx", classifier())))
    assert isinstance(runtime._explained(RuntimeError(text), opened, "1.2.3"), RuntimeUnavailableError)
    assert type(runtime._explained(RuntimeError("shape mismatch"), opened, "1.2.3")) is ModelError


# Sessions


@pytest.mark.parametrize("optimize", [True, False])
def test_a_session_answers_as_plain_loops_do(tmp_path, optimize):
    proto = classifier()
    session = runtime.Session(load_model(write(tmp_path / "model.onnx", proto)), threads=1, optimize=optimize)
    assert session.inputs == ["image"]
    assert session.providers == ["CPUExecutionProvider"]
    (found,) = session.run({"image": X})
    np.testing.assert_allclose(found, builders.plain_scores(proto, X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.uint8, np.int64, np.bool_])
@pytest.mark.parametrize("length", [3, 5000])
@pytest.mark.parametrize("outside", [False, True])
def test_weights_of_every_type_reach_the_runtime(tmp_path, dtype, length, outside):
    """Small ones within the graph, large ones in memory, external ones from their file."""
    array = (np.arange(length) % 2).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [helper.make_node("Identity", ["w"], ["y"]), helper.make_node("Relu", ["image"], ["z"])]
    proto = builders.model(
        nodes, [value("image", [1, 3, 2, 2])], [value("y", None, kind), value("z", None)], {"w": array}
    )
    if outside:
        proto = builders.external(proto, "w.bin", tmp_path)
    session = runtime.Session(load_model(write(tmp_path / "model.onnx", proto)))
    np.testing.assert_array_equal(session.run({"image": np.zeros((1, 3, 2, 2), np.float32)}, ["y"])[0], array)


def test_large_weights_are_not_written_into_the_graph(tmp_path):
    opened = load_model(write(tmp_path / "model.onnx", classifier()))
    graph, handed_over = runtime._serialise(opened)
    assert set(handed_over) == {"w2"}  # 1,728 bytes; the others are below 1 kB
    assert opened.graph.initializers["w2"].const_value.numpy().tobytes() not in graph
    assert not isinstance(opened.graph.initializers["w2"].const_value, ir.ExternalTensor)


def test_weights_that_nothing_reads_are_left_out(tmp_path):
    """Newer runtimes refuse to be handed a weight that they have dropped."""
    nodes = [helper.make_node("Mul", ["image", "used"], ["z"])]
    held = {n: np.full((40, 40), v, np.float32) for n, v in (("used", 2), ("unread", 3), ("shown", 4))}
    ends = [value("image", [1, 3, 40, 40])], [value("z", None), value("shown", [40, 40])]
    opened = load_model(write(tmp_path / "model.onnx", builders.model(nodes, *ends, held)))
    z, shown = runtime.Session(opened).run({"image": np.ones((1, 3, 40, 40), np.float32)})
    assert set(z.ravel()) == {2.0}
    assert set(shown.ravel()) == {4.0}
    assert "unread" in opened.graph.initializers


def test_an_unknown_provider_lists_those_there_are(tmp_path):
    opened = load_model(write(tmp_path / "model.onnx", classifier()))
    with pytest.raises(OptionError, match=r"'NoSuchProvider'.*CPUExecutionProvider"):
        runtime.Session(opened, providers=["NoSuchProvider"])


IDLE = r"CUDAExecutionProvider is in this ONNX Runtime but does not start.*onnxruntime-gpu\[cuda,cudnn\]"


@pytest.fixture
def a_driver_is_missing(monkeypatch) -> None:
    """The runtime offers CUDA, and then goes on without, as it does where it finds no CUDA libraries or device."""
    found = runtime.load_runtime()
    if "CUDAExecutionProvider" in found.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    monkeypatch.setattr(found, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])


@pytest.mark.usefixtures("a_driver_is_missing")
@pytest.mark.filterwarnings("ignore:Specified provider")  # the runtime's own, which real builds do not give
@pytest.mark.parametrize("apart", [False, True])
def test_a_provider_that_does_not_start_is_not_passed_over(tmp_path, apart):
    opened = load_model(write(tmp_path / "model.onnx", classifier()))
    with pytest.raises(RuntimeUnavailableError, match=IDLE):
        runtime.Session(opened, providers=["CUDAExecutionProvider"], worker=Worker() if apart else None)


@pytest.mark.usefixtures("a_driver_is_missing")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_with_another_one_asked_for_it_is_a_warning(tmp_path):
    opened = load_model(write(tmp_path / "model.onnx", classifier()))
    with pytest.warns(UserWarning, match=IDLE + ".*The model runs by CPUExecutionProvider"):
        session = runtime.Session(opened, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run({"image": X})[0], runtime.Session(opened).run({"image": X})[0])


@pytest.mark.parametrize(("provider", "loaded"), [("CUDAExecutionProvider", 1), ("CPUExecutionProvider", 0)])
def test_libraries_of_cuda_are_looked_for_where_it_is_wanted_and_in_silence(capsys, provider, loaded):
    """What is printed would stand among the JSON lines of a command."""
    calls = []
    fake = types.SimpleNamespace(preload_dlls=lambda: calls.append(print("Failed to load libcublas.so")))
    runtime._preload(fake, [provider])
    runtime._preload(types.SimpleNamespace(), [provider])  # up to 1.20
    assert len(calls) == loaded
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_are_at_least_one(tmp_path, threads):
    opened = load_model(write(tmp_path / "model.onnx", classifier()))
    with pytest.raises(OptionError, match=f"threads={threads}"):
        runtime.Session(opened, threads=threads)


def test_a_run_that_fails_is_one_line(tmp_path):
    session = runtime.Session(load_model(write(tmp_path / "model.onnx", classifier())))
    with pytest.raises(ModelError, match="could not run the model") as caught:
        session.run({"image": X[:, :2]})
    assert "\n" not in str(caught.value)
