"""Does the map say what the model uses? Numbers from edited pictures and the scores that they get.

A picture ``x`` is float (1, C, H, W), as the model gets it; a heatmap is float (H, W), of its size; ``predict`` gives
one score per picture, of the class that the map explains: a probability, where a metric says so. ``batch`` pictures at
a time are made and scored. What is taken away is replaced by a reference: ``"zero"``, ``"mean"`` (the picture's own
mean colour, grey), ``"blur"``, a number or an array (:func:`onnxcam.core.baselines.baseline`). Where pixels are ranked,
equal ones come in reading order: a map that is the same everywhere is judged by where the object lies, so leave it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..core import perturb, probe
from ..core.impute import linear_imputation
from ..errors import OptionError
from .statistics import pearson, spearman

Array = NDArray[Any]
Predict = Callable[[Array], Array]
"""(B, C, H, W) -> (B,): the scores."""
Fill = str | float | Array
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the picture, which `road` removes."""


@dataclass(frozen=True)
class Curve:
    """What a score becomes while a picture is edited.

    Attributes:
        shares: (K,): how much of the picture has been edited, 0 to 1, rising.
        scores: (K,): the score there.
    """

    shares: Array
    scores: Array

    @property
    def area(self) -> float:
        """Under the curve, by trapezia: over shares from 0 to 1 the mean score."""
        return float(((self.scores[1:] + self.scores[:-1]) / 2 * np.diff(self.shares)).sum())

    @property
    def mean(self) -> float:
        """Of the scores."""
        return float(self.scores.mean())


# ---- what the metrics share ----


@dataclass(frozen=True)
class _Asked:
    """A probe that only scores; see :class:`onnxcam.core.probe.Probe`."""

    predict: Predict
    x: Array
    batch: int

    def score(self, x: Array) -> Array:
        found = self.predict(x.copy())  # which may keep it; the next pictures take the place of these
        return np.asarray(found, np.float64).reshape(len(x))

    def advance(self, done: int, total: int) -> None:
        """Nobody waits."""


def _asked(predict: Predict, x: Array, heatmap: Array | None, batch: int) -> probe.Probe:
    probe.at_least(1, batch=batch)
    if x.ndim != 4 or len(x) != 1 or x.dtype.kind != "f":
        raise OptionError(f"the picture is {x.dtype} {x.shape}: give one at a time, float (1, C, H, W)")
    if heatmap is not None and (heatmap.shape != x.shape[2:] or not np.isfinite(heatmap).all()):
        raise OptionError(f"the heatmap is {heatmap.shape}: give one without NaN of the picture's size {x.shape[2:]}")
    return cast("probe.Probe", _Asked(predict, x, batch))


def strongest_first(heatmap: Array) -> Array:
    """(H * W,): the flat indices of the pixels, the highest value first, equal ones in reading order."""
    return np.argsort(-heatmap.ravel(), kind="stable")


def _marked(order: Array, count: int, size: tuple[int, ...]) -> Array:
    """Bool (H, W): the first ``count`` of the order."""
    mask = np.zeros(order.size, np.bool_)
    mask[order[:count]] = True
    return mask.reshape(size)


# ---- deletion and insertion ----


def deletion(
    predict: Predict, x: Array, heatmap: Array, reference: Fill = "zero", *, step: int | None = None, batch: int = 16
) -> Curve:
    """The score while the picture is taken away, the most important pixels first; a small area is good.

    Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018,
    https://arxiv.org/abs/1806.07421, section 4.1. The paper takes probabilities, replaces by a constant grey and goes
    in steps of one row's number of pixels.

    Args:
        predict: the scores.
        x: (1, C, H, W).
        heatmap: (H, W).
        reference: what stands where pixels are taken away.
        step: pixels at a time; None: a fiftieth of the picture. The last step may be smaller.
        batch: pictures at a time.

    Returns:
        The curve from 0, the whole picture, to 1, the reference; its ``area`` is in units of the score.

    Raises:
        OptionError, UnknownNameError: a heatmap, reference or step that does not fit.
        ModelError: scores that are no numbers.
    """
    return _swept(predict, x, heatmap, reference, step, batch, keep=False)


