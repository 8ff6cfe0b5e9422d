"""Exported models on every runtime at hand, against ONNX Runtime; writes docs/runtimes.md and .csv.

    python -m benchmarks.runtimes make FOLDER MODEL...
    python -m benchmarks.runtimes run FOLDER RUNTIME [--python PYTHON | --modules NODE_MODULES] [--only PATTERN]
    python -m benchmarks.runtimes write FOLDER -o docs/runtimes.md

`make` exports every model with every method (a cell), and keeps the picture that goes in and what comes out of the
ONNX Runtime of this environment. `run` starts one runtime of benchmarks/runtimes_adapters.py by the interpreter in
which it is installed, in a process of its own, which is started anew behind a cell that kills it. `make runtimes`
makes the environments and does all of it. onnxruntime-web takes --modules, the folder that holds it.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from benchmarks.runtimes_document import GIVEN, METHODS, PLAIN, Cell, document, figures, green, sheets
from onnxcam import Explainer, load_model
from onnxcam.errors import OnnxcamError
from onnxcam.export import Form, explainable
from onnxcam.image import as_image
from onnxcam.methods import find_method

LIMIT_S = 120  # of silence


def make(folder: Path, models: Sequence[str], photo: Path | None) -> None:
    """Export all; what cannot be exported is told and left out."""
    folder.mkdir(parents=True, exist_ok=True)
    cells: list[Cell] = []
    for path in models:
        try:
            cells += _cells(folder, Path(path), photo)
        except OnnxcamError as error:
            print(f"{path}: {str(error)[:200]}", file=sys.stderr)
    (folder / "cells.json").write_text(json.dumps([asdict(c) for c in cells], indent=1))


def _cells(folder: Path, path: Path, photo: Path | None) -> Iterator[Cell]:
    model = load_model(path)
    first = Explainer(model, threads=1, engine="portable")
    x = _picture(first, photo)
    yield _kept(folder, path.stem, PLAIN, first, onnx.load(path), x, None)
    for column in (GIVEN, *METHODS):
        method, *given = column.split()
        explainer = Explainer(model, method=find_method(method), threads=1, engine="portable")
        try:
            made = explainable([explainer], form=Form(top1=not given, raw=True)).model
            proto = ir.to_proto(made.ir_model)
        except OnnxcamError as error:
            print(f"{path.stem} {column}: {str(error)[:160]}", file=sys.stderr)
            continue
        yield _kept(folder, path.stem, column, explainer, proto, x, 1 if given else None)


def _picture(explainer: Explainer, photo: Path | None) -> Any:
    """A scene for the shapes, else the photo; noise of the input's range where there is none."""
    shapes = (explainer.model.path or Path()).name.startswith("shapes")
    file = Path("model_zoo/samples/scene-1.png") if shapes else photo
    if file is None:
        raise OnnxcamError("give a photo (--photo) for models that are not of the zoo")
    x, _ = explainer.preprocess.apply(as_image(file), explainer.spec)
    return x


def _kept(folder: Path, model: str, column: str, explainer: Explainer, proto: Any, x: Any, chosen: int | None) -> Cell:
    """Write the file, its feeds and its outputs."""
    name = f"{model}.{column.replace(' ', '_')}"
    onnx.save(proto, folder / f"{name}.onnx")
    feeds = {explainer.model.image_input.name: np.ascontiguousarray(x)}
    if chosen is not None:
        feeds["onnxcam/class"] = np.asarray([chosen], dtype=np.int64)
    outputs = [v.name for v in proto.graph.output]
    listed = [_stored(folder, f"{name}.in{k}.bin", n, a) for k, (n, a) in enumerate(feeds.items())]
    cell = Cell(model, column, f"{name}.onnx", listed, outputs)
    found = _reference(folder / cell.file, feeds)
    np.savez(folder / f"{name}.want.npz", **{str(k): a for k, a in enumerate(found) if a.dtype.kind in "fiub"})
    return cell


def _stored(folder: Path, file: str, name: str, array: Any) -> dict[str, Any]:
    (folder / file).write_bytes(array.tobytes())
    return {"name": name, "dtype": str(array.dtype), "shape": list(array.shape), "file": file}


def _reference(path: Path, feeds: dict[str, Any]) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [np.asarray(a) for a in session.run(None, feeds)]


