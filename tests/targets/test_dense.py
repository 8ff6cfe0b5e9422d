from __future__ import annotations

import numpy as np
import pytest
from small import outputs, picture, saved, slope_holds

from onnxcam import Explainer
from onnxcam.errors import OptionError
from onnxcam.targets import Region

BODY = """(float[N,3,16,16] x) => (float[N,{out}] z) {{
    a = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w)
    r = Relu (a)
    {last}
}}"""
WEIGHTS = {"w": (6, 3, 3, 3), "v": (4, 6, 1, 1)}
NCHW = BODY.format(out="4,8,8", last="z = Conv (r, v)")
NHWC = BODY.format(out="8,8,4", last="c = Conv (r, v)\n z = Transpose <perm=[0,2,3,1]> (c)")


@pytest.fixture(scope="module", params=[NCHW, NHWC], ids=["nchw", "nhwc"])
def ex(request, tmp_path_factory):
    path = saved(tmp_path_factory.mktemp("m") / "m.onnx", request.param, **WEIGHTS)
    return Explainer(path, preprocess="unit", method="saliency")


def logits(ex, x):
    """(4, 8, 8), of the first picture."""
    z = outputs(ex, x)[0][0]
    return z if z.shape[0] == 4 else np.moveaxis(z, 2, 0)


def test_a_point_is_one_pixel_of_the_output(ex):
    (e,) = ex.explain_tensor(picture(), "2@5.5,11")
    assert e.score == pytest.approx(logits(ex, picture())[2, 5, 2], rel=1e-5)
    assert e.target == "logit of class 2 at 5.5,11"
    slope_holds(e, lambda x: logits(ex, x)[2, 5, 2], picture())
    assert not e.attribution[:, 12:].any()  # pixel (5, 2) of the output sees rows 9 to 11


def test_without_a_class_the_top_one_at_the_point_is_explained(ex):
    z = logits(ex, picture())
    (e,) = ex.explain_tensor(picture(), "@3,3")
    assert e.class_index == int(np.argmax(z[:, 1, 1]))
    assert e.score == pytest.approx(z[:, 1, 1].max(), rel=1e-5)


@pytest.mark.parametrize("size", [16, 8])
def test_over_a_mask_the_score_is_the_mean(ex, size):
    """Of the input's size each output pixel takes the share of its four pixels that is marked."""
    mask = np.random.default_rng(2).random((size, size)) < 0.4
    share = mask.reshape(8, size // 8, 8, size // 8).mean((1, 3))
    (e,) = ex.explain_tensor(picture(), Region(1, mask=mask))

    def f(x):
        return (logits(ex, x)[1] * share).sum() / share.sum()

    assert e.score == pytest.approx(f(picture()), rel=1e-5)
    assert e.target == "logit of class 1 over the mask"
    slope_holds(e, f, picture())


def test_a_mask_of_the_picture_goes_the_way_of_the_picture(ex):
    """A picture of 32 x 24 in a letterbox of 16 x 16: its left half is columns 0 to 8 of rows 2 to 14."""
    image = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    boxed = Explainer(ex.model, preprocess="unit,fit=letterbox", method="saliency")
    x, _ = boxed.preprocess.apply(image, boxed.spec)
    mask = np.zeros((24, 32))
    mask[:, :16] = 1
    e = boxed.explain(image, Region(3, mask=mask))
    share = np.zeros((16, 16))
    share[2:14, :8] = 1
    share = share.reshape(8, 2, 8, 2).mean((1, 3))
    want = (logits(ex, x)[3] * share).sum() / share.sum()
    assert e.score == pytest.approx(want, rel=1e-2)  # antialiasing blurs the mask's edge


def test_one_session_serves_all_points_and_masks(ex):
    own = Explainer(ex.model, preprocess="unit", method="saliency")
    for target in ("1@3,3", "2@9,9", Region(0, mask=np.ones((8, 8)))):
        own.explain_tensor(picture(), target)
    assert len(own.programs.built) == 1


@pytest.mark.parametrize(
    ("target", "say"),
    [
        (Region(1, mask=np.ones((5, 8))), r"shape \(5, 8\); the picture is 16 x 16"),
        (Region(1, mask=np.zeros((16, 16))), "the mask is empty"),
        (Region(1), "one of them"),
        (Region(1, point=(1, 1), mask=np.ones((8, 8))), "one of them"),
        ("4@3,3", "0 to 3"),
        ("1@17,3", "outside the picture"),
        ("box:1", "no boxes"),
    ],
)
def test_regions_that_do_not_fit_are_refused(ex, target, say):
    with pytest.raises(OptionError, match=say):
        ex.explain_tensor(picture(), target)


def test_mirrored_views_and_points_exclude_each_other(ex):
    own = Explainer(ex.model, preprocess="unit", smooth="aug")
    with pytest.raises(OptionError, match="mirrors the picture"):
        own.explain_tensor(picture(), "1@3,3")
