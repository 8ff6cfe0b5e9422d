"""Do explanations of answers and captions point at the object that the words name?

    python -m benchmarks.words [--scenes 200] [--seed 1500000]

``zoo:shapes-vqa`` answers questions; explained is the logit of "yes" to a question whose answer is yes.
``zoo:shapes-caption`` names the outermost objects; explained is the logit of each noun at its step, by one file and by
encoder and decoder as two. Beside, on the same object: another object's words, a shape that is not there, a random
pixel. A hit: the heatmap's peak lies in the object's mask.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from onnxcam import Explainer
from onnxcam.core.localize import peak
from onnxcam.targets import Token
from onnxcam.zoo import locate

sys.path.append(str(Path(__file__).resolve().parent.parent / "model_zoo" / "recipes"))
import scenes
import words

Hits = dict[str, list[float]]


def answers(count: int, seed: int, method: str) -> Hits:
    """Questions that are answered yes, each about one object."""
    explainer, hits = Explainer("zoo:shapes-vqa", method=method), Hits()
    for number in range(seed, seed + count):
        worded, rng = words.render(number), np.random.default_rng(number)
        first, second = rng.permutation(len(worded.scene.objects))[:2]
        absent = rng.choice(np.flatnonzero(scenes.presence(worded.scene) == 0))
        mask = worded.scene.objects[first].mask
        asked = {"own words": worded.noun(first), "another's": worded.noun(second), "absent": scenes.CLASSES[absent]}
        for kind, noun in asked.items():
            e = explainer.explain(worded.scene.image, "yes", inputs={"question": words.question(noun)})
            hits.setdefault(kind, []).append(_hit(e.heatmap, mask))
        hits.setdefault("random pixel", []).append(mask.mean())
    return hits


def captions(count: int, seed: int, method: str, model: Any) -> Hits:
    """Both nouns of the true caption."""
    explainer, hits = Explainer(model, method=method), Hits()
    for worded, named in words.captioned(seed, count):
        text = words.caption(worded, named).removesuffix(" <end>")
        both = []
        for index, other, step in zip(named, named[::-1], words.NOUN_STEPS, strict=True):
            mask = worded.scene.objects[index].mask
            own, swapped = (
                explainer.explain(worded.scene.image, Token(worded.noun(k), step), inputs={"tokens": text}).heatmap
                for k in (index, other)
            )
            both.append(_hit(own, mask))
            hits.setdefault("own words", []).append(both[-1])
            hits.setdefault("another's", []).append(_hit(swapped, mask))
            hits.setdefault("random pixel", []).append(mask.mean())
        hits.setdefault("both nouns", []).append(all(both))
    return hits


def _hit(heatmap: Any, mask: Any) -> bool:
    return bool(heatmap.max() > 0 and mask[peak(heatmap)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1_500_000)
    parser.add_argument("--method", default="gradcam")
    given = parser.parse_args()
    two = [locate(f"zoo:shapes-caption-{part}") for part in ("encoder", "decoder")]
    found = {
        "questions": answers(given.scenes, given.seed, given.method),
        "captions, one file": captions(given.scenes, given.seed, given.method, "zoo:shapes-caption"),
        "captions, two files": captions(given.scenes, given.seed, given.method, two),
    }
    print(f"{given.method}, peak in the object, {given.scenes} scenes from seed {given.seed}")
    for title, hits in found.items():
        print(f"{title:20s} " + "   ".join(f"{k} {np.mean(v):.3f}" for k, v in hits.items()))


if __name__ == "__main__":
    main()
