"""Write four sample scenes of each bias story: pictures, index masks and samples.json.

    python make_bias_samples.py [--out ..]        # OUT/samples-tanks and OUT/samples-staff

Each scene comes twice, first as the biased pictures have it, then with the other circumstance: a swap to look at. A
pixel of the mask is the place of its part in the list ``parts``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from bias_scenes import SAMPLE_SEED, STORIES, Story
from make_samples import OUT, SIZE, write_png

# Of the first and of the second class
SEEDS = {"tanks": (SAMPLE_SEED + 2, SAMPLE_SEED + 9), "staff": (SAMPLE_SEED + 3, SAMPLE_SEED + 8)}


def write_sample(
    folder: Path, number: int, story: Story, seed: int, truth: int, circumstance: str
) -> dict[str, object]:
    """One picture and its mask; returns their entry in samples.json."""
    name, scene = f"scene-{number}", story.draw(seed, bool(truth), circumstance, SIZE)
    write_png(folder / f"{name}.png", scene.image[..., ::-1])
    write_png(folder / f"{name}.mask.png", np.argmax(list(scene.masks.values()), axis=0).astype(np.uint8))
    told = {"class": truth, "label": story.classes[truth], "circumstance": circumstance, "parts": list(scene.masks)}
    return {"file": f"{name}.png", "mask": f"{name}.mask.png", "seed": seed, "size": SIZE} | told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    for kind, story in STORIES.items():
        folder = out / f"samples-{kind}"
        folder.mkdir(parents=True, exist_ok=True)
        drawings = [(c, sign) for c in (1, 0) for sign in (story.circumstances[c], story.circumstances[1 - c])]
        entries = [write_sample(folder, n, story, SEEDS[kind][c], c, sign) for n, (c, sign) in enumerate(drawings, 1)]
        lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
        (folder / "samples.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
