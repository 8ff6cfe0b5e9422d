"""What an exported model tells of itself: its source, maps, target and preprocessing, in its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from onnxcam.errors import OnnxcamError
from onnxcam.graph.symbolic import PREFIX
from onnxcam.image import Preprocess

MARK = f"{PREFIX}export"
"""The key of ``metadata_props`` by which an exported model is known; its value is a JSON object."""
_LONGEST = 1_000_000  # characters of a record
_SHOWN = 200  # characters of a text in it
_NAME = 1000  # characters of a name, which is no name once it is cut
_MISUNDERSTOOD = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OnnxcamError)


def provenance(meta: Mapping[str, str]) -> dict[str, Any] | None:
    """What the record of an exported model says; of a damaged one ``{"damaged": why}``; None: it is no exported model.

    Everything is of the type that it should be, and no text is longer than 200 characters, no name of an input, an
    output or the logits than 1000. Other keys are left out.
    """
    if MARK not in meta:
        return None
    try:
        return _checked(meta[MARK])
    except _MISUNDERSTOOD as error:
        return {"damaged": f"{type(error).__name__}: {error}"[:_SHOWN]}


def _checked(text: str) -> dict[str, Any]:
    if len(text) > _LONGEST:
        raise ValueError(f"{len(text)} characters long")
    told = json.loads(text)
    maps = {_name(n): {k: _text(m[k]) for k in ("method", "layer", "normalize")} for n, m in told["maps"].items()}
    return {
        "onnxcam": _text(told["onnxcam"]),
        "source": {k: _text(told["source"][k]) for k in ("name", "sha256")},
        "maps": maps,
        "target": _text(told["target"]),
        "classes": {_name(n): int(c) for n, c in (told["classes"] or {}).items()} or None,
        "input": _name(told["input"]),
        "logits": _name(told["logits"]),
        "scores": _scores(told.get("scores")),
        "preprocess": Preprocess.from_dict(told["preprocess"]).to_dict(),
        "picture": _picture(told.get("picture")),
    }


def _picture(told: Any) -> dict[str, Any] | None:
    """What an input that is a picture must be like, and what happens to it inside."""
    if told is None:
        return None
    size = told["size"] if told["size"] == "any" else [int(n) for n in told["size"]][:2]
    return {"size": size, "preprocess": Preprocess.from_dict(told["preprocess"]).to_dict()}


def _scores(told: Any) -> dict[str, Any] | None:
    """The output with a score per class, and how many there are; each None where there is none, or nobody knows."""
    if told is None:
        return None
    output, classes = told["output"], told["classes"]
    if classes is not None and (type(classes) is not int or classes < 0):
        raise TypeError(f"{str(classes)[:40]!r} is no number of classes")
    return {"output": None if output is None else _name(output), "classes": classes}


def _name(given: Any) -> str:
    if not isinstance(given, str) or len(given) > _NAME:
        raise TypeError(f"{str(given)[:40]!r} is no name")
    return given


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise TypeError(f"{str(given)[:40]!r} is no text")
    return given if len(given) <= _SHOWN else f"{given[: _SHOWN - 3]}..."
