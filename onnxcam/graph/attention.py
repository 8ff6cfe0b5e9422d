"""Attention maps: where a transformer holds them, which grid their keys lie on, and scores of single blocks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcam.graph import symbolic as xp
from onnxcam.graph.inspect import Logits
from onnxcam.graph.marks import Complex, located, thin
from onnxcam.graph.moves import is_move
from onnxcam.graph.paths import cuts, first_float, float_path
from onnxcam.graph.places import follow
from onnxcam.graph.symbolic import PREFIX, Tensor, Writer
from onnxcam.graph.tokens import Grids, Tokens, find_grids, tokens_of
from onnxcam.model import Model, dims_of

# What may lie between a Softmax and the product with the values.
_BEHIND_SOFTMAX = {"Identity", "Cast", "Dropout", "Where"}


@dataclass(frozen=True)
class Attention:
    """The attention of a transformer whose blocks all look at the same tokens.

    Attributes:
        maps: the attention probabilities of each block, (N, heads, T, T) or (N * heads, T, T), first block first.
        ends: what each block hands to the next, a residual sum (N, T, D) or (T, N, D).
        tokens: how the T keys fold to the picture.
        reads: which tokens the head reads.
        pool: the probabilities of an attention pool in the head, (N, heads, Q, T); "" where there is none.
        axis: where the tokens lie in ``ends``.
    """

    maps: tuple[str, ...]
    ends: tuple[str, ...]
    tokens: Tokens
    reads: tuple[int, ...]
    pool: str = ""
    axis: int = 1


# The operator Attention, written out


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """softmax(scale q k' + mask) and its product with v, of (N, heads, T, D) each (Vaswani et al., 2017, equation 1).

    https://arxiv.org/abs/1706.03762
    """
    scores = q * scale @ xp.permute_dims(k, [0, 1, 3, 2])
    weights = q.writer.op("Softmax", scores if mask is None else scores + mask, axis=-1)
    return weights, weights @ v


def by_head(x: Tensor, heads: int) -> Tensor:
    """(N, T, heads D) -> (N, heads, T, D); of rank 4 it is so already."""
    return x if x.rank == 4 else xp.permute_dims(xp.reshape(x, [0, 0, heads, -1]), [0, 2, 1, 3])


def joined(y: Tensor, rank: int) -> Tensor:
    """(N, heads, T, D) -> (N, T, heads D), where the operator was given that."""
    return y if rank == 4 else xp.reshape(xp.permute_dims(y, [0, 2, 1, 3]), [0, 0, -1])


def written_out(model: Model) -> Model:
    """The model with its plain Attention operators as products and a Softmax, whose output can be read.

    Those with a cache, causal masks, soft caps or shared keys stay as they are.
    """
    fused = [n.name for n in model.graph if n.op_type == "Attention" and not n.domain and _is_plain(n)]
    if not fused:
        return model
    edited = model.clone()
    writer = Writer(edited.graph, edited.opset)
    for node in [n for n in edited.graph if n.name in fused]:
        q, k, v, *rest = (None if value is None else writer.tensor(value) for value in node.inputs)
        assert q is not None
        assert k is not None
        assert v is not None
        heads = node.attributes.get_int("q_num_heads", 1)
        q4, k4, v4 = (by_head(t, heads) for t in (q, k, v))
        scale = node.attributes.get_float("scale") or 1 / math.sqrt(_width(node))
        _, result = attend(q4, k4, v4, scale, rest[0] if rest else None)
        value, name = joined(result, q.rank).value, node.outputs[0].name
        ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)
        value.shape = node.outputs[0].shape
        edited.graph.remove(node, safe=True)
        value.name = name
    edited.graph.sort()
    return edited


def _width(node: ir.Node) -> int:
    """Features of a head; 0 where they are unknown."""
    dims = dims_of(node.inputs[0]) if node.inputs[0] is not None and node.inputs[0].shape is not None else (None,)
    heads = node.attributes.get_int("q_num_heads", 1) if len(dims) == 3 else 1
    return dims[-1] // heads if isinstance(dims[-1], int) and heads else 0


def _is_plain(node: ir.Node) -> bool:
    given, attributes = list(node.inputs), node.attributes
    mask = given[3] if len(given) > 3 else None
    bare = len([v for v in node.outputs if v.name]) == 1 and not any(v is not None for v in given[4:])
    changed = attributes.get_int("is_causal", 0) or attributes.get_float("softcap")
    changed = changed or any(attributes.get_int(f"{side}_window_size", -1) >= 0 for side in ("left", "right"))
    ranks = {len(v.shape) for v in given[:3] if v is not None and v.shape is not None}
    counts = attributes.get_int("q_num_heads", 0), attributes.get_int("kv_num_heads", 0)
    alike = counts[0] == counts[1] > 0 if ranks == {3} else ranks == {4} and _heads(given[0]) == _heads(given[1])
    return bare and not changed and alike and _width(node) > 0 and (mask is None or mask.dtype == given[0].dtype)  # type: ignore[union-attr]


def _heads(value: ir.Value | None) -> object:
    return None if value is None else dims_of(value)[1]


# Finding the maps


def find_attention(model: Model, logits: Logits) -> Attention | str:
    """The attention of the blocks, or in words why there is none of this kind.

    Every map whose keys are the patches of the whole picture counts; those of windows, of regions or over channels do
    not. ``model`` has its Attention operators written out.
    """
    image, of = first_float(model.values[model.image_input.name]), model.values[logits.name]
    path = float_path(of, [image])
    grids = find_grids(model, path, image)
    if grids.places is None:
        return "there is no attention, or the picture's size is free"
    found = [(node, *pair) for node in path if (pair := _keys_of(node, grids.places)) is not None]
    if not found:
        return "no attention looks at the whole picture: it is over windows, regions or channels"
    square = [(node, tokens) for node, tokens, size in found if _queries(node, grids.places) == size]
    pools = [node for node, _, size in found if _queries(node, grids.places) != size]
    if not square or len({tokens for _, tokens in square}) > 1 or (pools and pools != [found[-1][0]]):
        return "its blocks attend to different sets of tokens, so their maps cannot be combined"
    nodes, tokens = [n for n, _ in square], square[0][1]
    ends = _ends(path, nodes, grids, cuts(path, image))
    if not ends:
        return "its blocks do not end in sums of tokens (N, T, D)"
    last = grids.layouts[id(ends[-1])]
    axis = 0 if isinstance(last, Tokens) and last.turned else 1
    reads = tokens_read(model, path, ends[-1], grids.places[id(ends[-1])].shape)
    pool = str(_weights(pools[0]).name) if pools else ""
    maps = tuple(str(_weights(n).name) for n in nodes)
    return Attention(maps, tuple(str(v.name) for v in ends), tokens, reads, pool, axis)


def _weights(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _keys_of(node: ir.Node, places: Mapping[int, Complex]) -> tuple[Tokens, int] | None:
    """How the keys fold and how many there are, if a node is the product of attention probabilities and values."""
    if node.op_type != "MatMul" or any(v is None or id(v) not in places for v in node.inputs):
        return None
    values = places[id(node.inputs[1])]
    if not _is_softmax(node.inputs[0]) or values.ndim < 3 or places[id(node.inputs[0])].ndim != values.ndim:
        return None
    marks = thin(values)
    if marks.size != marks.shape[-2]:  # windows lie in different places
        return None
    tokens = tokens_of(np.broadcast_to(marks.reshape(-1), values.shape[-2]))
    return None if tokens is None else (tokens, values.shape[-2])


def _queries(node: ir.Node, places: Mapping[int, Complex]) -> int:
    return int(places[id(_weights(node))].shape[-2])


def _is_softmax(value: ir.Value | None) -> bool:
    while value is not None and (node := value.producer()) is not None and node.op_type in _BEHIND_SOFTMAX:
        value = next((v for v in node.inputs if v and v.const_value is None and v.dtype == value.dtype), None)
    return value is not None and (node := value.producer()) is not None and node.op_type == "Softmax"


def _ends(
    path: Sequence[ir.Node], nodes: Sequence[ir.Node], grids: Grids, passed: Sequence[ir.Value]
) -> list[ir.Value]:
    """The residual sum at the end of each block; [] where one has none."""
    at = {id(n): k for k, n in enumerate(path)}
    computed = {id(v) for n in path for v in n.outputs}
    sums = [
        (at[id(n)], v) for v in passed
        if (n := v.producer()) is not None and n.op_type == "Add" and all(id(u) in computed for u in n.inputs)
        and isinstance(grids.layouts.get(id(v)), Tokens)
    ]  # fmt: skip
    bounds = [*(at[id(n)] for n in nodes), len(path)]
    found = [
        [v for k, v in sums if low < k < high] for low, high in itertools.pairwise(bounds)
    ]  # fmt: skip
    ends = [inside[-1] for inside in found if inside]
    same = {grids.layouts[id(v)] for v in ends}
    return ends if len(ends) == len(nodes) and len(same) == 1 else []


def tokens_read(model: Model, path: Sequence[ir.Node], last: ir.Value, size: tuple[int, ...]) -> tuple[int, ...]:
    """Which of the tokens that the last block gives the head reads: those that get to where tokens end.

    Args:
        model: the model.
        path: from image to logits.
        last: what the last block gives.
        size: its shape for one picture, (1, T, D) or (T, 1, D).
    """
    behind = path[[last in n.outputs for n in path].index(True) + 1 :]
    labels = np.arange(size[0] * size[1]).reshape(*size[:2], 1)
    marks = np.broadcast_to(labels + 0j, size)
    found = follow(model, behind, last, marks)
    pure, read = {id(last)}, set[int]()
    for node in behind:
        whole = set[int]().union(*(_labels(found[id(v)]) for v in node.inputs if v is not None and id(v) in pure))
        if not whole:
            continue
        kept = set[int]().union(*(_labels(found[id(v)]) for v in node.outputs if id(v) in found))
        if is_move(node) or kept == whole:
            pure.update(id(v) for v in node.outputs)
        else:
            read |= whole
    ends = [v for v in path[-1].outputs if id(v) in pure]
    return tuple(sorted(read.union(*(_labels(found[id(v)]) for v in ends))))


def _labels(a: Complex) -> set[int]:
    small = thin(a)
    return {int(k) for k in small[np.isfinite(small)].real} if located(a) else set()


# Scores of single blocks


def write_block_scores(
    model: Model, writer: Writer, attention: Attention, logits: str
) -> list[tuple[ir.Value, ir.Value]]:
    """For each block the logits that the head gives to its tokens, and the attention map to differentiate at.

    The head is what lies behind the last block. It is written once per block and reads the mean of the block's tokens
    in the place of every token; a head that pools by attention reads the tokens as they are, and its own map is the
    one to differentiate at (Bousselham et al., 2024, sections 3.1 and 3.2).
    """
    ends = [model.values[n] for n in attention.ends]
    head = _between(model, ends[-1], model.values[logits])
    written = []
    for name, end in zip(attention.maps, ends, strict=True):
        tokens = writer.tensor(end)
        mean = tokens if attention.pool else _spread_mean(tokens, attention.axis)
        copies = _copied(writer, head, {id(ends[-1]): mean.value})
        at = copies[id(model.values[attention.pool])] if attention.pool else model.values[name]
        written.append((copies[id(model.values[logits])], at))
    return written


def _spread_mean(tokens: Tensor, axis: int) -> Tensor:
    """The mean of the tokens in the place of each."""
    return xp.expand_like(xp.mean(tokens, axis=axis, keepdims=True), tokens)


def _between(model: Model, start: ir.Value, end: ir.Value) -> list[ir.Node]:
    """The nodes that depend on ``start`` and that ``end`` depends on, in graph order."""
    ahead, reached = {id(start)}, list[ir.Node]()
    for node in model.graph:
        if any(v is not None and id(v) in ahead for v in node.inputs):
            ahead.update(id(v) for v in node.outputs)
            reached.append(node)
    behind, found = {id(end)}, list[ir.Node]()
    for node in reversed(reached):
        if any(id(v) in behind for v in node.outputs):
            behind.update(id(v) for v in node.inputs if v is not None)
            found.append(node)
    return found[::-1]


def _copied(writer: Writer, nodes: Sequence[ir.Node], given: Mapping[int, ir.Value]) -> dict[int, ir.Value]:
    """Write nodes once more, with other values for some they read; what stands for each value, by ``id``."""
    stands = dict(given)
    for node in nodes:
        inputs = [stands.get(id(v), v) if v is not None else None for v in node.inputs]
        number = len(writer.graph)
        outputs = [ir.Value(name=f"{PREFIX}block/{number}/{v.name}", type=v.type, shape=v.shape) for v in node.outputs]
        name = f"{PREFIX}block/{number}/{node.name}"
        copy = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), outputs=outputs, name=name)
        writer.graph.append(copy)
        stands.update((id(v), w) for v, w in zip(node.outputs, outputs, strict=True))
    return stands
