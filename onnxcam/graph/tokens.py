"""Token grids of transformers: how (N, T, D) folds back to the picture, and how far patches reach, from the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcam.graph.marks import Complex, located, raster, regridded, thin
from onnxcam.graph.moves import is_move
from onnxcam.graph.paths import cuts, map_layouts, reads
from onnxcam.graph.places import aligned, places
from onnxcam.model import Layout, Model

_MIXING = {"MatMul", "Attention"}
_SHIFTING = {"Add", "Sub", "Mul", "Div"}
_PRODUCTS = _MIXING | {"Gemm", "Conv", "Einsum"}


@dataclass(frozen=True)
class Tokens:
    """The layout of a value (N, T, D): tokens before the patches (class, register), patches row by row, tokens behind.

    Attributes:
        height, width: of the grid of patches.
        before: tokens in front of the patches.
        after: tokens behind them.
        order: the token of each patch, row by row, where they lie in another order; else ().
        turned: the value is (T, N, D), as attention modules that take the batch second have it.
    """

    height: int
    width: int
    before: int = 0
    after: int = 0
    order: tuple[int, ...] = ()
    turned: bool = False

    @property
    def index(self) -> npt.NDArray[np.int64]:
        """(height * width,): the token of each patch, row by row."""
        return np.asarray(self.order or range(self.before, self.before + self.height * self.width), dtype=np.int64)

    def __str__(self) -> str:
        extra = [f" {where} {n}" for where, n in (("behind", self.before), ("before", self.after)) if n]
        odd = [" in an order of their own"] * bool(self.order) + [" (T, N, D)"] * self.turned
        return f"{self.height}x{self.width} tokens{' and'.join(extra)}{''.join(odd)}"


@dataclass(frozen=True)
class Grids:
    """Where the maps and token grids of a model lie.

    Attributes:
        layouts: of every value that holds a map or a grid of tokens, by ``id``.
        reaching: those whose patches still reach the score, by ``id``; None where tokens were not followed.
        places: of every value on the path, where tokens were followed.
    """

    layouts: Mapping[int, Layout | Tokens]
    reaching: Set[int] | None = None
    places: Mapping[int, Complex] | None = None

    def reaches(self, value: ir.Value) -> bool:
        """Whether what single places of a map hold gets to the score."""
        return self.reaching is None or id(value) in self.reaching

    def only_attended(self, value: ir.Value) -> bool:
        """Whether a value holds nothing but keys and values of attention, perhaps by heads."""
        ahead = [(value, n) for n in value.consumers()] if self.places is not None else []
        for came, node in ahead:
            moves = is_move(node) or (node.op_type in _SHIFTING and self._computed(node) == 1)
            if not moves and not (node.op_type in _MIXING and self._computed(node) > 1):
                return False
            ahead.extend((v, n) for v in node.outputs for n in v.consumers() if moves and v is not came)
        return bool(ahead)

    def _computed(self, node: ir.Node) -> int:
        """How many inputs come from the picture; queries that are learned count as well."""
        learned = (v.shape is not None and len(v.shape) > 2 for v in node.inputs if v and node.op_type in _MIXING)
        return max(sum(id(v) in (self.places or {}) for v in node.inputs), sum(learned))


def find_grids(model: Model, path: Sequence[ir.Node], image: ir.Value) -> Grids:
    """The maps and token grids between image and score.

    Networks that only convolve and pool are read by their operators. Where there is attention, or values of rank 3,
    the places of the picture are followed through the graph; this needs a picture of known size, or the layouts are
    those of the maps of rank 4 alone.
    """
    if not _has_tokens(path):
        return Grids(map_layouts(path))
    found = places(model, path, image)
    if not found:
        return Grids(map_layouts(path))
    weighted, layouts = False, dict[int, Layout | Tokens]()
    for node in path:
        weighted = weighted or node.op_type in _PRODUCTS
        for value in node.outputs if weighted else ():
            if id(value) in found and (layout := layout_of(found[id(value)])) is not None:
                layouts[id(value)] = layout
    if not layouts:  # the places of the picture are lost on the way
        return Grids(map_layouts(path))
    return Grids(layouts, _reaching(path, found), found)


def _has_tokens(path: Sequence[ir.Node]) -> bool:
    """Whether there is attention, or a value of rank 3."""
    computed = {id(v) for node in path for v in node.outputs}
    for node in path:
        both = node.op_type in _PRODUCTS and sum(v is not None and id(v) in computed for v in node.inputs) > 1
        if both or any(v.shape is not None and len(v.shape) == 3 for v in node.outputs):
            return True
    return False


def layout_of(a: Complex) -> Layout | Tokens | None:
    """The layout of a value from its places, (1, T, D), (T, 1, D), (1, C, h, w) or (1, h, w, C)."""
    small = thin(a)
    if a.ndim == 3 and 1 in a.shape[:2] and small.shape[2] == 1:
        found = tokens_of(np.broadcast_to(small, (*a.shape[:2], 1)).reshape(-1))
        return replace(found, turned=a.shape[0] > 1) if found else None
    if a.ndim != 4 or a.shape[0] != 1:
        return None
    for layout, axis in (("NCHW", 1), ("NHWC", 3)):
        if small.shape[axis] == 1 and max(small.shape) > 1:
            grid = np.broadcast_to(small, [1 if k == axis else n for k, n in enumerate(a.shape)])
            grid = grid.reshape([n for k, n in enumerate(a.shape) if k not in (0, axis)])
            if np.array_equal(regridded(grid), raster(*grid.shape)):
                return "NCHW" if layout == "NCHW" else "NHWC"
    return None


def tokens_of(marks: Complex) -> Tokens | None:
    """How tokens fold whose places are given, (T,); None where they are no complete grid of several patches."""
    patches = np.flatnonzero(np.isfinite(marks))
    if len(patches) < 2:
        return None
    found = regridded(marks[patches])
    height, width = int(found.real.max()) + 1, int(found.imag.max()) + 1
    order = np.lexsort((found.imag, found.real))
    if not np.array_equal(found[order], raster(height, width).reshape(-1)):
        return None
    before, after = int(patches[0]), len(marks) - 1 - int(patches[-1])
    index = tuple(int(k) for k in patches[order])
    return Tokens(height, width, before, after, () if index == tuple(range(before, before + len(index))) else index)


# How far the patches reach


def _reaching(path: Sequence[ir.Node], found: Mapping[int, Complex]) -> set[int]:
    """The values with places whose elements get to the end of the path, or into something that mixes them.

    A move that keeps nothing with a place (the class token is picked) ends their way; attention, pooling and products
    over them hand them on.
    """
    having = {key for key, a in found.items() if located(a)}
    reaching = {id(v) for v in path[-1].outputs if id(v) in having}
    for node in reversed(path):
        reaching.update(id(v) for v in reads(node) if id(v) in having and _passes_on(node, v, found, having, reaching))
    return reaching


def _passes_on(
    node: ir.Node, value: ir.Value, found: Mapping[int, Complex], having: Set[int], reaching: Set[int]
) -> bool:
    """Whether what comes into a node at single places of a value gets further."""
    out = [v for v in node.outputs if id(v) in having]
    if not out:
        return not is_move(node)
    if node.op_type in _MIXING and sum(id(v) in found for v in node.inputs) > 1:
        side = aligned(node, found)
        if side is None or node.inputs[side] is not value:
            return True  # keys and values reach every query
    return any(id(v) in reaching for v in out)


def past_normalization(path: Sequence[ir.Node], value: ir.Value, grids: Grids) -> ir.Value:
    """The last value, before any product with weights, that all ways of the patches of ``value`` pass.

    After the last attention block only the class token is read, so the patches of its input go through its first
    normalisation alone, not through the residual sum: this normalisation's output is found.
    """
    if grids.reaching is None or grids.places is None:
        return value
    having = {key for key, a in grids.places.items() if located(a)}
    ahead, followed = {id(value)}, list[ir.Node]()
    for node in path:
        if not any(
            id(v) in ahead and _passes_on(node, v, grids.places, having, grids.reaching) for v in node.inputs if v
        ):
            continue
        followed.append(node)
        if node.op_type not in _PRODUCTS:
            ahead.update(id(v) for v in node.outputs if id(v) in having)
    layout = grids.layouts.get(id(value))
    passed = [
        v for v in cuts(followed, value)
        if id(v) in ahead and grids.layouts.get(id(v)) == layout and v.shape == value.shape and grids.reaches(v)
    ]  # fmt: skip
    return passed[-1] if passed else value
