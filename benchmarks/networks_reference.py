"""What a network's gradients should be: the reference that ``benchmarks.networks`` checks against. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

LOGIT = 7
TOLERANCE = 1e-3
MARGIN = 3.0
TOLERANCE_DOUBLE = 1e-6  # of exports in float64


@dataclass(frozen=True)
class Reference:
    """One network on one image, by the framework that made it.

    Attributes:
        made_by: framework and version.
        layer: the module or layer that is explained.
        image: as fed, float32.
        activation: what the layer gives, float32; it is how the layer is found in the graph.
        logits: in float64.
        layer_gradient, image_gradient: of ``logits[0, LOGIT]``, in float64.
        layer_noise, image_noise: how far the framework's own float32 gradient gets from these, in several evaluations
            that differ by rounding alone; a kink is met by some and not by others.
        layer_plain, image_plain: the first of them, the plain one.
    """

    made_by: str
    layer: str
    image: Any
    activation: Any
    logits: Any
    layer_gradient: Any
    image_gradient: Any
    layer_noise: float
    image_noise: float
    layer_plain: float
    image_plain: float

    def save(self, path: Path) -> None:
        np.savez(path, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> Reference:
        with np.load(path) as file:
            return cls(**{k: v.item() if v.ndim == 0 else v for k, v in file.items()})


def make_reference(made_by: str, layer: str, image: Any, singles: Sequence[Any], double: Any) -> Reference:
    """From (activation, logits, layer gradient, image gradient), several times in float32 and once in float64."""
    _, logits, *exact = double
    noise = np.array([[distance(a, b) for a, b in zip(single[2:], exact, strict=True)] for single in singles])
    return Reference(made_by, layer, image, singles[0][0], logits, *exact, *noise.max(0), *noise[0])


def nudged(image: Any) -> list[Any]:
    """The float32 image, each number moved by about a rounding of it, in four ways."""
    rng = np.random.default_rng(0)
    return [(image * (1 + 2.0**-24 * rng.normal(size=image.shape))).astype(np.float32) for _ in range(4)]


def distance(found: Any, expected: Any) -> float:
    """Relative L2; infinite where there is nothing to compare with."""
    expected = np.asarray(expected, np.float64)
    norm = float(np.linalg.norm(expected))
    return float(np.linalg.norm(np.asarray(found, np.float64) - expected)) / norm if norm else np.inf


def tolerance(noise: float) -> float:
    return max(TOLERANCE, MARGIN * noise)


def pictures(count: int, size: int, seed: int) -> Any:
    """Smooth coloured blobs plus grain, NCHW float32, about mean 0 and deviation 1 as normalised photos have."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 3, 8, 8))
    at = np.linspace(0, 7, size)
    mix = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(8)))  # linear interpolation, as a matrix
    return (1.3 * mix @ coarse @ mix.T + 0.3 * rng.normal(size=(count, 3, size, size))).astype(np.float32)


def enliven(weight: Any, rng: np.random.Generator) -> Any:
    """Random values for a weight that starts constant, so that no gradient is trivial; others as they are.

    Zeros (biases, class tokens, heads of transformers) become small noise, near-zeros (layer scales) something that
    lets the branch count, other constants (scales of norms) vary by a tenth.
    """
    if weight.size < 2 or np.ptp(weight) > 0:
        return weight
    value = float(weight.flat[0])
    if value == 0:
        return rng.normal(0, 0.05, weight.shape)
    if abs(value) < 1e-3:
        return rng.uniform(0.5, 1, weight.shape)
    return value * (1 + 0.1 * rng.normal(size=weight.shape))
