"""What every target is made of: a scene to write into, a score, and what is fed when it runs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcam.core.localize import Placement
from onnxcam.errors import GradientError, OptionError, UnknownNameError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.inspect import Logits
from onnxcam.graph.symbolic import PREFIX, Tensor, Writer
from onnxcam.model import Dim, dims_of

Array = npt.NDArray[Any]
TOP1 = -1  # as a class index: the arg-max
CLASS = "class"  # the input that takes class indices, behind the prefix


@dataclass(frozen=True)
class Scene:
    """What a target finds in the graph that it writes its score into.

    Attributes:
        writer: writes nodes and inputs.
        value: the logits, in the model's own form.
        logits: what is known of them.
        read: the model's own values that the score was written on, filled while it is.
    """

    writer: Writer
    value: ir.Value
    logits: Logits
    read: list[ir.Value] = field(default_factory=list)

    @property
    def independent(self) -> bool:
        """Whether each class has a probability of its own (the model ends in Sigmoid)."""
        return "Sigmoid" in self.logits.stepped_over

    @cached_property
    def rows(self) -> Tensor:
        """(N, C): one score per class.

        Raises:
            GradientError: the output is a list of boxes or words, which needs another kind of target.
        """
        if self.logits.kind in ("boxes", "tokens"):
            kinds = "Box (box:CLASS)" if self.logits.kind == "boxes" else "Token (token:WORD@STEP) or Tokens"
            raise GradientError(
                f"{self.logits.name} holds a row per {self.logits.kind[:-1].replace('boxe', 'box')} "
                f"({self.logits.reason}); a class score for the whole picture does not exist. Take the target {kinds}"
            )
        return rows(self.tensor(), self.logits)

    @cached_property
    def ranking(self) -> Tensor:
        """(N, C): numbers whose largest is that of :attr:`rows`, by fewer passes over a class per pixel; where pixels
        are ties, of the classes that win some."""
        dense = self.logits.kind == "dense"
        return _ranked(channels_first(self.tensor(), self.logits)) if dense else self.rows

    @property
    def batch(self) -> Dim:
        """The length of the batch axis."""
        dims = dims_of(self.value)
        return dims[0] if len(dims) > 1 or (dims and not isinstance(dims[0], int)) else 1

    def tensor(self, name: str | None = None) -> Tensor:
        """A value of the model by name; without one, the logits as they are.

        Raises:
            UnknownNameError: no such value.
        """
        if name is None or name == self.value.name:
            value = self.value
        else:
            graph = self.writer.graph
            named = {str(v.name): v for v in (*graph.inputs, *(v for n in graph for v in n.outputs))}
            if name not in named:
                own = [n for n in named if not n.startswith(PREFIX)]
                raise UnknownNameError.of("value", name, own, "Outputs and inner values go by their names in the graph")
            value = named[name]
        if all(value is not v for v in self.read):
            self.read.append(value)
        return self.writer.tensor(value)

    def input(self, name: str, dtype: ir.DataType, *dims: Dim) -> Tensor:
        """An input ``onnxcam/name`` (N, *dims), for what is only known when the model runs; one for several scores."""
        held = next((v for v in self.writer.graph.inputs if v.name == f"{PREFIX}{name}"), None)
        return self.writer.tensor(held) if held else self.writer.input(f"{PREFIX}{name}", dtype, (self.batch, *dims))


@dataclass(frozen=True)
class Head:
    """A score written into a graph.

    Attributes:
        score: (N, 1).
        class_index: (N,) int64, arg-max resolved; -1 where the score is of no class.
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
class View:
    """One sample, for a target that has to look at it before it can say what is explained.

    Attributes:
        logits: where the scores are.
        label: how messages call the model.
        labels: class names.
        vocabulary: words of a model of language.
        placement: where the picture lies in the model's input.
        feeds: what the model is fed.
        peek: the model's own values by name, from a plain run.
        embed: a reference picture -> its logits (C,).
    """

    logits: Logits
    label: str
    labels: Sequence[str] | None
    vocabulary: Sequence[str] | None
    placement: Placement
    feeds: Mapping[str, Array]
    peek: Callable[[Sequence[str]], list[Array]]
    embed: Callable[[Any], Array]

    def class_index(self, given: int | str, count: int | None) -> int:
        """A class index from an index or a label.

        Raises:
            OptionError: an index that the model does not have.
            UnknownNameError: a label that is not there.
        """
        return checked_index(class_index(given, self.labels), count)

    def to_input(self, point: tuple[float, float]) -> tuple[float, float]:
        """A point (x, y) in pixels of the picture, in pixels of the model's input.

        Raises:
            OptionError: it lies outside the picture, or outside what the model sees of it.
        """
        (height, width), (x, y) = self.placement.source, point
        if not (0 <= x <= width and 0 <= y <= height):
            raise OptionError(f"the point {x:g},{y:g} lies outside the picture, which is {width} x {height} pixels")
        found = self.placement.point_to_input(x, y)
        if not (0 <= found[0] <= self.placement.size[1] and 0 <= found[1] <= self.placement.size[0]):
            raise OptionError(
                f"the model does not see the point {x:g},{y:g}: it is cut off by the crop. Give a point nearer to the "
                "centre, or preprocess with fit=stretch or fit=letterbox"
            )
        return found


