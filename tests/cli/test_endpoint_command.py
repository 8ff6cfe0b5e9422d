"""``onnxcam explain --endpoint``: pictures explained by asking a server."""

from __future__ import annotations

import json

import numpy as np
import pytest
from served import corners

from onnxcam import BlackBox
from onnxcam.image import save_image

pytestmark = pytest.mark.anyruntime


@pytest.fixture
def picture(tmp_path):
    p = np.zeros((24, 32, 3), np.uint8)
    p[:12, :16, 0], p[12:, 16:, 2] = 180, 240
    save_image(tmp_path / "corner.png", p)
    return tmp_path / "corner.png"


def test_a_served_model_is_explained(run, server, picture, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("red\nblue\n")
    common = ("--endpoint", server.url, "--labels", labels, "-o", tmp_path / "out", "--json")
    done = run("explain", picture, "--method", "occlusion", "--set", "window=4", "--batch", "9", *common)
    assert (done.code, done.err) == (0, "")
    (record,) = done.json
    assert (record["method"], record["label"], record["model"]) == ("occlusion", "blue", server.url)
    assert max(r["inputs"][0]["shape"][0] for r in server.requests) == 9
    expected = BlackBox(corners, (12, 16), method="occlusion", options={"window": 4}).explain(picture)
    with np.load(record["files"]["arrays"]) as arrays:
        np.testing.assert_allclose(arrays["heatmap"], expected.heatmap, atol=1e-5)


def test_rise_is_the_default_and_the_budget_counts(run, server, picture, tmp_path):
    done = run("explain", "--endpoint", server.url, picture, picture, "--budget", 20, "-o", tmp_path / "out", "--json")
    assert [r["method"] for r in done.json] == ["rise", "rise"]
    assert sum(r["inputs"][0]["shape"][0] for r in server.requests) == 2 * (1 + 20)


def test_what_reaches_into_a_model_is_refused(run, server, picture):
    for option in (("--layer", "conv1"), ("--smooth", "aug"), ("--engine", "training"), ("--input", "a=1")):
        done = run("explain", "--endpoint", server.url, picture, *option)
        assert done.code == 2
        assert f"{option[0]} reaches into a model" in done.err
    done = run("explain", "--endpoint", server.url, picture, "--method", "gradcam")
    assert done.code == 2
    assert "scores alone" in done.err


def test_a_server_that_is_not_there_is_told(run, picture, tmp_path):
    done = run("explain", "--endpoint", "http://127.0.0.1:9/v2/models/a", picture, "-o", tmp_path / "out", "--json")
    assert done.code == 2
    assert "cannot be reached" in json.loads(done.out)["error"]
    assert not (tmp_path / "out").exists()


def test_a_refused_picture_fails_alone(run, server, picture, tmp_path):
    server.answers = [(200, None), (400, '{"error": "too dark"}')]
    done = run("explain", "--endpoint", server.url, picture, picture, "--method", "occlusion", "-o", tmp_path / "out")
    assert done.code == 1
    assert "too dark" in done.err


def test_a_model_without_pictures_is_told(run, model):
    done = run("explain", model)
    assert done.code == 2
    assert "give pictures" in done.err
