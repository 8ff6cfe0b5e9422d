"""The zoo's models that read or write text: what they say of fresh scenes is right, and their samples say so too."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from recipes import recipe

from onnxcam import zoo

pytestmark = pytest.mark.anyruntime
VQA, CAPTION = "shapes-vqa", "shapes-caption"
ENCODER, DECODER = f"{CAPTION}-encoder", f"{CAPTION}-decoder"
FRESH = range(3_000_000, 3_000_060)


@pytest.fixture(scope="module")
def words() -> ModuleType:
    return recipe("words", "scenes")


@pytest.fixture(scope="module")
def fresh(words: ModuleType) -> list:
    """Scenes that neither training nor the stated accuracy has seen."""
    return [words.render(seed) for seed in FRESH]


@pytest.fixture(scope="module")
def pixels(fresh: list) -> np.ndarray:
    return np.stack([shown.scene.image for shown in fresh]).transpose(0, 3, 1, 2).astype(np.float32) / 255


@cache
def session(name: str):
    runtime = pytest.importorskip("onnxruntime", reason="needs a runtime")
    return runtime.InferenceSession(str(zoo.locate(name)), providers=["CPUExecutionProvider"])


def run(name: str, **inputs: np.ndarray) -> np.ndarray:
    return session(name).run(None, inputs)[0]


def every_question(words: ModuleType) -> list[tuple[str, str, str | None]]:
    shapes, colours = recipe("scenes").CLASSES, (None, *words.COLOUR_NAMES)
    return [(words.question(shape, colour), shape, colour) for shape in shapes for colour in colours]


def truth(words: ModuleType, shown: object, shape: str, colour: str | None) -> bool:
    """By comparing phrases, apart from how the recipe finds the object."""
    phrases = [shown.phrase(i).split() for i in range(len(shown.colours))]
    return any(shape == noun and colour in (None, tint) for _, tint, noun in phrases)


# ---------------------------------------------------------------- language


def test_vocabulary_is_the_recipes_with_the_padding_first(words: ModuleType) -> None:
    assert {zoo.model(name).vocabulary for name in (VQA, CAPTION, DECODER)} == {words.VOCABULARY}
    assert words.VOCABULARY[:3] == ("<pad>", "<start>", "<end>")
    assert len(set(words.VOCABULARY)) == 20


def test_a_text_becomes_its_words_numbers_and_back(words: ModuleType) -> None:
    assert words.tokens("is there a red star", 7).tolist() == [5, 6, 3, 7, 16, 0, 0]
    assert words.words(words.tokens("is there a red star", 7)) == "is there a red star"


def test_colour_words_are_the_nearest_of_what_is_painted(words: ModuleType, fresh: list) -> None:
    """The median pixel of each object's core, its shading taken off by direction, is nearest to its word's colour."""
    palette = np.array([words.COLOURS[name] for name in words.COLOUR_NAMES])
    for shown in fresh:
        for thing, colour in zip(shown.scene.objects, shown.colours, strict=True):
            core = cv2.erode(thing.mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
            seen = np.median(shown.scene.image[core], axis=0) / 255
            assert np.linalg.norm(palette - seen, axis=1).argmin() == colour


# ---------------------------------------------------------------- answers


def test_answers_are_right_for_every_question_about_fresh_scenes(words, fresh, pixels) -> None:
    """49 questions about each of 20 scenes; those that name the shape or the colour of another object included."""
    asked = every_question(words)
    right = []
    for shown, image in zip(fresh[:20], pixels, strict=False):
        tokens = np.stack([words.tokens(text, 5) for text, _, _ in asked])
        answers = run_vqa(np.repeat(image[None], len(asked), 0), tokens).argmax(1)
        right.append(answers == [truth(words, shown, shape, colour) for _, shape, colour in asked])
    assert np.mean(right) >= 0.97


def run_vqa(image: np.ndarray, question: np.ndarray) -> np.ndarray:
    return run(VQA, image=image, question=question)


def test_padding_says_nothing(words: ModuleType, pixels: np.ndarray) -> None:
    bare, padded = (np.stack([words.tokens("is there a blue heart", n)] * len(pixels)) for n in (5, 9))
    np.testing.assert_array_equal(run_vqa(pixels, bare), run_vqa(pixels, padded))


# ---------------------------------------------------------------- captions


@pytest.fixture(scope="module")
def captions(words: ModuleType, fresh: list) -> dict[int, np.ndarray]:
    """The true captions of the scenes that have one, by the scene's place."""
    named = {i: words.ends(shown) for i, shown in enumerate(fresh)}
    return {i: words.tokens(words.caption(fresh[i], both)) for i, both in named.items() if both}


