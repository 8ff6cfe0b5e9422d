"""Does the map depend on the model at all, on the class, and on nothing that does not matter?

A map that stays the same when weights become random shows the picture, not what the model has learnt: Adebayo et al.,
"Sanity Checks for Saliency Maps", 2018, https://arxiv.org/abs/1810.03292.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.evaluate.reweigh import randomised, shifted, weighted_layers
from onnxcam.evaluate.statistics import Estimate, bootstrap, spearman
from onnxcam.explainer import Explainer
from onnxcam.explanation import Explanation
from onnxcam.methods import METHODS, Method
from onnxcam.model import Model
from onnxcam.opening import opened

Array = NDArray[Any]
Image = str | Path | Array
Progress = Callable[[int, int], None]
MODES = ("cascading", "independent")
FIGURES = ("signed", "absolute", "ssim")
"""What a `Curve` holds, in order; see `similarity`."""
_WINDOW = 7  # of SSIM, pixels across
_FALLEN, _KEPT = 0.3, 0.5  # of the signed correlation, for the words alone


# ---- how alike two maps are ----


def ssim(a: Array, b: Array) -> float:
    """Structural similarity of two heatmaps (H, W) in [0, 1], the mean over windows of 7 x 7 pixels; -1 to 1.

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004,
    https://doi.org/10.1109/TIP.2003.819861, eq. 13: ``(2 ma mb + c1)(2 sab + c2) / ((ma^2 + mb^2 + c1)(sa^2 + sb^2 +
    c2))`` of the windows' means, variances and covariance (divided by 48), c1 = 0.01^2, c2 = 0.03^2.

    Raises:
        OptionError: different sizes, or smaller than a window.
    """
    if a.shape != b.shape or a.ndim != 2 or min(a.shape) < _WINDOW:
        raise OptionError(f"maps of {a.shape} and {b.shape}: SSIM takes two of one size, at least {_WINDOW} across")
    x, y = a.astype(np.float64), b.astype(np.float64)
    mx, my, xx, yy, xy = map(_window_means, (x, y, x * x, y * y, x * y))
    unbiased = _WINDOW**2 / (_WINDOW**2 - 1)
    sxx, syy, sxy = ((m - p) * unbiased for m, p in ((xx, mx * mx), (yy, my * my), (xy, mx * my)))
    c1, c2 = 0.01**2, 0.03**2
    ratio = (2 * mx * my + c1) * (2 * sxy + c2) / ((mx**2 + my**2 + c1) * (sxx + syy + c2))
    return float(ratio.mean())


def _window_means(values: Array) -> Array:
    sums = np.pad(values, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    w = _WINDOW
    return np.asarray((sums[w:, w:] - sums[:-w, w:] - sums[w:, :-w] + sums[:-w, :-w]) / w**2)


def similarity(a: Explanation, b: Explanation) -> tuple[float, float, float]:
    """How alike two explanations of one picture are.

    Returns:
        Spearman's rank correlation of the signed maps, of their absolute values, and `ssim` of the heatmaps as they
        are shown. A CAM counts at feature size, before its ReLU; an attribution (C, H, W) is summed over its channels.
        Where one of two maps is constant the correlation is 0: a map that went blank has changed.
    """
    (one, one_size), (two, two_size) = _values(a), _values(b)
    return spearman(one, two), spearman(one_size, two_size), ssim(a.heatmap, b.heatmap)


def _values(e: Explanation) -> tuple[Array, Array]:
    """The signed map, and its absolute values."""
    if e.attribution is None:
        return e.cam, np.abs(e.cam)
    return e.attribution.sum(axis=0), np.abs(e.attribution).sum(axis=0)


# ---- randomised weights ----


@dataclass(frozen=True)
class Curve:
    """How alike the map stays while weights become random.

    Attributes:
        method: the catalogue's name.
        mode: ``"cascading"`` or ``"independent"``.
        layers: per point, the layer whose weights were drawn (cascading: last, all nearer the logits as well).
        share: per point, the share of all layers whose weights are random.
        values: (P, S, N, 3): points, seeds, pictures; signed, absolute, SSIM as `similarity` gives them.
    """

    method: str
    mode: str
    layers: tuple[str, ...]
    share: tuple[float, ...]
    values: Array

    def estimates(self, figure: str = "absolute") -> list[Estimate]:
        """Per point the mean over pictures (each the mean of its seeds), with a 95 % bootstrap interval.

        Raises:
            UnknownNameError: no such figure.
        """
        if figure not in FIGURES:
            raise UnknownNameError.of("figure", figure, FIGURES)
        return [bootstrap(rows) for rows in self.values[..., FIGURES.index(figure)].mean(axis=1)]


def randomisation(
    model: str | Path | Model,
    images: Sequence[Image],
    method: str | Method = "gradcam",
    *,
    mode: str = "cascading",
    seeds: Sequence[int] = (0, 1, 2),
    points: int = 12,
    progress: Progress | None = None,
    **options: Any,
) -> Curve:
    """Parameter randomisation test (Adebayo et al. 2018, section 3.1): maps before against maps after.

    Explained is the class that the intact model predicts, throughout.

    Args:
        model: as for :class:`~onnxcam.Explainer`.
        images: paths or uint8 (H, W, 3).
        method: as for :class:`~onnxcam.Explainer`.
        mode: ``"cascading"``: the layers from the logits down to the one at hand; ``"independent"``: that one alone.
        seeds: of the draws; each gives a model of its own.
        points: how many layers, evenly from logits to image, if there are more.
        progress: called with (done, total) pictures.
        options: further ones of :class:`~onnxcam.Explainer`.

    Raises:
        UnknownNameError: no such mode.
        OptionError: nothing to draw, or no pictures.
    """
    if mode not in MODES:
        raise UnknownNameError.of("mode", mode, MODES)
    intact = Explainer(opened(model), method=method, **options)
    layers = weighted_layers(intact.model, intact.logits)
    if not layers or not len(images) or not len(seeds) or points < 1:
        raise OptionError(
            f"{len(layers)} layers with weights, {len(images)} pictures, {len(seeds)} seeds, {points} points: "
            "randomisation needs at least one of each"
        )
    before = intact.explain_batch(images)
    chosen = sorted({round(p) for p in np.linspace(0, len(layers) - 1, points)})
    values = np.empty((len(chosen), len(seeds), len(images), len(FIGURES)))
    for row, (p, s) in enumerate((p, s) for p in range(len(chosen)) for s in range(len(seeds))):
        drawn = layers[: chosen[p] + 1] if mode == "cascading" else layers[chosen[p] : chosen[p] + 1]
        other = Explainer(randomised(intact.model, drawn, seeds[s]), method=method, **options)
        after = _of_same_classes(other, images, before)
        values[p, s] = [similarity(a, b) for a, b in zip(before, after, strict=True)]
        if progress is not None:
            progress((row + 1) * len(images), len(chosen) * len(seeds) * len(images))
    share = [(k + 1 if mode == "cascading" else 1) / len(layers) for k in chosen]
    return Curve(intact.method.name, mode, tuple(layers[k].name for k in chosen), tuple(share), values)


def _of_same_classes(explainer: Explainer, images: Sequence[Image], before: Sequence[Explanation]) -> list[Explanation]:
    """Explain each picture for the class that it was explained for before; those of one class go together."""
    found: dict[int, Explanation] = {}
    for c in dict.fromkeys(e.class_index for e in before):
        rows = [k for k, e in enumerate(before) if e.class_index == c]
        found.update(zip(rows, explainer.explain_batch([images[k] for k in rows], c), strict=True))
    return [found[k] for k in range(len(before))]


# ---- the class, a shift, noise ----


def label_contrast(explainer: Explainer, images: Sequence[Image], others: int = 3, seed: int = 0) -> Array:
    """How alike the maps of different classes are on one picture: near 1, the method does not tell classes apart.

    Args:
        explainer: with method and model.
        images: paths or uint8 (H, W, 3).
        others: how many other classes, drawn at random among all that are not predicted.
        seed: of that draw.

    Returns:
        (N, others), Spearman's correlation of the signed map of the predicted class with that of another one.

    Raises:
        OptionError: the model has no other class.
    """
    classes = explainer.logits.classes or 0
    if classes < 2 or others < 1:
        raise OptionError(f"{classes} classes, {others} others: label contrast compares maps of at least two classes")
    rng, rows = np.random.default_rng(seed), []
    for image, e in zip(images, explainer.explain_batch(images), strict=True):
        rest = np.delete(np.arange(classes), e.class_index)
        drawn = rng.choice(rest, min(others, len(rest)), replace=False)
        rows.append([spearman(_values(e)[0], _values(explainer.explain(image, int(c)))[0]) for c in drawn])
    return np.asarray(rows)


def input_shift(
    model: str | Path | Model,
    images: Sequence[Image],
    method: str | Method = "gradcam",
    *,
    shift: float | None = None,
    **options: Any,
) -> Array:
    """Input-shift invariance: how far the map moves when a shift of the input changes nothing for the model.

    Kindermans et al., "The (Un)reliability of Saliency Methods", 2017, https://arxiv.org/abs/1711.00867: a constant is
    added to every pixel of the preprocessed image and compensated inside of the model, so that score and gradient stay.
    A map that moves answers to the reference "zero", not to the model.

    Args:
        model, images, method, options: as for `randomisation`.
        shift: in units of the model's input; by default minus the range of the images' values, [0, 1] to [-1, 0].

    Returns:
        (N,), ``max |map' - map| / max |map|`` of the signed maps; what is below 1e-3 is rounding. NaN where the map is
        blank.

    Raises:
        OptionError: the model takes integers.
    """
    intact = Explainer(opened(model), method=method, **options)
    tensors = [intact.prepare(i).tensor for i in images]
    moved = -float(max(x.max() for x in tensors) - min(x.min() for x in tensors)) if shift is None else shift
    other = Explainer(shifted(intact.model, moved), method=method, **options)
    found = []
    for x in tensors:
        a = intact.explain_tensor(x)[0]
        b = other.explain_tensor(np.asarray(x + moved, x.dtype), a.class_index)[0]
        one, two = (_values(e)[0].astype(np.float64) for e in (a, b))
        found.append(float(np.abs(one - two).max() / size) if (size := np.abs(one).max()) else math.nan)
    return np.asarray(found)


@dataclass(frozen=True)
class Stability:
    """How far the map moves under noise that leaves the prediction: both of shape (N,), NaN where no draw does.

    Attributes:
        largest: max-sensitivity, the largest relative change of any draw.
        mean: the mean relative change.
        kept: how many draws left the prediction.
    """

    largest: Array
    mean: Array
    kept: Array


def stability(
    explainer: Explainer, images: Sequence[Image], *, radius: float = 0.02, draws: int = 10, seed: int = 0
) -> Stability:
    """Max-sensitivity: ``max ||map(x + d) - map(x)|| / ||map(x)||`` over noise d, uniform within ``radius``.

    Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", 2019, https://arxiv.org/abs/1901.09392,
    definition 4.1, by drawing; the norm is Euclidean, over the signed map, divided by that of the map itself. Draws
    that change the predicted class do not count: there the map should move.

    Args:
        explainer: with method and model.
        images: paths or uint8 (H, W, 3).
        radius: largest noise of a value, as a share of the range of the image's values.
        draws: how many, of one image in one run.
        seed: of the noise.

    Raises:
        OptionError: a radius of 0 or less, or no draws.
    """
    if radius <= 0 or draws < 1:
        raise OptionError(f"radius={radius}, draws={draws}: give a radius above 0 and at least one draw")
    rows = [_unsteady(explainer, explainer.prepare(i).tensor, radius, draws, [seed, k]) for k, i in enumerate(images)]
    return Stability(*(np.asarray(column) for column in zip(*rows, strict=True)))


def _unsteady(
    explainer: Explainer, x: Array, radius: float, draws: int, seed: Sequence[int]
) -> tuple[float, float, int]:
    e = explainer.explain_tensor(x)[0]
    noisy = _noisy(x, radius, draws, np.random.default_rng(seed))
    moved = [m for m in explainer.explain_tensor(noisy, e.class_index) if m.top[0][0] == e.top[0][0]]
    plain = _values(e)[0].astype(np.float64)
    size = float(np.linalg.norm(plain))
    if not moved or not size:
        return math.nan, math.nan, len(moved)
    changes = [float(np.linalg.norm(_values(m)[0] - plain)) / size for m in moved]
    return max(changes), float(np.mean(changes)), len(moved)


def _noisy(x: Array, radius: float, draws: int, rng: np.random.Generator) -> Array:
    noise = rng.uniform(-radius, radius, (draws, *x.shape[1:])) * float(np.ptp(x.astype(np.float64)))
    if x.dtype.kind == "f":
        return (x + noise).astype(x.dtype)
    limits = np.iinfo(x.dtype)
    return np.clip(np.rint(x + noise), limits.min, limits.max).astype(x.dtype)


# ---- what it means, in words ----


def verdict(curve: Curve) -> str:
    """What a randomisation test says of a method, in words; the figure is the rank correlation of the signed maps.

    "At once": no more than 0.3 is left after the first layer. "Hardly": 0.5 or more is left after half of the layers.
    Single numbers do not settle it: Binder et al., "Shortcomings of Top-Down Randomization-Based Sanity Checks", 2022,
    https://arxiv.org/abs/2211.12486, show that noise passes, and that the test favours some architectures.
    """
    signed, title = curve.estimates("signed"), METHODS[curve.method].title if curve.method in METHODS else curve.method
    first = f"{title}: with random weights in {_where(curve)} the map has a rank correlation of {_number(signed[0])}"
    if curve.mode == "independent":
        return f"{first}. {_alone(curve, signed)}"
    half = next((signed[k] for k, share in enumerate(curve.share) if share >= 0.5), None)
    if half is not None and half.value >= _KEPT:
        fall = f"and in half of the layers still {_number(half)}. It hardly falls: {_PICTURE}"
    elif signed[0].value <= _FALLEN:
        fall = f"with what it was. It falls at once: {_MODEL}{_in_place(curve)}"
    elif half is None:
        fall = f"with what it was. Nothing was measured with half of the layers random: {_MORE}"
    else:
        fall = f"and in half of the layers {_number(half)}. It falls slowly: {_BOTH}"
    return f"{first} {fall}"


_PICTURE = (
    "the map shows the picture, such as its edges, more than what the model has learnt. It cannot tell a trained model "
    "from an untrained one, so do not judge a model, its training or a bias by it."
)
_MODEL = "the map depends on what the model has learnt, as an explanation of the model must."
_MORE = "how it falls is not known; ask for more points."
_BOTH = "the map shows what the model has learnt and the picture itself; read it beside a method that falls at once."


def _where(curve: Curve) -> str:
    return f"{_short(curve.layers[0])} alone"


def _short(layer: str) -> str:
    """TensorFlow Lite joins the names of all that it fused."""
    return layer.partition(";")[0]


def _number(found: Estimate) -> str:
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _in_place(curve: Curve) -> str:
    """A map may change its sign and keep its place."""
    absolute = curve.estimates("absolute")[0]
    if absolute.value < _KEPT:
        return ""
    return f" Its absolute values still correlate by {_number(absolute)} there: the same places, other signs."


def _alone(curve: Curve, signed: Sequence[Estimate]) -> str:
    order = sorted(range(len(signed)), key=lambda k: signed[k].value)
    low, high = (f"at {_short(curve.layers[k])} ({_number(signed[k])})" for k in (order[0], order[-1]))
    return f"It matters most {low}, least {high}."
