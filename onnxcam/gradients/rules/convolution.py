"""Conv and ConvTranspose: each is the other's gradient.

Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, https://arxiv.org/abs/1603.07285.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from onnxcam.gradients.rules import Cotangents, Node, UnsupportedError, vjp
from onnxcam.graph import symbolic as xp
from onnxcam.graph.symbolic import Tensor
from onnxcam.graph.weights import is_settled
from onnxcam.model import Dim

_COPIED_BELOW = 2**13  # bytes of a weight; a larger one is turned by nodes, which cost the file less


@dataclass(frozen=True)
class Window:
    """The geometry of a sliding window, per spatial axis.

    Attributes:
        kernel, strides, dilations: one entry per axis.
        before, after: padding; entries are ints, or int64 tensors of shape (1,) where they depend on a free axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int | Tensor, ...]
    after: tuple[int | Tensor, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """Pixels from the first to the last tap of the kernel, less one."""
        return tuple((k - 1) * d for k, d in zip(self.kernel, self.dilations, strict=True))


def window(node: Node, kernel: Sequence[Dim]) -> Window:
    """The geometry that the attributes of Conv and the pools describe (ONNX spec, operator Conv)."""
    win, auto = _plain_window(node, kernel), node.attr("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        return win
    pairs = [_same_padding(node, a, r, s, auto) for a, (r, s) in enumerate(zip(win.reach, win.strides, strict=True))]
    return replace(win, before=tuple(p[0] for p in pairs), after=tuple(p[1] for p in pairs))


def _plain_window(node: Node, kernel: Sequence[Dim]) -> Window:
    """The geometry without automatic padding."""
    if not all(isinstance(k, int) for k in kernel):
        raise UnsupportedError("the kernel's shape is unknown")
    sizes = tuple(k for k in kernel if isinstance(k, int))
    n = len(sizes)
    pads = node.attr("pads", [0] * 2 * n) if node.attr("auto_pad", "NOTSET") == "NOTSET" else [0] * 2 * n
    strides, dilations = node.attr("strides", [1] * n), node.attr("dilations", [1] * n)
    return Window(sizes, tuple(strides), tuple(dilations), tuple(pads[:n]), tuple(pads[n:]))


def _same_padding(node: Node, axis: int, reach: int, stride: int, auto: str) -> tuple[int | Tensor, int | Tensor]:
    """max((ceil(n / stride) - 1) stride + reach + 1 - n, 0), halved; the odd pixel goes after for SAME_UPPER."""
    n = xp.dim(node.x, axis + 2)
    out = (n + (stride - 1)) / stride
    total = node.writer.op("Max", (out - 1) * stride + (reach + 1) - n, n.lift([0]))
    less = total / 2
    more = total - less
    pair = (less, more) if auto == "SAME_UPPER" else (more, less)
    before, after = (int(t.const[0]) if t.const is not None else t for t in pair)
    return before, after


@vjp("Conv")
def conv(node: Node, dy: Tensor) -> Cotangents:
    x, w = node.xs[:2]
    assert w.shape is not None
    win, group = window(node, w.shape[2:]), node.attr("group", 1)
    dx = _note_mean(spread_out(dy, w, win, group, x), dy, w, win, group) if 0 in node.wanted else None
    dw = _weight_gradient(x, dy, w, win, group) if 1 in node.wanted else None
    db = xp.sum(dy, (0, *range(2, dy.rank))) if 2 in node.wanted else None
    return dx, dw, db


def _note_mean(dx: Tensor, dy: Tensor, w: Tensor, win: Window, group: int) -> Tensor:
    """``dx``, with the note that a product of every pixel with one matrix gives the mean as the product of the mean."""
    flat = {*win.kernel, *win.strides} == {1} and all(isinstance(p, int) and p == 0 for p in win.before + win.after)
    if flat:
        axes = tuple(range(2, dy.rank))
        dx.writer.means[dx.value] = lambda: dx.writer.op(
            "ConvTranspose", xp.mean(dy, axes, keepdims=True), w, group=group
        )
    return dx


def spread_out(dy: Tensor, w: Tensor, win: Window, group: int, like: Tensor) -> Tensor:
    """The adjoint of a convolution: each output pixel spreads its cotangent over the pixels of ``like`` it read."""
    flat = all(s == 1 for s in win.strides)
    fits = all(isinstance(p, int) and p <= r for p, r in zip((*win.before, *win.after), win.reach * 2, strict=True))
    head = dy.shape is not None and all(d == 1 for d in dy.shape[2:])  # as quick, and needs no copy of the weight
    known = all(isinstance(d, int) for d in w.shape or (None,)) and is_settled(w)
    if fits and known and not head:
        if flat:
            return _by_flipped_conv(dy, w, win, group)
        if (apart := _at_stride_one(dy, w, win, group, like)) is not None:
            return _by_flipped_conv(apart[0], w, apart[1], group)
    return _by_transposed_conv(dy, w, win, group, like)


def _at_stride_one(dy: Tensor, w: Tensor, win: Window, group: int, like: Tensor) -> tuple[Tensor, Window] | None:
    """Of a depthwise convolution, ``dy`` with zeros between its pixels, where all windows at stride 1 would be.

    A ConvTranspose per channel is slow in its taps; one of a single tap and a convolution are twice as quick together.
    """
    assert w.shape is not None
    outs, ins, *_ = (d if isinstance(d, int) else 0 for d in w.shape)
    lengths, counts = ([d for d in (t.shape or ())[2:] if isinstance(d, int)] for t in (like, dy))
    before = [p for p in win.before if isinstance(p, int)]
    known = len(lengths) == len(counts) == len(before) == len(win.kernel)
    if not known or not group == outs > ins == 1 or max(win.kernel) == 1:
        return None
    one = w.writer.constant(np.ones((group, 1, *[1] * len(win.kernel))), w.dtype)
    apart = dy.writer.op("ConvTranspose", dy, one, strides=list(win.strides), group=group)
    reached = [(m - 1) * s + r + 1 for m, s, r in zip(counts, win.strides, win.reach, strict=True)]
    after = tuple(e - n - p for e, n, p in zip(reached, lengths, before, strict=True))
    return apart, replace(win, strides=(1,) * len(after), after=after)


def _by_flipped_conv(dy: Tensor, w: Tensor, win: Window, group: int) -> Tensor:
    """At stride 1 the adjoint is a convolution with the flipped weight: as fast as the forward one."""
    weight = _flipped(w, group)
    begin = [r - int(p) for r, p in zip(win.reach, win.before, strict=True)]  # type: ignore[arg-type]
    end = [r - int(p) for r, p in zip(win.reach, win.after, strict=True)]  # type: ignore[arg-type]
    return dy.writer.op("Conv", dy, weight, pads=begin + end, dilations=list(win.dilations), group=group)


def _flipped(w: Tensor, group: int) -> Tensor:
    """The weight of the adjoint; of a large one runtimes compute it when they load the file, which holds it once."""
    outs, ins, *kernel = (int(d) for d in w.shape or ())  # type: ignore[arg-type]
    write, vector, rank = partial(w.writer.op, fold=_is_small(w)), w.writer.constant, len(kernel)
    lead = 2 if group == 1 else 3  # axes before the kernel's; those of groups are apart for the exchange
    blocks = w if group == 1 else write("Reshape", w, vector([group, outs // group, ins, *kernel]))
    turned = write("Transpose", blocks, perm=[*range(lead - 2), lead - 1, lead - 2, *range(lead, lead + rank)])
    if axes := [lead + a for a, d in enumerate(kernel) if d > 1]:
        last, before_first, back = (vector([v] * len(axes)) for v in (-1, -(2**31), -1))
        turned = write("Slice", turned, last, before_first, vector(axes), back)
    return turned if group == 1 else write("Reshape", turned, vector([group * ins, outs // group, *kernel]))


def _is_small(w: Tensor) -> bool:
    return w.const is not None and w.const.nbytes < _COPIED_BELOW


def _by_transposed_conv(dy: Tensor, w: Tensor, win: Window, group: int, like: Tensor) -> Tensor:
    """ConvTranspose to the padded size, then cut to the size of ``like``."""
    whole = _exact_output_padding(dy, win, like)
    attributes: dict[str, Any] = {"strides": list(win.strides), "dilations": list(win.dilations), "group": group}
    if whole is not None and all(isinstance(p, int) for p in win.before + win.after):
        pads = [int(p) for p in win.before + win.after]  # type: ignore[arg-type]
        dims = like.shape
        return dy.writer.op("ConvTranspose", dy, w, shape=dims, pads=pads, output_padding=whole, **attributes)
    room = [s - 1 for s in win.strides]  # rows at the end that no window may have reached
    full = dy.writer.op("ConvTranspose", dy, w, output_padding=room if any(room) else None, **attributes)
    return crop(full, win.before, like)


def _exact_output_padding(dy: Tensor, win: Window, like: Tensor) -> list[int] | None:
    """The rows at the end that no window reached, where both lengths are known."""
    assert dy.shape is not None
    assert like.shape is not None
    found = []
    for a, (n, m) in enumerate(zip(like.shape[2:], dy.shape[2:], strict=True)):
        before, after = win.before[a], win.after[a]
        if win.strides[a] == 1 and isinstance(before, int) and isinstance(after, int):
            found.append(0)
            continue
        if not all(isinstance(v, int) for v in (n, m, before, after)):
            return None
        found.append(n + before + after - ((m - 1) * win.strides[a] + win.reach[a] + 1))  # type: ignore[operator]
    return found if all(0 <= p < s for p, s in zip(found, win.strides, strict=True)) else None


def crop(full: Tensor, before: Sequence[int | Tensor], like: Tensor) -> Tensor:
    """``full[:, :, before : before + n]`` with n from ``like``, on every spatial axis."""
    writer = full.writer
    axes = list(range(2, full.rank))
    starts = xp.concat([b if isinstance(b, Tensor) else writer.constant(np.asarray([b])) for b in before])
    sizes = xp.concat([xp.dim(like, a) for a in axes])
    return writer.op("Slice", full, starts, starts + sizes, writer.constant(np.asarray(axes)), shape=like.shape)


def _weight_gradient(x: Tensor, dy: Tensor, w: Tensor, win: Window, group: int) -> Tensor:
    """dW as a convolution of the image with the cotangent, batch and channels exchanged."""
    swap = [1, 0, *range(2, x.rank)]
    full = x.writer.op(
        "Conv", _batch_as_channels(_padded(x, win), group), xp.permute_dims(dy, swap),
        strides=list(win.dilations), dilations=list(win.strides), group=group, shape=[None] * x.rank,
    )  # fmt: skip
    return crop(xp.permute_dims(full, swap), [0] * len(win.kernel), w)


def _padded(x: Tensor, win: Window) -> Tensor:
    amounts = [0, 0, *win.before, 0, 0, *win.after]
    vectors = [p if isinstance(p, Tensor) else x.writer.constant([p]) for p in amounts]
    return x.writer.op("Pad", x, xp.concat(vectors)) if any(amounts) else x


def _batch_as_channels(x: Tensor, group: int) -> Tensor:
    """(N, G I, ...) -> (I, G N, ...)."""
    if group == 1:
        return xp.permute_dims(x, [1, 0, *range(2, x.rank)])
    n, *spatial = (xp.dim(x, a) for a in range(x.rank) if a != 1)
    groups, rest = (x.writer.constant([v]) for v in (group, -1))
    split = xp.reshape(x, xp.concat([n, groups, rest, *spatial]), [None] * (x.rank + 1))
    turned = xp.permute_dims(split, [2, 1, 0, *range(3, x.rank + 1)])
    return xp.reshape(turned, xp.concat([xp.dim(turned, 0), rest, *spatial]), [None] * x.rank)


@vjp("ConvTranspose")  # dx is the convolution whose adjoint it is
def conv_transpose(node: Node, dy: Tensor) -> Cotangents:
    x, w = node.xs[:2]
    assert w.shape is not None
    group, win = node.attr("group", 1), _transposed_padding(node, w.shape[2:])
    full = _uncut(dy, win)
    win = replace(win, before=(0,) * len(win.kernel), after=(0,) * len(win.kernel))
    attributes: dict[str, Any] = {"strides": list(win.strides), "dilations": list(win.dilations), "group": group}
    dx = x.writer.op("Conv", full, w, shape=x.shape, **attributes) if 0 in node.wanted else None
    dw = _weight_gradient(full, x, w, win, group) if 1 in node.wanted else None
    return dx, dw, xp.sum(dy, (0, *range(2, dy.rank))) if 2 in node.wanted else None


def _uncut(dy: Tensor, win: Window) -> Tensor:
    """Zeros where the operator cut off what its windows reached; a negative padding cuts off what none did."""
    before, after = ([p for p in pads if isinstance(p, int)] for pads in (win.before, win.after))
    fixed = len(before) == len(after) == len(win.kernel)
    return xp.pad(dy, [0, 0, *before], [0, 0, *after]) if fixed else _padded(dy, win)


def _transposed_padding(node: Node, kernel: Sequence[Dim]) -> Window:
    """The window, padded by what the operator cut off before and after (ONNX spec, ConvTranspose).

    Pixels that output_padding or output_shape added behind the last window count as negative.
    """
    win, auto = _plain_window(node, kernel), node.attr("auto_pad", "NOTSET")
    extra = node.attr("output_padding", [0] * len(win.kernel))
    if "output_shape" not in node.raw.attributes and auto in ("NOTSET", "VALID"):
        return replace(win, after=tuple(int(a) - e for a, e in zip(win.after, extra, strict=True)))  # type: ignore[arg-type]
    cuts = [_shared(_surplus(node, win, a), e, auto) for a, e in enumerate(extra)]
    return replace(win, before=tuple(b for b, _ in cuts), after=tuple(a for _, a in cuts))


def _surplus(node: Node, win: Window, axis: int) -> int | Tensor:
    """How much longer than the output all windows together are: (n - 1) stride + reach + 1 - length."""
    stride, span = win.strides[axis], win.reach[axis] + 1
    lengths = node.attr("output_shape", list[int]())
    if not lengths:  # the length is n stride
        if span < stride:
            raise UnsupportedError("auto_pad with a stride beyond the kernel, which runtimes read in two ways")
        return span - stride
    n = xp.dim(node.x, axis + 2)
    surplus = (n - 1) * stride + (span - lengths[axis - len(win.kernel)])
    return surplus if surplus.const is None else int(surplus.const[0])


def _shared(surplus: int | Tensor, extra: int, auto: str) -> tuple[int | Tensor, int | Tensor]:
    """Before and after; the odd pixel goes after for SAME_UPPER."""
    if isinstance(surplus, Tensor):
        total: Any = xp.maximum(surplus + extra, surplus.lift([0]))
        half = total / 2
    else:
        total = max(surplus + extra, 0)
        half = total // 2
    before = half if auto == "SAME_UPPER" else total - half
    return before, surplus - before
