"""onnxruntime sessions: finding the runtime, providers, threads, feeds."""

from __future__ import annotations

import importlib.metadata
import io
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from ctypes import py_object, pythonapi
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcam.errors import ModelError, OnnxcamError, OptionError, RuntimeUnavailableError
from onnxcam.isolation import CrashError, Worker, tell_of_forks
from onnxcam.model import Model

Array = npt.NDArray[Any]
_BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-training-cpu", "onnxruntime-training")
_INSTALL = "pip install 'onnxcam[training]' (or onnxcam[cpu] on newer Python, arm64 and other edge machines)"
_MOST_THREADS = 1024
_INLINE_BELOW = 1024  # bytes; larger weights are handed over in memory, so that 2 GB is no limit
_HANDED_OVER = {ir.DataType[n] for n in ("FLOAT", "FLOAT16", "DOUBLE", "BOOL", "INT8", "INT16", "INT32", "INT64")}
_HANDED_OVER |= {ir.DataType[n] for n in ("UINT8", "UINT16", "UINT32", "UINT64")}  # NumPy has no bfloat16, float8, int4


@cache
def load_runtime() -> Any:
    """The onnxruntime module.

    Raises:
        RuntimeUnavailableError: none is installed, or the installed one cannot be imported.
    """
    builds = installed_builds()
    try:
        import onnxruntime

        onnxruntime.InferenceSession  # noqa: B018  (half-removed packages import as empty namespaces)
    except Exception as error:  # a mixed-up installation fails in many ways
        if not builds:
            raise RuntimeUnavailableError(f"no ONNX Runtime is installed; {_INSTALL}") from error
        raise RuntimeUnavailableError(
            f"ONNX Runtime is installed ({', '.join(builds)}) but cannot be imported: {error}. The builds share one "
            f"import name: uninstall all of them ({' '.join(builds)}), then {_INSTALL}"
        ) from error
    if len(builds) > 1:
        warnings.warn(
            f"several ONNX Runtime builds are installed ({', '.join(builds)}); they overwrite each other. Keep one",
            stacklevel=2,
        )
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def installed_builds() -> list[str]:
    """The installed distributions that own the import name ``onnxruntime``."""
    found = []
    for name in _BUILDS:
        try:
            found.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Packed:
    """A model as the runtime takes it.

    Attributes:
        graph: serialised, without its larger weights.
        weights: these, by name.
        idle: zeros for the inputs that nothing reads.
        label: how messages call it.
        opset, ir_version: its own.
    """

    graph: bytes
    weights: dict[str, Array]
    idle: dict[str, Array]
    label: str
    opset: int
    ir_version: int


def packed(model: Model) -> Packed:
    """The model as the runtime takes it; its weights are shared, not copied."""
    idle = {str(v.name): _zeros(v) for v in model.unread_inputs}
    return Packed(*_serialise(model), idle, model.label, model.opset, model.ir_model.ir_version)


class Session:
    """A model that runs.

    Args:
        model: what to run; its weights are shared, not copied into the serialised graph.
        providers: execution providers by onnxruntime's names, best first; None takes the CPU.
        threads: threads within an operator; None lets the runtime choose.
        optimize: let the runtime fuse nodes; off, outputs are bit-identical to the original model's.
        worker: the process that it runs in; None: this one.

    Raises:
        RuntimeUnavailableError: no runtime, one too old for the model's opset or IR version, or none of the execution
            providers starts.
        OptionError: an execution provider that this runtime does not have.
        ModelError: the runtime refuses the graph, or crashed in the worker.

    Warns:
        UserWarning: of several execution providers, one did not start.
    """

    def __init__(
        self,
        model: Model | Packed,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        optimize: bool = True,
        worker: Worker | None = None,
    ) -> None:
        if threads is not None and not 1 <= threads <= _MOST_THREADS:
            raise OptionError(f"threads={threads}: give 1 to {_MOST_THREADS}, or leave it to the runtime")
        runtime = load_runtime()
        given = model if isinstance(model, Packed) else packed(model)
        self._idle, self._label = given.idle, given.label
        asked = _known_providers(runtime, providers)
        parts = (given.graph, given.weights, asked, threads, optimize)
        try:
            self._session = _Here(*parts) if worker is None else _Apart(worker, *parts)
        except CrashError as crash:
            raise _crashed(crash, f"it opened {model.label}") from crash
        except Exception as error:
            raise _explained(error, given, runtime.__version__) from error
        self.providers: list[str] = self._session.providers
        _note_idle(asked, self.providers)

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs to feed."""
        return self._session.inputs

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Run once; the arrays come in the order of ``outputs`` (all of them if None).

        Inputs that nothing reads may be left out.

        Raises:
            ModelError: the runtime failed, with its own first line, or crashed in the worker.
        """
        try:
            found: list[Array] = self._session.run(None if outputs is None else list(outputs), {**feeds, **self._idle})
        except CrashError as crash:
            raise _crashed(crash, f"it ran {self._label}") from crash
        except Exception as error:
            raise ModelError(f"ONNX Runtime could not run the model: {_first_line(error)}") from error
        return found


