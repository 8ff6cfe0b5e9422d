from __future__ import annotations

import numpy as np
import pytest
from builders import classifier, write
from small import outputs, picture, slope_holds

from onnxcam import Explainer
from onnxcam.errors import OptionError
from onnxcam.targets import Finer


def softmax(z):
    raised = np.exp(z - z.max())
    return raised / raised.sum()


def finer(z, c, strength=0.6, references=3):
    """By sorting, in plain loops."""
    others = sorted((abs(z[d] - z[c]), d) for d in range(len(z)) if d != c)
    return z[c] - strength * np.mean([z[d] for _, d in others[:references]])


SCORES = {
    "2": lambda z: z[2],
    "logit:2": lambda z: z[2],
    "top1": lambda z: z.max(),
    "probability:2": lambda z: softmax(z)[2],
    "logprob:2": lambda z: np.log(softmax(z)[2]),
    "rest:2": lambda z: z[2] + np.log(softmax(z)[2]),
    "margin:1,5": lambda z: z[1] - z[5],
    "sum:1,4,0": lambda z: z[1] + z[4] + z[0],
    "finer:2": lambda z: finer(z, 2),
    "finer": lambda z: finer(z, int(z.argmax())),
    "finer:2,0,5": lambda z: z[2] - 0.6 * (z[0] + z[5]) / 2,
}


@pytest.fixture(scope="module")
def ex(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("m") / "m.onnx", classifier(classes=6))
    return Explainer(path, method="saliency")


@pytest.mark.parametrize("target", SCORES)
def test_score_and_gradient_are_those_of_the_formula(ex, target):
    x = picture(size=12)

    def f(at):
        return SCORES[target](outputs(ex, at)[0][0])

    (e,) = ex.explain_tensor(x, target)
    assert e.score == pytest.approx(f(x), rel=1e-5)
    slope_holds(e, f, x)


@pytest.mark.parametrize("target", [Finer((2,), strength=1.0, references=1), Finer((2,), strength=0.3, references=5)])
def test_finer_takes_its_strength_and_its_number_of_classes(ex, target):
    x = picture(size=12)
    (e,) = ex.explain_tensor(x, target)
    z = outputs(ex, x)[0][0]
    assert e.score == pytest.approx(finer(z, 2, target.strength, target.references), rel=1e-5)


def test_finer_takes_what_classes_there_are(tmp_path):
    ex = Explainer(write(tmp_path / "m.onnx", classifier(classes=2)), method="saliency")
    z = outputs(ex, picture(size=12))[0][0]
    assert ex.explain_tensor(picture(size=12), "finer:1")[0].score == pytest.approx(z[1] - 0.6 * z[0], rel=1e-5)
    one = Explainer(write(tmp_path / "one.onnx", classifier(classes=1)), method="saliency")
    with pytest.raises(OptionError, match="none that is like it"):
        one.explain_tensor(picture(size=12), "finer:0")


def test_each_picture_has_its_own_similar_classes(ex):
    x = np.concatenate([picture(size=12), 4 * picture(size=12, seed=5) - 2])
    found = ex.explain_tensor(x, "finer:2")
    want = [finer(z, 2) for z in outputs(ex, x)[0]]
    assert [e.score for e in found] == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("sum:1,4", "sum of the logits of class 1, class 4"),
        ("finer:2", "logit of class 2 less 0.6 x the mean of the 3 classes most like it"),
        ("finer:2,0", "logit of class 2 less 0.6 x the mean of class 0"),
    ],
)
def test_the_score_is_told_in_words(ex, target, words):
    assert ex.explain_tensor(picture(size=12), target)[0].target == words


@pytest.mark.parametrize(
    ("target", "say"),
    [
        ("sum:1,1", "different classes"),
        ("sum:1,6", "0 to 5"),
        ("finer:6", "0 to 5"),
        ("logit:1,2", "takes one class"),
        ("element", "needs places"),
        ("element:a", "whole number"),
        ("similar", "needs a reference"),
        ("box:2", "no boxes"),
        ("token:2", "no words"),
        ("tokens", "no words"),
        ("2@5,5", "no class per pixel"),
        ("box:#x", "whole number"),
        ("2@1.2.3,5", "no number"),
    ],
)
def test_targets_that_do_not_fit_are_refused(ex, target, say):
    with pytest.raises(OptionError, match=say):
        ex.explain_tensor(picture(size=12), target)


@pytest.mark.parametrize(
    ("target", "say"), [("probability:{}", "probability is saturated"), ("logprob:{}", "log-prob")]
)
def test_a_saturated_softmax_is_told_and_the_logit_named(tmp_path, target, say):
    proto = classifier(classes=4)
    for weight in proto.graph.initializer:
        if weight.name == "bd":
            weight.raw_data = np.array([0, 0, 90, 0], np.float32).tobytes()
    ex = Explainer(write(tmp_path / "sure.onnx", proto))
    (sure,) = ex.explain_tensor(picture(size=12), target.format(2))
    assert any(say in n and "logit:CLASS" in n for n in sure.notes)
    (plain,) = ex.explain_tensor(picture(size=12), "logit:2")
    assert not any("saturated" in n for n in plain.notes)
    unsure = Explainer(write(tmp_path / "unsure.onnx", classifier(classes=4)))
    assert not any("saturated" in n for n in unsure.explain_tensor(picture(size=12), target.format(2))[0].notes)


def test_finer_cam_is_grad_cam_less_its_similar_classes(tmp_path):
    """Grad-CAM is linear in the score, so that the map is a sum of the classes' own."""
    path = write(tmp_path / "m.onnx", classifier(classes=6))
    plain, x = Explainer(path), picture(size=12)
    z = outputs(plain, x)[0][0]
    near = sorted((abs(z[d] - z[2]), d) for d in range(6) if d != 2)[:3]
    cams = {d: plain.explain_tensor(x, d)[0].cam for d in (2, *(d for _, d in near))}
    want = cams[2] - 0.6 * np.mean([cams[d] for _, d in near], axis=0)
    (e,) = Explainer(path, method="finer_cam").explain_tensor(x, 2)
    np.testing.assert_allclose(e.cam, want, atol=1e-6 * np.abs(want).max())
    assert e.method == "finercam"
