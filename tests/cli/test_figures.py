"""Figures, settings and recipes on the command line, against what Python gives."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from onnxcam import Explainer
from onnxcam.core.overlay import panel
from onnxcam.image import read_image
from onnxcam.methods import METHODS
from onnxcam.papers import PAPERS
from onnxcam.zoo import samples

pytestmark = pytest.mark.anyruntime

ZOO = "zoo:shapes-cnn"
SCENE = samples("shapes-cnn")[4]


def written(path):
    return cv2.imread(str(path))[..., ::-1]


def strip(picture, text):
    return panel([picture], labels=[text])


def tile(sheet, row, column, shape):
    """One tile without its strip; tiles lie 4 pixels apart."""
    height, width = shape[0], shape[1]
    y, x = row * (height + 4), column * (width + 4)
    return sheet[y : y + height, x : x + width]


def test_a_grid_has_a_row_per_method_and_a_column_per_target(run, tmp_path):
    done = run("explain", ZOO, SCENE, "--grid", "--method", "gradcam", "--method", "layercam",
               "--target", "square", "--target", "star", "-o", tmp_path / "o")  # fmt: skip
    assert done.code == 0, done.err
    assert [p.name for p in (tmp_path / "o").iterdir()] == ["scene-5.grid.png"]
    sheet, picture = written(tmp_path / "o" / "scene-5.grid.png"), read_image(SCENE)
    for row, method in enumerate(("gradcam", "layercam")):
        explainer = Explainer(ZOO, method=method)
        found = [explainer.explain(SCENE, t) for t in ("square", "star")]
        pictures = [picture, *(e.overlay() for e in found)]
        names = [METHODS[method].title, *(e.title for e in found)]
        for column, (one, name) in enumerate(zip(pictures, names, strict=True)):
            big = np.repeat(np.repeat(one, len(sheet) // 480, axis=0), len(sheet) // 480, axis=1)
            want = strip(big, name)
            np.testing.assert_array_equal(tile(sheet, row, column, want.shape), want)


def test_a_sweep_shows_every_candidate_layer_from_the_image_on(run, tmp_path):
    done = run("explain", ZOO, SCENE, "--layers", "all", "--target", "star", "-o", tmp_path / "o", "--json")
    assert done.code == 0, done.err
    (record,) = done.json
    sizes = [tuple(layer["shape"]) for layer in record["layers"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) > 5
    assert record["files"] == {"figure": str(tmp_path / "o" / "scene-5.layers.png")}


def test_two_figures_at_once_are_refused(run, tmp_path):
    done = run("explain", ZOO, SCENE, "--layers", "all", "--grid", "-o", tmp_path)
    assert (done.code, "give one of them" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("given", "say"),
    [
        (["--set", "samples"], "write NAME=VALUE"),
        (["--set", "samples=3"], "Grad-CAM has no option 'samples'"),
        (
            ["--method", "gradcam", "--method", "rise", "--set", "stride=3"],
            "none of gradcam, rise has an option 'stride'",
        ),
        (["--budget", "10"], "no budget to choose"),
        (["--method", "rise", "--budget", "0"], "above 0"),
        (["--layers", "last"], "the choice is 'all'"),
        (["--recipe", "captum"], "unknown recipe 'captum'"),
        (["--smooth", "median"], "unknown smoothing 'median'"),
        (["--method", "saliency", "--smooth", "eigen"], "eigen smoothing needs evidence per channel"),
    ],
)
def test_what_cannot_be_is_said(run, tmp_path, given, say):
    done = run("explain", ZOO, SCENE, *given, "-o", tmp_path / "o")
    assert (done.code, say in done.err) == (2, True), done.err
    assert not (tmp_path / "o").exists()


def test_settings_reach_the_method(run, tmp_path):
    done = run("explain", ZOO, SCENE, "--method", "rise", "--budget", "24", "--set", "seed=7", "-o", tmp_path, "--json")
    assert done.code == 0, done.err
    want = Explainer(ZOO, method="rise", options={"samples": 24, "seed": 7}).explain(SCENE)
    held = np.load(tmp_path / "scene-5.rise.npz")
    np.testing.assert_allclose(held["cam_0"], want.cam, atol=1e-6)
    other = Explainer(ZOO, method="rise", options={"samples": 24, "seed": 8}).explain(SCENE)
    assert np.abs(held["cam_0"] - other.cam).max() > 1e-3


def test_a_recipe_draws_the_overlay_and_chooses_the_score(run, tmp_path):
    done = run("explain", ZOO, SCENE, "--recipe", "matlab", "--target", "star", "-o", tmp_path, "--json")
    assert done.code == 0, done.err
    assert done.json[0]["target"] == "probability of star (3)"
    want = Explainer(ZOO).explain(SCENE, "probability:star").recipe("matlab")
    np.testing.assert_array_equal(written(tmp_path / "scene-5.gradcam.star.png"), want)


def test_raw_maps_are_shown_in_two_colours(run, tmp_path):
    done = run("explain", ZOO, SCENE, "--normalize", "none", "--no-title", "--target", "star", "-o", tmp_path)
    assert done.code == 0, done.err
    e = Explainer(ZOO, normalize="none").explain(SCENE, "star")
    assert e.heatmap.min() < 0 < e.heatmap.max()
    shown = written(tmp_path / "scene-5.gradcam.star.png").astype(int)
    np.testing.assert_array_equal(shown, e.overlay(colormap="diverging"))
    whole = e.heatmap_on_image()
    y, x = np.unravel_index(whole.argmax(), whole.shape)
    half = read_image(SCENE)[y, x] / 2
    np.testing.assert_allclose(shown[y, x] - half, [127.5, 0, 0], atol=1)  # red speaks for the class


def test_the_catalogue_lists_itself(run):
    done = run("methods", "--json")
    rows = done.json[0] if isinstance(done.json[0], list) else done.json
    assert [r["name"] for r in rows] == list(METHODS)
    rise = next(r for r in rows if r["name"] == "rise")
    assert (rise["budget"], rise["options"]["samples"]) == ("samples", METHODS["rise"].options["samples"])


def test_bibtex_has_every_paper_once(run):
    done = run("methods", "--bibtex")
    keys = [line.partition("{")[2].rstrip(",") for line in done.out.splitlines() if line.startswith("@")]
    assert sorted(keys) == sorted(PAPERS)
