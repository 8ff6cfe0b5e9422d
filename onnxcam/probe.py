"""The probe of an .onnx model: what procedures ask (:mod:`onnxcam.core.probe`), answered by its programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np

from onnxcam.core.probe import Attention, features_at_once
from onnxcam.graph.biases import bias_sites
from onnxcam.graph.paths import first_float
from onnxcam.layers import TargetLayer
from onnxcam.programs import FEATURES, PIXELS, Plan, Programs, repeated
from onnxcam.runtime import Array
from onnxcam.targets import Target

Progress = Callable[[int, int], None]
_CACHED = 8 * 224**2  # pixels of one run on a processor, whose cache holds the maps between two layers
_HELD = 2**20  # elsewhere


class ModelProbe:
    """One model, one input, one target whose class stays the same, one target layer.

    Args:
        programs: of the model.
        x: (1, ...), the input in the model's own layout and type.
        target: with its class fixed.
        layer: the target layer, for methods that have one.
        inputs: further inputs of the model, for one sample.
        batch: images of one run at most, where the model's batch axis can be freed; fewer of large ones, so that the
            maps between two layers stay in the cache.
        progress: called with (done, total).
    """

    def __init__(
        self,
        programs: Programs,
        x: Array,
        target: Target,
        layer: TargetLayer | None = None,
        inputs: Mapping[str, Array] | None = None,
        batch: int = 16,
        progress: Progress | None = None,
    ) -> None:
        self._whole, self._programs, self._target, self._layer = programs, programs.free, target, layer
        self._others, self._progress = dict(inputs or {}), progress
        image = programs.model.image_input
        self._entry = PIXELS if PIXELS in self._programs.model.values else image.name
        self._value = self._programs.model.values[self._entry]
        pixels = x if self._entry == image.name else self._as_float(programs, x)
        self._last = pixels.shape[-1] == image.channels and (
            pixels.shape[1] != image.channels or image.layout == "NHWC"
        )
        self._x = np.ascontiguousarray(self._nchw(pixels), dtype=np.float32)
        fixed = self._programs.model.image_input.batch if self._entry == image.name else _batch_of(self._value)
        self._fixed, self.notes = fixed, list[str]()
        most = _CACHED if programs.on_processor and programs.free.on_processor else _HELD
        self._batch = fixed or max(1, min(batch, most // (self._x.shape[2] * self._x.shape[3])))

    def _as_float(self, programs: Programs, x: Array) -> Array:
        """What an integer image becomes in the graph."""
        image = programs.model.image_input
        name = str(first_float(programs.model.values[image.name]).name)
        found = programs.get(self._target, Plan(read=(name,)), dict)
        count = image.batch or 1
        answers = found.run(self._feeds({image.name: np.repeat(x, count, axis=0)}, count))
        return answers[f"A/{name}"][:1]

    # What procedures see

    @property
    def x(self) -> Array:
        """(1, C, H, W) float32: the image as the model gets it."""
        return self._x

    @property
    def batch(self) -> int:
        """Images of one run."""
        return self._batch

    def score(self, x: Array) -> Array:
        """(B, C, H, W) -> (B,): the explained score."""
        return self._images(x, Plan(), "score")["score"][:, 0]

    def gradient(self, x: Array, relu: str = "plain") -> Array:
        """(B, C, H, W) -> the gradient of the score there."""
        found = self._images(x, Plan(relu=relu), "pixels")["pixels"]
        return self._nchw(found).astype(np.float32, copy=False)

    def activations(self, x: Array) -> Array:
        """(B, C, H, W) -> (B, K, h, w): the target layer."""
        layer = self._its_layer()
        name = f"A/{layer.value}"
        return np.asarray(layer.fold(self._images(x, Plan(read=(layer.value,)), name)[name]), np.float32)

    def layer(self, x: Array) -> tuple[Array, Array]:
        """(B, C, H, W) -> activations and the gradient of the score there."""
        layer = self._its_layer()
        names = f"A/{layer.value}", f"G/{layer.value}"
        found = self._images(x, Plan(read=(layer.value,), wrt=(layer.value,)), *names)
        a = found[names[0]]
        g = np.broadcast_to(found[names[1]], a.shape)
        return layer.fold(a).astype(np.float32), layer.fold(g).astype(np.float32)

    def head(self, A: Array) -> Array:
        """(B, K, h, w) -> (B,): the score when the target layer is A instead."""
        layer, own = self._its_layer(), self._own
        plan, size = Plan(start=layer.value), self._fixed or features_at_once(self, A)
        parts = [A[k : k + size] for k in range(0, len(A), size)]
        edited = ({FEATURES: layer.unfold(part, own).astype(own.dtype, copy=False)} for part in parts)
        found = [self._run(e, len(part), plan, ("score",))["score"] for e, part in zip(edited, parts, strict=True)]
        return np.concatenate(found)[:, 0].astype(np.float32)

    def bias_gradients(self, x: Array) -> list[tuple[Array, Array]]:
        """(B, C, H, W) -> for each bias of the maps the gradient there, (B, K, h, w), and the bias (K, 1, 1)."""
        sites = [s for s in bias_sites(self._whole.model, self._whole.logits) if s.layout]
        found = self._images(x, Plan(wrt=tuple(s.value for s in sites)))
        return [(s.fold(found[f"G/{s.value}"]), s.bias.reshape(-1, 1, 1)) for s in sites]

    def attention(self, x: Array, gradient: bool = False) -> Attention:
        """(1, C, H, W) -> attention maps and, where asked, gradients of the blocks' scores there."""
        found = self._images(x[:1], Plan(attention="gradients" if gradient else "maps"))
        facts, count = self._programs.attention, self._fixed or 1
        maps = [_first(found[f"P/{k}"], count) for k in range(len(facts.maps))]
        size = maps[0].shape[-1]
        reads = np.zeros(size)
        reads[list(facts.reads)] = 1 / len(facts.reads)
        pool = _first(found["P/pool"], count) if facts.pool else None
        return Attention(
            tuple(maps),
            tuple(_first(found[f"D/{k}"], count) for k in range(len(maps))) if gradient else (),
            facts.tokens.index.reshape(facts.tokens.height, facts.tokens.width),
            reads if pool is None else pool.mean(axis=(0, 1)),
        )

    def advance(self, done: int, total: int) -> None:
        """Hand progress on."""
        if self._progress is not None:
            self._progress(done, total)

    def note(self, text: str) -> None:
        """Keep what the record is to tell, in :attr:`notes`."""
        self.notes.append(text)

    # Running

    @cached_property
    def _own(self) -> Array:
        """The target layer of the image itself, in its own form: where tokens that are no patches come from."""
        value = self._its_layer().value
        return self._images(self._x, Plan(read=(value,)))[f"A/{value}"]

    def _its_layer(self) -> TargetLayer:
        assert self._layer is not None, "the method's row does not say that it needs a layer"
        return self._layer

    def _images(self, x: Array, plan: Plan, *wanted: str) -> dict[str, Array]:
        """Answers for any number of images, in runs of at most ``batch``; all that the plan tells, or those named."""
        parts = [x[k : k + self._batch] for k in range(0, len(x), self._batch)]
        found = [self._run({}, len(part), plan, wanted, part) for part in parts]
        if len(found) == 1:
            return found[0]
        whole = [{k: _filled(a, len(part)) for k, a in f.items()} for f, part in zip(found, parts, strict=True)]
        return {k: np.concatenate([f[k] for f in whole]) for k in whole[0]}

    def _run(
        self,
        feeds: dict[str, Array],
        count: int,
        plan: Plan,
        wanted: Sequence[str] = (),
        images: Array | None = None,
    ) -> dict[str, Array]:
        """One run; a fixed batch axis is filled up, and the filling dropped."""
        whole = self._fixed or count
        pictures = self._x if images is None else images
        x = np.moveaxis(pictures, 1, -1) if self._last else pictures
        feeds = {self._entry: np.ascontiguousarray(x, dtype=self._numpy()), **feeds}
        feeds = self._feeds({n: _filled(a, whole) for n, a in feeds.items()}, whole)
        answers = self._programs.get(self._target, plan, lambda: feeds).run(feeds, wanted)
        return {k: a[:count] if a.ndim and len(a) == whole else a for k, a in answers.items()}

    def _feeds(self, images: Mapping[str, Array], count: int) -> dict[str, Array]:
        return {**images, **repeated(self._others, count), **self._target.feeds(count)}

    def _numpy(self) -> np.dtype[np.generic]:
        assert self._value.dtype is not None
        return np.dtype(self._value.dtype.numpy())

    def _nchw(self, a: Array) -> Array:
        return np.moveaxis(a, -1, 1) if self._last else a


def _first(a: Array, count: int) -> Array:
    """(N, heads, Q, T) or (N * heads, Q, T) of ``count`` samples, of which one may be left -> (heads, Q, T)."""
    return a[0].astype(np.float32) if a.ndim == 4 else a[: len(a) // count].astype(np.float32)


def _filled(a: Array, count: int) -> Array:
    """(n, ...) -> (count, ...), the last one repeated; of one, without a copy: not every graph reads it."""
    if len(a) == 1:
        return np.broadcast_to(a, (count, *a.shape[1:]))
    return np.concatenate([a, np.repeat(a[-1:], count - len(a), axis=0)]) if len(a) < count else a


def _batch_of(value: object) -> int | None:
    shape = getattr(value, "shape", None)
    return int(shape[0]) if shape is not None and isinstance(shape[0], int) else None
