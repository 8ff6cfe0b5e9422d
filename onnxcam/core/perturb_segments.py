"""Black-box methods that hide segments of a picture: feature ablation, LIME and Kernel SHAP.

As in :mod:`onnxcam.core.perturb`. A *coalition* is a row (K,) of K segments, 1 where a segment is seen, 0 where it is
hidden. Drawing coalitions and fitting coefficients to their scores are functions of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxcam.core.perturb import Fill, blend, filled, steady
from onnxcam.core.probe import Array, Probe, at_least, finite, scores
from onnxcam.errors import MissingPackageError, OptionError, UnknownNameError

# ---- segments ----


def segmented(x: Array, given: str | Array) -> Array:
    """The segments of a picture, (H, W) int from 0 to K - 1.

    Args:
        x: (1, C, H, W), the picture as the model gets it.
        given: ``"slic:64"`` (about so many superpixels: Achanta et al., 2012, https://doi.org/10.1109/TPAMI.2012.120),
            ``"quickshift"`` (Vedaldi and Soatto, 2008, with the parameters that LIME's package takes), ``"grid:7"``
            (7 x 7 rectangles), or an integer array (H, W), one label per pixel.

    Raises:
        OptionError: an array of another size or type, a single segment, or scikit-image is missing.
        UnknownNameError: another name.
    """
    labels = _named(x, given) if isinstance(given, str) else _own(np.asarray(given), x.shape[2:])
    names, numbered = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise OptionError(f"segments={_words(given)} makes one segment of the whole picture: at least 2 are compared")
    return numbered.reshape(labels.shape)


def _words(given: str | Array) -> str:
    return repr(given) if isinstance(given, str) else "the array"


def _own(labels: Array, size: tuple[int, ...]) -> Array:
    if labels.dtype.kind not in "iub":
        raise OptionError(f"segments: an array of labels has whole numbers, not {labels.dtype}")
    if labels.shape != size:
        raise OptionError(
            f"segments: the array is {labels.shape}; the model's input is {size[0]} x {size[1]} pixels. Crop and "
            "resize it as the picture is, with nearest neighbours"
        )
    return labels


def _named(x: Array, text: str) -> Array:
    name, _, number = text.partition(":")
    if name not in _SEGMENTS:
        raise UnknownNameError.of("segments", text, _SEGMENTS, "a number may follow, such as grid:7; or give an array")
    if number and not (number.isdigit() and int(number) > 0):
        raise OptionError(f"segments={text!r}: a number of segments follows the colon, such as {name}:7")
    return _SEGMENTS[name](x, int(number or 0))


def _grid(x: Array, number: int) -> Array:
    n = number or 7
    down, right = (np.arange(side) * n // side for side in x.shape[2:])
    return np.asarray(down[:, None] * n + right)


def _slic(x: Array, number: int) -> Array:
    return np.asarray(_skimage().slic(_colours(x), n_segments=number or 64, compactness=20))


def _quickshift(x: Array, number: int) -> Array:
    if number:
        raise OptionError("segments='quickshift' finds the number of segments itself: leave it out, or use slic")
    return np.asarray(_skimage().quickshift(_colours(x), kernel_size=4, max_dist=200, ratio=0.2))


_SEGMENTS: dict[str, Callable[[Array, int], Array]] = {"slic": _slic, "quickshift": _quickshift, "grid": _grid}


def _colours(x: Array) -> Array:
    """(H, W, 3) from 0 to 1, for segmenting."""
    spread = np.ptp(x)
    unit = (x[0] - x.min()) / (spread if spread > 0 else 1)
    three = unit if len(unit) == 3 else np.repeat(unit.mean(axis=0, keepdims=True), 3, axis=0)
    return np.ascontiguousarray(np.moveaxis(three, 0, -1), dtype=np.float64)


def _skimage() -> Any:
    try:
        from skimage import segmentation
    except ImportError as error:
        raise MissingPackageError(
            f"superpixels need scikit-image ({error}): pip install 'onnxcam[methods]', or segments='grid:7'"
        ) from error
    return segmentation


def _hiding(x: Array, kind: Fill, labels: Array) -> Array:
    """As :func:`~onnxcam.core.perturb.filled`; ``"segment"``: each segment's own mean colour, as LIME's package."""
    if not isinstance(kind, str) or kind != "segment":
        return filled(x, kind)
    flat = labels.ravel()
    means = [np.bincount(flat, channel.ravel()) / np.bincount(flat) for channel in x[0]]
    return np.stack([m[labels] for m in means])[None].astype(x.dtype)


def _asked(probe: Probe, labels: Array, rows: Array, fill: Fill) -> Array:
    """(n,): the scores of coalitions (n, K)."""
    hidden = _hiding(probe.x, fill, labels)
    seen = rows.astype(np.float32)
    return scores(probe, len(seen), lambda part, out: blend(probe.x, hidden, seen[part][:, labels], out))


def _painted(values: Array, found: Array, labels: Array) -> Array:
    """(H, W): each segment's value; nothing where no score moved."""
    return np.zeros(labels.shape, np.float32) if steady(found) else values[labels].astype(np.float32)


# ---- feature ablation ----


def feature_ablation(probe: Probe, *, segments: str | Array = "slic", fill: Fill = "zero") -> Array:
    """Feature ablation: how far the score falls when one segment is hidden.

    ``S_k = f(x) - f(x without segment k)``; the same as Captum's ``FeatureAblation`` with segments as features, and
    occlusion (Zeiler and Fergus, 2014, https://arxiv.org/abs/1311.2901) with segments for windows.

    Args:
        probe: the model.
        segments: :func:`segmented`.
        fill: ``"segment"`` (its own mean colour), or :func:`~onnxcam.core.baselines.baseline`.

    Returns:
        (H, W), in units of the score.

    Raises:
        OptionError, UnknownNameError: options that do not fit.
        ModelError: scores that are no numbers.
    """
    labels = segmented(probe.x, segments)
    found = _asked(probe, labels, 1 - np.eye(labels.max() + 1), fill)
    whole = finite(probe.score(probe.x))
    return _painted(whole - found, np.append(whole, found), labels)


# ---- LIME ----


def closeness(rows: Array, width: float) -> Array:
    """(n, K) -> (n,): LIME's kernel ``exp(-D^2 / (2 width^2))`` of the cosine distance D to the whole picture."""
    distance = 1 - np.sqrt(rows.mean(axis=1))
    return np.asarray(np.exp(-(distance**2) / (2 * width**2)))


def ridge(rows: Array, y: Array, weights: Array, alpha: float) -> Array:
    """(K,): the b that minimises ``sum_i w_i (y_i - a - z_i b)^2 + alpha |b|^2``; of several, the shortest."""
    X, rest = (a - np.average(a, axis=0, weights=weights) for a in (rows, y))
    root, features = np.sqrt(weights), rows.shape[1]
    design = np.concatenate([X * root[:, None], math.sqrt(alpha) * np.eye(features)])
    return np.asarray(np.linalg.lstsq(design, np.append(rest * root, np.zeros(features)), rcond=None)[0])


def lasso(rows: Array, y: Array, weights: Array, alpha: float) -> Array:
    """(K,): the b that minimises ``sum_i w_i (y_i - a - z_i b)^2 / (2 sum_i w_i) + alpha |b|_1``, by scikit-learn."""
    try:
        from sklearn.linear_model import Lasso
    except ImportError as error:
        raise MissingPackageError(
            f"the lasso needs scikit-learn ({error}): pip install 'onnxcam[methods]', or take fit='ridge'"
        ) from error
    return np.asarray(Lasso(alpha=alpha).fit(rows, y, sample_weight=weights).coef_)


_FITS: dict[str, tuple[Callable[[Array, Array, Array, float], Array], float]] = {
    "ridge": (ridge, 1.0),
    "lasso": (lasso, 0.01),
}


def lime(
    probe: Probe,
    *,
    samples: int = 1000,
    segments: str | Array = "slic",
    fill: Fill = "segment",
    width: float = 0.25,
    fit: str = "ridge",
    alpha: float | None = None,
    seed: int | np.random.Generator = 0,
) -> Array:
    """LIME: a linear model of the score, fitted to pictures in which random segments are hidden.

    Ribeiro et al., "Why Should I Trust You?: Explaining the Predictions of Any Classifier", KDD 2016,
    https://arxiv.org/abs/1602.04938, algorithm 1.

    Every segment is seen with probability 1/2, in the first sample all are. Samples weigh
    ``exp(-D^2 / (2 width^2))``, D the cosine distance of coalitions. The paper selects few segments by K-LASSO; here
    all stay, as by default in its package, whose other defaults (ridge, alpha 1, width 0.25, 1000 samples, the
    segment's mean colour) are taken too. ``fit="lasso"`` is Captum's.

    Args:
        probe: the model.
        samples: number of coalitions.
        segments: :func:`segmented`.
        fill: ``"segment"`` (its own mean colour), or :func:`~onnxcam.core.baselines.baseline`.
        width: of the kernel.
        fit: ``"ridge"`` or ``"lasso"``.
        alpha: strength of the penalty; None: 1 for ridge, 0.01 for lasso.
        seed: of the coalitions, ``integers(0, 2, (samples, K))``.

    Returns:
        (H, W), each segment's coefficient, in units of the score.

    Raises:
        OptionError, UnknownNameError: options that do not fit.
        ModelError: scores that are no numbers.
    """
    at_least(2, samples=samples)
    if fit not in _FITS:
        raise UnknownNameError.of("fit", str(fit), _FITS)
    solve, usual = _FITS[fit]
    strength = usual if alpha is None else alpha
    if not isinstance(strength, int | float) or not width > 0 or not strength >= 0:
        raise OptionError(f"width={width}, alpha={strength}: give a width above 0 and an alpha of at least 0")
    labels = segmented(probe.x, segments)
    rows = np.random.default_rng(seed).integers(0, 2, (samples, labels.max() + 1))
    rows[0] = 1
    found = _asked(probe, labels, rows, fill)
    return _painted(solve(rows, found, closeness(rows, width), strength), found, labels)


# ---- Kernel SHAP ----


def coalitions(rng: np.random.Generator, features: int, samples: int) -> tuple[Array, Array]:
    """Coalitions (n, K) and their weights (n,), the empty and the whole one left out.

    Where ``samples`` is enough for all ``2^K - 2``, all of them with the Shapley kernel
    ``(K - 1) / (C(K, s) s (K - s))`` of their size s. Else drawn in proportion to it, so that all weigh the same: a
    size, then a set of that size; then the complements of all, which lowers the noise (Covert and Lee, 2021,
    https://arxiv.org/abs/2012.01536).
    """
    sizes = np.arange(1, features)
    if features < 31 and 2**features - 2 <= samples:
        rows = (np.arange(1, 2**features - 1)[:, None] >> np.arange(features)) & 1
        kernel = np.array([(features - 1) / (math.comb(features, s) * s * (features - s)) for s in sizes])
        return rows, kernel[rows.sum(axis=1) - 1]
    chance = 1 / (sizes * (features - sizes))
    half = (samples + 1) // 2
    drawn = rng.choice(sizes, half, p=chance / chance.sum())
    rank = rng.random((half, features)).argsort(axis=1).argsort(axis=1)
    chosen = (rank < drawn[:, None]).astype(int)
    return np.concatenate([chosen, 1 - chosen])[:samples], np.ones(samples)


def shapley(rows: Array, y: Array, weights: Array, empty: float, whole: float) -> Array:
    """(K,): the phi that minimises ``sum_i w_i (y_i - empty - z_i phi)^2`` with ``sum phi = whole - empty``.

    Where too few coalitions leave it open, the one closest to equal shares.
    """
    seen, features = rows.sum(axis=1), rows.shape[1]
    equal, root = (whole - empty) / features, np.sqrt(weights)
    centred = rows - (seen / features)[:, None]  # its rows sum to 0, and so does the shortest solution
    rest = y - empty - seen * equal
    return np.asarray(equal + np.linalg.lstsq(centred * root[:, None], rest * root, rcond=None)[0])


def kernelshap(
    probe: Probe,
    *,
    samples: int = 1000,
    segments: str | Array = "slic",
    fill: Fill = "mean",
    seed: int | np.random.Generator = 0,
) -> Array:
    """Kernel SHAP: each segment's Shapley value, its fair share of the score.

    Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017,
    https://arxiv.org/abs/1705.07874, theorem 2.

    A weighted linear fit to coalitions (:func:`coalitions`), with the two conditions of the theorem kept exactly: the
    values sum to ``f(x) - f(all hidden)``. With up to ``log2(samples)`` segments they are exact. Captum instead gives
    the empty and the whole coalition a weight of 10^6, which agrees to about that.

    Args:
        probe: the model.
        samples: number of coalitions; two more runs give the score of the picture and of nothing.
        segments: :func:`segmented`.
        fill: ``"segment"`` (its own mean colour), or :func:`~onnxcam.core.baselines.baseline`.
        seed: of the coalitions.

    Returns:
        (H, W), each segment's value, in units of the score.

    Raises:
        OptionError, UnknownNameError: options that do not fit.
        ModelError: scores that are no numbers.
    """
    at_least(2, samples=samples)
    labels = segmented(probe.x, segments)
    features = int(labels.max()) + 1
    rows, weights = coalitions(np.random.default_rng(seed), features, samples)
    ends = np.stack([np.zeros(features, int), np.ones(features, int)])
    found = _asked(probe, labels, np.concatenate([ends, rows]), fill)
    return _painted(shapley(rows, found[2:], weights, found[0], found[1]), found, labels)
