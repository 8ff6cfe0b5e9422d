from __future__ import annotations

import json

import numpy as np
import pytest
from small import saved

from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.inputs import given_inputs, parse_inputs, vocabulary
from onnxcam.model import load_model

WORDS = ["<pad>", "a", "star", "Red"]
BODY = """(float[N,3,4,4] image, int64[N,3] text, float scale, float[N,2] extra) => (float[N,3,4,4] y) {
    t = Cast <to=1> (text)
    m = ReduceMean <keepdims=0> (t)
    e = ReduceMean <keepdims=0> (extra)
    a = Mul (image, m)
    b = Mul (a, e)
    y = Mul (b, scale)
}"""


@pytest.fixture
def model(tmp_path):
    return load_model(saved(tmp_path / "m.onnx", BODY, {"onnxcam/vocabulary": json.dumps(WORDS)}))


FIT = {"text": "star red", "scale": 2, "extra": [1, 2]}


def test_words_numbers_and_arrays_become_what_the_model_takes(model):
    found = given_inputs(model, FIT)
    assert {n: (a.dtype.name, a.tolist()) for n, a in found.items()} == {
        "text": ("int64", [[2, 3, 0]]),
        "scale": ("float32", 2.0),
        "extra": ("float32", [[1.0, 2.0]]),
    }


@pytest.mark.parametrize(
    ("change", "error", "say"),
    [
        ({"text": "star moon"}, UnknownNameError, "unknown word 'moon'"),
        ({"text": [1, 2]}, OptionError, r"input text is INT64 \[N,3\]; given an array of shape"),
        ({"text": [1, 2, 0.5]}, OptionError, "given fractions, such as 0.5"),
        ({"text": [[[1, 2, 3]]]}, OptionError, "given an array of shape"),
        ({"extra": [[1, 2, 3]]}, OptionError, "given an array of shape"),
        ({"extra": np.array(["a", "b"])}, OptionError, "Give numbers"),
        ({"tekst": [1, 2, 3]}, OptionError, "no further input 'tekst'; its inputs beside the picture: text"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(model, change, error, say):
    with pytest.raises(error, match=say):
        given_inputs(model, {**FIT, **change})


def test_a_missing_input_is_named_with_how_to_give_it(model):
    with pytest.raises(OptionError, match=r"Give scale, extra: inputs=\{name: array\}, or --input"):
        given_inputs(model, {"text": "a"})
    assert list(given_inputs(model, {"text": "a"}, whole=False)) == ["text"]


@pytest.mark.parametrize("text", [None, "no json", '{"a": 1}'])
def test_words_need_a_vocabulary(tmp_path, text):
    meta = {} if text is None else {"onnxcam/vocabulary": text}
    model = load_model(saved(tmp_path / "m.onnx", BODY, meta))
    assert vocabulary(model) is None
    with pytest.raises(OptionError, match="has no vocabulary"):
        given_inputs(model, FIT)


def test_the_command_line_gives_files_numbers_lists_and_words(tmp_path):
    np.save(tmp_path / "e.npy", np.float32([[3, 4]]))
    found = parse_inputs([f"extra={tmp_path / 'e.npy'}", "scale=0.5", "text=1,2,3", "other=is there a star"])
    np.testing.assert_array_equal(found.pop("extra"), [[3, 4]])
    np.testing.assert_array_equal(found.pop("text"), [1, 2, 3])
    assert (float(found["scale"]), found["other"]) == (0.5, "is there a star")


@pytest.mark.parametrize(
    ("text", "say"), [("scale", "write NAME="), ("=3", "write NAME="), ("a=no.npy", "cannot read")]
)
def test_what_is_no_input_is_refused(text, say):
    with pytest.raises(OptionError, match=say):
        parse_inputs([text])


@pytest.mark.parametrize(
    "data",
    [
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,)}    \n" + bytes(64),
        b"\x93NUMPY\x01\x00\x10\x00((((((((((((((((" + bytes(64),
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}              \n" + bytes(64),
        b"PK\x03\x04",
        b"",
    ],
)
def test_a_damaged_array_is_refused_and_takes_no_memory(tmp_path, data):
    (tmp_path / "e.npy").write_bytes(data)
    with pytest.raises(OptionError, match=r"cannot read .*give a file that numpy\.save wrote"):
        parse_inputs([f"extra={tmp_path / 'e.npy'}"])
