"""Pictures in and out of an exported model: preprocessing, the heatmap on the picture, and overlays, as nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcam.core.overlay import DIVERGING, colormap_table
from onnxcam.errors import OptionError
from onnxcam.explainer import Explainer
from onnxcam.export.placing import Axis, axes_of, rounded
from onnxcam.export.writing import free
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import PREFIX, Tensor, Writer
from onnxcam.image import MAX_PIXELS, InputSpec, Preprocess
from onnxcam.model import Dim, ImageInput, Model, dims_of

PictureSize = str | tuple[int, int] | None
"""``"any"``, or (height, width); None: the model takes a tensor, as it did."""

_Floats = npt.NDArray[np.float32]
FLOAT, UINT8 = ir.DataType.FLOAT, ir.DataType.UINT8
_SIDES = ("picture_height", "picture_width")
_LONGEST = 65_535  # pixels of a side, as of a JPEG file
_ANY = np.zeros((2, 2, 3), np.uint8)  # a picture, to see whether the preprocessing fits the model
_LUMA = (19595, 38470, 7471)  # Rec. 601 of 65536, as Pillow's: sums of 24 bits, exact in float32


def check(
    picture: PictureSize, overlay: bool, colormap: str | None, blend: float, size: tuple[int, int] | None
) -> None:
    """Refuse what makes no sense before anything is written.

    Raises:
        OptionError: a picture or heatmaps of no pixel, or of more than any picture file that is opened; a blend outside
            of 0 to 1, settings of an overlay that is not asked for, or a size of heatmaps that lie on a picture.
        UnknownNameError: no such colour map.
    """
    if isinstance(picture, str) and picture != "any":
        raise OptionError(f"picture={picture!r}: it must be 'any', or height and width, such as (480, 640)")
    if picture is not None and not isinstance(picture, str):
        _check_sides("picture", picture, "give the size of the pictures that come, or 'any'")
    if size is not None:
        _check_sides("size", size, "give a smaller one, or leave it out for the model's input")
    if size is not None and (picture or overlay):
        what = "a model that takes a picture gives heatmaps" if picture else "an overlay needs a heatmap"
        raise OptionError(f"size={size}: {what} of the picture's size; leave size out")
    if not overlay and (colormap is not None or blend != 0.5):
        raise OptionError("colormap and blend say how an overlay looks: ask for one, too (overlay, --overlay)")
    if not 0 <= blend <= 1:
        raise OptionError(f"blend={blend}: it must lie between 0 (only the picture) and 1 (only the heatmap)")
    if colormap not in (None, DIVERGING):
        colormap_table(str(colormap))


def _check_sides(name: str, sides: tuple[int, int], advice: str) -> None:
    height, width = sides
    if min(sides) < 1:
        raise OptionError(f"{name}={height}x{width}: height and width must be at least 1")
    if max(sides) > _LONGEST or height * width > MAX_PIXELS:
        raise OptionError(
            f"{name}={height}x{width}: that is {height * width:,} pixels, and at most {MAX_PIXELS:,} are possible, "
            f"{_LONGEST:,} a side; {advice}"
        )


def _check_fit(explainer: Explainer, option: str) -> None:
    try:
        explainer.prepare(_ANY)
    except OptionError as error:
        raise OptionError(f"{option}: {error}; or leave {option} out") from error


# ---- the picture as the model's input ----


class Frame:
    """The picture that an exported model takes in place of its image input.

    Args:
        model: the exported model, while it is being written.
        writer: writes into it.
        explainer: knows the preprocessing.
        size: ``"any"`` or (height, width).

    Attributes:
        name: of the input.
        picture: (N, H0, W0, 3) float32, the grey levels.
        record: what is different in the metadata: who feeds the model leaves the picture as it is (``raw``).

    Raises:
        OptionError: settings that do not fit the model.
    """

    def __init__(self, model: Model, writer: Writer, explainer: Explainer, size: str | tuple[int, int]) -> None:
        self._model, image, spec = model, model.image_input, explainer.spec
        _check_fit(explainer, "picture")
        self.name = "image" if image.name == "image" else free("image", model)
        self._own = model.values[image.name]
        self._sides: tuple[Dim, Dim] = _SIDES if isinstance(size, str) else size
        batch = dims_of(self._own)[0]
        self._entry = writer.input(f"{PREFIX}picture", UINT8, (batch, *self._sides, 3))
        self.picture = xp.astype(self._entry, FLOAT)  # one reader, so that what opens the file finds its first float
        height, width = (xp.squeeze(xp.dim(self.picture, axis), 0) for axis in (1, 2))
        self._axes = axes_of(explainer.preprocess, spec, height, width)
        pixels = _pixels(self.picture, explainer.preprocess, spec, self._axes)
        self._made = _tensor(pixels, explainer.preprocess, image)
        self.record: dict[str, Any] = {
            "input": self.name,
            "preprocess": Preprocess().to_dict(),
            "picture": {"size": size, "preprocess": explainer.preprocess.to_dict()},
        }

    def on_picture(self, heatmap: Tensor, signed: bool) -> Tensor:
        """A heatmap (N, H, W) of the input in pixels of the picture, (N, H0, W0): see
        :meth:`onnxcam.core.localize.Placement.to_image`."""
        down, across = self._axes
        if not down.same:
            heatmap = xp.matmul(down.back(1), heatmap)
        if not across.same:
            heatmap = xp.matmul(heatmap, across.back(0))
        if not signed and not (down.same and across.same):
            heatmap = xp.minimum(xp.maximum(heatmap, 0), 1.0)
        heatmap.value.shape = ir.Shape([None, *self._sides])
        return heatmap

    def close(self) -> None:
        """Let the model read the picture instead of its own input, which is gone; nothing is written after it."""
        graph, entry = self._model.graph, self._entry.value
        ir.convenience.replace_all_uses_with(self._own, self._made.value, replace_graph_outputs=True)
        graph.inputs.remove(entry)
        graph.inputs[graph.inputs.index(self._own)] = entry
        entry.name = self.name
        graph.sort()


def _pixels(picture: Tensor, preprocess: Preprocess, spec: InputSpec, axes: list[Axis]) -> Tensor:
    """(N, 3 or 1, H, W) float32: whole grey levels at the input's size."""
    x = xp.permute_dims(picture, [0, 3, 1, 2])
    if preprocess.color == "GRAY" or spec.channels == 1:
        luma = xp.sum(x * np.reshape(_LUMA, (3, 1, 1)), axis=1, keepdims=True)
        x = xp.floor((luma + 0x8000) * 2.0**-16)
    kind, antialias = preprocess.interpolation, preprocess.antialias
    for axis, place in ((3, axes[1]), (2, axes[0])):  # the width first, as Pillow
        x = x if place.same else place.to_input(x, axis, kind, antialias)
    for k, place in enumerate(axes):
        x = xp.where(xp.expand_dims(place.inside(), 1 - k), x, float(preprocess.fill)) if place.padded else x
    return x


