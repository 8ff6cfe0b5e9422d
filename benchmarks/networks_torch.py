"""torchvision classifiers as .onnx files, each beside the gradients that torch autograd gives.

    python -m benchmarks.networks_torch NETWORK FOLDER EXPORT...

``benchmarks.networks`` calls it. Needs torch, torchvision and onnxscript; of onnxcam it needs nothing. An EXPORT is
``torchscript-OPSET`` or ``dynamo-OPSET``; with 64 after the first word, the network in float64.
"""

from __future__ import annotations

import copy
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from benchmarks.networks_reference import LOGIT, Reference, enliven, make_reference, nudged, pictures

# The module whose output is the last feature map.
LAYERS = {
    "alexnet": "features",
    "vgg11_bn": "features",
    "resnet18": "layer4",
    "resnet50": "layer4",
    "resnext50_32x4d": "layer4",
    "wide_resnet50_2": "layer4",
    "densenet121": "features",
    "googlenet": "inception5b",
    "inception_v3": "Mixed_7c",
    "squeezenet1_1": "features",
    "mobilenet_v2": "features",
    "mobilenet_v3_small": "features",
    "mnasnet0_5": "layers",
    "shufflenet_v2_x1_0": "conv5",
    "efficientnet_b0": "features",
    "efficientnet_v2_s": "features",
    "regnet_y_400mf": "trunk_output",
    "convnext_tiny": "features",
    "vit_b_16": "encoder.layers.encoder_layer_11.ln_1",
    "swin_t": "features",
    "swin_v2_t": "features",
    "maxvit_t": "blocks.3",
}
SIZES = {"inception_v3": 299, "swin_v2_t": 256}
CLASSES = 1000
AUXILIARY = ("googlenet", "inception_v3")


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    name, folder, *exports = sys.argv[1:]
    model, image = build(name), torch.from_numpy(pictures(1, SIZES.get(name, 224), seed=1))
    refer(name, model, image).save(Path(folder) / f"{name}.npz")
    for way in exports:
        export(model, image, way, Path(folder) / f"{name}.{way}.onnx")


def build(name: str, size: int = 0, **options: Any) -> Any:
    """The network with seeded random weights and statistics of pictures, of ``size`` or the usual one."""
    torch.manual_seed(0)
    options |= {"aux_logits": False, "init_weights": True} if name in AUXILIARY else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.from_numpy(np.asarray(enliven(weight.numpy(), rng))))
        _randomise_head(model)
        _calibrate(model, torch.from_numpy(pictures(8, size or SIZES.get(name, 224), seed=2)))
    return model


def _randomise_head(model: Any) -> None:
    heads = [
        m for m in model.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d) and m.weight.shape[0] == 1000
    ]
    torch.nn.init.normal_(heads[-1].weight, std=0.05)


def _calibrate(model: Any, batch: Any) -> None:
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    for part in batch.split(4) if norms else ():
        model(part)
    model.eval()


def refer(name: str, model: Any, image: Any) -> Reference:
    singles = [gradients(model, LAYERS[name], x) for x in (image, *map(torch.from_numpy, nudged(image.numpy())))]
    with torch.backends.mkldnn.flags(enabled=False):
        singles.append(gradients(model, LAYERS[name], image))
    double = gradients(copy.deepcopy(model).double(), LAYERS[name], image.double())
    return make_reference(f"torch {torch.__version__}", LAYERS[name], image.numpy(), singles, double)


def gradients(model: Any, layer: str, image: Any) -> tuple[Any, ...]:
    """(activation, logits, layer gradient, image gradient)."""
    kept = []

    def keep(module: Any, inputs: Any, output: Any) -> Any:
        kept.append(output)
        return output.clone()  # an in-place ReLU may follow

    handle = model.get_submodule(layer).register_forward_hook(keep)
    x = image.clone().requires_grad_()
    logits = model(x)
    handle.remove()
    found = torch.autograd.grad(logits[0, LOGIT], [kept[0], x])
    return tuple(t.detach().numpy() for t in (kept[0], logits, *found))


def export(model: Any, image: Any, way: str, path: Path) -> None:
    """Write the .onnx file, or beside it a text that says why the exporter does not."""
    kind, opset = way.split("-")
    names = {"input_names": ["input"], "output_names": ["logits"], "opset_version": int(opset)}
    dynamo = kind.startswith("dynamo")
    if dynamo:
        names |= {"external_data": False, "verbose": False}
    own, x = (copy.deepcopy(model).double(), image.double()) if kind.endswith("64") else (copy.deepcopy(model), image)
    try:
        torch.onnx.export(own, (x,), str(path), dynamo=dynamo, **names)
    except Exception as error:  # torch's own, of many kinds
        path.unlink(missing_ok=True)
        path.with_suffix(".failed").write_text(str(error))


if __name__ == "__main__":
    main()
