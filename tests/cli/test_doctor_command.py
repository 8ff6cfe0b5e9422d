"""`onnxcam doctor`: photos in; the convention, how sure it is, and how to use it out. And the doubts of `explain`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import model, value, write
from onnx import helper

from onnxcam.image import Preprocess, save_image
from onnxcam.model import load_model
from onnxcam.opening import choose_preprocess

pytestmark = pytest.mark.anyruntime
COLOURS = np.array([[220, 60, 40], [60, 170, 60], [70, 80, 190], [200, 180, 60]])


@pytest.fixture
def caffe(tmp_path: Path) -> Path:
    """Names the nearest of four colours, of BGR less Caffe's mean."""
    centres = (COLOURS[:, ::-1] - (103.939, 116.779, 123.68)).astype(np.float32)
    arrays = {"w": centres.T / 900, "b": -(centres**2).sum(axis=1) / 1800}
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    return write(
        tmp_path / "colours.onnx", model(nodes, [value("image", ["n", 3, 8, 8])], [value("logits", ["n", 4])], arrays)
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six pictures of each class, in folders of its name."""
    rng = np.random.default_rng(0)
    for name, colour in zip(("red", "green", "blue", "ochre"), COLOURS, strict=True):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(6):
            picture = colour + rng.normal(0, 25, 3) + rng.normal(0, 5, (9, 12, 3))
            save_image(tmp_path / f"photos/{name}/{k}.png", np.clip(picture, 0, 255).astype(np.uint8))
    return tmp_path / "photos"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\nochre\n")
    return tmp_path / "labels.txt"


def test_folders_of_classes_name_the_convention(run, caffe, photos, labels):
    done = run("doctor", caffe, photos, "--labels", labels)
    assert done.code == 0
    assert "caffe BGR fits best of the 12 tried: 100% right of 24 labelled photos" in done.out
    assert "Certain among the 12 tried" in done.out
    assert "Colour: BGR, certain" in done.out
    assert "Scale: caffe, certain" in done.out
    assert f"onnxcam explain {caffe} PHOTO... --preprocess caffe" in done.out
    row = next(line for line in done.out.splitlines() if line.strip().startswith("caffe BGR "))
    assert row.split()[2] == "100%"
    assert row.split()[-1] == "certain"


def test_json_is_one_object(run, caffe, photos, labels):
    done = run("doctor", caffe, photos, "--labels", labels, "--json")
    (found,) = done.json
    assert (found["best"], found["preprocess"], found["certain"]) == ("caffe BGR", "caffe", True)
    assert (found["tried"], found["independent"]) == (12, 24)
    assert (found["photos"], found["labelled"], found["possible"]) == (24, 24, ["caffe BGR"])
    rows = {row["name"]: row for row in found["candidates"]}
    assert len(rows) == 12
    assert rows["caffe BGR"]["log_likelihood"] > rows["raw BGR"]["log_likelihood"]
    assert rows["caffe RGB"]["p"] < 0.01
    assert rows["caffe RGB"]["preprocess"] == "caffe,color=RGB,mean=123.68/116.779/103.939"


def test_without_labels_it_is_not_sure(run, caffe, photos):
    done = run("doctor", caffe, *sorted(photos.rglob("*.png")))
    assert done.code == 1
    assert "Not sure: 12 of 12 conventions are left: any of the table" in done.out
    assert "--preprocess" not in done.out
    assert "--truth CSV" in done.out


def test_a_table_of_labels(run, caffe, photos, tmp_path):
    files = sorted(photos.rglob("*.png"))
    order = ("red", "green", "blue", "ochre")
    rows = [f"{f.relative_to(tmp_path)},{order.index(f.parent.name)}" for f in files]
    (tmp_path / "truth.csv").write_text("\n".join(["path,label", *rows]))
    done = run("doctor", caffe, photos, "--truth", tmp_path / "truth.csv")
    assert done.code == 0
    assert "caffe BGR fits best" in done.out
    assert run("doctor", caffe, tmp_path / "truth.csv").out == done.out.replace(
        str(photos), str(tmp_path / "truth.csv")
    )


def test_the_sidecar_is_written_when_certain_and_read_by_explain(run, caffe, photos, labels, tmp_path):
    unsure = run("doctor", caffe, *photos.rglob("0.png"), "--write-sidecar")
    assert (unsure.code, caffe.with_suffix(".toml").exists()) == (1, False)
    assert "no sidecar is written: the answer is not certain" in unsure.err
    done = run("doctor", caffe, photos, "--labels", labels, "--write-sidecar")
    assert done.code == 0
    chosen, why = choose_preprocess(load_model(caffe), "auto")
    assert chosen == Preprocess.parse("caffe")
    assert "colours.toml" in why
    assert "red" in run("explain", caffe, photos / "red/0.png", "-o", tmp_path / "out", "--method", "saliency").out
    assert "Make it stick" not in done.out
    again = run("doctor", caffe, photos, "--labels", labels)
    assert (again.code, "caffe BGR: decided by" in again.out) == (0, True)


def test_a_sidecar_that_is_there_is_said_at_once(run, fails, caffe, photos, labels):
    sidecar = caffe.with_suffix(".toml")
    sidecar.write_text("")
    assert "colours.toml exists; edit it" in fails("doctor", caffe, photos, "--labels", labels, "--write-sidecar")
    assert sidecar.read_text() == ""
    told = run("doctor", caffe, photos, "--labels", labels).out.splitlines()[-1]
    assert told.startswith('Make it stick: preprocess = "caffe" in a sidecar; ')
    assert f"{sidecar} exists; edit it" in told


def test_a_sidecar_that_labels_disprove_is_not_believed(run, caffe, photos, labels):
    caffe.with_suffix(".toml").write_text('preprocess = "unit"\n')
    done = run("doctor", caffe, photos, "--labels", labels)
    assert done.code == 1
    assert "caffe BGR fits best" in done.out
    assert "Make it stick" not in done.out
    assert "colours.toml says unit, but with that the model is no better than guessing" in done.out
    assert "Mend it, or delete it" in done.out
    assert f"onnxcam explain {caffe} PHOTO... --preprocess caffe" in done.out
    assert run("explain", caffe, photos / "red/0.png", "-o", photos, "--method", "saliency").code == 0  # still reads it


def test_labels_of_other_photos_are_said(run, caffe, photos, tmp_path):
    (tmp_path / "truth.csv").write_text("0.png,1\nred/0.png,0\nphotos/red/0.png,0\nmoon.png,2\nsun.png,3\n")
    done = run("doctor", caffe, photos, "--truth", tmp_path / "truth.csv")
    assert "truth.csv: 2 of its labels belong to none of the 24 photos: moon.png, sun.png" in done.err


def test_columns_of_labels_are_shown_where_there_are_labels(run, caffe, photos, labels):
    bare = run("doctor", caffe, *sorted(photos.rglob("*.png"))).out.splitlines()
    assert next(line for line in bare if "convention" in line).split() == ["convention", "verdict"]
    told = run("doctor", caffe, photos, "--labels", labels).out.splitlines()
    assert next(line for line in told if "convention" in line).split()[1:3] == ["right", "log-likelihood"]


def test_a_photo_that_cannot_be_read_is_said_and_counts_as_failed(run, caffe, photos, labels):
    (photos / "red/0.png").write_bytes(b"nothing")
    done = run("doctor", caffe, photos, "--labels", labels)
    assert done.code == 1
    assert "cannot read" in done.err
    assert "23 labelled photos" in done.out
    missing = run("doctor", caffe, photos / "blue/0.png", photos / "gone.png")
    assert missing.code == 1
    assert "gone.png': there is no such file" in missing.err


def test_what_cannot_start(fails, caffe, photos, labels, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no pictures in" in fails("doctor", caffe, tmp_path / "empty")
    (tmp_path / "paths.csv").write_text("photos/red/0.png\nphotos/blue/1.png\n")
    assert "has no labels: its first line reads as path '0.png' and no label" in fails(
        "doctor", caffe, tmp_path / "paths.csv"
    )
    (tmp_path / "wrong.csv").write_text("photos/red/0.png,purple\n")
    assert "'purple'; known: red, green" in fails("doctor", caffe, tmp_path / "wrong.csv", "--labels", labels)
    assert "no such file" in fails("doctor", caffe, tmp_path / "nowhere")


def test_explain_doubts_a_preprocessing_that_gives_one_answer(run, tmp_path):
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["conv"]),
        helper.make_node("Clip", ["conv", "zero", "one"], ["held"]),
        helper.make_node("GlobalAveragePool", ["held"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    arrays = {"w": np.eye(3, dtype=np.float32)[..., None, None], "zero": np.float32(0), "one": np.float32(1)}
    proto = model(nodes, [value("image", ["n", 3, 8, 8])], [value("logits", ["n", 3])], arrays)
    path, pictures = write(tmp_path / "m.onnx", proto), []
    for k in range(3):
        pictures.append(tmp_path / f"{k}.png")
        save_image(pictures[-1], np.random.default_rng(k).integers(2, 90 * k + 50, (9, 9, 3)).astype(np.uint8))
    doubt = "the preprocessing raw looks wrong: 3 different pictures get one and the same answer"
    wrong = run("explain", path, *pictures, "-o", tmp_path / "out", "--preprocess", "raw")
    assert wrong.err.count(doubt) == 1
    assert f"onnxcam doctor {path} PHOTOS" in wrong.err
    assert "looks wrong" not in run("explain", path, *pictures, "-o", tmp_path / "out", "--preprocess", "unit").err
