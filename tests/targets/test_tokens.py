"""A small model that foretells the next word from picture and text, and one that answers a question."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small import outputs, picture, saved, slope_holds

from onnxcam import Explainer
from onnxcam.errors import GradientError, OptionError, UnknownNameError
from onnxcam.graph.inspect import find_logits, target_layers
from onnxcam.model import load_model
from onnxcam.targets import Logit, Token, Tokens

WORDS = ["<pad>", "<start>", "a", "red", "star", "circle"]
META = {"onnxcam/vocabulary": json.dumps(WORDS)}
# scores of step t: attention of word t over the places of the map, read out as words
CAPTION = """(float[N,3,8,8] image, int64[N,T] tokens) => (float[N,T,6] logits) {
    c = Conv <pads=[1,1,1,1], strides=[2,2]> (image, w)
    f = Relu (c)
    k = Constant <value_ints=[0,5,-1]> ()
    p = Reshape (f, k)
    places = Transpose <perm=[0,2,1]> (p)
    q = Gather <axis=0> (table, tokens)
    s = MatMul (q, p)
    look = Softmax <axis=2> (s)
    seen = MatMul (look, places)
    logits = MatMul (seen, read)
}"""
WEIGHTS = {"w": (5, 3, 3, 3), "table": (6, 5), "read": (5, 6)}
TEXT = np.array([[1, 2, 3, 4]])


@pytest.fixture(scope="module")
def ex(tmp_path_factory):
    path = saved(tmp_path_factory.mktemp("m") / "m.onnx", CAPTION, META, **WEIGHTS)
    return Explainer(path, preprocess="unit", method="saliency", inputs={"tokens": TEXT})


def logits(ex, x, text=TEXT):
    return outputs(ex, x, tokens=text)[0][0]


def log_softmax(z):
    return z - z.max() - np.log(np.exp(z - z.max()).sum())


@pytest.mark.parametrize("size", ["8,8", "H,W"])
def test_words_as_input_tell_words_as_output(tmp_path, size):
    model = load_model(saved(tmp_path / "m.onnx", CAPTION.replace("8,8", size), META, **WEIGHTS))
    found = find_logits(model)
    assert (found.kind, found.class_axis, found.classes) == ("tokens", 2, 6)
    assert target_layers(model, found)[0].name == "f"  # the attention of words does not hide the picture's map


@pytest.mark.parametrize(
    ("target", "step", "word"),
    [
        ("token:4@2", 2, 4),
        ("token:star@2", 2, 4),
        ("token:red@-1", 3, 3),
        ("token:star", 2, 4),  # foretold by the step before it
        ("star", 2, 4),
        (4, 2, 4),
        ("token:circle", 3, 5),  # is not in the text: the last step
        (Token("Red", 0), 0, 3),
    ],
)
def test_the_logit_of_a_word_at_a_step(ex, target, step, word):
    (e,) = ex.explain_tensor(picture(size=8), target)
    assert e.score == pytest.approx(logits(ex, picture(size=8))[step, word], rel=1e-5)
    assert (e.class_index, e.label) == (word, WORDS[word])
    assert e.target == f"logit of {WORDS[word]} ({word}) at step {step}"
    slope_holds(e, lambda x: logits(ex, x)[step, word], picture(size=8))


def test_without_a_word_the_next_one_is_explained(ex):
    (e,) = ex.explain_tensor(picture(size=8))
    z = logits(ex, picture(size=8))[3]
    assert e.class_index == int(np.argmax(z))
    assert e.score == pytest.approx(z.max(), rel=1e-5)
    assert [i for i, _, _ in e.top] == list(np.argsort(-z)[:5])


def test_the_log_probability_of_a_word(ex):
    (e,) = ex.explain_tensor(picture(size=8), Token("star", 2, log=True))

    def f(x):
        return log_softmax(logits(ex, x)[2])[4]

    assert e.score == pytest.approx(f(picture(size=8)), rel=1e-5)
    slope_holds(e, f, picture(size=8))


@pytest.mark.parametrize(
    ("target", "pairs"),
    [
        ("tokens", [(0, 2), (1, 3), (2, 4)]),  # the text that is fed, from its second word on
        ("tokens:red,star", [(0, 3), (1, 4)]),
        ("tokens:red star", [(0, 3), (1, 4)]),
        (Tokens((4, 4), start=2), [(2, 4), (3, 4)]),
    ],
)
def test_the_log_probability_of_a_text(ex, target, pairs):
    (e,) = ex.explain_tensor(picture(size=8), target)

    def f(x):
        z = logits(ex, x)
        return sum(log_softmax(z[t])[w] for t, w in pairs)

    assert e.score == pytest.approx(f(picture(size=8)), rel=1e-5)
    assert e.target == "log-probability of the text " + " ".join(WORDS[w] for _, w in pairs)
    assert (e.class_index, e.top) == (-1, ())
    slope_holds(e, f, picture(size=8))


def test_a_text_is_fed_as_words_and_each_picture_may_have_its_own(ex):
    x = picture(2, size=8)
    one, two = ex.explain_tensor(x, "token:star@1", inputs={"tokens": np.array([[1, 2], [3, 5]])})
    assert one.score == pytest.approx(logits(ex, x[:1], np.array([[1, 2]]))[1, 4], rel=1e-5)
    assert two.score == pytest.approx(logits(ex, x[1:], np.array([[3, 5]]))[1, 4], rel=1e-5)
    (worded,) = ex.explain_tensor(x[:1], "token:star@1", inputs={"tokens": "<start> A"})
    assert worded.score == pytest.approx(one.score, rel=1e-6)


@pytest.mark.parametrize(
    ("target", "error", "say"),
    [
        ("token:moon", UnknownNameError, "unknown word 'moon'"),
        ("token:6@0", OptionError, "0 to 5"),
        ("token:2@4", OptionError, "steps 0 to 3"),
        ("token:2@-5", OptionError, "steps 0 to 3"),
        (Tokens((2, 2), start=3), OptionError, "do not fit"),
        (Tokens((9,)), OptionError, "token 9 does not exist"),
        ("tokens:moon", UnknownNameError, "unknown word 'moon'"),
        (Logit((2,)), GradientError, "token:WORD@STEP"),
    ],
)
def test_words_and_steps_that_are_not_there_are_refused(ex, target, error, say):
    with pytest.raises(error, match=say):
        ex.explain_tensor(picture(size=8), target)


def test_a_text_of_one_word_foretells_nothing(ex):
    with pytest.raises(OptionError, match="no text to explain"):
        ex.explain_tensor(picture(size=8), "tokens", inputs={"tokens": [[1]]})


ANSWER = """(float[N,3,8,8] image, int64[N,T] question) => (float[N,2] answer) {
    c = Conv <pads=[1,1,1,1], strides=[2,2]> (image, w)
    f = Relu (c)
    q = Gather <axis=0> (table, question)
    one = Constant <value_ints=[1]> ()
    asked = ReduceSum <keepdims=0> (q, one)
    side = Constant <value_ints=[2,3]> ()
    gate = Unsqueeze (asked, side)
    g = Mul (f, gate)
    h = Relu (g)
    p = GlobalAveragePool (h)
    v = Flatten (p)
    answer = Gemm (v, read)
}"""


def test_an_answer_depends_on_the_question_and_so_does_its_explanation(tmp_path):
    path = saved(tmp_path / "m.onnx", ANSWER, META, **{**WEIGHTS, "read": (5, 2)})
    ex = Explainer(path, preprocess="unit", method="saliency")
    found = []
    for question, ids in (("red star", [[3, 4]]), ("a circle", [[2, 5]])):
        e = ex.explain_tensor(picture(size=8), 1, inputs={"question": question})[0]
        ids = np.array(ids)
        assert e.score == pytest.approx(outputs(ex, picture(size=8), question=ids)[0][0, 1], rel=1e-5)
        slope_holds(e, lambda x, ids=ids: outputs(ex, x, question=ids)[0][0, 1], picture(size=8))
        found.append(e.attribution)
    assert np.abs(found[0] - found[1]).max() > 0.1 * np.abs(found[0]).max()


@pytest.mark.parametrize("names", [("mask", "tokens"), ("tokens", "mask")])
def test_a_mask_beside_the_text_is_no_text(names):
    """In whatever order they are given."""
    from types import SimpleNamespace

    from onnxcam.targets.tokens import _text

    held = {"tokens": np.array([[1, 7, 5]]), "mask": np.array([[1, 1, 0]])}
    view = SimpleNamespace(feeds={"image": np.zeros((1, 3, 4, 4))} | {n: held[n] for n in names})
    np.testing.assert_array_equal(_text(view), [1, 7, 5])
    assert _text(SimpleNamespace(feeds={"image": np.zeros((1, 3, 4, 4))})).size == 0
