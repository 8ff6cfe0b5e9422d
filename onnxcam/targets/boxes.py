"""Detection: the class score of one box. Which box is settled on a plain run, in NumPy."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcam.errors import ModelError, OptionError
from onnxcam.graph import symbolic as xp
from onnxcam.graph.detector import Detector
from onnxcam.graph.inspect import Logits
from onnxcam.graph.symbolic import PREFIX, Tensor
from onnxcam.targets.base import TOP1, Array, ClassTarget, Scene, Target, View, one_hot

_BOX = "box"
_FAINT = 0.1  # as a probability; a box that scores less is hardly a detection
_SHARE = 2.0  # coordinates up to here are shares of the input, not pixels


@dataclass(frozen=True)
class Box(ClassTarget):
    """The class score of one box of a detector, as the detector gives it: logit, probability, or objectness x class.

    Attributes:
        of: the class: index, label, or -1 for the best of the box.
        point: (x, y) in pixels of the picture: the best box of the class that holds the point, or else the nearest.
        index: the box itself: its row in the output; where the graph suppresses boxes, a row of what it selects.
        row: which row is explained, once that is known.
    """

    of: int | str = TOP1
    point: tuple[float, float] | None = None
    index: int | None = None
    row: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    name = "box"
    looks = True

    @property
    def classes(self) -> tuple[int, ...]:
        """One."""
        return (self.of if isinstance(self.of, int) else TOP1,)

    @property
    def key(self) -> Hashable:
        """Box and class are fed."""
        return Box

    def describe(self, names: Sequence[str]) -> str:
        """Which box of which class."""
        return f"score of box {self.row} as {names[0]}"

    def fixed(self, index: int) -> Box:
        """With the class that the arg-max found."""
        return replace(self, of=index)

    def held(self, index: int, z: Array, logits: Logits) -> Target:
        """The row is the box, except in a list that the model sorts anew for every image.

        Raises:
            OptionError: such a list.
        """
        if logits.detector is not None and logits.detector.form == "listed":
            raise OptionError(
                "this detector gives a sorted list: when the image changes, a row is another box, and methods that "
                "change the image would explain now one, now the other. Take a gradient method, such as hirescam"
            )
        return self.fixed(index)

    def feeds(self, count: int) -> dict[str, Array]:
        """Class and box."""
        assert self.row is not None, "a target that looks is settled before it is fed"
        return {**super().feeds(count), f"{PREFIX}{_BOX}": np.full(count, self.row, dtype=np.int64)}

    def rows(self, scene: Scene) -> Tensor:
        """(N, C): the class scores of the box."""
        detector, z = scene.logits.detector, scene.tensor()
        assert detector is not None
        at = one_hot(z, scene.input(_BOX, ir.DataType.INT64), detector.box_axis)
        row = xp.sum(z * xp.expand_dims(at, detector.class_axis), axis=detector.box_axis)
        if detector.form == "listed":
            return xp.slice_axis(row, 1, 4, 5)
        classes = xp.slice_axis(row, 1, detector.first, np.iinfo(np.int64).max)
        if detector.objectness is None:
            return classes
        return classes * xp.slice_axis(row, 1, detector.objectness, detector.objectness + 1)

    def score(self, scene: Scene, z: Tensor, picks: Sequence[Tensor]) -> Tensor:
        """The class's; of a listed box, the only one there is."""
        assert scene.logits.detector is not None
        return z if scene.logits.detector.form == "listed" else super().score(scene, z, picks)

    def settled(self, view: View) -> Box:
        """With row and class.

        Raises:
            OptionError: no detector, no such box or class, or a point where boxes cannot be decoded.
        """
        detector = view.logits.detector
        if detector is None:
            raise OptionError(f"{view.label} gives {view.logits.kind}, no boxes; take a class as target")
        if view.logits.classes == 0:
            raise OptionError(
                f"{detector.scores} holds too few columns per box for coordinates and classes; give the output that "
                "holds the scores"
            )
        seen = _Seen.of(view, detector)
        wanted = None if self.of == TOP1 else view.class_index(self.of, view.logits.classes)
        row, index = seen.given(self.index, wanted) if self.index is not None else self._best(view, seen, wanted)
        facts: dict[str, Any] = {"index": row, "class_index": index, "score": float(seen.scores[row, index])}
        if seen.boxes is not None:
            facts["xyxy"] = [round(float(v), 1) for v in view.placement.box_to_image(tuple(seen.boxes[row]))]
        facts["reason"] = detector.reason
        notes = (_said(facts, view.labels), *seen.warnings(row, index))
        return replace(self, of=index, row=row, facts={"box": facts}, notes=notes)

    def _best(self, view: View, seen: _Seen, wanted: int | None) -> tuple[int, int]:
        point = None if self.point is None else view.to_input(self.point)
        return seen.best(wanted) if point is None else seen.near(point, wanted, view.label)


