"""The bar above a frame."""

from __future__ import annotations

import numpy as np
import pytest

from onnxcam.core.caption import captioned

pytestmark = pytest.mark.anyruntime


def inked(picture, height, bright=100):
    """Columns of the bar that hold letters."""
    return np.flatnonzero(picture[: picture.shape[0] - height].max(axis=(0, 2)) > bright)


@pytest.mark.parametrize("width", [40, 112, 640, 1921])
def test_the_bar_has_one_height_and_the_frame_stays_as_it_is(width):
    frame = np.random.default_rng(0).integers(0, 256, (50, width, 3), dtype=np.uint8)
    texts = [("", ""), ("cat 0.9", ""), ("a name that is far too long for any bar " * 5, "12.5 fps"), ("g|", "9 fps")]
    found = [captioned(frame, left, right) for left, right in texts]
    assert len({f.shape for f in found}) == 1
    assert (found[0].shape[0] - 50) % 2 == 0
    assert all(np.array_equal(f[-50:], frame) for f in found)
    assert all(len(inked(f, 50)) for f in found[1:])


def test_one_text_at_the_left_and_one_at_the_right():
    frame = np.zeros((20, 400, 3), np.uint8)
    left, right, both = (
        inked(captioned(frame, *t), 20) for t in (("cat 0.9", ""), ("", "12 fps"), ("cat 0.9", "12 fps"))
    )
    assert left.max() < 200 < right.min()
    assert right.max() > 385
    assert set(both) == {*left, *right}


def test_a_long_text_leaves_room_for_the_other():
    frame = np.zeros((20, 400, 3), np.uint8)
    rate = inked(captioned(frame, "", "12 fps"), 20)
    both = inked(captioned(frame, "x" * 300, "12 fps"), 20)
    assert set(rate) <= set(both)
    assert not set(range(rate.min() - 4, rate.min())) & set(both)


def test_where_there_is_no_room_for_both_the_class_stays():
    frame = np.zeros((20, 60, 3), np.uint8)
    assert np.array_equal(captioned(frame, "cat", "12.5 fps"), captioned(frame, "cat"))
