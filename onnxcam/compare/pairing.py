"""What of two models belongs together: classes by name, layers by shape and by how deep they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcam.errors import OptionError
from onnxcam.explainer import Explainer
from onnxcam.graph.inspect import target_layers
from onnxcam.graph.surgery import TURNED
from onnxcam.graph.tokens import Tokens
from onnxcam.image import InputSpec, Preprocess
from onnxcam.layers import TargetLayer
from onnxcam.model import Dim, dims_of

_KINDS = {"classes": "scores of classes", "dense": "a score per class and pixel", "boxes": "boxes", "tokens": "words"}
_WEIGHTED = frozenset(
    {"Conv", "ConvTranspose", "FusedConv", "ConvInteger", "QLinearConv", "MatMul", "Gemm", "MatMulInteger"}
    | {"QLinearMatMul", "Einsum"}
)
_QUANTISED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
_HALVES = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
PRECISIONS = ("float", "half", "int8")  # the finest first
Shape = tuple[int | None, int | None, int | None]


def matched_classes(a: Explainer, b: Explainer) -> npt.NDArray[np.int64] | None:
    """The index in ``b`` of each class of ``a``, by name where both have names; None where the models count none.

    Raises:
        OptionError: the models answer different questions: their outputs are of another kind, or of other classes.
    """
    kinds = a.logits.kind, b.logits.kind
    if kinds[0] != kinds[1]:
        raise _differ(a, b, f"the first gives {_KINDS[kinds[0]]}, the second {_KINDS[kinds[1]]}")
    counts = a.logits.classes, b.logits.classes
    if None not in counts and counts[0] != counts[1]:
        raise _differ(a, b, f"the first has {counts[0]} classes, the second {counts[1]}")
    count = counts[0] if counts[0] is not None else counts[1]
    if a.labels and b.labels and a.labels != b.labels:
        return _by_name(a, b, count)
    return None if count is None else np.arange(count)


def _by_name(a: Explainer, b: Explainer, count: int | None) -> npt.NDArray[np.int64]:
    """Names that come several times are taken in their order."""
    mine, other = list(a.labels or ()), list(b.labels or ())
    if sorted(mine) != sorted(other):
        only = [", ".join(sorted(set(x) - set(y))[:4]) or "none" for x, y in ((mine, other), (other, mine))]
        text = f"their classes have other names: only in the first {only[0]}; only in the second {only[1]}"
        raise _differ(a, b, f"{text}. If the classes are the same, give the names for both with labels")
    if count not in (None, len(mine)):
        text = f"they have {len(mine)} names for {count} classes, in another order: which belong together is open"
        raise _differ(a, b, f"{text}. Give the names of all {count} for both with labels")
    order = [sorted(range(len(names)), key=names.__getitem__) for names in (mine, other)]
    found = np.empty(len(mine), np.int64)
    found[order[0]] = order[1]
    return found


def _differ(a: Explainer, b: Explainer, how: str) -> OptionError:
    return OptionError(
        f"{a.model.label} and {b.model.label} do not answer the same question: {how}. Compare two models of one task"
    )


def precision(explainer: Explainer) -> str:
    """Of :data:`PRECISIONS`: what the network computes with."""
    model = explainer.model
    if any(n.op_type in _QUANTISED for n in model.graph):
        return "int8"
    return "half" if any(v.dtype in _HALVES for v in model.values.values()) else "float"


def of_preprocessing(a: Explainer, b: Explainer) -> list[str]:
    """Where each model's comes from if nobody named it, and what it contradicts: as an explanation's notes tell."""
    same = a.preprocess_reason == b.preprocess_reason
    told = {"A and B": a} if same else {"A": a, "B": b}
    return [f"{who}: {e.preprocess_reason}" for who, e in told.items() if e.preprocess_reason]


def on_one_size(
    a: tuple[InputSpec, Preprocess], b: tuple[InputSpec, Preprocess]
) -> tuple[Preprocess, Preprocess, list[str]]:
    """Both preprocessings, and a note where the models see pictures at different sizes.

    Where one model brings every picture to one size, and the other takes any and none is set, the other gets that size.
    """
    sizes = [_size(*a), _size(*b)]
    for k, (name, (spec, own)) in enumerate(zip("AB", (a, b), strict=True)):
        given = sizes[1 - k]
        if not (sizes[k] is None and given and _takes(spec, given)):
            continue
        both = [a[1], b[1]]
        both[k] = replace(own, size=given)
        text = f"{name} takes pictures of any size, and gets {_sized(given)} here, that of the other model"
        return both[0], both[1], [f"{text}; size=HEIGHTxWIDTH in its preprocessing sets another"]
    note = f"A sees {_sized(sizes[0])}, B {_sized(sizes[1])}: size is among what differs, and layers may not match"
    return a[1], b[1], [note] if sizes[0] != sizes[1] else []


def _size(spec: InputSpec, preprocess: Preprocess) -> tuple[int, int] | None:
    if preprocess.size or spec.height is None or spec.width is None:
        return preprocess.size
    return spec.height, spec.width


def _takes(spec: InputSpec, size: tuple[int, int]) -> bool:
    return all(own in (None, given) for own, given in zip((spec.height, spec.width), size, strict=True))


def _sized(size: tuple[int, int] | None) -> str:
    return f"{size[0]}x{size[1]}" if size else "each picture at a size of its own"


def of_scores(a: Explainer, b: Explainer) -> list[str]:
    """A note where only one model says that each of its classes has a probability of its own."""
    for (one, x), (other, y) in permutations((("A", a.logits.stepped_over), ("B", b.logits.stepped_over))):
        if "Sigmoid" in x and "Sigmoid" not in y and a.logits.kind == "classes":
            told = "ends in Softmax: one class per picture" if "Softmax" in y else "does not tell whether it does"
            return [
                f"{one} ends in Sigmoid: any number of classes per picture. {other} {told}. agreement is of the "
                "highest score alone"
            ]
    return []


# Layers


@dataclass(frozen=True)
class Place:
    """Where a layer lies.

    Attributes:
        layer: to read it.
        shape: (channels, height, width), None where an axis is free; of tokens, of their grid.
        depth: weighted operators (convolutions, matrix products) in front of it, as a share of those in front of the
            logits: exporters agree on these, whatever else they write between them.
        late: how many candidates of this shape and depth lie behind it, such as its activation.
    """

    layer: TargetLayer
    shape: Shape
    depth: float
    late: int = 0


def places(explainer: Explainer) -> list[Place]:
    """The candidate layers, from the image on."""
    found: list[Place] = []
    for one in target_layers(explainer.model, explainer.logits):
        turned = isinstance(one.layout, Tokens) and one.layout.turned
        layer = TargetLayer(one.name, f"{TURNED * turned}{one.name}", one.layout, one.reason)
        here = place(explainer, layer)
        late = sum(p.shape == here.shape and p.depth == here.depth for p in found)
        found.append(replace(here, late=late))
    return found[::-1]


def place(explainer: Explainer, layer: TargetLayer) -> Place:
    """Where a layer of a model lies."""
    values = explainer.model.values
    value, logits = values[layer.value.removeprefix(TURNED)], values[explainer.logits.name]
    return Place(layer, _shape(layer, dims_of(value)), _weighted(value) / max(1, _weighted(logits)))


def _weighted(value: ir.Value) -> int:
    """How many weighted operators lead to a value."""
    seen: set[int] = set()
    ahead, count = [value], 0
    while ahead:
        node = ahead.pop().producer()
        if node is not None and id(node) not in seen:
            seen.add(id(node))
            count += node.op_type in _WEIGHTED
            ahead.extend(v for v in node.inputs if v is not None)
    return count


def _shape(layer: TargetLayer, dims: Sequence[Dim]) -> Shape:
    if isinstance(layer.layout, Tokens):
        seen: Sequence[Dim] = (dims[2], layer.layout.height, layer.layout.width)
    else:
        seen = (dims[3], dims[1], dims[2]) if layer.layout == "NHWC" else dims[1:4]
    channels, height, width = (d if isinstance(d, int) else None for d in seen)
    return channels, height, width


def counterpart(of: Place, among: Sequence[Place]) -> Place | None:
    """The layer of the same shape that lies nearest in depth; of equally near ones, as early or late as ``of``."""
    fitting = [p for p in among if _same(p.shape, of.shape)]
    return min(fitting, key=lambda p: (round(abs(p.depth - of.depth), 6), abs(p.late - of.late)), default=None)


def _same(a: Shape, b: Shape) -> bool:
    return all(x is None or y is None or x == y for x, y in zip(a, b, strict=True))


def matched_layers(a: Sequence[Place], b: Sequence[Place]) -> list[tuple[Place, Place]]:
    """Pairs of layers, from the image on: of each shape and depth the last, behind activation and quantisers.

    Only layers of the same shape and depth are a pair; what one model alone has is left out.
    """
    last = [p for p in a if p.late == 0]
    pairs = [(p, counterpart(p, [q for q in b if q.late == 0])) for p in last]
    return [(p, q) for p, q in pairs if q is not None and abs(p.depth - q.depth) < 1e-6]


def layer_for(a: Explainer, b: Callable[[str], Explainer]) -> tuple[Explainer, str]:
    """The second explainer at the layer that fits the first's, and how that was found.

    Args:
        a: at its layer.
        b: makes the second at a layer.
    """
    own = b("auto")
    if not a.layers or not own.layers or a.levels or own.levels:
        return own, "each model's own"
    mine = next((p for p in places(a) if p.layer.value == a.layers[0].value), place(a, a.layers[0]))
    found = counterpart(mine, places(own))
    if found is None:
        return own, f"the second model's own: it has no layer of the shape {_told(mine)}"
    how = f"of the same shape {_told(mine)}, at depth {found.depth:.2f} (the first at {mine.depth:.2f})"
    return (own if found.layer.value == own.layers[0].value else b(found.layer.name)), how


def _told(place: Place) -> str:
    return "x".join("any" if d is None else str(d) for d in place.shape)
