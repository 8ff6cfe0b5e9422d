"""Maps: weighted sum, ReLU, normalise, resize, fuse.

The functions that take ``xp`` run in two worlds: with NumPy they compute, with the symbolic namespace they
write the same formula into a graph. They use nothing of ``xp`` but array-API names and operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, UnknownNameError
from .bands import Bands, Taps, check_resize, find_taps

Array = Any
"""An array of the world at hand: ``numpy.ndarray`` or a symbolic tensor."""

# Below the smallest normal float32 nothing is left but rounding, and some runtimes flush it to 0.
_TINY = float(np.finfo(np.float32).tiny)
# A spread of four units in the last place is what rounding alone puts on a constant map.
_NOISE = 4 * float(np.finfo(np.float32).eps)


# ---- resizing ----


def resize_matrix(
    n_in: int,
    n_out: int,
    kind: str = "bilinear",
    antialias: bool = True,
    span: tuple[float, float] | None = None,
    dtype: type[np.floating[Any]] = np.float32,
) -> NDArray[Any]:
    """One axis of a resize, as a matrix: ``out = matrix @ in``.

    Half-pixel centres (ONNX Resize, ``coordinate_transformation_mode="half_pixel"``). With ``antialias`` the
    kernel widens when shrinking and is renormalised at the edges, as in Pillow; without, edges are repeated,
    as in ONNX Resize. ``bicubic`` has a = -0.5. ``nearest`` takes the pixel under the centre (torch's
    ``nearest-exact``).

    Args:
        n_in: Pixels that come in.
        n_out: Pixels that go out.
        kind: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        antialias: Widen the kernel when shrinking.
        span: The interval of the input, in pixels, that the output covers; all of it by default. It may reach
            beyond the input: the edge value is repeated there.
        dtype: Of the matrix.

    Returns:
        (n_out, n_in); every row sums to 1.

    Raises:
        UnknownNameError: An unknown ``kind``.
        OptionError: A size below 1.
    """
    inputs, weights = find_taps(n_in, n_out, kind, antialias, span).band(slice(None))
    matrix = np.zeros((n_out, n_in), dtype)
    matrix[:, inputs] = weights
    return matrix


@lru_cache(maxsize=32)
def _map_bands(n_in: int, n_out: int, kind: str, antialias: bool) -> Bands:
    return Bands.of(find_taps(n_in, n_out, kind, antialias), np.float32)


def resize(xp: Any, maps: Array, size: tuple[int, int], kind: str = "bilinear", antialias: bool = True) -> Array:
    """Resize (..., h, w) to (..., H, W), ``size = (H, W)``, by two products with constant matrices.

    See `resize_matrix` for the conventions. ``h`` and ``w`` must be known.
    """
    h, w = maps.shape[-2:]
    if not (isinstance(h, int) and isinstance(w, int)):
        raise OptionError(f"cannot resize a map of unknown size ({h}, {w}): fix the model's input size")
    if xp is np:
        dtype = np.result_type(maps, np.float32)
        tall = _map_bands(h, size[0], kind, antialias).down(maps, dtype)
        return _map_bands(w, size[1], kind, antialias).across(tall, dtype)
    rows = resize_matrix(h, size[0], kind, antialias)
    columns = np.ascontiguousarray(resize_matrix(w, size[1], kind, antialias).T)
    return xp.matmul(xp.matmul(rows, maps), columns)


@lru_cache(maxsize=32)
def _pixel_bands(n_in: int, n_out: int, window: tuple[int, int], kind: str, antialias: bool) -> tuple[slice, Bands]:
    """The pixels to cut out, and what becomes of them.

    In Pillow's fixed point, 22 bits: sums are exact in float64, so the grey levels are its own.
    """
    taps = find_taps(n_in, n_out, kind, antialias, window=window)
    read, fixed = taps.reads(), np.floor(taps.weights * 2.0**22 + 0.5) / 2.0**22
    return read, Bands.of(Taps(taps.inputs - read.start, fixed), np.float64)


def split(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, C) to (C, H, W); OpenCV does it several times faster than NumPy copies a transposed array."""
    import cv2

    planes = np.empty((image.shape[2], *image.shape[:2]), np.uint8)
    cv2.split(image, list(planes))
    return planes


