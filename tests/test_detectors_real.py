"""Detectors and a segmenter that other people made: the evidence lies in boxes drawn by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.detectors import CASES, CAT, DOG, explained, shares

pytestmark = pytest.mark.real
PLAIN = [c for c in CASES if c.method == "gradcam" and not (c.model.startswith("deeplab") and c.target == "12")]


@pytest.mark.parametrize("case", PLAIN, ids=lambda c: f"{c.model.split('_')[0]}-{c.what}-{c.target}")
def test_grad_cams_energy_in_the_drawn_box_is_twice_its_area(real_zoo, case):
    energy, area = shares(explained(case, real_zoo).heatmap_on_image(), case.drawn)
    assert energy >= 2 * area


def overlap(a, b):
    """Intersection over union."""
    x0, y0, x1, y1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    shared = max(0, x1 - x0) * max(0, y1 - y0)
    return shared / (sum((b[2] - b[0]) * (b[3] - b[1]) for b in (a, b)) - shared)


@pytest.mark.parametrize("case", [c for c in PLAIN if "box" in str(c.target)], ids=lambda c: f"{c.what}-{c.target}")
def test_the_explained_box_is_the_drawn_one(real_zoo, case):
    found = explained(case, real_zoo).provenance["box"]
    assert overlap(found["xyxy"], case.drawn) > 0.7
    assert found["score"] > 0.5


def test_the_map_of_each_box_avoids_the_other_object(real_zoo):
    for target, drawn, other in (("box:16", DOG, CAT), ("box:15", CAT, DOG)):
        case = replace(PLAIN[0], target=target, method="hirescam")
        heatmap = explained(case, real_zoo).heatmap_on_image()
        assert shares(heatmap, drawn)[0] > 0.95
        assert shares(heatmap, other)[0] < 0.05
