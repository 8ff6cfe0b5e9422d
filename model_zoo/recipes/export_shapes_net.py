"""Write shapes-net as PyTorch's exporters and the common tools behind them write it.

    pip install -r requirements-torch.txt -r requirements-tools.txt
    python export_shapes_net.py [NAME...] [--out ..]

Without names: all. ``torchscript``, ``dynamo``, ``free``, ``external`` and ``weak`` come from PyTorch and need the
first list alone. ``fp16``, ``fp16-io32``, ``int8-*`` and ``zipmap`` start from ``../shapes-net-torchscript.onnx`` and
need the second alone. The exporters of other frameworks are scripts of their own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import scenes

HERE = Path(__file__).resolve().parent
ZOO = HERE.parent
REFERENCE = ZOO / "shapes-net-torchscript.onnx"
CALIBRATION = 100  # training scenes
KEPT_METADATA = {"namespace", "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"}
Axes = dict[str, dict[int, str]]


def tensor(first_seed: int, count: int) -> np.ndarray:
    """Scenes of consecutive seeds, float32 (N, 3, 112, 112) in [0, 1]."""
    images = np.stack([scenes.render(seed).image for seed in range(first_seed, first_seed + count)])
    return images.transpose(0, 3, 1, 2).astype(np.float32) / 255


def finish(model: onnx.ModelProto, path: Path, told: bool = True, **how: Any) -> None:
    """Save without traces of the machine; ``told``: with labels and preprocessing, as a user of the tool can add."""
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.initializer, model.graph):
        item.ClearField("doc_string")
        kept = {m.key: m.value for m in item.metadata_props if m.key in KEPT_METADATA}
        item.ClearField("metadata_props")
        onnx.helper.set_model_props(item, kept)
    if told:
        own = {"onnxcam/labels": json.dumps(scenes.CLASSES), "onnxcam/preprocess": json.dumps({"name": "unit"})}
        onnx.helper.set_model_props(model, own)
    if how:
        path.with_name(how["location"]).unlink(missing_ok=True)  # onnx appends to what is there
    onnx.save(model, path, **how)
    if how:
        path.with_name(how["location"]).chmod(0o644)  # onnx leaves it to its owner alone
    onnx.checker.check_model(str(path), full_check=not how)


# ---------------------------------------------------------------- PyTorch's own exporters


def traced(axes: Axes, weights: Path | None = None, opset: int = 13) -> onnx.ModelProto:
    """The older exporter, TorchScript."""
    import shapes_net
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traced.onnx"
        torch.onnx.export(
            shapes_net.load(weights or shapes_net.WEIGHTS), (torch.zeros(1, 3, scenes.SIZE, scenes.SIZE),), str(path),
            dynamo=False, opset_version=opset, input_names=["image"], output_names=["logits"], dynamic_axes=axes,
        )  # fmt: skip
        return onnx.load(path)


BATCH: Axes = {"image": {0: "N"}, "logits": {0: "N"}}


def torchscript(path: Path) -> None:
    finish(traced(BATCH), path)


def weak(path: Path) -> None:
    import shapes_net

    finish(traced(BATCH, shapes_net.WEAK_WEIGHTS), path)


def free(path: Path) -> None:
    """Fully convolutional: height and width are free too."""
    finish(traced({"image": {0: "N", 2: "H", 3: "W"}, "logits": {0: "N"}}), path)


def external(path: Path) -> None:
    """Weights in ``PATH.data``."""
    location = {"save_as_external_data": True, "location": f"{path.name}.data", "size_threshold": 0}
    finish(traced(BATCH), path, **location)


def dynamo(path: Path) -> None:
    """The newer exporter, torch.export, at the newest opset that it names."""
    import shapes_net
    import torch
    from torch.onnx._constants import ONNX_MAX_OPSET

    program = torch.onnx.export(
        shapes_net.load(), (torch.zeros(2, 3, scenes.SIZE, scenes.SIZE),), dynamo=True, opset_version=ONNX_MAX_OPSET,
        input_names=["image"], output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("N")},), verbose=False,
    )  # fmt: skip
    finish(program.model_proto, path)


# ---------------------------------------------------------------- tools that start from an .onnx file


def half(path: Path, keep_io_types: bool) -> None:
    from onnxconverter_common.float16 import convert_float_to_float16

    finish(convert_float_to_float16(onnx.load(REFERENCE), keep_io_types=keep_io_types), path)


def fp16(path: Path) -> None:
    """Half precision throughout: the input takes float16."""
    half(path, keep_io_types=False)


def fp16_io32(path: Path) -> None:
    """Half precision between Casts: input and output stay float32."""
    half(path, keep_io_types=True)


def quantised(path: Path, convert: Callable[..., None], **options: Any) -> None:
    """ONNX Runtime's order of steps: its preprocessing, then ``convert``."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "made.onnx"
        quant_pre_process(str(REFERENCE), str(prepared))
        convert(str(prepared), str(made), **options)
        finish(onnx.load(made), path)


