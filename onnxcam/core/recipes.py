"""The pictures of well-known CAM scripts, grey level by grey level, for whoever has to compare with old ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, UnknownNameError
from .maps import resize_matrix
from .overlay import colormap_table

Pixels = NDArray[np.uint8]
_BEYOND = 2  # how many pixels beyond its end the cubic kernel reads when growing


@dataclass(frozen=True)
class Recipe:
    """How one kind of script makes its picture.

    Attributes:
        name: as written in options.
        draw: (cam (h, w), picture (H, W, 3) uint8 RGB) -> uint8 (H, W, 3) RGB.
        whole: drawn on the photo at its own size, which the model must have seen whole; else on what the model saw.
        target: the kind of score that the script explains.
        words: what it does.
    """

    name: str
    draw: Callable[[NDArray[Any], Pixels], Pixels]
    whole: bool
    target: str
    words: str


def _unit(cam: NDArray[Any]) -> NDArray[np.float64]:
    """Minimum to 0, maximum to 1.

    Raises:
        OptionError: a constant map or NaN, of which such scripts make noise or NaN.
    """
    values = np.asarray(cam, np.float64)
    low, high = values.min(), values.max()
    if not np.isfinite(values).all() or high <= low:
        raise OptionError("the map is constant, NaN or infinite; a recipe that stretches it would show nothing")
    return np.asarray((values - low) / (high - low))


def hook(cam: NDArray[Any], picture: Pixels) -> Pixels:
    """The forward-hook scripts: min-max without ReLU, 8 bits, resized by OpenCV, 0.3 jet + 0.7 photo.

    The map is quantised before it is resized (bilinear), and the sum is rounded as OpenCV does when it writes a file.
    """
    import cv2

    grey = (255 * _unit(cam)).astype(np.uint8)
    grown = cv2.resize(grey, (picture.shape[1], picture.shape[0]))
    mixed = 0.3 * colormap_table("jet")[grown] + 0.7 * picture
    return np.asarray(np.rint(np.clip(mixed, 0, 255)), np.uint8)


def additive(cam: NDArray[Any], picture: Pixels) -> Pixels:
    """The additive scripts: ReLU, resized by OpenCV, min-max, jet + picture, divided by the sum's maximum."""
    import cv2

    grown = cv2.resize(np.maximum(cam, 0).astype(np.float32), (picture.shape[1], picture.shape[0]))
    heat = colormap_table("jet")[(255 * _unit(grown)).astype(np.uint8)].astype(np.float32) / 255
    total = heat + picture.astype(np.float32) / 255
    return np.asarray(255 * (total / total.max())).astype(np.uint8)


def matlab(cam: NDArray[Any], picture: Pixels) -> Pixels:
    """MATLAB's Grad-CAM example: ``rescale``, ``imresize`` (bicubic), ``imagesc`` in ``jet`` with AlphaData 0.5.

    imresize mirrors the map at its edges and has a = -0.5; imagesc stretches the resized map over the 256 colours.
    """
    padded = np.pad(_unit(cam), _BEYOND, mode="symmetric")
    rows, columns = (_grown(n, size) for n, size in zip(cam.shape, picture.shape[:2], strict=True))
    index = np.minimum((_unit(rows @ padded @ columns.T) * 256).astype(np.int64), 255)
    return np.rint(0.5 * picture + 0.5 * 255 * matlab_jet()[index]).astype(np.uint8)


def _grown(n: int, size: int) -> NDArray[np.float64]:
    """(size, n + 4): bicubic growth of the inner n of mirrored pixels."""
    span = (float(_BEYOND), float(n + _BEYOND))
    return resize_matrix(n + 2 * _BEYOND, size, "bicubic", antialias=n > size, span=span, dtype=np.float64)


def matlab_jet() -> NDArray[np.float64]:
    """MATLAB's ``jet(256)``, (256, 3) in [0, 1]: each channel a trapezium: 64 steps up, 63 full, 64 down."""
    ramp = np.arange(1, 65) / 64
    trapezium = np.concatenate([ramp, np.ones(63), ramp[::-1]])
    table = np.zeros((256 + 191, 3))
    for channel, start in enumerate((96, 32, -32)):
        rows = np.arange(start, start + 191)
        table[rows[rows >= 0], channel] = trapezium[rows >= 0]
    return table[:256]


RECIPES: dict[str, Recipe] = {
    r.name: r
    for r in (
        Recipe("hook", hook, True, "logit", "min-max without ReLU, 0.3 jet + 0.7 photo, at the photo's own size"),
        Recipe("additive", additive, False, "logit", "ReLU, resize, min-max, jet + picture, divided by its maximum"),
        Recipe("matlab", matlab, False, "probability", "no ReLU, rescale, bicubic, half jet, half picture"),
    )
}


def find_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in RECIPES:
        raise UnknownNameError.of("recipe", name, RECIPES)
    return RECIPES[name]
