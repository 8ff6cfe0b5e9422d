"""Which box is explained, by replicas in loops; its score and gradient, by differences."""

from __future__ import annotations

from types import SimpleNamespace

import detectors
import numpy as np
import onnx
import pytest
from small import outputs, picture, saved, slope_holds

from onnxcam import Explainer
from onnxcam.errors import GradientError, ModelError, OptionError
from onnxcam.graph.detector import Detector
from onnxcam.graph.inspect import find_logits, target_layers
from onnxcam.graph.surgery import cut, expose
from onnxcam.model import load_model
from onnxcam.runtime import Session
from onnxcam.targets import Box, Logit
from onnxcam.targets.boxes import decoded

FORMS = {
    "yolox": detectors.yolox,
    "yolov8": detectors.yolov8,
    "yolov5": detectors.yolov5,
    "ssd": detectors.ssd,
    "nms": detectors.suppressed,
}


def class_scores(form, found):
    """(80, 3): what each box scores for each class, and what the explained score is, in plain loops."""
    if form == "nms":
        return None
    out = found[0][0] if form != "yolov8" else found[0][0].T
    if form == "ssd":
        return out
    return out[:, 4:] if form == "yolov8" else np.array([[row[4] * c for c in row[5:]] for row in out])


def corners(form, found):
    """x0, y0, x1, y1 of each box in pixels of the input."""
    boxes = []
    for k, (column, row, stride) in enumerate(detectors.cells().T):
        if form == "ssd":
            boxes.append(found[1][0][k] * 16)
            continue
        given = found[0][0][k] if form != "yolov8" else found[0][0][:, k]
        x, y, w, h = given[:4]
        if form == "yolox":
            x, y, w, h = (x + column) * stride, (y + row) * stride, np.exp(w) * stride, np.exp(h) * stride
        boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return np.array(boxes)


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    return request.param


@pytest.fixture(scope="module")
def ex(form, tmp_path_factory):
    return Explainer(FORMS[form](tmp_path_factory.mktemp("m")), preprocess="unit")


@pytest.fixture(scope="module")
def plain(form, ex):
    """Scores and corners of every box of the test picture; of the suppressed form those of its inner values."""
    if form == "nms":
        box, scores = ex.programs.peek(["box", "ks"], {"x": picture()})
        x, y, w, h = box[0].astype(np.float64)
        return scores[0].T.astype(np.float64), np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    found = outputs(ex, picture())
    return class_scores(form, found), corners(form, found)


def told(e):
    return e.provenance["box"]


def foreground(form, scores):
    return scores[:, 1:] if form == "ssd" else scores


def test_the_best_box_is_explained(form, ex, plain):
    scores, boxes = plain
    rated = foreground(form, scores)
    row, column = np.unravel_index(np.argmax(rated), rated.shape)
    (e,) = ex.explain_tensor(picture())
    assert (told(e)["index"], e.class_index) == (row, column + (form == "ssd"))
    assert told(e)["score"] == pytest.approx(scores[row, e.class_index], rel=1e-4)
    np.testing.assert_allclose(told(e)["xyxy"], np.clip(boxes[row], 0, 16), atol=0.051)


@pytest.mark.parametrize("c", [0, 1, 2])
def test_the_best_box_of_a_class_is_explained(ex, plain, c):
    (e,) = ex.explain_tensor(picture(), f"box:{c}")
    assert (told(e)["index"], e.class_index) == (int(np.argmax(plain[0][:, c])), c)
    assert ex.explain_tensor(picture(), c)[0].target == e.target


@pytest.mark.parametrize("point", [(2.5, 3), (12, 12.5), (9, 4)])
def test_of_the_boxes_that_hold_a_point_the_best_is_explained(ex, plain, point):
    scores, boxes = plain
    inside = [k for k, (x0, y0, x1, y1) in enumerate(boxes) if x0 <= point[0] <= x1 and y0 <= point[1] <= y1]
    assert inside
    (e,) = ex.explain_tensor(picture(), "box:1@{},{}".format(*point))
    assert told(e)["index"] == max(inside, key=lambda k: scores[k, 1])


def test_no_scores_at_all_are_the_files_fault(monkeypatch, ex):
    """As of a damaged file that keeps no row of the batch."""
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda *given, **named: [a[:0] for a in run(*given, **named)])
    with pytest.raises(ModelError, match=r"gives no scores for a picture: .* is empty"):
        ex.explain_tensor(picture(), Box())


