"""LeGrad and rollout on attention that is given, worked out by hand or in loops."""

from __future__ import annotations

import numpy as np
import pytest

from onnxcam.core.attention import legrad, rollout
from onnxcam.core.probe import Attention
from onnxcam.errors import OptionError

pytestmark = pytest.mark.anyruntime


class Given:
    """A probe that has nothing but attention."""

    x = np.zeros((1, 3, 2, 2), np.float32)

    def __init__(self, maps, gradients=(), patches=((1, 2),), reads=(1.0, 0.0, 0.0)):
        arrays = [tuple(np.asarray(a, np.float32) for a in given) for given in (maps, gradients)]
        self.found = Attention(*arrays, np.asarray(patches), np.asarray(reads))

    def attention(self, x, gradient=False):
        assert x is self.x
        return self.found


def drawn(blocks=3, heads=2, tokens=7, seed=0):
    raised = np.exp(np.random.default_rng(seed).standard_normal((blocks, heads, tokens, tokens)))
    return list(raised / raised.sum(axis=-1, keepdims=True))


def test_rollout_of_two_blocks_by_hand():
    first = [[[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]
    second = [[[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]
    # (P + I) / 2: row 0 of the first is (.75, .25, 0), of the second (.5, 0, .5); their product is
    # .5 (.75, .25, 0) + .5 (0, 0, 1) = (.375, .125, .5), of which the patches are the last two.
    np.testing.assert_allclose(rollout(Given([first, second])), [[0.125, 0.5]], atol=1e-7)


@pytest.mark.parametrize(("fusion", "discard", "start"), [("mean", 0.0, 0), ("max", 0.3, 0), ("min", 0.9, 1)])
def test_rollout_against_loops(fusion, discard, start):
    maps, reads = drawn(), np.asarray([0.5, 0.5, 0, 0, 0, 0, 0])
    patches = np.asarray([[2, 4], [3, 5]])
    whole = [[float(i == j) for j in range(7)] for i in range(7)]
    for p in maps[start:]:
        a = [[0.0] * 7 for _ in range(7)]
        for i in range(7):
            for j in range(7):
                heads = [float(p[h][i][j]) for h in range(2)]
                a[i][j] = {"mean": sum(heads) / 2, "max": max(heads), "min": min(heads)}[fusion]
        ordered = sorted((a[i][j], i, j) for i in range(7) for j in range(7))
        for _, i, j in ordered[: int(49 * discard)]:
            if j in patches:
                a[i][j] = 0.0
        rows = []
        for i in range(7):
            mixed = [a[i][j] + (i == j) for j in range(7)]
            rows.append([m / sum(mixed) for m in mixed])
        whole = [[sum(rows[i][k] * whole[k][j] for k in range(7)) for j in range(7)] for i in range(7)]
    expected = [[sum(reads[i] * whole[i][t] for i in range(7)) for t in row] for row in patches]
    probe = Given(np.asarray(maps, np.float64), patches=patches, reads=reads)
    np.testing.assert_allclose(rollout(probe, fusion=fusion, discard=discard, start=start), expected, atol=1e-6)


def test_legrad_against_loops():
    gradients = np.random.default_rng(1).standard_normal((3, 2, 7, 7)).astype(np.float32)
    patches = np.asarray([[6, 1, 2], [3, 4, 5]])
    for blocks in (0, 1, 2):
        used = gradients[-blocks:] if blocks else gradients
        expected = np.zeros((2, 3))
        for g in used:
            for (row, column), key in np.ndenumerate(patches):
                for h in range(2):
                    for q in range(7):
                        expected[row, column] += max(g[h, q, key], 0.0) / (14 * len(used))
        found = legrad(Given(gradients, gradients, patches), blocks=blocks)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (rollout, {"fusion": "sum"}, "mean, max, min"),
        (rollout, {"discard": 1.0}, "below 1"),
        (rollout, {"discard": -0.1}, "below 1"),
        (rollout, {"start": 3}, "blocks 0 to 2"),
        (legrad, {"blocks": 4}, "has 3 blocks"),
        (legrad, {"blocks": -1}, "has 3 blocks"),
    ],
)
def test_options_outside_their_range_are_refused(method, options, words):
    probe = Given(drawn(), drawn(), patches=[[1, 2, 3]], reads=[1, 0, 0, 0, 0, 0, 0])
    with pytest.raises(OptionError, match=words):
        method(probe, **options)
