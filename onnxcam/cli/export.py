"""``onnxcam export``: one file that answers what, and why, in a single ordinary run."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxcam.errors import OptionError

if TYPE_CHECKING:
    from onnxcam.export import Exported

_SCORE, _IN, _OUT, _FILE = (
    partial(typer.Option, rich_help_panel=panel)
    for panel in ("What is explained", "What goes in", "What comes out", "The file")
)
_MODEL = typer.Argument(metavar="MODEL", help="An .onnx file, or zoo:NAME.")
_TARGET = _SCORE(help="The score: probability:CLASS, margin:A,B, ...; a class it names is settled.")
_STRAIGHT = _SCORE("--straight-through", help="Let gradients pass signs and roundings (binarised networks).")
_PICTURE = _IN(metavar="any|HxW", help="Take an RGB picture, uint8 (N, H, W, 3), resized and normalised inside.")
_APART = _FILE("--external-data", help="Weights in OUT.onnx.data; needed above 2 GB.")
_JSON = typer.Option("--json", help="What was written, as one JSON object on stdout.")


def command(
    model: Annotated[str, _MODEL],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    method: Annotated[list[str] | None, _SCORE(help="Of one run; see `onnxcam methods`. Several if you like.")] = None,
    layer: Annotated[list[str] | None, _SCORE(help="Target layer; several times for several maps.")] = None,
    target: Annotated[str | None, _TARGET] = None,
    fixed_class: Annotated[str | None, _SCORE(help="Always explain this class: no input onnxcam/class.")] = None,
    top1: Annotated[bool, _SCORE("--top1", help="Always explain the top class: no input onnxcam/class.")] = False,
    output: Annotated[str | None, _SCORE(help="Model output to explain, where there are several.")] = None,
    straight_through: Annotated[bool, _STRAIGHT] = False,
    picture: Annotated[str | None, _PICTURE] = None,
    preprocess: Annotated[str, _IN(help="As for `onnxcam explain`; it is kept in the file.")] = "auto",
    labels: Annotated[Path | None, _IN(help="Class names, kept in the file: text, CSV or JSON.")] = None,
    raw: Annotated[bool, _OUT("--raw", help="Also the signed map at feature size: cam.")] = False,
    boxes: Annotated[bool, _OUT("--boxes", help="Also the box round the largest evidence: boxes.")] = False,
    overlay: Annotated[bool, _OUT("--overlay", help="Also the heatmap over the picture: overlay.")] = False,
    colormap: Annotated[str | None, _OUT(help="Of the overlay: jet (the default), turbo, diverging, ...")] = None,
    blend: Annotated[float, _OUT(help="Share of the colours in the overlay, 0 to 1.")] = 0.5,
    size: Annotated[str | None, _OUT(metavar="HxW", help="Of the heatmaps; by default the model's input.")] = None,
    fuse: Annotated[str | None, _OUT(help="Join several layers' maps: max or mean.")] = None,
    normalize: Annotated[str | None, _OUT(help="max, minmax or none (signed).")] = None,
    opset: Annotated[
        int | None, _FILE(help="Of the file; by default the source's, 18 at least (17 of an older float16 one).")
    ] = None,
    fp16: Annotated[bool, _FILE("--fp16", help="Half the size: weights are stored as float16.")] = False,
    external_data: Annotated[bool, _APART] = False,
    ort: Annotated[bool, _FILE("--ort", help="Also OUT.ort, and the operators for a reduced build.")] = False,
    force: Annotated[bool, _FILE("--force", help="Replace an export, or any file, that is there.")] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Write the model with its explanation inside: heatmap and class come out of an ordinary run, anywhere.

    Exit codes: 0 written; 2 refused, and nothing is written.
    """
    from onnxcam.cli.job import explainers
    from onnxcam.export import Form, export

    form = Form(
        fixed_class=fixed_class, top1=top1, raw=raw, boxes=boxes, size=_sides("size", size), overlay=overlay,
        colormap=colormap, blend=blend, picture="any" if picture == "any" else _sides("picture", picture),
        opset=opset, fp16=fp16, external_data=external_data, ort=ort,
    )  # fmt: skip
    found = explainers(
        [model], method or ["gradcam"], None, layer or ["auto"], [], None,
        preprocess=preprocess, labels=labels, output=output, fuse=fuse, normalize=normalize, engine="portable",
        straight_through=straight_through, budget=None,
    )  # fmt: skip
    _tell(export(found, out, target, form, force), as_json)


def _tell(written: Exported, as_json: bool) -> None:
    from onnxcam.cli.listing import say

    *others, out = map(str, written.files)
    gone = list(map(str, written.removed))
    if as_json:
        ends = {"inputs": written.model.inputs, "outputs": written.model.outputs}
        names = {kind: [str(v.name) for v in values] for kind, values in ends.items()}
        print(json.dumps({"file": out, "files": [*others, out], "removed": gone, **written.record, **names}))
    if gone:
        say(f"removed {', '.join(gone)}, of an earlier export")
    maps = [
        f"{name} ({' at '.join(filter(None, [m['method'], m['layer']]))})" for name, m in written.record["maps"].items()
    ]
    say(f"wrote {', '.join([out, *reversed(others)])}: {', '.join(maps)}")


def _sides(option: str, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    read = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", text.lower(), re.ASCII)
    if read is None:
        any_size = "any, or " if option == "picture" else ""
        raise OptionError(f"--{option} {text}: write {any_size}HEIGHTxWIDTH, such as 480x640")
    return int(read[1]), int(read[2] or read[1])
