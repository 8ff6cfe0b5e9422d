"""docs/runtimes.md: what each runtime makes of the exported models, and why where it is not the reference's."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxcam.methods import find_method

METHODS = (
    "gradcam", "layercam", "gradcampp", "eigencam",
    "saliency", "guided_backprop", "guided_gradcam", "input_x_gradient",
)  # fmt: skip
PLAIN, GIVEN = "model", "gradcam class"
"""Columns beside the methods with the top class: the model as it came, and Grad-CAM of a class that is fed."""
COLUMNS = (PLAIN, GIVEN, *METHODS)
TITLES = {
    "onnxruntime-oldest": "ONNX Runtime 1.14",
    "onnxruntime-training": "ONNX Runtime, training build",
    "web-node": "ONNX Runtime Web in Node",
    "chromium": "ONNX Runtime Web in Chromium",
    "openvino": "OpenVINO",
    "opencv": "OpenCV dnn",
    "tract": "tract",
    "reference": "ONNX's reference evaluator",
    "litert": "LiteRT (TensorFlow Lite)",
    "mnn": "MNN",
    "ncnn": "ncnn",
}
INTRODUCTION = """# Where exported models run

{models} models, each exported by `onnxcam export` with each of eight methods, run by every runtime that could be had,
against ONNX Runtime 1.31 on the same picture. Written by `make runtimes`.

CAM columns show the largest difference of the heatmap, which lies in [0, 1]: green up to 1e-3. Pixel methods show the
correlation with the reference: green from 0.99. `model` is the file as it came, without any explanation: the largest
difference of its own outputs, green up to 1e-3 of their size. `gradcam class` feeds class 1 by the input
`onnxcam/class`; the other columns explain the top class (`--top1`). What is red is **bold**, with its reason below
the table; "-" cannot be exported (Eigen-CAM at a layer of any size), an empty field was not run. `shapes-*` are the
project's own models, in `model_zoo/`; the others are public ones of TensorFlow, PyTorch, CNTK, Caffe and Paddle.

What an exported file does so that it runs in so many places:

- Only operators of the default domain, of the model's own opset, and of opset 18 where it was older.
- Inputs and outputs have shapes, and nothing in between has: tract takes the noted name of a batch for a promise, and
  then cannot settle it (its `model` column). OpenCV wants the shape of every output.
- What a dense layer multiplies is known not to be broadcast, so no axis is looked for in the run (`NonZero` feeding
  `ReduceSum`), which OpenVINO does not read. Where a free axis of a sum of maps may really be stretched it still is
  looked for: a form with fixed axes (a Reshape that splits each axis, then one ReduceSum) is right everywhere, and
  takes 0.32 ms instead of 0.04 for a map of 64 x 56 x 56 on ONNX Runtime (one thread).
- OpenVINO's CPU plugin (2026.4) prepares a constant once for two matrix products of which one takes it transposed. If
  it is square the two fit the same place, and one product is wrong: by all of its value, without a word. A gradient
  does just that with every square weight, so it reads twice the weight and halves the product: the same bits, 1.00 x
  the time on ONNX Runtime (shapes-vit, saliency: 3.40 ms against 3.41), and no second copy in the file.
- MaxPool's gradient (`ScatterElements` with `reduction="add"` at MaxPool's `Indices`) is right on all of these.

OpenVINO computes in half precision where the machine has it: ask for `INFERENCE_PRECISION_HINT: f32`.
"""


@dataclass(frozen=True)
class Cell:
    """One exported file.

    Attributes:
        model, column: where it stands in the table.
        file: name of the .onnx file.
        feeds: per input its name, type, shape and the file of its bytes.
        outputs: names, in order.
        shape: per input its shape in the model; 1 for a free batch.
    """

    model: str
    column: str
    file: str
    feeds: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return Path(self.file).stem


def _of_pixels(cell: Cell) -> bool:
    return find_method(cell.column.split()[0]).relu is not None


def green(cell: Cell, outputs: dict[str, Any]) -> bool:
    """A CAM within 1e-3 of the reference in [0, 1]; pixels correlating by .99; the model's own outputs within 1e-3."""
    if cell.column == PLAIN:
        return all("error" not in o and o["max"] <= 1e-3 * max(1.0, o["top"]) for o in outputs.values())
    shown = outputs["heatmap"]
    return "error" not in shown and (shown["r"] >= 0.99 if _of_pixels(cell) else shown["max"] <= 1e-3)


