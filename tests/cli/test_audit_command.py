"""``onnxcam audit``: tables, JSON, files, exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small import maps_and_head, saved

from onnxcam.image import save_image

pytestmark = pytest.mark.anyruntime
META = {"onnxcam/labels": '["warm", "cold"]', "onnxcam/preprocess": '{"name": "unit"}'}


@pytest.fixture
def colours(tmp_path):
    kernel = np.eye(2, 3, dtype=np.float32)[:, :, None, None]
    head = np.array([[1, -1], [-1, 1]], np.float32)
    return saved(tmp_path / "m.onnx", maps_and_head(), META, w=kernel, head=head, bias=np.zeros(2, np.float32))


@pytest.fixture
def data(tmp_path):
    """Eleven pictures of each class: a red, or a green, upper half; their masks of the sky."""
    for channel, name in enumerate(("warm", "cold")):
        for kind in ("data", "masks"):
            (tmp_path / kind / name).mkdir(parents=True)
        for k in range(11):
            picture, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
            picture[:4, :, channel], mask[:4] = 100 + 10 * k, 255
            save_image(tmp_path / f"data/{name}/{k}.png", picture)
            save_image(tmp_path / f"masks/{name}/{k}.sky.png", mask)
    return tmp_path / "data"


def test_the_table_and_the_verdict(run, colours, data, tmp_path):
    done = run("audit", colours, data, "--masks", tmp_path / "masks", "-o", tmp_path / "out")
    assert done.code == 0
    lines = [line.split() for line in done.out.splitlines()]
    assert ["sky", "all", "22", "100", "%", "50", "%", "2.00", "(2.00", "to", "2.00)"] in [line[:11] for line in lines]
    assert ["sky", "other", "100", "%", "(85", "to", "100),", "of", "22", "0", "%"] in [line[:11] for line in lines]
    assert (
        "The model looks at the sky: 100 % of its evidence lies there, on 50 % of the area (2.0 x, 2.0 to 2.0); "
        "replacing it by what a picture with another answer shows flips 100 % (85 to 100) of the answers, by what one "
        "with the same answer shows 0 % (0 to 15): it judges by the sky." in done.out.splitlines()
    )
    assert "22 pictures, 0 failed, 0 with blank maps, 0 without regions; 100.0% right." in done.out
    assert f"wrote {tmp_path / 'out' / 'report.html'}" in done.err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "audit.json", "mean.png", "report.html", "results.jsonl",
    ]  # fmt: skip


def test_json_and_counterparts(run, colours, data, tmp_path):
    (tmp_path / "swapped").mkdir()
    (data / "cold").rename(tmp_path / "kept")
    for k in range(2):
        (tmp_path / "swapped" / f"{k}.png").write_bytes((tmp_path / "kept" / f"{k}.png").read_bytes())
    done = run("audit", colours, data, "--masks", tmp_path / "masks", "--swap", f"sky={tmp_path / 'swapped'}", "--swap",
               "none", "--json")  # fmt: skip
    (found,) = done.json
    assert done.code == 0
    assert [(s["region"], s["by"], s["flips"]["value"], s["flips"]["count"]) for s in found["swaps"]] == [
        ("sky", "counterpart", 1.0, 2)
    ]
    assert found["configuration"]["counterparts"] == ["sky"]


def test_a_bad_picture_is_told_and_makes_the_exit_code_1(run, colours, data):
    (data / "warm" / "bad.png").write_bytes(b"")
    done = run("audit", colours, data, "--swap", "none", "--json")
    assert done.code == 1
    assert done.json[0]["counts"]["errors"] == 1
    assert "bad.png" in done.err
    assert "the file is empty" in done.err


def test_what_cannot_start(fails, colours, data, tmp_path):
    assert "unknown kind of regions 'half'" in fails("audit", colours, data, "--regions", "half")
    assert "need a folder of masks" in fails("audit", colours, data, "--regions", "masks")
    assert "no boxes" in fails("audit", colours, data, "--regions", "detector")
    assert "unknown swap 'noise'" in fails("audit", colours, data, "--swap", "noise")
    assert "seed=-1: give a whole number" in fails("audit", colours, data, "--seed", "-1")
    assert not (tmp_path / "out").exists()
    message = json.loads(json.dumps(fails("audit", colours, tmp_path / "nowhere", "-o", tmp_path / "out")))
    assert "no such file or folder" in message or "no annotated pictures" in message


def test_an_evaluation_is_not_replaced(run, fails, colours, data, tmp_path):
    """Refused before the work; the evaluation goes on."""
    asked = ("evaluate", colours, data, "--methods", "gradcam", "--metrics", "complexity", "-o", tmp_path / "out")
    assert run(*asked).code == 0
    kept = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.is_file()}
    refused = fails("audit", colours, tmp_path / "nowhere", "-o", tmp_path / "out")
    assert "results.jsonl' is there already, but of no audit: choose another folder" in refused
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.is_file()} == kept
    assert run(*asked, "--resume").code == 0
