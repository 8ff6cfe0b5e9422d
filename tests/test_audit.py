"""The parts of an audit, by hand: regions, swaps, figures, words."""

from __future__ import annotations

import json
from itertools import combinations
from math import erf

import numpy as np
import pytest

from onnxcam import Explainer
from onnxcam.audit import figures, swap
from onnxcam.audit.regions import Picture, finder, gathered, read_masks, thirds
from onnxcam.audit.result import Share, Swap
from onnxcam.audit.verdict import verdict
from onnxcam.core.localize import Placement
from onnxcam.errors import ImageError, OptionError
from onnxcam.evaluate.data import Sample
from onnxcam.evaluate.statistics import Estimate
from onnxcam.explainer import Prepared
from onnxcam.image import save_image
from onnxcam.looks import Looks
from onnxcam.targets.boxes import likely_boxes
from onnxcam.zoo import root

pytestmark = pytest.mark.anyruntime


def prepared(size, placement=None):
    picture = np.zeros((*size, 3), np.uint8)
    return Prepared(picture, np.zeros((1, 3, *size), np.float32), placement or Placement.stretch(size, size))


def a_picture(below="a/one", samples=()):
    return Picture(f"/data/{below}.jpg", below, None, tuple(samples))


def save_mask(path, levels):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, np.repeat(np.asarray(levels, np.uint8)[..., None], 3, axis=2))


# ---- regions ----


def test_thirds_are_of_what_the_model_sees():
    """A picture of 6 x 12, whose centre of 6 x 6 is seen: columns 3 to 8."""
    seen = Placement.crop((6, 12), (6, 6), 1.0).mask()
    found = thirds(seen)
    where = {
        n: (np.flatnonzero(m.any(axis=1)).tolist(), np.flatnonzero(m.any(axis=0)).tolist()) for n, m in found.items()
    }
    every, across = [0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8]
    assert where == {
        "top third": ([0, 1], across), "middle third": ([2, 3], across), "bottom third": ([4, 5], across),
        "left third": (every, [3, 4]), "centre third": (every, [5, 6]), "right third": (every, [7, 8]),
    }  # fmt: skip


def test_a_label_image_with_names(tmp_path):
    """Two levels of one name are one region; a level without a name is the rest."""
    save_mask(tmp_path / "a/one.png", [[1, 1, 2], [3, 9, 0]])
    (tmp_path / "regions.json").write_text('{"1": "sky", "2": "ground", "3": "sky"}')
    found = read_masks(tmp_path, [a_picture()])(a_picture(), prepared((2, 3)))
    assert {n: m.astype(int).tolist() for n, m in found.items()} == {
        "sky": [[1, 1, 0], [1, 0, 0]], "ground": [[0, 0, 1], [0, 0, 0]], "rest": [[0, 0, 0], [0, 1, 1]],
    }  # fmt: skip


def test_label_images_may_lie_beside_their_pictures(tmp_path):
    save_mask(tmp_path / "a/one.png", [[1, 1]])
    save_mask(tmp_path / "a/one.mask.png", [[1, 2]])
    (tmp_path / "regions.json").write_text('{"1": "sky", "2": "ground"}')
    found = read_masks(tmp_path, [a_picture()])(a_picture(), prepared((1, 2)))
    assert {n: m.astype(int).tolist() for n, m in found.items()} == {"sky": [[1, 0]], "ground": [[0, 1]]}


def test_names_may_be_colours_in_a_table(tmp_path):
    save_image(tmp_path / "one.png", np.array([[[135, 206, 235], [0, 128, 0]]], np.uint8))
    (tmp_path / "regions.csv").write_text("#87CEEB, sky\n#008000,grass\n")
    found = read_masks(tmp_path, [a_picture()])(a_picture(), prepared((1, 2)))
    assert {n: m.astype(int).tolist() for n, m in found.items()} == {"sky": [[1, 0]], "grass": [[0, 1]]}


def test_a_file_for_each_region(tmp_path):
    """They may overlap; a picture without a mask has no regions."""
    save_mask(tmp_path / "a/one.sky.png", [[255, 255, 0]])
    save_mask(tmp_path / "a/one.wing.png", [[0, 7, 0]])
    find = read_masks(tmp_path, [a_picture(), a_picture("a/two")])
    found = find(a_picture(), prepared((1, 3)))
    assert {n: m.astype(int).tolist() for n, m in found.items()} == {
        "sky": [[1, 1, 0]], "wing": [[0, 1, 0]], "rest": [[0, 0, 1]],
    }  # fmt: skip
    assert find(a_picture("a/two"), prepared((1, 3))) == {}


