"""Which pictures show one scene: frames of a burst, crops of a photo, copies. What they tell is told once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from onnxcam.image import InputSpec, Preprocess

Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
_SIDE, _SHIFT = 16, 4  # of a thumbnail, and how far one may lie off another: as far as two crops of 80 % do
_ALIKE = 0.9  # different photos are at most 0.77 alike; each of 12 random crops of one is 0.93 or more to its nearest
_SAME = 2.0  # grey levels between thumbnails: of one colour all over, they have no pattern to compare


def thumbnail(picture: npt.NDArray[np.uint8], side: int) -> Numbers:
    """(side, side, channels), 0 to 255: the picture in the large. Of a large one, only some of the pixels are read."""
    height, width, channels = picture.shape
    sparse = np.ascontiguousarray(picture[:: max(1, height // (8 * side)), :: max(1, width // (8 * side))])
    rgb = np.repeat(sparse, 3, axis=2) if channels == 1 else sparse
    small, _ = Preprocess().apply(rgb, InputSpec("NHWC", 3, side, side))
    return np.asarray(small[0, ..., :channels], np.float64)


def scenes(pictures: Sequence[npt.NDArray[np.uint8]]) -> Indices:
    """(N,): a number for each scene; pictures are of one scene where a chain of near-duplicates joins them.

    Near-duplicates are thumbnails of 16 x 16 whose patterns, the mean of each channel taken off, correlate at 0.9 or
    more when shifted by up to 4; or that differ by less than 2 grey levels on average.
    """
    thumbs = np.stack([thumbnail(p, _SIDE) for p in pictures])
    flat = thumbs.reshape(len(thumbs), -1)
    same = np.stack([np.abs(flat - one).mean(axis=1) < _SAME for one in flat])
    return joined(same | (_alike(thumbs) >= _ALIKE))


def _alike(thumbs: Numbers) -> Numbers:
    """(N, N), the highest correlation of two thumbnails over all shifts."""
    found = np.full((len(thumbs), len(thumbs)), -1.0)
    for dy, dx in np.ndindex(2 * _SHIFT + 1, 2 * _SHIFT + 1):
        a, b = (_pattern(thumbs, sign * (dy - _SHIFT), sign * (dx - _SHIFT)) for sign in (1, -1))
        found = np.maximum(found, a @ b.T)
    return np.asarray(np.maximum(found, found.T))


def _pattern(thumbs: Numbers, dy: int, dx: int) -> Numbers:
    """(N, M), what is left of thumbnails shifted by that: without each channel's mean, of length 1."""
    part = thumbs[:, max(0, dy) : _SIDE + min(0, dy), max(0, dx) : _SIDE + min(0, dx)]
    free = (part - part.mean(axis=(1, 2), keepdims=True)).reshape(len(part), -1)
    return np.asarray(free / np.maximum(np.linalg.norm(free, axis=1, keepdims=True), 1e-6))


def joined(links: npt.NDArray[np.bool_]) -> Indices:
    """(N,): the number of the connected component of each of N, by an (N, N) matrix of links."""
    found = np.arange(len(links))
    for _ in range(len(links)):
        nearest = np.where(links | links.T, found, len(links)).min(axis=1)
        found = np.minimum(found, nearest)
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


def units(of_scene: Indices, truth: Indices, classes: int) -> Indices:
    """(N,): which photos count as one, as evidence.

    Those of one scene do. So do those of one class, where fewer than half of the model's classes are shown: a
    convention that happens to favour a class favours it in all its photos, and few classes are few such chances.
    """
    links = of_scene[:, None] == of_scene
    if 2 * len(np.unique(truth)) < classes:
        links = links | (truth[:, None] == truth)
    return joined(links)


def by_unit(values: Iterable[float] | Numbers, of_unit: Indices) -> Numbers:
    """(U,): the mean over the photos of each unit."""
    return np.asarray(np.bincount(of_unit, np.asarray(values, np.float64)) / np.bincount(of_unit))
