"""A picture with one of its regions replaced: by another picture's, by a blur, or by one colour."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.core.baselines import baseline
from onnxcam.core.impute import linear_imputation
from onnxcam.core.maps import resize_pixels

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
KINDS = ("other", "blur", "mean", "none")


def filled(picture: Pixels, mask: Mask, kind: str) -> Pixels:
    """The region behind a blur of a twentieth of the longer side, or in the mean colour of the picture.

    Args:
        picture: uint8 (H, W, 3).
        mask: bool (H, W), the region.
        kind: ``"blur"`` or ``"mean"``.
    """
    whole = baseline(np.moveaxis(picture, -1, 0)[None].astype(np.float32), kind)[0]
    return np.where(mask[..., None], _rounded(np.moveaxis(whole, 0, -1)), picture)


def replaced(picture: Pixels, mask: Mask, donor: Pixels, theirs: Mask | None) -> Pixels:
    """The region of a picture, replaced by that of another one.

    The box round the donor's region is stretched to the box round this one. Pixels of this region that the stretched
    one leaves free are filled in from those around them (:func:`onnxcam.core.impute.linear_imputation`).

    Args:
        picture: uint8 (H, W, 3).
        mask: bool (H, W), its region, not empty.
        donor: uint8 (H', W', 3).
        theirs: bool (H', W'), the donor's region; None, where it has none, takes what it shows at the same place.
    """
    if theirs is None or not theirs.any():
        return np.where(mask[..., None], resize_pixels(donor, _size(mask)), picture)
    place, source = _box(mask), _box(theirs)
    size = (place[0].stop - place[0].start, place[1].stop - place[1].start)
    patch = resize_pixels(np.ascontiguousarray(donor[source]), size)
    shape = np.repeat(theirs[source][..., None].astype(np.uint8) * 255, 3, axis=2)
    covers = resize_pixels(np.ascontiguousarray(shape), size, "nearest")[..., 0] > 127
    given = np.zeros_like(mask)
    given[place] = covers
    result = picture.copy()
    result[place][mask[place]] = patch[mask[place]]
    return _completed(result, mask & ~given)


def _completed(picture: Pixels, missing: Mask) -> Pixels:
    if not missing.any() or missing.all():
        return picture
    found = linear_imputation(np.moveaxis(picture, -1, 0).astype(np.float32), missing)
    return _rounded(np.moveaxis(found, 0, -1))


def _box(mask: Mask) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _size(mask: Mask) -> tuple[int, int]:
    return mask.shape[0], mask.shape[1]


def _rounded(values: NDArray[Any]) -> Pixels:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