@pytest.mark.parametrize(
    ("names", "said"),
    [("[]", "cannot read the names"), ('{"300": "sky"}', "neither a grey level"), ('{"sky": "1"}', "such as #87ceeb")],
)
def test_names_that_are_not_understood(tmp_path, names, said):
    save_mask(tmp_path / "one.png", [[1]])
    (tmp_path / "regions.json").write_text(names)
    with pytest.raises(OptionError, match=said):
        read_masks(tmp_path, [a_picture()])


def test_masks_of_other_pictures_and_of_another_size(tmp_path):
    save_mask(tmp_path / "one.sky.png", [[1, 1]])
    with pytest.raises(OptionError, match=r"a/three\.REGION\.png"):
        read_masks(tmp_path, [a_picture("a/three")])
    with pytest.raises(OptionError, match=r"may belong to '/data/a/one\.jpg' or to '/data/b/one\.jpg'"):
        read_masks(tmp_path, [a_picture("a/one"), a_picture("b/one")])
    with pytest.raises(ImageError, match="1 x 2 pixels, its picture 2 x 2"):
        read_masks(tmp_path, [a_picture()])(a_picture(), prepared((2, 2)))
    with pytest.raises(OptionError, match="is no folder"):
        read_masks(tmp_path / "none", [a_picture()])


def test_objects_of_annotations():
    """A box of one class, a polygon of another; what neither covers is background."""
    samples = (
        Sample("x", "dog", ((0.0, 0.0, 2.0, 1.0),)),
        Sample("x", "cat", (), (((2.0, 0.0, 4.0, 0.0, 4.0, 2.0, 2.0, 2.0),),)),
    )
    picture = a_picture(samples=samples)
    found = finder("detector", [picture], None, None)(picture, prepared((2, 4)))
    assert {n: m.astype(int).tolist() for n, m in found.items()} == {
        "object": [[1, 1, 1, 1], [0, 0, 1, 1]], "background": [[0, 0, 0, 0], [1, 1, 0, 0]],
    }  # fmt: skip
    with pytest.raises(OptionError, match="the data has no boxes"):
        finder("detector", [a_picture()], None, None)
    with pytest.raises(OptionError, match="need a folder of masks"):
        finder("masks", [a_picture()], None, None)


def test_objects_of_a_detector(monkeypatch):
    """Of the sample scenes, against their masks: all objects lie in boxes, and the boxes are tight.

    Each picture is looked at once, however often its regions are asked for.
    """
    from onnxcam.audit import regions
    from onnxcam.image import read_image

    looked = []
    monkeypatch.setattr(regions, "likely_boxes", lambda view: looked.append(1) or likely_boxes(view))

    explainer = Explainer("zoo:shapes-detector", threads=1)
    find = finder("detector", [a_picture()], None, explainer)
    entries = json.loads((root() / "samples" / "samples.json").read_text())
    for entry in entries[:3]:
        pixels = read_image(root() / "samples" / entry["file"])
        truth = read_image(root() / "samples" / entry["mask"]).any(axis=2)
        one, ready = a_picture(entry["file"]), explainer.prepare(pixels)
        found = find(one, ready)
        assert all(np.array_equal(find(one, ready)[name], mask) for name, mask in found.items())
        assert (truth & found["object"]).sum() > 0.97 * truth.sum()
        assert found["object"].sum() < 2.5 * truth.sum()
        assert np.array_equal(found["background"], ~found["object"])
    assert len(looked) == 3


def test_likely_boxes_are_those_that_the_detector_selects_and_is_sure_of():
    """Against the model's own outputs, run without onnxcam."""
    import onnxruntime

    explainer = Explainer("zoo:shapes-detector", threads=1)
    one = explainer.prepare(root() / "samples" / "scene-1.png")
    looks = Looks(explainer.programs, explainer.preprocess, explainer.spec, explainer.labels, explainer.vocabulary)
    session = onnxruntime.InferenceSession(str(root() / "shapes-detector.onnx"), providers=["CPUExecutionProvider"])
    boxes, scores = session.run(["boxes", "scores"], {session.get_inputs()[0].name: one.tensor})
    least = float(np.sort(scores)[-2])
    for threshold, count in ((least, 2), (0.0, len(scores)), (1.1, 0)):
        found = likely_boxes(looks.view(one.tensor, {}, one.placement), threshold)
        want = boxes[scores >= threshold]
        assert len(found) == count
        order = [np.lexsort(b.round(1).T) for b in (found, want)]
        assert found[order[0]] == pytest.approx(want[order[1]], abs=0.02)


