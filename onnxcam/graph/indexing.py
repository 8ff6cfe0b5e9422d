"""``x[...]`` on graphs: NumPy's basic indexing as Slice, Squeeze and Unsqueeze."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnxcam.graph.writer import Tensor

_END = int(np.iinfo(np.int64).max)  # of an axis, to Slice


def indexed(x: Tensor, places: Any) -> Tensor:
    """``x[places]``: whole numbers, slices, None and an ellipsis, as NumPy has them.

    Raises:
        TypeError: another kind of place.
        IndexError: more places than axes, or a place that is not there.
    """
    given = places if isinstance(places, tuple) else (places,)
    if bad := [p for p in given if not isinstance(p, int | np.integer | slice | EllipsisType | None)]:
        raise TypeError(f"{bad[0]!r}: index with whole numbers, slices, None and ...; for others take where and sum")
    axes = sum(p is not None and p is not Ellipsis for p in given)
    if axes > x.rank or sum(p is Ellipsis for p in given) > 1:
        raise IndexError(f"{axes} places for a value of {x.rank} axes, {x.shape}")
    at = next((k for k, p in enumerate(given) if p is Ellipsis), len(given))
    return _at(x, [*given[:at], *[slice(None)] * (x.rank - axes), *given[at + 1 :]])


def _at(x: Tensor, places: Sequence[Any]) -> Tensor:
    """One place per axis, and None where an axis is to be inserted."""
    own = [p for p in places if p is not None]
    taken = [axis for axis, p in enumerate(own) if not isinstance(p, slice)]
    cuts = [(axis, *_bounds(x, axis, p)) for axis, p in enumerate(own) if p != slice(None)]
    if cuts:
        which, start, stop, step = (x.writer.constant(np.asarray(v, np.int64)) for v in zip(*cuts, strict=True))
        x = x.writer.op("Slice", x, start, stop, which, step)
    if taken:
        x = x.writer.op("Squeeze", x, x.writer.constant(np.asarray(taken, np.int64)))
    kept = [p for p in places if p is None or isinstance(p, slice)]
    new = [position for position, p in enumerate(kept) if p is None]
    return x.writer.op("Unsqueeze", x, x.writer.constant(np.asarray(new, np.int64))) if new else x


def _bounds(x: Tensor, axis: int, place: Any) -> tuple[int, int, int]:
    """Start, stop and step as Slice wants them."""
    if not isinstance(place, slice):
        length = (x.shape or ())[axis]
        if isinstance(length, int) and not -length <= place < length:
            raise IndexError(f"place {place} on axis {axis} of {x.shape}")
        return int(place), int(place) + 1 if place != -1 else _END, 1
    step = 1 if place.step is None else int(place.step)
    start = (0 if step > 0 else _END) if place.start is None else int(place.start)
    stop = (_END if step > 0 else -_END) if place.stop is None else int(place.stop)
    return start, stop, step
