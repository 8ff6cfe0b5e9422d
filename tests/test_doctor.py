"""Which preprocessing fits: evidence, labels, verdicts; models whose right convention is known because we made them."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import doctor_truth
import numpy as np
import pytest
from builders import classifier, model, value
from onnx import TensorProto, helper

from onnxcam import Explainer, load_model
from onnxcam.doctor import FITS, Diagnosis, Row, Watch, as_text, diagnose, evidence, find_candidates, ranking
from onnxcam.doctor.candidates import Field
from onnxcam.doctor.scenes import by_unit, joined, thumbnail, units
from onnxcam.doctor.scenes import scenes as same_scenes
from onnxcam.errors import ImageError, ModelError, OptionError, UnknownNameError
from onnxcam.graph.pixels import input_range
from onnxcam.image import InputSpec, Preprocess, read_image, save_image
from onnxcam.labels import find_labels
from onnxcam.model import Model
from onnxcam.photos import Photo, find_photos

CLASSES, SIDE, SPREAD = 6, 8, 22
ALL = [c.name for c in find_candidates(load_model(classifier().SerializeToString())).candidates]
USUAL = [name for name in ALL if "clip" not in name and "cifar" not in name]


def colours() -> np.ndarray:
    """(K, 3), one mean colour per class: warm and dim, as photos are."""
    return np.random.default_rng(5).integers((70, 40, 20), (250, 200, 180), (CLASSES, 3)).astype(np.float64)


def line(name: str) -> tuple[list[int], np.ndarray, np.ndarray]:
    """A convention by hand: the order of the channels, and ``slope * grey + shift`` of each."""
    scale, color = name.split()
    mean = np.array({"imagenet": (123.675, 116.28, 103.53), "caffe": (123.68, 116.779, 103.939)}.get(scale, (0.0,) * 3))
    if scale == "tf":
        mean = np.full(3, 127.5)
    deviation = {"imagenet": np.array((58.395, 57.12, 57.375)), "tf": np.full(3, 127.5), "unit": np.full(3, 255.0)}
    over = deviation.get(scale, np.ones(3))
    order = [0, 1, 2] if color == "RGB" else [2, 1, 0]
    return order, 1 / over[order], (-mean / over)[order]


def nearest(name: str, spread: float = SPREAD, **changes: Any) -> Model:
    """Tells the mean colour of a picture, if it is given under the convention ``name``: Gaussian classes, exactly."""
    order, slope, shift = line(name)
    centres, deviation = colours()[:, order] * slope + shift, spread * slope
    w = (centres / deviation**2).T.astype(np.float32)
    b = -(centres**2 / deviation**2).sum(axis=1).astype(np.float32) / 2
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    return opened(nodes, {"w": w, "b": b}, **changes)


def opened(
    nodes: Sequence[Any], arrays: dict[str, Any], channels: int = 3, classes: int = CLASSES, **more: Any
) -> Model:
    size = more.get("size", SIDE)
    kind = more.get("kind", TensorProto.FLOAT)
    given = value("image", ["n", channels, size, size], kind)
    return load_model(model(nodes, [given], [value("logits", ["n", classes])], arrays).SerializeToString())


def coloured(folder: Path, count: int = 24, size: tuple[int, int] = (10, 12)) -> list[Photo]:
    """Pictures of the classes' colours, off by as much as the classes are wide."""
    rng, found = np.random.default_rng(2), []
    for k in range(count):
        mean = colours()[k % CLASSES] + rng.normal(0, SPREAD, 3)
        picture = np.clip(mean + rng.normal(0, 5, (*size, 3)), 0, 255).astype(np.uint8)
        save_image(folder / f"{k}.png", picture)
        found.append(Photo(folder / f"{k}.png", str(k % CLASSES)))
    return found


def names(found: Diagnosis) -> list[str]:
    return [row.candidate.name for row in found.possible]


def bare(photos: Sequence[Photo]) -> list[Photo]:
    return [Photo(p.path) for p in photos]


# Numbers


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


