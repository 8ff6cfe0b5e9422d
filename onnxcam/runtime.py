"""onnxruntime sessions: finding the runtime, providers, threads, feeds."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcam.errors import ModelError, OptionError, RuntimeUnavailableError
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


class Session:
    """A model that runs.

    Args:
        model: what to run; its weights are shared, not copied into the serialised graph.
        providers: execution providers by onnxruntime's names, best first; None takes the CPU.
        threads: threads within an operator; None lets the runtime choose.
        optimize: let the runtime fuse nodes; off, outputs are bit-identical to the original model's.

    Raises:
        RuntimeUnavailableError: no runtime, or one too old for the model's opset or IR version.
        OptionError: an execution provider that this runtime does not have.
        ModelError: the runtime refuses the graph.
    """

    def __init__(
        self, model: Model, providers: Sequence[str] | None = None, threads: int | None = None, optimize: bool = True
    ) -> None:
        if threads is not None and not 1 <= threads <= _MOST_THREADS:
            raise OptionError(f"threads={threads}: give 1 to {_MOST_THREADS}, or leave it to the runtime")
        runtime = load_runtime()
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        if threads is not None:
            options.intra_op_num_threads = threads
        if not optimize:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._idle = {str(v.name): _zeros(v) for v in model.unread_inputs}
        graph, self._weights = _serialise(model, runtime)
        options.add_external_initializers(list(self._weights), list(self._weights.values()))
        chosen = _known_providers(runtime, providers)
        try:
            self._session = runtime.InferenceSession(graph, options, providers=chosen)
        except Exception as error:
            raise _explained(error, model, runtime.__version__) from error
        self.providers: list[str] = self._session.get_providers()

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs to feed."""
        return [i.name for i in self._session.get_inputs()]

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Run once; the arrays come in the order of ``outputs`` (all of them if None).

        Inputs that nothing reads may be left out.

        Raises:
            ModelError: the runtime failed, with its own first line.
        """
        try:
            found: list[Array] = self._session.run(None if outputs is None else list(outputs), {**self._idle, **feeds})
        except Exception as error:
            raise ModelError(f"ONNX Runtime could not run the model: {_first_line(error)}") from error
        return found


def _zeros(value: ir.Value) -> Array:
    dims = () if value.shape is None else value.shape
    kind = ir.DataType.FLOAT if value.dtype is None else value.dtype
    return np.zeros([d if isinstance(d, int) else 1 for d in dims], kind.numpy())


def _serialise(model: Model, runtime: Any) -> tuple[bytes, dict[str, Any]]:
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
        weights[name] = runtime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor.numpy()))
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


_TOO_NEW = ("Unsupported model IR version", "under development", "opset_import", "is not a registered function/op")


def _explained(error: Exception, model: Model, version: str) -> Exception:
    if any(part in str(error) for part in _TOO_NEW):
        return RuntimeUnavailableError(
            f"ONNX Runtime {version} is too old for {model.label} (opset {model.opset}, IR version "
            f"{model.ir_model.ir_version}). Install a newer one (onnxcam[cpu]), or export with a lower opset"
        )
    return ModelError(f"ONNX Runtime {version} refuses {model.label}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:400] if lines else type(error).__name__