def joined(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(C, H, W) to (H, W, C)."""
    import cv2

    return np.asarray(cv2.merge(list(planes)), np.uint8).reshape(*planes.shape[1:], len(planes))


def resize_pixels(
    image: NDArray[np.uint8],
    size: tuple[int, int],
    kind: str = "bilinear",
    antialias: bool = True,
    window: tuple[int, int, int, int] | None = None,
) -> NDArray[np.uint8]:
    """Resize a picture; bilinear and bicubic give Pillow's grey levels exactly.

    The width comes first, is rounded, then the height, as always in Pillow up to 12; where Pillow 13 takes
    the height first, pixels differ by a grey level or so.

    Args:
        image: uint8 (H, W, C).
        size: (height, width) of the whole resized picture.
        kind: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        antialias: Widen the kernel when shrinking.
        window: (top, left, bottom, right), the part of the resized picture that is wanted and computed.

    Returns:
        uint8 (bottom - top, right - left, C).

    Raises:
        UnknownNameError: An unknown ``kind``.
        OptionError: A size below 1.
    """
    check_resize(min(image.shape[:2]), min(size), kind)
    top, left, bottom, right = window or (0, 0, *size)
    h, w = image.shape[:2]
    if (h, w) == size:
        return image[top:bottom, left:right].copy()
    rows, down = _pixel_bands(h, size[0], (top, bottom), kind, antialias)
    columns, across = _pixel_bands(w, size[1], (left, right), kind, antialias)
    return joined(down.down(across.across(split(image[rows, columns]), np.uint8), np.uint8))


# ---- class activation maps ----


def weighted_sum(xp: Any, weights: Array, activations: Array) -> Array:
    """Sum over the channels of ``weights * activations``.

    Args:
        xp: The array namespace.
        weights: (N, C, 1, 1), one per channel, or (N, C, h, w), one per value.
        activations: (N, C, h, w).

    Returns:
        The raw, signed ``cam``, (N, h, w).
    """
    return xp.sum(weights * activations, axis=1)


def relu(xp: Any, cam: Array) -> Array:
    """Keep the evidence for the target: ``max(cam, 0)``, any shape (Grad-CAM, Selvaraju 2017, eq. 2)."""
    return xp.maximum(cam, 0.0)


def _by_maximum(xp: Any, maps: Array) -> Array:
    positive = relu(xp, maps)
    top = xp.max(positive, axis=(-2, -1), keepdims=True)
    return positive / xp.where(top <= _TINY, np.inf, top)


def _extent(xp: Any, maps: Array) -> tuple[Array, Array, Array]:
    """Each map's minimum, its range, and whether that is nothing but rounding; all (..., 1, 1)."""
    low = xp.min(maps, axis=(-2, -1), keepdims=True)
    high = xp.max(maps, axis=(-2, -1), keepdims=True)
    spread = high - low
    return low, spread, spread <= xp.maximum(_NOISE * xp.maximum(xp.abs(low), xp.abs(high)), _TINY)


def _by_range(xp: Any, maps: Array) -> Array:
    low, spread, flat = _extent(xp, maps)
    return xp.where(flat, 0.0, (maps - low) / xp.where(flat, 1.0, spread))


def stretch(maps: NDArray[np.float32]) -> None:
    """Bring maps (..., h, w) to [0, 1] as `normalize` does with ``"minmax"``, where they lie.

    For many maps that are wanted for a moment: fresh memory costs more than the sums. An infinite map is NaN.
    """
    low, spread, flat = _extent(np, maps)
    maps -= low
    maps /= np.where(flat, np.inf, spread)


def _as_it_is(xp: Any, maps: Array) -> Array:
    return maps


def _by_percentile(xp: Any, maps: Array) -> Array:
    positive = np.maximum(maps, 0)
    top = np.percentile(positive, _PERCENTILE, axis=(-2, -1), keepdims=True)
    top = np.where(top > _TINY, top, positive.max(axis=(-2, -1), keepdims=True))
    return np.where(
        top > _TINY, np.minimum(positive / np.where(top > _TINY, top, 1), 1), np.where(top == top, 0.0, top)
    )


_PERCENTILE = 99  # as saliency maps are shown: Smilkov et al., SmoothGrad, https://arxiv.org/abs/1706.03825, section 3
_NORMALIZERS = {"max": _by_maximum, "minmax": _by_range, "percentile": _by_percentile, "none": _as_it_is}
NORMALIZATIONS = tuple(_NORMALIZERS)


def normalize(xp: Any, maps: Array, kind: str = "max") -> Array:
    """Bring each map to [0, 1], sample by sample over its last two axes.

    ``"max"``: ``relu(x) / max(x)``, so 0 stays "no evidence". ``"minmax"``: ``(x - min) / (max - min)``.
    ``"percentile"``: ``relu(x) / p``, at most 1, with p the 99th percentile of ``relu(x)`` (its maximum where
    that is 0), so that a few bright pixels do not darken the rest; NumPy alone. ``"none"``: unchanged. There is
    no epsilon: a map that peaks at 1e-9 is stretched like any other. A map that holds nothing but rounding gives
    zeros, never noise: no value above float32's smallest normal number for ``"max"``, no spread beyond 4 float32
    epsilons of its largest value for ``"minmax"``. So a constant positive map is 1 everywhere by ``"max"`` and 0
    by ``"minmax"``. A NaN makes its sample's whole map NaN.

    Args:
        xp: The array namespace.
        maps: (..., h, w), float.
        kind: ``"max"``, ``"minmax"``, ``"percentile"`` or ``"none"``.

    Returns:
        The same shape.

    Raises:
        UnknownNameError: An unknown ``kind``.
    """
    if kind not in _NORMALIZERS:
        raise UnknownNameError.of("normalization", str(kind), NORMALIZATIONS)
    return _NORMALIZERS[kind](xp, maps)


def _mean_of(xp: Any, maps: Sequence[Array]) -> Array:
    return reduce(lambda a, b: a + b, maps) / float(len(maps))


def _max_of(xp: Any, maps: Sequence[Array]) -> Array:
    return reduce(xp.maximum, maps)


_FUSERS = {"max": _max_of, "mean": _mean_of}
FUSIONS = tuple(_FUSERS)


def fuse(xp: Any, maps_list: Sequence[Array], kind: str = "max") -> Array:
    """Join the heatmaps of several layers, value by value: their ``"max"`` or their ``"mean"``.

    Args:
        xp: The array namespace.
        maps_list: Heatmaps of one shape (..., H, W): normalise and `resize` them first.
        kind: ``"max"`` or ``"mean"``.

    Returns:
        (..., H, W).

    Raises:
        UnknownNameError: An unknown ``kind``.
        OptionError: No maps, or maps of different shapes.
    """
    if kind not in _FUSERS:
        raise UnknownNameError.of("fusion", str(kind), FUSIONS)
    if not maps_list:
        raise OptionError("no heatmaps to fuse: give at least one")
    shapes = list(dict.fromkeys(m.shape for m in maps_list if isinstance(m, np.ndarray)))
    if len(shapes) > 1:
        raise OptionError(f"cannot fuse heatmaps of different shapes {shapes}: resize them to one size first")
    return _FUSERS[kind](xp, maps_list)
