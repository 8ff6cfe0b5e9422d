"""The maps of pytorch-grad-cam, torch-cam and captum on one network, beside the network as an .onnx file.

    python -m benchmarks.peers_torch NETWORK FOLDER [PART OF A KEY...]

With parts of keys, those are asked alone and what the file holds of others is kept.
``benchmarks.peers`` compares onnxcam with them. Needs torch, torchvision, grad-cam 1.5.7, torchcam 0.5.0 and captum
0.9.0; of onnxcam it needs nothing.

FOLDER gets NETWORK.onnx (TorchScript exporter, opset 17, free batch) and NETWORK.npz, which holds ``image``, ``logits``
(float64), ``activation/LAYER`` and, for every question, what the peer answers in float32 and, with the network in
double precision, in float64. A question's key is ``PEER/METHOD/LAYER/class=C``; the arrays of a key are
``KEY|float32``, ``KEY|float64`` and ``KEY|DRAW`` for each of its random draws. ``meta`` is JSON, by key:

    peer, method, layer, target: as in the key
    kind: "cam" (h, w), raw and signed | "heatmap" (H, W), as the peer returns it | "attribution" (C, H, W) |
          "factors" (n, h, w)
    options: what the method was called with
    free_sign: true where the sign is the linear algebra library's
    draws: by name of the draw: null, the array is here; or {"seed", "shape", "count"} of normal numbers too many to
           keep: ``numpy.random.default_rng(seed).standard_normal(shape).astype(float32)``, ``count`` times, times the
           option ``std``
    noise: relative L2 of float32 to float64, the largest of several evaluations that differ by rounding alone: as it
           is; with BatchNorms folded into convolutions, as in the .onnx file; of attributions also of this with the
           picture's numbers moved by about a rounding and without oneDNN. A kink is met by some and not by others
    seconds: of the float32 run
"""

from __future__ import annotations

import copy
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.networks_reference import distance, nudged, pictures
from benchmarks.networks_torch import build

SEED = 7
KEPT = 4_000_000  # bytes of draws


