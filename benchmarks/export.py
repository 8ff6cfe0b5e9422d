"""Exported models: do they say what the Explainer says, what does the explanation cost, how much room does it take?

    python -m benchmarks.export agree [MODEL...] [--method METHOD]
    python -m benchmarks.export cost [MODEL...] [--threads 1 --threads 2] [--web NODE_MODULES]
    python -m benchmarks.export size [MODEL...]

Without models: those of the zoo and, where ONNXCAM_REAL_ZOO says where, the real ones. Each prints a table for the
documents; what misses a limit is told on stderr, and the exit code is 1.

`agree`: every method of one run, on one and (where the batch axis is free) four pictures, for the top class and for
class 1: the heatmap of a plain session of the exported file against the Explainer's. CAMs: largest difference, in
[0, 1]; pixel methods: Pearson's correlation. Also whether the model's own outputs are the same bits without
optimisation, and whether every output has a shape.
`cost`: Grad-CAM's file against the model, same session options, runs in turn; the median of the ratios of neighbours.
`size`: what Grad-CAM adds to the file, in bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from benchmarks.cost import alternate
from onnxcam import Explainer, load_model
from onnxcam.errors import OnnxcamError
from onnxcam.export import Form, explainable
from onnxcam.image import as_image
from onnxcam.methods import METHODS
from onnxcam.model import Model

ZOO = Path(__file__).resolve().parent.parent / "model_zoo"
EXPORTED = [m.name for m in METHODS.values() if m.procedure is None and m.join != "kpca"]
FARTHEST, LEAST = 1e-4, 0.999
DEAREST, DEAREST_WEB, SHORTEST_MS = 1.10, 1.15, 1.0
ROOM, SHARE = 50_000, 0.01
SECONDS = 3.0  # of plain runs, and at most 200 of them
Array = Any


@dataclass
class Agreement:
    """One model: the worst of all methods, batches and classes.

    Attributes:
        methods: how many methods were compared.
        cam, cam_method: the largest difference, and whose.
        r, r_method: the least correlation, and whose.
        odd: what should not be.
    """

    methods: int = 0
    cam: float = 0.0
    cam_method: str = ""
    r: float = 1.0
    r_method: str = ""
    batches: tuple[int, ...] = ()
    odd: list[str] = field(default_factory=list)


def given_or_all(models: Sequence[str]) -> list[Path]:
    real = os.environ.get("ONNXCAM_REAL_ZOO")
    folders = [ZOO, *([Path(real) / "models"] if real else [])]
    return [Path(m) for m in models] or [p for f in folders for p in sorted(f.glob("*.onnx"))]


def opened(paths: Sequence[Path]) -> Iterator[tuple[Path, Model]]:
    """The classifiers among them; the others with the reason on stderr."""
    for path in paths:
        try:
            model = load_model(path)
            explainable([Explainer(model, engine="portable")])
        except OnnxcamError as error:
            print(f"{path.stem}: {str(error).splitlines()[0][:140]}", file=sys.stderr)
            continue
        if len(model.inputs) > 1:
            print(f"{path.stem}: it takes more than a picture", file=sys.stderr)
            continue
        yield path, model


def session(model: Path | bytes, threads: int = 1, optimised: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
    )


def exported(explainer: Explainer, **form: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return explainable([explainer], form=Form(**form)).model.save(Path(folder) / "m.onnx").read_bytes()


def pictures(explainer: Explainer, path: Path, count: int) -> Array:
    """Scenes for the zoo's own, else photos, preprocessed; noise where there are none."""
    real = os.environ.get("ONNXCAM_REAL_ZOO")
    folder = ZOO / "samples" if path.name.startswith("shapes") or not real else Path(real) / "photos"
    files = [f for f in sorted(folder.iterdir()) if f.suffix in (".png", ".jpg") and ".mask" not in f.name][:count]
    made = [explainer.preprocess.apply(as_image(f), explainer.spec)[0] for f in files]
    smallest = [min(m.shape[a] for m in made) for a in range(made[0].ndim)]
    cut = tuple(slice(0, s) for s in smallest)  # where the input takes any size
    return np.ascontiguousarray(np.concatenate([m[cut] for m in made]))


# agree


