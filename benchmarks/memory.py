"""How much memory a method takes at most, beside a plain run of ONNX Runtime on the same model.

    python -m benchmarks.memory MODEL [--methods gradcam scorecam rise ...] [--budget 400]

Each in a process of its own; peak resident size in MB.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from typing import Any

import numpy as np

METHODS = ("gradcam", "scorecam", "rise")
_PLAIN = "plain run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--budget", type=int, nargs="+", default=[400])
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(peak(given.model, given.only, given.budget[0]))
        return
    plain = _measured(given.model, _PLAIN, 0)
    print(f"{_PLAIN:28s} {plain:6.0f} MB")
    for method in given.methods:
        for budget in given.budget if _has_budget(method) else given.budget[:1]:
            found = _measured(given.model, method, budget)
            name = f"{method} ({budget})" if _has_budget(method) else method
            print(f"{name:28s} {found:6.0f} MB   {found - plain:+.0f}")


def _measured(model: str, method: str, budget: int) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", model, "--only", method, "--budget", str(budget)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak(model: str, method: str, budget: int) -> float:
    """MB of this process after one explanation, or after one bare run."""
    if method == _PLAIN:
        import onnxruntime

        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0]
        session.run(None, {given.name: _image([d if isinstance(d, int) else 1 for d in given.shape])})
    else:
        from onnxcam import Explainer

        explainer = Explainer(model, method=method, budget=budget if _has_budget(method) else None)
        image = explainer.model.image_input
        explainer.explain_tensor(_image([1, image.channels, image.height, image.width]), 0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _has_budget(method: str) -> bool:
    from onnxcam.methods import find_method

    return find_method(method).budget is not None


def _image(shape: list[Any]) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


if __name__ == "__main__":
    main()
