"""One network, every exporter: how far do its explanations differ?

    python -m benchmarks.exporters [--scenes 50] [--method gradcam ...] [NAME...]

Every ``zoo:shapes-net-*`` of the index except the weak twin is explained on held-out scenes, for the class that the
TorchScript export names, and compared with that export's explanation: the raw map (largest difference over the largest
absolute value), the heatmap (largest difference, in [0, 1]) and the correlation of the two heatmaps. Prints the
README's table; where a figure misses its limit, says which on stderr and exits with 1. What the installed runtime
cannot load is listed with the reason. Of saliency, the heatmap alone: a gradient is per unit of the input, and units
differ (0 to 1, 0 to 255). In half precision and int8 it differs at single pixels: rounding turns ReLUs and maxima of
pools over.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxcam import Explainer, Explanation, Preprocess, zoo
from onnxcam.errors import RuntimeUnavailableError

sys.path.append(str(Path(__file__).resolve().parent.parent / "model_zoo" / "recipes"))
import scenes

REFERENCE = "shapes-net-torchscript"
FAMILY = "shapes-net-"
CAMS = ("gradcam", "hirescam", "layercam")
METHODS = (*CAMS, "saliency")
LARGEST = {"float": (1e-4, 1e-3), "half": (1e-2, 1e-2)}  # difference of maps, of heatmaps
LEAST = {"half": 0.98, "int8": 0.95}  # correlation
Images = Sequence[np.ndarray]


@dataclass(frozen=True)
class Drift:
    """One scene, one export against the reference.

    Attributes:
        map: largest difference of the raw maps, relative to the reference's largest absolute value.
        heatmap: largest difference of the heatmaps, in [0, 1].
        correlation: Pearson's, of the heatmaps.
    """

    map: float
    heatmap: float
    correlation: float

    @classmethod
    def between(cls, a: Explanation, reference: Explanation) -> Drift:
        raw = np.abs(a.cam - reference.cam).max() / np.abs(reference.cam).max()
        correlation = np.corrcoef(a.heatmap.ravel(), reference.heatmap.ravel())[0, 1]
        return cls(float(raw), float(np.abs(a.heatmap - reference.heatmap).max()), float(correlation))


def members() -> list[str]:
    """The exports of the one network, the reference first."""
    names = [n for n in zoo.models() if n.startswith(FAMILY) and n != f"{FAMILY}weak"]
    return sorted(names, key=lambda n: n != REFERENCE)


def precision(name: str) -> str:
    """``float``, ``half`` or ``int8``: how closely the export can follow."""
    return "int8" if "int8" in name else "half" if "fp16" in name else "float"


def heldout(count: int, size: int = scenes.SIZE) -> list[np.ndarray]:
    return [scenes.render(scenes.HELDOUT_SEED + k, size).image for k in range(count)]


def explainer(name: str, method: str) -> Explainer:
    stated = zoo.model(name)
    preprocess = Preprocess.from_dict(stated.preprocess)
    return Explainer(zoo.locate(name), preprocess=preprocess, labels=stated.labels, method=method)


def top_labels(images: Images) -> list[str]:
    """What the reference names."""
    return [str(e.label) for e in explainer(REFERENCE, "gradcam").explain_batch(images)]


def explained(one: Explainer, images: Images, labels: Sequence[str]) -> list[Explanation]:
    """Each picture for its own class, one run per class."""
    found: dict[int, Explanation] = {}
    for label in sorted(set(labels)):
        own = [k for k, wanted in enumerate(labels) if wanted == label]
        found.update(zip(own, one.explain_batch([images[k] for k in own], label), strict=True))
    return [found[k] for k in range(len(images))]


def drifts(name: str, method: str, images: Images, labels: Sequence[str], wanted: list[Explanation]) -> list[Drift]:
    """One export against the reference's explanations ``wanted``, scene by scene."""
    found = explained(explainer(name, method), images, labels)
    return [Drift.between(a, b) for a, b in zip(found, wanted, strict=True)]


def misses(name: str, method: str, found: Sequence[Drift]) -> list[str]:
    """Which figures miss the limit of the export's precision.

    Pixel gradients have no raw map in common, in half precision only their correlation counts, in int8 nothing.
    """
    kind, cam = precision(name), method in CAMS
    figures = []
    if cam and kind in LARGEST:
        figures.append(("map", max(d.map for d in found), LARGEST[kind][0], 1))
    if kind == "float" or (cam and kind == "half"):
        figures.append(("heatmap", max(d.heatmap for d in found), LARGEST[kind][1], 1))
    if cam == (kind == "int8") and kind in LEAST:
        figures.append(("correlation", min(d.correlation for d in found), LEAST[kind], -1))
    told = [(what, worst, limit) for what, worst, limit, sign in figures if not sign * worst <= sign * limit]
    return [f"{name}, {method}: {what} {worst:.3g}, limit {limit:g}" for what, worst, limit in told]


def row(name: str, found: dict[str, list[Drift]]) -> str:
    """One line of the table: worst map and heatmap per method; correlation of the first, worst and median."""
    cells: list[str] = []
    for method, drift in found.items():
        first, r = not cells, [d.correlation for d in drift]
        worst = [max(d.map for d in drift)] if method in CAMS else []
        cells.append(" / ".join(f"{v:.0e}" for v in (*worst, max(d.heatmap for d in drift))))
        cells += [f"{min(r):.4f} / {np.median(r):.4f}"] if first else []
    return f"| {name.removeprefix(FAMILY)} | {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="such as int8-qdq")
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--method", action="append")
    options = parser.parse_args()
    methods = options.method or METHODS
    images = heldout(options.scenes)
    labels = top_labels(images)
    wanted = {method: explained(explainer(REFERENCE, method), images, labels) for method in methods}
    heads = [f"{m}: map / heatmap" if m in CAMS else f"{m}: heatmap" for m in methods]
    print(f"| export | {heads[0]} | correlation: worst / median | {' | '.join(heads[1:])} |")
    print("|---|" + "---|" * (len(methods) + 1))
    missed: list[str] = []
    for name in [f"{FAMILY}{n}" for n in options.names] or members()[1:]:
        try:
            found = {method: drifts(name, method, images, labels, wanted[method]) for method in methods}
        except RuntimeUnavailableError as error:
            print(f"| {name.removeprefix(FAMILY)} | {error} |")
            continue
        print(row(name, found), flush=True)
        missed += [text for method in methods for text in misses(name, method, found[method])]
    print(*missed, sep="\n", end="\n" if missed else "", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
