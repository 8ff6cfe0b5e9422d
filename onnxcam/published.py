"""Preprocessing and class names as other tools write them: Ultralytics, Hugging Face's transformers, timm.

Each reader takes what the tool stores and gives a `Published`, or None where it is something else. What the tool does
and `Preprocess` cannot is taken as its nearest, and the source says so.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxcam.image import Preprocess
from onnxcam.labels import in_order

Settings = Mapping[str, Any]
Size = tuple[int, int]
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Published:
    """Settings of another tool.

    Attributes:
        preprocess: the same in our terms, ``size`` included.
        source: which tool and kind, for notices.
    """

    preprocess: Preprocess
    source: str


# Ultralytics: metadata_props of the model

_LETTERBOXED = ("detect", "segment", "pose", "obb")


def ultralytics(meta: Mapping[str, str], rank: int) -> Published | None:
    """What Ultralytics' exporters say: YOLOv8 and later name the task, YOLOv5 only ``stride`` and ``names``.

    Detectors get a letterbox (grey 114, centred, OpenCV's bilinear without antialiasing), RGB / 255; RT-DETR is
    stretched. Classifiers get the shorter side resized and the centre cropped, RGB / 255; YOLOv5's are normalised
    by ImageNet's mean besides.

    Args:
        meta: the model's ``metadata_props``.
        rank: of the first output; 2 is a classifier.
    """
    if "stride" not in meta or "names" not in meta:
        return None
    task, size = meta.get("task"), _pair(_literal(meta.get("imgsz", "")))
    if task is None:
        return _yolov5(rank)
    plain = Preprocess("unit", scale=1 / 255, size=size, antialias=False)
    said = f"the model's metadata (Ultralytics {meta.get('version', '')}, task {task})".replace(" ,", ",")
    if task == "classify":
        pillow = not meta.get("version", "").startswith("8.0.")  # 8.0 crops, then resizes with OpenCV
        square = size is None or size[0] == size[1]
        return Published(
            replace(plain, fit="crop" if square else "stretch", crop_ratio=1.0, antialias=pillow),
            said,
        )
    if "rtdetr" in f"{meta.get('head', '')} {meta.get('description', '')}".lower().replace("-", ""):
        return Published(replace(plain, fit="stretch"), said)
    return Published(replace(plain, fit="letterbox"), said) if task in _LETTERBOXED else None


def _yolov5(rank: int) -> Published:
    plain = Preprocess("unit", scale=1 / 255, fit="letterbox", antialias=False)
    if rank == 2:
        centre = replace(plain, name="imagenet", mean=_MEAN, std=_STD, fit="crop", crop_ratio=1.0)
        return Published(centre, "the model's metadata (YOLOv5 classifier)")
    return Published(plain, "the model's metadata (YOLOv5)")


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


# Hugging Face: preprocessor_config.json

_SHORT_EDGE = ("clip", "convnext", "levit", "mobilevit", "mobilenet", "poolformer", "bit", "yolos", "detr")
_RESAMPLES = {0: "nearest", 1: "bicubic", 2: "bilinear", 3: "bicubic", 4: "bilinear", 5: "bilinear"}  # Pillow's codes
_EXACT = (0, 2, 3)
_OF_PICTURES = ("image_mean", "image_processor_type", "do_resize", "do_rescale", "crop_size")
_ELSEWHERE = ("do_thumbnail", "do_align_long_axis", "keep_aspect_ratio", "size_divisor", "do_image_splitting")
_STRETCHED_FROM = 384  # ConvNeXT: smaller pictures are cropped, larger ones stretched


def hugging_face(config: Settings) -> Published | None:
    """A ``preprocessor_config.json`` of an image processor, or of its predecessor, the feature extractor.

    The formula is ``(x * rescale_factor - image_mean) / image_std``. A size of one number is the shorter side for
    CLIP, ConvNeXT, MobileNet and their like, and both sides for all others, as in the tool. None for another kind
    of processor, such as one of sounds.

    Raises:
        ValueError: a setting that such a file cannot hold, or none where there is no telling.
    """
    if not any(key in config for key in _OF_PICTURES) or "sampling_rate" in config:
        return None
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "image processor")
    geometry, caveat = _geometry(config, kind.lower())
    resample = 2 if config.get("resample") is None else config["resample"]
    if resample not in _RESAMPLES:
        raise ValueError(f"resample is {resample!r}, not one of Pillow's codes 0 to 5")
    if resample not in _EXACT:
        caveat = f"its resampling is taken as {_RESAMPLES[resample]}"
    color = "BGR" if config.get("do_flip_channel_order") else "RGB"
    settings = {**geometry, **_levels(config, kind.lower()), "interpolation": _RESAMPLES[resample], "color": color}
    return Published(Preprocess(kind, **settings), f"preprocessor_config.json (Hugging Face {kind})" + _but(caveat))


def _but(caveat: str) -> str:
    return f"; {caveat}" if caveat else ""


def _levels(config: Settings, kind: str) -> dict[str, Any]:
    scale = float(config.get("rescale_factor") or 1 / 255) if config.get("do_rescale", True) else 1.0
    offset = 1.0 if config.get("rescale_offset") and config.get("do_rescale", True) else 0.0
    bare: Settings = {"image_mean": 0.0, "image_std": 1.0}
    usual = "image_mean" in config and not kind.startswith("mobilevit")  # which scales alone unless it is told
    normal = config if config.get("do_normalize", usual) else bare
    mean, std = _floats(normal, "image_mean"), _floats(normal, "image_std")
    if kind.startswith("efficientnet") and config.get("include_top", True):  # the tool divides once more
        std = tuple(a * b for a, b in zip(std, _floats(config, "image_std"), strict=True))
    return {"scale": scale, "mean": tuple(m + offset for m in mean), "std": std}


def _floats(config: Settings, key: str) -> tuple[float, ...]:
    given = config.get(key)
    if given is None:
        raise ValueError(f"it says no {key}, and do_normalize")
    values = given if isinstance(given, list) else [given]
    if len(values) not in (1, 3) or not all(isinstance(v, int | float) for v in values):
        raise ValueError(f"{key} is {given!r}, not one number per channel")
    return tuple(map(float, values))


def _geometry(config: Settings, kind: str) -> tuple[dict[str, Any], str]:
    """fit, crop_ratio and size; and what is done otherwise than the tool does."""
    crop = _asked(config.get("crop_size"), True) if config.get("do_center_crop") else None
    if "do_resize" in config and not config["do_resize"]:
        settings = {"fit": "crop", "crop_ratio": 1.0, "size": crop} if crop else {}
        return settings, "pictures are resized here, which the tool does not"
    given = config.get("size")
    free = isinstance(given, dict) and {"longest_edge", "max_height", "max_width"} & set(given)
    if free or "max_size" in config:
        return {}, "its resizing to a free size is not followed"
    resized = _asked(given, not any(name in kind for name in _SHORT_EDGE))
    if resized is None:
        return {}, "it says no size"
    resized, crop = _own_ways(config, kind, resized, crop)
    caveat = next((f"its {key} is not followed" for key in _ELSEWHERE if config.get(key)), "")
    return _fitted(resized, crop, caveat)


def _asked(given: Any, square: bool) -> int | Size | None:
    """A shorter side, or (height, width)."""
    if given is None:
        return None
    if isinstance(given, dict):
        edge, pair = given.get("shortest_edge"), (given.get("height"), given.get("width"))
        found = edge if edge is not None else pair
    else:
        found = (given, given) if isinstance(given, int) and square else given
    asked = _pair(found) if isinstance(found, list | tuple) else found
    if not isinstance(asked, int | tuple) or isinstance(asked, bool) or min(np.atleast_1d(asked)) < 1:
        raise ValueError(f"{given!r} is no size of pictures")
    return asked


def _pair(given: Any) -> Size | None:
    pair = (given, given) if isinstance(given, int) else given
    whole = isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(n, int) and n > 0 for n in pair)
    return (pair[0], pair[1]) if whole else None


def _own_ways(config: Settings, kind: str, size: int | Size, crop: Any) -> tuple[int | Size, int | Size | None]:
    """Processors that resize to another size than they name."""
    edge = size if isinstance(size, int) else min(size)
    if "convnext" in kind and edge >= _STRETCHED_FROM:
        return (edge, edge), None
    if config.get("crop_pct") and ("convnext" in kind or "poolformer" in kind):
        return int(edge / float(config["crop_pct"])), crop or (edge, edge)
    if kind.startswith("levit") and isinstance(size, int):
        return int(256 / 224 * size), crop
    if "perceiver" in kind and isinstance(crop, tuple):  # it crops that share of the shorter side, then resizes
        return max(crop), size
    return size, crop


def _fitted(resized: int | Size, crop: Any, caveat: str) -> tuple[dict[str, Any], str]:
    if isinstance(resized, int):
        if not isinstance(crop, tuple):
            return {}, caveat or "its resizing to a free size is not followed"
        shares, fit = {min(crop) / resized}, "crop"
    else:
        crop = crop if isinstance(crop, tuple) else resized
        shares, fit = {c / r for c, r in zip(crop, resized, strict=True)}, "squash"
    if max(shares) > 1 or len(shares) > 1:
        caveat = caveat or "its crop beyond the resized picture is not followed"
    share = min(1.0, max(shares))
    return {"fit": "stretch" if fit == "squash" and share == 1 else fit, "crop_ratio": share, "size": crop}, caveat


# timm: config.json of a hub folder

_CODES = {"bicubic": "bicubic", "bilinear": "bilinear", "nearest": "nearest"}
_FITS = {"center": "crop", "squash": "squash", "border": "letterbox"}


def timm(config: Settings, fixed: tuple[int | None, int | None] = (None, None)) -> Published | None:
    """A ``config.json`` with timm's ``pretrained_cfg``, or with the same settings at its top, as they were at first.

    Shorter side (``squash``: each side, ``border``: longer side) to ``floor(size / crop_pct)``, then the centre;
    RGB / 255, minus mean, by std.

    Args:
        config: the file.
        fixed: height and width of the model; where they are ``test_input_size``, its ``test_crop_pct`` counts.

    Raises:
        ValueError: a setting that such a file cannot hold.
    """
    inner = config.get("pretrained_cfg")
    cfg = inner if isinstance(inner, dict) else config
    if not isinstance(config.get("architecture"), str) or not {"mean", "input_size"} & set(cfg):
        return None
    size, test = (_pair((cfg.get(key) or [0, 0, 0])[1:]) for key in ("input_size", "test_input_size"))
    share = float(cfg.get("crop_pct") or 0.875)
    if test is not None and fixed == test and test != size:
        size, share = test, float(cfg.get("test_crop_pct") or share)
    height, width = size or (224, 224)
    mode, kernel = str(cfg.get("crop_mode") or "center"), str(cfg.get("interpolation") or "bicubic")
    caveat = "" if kernel in _CODES else f"its {kernel} resampling is taken as bicubic"
    if mode == "border" and share != 1:
        caveat = caveat or "its crop of the bordered picture is not followed"
    mean, std = _floats({"mean": _MEAN, **cfg}, "mean"), _floats({"std": _STD, **cfg}, "std")
    preprocess = Preprocess(
        "timm",
        scale=1 / 255,
        mean=mean,
        std=std,
        fit=_FITS.get(mode, "crop"),
        crop_ratio=height / math.floor(height / share),
        interpolation=_CODES.get(kernel, "bicubic"),
        fill=round(255 * sum(mean) / len(mean)),
        size=(height, width),
    )
    return Published(preprocess, f"config.json (timm {config['architecture']})" + _but(caveat))


# Class names

_GENERIC = re.compile(r"LABEL_\d+")


def names(config: Settings) -> tuple[str, ...] | None:
    """Class names of a ``config.json``: Hugging Face's ``id2label``, or timm's ``label_names``.

    timm's descriptions replace names that are WordNet numbers. None where there are none but LABEL_0, LABEL_1, ...
    """
    inner = config.get("pretrained_cfg")
    timms = {**(inner if isinstance(inner, dict) else {}), **config}
    if "architecture" in config and timms.get("label_names"):
        told = timms.get("label_descriptions") or {}
        return tuple(str(told.get(n, n)) for n in in_order(timms["label_names"]))
    if not ("model_type" in config or "architectures" in config) or not isinstance(config.get("id2label"), dict):
        return None
    found = in_order(config["id2label"])
    return None if all(_GENERIC.fullmatch(name) for name in found) else found
