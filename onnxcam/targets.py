"""What is explained: each target writes one scalar per sample, the score, in front of the reverse walk."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcam.errors import GradientError, OptionError, UnknownNameError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.inspect import Logits
from onnxcam.graph.symbolic import PREFIX, Tensor, Writer
from onnxcam.model import Dim, dims_of

TOP1 = -1  # as a class index: the arg-max
CLASS = "class"  # the input that takes class indices, behind the prefix


@dataclass(frozen=True)
class Scene:
    """What a target finds in the graph that it writes its score into.

    Attributes:
        writer: writes nodes and inputs.
        value: the logits, in the model's own form.
        logits: what is known of them.
    """

    writer: Writer
    value: ir.Value
    logits: Logits

    @property
    def independent(self) -> bool:
        """Whether each class has a probability of its own (the model ends in Sigmoid)."""
        return "Sigmoid" in self.logits.stepped_over

    @cached_property
    def rows(self) -> Tensor:
        """(N, C): one score per class.

        Raises:
            GradientError: the output is a list of boxes, which needs another kind of target.
        """
        if self.logits.kind == "boxes":
            raise GradientError(
                f"{self.logits.name} holds a row per box ({self.logits.reason}); a class score for the whole picture "
                "does not exist. Explain a classifier or a segmenter, or differentiate one element with add_gradients"
            )
        return rows(self.writer.tensor(self.value), self.logits)

    @property
    def batch(self) -> Dim:
        """The length of the batch axis."""
        return dims_of(self.value)[0] if len(dims_of(self.value)) > 1 else 1

    def tensor(self, name: str) -> Tensor:
        """Any value of the model, by name."""
        return self.writer.tensor(next(v for n in self.writer.graph for v in n.outputs if v.name == name))

    def input(self, name: str, dtype: ir.DataType, *dims: Dim) -> Tensor:
        """A new input ``onnxcam/name`` (N, *dims), for what is only known when the model runs."""
        return self.writer.input(f"{PREFIX}{name}", dtype, (self.batch, *dims))


@dataclass(frozen=True)
class Head:
    """A score written into a graph.

    Attributes:
        score: (N, 1).
        class_index: (N,) int64, arg-max resolved.
        logits: (N, C).
    """

    score: Tensor
    class_index: Tensor
    logits: Tensor

    @property
    def answers(self) -> dict[str, Tensor]:
        """What a run tells of the prediction, by name."""
        return {"score": self.score, "class_index": self.class_index, "logits": self.logits}


@dataclass(frozen=True)
class Target:
    """A score. Subclasses say which, as an expression on the logits.

    Attributes:
        classes: the class indices it needs, -1 for the arg-max; they are fed at run time, so that no other class needs
            another graph.
    """

    classes: tuple[int, ...] = (TOP1,)
    name: ClassVar[str] = ""
    words: ClassVar[str] = ""

    @property
    def key(self) -> Hashable:
        """What the written graph depends on; targets of one key differ only in what is fed."""
        return type(self), len(self.classes)

    def score(self, scene: Scene, picks: Sequence[Tensor]) -> Tensor:
        """(N, 1), from the scene's (N, C) rows and one (N, C) one-hot per class."""
        raise NotImplementedError

    def write(self, scene: Scene) -> Head:
        """Write the score behind the logits."""
        names = [CLASS if k == 0 else f"{CLASS}_{k + 1}" for k in range(len(self.classes))]
        given = [scene.input(n, ir.DataType.INT64) for n in names]
        best = xp.argmax(scene.rows, axis=1)
        indices = [xp.where(g < 0, best, g) for g in given]
        picks = [_one_hot(scene.rows, index) for index in indices]
        return Head(self.score(scene, picks), indices[0], scene.rows)

    def feeds(self, count: int) -> dict[str, npt.NDArray[Any]]:
        """What the inputs get that :meth:`write` made, for ``count`` samples."""
        names = [f"{PREFIX}{CLASS}" if k == 0 else f"{PREFIX}{CLASS}_{k + 1}" for k in range(len(self.classes))]
        return {n: np.full(count, c, dtype=np.int64) for n, c in zip(names, self.classes, strict=True)}

    def fixed(self, index: int) -> Target:
        """The same target, with the class that the arg-max found."""
        return replace(self, classes=(index, *self.classes[1:]))


class Logit(Target):
    """The class logit (Grad-CAM's y^c; https://arxiv.org/abs/1610.02391, section 3)."""

    name = "logit"
    words = "logit of {}"

    def score(self, scene: Scene, picks: Sequence[Tensor]) -> Tensor:
        """sum_j z_j [j = c]."""
        return _pick(scene.rows, picks[0])


class Probability(Target):
    """The class probability, softmax(z)_c. Its gradient vanishes where the model is certain."""

    name = "probability"
    words = "probability of {}"

    def score(self, scene: Scene, picks: Sequence[Tensor]) -> Tensor:
        """softmax(z)_c, or sigmoid(z_c) where classes are independent."""
        z, write = scene.rows, scene.writer.op
        return _pick(write("Sigmoid", z) if scene.independent else write("Softmax", z, axis=1), picks[0])


