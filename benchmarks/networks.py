"""Gradients of whole networks: onnxcam's portable engine against torch autograd and tf.GradientTape.

    python -m benchmarks.networks --work FOLDER --torch-python TORCH/bin/python --keras-python KERAS/bin/python

run from the root of the repository, in an environment with onnxcam and a current ``onnxruntime``. The frameworks have
an environment each (``python -m venv``), which needs nothing of onnxcam:

    TORCH: pip install torch torchvision onnx onnxscript
    KERAS: pip install tensorflow tf2onnx

Exports and references are kept in the work folder (about 12 GB for all), so that a second run only checks again;
``--networks`` and ``--exports`` choose some. The table written at the end has every result of the work folder.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.networks_reference import MARGIN, TOLERANCE, TOLERANCE_DOUBLE, tolerance

TORCH = [
    "alexnet",
    "vgg11_bn",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "densenet121",
    "googlenet",
    "inception_v3",
    "squeezenet1_1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mnasnet0_5",
    "shufflenet_v2_x1_0",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "regnet_y_400mf",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
    "swin_v2_t",
    "maxvit_t",
]
KERAS = ["MobileNetV2", "EfficientNetB0", "ResNet50V2", "Xception", "DenseNet121", "ConvNeXtTiny"]
EXPORTS = ("torchscript-13", "torchscript-17", "torchscript64-17", "dynamo-18", "dynamo-23", "keras-13", "keras-18")
INSTEAD = {"torchscript-13": "torchscript-14"}  # where an exporter does not write the oldest opset
IN_SECONDS = {"resnet50": 1.0, "vit_b_16": 3.0}  # and whose memory is measured
RECIPE_LIMIT, CHECK_LIMIT = 1800, 900
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "networks.md"
INTRODUCTION = """\
# Gradients of whole networks

What onnxcam's portable engine writes, against the framework that the network comes from: the gradient of one logit
with respect to the last feature map and with respect to the image. Each network has seeded random weights, its head
and its constant parameters made random, its BatchNorm statistics taken from pictures, and is exported by the
framework's own exporters at both ends of their range of opsets. The graph with gradients is saved and run by
onnxruntime on the CPU.

A distance is the relative L2 to the framework's gradient in float64. Beside it stands the framework's own: the
largest distance of its float32 gradients, as is, with the image moved by a rounding (four times) and, in torch,
without oneDNN. A row holds if

- both of onnxcam's distances are within max({tolerance}, {margin} x the framework's own),
- both gradients are not zero,
- every node that onnxcam wrote is an operator of the default domain that exists, and is not deprecated, at the model's
  opset.

"Build" is the time that `add_gradients` takes for both gradients, median of three.

Made by `python -m benchmarks.networks` with {versions}.
"""
NOTES = """
Networks of ReLU have kinks: rounding that moves one activation across zero moves the image's gradient by a step, in
onnxruntime and in the framework alike, and whether one evaluation meets the kink is chance; hence several of the
framework's. Where its own distance is 1e-3 or more, that is what it shows.

The rows of `torchscript64` are free of it: the same network exported in float64, its gradient run in float64 by ONNX's
reference implementation with two of its operators mended (onnxruntime has no such convolution), and held to {double}.
What is left there comes from attributes, which are float32 in every ONNX file: the epsilon of LayerNormalization, the
slope of HardSigmoid.

Some Keras layers are exported in an equal form, since tf2onnx writes no valid ONNX for the one that Keras uses: grouped
convolutions as depthwise ones, GELU by Erf, the constants of Normalization in place. The reference is the network as it
comes.

The last feature map of many networks is followed by pooling and a linear layer alone; then its gradient is exact.
"""
COSTS = """
## Time and memory

In MiB: the weights; how far the process's own memory (not the pages of the mapped file) rises at its peak in
`load_model`, from nothing, and in `add_gradients` for the image, from the loaded model; the constants that the backward
pass adds. In seconds: the first `add_gradients` of a process, and the median of three for both gradients.

