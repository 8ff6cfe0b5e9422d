"""Black-box methods that hide places of a picture: occlusion and AISE, and what :mod:`onnxcam.core.rise` shares.

They ask for scores alone. Pictures are float (B, C, H, W) as the model gets them, masks (B, H, W) from 0, hidden, to 1,
as it is. Every map is (H, W), of the input's size, signed; it is all zero where nothing that was hidden changed the
score by more than float32's rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from onnxcam.core.baselines import baseline
from onnxcam.core.probe import Array, Probe, at_least, finite, scores
from onnxcam.errors import MissingPackageError, OptionError

Window = tuple[slice, slice]
Fill = str | float | Array
_ROUNDING = 16 * float(np.finfo(np.float32).eps)

# ---- what all black-box methods share ----


def filled(x: Array, kind: Fill) -> Array:
    """What stands where ``x`` (1, C, H, W) is hidden: :func:`~onnxcam.core.baselines.baseline`, one of them.

    Raises:
        UnknownNameError, OptionError: no such baseline, or several.
    """
    hidden = baseline(x, kind)
    if len(hidden) != 1:
        raise OptionError(f"fill: {len(hidden)} pictures are given; one stands where parts are hidden")
    return hidden


def blend(x: Array, hidden: Array, masks: Array, out: Array | None = None) -> Array:
    """``x * m + hidden * (1 - m)``: (1, C, H, W) and (B, H, W) -> (B, C, H, W), written to ``out`` where given."""
    seen = np.empty((len(masks), *x.shape[1:]), x.dtype) if out is None else out
    shows = bool(np.any(hidden))
    for image, mask in zip(seen, masks.astype(x.dtype, copy=False), strict=True):
        np.multiply(x[0], mask, out=image)
        if shows:
            image += hidden[0] * (1 - mask)
    return seen


def steady(found: Array) -> bool:
    """Whether scores differ by no more than rounding: constant, or saturated."""
    return bool(np.ptp(found) <= _ROUNDING * np.abs(found).max())


# ---- occlusion ----


def windows(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> list[Window]:
    """Where the window stands, row by row; the last ones are cut off at the border, so that every pixel is met.

    Raises:
        OptionError: a window larger than the picture, or steps that leave pixels out.
    """
    for n, w, s in zip(size, window, stride, strict=True):
        if w > n:
            raise OptionError(f"window={w}: the model's input is {size[0]} x {size[1]} pixels; give a smaller one")
        if s > w < n:
            raise OptionError(f"stride={s} steps over pixels with window={w}: give a stride of at most {w}")
    rows, columns = (
        [slice(k, min(k + w, n)) for k in range(0, math.ceil((n - w) / s) * s + 1, s)]
        for n, w, s in zip(size, window, stride, strict=True)
    )
    return [(row, column) for row in rows for column in columns]


def mean_over_windows(places: Sequence[Window], values: Array, size: tuple[int, int]) -> Array:
    """(H, W): at each pixel the mean of the values of all windows over it."""
    total, count = np.zeros(size), np.zeros(size)
    for place, value in zip(places, values, strict=True):
        total[place] += value
        count[place] += 1
    return (total / count).astype(np.float32)


def _pair(name: str, value: int | tuple[int, int] | None, default: int) -> tuple[int, int]:
    both = np.atleast_1d(default if value is None else value).tolist()
    if len(both) > 2:
        raise OptionError(f"{name}={value!r}: give one number, or height and width")
    at_least(1, **{name: both[0]})
    at_least(1, **{name: both[-1]})
    return both[0], both[-1]


def occlusion(
    probe: Probe,
    *,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    fill: Fill = "zero",
) -> Array:
    """Occlusion sensitivity: how far the score falls when a window is hidden.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014,
    https://arxiv.org/abs/1311.2901, section 4.2 (a grey square, moved over the picture).

    ``S(p) = mean over the windows W over p of f(x) - f(x without W)``: Captum's rule. MATLAB's map has one such
    difference per window instead; its window of a fifth of the side and its stride of a tenth are the defaults here.

    Args:
        probe: the model.
        window: side in pixels, or (height, width); None: a fifth of the shorter side.
        stride: step in pixels, or (down, right); None: half the default window.
        fill: what hides; :func:`~onnxcam.core.baselines.baseline`.

    Returns:
        (H, W), in units of the score.

    Raises:
        OptionError, UnknownNameError: window, stride or fill do not fit.
        ModelError: scores that are no numbers.
    """
    height, width = size = (int(probe.x.shape[2]), int(probe.x.shape[3]))
    fifth, tenth = (max(1, round(min(height, width) / n)) for n in (5, 10))
    asked = _pair("window", window, fifth)
    places = windows(size, asked, _pair("stride", stride, min(tenth, *asked)))
    hidden = filled(probe.x, fill)

    def images(part: slice, out: Array) -> None:
        out[...] = probe.x
        for image, (rows, columns) in zip(out, places[part], strict=True):
            image[:, rows, columns] = hidden[0, :, rows, columns]

    whole, found = finite(probe.score(probe.x)), scores(probe, len(places), images)
    drops = np.zeros_like(found) if steady(np.append(whole, found)) else whole - found
    return mean_over_windows(places, drops, size)


# ---- AISE ----


def bump(size: tuple[int, int], place: Sequence[float] | Array, width: float) -> Array:
    """A Gaussian (H, W) with peak 1 at ``place`` (right, down), from 0 to 1; ``width`` is in sides."""
    down, right = (np.linspace(0, 1, n) for n in size)
    return np.asarray(np.exp(-((right - place[0]) ** 2 + (down[:, None] - place[1]) ** 2) / (2 * width**2)))


def aise(
    probe: Probe, *, samples: int = 150, widths: Sequence[float] = (0.1, 0.175, 0.25), fill: Fill = "zero"
) -> Array:
    """AISE: soft round windows, sent where they keep the score and their absence destroys it.

    Adaptive Input Sampling for Explanation of Black-box Models, part of OpenVINO XAI since 2024,
    https://github.com/openvinotoolkit/openvino_xai (no paper has been published).

    For each width the DIRECT optimiser (Jones et al., 1993) looks for the place k of the largest
    ``g(k) = f(x * k) - f(x * (1 - k))``; all places that it tries are summed,
    ``S_width = sum_i (g(k_i) - min g) k_i``. Each width's map is divided by its maximum, and the maps are added.
    Nothing is random. OpenVINO's code sums g itself: where no window keeps more of the score than it takes, all g are
    negative and its map is lowest where the search looked most, at the best place. So the lowest g is the zero here.

    Args:
        probe: the model.
        samples: places to try, of all widths together; each takes two runs.
        widths: standard deviations of the windows, in sides of the picture.
        fill: what hides; :func:`~onnxcam.core.baselines.baseline`.

    Returns:
        (H, W), from 0 to at most the number of widths.

    Raises:
        OptionError, UnknownNameError: options out of range, or SciPy is missing.
        ModelError: scores that are no numbers.
    """
    sides = np.atleast_1d(np.asarray(widths))
    if sides.ndim != 1 or not sides.size or sides.dtype.kind not in "fiu" or not sides.min() > 0:
        raise OptionError(f"widths={widths!r}: give numbers above 0, in sides of the picture")
    at_least(len(sides), samples=samples)
    search = _Search(probe, filled(probe.x, fill), samples)
    parts = np.array_split(np.arange(samples), len(sides))
    found = [search.of(float(width), len(part)) for width, part in zip(sides, parts, strict=True)]
    return np.zeros_like(found[0]) if steady(np.array(search.scores)) else np.sum(found, axis=0)


class _Search:
    """The places that DIRECT tries, and what they score."""

    def __init__(self, probe: Probe, hidden: Array, total: int) -> None:
        self.probe, self.hidden, self.total = probe, hidden, total
        self.size = (int(probe.x.shape[2]), int(probe.x.shape[3]))
        self.scores: list[float] = []

    def of(self, width: float, most: int) -> Array:
        """(H, W): the map of one width."""
        tried: list[tuple[Array, float]] = []

        def loss(place: Array) -> float:
            if len(tried) >= most:  # the optimiser ends after a round, not within one
                return 0.0
            mask = bump(self.size, place, width)
            tried.append((place.copy(), self._gain(mask)))
            return -tried[-1][1]

        _optimiser()(loss, [(0, 1), (0, 1)], eps=0.1, maxfun=most, locally_biased=False)
        least = min(gain for _, gain in tried)
        total = np.sum([(gain - least) * bump(self.size, place, width) for place, gain in tried], axis=0)
        return np.asarray(total / max(total.max(), np.finfo(np.float32).tiny), dtype=np.float32)

    def _gain(self, mask: Array) -> float:
        kept, left = finite(self.probe.score(blend(self.probe.x, self.hidden, np.stack([mask, 1 - mask]))))
        self.scores += [float(kept), float(left)]
        self.probe.advance(len(self.scores) // 2, self.total)
        return float(kept - left)


def _optimiser() -> Callable[..., object]:
    try:
        from scipy.optimize import direct
    except ImportError as error:
        raise MissingPackageError(
            f"AISE needs SciPy ({error}): pip install 'onnxcam[methods]', or use method rise"
        ) from error
    return direct  # type: ignore[no-any-return]
