"""Segmentation: a class over a region or at a point."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcam.errors import OptionError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.inspect import Logits
from onnxcam.graph.symbolic import PREFIX, Tensor
from onnxcam.targets.base import TOP1, Array, ClassTarget, Scene, View, channels_first

_MASK = "mask"


@dataclass(frozen=True, eq=False)
class Region(ClassTarget):
    """A class of a segmentation over some pixels: the mean of its logit there, sum_ij M_ij z_c,ij / sum_ij M_ij.

    Vinogradova et al., "Towards Interpretable Semantic Segmentation via Gradient-weighted Class Activation Mapping",
    2020, https://arxiv.org/abs/2002.11434, equation 2. A point is a region of one pixel of the output.

    Attributes:
        of: the class: index, label, or -1 for the top one there.
        point: (x, y) in pixels of the picture.
        mask: bool or float (H, W), of the size of the picture, of the model's input or of its output.
        weights: the region on the output's grid, once that is known.
    """

    of: int | str = TOP1
    point: tuple[float, float] | None = None
    mask: npt.NDArray[Any] | None = None
    weights: Array | None = None
    name = "region"
    looks = True

    @property
    def classes(self) -> tuple[int, ...]:
        """One."""
        return (self.of if isinstance(self.of, int) else TOP1,)

    @property
    def key(self) -> Hashable:
        """Class and region are fed."""
        return Region

    def describe(self, names: Sequence[str]) -> str:
        """Which class, and where."""
        where = "over the mask" if self.point is None else "at {:g},{:g}".format(*self.point)
        return f"logit of {names[0]} {where}"

    def fixed(self, index: int) -> Region:
        """With the class that the arg-max found."""
        return replace(self, of=index)

    def settled(self, view: View) -> Region:
        """With the region on the output's own grid.

        Raises:
            OptionError: no segmentation, no region, a point outside, or a mask of another size or empty.
        """
        if view.logits.kind != "dense":
            raise OptionError(f"{view.label} gives {view.logits.kind}, no class per pixel; leave point and mask out")
        (z,) = view.peek([view.logits.name])
        size = (z.shape[2], z.shape[3]) if view.logits.class_axis == 1 else (z.shape[1], z.shape[2])
        if (self.point is None) == (self.mask is None):
            raise OptionError("a region is given by a point or by a mask, one of them")
        found = self._at_point(view, size) if self.mask is None else self._over_mask(view, size)
        return replace(self, of=view.class_index(self.of, view.logits.classes), weights=found / found.sum())

    def _at_point(self, view: View, size: tuple[int, int]) -> Array:
        assert self.point is not None
        x, y = view.to_input(self.point)
        height, width = view.placement.size
        row, column = int(y * size[0] / height), int(x * size[1] / width)
        one = np.zeros(size, dtype=np.float32)
        one[min(row, size[0] - 1), min(column, size[1] - 1)] = 1.0
        return one

    def _over_mask(self, view: View, size: tuple[int, int]) -> Array:
        mask, place = np.asarray(self.mask), view.placement
        known = {"the picture": place.source, "the model's input": place.size, "its output": size}
        if mask.shape not in known.values():
            text = ", ".join(f"{name} is {h} x {w}" for name, (h, w) in known.items())
            raise OptionError(f"the mask has shape {mask.shape}; {text} (height x width)")
        weights = np.nan_to_num(mask.astype(np.float32))
        if mask.shape == place.source and mask.shape != place.size:
            share = (255 * np.clip(weights, 0, 1)).astype(np.uint8)[..., None]
            weights = place.to_input(share, fill=0)[..., 0].astype(np.float32)
        weights = _shares(size[0], len(weights)) @ weights @ _shares(size[1], weights.shape[1]).T
        if not weights.sum() > 0:
            raise OptionError("the mask is empty where the model looks; mark at least one pixel")
        return weights

    def feeds(self, count: int) -> dict[str, Array]:
        """Class and region."""
        assert self.weights is not None, "a target that looks is settled before it is fed"
        region = np.repeat(self.weights[None].astype(np.float32), count, axis=0)
        return {**super().feeds(count), f"{PREFIX}{_MASK}": region}

    def rows(self, scene: Scene) -> Tensor:
        """(N, C): each class's logit over the region."""
        return _over_region(scene)


@dataclass(frozen=True, eq=False)
class Held(ClassTarget):
    """A score of classes over the pixels that the class won on the image as it is, whatever is done to the image.

    Attributes:
        inner: the score.
        weights: (H, W), the pixels, in sum 1.
    """

    inner: ClassTarget
    weights: Array

    @property
    def classes(self) -> tuple[int, ...]:
        """The score's."""
        return self.inner.classes

    @property
    def key(self) -> Hashable:
        """Which pixels is fed."""
        return Held, self.inner.key

    def score(self, scene: Scene, z: Tensor, picks: Sequence[Tensor]) -> Tensor:
        """The score's own, over these pixels."""
        return self.inner.score(scene, z, picks)

    def rows(self, scene: Scene) -> Tensor:
        """(N, C): each class's logit over the pixels."""
        return _over_region(scene)

    def feeds(self, count: int) -> dict[str, Array]:
        """Classes and pixels."""
        return {**self.inner.feeds(count), f"{PREFIX}{_MASK}": np.repeat(self.weights[None], count, axis=0)}


def own_region(target: ClassTarget, z: Array, logits: Logits) -> Held:
    """``target`` over the pixels that its first class wins in ``z`` (1, ...), or over all where it wins none."""
    scores = z[0] if logits.class_axis == 1 else np.moveaxis(z[0], -1, 0)
    won = (scores[target.classes[0]] == scores.max(axis=0)).astype(np.float32)
    won = won if won.any() else np.ones_like(won)
    return Held(target, won / won.sum())


def _over_region(scene: Scene) -> Tensor:
    z = channels_first(scene.tensor(), scene.logits)
    height, width = (z.shape or (None,) * 4)[2:]
    region = xp.astype(scene.input(_MASK, ir.DataType.FLOAT, height, width), z.dtype)
    return xp.sum(z * xp.expand_dims(region, 1), axis=(2, 3))


def _shares(cells: int, pixels: int) -> Array:
    """(cells, pixels): which share of each cell of a coarser (or finer) grid each pixel takes."""
    edges = np.arange(cells + 1) * pixels / cells
    low, high = np.maximum.outer(edges[:-1], np.arange(pixels)), np.minimum.outer(edges[1:], np.arange(1, pixels + 1))
    shares = np.maximum(high - low, 0)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float32)
