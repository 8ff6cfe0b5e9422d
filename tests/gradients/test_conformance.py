"""The ONNX backend node suite through the portable engine: what is right stays right, and nothing is wrong."""

from __future__ import annotations

import onnxruntime
import pytest

from benchmarks.conformance import judge, listed

RUNS_ALL = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 31)
GROUPS = 32
HOW = {"plain": {}, "symbolic axes": {"free": True}, "weights": {"weights": True}}
VARIANTS = {"plain": range(GROUPS), "symbolic axes": range(1, GROUPS, 4), "weights": range(3, GROUPS, 4)}
"""The groups that each variant takes; `make conformance` judges all of all."""
TAKEN = [
    pytest.param(how, group, marks=pytest.mark.slow if k % 4 else ())
    for how, groups in VARIANTS.items()
    for k, group in enumerate(groups)
]
# Nothing of the list may be added here without its reason; docs/operators.md tells them all.
REFUSED = {
    "test_scan_sum": "Scan over a batch, of opset 8; its conversion changes what the inputs are",
    "test_affine_grid_2d_expanded": "a Squeeze of whichever axes have length 1",
    "test_affine_grid_2d_align_corners_expanded": "a Squeeze of whichever axes have length 1",
    "test_affine_grid_3d_align_corners_expanded": "an If whose condition is computed at run time",
}


@pytest.mark.skipif(not RUNS_ALL, reason="the list holds what ONNX Runtime 1.31 runs")
@pytest.mark.parametrize(("how", "group"), TAKEN)
def test_gradients_of_the_backend_suite(how: str, group: int) -> None:
    found = {name: judge(name, **HOW[how]) for name in listed()[group::GROUPS]}
    wrong = {n: v.why for n, v in found.items() if v.outcome not in ("right", "refused", "untested")}
    assert wrong == {}
    assert {n for n, v in found.items() if v.outcome == "refused"} <= set(REFUSED)
    assert how == "weights" or "untested" not in {v.outcome for v in found.values()}


def test_the_list_is_whole() -> None:
    assert len(listed()) == len(set(listed())) == 848
    assert set(REFUSED) <= set(listed())