@dataclass(frozen=True)
class Reason:
    """Why cells are red.

    Attributes:
        runtime, cell, told: patterns of the runtime's name, of MODEL.METHOD and of its error (empty if none).
        text: the reason.
    """

    runtime: str
    cell: str
    told: str
    text: str

    def fits(self, runtime: str, cell: str, error: str) -> bool:
        wanted = ((self.runtime, runtime), (self.cell, cell), (self.told, error))
        return all(re.search(pattern, text) for pattern, text in wanted)


_SOURCE = r"\.model$"
REASONS = (
    Reason(
        "", r"^squeezenet11_fp16_winml\.", r"^$",
        "Half precision: runtimes round the model's own float16 layers differently, and so what is read there.",
    ),
    Reason(
        "oldest", "", "Unsupported model IR version",
        "ONNX Runtime 1.14 knows opsets up to 18 and IR versions up to 8; this model comes with newer ones.",
    ),
    Reason(
        "oldest", "fp16", "died",
        "ONNX Runtime 1.14 dies while it loads any float16 model of opset 18, this one without its maps as well; 1.15 "
        "does not.",
    ),
    Reason(
        "oldest", _SOURCE, "under development",
        "The model names an operator set that 1.14 does not know and that no node is of; the exported files name none.",
    ),
    Reason("training", "dynamo", "", "The training build is ONNX Runtime 1.19: opsets up to 21; this model has 23."),
    Reason(
        "web|chromium", "jax" + _SOURCE, "Can't merge shape info",
        "The file's own notes on shapes name a wrong length, at which this build balks; the exported files carry none.",
    ),
    Reason("web|chromium", "zipmap" + _SOURCE, "non-tensor", "Outputs that are maps do not come out of JavaScript."),
    Reason(
        "opencv", "int8-dynamic", "DynamicQua",
        "OpenCV has no DynamicQuantizeLinear that takes a float picture.",
    ),
    Reason("opencv", "zipmap", "STRING", "OpenCV reads no model with an output of labels (strings)."),
    Reason(
        "opencv", "int8.*(saliency|guided|input_x)", "outShapes",
        "OpenCV cannot read an output beside the one that its int8 kernels fuse.",
    ),
    Reason(
        "opencv", "int8", "",
        "OpenCV computes the int8 layers of the model itself otherwise (logits off by .2, or the run fails).",
    ),
    Reason(
        "openvino", "zipmap" + _SOURCE, "", "OpenVINO reads no output that is a map.",
    ),
    Reason("openvino", "zipmap", "", "OpenVINO lacks ai.onnx.ml's ArrayFeatureExtractor, which the model uses."),
    Reason(
        "openvino", "(free|matlab|paddle_textline)", "axes tensor's shape",
        "Maps of any size are added up in this model: whether one was stretched is found out in the run, and OpenVINO "
        "wants the number of axes of a ReduceSum beforehand. Fix the picture's size before the export.",
    ),
    Reason(
        "openvino", "qoperator" + _SOURCE, "", "OpenVINO refuses this QLinearConv with one scale per output channel.",
    ),
    Reason(
        "openvino", "int8", "",
        "OpenVINO computes the int8 layers of the model itself otherwise: it fuses quantisers and rounds elsewhere.",
    ),
    Reason(
        "tract", _SOURCE, "Impossible to unify",
        "tract cannot settle the batch of a file that notes symbolic shapes in between; the exported files note none.",
    ),
    Reason("tract", "fp16", "Gemm", "tract computes the model's own float16 Gemm in float32, and stops at that type."),
    Reason("tract", "zipmap", "String", "Outputs that are labels (strings) do not come out of tract's Python package."),
    Reason("ncnn", "gradcam$", "", "ncnn lacks layers that the maps need: ArgMax, comparisons, Where."),
    Reason(
        "ncnn", _SOURCE, "",
        "pnnx, ncnn's converter, fails, or ncnn lacks a layer of the model itself (Pad, DynamicQuantizeLinear, casts).",
    ),
    Reason(
        "reference", "", "operator 'DequantizeLinear'",
        "The evaluator has DequantizeLinear from opset 19 on; this model is of an older one.",
    ),
    Reason("reference", _SOURCE, "QLinearAdd|ZipMap", "The evaluator lacks QLinearAdd and ZipMap."),
    Reason(
        "reference", _SOURCE, "^$",
        "The evaluator computes an operator of the file's old opset otherwise; at 18 it is right.",
    ),
    Reason("litert", "int8-qdq" + _SOURCE, "", "onnx2tf converts the model's own int8 layers to other values."),
    Reason("litert", "", "onnx2tf", "onnx2tf stops while it converts; not looked into further."),
    Reason(
        "litert", "gradcam$", "^$",
        "onnx2tf puts channels last and guesses where they are; behind this model's Reshape it guesses wrongly.",
    ),
    Reason("mnn", "fp16", "float16", "MNN's Python package takes no float16 input."),
    Reason("mnn", "int8", "", "MNN's converter stops at the model's own int8 layers."),
    Reason("mnn", "", "", "MNN does not convert the model, or computes it otherwise; not looked into further."),
    Reason("tract", "int8", "Unimplemented", "tract lacks QLinearAdd."),
    Reason("tract", "int8", "substitute", "tract mistakes the sign of the model's 8-bit input while it simplifies."),
)  # fmt: skip


