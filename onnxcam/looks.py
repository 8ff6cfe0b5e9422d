"""What a target may see of a sample before it says what is explained, and the level of a detector that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcam.core.localize import Placement
from onnxcam.image import InputSpec, Preprocess, as_image
from onnxcam.programs import Programs
from onnxcam.runtime import Array
from onnxcam.targets import View


@dataclass(frozen=True)
class Looks:
    """Makes the views of one explainer.

    Attributes:
        programs: of the model.
        preprocess: for reference pictures.
        spec: the model's input.
        labels: class names.
        vocabulary: words.
    """

    programs: Programs
    preprocess: Preprocess
    spec: InputSpec
    labels: Sequence[str] | None
    vocabulary: Sequence[str] | None

    def view(self, x: Array, others: Mapping[str, Array], placement: Placement | None) -> View:
        """Of one sample; without a placement, points are in pixels of the input."""
        size = x.shape[2:] if self.spec.layout == "NCHW" else x.shape[1:3]
        height, width = int(size[0]), int(size[1])
        feeds = self._feeds(x, others)
        return View(
            self.programs.logits,
            self.programs.model.label,
            self.labels,
            self.vocabulary,
            placement or Placement.stretch((height, width), (height, width)),
            feeds,
            partial(self.programs.peek, feeds=feeds),
            partial(self._embed, others),
        )

    def _feeds(self, x: Array, others: Mapping[str, Array]) -> dict[str, Array]:
        """One sample, as often as a fixed batch axis wants it."""
        image = self.programs.model.image_input
        return {n: np.repeat(a, image.batch or 1, axis=0) for n, a in {image.name: x, **others}.items()}

    def _embed(self, others: Mapping[str, Array], picture: str | Path | npt.NDArray[Any]) -> Array:
        """The logits of a reference picture, (C,)."""
        x, _ = self.preprocess.apply(as_image(picture), self.spec)
        (found,) = self.programs.peek([self.programs.logits.name], self._feeds(x, others))
        return np.asarray(found[0].reshape(-1))
