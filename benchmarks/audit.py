"""The two bias stories, told by `onnxcam audit` on scenes that no model was trained on.

    python -m benchmarks.audit [STORY-VARIANT=MODEL.onnx ...] [--scenes 200] [--out DIR] [--docs docs]

Each scene is drawn with the circumstance that went along with its class, and beside it two counterparts: one that
differs in the circumstance alone (the same tank and trees under the other sky, the same doctor with the other face and
hair), and one without what makes the class (no tank, no stethoscope). So a flip is the doing of that part alone. Fails
where a story is not told.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxcam import Explainer
from onnxcam.audit import Audit, audit
from onnxcam.core.maps import resize_pixels
from onnxcam.core.overlay import panel
from onnxcam.image import save_image

ROOT = Path(__file__).resolve().parent.parent
SEED = 3_000_000  # apart from training, held-out scenes and samples


@dataclass(frozen=True)
class Story:
    """What is drawn, and what the audit must find.

    Attributes:
        classes: names, in the order of the logits.
        circumstances: the one that went along with each class, in training.
        renderer: of the recipe.
        regions: a region of the audit for each part of the scene; what is not named is ``rest``.
        spurious: the region that went along.
        honest: the region that makes the class.
        least: of the biased model, ratio of the spurious region and share of flips; of the fair one, ratio of the
            honest region and (at most) share of flips.
    """

    classes: tuple[str, str]
    circumstances: tuple[str, str]
    renderer: str
    regions: Mapping[str, str]
    spurious: str
    honest: str
    least: tuple[float, float, float, float]


STORIES = {
    "tanks": Story(
        ("no tank", "tank"), ("clear", "cloudy"), "tank_scene",
        {"sky": "sky", "ground": "ground", "trees": "trees", "tank": "tank"}, "sky", "tank", (2.0, 0.8, 3.0, 0.05),
    ),
    "staff": Story(
        ("nurse", "doctor"), ("woman", "man"), "staff_scene",
        {"background": "room", "clothes": "clothes", "face": "hair and face", "hair": "hair and face",
         "stethoscope": "stethoscope"},
        "hair and face", "stethoscope", (2.0, 0.8, 3.0, 0.05),
    ),
}  # fmt: skip


def recipe() -> Any:
    """The module that draws the scenes."""
    sys.path.insert(0, str(ROOT / "model_zoo" / "recipes"))
    import bias_scenes

    return bias_scenes


def write_scenes(name: str, folder: Path, count: int, seed: int = SEED) -> None:
    """Draw a story's scenes: ``images/CLASS``, label images in ``masks/CLASS``, counterparts in ``REGION/CLASS``."""
    story, draw = STORIES[name], getattr(recipe(), STORIES[name].renderer)
    names = list(dict.fromkeys(story.regions.values()))
    for number in range(count):
        truth, where = number % 2, Path(story.classes[number % 2], f"{number:04d}.png")
        usual, changed = (draw(seed + number, bool(truth), story.circumstances[k]) for k in (truth, 1 - truth))
        levels = np.zeros(usual.image.shape[:2], np.uint8)
        for part, region in story.regions.items():
            levels[usual.masks[part]] = 1 + names.index(region)
        _save(folder / "images" / where, usual.image)
        _save(folder / "masks" / where, np.repeat(levels[..., None], 3, axis=2))
        _save(folder / story.spurious / where, changed.image)
        if truth:
            without = draw(seed + number, False, story.circumstances[truth])
            _save(folder / story.honest / where, without.image)
    (folder / "masks" / "regions.json").write_text(json.dumps({str(1 + k): n for k, n in enumerate(names)}))


def _save(path: Path, picture: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, picture)


def audited(name: str, model: str | Path, scenes: Path, **options: Any) -> Audit:
    """The audit of a model on the scenes of a story."""
    swapped = {region: scenes / region for region in (STORIES[name].spurious, STORIES[name].honest)}
    return audit(model, scenes / "images", masks=scenes / "masks", counterparts=swapped, **options)


