"""Words of models that write: a token at a step, or a whole text."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxcam.errors import OptionError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import PREFIX, Tensor
from onnxcam.targets.base import TOP1, Array, ClassTarget, Scene, ValueTarget, View, checked_index, class_index, one_hot

_STEP, _TEXT = "step", "text"


@dataclass(frozen=True)
class Token(ClassTarget):
    """One word at one step of a model that gives scores (N, T, V): z_t,w, or its log-probability.

    Step t is the place along T; in a model that foretells the next word it is about word t + 1 of the text that is fed.

    Attributes:
        word: the token: an id, a word of the model's vocabulary, or -1 for the top one.
        step: counted from 0, or from the end where negative; None takes the step that foretells ``word`` in the text
            that is fed, or the last step.
        log: the log-probability, log softmax(z_t)_w, instead of the logit.
    """

    word: int | str = TOP1
    step: int | None = None
    log: bool = False
    name = "token"
    looks = True

    @property
    def classes(self) -> tuple[int, ...]:
        """One."""
        return (self.word if isinstance(self.word, int) else TOP1,)

    @property
    def key(self) -> Hashable:
        """Word and step are fed."""
        return Token, self.log

    def describe(self, names: Sequence[str]) -> str:
        """Which word, and when."""
        return f"{'log-probability' if self.log else 'logit'} of {names[0]} at step {self.step}"

    def fixed(self, index: int) -> Token:
        """With the word that the arg-max found."""
        return replace(self, word=index)

    def settled(self, view: View) -> Token:
        """With an id and a step from 0 on.

        Raises:
            OptionError: no words come out, or no such step or id.
            UnknownNameError: a word that is not in the vocabulary.
        """
        steps, words = _shape(view)
        word = checked_index(class_index(self.word, view.vocabulary, "word"), words)
        step = self._own_step(view, word, steps) if self.step is None else self.step
        if not -steps <= step < steps:
            raise OptionError(f"step {step} does not exist: {view.label} gives scores for steps 0 to {steps - 1}")
        return replace(self, word=word, step=step % steps)

    def _own_step(self, view: View, word: int, steps: int) -> int:
        places = np.flatnonzero(_text(view) == word)
        before = [int(p) - 1 for p in places if 0 < p <= steps]
        return before[0] if before and word >= 0 else steps - 1

    def feeds(self, count: int) -> dict[str, Array]:
        """Word and step."""
        assert self.step is not None, "a target that looks is settled before it is fed"
        return {**super().feeds(count), f"{PREFIX}{_STEP}": np.full(count, self.step, dtype=np.int64)}

    def rows(self, scene: Scene) -> Tensor:
        """(N, V): the words' logits at the step."""
        z = scene.tensor()
        at = one_hot(z, scene.input(_STEP, ir.DataType.INT64))
        return xp.sum(z * xp.expand_dims(at, 2), axis=1)

    def score(self, scene: Scene, z: Tensor, picks: Sequence[Tensor]) -> Tensor:
        """The word's own."""
        rated = scene.writer.op("LogSoftmax", z, axis=1) if self.log else z
        return super().score(scene, rated, picks)


@dataclass(frozen=True)
class Tokens(ValueTarget):
    """A whole text: the sum of the log-probabilities of its words, sum_k log softmax(z_{start + k})_{w_k}.

    Attributes:
        text: ids or words of the vocabulary; () takes the text that is fed, each word as the one before it foretells.
        start: the step that is about the first word.
        ids: per step the id that counts there or -1, once that is known.
    """

    text: tuple[int | str, ...] = ()
    start: int = 0
    ids: tuple[int, ...] = ()
    name = "tokens"
    looks = True

    @property
    def key(self) -> Hashable:
        """The text is fed."""
        return Tokens

    def describe(self, names: Sequence[str]) -> str:
        """Which text."""
        return f"log-probability of the text {' '.join(map(str, self.text))}"

    def settled(self, view: View) -> Tokens:
        """With ids, filled up with -1 to the model's steps.

        Raises:
            OptionError: no words come out, there is no text, or it is longer than the steps.
            UnknownNameError: a word that is not in the vocabulary.
        """
        steps, words = _shape(view)
        given = self.text or tuple(int(w) for w in _text(view)[1:])
        ids = [class_index(w, view.vocabulary, "word") for w in given]
        if not ids:
            raise OptionError("there is no text to explain: give its words, or feed a text of two words or more")
        if min(ids) < 0 or max(ids) >= words:
            raise OptionError(f"token {min(ids) if min(ids) < 0 else max(ids)} does not exist; known: 0 to {words - 1}")
        if self.start < 0 or self.start + len(ids) > steps:
            raise OptionError(
                f"{len(ids)} words from step {self.start} on do not fit: {view.label} gives scores for {steps} steps "
                "with what it is fed. Feed a longer text"
            )
        said = tuple(view.vocabulary[i] if view.vocabulary and i < len(view.vocabulary) else i for i in ids)
        rest = steps - self.start - len(ids)
        return replace(self, text=said, ids=(*[-1] * self.start, *ids, *[-1] * rest))

    def feeds(self, count: int) -> dict[str, Array]:
        """The text."""
        return {f"{PREFIX}{_TEXT}": np.repeat(np.asarray(self.ids, dtype=np.int64)[None], count, axis=0)}

    def value(self, scene: Scene) -> Tensor:
        """The sum of log-probabilities, (N, 1)."""
        z = scene.tensor()
        at = one_hot(z, scene.input(_TEXT, ir.DataType.INT64, (z.shape or (None,) * 3)[1]), axis=2)
        return xp.expand_dims(xp.sum(scene.writer.op("LogSoftmax", z, axis=2) * at, axis=(1, 2)), 1)


def _shape(view: View) -> tuple[int, int]:
    """Steps and words of this sample."""
    (z,) = view.peek([view.logits.name])
    if view.logits.kind != "tokens" or z.ndim != 3:
        raise OptionError(f"{view.label} gives {view.logits.kind}, no words; take a class as target")
    return int(z.shape[1]), int(z.shape[2])


def _text(view: View) -> Array:
    """The ids that are fed, (T,): the integer input of rank 2, of several the one of larger numbers (a mask holds 0 and
    1); empty where there is none.
    """
    texts = [a for a in view.feeds.values() if a.ndim == 2 and a.dtype.kind in "iu" and a.size]
    return max(texts, key=lambda a: int(a.max()))[0] if texts else np.zeros(0, dtype=np.int64)