def test_samples_of_one_picture_are_one(tmp_path):
    samples = [
        Sample(f"{tmp_path}/x/1.jpg", "dog"),
        Sample(f"{tmp_path}/x/2.jpg", "dog"),
        Sample(f"{tmp_path}/x/1.jpg", "cat"),
    ]
    assert [(p.below, p.truth, len(p.samples)) for p in gathered(samples, tmp_path)] == [
        ("x/1", None, 2),
        ("x/2", "dog", 1),
    ]


# ---- swaps ----


def test_a_region_is_stretched_to_the_other_ones_box():
    """The donor's region, one column of 10 and 20, becomes two columns; all else stays."""
    picture = np.full((4, 4, 3), 99, np.uint8)
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1:3] = True
    donor = np.full((2, 3, 3), 200, np.uint8)
    donor[:, 1] = np.array([[10], [20]])
    theirs = np.zeros((2, 3), bool)
    theirs[:, 1] = True
    found = swap.replaced(picture, mask, donor, theirs)
    want = picture.copy()
    want[1, 1:3], want[2, 1:3] = 10, 20
    assert np.array_equal(found, want)


def test_what_the_donors_shape_leaves_free_is_filled_in():
    """Three pixels of a row; the donor's region has a hole in the middle: the mean of its neighbours."""
    picture, donor = np.full((1, 5, 3), 9, np.uint8), np.full((1, 4, 3), 250, np.uint8)
    donor[0, 1], donor[0, 3] = 40, 61
    mask, theirs = np.array([[0, 1, 1, 1, 0]], bool), np.array([[0, 1, 0, 1]], bool)
    assert swap.replaced(picture, mask, donor, theirs)[0, :, 0].tolist() == [9, 40, 50, 61, 9]


def test_without_a_region_the_donor_gives_the_same_place():
    picture, donor = np.zeros((2, 2, 3), np.uint8), np.full((4, 4, 3), 7, np.uint8)
    mask = np.array([[True, False], [False, False]])
    assert swap.replaced(picture, mask, donor, None)[..., 0].tolist() == [[7, 0], [0, 0]]


def test_one_colour_is_the_pictures_mean():
    picture = np.zeros((1, 4, 3), np.uint8)
    picture[0, :, 0] = 10, 20, 30, 40
    found = swap.filled(picture, np.array([[True, False, False, True]]), "mean")
    assert found[0, :, 0].tolist() == [25, 20, 30, 25]
    assert not found[..., 1:].any()


def test_a_blur_of_one_colour_is_that_colour_and_an_edge_is_softened():
    picture = np.full((40, 40, 3), 50, np.uint8)
    assert np.array_equal(swap.filled(picture, np.ones((40, 40), bool), "blur"), picture)
    picture[:, 20:] = 150
    found = swap.filled(picture, np.ones((40, 40), bool), "blur")
    step = [50 + 100 * 0.5 * (1 + erf(d / 2 / 2**0.5)) for d in (-2.5, 0.5, 2.5)]  # a sigma of 40 / 20
    assert found[20, [17, 20, 22], 0] == pytest.approx(np.array(step), abs=1.5)


# ---- figures ----


def row(index, answer, truth=None, swaps=None, **regions):
    """Regions as (energy, area)."""
    own = {n: {"energy": e, "area": a, "against": None, "centre": 0.25} for n, (e, a) in regions.items()}
    return {"index": index, "answer": answer, "said": answer, "truth": truth, "regions": own, "swaps": swaps or {}}


