"""Are the biased models as right and as wrong as stated, and do explanations show what each one looks at?

    python check_bias.py [tanks-biased] [tanks-fair] [staff-biased] [staff-fair] [--scenes 100] [--rounds 3]
    python check_bias.py --rebuild [NAME...]       # are the files what train_bias.py writes? Trains anew; needs torch

Scenes that no training saw; each is drawn in four ways, with both classes in both circumstances. Explanations are
onnxcam's Grad-CAM at the layer that it chooses. Printed as mean and, over rounds of fresh scenes, lowest and highest:

* own: right answers where the circumstances are as common as in the biased pictures; balanced: half and half;
* flips: answers that change when the circumstance alone is redrawn (another sky; hair and face of the other sex);
* shortcut: the share of the heatmap's energy in the parts that show the circumstance over their share of the picture,
  on all four drawings, for the class that is answered;
* evidence: the same for the tank or the stethoscope, on the pictures that show one, for that class.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from bias_scenes import HELDOUT_SEED, STORIES, BiasScene, Point, Story

from onnxcam import Explainer
from onnxcam.core.localize import energy_inside

FOLDER = Path(__file__).resolve().parents[1]
NAMES = tuple(f"{kind}-{variant}" for kind in STORIES for variant in ("biased", "fair"))
Floats = npt.NDArray[np.floating]


class Findings(NamedTuple):
    """Of each scene, drawn with class c in circumstance k.

    Attributes:
        answers: class, int (scenes, c, k).
        shortcut: energy over area of the parts that show the circumstance, (scenes, c, k).
        evidence: energy over area of the part that the second class has, (scenes, k).
    """

    answers: npt.NDArray[np.int64]
    shortcut: Floats
    evidence: Floats

    def right(self) -> Floats:
        """How often each class is known in each circumstance, (c, k)."""
        return (self.answers == np.array([[0], [1]])).mean(0)

    def accuracy(self, shares: Point) -> float:
        """Right answers, where class c is seen in circumstance c with a share of ``shares[c]``."""
        usual, right = np.array(shares), self.right()
        return float((usual * right.diagonal() + (1 - usual) * right[:, ::-1].diagonal()).mean())

    def flips(self) -> float:
        """Answers that change with the circumstance."""
        return float((self.answers[:, :, 0] != self.answers[:, :, 1]).mean())


def ratio(heatmap: Floats, scene: BiasScene, *parts: str) -> float:
    """Share of the energy in ``parts`` over their share of the picture: 1 is what an even map has."""
    mask = np.any([scene.masks[part] for part in parts], axis=0)
    return energy_inside(heatmap, mask) / float(mask.mean())


def four(story: Story, seed: int) -> list[BiasScene]:
    """The scene of ``seed`` with class and circumstance 00, 01, 10, 11."""
    return [story.draw(seed, bool(c), sign) for c in (0, 1) for sign in story.circumstances]


def explained(name: str, seeds: Sequence[int]) -> Findings:
    """What the model ``name`` answers and shows to four drawings of each scene."""
    story, ex, rows = STORIES[name.split("-")[0]], Explainer(f"zoo:{name}"), []
    for seed in seeds:
        drawings = four(story, seed)
        own = ex.explain_batch([s.image for s in drawings])
        second = ex.explain_batch([s.image for s in drawings[2:]], target=story.classes[1])
        shortcut = [ratio(e.heatmap, s, *story.shortcut) for e, s in zip(own, drawings, strict=True)]
        evidence = [ratio(e.heatmap, s, story.evidence) for e, s in zip(second, drawings[2:], strict=True)]
        rows.append(([e.class_index for e in own], shortcut, evidence))
    answers, shortcut, evidence = (np.array(column) for column in zip(*rows, strict=True))
    return Findings(answers.reshape(-1, 2, 2), shortcut.reshape(-1, 2, 2), evidence)


def readings(name: str, found: Findings) -> dict[str, float]:
    return {
        "own": found.accuracy(STORIES[name.split("-")[0]].shares),
        "balanced": found.accuracy((0.5, 0.5)),
        "flips": found.flips(),
        "shortcut": float(found.shortcut.mean()),
        "evidence": float(found.evidence.mean()),
    }


def rebuilt(name: str, content: bytes) -> str:
    """Train ``name`` again and compare."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.onnx")
        importlib.import_module("train_bias").make(name, path)
        return "rebuilt: the same bytes" if path.read_bytes() == content else "rebuilt: other bytes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rebuild", action="store_true")
    options = parser.parse_args()
    for name in options.names:
        content = (FOLDER / f"{name}.onnx").read_bytes()
        print(f"{name}: sha256 {hashlib.sha256(content).hexdigest()}, {len(content)} bytes")
        if options.rebuild:
            print(rebuilt(name, content))
            continue
        starts = [HELDOUT_SEED + k * options.scenes for k in range(options.rounds)]
        rounds = [readings(name, explained(name, range(s, s + options.scenes))) for s in starts]
        for key in rounds[0]:
            values = [r[key] for r in rounds]
            print(f"  {key:9s} {np.mean(values):7.4f}  ({min(values):.4f} to {max(values):.4f})")


if __name__ == "__main__":
    main()
