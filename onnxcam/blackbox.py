"""BlackBox: explains what is no .onnx, any function that scores a batch of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcam import __version__
from onnxcam.core import maps
from onnxcam.errors import ModelError, OptionError, UnknownNameError
from onnxcam.explanation import Explanation
from onnxcam.graph.inspect import Logits
from onnxcam.image import InputSpec, Preprocess, as_image
from onnxcam.labels import find_labels
from onnxcam.methods import NEEDS, Method, find_method, possible
from onnxcam.record import Raw, Recorder, Shaping
from onnxcam.targets import Logit, Margin, Target, as_target

Array = npt.NDArray[Any]
Predict = Callable[[Array], Any]
Progress = Callable[[int, int], None]


class Score(Logit):
    """A class's score as the function gives it: its scale is the function's own."""

    name = "score"
    words = "score of {}"


class BlackBox:
    """Explains the answers of any function that scores pictures, by methods that hide parts of them.

    Args:
        predict: a batch of pictures to scores (B, classes), or (B,) where there is one score. It gets uint8
            (B, H, W, 3), RGB; with ``preprocess``, float32 (B, 3, H, W); with ``spec``, what that says.
        size: (H, W) of the pictures it gets; None keeps each picture's own.
        preprocess: a preset or a :class:`~onnxcam.image.Preprocess`, for a function that does not preprocess itself.
        labels: class names or a file of them.
        method: a method that needs scores alone, such as occlusion, rise, aise, lime or kernelshap; or one of your own.
        options: the method's options.
        budget: how many runs, for methods where that can be chosen.
        batch: most pictures of one call.
        progress: called with (done, total).
        normalize: ``"max"``, ``"minmax"``, ...; None: what the method's maps are made for.
        spec: layout, size and element type of what the function gets, where it is neither of the two.

    Raises:
        OptionError: a method that needs more than scores, or an option that it does not have.
        UnknownNameError: unknown method or preset.

    Example::

        box = BlackBox(lambda pictures: model.predict(pictures / 255.0), size=(224, 224), method="rise")
        box.explain("dog.jpg").save("out/")
    """

    def __init__(
        self,
        predict: Predict,
        size: tuple[int, int] | None = None,
        preprocess: str | Preprocess | None = None,
        labels: str | Path | Sequence[str] | None = None,
        method: str | Method = "rise",
        *,
        options: Mapping[str, Any] | None = None,
        budget: int | None = None,
        batch: int = 16,
        progress: Progress | None = None,
        normalize: str | None = None,
        spec: InputSpec | None = None,
    ) -> None:
        if not callable(predict):
            raise OptionError(f"BlackBox takes a function of a batch of pictures, not {type(predict).__name__}")
        if batch < 1:
            raise OptionError(f"batch={batch}: give a number above 0")
        if normalize is not None and normalize not in maps.NORMALIZATIONS:
            raise UnknownNameError.of("normalization", normalize, maps.NORMALIZATIONS)
        self.predict, self.batch, self.progress = predict, batch, progress
        self.method = _by_scores(method if isinstance(method, Method) else find_method(method))
        self.options = self.method.checked(options or {}, budget)
        self.shaping = Shaping(normalize or self.method.normalize)
        self.labels = find_labels(labels, {})
        self.spec = _spec(spec, size, preprocess)
        self.preprocess, self._note = _preprocess(preprocess, self.spec)

    @property
    def name(self) -> str:
        """The function's name, or its address where it has one."""
        return str(getattr(self.predict, "url", getattr(self.predict, "__qualname__", type(self.predict).__name__)))

    def explain(self, image: str | Path | npt.NDArray[Any], target: int | str | Target | None = None) -> Explanation:
        """Explain one picture.

        Args:
            image: a path, or uint8 (H, W, 3) RGB.
            target: class index, label, ``"margin:A,B"`` (why A rather than B), or None for the highest score.

        Raises:
            ImageError: the picture cannot be read.
            ModelError: the function gives no scores, or NaN.
            OptionError, UnknownNameError: no such class.
        """
        picture = as_image(image)
        x, placement = self.preprocess.apply(picture, self.spec)
        pixels = np.moveaxis(x, -1, 1) if self.spec.layout == "NHWC" else x
        first = self.rows(pixels.astype(np.float32))
        chosen = self._target(target, first.shape[1])
        index = int(first[0].argmax()) if chosen.classes[0] < 0 else chosen.classes[0]
        probe = _Asked(self, pixels.astype(np.float32), chosen.fixed(index), first.shape[1])
        if not np.all(np.isfinite(first)):
            raise ModelError(f"{self.name} gives NaN or infinite scores for this picture; check what it is given")
        assert self.method.procedure is not None
        found = np.asarray(self.method.procedure(probe, **self.options), np.float32)
        answers = {**_answers(first, index), "score": _score(first, probe.target)[:, None]}
        raw = Raw(answers, [found[None]], notes=[probe.notes])
        explained = self._recorder(first.shape[1]).explanations(chosen, raw, (pixels.shape[2], pixels.shape[3]))[0]
        return replace(
            explained,
            engine="",
            image=picture,
            placement=placement,
            preprocess=self.preprocess,
            source=str(image) if isinstance(image, str | Path) else "",
            notes=(*explained.notes, *self._note),
        )

    def rows(self, pixels: Array) -> Array:
        """Ask the function: (B, C, H, W) float32 -> (B, classes) float32.

        Raises:
            ModelError: no scores, or of another shape.
        """
        found = np.asarray(self.predict(_handed(pixels, self.spec)))
        rows = found[:, None] if found.ndim == 1 else found
        if rows.ndim != 2 or len(rows) != len(pixels) or not rows.shape[1] or rows.dtype.kind not in "fiub":
            raise ModelError(
                f"{self.name} gives {found.dtype} {found.shape} for {len(pixels)} pictures; it must give numbers of "
                f"shape ({len(pixels)}, classes)"
            )
        return rows.astype(np.float32)

    def _target(self, given: int | str | Target | None, classes: int) -> Target:
        chosen = as_target(given, self.labels, classes)
        if isinstance(chosen, Logit):
            return Score(chosen.classes)
        if isinstance(chosen, Margin):
            return chosen
        raise OptionError(
            f"target {given!r}: a function's scores are explained as they are. Give a class index or a label, or "
            "margin:A,B for the difference of two"
        )

    def _recorder(self, classes: int) -> Recorder:
        scores = Logits("scores", "classes", 1, classes, "scores", (), "what the function gives")
        whence = {"model": self.name, "model_sha256": "", "versions": {"onnxcam": __version__}}
        return Recorder(self.name, scores, self.method, (), self.labels, self.shaping, whence)