@dataclass(frozen=True)
class _Seen:
    """The boxes of one picture, all of them.

    Attributes:
        scores: (B, C) as probabilities where the detector's own numbers are none.
        boxes: (B, 4) corners x0, y0, x1, y1 in pixels of the input, or None.
        selection: (row, class) of each box that the graph selects, or None where it selects none.
        background: the class that stands for nothing, or None.
    """

    scores: Array
    boxes: Array | None
    selection: Array | None
    background: int | None

    @classmethod
    def of(cls, view: View, detector: Detector) -> _Seen:
        """From a plain run."""
        names = [n for n in dict.fromkeys((detector.scores, detector.boxes, detector.selection)) if n]
        found = dict(zip(names, view.peek(names), strict=True))
        if not len(found[detector.scores]):
            raise ModelError(f"{view.label} gives no scores for a picture: {detector.scores} is empty. Export it again")
        rows = np.moveaxis(found[detector.scores][0], detector.box_axis - 1, 0).astype(np.float64)
        scores = _probabilities(_class_scores(detector, rows), view.logits.stepped_over)
        boxes = decoded(detector, found.get(detector.boxes), view.placement.size)
        chosen = found.get(detector.selection)
        selection = None if chosen is None else chosen[chosen[:, 0] == 0][:, [2, 1]]
        return cls(scores, boxes, selection, _background(scores) if detector.form == "pair" else None)

    @property
    def rated(self) -> Array:
        """Scores, the background's left out."""
        if self.background is None:
            return self.scores
        masked = self.scores.copy()
        masked[:, self.background] = -np.inf
        return masked

    def best(self, wanted: int | None) -> tuple[int, int]:
        """Row and class of the best box, of a class or of any."""
        if wanted is not None:
            return int(np.argmax(self.scores[:, wanted])), wanted
        row, index = np.unravel_index(np.argmax(self.rated), self.scores.shape)
        return int(row), int(index)

    def given(self, index: int, wanted: int | None) -> tuple[int, int]:
        """Row and class of a box by its number."""
        count = len(self.scores) if self.selection is None else len(self.selection)
        if not 0 <= index < count:
            what = "boxes are" if self.selection is None else "boxes are selected, numbered"
            raise OptionError(f"box {index} does not exist: {what} 0 to {count - 1}" if count else "no box is selected")
        if self.selection is None:
            return index, int(np.argmax(self.rated[index])) if wanted is None else wanted
        row, own = self.selection[index]
        return int(row), int(own) if wanted is None else wanted

    def near(self, point: tuple[float, float], wanted: int | None, label: str) -> tuple[int, int]:
        """The best box of those that hold a point, else of those nearest to it among the likely ones."""
        if self.boxes is None:
            raise OptionError(
                f"the boxes of {label} cannot be decoded from the graph, so that none is at a point; give a class "
                "(box:CLASS) or a number (box:#INDEX)"
            )
        best = self.rated.max(axis=1) if wanted is None else self.scores[:, wanted]
        (x, y), (x0, y0, x1, y1) = point, self.boxes.T
        away = np.hypot(np.maximum(0, np.maximum(x0 - x, x - x1)), np.maximum(0, np.maximum(y0 - y, y - y1)))
        away[best < best.max() * (0 if np.any(away == 0) else 0.5)] = np.inf
        row = int(np.lexsort((-best, away))[0])
        return row, int(np.argmax(self.rated[row])) if wanted is None else wanted

    def warnings(self, row: int, index: int) -> list[str]:
        """What makes a choice doubtful."""
        found = []
        if self.selection is not None and self.scores.shape[1] == 1:
            found.append("the graph suppresses the boxes of all classes together, so that it does not tell the class")
        if index == self.background:
            found.append(f"class {index} wins in most boxes: it stands for the background")
        if 0 <= (score := float(self.scores[row, index])) < _FAINT:
            found.append(f"the box scores only {score:.2g}: the detector hardly sees this class there")
        return found


