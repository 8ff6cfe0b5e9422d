"""Held-out accuracy of shapes-vit, shapes-detector and shapes-unet, and whether their explanations point rightly.

    python check_shapes_kinds.py [vit] [detector] [unet] [--scenes 1000] [--explained 200]
    python check_shapes_kinds.py --rebuild          # are the files what the recipes write? Needs torch

Accuracy comes from the .onnx files by ONNX Runtime; explanations are onnxcam's, one object of each scene explained.

* hit: the peak of the heatmap lies in the mask of the explained object;
* own, other: the share of the heatmap's energy in a mask over the mask's share of the picture, of the explained object
  and of the scene's others: 1 is what an even map has.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import scenes
from check_shapes_cnn import accuracies, predictions, tensor

FOLDER = Path(__file__).resolve().parents[1]
SEED = 1_500_000
Floats = npt.NDArray[np.floating]
Boxes = tuple[Floats, Floats, npt.NDArray[np.int64]]


def run(model: Path, shown: Sequence[scenes.Scene]) -> Iterator[list[npt.NDArray]]:
    """All outputs of each scene, one at a time."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    for scene in shown:
        yield session.run(None, {"image": tensor([scene.image])})


# ---------------------------------------------------------------- accuracy


def box_of(mask: scenes.Mask) -> Floats:
    """x0, y0, x1, y1: the smallest box that holds the mask, in pixels, its far sides behind the last ones."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)


def overlap(a: Floats, b: Floats) -> float:
    """Intersection over union of two boxes."""
    shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


def judged(scene: scenes.Scene, found: Boxes) -> list[tuple[int, float, bool]]:
    """Class, score and rightness of each found box, best first: right is IoU >= 0.5 with an object not yet found."""
    boxes, scores, classes = found
    left, rows = list(scene.objects), []
    for k in np.argsort(-scores, kind="stable"):
        mine = [o for o in left if o.class_index == classes[k] and overlap(boxes[k], box_of(o.mask)) >= 0.5]
        left = [o for o in left if not any(o is m for m in mine[:1])]
        rows.append((int(classes[k]), float(scores[k]), bool(mine)))
    return rows


def average_precision(right: npt.NDArray[np.bool_], count: int) -> float:
    """Area under precision over recall: ``right`` best score first, of ``count`` objects; precision as the best of the
    same or a higher recall (Everingham et al., 2010, https://doi.org/10.1007/s11263-009-0275-4, section 4.2).
    """
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[right].sum() / count)


def detection(model: Path, shown: Sequence[scenes.Scene]) -> dict[str, float]:
    """``map50``: the mean over the classes of average precision; of the boxes that the file lists (score >= 0.3),
    ``recall``: of all objects those found, and ``precision``: of all boxes those that are right.
    """
    rows = [row for scene, found in zip(shown, run(model, shown), strict=True) for row in judged(scene, tuple(found))]
    rows.sort(key=lambda row: -row[1])
    index, right = np.array([r[0] for r in rows]), np.array([r[2] for r in rows])
    counts = np.sum([scenes.presence(s) for s in shown], axis=0)
    each = [average_precision(right[index == c], int(n)) for c, n in enumerate(counts)]
    hits = float(right.sum())
    return {"map50": float(np.mean(each)), "recall": hits / float(counts.sum()), "precision": hits / len(right)}


def segmentation(model: Path, shown: Sequence[scenes.Scene]) -> dict[str, float]:
    """``mean_iou``: of background and classes, each over the pixels of all scenes; ``pixel``: pixels named rightly."""
    table = np.zeros((8, 8))
    for scene, (logits,) in zip(shown, run(model, shown), strict=True):
        truth = np.zeros(scene.image.shape[:2], int)
        for o in scene.objects:
            truth[o.mask] = 1 + o.class_index
        np.add.at(table, (truth, logits[0].argmax(0)), 1)
    both = table.diagonal()
    return {
        "mean_iou": float((both / (table.sum(0) + table.sum(1) - both)).mean()),
        "pixel": float(both.sum() / table.sum()),
    }


def rebuilt(kind: str, path: Path) -> str:
    """How a file that the recipe has just written, from the kept weights, differs on 20 scenes."""
    import kinds

    shown = [scenes.render(seed) for seed in range(SEED, SEED + 20)]
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / path.name
        kinds.write(importlib.import_module(f"train_shapes_{kind}").RECIPE, again)
        both = zip(run(path, shown), run(again, shown), strict=True)
        worst = max(float(np.abs(a - b).max()) for one in both for a, b in zip(*one, strict=True))
        same = "the same bytes" if again.read_bytes() == path.read_bytes() else "other bytes"
    return f"largest difference {worst:.1e}, {same}"


# ---------------------------------------------------------------- explanations

Target = Callable[[scenes.Object], object]


def centre(mask: scenes.Mask) -> tuple[int, int]:
    """x and y of the mask's pixel that is nearest to its centroid."""
    rows, columns = np.nonzero(mask)
    k = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(columns[k]), int(rows[k])


def named(thing: scenes.Object) -> str:
    return scenes.CLASSES[thing.class_index]


def at_point(thing: scenes.Object) -> str:
    return "{}@{},{}".format(named(thing), *centre(thing.mask))


def box_at(thing: scenes.Object) -> str:
    return f"box:{at_point(thing)}"


def region(thing: scenes.Object) -> object:
    from onnxcam.targets import Region

    return Region(named(thing), mask=thing.mask)


Case = tuple[str, Target, str]  # method, target, layer
CASES: dict[str, tuple[Case, ...]] = {
    "vit": tuple((method, named, "auto") for method in ("gradcam", "hirescam", "legrad", "rollout", "reciprocam")),
    "detector": tuple((method, box_at, "auto") for method in ("gradcam", "hirescam", "saliency")),
    "unet": (("gradcam", at_point, "auto"), ("hirescam", region, "down3"), ("saliency", at_point, "auto")),
}


def readings(heatmap: Floats, scene: scenes.Scene, which: int) -> tuple[float, float, float]:
    """hit, own and other of object ``which``."""
    others = np.any([o.mask for k, o in enumerate(scene.objects) if k != which], axis=0)
    own, total = scene.objects[which].mask, max(float(heatmap.sum()), 1e-12)
    hit = heatmap.max() > 0 and own[np.unravel_index(heatmap.argmax(), heatmap.shape)]
    ratios = [float(heatmap[mask].sum() / total / mask.mean()) for mask in (own, others)]
    return float(hit), *ratios


def explained(name: str, case: Case, seeds: Sequence[int]) -> Floats:
    """(scenes, 3): hit, own and other; of each scene the object that its seed points to."""
    method, target, layer = case
    from onnxcam import Explainer

    ex, rows = Explainer(f"zoo:{name}", method=method, target_layer=layer), []
    for seed in seeds:
        scene = scenes.render(seed)
        which = seed % len(scene.objects)
        e = ex.explain(scene.image, target=target(scene.objects[which]))
        rows.append(readings(e.heatmap, scene, which))
    return np.array(rows)


def accuracy(kind: str, path: Path, count: int, first_seed: int = scenes.HELDOUT_SEED) -> dict[str, float]:
    if kind == "vit":
        return accuracies(*predictions(path, first_seed, count))
    shown = [scenes.render(seed) for seed in range(first_seed, first_seed + count)]
    return (detection if kind == "detector" else segmentation)(path, shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=list(CASES))
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--explained", type=int, default=200)
    parser.add_argument("--rebuild", action="store_true")
    options = parser.parse_args()
    for kind in options.kinds:
        path = FOLDER / f"shapes-{kind}.onnx"
        content = path.read_bytes()
        print(f"shapes-{kind}: sha256 {hashlib.sha256(content).hexdigest()}, {len(content)} bytes")
        if options.rebuild:
            print(rebuilt(kind, path))
            continue
        print(*(f"{k} {v:.4f}" for k, v in accuracy(kind, path, options.scenes).items()), sep=", ")
        for case in CASES[kind]:
            report(case, explained(f"shapes-{kind}", case, range(SEED, SEED + options.explained)))


def report(case: Case, found: Floats) -> None:
    method, target, layer = case
    hit, own, other = found.mean(0)
    more = (found[:, 1] > found[:, 2]).mean()
    print(f"  {method:10s} {target.__name__:9s} {layer:6s} hit {hit:.3f}", end="")
    print(f"  own {own:6.2f}  other {other:5.2f}  own > other {more:.3f}")


if __name__ == "__main__":
    main()
