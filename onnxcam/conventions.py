"""Preprocessing that finds itself: what a model's surroundings, its metadata and its graph tell of its pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from onnxcam import published, zoo
from onnxcam.errors import ModelError, OnnxcamError, OptionError, reason
from onnxcam.graph.pixels import Convention, input_convention
from onnxcam.image import Preprocess
from onnxcam.labels import Labels, find_labels
from onnxcam.model import Model, dims_of
from onnxcam.published import Published
from onnxcam.sidecar import Sidecar, read_sidecar, sidecar_path

_LARGEST = 16 * 2**20  # bytes of a .json that is read
_ODD = (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError, OptionError)
_ALIKE = 0.02  # of the span between black and white
Found = TypeVar("Found")


@dataclass(frozen=True)
class Known:
    """What is known of a model's pictures and classes.

    Attributes:
        preprocess: how a picture becomes the input; None where nothing tells.
        labels: class names in index order; None where nothing tells.
        source: where the preprocessing comes from, in words; "" where nothing tells.
        doubt: what in the graph speaks against it, in words; "" where nothing does.
    """

    preprocess: Preprocess | None
    labels: Labels | None
    source: str
    doubt: str = ""


def known(model: Model) -> Known:
    """What the model's surroundings, its metadata and its graph tell, the first that does:

    1. ``MODEL.toml`` beside it (`onnxcam.sidecar`): people wrote it.
    2. ``onnxcam/preprocess`` and ``onnxcam/labels`` of its ``metadata_props``; for a file of the zoo that carries
       none, the zoo's entry (`onnxcam.zoo.recognise`).
    3. What other tools write: Ultralytics' metadata; beside the model, or above it where its folder is called
       ``onnx``, Hugging Face's ``preprocessor_config.json`` and ``config.json``, or timm's ``config.json``. Where the
       graph contradicts (it takes integers, or normalises by itself), the tool's resizing is kept and the graph's
       range and order of colours taken; a fixed input size goes before the tool's.
    4. The graph: `onnxcam.graph.pixels.input_convention`.

    Only files of these names are opened, the larger ones refused. Files that are something else are passed over.

    Raises:
        OptionError: a sidecar or a ``preprocessor_config.json`` that cannot be understood.
        ModelError: a sidecar of another model, or damaged metadata.
    """
    sidecar, fact = read_sidecar(model), input_convention(model)
    preprocess, source = _told(model, fact, sidecar)
    doubt = "" if preprocess is None else _against_graph(model, fact, preprocess)
    return Known(preprocess, known_labels(model, sidecar), source, doubt)


def known_labels(model: Model, sidecar: Sidecar | None) -> Labels | None:
    """The class names of `known`, whatever may be wrong with the preprocessing's files."""
    if sidecar is not None and sidecar.labels is not None:
        return sidecar.labels
    entry = zoo.recognise(model.sha256)
    return find_labels(None, model.meta) or (entry and entry.labels) or _nearby(model, _names)


def place_of_sidecar(model: Model) -> Path:
    """Where a sidecar of ``model`` may be written.

    Raises:
        OptionError: one is there already; the model is a file of the zoo, whose folder is no place for it; or no file.
    """
    if model.path is None:
        raise OptionError(f"{model.label} is no file: there is no place for a sidecar; save the model first")
    entry = zoo.recognise(model.sha256)
    if entry is not None and entry.path.exists() and entry.path.samefile(model.path):
        raise OptionError(
            f"no sidecar is written into the zoo, beside {model.path}; copy the model to a folder of your own, and "
            "give the path of the copy"
        )
    path = sidecar_path(model.path)
    if path.exists():
        raise OptionError(f"{path} exists; edit it, or delete it to have it written anew")
    return path


def contradiction(model: Model, preprocess: Preprocess, sidecar: Sidecar | None = None) -> str:
    """What speaks against a preprocessing, for certain: the graph, or else what `known` finds; "" if nothing does.

    Compared are the order of the colours and the values that black and white become, within 2 % of their span, not
    how the picture is resized, which may be chosen for the picture's sake. ``sidecar`` is the model's, if it has one.
    """
    fact = input_convention(model)
    if doubt := _against_graph(model, fact, preprocess):
        return doubt
    with suppress(OnnxcamError):  # what is wrong with a file is told where the file is needed
        truth, source = _beside(model, fact, sidecar)
        if truth is not None and (why := _difference(preprocess, truth, model.image_input.channels == 3)):
            return f"preprocessing {preprocess.name} contradicts {source}: {why}"
    return ""


def _against_graph(model: Model, fact: Convention | None, preprocess: Preprocess) -> str:
    if fact is None:
        return ""
    why = _difference(preprocess, _of_graph(fact), model.image_input.channels == 3 and fact.color is not None)
    return why and f"preprocessing {preprocess.name} contradicts the graph: {why} ({fact.reason})"


def _told(model: Model, fact: Convention | None, sidecar: Sidecar | None) -> tuple[Preprocess | None, str]:
    preprocess, source = _beside(model, fact, sidecar)
    if preprocess is not None or fact is None:
        return preprocess, source
    return _of_graph(fact), f"the graph: {fact.reason}"