class Calibration:
    """Training scenes, one at a time, as ONNX Runtime's calibration asks for them."""

    def __init__(self) -> None:
        self.rest = iter(tensor(scenes.TRAIN_SEED, CALIBRATION))

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(({"image": x[None]} for x in self.rest), None)


def static(path: Path, kind: str, activations: str) -> None:
    """Weights per channel and of seven bits: eight overflow on processors without VNNI, which differ then."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    options = {"quant_format": QuantFormat[kind], "activation_type": QuantType[activations]}
    weights = {"per_channel": True, "reduce_range": True, "weight_type": QuantType.QInt8}
    quantised(path, quantize_static, calibration_data_reader=Calibration(), **options, **weights)


def int8_qdq(path: Path) -> None:
    """QuantizeLinear and DequantizeLinear around float operators, as ONNX Runtime advises first."""
    static(path, "QDQ", "QInt8")


def int8_qoperator(path: Path) -> None:
    """Integer operators: QLinearConv and its kin."""
    static(path, "QOperator", "QUInt8")


def int8_dynamic(path: Path) -> None:
    """Activations are quantised at run time, by DynamicQuantizeLinear; ConvInteger takes unsigned weights."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantised(path, quantize_dynamic, weight_type=QuantType.QUInt8, reduce_range=True)


def zipmap(path: Path) -> None:
    """The features of the network before a scikit-learn classifier, as skl2onnx writes one: a label and a ZipMap."""
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.neural_network import MLPClassifier

    weights = np.load(HERE / "shapes-net.npz")
    head, bias = weights["head.weight"], weights["head.bias"]
    order = np.argsort(scenes.CLASSES)  # scikit-learn sorts its classes
    classifier = MLPClassifier(hidden_layer_sizes=(), max_iter=1).fit(head, scenes.CLASSES)
    classifier.coefs_, classifier.intercepts_ = [head[order].T], [bias[order]]
    features = [("features", FloatTensorType([None, head.shape[1]]))]
    tail = skl2onnx.convert_sklearn(classifier, "shapes", features, target_opset={"": 13, "ai.onnx.ml": 1})
    body = features_of(REFERENCE)
    tail.ir_version = body.ir_version
    joined = onnx.compose.merge_models(body, tail, [(body.graph.output[0].name, "features")], name="shapes")
    joined.producer_name, joined.producer_version = "skl2onnx", skl2onnx.__version__
    del joined.opset_import[:]
    joined.opset_import.extend(tail.opset_import)
    finish(joined, path, told=False)


def features_of(path: Path) -> onnx.ModelProto:
    """What goes into the linear layer at the end, as a model of its own, without metadata."""
    whole = onnx.load(path)
    last = whole.graph.node[-1]
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body.onnx"
        onnx.utils.extract_model(str(path), str(body), ["image"], [last.input[0]])
        model = onnx.load(body)
    model.ClearField("metadata_props")
    return model


EXPORTS: dict[str, Callable[[Path], None]] = {
    "torchscript": torchscript,
    "dynamo": dynamo,
    "free": free,
    "external": external,
    "weak": weak,
    "fp16": fp16,
    "fp16-io32": fp16_io32,
    "int8-qdq": int8_qdq,
    "int8-qoperator": int8_qoperator,
    "int8-dynamic": int8_dynamic,
    "zipmap": zipmap,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXPORTS))
    parser.add_argument("--out", type=Path, default=ZOO, help="folder")
    options = parser.parse_args()
    if unknown := set(options.names) - set(EXPORTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(EXPORTS)}")
    for name in options.names or EXPORTS:
        path = options.out / f"shapes-net-{name}.onnx"
        EXPORTS[name](path)
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
