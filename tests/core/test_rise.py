"""RISE against plain loops, and whether it stops when it says that the map is known."""

from __future__ import annotations

import itertools
import math
import re
import tracemalloc
from functools import cache

import numpy as np
import pytest
from toys import Scored

from onnxcam.core.rise import Masks, Precision, rise
from onnxcam.errors import OptionError

pytestmark = pytest.mark.anyruntime


def picture(height=12, width=15, channels=3, seed=0):
    return np.random.default_rng(seed).normal(size=(1, channels, height, width)).astype(np.float32)


def curved(images):
    """A score in which places interact."""
    m = images.mean(axis=1)
    return np.tanh(m[:, :4].mean(axis=(1, 2))) * m[:, :, :5].mean(axis=(1, 2)) + m[:, 6:, 7:].max(axis=(1, 2))


@cache
def along(cells, n):
    """(n, cells): bilinear, half-pixel centres, edges repeated, pixel by pixel."""
    out = np.zeros((n, cells))
    for k in range(n):
        at = (k + 0.5) * cells / n - 0.5
        for cell, share in ((math.floor(at), 1 - at + math.floor(at)), (math.floor(at) + 1, at - math.floor(at))):
            out[k, min(max(cell, 0), cells - 1)] += share
    return out


def stretched(grid, size):
    return along(len(grid), size[0]) @ grid @ along(len(grid), size[1]).T


def drawn(seed, samples, cells, keep, size=(12, 15)):
    """The masks of a seed, one by one."""
    rng = np.random.default_rng(seed)
    grids = rng.random((samples, cells, cells)) < keep
    pixels = [math.ceil(n / cells) for n in size]
    shifts = [rng.integers(0, p, samples) for p in pixels]
    for grid, r, c in zip(grids, *shifts, strict=True):
        wide = stretched(grid.astype(float), ((cells + 1) * pixels[0], (cells + 1) * pixels[1]))
        yield wide[r : r + size[0], c : c + size[1]]


@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("fill", [0.0, 0.7])
def test_the_map_is_the_scored_mean_of_its_masks(batch, fill):
    x, samples, cells, keep, total = picture(), 30, 4, 0.3, 0
    for mask in drawn(7, samples, cells, keep):
        total = total + float(curved(x * mask + fill * (1 - mask))[0]) * mask
    found = rise(Scored(curved, x, batch), samples=samples, cells=cells, keep=keep, fill=fill, seed=7)
    np.testing.assert_allclose(found, total / (samples * keep), rtol=1e-4, atol=1e-5)


def test_it_takes_a_generator_and_another_filling():
    x = picture()
    one, two = (rise(Scored(curved, x), samples=8, seed=s, fill="mean") for s in (3, np.random.default_rng(3)))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - rise(Scored(curved, x), samples=8, seed=3)).max() > 1e-3


def test_masks_are_made_a_batch_at_a_time():
    probe = Scored(lambda images: images[:, :, 2:6, 8:12].mean(axis=(1, 2, 3)), np.ones((1, 3, 96, 96)), batch=8)
    rise(probe, samples=16)  # what is loaded once
    tracemalloc.start()
    rise(probe, samples=800, standard_error=1e-9)  # 29 MB of masks, 88 MB of pictures, if all were made at once
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(probe.calls) == {8}
    assert peak < 10e6
    assert probe.progress[-1] == (800, 800)


