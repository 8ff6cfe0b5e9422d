"""Do explanations of ``zoo:shapes-cnn`` point at the right object?

    python -m benchmarks.shapes [--scenes 200] [--seed 3000000]

On fresh rendered scenes, for every shape present:

- pointing game: the heatmap's peak lies in the explained object (beside: the picture's centre, a random pixel);
- correlation of the maps of two classes of one scene, for Grad-CAM and for Guided Backpropagation;
- share of a map's energy inside the explained object, for both and for their product, Guided Grad-CAM;
- the pointing game of Grad-CAM at every candidate layer, from the image on;

and for the top class of every scene, whether its score rises when what the counterfactual map marks (half its maximum
and more) is painted over with its surroundings; beside: a region of the same form at a random place.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from onnxcam import Explainer, load_model
from onnxcam.core.localize import energy_inside, peak
from onnxcam.graph.inspect import find_logits, target_layers
from onnxcam.zoo import locate

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


def sweep(count: int, seed: int) -> list[tuple[str, tuple[int, int], float]]:
    """(layer, its size, share of objects hit), from the image on."""
    model = load_model(locate("zoo:shapes-cnn"))
    names = [c.name for c in reversed(target_layers(model, find_logits(model)))]
    explainer = Explainer(model, target_layer=names)
    hits: list[list[bool]] = []
    sizes: list[tuple[int, int]] = []
    for number in range(count):
        scene = scenes.render(seed + number)
        for o in scene.objects:
            found = explainer.explain(scene.image, target=o.class_index).maps
            sizes = [m.cam.shape for m in found]
            hits.append([bool(o.mask[peak(m.heatmap)]) for m in found])
    return list(zip(names, sizes, np.mean(hits, axis=0), strict=True))


def deletion(count: int, seed: int) -> tuple[float, float]:
    """Shares of scenes whose top score rises: without the counterfactual region, without a random one."""
    explainer, rng = Explainer("zoo:shapes-cnn", method="counterfactual"), np.random.default_rng(seed)
    rises: list[tuple[bool, bool]] = []
    for number in range(count):
        picture = scenes.render(seed + number).image
        e = explainer.explain(picture)
        heatmap = e.heatmap_on_image()
        region = (heatmap > 0) & (heatmap >= 0.5 * heatmap.max())
        elsewhere = np.roll(region, tuple(rng.integers(0, region.shape)), (0, 1))
        after = [_without(explainer, picture, where, e.class_index) for where in (region, elsewhere)]
        rises.append((after[0] > e.score, after[1] > e.score))
    mean = np.mean(rises, axis=0)
    return float(mean[0]), float(mean[1])


def _without(explainer: Explainer, picture: Any, where: Any, c: int) -> float:
    painted = cv2.inpaint(picture, where.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    return explainer.explain(painted, target=c).score


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
    marked, anywhere = deletion(given.scenes, given.seed)
    print(f"score rises     counterfactual region {marked:.3f}   random region {anywhere:.3f}")
    print("pointing game by layer")
    for name, size, share in sweep(given.scenes, given.seed):
        print(f"{'x'.join(map(str, size)):>9s}   {share:.3f}   {name}")


if __name__ == "__main__":
    main()
