"""Scores of classes: logit, probability, differences and sums."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxcam.errors import OptionError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.inspect import Logits
from onnxcam.graph.symbolic import Tensor
from onnxcam.targets.base import TOP1, Array, ClassTarget, Scene, Target, one_hot, pick
from onnxcam.targets.dense import own_region

_SURE = 1e-6  # nearer to 0 or 1 a float32 probability has no gradient but rounding


@dataclass(frozen=True)
class _Classes(ClassTarget):
    """A target that is told by its classes alone.

    Attributes:
        classes: the class indices, -1 for the arg-max.
    """

    classes: tuple[int, ...] = (TOP1,)

    def fixed(self, index: int) -> _Classes:
        """The same target, with the class that the arg-max found."""
        return replace(self, classes=(index, *self.classes[1:]))

    def held(self, index: int, z: Array, logits: Logits) -> Target:
        """With the pixels that the class wins now, where there is a class per pixel."""
        return own_region(self.fixed(index), z, logits) if logits.kind == "dense" else self.fixed(index)


class Logit(_Classes):
    """The class logit (Grad-CAM's y^c; https://arxiv.org/abs/1610.02391, section 3): sum_j z_j [j = c]."""

    name = "logit"
    words = "logit of {}"


class Probability(_Classes):
    """The class probability, softmax(z)_c. Its gradient vanishes where the model is certain."""

    name = "probability"
    words = "probability of {}"

    def score(self, scene: Scene, z: Tensor, picks: Sequence[Tensor]) -> Tensor:
        """softmax(z)_c, or sigmoid(z_c) where classes are independent."""
        write = scene.writer.op
        return pick(write("Sigmoid", z) if scene.independent else write("Softmax", z, axis=1), picks[0])

    def doubt(self, score: float) -> str:
        """A saturated probability."""
        if _SURE < score < 1 - _SURE:
            return ""
        return (
            f"the probability is saturated at {score:.7g}: its gradient is 0 but for rounding, and the map says "
            "little. Explain the logit instead: target 'logit:CLASS'"
        )


class LogProbability(_Classes):
    """The logarithm of the class probability."""

    name = "logprob"
    words = "log-probability of {}"

    def score(self, scene: Scene, z: Tensor, picks: Sequence[Tensor]) -> Tensor:
        """log softmax(z)_c, or log sigmoid(z_c) = -softplus(-z_c) where classes are independent."""
        write = scene.writer.op
        return pick(-write("Softplus", -z) if scene.independent else write("LogSoftmax", z, axis=1), picks[0])

    def doubt(self, score: float) -> str:
        """A saturated probability."""
        if score < -_SURE:
            return ""
        return (
            f"the log-probability is saturated at {score:.3g}: its gradient is 0 but for rounding, and the map says "
            "little. Explain the logit instead: target 'logit:CLASS'"
        )


class Rest(LogProbability):
    """Residual softmax: z_c + log softmax(z)_c, the score that ShapleyCAM is made for.

    Cai, "CAMs as Shapley Value-based Explainers", 2025, https://arxiv.org/abs/2501.06261: unlike a logit it looks at
    the other classes too, and unlike a log-probability it does not saturate.
    """

    name = "rest"
    words = "logit and log-probability of {}"

    def score(self, scene: Scene, z: Tensor, picks: Sequence[Tensor]) -> Tensor:
        """z_c + log softmax(z)_c, or z_c + log sigmoid(z_c) where classes are independent."""
        return pick(z, picks[0]) + super().score(scene, z, picks)

    def doubt(self, score: float) -> str:
        """The logit never saturates."""
        return ""


class Margin(_Classes):
    """Why class a rather than class b: z_a - z_b.

    Prabhushankar et al., "Contrastive Explanations in Neural Networks", ICIP 2020, https://arxiv.org/abs/2008.00178.
    """

    name = "margin"
    words = "margin of {} over {}"

    def score(self, scene: Scene, z: Tensor, picks: Sequence[Tensor]) -> Tensor:
        """z_a - z_b."""
        return pick(z, picks[0]) - pick(z, picks[1])


class Sum(_Classes):
    """Several classes at once, of a model of many labels: the sum of their logits, sum_c z_c."""

    name = "sum"

    def score(self, scene: Scene, z: Tensor, picks: Sequence[Tensor]) -> Tensor:
        """sum_c z_c."""
        total = pick(z, picks[0])
        for one in picks[1:]:
            total = total + pick(z, one)
        return total

    def describe(self, names: Sequence[str]) -> str:
        """All of them."""
        return f"sum of the logits of {', '.join(names)}"


@dataclass(frozen=True)
class Finer(_Classes):
    """What sets a class apart from those most like it: z_c - strength * mean_d z_d.

    The classes d are those whose logits are nearest to z_c, or those that are given behind c.

    Zhang et al., "Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation", CVPR 2025,
    https://arxiv.org/abs/2501.11309: y^c - gamma y^d, its weights averaged over three similar classes, gamma 0.6.

    Attributes:
        strength: gamma, 0 (the logit) to 1.
        references: how many similar classes are looked for.

    Raises:
        OptionError: the model has one class.
    """

    name = "finer"
    strength: float = 0.6
    references: int = 3

    @property
    def key(self) -> Hashable:
        """All but which classes."""
        return Finer, len(self.classes), self.strength, self.references

    def score(self, scene: Scene, z: Tensor, picks: Sequence[Tensor]) -> Tensor:
        """z_c - strength * mean_d z_d."""
        others = list(picks[1:]) or [self._similar(z, picks[0])]
        total = others[0]
        for one in others[1:]:
            total = total + one
        mean = pick(z, total) / xp.sum(total, axis=1, keepdims=True)
        return pick(z, picks[0]) - mean * self.strength

    def _similar(self, z: Tensor, own: Tensor) -> Tensor:
        """(N, C): 1 at the classes whose logits are nearest to the class's own."""
        known = (z.shape or (None, None))[1]
        if known == 1:
            raise OptionError("this model has one class, and none that is like it; take the target logit")
        count = min(self.references, known - 1) if isinstance(known, int) else self.references
        distance = xp.abs(z - pick(z, own)) + own * float(np.finfo(z.dtype.numpy()).max / 4)
        k = z.writer.constant(np.asarray([count], dtype=np.int64))
        nearest = z.writer.ops("TopK", distance, k, outputs=2, axis=1, largest=0)[1]
        return xp.sum(one_hot(z, xp.astype(nearest, ir.DataType.INT64)), axis=1)

    def held(self, index: int, z: Array, logits: Logits) -> Target:
        """With the classes that are most like it now."""
        own = z.reshape(len(z), z.shape[1], -1).mean(axis=2)[0] if logits.kind == "dense" else z.reshape(-1)
        distance = np.abs(own - own[index])
        distance[index] = np.inf
        nearest = np.argsort(distance, kind="stable")[: min(self.references, len(own) - 1)]
        named = self.classes[1:] or tuple(map(int, nearest))
        return super(Finer, replace(self, classes=(index, *named))).held(index, z, logits)

    def describe(self, names: Sequence[str]) -> str:
        """Against what."""
        against = ", ".join(names[1:]) or f"the {self.references} classes most like it"
        return f"logit of {names[0]} less {self.strength:g} x the mean of {against}"
