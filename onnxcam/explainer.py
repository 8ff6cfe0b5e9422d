"""Explainer: joins the parts; the only place that does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcam import __version__
from onnxcam.core import guided, maps
from onnxcam.errors import ModelError, OptionError, UnknownNameError
from onnxcam.explanation import Explanation, LayerMap
from onnxcam.gradients import ENGINES, Backward, backward, named_value
from onnxcam.gradients.probe import probe
from onnxcam.graph import symbolic as xp
from onnxcam.graph.inspect import Logits, find_logits, input_convention, is_map, target_layers
from onnxcam.graph.names import find_value
from onnxcam.graph.paths import FLOATS, first_float, float_path, map_layouts
from onnxcam.graph.symbolic import PREFIX, Tensor, Writer
from onnxcam.image import InputSpec, Preprocess, as_image
from onnxcam.labels import find_labels
from onnxcam.methods import Method, find_method
from onnxcam.model import Layout, Model, load_model
from onnxcam.runtime import Array, Session, installed_builds, load_runtime
from onnxcam.targets import Target, as_target, write_head

TargetLike = int | str | Target | None
_TOP = 5
NORMALIZATIONS = ("max", "minmax")  # a heatmap lies in [0, 1]


@dataclass(frozen=True)
class TargetLayer:
    """A resolved target layer: the caller's spelling, the value, where its channels are, and why it was chosen."""

    name: str
    value: str
    layout: Layout
    reason: str