def test_shares_by_hand():
    """The ratio is of sums: (0.6 + 0.8 + 0.1) / (0.2 + 0.3 + 0.5) = 1.5; of the first answer 1.4 / 0.5."""
    rows = [row(0, "a", sky=(0.6, 0.2), land=(0.4, 0.8)), row(1, "a", sky=(0.8, 0.3)), row(2, "b", sky=(0.1, 0.5))]
    found = {(s.region, s.answer): s for s in figures.shares(rows, least=1)}
    assert list(found) == [("sky", None), ("land", None), ("sky", "a"), ("land", "a"), ("sky", "b")]
    sky = found["sky", None]
    assert (sky.energy, sky.area, sky.ratio.value, sky.ratio.count) == pytest.approx((0.5, 1 / 3, 1.5, 3))
    assert found["sky", "a"].ratio.value == pytest.approx(2.8)
    assert (sky.ratio.low, sky.ratio.high) == pytest.approx((0.2, 3.0))  # three times the one, three times the other
    assert sky.against is None
    assert sky.centre == 0.25
    assert (sky.over_centre.value, sky.over_centre.low, sky.over_centre.high) == pytest.approx((0.25, -0.15, 0.55))
    assert sky.information == pytest.approx(0.5 * np.log(1.5))


def test_answers_and_groups_of_a_few_pictures_get_no_lines():
    rows = [row(k, "a" if k < 5 else "b", "x" if k < 5 else "y", sky=(0.4, 0.5)) for k in range(9)]
    assert [(s.answer, s.ratio.count) for s in figures.shares(rows)] == [(None, 9), ("a", 5)]
    assert figures.contrasts(rows, []) == ()
    assert len(figures.contrasts([*rows, row(9, "b", "y", sky=(0.4, 0.5))], [])) == 1


def test_the_sign_test_counts_pictures_and_is_adjusted_for_the_lines():
    """Ten of ten: 2 / 2^10, times two lines; nine of ten: 2 (1 + 10) / 2^10, the last one left. Ties count not."""
    rows = [row(k, "a", sky=(0.9, 0.5), land=(0.1 if k else 0.6, 0.5)) for k in range(10)]
    rows.append(row(10, "a", sky=(0.5, 0.5), land=(0.5, 0.5)))
    found = {(s.region, s.answer): s.p for s in figures.shares(rows, least=1)}
    assert found["sky", None] == pytest.approx(2 * 2 / 1024)
    assert found["land", None] == pytest.approx(22 / 1024)
    assert found["sky", "a"] == found["sky", None]


def test_holm_by_hand():
    """0.01 x 4, 0.02 x 3, then 0.03 x 2 = 0.06, and 0.9."""
    assert figures.holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert figures.holm([0.5, 0.4]) == [0.8, 0.8]


def test_wilsons_interval():
    """8 of 10 as in Brown, Cai, DasGupta (2001): 0.490 to 0.943; none of 10: up to z^2 / (10 + z^2)."""
    some, none = figures.proportion(8, 10), figures.proportion(0, 10)
    assert (some.value, some.low, some.high) == pytest.approx((0.8, 0.4901625, 0.9433178), abs=1e-6)
    assert (none.low, none.high) == pytest.approx((0.0, 3.8414588 / 13.8414588))
    assert figures.proportion(10, 10).low == pytest.approx(1 - none.high)


def test_the_permutation_test_is_near_the_exact_one():
    """All 252 ways to share ten values out, one by one."""
    a, b = np.array([3.0, 4, 5, 6, 7.5]), np.array([1.0, 2, 2.5, 4.5, 6.5])
    both, seen = np.concatenate([a, b]), abs(a.mean() - b.mean())
    ways = [list(c) for c in combinations(range(10), 5)]
    far = [abs(both[c].mean() - np.delete(both, c).mean()) >= seen - 1e-12 for c in ways]
    assert figures.permutation(a, b) == pytest.approx(np.mean(far), abs=0.02)
    assert figures.permutation(a, a + 100) < 0.02


def test_contrasts_by_hand():
    """Regions: 1.9 / 1.4 - 1.1 / 1.5; groups, how far sky goes beyond its area: (0.2 + 0.4) / 2 - (-0.1) = 0.4."""
    rows = [
        row(0, "a", "x", sky=(0.7, 0.5), land=(0.3, 0.5)),
        row(1, "a", "x", sky=(0.8, 0.4), land=(0.2, 0.5)),
        row(2, "a", "y", sky=(0.4, 0.5), land=(0.6, 0.5)),
    ]
    regions, *groups = figures.contrasts(rows, [("sky", "land"), ("sky", "sea")], least=1)
    assert (regions.a, regions.b, regions.region) == ("sky", "land", None)
    assert regions.estimate.value == pytest.approx(1.9 / 1.4 - 1.1 / 1.5)
    assert [(c.a, c.b, c.region) for c in groups] == [("x", "y", "sky"), ("x", "y", "land")]
    assert groups[0].estimate.value == pytest.approx(0.3 + 0.1)
    assert (groups[0].estimate.low, groups[0].estimate.high) == pytest.approx((0.3, 0.5))