class Target:
    """A score. Subclasses say which, as an expression on the model's values.

    Attributes:
        name: as written in options.
        words: how it is called, with a place per class.
        looks: whether :meth:`settled` needs a run of the model on the sample.
        notes: what a reader should know of what was settled.
        facts: the same for machines, kept in the record.
    """

    name: ClassVar[str] = ""
    words: ClassVar[str] = ""
    looks: ClassVar[bool] = False
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = {}

    @property
    def classes(self) -> tuple[int, ...]:
        """The class indices it needs, -1 for the arg-max; fed at run time, so that no other class needs a new graph."""
        return ()

    @property
    def key(self) -> Hashable:
        """What the written graph depends on; targets of one key differ only in what is fed."""
        return type(self), len(self.classes)

    def write(self, scene: Scene) -> Head:
        """Write the score into the graph."""
        raise NotImplementedError

    def feeds(self, count: int) -> dict[str, Array]:
        """What the inputs get that :meth:`write` made, for ``count`` samples."""
        return {}

    def fixed(self, index: int) -> Target:
        """The same target, with the class that the arg-max found."""
        return self

    def settled(self, view: View) -> Target:
        """The same target, with what depends on the sample decided (of those that look)."""
        return self

    def held(self, index: int, z: Array, logits: Logits) -> Target:
        """The same target for methods that change the image: what the image decides stays as it is now.

        Args:
            index: the explained class.
            z: the sample's logits in the model's own form, (1, ...).
            logits: where they are.

        Raises:
            OptionError: it cannot be held.
        """
        return self.fixed(index)

    def describe(self, names: Sequence[str]) -> str:
        """The score in words, from the names of its classes."""
        return self.words.format(*names)

    def doubt(self, score: float) -> str:
        """Why the gradient of a score says little, or ""."""
        return ""


class ClassTarget(Target):
    """A score on rows (N, C) of which one or more classes are picked by inputs ``onnxcam/class``."""

    def rows(self, scene: Scene) -> Tensor:
        """(N, C): the scores that the classes are picked from."""
        return scene.rows

    def score(self, scene: Scene, z: Tensor, picks: Sequence[Tensor]) -> Tensor:
        """(N, 1), from rows (N, C) and one (N, C) one-hot per class."""
        return pick(z, picks[0])

    def write(self, scene: Scene) -> Head:
        """Write the score behind the logits."""
        z = self.rows(scene)
        given = [scene.input(n, ir.DataType.INT64) for n in _inputs(len(self.classes))]
        own = type(self).rows is not ClassTarget.rows
        best = xp.argmax(z if own else scene.ranking, axis=1)
        indices = [_resolved(g, best) for g in given]
        picks = [one_hot(z, index) for index in indices]
        return Head(self.score(scene, z, picks), indices[0], z)

    def feeds(self, count: int) -> dict[str, Array]:
        """The class indices."""
        names = [f"{PREFIX}{n}" for n in _inputs(len(self.classes))]
        return {n: np.full(count, c, dtype=np.int64) for n, c in zip(names, self.classes, strict=True)}


def _resolved(given: Tensor, best: Tensor) -> Tensor:
    """The class, arg-max for -1; what is settled while writing is not asked again when the model runs."""
    if given.const is None:
        return xp.where(given < 0, best, given)
    return best if np.all(given.const < 0) else given


class ValueTarget(Target):
    """A score of no class."""

    def value(self, scene: Scene) -> Tensor:
        """The score, (N, 1)."""
        raise NotImplementedError

    def write(self, scene: Scene) -> Head:
        """Write the score; its class index is -1."""
        score = self.value(scene)
        none = scene.writer.constant(np.asarray([-1], dtype=np.int64))
        return Head(score, xp.broadcast_to(none, xp.dim(score, 0), score.shape and score.shape[:1]), score)


