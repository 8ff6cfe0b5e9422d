from __future__ import annotations

import numpy as np
import pytest
from test_symbolic import A, check, drawing

PLACES = {
    "one": np.s_[1],
    "last": np.s_[-1],
    "slice": np.s_[:, 1:3],
    "step": np.s_[:, ::2, 1::2],
    "back": np.s_[:, ::-1],
    "part back": np.s_[..., 3:0:-2],
    "mixed": np.s_[0, 1:, -2],
    "ellipsis": np.s_[..., 2],
    "ellipsis between": np.s_[1, ..., :2],
    "new axes": np.s_[None, :, 0, None],
    "new behind ellipsis": np.s_[..., None],
    "all": np.s_[:],
    "every one": np.s_[1, 2, 3],
}


@pytest.mark.parametrize("name", PLACES)
def test_places_are_those_of_numpy(name):
    check(lambda a: a[PLACES[name]] * 1.0, A, equals=A[PLACES[name]])


@pytest.mark.parametrize(
    ("places", "error", "say"),
    [
        (np.s_[2], IndexError, r"place 2 on axis 0 of \(2, 3, 4\)"),
        (np.s_[:, :, :, 0], IndexError, "4 places for a value of 3 axes"),
        (np.s_[..., 0, ...], IndexError, "places for a value"),
        ([0, 1], TypeError, "index with whole numbers"),
        (1.5, TypeError, "index with whole numbers"),
    ],
)
def test_other_places_are_refused(places, error, say):
    _, (a,) = drawing((2, 3, 4))
    with pytest.raises(error, match=say):
        a[places]


def test_a_tensor_is_no_sequence():
    _, (a,) = drawing((2, 3, 4))
    with pytest.raises(TypeError):
        list(a)
