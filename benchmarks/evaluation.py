"""The tables of docs/evaluate.md, and what is left of an evaluation that is killed.

    python -m benchmarks.evaluation shapes [--scenes 500] [--out FOLDER] [--workers 1]
    python -m benchmarks.evaluation voc --zoo FOLDER [--out FOLDER]
    python -m benchmarks.evaluation kill [--scenes 500]

``shapes``: rendered scenes that no model has seen, one object of each explained, with its box and mask, on
``zoo:shapes-cnn``. ``voc``: a folder ``voc`` of pictures with Pascal VOC's XML, and ``models`` with a MobileNetV2 for
ImageNet. With ``--out`` what is done is kept, and the same command goes on with it. ``kill``: 5 methods and 6 metrics,
once undisturbed and once killed (SIGKILL) again and again, at places drawn at random; are the files the same?
"""

from __future__ import annotations

import argparse
import csv
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from onnxcam.evaluate.metrics import METRICS
from onnxcam.evaluate.run import Evaluation
from onnxcam.evaluate.table import Results
from onnxcam.image import save_image

sys.path.append(str(Path(__file__).resolve().parent.parent / "model_zoo" / "recipes"))
import scenes

ROOT = Path(__file__).resolve().parent.parent

SEED = 7_000_000
METHODS = (
    "gradcam", "gradcampp", "xgradcam", "hirescam", "layercam", "finercam", "eigencam", "eigengradcam", "ablationcam",
    "scorecam",
)  # fmt: skip
ON_SHAPES = (
    "pointing_game", "energy", "mask_iou", "max_box_acc", "max_box_acc_v2", "insertion_blur", "deletion_blur", "road",
    "average_drop", "adcc", "label_contrast",
)  # fmt: skip
ON_VOC = (
    "localisation_top1", "localisation_top5", "localisation_known", "max_box_acc", "max_box_acc_v2", "pointing_game",
    "pointing_recall", "energy",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("shapes", "voc", "kill"))
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        if given.what == "kill":
            raise SystemExit(_killed(given.scenes, Path(folder)))
        found = (_shapes if given.what == "shapes" else _voc)(given, given.out or Path(folder))
        print(f"{time.monotonic() - start:.0f} s")
    put(ROOT / "docs" / "evaluate.md", given.what, markdown(found))


def _shapes(given: argparse.Namespace, out: Path) -> Results:
    table = render(out / "scenes", given.scenes)
    options: dict[str, Any] = {"independent": True, "workers": given.workers, "threads": 1}
    return _run(Evaluation("zoo:shapes-cnn", table, METHODS, ON_SHAPES, out / "shapes", resume=True, **options))