def run(folder: Path, runtime: str, command: Sequence[str], only: str) -> None:
    """Every cell on one runtime: what came out against the reference, as FOLDER/RUNTIME.json."""
    results = folder / f"{runtime}.json"
    kept = json.loads(results.read_text()) if only and results.exists() else {}
    found: dict[str, Any] = kept.get("cells", {})
    cells = [c for c in _listed(folder) if re.search(only, c.name)]
    version = kept.get("version", "")
    rest = cells
    while rest:
        lines = list(_told(folder, runtime, command, [c.name for c in rest]))
        version = next((t["version"] for t in lines if "version" in t), version)
        fresh = _heard(lines)
        if not fresh:
            raise SystemExit(f"{runtime} did not start: see {folder / (runtime + '.log')}")
        found.update(fresh)
        rest = [c for c in rest if c.name not in fresh]
    for cell in cells:
        _judge(folder, runtime, cell, found[cell.name])
    results.write_text(json.dumps({"version": version, "cells": found}, indent=1))
    print(f"{runtime}: {sum(bool(f['green']) for f in found.values())} green of {len(found)}")


def _heard(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was told of each cell; the one that was begun and not told of killed the process, or took too long."""
    told = {line["name"]: line for line in lines if "name" in line}
    started = [line["start"] for line in lines if "start" in line]
    return {**{n: {"name": n, "error": "the process died, or hung"} for n in started[-1:]}, **told}


def _listed(folder: Path) -> list[Cell]:
    return [Cell(**c) for c in json.loads((folder / "cells.json").read_text())]


def _told(folder: Path, runtime: str, command: Sequence[str], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The lines of one process, until it ends or is silent for too long."""
    (folder / runtime).mkdir(exist_ok=True)
    (folder / runtime / "todo.json").write_text(json.dumps(names))
    with (folder / f"{runtime}.log").open("a") as log:
        process = subprocess.Popen(
            [*command, str(folder), runtime], stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_pour, args=(process.stdout, lines), daemon=True).start()
        try:
            while (line := lines.get(timeout=LIMIT_S)) is not None:
                if line.startswith('{"'):
                    yield json.loads(line)
        except queue.Empty:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _pour(stream: Any, lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _judge(folder: Path, runtime: str, cell: Cell, told: dict[str, Any]) -> None:
    """Per output the largest difference and the correlation; green by the limits of its kind."""
    if "error" in told:
        told["green"] = False
        return
    want = np.load(folder / f"{cell.name}.want.npz")
    told["outputs"] = {}
    for k, name in ((k, n) for k, n in enumerate(cell.outputs) if str(k) in want):
        file = folder / runtime / f"{cell.name}.{k}.bin"
        got = np.frombuffer(file.read_bytes(), np.float32) if file.exists() else np.zeros(0, np.float32)
        told["outputs"][name] = _compared(got, np.asarray(want[str(k)], dtype=np.float64).ravel())
    told["green"] = green(cell, told["outputs"])


def _compared(got: Any, want: Any) -> dict[str, float | str]:
    if got.size != want.size:
        return {"error": f"{got.size} values for {want.size}"}
    same = bool(np.array_equal(got, want.astype(np.float32)))
    flat = got.std() == 0 or want.std() == 0
    r = 1.0 if same else 0.0 if flat or not np.isfinite(got).all() else float(np.corrcoef(got, want)[0, 1])
    far = float(np.max(np.abs(got - want), initial=0.0))
    return {"max": far if np.isfinite(far) else 1e30, "r": r, "top": float(np.abs(want).max(initial=0.0))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("folder", type=Path)
    making.add_argument("models", nargs="+")
    making.add_argument("--photo", type=Path)
    running = commands.add_parser("run")
    running.add_argument("folder", type=Path)
    running.add_argument("runtime")
    running.add_argument("--python", default=sys.executable)
    running.add_argument("--modules", type=Path)
    running.add_argument("--only", default="", help="a pattern of the cells' names, MODEL.METHOD")
    writing = commands.add_parser("write")
    writing.add_argument("folder", type=Path)
    writing.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    if given.command == "make":
        make(given.folder, given.models, given.photo)
    elif given.command == "write":
        found = sheets(_listed(given.folder), given.folder)
        given.out.write_text(document(found))
        given.out.with_suffix(".csv").write_text(figures(found))
    else:
        run(given.folder.resolve(), given.runtime, _command(given), given.only)


def _command(given: argparse.Namespace) -> list[str]:
    here = Path(__file__).parent
    if given.modules is None:
        return [given.python, "-W", "ignore", str(here / "runtimes_adapters.py")]
    if given.runtime == "chromium":
        return [given.python, str(here / "runtimes_browser.py"), str(given.modules.resolve())]
    return ["node", str(here / "runtimes_web.mjs"), str(given.modules.resolve())]


if __name__ == "__main__":
    main()
