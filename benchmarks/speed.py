"""Competitors in turn: each in a process of its own, one at a time, on the same weights, picture and threads.

Why processes: threads that have finished wait busily for the next work, those of ONNX Runtime for about 35 ms, OpenMP's
(torch) for about 10; on two cores they take the next one's. So all others sleep while one has its turn, and ``REST``
lies between turns. A turn begins with calls that do not count: after a rest the first are slower (clock, caches).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

REST = 0.1
ONCE = 20.0  # seconds; what takes longer is measured once: its first call
SLOW = 0.5  # seconds; what takes longer needs no warming up
TRIES = 3
FOREIGN = 0.15  # cores; a turn is taken again where all others' work took more

PLAIN, OURS, SESSION = "onnxruntime", "onnxcam", "onnxcam session"
TORCH, GRAD_CAM, TORCH_CAM, CAPTUM = "torch", "pytorch-grad-cam", "torch-cam", "captum"
HERE = (PLAIN, OURS, SESSION)

COMPETITORS = {
    "gradcam": (PLAIN, SESSION, OURS, GRAD_CAM, TORCH_CAM, CAPTUM, TORCH),
    "layercam": (PLAIN, SESSION, OURS, GRAD_CAM, TORCH_CAM),
    "guided_backprop": (PLAIN, SESSION, OURS, GRAD_CAM, CAPTUM),
    "integrated_gradients": (PLAIN, OURS, CAPTUM),
    "scorecam": (PLAIN, OURS, GRAD_CAM, TORCH_CAM),
    "faster_scorecam": (PLAIN, OURS),
    "occlusion": (PLAIN, OURS, CAPTUM),
    "rise": (PLAIN, OURS),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 50, "rule": "gausslegendre"},
    "occlusion": {"window": 45, "stride": 22},
    "rise": {"samples": 1000},
}
NO_LAYER = ("guided_backprop", "integrated_gradients", "occlusion", "rise")


@dataclass(frozen=True)
class Question:
    """What all competitors are asked.

    Attributes:
        prepared: what :func:`prepared` wrote of the network: model, layer, target.
        size, batch: of the pictures.
    """

    network: str
    method: str
    size: int
    batch: int
    threads: int
    prepared: Mapping[str, Any]

    def asks(self, who: str, folder: Path) -> dict[str, Any]:
        """The question file of a competitor."""
        target = self.prepared["target"]
        return {
            "who": who,
            "network": self.network,
            "method": self.method,
            "threads": self.threads,
            "options": OPTIONS.get(self.method, {}),
            "at_layer": self.method not in NO_LAYER,
            "layer": self.prepared["layer"],
            "target": target,
            "score": f"logit:{target}" if self.method == "occlusion" else target,
            "model": self.prepared["model"],
            "image": str(folder / "image.npy"),
            "answer": str(folder / f"{who}.npz"),
        }


@dataclass
class Found:
    """What one competitor took.

    Attributes:
        steps: seconds to import, to build, and of the first call.
        turns: median seconds of a call, by turn; of what was measured once, the first call.
        calls: how many count.
        disturbed: turns during which others' work took more than ``FOREIGN`` cores, each time it was tried.
        peak: MB of its process.
        far: how far its map is from onnxcam's (:func:`apart`); None where there is none to compare.
        error: why it has no answer.
    """

    steps: dict[str, float] = field(default_factory=dict)
    turns: list[float] = field(default_factory=list)
    calls: int = 0
    disturbed: int = 0
    peak: float = 0.0
    far: float | None = None
    error: str = ""


class Competitor:
    """A process that waits for its turn."""

    def __init__(self, who: str, question: Question, folder: Path, python: str) -> None:
        path = folder / f"{who}.json"
        path.write_text(json.dumps(question.asks(who, folder)))
        module = ["benchmarks.speed_worker"] if who in HERE else ["benchmarks.speed_torch", "serve"]
        self._errors = (folder / f"{who}.err").open("w+")
        threads = {"OMP_NUM_THREADS": str(question.threads), "MKL_NUM_THREADS": str(question.threads)}
        self._process = subprocess.Popen(
            [python, "-m", *module, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **threads},
        )
        self.steps: dict[str, float] = self._heard()

    def turn(self, warm: float, least: int, seconds: float) -> tuple[list[float], float]:
        """Seconds of each call, and the cores that all others took meanwhile.

        Raises:
            RuntimeError: the process died, with its last line.
        """
        assert self._process.stdin is not None
        start, others = time.perf_counter(), foreign(self._process.pid)
        self._process.stdin.write(json.dumps({"warm": warm, "least": least, "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        times = list(self._heard())
        return times, (foreign(self._process.pid) - others) / (time.perf_counter() - start)

    def close(self) -> float:
        """MB at the peak."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        peak = float(self._heard())
        self.end()
        return peak

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def _heard(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            told = [t.strip() for t in self._errors.read().splitlines() if t.strip()]
            self.end()
            raise RuntimeError(told[-1][:300] if told else "died without a word")
        return json.loads(line)


def measure(question: Question, pythons: Mapping[str, str], who: Sequence[str], seconds: float) -> dict[str, Found]:
    """Every competitor in turn, for about ``seconds`` in all, and at least three rounds where that is not slow."""
    found = {w: Found() for w in who}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture = np.repeat(np.load(question.prepared["arrays"])["image"], question.batch, axis=0)
        np.save(folder / "image.npy", picture)
        running: dict[str, Competitor] = {}
        try:
            for w in who:
                _start(w, question, folder, pythons[w], running, found[w])
            _rounds(running, found, seconds)
            for w, competitor in running.items():
                found[w].peak = competitor.close()
        finally:
            for competitor in running.values():
                competitor.end()
        for w in running:
            if w not in (OURS, PLAIN, SESSION, TORCH) and OURS in running:
                found[w].far = apart(dict(np.load(folder / f"{OURS}.npz")), dict(np.load(folder / f"{w}.npz")))
    return found


def _start(
    who: str, question: Question, folder: Path, python: str, running: dict[str, Competitor], found: Found
) -> None:
    try:
        running[who] = Competitor(who, question, folder, python)
    except RuntimeError as error:
        found.error = str(error)
    else:
        found.steps = running[who].steps


def _rounds(running: dict[str, Competitor], found: Mapping[str, Found], seconds: float) -> None:
    once = [w for w in running if found[w].steps["first"] > ONCE]
    for w in once:
        found[w].turns, found[w].calls = [found[w].steps["first"]], 1
    start, rounds = time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - start < seconds:
        for w in [w for w in running if w not in once]:
            try:
                _take(running[w], found[w])
            except RuntimeError as error:
                found[w].error = str(error)
                del running[w]
        rounds += 1


def _take(competitor: Competitor, found: Found) -> None:
    time.sleep(REST)
    slow = (found.turns[-1] if found.turns else found.steps["first"]) > SLOW
    for _ in range(TRIES):
        times, others = competitor.turn(0.0 if slow else 0.1, 1 if slow else 3, 0.0 if slow else 0.2)
        if others <= FOREIGN:
            break
    found.disturbed += others > FOREIGN
    found.turns.append(float(np.median(times)))
    found.calls += len(times)


def foreign(pid: int) -> float:
    """Seconds of processor time that all but one process have taken, this one's own polling included; Linux."""
    try:
        busy = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        own = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    idle = busy[3] + busy[4]
    guests = sum(busy[8:10])  # counted in user time as well
    return (sum(busy) - idle - guests - int(own[11]) - int(own[12])) / os.sysconf("SC_CLK_TCK")


def apart(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """How far a peer's map is from onnxcam's.

    CAMs: the largest difference, both brought to [0, 1]. Attributions and occlusion, raw: relative L2.
    """
    (kind, found), *_ = theirs.items()
    if kind in ("attribution", "hidden"):
        expected, found = (ours["cam"], found[:, 0]) if kind == "hidden" else (ours["attribution"], found)
        return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    expected = ours["heatmap"] if kind == "heatmap" else np.maximum(ours["cam"], 0)
    if found.shape != expected.shape:  # torch-cam's and Captum's of tokens
        return float("inf")
    return float(np.abs(_scaled(np.maximum(found, 0)) - _scaled(expected)).max())


def _scaled(maps: Any) -> Any:
    low, high = (f(maps, axis=(-2, -1), keepdims=True) for f in (np.min, np.max))
    return (maps - low) / np.maximum(high - low, 1e-30)


def prepared(network: str, size: int, folder: Path, python: str) -> dict[str, Any]:
    """The network's files in ``folder``, made where they are not there: paths, layer, class, the peers' versions."""
    base = folder / f"{network}-{size}"
    if not base.with_suffix(".json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        make = [python, "-m", "benchmarks.speed_torch", "make", network, str(size), str(folder)]
        told = subprocess.run(make, check=True, capture_output=True, text=True).stdout
        peers = json.loads(told.splitlines()[-1])
        base.with_suffix(".json").write_text(json.dumps({**_settled(base), "peers": peers}))
    paths = {"model": str(base.with_suffix(".onnx")), "arrays": str(base.with_suffix(".npz"))}
    return {**paths, **json.loads(base.with_suffix(".json").read_text())}


def _settled(base: Path) -> dict[str, Any]:
    from types import SimpleNamespace

    from benchmarks.networks_check import find_layer
    from onnxcam import load_model

    with np.load(base.with_suffix(".npz")) as file:
        arrays = dict(file)
    like: Any = SimpleNamespace(**arrays, layer=base.name)
    return {
        "layer": find_layer(load_model(base.with_suffix(".onnx")), like)[0],
        "target": int(arrays["logits"][0].argmax()),
    }


def row(question: Question, pythons: Mapping[str, str], who: Sequence[str], seconds: float) -> dict[str, Any]:
    """One row of a table, as it is kept."""
    about = {k: getattr(question, k) for k in ("network", "method", "size", "batch", "threads")}
    return {**about, "found": {w: asdict(f) for w, f in measure(question, pythons, who, seconds).items()}}


def interpreters(torch: str) -> dict[str, str]:
    """Of each competitor: the peers', or this one."""
    return {w: sys.executable if w in HERE else torch for w in (*HERE, TORCH, GRAD_CAM, TORCH_CAM, CAPTUM)}