def document(cells: Sequence[Cell], folder: Path) -> str:
    """The page, from FOLDER/RUNTIME.json of every runtime that was run."""
    runtimes = {r: json.loads(f.read_text()) for r in TITLES if (f := folder / f"{r}.json").exists()}
    parts = [_summary(cells, runtimes), *(_section(cells, r, found["cells"]) for r, found in runtimes.items())]
    return INTRODUCTION.format(models=len({c.model for c in cells})) + "\n" + "\n\n".join(parts) + "\n"


def _summary(cells: Sequence[Cell], runtimes: dict[str, Any]) -> str:
    rows = []
    for runtime, found in runtimes.items():
        counts = [_count(cells, found["cells"], column) for column in COLUMNS]
        rows.append([f"[{TITLES[runtime]}](#{_anchor(TITLES[runtime])})", found["version"], *counts])
    return _table(["runtime", "versions", *COLUMNS], rows)


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def _count(cells: Sequence[Cell], found: dict[str, Any], column: str) -> str:
    measured = [found[c.name] for c in cells if c.column == column and c.name in found]
    return f"{sum(f['green'] for f in measured)}/{len(measured)}" if measured else ""


def _section(cells: Sequence[Cell], runtime: str, found: dict[str, Any]) -> str:
    """One runtime: models down, methods across, and the reasons of what is red."""
    reasons: list[str] = []
    models = list(dict.fromkeys(c.model for c in cells))
    by_place = {(c.model, c.column): c for c in cells}
    columns = [c for c in COLUMNS if any(by_place[m, c].name in found for m in models if (m, c) in by_place)]
    rows = []
    for model in models:
        shown = [_shown(by_place.get((model, c)), runtime, found, reasons) for c in columns]
        rows.append([model, *shown])
    notes = "\n".join(f"{k}. {text}" for k, text in enumerate(reasons, 1))
    return f"## {TITLES[runtime]}\n\n" + _table(["model", *columns], rows) + (f"\n\n{notes}" if notes else "")


def _shown(cell: Cell | None, runtime: str, found: dict[str, Any], reasons: list[str]) -> str:
    if cell is None:
        return "-"
    told = found.get(cell.name)
    if told is None:
        return ""
    figure = _figure(cell, told)
    if told["green"]:
        return figure
    text = _reason(cell, runtime, told, found)
    if text not in reasons:
        reasons.append(text)
    return f"**{figure}** ({reasons.index(text) + 1})"


def _figure(cell: Cell, told: dict[str, Any]) -> str:
    """CAMs: the largest difference; pixels: the correlation; the model itself: its outputs' largest difference."""
    if "error" in told:
        return "fails"
    if cell.column == PLAIN:
        return f"{max((o.get('max', 1e30) for o in told['outputs'].values()), default=0):.0e}".replace("e-0", "e-")
    shown = told["outputs"]["heatmap"]
    if "error" in shown:
        return "fails"
    return f"{shown['r']:.4f}" if _of_pixels(cell) else f"{shown['max']:.0e}".replace("e-0", "e-")


def _reason(cell: Cell, runtime: str, told: dict[str, Any], found: dict[str, Any]) -> str:
    error = told.get("error", "")
    for reason in REASONS:
        if reason.fits(runtime, cell.name, error):
            return reason.text
    plain = found.get(f"{cell.model}.{PLAIN}")
    if cell.column != PLAIN and plain is not None and not plain["green"]:
        return "As the model itself, which this runtime does not compute as ONNX Runtime does."
    return f"Unexplained: {error or 'other values'}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:" for _ in heads[1:]]], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
