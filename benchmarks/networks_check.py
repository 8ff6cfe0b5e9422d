"""One exported network against its reference: the part of ``benchmarks.networks`` that runs onnxcam.

    python -m benchmarks.networks_check gradients MODEL.onnx REFERENCE.npz
    python -m benchmarks.networks_check memory MODEL.onnx REFERENCE.npz

Prints one line of JSON. ``memory`` reads /proc, so it needs Linux.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from benchmarks.conformance import is_standard
from benchmarks.networks_double import run_double
from benchmarks.networks_reference import LOGIT, TOLERANCE, Reference, distance
from onnxcam.gradients import add_gradients
from onnxcam.graph.inspect import find_logits
from onnxcam.graph.surgery import expose
from onnxcam.model import Model, dims_of, load_model

# As it is; NCHW read as NHWC; NHWC read as NCHW.
LAYOUTS: tuple[tuple[int, ...] | None, ...] = (None, (0, 2, 3, 1), (0, 3, 1, 2))


def main() -> None:
    task, path, reference = sys.argv[1:]
    do = {"gradients": check, "memory": memory}[task]
    print(json.dumps(do(Path(path), Reference.load(Path(reference)))))


def check(path: Path, reference: Reference) -> dict[str, Any]:
    model = load_model(path)
    layer, layout, logits = find_layer(model, reference)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        explained = add_gradients(model, of="logits", wrt=[layer, "input"], engine="portable")
        seconds.append(time.perf_counter() - start)
    names = [f"onnxcam/grad/{layer}", "onnxcam/grad/input"]
    seed = np.zeros_like(reference.logits)
    seed[0, LOGIT] = 1
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        file = explained.save(Path(folder) / "explained.onnx")
        onnx.checker.check_model(file)
        nodes = written_nodes(file, model)
        layer_gradient, image_gradient = run(file, model, {"onnxcam/seed": seed}, reference, names)
    return {
        "made_by": reference.made_by,
        "source_opset": model.source_opset,
        "opset": model.opset,
        "module": reference.layer,
        "layer": layer,
        "layout": "as is" if layout is None else "transposed",
        "logits": distance(logits, reference.logits),
        "nodes": len(nodes),
        "foreign": sorted({n.op_type for n in nodes if not is_standard(n, explained.opset)}),
        "seconds": statistics.median(seconds),
        "layer_norm": float(np.linalg.norm(reference.layer_gradient)),
        "layer_distance": distance(read(layer_gradient, layout, reference.layer_gradient), reference.layer_gradient),
        "layer_noise": reference.layer_noise,
        "image_norm": float(np.linalg.norm(reference.image_gradient)),
        "image_distance": distance(image_gradient, reference.image_gradient),
        "image_noise": reference.image_noise,
        "layer_plain": reference.layer_plain,
        "image_plain": reference.image_plain,
    }


def find_layer(model: Model, reference: Reference) -> tuple[str, tuple[int, ...] | None, Any]:
    """The value that holds the layer's activation, found by its numbers; how to read its axes; and the logits."""
    expected, scores = reference.activation, str(find_logits(model).name)
    names = [n for n, v in model.values.items() if v.producer() is not None and _may_hold(v, expected.size)]
    found = evaluate(model, list(dict.fromkeys([*names, scores])), reference)
    best = math.inf
    for layout in LAYOUTS:
        alike = {
            n: distance(read(found[n], layout, expected), expected) for n in names if found[n].size == expected.size
        }
        for same_shape in (True, False):
            for name, far in alike.items():
                best = min(best, far)
                if far < TOLERANCE and (found[name].shape == expected.shape or not same_shape):
                    return name, layout, found[scores]
    raise LookupError(f"no value of the graph is {reference.layer}; the closest of {len(names)} is {best:.1e} away")


def _may_hold(value: Any, size: int) -> bool:
    if value.dtype not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE) or value.shape is None:
        return False
    dims = dims_of(value)
    fixed = math.prod(d for d in dims if isinstance(d, int))
    return fixed == size or (fixed > 0 and size % fixed == 0 and not all(isinstance(d, int) for d in dims))


def read(found: Any, layout: tuple[int, ...] | None, like: Any) -> Any:
    moved = found.transpose(layout) if layout and found.ndim == 4 else found
    return moved.reshape(like.shape)


def evaluate(model: Model, names: list[str], reference: Reference) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=model.path.parent if model.path else None) as folder:
        file = expose(model, names).save(Path(folder) / "exposed.onnx")
        found = run(file, model, {}, reference, names)
    return dict(zip(names, found, strict=True))


def run(file: Path, model: Model, seed: dict[str, Any], reference: Reference, names: list[str]) -> list[Any]:
    """In float32 by onnxruntime; in float64, for which it has no convolution, by ONNX's reference implementation."""
    image = model.image_input
    dtype = image.dtype.numpy()
    feeds = {name: x.astype(dtype) for name, x in {image.name: reference.image, **seed}.items()}
    if dtype == np.float64:
        return run_double(file, feeds, names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return list(session.run(names, feeds))


def written_nodes(file: Path, before: Model) -> list[Any]:
    """The nodes, bodies included, whose outputs the model did not have before."""
    graph = onnx.load(file, load_external_data=False).graph
    return [inner for n in graph.node if n.output[0] not in before.values for inner in _with_bodies(n)]


def _with_bodies(node: Any) -> Iterator[Any]:
    yield node
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _with_bodies(inner)


def memory(path: Path, reference: Reference) -> dict[str, Any]:
    """How far memory rises, at its peak, in loading and then in building, in bytes; beside the weights' own size.

    Pages of the mapped file are not counted: the system takes them back when it likes.
    """
    with Watch() as load:
        model = load_model(path)
    start = time.perf_counter()
    with Watch() as build:
        explained = add_gradients(model, of="logits", wrt="input", engine="portable")
    seconds = time.perf_counter() - start
    weights = model.nbytes()
    return {
        "weights": weights,
        "load": load.rise,
        "build": build.rise,
        "first": seconds,
        "added": explained.nbytes() - weights,
    }


class Watch:
    """Looks at the process's own memory every millisecond; ``rise`` is how far it got above where it was."""

    def __enter__(self) -> Watch:
        self._start, self.rise, self._done = _own_memory(), 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        over = False
        while not over:
            over = self._done.wait(1e-3)
            self.rise = max(self.rise, _own_memory() - self._start)


def _own_memory() -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
