"""Answers and captions: each map lies on the object that its own words name, and not where other words look."""

from __future__ import annotations

import numpy as np
import pytest
from recipes import recipe

from onnxcam import Explainer
from onnxcam.core.localize import peak
from onnxcam.targets import Token
from onnxcam.zoo import locate

pytestmark = pytest.mark.anyruntime
SEEDS = range(1_700_000, 1_700_012)


@pytest.fixture(scope="module")
def words():
    return recipe("words", "scenes")


@pytest.fixture(scope="module")
def scenes(words):
    return [words.render(seed) for seed in SEEDS]


def on(heatmap, mask):
    return bool(heatmap.max() > 0 and mask[peak(heatmap)])


def test_a_question_looks_at_what_it_asks_for(words, scenes):
    explainer, own, other = Explainer("zoo:shapes-vqa"), [], []
    for worded in scenes:
        first, second = 0, 1
        mask = worded.scene.objects[first].mask
        for found, index in ((own, first), (other, second)):
            asked = {"question": words.question(worded.noun(index))}
            e = explainer.explain(worded.scene.image, "yes", inputs=asked)
            assert e.label == "yes"
            assert e.top[0][1] == "yes"
            found.append(on(e.heatmap, mask))
    assert np.mean(own) >= 0.8
    assert np.mean(other) <= 0.1


@pytest.mark.parametrize(
    "files", [["zoo:shapes-caption"], ["zoo:shapes-caption-encoder", "zoo:shapes-caption-decoder"]]
)
def test_a_noun_looks_at_what_it_names(words, scenes, files):
    explainer, own, other = Explainer([locate(f) for f in files]), [], []
    for worded in scenes:
        if (named := words.ends(worded)) is None:
            continue
        text = words.caption(worded, named).removesuffix(" <end>")
        for index, swapped, step in zip(named, named[::-1], words.NOUN_STEPS, strict=True):
            mask = worded.scene.objects[index].mask
            for found, noun in ((own, worded.noun(index)), (other, worded.noun(swapped))):
                e = explainer.explain(worded.scene.image, Token(noun, step), inputs={"tokens": text})
                found.append(on(e.heatmap, mask))
    assert len(own) > 10
    assert np.mean(own) >= 0.8
    assert np.mean(other) <= 0.1


def test_one_file_and_two_say_the_same(scenes):
    two = [locate("zoo:shapes-caption-encoder"), locate("zoo:shapes-caption-decoder")]
    maps = [
        Explainer(m).explain(scenes[0].scene.image, "token:star@2", inputs={"tokens": "<start> a red star"}).cam
        for m in ("zoo:shapes-caption", two)
    ]
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-4, atol=1e-6 * np.abs(maps[0]).max())
