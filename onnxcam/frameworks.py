"""Models that are still in their framework, and tools that expect a framework's explainer.

Nothing here is needed to explain an .onnx file; torch, Keras and tf2onnx are imported when a function is called.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcam.errors import ModelError, OptionError
from onnxcam.integrity import first_line
from onnxcam.model import Model, load_model

Array = npt.NDArray[Any]
_OPSET = 18


def torch_to_model(module: Any, example_input: Any) -> Model:
    """Export a ``torch.nn.Module`` in memory, in evaluation mode, with a free batch axis where the exporter allows it.

    Args:
        module: the network; its mode is put back.
        example_input: a tensor (1, C, H, W), or a tuple of the network's arguments.

    Raises:
        OptionError: torch is not installed, or the module is none.
        ModelError: neither of torch's exporters takes it.
    """
    torch = _imported("torch", "torch")
    if not isinstance(module, torch.nn.Module):
        raise OptionError(f"from_torch takes a torch.nn.Module, not {type(module).__name__}")
    arguments = tuple(example_input) if isinstance(example_input, tuple | list) else (example_input,)
    was_training, failures = module.training, []
    module.eval()
    try:
        for free, dynamo in ((True, False), (False, True), (False, False)):
            try:
                return load_model(_torch_bytes(torch, module, arguments, free, dynamo))
            except Exception as error:  # torch's own, of many kinds
                failures.append(f"{type(error).__name__}: {first_line(error)[:200]}")
    finally:
        module.train(was_training)
    raise ModelError(
        f"torch cannot export this {type(module).__name__}: {'; '.join(dict.fromkeys(failures))}. Export it yourself "
        "with torch.onnx.export, and explain the file"
    )


def _torch_bytes(torch: Any, module: Any, arguments: tuple[Any, ...], free: bool, dynamo: bool) -> bytes:
    names = [f"input_{k}" if k else "input" for k in range(len(arguments))]
    how: dict[str, Any] = {"input_names": names, "output_names": ["output"], "opset_version": _OPSET, "dynamo": dynamo}
    if free:
        how["dynamic_axes"] = {n: {0: "batch"} for n in (*names, "output")}
    held = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, arguments, None if dynamo else held, **how)
    return bytes(program.model_proto.SerializeToString()) if dynamo else held.getvalue()


def keras_to_model(model: Any) -> Model:
    """Export a Keras model in memory by tf2onnx.

    Raises:
        OptionError: TensorFlow or tf2onnx is not installed, or the model has not one input of known rank.
        ModelError: tf2onnx does not take it.
    """
    tensorflow, tf2onnx = _imported("tensorflow", "tensorflow"), _imported("tf2onnx", "tf2onnx")
    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise OptionError(f"from_keras takes a built Keras model, not {type(model).__name__}; call it once first")
    signature = [tensorflow.TensorSpec(i.shape, i.dtype, name=f"input_{k}") for k, i in enumerate(inputs)]
    function = tensorflow.function(lambda *x: model(list(x) if len(x) > 1 else x[0], training=False))
    try:
        proto, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=_OPSET)
    except Exception as error:  # tf2onnx's own, of many kinds
        raise ModelError(
            f"tf2onnx cannot export this model: {type(error).__name__}: {str(error).strip()[:200]}. Export it yourself "
            "and explain the file"
        ) from error
    return load_model(proto.SerializeToString())


def quantus_explainer(method: str = "gradcam", **options: Any) -> Callable[..., Array]:
    """An ``explain_func`` for Quantus' metrics.

    Args:
        method: a name of the catalogue.
        options: as for :class:`onnxcam.Explainer`.

    Returns:
        ``explain(model, inputs, targets, **kwargs)`` with inputs (N, C, H, W) and targets (N,), giving float32
        (N, C, H, W) of pixel methods and (N, 1, H, W) of all others. ``model`` is a torch module, a Keras model, a
        path, or an Explainer. A module is exported anew each time: metrics change its weights in place.
    """

    def explain(model: Any, inputs: Any, targets: Any, **kwargs: Any) -> Array:
        x = np.asarray(inputs, dtype=np.float32)
        explainer = _explainer(model, x[:1], {"method": method, **options})
        return np.asarray(explainer.attributions(x, np.asarray(targets)))

    return explain


def _explainer(model: Any, example: Array, options: dict[str, Any]) -> Any:
    from onnxcam.explainer import Explainer

    if isinstance(model, Explainer):
        return model
    if isinstance(model, str | Path | Model):
        return Explainer(model, **options)
    if hasattr(model, "state_dict"):
        return Explainer(torch_to_model(model, _imported("torch", "torch").from_numpy(example)), **options)
    return Explainer(keras_to_model(model), **options)


def _imported(name: str, package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise OptionError(f"{package} is not installed; install it, or export the model to .onnx first") from error
