"""Products with resize matrices in blocks, against plain loops and by hand."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from onnxcam.core import bands
from onnxcam.core.bands import Bands, Taps, find_taps
from onnxcam.core.maps import joined, resize_pixels, split
from onnxcam.errors import OptionError, UnknownNameError

pytestmark = pytest.mark.anyruntime


def row_of(taps, i, n_in):
    row = np.zeros(n_in)
    for index, weight in zip(taps.inputs[i], taps.weights[i], strict=True):
        row[index] += weight
    return row.tolist()


def test_taps_by_hand():
    # Six pixels to four: triangles 3 wide round 0.75, 2.25, 3.75 and 5.25; the first loses what lies left of the edge.
    taps = find_taps(6, 4)
    assert row_of(taps, 0, 6) == pytest.approx([1.25 / 2, 0.75 / 2, 0, 0, 0, 0])
    assert row_of(taps, 1, 6) == pytest.approx([0, 0.75 / 2.25, 1.25 / 2.25, 0.25 / 2.25, 0, 0])
    assert row_of(taps, 3, 6) == row_of(taps, 0, 6)[::-1]
    # Enlarged without antialiasing, an edge pixel stands for what lies beyond it.
    assert row_of(find_taps(2, 4, antialias=False), 0, 2) == [1, 0]
    assert row_of(find_taps(2, 4, antialias=False), 1, 2) == [0.75, 0.25]
    assert row_of(find_taps(8, 4, "nearest", window=(1, 3)), 1, 8) == [0, 0, 0, 0, 0, 1, 0, 0]


def test_the_nearest_pixel_on_a_border_is_the_next_one():
    # Output 14 of 58 over 272 pixels has its centre at 14.5 * 272 / 58 = 68, between pixels 67 and 68.
    assert find_taps(272, 58, "nearest").inputs[14].tolist() == [68]
    assert [int(i[0]) for i in find_taps(6, 2, "nearest").inputs] == [1, 4]


@pytest.mark.parametrize("alone", [2**18, 50])
@pytest.mark.parametrize(("n_in", "n_out"), [(7, 224), (61, 40), (300, 9), (1, 3), (5, 1)])
def test_products_are_those_of_the_matrix(monkeypatch, alone, n_in, n_out):
    monkeypatch.setattr(bands, "_ALONE", alone)  # of few multiplications: in many tiles
    rng = np.random.default_rng(n_in)
    taps = find_taps(n_in, n_out, "bicubic")
    made = Bands.of(taps, np.float32)
    tall, wide = (rng.normal(size=s).astype(np.float32) for s in ((2, n_in, 11), (2, 11, n_in)))
    want = np.zeros((2, n_out, 11))
    across = np.zeros((2, 11, n_out))
    for i in range(n_out):
        for index, weight in zip(taps.inputs[i], taps.weights[i], strict=True):
            want[:, i] += weight * tall[:, index]
            across[:, :, i] += weight * wide[:, :, index]
    np.testing.assert_allclose(made.down(tall, np.float32), want, atol=2e-6)
    np.testing.assert_allclose(made.across(wide, np.float32), across, atol=2e-6)


def test_grey_levels_are_rounded_halves_up_and_limited():
    half = Taps(np.array([[0, 1]]), np.array([[0.5, 0.5]]))
    pixels = np.array([[0, 1, 2, 254, 255], [1, 2, 3, 255, 255]], np.uint8)
    assert Bands.of(half, np.float64).down(pixels, np.uint8).tolist() == [[1, 2, 3, 255, 255]]
    sharp = Bands.of(Taps(np.array([[0, 1]]), np.array([[1.5, -0.5]])), np.float64)
    assert sharp.down(np.array([[200, 10, 3], [0, 200, 1]], np.uint8), np.uint8).tolist() == [[255, 0, 4]]
    assert sharp.across(np.array([[200, 0], [10, 200], [3, 1]], np.uint8), np.uint8).tolist() == [[255], [0], [4]]


def test_blocks_leave_out_what_they_do_not_read():
    made = Bands.of(find_taps(3000, 224), np.float64)
    assert sum(weights.size for *_, weights in made.blocks) < 0.06 * 224 * 3000
    assert max(weights.size for *_, weights in made.blocks) < 2**12


def test_planes():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    for picture in (pixels, pixels[::-1, ::2], pixels[..., :1]):
        np.testing.assert_array_equal(split(picture), np.moveaxis(picture, 2, 0))
        np.testing.assert_array_equal(joined(split(picture)), picture)


def test_threads_do_not_disturb_one_another():
    rng = np.random.default_rng(5)
    pictures = [rng.integers(0, 256, (90 + k, 120, 3), dtype=np.uint8) for k in range(6)]
    alone, found = [resize_pixels(p, (40, 50)) for p in pictures], {}

    def work(k):
        for _ in range(20):
            found.setdefault(k, []).append(resize_pixels(pictures[k], (40, 50)))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(made, alone[k]) for k in range(6) for made in found[k])
    assert [len(found[k]) for k in range(6)] == [20] * 6


def test_refusals():
    with pytest.raises(UnknownNameError, match="did you mean 'bicubic'"):
        find_taps(3, 4, "bicubik")
    with pytest.raises(OptionError, match="cannot resize 3 pixels to 0"):
        find_taps(3, 0)