def likely_boxes(view: View, least: float = 0.5) -> Array:
    """Where a detector sees something: corners (K, 4) x0, y0, x1, y1 in pixels of the input.

    Args:
        view: of one sample.
        least: score of a box, as a probability; of those that the graph selects, where it selects any.

    Raises:
        OptionError: no detector, or boxes that cannot be decoded from its graph.
    """
    detector = view.logits.detector
    seen = None if detector is None else _Seen.of(view, detector)
    if seen is None or seen.boxes is None:
        raise OptionError(f"{view.label} gives {view.logits.kind}, and no boxes that can be decoded: take a detector")
    rows = np.arange(len(seen.boxes)) if seen.selection is None else np.unique(seen.selection[:, 0])
    return np.asarray(seen.boxes[[k for k in rows if seen.rated[k].max(initial=0) >= least]])


def _class_scores(detector: Detector, rows: Array) -> Array:
    """(B, F) -> (B, C)."""
    if detector.form == "listed":
        classes = np.rint(rows[:, 5]).astype(int).clip(0)
        return np.asarray(rows[:, 4:5] * (classes[:, None] == np.arange(classes.max(initial=0) + 1)))
    own = rows[:, detector.first :]
    return own if detector.objectness is None else np.asarray(own * rows[:, detector.objectness, None])


def _probabilities(scores: Array, stepped_over: Sequence[str]) -> Array:
    """Logits by the function that the model has behind them; what lies between 0 and 1 is left."""
    if {"Softmax", "LogSoftmax"} & set(stepped_over):
        raised = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))
    if "Sigmoid" in stepped_over or scores.min(initial=0) < 0 or scores.max(initial=0) > 1:
        return np.asarray(1 / (1 + np.exp(-scores.clip(-80, 80))))
    return scores


def _background(scores: Array) -> int | None:
    """The first or last class, where more than half of all boxes are sure of it."""
    sure = (scores > 0.5).mean(axis=0)
    return next((k for k in (0, scores.shape[1] - 1) if scores.shape[1] > 1 and sure[k] > 0.5), None)


def decoded(detector: Detector, found: Array | None, size: tuple[int, int]) -> Array | None:
    """Corners (B, 4) x0, y0, x1, y1 in pixels of the input (height, width); None where the graph does not tell them.

    Offsets (YOLOX, https://arxiv.org/abs/2107.08430) are (d + cell) * stride for centres and exp(d) * stride for sizes.
    """
    if found is None or detector.coding == "unknown":
        return None
    whole = found[0]
    axis = (
        detector.box_axis - 1 if detector.form in ("columns", "listed") else int(whole.shape[0] == 4 != whole.shape[1])
    )
    boxes = np.moveaxis(whole, axis, 0)[:, :4].astype(np.float64)
    if detector.coding == "offsets":
        return _from_centres(_on_grids(boxes, detector.levels, size))
    if np.abs(boxes).max(initial=0) <= _SHARE:
        boxes = boxes * np.tile(size if detector.coding == "rows" else size[::-1], 2)
    if detector.coding == "rows":
        return np.asarray(boxes[:, [1, 0, 3, 2]])
    ordered = np.all(boxes[:, 2:] >= boxes[:, :2])
    centres = detector.coding == "center" or (detector.coding == "measured" and not ordered)
    return _from_centres(boxes) if centres else boxes


def _on_grids(boxes: Array, levels: Sequence[tuple[int, int]], size: tuple[int, int]) -> Array:
    """Offsets -> centres and sizes in pixels."""
    cells = np.concatenate([np.indices(level)[::-1].reshape(2, -1).T for level in levels])
    strides = np.concatenate([np.tile((size[1] / w, size[0] / h), (h * w, 1)) for h, w in levels])
    return np.concatenate([(boxes[:, :2] + cells) * strides, np.exp(boxes[:, 2:]) * strides], axis=1)


def _from_centres(boxes: Array) -> Array:
    """cx, cy, w, h -> x0, y0, x1, y1."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _said(facts: Mapping[str, Any], labels: Sequence[str] | None) -> str:
    index = facts["class_index"]
    name = labels[index] if labels and 0 <= index < len(labels) else f"class {index}"
    where = " from {:.0f},{:.0f} to {:.0f},{:.0f}".format(*facts["xyxy"]) if "xyxy" in facts else ""
    return f"explains box {facts['index']}: {name} {facts['score']:.2f}{where}"
