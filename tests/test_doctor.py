"""Which preprocessing fits: evidence, labels, verdicts, bad input."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from builders import model, value
from doctor_models import (
    ALL,
    CLASSES,
    SIDE,
    SPREAD,
    USUAL,
    bare,
    by_hand,
    coloured,
    colours,
    line,
    names,
    nearest,
    normalised,
    opened,
    quantised,
    saved,
    says,
    scenes,
)
from onnx import TensorProto, helper

from onnxcam import load_model
from onnxcam.doctor import Diagnosis, Row, diagnose, find_candidates
from onnxcam.doctor.candidates import Field
from onnxcam.errors import ImageError, ModelError, OptionError, UnknownNameError
from onnxcam.graph.pixels import input_range
from onnxcam.image import InputSpec, Preprocess, read_image, save_image
from onnxcam.model import Model
from onnxcam.photos import Photo

pytestmark = pytest.mark.anyruntime


@pytest.mark.parametrize("truth", USUAL)
def test_labels_name_the_convention(truth, tmp_path):
    found = diagnose(nearest(truth), coloured(tmp_path))
    assert found.best is not None
    assert found.best.candidate.name == truth
    assert {row.candidate.color for row in found.possible} == {truth.split()[1]}
    assert Preprocess.parse(found.text).apply(tmp_path / "0.png", InputSpec("NCHW", 3, SIDE, SIDE))[0].mean(
        axis=(0, 2, 3)
    ) == pytest.approx(by_hand(truth, tmp_path / "0.png"), rel=0.05)


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


@pytest.mark.parametrize("truth", USUAL)
def test_without_labels_nothing_is_named(truth, tmp_path):
    found = diagnose(nearest(truth), bare(coloured(tmp_path)))
    assert truth in names(found)
    assert len(found.possible) > 1
    assert found.best is None
    assert found.text == ""


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
