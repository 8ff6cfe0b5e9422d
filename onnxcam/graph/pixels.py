"""Which pixels a graph wants, as far as its first nodes tell: the range, and the order of the colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcam.graph.paths import FLOATS
from onnxcam.model import Model, dims_of

Vector = npt.NDArray[np.float64]
_PASSING = {"Identity", "Cast", "Dropout"}
_FOLDING = {"Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze"}  # what exporters leave between a number and its use
_IMAGENET = np.array([0.485, 0.456, 0.406])  # mean red, green and blue of natural pictures, of 1
_ALIKE = 0.025  # the means in use (ImageNet's, Caffe's, CLIP's) lie within this of one another
_GREY = np.array([[0.1307, 0.3081], [0.286, 0.353]])  # mean and deviation of MNIST and of Fashion-MNIST, of 1
_NEAR = 0.01  # relative
_LEAST_GREY = 2.0  # no picture of range 1 has a mean above it; hardly one of range 255 has none


@dataclass(frozen=True)
class Convention:
    """What the graph says of the pixels it wants.

    Attributes:
        preset: a preprocessing preset, ``"raw"`` (0 to 255), ``"unit"`` (0 to 1), ``"tf"`` (-1 to 1) or ``"imagenet"``
            (-2.1 to 2.6); int8 inputs: ``"raw,mean=128"``.
        reason: how this is known.
        color: ``"RGB"`` or ``"BGR"`` where the mean that the graph subtracts tells, else None.
    """

    preset: str
    reason: str
    color: str | None = None


@dataclass(frozen=True)
class _Front:
    """The nodes in front of the first layer, as one line per channel: ``y = slope * x + shift``."""

    value: ir.Value
    axis: int  # of the channels
    slope: Vector
    shift: Vector
    nodes: tuple[ir.Node, ...] = ()

    @property
    def names(self) -> str:
        return ", ".join(f"{n.op_type} {n.name}".strip() for n in self.nodes)


def input_convention(model: Model) -> Convention | None:
    """What the graph decides by itself: an integer input, or normalisation nodes in front; else None.

    The nodes in front (Sub, Add, Mul and Div by constants, per channel or of the size of the image, through Cast and
    Transpose) are folded to ``y = a x + b``. The grey level that becomes 0, ``-b / a``, tells the range of x: a
    mean of grey levels is above 2, and -1 stands for -1 to 1. One below 1 tells 0 to 1 where it is a mean in use:
    that of natural pictures (ImageNet's, CLIP's), a half, MNIST's, or one of 0.3 to 0.7 with a deviation of 0.15 to
    0.35; a BatchNormalization written out for normalised pictures gives others. Where it is 0 the factor tells, 1/255
    or 255 (or 256): with any other the mean may be subtracted before the graph. A BatchNormalization in front holds
    the mean of the pictures that the network was trained on, and so tells grey levels from all else. A quantiser in
    front covers the range of the pictures that it was calibrated with. Anything less certain is None.
    """
    image = model.image_input
    value = model.values[image.name]
    front = _front(value, 1 if image.layout == "NCHW" else 3, image.channels)
    if value.dtype not in FLOATS:
        preset = "raw,mean=128" if value.dtype == ir.DataType.INT8 else "raw"
        told = f"the input takes {value.dtype} pixels, so the model normalises itself"
        return Convention(preset, told, _color(_centre(front), 255.0))
    return _of_statistics(front) or _of_line(front) or _of_quantiser(value)


def _front(value: ir.Value, axis: int, channels: int) -> _Front:
    front = _Front(value, axis, np.ones(channels), np.zeros(channels))
    while (further := _next(front)) is not None:
        front = further
    return front


def _next(front: _Front) -> _Front | None:
    """One node on, or None where it does more than move or scale grey levels."""
    node = _only_reader(front.value)
    if node is None:
        return None
    after = replace(front, value=node.outputs[0])
    if node.op_type in _PASSING:
        return after
    if node.op_type == "Transpose":
        perm = list(node.attributes.get_ints("perm", [3, 2, 1, 0]))
        return replace(after, axis=perm.index(front.axis)) if front.axis in perm else None
    if node.op_type == "QuantizeLinear":  # with its counterpart it leaves the value where it was
        back = _only_reader(node.outputs[0])
        return replace(front, value=back.outputs[0]) if back and back.op_type == "DequantizeLinear" else None
    if node.op_type == "DequantizeLinear" and (step := _quantiser(node)) is not None:
        scale, zero = step
        return replace(after, slope=front.slope * scale, shift=(front.shift - zero) * scale)
    return _moved(after, node, front)


def _quantiser(node: ir.Node) -> tuple[float, float] | None:
    """Scale and zero point, one for the whole picture."""
    found = [_constant(v) for v in node.inputs[1:] if v is not None]
    if not found or any(c is None or c.size != 1 for c in found):
        return None
    scale, zero = (*(float(c.ravel()[0]) for c in found if c is not None), 0.0)[:2]
    return scale, zero


def _only_reader(value: ir.Value) -> ir.Node | None:
    readers = {id(node): node for node in value.consumers()}
    return next(iter(readers.values())) if len(readers) == 1 and not value.is_graph_output() else None


_MOVES: dict[str, Callable[[Vector, Vector, Vector], tuple[Vector, Vector]]] = {
    "Sub": lambda slope, shift, c: (slope, shift - c),
    "Add": lambda slope, shift, c: (slope, shift + c),
    "Mul": lambda slope, shift, c: (slope * c, shift * c),
    "Div": lambda slope, shift, c: (slope / c, shift / c),
}


def _moved(after: _Front, node: ir.Node, front: _Front) -> _Front | None:
    if node.op_type not in _MOVES or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    turned = second is front.value
    other = first if turned else second
    constant = None if other is None else _per_channel(other, front.axis, len(front.slope))
    if constant is None or (turned and node.op_type == "Div") or (node.op_type in ("Mul", "Div") and 0 in constant):
        return None
    slope, shift = _MOVES[node.op_type](front.slope, front.shift, constant)
    sign = -1.0 if turned and node.op_type == "Sub" else 1.0
    return replace(after, slope=sign * slope, shift=sign * shift, nodes=(*front.nodes, node))


def _per_channel(value: ir.Value, axis: int, channels: int) -> Vector | None:
    """(C,): a constant as it meets each channel; the mean over the pixels of one of the image's size."""
    found = _constant(value)
    if found is None or found.ndim > 4 or not np.all(np.isfinite(found)):
        return None
    spread = found.reshape((1,) * (4 - found.ndim) + found.shape)
    if spread.shape[axis] not in (1, channels) or spread.shape[0] != 1:
        return None
    means = spread.mean(axis=tuple(k for k in range(4) if k != axis))
    return np.asarray(np.broadcast_to(means, (channels,)), np.float64)


