"""Do words name the object, and do the channels that bear them carry the score?

    python -m benchmarks.concepts [--scenes 300] [--unseen 100]

The concepts are fixed beforehand: the seven shapes, six colours (pixels within 0.35 of one in RGB, on objects and
ground alike) and the five textures of grounds. Channels are named by the masks of rendered scenes; then, on scenes with
other seeds, the top class of each is explained in words of the five channels with the largest Grad-CAM weights.

- silenced: share of scenes in which setting the named ones of the five to 0 lowers the logit more than setting five
  random channels of the layer to 0;
- first word: share of scenes whose strongest word is a concept of the explained object (its shape or its colour);
- named channels: of all named ones among the five, the share whose concept is one of the object's;
- all: share of scenes in which every word of the five is.

Beside, for chance: the share of the layer's named channels that bear a concept of the object.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxcam import Explainer
from onnxcam.concepts import Example, Names, in_words, name_channels
from onnxcam.concepts.words import silenced
from onnxcam.probe import ModelProbe

sys.path.append(str(Path(__file__).resolve().parent.parent / "model_zoo" / "recipes"))
import scenes
import words

NAMING_SEED, UNSEEN_SEED = 3_100_000, 5_000_000
NEAR = 0.35
LAYERS = (
    ("zoo:shapes-net-dynamo", "auto"),
    ("zoo:shapes-net-weak", "auto"),
    ("zoo:shapes-net-dynamo", "relu_4"),
    ("zoo:shapes-cnn", "auto"),
    ("zoo:shapes-cnn", "/stage2/stage2.1/Relu"),
    ("zoo:shapes-cnn", "/stage1/stage1.3/Relu"),
    ("zoo:shapes-cnn", "/stem/stem.1/Relu"),
)


def texture(seed: int) -> str:
    """The ground of a scene, drawn as `scenes.render` draws it."""
    rng = np.random.default_rng(seed)
    scenes._ground_colours(rng)
    return scenes.GROUNDS[rng.integers(len(scenes.GROUNDS))].__name__


def colour_masks(image: Any) -> dict[str, Any]:
    """Where each named colour is."""
    distance = np.stack([np.linalg.norm(image / 255 - np.array(c), axis=2) for c in words.COLOURS.values()])
    nearest = np.where(distance.min(axis=0) < NEAR, distance.argmin(axis=0), -1)
    return {name: nearest == k for k, name in enumerate(words.COLOURS)}


def example(seed: int) -> Example:
    scene = scenes.render(seed)
    shapes = {scenes.CLASSES[o.class_index]: o.mask for o in scene.objects}
    ground = {texture(seed): ~np.any([o.mask for o in scene.objects], axis=0)}
    masks = {k: m for k, m in {**shapes, **ground, **colour_masks(scene.image)}.items() if m.any()}
    return Example(scene.image, masks=masks)


def own_concepts(scene: scenes.Scene, class_index: int) -> set[str]:
    """The concepts of the object of a class: its shape, and the colour of most of it, if it has a name."""
    mask = next((o.mask for o in scene.objects if o.class_index == class_index), None)
    found = {scenes.CLASSES[class_index]}
    if mask is not None:
        colours = {name: (m & mask).sum() / mask.sum() for name, m in colour_masks(scene.image).items()}
        found |= {name for name, share in colours.items() if share > 0.5}
    return found


@dataclass(frozen=True)
class Found:
    """Figures of one layer, as the module says; None where no scene has a word."""

    silenced: float
    first: float
    channels: float | None
    all: float
    chance: float | None


def measure(explainer: Explainer, names: Names, count: int) -> Found:
    rng, rows, hits, chance = np.random.default_rng(0), [], [], []
    for seed in range(UNSEEN_SEED, UNSEEN_SEED + count):
        scene = scenes.render(seed)
        found = in_words(explainer, scene.image, names)
        own = own_concepts(scene, found.explanation.class_index)
        named = [n.name in own for k in found.top if (n := names.of(k))]
        hits += named
        chance += [np.mean([n.name in own for n in names.channels])] if names.channels else []
        first = bool(found.positive) and found.positive[0].name in own
        rows.append((found.drop > random_drop(explainer, scene.image, found, rng), first, bool(named) and all(named)))
    lowered, first, every = np.mean(rows, axis=0)
    return Found(lowered, first, mean(hits), every, mean(chance))


def mean(values: list[Any]) -> float | None:
    return float(np.mean(values)) if values else None


def random_drop(explainer: Explainer, image: Any, found: Any, rng: np.random.Generator) -> float:
    """How much lower the score is without five channels drawn at random."""
    x, layer = explainer.prepare(image).tensor, explainer.layers[0]
    probe = ModelProbe(explainer.programs, x, explainer.check_target(found.explanation.class_index), layer)
    A = probe.activations(probe.x)[0]
    return silenced(probe, A, [rng.choice(len(A), 5, replace=False)])[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--unseen", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    examples = [example(NAMING_SEED + k) for k in range(given.scenes)]
    for model, layer in LAYERS:
        explainer = Explainer(model, target_layer=layer, threads=given.threads)
        names = name_channels(explainer, examples)
        print(f"{model} {explainer.layers[0].value}: {len(names.channels)} of {names.count} channels named")
        print("   ", dict(Counter(n.name for n in names.channels)))
        print("   ", measure(explainer, names, given.unseen), flush=True)


if __name__ == "__main__":
    main()
