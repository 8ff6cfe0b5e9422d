"""``onnxcam words``: names out of a folder of concepts, words out of names."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small import maps_and_head, saved

from onnxcam.image import save_image

pytestmark = pytest.mark.anyruntime


@pytest.fixture
def colours(tmp_path):
    kernel = np.asarray([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)[:, :, None, None]
    head = np.asarray([[4, -4], [-2, 2], [1, -1]], np.float32)
    meta = {"onnxcam/labels": '["warm", "cold"]', "onnxcam/preprocess": '{"name": "unit"}'}
    return saved(tmp_path / "colours.onnx", maps_and_head(), meta, w=kernel, head=head, bias=np.zeros(2, np.float32))


@pytest.fixture
def concepts(tmp_path):
    """Ten pictures of each concept: a red, or a green, patch somewhere."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("fire", "grass")):
        (tmp_path / "concepts" / name).mkdir(parents=True)
        for k in range(10):
            picture = np.zeros((8, 8, 3), np.uint8)
            y, x = rng.integers(0, 6, 2)
            picture[y : y + 2, x : x + 2, channel] = rng.integers(100, 256)
            save_image(tmp_path / f"concepts/{name}/{k}.png", picture)
    return tmp_path / "concepts"


@pytest.fixture
def photo(tmp_path):
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, :4, 0], picture[:, 4:, 1] = 255, 255
    save_image(tmp_path / "photo.png", picture)
    return tmp_path / "photo.png"


def test_from_a_folder_of_concepts_to_a_sentence(run, colours, concepts, photo, tmp_path):
    names = tmp_path / "names.json"
    done = run("words", "name", colours, concepts, "-o", names)
    assert done.code == 0
    assert "2 of 3 channels of act have a name." in done.out
    assert [line.split() for line in done.out.splitlines() if line.split()[:1] in (["fire"], ["grass"])] == [
        ["fire", "1", "0", "(auc", "1.000)"], ["grass", "1", "1", "(auc", "1.000)"],
    ]  # fmt: skip
    assert f"onnxcam words explain {colours} PHOTO... --names {names}" in done.out
    said = run("words", "explain", colours, photo, "--names", names, "-o", tmp_path / "out")
    assert said.code == 0
    assert "photo.png: said warm because of: fire (+), not: grass (-)" in said.out
    assert str(tmp_path / "out/photo.words.png") in said.out
    assert json.loads((tmp_path / "out/photo.words.json").read_text())["positive"][0]["name"] == "fire"


def test_names_by_hand_and_json(run, colours, photo, tmp_path):
    (tmp_path / "own.csv").write_text("channel,name\n1,grass\n2,sky\n")
    done = run("words", "explain", colours, photo, photo, "--names", tmp_path / "own.csv", "--target", "cold",
               "--json", "-o", tmp_path / "out")  # fmt: skip
    first, second = done.json
    assert first["sentence"] == "cold, which it did not say because of: grass (+)"
    assert first["positive"][0]["drop"] == pytest.approx(1)
    assert second["files"]["evidence"].endswith("photo-2.words.png")
    steering = tmp_path / "a\x1b[31mX.png"
    steering.write_bytes(photo.read_bytes())
    said = run("words", "explain", colours, steering, "--names", tmp_path / "own.csv", "-o", tmp_path / "out").out
    assert "\x1b" not in said
    assert said.count(r"a\x1b[31mX") == 2  # the photo, and the picture of the evidence
    plain = run("words", "explain", colours, photo, "--names", tmp_path / "own.csv", "-o", tmp_path / "out")
    assert "1 of the 1 channels that speak most for it have no name" in plain.out


def test_json_of_names_is_the_file(run, colours, concepts, tmp_path):
    done = run("words", "name", colours, concepts, "-o", tmp_path / "n.json", "--at-least", "0.95", "--json")
    found = json.loads(done.out)
    assert found == json.loads((tmp_path / "n.json").read_text())
    assert [(n["channel"], n["name"], n["how"]) for n in found["channels"]] == [(0, "fire", "auc"), (1, "grass", "auc")]


def test_no_name_is_said_and_a_bad_picture_fails_alone(run, colours, concepts, photo, tmp_path):
    none = run("words", "name", colours, concepts, "-o", tmp_path / "n.json", "--at-least", "1.5")
    assert none.code == 1
    assert "no channel of act has a name; show more pictures, or take another layer" in none.err
    (tmp_path / "bad.png").write_bytes(b"nothing")
    (tmp_path / "own.json").write_text('{"0": "fire"}')
    done = run("words", "explain", colours, tmp_path / "bad.png", photo, "--names", tmp_path / "own.json",
               "-o", tmp_path / "out")  # fmt: skip
    assert done.code == 1
    assert "bad.png" in done.err
    assert "said warm because of: fire (+)" in done.out


def test_what_cannot_start(fails, colours, photo, tmp_path):
    assert "no such file or folder" in fails("words", "name", colours, tmp_path / "nowhere")
    assert "holds no names of channels" in fails("words", "explain", colours, photo, "--names", tmp_path / "no.json")
