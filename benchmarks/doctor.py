"""What `onnxcam doctor` and the suspicion of `onnxcam explain` say of models whose preprocessing is known.

ONNXCAM_REAL_ZOO=/path/to/zoo python -m benchmarks.doctor [NAME...]
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxcam import Explainer
from onnxcam.doctor import Watch, diagnose, find_candidates
from onnxcam.image import read_image
from onnxcam.labels import find_labels
from onnxcam.model import Model, load_model
from onnxcam.photos import Photo

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from doctor_truth import OTHERS, TRUTH, digits, photos

_LOOKED_AT = ("cat_winml", "daisy", "goldfish_rise", "zebra", "hummingbird", "soldiers")


def labelled(zoo: Path, name: str, folder: Path) -> list[Photo]:
    return digits(zoo, folder) if name.startswith("mnist_binary") else photos(zoo, name)


def answers(zoo: Path, name: str, truth: str) -> None:
    model = load_model(zoo / f"models/{name}.onnx")
    labels = find_labels(zoo / "labels/leafsnap30.csv", {}) if name.startswith("leaf") else None
    with tempfile.TemporaryDirectory() as folder:
        own = labelled(zoo, name, Path(folder))
        told = diagnose(model, own, labels, threads=1)
        unlabelled = own if len(own) > 3 else photos(zoo, "squeezenet11_fp32")
        bare = diagnose(model, [Photo(p.path) for p in unlabelled], threads=1)
    best = "not sure" if told.best is None else told.best.candidate.name
    left = [row.candidate.name for row in told.possible]
    among = truth in [row.candidate.name for row in bare.possible]
    print(f"| {name} | {truth} | {best} | {told.labelled} | {'yes' if told.certain else ', '.join(left[1:])} "
          f"| {len(bare.possible)} of {len(bare.rows)}, truth {'among them' if among else 'MISSING'} |")  # fmt: skip


def pictures(zoo: Path, model: Model, name: str) -> list[NDArray[np.uint8]]:
    if model.image_input.channels == 1:
        return [read_image(zoo / f"small/handdrawn_digit{k}.png") for k in range(6)]
    return [read_image(next((zoo / "photos").glob(f"{stem}.*"))) for stem in _LOOKED_AT]


def suspicions(zoo: Path, name: str, truth: str) -> tuple[bool, int, int]:
    """Whether the right one is doubted; how many wrong ones are, of how many."""
    model = load_model(zoo / f"models/{name}.onnx")
    size = {"size": (48, 192)} if name.startswith("paddle") else {}
    found = {}
    for candidate in find_candidates(model).candidates:
        preprocess = replace(candidate.preprocess, **size)  # type: ignore[arg-type]
        explainer = Explainer(model, preprocess, threads=1)
        watch = Watch(model, preprocess, explainer.logits.classes)
        for picture in pictures(zoo, model, name):
            watch.see(explainer.explain(picture))
        found[candidate.name] = bool(watch.suspicion())
    wrong = [seen for other, seen in found.items() if other != truth]
    print(
        f"| {name} | {truth} | {'FALSE ALARM' if found[truth] else 'quiet'} | {sum(wrong)} of {len(wrong)} |",
        flush=True,
    )
    return found[truth], sum(wrong), len(wrong)


def main() -> None:
    """Two tables."""
    warnings.simplefilter("ignore")
    zoo, asked = Path(os.environ["ONNXCAM_REAL_ZOO"]), sys.argv[1:]
    wanted = {name: truth for name, truth in {**TRUTH, **OTHERS}.items() if not asked or name in asked}
    if unknown := set(asked) - set(wanted):
        raise SystemExit(f"unknown models: {', '.join(sorted(unknown))}; known: {', '.join({**TRUTH, **OTHERS})}")
    print(
        "| model | truth | named by labels | photos | certain, or what cannot be told from it | left without labels |"
    )
    print("|---|---|---|---|---|---|")
    for name, truth in wanted.items():
        if name in TRUTH:
            answers(zoo, name, truth)
    print("\n| model | truth | explain with it | wrong ones that explain doubts |\n|---|---|---|---|")
    counts = [suspicions(zoo, name, truth) for name, truth in wanted.items()]
    alarms, seen, wrong = (sum(column) for column in zip(*counts, strict=True))
    print(f"\nfalse alarms: {alarms} of {len(counts)}; wrong ones seen: {seen} of {wrong}")


if __name__ == "__main__":
    main()
