"""onnxcam's maps against those of pytorch-grad-cam, torch-cam, captum and the papers' formulas in torch.

    python -m benchmarks.peers FOLDER [--keys PART...] [--document docs/peers.md] [--only]

FOLDER holds, for each network, the .onnx file and the .npz that ``benchmarks.peers_torch`` wrote (in its own
environment). Every answer is kept in FOLDER/NETWORK.json, so that ``--keys`` may ask some again; ``--only`` leaves the
document alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.networks_check import find_layer
from benchmarks.networks_reference import distance, tolerance
from benchmarks.peers_table import COUNTERPARTS, Asked, Counterpart
from onnxcam import Explainer, load_model
from onnxcam.errors import OnnxcamError
from onnxcam.methods import METHODS
from onnxcam.model import Model
from onnxcam.probe import ModelProbe
from onnxcam.targets import as_target

Array = Any


@dataclass(frozen=True)
class Row:
    """One question.

    Attributes:
        found: relative L2 of onnxcam's map to the peer's in float64; None if there is no answer.
        noise: the peer's own, of float32 to float64.
        note: why there is no answer.
    """

    network: str
    key: str
    found: float | None
    noise: float
    seconds: float
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.found is not None and self.found <= tolerance(self.noise)


class Peers:
    """What the peers answered on one network."""

    def __init__(self, path: Path) -> None:
        with np.load(path.with_suffix(".npz")) as file:
            self._arrays = dict(file)
        self.name, self.onnx = path.stem, path.with_suffix(".onnx")
        self.about: dict[str, dict[str, Any]] = json.loads(str(self._arrays["meta"]))
        self.image = self._arrays["image"]

    @cached_property
    def model(self) -> Model:
        return load_model(self.onnx)

    @cached_property
    def layers(self) -> dict[str, str]:
        """Module to value, found by the activations."""
        found = {}
        for name, activation in self._arrays.items():
            if name.startswith("activation/"):
                like = SimpleNamespace(activation=activation, image=self.image)
                found[name.partition("/")[2]] = find_layer(self.model, like)[0]  # type: ignore[arg-type]
        return found

    def exact(self, key: str) -> Array:
        return self._arrays[f"{key}|float64"]

    def noise(self, key: str) -> float:
        return float(self.about[key].get("noise", 0.0))

    def asked(self, key: str) -> Asked:
        about = self.about[key]
        draws = {name: self._drawn(key, name, how) for name, how in about["draws"].items()}
        return Asked(about, draws, self.image, self._arrays.get(f"activation/{about['layer']}"))

    def _drawn(self, key: str, name: str, how: Mapping[str, Any] | None) -> Array:
        if how is None:
            return self._arrays[f"{key}|{name}"]
        rng, std = np.random.default_rng(how["seed"]), self._std(key)
        numbers = [rng.standard_normal(how["shape"]).astype(np.float32) for _ in range(how["count"])]
        return np.stack(numbers) * np.float32(std)

    def _std(self, key: str) -> float:
        options = self.about[key]["options"]
        return float(options.get("std", options.get("stdevs")))


def counterpart(key: str) -> Counterpart | None:
    """By peer and method; a network's name may follow the method's."""
    name = "/".join(key.split("/")[:2])
    return COUNTERPARTS.get(name) or COUNTERPARTS.get(name.rpartition(" ")[0])


def answer(peers: Peers, key: str, threads: int = 1) -> Array:
    """onnxcam's map."""
    asked, our = peers.asked(key), counterpart(key)
    assert our is not None, f"{key} has no counterpart"
    layer = asked.about["layer"]
    named = layer and METHODS[our.method].has_layer and our.method != "cam"  # whose layer is what is pooled
    place = {"target_layer": peers.layers[layer]} if named else {}
    options = {} if our.direct else our.options(asked)
    explainer = Explainer(
        peers.model, "unit", method=our.method, options=options, threads=threads, **place, **(our.settings or {})
    )
    target = our.target(asked.about["target"])
    if our.direct:
        chosen = as_target(target, None, None)
        probe = ModelProbe(explainer.programs, peers.image, chosen, explainer.layers[0] if explainer.layers else None)
        return our.direct(probe, asked)
    found = explainer.explain_tensor(peers.image, target=target)[0]
    if asked.about["kind"] == "heatmap":
        return found.heatmap
    return found.attribution if found.attribution is not None else found.cam


def compare(peers: Peers, key: str) -> float:
    """Relative L2 of onnxcam's map to the peer's."""
    our, expected = counterpart(key), peers.exact(key)
    assert our is not None
    found = np.broadcast_to(answer(peers, key), expected.shape)
    return RELATIONS[our.relation](np.asarray(found, np.float64), np.asarray(expected, np.float64))


def up_to_sign(found: Array, expected: Array) -> float:
    return min(distance(found, expected), distance(-found, expected))


def up_to_scale(found: Array, expected: Array) -> float:
    return distance(found / np.linalg.norm(found), expected / np.linalg.norm(expected))


def maps_up_to_scale(found: Array, expected: Array) -> float:
    pairs = [(f / np.linalg.norm(f), e / np.linalg.norm(e)) for f, e in zip(found, expected, strict=True)]
    return distance(*(np.stack(side) for side in zip(*pairs, strict=True)))


def in_size(found: Array, expected: Array) -> float:
    return distance(np.abs(found), expected)


RELATIONS = {
    "equal": distance,
    "sign": up_to_sign,
    "scale": up_to_scale,
    "scales": maps_up_to_scale,
    "size": in_size,
}


def rows(peers: Peers, parts: list[str]) -> Iterator[Row]:
    for key in peers.about:
        if parts and not any(p in f"{peers.name}/{key}" for p in parts):
            continue
        start, found, note = time.perf_counter(), None, ""
        our = counterpart(key)
        if our is None or our.method not in METHODS:
            note = "no counterpart"
        else:
            try:
                found = compare(peers, key)
            except OnnxcamError as error:
                note = f"{type(error).__name__}: {error}"
        yield Row(peers.name, key, found, peers.noise(key), time.perf_counter() - start, note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keys", nargs="*", default=[])
    parser.add_argument("--document", type=Path, default=Path(__file__).resolve().parent.parent / "docs" / "peers.md")
    parser.add_argument("--only", action="store_true")
    given = parser.parse_args()
    for path in sorted(given.folder.glob("*.npz")):
        store = path.with_suffix(".json")
        known = {r["key"]: r for r in json.loads(store.read_text())} if store.exists() else {}
        for row in rows(Peers(path), given.keys):
            known[row.key] = asdict(row)
            mark = "   " if row.holds else "!!!"
            off = "-" if row.found is None else f"{row.found:.1e}"
            print(mark, row.network, row.key, off, f"({row.noise:.1e})", row.note, flush=True)
            store.write_text(json.dumps(list(known.values())))
    if not given.only:
        from benchmarks.peers_document import document

        found = [Row(**r) for p in sorted(given.folder.glob("*.json")) for r in json.loads(p.read_text())]
        given.document.write_text(document(found))


if __name__ == "__main__":
    main()
