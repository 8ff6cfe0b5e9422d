"""Small detectors of every form, on two levels of 8 x 8 and 4 x 4 cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from small import saved

HEADS = {
    "w1": (6, 3, 3, 3), "w2": (6, 6, 3, 3),
    "t1": (6, 6, 1, 1), "t2": (6, 6, 1, 1),
    "c1": (3, 6, 1, 1), "c2": (3, 6, 1, 1), "o1": (1, 6, 1, 1), "o2": (1, 6, 1, 1),
    "r1": (4, 6, 1, 1), "r2": (4, 6, 1, 1), "q1": (8, 6, 1, 1), "q2": (8, 6, 1, 1),
}  # fmt: skip
TRUNK = """
    a = Conv <strides=[2,2], pads=[1,1,1,1]> (x, w1)
    f1 = Relu (a)
    b = Conv <strides=[2,2], pads=[1,1,1,1]> (f1, w2)
    f2 = Relu (b)
    u1 = Conv (f1, t1)
    h1 = Relu (u1)
    u2 = Conv (f2, t2)
    h2 = Relu (u2)
    k1 = Conv (h1, c1)
    k2 = Conv (h2, c2)
"""


def flat(name: str, columns: int) -> str:
    """Both levels of ``name``, boxes last: (1, columns, 80)."""
    shape = f"{name}_s = Constant <value_ints=[1,{columns},-1]> ()\n"
    parts = "".join(f"{name}_f{k} = Reshape ({name}{k}, {name}_s)\n" for k in (1, 2))
    return f"{shape}{parts}{name} = Concat <axis=2> ({name}_f1, {name}_f2)\n"


def used(body: str, **more: Any) -> dict[str, Any]:
    return {k: v for k, v in {**HEADS, **more}.items() if f" {k})" in body or f"({k}," in body or f", {k}," in body}


def yolox(folder: Path) -> Path:
    """(1, 80, 8): offsets, objectness, 3 classes; not decoded."""
    level = "".join(
        f"""
    d{k} = Conv (h{k}, r{k}, rb)
    p{k} = Conv (h{k}, o{k})
    ps{k} = Sigmoid (p{k})
    ks{k} = Sigmoid (k{k})
    all{k} = Concat <axis=1> (d{k}, ps{k}, ks{k})"""
        for k in (1, 2)
    )
    body = f"""(float[1,3,16,16] x) => (float[1,80,8] out) {{{TRUNK}{level}
    {flat("all", 8)}
    out = Transpose <perm=[0,2,1]> (all)
}}"""
    return saved(folder / "yolox.onnx", body, **used(body, rb=np.float32([0, 0, 1, 1])))


def cells() -> Any:
    """(2, 80): column and row of each box's cell, in the input's pixels; and (80,) its stride."""
    places = [(c, r, s) for n, s in ((8, 2), (4, 4)) for r in range(n) for c in range(n)]
    return np.array(places, np.float32).T


def decoded_boxes() -> str:
    """``box`` (1, 4, 80) from four of the columns of ``q``: centres round the cells, sizes of a few cells."""
    return f"""
    d1 = Conv (h1, q1)
    d2 = Conv (h2, q2)
    {flat("d", 8)}
    s0 = Constant <value_ints=[0]> ()
    s2 = Constant <value_ints=[2]> ()
    s4 = Constant <value_ints=[4]> ()
    e1 = Constant <value_ints=[1]> ()
    off = Slice (d, s0, s2, e1)
    siz = Slice (d, s2, s4, e1)
    mv = Sigmoid (off)
    ce = Add (mv, grid)
    cp = Mul (ce, stride)
    gr = Sigmoid (siz)
    g4 = Mul (gr, four)
    sp = Mul (g4, stride)
    box = Concat <axis=1> (cp, sp)
"""


def placing() -> dict[str, Any]:
    c, r, s = cells()
    return {"grid": np.stack([c, r])[None], "stride": s[None, None], "four": np.float32(4)}


def yolov8(folder: Path, meta: dict[str, str] | None = None) -> Path:
    """(1, 7, 80): decoded boxes cx, cy, w, h over 3 classes; the coordinates' convolutions are wider."""
    body = f"""(float[1,3,16,16] x) => (float[1,7,80] out) {{{TRUNK}{decoded_boxes()}
    {flat("k", 3)}
    ks = Sigmoid (k)
    out = Concat <axis=1> (box, ks)
}}"""
    return saved(folder / "yolov8.onnx", body, meta, **used(body, **placing()))