def agreement(path: Path, model: Model, methods: Sequence[str]) -> Agreement:
    found, batch = Agreement(), model.image_input.batch
    found.batches = (1, 4) if batch is None else (batch,)
    for name in methods:
        try:
            explainer = Explainer(model, method=name, engine="portable", threads=1)
        except OnnxcamError:  # not for this model
            continue
        try:
            data = exported(explainer)
        except OnnxcamError as error:
            print(f"{path.stem}, {name}: {str(error).splitlines()[0][:140]}", file=sys.stderr)
            continue
        found.methods += 1
        _compare(found, explainer, data, pictures(explainer, path, max(found.batches)))
        found.odd += [f"{name}: {text}" for text in _without_shape(data)]
    own = Explainer(model, engine="portable")
    found.odd += _changed(path, exported(own, top1=True), {model.image_input.name: pictures(own, path, batch or 1)})
    return found


def _compare(found: Agreement, explainer: Explainer, data: bytes, x: Array) -> None:
    run = session(data)
    for n in found.batches:
        for asked in (None, 1):
            want = np.stack([e.heatmap for e in explainer.explain_tensor(x[:n], asked)])
            feeds = {explainer.model.image_input.name: x[:n], "onnxcam/class": np.full(n, -1 if asked is None else 1)}
            got = run.run(["heatmap"], feeds)[0]
            if explainer.method.gives == "cam":
                far = float(np.abs(got - want).max())
                if not far <= found.cam:
                    found.cam, found.cam_method = far, explainer.method.name
            elif not (r := min(correlation(g, w) for g, w in zip(got, want, strict=True))) >= found.r:
                found.r, found.r_method = r, explainer.method.name


def correlation(a: Array, b: Array) -> float:
    if np.array_equal(a, b):
        return 1.0
    return 0.0 if a.std() == 0 or b.std() == 0 else float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def _without_shape(data: bytes) -> list[str]:
    """Outputs of unknown rank, and heatmaps whose size is free though the picture's is not."""
    graph = onnx.load_from_string(data).graph
    tensors = {v.name: v.type.tensor_type for v in (*graph.input, *graph.output) if v.type.HasField("tensor_type")}
    sizes = {n: [d.dim_value or None for d in t.shape.dim] for n, t in tensors.items()}
    bare = [f"output {o.name} has no shape" for o in graph.output if not tensors[o.name].HasField("shape")]
    fixed, heat = all(all(s[1:]) for s in map(sizes.get, (i.name for i in graph.input)) if s), sizes["heatmap"]
    return bare + ([f"heatmap has the shape {heat}"] if len(heat) != 3 or (fixed and None in heat[1:]) else [])


def _changed(path: Path, data: bytes, feeds: dict[str, Array]) -> list[str]:
    """Own outputs that are not the same bits as those of the model, brought to opset 18, without optimisation."""
    with tempfile.TemporaryDirectory() as folder:
        before = session(load_model(path).save(Path(folder) / "m.onnx"), optimised=False)
    after = session(data, optimised=False)
    common = [o.name for o in before.get_outputs() if o.name in {a.name for a in after.get_outputs()}]
    pairs = zip(common, before.run(common, feeds), after.run(common, feeds), strict=True)
    return [f"output {n} differs by {_far(a, b):.1e}" for n, a, b in pairs if not np.array_equal(a, b)]


def _far(a: Array, b: Array) -> float:
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


