"""Are the exports of shapes-net what their recipes write, and do they name the right shapes?

    python check_rebuild.py [NAME...] [--keep FOLDER] [--scenes 2000]

Prints a line per export: bytes, accuracy on held-out scenes (top1: the scene shows the class that scores highest), and
the largest difference of its outputs, on 20 scenes, to those of a file that its recipe has just written. A recipe whose
tools are not installed is left out, with the reason: run the script once in each recipe's environment. ``--keep`` takes
rebuilt files from a folder instead, and ``--sums`` prints SHA-256 and bytes for the index.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import scenes

HERE = Path(__file__).resolve().parent
ZOO = HERE.parent
FAMILY = "shapes-net-"
ALONE = ("matlab", "keras", "jax", "paddle")  # export_NAME.py, which has an export(path)
WITHIN = 1e-5
Floats = npt.NDArray[np.float32]


def names() -> list[str]:
    return sorted(p.stem.removeprefix(FAMILY) for p in ZOO.glob(f"{FAMILY}*.onnx"))


def rebuild(name: str, path: Path) -> None:
    """Write ``path`` by the recipe of ``name``."""
    if name in ALONE:
        importlib.import_module(f"export_{name}").export(path)
    else:
        importlib.import_module("export_shapes_net").EXPORTS[name](path)


def scores(path: Path, images: npt.NDArray[np.uint8], batch: int = 50) -> Floats:
    """What the file answers to uint8 (N, H, W, 3) pictures, (N, K) in the order of scenes.CLASSES."""
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), quiet, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    x = images if given.name == "imageinput" else images.astype(np.float32) / 255
    x = x if given.shape[-1] == 3 else x.transpose(0, 3, 1, 2)
    x = x.astype(np.float16 if "float16" in given.type else np.float32)
    found = [session.run(None, {given.name: x[k : k + batch]})[-1] for k in range(0, len(x), batch)]
    if isinstance(found[0], list):  # ZipMap: a dictionary per picture
        return np.array([[one[label] for label in scenes.CLASSES] for part in found for one in part], np.float32)
    return np.concatenate(found).astype(np.float32)


def top1(answers: Floats, shown: list[scenes.Scene]) -> float:
    truth = np.stack([scenes.presence(s) for s in shown])
    return float(truth[np.arange(len(truth)), answers.argmax(1)].mean())


def difference(name: str, images: npt.NDArray[np.uint8], keep: Path | None) -> str:
    committed = ZOO / f"{FAMILY}{name}.onnx"
    with tempfile.TemporaryDirectory() as folder:
        path = (keep or Path(folder)) / committed.name
        try:
            if not keep:
                rebuild(name, path)
        except ImportError as error:
            return f"not rebuilt: {error}"
        worst = float(np.abs(scores(path, images) - scores(committed, images)).max())
        same = "the same bytes" if path.read_bytes() == committed.read_bytes() else "other bytes"
    return f"{worst:.1e} {'' if worst <= WITHIN else f'> {WITHIN} '}({same})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--keep", type=Path, help="folder of rebuilt files")
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--sums", action="store_true")
    options = parser.parse_args()
    shown = [scenes.render(scenes.HELDOUT_SEED + k) for k in range(options.scenes)]
    images = np.stack([s.image for s in shown])
    print(f"{'export':18s} {'bytes':>7s}  top1    rebuilt")
    for name in options.names or names():
        path = ZOO / f"{FAMILY}{name}.onnx"
        right = top1(scores(path, images), shown)
        print(f"{name:18s} {path.stat().st_size:7d}  {right:.4f}  {difference(name, images[:20], options.keep)}")
        for part in (path, path.with_name(f"{path.name}.data")) if options.sums else ():
            if part.is_file():
                print(f"  {hashlib.sha256(part.read_bytes()).hexdigest()}  {part.name}")


if __name__ == "__main__":
    main()
