"""What is paid once, and what must not add up: the start of the command, imports, memory over many calls."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed import CAPTUM, GRAD_CAM, OURS, PLAIN, REST, TORCH, TORCH_CAM

PHOTO = Path(__file__).resolve().parent.parent / "model_zoo" / "samples" / "scene-1.png"
IMPORTS = {
    PLAIN: "onnxruntime",
    "import onnxcam": "onnxcam",
    OURS: "onnxcam.explainer, onnxruntime",
    TORCH: "torch, torchvision",
    GRAD_CAM: "torchvision, pytorch_grad_cam",
    TORCH_CAM: "torchvision, torchcam.methods",
    CAPTUM: "torchvision, captum.attr",
}


Command = tuple[Sequence[str], Mapping[str, str]]
"""Words, and what is added to the environment."""


def imports(torch: str, rounds: int) -> dict[str, Any]:
    """Seconds of a process that imports and ends, in turn, and of empty ones."""
    torches = (TORCH, GRAD_CAM, TORCH_CAM, CAPTUM)
    commands = {
        who: [torch if who in torches else sys.executable, "-c", f"import {what}"] for who, what in IMPORTS.items()
    }
    empty = {"empty": [sys.executable, "-c", ""], "empty, peers": [torch, "-c", ""]}
    return {"what": "import", "found": in_turn({n: (c, {}) for n, c in {**empty, **commands}.items()}, rounds)}


def cold(models: Sequence[str], rounds: int) -> dict[str, Any]:
    """Seconds of ``onnxcam explain MODEL PHOTO -o FOLDER``, the whole process, and of commands that need no model.

    Of each model without a kept graph, and with the one that an earlier process has kept.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, mine = Path(name), [sys.executable, "-m", "onnxcam"]
        commands: dict[str, Command] = {word: ([*mine, word], {}) for word in ("--help", "methods")}
        for model in models:
            words = [*mine, "explain", model, str(PHOTO), "-o", str(folder / "out")]
            for kept in ("first", "later"):
                commands[f"{Path(model).stem.removeprefix('zoo:')}, {kept}"] = (
                    words, {"ONNXCAM_CACHE": str(folder / kept)}
                )  # fmt: skip
        return {"what": "cold", "found": in_turn(commands, rounds, before=lambda: _forget(folder / "first"))}


def _forget(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def in_turn(commands: Mapping[str, Command], rounds: int, before: Callable[[], object] = int) -> dict[str, list[float]]:
    """Seconds of each command, run in turn; a first round, which fills the file cache, does not count.

    Raises:
        CalledProcessError: a command failed.
    """
    found: dict[str, list[float]] = {name: [] for name in commands}
    usual = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}  # installed code is compiled
    for _ in range(rounds + 1):
        for name, (command, more) in commands.items():
            before()
            time.sleep(REST)
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env={**usual, **more})
            found[name].append(time.perf_counter() - start)
    return {name: turns[1:] for name, turns in found.items()}


def growth(model: str, method: str, calls: int, threads: int) -> dict[str, Any]:
    """Resident MB after every tenth of the calls, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed_start", model, method, str(calls), str(threads)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"what": "growth", "model": Path(model).stem, "method": method, "calls": calls, "resident": json.loads(told)}


def resident() -> float:
    """MB that this process holds, Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    import resource

    return pages * resource.getpagesize() / 2**20


def _grow(model: str, method: str, calls: int, threads: int) -> list[float]:
    from onnxcam import Explainer

    explainer = Explainer(model, method=method, threads=threads)
    image = explainer.model.image_input
    x = np.random.default_rng(0).standard_normal((1, image.channels, image.height or 64, image.width or 64))
    found = []
    for number in range(1, calls + 1):
        explainer.explain_tensor(x.astype(np.float32), number % 3)
        if number % (calls // 10) == 0:
            found.append(resident())
    return found


if __name__ == "__main__":
    print(json.dumps(_grow(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))))
