"""Explaining functions: what they get, what they may answer, and what the record says."""

from __future__ import annotations

import numpy as np
import pytest

from onnxcam import BlackBox, Explainer, Explanation, Preprocess
from onnxcam.errors import ImageError, ModelError, OptionError, UnknownNameError
from onnxcam.image import InputSpec, read_image, save_image
from onnxcam.runtime import Session
from onnxcam.zoo import samples

pytestmark = pytest.mark.anyruntime
LABELS = ["red corner", "blue corner", "bright"]
GRID = {"segments": "grid:4", "fill": "zero", "samples": 64}


def corners(pictures):
    """How red the upper left quarter is, how blue the lower right one, and how bright it is everywhere."""
    p = pictures.astype(np.float64) / 255
    h, w = p.shape[1] // 2, p.shape[2] // 2
    return np.stack([p[:, :h, :w, 0].mean((1, 2)), p[:, h:, w:, 2].mean((1, 2)), p.mean((1, 2, 3))], axis=1)


@pytest.fixture
def picture():
    """40 x 60, red above on the left, bluer below on the right, else dark."""
    p = np.zeros((40, 60, 3), np.uint8)
    p[:20, :30, 0], p[20:, 30:, 2] = 180, 240
    return p


@pytest.mark.parametrize("method", ["occlusion", "rise", "aise", "lime", "kernelshap", "feature_ablation"])
@pytest.mark.parametrize(("target", "where"), [("red corner", (0, 0)), (1, (1, 1)), (None, (1, 1))])
def test_the_map_lies_where_the_function_looks(picture, method, target, where):
    options = {k: v for k, v in GRID.items() if method in ("lime", "kernelshap", "feature_ablation")}
    if method == "feature_ablation":
        del options["samples"]
    budget = {"rise": 1000, "aise": 150}.get(method)
    box = BlackBox(corners, (40, 60), labels=LABELS, method=method, options=options, budget=budget)
    found = box.explain(picture, target)
    quarters = found.heatmap.reshape(2, 20, 2, 30).mean(axis=(1, 3))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == where
    assert quarters[where] > 1.3 * np.sort(quarters.ravel())[-2]
    assert not found.is_blank


def test_the_function_gets_pictures_of_its_size_a_batch_at_a_time(picture):
    seen = []

    def predict(pictures):
        seen.append((pictures.dtype, pictures.shape))
        return corners(pictures)

    BlackBox(predict, (20, 24), method="occlusion", batch=5).explain(picture, 0)
    assert {d for d, _ in seen} == {np.dtype(np.uint8)}
    assert {s[1:] for _, s in seen} == {(20, 24, 3)}
    assert max(s[0] for _, s in seen) == 5
    seen.clear()
    BlackBox(predict, method="occlusion").explain(picture, 0)
    assert {s[1:] for _, s in seen} == {(40, 60, 3)}


def test_the_function_gets_the_picture_itself_first(picture):
    seen = []
    BlackBox(lambda p: seen.append(p) or corners(p), method="occlusion").explain(picture, 0)
    np.testing.assert_array_equal(seen[0], picture[None])
    np.testing.assert_array_equal(seen[1], picture[None])


def test_with_preprocessing_it_gets_what_a_model_would():
    path = samples("shapes-cnn")[0]
    seen = []

    def predict(x):
        seen.append(x)
        return x.mean((2, 3))

    box = BlackBox(predict, (24, 24), "imagenet", method="occlusion")
    found = box.explain(path, 0)
    x, placement = Preprocess.parse("imagenet").apply(path, InputSpec("NCHW", 3, 24, 24))
    np.testing.assert_array_equal(seen[0], x)
    assert (found.placement, found.preprocess, found.source) == (placement, Preprocess.parse("imagenet"), str(path))
    last = BlackBox(lambda x: x.mean((1, 2)), None, "imagenet", spec=InputSpec("NHWC", 3, 24, 24), method="occlusion")
    np.testing.assert_allclose(last.explain(path, 0).cam, found.cam, atol=1e-6)