def chained(folder: Path) -> Path:
    """(1, 7, 80) as `yolov8`, its classes straight from the trunk, where the coarse map is made of the fine."""
    trunk = TRUNK.replace("Conv (h1, c1)", "Conv (f1, c1)").replace("Conv (h2, c2)", "Conv (f2, c2)")
    body = f"""(float[1,3,16,16] x) => (float[1,7,80] out) {{{trunk}{decoded_boxes()}
    {flat("k", 3)}
    ks = Sigmoid (k)
    out = Concat <axis=1> (box, ks)
}}"""
    return saved(folder / "chained.onnx", body, **used(body, **placing()))


def yolov5(folder: Path) -> Path:
    """(1, 80, 8): decoded boxes, objectness and 3 classes, a row per box."""
    body = f"""(float[1,3,16,16] x) => (float[1,80,8] out) {{{TRUNK}{decoded_boxes()}
    {flat("k", 3)}
    p1 = Conv (h1, o1)
    p2 = Conv (h2, o2)
    {flat("p", 1)}
    kp = Concat <axis=1> (p, k)
    ks = Sigmoid (kp)
    t = Concat <axis=1> (box, ks)
    out = Transpose <perm=[0,2,1]> (t)
}}"""
    return saved(folder / "yolov5.onnx", body, **used(body, **placing()))


def ssd(folder: Path) -> Path:
    """(1, 80, 3) with a background, and (1, 80, 4) corners as shares of the input."""
    body = f"""(float[1,3,16,16] x) => (float[1,80,3] scores, float[1,80,4] boxes) {{{TRUNK}{decoded_boxes()}
    {flat("k", 3)}
    kt = Transpose <perm=[0,2,1]> (k)
    z = Add (kt, bias)
    scores = Softmax <axis=-1> (z)
    h = Mul (sp, halves)
    lo = Sub (cp, h)
    hi = Add (cp, h)
    co = Concat <axis=1> (lo, hi)
    sh = Div (co, side)
    boxes = Transpose <perm=[0,2,1]> (sh)
}}"""
    more = {"bias": np.float32([3, 0, 0]), "halves": np.float32(0.5), "side": np.float32(16)}
    return saved(folder / "ssd.onnx", body, **used(body, **placing(), **more))


def suppressed(folder: Path, together: bool = False) -> Path:
    """NonMaxSuppression inside: what comes out are the selected boxes and their scores; each class apart, or not."""
    best = "km = ReduceMax <keepdims=1> (kc, e1)\n ks = Identity (km)" if together else "ks = Identity (kc)"
    body = f"""(float[1,3,16,16] x) => (float[M,4] kept, float[M] rated, int64[M,3] chosen) {{{TRUNK}{decoded_boxes()}
    {flat("k", 3)}
    kc = Sigmoid (k)
    {best}
    rows = Transpose <perm=[0,2,1]> (box)
    chosen = NonMaxSuppression <center_point_box=1> (rows, ks, most, iou, floor)
    two = Constant <value_ints=[2]> ()
    last = Gather <axis=1> (chosen, two)
    at = Squeeze (last, e1)
    flatb = Squeeze (rows, s0)
    kept = Gather <axis=0> (flatb, at)
    rated = GatherND (ks, chosen)
}}"""
    more = {"most": np.int64([5]), "iou": np.float32([0.4]), "floor": np.float32([0.3])}
    return saved(folder / "nms.onnx", body, **used(body, **placing(), **more))


def listed(folder: Path) -> Path:
    """(1, 10, 6): the ten best boxes, each with its best class."""
    body = f"""(float[1,3,16,16] x) => (float[1,10,6] out) {{{TRUNK}{decoded_boxes()}
    {flat("k", 3)}
    ks = Sigmoid (k)
    best = ReduceMax <keepdims=0> (ks, e1)
    which = ArgMax <axis=1, keepdims=0> (ks)
    ten = Constant <value_ints=[10]> ()
    top, at = TopK <axis=1> (best, ten)
    rows = Transpose <perm=[0,2,1]> (box)
    atc = Unsqueeze (at, s2)
    four_s = Constant <value_ints=[1,10,4]> ()
    ate = Expand (atc, four_s)
    own = GatherElements <axis=1> (rows, ate)
    cls = GatherElements <axis=1> (which, at)
    clf = Cast <to=1> (cls)
    cl = Unsqueeze (clf, s2)
    sc = Unsqueeze (top, s2)
    out = Concat <axis=2> (own, sc, cl)
}}"""
    return saved(folder / "listed.onnx", body, **used(body, **placing()))
