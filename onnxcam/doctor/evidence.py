"""What speaks against a convention where no label does: the graph's own records of the pictures it was made for.

Peaked, stable or confident answers are no such evidence: wrong conventions often give more of them than the right one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxcam.image import InputSpec, Preprocess
from onnxcam.model import Model

Numbers = npt.NDArray[np.float64]
OUTSIDE, UNUSED = 0.4, 0.2  # of a convention's range beyond the quantiser's; of the quantiser's range that it fills
MISFIT = 2.0  # further from the running statistics than the best: 4 times the spread, or 2 deviations off
FROZEN = 0.005  # how much answers differ from photo to photo, to how much scores differ
FEW = 3  # different photos, at least


@dataclass(frozen=True)
class RunningStatistics:
    """The mean and variance that a BatchNormalization saw in training.

    Attributes:
        value: what it normalises.
        node: the node's name.
        mean, deviation: (C,).
    """

    value: str
    node: str
    mean: Numbers
    deviation: Numbers

    def misfit(self, mean: Numbers, square: Numbers) -> float:
        """How far (N, C) moments of N pictures lie from these.

        Per channel ``hypot((m - mean) / deviation, log2(s / deviation))`` with m and s the mean and the standard
        deviation over all N; of these the median.
        """
        m = mean.mean(axis=0)
        s = np.sqrt(np.maximum(square.mean(axis=0) - m**2, 1e-20))
        far = np.hypot((m - self.mean) / self.deviation, np.log2(s / self.deviation))
        return float(np.median(np.where(np.isfinite(far), far, np.inf)))


def moments(a: npt.NDArray[np.generic]) -> tuple[Numbers, Numbers]:
    """(N, C, ...) -> (N, C) twice: per picture and channel the mean, and the mean of the squares."""
    values, rest = a.astype(np.float64), tuple(range(2, a.ndim))
    with np.errstate(all="ignore"):
        return values.mean(axis=rest), np.square(values).mean(axis=rest)


def running_statistics(model: Model) -> RunningStatistics | None:
    """Of the BatchNormalization nearest to the image; None where it is folded away, or never saw any data."""
    for node in model.graph:
        if node.op_type != "BatchNormalization" or len(node.inputs) < 5:
            continue
        held = [v.const_value.numpy() for v in node.inputs[3:5] if v is not None and v.const_value is not None]
        if len(held) < 2 or node.inputs[0] is None or node.inputs[0].const_value is not None:
            continue
        mean, variance = (np.asarray(a, np.float64) for a in held)
        if np.all(mean == 0) and np.all(variance == 1):
            continue
        return RunningStatistics(str(node.inputs[0].name), str(node.name), mean, np.sqrt(np.maximum(variance, 1e-12)))
    return None


def out_of_range(preprocess: Preprocess, spec: InputSpec, held: tuple[float, float]) -> str:
    """Why a convention does not fit an input quantiser of that range; "" if it may."""
    ends = [preprocess.apply(np.full((1, 1, 3), level, np.uint8), _tiny(spec))[0] for level in (0, 255)]
    low, high = float(np.min(ends)), float(np.max(ends))
    inside = max(0.0, min(high, held[1]) - max(low, held[0]))
    if inside < (1 - OUTSIDE) * (high - low) or inside < UNUSED * (held[1] - held[0]):
        return f"makes {low:.3g} to {high:.3g}; the model's input quantiser holds {held[0]:.3g} to {held[1]:.3g}"
    return ""


def _tiny(spec: InputSpec) -> InputSpec:
    return InputSpec(spec.layout, spec.channels, 1, 1, np.float32)


def variety(scores: Numbers) -> float:
    """How much (N, M) scores differ from photo to photo, to how much they differ at all; 0: one answer to all."""
    if not scores.size or not np.all(np.isfinite(scores)):
        return float("nan")
    over_photos = float(np.sqrt(scores.var(axis=0).mean()))
    whole = float(scores.std()) if scores.shape[1] > 1 else float(np.abs(scores).mean())
    return over_photos / whole if whole > 0 else 0.0
