"""Tiny vision transformers as graphs, and the same forward passes in NumPy, step by step, in float64.

Pictures are (n, 3, 8, 12); patches of 4 x 4 make a grid of 2 x 3, so that height and width cannot be mistaken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from builders import model, value
from numpy.typing import NDArray
from onnx import helper

Array = NDArray[Any]
HEIGHT, WIDTH, PATCH, GRID = 8, 12, 4, (2, 3)
DIM, HEADS, CLASSES = 16, 2, 5


@dataclass
class ViT:
    """Conv, tokens, pre-norm blocks, norm, head.

    Attributes:
        before: class and register tokens in front.
        pool: ``"class"`` (token 0), ``"two"`` (mean of the scores of tokens 0 and 1), ``"mean"`` (of the patches) or
            ``"map"`` (attention of one learned query).
        blocks: how many.
        batch: the batch axis.
        size: the picture's (H, W); strings are free.
        fused: the operator Attention (opset 23) instead of its parts.
        plain_norm: LayerNormalization in parts.
        permute: a fixed order of the patches' tokens.
        turned: blocks work on (T, N, D), heads lie in the batch axis.
    """

    before: int = 1
    pool: str = "class"
    blocks: int = 2
    batch: int | str = "n"
    size: tuple[int | str, int | str] = (HEIGHT, WIDTH)
    fused: bool = False
    plain_norm: bool = False
    permute: tuple[int, ...] = ()
    turned: bool = False
    seed: int = 0
    weights: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        tokens = self.before + math.prod(GRID)
        shapes = {
            "stem": (DIM, 3, PATCH, PATCH), "extra": (1, self.before, DIM), "position": (1, tokens, DIM),
            "query": (1, HEADS, 1, DIM // HEADS), "pool.kv": (DIM, 2 * DIM), "head": (DIM, CLASSES),
            "head2": (DIM, CLASSES),
        }  # fmt: skip
        for k in range(self.blocks):
            shapes |= {
                f"{k}.scale": (DIM,), f"{k}.shift": (DIM,), f"{k}.scale2": (DIM,), f"{k}.shift2": (DIM,),
                f"{k}.qkv": (DIM, 3 * DIM), f"{k}.out": (DIM, DIM), f"{k}.up": (DIM, 2 * DIM),
                f"{k}.down": (2 * DIM, DIM),
            }  # fmt: skip
        shapes |= {"scale": (DIM,), "shift": (DIM,)}
        for name, shape in shapes.items():
            spread = 1 / math.sqrt(math.prod(shape[1:]) if name == "stem" else shape[0]) if len(shape) > 1 else 0.3
            drawn = rng.standard_normal(shape) * (spread if "extra" not in name else 1)
            self.weights[name] = (drawn + ("scale" in name)).astype(np.float32)

    # As a graph

    def proto(self) -> onnx.ModelProto:
        """The graph; block k's first normalisation is ``k.norm``, its output ``k``, its probabilities ``k.P``."""
        self._nodes: list[onnx.NodeProto] = []
        self._arrays: dict[str, Array] = dict(self.weights)
        x = self._tokens()
        x = self._op("Transpose", x, perm=[1, 0, 2]) if self.turned else x
        for k in range(self.blocks):
            x = self._block(x, k)
        x = self._op("Transpose", x, perm=[1, 0, 2]) if self.turned else x
        x = self._norm(x, "scale", "shift", "norm")
        self._head(x)
        size = [self.batch, 3, *self.size]
        used = {n for node in self._nodes for n in node.input}
        arrays = {k: a for k, a in self._arrays.items() if k in used}
        scores = value("logits", [self.batch, CLASSES])
        opset = 23 if self.fused else 18
        return model(self._nodes, [value("image", size)], [scores], arrays, opset, 10 if self.fused else 8)

    def _op(self, op_type: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        name = to or f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, list(inputs), [name], f"/{name}/{op_type}", **attributes))
        return name

    def _ints(self, *numbers: int) -> str:
        name = "i" + "_".join(map(str, numbers))
        self._arrays[name] = np.asarray(numbers, dtype=np.int64)
        return name

    def _tokens(self) -> str:
        patches = self._op("Conv", "image", "stem", to="patches", strides=[PATCH, PATCH])
        flat = self._op("Reshape", patches, self._ints(0, DIM, -1))
        x = self._op("Transpose", flat, to="flat", perm=[0, 2, 1])
        if self.permute:
            self._arrays["order"] = np.asarray(self.permute, dtype=np.int64)
            x = self._op("Gather", x, "order", axis=1)
        if self.before:
            batch = self._op("Shape", "image", end=1)
            shape = self._op("Concat", batch, self._ints(self.before, DIM), axis=0)
            x = self._op("Concat", self._op("Expand", "extra", shape), x, axis=1)
        return self._op("Add", x, "position", to="tokens")

    def _norm(self, x: str, scale: str, shift: str, to: str) -> str:
        if not self.plain_norm:
            return self._op("LayerNormalization", x, scale, shift, to=to, epsilon=1e-6)
        self._arrays |= {"two": np.float32(2), "tiny": np.float32(1e-6)}
        centred = self._op("Sub", x, self._op("ReduceMean", x, self._ints(-1)))
        square = self._op("ReduceMean", self._op("Pow", centred, "two"), self._ints(-1))
        unit = self._op("Div", centred, self._op("Sqrt", self._op("Add", square, "tiny")))
        return self._op("Add", self._op("Mul", unit, scale), shift, to=to)

    def _by_head(self, x: str) -> str:
        if self.turned:
            split = self._op("Reshape", x, self._ints(0, -1, DIM // HEADS))
            return self._op("Transpose", split, perm=[1, 0, 2])
        split = self._op("Reshape", x, self._ints(0, -1, HEADS, DIM // HEADS))
        return self._op("Transpose", split, perm=[0, 2, 1, 3])

    def _block(self, x: str, k: int) -> str:
        normed = self._norm(x, f"{k}.scale", f"{k}.shift", f"{k}.norm")
        joint = self._op("MatMul", normed, f"{k}.qkv")
        names = [f"{k}.{n}" for n in "qkv"]
        self._nodes.append(helper.make_node("Split", [joint], names, num_outputs=3, axis=-1))
        q, key, v = map(self._by_head, names)
        mixed = self._op("Attention", q, key, v) if self.fused else self._attend(q, key, v, f"{k}.P")
        moved = self._op("Transpose", mixed, perm=[1, 0, 2] if self.turned else [0, 2, 1, 3])
        back = self._op("Reshape", moved, self._ints(0, -1, DIM))
        x = self._op("Add", x, self._op("MatMul", back, f"{k}.out"))
        normed = self._norm(x, f"{k}.scale2", f"{k}.shift2", f"{k}.norm2")
        hidden = self._op("Relu", self._op("MatMul", normed, f"{k}.up"))
        return self._op("Add", x, self._op("MatMul", hidden, f"{k}.down"), to=f"{k}")

    def _attend(self, q: str, key: str, v: str, to: str) -> str:
        self._arrays["root"] = np.float32(math.sqrt(DIM // HEADS))
        scores = self._op("MatMul", q, self._op("Transpose", key, perm=[0, 2, 1] if self.turned else [0, 1, 3, 2]))
        return self._op("MatMul", self._op("Softmax", self._op("Div", scores, "root"), to=to, axis=-1), v)

    def _head(self, x: str) -> None:
        self._arrays |= {"zero": np.asarray(0), "one": np.asarray(1), "half": np.float32(0.5)}
        if self.pool == "two":
            both = [
                self._op("MatMul", self._op("Gather", x, n, axis=1), head)
                for n, head in (("zero", "head"), ("one", "head2"))
            ]
            self._op("Mul", self._op("Add", *both), "half", to="logits")
            return
        if self.pool == "class":
            picked = self._op("Gather", x, "zero", axis=1)
        elif self.pool == "mean":
            rest = self._op("Slice", x, self._ints(self.before), self._ints(10**6), self._ints(1))
            picked = self._op("ReduceMean", rest, self._ints(1), keepdims=0)
        else:
            joint = self._op("MatMul", x, "pool.kv")
            self._nodes.append(helper.make_node("Split", [joint], ["pool.k", "pool.v"], num_outputs=2, axis=-1))
            found = self._attend("query", self._by_head("pool.k"), self._by_head("pool.v"), "pool.P")
            moved = self._op("Transpose", found, perm=[0, 2, 1, 3])
            picked = self._op("Reshape", moved, self._ints(-1, DIM))
        self._op("MatMul", picked, "head", to="logits")

    # In NumPy

    def run(self, x: Array, edit: dict[str, Array] | None = None) -> dict[str, Array]:
        """Every named value of the graph for one picture (1, 3, 8, 12); ``edit`` replaces some on the way."""
        w = {k: a.astype(np.float64) for k, a in self.weights.items()}
        self._edit, self._found = edit or {}, dict[str, Array]()
        h, wide = GRID
        cells = x.astype(np.float64).reshape(3, h, PATCH, wide, PATCH).transpose(1, 3, 0, 2, 4).reshape(h * wide, -1)
        tokens = cells @ w["stem"].reshape(DIM, -1).T
        tokens = tokens[list(self.permute)] if self.permute else tokens
        z = self._see("tokens", np.concatenate([w["extra"][0], tokens]) + w["position"][0])
        for k in range(self.blocks):
            normed = self._see(f"{k}.norm", norm(z, w[f"{k}.scale"], w[f"{k}.shift"]))
            q, key, v = map(by_head, np.split(normed @ w[f"{k}.qkv"], 3, axis=-1))
            p = self._see(f"{k}.P", softmax(q @ key.transpose(0, 2, 1) / math.sqrt(DIM // HEADS)))
            z = z + (p @ v).transpose(1, 0, 2).reshape(len(z), DIM) @ w[f"{k}.out"]
            normed = norm(z, w[f"{k}.scale2"], w[f"{k}.shift2"])
            z = self._see(f"{k}", z + np.maximum(normed @ w[f"{k}.up"], 0) @ w[f"{k}.down"])
        self._found["logits"] = self.scores(z)
        return self._found

    def _see(self, name: str, a: Array) -> Array:
        self._found[name] = self._edit.get(name, a)
        return self._found[name]

    def scores(self, z: Array, pool: Array | None = None) -> Array:
        """(T, D) of the last block -> (classes,); ``pool`` replaces the probabilities of the attention pool."""
        w = {k: a.astype(np.float64) for k, a in self.weights.items()}
        x = norm(z, w["scale"], w["shift"])
        if self.pool == "class":
            return x[0] @ w["head"]
        if self.pool == "two":
            return (x[0] @ w["head"] + x[1] @ w["head2"]) / 2
        if self.pool == "mean":
            return x[self.before :].mean(axis=0) @ w["head"]
        key, v = map(by_head, np.split(x @ w["pool.kv"], 2, axis=-1))
        p = softmax(w["query"][0] @ key.transpose(0, 2, 1) / math.sqrt(DIM // HEADS)) if pool is None else pool
        return (p @ v).transpose(1, 0, 2).reshape(DIM) @ w["head"]

    def pooling(self, z: Array) -> Array:
        """(heads, 1, T): the probabilities of the attention pool."""
        w = {k: a.astype(np.float64) for k, a in self.weights.items()}
        key = by_head(np.split(norm(z, w["scale"], w["shift"]) @ w["pool.kv"], 2, axis=-1)[0])
        return softmax(w["query"][0] @ key.transpose(0, 2, 1) / math.sqrt(DIM // HEADS))


def norm(x: Array, scale: Array, shift: Array) -> Array:
    """LayerNorm over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * scale + shift


def softmax(x: Array) -> Array:
    raised = np.exp(x - x.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def by_head(x: Array) -> Array:
    """(T, D) -> (heads, T, D / heads)."""
    return x.reshape(len(x), HEADS, -1).transpose(1, 0, 2)


def picture(seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((1, 3, HEIGHT, WIDTH)).astype(np.float32)


def windows(shift: int = 1) -> onnx.ModelProto:
    """A Swin-like network: a map 4 x 6 is rolled, attends within 2 x 2 windows, is rolled back and merged to 2 x 3.

    The values are ``map`` (1, 4, 6, 8), ``rolled``, ``windows`` (6, 4, 8), ``block``, ``merged`` (1, 2, 3, 16).
    """
    rng = np.random.default_rng(0)
    shapes = {"stem": (8, 3, 2, 2), "q": (8, 8), "k": (8, 8), "v": (8, 8), "merge": (32, 16), "head": (16, 5)}
    arrays: dict[str, Array] = {
        k: (rng.standard_normal(s) / math.sqrt(s[0])).astype(np.float32) for k, s in shapes.items()
    }
    nodes: list[onnx.NodeProto] = []

    def ints(*numbers: int) -> str:
        name = "i" + "_".join(map(str, numbers))
        arrays[name] = np.asarray(numbers, dtype=np.int64)
        return name

    def op(op_type: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        name = to or f"v{len(nodes)}"
        nodes.append(helper.make_node(op_type, list(inputs), [name], name, **attributes))
        return name

    def rolled(x: str, by: int, to: str) -> str:
        for axis in (1, 2):
            tail = op("Slice", x, ints(by), ints(10**6), ints(axis))
            x = op("Concat", tail, op("Slice", x, ints(0), ints(by), ints(axis)), axis=axis, to=to if axis == 2 else "")
        return x

    x = op("Transpose", op("Conv", "image", "stem", strides=[2, 2]), perm=[0, 2, 3, 1], to="map")
    moved = rolled(x, shift, "rolled")
    cut = op("Reshape", moved, ints(-1, 2, 2, 3, 2, 8))
    cells = op("Reshape", op("Transpose", cut, perm=[0, 1, 3, 2, 4, 5]), ints(-1, 4, 8), to="windows")
    q, k, v = (op("MatMul", cells, n) for n in "qkv")
    p = op("Softmax", op("MatMul", q, op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    back = op("Reshape", op("MatMul", p, v), ints(-1, 2, 3, 2, 2, 8))
    whole = op("Reshape", op("Transpose", back, perm=[0, 1, 3, 2, 4, 5]), ints(-1, 4, 6, 8))
    x = op("Add", x, rolled(whole, -shift, "unrolled"), to="block")
    parts = [
        op("Slice", x, ints(row, column), ints(10**6, 10**6), ints(1, 2), ints(2, 2))
        for column in (0, 1) for row in (0, 1)
    ]  # fmt: skip
    merged = op("MatMul", op("Concat", *parts, axis=-1), "merge", to="merged")
    op("MatMul", op("ReduceMean", merged, ints(1, 2), keepdims=0), "head", to="logits")
    given, scores = value("image", ["n", 3, HEIGHT, WIDTH]), value("logits", ["n", 5])
    return model(nodes, [given], [scores], arrays)