class _Asked:
    """What procedures ask (:mod:`onnxcam.core.probe`), answered by a function."""

    def __init__(self, box: BlackBox, x: Array, target: Target, classes: int) -> None:
        self.box, self.x, self.target, self.classes = box, x, target, classes
        self.batch, self.notes = box.batch, list[str]()

    def score(self, x: Array) -> Array:
        """(B, C, H, W) -> (B,): the explained score."""
        parts = [self.box.rows(x[k : k + self.batch]) for k in range(0, len(x), self.batch)]
        if odd := [p.shape[1] for p in parts if p.shape[1] != self.classes]:
            raise ModelError(f"{self.box.name} gives {odd[0]} scores a picture, and {self.classes} before")
        return _score(np.concatenate(parts), self.target)

    def advance(self, done: int, total: int) -> None:
        """Hand progress on."""
        if self.box.progress is not None:
            self.box.progress(done, total)

    def note(self, text: str) -> None:
        """Keep what the record is to tell."""
        self.notes.append(text)

    def _more(self, *_: Any, **__: Any) -> Any:
        raise OptionError(f"{self.box.method.title} asks for more than scores; {_OFFER.format(_possible())}")

    gradient = activations = layer = head = bias_gradients = _more


_OFFER = "methods that need scores alone: {}"


def _possible() -> str:
    return ", ".join(possible(()))


def _by_scores(method: Method) -> Method:
    if method.needs or method.procedure is None:
        wants = " and ".join(NEEDS[n] for n in method.needs)
        raise OptionError(
            f"{method.title} needs {wants}; a function gives scores alone. Take one of the {_OFFER.format(_possible())}"
        )
    return method


def _spec(given: InputSpec | None, size: tuple[int, int] | None, preprocess: object) -> InputSpec:
    usual = InputSpec("NHWC", 3, None, None, np.uint8) if preprocess is None else InputSpec("NCHW", 3, None, None)
    spec = given or usual
    if size is None:
        return spec
    height, width = size
    if any(own not in (None, asked) for own, asked in ((spec.height, height), (spec.width, width))):
        raise OptionError(f"size={size}: it takes pictures of (height, width) = {spec.height, spec.width} only")
    return replace(spec, height=height, width=width)


def _preprocess(given: str | Preprocess | None, spec: InputSpec) -> tuple[Preprocess, tuple[str, ...]]:
    """The preprocessing, and a notice where it was chosen for the caller."""
    if isinstance(given, Preprocess):
        return given, ()
    if given not in (None, "auto"):
        return Preprocess.parse(str(given)), ()
    if np.dtype(spec.dtype).kind != "f":
        return Preprocess.parse("raw"), ()
    preset = "imagenet" if spec.channels == 3 else "unit"
    return Preprocess.parse(preset), (f"preprocessing {preset} is assumed: nothing tells; check it",)


def _handed(pixels: Array, spec: InputSpec) -> Array:
    """(B, C, H, W) float32 in the layout and type that the function gets."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        pixels = np.clip(np.rint(pixels), limits.min, limits.max)
    laid = np.moveaxis(pixels, 1, -1) if spec.layout == "NHWC" else pixels
    return np.array(laid, dtype, order="C")  # a copy: the function may keep it, and the next pictures take its place


def _score(rows: Array, target: Target) -> Array:
    picked = [rows[:, c] for c in target.classes]
    return np.asarray(picked[0] - picked[1] if len(picked) > 1 else picked[0])


def _answers(rows: Array, index: int) -> dict[str, Array]:
    """What a record tells of the prediction; scores that add up to 1 are probabilities."""
    certain = rows.shape[1] > 1 and bool(np.all(rows >= 0)) and abs(float(rows.sum()) - 1) < 1e-3
    return {"class_index": np.array([index]), "logits": rows} | ({"probabilities": rows} if certain else {})
