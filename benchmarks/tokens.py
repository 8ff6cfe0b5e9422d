"""Token grids of whole networks: the layer that onnxcam chooses and its maps, against torch with hooks.

    python -m benchmarks.tokens --work FOLDER --torch-python TORCH/bin/python [--networks "vit" "swin" ...]

run from the root of the repository, in an environment with onnxcam and a current ``onnxruntime``; TORCH is an
environment with ``pip install torch torchvision timm onnx onnxscript``. Exports and references are kept in the work
folder (about 3 GB for all). Writes docs/tokens.md when all networks were asked for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.networks_reference import TOLERANCE, distance
from onnxcam import Explainer, load_model
from onnxcam.errors import OnnxcamError

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "tokens.md"
MARKS = ("<!-- networks -->\n", "<!-- end -->")


@dataclass(frozen=True)
class Row:
    """One export: the layer that was chosen, and the distances of the maps; NaN where there is nothing to compare."""

    network: str
    export: str
    layer: str
    layout: str
    gradcam: float
    legrad: float
    rollout: float

    @property
    def holds(self) -> bool:
        return not any(d > TOLERANCE for d in (self.gradcam, self.legrad, self.rollout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--torch-python", required=True)
    parser.add_argument("--networks", nargs="+")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    known = _known(given.torch_python)
    rows = [row for name in given.networks or known for row in check(name, given.work, given.torch_python)]
    for row in rows:
        print(json.dumps(asdict(row)))
    if given.networks is None:
        _document(rows)
    if not all(row.holds for row in rows):
        raise SystemExit("some rows do not hold")


def _known(python: str) -> list[str]:
    code = "import json; from benchmarks.tokens_torch import NETWORKS; print(json.dumps(list(NETWORKS)))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def check(name: str, work: Path, python: str) -> list[Row]:
    """The rows of one network, whose exports are made where they are missing."""
    stem = name.replace(" ", "_").replace(",", "")
    if not (work / f"{stem}.npz").exists() or not list(work.glob(f"{stem}.*-*")):
        subprocess.run([python, "-m", "benchmarks.tokens_torch", str(work), name], check=True)
    with np.load(work / f"{stem}.npz") as file:
        truth = dict(file)
    return [_row(name, path, truth) for path in sorted(work.glob(f"{stem}.*-*.onnx"))]


def _row(name: str, path: Path, truth: dict[str, Any]) -> Row:
    model, far, layer = load_model(path), dict[str, float](), None
    for method in ("gradcam", "legrad", "rollout"):
        far[method] = np.nan
        if method in truth:
            try:
                explainer = Explainer(model, method=method, threads=1)
                cam = explainer.explain_tensor(truth["image"], int(truth["class"]))[0].maps[0].cam
                far[method] = distance(cam, truth[method]) if cam.shape == truth[method].shape else np.inf
            except OnnxcamError:
                far[method] = np.inf
            layer = layer or next(iter(explainer.layers), None)
    return Row(
        name, path.stem.rpartition(".")[2], layer.name if layer else "", str(layer.layout) if layer else "", **far
    )


def _document(rows: Sequence[Row]) -> None:
    head, _, rest = DOCUMENT.read_text().partition(MARKS[0])
    tail = rest.partition(MARKS[1])[2]
    lines = [
        "| network | export | layer chosen | layout | Grad-CAM | LeGrad | rollout |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        far = " | ".join("" if np.isnan(d) else f"{d:.1e}" for d in (r.gradcam, r.legrad, r.rollout))
        lines.append(f"| {r.network} | {r.export} | `{r.layer}` | {r.layout} | {far} |")
    DOCUMENT.write_text(f"{head}{MARKS[0]}\n" + "\n".join(lines) + f"\n\n{MARKS[1]}{tail}")


if __name__ == "__main__":
    main()
