from __future__ import annotations

import math

import pytest
from graphs import load

from onnxcam.graph.ranges import value_range

INF = math.inf
CONSTANTS = """
    zero = Constant <value_float = 0.0> ()
    six = Constant <value_float = 6.0> ()
    two = Constant <value_float = 2.0> ()
    half = Constant <value_float = 0.5> ()
    point = Constant <value = uint8 {10}> ()
    amounts = Constant <value_ints = [0, 0, 1, 1, 0, 0, 1, 1]> ()
"""


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("y = Neg (x)", (-INF, INF)),
        ("y = Relu (x)", (0, INF)),
        ("y = Clip (x, zero, six)", (0, 6)),
        ('y = Clip (x, "", six)', (-INF, 6)),
        ("r = Relu (x) y = Min (r, six)", (0, 6)),
        ("r = Relu (x) y = Max (r, two)", (2, INF)),
        ("s = Sigmoid (x) y = Clip (s, two, six)", (2, 2)),
        ("s = Sigmoid (x) y = Identity (s)", (0, 1)),
        ("r = Relu (x) p = MaxPool <kernel_shape = [2,2]> (r) y = Transpose (p)", (0, INF)),
        ("r = Relu (x) y = Add (r, six)", (6, INF)),
        ("c = Clip (x, two, six) y = Pad (c, amounts)", (0, 6)),
        ("c = Clip (x, two, six) y = Pad (c, amounts, two)", (2, 6)),
        ('c = Clip (x, two, six) y = Pad <mode = "edge"> (c, amounts)', (2, 6)),
        ("c = Clip (x, two, six) s = Sigmoid (x) y = Concat <axis = 0> (c, s)", (0, 6)),
        ("c = Clip (x, two, six) t = Tanh (x) y = Mul (c, t)", (-6, 6)),
        ("r = Relu (x) z = Sub (x, x) y = Mul (r, z)", (-INF, INF)),
        ("c = Clip (x, two, six) l = Less (x, two) y = Where (l, c, zero)", (0, 6)),
        ("q = QuantizeLinear (x, half, point) y = DequantizeLinear (q, half, point)", (-5, 122.5)),
        ("c = Clip (x, two, six) q = QuantizeLinear (c, half, point) y = DequantizeLinear (q, six, point)", (24, 72)),
        ("e = Exp (x) y = ReduceMean (e)", (0, INF)),
    ],
)
def test_ranges_follow_the_graph(tmp_path, nodes, expected):
    nodes = nodes.replace('""', "none")
    body = f"(float[1,3,8,8] x) => (float[?,?,?,?] y) {{ {CONSTANTS} {nodes} }}"
    model = load(tmp_path, body.replace("none", ""))
    assert value_range(model.values["y"]) == expected