def test_a_model_behind_a_function_gets_the_map_that_the_explainer_gives():
    path = samples("shapes-cnn")[0]
    model = Explainer("zoo:shapes-cnn", method="occlusion")
    expected = model.explain(path)
    session = Session(model.model)

    def probabilities(x):
        z = session.run({model.model.image_input.name: x}, [model.logits.name])[0].astype(np.float64)
        z = np.exp(z - z.max(axis=1, keepdims=True))
        return z / z.sum(axis=1, keepdims=True)

    box = BlackBox(probabilities, preprocess=model.preprocess, spec=model.spec, method="occlusion")
    found = box.explain(path)
    assert found.class_index == expected.class_index
    assert found.score == found.probability == pytest.approx(expected.score, abs=1e-6)
    assert np.ptp(expected.cam) > 0.01
    np.testing.assert_allclose(found.cam, expected.cam, atol=1e-5)


def test_the_record_tells_what_was_explained(picture, tmp_path):
    path = tmp_path / "corners.png"
    save_image(path, picture)
    found = BlackBox(corners, labels=LABELS, method="occlusion").explain(path)
    assert (found.class_index, found.label, found.method, found.engine) == (1, "blue corner", "occlusion", "")
    assert found.target == "score of blue corner (1)"
    assert found.score == pytest.approx(240 / 255)
    assert found.probability is None
    assert [t[:2] for t in found.top] == [(1, "blue corner"), (0, "red corner"), (2, "bright")]
    assert found.to_dict()["model"] == "corners"
    assert found.overlay(title=True).shape[1:] == (60, 3)
    files = found.save(tmp_path / "out")
    again = Explanation.load(files["record"])
    np.testing.assert_array_equal(again.heatmap, found.heatmap)
    assert again.target == found.target


def test_scores_that_add_up_to_one_are_probabilities(picture):
    def shares(pictures):
        rows = corners(pictures) + 0.1
        return rows / rows.sum(axis=1, keepdims=True)

    found = BlackBox(shares, method="occlusion").explain(picture, 0)
    assert found.probability == found.score == pytest.approx(shares(picture[None])[0, 0])


def test_a_margin_tells_why_one_class_and_not_another(picture):
    margin = BlackBox(corners, labels=LABELS, method="occlusion").explain(picture, "margin:red corner,1")
    assert margin.target == "margin of red corner (0) over blue corner (1)"
    assert margin.score == pytest.approx(180 / 255 - 240 / 255)
    a, b = (BlackBox(corners, method="occlusion").explain(picture, c).cam for c in (0, 1))
    np.testing.assert_allclose(margin.cam, a - b, atol=1e-5)


def test_one_score_a_picture_is_one_class(picture):
    found = BlackBox(lambda p: corners(p)[:, 0], method="occlusion").explain(picture)
    expected = BlackBox(corners, method="occlusion").explain(picture, 0)
    np.testing.assert_array_equal(found.cam, expected.cam)
    with pytest.raises(OptionError, match="class 1 does not exist"):
        BlackBox(lambda p: corners(p)[:, 0], method="occlusion").explain(picture, 1)


def test_progress_is_told(picture):
    told = []
    BlackBox(corners, method="rise", budget=40, batch=16, progress=lambda *a: told.append(a)).explain(picture)
    assert told == [(16, 40), (32, 40), (40, 40)]


def test_grey_pictures_are_handed_over_in_the_functions_own_type(picture):
    seen = []

    def predict(x):
        seen.append(x)
        return x.reshape(len(x), -1).mean(axis=1)

    spec = InputSpec("NCHW", 1, 10, 15, np.int32)
    BlackBox(predict, spec=spec, method="occlusion").explain(picture)
    assert {(x.dtype, x.shape[1:]) for x in seen} == {(np.dtype(np.int32), (1, 10, 15))}
    assert np.all(seen[0][0, 0, :4, :7] == round(0.299 * 180))
    assert np.all(seen[0][0, 0, 6:, 8:] == round(0.114 * 240))


@pytest.mark.parametrize(("fill", "level"), [(99.7, 100), (300.0, 255), (-4.0, 0)])
def test_what_hides_is_rounded_to_grey_levels(picture, fill, level):
    seen = []

    def predict(x):
        seen.append(x)
        return x.mean((1, 2, 3))

    BlackBox(predict, method="occlusion", options={"fill": fill, "window": 5, "stride": 5}).explain(picture)
    assert seen[0].dtype == np.uint8
    assert np.all(seen[2][0, :5, :5] == level)


def test_a_float_function_of_unknown_preprocessing_is_flagged(picture):
    spec = InputSpec("NCHW", 3, 8, 12)
    found = BlackBox(lambda x: x.mean((2, 3)), spec=spec, method="occlusion").explain(picture)
    assert any("imagenet is assumed" in note for note in found.notes)


