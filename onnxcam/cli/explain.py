"""``onnxcam explain``: pictures in, overlays and records out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxcam.errors import OptionError

if TYPE_CHECKING:
    from onnxcam import BlackBox, Explainer

_MODEL = typer.Argument(metavar="MODEL", help="An .onnx file, or zoo:NAME; left out with --endpoint.")
STRAIGHT = typer.Option("--straight-through", help="Let gradients pass signs and roundings (binarised networks).")
ISOLATE = typer.Option("--isolate", help="Native code in a process of its own: a crash is the error of one picture.")
_IMAGES = typer.Argument(metavar="IMAGE", help="Pictures.")


def command(
    model: Annotated[str, _MODEL],
    images: Annotated[list[Path] | None, _IMAGES] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for overlays, arrays and records.")] = Path(
        "explanations"
    ),
    method: Annotated[list[str] | None, typer.Option(help="See `onnxcam methods`; several if you like.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Class index or label, probability:A, margin:A,B, sum:A,B, finer:A, CLASS@X,Y, box:CLASS, token:WORD, "
            "similar:PICTURE, value, ...; top1 (the default) for the predicted. `onnxcam methods --targets` lists them."
        ),
    ] = None,
    layer: Annotated[list[str] | None, typer.Option(help="Target layer; give it several times for several.")] = None,
    layers: Annotated[str | None, typer.Option(help="all: a map of every candidate layer, in one picture.")] = None,
    fuse: Annotated[str | None, typer.Option(help="Join several layers' maps: max or mean.")] = None,
    grid: Annotated[bool, typer.Option("--grid", help="Methods x targets in one picture, for each image.")] = False,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the method: samples=50.")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Samples, masks or steps for each image.")] = None,
    batch: Annotated[int, typer.Option(help="Images of one run, for methods of many runs.")] = 16,
    smooth: Annotated[list[str] | None, typer.Option(help="aug, eigen, or both.")] = None,
    preprocess: Annotated[
        str, typer.Option(help="auto, imagenet, tf, caffe, raw, unit; settings may follow: caffe,mean=104/117/123.")
    ] = "auto",
    labels: Annotated[Path | None, typer.Option(help="Class names: text, CSV or JSON.")] = None,
    engine: Annotated[str, typer.Option(help="auto, portable or training.")] = "auto",
    output: Annotated[
        str | None, typer.Option(help="Model output to explain, where there are several; NAME[3]: that element of it.")
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=VALUE", help="A further input: FILE.npy, numbers, or words."),
    ] = None,
    then: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="A model behind the first, such as its decoder.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A served model in place of MODEL: http://HOST:PORT/v2/models/NAME (KServe v2)."
        ),
    ] = None,
    colormap: Annotated[str | None, typer.Option(help="jet (the default), turbo, viridis, diverging, ...")] = None,
    blend: Annotated[float, typer.Option(help="Share of the colours, 0 to 1.")] = 0.5,
    style: Annotated[str, typer.Option(help="blend, add or mask.")] = "blend",
    recipe: Annotated[
        str | None, typer.Option(help="Overlays as well-known scripts draw them: hook, additive or matlab.")
    ] = None,
    normalize: Annotated[
        str | None, typer.Option(help="max, minmax, percentile or none (signed); by default what suits the method.")
    ] = None,
    straight_through: Annotated[bool, STRAIGHT] = False,
    title: Annotated[bool, typer.Option(help="Write class and score above the picture.")] = True,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime.")] = None,
    provider: Annotated[list[str] | None, typer.Option(help="Execution provider of the runtime.")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Largest picture that is opened, in pixels.")] = None,
    isolate: Annotated[bool, ISOLATE] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per explanation on stdout.")] = False,
) -> None:
    """Explain pictures: why does the model answer as it does?"""
    from onnxcam.cli.job import Job, Look, boxes, explainers
    from onnxcam.explanation import make_folder
    from onnxcam.inputs import parse_inputs
    from onnxcam.methods import find_method

    look = Look(colormap, blend, style, title, recipe)
    look.check()
    if max_pixels is not None and max_pixels < 1:
        raise OptionError(f"--max-pixels {max_pixels}: give a number above 0")
    if grid and layers:
        raise OptionError("--grid and --layers make different pictures; give one of them")
    if layers and (flat := [name for name in method or () if not find_method(name).has_layer]):
        raise OptionError(f"--layers shows target layers, and {flat[0]} has none; take a CAM method")
    pictures = list(images or ())
    if endpoint is not None:
        pictures.insert(0, Path(model))
        only = {
            "--layer": layer, "--layers": layers, "--fuse": fuse, "--smooth": smooth, "--input": given, "--then": then,
            "--straight-through": straight_through, "--threads": threads, "--provider": provider,
            "--engine": engine != "auto", "--isolate": isolate,
        }  # fmt: skip
        _check_served([name for name, value in only.items() if value])
    if not pictures:
        raise OptionError(f"nothing to explain: give pictures behind {model}, as in onnxcam explain MODEL IMAGE...")
    found: Sequence[Explainer | BlackBox] = boxes(
        endpoint, method or ["rise"], setting or [], output, budget,
        preprocess=preprocess, labels=labels, normalize=normalize, batch=batch,
    ) if endpoint is not None else explainers(
        [model, *(then or [])], method or ["gradcam"], layers, layer or ["auto"], setting or [],
        target_kind=look.target,
        preprocess=preprocess, engine=engine, labels=labels, providers=provider, threads=threads, output=output,
        fuse=fuse, smooth=smooth or (), normalize=normalize, straight_through=straight_through, budget=budget,
        batch=batch, inputs=parse_inputs(given or []), isolate=isolate,
    )  # fmt: skip
    mine, folder = not out.exists(), make_folder(out)
    shape = "grid" if grid else "layers" if layers else "single"
    job = Job(found, [None if t == "top1" else t for t in target or ["top1"]], folder, look, shape, max_pixels, as_json)
    try:
        code = job.run(pictures)
    finally:
        if mine and not any(folder.iterdir()):
            folder.rmdir()
    raise typer.Exit(code)


def _check_served(given: list[str]) -> None:
    if given:
        raise OptionError(f"{given[0]} reaches into a model; behind --endpoint only its scores are known: leave it out")