"""


@dataclass(frozen=True)
class Job:
    """One network and how it is exported."""

    network: str
    export: str
    work: Path

    @property
    def onnx(self) -> Path:
        return self.work / f"{self.network}.{self.export}.onnx"

    @property
    def reference(self) -> Path:
        return self.work / f"{self.network}.npz"

    @property
    def result(self) -> Path:
        return self.onnx.with_suffix(".json")

    @property
    def failure(self) -> Path:
        return self.onnx.with_suffix(".failed")

    @property
    def made(self) -> bool:
        return self.onnx.exists() or self.failure.exists()


def main() -> None:
    given = arguments()
    work = Path(given.work or tempfile.mkdtemp(prefix="onnxcam-networks-"))
    work.mkdir(parents=True, exist_ok=True)
    pythons = {"torch": given.torch_python, "keras": given.keras_python}
    for network in given.networks:
        framework = "keras" if network in KERAS else "torch"
        jobs = [Job(network, e, work) for e in given.exports if e.startswith("keras") == (framework == "keras")]
        make(jobs, framework, pythons[framework])
        jobs += (instead := [Job(network, INSTEAD[job.export], work) for job in jobs if _has_instead(job)])
        make(instead, framework, pythons[framework])
        for job in jobs:
            if job.onnx.exists() and job.reference.exists():
                print(settle(job), flush=True)
    Path(given.output).write_text(document(work))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", help="folder for exports and results; a temporary one by default")
    parser.add_argument("--torch-python", help="interpreter with torch; without it, only what is there is checked")
    parser.add_argument("--keras-python", help="interpreter with tensorflow; likewise")
    parser.add_argument("--networks", nargs="+", default=TORCH + KERAS, choices=TORCH + KERAS, metavar="NETWORK")
    parser.add_argument("--exports", nargs="+", default=EXPORTS, metavar="EXPORT", help="such as torchscript-17")
    parser.add_argument("--output", default=DOCUMENT)
    return parser.parse_args()


def make(jobs: Sequence[Job], framework: str, python: str | None) -> None:
    """Exports that are missing, and the reference; nothing without an interpreter."""
    missing = [job.export for job in jobs if not job.made]
    if python and (missing or any(not job.reference.exists() for job in jobs)):
        command = [python, "-m", f"benchmarks.networks_{framework}", jobs[0].network, str(jobs[0].work)]
        _run([*command, *missing], RECIPE_LIMIT)


def _has_instead(job: Job) -> bool:
    return job.failure.exists() and job.export in INSTEAD


def settle(job: Job) -> str:
    """Check one export, keep the result, say how it went."""
    result = {"network": job.network, "export": job.export, **measure(job, "gradients")}
    if job.network in IN_SECONDS and "error" not in result and not in_double(result):
        result["memory"] = measure(job, "memory")
    job.result.write_text(json.dumps(result, indent=1))
    return " ".join(row(result))


def measure(job: Job, task: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.networks_check", task, str(job.onnx), str(job.reference)]
    done = _run(command, CHECK_LIMIT)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return dict(json.loads(lines[-1]))
    return {"error": (done.stderr.strip().splitlines() or ["stopped"])[-1]}


def _run(command: Sequence[str], limit: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"not done in {limit} s")
    if done.returncode:
        print(f"{' '.join(command)}\n{done.stderr[-2000:]}", file=sys.stderr)
    return done


def in_double(result: dict[str, Any]) -> bool:
    return "64-" in result["export"]


def faults(result: dict[str, Any], against: str = "noise") -> list[str]:
    """What does not hold; empty if all does."""
    if "error" in result:
        return [result["error"]]
    found = [f"{op} is not standard" for op in result["foreign"]]
    for part in ("layer", "image"):
        if not result[f"{part}_norm"] > 0:
            found.append(f"{part} gradient is zero")
        allowed = TOLERANCE_DOUBLE if in_double(result) else tolerance(result[f"{part}_{against}"])
        if not result[f"{part}_distance"] <= allowed:
            found.append(f"{part} gradient differs")
    return found


COLUMNS = (
    "network | export | opset | layer | logits | layer: norm | distance | its own | "
    "image: norm | distance | its own | nodes | build s | holds"
)


def row(result: dict[str, Any]) -> list[str]:
    wrong = faults(result)
    if "error" in result:
        return [result["network"], result["export"], *([""] * 11), f"no: {wrong[0]}"]
    figures = [f"{result['logits']:.0e}"]
    for part in ("layer", "image"):
        figures.append(f"{result[f'{part}_norm']:.2g}")
        figures += [f"{result[f'{part}_distance']:.1e}", "" if in_double(result) else f"{result[f'{part}_noise']:.1e}"]
    opset = f"{result['source_opset']} as {result['opset']}"
    ends = [str(result["nodes"]), f"{result['seconds']:.2f}", f"no: {'; '.join(wrong)}" if wrong else "yes"]
    return [result["network"], result["export"], opset, f"`{result['module']}`", *figures, *ends]


def document(work: Path) -> str:
    order = {name: number for number, name in enumerate(TORCH + KERAS)}
    results = [json.loads(file.read_text()) for file in work.glob("*.json")]
    results.sort(key=lambda r: (order[r["network"]], r["export"].split("-")[0] == "dynamo", r["export"]))
    held, plain = (sum(not faults(r, against) for r in results) for against in ("noise", "plain"))
    text = INTRODUCTION.format(tolerance=f"{TOLERANCE:g}", margin=f"{MARGIN:g}", versions=versions(results))
    text += f"\n{held} of {len(results)} exports hold; {plain} do against the framework's plain evaluation alone.\n\n"
    text += table(COLUMNS, [row(r) for r in results])
    text += NOTES.format(double=f"{TOLERANCE_DOUBLE:g}")
    failures = sorted(work.glob("*.failed"), key=lambda f: (order[f.name.split(".")[0]], f.name))
    if failures:
        text += "\nNot written by the exporter itself, which the next row of the network stands in for:\n\n"
        text += "".join(f"- {f.stem.replace('.', ', ')}: {first_words(f.read_text())}\n" for f in failures)
    return text + costs([r for r in results if "memory" in r])


def first_words(message: str) -> str:
    return " ".join(message.split("\n")[0].split()[:40])


def costs(results: Sequence[dict[str, Any]]) -> str:
    """The table of time and memory of the networks that are large."""
    if not results:
        return ""
    lines = []
    for result in results:
        m = result["memory"]
        if "error" in m:
            lines.append([result["network"], result["export"], m["error"], *([""] * 5)])
            continue
        sizes = [f"{m[k] / 2**20:.0f}" for k in ("weights", "load", "build", "added")]
        within = f"{result['seconds']:.2f} (limit {IN_SECONDS[result['network']]:g})"
        lines.append([result["network"], result["export"], *sizes, f"{m['first']:.2f}", within])
    return COSTS + table("network | export | weights | load | build | added | first s | build s", lines)


def table(head: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [head.split(" | "), ["---"] * (head.count(" | ") + 1), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def versions(results: Sequence[dict[str, Any]]) -> str:
    own = [f"{name} {importlib.metadata.version(name)}" for name in ("onnxruntime", "onnx", "onnx-ir", "numpy")]
    return ", ".join([*own, *sorted({r["made_by"] for r in results if "made_by" in r})])


if __name__ == "__main__":
    main()
