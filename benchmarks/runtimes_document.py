"""docs/runtimes.md and .csv: what each runtime makes of the exported models, and why it is not the reference's."""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
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

The table counts green models of those that were run. A CAM is green where the heatmap, which lies in [0, 1], differs by
1e-3 at most; a pixel method where it correlates with the reference by 0.99 at least. `model` is the file as it came,
without any explanation, green where its own outputs differ by 1e-3 of their size at most. `gradcam class` feeds class 1
by the input `onnxcam/class`; the other columns explain the top class (`--top1`). Below stands, runtime by runtime, what
is red and why. `shapes-*` are the project's own models, in `model_zoo/`; the others are public ones of TensorFlow,
PyTorch, CNTK, Caffe and Paddle.

[runtimes.csv](runtimes.csv) has the figure of every model: the largest difference, or the correlation. What is red has
the number of its reason behind it; "-" cannot be exported (Eigen-CAM at a layer of any size), an empty field was not
run.

What an exported file does so that it runs in so many places:

- Only operators of the default domain, of the model's own opset, and of opset 18 where it was older (17 in float16).
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
- OpenVINO takes a `HardSigmoid`'s `beta` of 0 for the default, 0.5: the masks of gradients write -1.2e-38.

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


@dataclass(frozen=True)
class Sheet:
    """One runtime: models down, methods across.

    Attributes:
        runtime: its name.
        version: what was run.
        rows: per model the figure of every column; what is red has the number of its reason behind it.
        reds: per reason the columns that are red by it, of each model.
        counts: per column how many are green, and how many were run.
    """

    runtime: str
    version: str
    rows: dict[str, dict[str, str]]
    reds: dict[str, dict[str, list[str]]]
    counts: dict[str, tuple[int, int]]


def sheets(cells: Sequence[Cell], folder: Path) -> list[Sheet]:
    """From FOLDER/RUNTIME.json of every runtime that was run."""
    files = {runtime: folder / f"{runtime}.json" for runtime in TITLES}
    return [_sheet(cells, runtime, json.loads(f.read_text())) for runtime, f in files.items() if f.exists()]


def _sheet(cells: Sequence[Cell], runtime: str, told: dict[str, Any]) -> Sheet:
    found, reds = told["cells"], dict[str, dict[str, list[str]]]()
    rows = {c.model: dict.fromkeys(COLUMNS, "-") for c in cells}
    for cell in cells:
        rows[cell.model][cell.column] = _shown(cell, runtime, found, reds)
    ran = {
        column: [found[c.name]["green"] for c in cells if c.column == column and c.name in found] for column in COLUMNS
    }
    counts = {column: (sum(greens), len(greens)) for column, greens in ran.items()}
    return Sheet(runtime, told["version"], rows, reds, counts)


def _shown(cell: Cell, runtime: str, found: dict[str, Any], reds: dict[str, dict[str, list[str]]]) -> str:
    told = found.get(cell.name)
    if told is None:
        return ""
    figure = _figure(cell, told)
    if told["green"]:
        return figure
    text = _reason(cell, runtime, told, found)
    reds.setdefault(text, {}).setdefault(cell.model, []).append(cell.column)
    return f"{figure} ({list(reds).index(text) + 1})"


def document(found: Sequence[Sheet]) -> str:
    """The page: what is green, and every reason of what is not."""
    models = len({model for sheet in found for model in sheet.rows})
    rows = [
        [f"[{TITLES[s.runtime]}](#{_anchor(TITLES[s.runtime])})", s.version, *map(_share, s.counts.values())]
        for s in found
    ]
    parts = [_table(["runtime", "versions", *COLUMNS], rows), *map(_section, found)]
    return INTRODUCTION.format(models=models) + "\n" + "\n\n".join(parts) + "\n"


def figures(found: Sequence[Sheet]) -> str:
    """The figure of every model on every runtime, as CSV."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["runtime", "file", *COLUMNS])
    table.writerows([TITLES[s.runtime], model, *row.values()] for s in found for model, row in s.rows.items())
    return text.getvalue()


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def _share(count: tuple[int, int]) -> str:
    return f"{count[0]}/{count[1]}" if count[1] else ""


def _section(sheet: Sheet) -> str:
    """The reasons of one runtime, and what is red by each."""
    notes = [
        f"{_wrapped(f'{k}. {text}')}\n{_where(reds, sheet)}" for k, (text, reds) in enumerate(sheet.reds.items(), 1)
    ]
    return f"## {TITLES[sheet.runtime]}\n\n" + ("\n".join(notes) or "All green.")


def _where(reds: dict[str, list[str]], sheet: Sheet) -> str:
    """Models, by the columns that are red there."""
    ran = [column for column, (_, count) in sheet.counts.items() if count]
    alike: dict[tuple[str, ...], list[str]] = {}
    for model, columns in reds.items():
        alike.setdefault(tuple(columns), []).append(model)
    lines = [
        f"- {_named(columns, ran)}: {'every model' if len(models) == len(sheet.rows) else ', '.join(models)}"
        for columns, models in alike.items()
    ]
    return "\n".join(_wrapped(line, "   ") for line in lines)


def _wrapped(line: str, indent: str = "") -> str:
    return textwrap.fill(line, 120, initial_indent=indent, subsequent_indent=f"{indent}   ", break_on_hyphens=False)


def _named(columns: Sequence[str], ran: Sequence[str]) -> str:
    missing = [c for c in ran if c not in columns]
    if len(missing) < 3 < len(columns):
        return f"all but {' and '.join(missing)}" if missing else "all"
    return ", ".join(columns)


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
