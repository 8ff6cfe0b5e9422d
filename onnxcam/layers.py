"""Target layers: found or named, and brought to (N, C, h, w) whatever their layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcam.errors import OptionError
from onnxcam.graph.classifier import find_classifier
from onnxcam.graph.inspect import Logits, is_map, target_layers
from onnxcam.graph.names import find_value
from onnxcam.graph.paths import first_float, float_path
from onnxcam.graph.surgery import TURNED
from onnxcam.graph.tokens import Tokens, find_grids
from onnxcam.model import Layout, Model

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TargetLayer:
    """A resolved target layer.

    Attributes:
        name: the caller's spelling.
        value: the value's name.
        layout: where its channels are, or how its tokens fold.
        reason: why it was chosen.
        pooled: what global average pooling makes of it, where a classifier of linear layers follows; else "".
    """

    name: str
    value: str
    layout: Layout | Tokens
    reason: str
    pooled: str = ""

    def fold(self, a: Any, xp: Any = np) -> Any:
        """The layer's own form -> (N, C, h, w), of arrays or in a graph."""
        if isinstance(self.layout, Tokens):
            grid = self.layout
            patches = xp.permute_dims(xp.take(a, np.asarray(grid.index), axis=1), (0, 2, 1))
            return xp.reshape(patches, (-1, a.shape[2], grid.height, grid.width))
        return xp.permute_dims(a, (0, 3, 1, 2)) if self.layout == "NHWC" else a

    def unfold(self, a: Array, like: Array) -> Array:
        """(B, C, h, w) -> the layer's own form; class and register tokens come from ``like`` (1, T, D)."""
        if isinstance(self.layout, Tokens):
            whole = np.repeat(like, len(a), axis=0)
            whole[:, self.layout.index] = np.moveaxis(a.reshape(*a.shape[:2], -1), 1, 2)
            return whole
        return np.ascontiguousarray(np.moveaxis(a, 1, 3)) if self.layout == "NHWC" else a


def best_layer(model: Model, logits: Logits, method: str) -> TargetLayer:
    """The layer that the graph suggests.

    Raises:
        OptionError: there is none.
    """
    candidates = target_layers(model, logits)
    if not candidates:
        raise OptionError(
            f"{model.label} has no spatial layer between image and {logits.name}, and {method} needs one; name one "
            "with target_layer, or use a method that needs none"
        )
    best = candidates[0]
    return TargetLayer(best.name, _read_as(best.name, best.layout), best.layout, f"chosen: {best.reason}")


def levels(model: Model, logits: Logits) -> tuple[TargetLayer, ...]:
    """The layers of a detector's levels, coarsest first; empty for what is no detector."""
    if logits.kind != "boxes":
        return ()
    return tuple(TargetLayer(v.name, v.name, v.layout, f"chosen: {v.reason}") for v in target_layers(model, logits))


def named_layer(model: Model, logits: Logits, name: str) -> TargetLayer:
    """The layer that a caller names: a value, a node or a module.

    Raises:
        UnknownNameError: nothing is called so.
        OptionError: it is no map between image and logits.
    """
    value = find_value(model, name)
    image, of = first_float(model.values[model.image_input.name]), model.values[logits.name]
    grids = find_grids(model, float_path(of, [image]), image)
    if value is of or not is_map(value, grids):
        raise OptionError(
            f"layer {name!r} is {value.dtype} {value.shape}; a CAM needs a float map (N, C, H, W) of more than one "
            f"pixel, or a whole grid of tokens (N, T, D), between the first convolution and {of.name}. "
            "`onnxcam inspect MODEL` lists the candidates"
        )
    if not grids.reaches(value):
        better = "".join(f" Take {layer.name}, the last that does, or one before it" for layer in
                         target_layers(model, logits)[:1])  # fmt: skip
        raise OptionError(
            f"what the patches hold at layer {name!r} does not reach {of.name}: behind it only the class token is "
            f"read, so that the map would be blank.{better}"
        )
    layout = grids.layouts[id(value)]
    return TargetLayer(name, _read_as(str(value.name), layout), layout, "named by the caller")


def _read_as(name: str, layout: Layout | Tokens) -> str:
    """The value to read: a layer (T, N, D) is read as (N, T, D)."""
    return f"{TURNED}{name}" if isinstance(layout, Tokens) and layout.turned else name


def classifier_layer(model: Model, logits: Logits, name: str, method: str) -> TargetLayer:
    """The map whose mean the classifier takes; ``name`` is ``"auto"``, or that map's.

    Raises:
        OptionError: the head is of another kind, or another layer is named.
    """
    found = find_classifier(model, logits)
    if isinstance(found, str):
        raise OptionError(f"{method} needs global average pooling and linear layers behind it: {found}")
    if name != "auto" and str(find_value(model, name).name) != found.layer:
        raise OptionError(
            f"{method} has its weights at {found.layer} alone, not at {name!r}; leave the layer out, or take gradcam"
        )
    spelt, why = (found.layer, f"chosen: {found.reason}") if name == "auto" else (name, found.reason)
    return TargetLayer(spelt, found.layer, found.layout, why, found.pooled)