def _beside(model: Model, fact: Convention | None, sidecar: Sidecar | None) -> tuple[Preprocess | None, str]:
    """From files and metadata alone, corrected by the graph's fact where a tool wrote them."""
    if sidecar is not None and sidecar.preprocess is not None:
        return sidecar.preprocess, str(sidecar.path)
    if (own := model.meta.get("onnxcam/preprocess")) is not None:
        return _from_metadata(model, own), "the model's metadata"
    if (entry := zoo.recognise(model.sha256)) is not None and entry.preprocess:
        return Preprocess.from_dict(entry.preprocess), f"the zoo's entry of {entry.name}"
    found = _by_tools(model)
    return (None, "") if found is None else _settled(found, fact, model)


def _from_metadata(model: Model, text: str) -> Preprocess:
    try:
        return Preprocess.from_dict(json.loads(text))
    except (*_ODD, OnnxcamError) as error:
        raise ModelError(
            f"{model.label}: its metadata onnxcam/preprocess cannot be understood: {error}. Write a sidecar beside it, "
            "which goes before: `onnxcam inspect MODEL --write-sidecar`"
        ) from error


def _of_graph(fact: Convention) -> Preprocess:
    return Preprocess.parse(fact.preset + (f",color={fact.color}" if fact.color else ""))


def _settled(found: Published, fact: Convention | None, model: Model) -> tuple[Preprocess, str]:
    """A tool's settings, with the graph's facts put in their place."""
    image, result, source = model.image_input, found.preprocess, found.source
    free = None in (image.height, image.width)
    fits = result.size and all(a in (None, b) for a, b in zip((image.height, image.width), result.size, strict=True))
    result = replace(result, size=result.size if free and fits else None)
    if fact is not None and _difference(result, graph := _of_graph(fact), fact.color is not None):
        color = fact.color or result.color
        result = replace(result, scale=graph.scale, mean=graph.mean, std=graph.std, color=color)
        source += f"; but not its normalisation, for {fact.reason}"
    return result, source


def _difference(one: Preprocess, other: Preprocess, order: bool) -> str:
    """How two preprocessings differ in what they do to black and white, and to red and blue."""
    (black, white), (low, high) = _ends(one), _ends(other)
    span = np.abs(high - low)
    if np.any(np.abs(black - low) > _ALIKE * span) or np.any(np.abs(white - high) > _ALIKE * span):
        return f"it makes {_range(black, white)} of grey levels, not {_range(low, high)}"
    if order and one.color != other.color and "GRAY" not in (one.color, other.color):
        return f"it gives {one.color}, not {other.color}"
    return ""


def _ends(preprocess: Preprocess) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What black and white become, per channel."""
    mean, std = (np.broadcast_to(v, 3).astype(np.float64) for v in (preprocess.mean, preprocess.std))
    return (0 - mean) / std, (255 * preprocess.scale - mean) / std


def _range(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> str:
    return f"{min(low.min(), high.min()):.3g} to {max(low.max(), high.max()):.3g}"


# What other tools write


def _by_tools(model: Model) -> Published | None:
    rank = next((len(v.shape) for v in model.outputs if v.shape is not None), 0)
    found = published.ultralytics(model.meta, rank) or _nearby(model, _published)
    if found is None or len(found.preprocess.mean) > model.image_input.channels:
        return None
    return found


def _nearby(model: Model, read: Callable[[Path, Model], Found | None]) -> Found | None:
    """What ``read`` finds in the model's folder, or above one called ``onnx``."""
    if model.path is None:
        return None
    here = Path(os.path.abspath(model.path)).parent  # links are not followed: a hub cache keeps the files beside them
    folders = (here, here.parent) if here.name.lower().startswith("onnx") else (here,)
    return next((found for folder in folders if (found := read(folder, model)) is not None), None)


def _published(folder: Path, model: Model) -> Published | None:
    (config, names), image = _config(folder), model.image_input
    if not _scores(model, names):
        return None
    own = folder / "preprocessor_config.json"
    if own.is_file():
        try:
            found = published.hugging_face(_json(own))
        except (*_ODD, OSError) as error:
            raise OptionError(
                f"cannot understand {own}: {reason(error)}. Mend it or delete it, or say the preprocessing yourself "
                "(preprocess=, --preprocess or MODEL.toml)"
            ) from error
        if found is not None:
            return found
    with suppress(*_ODD):  # a config.json may be anybody's
        return published.timm(config, (image.height, image.width))
    return None


def _names(folder: Path, model: Model) -> Labels | None:
    _, names = _config(folder)
    return names if _scores(model, names) else None


def _scores(model: Model, names: Labels | None) -> bool:
    """Whether these can be the model's classes: a ``config.json`` that names others is another model's."""
    rows = [dims_of(v)[1] for v in model.outputs if v.shape is not None and len(v.shape) == 2]
    return names is None or not rows or any(n == len(names) or not isinstance(n, int) for n in rows)


def _config(folder: Path) -> tuple[dict[str, Any], Labels | None]:
    """A ``config.json`` and the class names in it; empty where it is missing or somebody else's."""
    path = folder / "config.json"
    with suppress(OSError):
        state = path.stat()
        return _read(path, state.st_mtime_ns, state.st_size)
    return {}, None


@lru_cache(maxsize=4)  # one with 20,000 classes takes a while, and is asked for several times
def _read(path: Path, modified: int, size: int) -> tuple[dict[str, Any], Labels | None]:
    config: dict[str, Any] = {}
    with suppress(*_ODD, OSError):
        config = _json(path)
        return config, published.names(config)
    return config, None


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST:,} bytes")
    data = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(data, dict):
        raise ValueError("it holds no JSON object")
    return data
