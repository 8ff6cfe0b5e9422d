"""Vision transformers of timm and torchvision as .onnx files, each beside the maps that torch gives.

    python -m benchmarks.tokens_torch FOLDER NETWORK...

``benchmarks.tokens`` calls it. Needs torch, torchvision, timm and onnxscript; of onnxcam it needs nothing. Weights are
seeded random numbers of the usual spread; a module and a fold, written down here for each network, are what users of
hooks have to know, and what the graph must tell by itself.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from benchmarks.networks_torch import build as build_torchvision

SCRIPT, DYNAMO = ("torchscript", 17), ("dynamo", 23)  # dynamo takes minutes: plain transformers and maps NHWC alone


@dataclass(frozen=True)
class Network:
    """One network and what a hook needs to know of it.

    Attributes:
        name: in timm, or in torchvision.
        module: whose output is the layer.
        fold: ``"NCHW"``, ``"NHWC"``, or (tokens before the patches, height, width).
        options: of its constructor; small sizes, so that the exports are small.
        blocks: whether it is a plain transformer, whose attention is compared as well.
    """

    name: str
    module: str
    fold: str | tuple[int, int, int]
    options: dict[str, Any] = field(default_factory=dict)
    blocks: bool = False


SMALL = {"embed_dim": 192, "num_heads": 3, "depth": 4, "img_size": 112}
NETWORKS = {
    "vit": Network("vit_tiny_patch16_224", "blocks.11.norm1", (1, 14, 14), blocks=True),
    "vit, 96 x 160": Network(
        "vit_tiny_patch16_224", "blocks.11.norm1", (1, 6, 10), {"img_size": (96, 160)}, blocks=True
    ),
    "vit, mean of patches": Network(
        "vit_tiny_patch16_224", "blocks.11", (1, 7, 7), {"img_size": 112, "global_pool": "avg"}, blocks=True
    ),
    "vit, no class token": Network("vit_base_patch16_gap_224", "norm", (0, 7, 7), SMALL, blocks=True),
    "deit, distilled": Network("deit_tiny_distilled_patch16_224", "blocks.11.norm1", (2, 14, 14)),
    "dinov2, 4 registers": Network(
        "vit_small_patch14_reg4_dinov2", "blocks.11.norm1", (5, 10, 10), {"img_size": 140, "num_classes": 1000},
        blocks=True,
    ),
    "clip": Network(
        "vit_base_patch32_clip_224", "blocks.3.norm1", (1, 7, 7), SMALL | {"img_size": 224, "num_classes": 100},
        blocks=True,
    ),
    "siglip": Network(
        "vit_base_patch16_siglip_224", "norm", (0, 7, 7), SMALL | {"num_classes": 10}
    ),
    "vit behind a resnet": Network("vit_tiny_r_s16_p8_224", "blocks.11.norm1", (1, 7, 7), blocks=True),
    "beit": Network("beit_base_patch16_224", "blocks.3", (1, 7, 7), SMALL),
    "eva02": Network("eva02_tiny_patch14_224", "blocks.11", (1, 8, 8), {"img_size": 112, "num_classes": 1000}),
    "cait": Network("cait_xxs24_224", "blocks.23", (0, 14, 14)),
    "xcit": Network("xcit_nano_12_p16_224", "cls_attn_blocks.1.norm1", (1, 14, 14)),
    "mixer": Network("mixer_s32_224", "norm", (0, 7, 7)),
    "pit": Network("pit_ti_224", "transformers.2.blocks.3.norm1", (1, 7, 7)),
    "levit": Network("levit_128s", "stages.2", (0, 4, 4)),
    "efficientformer": Network("efficientformer_l1", "norm", (0, 7, 7)),
    "swin": Network("swin_tiny_patch4_window7_224", "norm", "NHWC"),
    "swin v2": Network("swinv2_tiny_window8_256", "norm", "NHWC"),
    "maxvit": Network("maxvit_rmlp_nano_rw_256", "norm", "NCHW"),
    "coatnet": Network("coatnet_nano_rw_224", "norm", "NCHW"),
    "mobilevit": Network("mobilevit_s", "final_conv", "NCHW"),
    "mobilevit v2": Network("mobilevitv2_050", "stages.4", "NCHW"),
    "tinyvit": Network("tiny_vit_5m_224", "stages.3", "NCHW"),
    "pvt v2": Network("pvt_v2_b0", "stages.3", "NCHW"),
    "davit": Network("davit_tiny", "stages.3", "NCHW"),
    "nest": Network("nest_tiny_jx", "norm", "NHWC"),
    "torchvision vit_b_16": Network("vit_b_16", "encoder.layers.encoder_layer_11.ln_1", (1, 14, 14)),
    "torchvision swin_t": Network("swin_t", "norm", "NHWC"),
    "torchvision swin_v2_t": Network("swin_v2_t", "norm", "NHWC"),
    "torchvision maxvit_t": Network("maxvit_t", "blocks.3", "NCHW"),
}  # fmt: skip


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    folder, *names = sys.argv[1:]
    for name in names:
        network, path = NETWORKS[name], Path(folder) / name.replace(" ", "_").replace(",", "")
        model, x = build(name, network)
        np.savez(path.with_suffix(".npz"), **maps(network, model, x))
        for kind, opset in (SCRIPT, DYNAMO) if network.blocks or network.fold == "NHWC" else (SCRIPT,):
            export(model, x, kind, opset, path.with_name(f"{path.name}.{kind}-{opset}.onnx"))


def build(name: str, network: Network) -> tuple[Any, Any]:
    """The network and a picture of noise."""
    timm.layers.set_fused_attn(False)  # so that the probabilities pass a module that can be hooked
    draw = torch.Generator().manual_seed(1)
    if name.startswith("torchvision"):
        return build_torchvision(network.name), torch.randn(
            1, 3, *(2 * [256 if "v2" in network.name else 224]), generator=draw
        )
    model = timm.create_model(network.name, pretrained=False, **network.options).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            weight.copy_(_drawn(key, weight, draw))
    size = network.options.get("img_size", model.default_cfg["input_size"][-1])
    size = (size, size) if isinstance(size, int) else size
    return model, torch.randn(1, 3, *size, generator=draw)


def _drawn(key: str, weight: Any, draw: Any) -> Any:
    noise = torch.randn(weight.shape, generator=draw)
    if weight.ndim in (2, 4) and "pos" not in key and "bias_table" not in key:
        return noise / weight[0].numel() ** 0.5
    if weight.ndim > 1:
        return 0.2 * noise
    centre = 1.0 if key.endswith("weight") else 0.5 if "gamma" in key or "scale" in key else 0.0
    return centre + 0.1 * noise


def maps(network: Network, model: Any, x: Any) -> dict[str, Any]:
    """What onnxcam's maps are compared with."""
    kept: list[Any] = []
    handle = model.get_submodule(network.module).register_forward_hook(lambda m, i, o: kept.append(o))
    scores = model(x)
    handle.remove()
    index = int(scores[0].argmax())
    (gradient,) = torch.autograd.grad(scores[0, index], kept[0])
    A, G = (folded(t.detach(), network.fold).double().numpy() for t in (kept[0], gradient))
    found = {"image": x.numpy(), "class": index, "gradcam": (G.mean((2, 3), keepdims=True) * A).sum(1)[0]}
    return found | (attention(network, model, x, index) if network.blocks else {})


