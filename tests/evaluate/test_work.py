"""What a row says where the data is not of one piece: classes that overlap, boxes of some classes alone, boxes outside.

The model's logits are the means of red, green and blue, the map of a class is its colour, and boxes lie on patches.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small import maps_and_head, saved

from onnxcam.evaluate import evaluate, faithfulness
from onnxcam.evaluate.classes import Answers
from onnxcam.evaluate.run import Evaluation
from onnxcam.image import save_image

pytestmark = pytest.mark.anyruntime

META = {"onnxcam/labels": '["red", "green", "blue"]', "onnxcam/preprocess": '{"name": "unit"}'}
PLAIN = {"workers": 1, "threads": 1}
RED, GREEN = "2 2 12 12", "26 26 38 38"


@pytest.fixture
def model(tmp_path) -> Path:
    kernel = np.eye(3, dtype=np.float32)[:, :, None, None]
    return saved(
        tmp_path / "m.onnx",
        maps_and_head(classes=3, side=40),
        META,
        w=kernel,
        head=np.eye(3, dtype=np.float32),
        bias=np.zeros(3, np.float32),
    )


@pytest.fixture
def data(tmp_path):
    """Two pictures: red at the upper left, and a weaker green at the lower right."""
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[2:12, 2:12, 0] = 255
    picture[26:38, 26:38, 1] = 150
    for k in range(2):
        save_image(tmp_path / f"{k}.png", picture)

    def table(*lines: str) -> Path:
        path = tmp_path / "t.csv"
        path.write_text("\n".join(["path,truth,box", *lines]))
        return path

    return table


def rows(model: Path, table: Path, metrics: list[str], method: str = "gradcam", **options) -> list[dict]:
    with Evaluation(model, table, ["gradcam"], metrics, **PLAIN, **options) as job:
        return [r for group in job for r in group if r["method"] in (method, None)]


def test_a_class_of_the_model_may_be_several_of_the_data(model, data, tmp_path):
    """Red is a dog and a pet: right as either, and boxed as either."""
    (tmp_path / "c.csv").write_text("dog,red\npet,red,green\nfish,blue\n")
    table = data(f"0.png,dog,{RED}", f"1.png,pet,{RED}", f"1.png,fish,{GREEN}")
    found = rows(model, table, ["localisation_top1"], classes=tmp_path / "c.csv")
    assert [(r["truth"], r["explained"], r["correct"], r["values"]["localisation_top1"]) for r in found] == [
        ("dog", 0, True, 0), ("pet", 0, True, 0), ("fish", 2, True, None),
    ]  # fmt: skip
    with Evaluation(model, table, ["gradcam"], ["energy"], classes=tmp_path / "c.csv", **PLAIN) as job:
        assert len(list(job)) == 3
        assert job.results().accuracy == 1.0


def test_answers_by_hand():
    answers = Answers({"dog": (0, 1), "pet": (1, 2), "fish": (4,)}, "truth")
    logits = np.array([0.0, 3.0, 3.0, 9.0, 1.0])
    assert [answers.explained(t, logits) for t in ("dog", "pet", "fish", "stone", None)] == [1, 1, 4, 3, 3]
    assert Answers(answers.classes, "predicted").explained("dog", logits) == 3
    assert [answers.right(k, {"pet"}) for k in range(5)] == [False, True, True, False, False]
    same = {(a, b) for a in range(5) for b in range(a, 5) if answers.same(a, b)}
    assert same == {(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (0, 1), (1, 2)}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_class_without_a_box_takes_nothing_from_the_others(model, data, order):
    """Wherever it stands: the picture's measures are taken on the sample that has what they need."""
    lines = ["0.png,blue,", f"0.png,green,{GREEN}"]
    found = rows(model, data(*(lines[k] for k in order)), ["localisation_top5", "pointing_recall", "energy"])
    told = {r["truth"]: r["values"] for r in found}
    assert told["blue"] == {"localisation_top5": None, "pointing_recall": None, "energy": None}
    assert told["green"]["localisation_top5"] == 0
    assert told["green"]["energy"] == 1
    # red is not there, green is and is met; of blue nobody knows where it is
    assert [triple[1:] for triple in told["green"]["pointing_recall"]] == [[0, 0], [1, 1]]


def test_a_box_outside_of_the_picture_is_an_error_of_its_own_class(model, data):
    """Red is there for all that: the answer stays right, and the picture's error is taken on what is left."""
    found = rows(model, data("0.png,red,90 90 99 99", f"0.png,green,{GREEN}"), ["localisation_top5", "energy"])
    assert "90 90 99 99 of 'red' lies outside" in found[0]["error"]
    assert (found[1]["truth"], found[1]["correct"]) == ("green", True)
    assert found[1]["values"] == {"localisation_top5": 0, "energy": 1}


def test_a_box_between_the_centres_of_pixels_is_the_pixels_that_it_touches(model, data):
    """Two rows of four of the hundred red pixels, all alike."""
    found = rows(model, data("0.png,red,4.6 6.6 7.4 7.4"), ["pointing_game", "energy"])
    assert found[0]["values"]["pointing_game"] == 1
    assert found[0]["values"]["energy"] == pytest.approx(2 * 4 / 100)


def test_sensitivity_of_an_exact_attribution_is_1(tmp_path, monkeypatch):
    """Of a linear model input times gradient is what each pixel adds, sign and all; the gradient alone is not."""
    body = """(float[N,3,42,28] image) => (float[N,2] logits) {
        flat = Flatten(image)
        logits = MatMul(flat, w)
    }"""
    model = saved(tmp_path / "m.onnx", body, {"onnxcam/preprocess": '{"name": "unit"}'}, w=(3 * 42 * 28, 2))
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    for k in range(2):
        save_image(tmp_path / "data" / f"{k}.png", rng.integers(0, 255, (42, 28, 3)).astype(np.uint8))
    asked, own = [], faithfulness.sensitivity_n
    monkeypatch.setattr(faithfulness, "sensitivity_n", lambda *a, **k: asked.append((a[3], k["cell"])) or own(*a, **k))
    found = evaluate(model, tmp_path / "data", ["input_x_gradient", "saliency"], ["sensitivity_n"], **PLAIN)
    exact, other, noise = (found.table[n]["sensitivity_n"].estimate for n in ("input_x_gradient", "saliency", "random"))
    assert (exact.value, exact.low, exact.count) == (pytest.approx(1, abs=1e-4), pytest.approx(1, abs=1e-4), 2)
    assert other.value < 0.9
    assert abs(noise.value) < 0.5
    assert set(asked) == {(3, 2), (29, 2), (147, 2)}  # of 21 x 14 squares of two pixels