def insertion(
    predict: Predict, x: Array, heatmap: Array, reference: Fill = "blur", *, step: int | None = None, batch: int = 16
) -> Curve:
    """The score while the picture comes out of the reference, the most important pixels first; a large area is good.

    The other half of RISE's causal metric: see `deletion`, whose arguments and errors it shares. The paper starts from
    a blur, since the edges of pixels on a plain ground are news to a model.
    """
    return _swept(predict, x, heatmap, reference, step, batch, keep=True)


def _swept(
    predict: Predict, x: Array, heatmap: Array, reference: Fill, step: int | None, batch: int, keep: bool
) -> Curve:
    asked, order = _asked(predict, x, heatmap, batch), strongest_first(heatmap)
    pixels = math.ceil(order.size / 50) if step is None else step
    probe.at_least(1, step=pixels)
    counts = [*range(0, order.size, pixels), order.size]
    before, after = (perturb.filled(x, reference), x) if keep else (x, perturb.filled(x, reference))

    def pictures(part: slice, out: Array) -> None:
        out[...] = before
        for picture, count in zip(out, counts[part], strict=True):
            np.copyto(picture, after[0], where=_marked(order, count, heatmap.shape))

    return Curve(np.array(counts) / order.size, probe.scores(asked, len(counts), pictures))


# ---- the picture seen through the map ----


def seen_through(x: Array, heatmap: Array, reference: Fill = "zero") -> Array:
    """(1, C, H, W): ``x * heatmap + reference * (1 - heatmap)``: the explanation map of Grad-CAM++'s metrics.

    Args:
        x: (1, C, H, W).
        heatmap: (H, W), 0 to 1.
        reference: what stands where the map is 0.

    Raises:
        OptionError, UnknownNameError: a heatmap of another size or range, or no such reference.
    """
    if heatmap.shape != x.shape[2:] or not (np.isfinite(heatmap).all() and heatmap.min() >= 0 and heatmap.max() <= 1):
        raise OptionError(f"the heatmap is {heatmap.shape}: give one from 0 to 1 of the picture's size {x.shape[2:]}")
    return perturb.blend(x, perturb.filled(x, reference), heatmap[None])


def drop(before: Array | float, after: Array | float) -> Array:
    """How much of the probability is lost when the picture is `seen_through` its map; its mean is the average drop.

    ``max(0, before - after) / before``: Chattopadhay et al., "Grad-CAM++: Improved Visual Explanations for Deep
    Convolutional Networks", WACV 2018, https://arxiv.org/abs/1710.11063, section 4.1. Lower is better. A map that is 1
    everywhere loses nothing, so look at `complexity` beside it.

    Args:
        before: (N,), probabilities of the pictures, above 0.
        after: (N,), of the same class, of the pictures seen through their maps.

    Returns:
        (N,), 0 to 1.

    Raises:
        OptionError: no probabilities.
    """
    y, o = _probabilities(before, after)
    return np.asarray(np.maximum(0, y - o) / np.where(y > 0, y, 1))


def increase(before: Array | float, after: Array | float) -> Array:
    """1 where the probability grows when the picture is `seen_through` its map, else 0.

    ``[before < after]``; its mean is Grad-CAM++'s "increase in confidence" (section 4.1). Higher is better. Arguments
    and errors as of `drop`.
    """
    y, o = _probabilities(before, after)
    return np.asarray(o > y, np.float64)


def gain(before: Array | float, after: Array | float) -> Array:
    """How much of what was missing to certainty is gained when the picture is `seen_through` its map.

    ``max(0, after - before) / (1 - before)``; its mean is the average gain: Zhang et al., "Opti-CAM: Optimizing
    saliency maps for interpretability", 2023, https://arxiv.org/abs/2301.07002, section 4. The counterpart of `drop`,
    whose arguments and errors it shares. 0 to 1, higher is better; 0 where the model was certain.
    """
    y, o = _probabilities(before, after)
    return np.asarray(np.maximum(0, o - y) / np.where(y < 1, 1 - y, 1))


