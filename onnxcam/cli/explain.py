"""``onnxcam explain``: pictures in, overlays and records out."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxcam.errors import ImageError, ModelError, OnnxcamError, OptionError

if TYPE_CHECKING:
    from onnxcam import Explainer, Explanation

_MODEL = typer.Argument(metavar="MODEL", help="An .onnx file, or zoo:NAME.")
_STRAIGHT = typer.Option("--straight-through", help="Let gradients pass signs and roundings (binarised networks).")
_IMAGES = typer.Argument(metavar="IMAGE", help="Pictures.")


def command(
    model: Annotated[str, _MODEL],
    images: Annotated[list[Path], _IMAGES],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for overlays, arrays and records.")] = Path(
        "explanations"
    ),
    method: Annotated[str, typer.Option(help="See `onnxcam methods`.")] = "gradcam",
    target: Annotated[
        str, typer.Option(help="Class index or label, margin:A,B, probability:A; top1 for the predicted class.")
    ] = "top1",
    layer: Annotated[list[str] | None, typer.Option(help="Target layer; give it several times for several.")] = None,
    fuse: Annotated[str | None, typer.Option(help="Join several layers' maps: max or mean.")] = None,
    preprocess: Annotated[
        str, typer.Option(help="auto, imagenet, tf, caffe, raw, unit; settings may follow: caffe,mean=104/117/123.")
    ] = "auto",
    labels: Annotated[Path | None, typer.Option(help="Class names: text, CSV or JSON.")] = None,
    engine: Annotated[str, typer.Option(help="auto, portable or training.")] = "auto",
    output: Annotated[str | None, typer.Option(help="Model output to explain, where there are several.")] = None,
    colormap: Annotated[str, typer.Option(help="jet, turbo, viridis, ...")] = "jet",
    blend: Annotated[float, typer.Option(help="Share of the colours, 0 to 1.")] = 0.5,
    style: Annotated[str, typer.Option(help="blend, add or mask.")] = "blend",
    normalize: Annotated[str | None, typer.Option(help="max or minmax; by default what suits the method.")] = None,
    straight_through: Annotated[bool, _STRAIGHT] = False,
    title: Annotated[bool, typer.Option(help="Write class and score above the picture.")] = True,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime.")] = None,
    provider: Annotated[list[str] | None, typer.Option(help="Execution provider of the runtime.")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Largest picture that is opened, in pixels.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per image on stdout.")] = False,
) -> None:
    """Explain pictures: why does the model answer as it does?"""
    from onnxcam import Explainer
    from onnxcam.explanation import make_folder

    look = {"colormap": colormap, "blend": blend, "style": style, "title": title}
    _check_look(look)
    explainer = Explainer(
        model, preprocess, layer or "auto", method, engine, labels, provider, threads,
        output=output, fuse=fuse, normalize=normalize, straight_through=straight_through,
    )  # fmt: skip
    _check_labels(explainer)
    if max_pixels is not None and max_pixels < 1:
        raise OptionError(f"--max-pixels {max_pixels}: give a number above 0")
    mine, folder = not out.exists(), make_folder(out)
    job = _Job(explainer, None if target == "top1" else target, folder, look, max_pixels, as_json, _stems(images))
    try:
        code = job.run(images)
    finally:
        if mine and not any(folder.iterdir()):
            folder.rmdir()
    raise typer.Exit(code)


def _check_look(look: dict[str, Any]) -> None:
    """Refuse a bad colour map or style before anything is written."""
    import numpy as np

    from onnxcam.core.overlay import overlay

    overlay(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.float32), **{**look, "title": None})


def _check_labels(explainer: Explainer) -> None:
    """Names and classes that differ in number are often shifted by one (a background class)."""
    names, classes = explainer.labels, explainer.logits.classes
    if names is not None and classes is not None and len(names) != classes:
        text = f"{len(names)} names for {classes} classes: names may be missing or shifted; check the label file"
        print(f"onnxcam: {text}", file=sys.stderr)


def _stems(images: list[Path]) -> list[str]:
    """File names that do not collide when pictures of different folders share one."""
    taken: set[str] = set()
    stems = []
    for path in images:
        names = (path.stem if k == 1 else f"{path.stem}-{k}" for k in count(1))
        stems.append(next(name for name in names if name.casefold() not in taken))
        taken.add(stems[-1].casefold())
    return stems


class _Job:
    def __init__(
        self, explainer: Explainer, target: str | None, folder: Path, look: dict[str, Any],
        max_pixels: int | None, as_json: bool, stems: list[str],
    ) -> None:  # fmt: skip
        self.explainer, self.target, self.folder, self.look = explainer, target, folder, look
        self.max_pixels, self.as_json, self.stems = max_pixels, as_json, stems
        self.rows: list[tuple[str, ...]] = []
        self.told: set[str] = set()

    def run(self, images: list[Path]) -> int:
        failures = 0
        try:
            for path, stem in zip(images, self.stems, strict=True):
                try:
                    self.one(path, stem)
                except (ImageError, ModelError) as error:  # of this picture: NaN may come of one alone
                    failures += 1
                    self.fail(path, error)
        finally:
            if not self.as_json and self.rows:
                _print_table(self.rows)
        return 0 if not failures else (2 if failures == len(images) else 1)

    def one(self, path: Path, stem: str) -> None:
        from onnxcam.image import MAX_PIXELS, read_image

        picture = read_image(path, max_pixels=self.max_pixels or MAX_PIXELS)
        found = replace(self.explainer.explain(picture, self.target), source=str(path))
        asked = "" if self.target is None else "." + re.sub(r"[^\w-]+", "-", self.target)
        files = found.save(self.folder, f"{stem}.{found.method}{asked}", **self.look)
        self.tell(found)
        if self.as_json:
            record = {**found.to_dict(), "files": {k: str(p) for k, p in files.items()}}
            print(json.dumps(record), flush=True)
        score = f"{found.score:.4g}" + (f" ({found.probability:.3f})" if found.probability is not None else "")
        name = found.label or f"class {found.class_index}"
        layer = " + ".join(m.layer for m in found.maps) or "-"
        self.rows.append((path.name, name, score, layer, found.method, str(files["overlay"])))

    def fail(self, path: Path, error: OnnxcamError) -> None:
        self.say(str(error))
        if self.as_json:
            print(json.dumps({"source": str(path), "error": str(error)}), flush=True)

    def tell(self, found: Explanation) -> None:
        for note in found.notes:
            self.say(note)

    def say(self, text: str) -> None:
        """Each notice once."""
        if text not in self.told:
            self.told.add(text)
            print(f"onnxcam: {text}", file=sys.stderr)


def _print_table(rows: list[tuple[str, ...]]) -> None:
    from onnxcam.cli.listing import table

    table(("image", "class", "score", "layer", "method", "file"), rows)
