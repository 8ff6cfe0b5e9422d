"""Projections against hand-computed maps and plain loops, and their sign."""

from __future__ import annotations

import numpy as np
import pytest

from onnxcam.core import eigen
from onnxcam.errors import OptionError, UnknownNameError

pytestmark = pytest.mark.anyruntime
PATTERN = np.array([[0, 1, 5], [0, 0, 0]], np.float32)  # mean 1, so centred [-1, 0, 4, -1, -1, -1]
CENTRED = PATTERN - 1


def stack(*factors):
    return np.stack([f * PATTERN for f in factors])[None]


def dominant(matrix, shift=0.0, steps=5000):
    """The eigenvector of the largest eigenvalue and that value, by power iteration in plain loops."""
    size = range(len(matrix))
    v = [1.0 + 0.1 * i for i in size]
    for _ in range(steps):
        w = [sum(matrix[i][j] * v[j] for j in size) + shift * v[i] for i in size]
        norm = sum(x * x for x in w) ** 0.5
        v = [x / norm for x in w]
    return v, norm - shift


def centred(points):
    means = [sum(p[c] for p in points) / len(points) for c in range(len(points[0]))]
    return [[v - m for v, m in zip(p, means, strict=True)] for p in points]


def signed(projection, points):
    agreement = sum(p * sum(x) for p, x in zip(projection, points, strict=True))
    return [p if agreement > 0 else -p for p in projection]


def eigen_by_loops(sample):
    points = centred(sample.reshape(len(sample), -1).T.astype(float).tolist())
    channels = range(len(points[0]))
    v, _ = dominant([[sum(p[i] * p[j] for p in points) for j in channels] for i in channels])
    return signed([sum(a * b for a, b in zip(p, v, strict=True)) for p in points], points)


def svd_by_loops(sample):
    points = sample.reshape(len(sample), -1).T.astype(float).tolist()
    channels = range(len(points[0]))
    v, _ = dominant([[sum(p[i] * p[j] for p in points) for j in channels] for i in channels])
    found = [sum(a * b for a, b in zip(p, v, strict=True)) for p in points]
    return found if sum(found) > 0 else [-f for f in found]


def kpca_by_loops(sample):
    points = centred(sample.reshape(len(sample), -1).T.astype(float).tolist())
    size, channels = range(len(points)), len(points[0])
    k = [[np.tanh(sum(a * b for a, b in zip(p, q, strict=True)) / channels + 1) for q in points] for p in points]
    row = [sum(k[i]) / len(points) for i in size]
    whole = sum(row) / len(points)
    # The kernel has negative eigenvalues; the shift makes the largest the one of largest magnitude.
    u, value = dominant([[k[i][j] - row[i] - row[j] + whole for j in size] for i in size], shift=5.0)
    return signed([x * value**0.5 for x in u], points)


BY_LOOPS = [(eigen.eigen, eigen_by_loops), (eigen.svd, svd_by_loops), (eigen.kpca, kpca_by_loops)]


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ((2, -1), 5**0.5 * CENTRED),  # the sum of the channels is the pattern
        ((-2, 1), -(5**0.5) * CENTRED),  # its negative
        ((3, 0), 3 * CENTRED),
        ((-3, 0), -3 * CENTRED),
    ],
)
def test_the_component_of_one_pattern_is_the_pattern_with_the_sign_of_the_sum(factors, expected):
    np.testing.assert_allclose(eigen.eigen(stack(*factors)), expected[None], rtol=1e-5, atol=1e-5)


def test_where_the_sum_says_nothing_the_pixel_that_stands_out_is_positive():
    for seed in range(12):
        pattern = np.random.default_rng(seed).normal(size=(2, 3)).astype(np.float32)
        found = eigen.eigen(np.stack([pattern, -pattern])[None])[0]
        expected = 2**0.5 * (pattern - pattern.mean())
        at = np.unravel_index(np.abs(expected).argmax(), expected.shape)
        np.testing.assert_allclose(found, expected * np.sign(expected[at]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("project", "by_loops"), BY_LOOPS)
@pytest.mark.parametrize("channels", [3, 20])
def test_projections_are_those_of_plain_loops(project, by_loops, channels):
    terms = np.random.default_rng(channels).normal(size=(2, channels, 3, 4)).astype(np.float32)
    terms *= np.linspace(0.2, 1.5, channels, dtype=np.float32)[:, None, None]
    found = project(terms)
    assert found.dtype == np.float32
    for sample, one in zip(terms, found, strict=True):
        np.testing.assert_allclose(one.ravel(), by_loops(sample), rtol=1e-4, atol=1e-4 * np.abs(one).max())


@pytest.mark.parametrize("project", [eigen.eigen, eigen.kpca])
def test_the_order_of_the_channels_does_not_matter(project):
    terms = np.random.default_rng(5).normal(size=(1, 12, 4, 4)).astype(np.float32)
    shuffled = terms[:, np.random.default_rng(6).permutation(12)]
    np.testing.assert_allclose(project(shuffled), project(terms), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("project", [eigen.eigen, eigen.kpca])
def test_a_sample_without_structure_is_zero_and_one_with_nan_is_nan(project):
    terms = np.concatenate([stack(2, -1)] * 4)
    terms[1] = [[[0.1]], [[-7.7]]]
    terms[2] = 0
    terms[2, 0] += 1
    terms[2, 0, 0, 0] = np.nextafter(np.float32(1), np.float32(2))  # nothing but rounding
    terms[3, 1, 0, 0] = np.nan
    found = project(terms)
    np.testing.assert_array_equal(found[0], project(stack(2, -1))[0])
    assert not found[1].any()
    assert not found[2].any()
    assert np.isnan(found[3]).all()


@pytest.mark.parametrize("project", [eigen.eigen, eigen.svd])
@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("unit", [2.0**-600, 2.0**600])
def test_squares_of_terms_neither_vanish_nor_overflow(project, channels, unit):
    terms = np.random.default_rng(channels).normal(size=(1, channels, 3, 4))
    np.testing.assert_array_equal(project(terms * unit), project(terms) * unit)


def test_kernel_matrices_have_a_limit():
    with pytest.raises(OptionError, match=r"65x64 pixels.*deeper target layer"):
        eigen.kpca(np.zeros((1, 2, 65, 64), np.float32))


def test_joins_by_name():
    terms = stack(2, -1)
    assert eigen.join(terms).tolist() == [PATTERN.tolist()]
    assert eigen.join(terms, "eigen").tolist() == eigen.eigen(terms).tolist()
    assert eigen.join(terms, "kpca").tolist() == eigen.kpca(terms).tolist()
    with pytest.raises(UnknownNameError, match="did you mean 'kpca'"):
        eigen.join(terms, "pca")