@pytest.mark.parametrize(
    "options",
    [
        {"samples": 0},
        {"cells": 0},
        {"keep": 0.0},
        {"keep": 1.0},
        {"samples": 2.5},
        {"standard_error": -0.1},
        {"standard_error": math.nan},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(OptionError, match=f"{next(iter(options))}="):
        rise(Scored(curved, picture()), **options)


# ---- a standard error as the goal ----


def told(probe):
    """(error, masks made) of the one note."""
    (note,) = probe.notes
    said = re.match(r"the largest standard error of the map is ([\d.]+)% of its range after (\d+) of", note)
    return float(said[1]) / 100, int(said[2])


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_it_stops_with_the_mean_of_the_first_masks_whatever_the_batch(batch):
    probe = Scored(curved, picture(), batch)
    found = rise(probe, samples=4000, cells=3, standard_error=0.12, seed=2)
    error, count = told(probe)
    assert 200 < count < 4000
    assert count % 100 == 0
    assert 0.1 < error <= 0.12
    assert sum(probe.calls) < count + batch
    assert probe.progress[-1] == (4000, 4000)
    total = 0
    for mask in itertools.islice(drawn(2, 4000, 3, 0.5), count):
        total = total + float(curved(probe.x * mask)[0]) * mask
    np.testing.assert_allclose(found, total / (count * 0.5), rtol=1e-4, atol=1e-5)


def test_the_error_is_that_of_a_mean_and_the_range_is_told_by_the_other_half():
    x, masks = picture(), np.stack(list(drawn(5, 300, 3, 0.5)))
    y = curved(x * masks[:, None])
    values = y[:, None, None] * masks
    errors = [[np.std(values[:, r, c], ddof=1) / math.sqrt(300) for c in range(15)] for r in range(12)]
    even, odd = values[0::2].mean(axis=0), values[1::2].mean(axis=0)
    spans = [
        told[np.unravel_index(other.argmax(), (12, 15))] - told[np.unravel_index(other.argmin(), (12, 15))]
        for told, other in ((even, odd), (odd, even))
    ]
    rng = np.random.default_rng(5)
    grids = rng.random((300, 3, 3)) < 0.5
    shifts = np.stack([rng.integers(0, 4, 300), rng.integers(0, 5, 300)], axis=1)
    known = Precision(Masks(grids, shifts, (12, 15)))
    assert not known.within(0.0, y)
    assert known.count == 300
    assert known.error == pytest.approx(np.max(errors) / np.mean(spans), rel=1e-5)


def exact(x, cells, keep):
    """The map of all masks that there are, each with its chance."""
    size, total = x.shape[2:], 0
    pixels = [math.ceil(n / cells) for n in size]
    for cell in itertools.product((0.0, 1.0), repeat=cells * cells):
        chance = math.prod(keep if c else 1 - keep for c in cell) / math.prod(pixels)
        wide = stretched(np.reshape(cell, (cells, cells)), ((cells + 1) * pixels[0], (cells + 1) * pixels[1]))
        for r, c in np.ndindex(*pixels):
            mask = wide[r : r + size[0], c : c + size[1]]
            total = total + chance * float(curved(x * mask)[0]) * mask / keep
    return total


@pytest.mark.parametrize("wanted", [0.05, 0.1])
def test_the_true_error_is_the_one_that_is_told(wanted):
    """Over 50 seeds, against the map of all masks: the deviation of the pixel that deviates most."""
    x = picture(8, 9)
    whole, off, claims = exact(x, 2, 0.5), [], []
    for seed in range(50):
        probe = Scored(curved, x, 100)
        off.append((rise(probe, samples=20_000, cells=2, standard_error=wanted, seed=seed) - whole) / np.ptp(whole))
        claims.append(told(probe))
    errors, counts = np.transpose(claims)
    assert counts.max() < 20_000
    true = np.sqrt(np.mean(np.square(off), axis=0)).max()
    assert 0.8 * errors.mean() < true < 1.2 * errors.mean()


def test_noise_is_never_known():
    """The score has nothing to do with the picture: the range of its map is that of the noise."""
    rng = np.random.default_rng(1)
    probe = Scored(lambda images: rng.normal(size=len(images)), picture())
    rise(probe, samples=1000, standard_error=0.3)
    assert probe.notes == ["the map cannot be told from noise after 1000 of 1000 masks; give more samples"]


def test_where_the_goal_is_not_reached_the_map_is_that_of_all_masks():
    plain, probe = Scored(curved, picture()), Scored(curved, picture())
    np.testing.assert_array_equal(rise(probe, samples=2050, standard_error=0.01), rise(plain, samples=2050))
    assert not plain.notes
    assert "after 2000 of 2050 masks, above the 1.0% asked for; give more samples" in probe.notes[0]


@pytest.mark.parametrize("samples", [50, 199, 1050])
def test_masks_that_were_made_all_count_where_nothing_ended_it(samples):
    """Below 200 masks a low error is not relied on; beyond the last look nothing is known."""
    goal = 5.0 if samples < 200 else 1e-4
    plain, probe = (Scored(lambda images: images[:, 0, :4].mean(axis=(1, 2)), np.ones((1, 3, 12, 15))) for _ in "ab")
    found = rise(probe, samples=samples, cells=2, standard_error=goal)
    np.testing.assert_array_equal(found, rise(plain, samples=samples, cells=2))
    (note,) = probe.notes
    if samples == 50:
        assert note == "all 50 masks were made, and the standard error not looked at: that takes 200"
    elif samples == 199:
        assert note.endswith("of its range after 100 of 199 masks; all were made, as it takes 200 to go by it")
    else:
        assert note.endswith("of its range after 1000 of 1050 masks, above the 0.0% asked for; give more samples")