def test_caption_names_the_outermost_objects(words: ModuleType, fresh: list, captions: dict[int, np.ndarray]) -> None:
    """By the bounding boxes' middles, apart from the centres that the recipe uses, with the difference's slack."""
    for i, caption in captions.items():
        said = words.words(caption).split()
        middle = {
            fresh[i].noun(k): np.mean([*np.nonzero(o.mask.any(0))[0][[0, -1]]])
            for k, o in enumerate(fresh[i].scene.objects)
        }
        assert middle[said[3]] <= min(middle.values()) + 4
        assert middle[said[7]] >= max(middle.values()) - 4


def test_next_words_are_right(words, pixels, captions) -> None:
    rows, truth = list(captions), np.stack(list(captions.values()))
    assert len(rows) >= 30
    found = run(CAPTION, image=pixels[rows], tokens=truth[:, :-1]).argmax(2) == truth[:, 1:]
    assert found.mean() >= 0.95
    assert found[:, words.NOUN_STEPS].mean() >= 0.93


def test_a_word_is_not_foretold_from_words_to_come(pixels: np.ndarray, captions: dict[int, np.ndarray]) -> None:
    tokens = np.stack(list(captions.values()))[:, :-1]
    logits = run(CAPTION, image=pixels[list(captions)], tokens=tokens)
    short = run(CAPTION, image=pixels[list(captions)], tokens=tokens[:, :3])
    np.testing.assert_allclose(short, logits[:, :3], atol=1e-4)


def test_two_files_say_what_one_says(pixels: np.ndarray, captions: dict[int, np.ndarray]) -> None:
    tokens, image = np.stack(list(captions.values()))[:, :-1], pixels[list(captions)]
    features = run(ENCODER, image=image)
    assert features.shape[1:] == (64, *zoo.model(DECODER).input_size)
    apart = run(DECODER, features=features, tokens=tokens)
    np.testing.assert_allclose(apart, run(CAPTION, image=image, tokens=tokens), atol=1e-4)


# ---------------------------------------------------------------- the samples


def samples() -> list[dict]:
    return json.loads((folder() / "samples.json").read_text(encoding="utf-8"))


def folder() -> Path:
    return zoo.root() / zoo.model(VQA).samples


@pytest.mark.parametrize("entry", samples(), ids=lambda entry: entry["file"])
def test_sample_is_what_it_says(words: ModuleType, entry: dict) -> None:
    shown = words.render(entry["seed"], entry["size"])
    stored = cv2.imread(str(folder() / entry["file"]), cv2.IMREAD_COLOR)[..., ::-1]
    mask = cv2.imread(str(folder() / entry["mask"]), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(shown.scene.image, stored)
    for number, (thing, stated) in enumerate(zip(shown.scene.objects, entry["objects"], strict=True)):
        np.testing.assert_array_equal(mask == number + 1, thing.mask)
        assert shown.phrase(number) == f"a {stated['colour']} {stated['label']}"
        assert thing.mask.mean() <= 0.06
    assert words.caption(shown, tuple(entry["named"])) == entry["caption"]
    assert words.ends(shown) == tuple(entry["named"])


def test_samples_show_every_shape_and_colour(words: ModuleType) -> None:
    things = [thing for entry in samples() for thing in entry["objects"]]
    assert {t["label"] for t in things} == set(recipe("scenes").CLASSES)
    assert {t["colour"] for t in things} == set(words.COLOUR_NAMES)
