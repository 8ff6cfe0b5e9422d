"""Do explanations of ``zoo:shapes-cnn`` point at the right object?

    python -m benchmarks.shapes [--scenes 200] [--seed 3000000]

On fresh rendered scenes, for every shape present:

- pointing game: the heatmap's peak lies in the explained object (beside: the picture's centre, a random pixel);
- correlation of the maps of two classes of one scene, for Grad-CAM and for Guided Backpropagation;
- share of a map's energy inside the explained object, for both and for their product, Guided Grad-CAM.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from onnxcam import Explainer
from onnxcam.core.localize import energy_inside, peak

sys.path.append(str(Path(__file__).resolve().parent.parent / "model_zoo" / "recipes"))
import scenes

METHODS = ("gradcam", "guided_backprop", "guided_gradcam")


@dataclass(frozen=True)
class Figures:
    """Means over all objects (pointing, energy) or pairs of objects of one scene (correlation)."""

    pointing: float
    centre: float
    random: float
    correlation: dict[str, float]
    energy: dict[str, float]
    objects: int


def measure(count: int, seed: int) -> Figures:
    explainers = {m: Explainer("zoo:shapes-cnn", method=m) for m in METHODS}
    rng = np.random.default_rng(seed)
    hits: list[tuple[bool, bool, bool]] = []
    alike: dict[str, list[float]] = {m: [] for m in METHODS}
    inside: dict[str, list[float]] = {m: [] for m in METHODS}
    for number in range(count):
        scene = scenes.render(seed + number)
        found = {m: [_map(e, scene.image, o.class_index) for o in scene.objects] for m, e in explainers.items()}
        for o, heatmap in zip(scene.objects, found["gradcam"], strict=True):
            middle, anywhere = tuple(n // 2 for n in o.mask.shape), tuple(rng.integers(0, o.mask.shape))
            hits.append(tuple(bool(o.mask[p]) for p in (peak(heatmap), middle, anywhere)))
        for m, maps in found.items():
            alike[m] += [_correlation(a, b) for a, b in combinations(maps, 2)]
            inside[m] += [energy_inside(h, o.mask) for o, h in zip(scene.objects, maps, strict=True)]
    pointing, centre, random = np.mean(hits, axis=0)
    means = ({m: float(np.mean(v)) for m, v in table.items()} for table in (alike, inside))
    return Figures(pointing, centre, random, *means, objects=len(hits))


def _map(explainer: Explainer, image: Any, c: int) -> Any:
    return explainer.explain(image, target=c).heatmap


def _correlation(a: Any, b: Any) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=3_000_000)
    given = parser.parse_args()
    f = measure(given.scenes, given.seed)
    print(f"{f.objects} objects in {given.scenes} scenes from seed {given.seed}")
    print(f"pointing game   Grad-CAM {f.pointing:.3f}   centre {f.centre:.3f}   random {f.random:.3f}")
    for title, table in (("correlation", f.correlation), ("energy inside", f.energy)):
        print(f"{title:15s} " + "   ".join(f"{m} {v:.3f}" for m, v in table.items()))


if __name__ == "__main__":
    main()
