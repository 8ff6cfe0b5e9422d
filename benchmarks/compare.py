"""What ``onnxcam compare`` sees: no fault in sound exports, every planted one, and which of two models to trust.

    python -m benchmarks.compare [pairs] [faults] [drawn] [trust] [--scenes 40] [--trust-scenes 200]

- **pairs**: ``zoo:shapes-net-torchscript`` against every other export of the same network, int8 included. A verdict
  other than "sound" is a false alarm.
- **faults**: the same against copies of itself and of its int8 (QDQ) export in which one thing is wrong. The rule was
  fixed before anything was measured: output channels 0 and 1 of the last Conv (weight and bias) are swapped, as if an
  exporter had mixed them up. Then the same for every other Conv, and for columns 0 and 1 of the head, in turn.
- **drawn**: 24 swaps more, Conv and channels drawn at random; ten scenes each.
- **trust**: ``zoo:shapes-net-weak`` against the trained one, on fresh scenes where both name the same class and that
  shape is there: in how many does the trained one have more of its heatmap's energy inside the object?
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxcam import Explainer
from onnxcam.compare import Comparison, compare
from onnxcam.compare.figures import binomial
from onnxcam.core.localize import energy_inside
from onnxcam.image import save_image
from onnxcam.zoo import locate, models

sys.path.append(str(Path(__file__).resolve().parent.parent / "model_zoo" / "recipes"))
import scenes

REFERENCE, WEAK, QUANTISED = "shapes-net-torchscript", "shapes-net-weak", "shapes-net-int8-qdq"
SEED = 4_000_000  # of the scenes; no training or calibration scene is there


def photos(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{k:03d}.png" for k in range(count)]
    for k, path in enumerate(paths):
        save_image(path, scenes.render(SEED + k).image)
    return paths


def exports() -> list[str]:
    """All exports of the network but the reference, and no other network."""
    return [n for n in models() if n.startswith("shapes-net-") and n not in (REFERENCE, WEAK)]


def row(name: str, found: Comparison) -> str:
    f = found.figures()
    cells = [f"{s.mean:.4f}" if (s := f[k]) else "-" for k in ("agreement", "correlation", "iou")]
    worst = max((s.worst for s in found.stages), default=float("nan"))
    return f"| {name} | {' | '.join(cells)} | {worst:.2g} | {found.verdict.text} |"


HEAD = "| | agreement | correlation | IoU | largest error | verdict |\n|---|---|---|---|---|---|"


def sound_pairs(pictures: Sequence[Path]) -> None:
    print(f"\nSound exports against {REFERENCE}, {len(pictures)} scenes\n\n{HEAD}")
    names, alarms = exports(), 0
    for name in names:
        found = compare(f"zoo:{REFERENCE}", f"zoo:{name}", pictures)
        alarms += found.verdict.kind != "sound"
        print(row(name, found), flush=True)
    print(f"\n{alarms} false alarms in {len(names)} pairs")


# Faults


def swapped(model: onnx.ModelProto, node: onnx.NodeProto, pair: tuple[int, int] = (0, 1)) -> onnx.ModelProto:
    """A copy in which two output channels of a Conv, or two columns of the head, have changed places."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    conv = node.op_type == "Conv"
    before, after = list(pair), list(pair[::-1])
    for tensor in held(copy, list(node.input)[1 : None if conv else 2]):
        array = numpy_helper.to_array(tensor).copy()
        if conv and array.ndim:
            array[before] = array[after]
        elif not conv and array.ndim == 2:
            array[:, before] = array[:, after]
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return copy


def held(model: onnx.ModelProto, names: Sequence[str]) -> Iterator[onnx.TensorProto]:
    """Weights by name, or what DequantizeLinear makes them of: levels, scales, zero points."""
    made = {n.output[0]: n for n in model.graph.node}
    sources = [s for name in names for s in (made[name].input if name in made else [name])]
    return (t for t in model.graph.initializer if t.name in sources)