def test_of_three_groups_each_is_held_against_the_others():
    rows = [row(k, "a", name, sky=(e, 0.5)) for k, (name, e) in enumerate([("x", 0.9), ("y", 0.5), ("z", 0.1)])]
    found = {c.a: (c.b, c.estimate.value) for c in figures.contrasts(rows, [], least=1)}
    assert found == {
        "x": ("all others", pytest.approx(0.6)), "y": ("all others", pytest.approx(0.0)),
        "z": ("all others", pytest.approx(-0.6)),
    }  # fmt: skip


def test_swaps_by_hand():
    def told(flipped, control):
        return {"sky": {"by": "other", "answer": "b", "flipped": flipped, "control": control}}

    given = (("a", told(True, False)), ("a", told(True, True)), ("b", told(False, False)), ("b", told(True, None)))
    rows = [*(row(k, answer, swaps=one) for k, (answer, one) in enumerate(given)), row(4, "b")]
    (found,) = figures.swaps(rows)
    assert (found.flips.value, found.flips.count, found.by) == (0.75, 4, "other")
    assert found.control is not None
    assert found.beyond is not None
    assert (found.control.value, found.control.count) == pytest.approx((1 / 3, 3))
    assert found.beyond.value == pytest.approx(1 / 3)
    assert {a: e.value for a, e in found.by_answer.items()} == {"a": 1.0, "b": 0.5}


# ---- words ----


def share(region, energy, area, low=None, high=None, p=1e-6, count=100, over_centre=0.1):
    times, over = energy / area, Estimate(over_centre + 0.05, over_centre, over_centre + 0.1, count)
    ratio = Estimate(times, low or times - 0.1, high or times + 0.1, count)
    return Share(region, None, energy, area, ratio, p, None, 0.2, over)


def swapped(region, flips, low, high, by="counterpart", control=None, beyond=None):
    return Swap(region, by, Estimate(flips, low, high, 100), control, beyond, {})


def test_a_model_that_judges_by_the_sky():
    found = verdict(
        [share("sky", 0.483, 0.21, 2.1, 2.5), share("ground", 0.3, 0.6)], [swapped("sky", 0.92, 0.885, 0.948)]
    )
    assert found == (
        "The model looks at the sky: 48 % of its evidence lies there, on 21 % of the area (2.3 x, 2.1 to 2.5); "
        "replacing it by its counterpart flips 92 % (88 to 95) of the answers: it judges by the sky.",
        "Less of its evidence than of the area lies in the ground (0.5 x).",
    )


def test_a_small_region_that_decides_comes_before_a_large_one_that_does_not():
    found = verdict(
        [share("clothes", 0.85, 0.27), share("tool", 0.06, 0.01)],
        [swapped("tool", 0.9, 0.8, 0.95), swapped("clothes", 0.3, 0.2, 0.4)],
    )
    assert found[0].startswith("The model looks at the tool: 6 % of its evidence")
    assert found[0].endswith("it judges by the tool.")
    assert found[1].startswith("It also looks at the clothes: 85 %")
    assert found[1].endswith("it has a say, and is not all.")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (swapped("sky", 0.01, 0.0, 0.05), "its answers do not hang on that alone."),
        (swapped("sky", 0.2, 0.05, 0.4), "how much hangs on it is open."),
        (swapped("sky", 0.6, 0.45, 0.7), "it has a say, and is not all."),
        (
            swapped("sky", 0.7, 0.6, 0.8, "other", Estimate(0.6, 0.5, 0.7, 100), Estimate(0.1, -0.02, 0.2, 100)),
            "flips 70 % (60 to 80) of the answers, by what one with the same answer shows 60 % (50 to 70): no more "
            "than pasting may do by itself, so that this does not tell.",
        ),
    ],
)
def test_words_for_what_a_swap_does(given, said):
    assert verdict([share("sky", 0.6, 0.2)], [given])[0].endswith(said)