@dataclass(frozen=True)
class _Program:
    """A session and the names of what it answers."""

    session: Session
    classes: tuple[str, ...]
    outputs: dict[str, str]
    walk: Backward | None = None
    untouched: _Program | None = None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The answers by name; gradients that are equal along an axis come with length 1 there."""
        if self.untouched is None:
            return dict(zip(self.outputs, self.session.run(feeds, list(self.outputs.values())), strict=True))
        answer = self.untouched.run(feeds)  # where reading inner values would change the model's own answer
        inner = replace(self, untouched=None).run({**feeds, self.classes[0]: answer["class_index"]})
        return inner | answer


class Explainer:
    """Explains the answers of one model.

    Args:
        model: a path, ``zoo:NAME``, or a loaded :class:`~onnxcam.model.Model`.
        preprocess: a preset (``"imagenet"``, ``"caffe,mean=104/117/123"``), a
            :class:`~onnxcam.image.Preprocess`, or ``"auto"``: what the graph or its metadata decide, else ``imagenet``.
        target_layer: ``"auto"``, or one or more names of values, nodes or modules.
        method: a name of the catalogue.
        engine: ``"auto"``, ``"portable"`` or ``"training"``.
        labels: class names or a file of them; None takes the model's metadata.
        providers: onnxruntime's execution providers.
        threads: threads within an operator.
        output: the name of the output to explain; None chooses.
        fuse: ``"max"`` or ``"mean"`` of several layers' heatmaps; None keeps them apart.
        normalize: ``"max"`` (ReLU, then divide by the maximum) or ``"minmax"``.
        straight_through: let gradients pass signs, roundings and thresholds, for binarised networks.

    Raises:
        ModelError: the file cannot be used.
        UnknownNameError: unknown method, engine, layer, output or preset.
        GradientError: the path cannot be differentiated.
        RuntimeUnavailableError: no usable ONNX Runtime.
    """

    def __init__(
        self,
        model: str | Path | Model,
        preprocess: str | Preprocess = "auto",
        target_layer: str | Sequence[str] = "auto",
        method: str = "gradcam",
        engine: str = "auto",
        labels: str | Path | Sequence[str] | None = None,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        *,
        output: str | None = None,
        fuse: str | None = None,
        normalize: str = "max",
        straight_through: bool = False,
    ) -> None:
        self.model = model if isinstance(model, Model) else load_model(locate(model))
        _check_inputs(self.model)
        self.method: Method = find_method(method)
        self.engine = _one_of("engine", engine, ENGINES)
        self.fuse = None if fuse is None else _one_of("fusion", fuse, maps.FUSIONS)
        self.normalize = _one_of("normalization", normalize, NORMALIZATIONS)
        self.straight_through = straight_through
        self.labels = find_labels(labels, self.model.meta)
        self.spec = input_spec(self.model)
        self.preprocess, self.preprocess_reason = choose_preprocess(self.model, preprocess)
        self.logits: Logits = find_logits(self.model, output)
        self.layers = self._layers(target_layer)
        self._new_session: Callable[[Model], Session] = partial(Session, providers=providers, threads=threads)
        self._programs: dict[tuple[type, int], _Program] = {}

    # Explaining

    def explain(self, image: str | Path | npt.NDArray[Any], target: TargetLike = None) -> Explanation:
        """Explain one picture.

        Args:
            image: a path, or uint8 (H, W, 3) RGB.
            target: class index, label, ``"margin:A,B"``, ``"probability:A"``, a Target, or None for the top-1 class.

        Raises:
            ImageError: the picture cannot be read.
            OptionError, UnknownNameError: no such class.
        """
        return self.explain_batch([image], target)[0]

    def explain_batch(
        self, images: Sequence[str | Path | npt.NDArray[Any]], target: TargetLike = None
    ) -> list[Explanation]:
        """Explain several pictures, in one run where the model's batch axis and their sizes allow it."""
        pictures = [as_image(i) for i in images]
        prepared = [self.preprocess.apply(p, self.spec) for p in pictures]
        tensors = [x for x, _ in prepared]
        together = self.model.image_input.batch is None and len({x.shape for x in tensors}) == 1
        if together and tensors:
            found = self.explain_tensor(np.concatenate(tensors), target)
        else:
            found = [e for x in tensors for e in self.explain_tensor(x, target)]
        notes = (self.preprocess_reason,) if self.preprocess_reason else ()
        return [
            replace(
                e,
                image=picture,
                placement=placement,
                preprocess=self.preprocess,
                source=str(given) if isinstance(given, str | Path) else "",
                notes=(*e.notes, *notes),
            )
            for e, given, picture, (_, placement) in zip(found, images, pictures, prepared, strict=True)
        ]

    def explain_tensor(self, x: npt.NDArray[Any], target: TargetLike = None) -> list[Explanation]:
        """Explain an input that is already preprocessed: (N, C, H, W) or (N, H, W, C), in the model's own dtype.

        Raises:
            OptionError: shape or dtype do not fit the model.
        """
        self._check_tensor(x)
        chosen = as_target(target, self.labels, self.logits.classes)
        fixed = self.model.image_input.batch
        if fixed is not None and len(x) != fixed:
            padded = np.concatenate([x, np.repeat(x[-1:], -len(x) % fixed, axis=0)])
            parts = [padded[k : k + fixed] for k in range(0, len(padded), fixed)]
            return [e for part in parts for e in self.explain_tensor(part, chosen)][: len(x)]
        program = self._program(chosen, x)
        return self._explanations(x, chosen, program, program.run(self._feeds(x, chosen, program.classes)))

    def _feeds(self, x: Array, target: Target, names: Sequence[str]) -> dict[str, Array]:
        indices = zip(names, target.classes, strict=True)
        return {self.model.image_input.name: x} | {n: np.full(len(x), i, dtype=np.int64) for n, i in indices}

    # Building

    def _layers(self, asked: str | Sequence[str]) -> tuple[TargetLayer, ...]:
        names = [asked] if isinstance(asked, str) else list(asked)
        if not names:
            raise OptionError("target_layer is empty; give a name, or 'auto'")
        if not self.method.weights and (names != ["auto"] or self.fuse):
            raise OptionError(
                f"{self.method.title} has no target layer: leave layer and fuse out, or take a CAM method"
            )
        if self.fuse and len(names) < 2:
            raise OptionError(f"fuse={self.fuse!r} joins the maps of several layers; {len(names)} is given")
        if self.method.relu and len(names) > 1 and not self.fuse:
            raise OptionError(f"{self.method.title} multiplies one map: give one layer, or how to fuse {len(names)}")
        if not self.method.weights:
            return ()
        return tuple(self._best_layer() if n == "auto" else self._named_layer(n) for n in names)

    def _best_layer(self) -> TargetLayer:
        candidates = target_layers(self.model, self.logits)
        if not candidates:
            raise OptionError(
                f"{self.model.label} has no spatial layer between image and {self.logits.name}, and "
                f"{self.method.title} needs one; "
                "name one with target_layer, or use a method that needs none: saliency, guided_backprop"
            )
        best = candidates[0]
        return TargetLayer(best.name, best.name, best.layout, f"chosen: {best.reason}")

    def _named_layer(self, name: str) -> TargetLayer:
        value = find_value(self.model, name)
        image, of = first_float(self.model.values[self.model.image_input.name]), self.model.values[self.logits.name]
        layouts = map_layouts(float_path(of, [image]))
        if value is of or not is_map(value, layouts):
            raise OptionError(
                f"layer {name!r} is {value.dtype} {value.shape}; a CAM needs a float map (N, C, H, W) of more than one "
                f"pixel, between the first convolution and {of.name}. `onnxcam inspect MODEL` lists the candidates"
            )
        return TargetLayer(name, str(value.name), layouts[id(value)], "named by the caller")

    def _program(self, target: Target, x: Array) -> _Program:
        key = (type(target), len(target.classes))
        if key not in self._programs:
            self._programs[key] = self._build(target, x)
        return self._programs[key]

    def _build(self, target: Target, x: Array) -> _Program:
        """The model with score head and gradients, as one session; ``x`` is what it will run on first."""
        edited = self.model.clone()
        writer = Writer(edited.graph, edited.opset)
        of = edited.values[self.logits.name]
        head = write_head(writer, of, self.logits, target)
        named = head.answers
        seed = backward(edited, writer, head.score.value, xp.ones_like(head.score), [of], engine="portable")
        walk = None
        go = partial(
            backward, edited, writer, of, seed.gradients[0],
            engine=self.engine, straight_through=self.straight_through,
        )  # fmt: skip
        if self.layers:
            values = [edited.values[layer.value] for layer in self.layers]
            distinct = list(dict.fromkeys(values))
            walk = go(distinct)
            found = dict(zip(distinct, walk.gradients, strict=True))
            for number, value in enumerate(values):
                named[f"activations/{number}"] = writer.tensor(value)
                named[f"gradients/{number}"] = found[value].small
        if self.method.relu is not None:
            walk = go([named_value(edited, self.model.image_input.name)], relu=self.method.relu)
            named["pixels"] = walk.gradients[0]
        outputs = self._expose(writer, named)
        if walk is not None and walk.engine == "training":
            probe(edited, self._feeds(x, target, head.inputs))
        untouched = self._untouched(target) if walk is not None and walk.quantised else None
        return _Program(self._new_session(edited), head.inputs, outputs, walk, untouched)

    def _untouched(self, target: Target) -> _Program:
        """The model with the score head alone."""
        edited = self.model.clone()
        writer = Writer(edited.graph, edited.opset)
        head = write_head(writer, edited.values[self.logits.name], self.logits, target)
        outputs = self._expose(writer, head.answers)
        return _Program(self._new_session(edited), head.inputs, outputs)

    def _expose(self, writer: Writer, named: Mapping[str, Tensor]) -> dict[str, str]:
        """Make tensors outputs; the names of what they became, with the model's own probabilities."""
        outputs = {name: _expose(writer, tensor, name) for name, tensor in named.items()}
        writer.sweep()
        if (own := self._probability_output()) is not None:
            return {**outputs, "probabilities": own}
        return {**outputs, "own": self.logits.output} if self.logits.rounded else outputs

    def _probability_output(self) -> str | None:
        """The model's own output, where it is the probability of each class."""
        output = self.model.values[self.logits.output]
        ends_in = {"Softmax", "Sigmoid"} & set(self.logits.stepped_over)
        return self.logits.output if ends_in and self.logits.kind == "classes" and output.dtype in FLOATS else None

    # Reading the answers

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

    def _explanations(
        self, x: Array, target: Target, program: _Program, found: Mapping[str, Array]
    ) -> list[Explanation]:
        answers = {k: v if v.dtype.kind == "i" else _float32(v) for k, v in found.items()}
        size = self._input_size(x)
        cams = [self._cam(answers, number) for number in range(len(self.layers))]
        heats = [maps.normalize(np, maps.resize(np, _rectified(c, self.normalize), size), self.normalize) for c in cams]
        fused = maps.fuse(np, heats, self.fuse) if self.fuse and heats else (heats[0] if heats else None)
        signed = None
        if self.method.relu is not None:
            signed = self._pixels(answers["pixels"])
            signed = guided.guided_gradcam(np, signed, fused) if fused is not None else signed
            fused = maps.normalize(np, guided.magnitude(np, signed), self.normalize)
        assert fused is not None
        parts = [self._maps(k, cams, heats, fused, signed) for k in range(len(x))]
        return [self._one(k, target, program, answers, fused[k], parts[k], signed) for k in range(len(x))]

    def _cam(self, answers: Mapping[str, Array], number: int) -> Array:
        assert self.method.weights is not None
        A = answers[f"activations/{number}"]
        G = np.broadcast_to(answers[f"gradients/{number}"], A.shape)
        if self.layers[number].layout == "NHWC":
            A, G = (np.moveaxis(a, 3, 1) for a in (A, G))
        return _float32(maps.weighted_sum(np, self.method.weights(np, A, G), A))

    def _maps(self, k: int, cams: Sequence[Array], heats: Sequence[Array], fused: Array, signed: Array | None) -> Any:
        if not self.layers or signed is not None:
            layer = self.layers[0] if self.layers else TargetLayer("", "", "NCHW", "this method needs no layer")
            raw = cams[0][k] if cams else guided.magnitude(np, signed)[k]
            return (LayerMap(layer.name, layer.reason, raw, fused[k]),)
        pairs = zip(self.layers, cams, heats, strict=True)
        return tuple(LayerMap(layer.name, layer.reason, cam[k], heat[k]) for layer, cam, heat in pairs)

    def _pixels(self, gradient: Array) -> Array:
        """The gradient at the image as (N, C, H, W)."""
        channels = self.model.image_input.channels
        last = gradient.shape[-1] == channels and (
            gradient.shape[1] != channels or self.model.image_input.layout == "NHWC"
        )
        return np.ascontiguousarray(np.moveaxis(gradient, 3, 1)) if last else gradient

    def _input_size(self, x: Array) -> tuple[int, int]:
        height, width = x.shape[2:] if self.model.image_input.layout == "NCHW" else x.shape[1:3]
        return int(height), int(width)

    def _one(
        self,
        k: int,
        target: Target,
        program: _Program,
        answers: Mapping[str, Array],
        heatmap: Array,
        parts: tuple[LayerMap, ...],
        signed: Array | None,
    ) -> Explanation:
        logits, index = answers["logits"][k], int(answers["class_index"][k])
        if not np.all(np.isfinite(logits)) or not np.all(np.isfinite(heatmap)):
            what = "scores" if not np.all(np.isfinite(logits)) else "gradients"
            raise ModelError(
                f"{self.model.label} gives NaN or infinite {what} for this input; check the preprocessing and, for a "
                "float16 model, its range"
            )
        probability = self._probability(answers, k, index)
        return Explanation(
            heatmap=np.ascontiguousarray(heatmap, dtype=np.float32),
            maps=parts,
            score=float(answers["score"][k, 0]),
            class_index=index,
            label=self._label(index),
            probability=probability,
            top=tuple(
                (int(i), self._label(int(i)), float(logits[i])) for i in np.argsort(-logits, kind="stable")[:_TOP]
            ),
            target=self._words(target, index),
            method=self.method.name,
            engine=program.walk.engine if program.walk else "portable",
            attribution=None if signed is None else signed[k],
            notes=(*self._notes(target, logits, heatmap, program), *self._ties(target, answers, k)),
            provenance=self._provenance(),
            fuse=self.fuse,
        )

    def _probability(self, answers: Mapping[str, Array], k: int, index: int) -> float | None:
        return float(answers["probabilities"][k].reshape(-1)[index]) if "probabilities" in answers else None

    def _label(self, index: int) -> str | None:
        return self.labels[index] if self.labels and 0 <= index < len(self.labels) else None

    def _words(self, target: Target, index: int) -> str:
        names = [index, *target.classes[1:]]
        return target.words.format(
            *(f"class {i}" if self._label(i) is None else f"{self._label(i)} ({i})" for i in names)
        )

    def _notes(self, target: Target, logits: Array, heatmap: Array, program: _Program) -> list[str]:
        notes = []
        if self.logits.stepped_over:
            notes.append(f"explained at {self.logits.name}, {self.logits.reason}")
        if target.classes[0] < 0 and (tied := int(np.sum(logits == logits.max()))) > 1:
            notes.append(f"the top class is a tie of {tied} classes; the first was explained")
        if self.method.relu not in (None, "plain") and program.walk is not None:
            changed, sites = program.walk.changed, program.walk.sites
            notes.append(f"ReLU policy {self.method.relu} changed {changed} of {sites} activations")
        if program.walk is not None and program.walk.stopped:
            notes.append(f"steps stop a part of the gradient: {program.walk.stopped}; straight_through lets it pass")
        if program.untouched is not None:
            notes.append(
                "a quantised network is differentiated: its quantisers pass the gradient straight through where they "
                "do not saturate; prediction and score come from the untouched model"
            )
        if not np.any(heatmap):
            notes.append(self._why_blank())
        return notes

    def _ties(self, target: Target, answers: Mapping[str, Array], k: int) -> list[str]:
        """What quantisers at the end make equal, though the scores before them differ."""
        own = answers.get("own", answers.get("probabilities")) if self.logits.rounded else None
        tied = 0 if own is None or target.classes[0] >= 0 else int(np.sum(own[k] == own[k].max()))
        return [f"the model's own output is rounded to a tie of {tied} classes at the top"] if tied > 1 else []

    def _why_blank(self) -> str:
        if self.method.name == "counterfactual":
            return (
                "the map is blank: nothing in the picture speaks against this class at this layer (all weighted "
                "features support it). Ask against which class: target 'margin:OTHER,CLASS' with gradcam"
            )
        return "the map is blank: nothing at this layer speaks for the score. Try another layer, class or hirescam"

    def _provenance(self) -> dict[str, Any]:
        runtime = load_runtime()
        return {
            "model": str(self.model.path) if self.model.path else "",
            "model_sha256": self.model.sha256,
            "logits": self.logits.name,
            "versions": {"onnxcam": __version__, "onnxruntime": runtime.__version__, "builds": installed_builds()},
        }


