"""What a method finds in a model, from inputs to raw maps: by a formula of one run, or a procedure of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxcam.core import eigen
from onnxcam.errors import ModelError, OptionError
from onnxcam.graph.paths import first_float
from onnxcam.layers import TargetLayer
from onnxcam.methods import Method
from onnxcam.probe import ModelProbe, Progress
from onnxcam.programs import Plan, Programs, repeated
from onnxcam.record import Raw
from onnxcam.runtime import Array
from onnxcam.targets import Target

SMOOTHINGS = ("aug", "eigen")
_BRIGHTNESS = (1.0, 0.9, 1.1)


@dataclass(frozen=True)
class Finder:
    """A method on a model.

    Attributes:
        programs: of the model.
        method: the row.
        layers: its target layers; none for methods without one.
        options: the procedure's own.
        smooth: of :data:`SMOOTHINGS`.
        batch, progress: of procedures.
    """

    programs: Programs
    method: Method
    layers: Sequence[TargetLayer] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    smooth: Sequence[str] = ()
    batch: int = 16
    progress: Progress | None = None

    def find(self, x: Array, target: Target, others: Mapping[str, Array]) -> Raw:
        """Raw maps of N samples; ``x`` in the model's own layout and type, ``others`` its further inputs.

        Raises:
            GradientError: the path cannot be differentiated.
        """
        raw = self._find(x, target, others)
        return self._averaged(raw, x, target, others) if "aug" in self.smooth else raw

    def _find(self, x: Array, target: Target, others: Mapping[str, Array]) -> Raw:
        return (self._by_procedure if self.method.procedure else self._at_once)(x, target, others)

    def _averaged(self, raw: Raw, x: Array, target: Target, others: Mapping[str, Array]) -> Raw:
        """With the maps of further views, mirrored back: pytorch-grad-cam's test-time augmentation."""
        rest, views, pixels = repeated(others, len(x)), list[list[Array]](), list[list[Array]]()
        across = 2 if self.programs.model.image_input.layout == "NHWC" else 3
        for flipped, factor in [(f, b) for f in (False, True) for b in _BRIGHTNESS][1:]:
            seen = _scaled(np.flip(x, across) if flipped else x, factor)
            each = [
                self._find(seen[k : k + 1], target.fixed(int(c)), {n: a[k : k + 1] for n, a in rest.items()})
                for k, c in enumerate(raw.answers["class_index"])
            ]
            step = -1 if flipped else 1
            cams = [np.concatenate(cam)[..., ::step] for cam in zip(*(r.cams for r in each), strict=True)]
            pixels.append([r.signed[..., ::step] for r in each if r.signed is not None])
            views.append(cams)
        if raw.signed is None:
            return replace(raw, more=views)
        return replace(raw, signed=np.mean([raw.signed, *map(np.concatenate, pixels)], axis=0), more=views)

    # Methods of one run

    def _at_once(self, x: Array, target: Target, others: Mapping[str, Array]) -> Raw:
        values = tuple(dict.fromkeys(layer.value for layer in self.layers))
        wrt = tuple(dict.fromkeys(layer.pooled or layer.value for layer in self.layers))
        needs = self.method.needs
        pixels = (
            first_float(self.programs.model.values[self.programs.model.image_input.name])
            if self.method.pixels
            else None
        )
        read = values if pixels is None or pixels.is_graph_input() else (*values, str(pixels.name))
        plan = Plan(read, wrt if "gradient" in needs else (), wrt if "curvature" in needs else (), self.method.relu)
        answers, program = self.programs.run(x, target, others, plan)
        answers = {k: v if v.dtype.kind == "i" else _float32(v) for k, v in answers.items()}
        cams = [self._cam(answers, layer) for layer in self.layers]
        image = x if read == values else answers[f"A/{read[-1]}"]
        signed = self._signed(answers["pixels"], image) if self.method.relu is not None else None
        return Raw(answers, cams, signed, program.walk, program.untouched is not None)

    def _cam(self, answers: Mapping[str, Array], layer: TargetLayer) -> Array:
        assert self.method.terms is not None
        A = layer.fold(answers[f"A/{layer.value}"])
        extra = [answers[f"{kind}/{layer.pooled or layer.value}"] for kind in "GH" if self._wants(kind)]
        if layer.pooled:
            extra = [np.broadcast_to(e, (len(A), *e.shape[1:])).reshape(len(A), -1, 1, 1) for e in extra]
        else:
            extra = [layer.fold(self._stretched(e, answers[f"A/{layer.value}"], layer)) for e in extra]
        return _float32(eigen.join(self.method.terms(np, A, *extra), self._join()))

    def _stretched(self, gradient: Array, activations: Array, layer: TargetLayer) -> Array:
        """A gradient that is equal along an axis comes with length 1 there."""
        try:
            return np.broadcast_to(gradient, activations.shape)
        except ValueError:
            raise ModelError(
                f"{self.programs.model.label}: {layer.name} is {activations.shape}, and its gradient {gradient.shape}; "
                "the shapes that are noted in the file are not those that its values have. Export it again"
            ) from None

    def _join(self) -> str:
        return "eigen" if "eigen" in self.smooth else self.method.join

    def _wants(self, kind: str) -> bool:
        return {"G": "gradient", "H": "curvature"}[kind] in self.method.needs

    def _signed(self, gradient: Array, x: Array) -> Array:
        """The attribution as (N, C, H, W)."""
        found = self._nchw(gradient)
        if self.method.pixels is None:
            return found
        return _float32(self.method.pixels(np, found, self._nchw(x).astype(np.float32)))

    def _nchw(self, a: Array) -> Array:
        channels, layout = self.programs.model.image_input.channels, self.programs.model.image_input.layout
        last = a.shape[-1] == channels and (a.shape[1] != channels or layout == "NHWC")
        return np.ascontiguousarray(np.moveaxis(a, 3, 1)) if last else a

    # Methods of many runs

    def _by_procedure(self, x: Array, target: Target, others: Mapping[str, Array]) -> Raw:
        plan = Plan() if self.programs.quantised else Plan(tuple(layer.value for layer in self.layers))
        logits, many = self.programs.logits, self.programs.many
        plan = replace(plan, read=(*plan.read, logits.name)) if logits.kind == "dense" else plan
        answers, _ = many.run(x, target, others, plan)
        answers = {k: v if v.dtype.kind == "i" else _float32(v) for k, v in answers.items()}
        z = answers[f"A/{logits.name}" if logits.kind == "dense" else "logits"]
        rest, found, notes = repeated(others, len(x)), [], list[Sequence[str]]()
        for k, index in enumerate(answers["class_index"]):
            one, own = x[k : k + 1], {n: a[k : k + 1] for n, a in rest.items()}
            held = target.held(int(index), z[k : k + 1], logits)
            if held.key != target.key:  # the same score where it is, but not when the image changes
                answers["score"][k] = many.run(one, held, own, Plan())[0]["score"][0]
            maps, told = self._one_procedure(one, held, own)
            found.append(maps)
            notes.append(told)
        stacked = [_float32(np.stack(maps_of)) for maps_of in zip(*found, strict=True)]
        raw = Raw(answers, [], stacked[0]) if self.method.gives == "pixels" else Raw(answers, stacked)
        raw = replace(raw, notes=notes)
        walk = many.free.last_walk if set(self.method.needs) - {"layer", "head"} else None
        return replace(raw, walk=walk, quantised=walk is not None and walk.quantised)

    def _one_procedure(
        self, x: Array, target: Target, others: Mapping[str, Array]
    ) -> tuple[list[Array], tuple[str, ...]]:
        """The raw maps of one sample, one per layer, and what the record is to tell."""
        assert self.method.procedure is not None
        probes = [
            ModelProbe(self.programs, x, target, layer, others, self.batch, self.progress)
            for layer in (self.layers or (None,))
        ]
        try:
            maps = [np.asarray(self.method.procedure(probe, **self.options)) for probe in probes]
            return maps, tuple(dict.fromkeys(note for probe in probes for note in probe.notes))
        except (TypeError, ValueError, AttributeError, IndexError, MemoryError, ArithmeticError) as error:
            if not self.options:
                raise
            given = ", ".join(f"{k}={v!r}" for k, v in self.options.items())
            raise OptionError(
                f"{self.method.title} cannot run with {given}: {error}; `onnxcam methods` lists the "
                "options with their defaults"
            ) from error


def _scaled(x: Array, factor: float) -> Array:
    """Brighter or darker, in the input's own type."""
    if x.dtype.kind == "f":
        return np.asarray(x * factor, x.dtype)
    limits = np.iinfo(x.dtype)
    return np.clip(np.rint(x * factor), limits.min, limits.max).astype(x.dtype)


def _float32(a: Array) -> Array:
    return np.ascontiguousarray(a, dtype=np.float32)
