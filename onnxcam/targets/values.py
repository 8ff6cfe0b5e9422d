"""Scores of no class: an element of an output, a likeness, an expression of one's own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcam.errors import OptionError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.paths import FLOATS
from onnxcam.graph.symbolic import PREFIX, Tensor
from onnxcam.model import dims_of
from onnxcam.targets.base import Array, Scene, ValueTarget, View

Expression = Callable[[Any, Mapping[str, Any]], Any]
_REFERENCE = "reference"


@dataclass(frozen=True)
class Element(ValueTarget):
    """One number of the model's output, as it comes out: what a regression predicts, or any element.

    Attributes:
        index: places along the axes behind the batch; () where there is one number per picture.
    """

    index: tuple[int, ...] = ()
    name = "element"

    @property
    def key(self) -> Hashable:
        """The place is a part of the graph."""
        return Element, self.index

    def describe(self, names: Sequence[str]) -> str:
        """Which element."""
        return f"output element [{', '.join(map(str, self.index))}]" if self.index else "output value"

    def value(self, scene: Scene) -> Tensor:
        """The element, (N, 1).

        Raises:
            OptionError: the output has other axes, or fewer elements.
        """
        y = scene.tensor(scene.logits.output)
        if y.dtype not in FLOATS:
            raise OptionError(f"output {scene.logits.output} is {y.dtype}; a score is a float. Explain a class instead")
        dims = dims_of(y.value)
        batched = len(dims) > 1 or not isinstance(dims[0], int)
        inner = dims[1:] if batched else dims
        self._check(scene.logits.output, inner)
        for axis, at in enumerate(self.index, start=int(batched)):
            at += int(inner[axis - batched]) if at < 0 else 0  # type: ignore[arg-type]
            y = xp.slice_axis(y, axis, at, at + 1)
        return xp.astype(xp.reshape(y, [-1, 1]), ir.DataType.FLOAT)

    def _check(self, name: str, inner: Sequence[Any]) -> None:
        shape = ", ".join("any" if d is None else str(d) for d in inner)
        if not self.index and any(isinstance(d, int) and d != 1 for d in inner):
            raise OptionError(f"output {name} holds ({shape}) numbers per picture: say which, as in element:3")
        if self.index and len(self.index) != len(inner):
            raise OptionError(f"output {name} has axes ({shape}) per picture; {len(self.index)} places are given")
        for at, length in zip(self.index, inner, strict=False):
            if (isinstance(length, int) and not -length <= at < length) or (not isinstance(length, int) and at < 0):
                raise OptionError(f"element {at} does not exist on an axis of length {length} of output {name}")


@dataclass(frozen=True, eq=False)
class Similarity(ValueTarget):
    """How like a reference the model finds a picture: the cosine of their embeddings, <z, r> / (|z| |r|).

    Attributes:
        reference: an embedding (D,), or a picture: a path, or uint8 (H, W, 3) RGB.
        vector: its embedding, once that is known.
    """

    reference: str | Path | npt.NDArray[Any]
    vector: Array | None = None
    name = "similar"
    looks = True

    @property
    def key(self) -> Hashable:
        """The reference is fed."""
        return Similarity

    def describe(self, names: Sequence[str]) -> str:
        """To what."""
        given = self.reference
        return f"similarity to {Path(given).name if isinstance(given, str | Path) else 'the reference'}"

    def settled(self, view: View) -> Similarity:
        """With the reference embedded.

        Raises:
            OptionError: an embedding of another length, or zero.
        """
        given, count = self.reference, view.logits.classes
        ready = isinstance(given, np.ndarray) and given.ndim == 1
        vector = np.asarray(given if ready else view.embed(given), dtype=np.float32)
        if count is not None and vector.shape != (count,):
            raise OptionError(f"the reference has {len(vector)} numbers; {view.label} embeds a picture in {count}")
        if not np.all(np.isfinite(vector)) or not np.any(vector):
            raise OptionError("the reference is zero or not finite, so that nothing is like it; give another one")
        return replace(self, vector=vector)

    def feeds(self, count: int) -> dict[str, Array]:
        """The reference's embedding."""
        assert self.vector is not None, "a target that looks is settled before it is fed"
        return {f"{PREFIX}{_REFERENCE}": np.repeat(self.vector[None], count, axis=0)}

    def value(self, scene: Scene) -> Tensor:
        """The cosine, (N, 1)."""
        z = scene.rows
        r = xp.astype(scene.input(_REFERENCE, ir.DataType.FLOAT, (z.shape or (None, None))[1]), z.dtype)
        norms = [xp.sqrt(xp.sum(v * v, axis=1, keepdims=True)) for v in (z, r)]
        return xp.sum(z * r, axis=1, keepdims=True) / xp.maximum(norms[0] * norms[1], 1e-12)


@dataclass(frozen=True)
class Custom(ValueTarget):
    """Any score: a function of the array namespace and the model's values by name.

    ``Custom(lambda xp, out: xp.mean(out["scores"][:, 3:6], axis=1))`` explains the mean of three columns. The function
    is called once, when the graph is written; what it computes becomes nodes. ``xp`` is
    :mod:`onnxcam.graph.symbolic`; ``out`` knows outputs and inner values by their names, and ``"logits"``.

    Attributes:
        function: (xp, out) -> (N,) or (N, 1).
        title: how the score is called.
    """

    function: Expression
    title: str = "custom score"
    name = "custom"

    @property
    def key(self) -> Hashable:
        """The function; the same one is written once."""
        return Custom, self.function

    def describe(self, names: Sequence[str]) -> str:
        """Its title."""
        return self.title

    def value(self, scene: Scene) -> Tensor:
        """What the function gives, (N, 1).

        Raises:
            OptionError: it gives anything else.
        """
        found = self.function(xp, _Values(scene))
        shape = found.shape if isinstance(found, Tensor) else None
        if shape is None or len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
            what = f"shape {shape}" if isinstance(found, Tensor) else repr(found)
            raise OptionError(f"a custom score is one number per picture, (N,) or (N, 1); the function gives {what}")
        return found if len(shape) == 2 else xp.expand_dims(found, 1)


class _Values(Mapping[str, Tensor]):
    """The model's values by name, written down when they are read."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def __getitem__(self, name: str) -> Tensor:
        graph = self._scene.writer.graph
        own = any(v.name == name for v in graph.outputs) or any(v.name == name for n in graph for v in n.outputs)
        return self._scene.tensor(None if name == "logits" and not own else name)

    def __iter__(self) -> Iterator[str]:
        return (str(v.name) for v in self._scene.writer.graph.outputs)

    def __len__(self) -> int:
        return len(self._scene.writer.graph.outputs)
