"""Missing pixels against a dense solution of the same equations."""

from __future__ import annotations

import numpy as np
import pytest

from onnxcam.core.impute import linear_imputation
from onnxcam.errors import OptionError

pytestmark = pytest.mark.anyruntime


def dense(x, missing):
    """The equations written out, one row per missing pixel."""
    places = [tuple(p) for p in np.argwhere(missing)]
    matrix, right = np.zeros((len(places), len(places))), np.zeros((len(places), len(x)))
    for i, (r, c) in enumerate(places):
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                beside = (r + down, c + across)
                if (down or across) and 0 <= beside[0] < x.shape[1] and 0 <= beside[1] < x.shape[2]:
                    weight = 1 / 12 if down and across else 1 / 6
                    matrix[i, i] += weight
                    if missing[beside]:
                        matrix[i, places.index(beside)] -= weight
                    else:
                        right[i] += weight * x[:, beside[0], beside[1]]
    filled = x.copy()
    filled[:, missing] = np.linalg.solve(matrix, right).T
    return filled


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["scattered", "blob", "frame"])
@pytest.mark.parametrize("size", [(23, 30), (17, 9)])
def test_it_solves_the_equations(size, kind, share):
    rng = np.random.default_rng(7)
    y, x = np.mgrid[: size[0], : size[1]]
    away = np.hypot((y - size[0] / 2) / size[0], (x - size[1] / 3) / size[1])
    order = {"scattered": rng.random(size), "blob": -away, "frame": away}[kind]
    missing = order >= np.quantile(order, 1 - share)
    picture = rng.normal(size=(2, *size)) * 50 + np.array([100.0, -3])[:, None, None] + 4 * x
    found = linear_imputation(picture, missing)
    np.testing.assert_allclose(found, dense(picture, missing), atol=1e-4 * picture.std())
    np.testing.assert_array_equal(found[:, ~missing], picture[:, ~missing])


def test_one_pixel_by_hand():
    x = np.arange(9.0).reshape(1, 3, 3) ** 2
    centre, corner = np.zeros((2, 3, 3), bool)
    centre[1, 1] = corner[0, 0] = True
    beside, diagonal = x[0, [0, 1, 1, 2], [1, 0, 2, 1]].sum(), x[0, [0, 0, 2, 2], [0, 2, 0, 2]].sum()
    assert linear_imputation(x, centre)[0, 1, 1] == pytest.approx(beside / 6 + diagonal / 12, rel=1e-4)
    want = (x[0, 0, 1] / 6 + x[0, 1, 0] / 6 + x[0, 1, 1] / 12) / (1 / 6 + 1 / 6 + 1 / 12)
    assert linear_imputation(x, corner)[0, 0, 0] == pytest.approx(want, rel=1e-4)


def test_the_type_stays_and_a_plain_colour_comes_back():
    x = np.full((3, 12, 12), 0.3, np.float32)
    missing = np.ones((12, 12), bool)
    missing[3, 4] = False
    found = linear_imputation(x, missing)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, x, atol=1e-6)
    np.testing.assert_array_equal(linear_imputation(x, missing & ~missing), x)


def test_what_cannot_be_filled_is_refused():
    x = np.zeros((1, 4, 4))
    with pytest.raises(OptionError, match="all pixels are missing"):
        linear_imputation(x, np.ones((4, 4), bool))
    with pytest.raises(OptionError, match=r"bool \(4, 4\)"):
        linear_imputation(x, np.ones((4, 4)))
    with pytest.raises(OptionError, match=r"\(4, 5\)"):
        linear_imputation(x, np.ones((4, 5), bool))
