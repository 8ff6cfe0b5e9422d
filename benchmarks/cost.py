"""What Grad-CAM costs: its session against a plain run of the same model, runtime and threads.

    python -m benchmarks.cost MODEL... [--rounds 200] [--threads 2]

Runs alternate (plain, Grad-CAM, plain, ...), so a drifting machine drifts for both; the figure is the median of
Grad-CAM's times over the median of plain ones, with the quartiles of the ratio of neighbouring runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxcam import Explainer
from onnxcam.errors import OnnxcamError
from onnxcam.runtime import Session
from onnxcam.targets import Logit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--method", default="gradcam")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    print(f"{'model':48s} {'plain ms':>9s} {'ratio':>6s}  quartiles of neighbours")
    for path in given.models:
        try:
            print(
                f"{str(path).rsplit('/', 1)[-1]:48s} {measure(path, given.method, given.rounds, given.threads)}",
                flush=True,
            )
        except OnnxcamError as error:
            print(f"{str(path).rsplit('/', 1)[-1]:48s} not explained: {str(error).splitlines()[0][:90]}")


def measure(path: str, method: str, rounds: int, threads: int) -> str:
    explainer = Explainer(path, method=method, threads=threads)
    x = _noise(explainer)
    explainer.explain_tensor(x)
    program = next(iter(explainer.programs.built.values()))
    feeds = {explainer.model.image_input.name: x}
    plain = Session(explainer.model, threads=threads)
    both = {**feeds, **Logit().feeds(len(x))}
    a, b = alternate(lambda: plain.run(feeds), lambda: program.run(both), rounds)
    low, high = np.percentile(b / a, [25, 75])
    return f"{np.median(a) * 1e3:9.2f} {np.median(b) / np.median(a):6.3f}  {low:.3f} to {high:.3f}"


def alternate(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[Any, Any]:
    """Seconds of each, run in turn after a warm-up of a tenth."""
    times = []
    for _ in range(rounds + rounds // 10):
        start = time.perf_counter()
        first()
        middle = time.perf_counter()
        second()
        times.append((middle - start, time.perf_counter() - middle))
    a, b = np.asarray(times[rounds // 10 :]).T
    return a, b


def _noise(explainer: Explainer) -> Any:
    image = explainer.model.image_input
    height, width = image.height or 48, image.width or 192
    n = image.batch or 1
    shape = (n, image.channels, height, width) if image.layout == "NCHW" else (n, height, width, image.channels)
    scale = 255 if np.dtype(explainer.spec.dtype).kind in "ui" else 1
    return (np.random.default_rng(0).random(shape) * scale).astype(explainer.spec.dtype)


if __name__ == "__main__":
    main()
