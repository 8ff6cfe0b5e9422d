"""What is explained, and on what further inputs, from the command line."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest
from builders import classifier, png, write
from small import saved

pytestmark = pytest.mark.anyruntime
WORDS = {"onnxcam/vocabulary": json.dumps(["<start>", "a", "star"])}
FIRST = """(float[N,3,8,8] image) => (float[N,5,4,4] features) {
    c = Conv <pads=[1,1,1,1], strides=[2,2]> (image, w)
    features = Relu (c)
}"""
SECOND = """(float[N,5,4,4] features, int64[N,T] tokens) => (float[N,T,3] logits) {
    k = Constant <value_ints=[0,5,-1]> ()
    p = Reshape (features, k)
    q = Gather <axis=0> (table, tokens)
    s = MatMul (q, p)
    look = Softmax <axis=2> (s)
    pt = Transpose <perm=[0,2,1]> (p)
    seen = MatMul (look, pt)
    logits = MatMul (seen, read)
}"""


@pytest.fixture
def halves(tmp_path):
    first = saved(tmp_path / "first.onnx", FIRST, w=(5, 3, 3, 3))
    return first, saved(tmp_path / "second.onnx", SECOND, WORDS, table=(3, 5), read=(5, 3))


@pytest.fixture
def picture(tmp_path):
    return png(tmp_path / "picture.png")


def test_a_decoder_behind_an_encoder_and_words_as_input(run, halves, picture, tmp_path):
    first, second = halves
    common = ("explain", first, picture, "--then", second, "-o", tmp_path / "out", "--preprocess", "unit", "--json")
    done = run(*common, "--input", "tokens=<start> a", "--target", "token:star@1")
    assert done.code == 0, done.err
    record = done.json[0]
    assert (record["target"], record["label"], record["layers"][0]["name"]) == (
        "logit of star (2) at step 1",
        "star",
        "features",
    )
    np.save(tmp_path / "ids.npy", np.array([[0, 1]]))
    again = run(*common, "--input", f"tokens={tmp_path / 'ids.npy'}", "--target", "token:star@1")
    assert again.json[0]["score"] == record["score"]
    missing = run(*common, "--target", "token:star@1")
    assert missing.code == 2
    assert "--input NAME=FILE.npy|VALUE" in missing.err


def test_a_word_that_is_not_in_the_vocabulary_stops_the_run(run, halves, picture, tmp_path):
    first, second = halves
    done = run("explain", first, picture, "--then", second, "-o", tmp_path / "out", "--input", "tokens=<start> moon")
    assert done.code == 2
    assert "unknown word 'moon'" in done.err
    assert not (tmp_path / "out").exists()


def test_models_that_do_not_fit_together_say_what_they_have(run, halves, picture, model, tmp_path):
    done = run("explain", model, picture, "--then", halves[1], "-o", tmp_path / "out")
    assert done.code == 2
    assert "it is not clear how" in done.err
    assert "logits FLOAT [n,4]" in done.err


def test_an_element_of_an_output_is_named_in_brackets(run, model, picture, tmp_path):
    common = ("explain", model, picture, "-o", tmp_path / "out", "--preprocess", "raw", "--json")
    element, by_class = run(*common, "--output", "logits[2]"), run(*common, "--target", "2")
    assert element.json[0]["score"] == pytest.approx(by_class.json[0]["score"])
    assert (element.json[0]["target"], element.json[0]["class_index"]) == ("output element [2]", -1)
    assert run(*common, "--output", "logits[4]").code == 2


def test_the_table_names_a_score_of_no_class(run, tmp_path, picture):
    path = write(tmp_path / "one.onnx", classifier(classes=1))
    done = run("explain", path, picture, "-o", tmp_path / "out", "--preprocess", "raw", "--target", "value")
    assert done.code == 0, done.err
    assert "output value" in done.out
    assert "class -1" not in done.out


def test_the_forms_of_a_target_are_listed(run):
    done = run("methods", "--targets", "--json")
    assert {"CLASS", "margin:A,B", "box:#INDEX", "similar:PICTURE"} <= set(done.json[0])
    assert "box:#INDEX" in run("methods", "--targets").out


def test_every_kind_that_is_listed_is_understood_and_the_other_way_round():
    from onnxcam.targets import FORMS, TARGETS
    from onnxcam.targets.parse import _KINDS

    listed = {re.match("[a-z0-9]*", part)[0] for form in FORMS for part in form.split(" or ")}
    assert listed - {"", "top1"} == set(TARGETS) | set(_KINDS)


def test_files_of_targets_with_points_have_plain_names(run, tmp_path, picture):
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N,3,8,8] x) => (float[N,3,8,8] z) { z = Tanh (x) }'
    )
    path = write(tmp_path / "m.onnx", proto)
    out = tmp_path / "out"
    done = run("explain", path, picture, "-o", out, "--method", "saliency", "--target", "1@8,9.5")
    assert done.code == 0, done.err
    assert all(re.fullmatch(r"[\w.-]+", p.name) for p in out.iterdir())