def test_away_from_all_boxes_the_nearest_likely_one_is_explained(tmp_path):
    """Two boxes of one class, the nearer one scores a little less; a third, nearer still, scores next to nothing."""
    rows = np.float32([[4, 4, 2, 2, 0.9], [9, 9, 2, 2, 0.6], [14, 14, 2, 2, 0.1], *[[1, 1, 1, 1, 0.0]] * 5])[None]
    body = """(float[1,3,16,16] x) => (float[1,8,5] out) {
        a = Conv (x, w)
        m = ReduceMean <keepdims=0> (a)
        z = Mul (m, zero)
        out = Add (rows, z)
    }"""
    more = {"rows": rows, "zero": np.float32(0)}
    path = saved(tmp_path / "m.onnx", body, {"names": "['thing']"}, w=(2, 3, 1, 1), **more)
    ex = Explainer(path, preprocess="unit", method="saliency")
    assert ex.logits.detector.box_axis == 1
    assert told(ex.explain_tensor(picture(), "box:0@15.5,15.5")[0])["index"] == 1
    assert told(ex.explain_tensor(picture(), "box:0@14,14")[0])["index"] == 2  # inside it


@pytest.mark.parametrize("form", ["yolox", "yolov8", "yolov5", "ssd"], indirect=True)
@pytest.mark.parametrize(("row", "layer"), [(3, "h1"), (63, "h1"), (64, "h2"), (79, "h2")])
def test_the_layer_is_the_level_that_the_box_came_from(ex, row, layer):
    (e,) = ex.explain_tensor(picture(), Box(2, index=row))
    assert e.layer == layer
    assert "level that the explained box came from, of 2" in e.maps[0].reason


@pytest.mark.parametrize(("row", "layer"), [(3, "f1"), (63, "f1"), (64, "f2"), (79, "f2")])
def test_of_levels_that_are_made_of_each_other_the_boxs_own_is_taken(tmp_path, row, layer):
    ex = Explainer(detectors.chained(tmp_path), preprocess="unit")
    assert ex.explain_tensor(picture(), Box(2, index=row))[0].layer == layer


def test_a_named_layer_is_kept(tmp_path):
    (e,) = Explainer(detectors.yolox(tmp_path), preprocess="unit", target_layer="h1").explain_tensor(
        picture(), "box:#70"
    )
    assert e.layer == "h1"
    assert e.is_blank  # box 70 is of the other level


def test_score_and_gradient_are_those_of_the_box(form, tmp_path):
    ex = Explainer(FORMS[form](tmp_path), preprocess="unit", method="saliency")
    (e,) = ex.explain_tensor(picture(), "box:2")
    row = told(e)["index"]
    inner = SimpleNamespace(model=expose(ex.model, ["z" if form == "ssd" else "ks" if form == "nms" else "k1"]))

    def f(x):
        found = outputs(inner, x)
        if form == "nms":
            return found[-1][0, 2, row]
        return found[-1][0, row, 2] if form == "ssd" else class_scores(form, found)[row][2]

    assert e.score == pytest.approx(f(picture()), rel=1e-4)
    slope_holds(e, f, picture())


def test_points_are_in_pixels_of_the_picture(tmp_path):
    """A picture of 32 x 24 in a letterbox of 16 x 16: scale 1/2, two rows of margin above."""
    ex = Explainer(detectors.yolov8(tmp_path), preprocess="unit,fit=letterbox")
    image = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    x, _ = ex.preprocess.apply(image, ex.spec)
    found = outputs(ex, x)
    boxes, scores = corners("yolov8", found), class_scores("yolov8", found)
    point = (20.0, 6.0)
    x, y = point[0] / 2, point[1] / 2 + 2
    inside = [k for k, (x0, y0, x1, y1) in enumerate(boxes) if x0 <= x <= x1 and y0 <= y <= y1]
    e = ex.explain(image, "box:0@20,6")
    row = told(e)["index"]
    assert row == max(inside, key=lambda k: scores[k, 0])
    want = (boxes[row] - [0, 2, 0, 2]) * 2
    np.testing.assert_allclose(told(e)["xyxy"], np.clip(want, 0, [32, 24, 32, 24]), atol=0.051)
    with pytest.raises(OptionError, match="outside the picture, which is 32 x 24"):
        ex.explain(image, "box:0@33,6")
    cropped = Explainer(ex.model, preprocess="unit,fit=crop,crop_ratio=1")
    with pytest.raises(OptionError, match="cut off by the crop"):
        cropped.explain(image, "box:0@1,6")


def test_another_box_needs_no_other_graph(tmp_path):
    ex = Explainer(detectors.yolox(tmp_path), preprocess="unit", method="saliency")
    for target in (None, 0, "box:#5", "box:1@3,3", Box(2, index=70)):
        ex.explain_tensor(picture(), target)
    assert len(ex.programs.built) == 1