class _Here:
    """An onnxruntime session, with the weights that it shares with the model.

    A process that is forked off has none of the session's threads, and finds locked what another thread held at that
    moment: it opens its own session when it first runs.
    """

    def __init__(
        self, graph: bytes, weights: Mapping[str, Array], providers: Sequence[str], threads: int | None, optimize: bool
    ) -> None:
        runtime = load_runtime()
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        if threads is not None:
            options.intra_op_num_threads = threads
        if not optimize:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._weights = {name: runtime.OrtValue.ortvalue_from_numpy(array) for name, array in weights.items()}
        options.add_external_initializers(list(self._weights), list(self._weights.values()))
        _preload(runtime, providers)
        self._open = partial(runtime.InferenceSession, graph, options, providers=list(providers), enable_fallback=0)
        self._session, self._opening = self._open(), Lock()
        self.inputs, self.providers = [i.name for i in self._session.get_inputs()], self._session.get_providers()
        tell_of_forks(self)

    def forked(self) -> None:
        """In a process that was forked off: keeps the session, which would wait for its threads to end."""
        pythonapi.Py_IncRef(py_object(self._session))
        self._session, self._opening = None, Lock()

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        if self._session is None:
            with self._opening:
                self._session = self._session or self._open()
        found: list[Array] = self._session.run(outputs, feeds)
        return found


class _Apart:
    """The same in a worker; begun again where the worker was."""

    def __init__(self, worker: Worker, *parts: Any) -> None:
        self._worker, self._parts, self._key, self._life = worker, parts, next(_keys), 0
        weakref.finalize(self, worker.gone.append, self._key)
        with worker.lock:
            self._ready()

    def _ready(self) -> None:
        self._worker.ready()
        if self._life != self._worker.life:
            self.inputs, self.providers = self._worker.call(_begin_there, self._key, self._parts)
            self._life = self._worker.life

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        with self._worker.lock:
            self._ready()
            gone = [self._worker.gone.popleft() for _ in range(len(self._worker.gone))]
            return self._worker.call(_run_there, self._key, outputs, feeds, gone)


_keys = count(1)
_there: dict[int, _Here] = {}


def _begin_there(key: int, parts: tuple[Any, ...]) -> tuple[list[str], list[str]]:
    _there[key] = session = _Here(*parts)
    return session.inputs, session.providers


def _run_there(key: int, outputs: Sequence[str] | None, feeds: Mapping[str, Array], gone: Sequence[int]) -> list[Array]:
    for old in gone:
        _there.pop(old, None)
    found: list[Array] = _there[key].run(outputs, feeds)
    return found


def _crashed(crash: CrashError, doing: str) -> ModelError:
    advice = (
        "Give it more memory or time, or try a smaller picture, batch or model"
        if crash.ended
        else "Check the model with another tool, export it again, or try another build or version of ONNX Runtime"
    )
    return ModelError(f"ONNX Runtime {crash} while {doing}, in a process of its own. {advice}")


