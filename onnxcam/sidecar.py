"""MODEL.toml beside MODEL.onnx: how the model wants its pictures and what its classes are called, as people say it."""

from __future__ import annotations

import json
import os
import string
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from onnxcam.errors import ModelError, OnnxcamError, OptionError, reason
from onnxcam.files import sha256_of, write_whole
from onnxcam.image import Preprocess
from onnxcam.labels import Labels, find_labels
from onnxcam.model import Model

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEYS = ("model_sha256", "labels", "preprocess")
_LARGEST = 16 * 2**20  # bytes; a list of every known class fits a hundred times over


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar says.

    Attributes:
        path: the file.
        preprocess: how pictures become the input; None where it is left out.
        labels: class names in index order; None where they are left out.
    """

    path: Path
    preprocess: Preprocess | None
    labels: Labels | None


def sidecar_path(model: str | Path) -> Path:
    """The sidecar's place: the model's path with ``.toml`` for ``.onnx``."""
    return Path(model).with_suffix(".toml")


def read_sidecar(model: Model) -> Sidecar | None:
    """The sidecar of ``model``; None where there is none, or the file is another tool's: it has no key like ours.

    ``preprocess`` is a table as for `Preprocess.from_dict`, or a text as on the command line (``"caffe"``);
    ``labels`` a list, or the name of a file beside it or below; ``model_sha256`` ties it to one file. All may be left
    out.

    Raises:
        OptionError: it cannot be read, or holds unknown keys or values.
        ModelError: it belongs to another model.
    """
    if model.path is None or not (path := sidecar_path(model.path)).is_file():
        return None
    data = _parsed(path)
    if _is_foreign(data):
        return None
    if unknown := [key for key in data if key not in KEYS]:
        raise OptionError(f"{path}: unknown key {unknown[0]!r}; a sidecar holds {', '.join(KEYS)}. Remove or rename it")
    _check_owner(path, data.get("model_sha256", ""), model)
    return Sidecar(path, _preprocess(path, data.get("preprocess")), _labels(path, data.get("labels")))


def _is_foreign(keys: Iterable[str]) -> bool:
    """Whether no key is one of ours, not even with a slip; an empty file may be ours."""
    found = list(keys)
    return bool(found) and not any(get_close_matches(key, KEYS, cutoff=0.8) for key in found)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise OptionError(
            f"cannot read the sidecar {path}: {reason(error)}. Make it readable, or move it away"
        ) from error
    except (ValueError, RecursionError) as error:  # TOML and UTF-8 errors are ValueErrors
        raise OptionError(f"cannot read the sidecar {path}: {error}. Mend it, or delete it") from error


def _check_owner(path: Path, said: object, model: Model) -> None:
    if not isinstance(said, str) or len(said) not in (0, 64) or set(said.lower()) - set(string.hexdigits):
        raise OptionError(f"{path}: model_sha256 is {said!r}, not 64 hexadecimal digits; mend it, or leave it out")
    if said and model.sha256 and said.lower() != model.sha256 and said.lower() != _digest(model.path):
        raise ModelError(
            f"{path} belongs to another model: it says model_sha256 {said[:12]}..., {model.label} has "
            f"{model.sha256[:12]}... If its settings hold for this model, put model_sha256 = {model.sha256!r}; "
            "otherwise delete it, and let `onnxcam inspect MODEL --write-sidecar` write another"
        )


def _digest(path: Path | None) -> str:
    """Of the file itself, whose model may have been joined with another since."""
    return sha256_of(path) if path is not None and path.is_file() else ""


def _preprocess(path: Path, given: object) -> Preprocess | None:
    if given is None:
        return None
    if not isinstance(given, str | dict):
        raise OptionError(f"{path}: preprocess is {given!r}; write a [preprocess] table, or a text such as 'imagenet'")
    try:
        return Preprocess.parse(given) if isinstance(given, str) else Preprocess.from_dict(given)
    except OnnxcamError as error:
        raise OptionError(f"{path}: {error}") from error


def _labels(path: Path, given: object) -> Labels | None:
    if given is None:
        return None
    if isinstance(given, str):
        return find_labels(_beside(path, given), {})
    if not (isinstance(given, list) and given and all(isinstance(name, str) for name in given)):
        raise OptionError(
            f"{path}: labels is {str(given)[:60]!r}; write a list of names, or the name of a file, or leave it out"
        )
    return tuple(given)


def _beside(path: Path, name: str) -> Path:
    """A sidecar may come from anybody: it opens nothing elsewhere."""
    folder, file = (Path(os.path.abspath(p)) for p in (path.parent, path.parent / name))
    if not file.is_relative_to(folder):
        raise OptionError(f"{path}: labels is {name!r}, outside the sidecar's folder; put the file beside the sidecar")
    return path.parent / name


# Writing

_MEANINGS = {
    "name": "a preset (imagenet, tf, caffe, raw, unit), whose settings count where a line is left out; "
    "any other word needs scale, mean and std",
    "color": "order of the model's channels: RGB or BGR; GRAY for grey pictures in three channels",
    "scale": "grey levels 0 to 255 are multiplied by this first ...",
    "mean": "... then this is subtracted: one number, or one per channel in the model's order ...",
    "std": "... and the rest divided by this",
    "fit": "stretch (the whole, aspect lost), crop (its centre), squash (stretch, then centre), letterbox (margins)",
    "crop_ratio": "of crop and squash: the share that is kept; 0.875 is 224 of 256",
    "interpolation": "bilinear, bicubic or nearest",
    "antialias": "true as Pillow and torchvision resize, false as OpenCV does",
    "fill": "of letterbox: grey level of the margins",
    "align": "of letterbox: center or topleft",
    "size": '[height, width], or "model" for its own',
}


def write_sidecar(
    path: str | Path,
    *,
    sha256: str = "",
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
) -> Path:
    """Write a sidecar, every key with its meaning, whole or not at all; one that is there is replaced.

    Args:
        path: its place, see `sidecar_path`.
        sha256: of the model's file; "" leaves it open whose sidecar it is.
        preprocess: None leaves it out: the table is there as a comment, for people to fill in.
        labels: class names in index order; None leaves them out.

    Raises:
        OutputError: it cannot be written there.
    """
    named = f"labels = {_toml(list(labels))}" if labels else '# labels = "labels.txt"'
    lines = [
        "# How the .onnx file of the same name wants its pictures, and what its classes are called. onnxcam reads this",
        "# whenever it opens that model; what it says goes before all else. Every line may be left out; [preprocess]",
        "# takes a preset's name, or scale, mean and std.",
        "",
        "# The model that this belongs to; another one is refused.",
        f'{"" if sha256 else "# "}model_sha256 = "{sha256}"',
        "",
        "# Class names in index order: a list, or the name of a file beside this one.",
        named,
        "",
        *_table(preprocess),
    ]
    return write_whole(Path(path), ("\n".join(lines) + "\n").encode("utf-8", "replace"))


def _table(preprocess: Preprocess | None) -> list[str]:
    """The settings, each below its meaning; those of ``imagenet`` as comments where nothing is known."""
    settings = (preprocess or Preprocess.parse("imagenet")).to_dict()
    off, head = "", ["# How a picture becomes the input: (x * scale - mean) / std."]
    if preprocess is None:
        off = "# "
        head += ["# Nothing tells it. Take the '# ' off once it is known, such as by `onnxcam doctor MODEL PHOTOS`."]
    rows = [f"{off}{key} = {_toml(value)}  # {_MEANINGS[key]}" for key, value in settings.items()]
    return [*head, f"{off}[preprocess]", *rows]


def _toml(value: object) -> str:
    """A value in TOML; what is None is the model's own size."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if value is None:
        return '"model"'
    if isinstance(value, str):  # JSON's escapes are TOML's; DEL alone must be escaped besides
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
