"""Scenes with words: objects of named colours, questions with answers, captions; one vocabulary for all.

A text is the ids of its words, separated by spaces: ``<pad>`` (0) fills up a shorter text and says nothing, a caption
stands between ``<start>`` and ``<end>``. The list ``VOCABULARY`` is what the models carry as ``onnxcam/vocabulary``.

* question: "is there a star", "is there a red star"; the answer is 0 (no) or 1 (yes);
* caption: "a red star and a blue circle", the outermost objects, left one first, by the centres of their masks.
  Scenes in which an end is disputed (another centre within ``CLEAR`` of the width) are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scenes

COLOURS = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.12, 0.62, 0.18),
    "blue": (0.12, 0.20, 0.88),
    "yellow": (0.93, 0.85, 0.08),
    "black": (0.06, 0.06, 0.06),
    "white": (0.95, 0.95, 0.95),
}
COLOUR_NAMES = tuple(COLOURS)
SPECIAL = ("<pad>", "<start>", "<end>")
VOCABULARY = (*SPECIAL, "a", "and", "is", "there", *COLOUR_NAMES, *scenes.CLASSES)
ID = {word: number for number, word in enumerate(VOCABULARY)}
PAD, START, END = (ID[word] for word in SPECIAL)
ANSWERS = ("no", "yes")
JITTER, GROUND_DISTANCE, CLEAR = 0.06, 0.40, 0.04
COLOUR_STEPS, NOUN_STEPS = (1, 5), (2, 6)  # the steps whose logits foretell a caption's colours and nouns


@dataclass(frozen=True)
class Worded:
    """A scene and the colour of each of its objects, as an index into ``COLOUR_NAMES``."""

    scene: scenes.Scene
    colours: tuple[int, ...]

    def noun(self, index: int) -> str:
        return scenes.CLASSES[self.scene.objects[index].class_index]

    def phrase(self, index: int) -> str:
        """Object ``index`` in words: "a red star"."""
        return f"a {COLOUR_NAMES[self.colours[index]]} {self.noun(index)}"


def render(seed: int, size: int = scenes.SIZE) -> Worded:
    """The scene of ``seed`` with objects in named colours that stand out from the ground."""
    drawn: list[int] = []

    def palette(rng: scenes.Rng, ground: scenes.Array) -> Iterator[scenes.Array]:
        while True:
            index = int(rng.integers(len(COLOURS)))
            plain = np.array(COLOURS[COLOUR_NAMES[index]])
            if np.linalg.norm(ground - plain, axis=1).min() > GROUND_DISTANCE:
                drawn.append(index)
                yield np.clip(plain + rng.uniform(-JITTER, JITTER, 3), 0, 1)

    scene = scenes.render(seed, size, palette)
    return Worded(scene, tuple(drawn))


def tokens(text: str, length: int = 0) -> npt.NDArray[np.int64]:
    """The ids of a text's words, filled up with ``<pad>`` to ``length``: int64 (T,)."""
    ids = [ID[word] for word in text.split()]
    return np.array(ids + [PAD] * (length - len(ids)), np.int64)


def words(ids: Sequence[int]) -> str:
    return " ".join(VOCABULARY[i] for i in ids if i != PAD)


# ---------------------------------------------------------------- questions


def question(shape: str, colour: str | None = None) -> str:
    return f"is there a {colour} {shape}" if colour else f"is there a {shape}"


def asked(worded: Worded, shape: int, colour: int | None) -> int | None:
    """The object that a question is about, by its index, or None: the answer is no."""
    for index, shown in enumerate(worded.scene.objects):
        if shown.class_index == shape and colour in (None, worded.colours[index]):
            return index
    return None


# ---------------------------------------------------------------- captions


def ends(worded: Worded) -> tuple[int, int] | None:
    """The leftmost and the rightmost object, by their indices; None where an end is disputed."""
    centres = [np.nonzero(o.mask.any(0))[0] for o in worded.scene.objects]
    x = np.array([np.average(c, weights=o.mask.sum(0)[c]) for c, o in zip(centres, worded.scene.objects, strict=True)])
    order, margin = np.argsort(x), CLEAR * worded.scene.image.shape[1]
    if x[order[1]] - x[order[0]] < margin or x[order[-1]] - x[order[-2]] < margin:
        return None
    return int(order[0]), int(order[-1])


def captioned(first_seed: int, count: int) -> Iterator[tuple[Worded, tuple[int, int]]]:
    """``count`` scenes with their outermost objects, from ``first_seed`` on, disputed ones left out."""
    seed = first_seed
    while count:
        worded = render(seed)
        seed += 1
        if (named := ends(worded)) is not None:
            count -= 1
            yield worded, named


def caption(worded: Worded, named: tuple[int, int]) -> str:
    left, right = named
    return f"<start> {worded.phrase(left)} and {worded.phrase(right)} <end>"