def _probabilities(before: Array | float, after: Array | float) -> tuple[Array, Array]:
    y, o = np.asarray(before, np.float64), np.asarray(after, np.float64)
    for values in (y, o):
        if not ((values >= -1e-6) & (values <= 1 + 1e-6)).all():
            raise OptionError("drop, increase and gain take probabilities, from 0 to 1: take Softmax or Sigmoid first")
    return y, o


# ---- ADCC ----


def complexity(heatmap: Array) -> float:
    """The mean of the map's absolute values, 0 to 1 for a heatmap; lower is better (see `adcc`)."""
    return float(np.abs(heatmap).mean())


def coherency(heatmap: Array, again: Array) -> float:
    """How alike the map of a picture and the map of the picture `seen_through` it are (see `adcc`).

    ``(1 + r) / 2``, with r Pearson's correlation. 0 to 1, higher is better; 0.5, nothing known, for a constant map.

    Args:
        heatmap: (H, W).
        again: (H, W), of the same method and class.

    Raises:
        OptionError: different sizes, or NaN.
    """
    return (1 + pearson(heatmap, again)) / 2


def adcc(drop: float, coherency: float, complexity: float) -> float:
    """Average DCC: drop, coherency and complexity in one number.

    Poppi et al., "Revisiting The Evaluation of Class Activation Mapping for Explainability", CVPR workshops 2021,
    https://arxiv.org/abs/2104.10252, section 3.2: the harmonic mean ``3 / (1 / coherency + 1 / (1 - complexity) +
    1 / (1 - drop))``. 0 to 1, higher is better; 0 where one of the three is as bad as it can be.
    """
    parts = np.array([coherency, 1 - complexity, 1 - drop], np.float64)
    return float(3 / (1 / parts).sum()) if (parts > 0).all() else 0.0


# ---- ROAD ----


def road(
    predict: Predict,
    x: Array,
    heatmap: Array,
    strongest: bool = True,
    *,
    shares: Sequence[float] = SHARES,
    noise: float = 0.01,
    seed: int = 0,
    batch: int = 16,
) -> Curve:
    """The score when pixels are removed and filled in from their neighbours.

    ROAD, remove and debias: Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML
    2022, https://arxiv.org/abs/2202.00449, section 4: the filling
    (:func:`~onnxcam.core.impute.linear_imputation`, and a little noise) hides which pixels are missing, so that the
    shape of the hole tells the model nothing.

    Args:
        predict: the scores.
        x: (1, C, H, W).
        heatmap: (H, W).
        strongest: the most relevant pixels are removed (MoRF: low scores are good), else the least (LeRF: high ones).
        shares: how much of the picture is removed, each above 0 and below 1, rising.
        noise: of the filled pixels, in standard deviations of the picture.
        seed: of the noise.
        batch: pictures at a time.

    Returns:
        The curve; its ``mean`` sums it up, in units of the score.

    Raises:
        OptionError: a heatmap or shares that do not fit.
        ModelError: scores that are no numbers.
    """
    asked = _asked(predict, x, heatmap, batch)
    if not (len(shares) and min(shares) > 0 and max(shares) < 1 and (np.diff(shares) > 0).all()):
        raise OptionError(f"shares={tuple(shares)}: give rising numbers above 0 and below 1")
    order = strongest_first(heatmap if strongest else -heatmap)
    grain = np.random.default_rng(seed).standard_normal(x.shape[1:]) * noise * float(x.std())

    def pictures(part: slice, out: Array) -> None:
        for picture, share in zip(out, shares[part], strict=True):
            mask = _marked(order, round(share * order.size), heatmap.shape)
            picture[...] = linear_imputation(x[0], mask) + mask * grain

    return Curve(np.asarray(shares, np.float64), probe.scores(asked, len(shares), pictures))


def road_difference(most: Curve, least: Curve) -> float:
    """``mean(LeRF - MoRF) / 2`` of two `road` curves: -0.5 to 0.5 for probabilities, higher is better.

    A map without information gives about 0.
    """
    return float((least.scores - most.scores).mean() / 2)