def folded(tokens: Any, fold: str | tuple[int, int, int]) -> Any:
    """-> (1, C, h, w)."""
    if isinstance(fold, str):
        return tokens if fold == "NCHW" else tokens.permute(0, 3, 1, 2)
    before, height, width = fold
    return tokens[:, before : before + height * width].transpose(1, 2).reshape(1, -1, height, width)


def attention(network: Network, model: Any, x: Any, index: int) -> dict[str, Any]:
    """Rollout and LeGrad of a plain transformer of timm, from its attention probabilities and blocks."""
    maps, ends = list[Any](), list[Any]()
    hooks: list[Callable[..., Any]] = [lambda m, i, o: maps.append(o), lambda m, i, o: ends.append(o)]
    handles = [
        module.register_forward_hook(hook)
        for block in model.blocks for module, hook in zip((block.attn.attn_drop, block), hooks, strict=True)
    ]  # fmt: skip
    model(x)
    for handle in handles:
        handle.remove()
    before, relevance = model.num_prefix_tokens, 0.0
    for probabilities, end in zip(maps, ends, strict=True):
        tokens = end.mean(1, keepdim=True).expand_as(end)
        score = model.forward_head(model.norm(tokens))[0, index]
        (gradient,) = torch.autograd.grad(score, probabilities, retain_graph=True)
        relevance = relevance + gradient.relu().mean((1, 2)) / len(maps)
    whole = torch.eye(maps[0].shape[-1], dtype=torch.float64)
    for probabilities in maps:
        whole = (probabilities[0].detach().double().mean(0) + torch.eye(len(whole))) / 2 @ whole
    rows = whole[:1] if model.global_pool == "token" else whole[before:]
    height, width = model.patch_embed.grid_size
    return {
        "legrad": relevance[0, before:].reshape(height, width).numpy(),
        "rollout": rows.mean(0)[before:].reshape(height, width).numpy(),
    }


def export(model: Any, x: Any, kind: str, opset: int, path: Path) -> None:
    """Write the .onnx file, or beside it a text that says why the exporter does not."""
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"], "opset_version": opset}
    if kind == "dynamo":
        names |= {"external_data": False, "verbose": False}
    timm.layers.set_fused_attn(opset >= 23)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = opset >= 23  # as the operator Attention, where there is one
    try:
        torch.onnx.export(model, (x,), str(path), dynamo=kind == "dynamo", **names)
    except Exception as error:  # torch's own, of many kinds
        path.unlink(missing_ok=True)
        path.with_suffix(".failed").write_text(str(error))


if __name__ == "__main__":
    main()
