"""Writes docs/peers.md from the rows of ``benchmarks.peers``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from benchmarks.networks_reference import MARGIN, TOLERANCE
from benchmarks.peers_table import COUNTERPARTS, Departure
from onnxcam.methods import METHODS

if TYPE_CHECKING:
    from benchmarks.peers import Row

NETWORKS = ("resnet18", "vgg16", "mobilenet_v2", "densenet121", "vit_b_16", "swin_t")
NAMES = {
    "pytorch_grad_cam": "pytorch-grad-cam 1.5.7",
    "torchcam": "torch-cam 0.5.0",
    "captum": "captum 0.9.0",
    "paper": "The papers' formulas, in torch",
}
HEAD = """\
# The same maps as the peers

Every method that pytorch-grad-cam 1.5.7, torch-cam 0.5.0 or captum 0.9.0 also has, on the same weights and the same
picture: torchvision networks with seeded random weights, heads and BatchNorm statistics, exported by torch's
TorchScript exporter, run by onnxruntime. What a method draws at random (noise, baselines, coalitions, weights) is the
peer's own draw, replayed. Of LIME, Kernel SHAP and Deep Feature Factorization the estimators are
compared, on the peer's own samples, their weights and its starting point; which samples onnxcam would draw is its own.

Compared are raw maps: signed, at feature size, before ReLU, resizing and normalisation; for pixel methods the signed
(C, H, W). A number is the relative L2 distance of onnxcam's float32 map to the peer's in double precision, the largest
of its layers and classes; behind it, in brackets, how far the peer's own float32 is from its double precision. A row
holds if the distance is at most max({tolerance}, {margin:g} x the peer's own); one that does not is in **bold** and in
the closed list below. A dash: the peer cannot be asked that of this network, or it was left out as too slow.

Maps of the first principal component are compared up to their sign, which the peers leave to the linear algebra
library; Guided Grad-CAM and Deep Feature Factorization up to a positive factor (onnxcam brings the Grad-CAM, and each
concept's map, to a maximum of 1).

densenet121 has an in-place ReLU behind its last map, which overwrites what the hooks of pytorch-grad-cam and torch-cam
keep of it: the one would multiply the map behind the ReLU with the gradient in front of it. Here that ReLU is not in
place.

The peer's own float32 is the largest of several that differ by rounding alone: of the network as it is, with its
BatchNorms folded into convolutions as in the .onnx file, and, for gradients at the picture, of that with the picture
moved by a rounding (four times) and without oneDNN (of vgg16, vit_b_16 and swin_t only twice moved). Where a unit lies
within a rounding of its kink, these take different sides.

Run again: `python -m benchmarks.peers_torch NETWORK FOLDER` for each network in an environment with torch and the
peers, then `python -m benchmarks.peers FOLDER` in one with onnxcam. `tests/test_peers.py` holds the same for two tiny
networks to 1e-4, without torch.
"""
LIST = """\
## Where a peer departs from its paper

onnxcam follows the paper. Each line was checked from both sides: onnxcam is far from the peer and, by the last table,
equal to the paper's formula written down in plain torch.

| Method of | peer | does | the paper | paper |
|---|---|---|---|---|
"""


def document(found: Iterable[Row]) -> str:
    rows = list(found)
    parts = [HEAD.format(tolerance=TOLERANCE, margin=MARGIN)]
    networks = [n for n in NETWORKS if any(r.network == n for r in rows)]
    for peer, title in NAMES.items():
        if peer != "paper":
            parts.append(_table(title, peer, rows, networks))
    parts += [LIST + "\n".join(_departures()) + "\n", _table(NAMES["paper"], "paper", rows, networks)]
    return "\n".join(parts)


def _table(title: str, peer: str, rows: Sequence[Row], networks: Sequence[str]) -> str:
    lines = [f"## {title}\n", f"| | onnxcam | {' | '.join(networks)} |", f"|---|---|{'---:|' * len(networks)}"]
    for name, our in COUNTERPARTS.items():
        if name.startswith(f"{peer}/"):
            own = [r for r in rows if _belongs(r.key, name)]
            cells = [_cell([r for r in own if r.network == n]) for n in networks]
            lines.append(f"| {name.partition('/')[2]} | {our.method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _belongs(key: str, name: str) -> bool:
    """Whether a key is of a row of the table; a network's name, or "all", may follow the method's."""
    own = "/".join(key.split("/")[:2])
    return own == name or (own not in COUNTERPARTS and own.rpartition(" ")[0] == name)


def _cell(rows: Sequence[Row]) -> str:
    if not rows:
        return "-"
    if any(r.found is None for r in rows):
        return next(r.note for r in rows if r.found is None)[:40]
    worst = max(rows, key=lambda r: (not r.holds, r.found))
    text = f"{worst.found:.0e} ({worst.noise:.0e})"
    return text if worst.holds else f"**{text}**"


def _departures() -> Iterable[str]:
    for name, our in COUNTERPARTS.items():
        if our.departs is not None:
            peer, _, method = name.partition("/")
            paper = METHODS[our.method].papers[0]
            yield (
                f"| {NAMES[peer].partition(' ')[0]} | {method} | {_does(our.departs)} | {our.departs.line} | "
                f"[{paper.title}]({paper.url}) |"
            )


def _does(departs: Departure) -> str:
    where = [n for n in NETWORKS if n in departs.where]
    return departs.does + (f" ({', '.join(where)})" if where else "")
