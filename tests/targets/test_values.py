from __future__ import annotations

import numpy as np
import pytest
from builders import png
from small import outputs, picture, saved, slope_holds

from onnxcam import Explainer
from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.image import read_image
from onnxcam.targets import Custom, Element, Similarity

BODY = """(float[N,3,8,8] x) => (float[N,5] scores, float[N,1] age, float[N] speed, float[N,2,2] pair) {
    c = Conv <pads=[1,1,1,1]> (x, w)
    r = Relu (c)
    g = GlobalAveragePool (r)
    f = Flatten (g)
    scores = Gemm (f, v)
    age = Gemm (f, u)
    one = Constant <value_ints=[1]> ()
    speed = ReduceSum <keepdims=0> (f, one)
    four = Gemm (f, t)
    k = Constant <value_ints=[0,2,2]> ()
    pair = Reshape (four, k)
}"""
WEIGHTS = {"w": (6, 3, 3, 3), "v": (6, 5), "u": (6, 1), "t": (6, 4)}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("m") / "m.onnx", BODY, **WEIGHTS)


def explainer(path, output=None, **settings):
    return Explainer(path, preprocess="unit", method="saliency", output=output, **settings)


@pytest.mark.parametrize(
    ("output", "target", "place", "words"),
    [
        ("age", "value", (1, (0, 0)), "output value"),
        ("speed", "value", (2, (0,)), "output value"),
        ("age", None, (1, (0, 0)), "logit of class 0"),
        ("speed", None, (2, (0,)), "logit of class 0"),
        ("scores", "element:3", (0, (0, 3)), "output element [3]"),
        ("scores", Element((-1,)), (0, (0, 4)), "output element [-1]"),
        ("scores[3]", None, (0, (0, 3)), "output element [3]"),
        ("pair[1,0]", None, (3, (0, 1, 0)), "output element [1, 0]"),
        ("pair", Element((0, -1)), (3, (0, 0, 1)), "output element [0, -1]"),
    ],
)
def test_an_element_of_an_output_is_explained(path, output, target, place, words):
    ex = explainer(path, output)
    (e,) = ex.explain_tensor(picture(size=8), target)

    def f(x):
        return outputs(ex, x)[place[0]][place[1]]

    assert e.score == pytest.approx(f(picture(size=8)), rel=1e-5)
    assert e.target == words
    slope_holds(e, f, picture(size=8))


def test_a_batch_of_values_is_one_value_each(path):
    x = picture(3, size=8)
    found = explainer(path, "speed").explain_tensor(x, "value")
    assert [e.score for e in found] == pytest.approx(outputs(explainer(path), x)[2], rel=1e-5)
    assert [(e.class_index, e.top, e.probability) for e in found] == [(-1, (), None)] * 3


@pytest.mark.parametrize(
    ("output", "target", "say"),
    [
        ("scores", "value", "say which, as in element:3"),
        ("scores", "element:5", "element 5 does not exist on an axis of length 5"),
        ("scores", "element:1,2", r"has axes \(5\) per picture; 2 places"),
        ("pair", "element:1", r"has axes \(2, 2\) per picture; 1 places"),
        ("scores[2]", "1", "names one element already"),
    ],
)
def test_elements_that_are_not_there_are_refused(path, output, target, say):
    with pytest.raises(OptionError, match=say):
        explainer(path, output).explain_tensor(picture(size=8), target)


@pytest.mark.parametrize(("output", "error", "say"), [
    ("scores[x]", OptionError, "no whole number"),
    ("score[1]", UnknownNameError, "did you mean 'scores'"),
])  # fmt: skip
def test_outputs_that_are_not_there_are_refused(path, output, error, say):
    with pytest.raises(error, match=say):
        explainer(path, output)


# Likeness


