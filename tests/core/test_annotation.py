"""COCO and Pascal VOC: run lengths and outlines by hand and by drawing them again, files read back."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from onnxcam.core.annotation import Annotated, Region, area, coco, polygons, regions, rle, voc
from onnxcam.core.localize import Box

pytestmark = pytest.mark.anyruntime
RING = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1]], bool)


def drawn(outlines, size):
    """Even-odd rule at the centres of the pixels, in loops."""
    mask = np.zeros(size, bool)
    for r in range(size[0]):
        for c in range(size[1]):
            crossings = 0
            for outline in outlines:
                for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
                    if x0 == x1 and x0 > c + 0.5 and min(y0, y1) < r + 0.5 < max(y0, y1):
                        crossings += 1
            mask[r, c] = crossings % 2 == 1
    return mask


def test_run_lengths_go_down_the_columns_and_begin_with_zeros():
    mask = np.array([[0, 1], [1, 1], [0, 0]], bool)
    assert rle(mask) == {"size": [3, 2], "counts": [1, 1, 1, 2, 1]}
    assert rle(~mask) == {"size": [3, 2], "counts": [0, 1, 1, 1, 2, 1]}
    assert rle(np.zeros((3, 2), bool))["counts"] == [6]
    assert rle(np.ones((3, 2), bool))["counts"] == [0, 6]


def test_run_lengths_give_the_mask_back():
    mask = np.random.default_rng(0).random((7, 9)) < 0.4
    flat = [value % 2 == 1 for value, count in enumerate(rle(mask)["counts"]) for _ in range(count)]
    np.testing.assert_array_equal(np.array(flat).reshape(9, 7).T, mask)


def test_outlines_by_hand():
    assert [p.tolist() for p in polygons(np.array([[0, 1, 1], [0, 1, 0]], bool))] == [
        [[1, 0], [3, 0], [3, 1], [2, 1], [2, 2], [1, 2]]
    ]
    assert [area(p) for p in polygons(RING)] == [10.0, -1.0]
    assert polygons(np.zeros((2, 2), bool)) == []


def test_pixels_that_touch_at_a_corner_have_outlines_of_their_own():
    for mask in (np.eye(3, dtype=bool), np.eye(3, dtype=bool)[::-1]):
        assert [area(p) for p in polygons(mask)] == [1.0, 1.0, 1.0]
        assert all(len(p) == 4 for p in polygons(mask))


@pytest.mark.parametrize("seed", range(12))
def test_outlines_give_the_mask_back(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((8, 11)) < rng.choice([0.2, 0.5, 0.8])
    found = polygons(mask)
    np.testing.assert_array_equal(drawn(found, mask.shape), mask)
    assert sum(map(area, found)) == mask.sum()
    for outline in found:  # no corner goes straight on
        ways = np.sign(np.roll(outline, -1, axis=0) - outline)
        assert (ways != np.roll(ways, 1, axis=0)).any(axis=1).all()


@pytest.fixture
def pictures():
    whole = np.zeros((3, 4), bool)
    whole[0, 1:3] = whole[1, 1] = True
    ring = Region("ring", Box(0, 0, 4, 3, 0.5, 9), RING)
    hook = Region("hook", Box(1, 0, 3, 2, 1.0, 3), whole)
    return [
        Annotated("a.jpg", (3, 4), [ring, hook]),
        Annotated("b & c.jpg", (5, 6), []),
        Annotated("d", (3, 4), [hook]),
    ]


def test_coco_as_its_readers_expect_it(pictures):
    found = json.loads(json.dumps(coco(pictures)))
    assert found["images"][1] == {"id": 2, "file_name": "b & c.jpg", "height": 5, "width": 6}
    assert found["categories"] == [{"id": 1, "name": "hook"}, {"id": 2, "name": "ring"}]
    first, second, third = found["annotations"]
    ids = [(a["id"], a["image_id"], a["category_id"]) for a in (first, second, third)]
    assert ids == [(1, 1, 2), (2, 1, 1), (3, 3, 1)]
    assert second["bbox"] == [1, 0, 2, 2]
    assert second["segmentation"] == [[1, 0, 3, 0, 3, 1, 2, 1, 2, 2, 1, 2]]
    assert first["segmentation"] == {"size": [3, 4], "counts": [0, 4, 1, 4, 2, 1]}  # a hole: no polygon can say it
    assert [(a["area"], a["score"], a["iscrowd"]) for a in (first, second)] == [(9, 0.5, 0), (3, 1.0, 0)]


def test_voc_counts_pixels_from_one_with_both_ends(pictures):
    root = ElementTree.fromstring(voc(pictures[0]))
    assert root.findtext("filename") == "a.jpg"
    assert [root.findtext(f"size/{k}") for k in ("width", "height", "depth")] == ["4", "3", "3"]
    boxes = {o.findtext("name"): [int(v.text) for v in o.find("bndbox")] for o in root.iter("object")}
    assert boxes == {"ring": [1, 1, 4, 3], "hook": [2, 1, 3, 2]}
    assert ElementTree.fromstring(voc(pictures[1])).findtext("filename") == "b & c.jpg"


@pytest.mark.parametrize("odd", ["\x00", "\x1b", "\x0b", "\ud800", "\ufffe", "\uffff"])
def test_what_xml_does_not_allow_is_replaced(pictures, odd):
    label = Region(f"a{odd}b\t\u20ac\U0001f600", pictures[2].regions[0].box, pictures[2].regions[0].mask)
    text = voc(Annotated(f"x{odd}.png", (3, 4), [label]))
    root = ElementTree.fromstring(text.encode())
    assert root.findtext("filename") == "x\ufffd.png"
    assert root.findtext("object/name") == "a\ufffdb\t\u20ac\U0001f600"


def test_regions_are_the_components():
    heat = np.where(RING, 0.5, 9.0)
    heat[0, 2] = 0.75
    mask = RING.copy()
    mask[:, 1] = False
    first, second = regions("x", heat, mask)
    assert (first.label, first.box) == ("x", Box(2, 0, 4, 3, 0.75, 4))
    assert second.box == Box(0, 0, 1, 3, 0.5, 3)
    assert np.argwhere(first.mask).tolist() == [[0, 2], [1, 2], [2, 2], [2, 3]]
    np.testing.assert_array_equal(first.mask | second.mask, mask)
