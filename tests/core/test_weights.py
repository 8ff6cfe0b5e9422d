"""The formulas of one run against plain loops over one channel, and the same formula written into a graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from onnxcam.core import weights
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Writer

pytestmark = pytest.mark.anyruntime
RNG = np.random.default_rng(7)
H, W = 4, 3
A = np.maximum(RNG.normal(size=(2, 5, H, W)), 0).astype(np.float32) * 10
A[:, 2] = 0  # a dead channel
A[0, 3, 1, 2] = 60  # an outlier, for FEM
G = RNG.normal(size=A.shape).astype(np.float32) * np.float32(1e-3)
G[:, :, 0, 0] = 0
HA = RNG.normal(size=A.shape).astype(np.float32) * np.float32(1e-3)
POOLED = G[:, :, 1:2, 1:2]
PIXELS = [(y, x) for y in range(H) for x in range(W)]


def mean(a):
    return sum(a[p] for p in PIXELS) / len(PIXELS)


def weighted(weight, a):
    return [[weight * a[y, x] for x in range(W)] for y in range(H)]


def each(f):
    return [[f(y, x) for x in range(W)] for y in range(H)]


def gradcampp(a, g):
    total, weight = sum(a[p] for p in PIXELS), 0.0
    for p in PIXELS:
        if g[p] != 0:
            weight += g[p] ** 2 / (2 * g[p] ** 2 + total * g[p] ** 3) * max(g[p], 0)
    return weighted(weight, a)


def xgradcam(a, g):
    total = sum(a[p] for p in PIXELS)
    return weighted(sum(a[p] / total * g[p] for p in PIXELS) if total else 0.0, a)


def fem(a):
    m = mean(a)
    deviation = (sum((a[p] - m) ** 2 for p in PIXELS) / len(PIXELS)) ** 0.5
    return each(lambda y, x: m if a[y, x] > m + 2 * deviation else 0.0)


REPLICAS = {
    "activations": ((A,), lambda a: a),
    "cam": ((A, POOLED), lambda a, g: weighted(g[0, 0], a)),
    "gradcam": ((A, G), lambda a, g: weighted(mean(g), a)),
    "counterfactual": ((A, G), lambda a, g: weighted(-mean(g), a)),
    "hirescam": ((A, G), lambda a, g: each(lambda y, x: a[y, x] * g[y, x])),
    "elementwise": ((A, G), lambda a, g: each(lambda y, x: max(a[y, x] * g[y, x], 0))),
    "gradcampp": ((A, G), gradcampp),
    "xgradcam": ((A, G), xgradcam),
    "layercam": ((A, G), lambda a, g: each(lambda y, x: max(g[y, x], 0) * a[y, x])),
    "fem": ((A,), fem),
    "shapleycam": ((A, G, HA), lambda a, g, h: weighted(mean(g) - mean(h) / 2, a)),
}


def by_loops(name):
    arrays, one_channel = REPLICAS[name]
    wide = [a.astype(np.float64) for a in arrays]
    return np.array([[one_channel(*(a[n, k] for a in wide)) for k in range(A.shape[1])] for n in range(len(A))])


@pytest.mark.parametrize("name", REPLICAS)
def test_terms_are_those_of_the_paper(name):
    found = getattr(weights, name)(np, *REPLICAS[name][0])
    expected = by_loops(name)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    assert np.abs(expected).max() > 0


@pytest.mark.parametrize("name", REPLICAS)
@pytest.mark.parametrize("batch", [2, "N"])
def test_a_graph_says_the_same(name, batch):
    arrays = REPLICAS[name][0]
    writer = Writer(ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="g"), 18)
    tensors = [writer.input(n, ir.DataType.FLOAT, (batch, *a.shape[1:])) for n, a in zip("agh", arrays, strict=False)]
    writer.output(getattr(weights, name)(xp, *tensors), "out")
    model = ir.to_proto(ir.Model(writer.graph, ir_version=10))
    onnx.checker.check_model(model, full_check=True)
    found = ReferenceEvaluator(model).run(["out"], dict(zip("agh", arrays, strict=False)))[0]
    np.testing.assert_allclose(found, getattr(weights, name)(np, *arrays), rtol=1e-5, atol=1e-9)


def test_behind_an_average_pool_and_a_linear_classifier_the_methods_agree():
    row = RNG.normal(size=(1, 5, 1, 1)).astype(np.float32)
    slope = np.broadcast_to(row / (H * W), A.shape)
    cam = weights.cam(np, A, row)
    logit = (A.mean(axis=(2, 3)) * row[..., 0, 0]).sum(axis=1)
    np.testing.assert_allclose(cam.sum(axis=1).mean(axis=(1, 2)), logit, rtol=1e-5)
    for name in ("gradcam", "hirescam", "xgradcam"):
        np.testing.assert_allclose(getattr(weights, name)(np, A, slope) * (H * W), cam, rtol=1e-5, err_msg=name)
    flat = weights.shapleycam(np, A, slope, np.zeros_like(A))
    np.testing.assert_allclose(flat, weights.gradcam(np, A, slope), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-8, 1e6])
def test_gradcampp_does_not_care_in_which_units_activations_are(scale):
    there = weights.gradcampp(np, A / np.float32(scale), G * np.float32(scale))
    np.testing.assert_allclose(there, weights.gradcampp(np, A, G), rtol=2e-5)


def test_nothing_is_divided_by_zero():
    a = np.array([[[[1, -1]], [[-1, 0]]]], np.float32)  # sums 0 and -1
    g = np.array([[[[3, 5]], [[2, 0.5]]]], np.float32)  # 2 + g * sum is 0 where g is 2
    with np.errstate(all="raise"):
        assert weights.xgradcam(np, a, g).tolist() == [[[[0, 0]], [[-2, 0]]]]
        plus = weights.gradcampp(np, a, g)
    np.testing.assert_allclose(plus, [[[[4, -4]], [[-0.5 / 1.5, 0]]]], rtol=1e-6)


def test_fem_by_hand():
    a = np.zeros((1, 2, 3, 3), np.float32)
    a[0, 0, 2, 0] = 9  # mean 1, deviation sqrt(8): the peak lies above 1 + 2 * 2.83
    a[0, 1, :, 0] = 3  # mean 1, deviation 1.41: 3 does not lie above 3.83
    found = weights.fem(np, a)
    assert found[0, 0].tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert not found[0, 1].any()


class Scripted(np.random.Generator):
    """Draws what it is told to."""

    def __init__(self, values):
        super().__init__(np.random.PCG64(0))
        self.values, self.asked = values, []

    def uniform(self, low=0.0, high=1.0, size=None):
        self.asked.append((low, high, size))
        return np.array(self.values)


class Layer:
    x = np.zeros((1, 3, 8, 8), np.float32)

    def activations(self, x):
        assert x is self.x
        return np.array([[[[1, 2], [3, 4]], [[10, 0], [0, -2]]]], np.float32)


def test_random_weights_are_drawn_from_minus_one_to_one():
    draw = Scripted([-1.0, 0.5])
    assert weights.randomcam(Layer(), seed=draw).tolist() == [[4, -2], [-3, -5]]
    assert draw.asked == [(-1.0, 1.0, 2)]
    a, b, c = (weights.randomcam(Layer(), seed=s) for s in (3, 3, 4))
    assert a.tolist() == b.tolist() != c.tolist()
