"""What a batch job costs beside the bare runs of its model, and how its memory grows.

    python -m benchmarks.batch throughput MODEL... [--photos FOLDER] [--count 400] [--rounds 3] [--preprocess imagenet]
    python -m benchmarks.batch memory MODEL [--counts 500 5000]

throughput: JPEG files of 500 x 375 pixels are decoded, explained by Grad-CAM and written as overlays; against a loop
of ONNX Runtime (default options, one picture at a time; and, where the batch axis is free, groups of 4) over the same
pictures, preprocessed beforehand. Both in turns; the median ratio of neighbours, and processor seconds of each; and
what the ratio would be for a program that only decodes, runs and encodes, with OpenCV's libjpeg-turbo.

memory: peak resident size of a job, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import onnxcam.batch
from onnxcam import Explainer
from onnxcam.image import one_thread, read_image
from onnxcam.photos import find_photos

WIDTH, HEIGHT = 500, 375


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("throughput", "memory", "job"))
    parser.add_argument("models", nargs="+")
    parser.add_argument("--photos", help="a folder of photos, from which pictures are cut; else they are made up")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preprocess", default="imagenet")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    if given.what == "job":
        print(json.dumps(_job(*given.models, given.preprocess, given.batch, given.workers)))
        return
    with tempfile.TemporaryDirectory() as folder:
        measure = throughput if given.what == "throughput" else memory
        for model in given.models:
            measure(model, given, Path(folder))


# ---- throughput ----


def throughput(model: str, given: argparse.Namespace, folder: Path) -> None:
    photos = pictures(folder / "photos", given.count, given.photos)
    explainer = Explainer(model, preprocess=given.preprocess)
    tensors = [explainer.preprocess.apply(read_image(p), explainer.spec)[0] for p in photos]
    loops = {"one by one": _loop(explainer, tensors, 1)}
    if explainer.model.image_input.batch is None:
        loops[f"by {given.batch}"] = _loop(explainer, tensors, given.batch)
    ratios: dict[str, list[float]] = {name: [] for name in loops}
    rates, work = [], []
    for number in range(given.rounds):
        out = folder / f"out-{Path(model).stem}-{number}"
        mine = _clocked(
            lambda out=out: _job(model, photos[0].parent, out, given.preprocess, given.batch, given.workers)
        )
        seconds = mine.told["seconds"]
        rates.append(given.count / seconds)
        work.append(mine.told["processor"] / given.count)
        for name, loop in loops.items():
            ratios[name].append(_clocked(loop).wall / seconds)
    print(f"{Path(model).name}: {statistics.median(rates):.1f} pictures a second, {given.count} of {WIDTH} x {HEIGHT}")
    for name, loop in loops.items():
        spread = ", ".join(f"{r:.3f}" for r in ratios[name])
        bare = _clocked(loop).processor / given.count * 1e3
        print(f"  / bare loop {name:12s} {statistics.median(ratios[name]):.3f}  ({spread})")
        print(f"  processor time of a picture: {statistics.median(work) * 1e3:.2f} ms, bare {bare:.2f} ms")
        least = _decoded_and_encoded(photos)
        print(f"  decoding and encoding alone take {least:.2f} ms: at most {bare / (bare + least):.3f}", flush=True)


def _decoded_and_encoded(photos: list[Path]) -> float:
    """Processor milliseconds of a picture: one thread, nothing else done."""
    files = [np.frombuffer(p.read_bytes(), np.uint8) for p in photos[:100]]
    with one_thread():
        clocked = _clocked(lambda: [cv2.imencode(".jpg", cv2.imdecode(f, cv2.IMREAD_COLOR)) for f in files])
    return clocked.processor / len(files) * 1e3


class _Clocked:
    def __init__(self, told: Any, wall: float, processor: float) -> None:
        self.told, self.wall, self.processor = told, wall, processor


def _clocked(do: Callable[[], Any]) -> _Clocked:
    wall, processor = time.perf_counter(), time.process_time()
    told = do()
    return _Clocked(told, time.perf_counter() - wall, time.process_time() - processor)


def _loop(explainer: Explainer, tensors: list[Any], batch: int) -> Callable[[], None]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(explainer.model.path), providers=["CPUExecutionProvider"])
    name = explainer.model.image_input.name
    groups = [np.concatenate(tensors[k : k + batch]) for k in range(0, len(tensors), batch)]
    for group in groups[:10]:
        session.run(None, {name: group})

    def run() -> None:
        for group in groups:
            session.run(None, {name: group})

    return run


def _job(model: str, photos: str | Path, out: str | Path, preprocess: str, batch: int, workers: int | None) -> Any:
    """Seconds from the first picture to the last file, the job's start left out; and the peak memory in MB."""
    job = onnxcam.batch.run(model, photos, out, preprocess=preprocess, batch=int(batch), workers=workers)
    start, processor = time.perf_counter(), time.process_time()
    counts = job.finish()
    assert counts == {"explained": job.plan.count, "errors": 0, "flagged": counts["flagged"]}
    return {
        "seconds": time.perf_counter() - start,
        "processor": time.process_time() - processor,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


# ---- memory ----


def memory(model: str, given: argparse.Namespace, folder: Path) -> None:
    pictures(folder / "few", min(given.counts), given.photos)
    peaks = {}
    for count in given.counts:
        photos = pictures(folder / f"photos-{count}", count, given.photos)[0].parent
        command = [sys.executable, "-m", "benchmarks.batch", "job", model, str(photos), str(folder / f"out-{count}")]
        command += ["--preprocess", given.preprocess, "--batch", str(given.batch)]
        told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        peaks[count] = told["megabytes"]
        print(f"{Path(model).name}: {count} pictures, {told['megabytes']:.1f} MB at most", flush=True)
    few, many = min(peaks), max(peaks)
    print(f"{many} / {few}: {peaks[many] / peaks[few]:.3f}")


# ---- pictures ----


def pictures(folder: Path, count: int, photos: str | None) -> list[Path]:
    """JPEG files of one size, no two alike: cuts of photos, or made-up textures."""
    folder.mkdir(parents=True)
    sources = [read_image(p.path) for p in find_photos(photos)] if photos else [_texture(k) for k in range(8)]
    rng = np.random.default_rng(0)
    made = []
    for k in range(count):
        source = sources[k % len(sources)]
        scale = max(WIDTH / source.shape[1], HEIGHT / source.shape[0]) * rng.uniform(1, 1.3)
        large = cv2.resize(source, None, fx=scale + 1e-3, fy=scale + 1e-3, interpolation=cv2.INTER_AREA)
        y, x = (int(rng.integers(0, n - m + 1)) for n, m in zip(large.shape, (HEIGHT, WIDTH), strict=False))
        made.append(folder / f"{k:05d}.jpg")
        cut = large[y : y + HEIGHT, x : x + WIDTH, ::-1]
        cv2.imwrite(str(made[-1]), cut, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return made


def _texture(seed: int) -> Any:
    """Noise whose spectrum falls as that of photos does: (600, 800, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.fft.fftfreq(600), np.fft.fftfreq(800), indexing="ij")
    weight = 1 / np.maximum(np.hypot(x, y), 1 / 800)
    planes = [np.fft.ifft2(np.fft.fft2(rng.standard_normal((600, 800))) * weight).real for _ in range(3)]
    shared = sum(planes) / 2
    return np.stack([np.clip(128 + 45 * (p / 2 + shared) / np.std(p / 2 + shared), 0, 255) for p in planes], 2).astype(
        np.uint8
    )


if __name__ == "__main__":
    main()
