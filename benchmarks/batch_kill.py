"""A batch job that is killed again and again ends with the results of one that was left alone.

    python -m benchmarks.batch_kill [--count 400] [--kills 20] [--seed 0] [--model zoo:shapes-cnn]

`onnxcam batch` is killed with SIGKILL (while it plans, at random rows, while it finishes or just after) and resumed,
until all kills are spent. What is killed must be dead: no row may follow. Then every file must be byte for byte that of
an undisturbed job, the lines of results.jsonl the same but for timings, and nothing may be left over.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SAVE = "overlay,heatmap,box"
ENDED = (0, 1)  # 1: some pictures are none


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="zoo:shapes-cnn")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(_compare(Path(folder), given))


def _compare(folder: Path, given: argparse.Namespace) -> int:
    photos = pictures(folder / "photos", given.count, given.seed)
    whole, killed = folder / "whole", folder / "killed"
    _run_to_its_end(_command(given.model, photos, whole))
    moments = _kill_and_resume(_command(given.model, photos, killed), killed, given)
    _run_to_its_end(_command(given.model, photos, killed))
    for moment in moments:
        print(f"killed {moment}")
    wrong = [*differences(whole, killed), *(m for m in moments if m.startswith(("nobody", "not dead")))]
    print(f"{len(moments)} kills of a job of {given.count} pictures: {len(tree(whole))} files, ", end="")
    print("all alike" if not wrong else f"{len(wrong)} differences: " + "; ".join(wrong[:10]))
    return bool(wrong)


def _command(model: str, photos: Path, out: Path) -> list[str]:
    options = ["-o", str(out), "--save", SAVE, "--workers", "2", "--resume"]
    return [sys.executable, "-m", "onnxcam", "batch", model, str(photos), *options]


def _run_to_its_end(command: list[str]) -> None:
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode not in ENDED:
        sys.exit(f"exit code {done.returncode}: {done.stderr}")


def pictures(folder: Path, count: int, seed: int) -> Path:
    """Small pictures in folders of 50; every 40th is no picture."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        path = folder / f"{k // 50:02}" / f"{k:04}.{'jpg' if k % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (96, 72), interpolation=cv2.INTER_CUBIC)
        path.write_bytes(b"no picture" if k % 40 == 39 else cv2.imencode(path.suffix, colours)[1].tobytes())
    return folder


def _kill_and_resume(command: list[str], out: Path, given: argparse.Namespace) -> list[str]:
    """Kill jobs: two while they plan, then at random rows, two while they finish; what each was doing."""
    rng = random.Random(given.seed)
    rows = sorted(rng.sample(range(1, given.count * 3 // 4), max(0, given.kills - 4)))
    planning, finishing = (".onnxcam/lock", ".onnxcam/tmp"), ("results.csv", "results.csv")
    moments = [_kill(command, out, moment, rng.random() * 0.005) for moment in planning]
    moments += [_kill(command, out, row, rng.random() * 0.02) for row in rows]
    return moments + [_kill(command, out, moment, 0) for moment in finishing]


def _kill(command: list[str], out: Path, moment: int | str, later: float) -> str:
    """Kill a job a little after so many rows, and one of its own, or a file, are there."""
    before, process = lines(out), subprocess.Popen(command, stderr=subprocess.DEVNULL)
    moment = max(moment, before + 1) if isinstance(moment, int) else moment
    while process.poll() is None and not _reached(out, moment):
        time.sleep(0.0002)
    time.sleep(later)
    process.kill()
    process.wait()
    if process.returncode in ENDED:
        return f"nobody: the job had ended when {moment} was reached"
    time.sleep(0.01)
    last = lines(out)
    time.sleep(0.3)
    if lines(out) != last:
        return f"not dead: {lines(out) - last} rows after the kill with {last} rows"
    there = sum(len(files) for _, _, files in os.walk(out))
    planned = (out / ".onnxcam" / "plan.json").exists()
    return f"with {last} rows (before: {before}), {there} files" + ("" if planned else ", while it planned")


def _reached(out: Path, moment: int | str) -> bool:
    return lines(out) >= moment if isinstance(moment, int) else (out / moment).exists()


def lines(out: Path) -> int:
    """Finished lines of the manifest."""
    path = out / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def differences(whole: Path, killed: Path) -> list[str]:
    """In what two folders of results differ beyond timings."""
    one, other = tree(whole), tree(killed)
    wrong = [f"{name}: only in one" for name in sorted(one.keys() ^ other.keys())]
    alike = {"results.jsonl": _rows, "run.json": _run}
    for name in sorted(one.keys() & other.keys()):
        told: Any = alike.get(name, bytes)
        if name != ".onnxcam/lock" and told(one[name]) != told(other[name]):
            wrong.append(f"{name}: not the same")
    return wrong


def tree(out: Path) -> dict[str, bytes]:
    """Every file of a folder, by name."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def _rows(data: bytes) -> list[dict[str, Any]]:
    return [{**json.loads(line), "timings": sorted(json.loads(line)["timings"])} for line in data.splitlines()]


def _run(data: bytes) -> dict[str, Any]:
    return {k: v for k, v in json.loads(data).items() if k != "sessions"}


if __name__ == "__main__":
    main()
