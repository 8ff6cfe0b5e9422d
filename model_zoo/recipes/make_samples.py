"""Write the sample scenes: pictures, index masks (0 ground, i + 1 object i) and samples.json.

    python make_samples.py [--out ..]        # OUT/samples and, with questions and captions, OUT/samples-words

Twice the model's input size, so that enlarging a map to the picture has something to do. NumPy and cv2 only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import scenes
import words

OUT = Path(__file__).resolve().parents[1]
SIZE = 2 * scenes.SIZE
SEEDS = tuple(scenes.SAMPLE_SEED + n for n in (0, 3, 7, 9, 15, 26, 28, 31))  # every shape and every ground
WORDED_SEEDS = tuple(scenes.SAMPLE_SEED + n for n in (7, 17, 19, 22, 26, 31))  # every shape and colour, ends clear


def index_mask(scene: scenes.Scene) -> np.ndarray:
    """uint8 (H, W): 0 for the ground, i + 1 on object i."""
    return sum((np.uint8(i + 1) * o.mask for i, o in enumerate(scene.objects)), np.zeros((SIZE, SIZE), np.uint8))


def described(shown: scenes.Object) -> dict[str, object]:
    """Class, label, box [x0, y0, x1, y1] in pixels (x1, y1 excluded) and share of the image area."""
    rows, columns = np.nonzero(shown.mask)
    box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
    label = scenes.CLASSES[shown.class_index]
    return {"class": shown.class_index, "label": label, "box": box, "area": round(float(shown.mask.mean()), 5)}


def write_png(path: Path, pixels: np.ndarray) -> None:
    if not cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise OSError(f"cannot write {path}")


def write_sample(folder: Path, number: int, seed: int, scene: scenes.Scene) -> dict[str, object]:
    """One picture and its mask; returns their entry in samples.json."""
    name = f"scene-{number}"
    write_png(folder / f"{name}.png", scene.image[..., ::-1])
    write_png(folder / f"{name}.mask.png", index_mask(scene))
    objects = [described(shown) for shown in scene.objects]
    return {"file": f"{name}.png", "mask": f"{name}.mask.png", "seed": seed, "size": SIZE, "objects": objects}


def write_plain(folder: Path, number: int, seed: int) -> dict[str, object]:
    return write_sample(folder, number, seed, scenes.render(seed, SIZE))


def write_worded(folder: Path, number: int, seed: int) -> dict[str, object]:
    """As ``write_sample``; each object with its colour, the caption, and in ``named`` the two objects that it names."""
    shown = words.render(seed, SIZE)
    entry = write_sample(folder, number, seed, shown.scene)
    for thing, colour in zip(entry["objects"], shown.colours, strict=True):  # type: ignore[call-overload]
        thing["colour"] = words.COLOUR_NAMES[colour]
    if (named := words.ends(shown)) is None:
        raise ValueError(f"seed {seed}: the outermost objects are disputed; choose another")
    return entry | {"caption": words.caption(shown, named), "named": named}


def as_lines(entries: list[dict[str, object]]) -> str:
    """JSON with one object of a scene a line."""
    blocks = []
    for entry in entries:
        head = json.dumps({key: value for key, value in entry.items() if key != "objects"})[:-1]
        rows = ",\n".join(f"    {json.dumps(o)}" for o in entry["objects"])  # type: ignore[attr-defined]
        blocks.append(f'  {head}, "objects": [\n{rows}\n  ]}}')
    return "[\n" + ",\n".join(blocks) + "\n]\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    for name, write, seeds in (("samples", write_plain, SEEDS), ("samples-words", write_worded, WORDED_SEEDS)):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        entries = [write(folder, number, seed) for number, seed in enumerate(seeds, start=1)]
        (folder / "samples.json").write_text(as_lines(entries), encoding="utf-8")


if __name__ == "__main__":
    main()