def test_careful_words_where_the_interval_or_the_test_does_not_tell():
    for one in (share("sky", 0.3, 0.2, 0.9, 2.1), share("sky", 0.3, 0.2, 1.1, 1.9, p=0.2)):
        (said,) = verdict([one], [])
        assert said.startswith("Whether the model prefers a region is open: the sky comes nearest: 30 %")


def test_what_lies_in_the_middle_anyway():
    (said,) = verdict([share("object", 0.67, 0.49, 1.2, 1.6, over_centre=-0.04)], [])
    assert said.endswith("(1.4 x, 1.2 to 1.6), though a spot in the middle of the picture would have 20 % there.")


def test_a_swap_that_the_maps_do_not_show():
    found = verdict([share("sky", 0.2, 0.4, 0.4, 0.6)], [swapped("sky", 0.9, 0.8, 0.95, "blur")])
    assert found[1] == (
        "Replacing the sky by a blur flips 90 % (80 to 95) of the answers: it judges by the sky. Yet less of the "
        "evidence than of the area lies there (0.5 x, 0.4 to 0.6): the maps do not tell all of it."
    )


def test_a_swap_where_the_evidence_is_open_says_that():
    """The interval of four pictures is above 1; the test has no power."""
    found = verdict([share("sky", 0.7, 0.32, 2.1, 2.4, p=0.25, count=4)], [swapped("sky", 1.0, 0.51, 1.0)])
    assert found[1] == (
        "Replacing the sky by its counterpart flips 100 % (51 to 100) of the answers: it judges by the sky. Whether "
        "more of the evidence than of the area lies there is open (2.2 x)."
    )


def test_a_background_that_has_a_say_is_told_beside_the_object():
    control = Estimate(0.0, 0.0, 0.49, 4), Estimate(0.5, 0.2, 0.8, 4)
    found = verdict(
        [share("object", 0.6, 0.3, 1.8, 2.2), share("background", 0.4, 0.7, 0.5, 0.7)],
        [swapped("object", 0.8, 0.6, 0.9, "other", *control), swapped("background", 0.5, 0.3, 0.7, "other", *control)],
    )
    assert found[0].endswith(
        "by what one with the same answer shows 0 % (0 to 49) of 4 pictures: it judges by the object, as far as so few "
        "controls tell."
    )
    assert found[1].startswith(
        "Replacing the background by what a picture with another answer shows flips 50 % (30 to 70) of the answers"
    )
    assert "it has a say, and is not all. Yet less of the evidence" in found[1]


def test_what_hangs_on_an_unseen_region_may_be_open():
    found = verdict([share("tank", 0.4, 0.1), share("sky", 0.2, 0.2, 0.9, 1.1)], [swapped("sky", 0.0, 0.0, 0.16)])
    assert found[1] == "Whether answers hang on these is open: the sky (0 % flip, 0 to 16)."


def test_thirds_that_overlap_are_the_same_evidence_in_part():
    seen = [share("middle third", 0.6, 0.33), share("centre third", 0.5, 0.33)]
    assert verdict(seen, [])[2].startswith("Thirds of the height and of the width overlap")
    assert len(verdict([seen[0], share("top third", 0.5, 0.33)], [])) == 2


def test_what_may_be_replaced_is_said():
    found = verdict([share("tank", 0.4, 0.1), share("sky", 0.2, 0.2, 0.9, 1.1)], [swapped("sky", 0.02, 0.005, 0.05)])
    assert found[1] == "Answers hold where these are replaced: the sky (2 % flip, 0 to 5)."


def test_few_pictures_and_none():
    assert verdict([share("rest", 0.5, 0.2, count=7)], [])[-1].startswith("That rests on 7 pictures: too few")
    assert verdict([share("rest", 0.5, 0.2, count=1)], [])[-1].startswith("That rests on 1 picture: too few")
    assert "(2.5 x)" in verdict([share("rest", 0.5, 0.2, count=4)], [])[0]
    assert "(2.5 x, 2.4 to 2.6)" in verdict([share("rest", 0.5, 0.2, count=5)], [])[0]
    assert "the rest (what belongs to no region)" in verdict([share("rest", 0.5, 0.2)], [])[0]
    assert verdict([], []) == ("No map shows evidence in a known region: there is nothing to say.",)
