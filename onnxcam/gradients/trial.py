"""Does a model run at all? Asked in a process of its own, because a crash in native code takes its process down.

The training engine's graphs run Microsoft's training kernels, some of which die on graphs that build without complaint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcam.errors import GradientError
from onnxcam.model import Model

_CHILD = """
import sys
import numpy, onnxruntime
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except ImportError:
    pass
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
with numpy.load(sys.argv[2]) as feeds:
    session.run(None, {name: feeds[f"arr_{k}"] for k, name in enumerate(sys.argv[3:])})
"""


def trial(model: Model, feeds: Mapping[str, npt.NDArray[Any]], timeout: float = 300.0) -> None:
    """Run a finished model once in a process of its own, so that a crash in native code cannot take this one down.

    Args:
        model: the model with its gradient.
        feeds: an array per input.
        timeout: seconds to wait.

    Raises:
        GradientError: it died, failed, or did not finish in time.
    """
    with tempfile.TemporaryDirectory(prefix="onnxcam-") as folder:
        file = replace(model, path=None).save(Path(folder) / "model.onnx")
        data = Path(folder) / "feeds.npz"
        np.savez(data, *feeds.values())
        problem = _outcome([sys.executable, "-c", _CHILD, str(file), str(data), *feeds], timeout)
    if problem:
        raise GradientError(
            f"the gradient by the training engine {problem}, in a process of its own. Use engine='portable', "
            "or a layer nearer to the output"
        )


def _outcome(command: list[str], timeout: float) -> str:
    """What went wrong; empty if nothing did."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return f"did not finish within {timeout:g} s"
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"kills the process that runs it ({signal.Signals(-done.returncode).name})"
    if done.returncode > 255:  # Windows gives the exception's code
        return f"kills the process that runs it (code {done.returncode:#x})"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return f"fails when it runs: {lines[-1][:300] if lines else f'exit status {done.returncode}'}"