def _constant(value: ir.Value) -> npt.NDArray[np.float64] | None:
    source = value
    while source.const_value is None:
        node = source.producer()
        if node is None or node.op_type not in _FOLDING or node.inputs[0] is None:
            return None
        source = node.inputs[0]
    numbers = np.asarray(source.const_value.numpy()).astype(np.float64)
    dims = [] if value.shape is None else [d for d in dims_of(value) if isinstance(d, int)]
    return numbers.reshape(dims) if value.shape is not None and len(dims) == len(value.shape) else numbers


def _centre(front: _Front) -> Vector:
    """The value of a pixel that becomes 0, per channel."""
    return np.asarray(-front.shift / front.slope)


def _of_line(front: _Front) -> Convention | None:
    if not front.nodes:
        return None
    preset = _range(_centre(front), np.abs(front.slope))
    if preset is None:
        return None
    low, high = {"raw": (0, 255), "unit": (0, 1), "tf": (-1, 1)}[preset]
    color = _color(_centre(front), high) if preset != "tf" else None
    order = f", in the order {color}" if color else ""
    return Convention(preset, f"{front.names} in front normalises {low} to {high}{order}", color)


def _range(centre: Vector, slope: Vector) -> str | None:
    low, high = centre.min(), centre.max()
    if np.allclose(centre, 0, atol=1e-3):
        return "raw" if _is_any(1 / slope, 255, 256) else "unit" if _is_any(slope, 255, 256) else None
    if np.allclose(centre, -1, atol=0.01):
        return "tf"
    if high > _LEAST_GREY:
        return "raw" if low >= 0 and high <= 255 else None
    return "unit" if _is_mean_in_use(centre, 1 / slope) else None


