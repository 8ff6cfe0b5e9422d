"""A model with other weights, in memory: those of some layers drawn at random, or a shift of its input made up for."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxcam.errors import OptionError
from onnxcam.graph.inspect import Logits
from onnxcam.graph.paths import FLOATS, first_float, float_path
from onnxcam.model import Model

Array = NDArray[Any]
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_NORMS = {"BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization"}
_FRESH = {1: 1.0, 2: 0.0, 3: 0.0, 4: 1.0}  # scale, bias, mean, variance of a normalisation that has seen no data
_SUMS = {"Add", "Sub", "Mul"}
_HOLDING = {"DequantizeLinear", "Identity", "Cast"}
_MOVING = {"Identity", "Cast", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Pad"}
_SHIFT = "onnxcam/shift"


@dataclass
class Layer:
    """A convolution or matrix product with what belongs to it.

    Attributes:
        name: the node's.
        weights: initializers that are drawn anew: weights and biases, and what is added or multiplied right behind.
        fresh: initializers of the normalisations behind it, each with the value of one that has seen no data.
    """

    name: str
    weights: list[str] = field(default_factory=list)
    fresh: dict[str, float] = field(default_factory=dict)


def weighted_layers(model: Model, logits: Logits) -> list[Layer]:
    """The layers on the way from image to logits, the one nearest the logits first.

    A layer is a Conv, ConvTranspose, Gemm or MatMul by a constant; the constants of normalisations belong to the layer
    before them, and so do those that are added to its output or multiply it (a single number is a convention, and
    stays). Weights that are stored quantised count; weights that two layers share belong to the one nearer the logits.
    """
    found: list[Layer] = []
    owner: dict[int, tuple[Layer, bool]] = {}  # by value: whose it is, and whether nothing but sums came since
    for node in float_path(model.values[logits.name], [first_float(model.values[model.image_input.name])]):
        held = [v for v in map(_stored, node.inputs) if v is not None]
        if node.op_type in _PRODUCTS and held:
            found.append(Layer(str(node.name), [str(v.name) for v in held]))
            mine = (found[-1], True)
        else:
            known = [owner[id(v)] for v in node.inputs if v is not None and id(v) in owner]
            if not known:
                continue
            mine = (known[0][0], _joins(node, held, *known[0]))
        owner.update((id(v), mine) for v in node.outputs)
    return _without_shared(found[::-1])


def _joins(node: ir.Node, held: Sequence[ir.Value], layer: Layer, direct: bool) -> bool:
    """Note what a node behind a layer holds; whether what follows is still that layer's own output."""
    if node.op_type in _NORMS:
        layer.fresh.update(
            (str(v.name), _FRESH[k]) for k, v in enumerate(node.inputs) if k in _FRESH and v in held and v
        )
        return direct
    if direct and node.op_type in _SUMS and held and all(v.const_value and v.const_value.size > 1 for v in held):
        layer.weights.extend(str(v.name) for v in held)
        return True
    return direct and node.op_type in _MOVING


def _stored(value: ir.Value | None) -> ir.Value | None:
    """The initializer of floats that a value is, or of levels that it is made of."""
    levels = False
    while value is not None and (maker := value.producer()) is not None:
        constant = maker.op_type in _HOLDING and all(v is None or v.const_value is not None for v in maker.inputs[1:])
        levels = levels or maker.op_type == "DequantizeLinear"
        value = maker.inputs[0] if constant else None
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return value if levels or value.dtype in FLOATS else None


def _without_shared(layers: Sequence[Layer]) -> list[Layer]:
    taken: set[str] = set()
    found = []
    for layer in layers:
        weights = [n for n in dict.fromkeys(layer.weights) if n not in taken]
        fresh = {n: v for n, v in layer.fresh.items() if n not in taken}
        taken.update(weights, fresh)
        if weights or fresh:
            found.append(Layer(layer.name, weights, fresh))
    return found


def randomised(model: Model, layers: Sequence[Layer], seed: int = 0) -> Model:
    """The model with the weights of ``layers`` drawn at random.

    Weights and biases come from a normal distribution with the mean and standard deviation of the array that they
    replace, so that scores keep their order of magnitude. Adebayo et al. (https://arxiv.org/abs/1810.03292) initialise
    weights and other trainable variables once more as before training; a graph does not tell how that was. A
    normalisation becomes one that has seen no data: scale 1, bias 0, mean 0, variance 1. Levels of quantised weights
    are drawn likewise and rounded. One seed gives an array the same numbers whichever other layers are drawn.

    Args:
        model: stays as it is.
        layers: of `weighted_layers`; none gives a copy.
        seed: of the draw.
    """
    edited = model.clone()
    held = edited.graph.initializers
    for layer in layers:
        for name in layer.weights:
            _put(held[name], _drawn(_numpy(held[name]), np.random.default_rng([seed, zlib.crc32(name.encode())])))
        for name, value in layer.fresh.items():
            _put(held[name], np.full_like(_numpy(held[name]), value))
    return edited


def _numpy(value: ir.Value) -> Array:
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy())


def _put(value: ir.Value, array: Array) -> None:
    value.const_value = ir.tensor(array, dtype=value.dtype, name=value.name)


def _drawn(array: Array, rng: np.random.Generator) -> Array:
    known = array.astype(np.float64)
    drawn = rng.normal(known.mean(), known.std(), array.shape)
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        drawn = np.clip(np.rint(drawn), limits.min, limits.max)
    return np.asarray(drawn.astype(array.dtype))


def shifted(model: Model, shift: float) -> Model:
    """A model that gives for ``x + shift`` what ``model`` gives for ``x``: the shift is taken off in front.

    It is a bias before the first weights. One behind them (Kindermans et al., https://arxiv.org/abs/1711.00867) is the
    same where nothing is padded; where the first layer pads with zeros, this one stays exact.

    Raises:
        OptionError: an image of integers, to which no such number can be added.
    """
    edited = model.clone()
    image = edited.values[edited.image_input.name]
    if image.dtype not in FLOATS:
        raise OptionError(
            f"{model.label} takes {image.dtype}, whose limits cut a shifted image off: give a model that takes floats"
        )
    held = ir.Value(name=_SHIFT, const_value=ir.tensor(np.asarray(shift, image.dtype.numpy()), name=_SHIFT))
    edited.graph.register_initializer(held)
    node = ir.node("Sub", [image, held])
    plain = node.outputs[0]
    plain.name, plain.shape, plain.dtype = "onnxcam/unshifted", image.shape, image.dtype
    for use in list(image.uses()):
        if use.node is not node:
            use.node.replace_input_with(use.idx, plain)
    edited.graph.insert_before(edited.graph[0], node)
    return edited
