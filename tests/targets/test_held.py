"""Methods that change the image explain one and the same score throughout: what the image decides is decided once."""

from __future__ import annotations

import detectors
import numpy as np
import pytest
from builders import classifier, write
from small import outputs, picture, saved

from onnxcam import Explainer
from onnxcam.errors import OptionError
from onnxcam.targets import Finer

BODY = """(float[N,3,16,16] x) => (float[N,{out}] z) {{
    a = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w)
    r = Relu (a)
    {last}
}}"""
WEIGHTS = {"w": (6, 3, 3, 3), "v": (4, 6, 1, 1)}
FORMS = {
    "nchw": ("4,8,8", "z = Conv (r, v)"),
    "nhwc": ("8,8,4", "c = Conv (r, v)\n z = Transpose <perm=[0,2,3,1]> (c)"),
}
BLOCKS = {"window": 4, "stride": 4, "fill": "zero"}


def softmax(z):
    raised = np.exp(z - z.max())
    return raised / raised.sum()


def by_occlusion(score, x):
    """Zero each block of 4 x 4 in turn, in plain loops."""
    found = np.zeros(x.shape[2:])
    for i in range(0, x.shape[2], 4):
        for j in range(0, x.shape[3], 4):
            hidden = x.copy()
            hidden[..., i : i + 4, j : j + 4] = 0
            found[i : i + 4, j : j + 4] = score(x) - score(hidden)
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", ["logit:2", "probability:2"])
def test_of_a_segmentation_the_pixels_that_the_class_wins_stay(tmp_path, form, target):
    out, last = FORMS[form]
    path = saved(tmp_path / "m.onnx", BODY.format(out=out, last=last), **WEIGHTS)
    ex = Explainer(path, preprocess="unit", method="occlusion", options=BLOCKS)
    x = picture()

    def logits(at):
        z = outputs(ex, at)[0][0]
        return z if form == "nchw" else np.moveaxis(z, 2, 0)

    own = logits(x)[2] == logits(x).max(axis=0)
    assert 0 < own.sum() < own.size

    def score(at):
        rows = np.array([z[own].mean() for z in logits(at)])
        return softmax(rows)[2] if target.startswith("prob") else rows[2]

    (e,) = ex.explain_tensor(x, target)
    assert e.score == pytest.approx(score(x), rel=1e-5)
    np.testing.assert_allclose(e.cam, by_occlusion(score, x), atol=1e-5)


def test_finer_keeps_the_classes_that_were_most_like_it(tmp_path):
    path = write(tmp_path / "m.onnx", classifier(classes=6))
    ex = Explainer(path, preprocess="unit", method="occlusion", options=BLOCKS)
    x = picture(size=12)
    z = outputs(ex, x)[0][0]
    others = sorted((abs(z[d] - z[2]), d) for d in range(6) if d != 2)[:2]

    def score(at):
        return outputs(ex, at)[0][0][2] - 0.6 * np.mean([outputs(ex, at)[0][0][d] for _, d in others])

    (e,) = ex.explain_tensor(x, Finer((2,), references=2))
    np.testing.assert_allclose(e.cam, by_occlusion(score, x), atol=1e-5)


def test_a_list_that_is_sorted_anew_for_every_image_is_refused(tmp_path):
    path = detectors.listed(tmp_path)
    with pytest.raises(OptionError, match=r"sorted list.*hirescam"):
        Explainer(path, method="rise", budget=4).explain_tensor(_image(path), "box")
    Explainer(path, method="hirescam").explain_tensor(_image(path), "box")


def _image(path):
    image = Explainer(path, method="saliency").model.image_input
    return np.random.default_rng(0).random((1, image.channels, image.height, image.width), dtype=np.float32)


def test_of_one_number_its_value_is_explained_not_its_softmax(tmp_path):
    path = write(tmp_path / "m.onnx", classifier(classes=1))
    ex = Explainer(path, preprocess="unit", method="occlusion", options=BLOCKS)
    x = picture(size=12)
    (e,) = ex.explain_tensor(x)
    assert e.target == "logit of class 0"
    np.testing.assert_allclose(e.cam, by_occlusion(lambda at: outputs(ex, at)[0][0][0], x), atol=1e-5)
    assert np.ptp(e.cam) > 1e-3