@pytest.mark.parametrize("method", ["gradcam", "saliency", "scorecam"])
def test_methods_that_need_more_than_scores_name_those_that_do_not(method):
    with pytest.raises(OptionError, match=r"scores alone.*occlusion, rise, aise"):
        BlackBox(corners, method=method)


@pytest.mark.parametrize(
    ("answer", "say"),
    [
        (lambda p: np.zeros((len(p) + 1, 3)), "for 1 pictures"),
        (lambda p: np.zeros((len(p), 3, 2)), r"\(1, classes\)"),
        (lambda p: np.zeros((len(p), 0)), r"\(1, 0\)"),
        (lambda p: [["a", "b"]] * len(p), r"<U1"),
        (lambda p: None, "object"),
        (lambda p: np.full((len(p), 3), np.nan), "NaN or infinite"),
        (lambda p: np.where(p[:, 0, 0, :1] == 0, np.nan, 1.0), "NaN or infinite"),
        (lambda p: np.zeros((len(p), 2 + (len(p) > 1))), "and 2 before"),
    ],
)
def test_answers_that_are_no_scores_are_refused(picture, answer, say):
    with pytest.raises(ModelError, match=say):
        BlackBox(answer, method="occlusion").explain(picture, 0)


@pytest.mark.parametrize("method", ["occlusion", "rise"])
def test_a_function_that_ignores_the_picture_gets_a_blank_map_that_says_so(picture, method):
    found = BlackBox(lambda p: np.full((len(p), 2), 0.999), method=method).explain(picture, 0)
    assert found.is_blank
    assert not np.any(found.cam)
    assert any("blank" in note for note in found.notes)


@pytest.mark.parametrize(
    ("arguments", "error", "say"),
    [
        ({"options": {"sample": 3}}, OptionError, "no option 'sample'"),
        ({"options": {"samples": "many"}}, OptionError, "samples='many': give a whole number, such as 2000"),
        ({"options": {"samples": 2.5}}, OptionError, "samples=2.5: give a whole number"),
        ({"options": {"keep": True}}, OptionError, "keep=True: give a number"),
        ({"options": {"seed": None}}, OptionError, "seed=None"),
        ({"budget": 0}, OptionError, "budget=0"),
        ({"method": "occlusion", "budget": 9}, OptionError, "no budget"),
        ({"method": "ris"}, UnknownNameError, "rise"),
        ({"batch": 0}, OptionError, "batch=0"),
        ({"normalize": "mean"}, UnknownNameError, "minmax"),
        ({"preprocess": "imagnet"}, UnknownNameError, "imagenet"),
        ({"size": (8, 8), "spec": InputSpec("NHWC", 3, 9, 9, np.uint8)}, OptionError, r"\(9, 9\)"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments, error, say):
    with pytest.raises(error, match=say):
        BlackBox(corners, **arguments)


@pytest.mark.parametrize(
    ("target", "error", "say"),
    [
        (3, OptionError, "classes 0 to 2"),
        ("green corner", UnknownNameError, "red corner"),
        ("probability:1", OptionError, "as they are"),
    ],
)
def test_targets_that_do_not_fit_are_refused(picture, target, error, say):
    with pytest.raises(error, match=say):
        BlackBox(corners, labels=LABELS, method="occlusion").explain(picture, target)


def test_segments_of_another_size_and_pictures_that_are_none_are_refused(picture):
    box = BlackBox(corners, method="lime", options={"segments": np.arange(12).reshape(3, 4)})
    with pytest.raises(OptionError, match=r"\(3, 4\).*40 x 60"):
        box.explain(picture)
    with pytest.raises(ImageError, match="no such file"):
        box.explain("nowhere.png")


def test_an_error_of_the_function_stays_its_own(picture):
    def broken(pictures):
        raise ZeroDivisionError("its own")

    with pytest.raises(ZeroDivisionError, match="its own"):
        BlackBox(broken).explain(picture)


def test_reading_a_picture_gives_the_same_as_the_array(picture, tmp_path):
    path = tmp_path / "p.png"
    save_image(path, picture)
    one, two = (BlackBox(corners, method="occlusion").explain(p) for p in (path, read_image(path)))
    np.testing.assert_array_equal(one.heatmap, two.heatmap)
