"""Write sample scenes of each bias story: pictures, index masks, what their levels are called, and samples.json.

    python make_bias_samples.py [--out ..]        # OUT/samples-tanks and OUT/samples-staff

``scene-1`` to ``scene-4``: each scene comes twice, first as the biased pictures have it, then with the other
circumstance: a swap to look at. ``small-01`` to ``small-16``, of tanks: at the models' input size, as the biased
pictures have them, so that an audit has enough to say something. A pixel of the mask is the place of its part in the
list ``parts``; ``regions.json`` has the names for ``onnxcam audit MODEL FOLDER --masks FOLDER``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scenes
from bias_scenes import SAMPLE_SEED, STAFF_PARTS, STORIES, TANK_PARTS, Story
from make_samples import OUT, SIZE, write_png

# Of the first and of the second class
SEEDS = {"tanks": (SAMPLE_SEED + 2, SAMPLE_SEED + 9), "staff": (SAMPLE_SEED + 3, SAMPLE_SEED + 8)}
SMALL = {"tanks": 16, "staff": 0}
# Parts that go along with each other are one region, and names are those that a reader would use
REGIONS = {
    "tanks": dict(zip(TANK_PARTS, TANK_PARTS, strict=True)),
    "staff": dict(zip(STAFF_PARTS, ("room", "clothes", "hair and face", "hair and face", "stethoscope"), strict=True)),
}


def write_sample(
    folder: Path, name: str, story: Story, seed: int, truth: int, circumstance: str, size: int
) -> dict[str, object]:
    """One picture and its mask; returns their entry in samples.json."""
    scene = story.draw(seed, bool(truth), circumstance, size)
    write_png(folder / f"{name}.png", scene.image[..., ::-1])
    write_png(folder / f"{name}.mask.png", np.argmax(list(scene.masks.values()), axis=0).astype(np.uint8))
    told = {"class": truth, "label": story.classes[truth], "circumstance": circumstance, "parts": list(scene.masks)}
    return {"file": f"{name}.png", "mask": f"{name}.mask.png", "seed": seed, "size": size} | told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    for kind, story in STORIES.items():
        folder = out / f"samples-{kind}"
        folder.mkdir(parents=True, exist_ok=True)
        entries = [write_sample(folder, *plan) for plan in plans(kind, story)]
        lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
        (folder / "samples.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        names = {str(level): name for level, name in enumerate(REGIONS[kind].values())}
        (folder / "regions.json").write_text(json.dumps(names) + "\n", encoding="utf-8")


def plans(kind: str, story: Story) -> Iterator[tuple[str, Story, int, int, str, int]]:
    """As `write_sample` takes them."""
    drawings = [(c, sign) for c in (1, 0) for sign in (story.circumstances[c], story.circumstances[1 - c])]
    for n, (c, sign) in enumerate(drawings, 1):
        yield f"scene-{n}", story, SEEDS[kind][c], c, sign, SIZE
    for n in range(SMALL[kind]):
        yield f"small-{n + 1:02d}", story, SAMPLE_SEED + 100 + n, n % 2, story.circumstances[n % 2], scenes.SIZE


if __name__ == "__main__":
    main()
