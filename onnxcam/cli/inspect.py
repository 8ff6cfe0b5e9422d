"""``onnxcam inspect``: what is in a model, and what can be explained."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxcam.cli.listing import say

if TYPE_CHECKING:
    from onnxcam.model import Model

_SHOWN = 8
_KINDS = {"classes": "classes", "dense": "classes per pixel", "boxes": "classes per box", "tokens": "words per step"}
_NO_LAYER = "none: no spatial map between image and logits; saliency and guided_backprop need none"


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx file, or zoo:NAME.")],
    output: Annotated[str | None, typer.Option(help="Model output to look at, where there are several.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    sidecar: Annotated[
        bool,
        typer.Option("--write-sidecar", help="Write MODEL.toml beside it: preprocessing and labels, to be edited."),
    ] = False,
) -> None:
    """Show inputs, logits, candidate layers, activations, engines and preprocessing, each with its reason.

    Exit codes: 0 shown, and the sidecar written if asked for; 2 the model cannot be used, or the sidecar is not written
    (it is there already, or the model is one of the zoo).
    """
    from onnxcam.model import load_model
    from onnxcam.opening import locate
    from onnxcam.runtime import doubting

    opened = load_model(locate(model))
    with doubting(opened):
        facts = describe(opened, output)
    if sidecar:
        say(f"wrote {_write_sidecar(opened)}")
    if as_json:
        print(json.dumps(facts))
    else:
        _show(facts)


def _write_sidecar(model: Model) -> Path:
    from onnxcam.conventions import known, place_of_sidecar
    from onnxcam.sidecar import write_sidecar

    path, told = place_of_sidecar(model), known(model)
    return write_sidecar(path, sha256=model.sha256, preprocess=told.preprocess, labels=told.labels)


def describe(model: Model, output: str | None = None) -> dict[str, Any]:
    """Everything that the graph tells, as JSON values."""
    from onnxcam.export.provenance import provenance
    from onnxcam.graph.activations import activation_sites
    from onnxcam.graph.inspect import find_logits, target_layers
    from onnxcam.graph.paths import first_float, float_path
    from onnxcam.labels import misfit
    from onnxcam.methods import possible
    from onnxcam.offers import given_by
    from onnxcam.opening import choose

    image, logits = model.image_input, find_logits(model, output)
    layers = target_layers(model, logits)
    pixels = first_float(model.values[image.name])
    path = float_path(model.values[logits.name], [pixels])
    sites = activation_sites(path)
    preset, reason, labels = choose(model, "auto", None)
    return {
        "model": str(model.path),
        "sha256": model.sha256,
        "opset": model.source_opset,
        "producer": " ".join(filter(None, [model.ir_model.producer_name, model.ir_model.producer_version])),
        "notes": [*model.notes, *filter(None, [misfit(labels, logits.classes)])],
        "nodes": len(model.graph),
        "weights_bytes": model.nbytes(),
        "input": {**asdict(image), "dtype": image.dtype.name},
        "other_inputs": [str(v.name) for v in model.inputs if v.name != image.name],
        "outputs": [{"name": str(v.name), "dtype": str(v.dtype), "shape": _shape(v)} for v in model.outputs],
        "logits": asdict(logits),
        "layers": [{**asdict(layer), "layout": str(layer.layout)} for layer in layers],
        "activations": {"sites": len(sites), "rectifiers": sum(s.rectifier for s in sites)},
        "engines": _engines(model, logits.name, layers[0].name if layers else None, pixels),
        "methods": possible(given_by(model, logits)),
        "preprocess": {**preset.to_dict(), "reason": reason},
        "labels": None if labels is None else len(labels),
        "export": provenance(model.meta),
        "metadata": model.meta,
    }


def _shape(value: Any) -> list[Any] | None:
    from onnxcam.model import dims_of

    return None if value.shape is None else list(dims_of(value))


def _engines(model: Model, logits: str, layer: str | None, pixels: Any) -> dict[str, dict[str, str]]:
    """Per engine: "ok", or why not, for the gradient at the best layer and at the image."""
    from onnxcam.gradients import training
    from onnxcam.gradients.expansion import is_covered
    from onnxcam.gradients.refusals import Refusal, doubtful_pools, unknown_ranks
    from onnxcam.gradients.rules import NO_GRADIENT
    from onnxcam.graph.paths import float_path

    def portably(path: Any) -> str:
        missing = [Refusal(n, "no gradient rule") for n in path if not is_covered(n, model.opset)]
        return "; ".join(map(str, [*missing, *unknown_ranks(path), *doubtful_pools(model.graph)]))

    checks: dict[str, Callable[[Any], str]] = {"portable": portably, "training": training.why_not}
    starts = {"layer": model.values[layer] if layer else None, "image": pixels}
    paths = {name: float_path(model.values[logits], [v], NO_GRADIENT) for name, v in starts.items() if v is not None}
    return {engine: {name: why(path) or "ok" for name, path in paths.items()} for engine, why in checks.items()}


def _show(facts: dict[str, Any]) -> None:
    from onnxcam.cli.listing import table

    image, logits, sites = facts["input"], facts["logits"], facts["activations"]
    size = f"{image['height'] or 'any'}x{image['width'] or 'any'}"
    rows = [
        ("file", f"{facts['model']} (opset {facts['opset']}, {facts['producer'] or 'producer unknown'})"),
        *_export_rows(facts["export"]),
        ("input", f"{image['name']}: {image['dtype']} {image['layout']}, {image['channels']} channels, {size}, batch "
                  f"{image['batch'] or 'any'}; {image['reason']}"),
        ("outputs", ", ".join(f"{o['name']} {o['dtype']} {_dims(o['shape'])}" for o in facts["outputs"])),
        ("logits", f"{logits['name']}: {logits['classes'] or 'any number of'} {_KINDS[logits['kind']]}; "
                   f"{logits['reason']}"),
        ("activations", f"{sites['sites']}, of them {sites['rectifiers']} rectifiers (guided methods change these)"),
        ("preprocess", facts["preprocess"]["reason"]),
        ("labels", "none known" if facts["labels"] is None else f"{facts['labels']} class names"),
        ("target layer", "{name}; {reason}".format(**facts["layers"][0]) if facts["layers"] else _NO_LAYER),
        ("methods", _methods_line(facts["methods"])),
        *((f"engine {name}", _engine_line(can)) for name, can in facts["engines"].items()),
        *(("note", note) for note in facts["notes"]),
    ]  # fmt: skip
    table(("what", "found"), rows)
    best = [
        (str(i + 1), layer["name"], layer["op_type"], _dims(layer["shape"]), layer["layout"])
        for i, layer in enumerate(facts["layers"][:_SHOWN])
    ]
    if best:
        table(("#", "target layer, best first", "made by", "shape", "layout"), best)
    if len(facts["layers"]) > _SHOWN:
        print(f"... {len(facts['layers'])} in all; --json lists them with their reasons")


def _export_rows(told: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What an exported model is, and of what."""
    if told is None or "damaged" in told:
        return [("exported", f"an explainable model whose record is damaged ({told['damaged']})")] if told else []
    maps, settled = told["maps"], told["classes"] or {}
    source, classes = told["source"], ", ".join(f"{n} is {c}" for n, c in settled.items())
    more = [("maps", f"... {len(maps)} in all; --json lists them")] if len(maps) > _SHOWN else []
    return [
        ("exported", f"by onnxcam {told['onnxcam']} from {source['name'] or 'a model'} (sha256 {source['sha256']})"),
        ("explains", f"{told['target']}{f'; settled: {classes}' if classes else ''}"),
        *((n, f"{' at '.join(filter(None, [m['method'], m['layer']]))}; normalize {m['normalize']}")
          for n, m in list(maps.items())[:_SHOWN]),
        *more,
        *_picture_row(told["picture"]),
    ]  # fmt: skip


def _picture_row(told: dict[str, Any] | None) -> list[tuple[str, str]]:
    from onnxcam.image import Preprocess

    if told is None:
        return []
    size = "any size" if told["size"] == "any" else "x".join(map(str, told["size"]))
    return [("takes", f"an RGB picture, {size}; inside: {Preprocess.from_dict(told['preprocess']).name}")]


def _methods_line(names: Sequence[str]) -> str:
    """All, or which not."""
    from onnxcam.methods import METHODS

    missing = [name for name in METHODS if name not in names]
    return f"all {len(METHODS)} but {', '.join(missing)}" if 0 < len(missing) < len(names) else (
        f"all {len(METHODS)}" if not missing else ", ".join(names)
    )  # fmt: skip


def _dims(shape: Sequence[Any] | None) -> str:
    """A shape as people write it; axes that shape inference named are any."""
    if shape is None:
        return "(unknown)"
    return "(" + ", ".join("any" if d is None or str(d).startswith("unk__") else str(d) for d in shape) + ")"


def _engine_line(can: dict[str, str]) -> str:
    return "; ".join(f"{what}: {textwrap.shorten(state, 120, placeholder=' ...')}" for what, state in can.items())