class LogProbability(Target):
    """The logarithm of the class probability."""

    name = "logprob"
    words = "log-probability of {}"

    def score(self, scene: Scene, picks: Sequence[Tensor]) -> Tensor:
        """log softmax(z)_c, or log sigmoid(z_c) = -softplus(-z_c) where classes are independent."""
        z, write = scene.rows, scene.writer.op
        return _pick(-write("Softplus", -z) if scene.independent else write("LogSoftmax", z, axis=1), picks[0])


class Margin(Target):
    """Why class a rather than class b: z_a - z_b.

    Prabhushankar et al., "Contrastive Explanations in Neural Networks", ICIP 2020, https://arxiv.org/abs/2008.00178.
    """

    name = "margin"
    words = "margin of {} over {}"

    def score(self, scene: Scene, picks: Sequence[Tensor]) -> Tensor:
        """z_a - z_b."""
        return _pick(scene.rows, picks[0]) - _pick(scene.rows, picks[1])


TARGETS: dict[str, type[Target]] = {t.name: t for t in (Logit, Probability, LogProbability, Margin)}


def rows(scores: Tensor, logits: Logits) -> Tensor:
    """Logits of any form as (N, C); a dense output gives one score per class, over the pixels that it wins."""
    if logits.kind == "dense":
        return _over_own_pixels(scores if logits.class_axis == 1 else xp.permute_dims(scores, [0, 3, 1, 2]))
    if scores.rank == 1:
        return xp.expand_dims(scores, 0)
    return scores if scores.rank == 2 else xp.squeeze(scores, tuple(range(2, scores.rank)))


def _over_own_pixels(z: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C): the mean of a class's logit over the pixels where it is the top one, else over all.

    Vinogradova et al., "Towards Interpretable Semantic Segmentation via Gradient-weighted Class Activation Mapping",
    2020, https://arxiv.org/abs/2002.11434, equation 2, with the predicted region as the set of pixels.
    """
    pixels = tuple(range(2, z.rank))
    won = xp.astype(z == xp.max(z, axis=1, keepdims=True), z.dtype)
    count = xp.sum(won, axis=pixels)
    own = xp.sum(z * won, axis=pixels) / xp.maximum(count, 1.0)
    return xp.where(count > 0, own, xp.mean(z, axis=pixels))


def _one_hot(scores: Tensor, index: Tensor) -> Tensor:
    zero, one = (scores.writer.constant(np.asarray(v, dtype=np.int64)) for v in (0, 1))
    places = scores.writer.op("Range", zero, xp.squeeze(xp.dim(scores, 1), 0), one)
    return xp.astype(places == xp.expand_dims(index, 1), scores.dtype)


def _pick(scores: Tensor, one_hot: Tensor) -> Tensor:
    return xp.sum(scores * one_hot, axis=1, keepdims=True)


def as_target(
    given: int | str | Target | None, labels: Sequence[str] | None, classes: int | None, kind: str = "logit"
) -> Target:
    """A target from what a caller writes: None or -1 (top-1), a class index, a label, ``margin:A,B``, or a target.

    ``kind`` is the score of a class where the caller names only the class.

    Raises:
        OptionError: an index that the model does not have.
        UnknownNameError: a label that is not in ``labels``.
    """
    if isinstance(given, Target):
        return _checked(given, classes)
    if given is None:
        return TARGETS[kind]()
    if isinstance(given, str) and (named := given.partition(":")[0]) in TARGETS:
        names = [part for part in given.partition(":")[2].split(",") if part.strip()]
        target = TARGETS[named](tuple(class_index(n, labels) for n in names) or (TOP1,))
        return _checked(target, classes)
    return _checked(TARGETS[kind]((class_index(given, labels),)), classes)


def class_index(given: int | str, labels: Sequence[str] | None) -> int:
    """A class index from an index or a label (case does not matter; the first of a synonym list is enough)."""
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        return int(given)
    if not isinstance(given, str):
        raise OptionError(f"a target is a class index, a label or a Target, not {given!r}")
    text = given.strip()
    if text.lstrip("-").isdigit():
        return int(text)
    known = list(labels or ())
    folded = text.casefold()
    for index, label in enumerate(known):
        if folded in (label.casefold(), label.casefold().split(",")[0].strip()):
            return index
    hint = "" if known else "No labels are known for this model: give a class index, or a label file"
    raise UnknownNameError.of("class", text, known, hint)


def _checked(target: Target, classes: int | None) -> Target:
    needed = 2 if isinstance(target, Margin) else 1
    if type(target) in TARGETS.values() and (len(target.classes) != needed or len(set(target.classes)) != needed):
        what = (
            "needs two classes, such as margin:281,285"
            if needed == 2
            else f"takes one class, such as {target.name}:281"
        )
        raise OptionError(f"a {target.name} {what}; given {', '.join(map(str, target.classes))}")
    for index in target.classes:
        if index < TOP1 or (classes is not None and index >= classes):
            known = f"0 to {classes - 1}" if classes is not None else "0 and up"
            raise OptionError(f"class {index} does not exist; this model has classes {known} (-1: the top one)")
    return target