def _tensor(pixels: Tensor, preprocess: Preprocess, image: ImageInput) -> Tensor:
    """Grey levels (N, 3 or 1, H, W) to what the model takes: ``(x * scale - mean) / std``."""
    x = pixels
    if preprocess.color == "BGR" and image.channels == 3:
        x = xp.take(x, [2, 1, 0], axis=1)
    if preprocess.color == "GRAY" and image.channels == 3:
        x = xp.concat([x, x, x], axis=1)
    scale, mean, std = _constants(preprocess, (-1, 1, 1))
    x = x * scale if scale != 1 else x
    x = x - mean if mean.any() else x
    x = x / std if (std != 1).any() else x
    x = xp.astype(x, image.dtype)  # of integers, only a whole shift is allowed: nothing to round
    return xp.permute_dims(x, [0, 2, 3, 1]) if image.layout == "NHWC" else x


def _constants(preprocess: Preprocess, shape: tuple[int, ...]) -> tuple[np.float32, _Floats, _Floats]:
    scale, mean, std = (np.asarray(v, np.float32) for v in (preprocess.scale, preprocess.mean, preprocess.std))
    return np.float32(scale), mean.reshape(shape), std.reshape(shape)


def shown_in(model: Model, writer: Writer, explainer: Explainer) -> Tensor:
    """The picture that the model's input shows, the normalisation undone: (N, H, W, 3) float32, whole grey levels.

    Raises:
        OptionError: preprocessing that does not fit the model.
    """
    _check_fit(explainer, "overlay")
    image, preprocess = model.image_input, explainer.preprocess
    x = xp.astype(writer.tensor(model.values[image.name]), FLOAT)
    x = xp.permute_dims(x, [0, 2, 3, 1]) if image.layout == "NCHW" else x
    scale, mean, std = _constants(preprocess, (-1,))
    x = x * std if (std != 1).any() else x
    x = x + mean if mean.any() else x
    x = x / scale if scale != 1 else x
    x = rounded(xp.minimum(xp.maximum(x, 0), 255.0))
    if image.channels == 1:
        return xp.concat([x, x, x], axis=3)
    return xp.take(x, [2, 1, 0], axis=3) if preprocess.color == "BGR" else x


# ---- overlays ----


def colours_of(colormap: str | None, signed: bool) -> str:
    """The colour map of a heatmap, as :meth:`onnxcam.Explanation.overlay` chooses it.

    Raises:
        OptionError: a signed map in colours from 0 to 1.
    """
    if signed and colormap not in (None, DIVERGING):
        raise OptionError(
            f"normalize=none gives signed maps, and {colormap} shows what runs from 0 to 1: take diverging, or max"
        )
    return colormap or (DIVERGING if signed else "jet")


def overlaid(picture: Tensor, heatmap: Tensor, colormap: str, share: float) -> Tensor:
    """``(1 - share) * picture + share * colour``, to the nearest grey level: :func:`onnxcam.core.overlay.overlay`.

    Args:
        picture: (N, H, W, 3) float32 RGB, whole grey levels.
        heatmap: (N, H, W), 0 to 1; of any scale for the diverging colour map.
        colormap: one of :data:`onnxcam.core.overlay.COLORMAPS`, or ``"diverging"``.
        share: of the colours, 0 to 1.

    Returns:
        (N, H, W, 3) uint8 RGB.
    """
    if colormap == DIVERGING:
        colours = _diverging(heatmap) * share
    else:
        level = xp.astype(rounded(heatmap * 255.0), ir.DataType.INT32)
        table = heatmap.writer.constant(colormap_table(colormap).astype(np.float32) * np.float32(share))
        colours = heatmap.writer.op("Gather", table, level, axis=0)
    found = xp.astype(rounded(picture * (1 - share) + colours), UINT8)
    dims = picture.shape
    found.value.shape = None if dims is None else ir.Shape(dims)
    return found


def _diverging(signed: Tensor) -> Tensor:
    """Blue, white and red as whole numbers of 0 to 255: :func:`onnxcam.core.overlay.diverging`."""
    top = xp.max(xp.abs(signed), axis=(1, 2), keepdims=True)
    strength = signed / xp.where(top > 0.0, top, 1.0)
    against, both, by = xp.maximum(-strength, 0), xp.abs(strength), xp.maximum(strength, 0)
    return xp.floor(xp.concat([xp.expand_dims(1.0 - x, 3) for x in (against, both, by)], axis=3) * 255.0 + 0.5)
