"""Projections as nodes: the maps of :mod:`onnxcam.core.eigen`."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from onnxcam.core.eigen import join
from onnxcam.errors import OptionError
from onnxcam.export.eigen import projection
from onnxcam.graph.symbolic import Writer


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 0.9994])
@pytest.mark.parametrize("kind", ["svd", "eigen"])
def test_a_second_eigenvalue_that_is_close(kind, ratio, scale):
    """Of the kernel, as a part of the first; terms of known singular values, centred and not."""
    rng = np.random.default_rng(0)
    u = np.linalg.qr(np.column_stack([np.ones(49), rng.normal(size=(49, 4))]))[0][:, 1:]  # each of mean 0
    v = np.linalg.qr(rng.normal(size=(6, 4)))[0]
    points = (u * np.sqrt([1.0, ratio, 0.2, 0.1])) @ v.T + (0 if kind == "svd" else rng.normal(size=6))
    terms = (scale * points.T.reshape(1, 6, 7, 7)).astype(np.float32)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18})
    writer = Writer(graph, 18)
    writer.output(projection(writer.input("terms", ir.DataType.FLOAT, terms.shape), kind), "map")
    data = ir.to_proto(ir.Model(graph, ir_version=9)).SerializeToString()
    got = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"terms": terms})[0]
    want = join(terms.astype(np.float64), kind)
    got = got * np.sign((got * want).sum())  # either sign, where the sum of the terms says little
    np.testing.assert_allclose(got, want, atol=5e-3 * np.abs(want).max())


@pytest.mark.parametrize(("shape", "said"), [(("n", 6, "h", 7), "6 x any x 7"), ((1, 6, 33, 32), "6 x 33 x 32")])
def test_a_layer_that_is_too_large_or_of_any_size(shape, said):
    writer = Writer(ir.Graph([], [], nodes=[], opset_imports={"": 18}), 18)
    with pytest.raises(OptionError, match=rf"a layer of {said} \(channels, height, width\).*up to 1024 pixels"):
        projection(writer.input("terms", ir.DataType.FLOAT, shape), "svd")