def render(folder: Path, count: int) -> Path:
    """Scenes, masks and a table of them; of each scene another object is explained."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("path", "truth", "box", "mask")]
    for k in range(count):
        scene = scenes.render(SEED + k)
        one = scene.objects[k % len(scene.objects)]
        names = f"{k:03}.png", f"{k:03}.mask.png"
        save_image(folder / names[0], scene.image)
        save_image(folder / names[1], np.repeat(one.mask[..., None] * np.uint8(255), 3, axis=2))
        y, x = np.nonzero(one.mask)
        box = f"{x.min()} {y.min()} {x.max() + 1} {y.max() + 1}"
        rows.append((names[0], scenes.CLASSES[one.class_index], box, names[1]))
    with (folder / "scenes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "scenes.csv"


def _voc(given: argparse.Namespace, out: Path) -> Results:
    model = given.zoo / "models" / "mobilenetv2_float_nhwc_u8in.onnx"
    methods = (*METHODS[:5], "eigencam", "guided_gradcam", "saliency")
    options: dict[str, Any] = {
        "classes": ROOT / "docs" / "voc_imagenet.csv", "labels": given.zoo / "labels" / "imagenet1000.txt",
        "preprocess": "raw", "workers": given.workers, "threads": 1,
    }  # fmt: skip
    return _run(Evaluation(model, given.zoo / "voc", methods, ON_VOC, out / "voc", resume=True, **options))


def _run(job: Evaluation) -> Results:
    with job:
        for _ in job:
            if job.done % 10 == 0:
                print(f"{job.done} of {len(job.samples)}", file=sys.stderr)
        return job.results()


# ---- killed ----

ON_KILL = ("pointing_game", "energy", "max_box_acc", "average_drop", "increase", "complexity")
KILLS = 6


def _killed(count: int, folder: Path) -> int:
    """Exit code: 0 where the results are those of an undisturbed run."""
    table = render(folder / "scenes", count)
    asked = ["evaluate", "zoo:shapes-cnn", table, "--independent", "--workers", 1, "--resume"]
    asked += ["--methods", ",".join(METHODS[:5]), "--metrics", ",".join(ON_KILL)]
    command = [sys.executable, "-m", "onnxcam", *map(str, asked)]
    lines = count * (5 + 2)
    _started([*command, "-o", str(folder / "one")], folder / "one", lines, None)
    for at in sorted(random.Random(SEED).sample(range(1, lines), KILLS)):
        _started([*command, "-o", str(folder / "killed")], folder / "killed", lines, at)
    _started([*command, "-o", str(folder / "killed")], folder / "killed", lines, None)
    names = "results.jsonl", "evaluation.json", "report.html"
    same = [(folder / "one" / name).read_bytes() == (folder / "killed" / name).read_bytes() for name in names]
    print(
        ", ".join(
            f"{name}: {'the same' if is_same else 'DIFFERENT'}" for name, is_same in zip(names, same, strict=True)
        )
    )
    return 0 if all(same) else 1


def _started(command: list[str], out: Path, lines: int, kill_at: int | None) -> None:
    """Run a command to its end, or kill it when its results have so many lines."""
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as job:
        while job.poll() is None and (kill_at is None or _count(out) < kill_at):
            time.sleep(0.01)
        if kill_at is not None:
            job.kill()
        told = (job.stderr.read() if job.stderr else "").strip().splitlines()
    how = "to its end" if kill_at is None else "killed"
    print(
        f"{how}: {_count(out)} of {lines} lines, {time.monotonic() - start:.0f} s; {' | '.join(told[:1] + told[-1:])}"
    )


def _count(out: Path) -> int:
    path = out / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


# ---- the table ----


def markdown(found: Results) -> str:
    """Metrics down, methods across would be too wide on a page: methods down, a few metrics at a time."""
    parts = []
    for k in range(0, len(found.metrics), 4):
        names = found.metrics[k : k + 4]
        parts += ["| method | " + " | ".join(f"`{m}` {'↑' if METRICS[m].higher else '↓'}" for m in names) + " |"]
        parts += ["|---|" + "---|" * len(names)]
        parts += [f"| `{name}` | " + " | ".join(_cell(found, name, m) for m in names) + " |" for name in found.names]
        parts.append("")
    counts, boxes = found.counts, "" if found.accuracy is None else f"; top-1 accuracy {found.accuracy:.1%}"
    parts.append(f"{counts['samples']} samples in {counts['pictures']} pictures, {counts['errors']} failed{boxes}.")
    return "\n".join([*parts, "", *_unbeaten(found)])


def _cell(found: Results, name: str, metric: str) -> str:
    cell = found.cell(name, metric)
    if cell is None:
        return "–"
    e = cell.estimate
    return f"{e.value:.3f}{' ★' if cell.beats else ''}<br>{e.low:.3f} to {e.high:.3f}".replace("-", "−")


def _unbeaten(found: Results) -> list[str]:
    """What does not beat both baselines, said in words."""
    lines = []
    for metric in found.metrics:
        cells = {m: found.cell(m, metric) for m in found.methods}
        behind = [f"`{m}`" for m, c in cells.items() if c is not None and not c.beats]
        if behind:
            many = "no method does" if len(behind) == len(found.methods) else "not " + ", ".join(behind)
            lines.append(f"- `{metric}`: {many}")
    return ["What does not beat both baselines by the whole interval:", "", *lines] if lines else []


def put(path: Path, what: str, text: str) -> None:
    """Write a table between its marks."""
    page = path.read_text()
    marks = f"<!-- {what} -->", f"<!-- end of {what} -->"
    new = re.sub(f"{marks[0]}.*?{marks[1]}", lambda _: f"{marks[0]}\n{text}\n{marks[1]}", page, flags=re.DOTALL)
    path.write_text(new)


if __name__ == "__main__":
    main()
