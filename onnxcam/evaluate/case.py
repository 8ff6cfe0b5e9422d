"""What metrics look at: a picture with its truth, and one map of it; what several metrics need is made once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnxcam.core.localize import Placement
from onnxcam.evaluate import faithfulness
from onnxcam.evaluate.data import Sample
from onnxcam.evaluate.faithfulness import Array, Curve, Predict
from onnxcam.evaluate.localization import component_boxes, region
from onnxcam.evaluate.masks import Mask, read_mask


@dataclass(frozen=True, eq=False)
class Case:
    """A sample, read.

    Attributes:
        sample: what is known of it.
        shown: the samples of the same picture, by class of the data, this one among them.
        x: (1, C, H, W) float32, the picture as the model gets it.
        placement: where the picture lies in it.
        logits: (K,), of the picture.
        explained: the class of the model that maps explain.
        names: the data's classes of each of the model's.
        probability: of the explained class.
        logit: of the explained class.
        batch: pictures of one run.
        seed: of all that is drawn for this sample.
    """

    sample: Sample
    shown: Mapping[str, Sample]
    x: Array
    placement: Placement
    logits: Array
    explained: int
    names: Mapping[int, tuple[str, ...]]
    probability: Predict
    logit: Predict
    batch: int = 16
    seed: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the picture."""
        return self.placement.source

    def top(self, count: int) -> list[int]:
        """The classes that the model predicts, best first; equal ones in the order of their indices."""
        return [int(k) for k in np.argsort(-self.logits, kind="stable")[:count]]

    def is_first(self, suits: Callable[[Sample], bool]) -> bool:
        """Of the samples of its picture that suit: the one that a measure of whole pictures is taken on."""
        return next(filter(suits, self.shown.values()), None) is self.sample

    def region(self, sample: Sample | None = None) -> Mask:
        """Bool (H, W): the pixels of the objects of a sample, by its mask, else by its boxes.

        Those whose centres lie in a box; of boxes too thin for that, the pixels that they touch. Without either, none.
        """
        one = sample or self.sample
        mask = self.mask if one is self.sample else read_mask(one.mask, self.size)
        found = region(self.size, one.boxes) if mask is None else mask
        if one.boxes and not found.any():
            touched = [(math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)) for x0, y0, x1, y1 in one.boxes]
            return region(self.size, touched)
        return found

    @cached_property
    def mask(self) -> Mask | None:
        """The sample's own, where the data has one."""
        return read_mask(self.sample.mask, self.size)

    @cached_property
    def before(self) -> float:
        """The probability of the explained class."""
        return float(self.probability(self.x)[0])

    @cached_property
    def occlusion(self) -> Array:
        """(H, W) of the input: how far the logit falls where a window is hidden."""
        return faithfulness.occlusion_map(self.logit, self.x, batch=self.batch)


@dataclass(frozen=True, eq=False)
class View:
    """One map of a case.

    Attributes:
        case: of what.
        cam: the raw map.
        signed: the raw map with its signs; of pixel methods the attribution's sum over the channels.
        heatmap: (H, W) float32 in [0, 1], of the input's size.
        explain: the same method's map of a class, of the picture seen through a heatmap, or as it is (None).
        curves: what was measured step by step, by name; filled as metrics are asked.
    """

    case: Case
    cam: Array
    signed: Array
    heatmap: Array
    explain: Callable[[Array | None, int], View]
    curves: dict[str, Curve] = field(default_factory=dict)
    _classes: dict[int, View] = field(default_factory=dict)

    @cached_property
    def on_picture(self) -> Array:
        """The heatmap in the picture's frame, (H0, W0)."""
        return np.clip(self.case.placement.to_image(self.heatmap), 0.0, 1.0)

    @cached_property
    def boxes(self) -> list[Array]:
        """Round its components in the picture's frame, per threshold the largest first."""
        return component_boxes(self.on_picture)

    def of_class(self, index: int) -> View:
        """The map of another class."""
        if index == self.case.explained:
            return self
        if index not in self._classes:
            self._classes[index] = self.explain(None, index)
        return self._classes[index]

    def curve(self, name: str, make: Callable[[], Curve]) -> Curve:
        """A curve that is made once."""
        if name not in self.curves:
            self.curves[name] = make()
        return self.curves[name]

    @cached_property
    def after(self) -> float:
        """The probability of the explained class when the picture is seen through the map."""
        seen = faithfulness.seen_through(self.case.x, self.heatmap)
        return float(self.case.probability(seen.astype(self.case.x.dtype))[0])