def test_each_picture_of_a_batch_has_its_own_box(tmp_path):
    ex = Explainer(detectors.yolox(tmp_path), preprocess="unit")
    images = [np.random.default_rng(s).integers(0, 256, (16, 16, 3), dtype=np.uint8) for s in range(3)]
    images[1][:8], images[2][:, 8:] = 0, 255
    together, alone = ex.explain_batch(images), [ex.explain(i) for i in images]
    assert [told(e) for e in together] == [told(e) for e in alone]
    assert len({told(e)["index"] for e in alone}) > 1
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a.cam, b.cam)


def test_what_is_selected_is_counted_as_the_graph_selects_it(tmp_path):
    ex = Explainer(detectors.suppressed(tmp_path), preprocess="unit")
    (chosen,) = ex.programs.peek(["chosen"], {"x": picture()})
    for k, (_, c, row) in enumerate(chosen):
        (e,) = ex.explain_tensor(picture(), f"box:#{k}")
        assert (e.class_index, told(e)["index"]) == (c, row)
    with pytest.raises(OptionError, match=f"boxes are selected, numbered 0 to {len(chosen) - 1}"):
        ex.explain_tensor(picture(), f"box:#{len(chosen)}")


def test_boxes_that_are_suppressed_whatever_their_class_do_not_tell_it(tmp_path):
    ex = Explainer(detectors.suppressed(tmp_path, together=True), preprocess="unit")
    kc, km = ex.programs.peek(["kc", "km"], {"x": picture()})
    (e,) = ex.explain_tensor(picture())
    assert told(e)["index"] == int(np.argmax(km[0, 0]))
    assert e.score == pytest.approx(kc.max(), rel=1e-5)
    assert any("does not tell the class" in n for n in e.notes)


def test_a_method_of_many_runs_asks_about_the_same_box(tmp_path):
    ex = Explainer(detectors.yolox(tmp_path), preprocess="unit", method="occlusion", options={"window": 8, "stride": 8})
    (e,) = ex.explain_tensor(picture(), "box:#10")
    scores = class_scores("yolox", outputs(ex, picture()))
    assert e.score == pytest.approx(scores[10].max(), rel=1e-4)
    assert told(e)["index"] == 10
    assert np.ptp(e.cam) > 0


@pytest.mark.parametrize(
    ("target", "say"),
    [
        ("box:#80", "boxes are 0 to 79"),
        (Box(index=-1), "boxes are 0 to 79"),
        ("box:3", "0 to 2"),
        ("box:@17,3", "outside the picture"),
        ("2@-1,3", "outside the picture"),
    ],
)
def test_boxes_that_are_not_there_are_refused(tmp_path, target, say):
    with pytest.raises(OptionError, match=say):
        Explainer(detectors.yolox(tmp_path), preprocess="unit").explain_tensor(picture(), target)


def test_a_class_of_the_whole_picture_is_refused_with_what_to_take(tmp_path):
    with pytest.raises(GradientError, match=r"Take the target Box \(box:CLASS\)"):
        Explainer(detectors.yolox(tmp_path), preprocess="unit").explain_tensor(picture(), Logit((1,)))


def test_coordinates_that_cannot_be_decoded_allow_classes_but_no_points(tmp_path):
    body = """(float[1,3,8,8] x) => (float[1,64,3] scores, float[1,64,4] boxes) {
        c = Conv (x, w)
        r = Conv (x, v)
        k = Constant <value_ints=[1,3,-1]> ()
        cf = Reshape (c, k)
        scores = Transpose <perm=[0,2,1]> (cf)
        m = Constant <value_ints=[1,4,-1]> ()
        rf = Reshape (r, m)
        boxes = Transpose <perm=[0,2,1]> (rf)
    }"""
    ex = Explainer(
        saved(tmp_path / "m.onnx", body, w=(3, 3, 1, 1), v=(4, 3, 1, 1)), preprocess="unit", method="saliency"
    )
    (e,) = ex.explain_tensor(picture(size=8), "box:1")
    assert "xyxy" not in told(e)
    assert "anchors are not in the graph" in told(e)["reason"]
    with pytest.raises(OptionError, match="cannot be decoded"):
        ex.explain_tensor(picture(size=8), "box:1@3,3")


def test_a_box_that_hardly_scores_is_flagged(tmp_path):
    ex = Explainer(detectors.yolox(tmp_path), preprocess="unit")
    scores = class_scores("yolox", outputs(ex, picture()))
    row, c = map(int, np.unravel_index(np.argmin(scores), scores.shape))
    assert scores[row, c] < 0.1
    (e,) = ex.explain_tensor(picture(), Box(c, index=row))
    assert any("hardly sees this class" in n for n in e.notes)
    assert not any("hardly" in n for n in ex.explain_tensor(picture())[0].notes)