def failures(name: str, variant: str, found: Audit) -> list[str]:
    """What the story asks for and the audit did not find."""
    story, (times, flips, fair_times, fair_flips) = STORIES[name], STORIES[name].least
    region = story.spurious if variant == "biased" else story.honest
    share, swap = found.share(region), found.swap(story.spurious)
    least = times if variant == "biased" else fair_times
    missed = [] if share.ratio.value >= least else [f"{region}: {share.ratio.value:.2f} x its area, not {least}"]
    right = swap.flips.value >= flips if variant == "biased" else swap.flips.value <= fair_flips
    return missed if right else [*missed, f"{story.spurious}: {swap.flips.value:.1%} flips"]


def figures(key: str, found: Audit) -> str:
    """A line of the table."""
    story = STORIES[key.partition("-")[0]]
    cells = [key, "" if found.accuracy is None else f"{found.accuracy:.1%}"]
    for region in (story.spurious, story.honest):
        s, flips = found.share(region), found.swap(region).flips
        cells += [
            f"{s.energy:.0%} on {s.area:.0%}: **{s.ratio.value:.1f} x** ({s.ratio.low:.1f} to {s.ratio.high:.1f})",
            f"**{flips.value:.0%}** ({flips.low:.0%} to {flips.high:.0%})",
        ]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| model | right | evidence in what went along | replacing it flips | evidence in what makes the class | "
    "replacing it flips |\n|---|---|---|---|---|---|"
)


def panel_of(name: str, models: Mapping[str, str], scenes: Path) -> Any:
    """One scene and its counterpart, as the biased and the fair model see them: uint8 (H, W, 3)."""
    place = Path(STORIES[name].classes[1], "0001.png")
    tiles, labels = [], []
    for variant in ("biased", "fair"):
        explainer = Explainer(models[f"{name}-{variant}"], threads=1)
        for kind in ("images", STORIES[name].spurious):
            e = explainer.explain(scenes / kind / place)
            tiles += [e.image, e.overlay()]
            labels += [f"{variant} model", f"says {e.label}, because"]
    return panel([resize_pixels(t, (224, 224)) for t in tiles if t is not None], columns=4, labels=labels)


def write_docs(docs: Path, lines: Sequence[str], models: Mapping[str, str], out: Path) -> None:
    """The table and the pictures of the documents."""
    page = docs / "audit.md"
    before, _, rest = page.read_text().partition("<!-- figures -->\n")
    shown = [f"![{name}: what each model looks at, and what it says once that is another](images/audit-{name}.png)"
             for name in STORIES]  # fmt: skip
    told = "\n\n".join(["\n".join([HEAD, *lines]), *shown])
    page.write_text(f"{before}<!-- figures -->\n{told}\n<!-- end -->{rest.partition('<!-- end -->')[2]}")
    for name in STORIES:
        save_image(docs / "images" / f"audit-{name}.png", panel_of(name, models, out / name))


def main() -> int:
    """Write the scenes, audit the models, print what they say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="STORY-VARIANT=MODEL", help="by default the zoo's four")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--out", type=Path, help="keeps scenes and reports there")
    parser.add_argument("--docs", type=Path, help="writes the table and the pictures there")
    given = parser.parse_args()
    models = dict(text.split("=", 1) for text in given.models) or {
        f"{name}-{variant}": f"zoo:{name}-{variant}" for name in STORIES for variant in ("biased", "fair")
    }
    missed, lines = [], []
    with tempfile.TemporaryDirectory() as temporary:
        out = given.out or Path(temporary)
        for key, model in models.items():
            name, variant = key.split("-")
            if not (out / name).exists():
                write_scenes(name, out / name, given.scenes)
            found = audited(name, model, out / name)
            found.save(out / key)
            print(key, *found.verdict, sep="\n  ")
            lines.append(figures(key, found))
            missed += [f"{key}: {text}" for text in failures(name, variant, found)]
        if given.docs:
            write_docs(given.docs, lines, models, out)
    print("\n".join(missed) or "both stories are told")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
