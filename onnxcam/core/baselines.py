"""What a picture without information looks like: the reference that attributions are counted from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import OptionError, UnknownNameError

Array = NDArray[Any]
BASELINES = ("zero", "mean", "blur")
_BLUR = 20  # the blur's sigma is this part of the longer side


def baseline(x: Array, kind: str | float | Array = "zero") -> Array:
    """A reference for one image, in the values that the model gets.

    ``"zero"``: 0 everywhere, which is black for a model that takes pixels and the mean colour of the training data
    for one whose preprocessing subtracts it. ``"mean"``: this image's own mean, channel by channel. ``"blur"``: the
    image behind a Gaussian of sigma max(H, W) / 20, so that shapes go and colours stay (Fong and Vedaldi,
    "Interpretable Explanations of Black Boxes by Meaningful Perturbation", 2017, https://arxiv.org/abs/1704.03296).

    Args:
        x: (1, C, H, W).
        kind: one of the names, a number, or an array that broadcasts to (N, C, H, W).

    Returns:
        float32 (N, C, H, W); N is 1 unless an array of several references is given.

    Raises:
        UnknownNameError: no such name.
        OptionError: an array of another shape, or one with NaN or infinite values.
    """
    if isinstance(kind, str):
        if kind not in BASELINES:
            raise UnknownNameError.of("baseline", kind, BASELINES, "A number or an array will do as well")
        return np.asarray(_NAMED[kind](x), dtype=np.float32)
    given = np.asarray(kind, dtype=np.float32)
    count = len(given) if given.ndim == 4 else 1
    try:
        whole = np.broadcast_to(given, (count, *x.shape[1:]))
    except ValueError:
        raise OptionError(
            f"the baseline has shape {given.shape}; give a number, or an array that broadcasts to the image's "
            f"(C, H, W) = {x.shape[1:]}"
        ) from None
    if not (count and np.all(np.isfinite(whole))):
        raise OptionError("the baseline is empty, NaN or infinite; give finite values")
    return whole


def _zero(x: Array) -> Array:
    return np.zeros_like(x)


def _mean(x: Array) -> Array:
    return np.broadcast_to(np.mean(x, axis=(2, 3), keepdims=True), x.shape)


def _blurred(x: Array) -> Array:
    import cv2

    sigma = max(x.shape[2:]) / _BLUR
    planes = [cv2.GaussianBlur(np.asarray(p, np.float32), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE) for p in x[0]]
    return np.stack(planes)[None]


_NAMED = {"zero": _zero, "mean": _mean, "blur": _blurred}
