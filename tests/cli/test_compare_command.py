"""``onnxcam compare``: report, panels, gates and exit codes, blind pages and votes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import classifier, png, weights, write
from onnx import numpy_helper

pytestmark = pytest.mark.anyruntime


@pytest.fixture
def photos(tmp_path):
    for k in range(3):
        png(tmp_path / "photos" / f"{k}.png", seed=k)
    return tmp_path / "photos"


@pytest.fixture
def faulty(tmp_path):
    """`model` with two channels of its last map swapped."""
    proto, order = classifier(), [1, 0, *range(2, 8)]
    for tensor in proto.graph.initializer:
        if tensor.name in ("w2", "b2"):
            tensor.CopyFrom(numpy_helper.from_array(weights()[tensor.name][order].astype(np.float32), tensor.name))
    return write(tmp_path / "faulty.onnx", proto)


def test_report_and_panels(run, model, photos, tmp_path):
    done = run("compare", model, model, photos, "-o", tmp_path / "out", "--worst", 2)
    assert (done.code, "Verdict: no fault" in done.out) == (0, True)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verdict"]["kind"] == "sound"
    assert [i["source"] for i in report["images"]] == [str(photos / f"{k}.png") for k in range(3)]
    assert report["figures"]["agreement"]["mean"] == 1
    assert report["a"]["sha256"] == report["b"]["sha256"]
    panels = sorted(p.name for p in (tmp_path / "out").glob("worst-*.png"))
    assert panels == sorted(report["panels"])
    assert len(panels) == 2


def test_json_is_the_report_and_nothing_else(run, model, faulty, photos, tmp_path):
    done = run("compare", model, faulty, photos, "-o", tmp_path / "out", "--json")
    assert done.json == [json.loads((tmp_path / "out" / "report.json").read_text())]
    assert done.code == 0
    assert done.json[0]["verdict"]["at"]["swapped"] == [[0, 1]]


def test_gates(run, model, faulty, photos, tmp_path):
    out = ("-o", tmp_path / "out", "--worst", 0)
    assert run("compare", model, model, photos, *out, "--fail-below", "0.99", "--fail-below", "agreement=1").code == 0
    other = write(tmp_path / "other.onnx", classifier(seed=1))
    done = run("compare", model, other, photos, *out, "--fail-below", "correlation=0.999")
    assert done.code == 1
    assert "is below 0.999" in done.err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["failed"]
    fault = run("compare", model, faulty, photos, *out, "--fail-below", "agreement=0")
    assert fault.code == 1
    assert "channels 0 and 1 of layer relu2 are swapped" in fault.err
    unlike = run("compare", model, model, photos, *out, "--preprocess-b", "raw", "--fail-below", "agreement=0")
    assert unlike.code == 1
    assert "A gate is for exports of one network" in unlike.err
    assert "onnxcam: A: preprocessing imagenet is assumed: nothing in the model tells" in unlike.err


def test_a_bad_picture_is_told_and_gives_1(run, model, photos, tmp_path):
    (photos / "bad.png").write_bytes(b"no picture")
    done = run("compare", model, model, photos, "-o", tmp_path / "out")
    assert done.code == 1
    assert "bad.png" in done.err


def test_what_cannot_start(fails, model, photos, tmp_path):
    out = ("-o", tmp_path / "out")
    assert "give two models and pictures" in fails("compare", model, *out)
    assert "unknown figure 'corr'" in fails("compare", model, model, photos, *out, "--fail-below", "corr=0.9")
    assert "give the least mean" in fails("compare", model, model, photos, *out, "--fail-below", "95")
    assert "give the least mean" in fails("compare", model, model, photos, *out, "--fail-below", "iou=much")
    assert "from 0 to 1" in fails("compare", model, model, photos, *out, "--fail-below", "-1")
    assert "--fail-below '': give" in fails("compare", model, model, photos, *out, "--fail-below", "")
    away = tmp_path / "away" / "page.html"
    assert f"there is no folder {away.parent}" in fails("compare", model, model, photos, *out, "--blind", away)
    assert not away.parent.exists()
    assert "give the page's name" in fails("compare", model, model, photos, *out, "--blind", photos)
    assert "0 for none" in fails("compare", model, model, photos, *out, "--worst", "-1")
    assert "--votes votes.json and --key" in fails("compare", "--votes", "votes.json")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no pictures in" in fails("compare", model, model, empty, *out)
    five = write(tmp_path / "five.onnx", classifier(classes=5))
    assert "do not answer the same question" in fails("compare", model, five, photos, *out)
    assert not (tmp_path / "out").exists()


def test_blind_and_back(run, model, photos, tmp_path):
    page, key = tmp_path / "page.html", tmp_path / "page.key.json"
    done = run("compare", model, model, photos, "-o", tmp_path / "out", "--blind", page)
    assert done.code == 0
    assert "keep it from voters" in done.err
    assert "name them with --labels" in done.err
    one = run("compare", model, model, photos / "0.png", "-o", tmp_path / "out", "--blind", tmp_path / "out" / "1.html")
    assert "1.html shows 1 picture;" in one.err
    held = json.loads(key.read_text())
    votes = {str(k): side for k, side in enumerate(held["a_is"])}  # all for A
    (tmp_path / "votes.json").write_text(json.dumps({"page": held["page"], "votes": votes}))
    found = run("compare", "--votes", tmp_path / "votes.json", "--key", key, "--json")
    total = len(votes)
    assert found.json == [
        {"model_a": str(model), "model_b": str(model), "a": total, "b": 0, "undecided": 0,
         "pictures_a": total, "pictures_b": 0, "p": 2 / 2**total}
    ]  # fmt: skip
    assert "p = " in run("compare", "--votes", tmp_path / "votes.json", "--key", key).out
