"""Small graphs from ONNX's text form; weights are drawn by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from onnxcam.model import Model, load_model


def load(folder: Path, body: str, opset: int = 18, nodes: Sequence[str] = (), **weights: tuple[int, ...]) -> Model:
    """A model from the text of a graph; ``nodes`` are node names, ``weights`` seeded initializers, name=shape."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]>\ntest {body}'
    proto = onnx.parser.parse_model(text)
    for node, name in zip(proto.graph.node, nodes, strict=False):
        node.name = name
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        array = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    path = folder / "graph.onnx"
    onnx.save(proto, path)
    return load_model(path)
