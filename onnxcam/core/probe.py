"""What a method of many runs may ask of a model about one image.

Such a method (a *procedure*) is a function of a :class:`Probe` and of keyword options with defaults; it gives one raw
map. It never sees the model: behind the probe may be an .onnx file, a Python function or a server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, OptionError

Array = NDArray[Any]


@dataclass(frozen=True)
class Attention:
    """A transformer's attention on one image, first block first.

    Attributes:
        maps: the probabilities of each block, (heads, T, T): queries x keys.
        gradients: of each block's own score (:func:`onnxcam.core.attention.legrad`) at its map, or at the map of the
            head's attention pool, (heads, Q, T); () unless asked for.
        patches: (h, w) int, which of the T tokens is the patch at each place.
        reads: (T,), how much the head reads of each token; its sum is 1.
    """

    maps: tuple[Array, ...]
    gradients: tuple[Array, ...]
    patches: Array
    reads: Array


class Probe(Protocol):
    """One model, one image, one target (a class that stays the same whatever is asked), one target layer.

    Images and maps are float32 (B, C, H, W), whatever the model's own layout and type; any B above 0, which the probe
    splits into runs of at most ``batch``.

    Attributes:
        x: (1, C, H, W), the image as the model gets it (preprocessed).
        batch: how many images go into one run; what a procedure makes at a time, to keep memory flat.
    """

    @property
    def x(self) -> Array:
        """(1, C, H, W), the image as the model gets it."""

    @property
    def batch(self) -> int:
        """Images of one run."""

    def score(self, x: Array) -> Array:
        """(B, C, H, W) -> (B,) float32: the explained score."""

    def gradient(self, x: Array, relu: str = "plain") -> Array:
        """(B, C, H, W) -> the same: the gradient of the score at the image; ``relu`` is the policy of the ReLUs."""

    def activations(self, x: Array) -> Array:
        """(B, C, H, W) -> (B, K, h, w), the target layer's map A."""

    def layer(self, x: Array) -> tuple[Array, Array]:
        """(B, C, H, W) -> A and the gradient of the score there, both (B, K, h, w)."""

    def head(self, A: Array) -> Array:
        """(B, K, h, w) -> (B,): the score when the target layer is A instead; only what lies behind it is run."""

    def bias_gradients(self, x: Array) -> list[tuple[Array, Array]]:
        """(B, C, H, W) -> for each bias of the feature maps the score's gradient there, (B, K, h, w), and the bias.

        The bias is (K, 1, 1); an axis along which a gradient is the same may have length 1.
        """

    def attention(self, x: Array, gradient: bool = False) -> Attention:
        """(1, C, H, W) -> the attention maps, and where asked their gradients."""

    def advance(self, done: int, total: int) -> None:
        """Tell of progress, in score calls."""

    def note(self, text: str) -> None:
        """Say what whoever reads the map ought to know."""


def chunks(probe: Probe, total: int, size: int = 0) -> Iterator[slice]:
    """Slices of at most ``size`` (0: ``probe.batch``) that cover ``range(total)``; progress is told after each."""
    size = size or probe.batch
    for start in range(0, total, size):
        stop = min(start + size, total)
        yield slice(start, stop)
        probe.advance(stop, total)


def scores(
    probe: Probe,
    total: int,
    images: Callable[[slice, Array], object],
    enough: Callable[[Array], bool] = lambda found: False,
) -> Array:
    """(total,) float64: the scores of images made as they are needed: ``images(slice, out)`` fills out (B, C, H, W).

    All in the same memory: the system takes longer to hand out new pages than it takes to fill them. ``enough`` is
    shown the scores so far, and may end it; progress is then complete.
    """
    found, room = np.empty(total), np.empty((min(probe.batch, total), *probe.x.shape[1:]), probe.x.dtype)
    for part in chunks(probe, total):
        out = room[: part.stop - part.start]
        images(part, out)
        found[part] = finite(probe.score(out))
        if enough(found[: part.stop]):
            probe.advance(total, total)
            return found[: part.stop]
    return found


def features_at_once(probe: Probe, A: Array) -> int:
    """How many features (B, K, h, w) go into one run of the head: as many as are no larger than a run's images."""
    return probe.batch * max(1, int(probe.x[0].size // A[0].size))


def finite(scores: Array) -> Array:
    """Scores, all of which are numbers.

    Raises:
        ModelError: some are NaN or infinite.
    """
    if len(bad := np.flatnonzero(~np.isfinite(scores))):
        raise ModelError(
            f"{len(bad)} of the {len(scores)} scores that the method asked for are NaN or infinite, such as "
            f"{scores[bad[0]]}: the model cannot cope with edited images or features. Check the preprocessing and, for "
            "a float16 model, its range; take another target or method"
        )
    return scores


def at_least(least: int, **options: int) -> None:
    """Check whole numbers.

    Raises:
        OptionError: one is smaller, or no whole number.
    """
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise OptionError(f"{name}={value!r}: give a whole number, at least {least}")