@contextmanager
def doubting(model: Model) -> Iterator[None]:
    """What reads a graph may stumble over one that makes no sense; the runtime's refusal says more than that.

    Raises:
        ModelError: something did, in place of the exception that it raised.
    """
    try:
        yield
    except OnnxcamError:
        raise
    except Exception as error:
        Session(model, threads=1)
        raise ModelError(
            f"{model.label} is not understood, though ONNX Runtime opens it ({type(error).__name__}: "
            f"{_first_line(error)}); if it runs elsewhere, report it, with the traceback that --debug shows"
        ) from error


def _zeros(value: ir.Value) -> Array:
    dims = () if value.shape is None else value.shape
    kind = ir.DataType.FLOAT if value.dtype is None else value.dtype
    return np.zeros([d if isinstance(d, int) else 1 for d in dims], kind.numpy())


def _serialise(model: Model) -> tuple[bytes, dict[str, Array]]:
    """The graph without its larger weights, and those weights."""
    stripped = model.clone()
    _leave_out_unread(stripped.graph)
    weights = {}
    for name, value in stripped.graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        if tensor.nbytes <= _INLINE_BELOW or tensor.dtype not in _HANDED_OVER:
            if isinstance(tensor, ir.ExternalTensor):  # of bytes, the runtime does not know where its files lie
                value.const_value = ir.external_data.convert_tensors_from_external([tensor])[0]
            continue
        weights[name] = np.ascontiguousarray(tensor.numpy())
        value.const_value = ir.ExternalTensor(
            "in-memory", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
        )
    return ir.to_proto(stripped.ir_model).SerializeToString(), weights


def _leave_out_unread(graph: ir.Graph) -> None:
    """ONNX Runtime drops these before it looks for those that it was handed, and fails when one is not there."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _known_providers(runtime: Any, providers: Sequence[str] | None) -> list[str]:
    if providers is None:
        return ["CPUExecutionProvider"]
    available = runtime.get_available_providers()
    if unknown := [p for p in providers if p not in available]:
        raise OptionError(
            f"execution provider {unknown[0]!r} is not in this ONNX Runtime; it has {', '.join(available)}"
        )
    return list(providers)


def _preload(runtime: Any, providers: Sequence[str]) -> None:
    """Find CUDA and cuDNN where pip puts them, which the runtime's own search passes over; it talks on stdout."""
    if not {"CUDAExecutionProvider", "TensorrtExecutionProvider"}.isdisjoint(providers) and (
        load := getattr(runtime, "preload_dlls", None)  # from 1.21 on
    ):
        with redirect_stdout(io.StringIO()):
            load()


def _note_idle(asked: Sequence[str], running: Sequence[str]) -> None:
    """The runtime goes on without a provider that does not start, and leaves all work to the processor.

    Raises:
        RuntimeUnavailableError: none of them started.
    """
    if not (idle := [p for p in asked if p not in running]):
        return
    told = (
        f"execution provider {idle[0]} is in this ONNX Runtime but does not start, mostly for want of its libraries or "
        "of a device; for CUDA: pip install 'onnxruntime-gpu[cuda,cudnn]', and `python -c 'import onnxruntime as r; "
        "r.print_debug_info()'` tells what is there"
    )
    if set(asked).isdisjoint(running):
        raise RuntimeUnavailableError(f"{told}. To run on the processor, ask for CPUExecutionProvider")
    warnings.warn(f"{told}. The model runs by {', '.join(running)}", stacklevel=3)


_TOO_NEW = ("Unsupported model IR version", "under development", "opset_import", "is not a registered function/op")


def _explained(error: Exception, model: Packed, version: str) -> Exception:
    if any(part in str(error) for part in _TOO_NEW):
        return RuntimeUnavailableError(
            f"ONNX Runtime {version} is too old for {model.label} (opset {model.opset}, IR version "
            f"{model.ir_version}). Install a newer one (onnxcam[cpu]), or export with a lower opset"
        )
    return ModelError(f"ONNX Runtime {version} refuses {model.label}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:400] if lines else type(error).__name__