def _inputs(count: int) -> list[str]:
    return [CLASS if k == 0 else f"{CLASS}_{k + 1}" for k in range(count)]


def rows(scores: Tensor, logits: Logits) -> Tensor:
    """Logits of any form as (N, C); a dense output gives one score per class, over the pixels that it wins."""
    if logits.kind == "dense":
        return _over_own_pixels(channels_first(scores, logits))
    if scores.rank == 1:
        return xp.expand_dims(scores, 0 if isinstance((scores.shape or (0,))[0], int) else 1)
    return scores if scores.rank == 2 else xp.squeeze(scores, tuple(range(2, scores.rank)))


def channels_first(scores: Tensor, logits: Logits) -> Tensor:
    """A dense output as (N, C, H, W)."""
    return scores if logits.class_axis == 1 else xp.permute_dims(scores, [0, 3, 1, 2])


def _over_own_pixels(z: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C): the mean of a class's logit over the pixels where it is the top one, else over all.

    Vinogradova et al., "Towards Interpretable Semantic Segmentation via Gradient-weighted Class Activation Mapping",
    2020, https://arxiv.org/abs/2002.11434, equation 2, with the predicted region as the set of pixels.
    """
    pixels = tuple(range(2, z.rank))
    _, won, share = _own_pixels(z)
    none = xp.astype(share == 0, z.dtype)
    own, whole = (xp.mean(m, pixels, keepdims=True) for m in (z * won, z))
    return xp.squeeze((own + whole * none) / (share + none), pixels)


def _own_pixels(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The top logit of each pixel, which class has it, 1 or 0, and of how many pixels each class does, as a share."""
    top = xp.max(z, axis=1, keepdims=True)
    won = xp.astype(z == top, z.dtype)
    share = xp.mean(won, tuple(range(2, z.rank)), keepdims=True)
    z.writer.means[won.value] = lambda: share
    return top, won, share


def _ranked(z: Tensor) -> Tensor:
    """A class's own pixels hold the top logit, so one product sums it there. No class that wins none is the top one:
    its mean over all pixels is below that of the top logits, and so, where each pixel has one winner, below the best
    mean of a class that wins some. Low pixels that several share may pull all of these below it; they stay the winners.
    """
    top, won, share = _own_pixels(z)
    classes = z.shape[1] if z.shape is not None and isinstance(z.shape[1], int) else 0
    sums = xp.matmul(xp.reshape(won, [0, classes, -1]), xp.reshape(top, [0, -1, 1]))
    shares = xp.reshape(share, [0, 0, 1])
    return xp.squeeze(xp.where(shares > 0, sums / shares, -np.inf), 2)


def one_hot(scores: Tensor, index: Tensor, axis: int = 1) -> Tensor:
    """1 at ``index`` along an axis of ``scores``, else 0: (N,) -> (N, length), (N, k) -> (N, k, length)."""
    zero, one = (scores.writer.constant(np.asarray(v, dtype=np.int64)) for v in (0, 1))
    places = scores.writer.op("Range", zero, xp.squeeze(xp.dim(scores, axis), 0), one)
    found = xp.astype(places == xp.expand_dims(index, index.rank), scores.dtype)
    if index.rank == 1 and axis == scores.rank - 1 == 1:
        scores.writer.one_hots[found.value] = index
    return found


def pick(scores: Tensor, one_hot: Tensor) -> Tensor:
    """(N, C) -> (N, 1)."""
    return xp.sum(scores * one_hot, axis=1, keepdims=True)


def class_index(given: int | str, labels: Sequence[str] | None, kind: str = "class") -> int:
    """An index from an index or a name (case does not matter; the first of a synonym list is enough).

    Raises:
        OptionError: neither a number nor a name.
        UnknownNameError: a name that is not in ``labels``.
    """
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
    lists = {"class": ("labels", "class index", "label file"), "word": ("vocabulary", "word's id", "vocabulary")}[kind]
    hint = "" if known else f"No {lists[0]} known for this model: give a {lists[1]}, or a {lists[2]}"
    raise UnknownNameError.of(kind, text, known, hint)


def checked_index(index: int, count: int | None) -> int:
    """A class index that the model has, or -1.

    Raises:
        OptionError: it has not.
    """
    if index < TOP1 or (count is not None and index >= count):
        known = f"0 to {count - 1}" if count is not None else "0 and up"
        raise OptionError(f"class {index} does not exist; this model has classes {known} (-1: the top one)")
    return index