def _expose(writer: Writer, tensor: Tensor, name: str) -> str:
    """Make a tensor an output and say under which name: the model's own values keep theirs, without a copy."""
    value = tensor.value
    if (value.name or "").startswith(PREFIX):
        writer.output(tensor, f"{PREFIX}{name}")
        return f"{PREFIX}{name}"
    if not value.is_graph_output():
        writer.graph.outputs.append(value)
    return str(value.name)


def locate(model: str | Path) -> Path:
    """The file of a path or of ``zoo:NAME``."""
    if str(model).startswith("zoo:"):
        from onnxcam import zoo

        return zoo.locate(str(model))
    return Path(model)


def input_spec(model: Model) -> InputSpec:
    """What the image module needs to know of the model's input."""
    image = model.image_input
    return InputSpec(image.layout, image.channels, image.height, image.width, image.dtype.numpy())


def choose_preprocess(model: Model, given: str | Preprocess) -> tuple[Preprocess, str]:
    """The preprocessing, and a notice where it was chosen for the caller.

    ``"auto"`` takes the model's own metadata, else what its graph decides, else ``imagenet``.
    """
    if isinstance(given, Preprocess):
        return given, ""
    if given != "auto":
        return Preprocess.parse(given), ""
    if (own := model.meta.get("onnxcam/preprocess")) is not None:
        return Preprocess.from_dict(json.loads(own)), "preprocessing from the model's metadata"
    if (found := input_convention(model)) is not None:
        return Preprocess.parse(found.preset), f"preprocessing {found.preset}: {found.reason}"
    preset = "imagenet" if model.image_input.channels == 3 else "unit"
    return Preprocess.parse(preset), f"preprocessing {preset} is assumed: nothing in the model tells; check it"


def _check_inputs(model: Model) -> None:
    others = [v for v in model.inputs if v not in (*model.unread_inputs, model.values[model.image_input.name])]
    if others:
        wanted = ", ".join(f"{v.name} {v.dtype} {v.shape}" for v in others)
        raise OptionError(
            f"{model.label} takes more than a picture: {wanted}. Such models cannot be explained yet; make those "
            "inputs constants when you export it, or write the gradient alone with add_gradients"
        )


def _one_of(kind: str, given: str, known: Sequence[str]) -> str:
    if given not in known:
        raise UnknownNameError.of(kind, given, known)
    return given


def _float32(a: Array) -> Array:
    return np.ascontiguousarray(a, dtype=np.float32)


def _rectified(cam: Array, normalize: str) -> Array:
    """Grad-CAM's ReLU comes before upsampling; the other normalisations show both signs."""
    return maps.relu(np, cam) if normalize == "max" else cam
