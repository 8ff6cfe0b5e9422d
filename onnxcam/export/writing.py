"""The maps, written into the graph behind the model: the same formulas as with NumPy."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcam.core import guided, maps, tail
from onnxcam.errors import OptionError
from onnxcam.explainer import Explainer
from onnxcam.export.eigen import projection
from onnxcam.export.tail import Tail
from onnxcam.gradients import Backward
from onnxcam.graph import symbolic as xp
from onnxcam.graph.surgery import TURNED, turn
from onnxcam.graph.symbolic import PREFIX, Tensor, Writer
from onnxcam.layers import TargetLayer
from onnxcam.methods import Method
from onnxcam.model import Model, dims_of
from onnxcam.programs import curvature
from onnxcam.targets import ClassTarget, Head, Scene, Target

Walk = Callable[..., Backward]


@dataclass(frozen=True)
class Stage(Scene):
    """A scene on which some classes are settled: they become constants instead of inputs.

    Attributes:
        settled: class indices by the name of the input that they replace.
    """

    settled: Mapping[str, int] = field(default_factory=dict)

    def input(self, name: str, dtype: ir.DataType, *dims: Any) -> Tensor:
        """An input, or the constant (1,) in its place."""
        if name in self.settled:
            return self.writer.constant(np.asarray([self.settled[name]], dtype=np.int64))
        return super().input(name, dtype, *dims)


@dataclass(frozen=True)
class Shown:
    """The map of one method at one layer, in the graph.

    Attributes:
        method: its row.
        target: its score.
        layer: as the caller spelt it; "" for methods without one.
        cam: (N, h, w) float32, signed, before ReLU.
        heatmap: (N, H, W) float32 in [0, 1], or signed where nothing was normalised.
        normalize: how the heatmap was; ``"none"``: it is signed.
    """

    method: Method
    target: Target
    layer: str
    cam: Tensor
    heatmap: Tensor
    normalize: str


class Exhibit:
    """A model that is given maps.

    Args:
        explainer: of the model; the first, where there are several.
        target: the score.
        settled: as of :class:`Stage`.
        layers: the values that any map is of.
        size: (H, W) of the heatmaps; None: the model's input.

    Attributes:
        model: the edited copy.
        writer: writes into it.
        head: the score and the class.
    """

    def __init__(
        self,
        explainer: Explainer,
        target: Target,
        settled: Mapping[str, int],
        layers: Sequence[str] = (),
        size: tuple[int, int] | None = None,
    ) -> None:
        self._programs = copy(explainer.programs)
        self._programs.engine = "portable"  # nodes of the training engine run in ONNX Runtime alone
        self.model: Model = turn(explainer.model, [n for n in layers if n.startswith(TURNED)])
        self.writer = Writer(self.model.graph, self.model.opset)
        self._scene = Stage(self.writer, self.model.values[explainer.logits.name], explainer.logits, settled=settled)
        self.head: Head = target.write(self._scene)
        self._walks: dict[Hashable, Walk] = {}
        self._pixels: dict[Hashable, Tensor] = {}
        self._target = target
        self._size = size

    def class_index(self) -> Tensor | None:
        """(N,) int64: the explained class; None where the score is of no class."""
        if not isinstance(self._target, ClassTarget):
            return None
        index = self.head.class_index
        rows = self.head.logits
        return (
            index
            if index.shape == (rows.shape or ())[:1]
            else xp.broadcast_to(index, xp.dim(rows, 0), (rows.shape or (None,))[:1])
        )

    def give(self, tensor: Tensor, name: str) -> None:
        """Make (N, ...) an output; its batch axis is called as the model calls it."""
        self.writer.output(tensor, name)
        value = self.model.graph.outputs[-1]
        if value.shape is not None and len(value.shape):
            value.shape = ir.Shape([self._scene.batch, *dims_of(value)[1:]])

    def show(self, explainer: Explainer, target: Target) -> list[Shown]:
        """The maps of one explainer, of its own score of the same classes: one per layer, or one."""
        method, normalize = explainer.method, explainer.shaping.normalize
        _check(method, explainer)
        cams = [self._cam(explainer, layer, target) for layer in explainer.layers]
        if method.relu is None:
            heats = [self._heat(cam, normalize) for cam in cams]
            spelt, fuse = [layer.name for layer in explainer.layers], explainer.shaping.fuse
            if fuse:
                spelt, heats = [" + ".join(spelt)], [maps.fuse(xp, heats, fuse)]
            return [Shown(method, target, *one, normalize) for one in zip(spelt, cams, heats, strict=not fuse)]
        signed = self._signed(method, target)
        if cams:
            heats = [self._heat(cam, "max", self._input_size) for cam in cams]
            whole = maps.fuse(xp, heats, explainer.shaping.fuse) if explainer.shaping.fuse else heats[0]
            signed = guided.guided_gradcam(xp, signed, whole)
        found = guided.magnitude(xp, signed)
        layer = explainer.layers[0].name if cams else ""
        heat = maps.normalize(xp, self._resized(found), normalize)
        return [Shown(method, target, layer, cams[0] if cams else found, heat, normalize)]

    # Maps at a layer

    def _cam(self, explainer: Explainer, layer: TargetLayer, target: Target) -> Tensor:
        method = explainer.method
        if method.procedure is not None:
            behind = Tail(self.model, self._scene, layer)
            return behind.reciprocam(target, self.head.class_index, **explainer.options)
        assert method.terms is not None
        A = layer.fold(self._float(self.model.values[layer.value]), xp)
        extra = [self._at(layer, kind, target) for kind in ("gradient", "curvature") if kind in method.needs]
        terms = method.terms(xp, A, *extra)
        join = "eigen" if "eigen" in explainer.smooth else method.join
        return xp.sum(terms, axis=1) if join == "sum" else projection(terms, join)

    def _walk(self, target: Target) -> Walk:
        """From the score of a target on."""
        if target.key not in self._walks:
            scene = replace(self._scene, read=[])
            head = self.head if target.key == self._target.key else target.write(scene)
            read = scene.read or self._scene.read
            self._walks[target.key] = self._programs.walk(self.model, self.writer, head.score, read)
        return self._walks[target.key]

    def _at(self, layer: TargetLayer, kind: str, target: Target) -> Tensor:
        """The gradient, or the curvature, in the form of the layer's activations; pooled ones are (N, C, 1, 1)."""
        value = self.model.values[layer.pooled or layer.value]
        found = self._walk(target)([value]).gradients[0]
        if kind == "curvature":
            found = curvature(self.model, self.writer, found, str(value.name))
        found = xp.astype(found, ir.DataType.FLOAT)
        if not layer.pooled:
            folded: Tensor = layer.fold(found, xp)
            return folded
        return xp.reshape(found, [0, -1, 1, 1]) if found.rank != 4 else found

    def _float(self, value: ir.Value) -> Tensor:
        return xp.astype(self.writer.tensor(value), ir.DataType.FLOAT)

    def _heat(self, cam: Tensor, normalize: str, size: tuple[int, int] | None = None) -> Tensor:
        """Grad-CAM's ReLU comes before upsampling; what shows both signs has none."""
        rectified = maps.relu(xp, cam) if normalize in ("max", "percentile") else cam
        heat: Tensor = maps.normalize(xp, self._resized(rectified, size), normalize)
        return heat

    @property
    def _input_size(self) -> tuple[int, int] | None:
        image = self.model.image_input
        return (image.height, image.width) if image.height and image.width else None

    def _resized(self, found: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        size = size or self._size or self._input_size
        if size is None or not all(isinstance(d, int) for d in (found.shape or (None,))[-2:]):
            if size is None:
                return _resized_freely(found, self._image_size, shrinks=False)
            return _resized_freely(found, self.writer.constant(list(size), ir.DataType.INT64), shrinks=True)
        return found if found.shape is not None and found.shape[-2:] == size else maps.resize(xp, found, size)

    @property
    def _image_size(self) -> Tensor:
        """(2,) int64: the size of an input that takes any."""
        image = self.model.image_input
        x = self.writer.tensor(self.model.values[image.name])
        first = 2 if image.layout == "NCHW" else 1
        return self.writer.op("Shape", x, start=first, end=first + 2)

    # Maps of pixels

    def _signed(self, method: Method, target: Target) -> Tensor:
        """(N, C, H, W): the attribution of pixels."""
        policy = method.relu
        assert policy is not None
        value = self._programs.pixels(self.model)
        key = policy, target.key
        if key not in self._pixels:
            gradient = self._walk(target)([value], relu=policy).gradients[0]
            self._pixels[key] = self._nchw(xp.astype(gradient, ir.DataType.FLOAT))
        found = self._pixels[key]
        return found if method.pixels is None else method.pixels(xp, found, self._nchw(self._float(value)))

    def _nchw(self, x: Tensor) -> Tensor:
        image, shape = self.model.image_input, x.shape or ()
        last = shape[-1] == image.channels and (shape[1] != image.channels or image.layout == "NHWC")
        return xp.permute_dims(x, [0, 3, 1, 2]) if last else x


def free(name: str, model: Model) -> str:
    """A name that no value of the model has, in branches and bodies neither: with a prefix, then counted."""
    taken = ir.convenience.create_value_mapping(model.graph, include_subgraphs=True)
    tried = (f"{PREFIX}{name.removeprefix(PREFIX)}{f'_{k}' if k > 1 else ''}" for k in count(1))
    return name if name not in taken else next(one for one in tried if one not in taken)


def _check(method: Method, explainer: Explainer) -> None:
    if method.procedure not in (None, tail.reciprocam):
        many = f"needs many runs of the model for each image ({method.runs}), and an exported model has one"
        raise OptionError(
            f"{method.title} {'is not written as nodes' if method.runs == '1' else many}: take a method of one run, "
            "such as gradcam, layercam or saliency, or reciprocam; `onnxcam methods` lists them"
        )
    if "aug" in explainer.smooth:
        raise OptionError(
            "smooth=aug looks at the image several times, and an exported model has one run: leave it out"
        )
    if explainer.shaping.normalize == "percentile":
        raise OptionError("normalize=percentile sorts pixels, which is not exported: take max, minmax or none")


def _resized_freely(found: Tensor, size: Tensor, shrinks: bool) -> Tensor:
    """(N, h, w) to a size that is known when the model runs: ONNX Resize, half_pixel, as the constant matrices do.

    Only what may shrink is antialiased: that costs ONNX Runtime ten times as much, and few others have it.
    """
    write = found.writer
    four = xp.expand_dims(found, 1)
    lead = write.op("Shape", four, start=0, end=2)
    target = write.op("Concat", lead, size, axis=0)
    how: dict[str, Any] = {"antialias": 1} if shrinks else {}
    centres = "half_pixel"
    wide = write.op("Resize", four, None, None, target, mode="linear", coordinate_transformation_mode=centres, **how)
    return xp.squeeze(wide, 1)
