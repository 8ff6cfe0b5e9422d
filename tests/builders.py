"""Small models and pictures, made in memory; what is odd about each test's file is done in that test."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def value(name: str, shape: Sequence[Any] | None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def weights(seed: int = 0, channels: int = 3, classes: int = 4, dtype: Any = np.float32) -> dict[str, Any]:
    """Of `classifier`: two convolutions with 6 and 8 maps, one dense layer."""
    rng = np.random.default_rng(seed)
    shapes = {
        "w1": (6, channels, 3, 3),
        "b1": (6,),
        "w2": (8, 6, 3, 3),
        "b2": (8,),
        "wd": (8, classes),
        "bd": (classes,),
    }
    return {k: (rng.standard_normal(s) / 3).astype(dtype) for k, s in shapes.items()}


NODES = [
    helper.make_node("Conv", ["image", "w1", "b1"], ["conv1"], "first", pads=[1, 1, 1, 1]),
    helper.make_node("Relu", ["conv1"], ["relu1"], "first_relu"),
    helper.make_node("MaxPool", ["relu1"], ["pool"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
    helper.make_node("Conv", ["pool", "w2", "b2"], ["conv2"], "second", pads=[1, 1, 1, 1]),
    helper.make_node("Relu", ["conv2"], ["relu2"], "second_relu"),
    helper.make_node("GlobalAveragePool", ["relu2"], ["gap"], "gap"),
    helper.make_node("Flatten", ["gap"], ["flat"], "flatten"),
    helper.make_node("Gemm", ["flat", "wd", "bd"], ["logits"], "dense"),
]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    arrays: dict[str, Any] | None = None,
    opset: int = 18,
    ir_version: int = 8,
    domains: dict[str, int] | None = None,
) -> onnx.ModelProto:
    held = [numpy_helper.from_array(np.asarray(a), k) for k, a in (arrays or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), held)
    imports = [helper.make_opsetid(d, v) for d, v in {"": opset, **(domains or {})}.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def classifier(
    opset: int = 18,
    batch: int | str = "n",
    channels: int = 3,
    size: int | str = 12,
    classes: int = 4,
    dtype: Any = np.float32,
    ir_version: int = 8,
    seed: int = 0,
) -> onnx.ModelProto:
    """Conv, Relu, MaxPool, Conv, Relu, GlobalAveragePool, Flatten, Gemm: image (n, 3, 12, 12) -> logits (n, 4)."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    given, scores = value("image", [batch, channels, size, size], kind), value("logits", [batch, classes], kind)
    arrays = weights(seed, channels, classes, dtype)
    return model(NODES, [given], [scores], arrays, opset, ir_version)


def plain_scores(proto: onnx.ModelProto, x: Any) -> Any:
    """Logits of `classifier`, in loops over pixels."""
    held = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    w = {name: a.astype(np.float64) for name, a in held.items() if a.dtype.kind in "fiu"}
    first = np.maximum(_conv(x.astype(np.float64), w["w1"], w["b1"]), 0)
    n, c, h, wide = first.shape
    pooled = first[:, :, : h // 2 * 2, : wide // 2 * 2].reshape(n, c, h // 2, 2, wide // 2, 2).max(axis=(3, 5))
    second = np.maximum(_conv(pooled, w["w2"], w["b2"]), 0)
    return second.mean(axis=(2, 3)) @ w["wd"] + w["bd"]


def _conv(x: Any, w: Any, b: Any) -> Any:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    result = np.zeros((len(x), len(w), *x.shape[2:]))
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            window = padded[:, :, i : i + 3, j : j + 3]
            result[:, :, i, j] = np.tensordot(window, w, axes=([1, 2, 3], [1, 2, 3])) + b
    return result


def write(path: Path, proto: onnx.ModelProto) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString())
    return path


def external(proto: onnx.ModelProto, location: str, folder: Path | None = None) -> onnx.ModelProto:
    """A copy whose weights lie in ``location``, written there if ``folder`` is given."""
    moved, blob = onnx.ModelProto(), b""
    moved.CopyFrom(proto)
    for tensor in moved.graph.initializer:
        data = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, entry in (("location", location), ("offset", len(blob)), ("length", len(data))):
            tensor.external_data.add(key=key, value=str(entry))
        blob += data
    if folder is not None:
        (folder / location).write_bytes(blob)
    return moved


def session(given: Path | str | bytes, optimize: bool = True) -> Any:
    """ONNX Runtime's, on the processor, silent, in one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    file = given if isinstance(given, bytes) else str(given)
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def answers(path: Path, **feeds: Any) -> dict[str, Any]:
    """Every output of a model by its name; it must be fed all of its inputs, and nothing else."""
    one = session(path)
    return dict(zip([o.name for o in one.get_outputs()], one.run(None, feeds), strict=True))


def png(path: Path, seed: int = 0, height: int = 20, width: int = 16, grey: bool = False) -> Path:
    """A noisy picture, written without any image library."""
    channels = 1 if grey else 3
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width * channels), dtype=np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if grey else 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.parent.mkdir(parents=True, exist_ok=True)
    body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))
    return path