def test_the_background_is_never_the_best_box_and_flagged_when_asked_for(tmp_path):
    ex = Explainer(detectors.ssd(tmp_path), preprocess="unit")
    scores = outputs(ex, picture())[0][0]
    assert (scores[:, 0] > 0.5).mean() > 0.5
    assert ex.explain_tensor(picture())[0].class_index != 0
    assert any("background" in n for n in ex.explain_tensor(picture(), "box:0")[0].notes)


@pytest.mark.parametrize(("names", "objectness"), [("['a', 'b', 'c']", None), ("{0: 'a', 1: 'b'}", 4)])
def test_names_in_the_metadata_settle_whether_there_is_objectness(tmp_path, names, objectness):
    model = load_model(detectors.yolov8(tmp_path, {"names": names}))
    detector = find_logits(model).detector
    assert detector.objectness == objectness
    assert "names in the metadata" in detector.reason


def test_levels_are_those_of_the_classes_even_where_coordinates_have_more_channels(tmp_path):
    model = load_model(detectors.yolov8(tmp_path))
    producers = {n.outputs[0].name: n for n in model.graph}
    found = target_layers(model, find_logits(model))
    assert [layer.name for layer in found] == ["h2", "h1"]
    assert [producers[f"k{k}"].inputs[0].name for k in (2, 1)] == ["h2", "h1"]


def test_coordinates_alone_are_refused(tmp_path):
    with pytest.raises(OptionError, match="too few columns per box for coordinates and classes"):
        Explainer(detectors.ssd(tmp_path), preprocess="unit", output="boxes").explain_tensor(picture())


def plan(**settings):
    return Detector("pair", "s", "b", 1, **settings)


@pytest.mark.parametrize(
    ("coding", "given", "want"),
    [
        ("center", [[8, 6, 4, 2]], [[6, 5, 10, 7]]),
        ("corners", [[6, 5, 10, 7]], [[6, 5, 10, 7]]),
        ("rows", [[5, 6, 7, 10]], [[6, 5, 10, 7]]),
        ("rows", [[0.5, 0.25, 1, 0.5]], [[8, 10, 16, 20]]),  # shares of an input 20 high and 32 wide
        ("measured", [[0.25, 0.5, 0.5, 1]], [[8, 10, 16, 20]]),
        ("measured", [[0.25, 0.5, 0.5, 1], [0.9, 0.9, 0.2, 0.2]], [[0, 0, 16, 20], [25.6, 16, 32, 20]]),
        ("measured", [[6, 5, 10, 7]], [[6, 5, 10, 7]]),
    ],
)
def test_coordinates_of_every_coding_become_corners_in_pixels(coding, given, want):
    found = decoded(plan(coding=coding), np.float32([given]), (20, 32))
    np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.parametrize(
    ("producer", "centred", "coding"),
    [("pytorch", 0, "corners"), ("tf2onnx", 0, "rows"), ("", 0, "rows"), ("pytorch", 1, "center")],
)
def test_who_wrote_the_graph_tells_whether_x_comes_first(tmp_path, producer, centred, coding):
    path = detectors.suppressed(tmp_path)
    proto = onnx.load(path)
    proto.producer_name = producer
    node = next(n for n in proto.graph.node if n.op_type == "NonMaxSuppression")
    node.attribute[0].i = centred
    onnx.save(proto, path)
    assert find_logits(load_model(path)).detector.coding == coding


def test_a_list_of_selected_boxes_is_scored_by_its_fifth_column(tmp_path):
    """(1, N, 6): corners, score and class, as detectors without suppression give it."""
    ex = Explainer(detectors.listed(tmp_path), preprocess="unit", method="saliency")
    assert ex.logits.detector.form == "listed"
    (rows,) = Session(ex.model).run({"x": picture()})[0]
    best = int(np.argmax(rows[:, 4]))
    (e,) = ex.explain_tensor(picture())
    assert (told(e)["index"], e.class_index) == (best, int(rows[best, 5]))
    assert e.score == pytest.approx(rows[best, 4], rel=1e-5)
    np.testing.assert_allclose(told(e)["xyxy"], np.clip(rows[best, :4], 0, 16), atol=0.051)
    inner = SimpleNamespace(model=cut(ex.model, ["x"], ["best"]))
    slope_holds(e, lambda x: np.sort(outputs(inner, x)[0][0])[-1 - best], picture())
    (other,) = ex.explain_tensor(picture(), "box:#3")
    slope_holds(other, lambda x: np.sort(outputs(inner, x)[0][0])[-4], picture())