def cosine(a, b):
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def test_likeness_to_a_vector_is_the_cosine(path):
    ex, r = explainer(path, "scores"), np.float32([1, -2, 0.5, 0, 3])
    (e,) = ex.explain_tensor(picture(size=8), Similarity(r))

    def f(x):
        return cosine(outputs(ex, x)[0][0], r.astype(np.float64))

    assert e.score == pytest.approx(f(picture(size=8)), rel=1e-5)
    assert e.target == "similarity to the reference"
    slope_holds(e, f, picture(size=8))


def test_likeness_to_a_picture_is_that_to_its_embedding(path, tmp_path):
    ex = explainer(path, "scores")
    files = [png(tmp_path / f"{n}.png", seed=n, height=8, width=8) for n in range(2)]
    z = [outputs(ex, ex.preprocess.apply(f, ex.spec)[0])[0][0] for f in files]
    e = ex.explain(files[0], f"similar:{files[1]}")
    assert e.score == pytest.approx(cosine(*z), rel=1e-4)
    assert e.target == "similarity to 1.png"
    assert ex.explain(files[0], Similarity(read_image(files[1]))).score == pytest.approx(e.score, rel=1e-6)
    assert ex.explain(files[0], f"similar:{files[0]}").score == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(("vector", "say"), [(np.ones(4), "has 4 numbers; .* in 5"), (np.zeros(5), "zero or not")])
def test_references_that_do_not_fit_are_refused(path, vector, say):
    with pytest.raises(OptionError, match=say):
        explainer(path, "scores").explain_tensor(picture(size=8), Similarity(vector))


# Expressions of one's own

CUSTOM = {
    "mean of columns": (
        lambda xp, out: xp.mean(out["scores"][:, 1:4], axis=1),
        lambda o: o[0][0, 1:4].mean(),
    ),
    "several outputs": (
        lambda xp, out: out["age"] * xp.tanh(out["scores"][:, -1:]) + xp.expand_dims(out["speed"], 1),
        lambda o: o[1][0, 0] * np.tanh(o[0][0, 4]) + o[2][0],
    ),
    "an inner value": (
        lambda xp, out: xp.max(out["r"], axis=(1, 2, 3)),
        lambda o: o[-1][0].max(),
    ),
    "the logits": (lambda xp, out: xp.sum(out["logits"] * out["logits"], axis=1), lambda o: (o[0][0] ** 2).sum()),
}


@pytest.mark.parametrize("name", CUSTOM)
@pytest.mark.parametrize("method", ["saliency", "gradcam"])
def test_any_expression_of_the_models_values_is_explained(path, name, method):
    from types import SimpleNamespace

    from onnxcam.graph.surgery import expose

    written, replica = CUSTOM[name]
    ex = Explainer(path, preprocess="unit", method=method)
    inner = SimpleNamespace(model=expose(ex.model, ["r"]))
    (e,) = ex.explain_tensor(picture(size=8), Custom(written, name))

    def f(x):
        return replica(outputs(inner, x))

    assert e.score == pytest.approx(f(picture(size=8)), rel=1e-5)
    assert e.target == name
    if method == "saliency":
        slope_holds(e, f, picture(size=8))


def test_one_function_is_written_once(path):
    ex, target = explainer(path), Custom(lambda xp, out: out["age"])
    for _ in range(3):
        ex.explain_tensor(picture(size=8), target)
    assert len(ex.programs.built) == 1


@pytest.mark.parametrize(
    ("function", "error", "say"),
    [
        (lambda xp, out: out["scores"], OptionError, r"one number per picture.*shape \('N', 5\)"),
        (lambda xp, out: 3.0, OptionError, "the function gives 3.0"),
        (lambda xp, out: out["score"], UnknownNameError, "did you mean 'scores'"),
        (lambda xp, out: xp.zeros_like(out["age"]), OptionError, "does not depend on any value"),
        (lambda xp, out: out["scores"][:, 7], IndexError, "place 7"),
    ],
)
def test_expressions_that_are_no_score_are_refused(path, function, error, say):
    with pytest.raises(error, match=say):
        explainer(path).explain_tensor(picture(size=8), Custom(function))
