"""Explainer: joins the parts; the only place that does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxcam.cache import identity
from onnxcam.core import maps
from onnxcam.core.localize import Placement
from onnxcam.errors import GradientError, ImageError, OptionError, UnknownNameError
from onnxcam.explanation import Explanation
from onnxcam.finding import SMOOTHINGS, Finder
from onnxcam.gradients import ENGINES
from onnxcam.graph.attention import find_attention, written_out
from onnxcam.graph.inspect import Logits, find_logits
from onnxcam.image import MAX_PIXELS, Preprocess, as_image, decode_image, read_file
from onnxcam.inputs import Given, given_inputs, vocabulary
from onnxcam.isolation import CrashError, Worker
from onnxcam.layers import TargetLayer, best_layer, classifier_layer, levels, named_layer
from onnxcam.looks import Looks
from onnxcam.methods import Method, find_method
from onnxcam.model import Model
from onnxcam.offers import offered
from onnxcam.opening import choose, input_spec, opened
from onnxcam.probe import Progress
from onnxcam.programs import Plan, Programs, repeated
from onnxcam.record import Recorder, Shaping, provenance
from onnxcam.runtime import Array, Session, doubting
from onnxcam.targets import Box, Region, Target, as_target, split_output

if TYPE_CHECKING:
    from onnxcam.export import Exported, Form

TargetLike = int | str | Target | None


@dataclass(frozen=True)
class Prepared:
    """A picture, ready for the model.

    Attributes:
        picture: uint8 (H0, W0, 3) RGB.
        tensor: (1, C, H, W) or (1, H, W, C), what the model takes.
        placement: where the picture lies in it.
        source: its path, or "".
    """

    picture: npt.NDArray[np.uint8]
    tensor: Array
    placement: Placement
    source: str = ""


class Explainer:
    """Explains the answers of one model.

    Args:
        model: a path, ``zoo:NAME``, or a loaded :class:`~onnxcam.model.Model`; several are joined one behind the
            other, such as encoder and decoder.
        preprocess: a preset (``"imagenet"``, ``"caffe,mean=104/117/123"``), a
            :class:`~onnxcam.image.Preprocess`, or ``"auto"``: what :func:`~onnxcam.conventions.known` finds, else
            ``imagenet``.
        target_layer: ``"auto"``, or one or more names of values, nodes or modules.
        method: a name of the catalogue, or a :class:`~onnxcam.methods.Method` of your own.
        engine: ``"auto"``, ``"portable"`` or ``"training"``.
        labels: class names or a file of them; None takes what its surroundings or metadata tell.
        providers: onnxruntime's execution providers.
        threads: threads within an operator.
        output: the name of the output to explain, or ``"NAME[3]"`` for that element of it; None chooses.
        options: the method's own, such as ``{"samples": 50}``; ``onnxcam methods`` lists them.
        budget: how many samples, masks or steps a method of many runs takes for an image: its option of that kind.
        inputs: what the model takes beside the picture, by name: (1, ...) for every picture, or one row per picture,
            or words where the model has a vocabulary; what is not given here is given with each picture.
        batch: most pictures of one run, for methods of many runs; on a processor fewer of large ones, for its cache.
        progress: called with (done, total) score calls by methods of many runs.
        fuse: ``"max"`` or ``"mean"`` of several layers' heatmaps; None keeps them apart.
        smooth: ``"aug"``: the mean over mirrored and brighter or darker views; ``"eigen"``: the evidence per channel
            projected onto its first principal component instead of summed.
        normalize: ``"max"`` (ReLU, then divide by the maximum), ``"minmax"``, ``"percentile"`` or ``"none"`` (raw);
            None: what suits the method.
        straight_through: let gradients pass signs, roundings and thresholds, for binarised networks.
        isolate: open the model once, decode pictures and run the runtime in a process of its own: for files of
            strangers. Where native code crashes there, a ModelError or ImageError says so, and the next picture gets a
            new process.

    Raises:
        ModelError: the file cannot be used.
        UnknownNameError: unknown method, engine, layer, output or preset.
        GradientError: the path cannot be differentiated.
        RuntimeUnavailableError: no usable ONNX Runtime.
    """

    def __init__(
        self,
        model: str | Path | Model | Sequence[str | Path | Model],
        preprocess: str | Preprocess = "auto",
        target_layer: str | Sequence[str] = "auto",
        method: str | Method = "gradcam",
        engine: str = "auto",
        labels: str | Path | Sequence[str] | None = None,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        *,
        output: str | None = None,
        options: Mapping[str, Any] | None = None,
        budget: int | None = None,
        inputs: Mapping[str, Given] | None = None,
        batch: int = 16,
        progress: Progress | None = None,
        fuse: str | None = None,
        smooth: str | Sequence[str] = (),
        normalize: str | None = None,
        straight_through: bool = False,
        isolate: bool = False,
    ) -> None:
        self.worker = Worker() if isolate else None
        self.model = opened(model, self.worker)
        self.method = method if isinstance(method, Method) else find_method(method)
        self.options = self.method.checked(options or {}, budget)
        self.inputs = given_inputs(self.model, inputs or {}, whole=False)
        if batch < 1:
            raise OptionError(f"batch={batch}: give a number above 0")
        self.batch, self.progress = batch, progress
        fusion = None if fuse is None else _one_of("fusion", fuse, maps.FUSIONS)
        self.shaping = Shaping(
            _one_of("normalization", normalize or self.method.normalize, maps.NORMALIZATIONS), fusion
        )
        self.smooth = _smoothings(smooth, self.method)
        self.spec = input_spec(self.model)
        self.preprocess, self.preprocess_reason, self.labels = choose(self.model, preprocess, labels)
        output, self.element = split_output(output, [str(v.name) for v in self.model.outputs])
        with doubting(self.model):
            self.logits: Logits = find_logits(self.model, output)
            self.layers = self._layers(target_layer)
            levelled = target_layer in ("auto", ["auto"]) and self.layers
            self.levels = levels(self.model, self.logits) if levelled else ()
        new_session = partial(Session, providers=providers, threads=threads, worker=self.worker)
        engine = _one_of("engine", engine, ENGINES)
        self.programs = Programs(self.model, self.logits, new_session, engine, straight_through, identity(self.model))
        self.vocabulary = vocabulary(self.model)
        self._looks = Looks(self.programs, self.preprocess, self.spec, self.labels, self.vocabulary)

    @classmethod
    def from_torch(cls, module: Any, example_input: Any, **options: Any) -> Explainer:
        """An explainer of a ``torch.nn.Module``, exported in memory; ``options`` as for the class itself.

        Raises:
            OptionError: torch is not installed.
            ModelError: torch cannot export the module.
        """
        from onnxcam.frameworks import torch_to_model

        return cls(torch_to_model(module, example_input), **options)

    @classmethod
    def from_keras(cls, model: Any, **options: Any) -> Explainer:
        """An explainer of a Keras model, exported in memory by tf2onnx; ``options`` as for the class itself.

        Raises:
            OptionError: TensorFlow or tf2onnx is not installed.
            ModelError: tf2onnx cannot export the model.
        """
        from onnxcam.frameworks import keras_to_model

        return cls(keras_to_model(model), **options)

    # Explaining

    def explain(
        self,
        image: str | Path | npt.NDArray[Any],
        target: TargetLike = None,
        inputs: Mapping[str, Given] | None = None,
    ) -> Explanation:
        """Explain one picture.

        Args:
            image: a path, or uint8 (H, W, 3) RGB.
            target: class index, label, a text of :data:`onnxcam.targets.FORMS` (``"margin:A,B"``, ``"box:dog@9,4"``),
                a Target, or None for the top-1 class.
            inputs: what the model takes beside the picture, where it is not the Explainer's own.

        Raises:
            ImageError: the picture cannot be read.
            OptionError, UnknownNameError: no such class.
        """
        return self.explain_batch([image], target, inputs)[0]

    def explain_batch(
        self,
        images: Sequence[str | Path | npt.NDArray[Any]],
        target: TargetLike = None,
        inputs: Mapping[str, Given] | None = None,
    ) -> list[Explanation]:
        """Explain several pictures, in one run where the model's batch axis and their sizes allow it."""
        return self.explain_prepared([self.prepare(i) for i in images], target, inputs)

    def prepare(self, image: str | Path | npt.NDArray[Any]) -> Prepared:
        """Decode and preprocess one picture, without running the model; any number of threads may at once.

        Raises:
            ImageError: the picture cannot be read.
        """
        picture = self.decode(read_file(image), image) if isinstance(image, str | Path) else as_image(image)
        tensor, placement = self.preprocess.apply(picture, self.spec)
        return Prepared(picture, tensor, placement, str(image) if isinstance(image, str | Path) else "")

    def decode(self, data: bytes, name: str | Path, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
        """The picture in a file's bytes, as :func:`onnxcam.image.decode_image`; where ``isolate`` is on, elsewhere.

        Raises:
            ImageError: it cannot be read, or native code crashed over it.
        """
        if self.worker is None:
            return decode_image(data, name, max_pixels=max_pixels)
        try:
            return self.worker.call(decode_image, data, name, max_pixels=max_pixels)
        except CrashError as crash:
            raise ImageError(f"cannot read {str(name)!r}: its decoder {crash}, in a process of its own") from crash

    def explain_prepared(
        self, pictures: Sequence[Prepared], target: TargetLike = None, inputs: Mapping[str, Given] | None = None
    ) -> list[Explanation]:
        """As :meth:`explain_batch`, of what :meth:`prepare` made."""
        others = self._others(inputs)
        tensors = [p.tensor for p in pictures]
        together = self.model.image_input.batch is None and len({x.shape for x in tensors}) == 1
        if together and tensors:
            found = self._explain(np.concatenate(tensors), target, others, [p.placement for p in pictures])
        else:
            each = [{n: a[k : k + 1] for n, a in repeated(others, len(tensors)).items()} for k in range(len(tensors))]
            found = [
                e
                for p, own in zip(pictures, each, strict=True)
                for e in self._explain(p.tensor, target, own, [p.placement])
            ]
        notes = (self.preprocess_reason,) if self.preprocess_reason else ()
        return [
            replace(
                e,
                image=p.picture,
                placement=p.placement,
                preprocess=self.preprocess,
                source=p.source,
                notes=(*e.notes, *notes),
            )
            for e, p in zip(found, pictures, strict=True)
        ]

    def explain_tensor(
        self, x: npt.NDArray[Any], target: TargetLike = None, inputs: Mapping[str, Given] | None = None
    ) -> list[Explanation]:
        """Explain an input that is already preprocessed: (N, C, H, W) or (N, H, W, C), in the model's own dtype.

        Raises:
            OptionError: shape or dtype do not fit the model.
        """
        self._check_tensor(x)
        return self._explain(x, target, self._others(inputs))

    def _others(self, inputs: Mapping[str, Given] | None) -> dict[str, Array]:
        given = {**self.inputs, **(inputs or {})}
        return given_inputs(self.model, given)

    def _explain(
        self, x: Array, target: TargetLike, others: Mapping[str, Array], places: Sequence[Placement] = ()
    ) -> list[Explanation]:
        """Of targets that look at the sample, and of detectors, each sample on its own."""
        chosen = self.check_target(target)
        if not chosen.looks and len(self.levels) < 2:
            return self._recorded(x, chosen, others)
        if "aug" in self.smooth and isinstance(chosen, Box | Region):
            raise OptionError("test-time augmentation mirrors the picture, but no box or point of it: leave it out")
        rest = repeated(others, len(x))
        found = []
        for k in range(len(x)):
            one, own = x[k : k + 1], {n: a[k : k + 1] for n, a in rest.items()}
            settled = chosen.settled(self._looks.view(one, own, places[k] if places else None))
            found += self._at_level(one, settled, own)._recorded(one, settled, own)
        return found

    def _at_level(self, x: Array, target: Target, others: Mapping[str, Array]) -> Explainer:
        """This explainer, at the level of a detector that the explained box came from: its map has a gradient."""
        if len(self.levels) < 2:
            return self
        try:
            answers, _ = self.programs.run(x, target, others, Plan(wrt=tuple(layer.value for layer in self.levels)))
        except GradientError:
            return self
        own = [layer for layer in self.levels if np.any(answers[f"G/{layer.value}"])]
        if not own:
            return self
        one = copy(self)
        why = f"chosen: the level that the explained box came from, of {len(self.levels)}; {own[0].reason}"
        one.layers, one.levels = (replace(own[0], reason=why),), ()
        return one

    def _recorded(self, x: Array, chosen: Target, others: Mapping[str, Array]) -> list[Explanation]:
        finder = Finder(self.programs, self.method, self.layers, self.options, self.smooth, self.batch, self.progress)
        try:
            raw = finder.find(x, chosen, others)
        except GradientError as error:
            raise GradientError(f"{error}\n{offered(self.model, self.logits)}") from error
        whence = provenance(self.model, self.logits.name)
        names = self.vocabulary if self.logits.kind == "tokens" else self.labels
        recorder = Recorder(self.model.label, self.logits, self.method, self.layers, names, self.shaping, whence)
        return recorder.explanations(chosen, raw, self._input_size(x))

    def attributions(
        self, x: npt.NDArray[Any], targets: Sequence[TargetLike] | npt.NDArray[Any] | None = None
    ) -> Array:
        """What other tools take: one attribution per sample, as an array.

        Args:
            x: as for :meth:`explain_tensor`.
            targets: one per sample; None for the top classes.

        Returns:
            float32 (N, C, H, W), signed, of pixel methods; (N, 1, H, W), the heatmaps, of all others.
        """
        each = [None] * len(x) if targets is None else [t.item() if isinstance(t, np.generic) else t for t in targets]
        if len(each) != len(x):
            raise OptionError(f"{len(each)} targets for {len(x)} samples: give one each")
        together = self.explain_tensor(x) if targets is None else None
        rest = repeated(self.inputs, len(x))
        found = together or [
            self.explain_tensor(x[k : k + 1], t, {n: a[k : k + 1] for n, a in rest.items()})[0]
            for k, t in enumerate(each)
        ]
        return np.stack([e.heatmap[None] if e.attribution is None else e.attribution for e in found])

    # Exporting

    def export(
        self, path: str | Path, target: TargetLike = None, form: Form | None = None, force: bool = False
    ) -> Exported:
        """Write the model with its maps as further outputs: see :func:`onnxcam.export.export`."""
        from onnxcam.export import export

        return export([self], path, target, form, force)

    # Checks

    def check_target(self, target: TargetLike) -> Target:
        """The target that a caller's words mean for this model.

        Raises:
            OptionError, UnknownNameError: no such class, or a text that is not understood.
        """
        if self.element is not None and target is not None:
            raise OptionError(f"output names one element already; leave the target {target!r} out, or the [...]")
        given = self.element if target is None else target
        kind = self.method.target
        if kind == "probability" and self.logits.classes == 1 and "Sigmoid" not in self.logits.stepped_over:
            kind = "logit"  # the softmax of one number is 1
        return as_target(given, self.labels, self.logits.classes, kind, self.logits.kind)

    def _layers(self, asked: str | Sequence[str]) -> tuple[TargetLayer, ...]:
        names, method = [asked] if isinstance(asked, str) else list(asked), self.method
        if not names:
            raise OptionError("target_layer is empty; give a name, or 'auto'")
        if not method.has_layer and (names != ["auto"] or self.shaping.fuse):
            raise OptionError(f"{method.title} has no target layer: leave layer and fuse out, or take a CAM method")
        if self.shaping.fuse and len(names) < 2:
            raise OptionError(f"fuse={self.shaping.fuse!r} joins the maps of several layers; {len(names)} is given")
        if method.relu and len(names) > 1 and not self.shaping.fuse:
            raise OptionError(f"{method.title} multiplies one map: give one layer, or how to fuse {len(names)}")
        if "attention" in method.needs and isinstance(why := find_attention(written_out(self.model), self.logits), str):
            raise OptionError(f"{method.title} needs attention maps: {why}. {offered(self.model, self.logits)}")
        if not method.has_layer:
            return ()
        return tuple(self._layer(n) for n in names)

    def _layer(self, name: str) -> TargetLayer:
        model, logits, title = self.model, self.logits, self.method.title
        try:
            if "classifier" in self.method.needs:
                return classifier_layer(model, logits, name, title)
            return best_layer(model, logits, title) if name == "auto" else named_layer(model, logits, name)
        except UnknownNameError:
            raise
        except OptionError as error:
            raise OptionError(f"{error}. {offered(model, logits)}") from error

    def _check_tensor(self, x: npt.NDArray[Any]) -> None:
        want = self.model.image_input
        shape = {"NCHW": (want.channels, want.height, want.width), "NHWC": (want.height, want.width, want.channels)}
        expected = shape[want.layout]
        if not isinstance(x, np.ndarray):
            raise OptionError(f"explain_tensor takes a NumPy array, not {type(x).__name__}")
        fits = x.ndim == 4 and len(x) > 0 and all(w in (None, n) for w, n in zip(expected, x.shape[1:], strict=True))
        if not fits or x.dtype != self.spec.dtype:
            text = ", ".join("any" if d is None else str(d) for d in (None, *expected))
            raise OptionError(
                f"the tensor is {x.dtype} {x.shape}; {self.model.label} takes {np.dtype(self.spec.dtype)} ({text}), "
                f"{want.layout}. For a picture use explain()"
            )

    def _input_size(self, x: Array) -> tuple[int, int]:
        height, width = x.shape[2:] if self.model.image_input.layout == "NCHW" else x.shape[1:3]
        return int(height), int(width)


def _smoothings(given: str | Sequence[str], method: Method) -> tuple[str, ...]:
    names = tuple(part for g in ([given] if isinstance(given, str) else given) for part in g.split(",") if part)
    for name in names:
        _one_of("smoothing", name, SMOOTHINGS)
    if "eigen" in names and (method.terms is None or method.join != "sum"):
        raise OptionError(
            f"eigen smoothing needs evidence per channel, which {method.title} does not sum; leave it out"
        )
    return names


def _one_of(kind: str, given: str, known: Sequence[str]) -> str:
    if given not in known:
        raise UnknownNameError.of(kind, given, known)
    return given