# ---- sums and ranks ----


def sensitivity_n(
    predict: Predict,
    x: Array,
    heatmap: Array,
    n: int,
    reference: Fill = "zero",
    *,
    cell: int = 1,
    samples: int = 100,
    seed: int = 0,
    batch: int = 16,
) -> float:
    """How well the map's sum over n random pixels tells what the score loses without them.

    Ancona et al., "Towards better understanding of gradient-based attribution methods for Deep Neural Networks", ICLR
    2018, https://arxiv.org/abs/1711.06104, section 4: Pearson's correlation, over random sets S of n pixels, of
    ``sum of the map over S`` and ``f(x) - f(x without S)``. The paper draws 100 sets for each n from 1 to about 80 % of
    the pixels and shows the curve. Single pixels scattered over a large picture are noise to a network, whatever the
    map: with cells of about the size of the map's own, a good map and a bad one come apart for any n.

    Args:
        predict: the scores, best before Softmax.
        x: (1, C, H, W).
        heatmap: (H, W); of any scale.
        n: pixels in a set, or cells.
        reference: what stands where pixels are missing.
        cell: side of the squares that are missing as one, in pixels.
        samples: sets.
        seed: of the sets.
        batch: pictures at a time.

    Returns:
        -1 to 1, higher is better; 0 where all sums or all scores are alike.

    Raises:
        OptionError, UnknownNameError: a heatmap, a reference or numbers that do not fit.
        ModelError: scores that are no numbers.
    """
    asked, hidden = _asked(predict, x, heatmap, batch), perturb.filled(x, reference)
    probe.at_least(1, n=n, cell=cell)
    probe.at_least(2, samples=samples)
    sets = _random_sets((heatmap.shape[0], heatmap.shape[1]), n, cell, samples, np.random.default_rng(seed))
    whole = probe.finite(asked.score(x))

    def pictures(part: slice, out: Array) -> None:
        out[...] = x
        np.copyto(out, hidden, where=sets[part, None])

    found = probe.scores(asked, samples, pictures)
    sums = np.where(sets, heatmap.astype(np.float64), 0).sum(axis=(1, 2))
    return 0.0 if perturb.steady(found) else pearson(sums, whole - found)


def _random_sets(size: tuple[int, int], n: int, cell: int, samples: int, rng: np.random.Generator) -> Array:
    """Bool (samples, H, W), each with ``n`` cells; those at the right and the bottom may be cut off."""
    rows, columns = (math.ceil(side / cell) for side in size)
    if n >= rows * columns:
        raise OptionError(f"n={n}: all sets of as many places as there are, {rows * columns}, are the same; give fewer")
    chosen = np.stack([rng.permutation(rows * columns) < n for _ in range(samples)]).reshape(samples, rows, columns)
    return chosen.repeat(cell, axis=1).repeat(cell, axis=2)[:, : size[0], : size[1]]


def occlusion_map(
    predict: Predict,
    x: Array,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    reference: Fill = "zero",
    *,
    batch: int = 16,
) -> Array:
    """(H, W): how far the score falls where a window is hidden; what `rank_correlation` is taken with.

    It is the same for all methods on a picture. Arguments and errors as of :func:`onnxcam.core.perturb.occlusion`.
    """
    return perturb.occlusion(_asked(predict, x, None, batch), window=window, stride=stride, fill=reference)


def rank_correlation(heatmap: Array, occlusion: Array) -> float:
    """Rank correlation of a map with the occlusion map: faithfulness as Grad-CAM's paper measures it.

    Selvaraju et al., https://arxiv.org/abs/1610.02391, section 5.3: pixels whose hiding lowers the score should be
    those that the map shows. Spearman's, over the pixels.

    Args:
        heatmap: (H, W).
        occlusion: (H, W), of `occlusion_map`.

    Returns:
        -1 to 1, higher is better; 0 where one of the two is constant.

    Raises:
        OptionError: different sizes, or NaN.
    """
    return spearman(heatmap, occlusion)
