"""Which methods depend on the model? Writes ``docs/sanity.md`` and its curves.

    python -m benchmarks.sanity [--pictures 50] [--seeds 3] [--points 8] [--keep FILE.json]

Cascading and independent randomisation of the weights, label contrast, input-shift invariance and stability under noise
on fresh scenes for ``zoo:shapes-cnn`` and ``zoo:shapes-net-dynamo``; with ``ONNXCAM_REAL_ZOO``, randomisation on photos
for its MobileNetV2. ``--keep`` stores what is measured, model by model, and takes from there what it has.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.curves import Line, chart
from onnxcam import Explainer
from onnxcam.evaluate.sanity import (
    FIGURES,
    Curve,
    input_shift,
    label_contrast,
    randomisation,
    stability,
    verdict,
)
from onnxcam.evaluate.statistics import Estimate, bootstrap
from onnxcam.methods import METHODS

sys.path.append(str(Path(__file__).resolve().parent.parent / "model_zoo" / "recipes"))
import scenes

ROOT = Path(__file__).resolve().parent.parent
SEED = 7_000_000
SHAPES = ("zoo:shapes-net-dynamo", "zoo:shapes-cnn")
REAL = "mobilenetv2_float_nhwc_u8in"
WEIGHTED = ("gradcam", "layercam", "guided_gradcam", "guided_backprop", "saliency")
LARGE = ("gradcam", "guided_backprop", "saliency")  # of a network of 53 layers
OTHERS = ("gradcam", "layercam", "guided_backprop", "saliency", "input_x_gradient", "integrated_gradients")
COLOURS = ("#1b6ca8", "#3d9a50", "#8457a8", "#c0392b", "#b8860b")


def pictures(model: str, count: int) -> list[Any]:
    """Fresh scenes, or the photos beside a real model."""
    if model in SHAPES:
        return [scenes.render(SEED + k).image for k in range(count)]
    zoo = Path(os.environ["ONNXCAM_REAL_ZOO"])
    found = sorted(p for folder in ("photos", "voc") for p in (zoo / folder).iterdir() if p.suffix in (".jpg", ".png"))
    return [str(p) for p in found[:count]]


def located(model: str) -> str:
    return model if model in SHAPES else str(Path(os.environ["ONNXCAM_REAL_ZOO"]) / "models" / f"{model}.onnx")


def curves(model: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    images, seeds = pictures(model, given.pictures), range(given.seeds)
    options = {"threads": given.threads} | ({} if model in SHAPES else {"preprocess": "raw"})
    alone = ("gradcam", "guided_backprop") if model in SHAPES else ()
    jobs = [(m, "cascading") for m in (WEIGHTED if model in SHAPES else LARGE)] + [(m, "independent") for m in alone]
    found = []
    for method, mode in jobs:
        curve = randomisation(
            located(model),
            images,
            method,
            mode=mode,
            seeds=seeds,
            points=1000 if model in SHAPES else given.points,
            **options,
        )
        print(model, mode, verdict(curve), flush=True)
        found.append({**vars(curve), "values": curve.values.round(5).tolist(), "pictures": len(images)})
    return found


def checks(model: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Label contrast, input shift, noise: method by method, one number per picture."""
    images, found = pictures(model, given.pictures), []
    for method in OTHERS:
        explainer = Explainer(model, method=method, threads=given.threads)
        noise = stability(explainer, images)
        found.append(
            {
                "method": method,
                "contrast": label_contrast(explainer, images).mean(axis=1).tolist(),
                "shift": input_shift(model, images, method, threads=given.threads).tolist(),
                "noise": noise.mean.tolist(),
                "largest": noise.largest.tolist(),
            }
        )
        print(model, method, {k: round(float(np.nanmean(v)), 4) for k, v in found[-1].items() if k != "method"})
    return found


def measured(model: str, given: argparse.Namespace, known: dict[str, Any]) -> dict[str, Any]:
    if model not in known:
        known[model] = {"curves": curves(model, given), "checks": checks(model, given) if model in SHAPES else []}
        if given.keep:
            given.keep.write_text(json.dumps(known))
    return known[model]


# ---- the page ----

HEAD = """# Sanity checks

Does a map depend on the model at all? `onnxcam.evaluate.sanity` draws the weights anew, layer by layer, in the graph
itself, and holds the maps before against those after: the parameter randomisation test of Adebayo et al., [Sanity
Checks for Saliency Maps](https://arxiv.org/abs/1810.03292), 2018. A method whose map stays shows the picture, not what
the model has learnt. `onnxcam evaluate MODEL PHOTOS --metrics sanity` gives a figure for each method on photos of your
own; from Python there is the whole curve:

```python
from onnxcam.evaluate.sanity import randomisation, verdict
from onnxcam.zoo import samples

photos = samples("shapes-net-torchscript")[:2]
curve = randomisation("zoo:shapes-net-torchscript", photos, "guided_backprop", seeds=(0,), points=2)
print(verdict(curve))           # in words; three seeds and twelve layers are the defaults
curve.estimates("signed")       # per point: mean and 95 % interval
```

How it is done:

- *Cascading*: the layers from the logits down to the one at hand are random. *Independent*: that one alone.
- New weights and biases come from a normal distribution with the mean and standard deviation of the array that they
  replace; a normalisation becomes one that has seen no data (scale 1, bias 0, mean 0, variance 1). The paper
  initialises as before training, which an exported graph does not tell.
- Explained is the class that the intact model predicts, throughout.
- *Signed*: Spearman's rank correlation of the signed maps (a CAM before its ReLU, at feature size; an attribution
  summed over its channels). *Absolute*: of their absolute values. *SSIM*: structural similarity of the heatmaps as they
  are shown. Intervals: 95 % bootstrap over pictures, each the mean of its seeds; they say nothing of other seeds.
- The words go by the signed figure. Absolute values forgive a method everything but the place: a map that lies on the
  objects of a picture, with the signs of a random head, scores high there. SSIM counts all that is dark in both maps as
  agreement; it never comes near 0.
- It is one test of several. Noise passes it, and it favours some architectures ([Binder et al.,
  2022](https://arxiv.org/abs/2211.12486)): that a method passes does not make it right.
"""


