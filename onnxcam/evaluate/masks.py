"""The true masks of a sample: files, polygons and run lengths, brought to the size of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import ImageError
from onnxcam.evaluate.data import Outline, Sample
from onnxcam.image import read_image

Mask = NDArray[np.bool_]


def read_mask(given: Outline, size: tuple[int, int]) -> Mask | None:
    """The pixels of the object: bool ``size``; None where the data has no mask.

    Args:
        given: :attr:`onnxcam.evaluate.data.Sample.mask`: the file of a mask, where what is not black is the
            object (colours are not told apart, nor the pale borders of Pascal VOC's own files); or polygons and run
            lengths as COCO has them (https://cocodataset.org/#format-data), joined.
        size: (H, W) of the picture.

    Raises:
        ImageError: it cannot be read, is of another size, or empty.
    """
    if given is None:
        return None
    if isinstance(given, str):
        mask, name = read_image(given).any(axis=2), repr(given)
    else:
        mask, name = _joined(given, size), "of the annotations"
    if mask.shape != size or not mask.any():
        what = "is empty" if mask.shape == size else f"has {mask.shape[0]} x {mask.shape[1]} pixels"
        raise ImageError(f"the mask {name} {what}; the picture has {size[0]} x {size[1]}: give one of that size")
    return np.asarray(mask, np.bool_)


def within(sample: Sample, size: tuple[int, int]) -> Sample:
    """A sample whose boxes end where the picture (H, W) does.

    Raises:
        ImageError: a box lies outside of it.
    """
    high = np.array([size[1], size[0]] * 2, np.float64)
    boxes = np.clip(np.reshape(sample.boxes, (-1, 4)), 0.0, high)
    for given, (x0, y0, x1, y1) in zip(sample.boxes, boxes, strict=True):
        if not (x0 < x1 and y0 < y1):
            told = " ".join(f"{v:g}" for v in given)
            raise ImageError(
                f"the box {told} of {sample.truth!r} lies outside of the picture's {size[1]} x {size[0]} pixels"
            )
    return replace(sample, boxes=tuple(map(tuple, boxes.tolist())))


def located(sample: Sample, size: tuple[int, int]) -> Sample:
    """As `within`; a sample with a box that lies outside is there all the same, but nobody knows where."""
    try:
        return within(sample, size)
    except ImageError:
        return replace(sample, boxes=(), mask=None)


def _joined(shapes: Sequence[Any], size: tuple[int, int]) -> Mask:
    mask = np.zeros(size, np.bool_)
    for shape in shapes:
        if len(shape) == 2 and isinstance(shape[1][0], int):
            mask |= run_lengths(shape[0], shape[1], size)
        else:
            for polygon in shape:
                mask |= inside(np.reshape(polygon, (-1, 2)), size)
    return mask


def inside(polygon: NDArray[Any], size: tuple[int, int]) -> Mask:
    """Bool (H, W): the pixels whose centres lie in a polygon (K, 2) of x and y, by the even-odd rule."""
    found = np.zeros(size, np.bool_)
    down, across = (np.arange(n) + 0.5 for n in size)
    for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        rows = np.flatnonzero((ay > down) != (by > down))
        if len(rows):
            crossing = ax + (down[rows] - ay) * (bx - ax) / (by - ay)
            found[rows] ^= across[None] < crossing[:, None]
    return found


def run_lengths(counts: str | Sequence[int], of: tuple[int, int], size: tuple[int, int]) -> Mask:
    """Bool ``size`` from COCO's run lengths: column by column, zeros first; as numbers, or packed into a text.

    Raises:
        ImageError: they are of another size, or do not fill it.
    """
    runs = _unpacked(counts) if isinstance(counts, str) else counts
    if of != size or min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise ImageError(f"run lengths of {of[0]} x {of[1]} pixels do not fill a picture of {size[0]} x {size[1]}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, np.asarray(runs, np.int64)).reshape(size[1], size[0]).T


def _unpacked(text: str) -> list[int]:
    """Six bits a letter from ``0`` on: five of the number, lowest first and the last a sign, and whether more follow.

    From the fourth number on it is the difference to the one before the last.
    """
    numbers: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            value = shift = 0
    return numbers
