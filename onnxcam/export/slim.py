"""What an exported file need not hold: constants that are another one turned."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcam.graph.symbolic import PREFIX, Writer
from onnxcam.model import Model

_WORTH = 2**14  # bytes; a smaller one is cheaper than a node more, which some runtimes run every time


def turn_twins(model: Model, writer: Writer) -> None:
    """Of two written matrices that are each other's transpose, such as those of a resize, keep one."""
    graph, kept = model.graph, dict[tuple[tuple[int, ...], bytes], ir.Value]()
    for value in [v for v in graph.initializers.values() if (v.name or "").startswith(PREFIX)]:
        held = None if value.const_value is None else value.const_value.numpy()
        if held is None or held.ndim != 2 or held.nbytes < _WORTH:
            continue
        twin = kept.get((held.shape[::-1], np.ascontiguousarray(held.T).tobytes()))
        if twin is None:
            kept[held.shape, held.tobytes()] = value
            continue
        node = writer.op("Transpose", writer.tensor(twin), perm=[1, 0], fold=False, memo=False).value.producer()
        assert node is not None
        graph.remove(node)
        graph.insert_before(graph[0], node)
        ir.convenience.replace_all_uses_with(value, node.outputs[0])
        del graph.initializers[str(value.name)]
