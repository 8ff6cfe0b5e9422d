"""Mixed work for half an hour: memory must stay where it was.

    python -m benchmarks.soak [--minutes 30] [--seed 0]

Explainers of several methods are built and dropped, pictures of all sizes and damaged ones are explained one by one, in
batches and from threads, models are exported, damaged models refused, jobs run, and an isolated explainer crashes.
After a tenth of the time for warming up, it is noted behind every round what the C library has given out (mallinfo2(3),
glibc), how many blocks Python holds, the resident memory, open files, threads and processes. Exit code 1 where the
median of the last third is above that of the first: by more than 2 % of what is in use or of Python's blocks; 5 % of
resident memory, in which allocators also keep the holes that large damaged models leave behind; 2 files, threads or
processes. Exit code 2 where there were too few rounds to tell.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import fuzz_images, fuzz_models

METHODS = ("gradcam", "gradcam++", "layercam", "hirescam", "saliency", "guided_backprop", "eigencam", "scorecam")
MODELS = ("shapes-cnn", "shapes-net-free", "shapes-net-int8-qdq", "shapes-unet", "shapes-vit")
_MAY_GROW = {"MB in use": 0.02, "blocks": 0.02, "MB resident": 0.05}
_FEWEST = 9  # rounds noted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(soak(Work(Path(folder), given.seed), 60 * given.minutes))


def soak(work: Work, seconds: float) -> int:
    """Go round until the time is over; the exit code."""
    began, noted, rounds = time.monotonic(), [], 0
    while (passed := time.monotonic() - began) < seconds:
        work.round()
        rounds += 1
        gc.collect()
        if passed > seconds / 10:
            noted.append(seen())
            if rounds % 10 == 0:
                print(f"{passed:6.0f} s  " + ", ".join(f"{n:.6g} {what}" for what, n in noted[-1].items()), flush=True)
    if len(noted) < _FEWEST:
        print(f"{len(noted)} rounds are too few to tell; give it more --minutes")
        return 2
    third = len(noted) // 3
    first, last = _medians(noted[:third]), _medians(noted[-third:])
    print(f"{rounds} rounds, {dict(sorted(work.done.items()))}")
    grown = {what: f" ({last[what] / n - 1:+.2%})" if what in _MAY_GROW else "" for what, n in first.items()}
    print(", ".join(f"{what} {n:.6g} to {last[what]:.6g}{grown[what]}" for what, n in first.items()))
    return int(any(last[what] > n * (1 + _MAY_GROW[what]) if what in _MAY_GROW else last[what] > n + 2
                   for what, n in first.items()))  # fmt: skip


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {what: statistics.median(row[what] for row in rows) for what in rows[0]}


def seen() -> dict[str, float]:
    """What this process holds."""
    tasks = os.listdir("/proc/self/task")  # threads, those of libraries too
    return {
        "MB in use": in_use(),
        "blocks": sys.getallocatedblocks(),
        "MB resident": resident(),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(tasks),
        "processes": sum(map(_begun_by, tasks)),
    }


def _begun_by(task: str) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return len(Path("/proc/self/task", task, "children").read_text().split())
    return 0


class _MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]  # fmt: skip


def in_use() -> float:
    """MB that malloc has given out and not got back, small and mapped."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = _MallInfo
    found = ask()
    return float(found.uordblks + found.hblkhd) / 2**20


def resident() -> float:
    """MB of this process, from proc(5): the second field of statm."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Work:
    """What is done.

    Attributes:
        done: how often what was.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        from onnxcam import Explainer

        self.folder, self.rng, self.done = folder, random.Random(seed), dict[str, int]()
        self.photos = sorted((fuzz_models.ROOT / "model_zoo" / "samples").glob("scene-?.png"))
        self.steady = Explainer("zoo:shapes-cnn", threads=1)
        self.isolated = Explainer("zoo:shapes-cnn", threads=1, isolate=True)
        self.steps: tuple[Callable[[], Any], ...] = (
            self.one_by_one, self.any_size, self.together, self.from_threads, self.another_model, self.damaged_model,
            self.damaged_picture, self.exported, self.job, self.crash,
        )  # fmt: skip

    def round(self) -> None:
        """Everything once, in any order."""
        for step in self.rng.sample(self.steps, len(self.steps)):
            step()
            self.done[step.__name__] = self.done.get(step.__name__, 0) + 1

    def one_by_one(self) -> None:
        for photo in self.photos:
            self.steady.explain(photo).overlay()

    def any_size(self) -> None:
        import numpy as np

        shape = (self.rng.randrange(8, 900), self.rng.randrange(8, 900), 3)
        picture = np.random.default_rng(self.rng.randrange(2**32)).integers(0, 256, shape, dtype=np.uint8)
        self.steady.explain(picture).save(self.folder / "any")

    def together(self) -> None:
        self.steady.explain_batch(self.photos[: self.rng.choice((1, 3, 8))])

    def from_threads(self) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self.steady.explain, self.photos))

    def another_model(self) -> None:
        from onnxcam import Explainer

        name, method = self.rng.choice(MODELS), self.rng.choice(METHODS)
        Explainer(f"zoo:{name}", method=method, threads=1).explain(self.rng.choice(self.photos))

    def damaged_model(self) -> None:
        from onnxcam import Explainer
        from onnxcam.errors import OnnxcamError

        source = self.rng.choice(fuzz_models.sources(None))
        path = self.folder / "damaged.onnx"
        path.write_bytes(fuzz_models.mutate(source.read_bytes(), self.rng)[0])
        with suppress(OnnxcamError):
            Explainer(path, threads=1).explain(self.photos[0])

    def damaged_picture(self) -> None:
        from onnxcam.errors import ImageError

        _, data = self.rng.choice(fuzz_images.sources(None))
        path = self.folder / "damaged"
        path.write_bytes(fuzz_images.mutate(data, self.rng)[0])
        with suppress(ImageError):
            if path.stat().st_size < 100_000:  # no bombs: memory that the system lends is not given back at once
                self.steady.explain(path)

    def exported(self) -> None:
        self.steady.export(self.folder / "explainable.onnx", force=True)

    def job(self) -> None:
        from onnxcam.batch import run

        photos = [str(p) for p in self.photos[:4]]
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as out,
            run("zoo:shapes-cnn", photos, Path(out) / "job", workers=2, threads=1) as job,
        ):
            job.finish()

    def crash(self) -> None:
        from onnxcam.isolation import CrashError

        try:
            self.isolated.worker.call(ctypes.string_at, 0)
        except CrashError:
            pass
        else:
            raise AssertionError("it reads what nobody may, and did not crash")
        self.isolated.explain(self.photos[0])


if __name__ == "__main__":
    main()
