"""Test-time augmentation and eigen smoothing, and the ways from raw maps to heatmaps."""

from __future__ import annotations

import numpy as np
import pytest

from onnxcam import Explainer
from onnxcam.core import eigen, maps
from onnxcam.image import read_image
from onnxcam.zoo import samples

MODEL = "zoo:shapes-cnn"
SCENE = samples("shapes-cnn")[4]


@pytest.fixture(scope="module")
def x():
    explainer = Explainer(MODEL)
    return explainer.preprocess.apply(read_image(SCENE), explainer.spec)[0]


@pytest.mark.parametrize("method", ["gradcam", "scorecam"])
def test_augmentation_is_the_mean_of_the_heatmaps_of_six_views(x, method):
    plain = Explainer(MODEL, method=method)
    views = []
    for factor in (0.9, 1.0, 1.1):
        views.append(plain.explain_tensor((x * factor).astype(np.float32), 3)[0].heatmap)
        mirrored = (x[..., ::-1] * factor).astype(np.float32)
        views.append(plain.explain_tensor(mirrored, 3)[0].heatmap[:, ::-1])
    found = Explainer(MODEL, method=method, smooth="aug").explain_tensor(x, 3)[0]
    np.testing.assert_allclose(found.heatmap, np.mean(views, axis=0), atol=1e-5)
    assert found.score == plain.explain_tensor(x, 3)[0].score


def test_augmented_pixels_are_the_mean_gradient(x):
    plain = Explainer(MODEL, method="saliency")
    views = []
    for factor in (0.9, 1.0, 1.1):
        views.append(plain.explain_tensor((x * factor).astype(np.float32), 3)[0].attribution)
        mirrored = (x[..., ::-1] * factor).astype(np.float32)
        views.append(plain.explain_tensor(mirrored, 3)[0].attribution[..., ::-1])
    found = Explainer(MODEL, method="saliency", smooth="aug").explain_tensor(x, 3)[0]
    np.testing.assert_allclose(found.attribution, np.mean(views, axis=0), atol=1e-6)


def test_every_view_explains_the_class_of_the_picture_as_it_is(x):
    both = np.concatenate([x, x[..., ::-1] * np.float32(0.2)])
    smoothed = Explainer(MODEL, smooth="aug").explain_tensor(both)
    for k, e in enumerate(smoothed):
        alone = Explainer(MODEL, smooth="aug").explain_tensor(both[k : k + 1], e.class_index)[0]
        np.testing.assert_allclose(e.heatmap, alone.heatmap, atol=1e-5)


def test_eigen_smoothing_projects_the_evidence(x):
    hires, layer = Explainer(MODEL, method="hirescam"), Explainer(MODEL).layers[0].value
    found = Explainer(MODEL, method="hirescam", smooth="eigen").explain_tensor(x, 3)[0]
    from onnxcam.programs import Plan
    from onnxcam.targets import Logit

    feeds = {"image": x, **Logit((3,)).feeds(1)}
    answers = hires.programs.get(Logit((3,)), Plan(read=(layer,), wrt=(layer,)), lambda: feeds).run(feeds)
    want = eigen.eigen(answers[f"A/{layer}"] * answers[f"G/{layer}"])[0]
    np.testing.assert_allclose(found.cam, want, atol=1e-5 * np.abs(want).max())
    assert np.abs(found.cam - hires.explain_tensor(x, 3)[0].cam).max() > 0.01 * np.abs(want).max()


def test_the_percentile_caps_what_is_brightest(x):
    e = Explainer(MODEL, method="saliency", normalize="percentile").explain_tensor(x, 3)[0]
    raw = np.abs(e.attribution).max(axis=0)
    np.testing.assert_allclose(e.heatmap, np.minimum(raw / np.percentile(raw, 99), 1), atol=1e-6)


def test_a_percentile_of_nothing_falls_back_to_the_maximum():
    few = np.zeros((1, 20, 20), np.float32)
    few[0, 3, 4], few[0, 5, 5] = 2, -7
    found = maps.normalize(np, few, "percentile")
    assert (found[0, 3, 4], found[0, 5, 5], found.sum()) == (1, 0, 1)
    assert not maps.normalize(np, np.zeros((1, 4, 4), np.float32), "percentile").any()
    assert np.isnan(maps.normalize(np, np.full((1, 4, 4), np.nan, np.float32), "percentile")).all()


def test_unnormalised_is_the_raw_map_at_input_size(x):
    e = Explainer(MODEL, normalize="none").explain_tensor(x, 3)[0]
    np.testing.assert_allclose(e.heatmap, maps.resize(np, e.cam, e.heatmap.shape), atol=1e-6)


def test_the_signed_overlay_needs_no_other_explainer():
    e = Explainer(MODEL).explain(SCENE, "star")
    raw = Explainer(MODEL, normalize="none").explain(SCENE, "star")
    np.testing.assert_array_equal(e.signed_overlay(blend=0.5), raw.overlay(blend=0.5))


def test_a_raw_explanation_is_saved_and_loaded(tmp_path):
    from onnxcam import Explanation

    e = Explainer(MODEL, normalize="none").explain(SCENE, "star")
    loaded = Explanation.load(e.save(tmp_path)["record"])
    assert loaded.normalize == "none"
    np.testing.assert_array_equal(loaded.heatmap_on_image(), e.heatmap_on_image())
