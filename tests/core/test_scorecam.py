"""Score-CAM and its family against plain loops, one mask at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from toys import Toy

from onnxcam.core.scorecam import faster_scorecam, iscam, scorecam, sscam
from onnxcam.errors import ModelError, OptionError, UnknownNameError

pytestmark = pytest.mark.anyruntime


def upsampled(channel, H, W):
    """Bilinear with half-pixel centres and repeated edges, pixel by pixel."""
    h, w = channel.shape
    out = np.zeros((H, W))
    for i in range(H):
        for j in range(W):
            y = min(max((i + 0.5) * h / H - 0.5, 0), h - 1)
            x = min(max((j + 0.5) * w / W - 0.5, 0), w - 1)
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            above = channel[top, left] * (1 - x + left) + channel[top, right] * (x - left)
            below = channel[bottom, left] * (1 - x + left) + channel[bottom, right] * (x - left)
            out[i, j] = above * (1 - y + top) + below * (y - top)
    return out


def mask(channel, H, W):
    wide = upsampled(channel, H, W)
    low, high = wide.min(), wide.max()
    return (wide - low) / (high - low) if high - low > 1e-6 else np.zeros_like(wide)


def loops(toy, looks, softmax=True, keep=None):
    """sum_k alpha_k A_k; ``looks(k, mask)`` gives the images whose scores are averaged."""
    image = toy.x[0].astype(np.float64)
    A = toy.features(image)
    keep = range(len(A)) if keep is None else keep
    blank = toy.answer(toy.features(np.zeros_like(image)))
    rise = {}
    for k in keep:
        images = looks(k, mask(A[k], *image.shape[1:]))
        rise[k] = sum(toy.answer(toy.features(i)) - blank for i in images) / len(images)
    total = sum(math.exp(r) for r in rise.values())
    cam = np.zeros(A.shape[1:])
    for k in keep:
        if A[k].max() > A[k].min():
            cam += (math.exp(rise[k]) / total if softmax else rise[k]) * A[k]
    return cam


def masked(toy):
    return lambda k, m: [toy.x[0] * m]


@pytest.mark.parametrize("kind", ["plain", "constant"])
@pytest.mark.parametrize("softmax", [True, False])
def test_scorecam_is_the_weighted_sum_of_equation_9(kind, softmax):
    toy = Toy(kind)
    expected = loops(toy, masked(toy), softmax)
    np.testing.assert_allclose(scorecam(toy, softmax=softmax), expected, rtol=2e-5, atol=1e-6)


def test_channels_that_are_nowhere_zero_are_stretched_from_their_lowest_value():
    toy = Toy()
    toy.shift = toy.shift + 3
    assert toy.features(toy.x[0]).min() > 0.5
    np.testing.assert_allclose(scorecam(toy), loops(toy, masked(toy)), rtol=2e-5, atol=1e-6)


def test_weights_are_the_softmax_over_channels_of_a_known_model():
    """Two channels that see one half each, a linear score: all by hand."""
    toy = Toy(channels=2, block=(1, 1), size=(1, 2))
    toy._x = np.array([[[[2.0, 0.0]], [[0.0, 1.0]]]], np.float32)
    toy.mix, toy.shift = np.eye(2), np.zeros(2)
    toy.answer = lambda maps: float(maps[0].sum() * 0.25 - maps[1].sum())
    # Masks [1, 0] and [0, 1] leave 2 in colour 0 and 1 in colour 1: scores 0.5 and -1.
    alpha = math.exp(0.5) / (math.exp(0.5) + math.exp(-1.0))
    np.testing.assert_allclose(scorecam(toy), [[alpha * 2, (1 - alpha) * 1]], rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 50])
def test_faster_scorecam_keeps_the_channels_of_largest_variance(channels):
    toy = Toy("constant")
    A = toy.features(toy.x[0])
    spread = [sum((v - c.mean()) ** 2 for v in c.ravel()) for c in A]
    keep = sorted(range(len(A)), key=lambda k: -spread[k])[:channels]
    expected = loops(toy, masked(toy), keep=keep)
    np.testing.assert_allclose(faster_scorecam(toy, channels=channels), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "constant"])
@pytest.mark.parametrize("noisy", ["mask", "input"])
def test_sscam_averages_over_noise_in_either_place(kind, noisy):
    toy, samples, sigma = Toy(kind), 3, 0.7
    C, H, W = toy.x.shape[1:]
    draw, K = np.random.default_rng(5), len(toy.mix)
    planes = 1 if noisy == "mask" else C
    noise = {(s, k): draw.normal(0, sigma, (planes, H, W)) for s in range(samples) for k in range(K)}

    def looks(k, m):
        if noisy == "mask":
            return [(m + noise[s, k]) * toy.x[0] for s in range(samples)]
        return [m * toy.x[0] + noise[s, k] for s in range(samples)]

    found = sscam(toy, samples=samples, sigma=sigma, noisy=noisy, seed=np.random.default_rng(5))
    np.testing.assert_allclose(found, loops(toy, looks), rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(found, sscam(toy, samples=samples, sigma=sigma, noisy=noisy, seed=5))


def test_sscam_without_noise_is_scorecam():
    np.testing.assert_allclose(sscam(Toy(), samples=2, sigma=0.0), scorecam(Toy()), rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("kind", ["plain", "constant"])
def test_iscam_averages_along_its_path(kind, steps):
    toy = Toy(kind)

    def looks(k, m):
        images, seen = [], np.zeros_like(toy.x[0], np.float64)
        for p in range(1, steps + 1):
            seen = seen + p / steps * m * toy.x[0]
            images.append(seen)
        return images

    np.testing.assert_allclose(iscam(toy, steps=steps), loops(toy, looks), rtol=2e-5, atol=1e-6)


RUNS = {
    "scorecam": (scorecam, {}, 1),
    "faster": (faster_scorecam, {"channels": 20}, 1),
    "sscam": (sscam, {"samples": 3}, 3),
    "iscam": (iscam, {"steps": 3}, 3),
}


@pytest.mark.parametrize("name", RUNS)
def test_no_more_images_are_made_than_fit_one_run(name):
    method, options, turns = RUNS[name]
    toy = Toy(channels=20, batch=7)
    method(toy, **options)
    varying = sum(c.max() > c.min() for c in toy.features(toy.x[0]))
    wanted = turns * (20 if name == "sscam" else varying)
    assert max(toy.asked) == 7
    assert sum(toy.asked) == wanted + 1  # the blank image
    assert toy.told[-1] == (wanted, wanted)


@pytest.mark.parametrize("name", RUNS)
def test_the_batch_changes_nothing(name):
    method, options, _ = RUNS[name]
    np.testing.assert_allclose(method(Toy(batch=1), **options), method(Toy(batch=100), **options), rtol=1e-6)


@pytest.mark.parametrize(("method", "turns"), [(scorecam, 1), (iscam, 10)])
def test_constant_channels_cost_no_run(method, turns):
    toy = Toy("constant", batch=1)
    method(toy)
    varying = sum(c.max() > c.min() for c in toy.features(toy.x[0]))
    assert varying < 6
    assert len(toy.asked) == 1 + varying * turns


@pytest.mark.parametrize("name", RUNS)
def test_a_layer_that_tells_nothing_gives_an_empty_map(name):
    method, options, _ = RUNS[name]
    for value in (0.0, 0.7):
        toy = Toy()
        toy.features = lambda image, value=value: np.full((6, 4, 5), value)
        assert not method(toy, **options).any()


@pytest.mark.parametrize("name", RUNS)
def test_a_score_that_no_mask_moves_gives_an_empty_map(name):
    """The softmax alone would weigh all channels alike, and a map of nothing would look like one of something."""
    method, options, _ = RUNS[name]
    toy = Toy("flat")
    assert not method(toy, **options).any()
    assert toy.features(toy.x[0]).mean(axis=0).any()
    assert not scorecam(toy, softmax=False).any()


def test_scores_far_apart_do_not_overflow():
    toy = Toy()
    toy.second = toy.second * 1e4
    assert np.isfinite(scorecam(toy)).all()
    best = max(range(6), key=lambda k: toy.answer(toy.features(toy.x[0] * mask(toy.features(toy.x[0])[k], 12, 10))))
    np.testing.assert_allclose(scorecam(toy), toy.features(toy.x[0])[best], rtol=1e-5)


def test_one_channel_is_its_own_map():
    toy = Toy(channels=1)
    np.testing.assert_allclose(scorecam(toy), toy.features(toy.x[0])[0], rtol=1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_nan_scores_are_an_error_that_says_how_many(name):
    method, options, _ = RUNS[name]
    with pytest.raises(ModelError, match=r"\d+ of the \d+ scores .* NaN or infinite.*preprocessing"):
        method(Toy("nan"), **options)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        (faster_scorecam, {"channels": 0}, "channels=0"),
        (sscam, {"samples": 0}, "samples=0"),
        (sscam, {"sigma": -1.0}, r"sigma=-1\.0"),
        (sscam, {"sigma": math.nan}, "sigma=nan"),
        (iscam, {"steps": -2}, "steps=-2"),
        (iscam, {"steps": 2.5}, r"steps=2\.5"),
    ],
)
def test_options_out_of_range_are_refused(method, options, says):
    with pytest.raises(OptionError, match=says):
        method(Toy(), **options)


def test_another_place_for_the_noise_is_refused():
    with pytest.raises(UnknownNameError, match=r"'maks'; did you mean 'mask'"):
        sscam(Toy(), noisy="maks")
