"""The arithmetic of evidence, and the conventions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from builders import classifier
from doctor_models import (
    USUAL,
    clouds,
    crops,
    line,
    opened,
)
from onnx import TensorProto, helper

from onnxcam import load_model
from onnxcam.doctor import FITS, as_text, evidence, find_candidates, ranking
from onnxcam.doctor.scenes import by_unit, joined, units
from onnxcam.doctor.scenes import scenes as same_scenes
from onnxcam.image import InputSpec, Preprocess

pytestmark = pytest.mark.anyruntime


def test_log_likelihood_is_the_softmax_of_the_true_class_with_a_floor():
    scores = np.log(np.array([[1.0, 3.0], [1.0, 4.0]]))
    assert ranking.log_likelihood(scores, np.array([1, 0])) == pytest.approx([math.log(0.75), math.log(0.2)])
    far = ranking.log_likelihood(np.array([[0.0, 5000.0, 0.0]] * 2), np.array([2, 1]))
    assert far == pytest.approx([-math.log(300), math.log(0.99)])


def test_one_logit_is_the_second_of_two_classes():
    scores = np.log([[3.0], [3.0]])
    assert ranking.log_likelihood(scores, np.array([1, 0])) == pytest.approx([math.log(0.75), math.log(0.25)])
    assert ranking.right(scores, np.array([1, 0])).tolist() == [True, False]


@pytest.mark.parametrize(("differences", "expected"), [([1, 1, 1], 1 / 8), ([3, -1], 2 / 4), ([0, 0], 1), ([-1], 1)])
def test_sign_flips_by_hand(differences, expected):
    assert ranking.sign_flip(np.array(differences, float)) == expected


def test_drawn_sign_flips_agree_with_all_of_them():
    differences = np.random.default_rng(0).normal(0.4, 1, 14)
    every = [
        sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in itertools.product((1, -1), repeat=14)
    ]
    assert ranking.sign_flip(differences) == pytest.approx(
        np.mean(np.array(every) >= sum(differences) - 1e-9), abs=0.02
    )


def test_holm_raises_the_smallest_most_and_keeps_the_order():
    assert ranking.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert ranking.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_chance_by_hand():
    assert ranking.by_chance(2, 3, 0.5) == pytest.approx(4 / 8)
    assert ranking.by_chance(3, 3, 1 / 5) == pytest.approx(1 / 125)
    assert ranking.by_chance(1, 2, 0.1) == pytest.approx(1 - 0.9**2)
    assert ranking.by_chance(0, 4, 0.1) == pytest.approx(1)


def test_units_are_scenes_and_classes_where_few_of_them_are_shown():
    scene, truth = np.array([0, 0, 1, 2, 3]), np.array([4, 4, 4, 7, 7])
    assert units(scene, truth, 4).tolist() == [0, 0, 1, 2, 3]  # 2 of 4 classes
    assert units(scene, truth, 5).tolist() == [0, 0, 0, 1, 1]
    assert by_unit(np.array([1.0, 3.0, 5.0, 7.0, 8.0]), np.array([0, 0, 1, 2, 2])) == pytest.approx([2, 5, 7.5])
    chain = np.zeros((5, 5), bool)
    chain[0, 4] = chain[4, 2] = chain[3, 1] = True
    assert joined(chain).tolist() == [0, 1, 0, 1, 0]


def test_crops_and_copies_are_one_scene_and_other_pictures_are_not():
    rng = np.random.default_rng(4)
    several = [crops(clouds(rng), rng, 4) for _ in range(5)]
    found = same_scenes([picture for one in several for picture in one])
    assert found.tolist() == list(np.repeat(np.arange(5), 4))
    plain = [np.full((9, 9, 3), level, np.uint8) for level in (50, 51, 90)]
    assert same_scenes([*plain, clouds(rng), 255 - clouds(rng)]).tolist() == [0, 0, 1, 2, 3]


def test_misfit_is_deviations_off_and_doublings_of_the_spread():
    held = evidence.RunningStatistics("v", "bn", np.array([1.0, 0.0, 0.0]), np.array([2.0, 1.0, 1.0]))
    x = np.zeros((2, 3, 1, 2))
    x[:, 0] = [[3.0, 11.0]]  # mean 7, deviation 4: 3 deviations off, the spread doubled
    x[:, 1] = [[-8.0, 8.0]]  # the mean is right, the spread is 8
    x[:, 2] = [[-1.0, 1.0]]
    assert held.misfit(*evidence.moments(x)) == pytest.approx(3.0)  # the median of hypot(3, 1), 3 and 0


def test_variety_is_the_spread_over_photos_in_that_of_the_scores():
    scores = np.array([[0.0, 10.0], [2.0, 12.0]])  # over photos 1; all of them: 0, 10, 2, 12 around 6
    assert evidence.variety(scores) == pytest.approx(1 / math.sqrt(26))
    assert math.isnan(evidence.variety(np.array([[1.0, np.nan]])))


def test_the_candidates_are_different_conventions():
    candidates = find_candidates(load_model(classifier().SerializeToString())).candidates
    spec, pixel = InputSpec("NCHW", 3, 1, 1), np.array([[[200, 90, 30]]], np.uint8)
    found = {c.name: c.preprocess.apply(pixel, spec)[0].ravel() for c in candidates}
    for name in USUAL:
        order, slope, shift = line(name)
        assert found[name] == pytest.approx(pixel.ravel()[order] * slope + shift, rel=1e-4), name
    assert len(found) == 12
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(found.values(), 2)) > 0.01


def test_every_convention_can_be_written_as_text():
    for channels in (1, 3):
        field = find_candidates(load_model(classifier(channels=channels).SerializeToString()))
        assert not any("," in candidate.name for candidate in field.candidates)  # sentences list them with commas
        for candidate, fit in itertools.product(field.candidates, FITS.values()):
            asked = replace(candidate.preprocess, **fit, size=(96, 128))
            assert Preprocess.parse(as_text(asked)) == asked
    assert as_text(Preprocess.parse("caffe")) == "caffe"
    assert as_text(Preprocess.parse("raw,color=BGR,scale=1/256,fill=0")) == "raw,color=BGR,scale=1/256,fill=0"


def test_integers_leave_the_colours_open_and_no_more():
    uint8 = [helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
             helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
             helper.make_node("Flatten", ["pooled"], ["logits"])]  # fmt: skip
    field = find_candidates(opened(uint8, {}, classes=3, kind=TensorProto.UINT8))
    assert [c.name for c in field.candidates] == ["raw RGB", "raw BGR"]
