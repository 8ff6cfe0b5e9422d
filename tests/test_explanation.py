from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from onnxcam import Explainer, Explanation, zoo
from onnxcam.errors import OptionError, OutputError, UnknownNameError
from onnxcam.image import read_image

pytestmark = pytest.mark.anyruntime


@pytest.fixture(scope="module")
def e() -> Explanation:
    return Explainer("zoo:shapes-cnn", preprocess="unit,fit=crop,crop_ratio=0.5").explain(zoo.samples("shapes-cnn")[1])


@pytest.fixture(scope="module")
def pixel() -> Explanation:
    return Explainer("zoo:shapes-cnn", method="guided_gradcam").explain(zoo.samples("shapes-cnn")[1])


def test_the_map_lies_on_the_picture_where_the_model_looked(e):
    on_image = e.heatmap_on_image()
    assert on_image.shape == e.image.shape[:2] == (224, 224)
    assert not on_image[:56].any()  # the crop keeps the middle half of each side
    assert not on_image[:, 168:].any()
    middle = on_image[56:168, 56:168]
    np.testing.assert_allclose(middle, e.heatmap, atol=1e-5)


def test_boxes_are_in_pixels_of_the_picture(e):
    (box,) = e.boxes(threshold=0.5)
    ys, xs = np.nonzero(e.heatmap_on_image() >= 0.5)
    assert 56 <= box.x0 <= xs.max()
    assert box.y1 <= ys.max() + 1
    assert box.score == pytest.approx(1.0, abs=1e-5)


def test_masks_boxes_and_regions_are_of_one_piece(e):
    from onnxcam.core.segment import grabcut, otsu

    whole = e.heatmap_on_image()
    np.testing.assert_array_equal(e.mask(0.4), whole >= 0.4 * whole.max())
    np.testing.assert_array_equal(e.mask("otsu"), whole >= otsu(whole) * whole.max())
    np.testing.assert_array_equal(e.mask(0.4, refine="grabcut"), grabcut(e.image, whole, 0.4))
    regions = e.regions(0.4, largest_only=False, min_area=5, refine="grabcut")
    assert [r.box for r in regions] == e.boxes(0.4, largest_only=False, min_area=5, refine="grabcut") != []
    np.testing.assert_array_equal(np.any([r.mask for r in regions], axis=0), e.mask(0.4, min_area=5, refine="grabcut"))
    assert {r.label for r in regions} == {e.label}
    assert not e.mask(0.4, min_area=whole.size).any()


def test_a_refinement_needs_a_picture_and_a_name_that_exists(e):
    with pytest.raises(UnknownNameError, match=r"refinement 'grabcat'.*'grabcut'"):
        e.mask(refine="grabcat")
    with pytest.raises(OptionError, match="only a tensor was explained"):
        dataclasses.replace(e, image=None).boxes(refine="grabcut")


def test_overlay_blends_the_colours_of_the_map(e):
    from onnxcam.core.overlay import colorize

    got = e.overlay(blend=0.3, colormap="turbo")
    want = 0.7 * e.image + 0.3 * colorize(e.heatmap_on_image(), "turbo").astype(float)
    assert np.abs(got - want).max() <= 0.5 + 1e-3
    assert e.overlay(title=True).shape[0] > e.image.shape[0]
    np.testing.assert_array_equal(e.overlay(title=True)[-224:], e.overlay())


def test_saving_and_loading_keeps_everything_but_the_picture(e, pixel, tmp_path):
    for one in (e, pixel):
        files = one.save(tmp_path)
        back = Explanation.load(files["record"])
        np.testing.assert_array_equal(back.heatmap, one.heatmap)
        np.testing.assert_array_equal(back.cam, one.cam)
        for field in ("score", "class_index", "label", "top", "target", "method", "engine", "layer", "notes", "source"):
            assert getattr(back, field) == getattr(one, field), field
        assert back.preprocess == one.preprocess
        assert back.placement == one.placement
        assert back.provenance == one.provenance
        np.testing.assert_array_equal(back.heatmap_on_image(), one.heatmap_on_image())
        if one.attribution is not None:
            np.testing.assert_array_equal(back.attribution, one.attribution)
    assert np.abs(read_image(tmp_path / "scene-2.gradcam.png")[-224:].astype(int) - e.overlay()).max() == 0


def test_the_record_names_model_and_versions(e, tmp_path):
    record = json.loads(e.save(tmp_path)["record"].read_text())
    assert record["model_sha256"] == zoo.model("shapes-cnn").sha256
    assert record["versions"]["onnxcam"]
    assert record["preprocess"]["fit"] == "crop"
    assert record["layers"][0]["reason"].startswith("chosen: the last spatial map")


def test_a_folder_that_cannot_be_made_is_refused(e, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="choose another"):
        e.save(tmp_path / "file" / "below")


def test_a_failed_write_leaves_nothing_behind(e, tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", _full)
    with pytest.raises(OutputError, match="No space left"):
        e.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _full(*names: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("text", ["", "{}", '{"files": {"arrays": "nothing.npz"}}'])
def test_what_is_no_record_is_refused(tmp_path: Path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(OptionError, match="no record of an explanation"):
        Explanation.load(path)


def test_pixel_attributions_show_as_grey_centred_pictures(e, pixel):
    shown = pixel.attribution_image()
    assert shown.shape == (112, 112, 3)
    far = np.unravel_index(np.abs(pixel.attribution).sum(axis=0).argmin(), (112, 112))
    assert np.abs(shown[far].astype(int) - 127).max() <= 12
    with pytest.raises(OptionError, match="no pixel attribution"):
        e.attribution_image()


def test_a_notebook_shows_the_overlay(e):
    import cv2

    shown = cv2.imdecode(np.frombuffer(e._repr_png_(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(shown, e.overlay(title=True))
