"""What else than the top class an exported model explains, of classifiers, segmenters, detectors, models of words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import answers

from onnxcam import Explainer
from onnxcam.errors import OptionError
from onnxcam.export import Form
from onnxcam.image import read_image
from onnxcam.targets import Custom
from onnxcam.zoo import samples


def scenes(n: int) -> Any:
    """(n, 3, 112, 112) float32 in [0, 1]."""
    seen = [read_image(p)[::2, ::2] for p in samples("shapes-cnn")[:n]]
    return np.ascontiguousarray(np.stack(seen).transpose(0, 3, 1, 2).astype(np.float32) / 255)


@pytest.mark.parametrize(
    "target",
    [
        "probability:star", "logprob:star", "rest:star", "margin:star,heart", "sum:1,3,4", "finer:star",
        "finer:star,heart,arrow", "element:3",
    ],
)  # fmt: skip
def test_scores_of_a_classifier_that_name_their_classes(tmp_path, target):
    ex, path, x = Explainer("zoo:shapes-cnn"), tmp_path / "m.onnx", scenes(2)
    ex.export(path, target)
    want = [ex.explain_tensor(one[None], target)[0] for one in x]
    found = answers(path, image=x)
    assert any(e.heatmap.any() for e in want)
    np.testing.assert_allclose(found["heatmap"], np.stack([e.heatmap for e in want]), atol=1e-4)
    if target == "element:3":
        assert "class_index" not in found
    else:
        assert found["class_index"].tolist() == [e.class_index for e in want] == [1 if "sum" in target else 3] * 2


@pytest.mark.parametrize(("target", "named"), [("probability", "probability:1"), ("margin:-1,heart", "margin:1,heart")])
def test_a_score_that_leaves_the_class_open(tmp_path, target, named):
    """It is fed, -1 for the top one."""
    ex, path, x = Explainer("zoo:shapes-cnn"), tmp_path / "m.onnx", scenes(2)
    ex.export(path, target)
    found = answers(path, image=x, **{"onnxcam/class": np.asarray([-1, 1])})["heatmap"]
    want = [ex.explain_tensor(x[:1], target)[0], ex.explain_tensor(x[1:], named)[0]]
    assert want[0].heatmap.any()
    np.testing.assert_allclose(found, np.stack([e.heatmap for e in want]), atol=1e-4)


def test_a_segmenters_classes(tmp_path):
    ex, path, x = Explainer("zoo:shapes-unet"), tmp_path / "m.onnx", scenes(2)
    ex.export(path)
    for c in (2, 4):
        found = answers(path, image=x, **{"onnxcam/class": np.asarray([-1, c])})["heatmap"]
        want = [ex.explain_tensor(x[:1])[0], ex.explain_tensor(x[1:], c)[0]]
        np.testing.assert_allclose(found, np.stack([e.heatmap for e in want]), atol=1e-4)
    ex.export(path, "margin:3,0", force=True)
    want = [ex.explain_tensor(one[None], "margin:3,0")[0] for one in x]
    np.testing.assert_allclose(answers(path, image=x)["heatmap"], np.stack([e.heatmap for e in want]), atol=1e-4)


def test_a_detectors_best_box_of_a_class(tmp_path):
    """As an expression, which is what the message says: the map is that of the box which `box:CLASS` finds."""
    ex, path, x = Explainer("zoo:shapes-detector"), tmp_path / "m.onnx", scenes(4)
    with pytest.raises(OptionError) as refused:
        ex.export(path, "box:3")
    assert not path.exists()
    written = str(refused.value).partition("Custom(")[2].partition("), or another")[0].replace("CLASS", "3")
    ex.export(path, Custom(eval(written)), form=Form(boxes=True))
    lit = 0
    for one in x:
        found = answers(path, image=one[None])
        (want,) = ex.explain_tensor(one[None], "box:3")
        lit += bool(want.heatmap.any())
        np.testing.assert_allclose(found["heatmap"][0], want.heatmap, atol=1e-4)
        (box,) = want.boxes()
        assert found["onnxcam/boxes"].tolist() == [[box.x0, box.y0, box.x1, box.y1]]
        assert found["boxes"].shape[1] == 4
    assert lit == 4


def test_further_inputs_of_a_model_stay_inputs(tmp_path):
    ex, path, x = Explainer("zoo:shapes-vqa"), tmp_path / "m.onnx", scenes(2)
    question = np.asarray([[5, 6, 3, 17], [5, 6, 3, 14]])
    ex.export(path)
    found = answers(path, image=x, question=question, **{"onnxcam/class": np.asarray([-1, 0])})["heatmap"]
    want = [ex.explain_tensor(x[:1], None, {"question": question[:1]})[0]]
    want += ex.explain_tensor(x[1:], 0, {"question": question[1:]})
    assert want[0].heatmap.any()
    np.testing.assert_allclose(found, np.stack([e.heatmap for e in want]), atol=1e-4)


@pytest.mark.parametrize(
    ("model", "target", "message"),
    [
        (
            "shapes-detector",
            None,
            r"the default target of this model is decided by looking .*xp.max\(out\['all_scores'\]",
        ),
        ("shapes-detector", 3, "the target 3 is decided by looking"),
        ("shapes-caption", None, "element:STEP,WORD"),
        ("shapes-unet", "star@5,5", "give a class, or a score of classes"),
        ("shapes-cnn", "similar:model_zoo/samples/scene-1.png", "give a class, or a score of classes"),
    ],
)
def test_what_is_settled_by_a_look_at_the_image_is_refused_with_what_there_is_instead(tmp_path, model, target, message):
    with pytest.raises(OptionError, match=message):
        Explainer(f"zoo:{model}").export(tmp_path / "m.onnx", target)
    assert not list(tmp_path.iterdir())