def drawn(pictures: Sequence[Path], folder: Path) -> None:
    for name in (REFERENCE, QUANTISED):
        rng, model, path = np.random.default_rng(1), onnx.load(locate(name)), folder / "fault.onnx"
        convs = [n for n in model.graph.node if n.op_type == "Conv"]
        missed = []
        for _ in range(24):
            node = convs[rng.integers(len(convs))]
            channels = max(numpy_helper.to_array(t).shape[:1] for t in held(model, list(node.input)[1:]))[0]
            i, j = map(int, rng.choice(channels, 2, replace=False))
            onnx.save(swapped(model, node, (i, j)), path)
            found = compare(f"zoo:{REFERENCE}", path, pictures[:10])
            if found.verdict.kind == "sound":
                missed.append(f"{node.name} {i}, {j} (largest error {max(s.worst for s in found.stages):.2g})")
        print(
            f"\nDrawn swaps in {name}: {24 - len(missed)} of 24 found; missed: {'; '.join(missed) or 'none'}",
            flush=True,
        )


def faults(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """From the last Conv backwards, then the head."""
    convs = [n for n in model.graph.node if n.op_type == "Conv"]
    for node in convs[::-1]:
        yield node.name, swapped(model, node)
    for node in [n for n in model.graph.node if n.op_type == "Gemm"]:
        yield node.name, swapped(model, node)


def planted(pictures: Sequence[Path], folder: Path) -> None:
    for name in (REFERENCE, QUANTISED):
        print(f"\nSwapped channels in {name}, against {REFERENCE}, {len(pictures)} scenes\n\n{HEAD}")
        found, path = [], folder / "fault.onnx"
        for where, broken in faults(onnx.load(locate(name))):
            onnx.save(broken, path)
            one = compare(f"zoo:{REFERENCE}", path, pictures)
            found.append(one.verdict.kind != "sound")
            print(row(where, one), flush=True)
        print(
            f"\n{sum(found)} of {len(found)} found; the one of the rule, the first: {'found' if found[0] else 'MISSED'}"
        )


# Trust


def trusted(count: int) -> tuple[list[tuple[float, float]], int, int]:
    """The shares of energy inside the object, of the weak and the strong one; scenes tried; those answered alike."""
    weak, strong = Explainer(f"zoo:{WEAK}"), Explainer(f"zoo:{REFERENCE}")
    shares: list[tuple[float, float]] = []
    tried, same = 0, 0
    while len(shares) < count and tried < 100 * count:
        scene = scenes.render(SEED + 100_000 + tried)
        tried += 1
        a, b = weak.explain(scene.image), strong.explain(scene.image)
        same += a.class_index == b.class_index
        mask: Any = next((o.mask for o in scene.objects if o.class_index == a.class_index == b.class_index), None)
        if mask is not None:
            shares.append((energy_inside(a.heatmap, mask), energy_inside(b.heatmap, mask)))
    return shares, tried, same


def trust(count: int) -> None:
    shares, tried, same = trusted(count)
    weak_share, strong_share = np.array(shares).T
    wins, ties = int(np.sum(strong_share > weak_share)), int(np.sum(strong_share == weak_share))
    odds = binomial(wins, len(shares) - wins - ties)
    print(f"\nTrust: {tried} scenes; both say the same in {same}; the shape is there in {len(shares)}. Of these the")
    print(f"strong one has more energy inside the object in {wins / len(shares):.1%} ({ties} ties, p = {odds:.2g});")
    print(f"mean share inside {strong_share.mean():.3f}, of the weak one {weak_share.mean():.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["pairs", "faults", "drawn", "trust"])
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--trust-scenes", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        pictures = photos(Path(name), options.scenes)
        if "pairs" in options.parts:
            sound_pairs(pictures)
        if "faults" in options.parts:
            planted(pictures, Path(name))
        if "drawn" in options.parts:
            drawn(pictures, Path(name))
        if "trust" in options.parts:
            trust(options.trust_scenes)


if __name__ == "__main__":
    main()