def agree(paths: Sequence[Path], methods: Sequence[str]) -> list[str]:
    print(
        "| model | methods | batch | CAMs: farthest | pixels: least r | own outputs, shapes |",
        f"|{'---|' * 6}",
        sep="\n",
    )
    missed = []
    for path, model in opened(paths):
        one = agreement(path, model, methods)
        worst = [f"{one.cam:.0e} {one.cam_method}".strip(), f"{one.r:.6f} {one.r_method}".strip()]
        cells = [
            path.stem,
            str(one.methods),
            " and ".join(map(str, one.batches)),
            *worst,
            "; ".join(one.odd) or "as they were",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
        if any(v.dtype == ir.DataType.FLOAT16 for v in model.graph.initializers.values()):
            continue  # no limit: where a value is looked at, CPU kernels round it
        missed += [f"{path.stem}: CAMs differ by {one.cam:.1e}"] if not one.cam <= FARTHEST else []
        missed += [f"{path.stem}: correlation {one.r:.5f}"] if not one.r >= LEAST else []
        missed += [f"{path.stem}: {text}" for text in one.odd]
    return missed


# cost


def cost(paths: Sequence[Path], threads: Sequence[int]) -> list[str]:
    heads = " | ".join(f"{t} thread{'s' if t > 1 else ''}: plain ms | ratio" for t in threads)
    print(f"| model | {heads} |\n|---|{'---|' * 2 * len(threads)}")
    missed = []
    for path, model in opened(paths):
        explainer = Explainer(model, engine="portable", threads=1)
        data, feeds = exported(explainer), _feeds(explainer, path)
        cells = []
        for count in threads:
            ms, ratio = _ratio(session(path, count), session(data, count), feeds)
            cells += [f"{ms:.2f}", f"{ratio:.3f}"]
            missed += [f"{path.stem}, {count} threads: {ratio:.3f}"] if ms >= SHORTEST_MS and ratio > DEAREST else []
        print(f"| {path.stem} | {' | '.join(cells)} |", flush=True)
    return missed


def _feeds(explainer: Explainer, path: Path) -> dict[str, Array]:
    x = pictures(explainer, path, explainer.model.image_input.batch or 1)
    return {explainer.model.image_input.name: x, "onnxcam/class": np.full(len(x), -1)}


def _ratio(plain: Any, explained: Any, feeds: dict[str, Array]) -> tuple[float, float]:
    """Milliseconds of a plain run, and the median ratio of neighbouring runs."""
    own = {i.name: feeds[i.name] for i in plain.get_inputs()}
    first: Callable[[], Any] = lambda: plain.run(None, own)  # noqa: E731
    once, _ = alternate(first, lambda: explained.run(None, feeds), 10)
    rounds = int(np.clip(SECONDS / np.median(once), 20, 200))
    a, b = alternate(first, lambda: explained.run(None, feeds), rounds)
    return float(np.median(a)) * 1e3, float(np.median(b / a))


def cost_web(paths: Sequence[Path], modules: Path) -> list[str]:
    """The same in onnxruntime-web (WASM, one thread) in Node."""
    print("| model | plain ms | ratio |\n|---|---|---|")
    missed = []
    for path, model in opened(paths):
        explainer = Explainer(model, engine="portable", threads=1)
        with tempfile.TemporaryDirectory() as folder:
            told = _timed(Path(folder), path, exported(explainer), _feeds(explainer, path), modules)
        if "error" in told:
            print(f"| {path.stem} | {told['error']} | |", flush=True)
            continue
        a, b = np.asarray(told["plain"]), np.asarray(told["explained"])
        ratio = float(np.median(b / a))
        print(f"| {path.stem} | {np.median(a):.2f} | {ratio:.3f} |", flush=True)
        missed += [f"{path.stem}: {ratio:.3f}"] if np.median(a) >= SHORTEST_MS and ratio > DEAREST_WEB else []
    return missed


def _timed(folder: Path, path: Path, data: bytes, feeds: dict[str, Array], modules: Path) -> dict[str, Any]:
    proto = onnx.load(path)  # weights of other files come in
    (folder / "plain.onnx").write_bytes(proto.SerializeToString())
    (folder / "explained.onnx").write_bytes(data)
    listed = []
    for k, (name, array) in enumerate(feeds.items()):
        (folder / f"{k}.bin").write_bytes(array.tobytes())
        listed.append({"name": name, "dtype": str(array.dtype), "shape": list(array.shape), "file": f"{k}.bin"})
    (folder / "feeds.json").write_text(json.dumps(listed))
    command = ["node", str(Path(__file__).with_name("export_web.mjs")), str(modules.resolve()), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(json.loads(lines[-1])) if lines else {"error": (done.stderr.splitlines() or ["?"])[-1][:120]}


# size


def size(paths: Sequence[Path]) -> list[str]:
    print("| model | bytes | Grad-CAM adds | share |\n|---|---|---|---|")
    missed = []
    for path, model in opened(paths):
        source = path.stat().st_size + sum(w.stat().st_size for w in set(model.weights))
        more = len(exported(Explainer(model, engine="portable"))) - source
        print(f"| {path.stem} | {source:,} | {more:,} | {more / source:.2%} |", flush=True)
        missed += [f"{path.stem}: {more:,} bytes more"] if more > ROOM + SHARE * source else []
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("agree", "cost", "size"))
    parser.add_argument("models", nargs="*")
    parser.add_argument("--method", action="append", choices=EXPORTED, help="for agree; all of them otherwise")
    parser.add_argument("--threads", action="append", type=int, help="for cost; 1 and 2 otherwise")
    parser.add_argument("--web", type=Path, metavar="NODE_MODULES", help="for cost: the folder of onnxruntime-web")
    given = parser.parse_intermixed_args()
    paths = given_or_all(given.models)
    if given.command == "agree":
        missed = agree(paths, given.method or EXPORTED)
    elif given.command == "size":
        missed = size(paths)
    else:
        missed = cost_web(paths, given.web) if given.web else cost(paths, given.threads or (1, 2))
    print(*missed, sep="\n", end="\n" if missed else "", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