@dataclass(frozen=True)
class Network:
    """How a network is asked.

    Attributes:
        size: of the picture.
        layers: module names; the first is the usual one.
        few: the layer for methods that run the network once per channel.
        fold: (N, tokens, C) or (N, h, w, C) to (N, C, h, w), by layer; others are NCHW.
        steps: of the integrals: "many" and "few".
        lean: the network is slow: one class, no method of many samples.
        options: for torchvision's builder.
    """

    size: int
    layers: tuple[str, ...]
    few: str
    fold: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    steps: tuple[int, int] = (50, 20)
    lean: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def patches(tokens: Any) -> Any:
    """(N, 1 + h h, C) to (N, C, h, h), without the class token."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side)


def channels_first(x: Any) -> Any:
    return x.permute(0, 3, 1, 2)


_VIT = "encoder.layers.encoder_layer_11.ln_1"
NETWORKS = {
    "resnet18": Network(112, ("layer4", "layer3"), "layer1"),
    "vgg16": Network(224, ("features", "features.22"), "features.4", steps=(8, 6), lean=True),
    "mobilenet_v2": Network(112, ("features", "features.13"), "features.4"),
    "densenet121": Network(112, ("features", "features.transition2"), "features.pool0"),
    "vit_b_16": Network(64, (_VIT,), _VIT, {_VIT: patches}, (16, 8), True, {"image_size": 64}),
    "swin_t": Network(
        224,
        ("features", "features.3"),
        "features.1",
        dict.fromkeys(("features", "features.3", "features.1"), channels_first),
        (8, 6),
        True,
    ),
}


@dataclass(frozen=True)
class Question:
    """What a method is asked: one picture, one class, one layer."""

    network: Network
    model: Any
    x: Any
    layer: str
    target: int
    seed: int = SEED
    draws: dict[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> Any:
        return self.model.get_submodule(self.layer)

    @property
    def fold(self) -> Callable[[Any], Any] | None:
        return self.network.fold.get(self.layer)

    @contextmanager
    def drawn(self, **kept: str) -> Iterator[None]:
        """Seeded; torch's normal numbers come from NumPy, float32 whatever the network's precision.

        ``kept``: which draws are noted, under which name, of ``normal`` (around 0) and NumPy's ``uniform`` and
        ``choice``.
        """
        rng = np.random.default_rng(self.seed)
        torch.manual_seed(self.seed)
        np.random.seed(self.seed)
        plain = torch.normal, np.random.uniform, np.random.choice

        def normal(mean: Any, std: Any) -> Any:
            noise = torch.from_numpy(rng.standard_normal(tuple(std.shape)).astype(np.float32)) * std
            return note("normal", noise) + mean

        def note(kind: str, values: Any) -> Any:
            if kind in kept:
                self.draws.setdefault(kept[kind], []).append(np.array(values))
            return values

        torch.normal = normal
        np.random.uniform = lambda *a, **k: note("uniform", plain[1](*a, **k))
        np.random.choice = lambda *a, **k: note("choice", plain[2](*a, **k))
        try:
            yield
        finally:
            torch.normal, np.random.uniform, np.random.choice = plain


@dataclass(frozen=True)
class Method:
    """One method of a peer.

    Attributes:
        ask: the answer to a question; what was drawn is left in ``question.draws``.
        options: the method's own, which ``ask`` is called with; the network's ``steps`` are filled in.
        where: "layers" (all of them), "last", "few" or "image".
        classes: False if the answer does not depend on the class, or takes too long to ask twice.
        slow: left out of lean networks.
        only, never: networks.
    """

    ask: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    where: str = "layers"
    kind: str = "cam"
    classes: bool = True
    free_sign: bool = False
    slow: bool = False
    only: tuple[str, ...] = ()
    never: tuple[str, ...] = ()

    def places(self, network: Network) -> tuple[str, ...]:
        kinds = {
            "layers": network.layers,
            "last": network.layers[:1],
            "few": (network.few,),
            "image": network.layers[:1],
        }
        return kinds[self.where]

    def suits(self, name: str, network: Network) -> bool:
        return not (self.slow and network.lean) and (not self.only or name in self.only) and name not in self.never


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    name, folder, *parts = sys.argv[1:]
    network = NETWORKS[name]
    model = build(name, network.size, **network.options)
    image = torch.from_numpy(pictures(1, network.size, seed=1))
    write(name, network, model, image, Path(folder), parts)


def write(name: str, network: Network, model: Any, image: Any, folder: Path, parts: Sequence[str] = ()) -> None:
    """Export the network, ask the questions, keep the answers."""
    export(model, image, folder / f"{name}.onnx")
    double = copy.deepcopy(model).double()
    fused = folded(model, image) if any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()) else None
    with torch.no_grad():
        logits = double(image.double()).numpy()
    path = folder / f"{name}.npz"
    arrays = dict(np.load(path)) if parts and path.exists() else {}
    meta = json.loads(str(arrays.pop("meta", "{}")))
    arrays |= {"image": image.numpy(), "logits": logits, **activations(network, model, image)}
    for key, method, question in questions(name, network, model, image, logits):
        if any(p in key for p in parts) or not parts:
            meta[key] = answer(key, method, question, double, fused, arrays)
            print(key, f"{meta[key]['seconds']:.1f} s, float32 off by {meta[key]['noise']:.1e}", flush=True)
    np.savez(path, meta=json.dumps(meta), **arrays)


def export(model: Any, image: Any, path: Path) -> None:
    free = {"input": {0: "N"}, "logits": {0: "N"}}
    names = {"input_names": ["input"], "output_names": ["logits"], "opset_version": 17, "dynamic_axes": free}
    torch.onnx.export(copy.deepcopy(model), (image,), str(path), dynamo=False, **names)


def folded(model: Any, image: Any) -> Any:
    """A copy whose BatchNorms are folded into the convolutions before them, as exporters do."""
    model, makers, pairs = copy.deepcopy(model), dict[int, Any](), list[tuple[Any, Any]]()

    def note(module: Any, given: Any, made: Any) -> None:
        if isinstance(module, torch.nn.Conv2d):
            makers[id(made)] = (module, made)  # kept, so that the id stays its own
        elif isinstance(module, torch.nn.BatchNorm2d) and id(given[0]) in makers:
            pairs.append((makers[id(given[0])][0], module))

    handles = [m.register_forward_hook(note) for m in model.modules()]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    for conv, norm in pairs:
        fused = torch.nn.utils.fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = fused.weight, fused.bias
        for parent in model.modules():
            for name, child in list(parent.named_children()):
                if child is norm:
                    setattr(parent, name, torch.nn.Identity())
    return model.eval()


def activations(network: Network, model: Any, image: Any) -> dict[str, Any]:
    """``activation/LAYER``, as the layer gives it: how it is found in the graph."""
    found: dict[str, Any] = {}
    for layer in {*network.layers, network.few}:
        handle = model.get_submodule(layer).register_forward_hook(
            lambda m, i, o, layer=layer: found.__setitem__(f"activation/{layer}", o.detach().clone().numpy())
        )
        with torch.no_grad():
            model(image)
        handle.remove()
    return found


def catalogue() -> dict[str, Method]:
    from benchmarks import peers_torch_cams, peers_torch_paper, peers_torch_pixels

    return {**peers_torch_cams.METHODS, **peers_torch_pixels.METHODS, **peers_torch_paper.METHODS}


def questions(
    name: str, network: Network, model: Any, image: Any, logits: Any
) -> Iterator[tuple[str, Method, Question]]:
    first, second = int(logits[0].argmax()), int(logits[0].argsort()[-5])
    for title, method in catalogue().items():
        for layer in method.places(network) if method.suits(name, network) else ():
            for target in (first, second) if method.classes and not network.lean else (first,):
                place = "" if method.where == "image" else f"/{layer}"
                key = f"{title}{place}/class={target}"
                yield key, method, Question(network, model, image, layer, target)


def answer(
    key: str, method: Method, question: Question, double: Any, fused: Any, arrays: dict[str, Any]
) -> dict[str, Any]:
    """Ask in both precisions, from a fresh copy each; put the answers into ``arrays``."""
    steps = dict(zip(("many", "few"), question.network.steps, strict=True))
    options = {k: steps.get(v, v) if k == "n_steps" else v for k, v in method.options.items()}
    start = time.perf_counter()
    single = ask(method, question, options)
    seconds = time.perf_counter() - start
    others = again(method, question, question.model if fused is None else fused, options)
    exact = ask(method, replace(question, model=double, x=question.x.double(), draws={}), options)
    arrays |= {f"{key}|float32": single.astype(np.float32), f"{key}|float64": exact}
    peer, title = key.split("/")[:2]
    return {
        "peer": peer,
        "method": title,
        "layer": None if method.where == "image" else question.layer,
        "target": question.target,
        "kind": method.kind,
        "options": options,
        "free_sign": method.free_sign,
        "draws": keep(key, question, arrays),
        "noise": max(apart(found, exact, method.free_sign) for found in (single, *others)),
        "seconds": seconds,
    }


def apart(found: Any, exact: Any, free_sign: bool) -> float:
    return min(distance(found, exact), distance(-found, exact) if free_sign else np.inf)


def again(method: Method, question: Question, model: Any, options: dict[str, Any]) -> Iterator[Any]:
    """The float32 answer in ways that differ by rounding alone; of pictures' gradients, in several."""
    if method.where == "few":
        return
    own = replace(question, model=model, draws={})
    yield ask(method, own, options)
    if method.kind == "attribution":
        for x in nudged(question.x.numpy())[: 2 if question.network.lean else 4]:
            yield ask(method, replace(own, x=torch.from_numpy(x), draws={}), options)
        if not question.network.lean:
            with torch.backends.mkldnn.flags(enabled=False):
                yield ask(method, replace(own, draws={}), options)


def ask(method: Method, question: Question, options: dict[str, Any]) -> Any:
    own = replace(question, model=copy.deepcopy(question.model), x=question.x.clone())
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention has no second derivative
        found = np.asarray(method.ask(own, **options))
    return np.asarray(found[0] if found.ndim == (3 if method.kind in ("cam", "heatmap") else 4) else found)


def keep(key: str, question: Question, arrays: dict[str, Any]) -> Any:
    """What was drawn, into ``arrays``; or how to draw it again."""
    kept = {}
    for name, values in question.draws.items():
        if name == "noise" and sum(v.nbytes for v in values) > KEPT:
            kept[name] = {"seed": question.seed, "shape": list(values[0].shape), "count": len(values)}
        else:
            arrays[f"{key}|{name}"] = values[0] if len(values) == 1 else np.stack(values)
            kept[name] = None
    return kept


if __name__ == "__main__":
    main()
