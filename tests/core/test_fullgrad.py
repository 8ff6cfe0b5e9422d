"""FullGrad against plain loops over channels and pixels."""

from __future__ import annotations

import numpy as np
import pytest
from cubic import Cubic

from onnxcam.core.fullgrad import fullgrad
from onnxcam.errors import ModelError, UnknownNameError

pytestmark = pytest.mark.anyruntime


class Biased(Cubic):
    """Gradients at three biases: smaller maps, one equal over its pixels and so of length 1, and one pixel."""

    def __init__(self, **options):
        super().__init__(**options)
        rng = np.random.default_rng(11)
        self.sites = [
            (rng.normal(size=(1, 4, 2, 2)).astype(np.float32), rng.normal(size=(4, 1, 1))),
            (rng.normal(size=(1, 3, 1, 1)).astype(np.float32), rng.normal(size=(3, 1, 1))),
            (rng.normal(size=(1, 1, 3, 2)).astype(np.float32), rng.normal(size=(2, 1, 1))),
        ]

    def bias_gradients(self, x):
        return self.sites


def upsampled(plane, height, width):
    """Bilinear, pixel centres at one half, edges repeated."""
    h, w = plane.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            top = plane[y0, x0] * (1 - x + x0) + plane[y0, x1] * (x - x0)
            low = plane[y1, x0] * (1 - x + x0) + plane[y1, x1] * (x - x0)
            out[i, j] = top * (1 - y + y0) + low * (y - y0)
    return out


def by_loops(probe, together):
    terms = [(probe.at(probe.x[0].astype(np.float64)) * probe.x[0]), *(g[0] * b for g, b in probe.sites)]
    height, width = probe.x.shape[2:]
    total = np.zeros((height, width))
    for term in terms:
        strength = np.abs(term)
        for plane in strength:
            low, high = (strength.min(), strength.max()) if together else (plane.min(), plane.max())
            if high > low:
                total += upsampled((plane - low) / (high - low), height, width)
    return total


@pytest.mark.parametrize("rescale", ["channel", "layer"])
def test_the_image_and_every_bias_add_up(rescale):
    probe = Biased()
    np.testing.assert_allclose(fullgrad(probe, rescale=rescale), by_loops(probe, rescale == "layer"), rtol=1e-4)


def test_by_hand():
    probe = Biased(x=np.ones((1, 1, 1, 4), np.float32))
    probe.at = lambda image: np.array([[[0.0, 1.0, -2.0, 4.0]]])
    probe.sites = [(np.array([[[[-3.0, 1.0]]]], np.float32), np.array([[[2.0]]]))]
    # |x G| = 0 1 2 4 -> 0 .25 .5 1; |b G| = 6 2 -> 1 0 -> upsampled 1 .75 .25 0
    np.testing.assert_allclose(fullgrad(probe), [[1.0, 1.0, 0.75, 1.0]], atol=1e-6)


def test_no_gradient_gives_an_empty_map():
    nothing = Biased(a=np.zeros((2, 3, 4)), b=np.zeros((2, 3, 4)))
    nothing.sites = [(np.zeros((1, 4, 2, 2), np.float32), np.ones((4, 1, 1)))]
    assert not fullgrad(nothing).any()


def test_gradients_that_are_no_numbers_are_refused():
    probe = Biased()
    probe.sites[1][0][0, 2] = np.inf
    with pytest.raises(ModelError, match="NaN or infinite gradients"):
        fullgrad(probe)


def test_an_unknown_rescaling_is_refused():
    with pytest.raises(UnknownNameError, match="channel, layer"):
        fullgrad(Biased(), rescale="image")
