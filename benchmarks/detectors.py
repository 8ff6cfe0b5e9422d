"""Where the evidence for a box or a segment lies: the share of the map's energy inside a box drawn by hand.

``python -m benchmarks.detectors ZOO`` prints, for detectors and a segmenter of other people (ZOO is their folder, see
ONNXCAM_REAL_ZOO), the share of the heatmap inside the box, the box's share of the picture, and how many times the one
is the other. The boxes (x0, y0, x1, y1, in pixels of the photo) are drawn by eye.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxcam import Explainer, Explanation

Drawn = tuple[int, int, int, int]
DOG, CAT = (77, 12, 167, 145), (44, 118, 203, 223)
MAN, WOMAN = (132, 25, 262, 195), (290, 30, 425, 240)
PREPROCESS = {
    "yolox_nano_416": "raw,color=BGR,fit=letterbox,align=topleft",
    "ultraface_rfb320": "raw,mean=127,std=128",
    "deeplabv3_voc_257_nhwc": "tf",
}


@dataclass(frozen=True)
class Case:
    """One question about one photo."""

    model: str
    photo: str
    target: str | int
    what: str
    drawn: Drawn
    method: str = "gradcam"


CASES = (
    Case("yolox_nano_416", "photos/dog_cat_both.png", "box:16", "dog", DOG),
    Case("yolox_nano_416", "photos/dog_cat_both.png", "box:15", "cat", CAT),
    Case("yolox_nano_416", "photos/dog_cat_both.png", "box:15@120,190", "cat", CAT),
    Case("yolox_nano_416", "photos/dog_cat_both.png", "box:16", "dog", DOG, "hirescam"),
    Case("yolox_nano_416", "photos/dog_cat_both.png", "box:15", "cat", CAT, "hirescam"),
    Case("yolox_nano_416", "photos/dog_cat_both.png", "box:16", "dog", DOG, "saliency"),
    Case("yolox_nano_416", "photos/dog_cat_both.png", "box:15", "cat", CAT, "saliency"),
    Case("ultraface_rfb320", "voc/2007_000323.jpg", "box:1@200,110", "his face", MAN),
    Case("ultraface_rfb320", "voc/2007_000323.jpg", "box:1@360,120", "her face", WOMAN),
    Case("ultraface_rfb320", "voc/2007_000323.jpg", "box:1@200,110", "his face", MAN, "hirescam"),
    Case("ultraface_rfb320", "voc/2007_000323.jpg", "box:1@360,120", "her face", WOMAN, "hirescam"),
    Case("ultraface_rfb320", "voc/2007_000346.jpg", "box:1", "face", (240, 130, 360, 285)),
    Case("ultraface_rfb320", "voc/2007_000170.jpg", "box:1", "face", (183, 60, 289, 221)),
    Case("deeplabv3_voc_257_nhwc", "photos/dog_cat_both.png", "12", "dog", DOG),
    Case("deeplabv3_voc_257_nhwc", "photos/dog_cat_both.png", "margin:12,0", "dog", DOG),
    Case("deeplabv3_voc_257_nhwc", "photos/dog_cat_both.png", "12@120,80", "dog", DOG, "hirescam"),
    Case("deeplabv3_voc_257_nhwc", "photos/dog_cat_both.png", "8@120,190", "cat", CAT, "hirescam"),
)


def shares(heatmap: np.ndarray, drawn: Drawn) -> tuple[float, float]:
    """The part of the energy inside the box, and the part of the picture that it covers."""
    x0, y0, x1, y1 = drawn
    inside = heatmap[y0:y1, x0:x1]
    return float(inside.sum() / max(heatmap.sum(), 1e-12)), inside.size / heatmap.size


def explained(case: Case, zoo: Path) -> Explanation:
    """The explanation of a case."""
    model = zoo / "models" / f"{case.model}.onnx"
    ex = Explainer(model, PREPROCESS[case.model], method=case.method, threads=1)
    return ex.explain(zoo / case.photo, case.target)


def main(zoo: Path) -> None:
    """Print the table."""
    print("| model | photo | target | method | level | box as the model has it | in the box | area | times |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        e = explained(case, zoo)
        energy, area = shares(e.heatmap_on_image(), case.drawn)
        found = e.provenance.get("box", {}).get("xyxy", ())
        size = "x".join(map(str, e.cam.shape))
        text = " ".join(f"{v:.0f}" for v in found) or "-"
        photo = Path(case.photo).stem
        print(f"| {case.model} | {photo}: {case.what} | {case.target} | {case.method} | {size} | {text} | {energy:.2f} "
              f"| {area:.2f} | {energy / area:.1f} |")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