def page(found: dict[str, Any], given: argparse.Namespace) -> str:
    parts = [HEAD]
    for model, told in found.items():
        parts += [f"## {model.removeprefix('zoo:')}", "", *_section(model, told, given)]
    parts += [_footer(given)]
    return "\n".join(parts).rstrip() + "\n"


def _section(model: str, told: dict[str, Any], given: argparse.Namespace) -> list[str]:
    each = [_curve(c) for c in told["curves"]]
    cascading = [c for c in each if c.mode == "cascading"]
    name = f"sanity-{model.removeprefix('zoo:')}.svg"
    (given.docs / "images" / name).write_text(_picture(cascading))
    lines = [
        f"{told['curves'][0]['pictures']} pictures, {cascading[0].values.shape[1]} seeds.", "",
        f"![Rank correlation with the original map, layer by layer](images/{name})", "",
    ]  # fmt: skip
    lines += [f"- {verdict(c)}" for c in cascading]
    if alone := [c for c in each if c.mode == "independent"]:
        lines += ["", "One layer at a time, all others as they were:", "", *(f"- {verdict(c)}" for c in alone)]
    for figure in FIGURES:
        lines += ["", f"Cascading, {figure}:", "", *_table(cascading, figure)]
    return [*lines, "", *_others(told["checks"])]


def _curve(stored: dict[str, Any]) -> Curve:
    names = ("method", "mode", "layers", "share")
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in names}
    return Curve(**plain, values=np.asarray(stored["values"]))


def _picture(each: Sequence[Curve]) -> str:
    panels = {}
    for figure in ("signed", "absolute"):
        lines = []
        for c in each:
            colour = COLOURS[WEIGHTED.index(c.method)]
            estimates = [Estimate(1.0, 1.0, 1.0, 0), *c.estimates(figure)]
            bands = [(e.low, e.high) for e in estimates]
            lines.append(Line(METHODS[c.method].title, colour, [0.0, *c.share], [e.value for e in estimates], bands))
        panels[f"Spearman, {figure}"] = lines
    return chart(panels, "share of layers with random weights, from the logits down")


def _table(each: Sequence[Curve], figure: str) -> list[str]:
    head = "| method | " + " | ".join(f"{s:.0%}" for s in each[0].share) + " |"
    rows = [
        f"| {METHODS[c.method].title} | " + " | ".join(f"{e.value:.2f}" for e in c.estimates(figure)) + " |"
        for c in each
    ]
    return [head, "|---" * (len(each[0].share) + 1) + "|", *rows]


def _others(checks: Sequence[dict[str, Any]]) -> list[str]:
    if not checks:
        return []
    lines = [
        "| method | label contrast | input shift | noise, mean | noise, largest |", "|---|---|---|---|---|"
    ]  # fmt: skip
    for c in checks:
        cells = [_cell(bootstrap(c[k])) for k in ("contrast", "shift", "noise", "largest")]
        lines.append(f"| {METHODS[c['method']].title} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _cell(e: Estimate) -> str:
    return f"{e.value:.2g} ({e.low:.2g} to {e.high:.2g})"


def _footer(given: argparse.Namespace) -> str:
    return """## The other columns

- *Label contrast* (`label_contrast`): Spearman's correlation of the map of the predicted class with those of three
  others. Near 1, the method does not tell classes apart.
- *Input shift* (`input_shift`): a constant is added to the input and taken off again before the first weights, so that
  the model's answers stay ([Kindermans et al., 2017](https://arxiv.org/abs/1711.00867)). The figure is how far the map
  moves, as a share of its largest value: 0 but for rounding where a method passes. What multiplies by the input, or
  starts from a black picture, moves; that is a choice of reference, which has to be known when the map is read.
- *Noise* (`stability`): the relative change of the map under noise of at most 2 % of the input's range, over ten draws
  that leave the predicted class ([Yeh et al., 2019](https://arxiv.org/abs/1901.09392)); lower is steadier, and a method
  that does not look at the model at all would be perfectly steady.

`python -m benchmarks.sanity` makes this page.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--points", type=int, default=8, help="of a large network")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    given = parser.parse_args()
    known = json.loads(given.keep.read_text()) if given.keep and given.keep.exists() else {}
    models = [*SHAPES, *([REAL] if os.environ.get("ONNXCAM_REAL_ZOO") else [])]
    found = {model: measured(model, given, known) for model in models}
    (given.docs / "sanity.md").write_text(page(found, given))


if __name__ == "__main__":
    main()