def _is_any(found: Vector, *numbers: float) -> bool:
    return any(np.allclose(found, number, rtol=_NEAR, atol=0) for number in numbers)


def _is_mean_in_use(centre: Vector, deviation: Vector) -> bool:
    """Whether pictures of 0 to 1 are normalised so; the deviation is 1 or less where it is left to what follows."""
    if deviation.max() > 1 + _NEAR:
        return False
    if _color(centre, 1.0) or _is_any(centre, 0.5):
        return True
    usual = np.all((centre >= 0.3) & (centre <= 0.7) & (deviation >= 0.15) & (deviation <= 0.35))
    return bool(usual) or any(_is_any(centre, mean) and _is_any(deviation, spread) for mean, spread in _GREY)


def _of_statistics(front: _Front) -> Convention | None:
    """From a BatchNormalization's running mean, which is that of the pictures it was trained on."""
    node = _only_reader(front.value)
    if node is None or node.op_type != "BatchNormalization" or node.inputs[3] is None:
        return None
    mean = _constant(node.inputs[3])
    if front.axis != 1 or mean is None or mean.shape != front.slope.shape:
        return None
    centre = (mean - front.shift) / front.slope
    if not (_LEAST_GREY * 2 < centre.max() <= 255 and centre.min() >= 0):
        return None
    levels = " ".join(f"{level:.0f}" for level in centre)
    name = f"{node.op_type} {node.name}".strip()
    return Convention("raw", f"{name} in front has met pixels of 0 to 255 (mean {levels})", _color(centre, 255.0))


_COVERED = {"raw": (0.0, 255.0), "unit": (0.0, 1.0), "tf": (-1.0, 1.0), "imagenet": (-2.118, 2.64)}
_FREE = 0.005  # of the range; half a step of 255 is 0.002
_LEVELS = {
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT16: (0, 65535),
    ir.DataType.INT16: (-32768, 32767),
}


def input_range(model: Model) -> tuple[float, float] | None:
    """What the quantiser in front of a float image can hold: the range of the pictures that it was calibrated with.

    From the darkest to the brightest value that its levels stand for; None without such a quantiser.
    """
    node = _quantiser_ahead(model.values[model.image_input.name])
    return None if node is None else _held(node)


def _quantiser_ahead(value: ir.Value) -> ir.Node | None:
    while (node := _only_reader(value)) is not None and node.op_type in _PASSING | {"Transpose", "Reshape"}:
        value = node.outputs[0]
    return node if node is not None and node.op_type == "QuantizeLinear" else None


def _held(node: ir.Node) -> tuple[float, float] | None:
    step, levels = _quantiser(node), _LEVELS.get(node.outputs[0].dtype or ir.DataType.UNDEFINED)
    if step is None or levels is None:
        return None
    scale, zero = step
    return (levels[0] - zero) * scale, (levels[1] - zero) * scale


def _of_quantiser(value: ir.Value) -> Convention | None:
    node = _quantiser_ahead(value)
    if node is None or (held := _held(node)) is None:
        return None
    for preset, (dark, bright) in _COVERED.items():
        if max(abs(held[0] - dark), abs(held[1] - bright)) <= _FREE * (bright - dark):
            name = f"{node.op_type} {node.name}".strip()
            return Convention(preset, f"{name} in front was calibrated with {held[0]:.3g} to {held[1]:.3g}")
    return None


def _color(centre: Vector, high: float) -> str | None:
    """The order of the channels, where the mean is that of natural pictures, whose red is the brightest."""
    if len(centre) != 3:
        return None
    for color, expected in (("RGB", _IMAGENET), ("BGR", _IMAGENET[::-1])):
        if np.all(np.abs(centre / high - expected) < _ALIKE):
            return color
    return None