def clouds(rng: np.random.Generator, side: int = 120) -> np.ndarray:
    """(side, side, 3): a picture with large patterns, as photos have."""
    fine = np.kron(rng.normal(0, 1, (6, 6, 3)), np.ones((side // 6, side // 6, 1)))
    return np.clip(128 + 50 * fine + rng.normal(0, 5, fine.shape), 0, 255).astype(np.uint8)


def crops(picture: np.ndarray, rng: np.random.Generator, count: int = 12) -> list[np.ndarray]:
    """Random crops of 80 % of each side."""
    sides = [int(0.8 * n) for n in picture.shape[:2]]
    corners = [[int(rng.integers(0, n - s + 1)) for n, s in zip(picture.shape, sides, strict=False)]
               for _ in range(count)]  # fmt: skip
    return [picture[y : y + sides[0], x : x + sides[1]] for y, x in corners]


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


# Conventions


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


# With labels


@pytest.mark.parametrize("truth", USUAL)
def test_labels_name_the_convention(truth, tmp_path):
    found = diagnose(nearest(truth), coloured(tmp_path))
    assert found.best is not None
    assert found.best.candidate.name == truth
    assert {row.candidate.color for row in found.possible} == {truth.split()[1]}
    assert Preprocess.parse(found.text).apply(tmp_path / "0.png", InputSpec("NCHW", 3, SIDE, SIDE))[0].mean(
        axis=(0, 2, 3)
    ) == pytest.approx(by_hand(truth, tmp_path / "0.png"), rel=0.05)


def by_hand(name: str, path: Path) -> np.ndarray:
    order, slope, shift = line(name)
    return read_image(path).mean(axis=(0, 1))[order] * slope + shift


def test_few_photos_make_nothing_certain(tmp_path):
    photos = coloured(tmp_path, 3)
    for photo in photos:  # beyond doubt under many conventions
        save_image(photo.path, np.broadcast_to(colours()[int(photo.label or 0)], (8, 8, 3)).astype(np.uint8))
    found = diagnose(nearest("tf RGB", spread=8), photos)
    assert found.best is None  # larger inputs give the same answers, only surer: that is no better fit
    assert found.text == ""
    assert {"tf RGB", "raw RGB"} <= {row.candidate.name for row in found.rows[:6]}
    assert found.sentences()[0].startswith("Not sure: imagenet RGB, tf RGB, ")
    assert not found.certain
    assert len(found.possible) == len(found.rows)  # 2^-3 is no certainty, whatever the difference
    assert "3 photos cannot make it certain" in " ".join(found.sentences())


def saved(folder: Path, pictures: Sequence[np.ndarray], label: str) -> list[Photo]:
    for k, picture in enumerate(pictures):
        save_image(folder / f"{label}.{k}.png", picture)
    return [Photo(folder / f"{label}.{k}.png", label) for k in range(len(pictures))]


def test_bursts_count_once(tmp_path):
    photos = []
    for k in range(CLASSES):
        frames = [np.full((9, 9, 3), colours()[k] + 0.3 * shift, np.uint8) for shift in range(4)]
        photos += saved(tmp_path, frames, str(k))
    found = diagnose(nearest("caffe BGR"), photos)
    assert (found.labelled, found.units, found.best) == (24, 6, found.rows[0])
    assert len(found.possible) == len(found.rows)  # 2^-6 is no certainty among 12, of however many frames
    assert "24 photos, which count as 6 (near-duplicates are one" in " ".join(found.sentences())
    one = diagnose(nearest("caffe BGR"), photos[:4] * 5)
    assert (one.labelled, one.units, one.best, one.certain) == (20, 1, None, False)
    assert "better than guessing on 20 labelled photos, beyond chance" in one.sentences()[0]


def test_photos_of_one_class_make_nothing_certain(tmp_path):
    """Whatever favours that class is right: 24 different photos, all of them labelled 3, whatever they show."""
    photos = [Photo(p.path, "3") for p in coloured(tmp_path)]
    found = diagnose(nearest("tf RGB"), photos)
    assert (found.units, found.certain, found.best) == (1, False, None)


def test_two_classes_right_are_not_certain(tmp_path):
    photos = [p for p in coloured(tmp_path, 60) if p.label in "015"]
    assert diagnose(nearest("caffe BGR"), photos).certain
    found = diagnose(nearest("tf RGB"), [p if p.label in "01" else Photo(p.path, "3") for p in photos])
    assert names(found) == ["tf RGB"]
    assert not found.certain
    assert "that takes 3 classes of which half of the photos are right; here it is 2" in found.sentences()[-1]


def test_names_of_classes_and_folders_are_read(tmp_path):
    labels = ("red, crimson", "b", "c", "d", "e", "f")
    photos = [Photo(p.path, "CRIMSON" if p.label == "0" else labels[int(p.label or 0)]) for p in coloured(tmp_path)]
    found = diagnose(nearest("unit RGB"), photos, labels, given=True)
    assert (found.labelled, found.rows[0].candidate.name) == (24, "unit RGB")


def test_wrong_labels_are_not_sure(tmp_path):
    shifted = [Photo(p.path, str((int(p.label or 0) + 1) % CLASSES)) for p in coloured(tmp_path)]
    found = diagnose(nearest("unit RGB"), shifted)
    assert found.best is None
    assert found.text == ""
    assert "no convention makes the model better than guessing" in found.sentences()[0]


def test_resizing_is_a_question_of_its_own(tmp_path):
    """A model that reads the left edge: what is cut off there tells nothing, what is there tells all."""
    _, slope, shift = line("imagenet RGB")  # whose preset crops
    centres, deviation = colours() * slope + shift, SPREAD * slope
    w = np.zeros((3, SIDE, SIDE, CLASSES))
    w[:, :, 0] = (centres / deviation**2).T[:, None] / SIDE
    arrays = {"w": w.reshape(-1, CLASSES).astype(np.float32), "flat_shape": np.array([0, -1])}
    arrays["b"] = -(centres**2 / deviation**2).sum(axis=1).astype(np.float32) / 2
    nodes = [helper.make_node("Reshape", ["image", "flat_shape"], ["flat"]),
             helper.make_node("Gemm", ["flat", "w", "b"], ["logits"])]  # fmt: skip
    photos = []
    for k in range(24):
        picture = np.random.default_rng(k).integers(0, 255, (16, 32, 3)).astype(np.uint8)  # each is a scene of its own
        picture[:, :4] = colours()[k % CLASSES]
        save_image(tmp_path / f"{k}.png", picture)
        photos.append(Photo(tmp_path / f"{k}.png", str(k % CLASSES)))
    found = diagnose(opened(nodes, arrays), photos)
    assert found.fits == ("stretch",)
    assert Preprocess.parse(found.text).fit == "stretch"


# Without labels


@pytest.mark.parametrize("truth", USUAL)
def test_without_labels_nothing_is_named(truth, tmp_path):
    found = diagnose(nearest(truth), bare(coloured(tmp_path)))
    assert truth in names(found)
    assert len(found.possible) > 1
    assert found.best is None
    assert found.text == ""


def normalised(name: str, folder: Path) -> Model:
    """Conv, BatchNormalization with the statistics of pictures under the convention ``name``, Relu, pool, linear."""
    rng = np.random.default_rng(0)
    order, slope, shift = line(name)
    w = rng.normal(0, 1, (16, 3))
    pictures = np.stack([natural(rng) for _ in range(16)]).reshape(-1, 3)
    y = (pictures[:, order] * slope + shift) @ w.T
    arrays = {"w": w[:, :, None, None], "gamma": np.ones(16), "beta": np.zeros(16), "mean": y.mean(0), "var": y.var(0),
              "wd": rng.normal(0, 1, (16, CLASSES)), "bd": np.zeros(CLASSES)}  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["conv"]),
        helper.make_node("BatchNormalization", ["conv", "gamma", "beta", "mean", "var"], ["bn"], "bn1"),
        helper.make_node("Relu", ["bn"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "wd", "bd"], ["logits"]),
    ]
    return opened(nodes, {k: v.astype(np.float32) for k, v in arrays.items()})


def natural(rng: np.random.Generator) -> np.ndarray:
    """(8, 8, 3): colours that vary from picture to picture, and less within one."""
    return np.clip(rng.normal((124, 116, 104), 45, 3) + rng.normal(0, 35, (SIDE, SIDE, 3)), 0, 255)


def scenes(folder: Path, count: int = 8) -> list[Photo]:
    rng = np.random.default_rng(9)
    for k in range(count):
        save_image(folder / f"{k}.png", natural(rng).astype(np.uint8))
    return [Photo(folder / f"{k}.png") for k in range(count)]


@pytest.mark.parametrize("truth", USUAL)
def test_running_statistics_rule_out_other_scales(truth, tmp_path):
    found = diagnose(normalised(truth, tmp_path), scenes(tmp_path))
    small = {name for name in ALL if name.split()[0] in ("imagenet", "tf", "unit", "clip", "cifar")}
    other = set(ALL) - small if truth in small else small
    assert truth in names(found)
    assert not other & set(names(found))
    assert len(found.possible) > 1
    row = next(row for row in found.rows if row.candidate.name == truth)
    assert row.misfit is not None
    assert row.misfit < 0.8


def test_two_photos_are_too_few_for_running_statistics(tmp_path):
    assert len(diagnose(normalised("unit RGB", tmp_path), scenes(tmp_path, 2)).possible) == 12


def test_one_answer_to_everything_rules_out(tmp_path):
    nodes = [
        helper.make_node("Clip", ["image", "zero", "one"], ["held"]),
        helper.make_node("GlobalAveragePool", ["held"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["logits"]),
    ]
    arrays = {"zero": np.float32(0), "one": np.float32(1), "w": np.eye(3, CLASSES, dtype=np.float32)}
    saturating, photos = opened(nodes, arrays), scenes(tmp_path)
    for k, photo in enumerate(photos):  # no pixel is black: 1 and above are all the same
        save_image(photo.path, np.random.default_rng(k).integers(2 + k * 20, 60 + k * 20, (9, 9, 3)).astype(np.uint8))
    found = diagnose(saturating, photos)
    gone = {row.candidate.name: row.against for row in found.rows if row.against}
    assert gone == {"raw RGB": "gives one answer to 8 photos", "raw BGR": "gives one answer to 8 photos"}
    assert len(diagnose(saturating, [photos[0]] * 8).possible) == 12  # of one picture, one answer is right
    assert len(diagnose(saturating, photos[:2]).possible) == 12  # of two it may be


def test_nan_rules_out_and_everywhere_it_is_an_error(tmp_path):
    def rooted(sign: float) -> Model:
        nodes = [helper.make_node("Mul", ["image", "sign"], ["turned"]), helper.make_node("Sqrt", ["turned"], ["held"]),
                 helper.make_node("GlobalAveragePool", ["held"], ["pooled"]),
                 helper.make_node("Flatten", ["pooled"], ["logits"])]  # fmt: skip
        return opened(nodes, {"sign": np.float32(sign)}, classes=3)

    found = diagnose(rooted(1.0), scenes(tmp_path))
    assert {row.candidate.scale for row in found.possible} == {"raw", "unit"}
    assert {row.against for row in found.rows if not row.possible} == {"gives NaN or infinite scores"}
    black_hole = opened([helper.make_node("Sub", ["image", "image"], ["zero"]),
                         helper.make_node("Div", ["zero", "zero"], ["nan"]),
                         helper.make_node("GlobalAveragePool", ["nan"], ["pooled"]),
                         helper.make_node("Flatten", ["pooled"], ["logits"])], {}, classes=3)  # fmt: skip
    with pytest.raises(ModelError, match="NaN or infinite scores, whatever is tried"):
        diagnose(black_hole, scenes(tmp_path))


def quantised(low: float, high: float) -> Model:
    """An input quantiser that holds ``low`` to ``high``."""
    step = np.float32((high - low) / 255)
    zero = np.uint8(round(-low / step))
    nodes = [helper.make_node("QuantizeLinear", ["image", "step", "zero"], ["q"]),
             helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["x"]),
             helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
             helper.make_node("Flatten", ["pooled"], ["logits"])]  # fmt: skip
    return opened(nodes, {"step": step, "zero": zero}, classes=3)


@pytest.mark.parametrize(
    ("held", "left"),
    [
        ((-1.8, 2.3), {"imagenet", "clip", "cifar", "tf", "unit"}),
        ((-0.8, 0.9), {"tf", "unit"}),
        ((-115.0, 140.0), {"caffe", "raw"}),  # raw fills 140 of its 255: less than 60 %
    ],
)
def test_what_the_input_quantiser_cannot_hold_is_ruled_out(held, left, tmp_path):
    assert input_range(quantised(*held)) == pytest.approx(held, abs=0.02 * (held[1] - held[0]))
    found = diagnose(quantised(*held), scenes(tmp_path))
    assert {row.candidate.scale for row in found.possible} == left - ({"raw"} if held[1] == 140 else set())


def test_surroundings_settle_it(tmp_path):
    told = replace(nearest("caffe BGR"), meta={"onnxcam/preprocess": '{"name": "caffe"}'})
    found = diagnose(told, coloured(tmp_path))
    assert names(found) == ["caffe BGR"]
    assert found.certain
    assert found.sentences()[0].startswith("caffe BGR: decided by the model's metadata")
    assert "are right" in found.sentences()[1]


def says(of: Model, preprocess: str) -> Model:
    return replace(of, meta={"onnxcam/preprocess": json.dumps(Preprocess.parse(preprocess).to_dict())})


def test_labels_go_before_surroundings(tmp_path):
    found = diagnose(says(nearest("caffe BGR"), "unit"), coloured(tmp_path))
    assert (found.text.partition(",")[0], found.certain) == ("caffe", True)
    assert found.sentences()[0].startswith("caffe BGR fits best")
    assert re.search(
        r"^the model's metadata says unit, but with that the model is no better than guessing \(\d+% of 24 labelled "
        r"photos right\)\. A sidecar goes before it",
        found.sentences()[-1],
    )
    assert found.to_dict()["doubt"] == found.sentences()[-1]


def test_labels_that_fit_nothing_make_nothing_certain(tmp_path):
    shifted = [Photo(p.path, str((int(p.label or 0) + 1) % CLASSES)) for p in coloured(tmp_path)]
    found = diagnose(says(nearest("unit RGB"), "unit"), shifted)
    assert (found.best, found.certain, found.text) == (None, False, "")
    assert found.sentences()[0].startswith("Not sure: no convention")
    assert found.doubt.endswith(" right)")  # and no advice to change what may be right


def test_what_was_told_is_tried_too_and_the_graph_stays(tmp_path):
    odd = diagnose(says(nearest("unit RGB"), "raw,mean=900"), coloured(tmp_path))
    assert "as told RGB" in {row.candidate.name for row in odd.rows}
    assert odd.best is not None
    assert odd.best.candidate.name == "unit RGB"
    uint8 = [helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
             helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
             helper.make_node("Flatten", ["pooled"], ["logits"])]  # fmt: skip
    integers = opened(uint8, {}, classes=3, kind=TensorProto.UINT8)
    blue = [Photo(p.path, str(2 - int(np.argmax(read_image(p.path).mean((0, 1)))))) for p in coloured(tmp_path)]
    found = diagnose(says(integers, "raw"), blue)
    assert {row.candidate.name for row in found.rows} == {"raw RGB", "raw BGR"}
    assert found.rows[0].candidate.name == "raw BGR"


def test_nan_under_what_surroundings_say_is_tried_again(tmp_path):
    rooted = opened([helper.make_node("Sqrt", ["image"], ["held"]),
                     helper.make_node("GlobalAveragePool", ["held"], ["pooled"]),
                     helper.make_node("Flatten", ["pooled"], ["logits"])], {}, classes=3)  # fmt: skip
    found = diagnose(says(rooted, "imagenet"), scenes(tmp_path))
    assert {row.candidate.scale for row in found.possible} == {"raw", "unit"}
    assert "but that gives NaN or infinite scores" in found.doubt


def judged(*rows: tuple[float, float, float | None], against: int = 0, labelled: int = 4) -> Diagnosis:
    """A diagnosis of six classes: (share that is right, log-probability, p) of each convention, then some ruled out."""
    field = find_candidates(nearest("unit RGB"))
    told = [
        Row(c, 6, None, "", False, right, z, z, round(right * labelled), round(right * labelled), p)
        for c, (right, z, p) in zip(field.candidates, rows, strict=False)
    ]
    gone = [Row(c, 6, against="gives NaN") for c in field.candidates[len(rows) : len(rows) + against]]
    return Diagnosis(field, (*told, *gone), labelled, labelled, -math.log(6), units=labelled)


def test_nothing_right_is_no_fit_however_probable():
    assert judged((0.0, -1.2, None), (0.0, -4.0, 0.5)).best is None
    assert "no convention makes the model better than guessing" in judged((0.0, -1.2, None)).sentences()[0]
    assert judged((1.0, -1.2, None), (0.0, -4.0, 0.5)).best is not None
    told = Field(find_candidates(nearest("unit RGB")).candidates[:1], "m.toml", settled=True)
    assert "(0% of 4 labelled photos right)" in replace(judged((0.0, -1.2, None)), field=told).refuted()
    assert "(100% of 4" in replace(judged((1.0, -2.0, None)), field=told).refuted()  # right, but less sure than a guess
    assert replace(judged((1.0, -1.2, None)), field=told).refuted() == ""


def test_how_many_photos_are_needed_depends_on_what_is_in_question():
    many = judged((1.0, -0.1, None), *[(0.0, -4.0, 1.0)] * 11)
    assert "4 photos cannot make it certain: among 12 conventions that takes 8" in " ".join(many.sentences())
    two = judged((1.0, -0.1, None), (0.0, -4.0, 1.0), against=10)
    assert "among 2 conventions that takes 5" in " ".join(two.sentences())


# Bad input


def test_labels_that_the_model_lacks_are_refused(tmp_path):
    photos = [Photo(p.path, "zebu") for p in coloured(tmp_path, 3)]
    labels = ("zebra", *"bcdef")
    with pytest.raises(UnknownNameError, match="'zebu'; did you mean 'zebra'"):
        diagnose(nearest("tf RGB"), photos, labels, given=True)
    with pytest.raises(OptionError, match=r"'zebu' is no class index of the model \(6 classes.*--labels"):
        diagnose(nearest("tf RGB"), photos, given=True)
    with pytest.raises(OptionError, match="'6' is no class index"):
        diagnose(nearest("tf RGB"), [Photo(photos[0].path, "6")], given=True)
    with pytest.raises(UnknownNameError, match="'seventh'"):  # names may be more than classes
        diagnose(nearest("tf RGB"), [Photo(photos[0].path, "seventh")], (*labels, "seventh"), given=True)


def test_a_folder_that_is_no_class_among_others_is_left_out(tmp_path):
    labels = ("zebra", *"bcdef")
    photos = [Photo(p.path, "misc" if k < 2 else labels[int(p.label or 0)]) for k, p in enumerate(coloured(tmp_path))]
    found = diagnose(nearest("caffe BGR"), photos, labels)
    assert (found.photos, found.labelled) == (24, 22)
    assert found.best is not None
    assert found.notes == ("no class of the model is called misc: of 2 photos in folders named so no label is read",)
    with pytest.raises(UnknownNameError, match="'misc'"):  # on purpose
        diagnose(nearest("caffe BGR"), photos, labels, given=True)


@pytest.mark.parametrize(("label", "which"), [("crane", "0 and 2"), ("Cardigan", "1 and 3")])
def test_a_name_of_two_classes_is_refused(label, which, tmp_path):
    labels = ("crane", "Cardigan, Welsh corgi", "crane", "cardigan", "e", "f")
    photos = [Photo(p.path, label) for p in coloured(tmp_path, 3)]
    with pytest.raises(OptionError, match=f"'{label}' is the name of the classes {which}: give the index"):
        diagnose(nearest("tf RGB"), photos, labels)
    corgi = [Photo(p.path, "welsh corgi") for p in photos]
    assert diagnose(nearest("tf RGB"), corgi, labels).labelled == 3


def test_folders_that_are_no_classes_tell_nothing(tmp_path):
    photos = [Photo(p.path, "part1") for p in coloured(tmp_path, 4)]
    found = diagnose(nearest("tf RGB"), photos, ("zebra", *"bcdef"))
    assert found.labelled == 0
    assert found.notes == (
        "the folders part1 are no classes of the model (zebra, b, c, d, e, ... (6 in all)): no labels",
    )
    assert found.sentences()[-1] == "Labels tell more: folders named so, or --truth CSV with lines of path,label"
    nameless = diagnose(nearest("tf RGB"), photos)
    assert "part1 are no classes of the model (6 classes, without names)" in nameless.notes[0]
    assert nameless.sentences()[-1] == "Labels tell more: --labels NAMES.txt, the names of its classes"


def test_names_that_do_not_fit_the_classes_are_said(tmp_path):
    photos = bare(coloured(tmp_path, 3))
    found = diagnose(nearest("tf RGB"), photos, tuple("abcdefgh"))
    assert found.notes[0].startswith("8 names for 6 classes")
    elsewhere = diagnose(nearest("tf RGB"), [Photo(p.path, "part1") for p in photos], tuple("abcdefgh"))
    assert elsewhere.sentences()[-1].startswith("Labels tell more: --labels NAMES.txt")
    assert diagnose(nearest("tf RGB"), photos, tuple("abcdef")).notes == ()


def test_a_model_of_no_picture_is_refused_for_that(tmp_path):
    inputs = [value("x", ["n", 4]), value("shape", ["rank"], TensorProto.INT64)]
    table = model([helper.make_node("Reshape", ["x", "shape"], ["y"])], inputs, [value("y", None)], {})
    with pytest.raises(ModelError, match="no image input"):
        diagnose(load_model(table.SerializeToString()), scenes(tmp_path, 1))


def test_what_cannot_be_read_is_skipped_and_reported(tmp_path):
    photos = coloured(tmp_path, 12)
    photos[3].path.write_bytes(b"no picture")
    found = diagnose(nearest("raw BGR"), photos)
    assert (found.photos, found.labelled, len(found.skipped)) == (11, 11, 1)
    assert "3.png" in found.skipped[0]
    assert found.rows[0].candidate.name == "raw BGR"
    with pytest.raises(ImageError, match="none of the 1 pictures can be read"):
        diagnose(nearest("raw BGR"), photos[3:4])


def test_a_model_of_two_pictures_is_refused(tmp_path):
    nodes = [helper.make_node("Add", ["image", "other"], ["sum"]),
             helper.make_node("GlobalAveragePool", ["sum"], ["pooled"]),
             helper.make_node("Flatten", ["pooled"], ["logits"])]  # fmt: skip
    inputs = [value(name, ["n", 3, SIDE, SIDE]) for name in ("image", "other")]
    both = load_model(model(nodes, inputs, [value("logits", ["n", 3])]).SerializeToString())
    with pytest.raises(OptionError, match="more than one picture: image, other"):
        diagnose(both, scenes(tmp_path))


def test_labels_of_boxes_and_pixels_are_not_read(tmp_path):
    dense = model([helper.make_node("Conv", ["image", "w"], ["logits"])], [value("image", ["n", 3, SIDE, SIDE])],
                  [value("logits", ["n", 5, SIDE, SIDE])], {"w": np.ones((5, 3, 1, 1), np.float32)})  # fmt: skip
    found = diagnose(load_model(dense.SerializeToString()), coloured(tmp_path, 4), given=True)
    assert found.labelled == 0
    assert "labels are not read: the model gives dense" in found.notes[0]
    assert "Labels tell more" not in " ".join(found.sentences())
    assert "try what is left with `onnxcam explain --preprocess`" in found.sentences()[-1]


def test_many_photos_are_thinned_out_evenly(tmp_path):
    photos = coloured(tmp_path, 6)
    found = diagnose(nearest("unit BGR"), photos * 40)
    assert found.photos == 100
    assert found.notes == ("100 of the 240 photos are tried, evenly spread",)


@pytest.mark.parametrize(("shape", "size"), [((40, 50), (40, 50)), ((600, 20), (224, 224))])
def test_a_model_of_any_size_gets_small_pictures_as_they_are(shape, size, tmp_path):
    found = diagnose(nearest("unit RGB", size="s"), coloured(tmp_path, 6, shape))
    assert found.size == size
    assert found.text.endswith(f"size={size[0]}x{size[1]}")


# Suspicion


def watched(explained: Model, preprocess: str, photos: Sequence[Photo]) -> str:
    explainer = Explainer(explained, preprocess, method="saliency")
    watch = Watch(explained, explainer.preprocess, explainer.logits.classes)
    for photo in photos:
        watch.see(explainer.explain(photo.path))
    return watch.suspicion()


def test_suspicion_by_running_statistics(tmp_path):
    model_of_unit = normalised("unit RGB", tmp_path)
    assert watched(model_of_unit, "unit", scenes(tmp_path)) == ""
    assert re.search(r"reaches bn1 is far \(\d+\.\d deviations\)", watched(model_of_unit, "raw", scenes(tmp_path, 3)))
    assert watched(model_of_unit, "raw", scenes(tmp_path, 2)) == ""  # one flat picture has no spread at all
    assert "onnxcam doctor" in watched(model_of_unit, "raw", scenes(tmp_path, 3))


def test_the_watch_keeps_little_and_looks_at_few_pixels(tmp_path, monkeypatch):
    plain, photo = nearest("unit RGB"), scenes(tmp_path, 1)[0]
    explainer = Explainer(plain, "unit", method="saliency")
    watch, found = Watch(plain, explainer.preprocess, explainer.logits.classes), explainer.explain(photo.path)
    monkeypatch.setattr(Preprocess, "apply", counted := _Counted(Preprocess.apply))
    for k in range(200):
        watch.see(replace(found, image=np.full((900, 1300, 3), k, np.uint8)))
    assert len(watch._top) == len(watch._thumbs) == 64
    assert (watch._pictures, len(counted.pixels)) == ([], 64)  # no running statistics: nothing to hold them against
    assert max(counted.pixels) < 200 * 200
    assert thumbnail(np.kron(np.arange(4, dtype=np.uint8)[:, None, None], np.ones((300, 900, 3), np.uint8)), 4)[
        :, 2, 1
    ] == pytest.approx([0, 1, 2, 3], abs=0.1)


class _Counted:
    """`Preprocess.apply`, with the sizes that it was given."""

    def __init__(self, apply: Callable[..., Any]) -> None:
        self.apply, self.pixels = apply, list[int]()

    def __get__(self, one: Preprocess, owner: type) -> Callable[..., Any]:
        def run(picture: np.ndarray, spec: InputSpec) -> Any:
            self.pixels.append(picture.shape[0] * picture.shape[1])
            return self.apply(one, picture, spec)

        return run


def test_suspicion_by_one_answer(tmp_path):
    nodes = [helper.make_node("Clip", ["image", "", "one"], ["held"]),
             helper.make_node("GlobalAveragePool", ["held"], ["pooled"]),
             helper.make_node("Flatten", ["pooled"], ["logits"])]  # fmt: skip
    saturating = opened(nodes, {"one": np.float32(1)}, classes=3)
    photos = scenes(tmp_path, 3)
    for k, photo in enumerate(photos):
        save_image(photo.path, np.random.default_rng(k).integers(2, 90 * k + 50, (9, 9, 3)).astype(np.uint8))
    assert "3 different pictures get one and the same answer" in watched(saturating, "raw", photos)
    assert watched(saturating, "unit", photos) == ""
    assert watched(saturating, "raw", photos[:2]) == ""
    assert watched(saturating, "raw", photos[:1] * 5) == ""  # one picture, five times


def test_suspicion_by_guesses(tmp_path):
    def sure(factor: float) -> Model:
        nodes = [helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
                 helper.make_node("Flatten", ["pooled"], ["flat"]),
                 helper.make_node("Gemm", ["flat", "w"], ["z"]),
                 helper.make_node("Softmax", ["z"], ["logits"])]  # fmt: skip
        return opened(nodes, {"w": factor * np.eye(3, CLASSES, dtype=np.float32)})

    assert "no class of 6 stands out for any of 4 pictures" in watched(sure(0.5), "unit", scenes(tmp_path, 4))
    assert watched(sure(20.0), "unit", scenes(tmp_path, 4)) == ""


def usual(first: float, slope: float) -> Model:
    """Scores of 100 classes, of which five are high whatever the picture, with the picture's share in all of them."""
    w = np.random.default_rng(0).normal(0, slope, (3, 100)).astype(np.float32)
    b = np.zeros(100, np.float32)
    b[:5] = first, 1.9, 1.8, 1.7, 1.6
    nodes = [helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
             helper.make_node("Flatten", ["pooled"], ["flat"]),
             helper.make_node("Gemm", ["flat", "w", "b"], ["logits"])]  # fmt: skip
    return opened(nodes, {"w": w, "b": b}, classes=100)


def test_suspicion_by_best_classes_that_hardly_vary(tmp_path):
    photos = scenes(tmp_path, 6)
    for k, photo in enumerate(photos):  # blue, green, cyan, ...
        save_image(photo.path, np.full((8, 8, 3), 255 * ((k + 1) >> np.arange(3) & 1), np.uint8))
    doubt = "much the same for 6 quite different pictures"
    assert doubt in watched(usual(2.0, 0.05), "unit", photos)
    assert watched(usual(2.0, 2.0), "unit", photos) == ""  # other pictures, other classes
    assert watched(usual(9.0, 0.05), "unit", photos) == ""  # one class, and sure of it
    assert watched(usual(2.0, 0.05), "unit", photos[:4]) == ""  # too few to tell
    for k, photo in enumerate(photos):  # pictures that are much alike may well have much the same classes
        save_image(photo.path, np.full((8, 8, 3), 100 + k, np.uint8))
    assert watched(usual(2.0, 0.05), "unit", photos) == ""


def test_suspicion_by_the_input_quantiser(tmp_path):
    assert "input quantiser holds" in watched(quantised(-0.8, 0.9), "raw", scenes(tmp_path, 1))
    assert watched(quantised(-0.8, 0.9), "tf", scenes(tmp_path, 1)) == ""


# Real models


@pytest.fixture(scope="module")
def own_photos(real_zoo: Path, tmp_path_factory) -> Callable[[str], list[Photo]]:
    def find(name: str) -> list[Photo]:
        if name.startswith("mnist_binary"):
            return doctor_truth.digits(real_zoo, tmp_path_factory.mktemp("digits"))
        return doctor_truth.photos(real_zoo, name)

    return find


@pytest.mark.real
@pytest.mark.parametrize("name", doctor_truth.TRUTH)
def test_labels_name_the_convention_of_real_models(name, real_zoo, own_photos):
    labels = find_labels(real_zoo / "labels/leafsnap30.csv", {}) if name.startswith("leaf") else None
    found = diagnose(load_model(real_zoo / f"models/{name}.onnx"), own_photos(name), labels, threads=1)
    assert found.best is not None
    assert found.best.candidate.name == doctor_truth.TRUTH[name]
    if found.labelled > 10:
        assert {row.candidate.color for row in found.possible} == {found.best.candidate.color}


@pytest.mark.real
@pytest.mark.parametrize("name", [*doctor_truth.TRUTH, "paddle_textline_cls_mobilev3", "cifar10_winml_tutorial"])
def test_without_labels_the_truth_of_real_models_is_left_and_never_one_alone(name, real_zoo, own_photos):
    photos = own_photos(name) if name.startswith("mnist") else doctor_truth.photos(real_zoo, "squeezenet11_fp32")
    found = diagnose(load_model(real_zoo / f"models/{name}.onnx"), bare(photos), threads=1)
    assert {**doctor_truth.TRUTH, **doctor_truth.OTHERS}[name] in names(found)
    assert len(found.possible) > 1
    assert found.best is None


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "label", "photo"),
    [
        ("keras_mobilenetv1_025_nhwc_tf2onnx_op17", "985", "daisy"),
        ("keras_mobilenetv1_025_nhwc_tf2onnx_op17", "309", "bee"),
        ("flowers_mobilenetv2_035_128_tf2onnx", "2", "rose"),
    ],
)
def test_crops_of_one_photo_exclude_nothing(name, label, photo, real_zoo, tmp_path):
    rng, picture = np.random.default_rng(0), read_image(real_zoo / f"photos/{photo}.jpg")
    photos = saved(tmp_path, crops(picture, rng), label)
    found = diagnose(load_model(real_zoo / f"models/{name}.onnx"), photos, threads=1)
    assert (found.labelled, found.units) == (12, 1)
    assert len(found.possible) == len(found.rows)
    assert not found.certain


@pytest.mark.real
def test_not_sure_of_a_model_that_nobody_knows(real_zoo):
    found = diagnose(load_model(real_zoo / "models/geometric_shapes_cnn.onnx"), find_photos(real_zoo / "small"))
    assert found.best is None
    assert found.sentences()[0].startswith("Not sure")


@pytest.mark.real
def test_a_detector_is_no_crash(real_zoo):
    photos = [Photo(p.path, "0") for p in doctor_truth.photos(real_zoo, "squeezenet11_fp32")[:3]]
    found = diagnose(load_model(real_zoo / "models/yolox_nano_416.onnx"), photos, given=True, threads=1)
    assert "raw BGR" in names(found)
    assert "labels are not read: the model gives boxes" in found.notes[0]
