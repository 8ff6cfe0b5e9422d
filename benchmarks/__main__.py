"""What explanations cost: beside a bare run of ONNX Runtime, and beside pytorch-grad-cam, torch-cam and Captum.

    python -m benchmarks [TABLE...] [--models NETWORK...] [--quick] [--torch PYTHON] [--threads 2]
    python -m benchmarks write

Tables: cams, pixels, many, batch, size, start, growth, or one method of the first three; none named: all. Rows are kept
in build/performance/TABLE.json, where a row measured again replaces its older one; ``write`` makes docs/performance.md
of what is kept. PYTHON is of an environment with torch, torchvision, grad-cam 1.5.7, torchcam 0.5.0 and captum 0.9.0;
onnxcam and ONNX Runtime run in this one. ``many`` takes hours with the large networks: ``many --models resnet18``.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.speed import CAPTUM, COMPETITORS, GRAD_CAM, OURS, PLAIN, SESSION, Question, interpreters, prepared, row
from benchmarks.speed_document import key, lines, rewrite

ROOT = Path(__file__).resolve().parent.parent
KEPT, PAGE = ROOT / "build" / "performance", ROOT / "docs" / "performance.md"
NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "convnext_tiny", "vit_b_16")
METHODS = {
    "cams": ("gradcam", "layercam"),
    "pixels": ("guided_backprop", "integrated_gradients"),
    "many": ("scorecam", "faster_scorecam", "occlusion", "rise"),
}
HOME = {method: table for table, methods in METHODS.items() for method in methods}
BATCHES = (1, 2, 4, 8, 16, 32)
SIZES = (224, 384, 512, 768, 1024)
FIXED = ("vit_b_16",)  # takes one size of picture
TABLES = (*METHODS, "batch", "size", "start", "growth")
SECONDS, QUICK = 40.0, 8.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join((*TABLES, "write")))
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--quick", action="store_true", help="less time per row; figures scatter more")
    parser.add_argument("--torch", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if unknown := [t for t in given.tables if t not in (*TABLES, *HOME, "write")]:
        parser.error(f"no table {unknown[0]}: {', '.join((*TABLES, *HOME))}, or write")
    for table in [t for t in given.tables if t != "write"] or ([] if given.tables else TABLES):
        for found in rows(table, given):
            keep(HOME.get(table, table), found)
            print("\n".join(lines(table, found)), flush=True)
    if "write" in given.tables or not given.tables:
        PAGE.write_text(rewrite(PAGE.read_text() if PAGE.exists() else "", load()))


def rows(table: str, given: Any) -> Iterator[dict[str, Any]]:
    seconds = QUICK if given.quick else SECONDS
    if table in METHODS or table in HOME:
        for network in given.models:
            for method in METHODS.get(table, (table,)):
                yield ask(given, network, method, COMPETITORS[method], seconds)
    elif table == "batch":
        for network in given.models:
            for batch in BATCHES:
                yield ask(given, network, "gradcam", (PLAIN, OURS, GRAD_CAM, CAPTUM), seconds, batch=batch)
    elif table == "size":
        for network in (m for m in given.models if m not in FIXED):
            for size in SIZES:
                for method in ("gradcam", "guided_backprop"):
                    yield ask(given, network, method, (PLAIN, SESSION, OURS, GRAD_CAM), seconds, size=size)
    else:
        yield from once(table, given)


def ask(
    given: Any, network: str, method: str, who: tuple[str, ...], seconds: float, size: int = 224, batch: int = 1
) -> dict[str, Any]:
    files = prepared(network, size, KEPT / "networks", given.torch)
    question = Question(network, method, size, batch, given.threads, files)
    return {**row(question, interpreters(given.torch), who, seconds), "peers": files["peers"]}


def once(table: str, given: Any) -> Iterator[dict[str, Any]]:
    """The start, and memory over 10,000 calls."""
    from benchmarks.speed_start import cold, growth, imports

    rounds, calls = (3, 1000) if given.quick else (9, 10_000)
    files = [str(prepared(n, 224, KEPT / "networks", given.torch)["model"]) for n in given.models]
    if table == "start":
        yield imports(given.torch, rounds)
        yield cold(["zoo:shapes-cnn", *files], rounds)
        return
    for model, method in [("zoo:shapes-cnn", m) for m in ("gradcam", "guided_backprop")] + [(files[0], "gradcam")]:
        yield growth(model, method, calls, given.threads)


def keep(table: str, found: dict[str, Any]) -> None:
    """Beside the others of the table, in the place of an older one of the same question."""
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / f"{table}.json"
    rows = {key(r): r for r in load().get(table, [])}
    about = {"day": time.strftime("%Y-%m-%d"), "machine": platform.processor() or platform.machine()}
    mine = {"onnxcam": version("onnxcam"), "onnxruntime": version("onnxruntime"), "numpy": version("numpy")}
    mine |= found.pop("peers", {})
    rows[key(found)] = {**found, **about, "versions": mine}
    path.write_text(json.dumps(list(rows.values()), indent=1))


def load() -> dict[str, list[dict[str, Any]]]:
    return {t: json.loads(p.read_text()) for t in TABLES if (p := KEPT / f"{t}.json").exists()}


if __name__ == "__main__":
    main()
