"""Folders of finished jobs, made by hand, as `onnxcam batch` leaves them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from onnxcam.image import encode_image

GREY, RED = (128, 128, 128), (200, 30, 30)


def grid(value: int | np.ndarray) -> str:
    """A row's small map: one level everywhere, or (16, 16) levels."""
    return base64.b64encode(np.broadcast_to(np.asarray(value, np.uint8), (16, 16)).tobytes()).decode()


def plain(path: Path, colour: tuple[int, int, int] = GREY, height: int = 30, width: int = 40) -> Path:
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(np.full((height, width, 3), colour, np.uint8), path.suffix))
    return path


def explained(index: int, source: Path | str | None = None, **changes: Any) -> dict[str, Any]:
    """The row of a picture of 30 x 40 pixels."""
    source = f"gone {index}.png" if source is None else source
    data = Path(source).read_bytes() if Path(source).exists() else None
    row = {
        "index": index, "source": str(source), "name": f"photo {index}.png",
        "sha256": None if data is None else hashlib.sha256(data).hexdigest(), "size": [30, 40], "truth": None,
        "correct": None, "target": "logit of cat", "class_index": 0, "label": "cat", "score": 1.5, "probability": 0.5,
        "top": [{"class_index": 0, "label": "cat", "logit": 1.5}], "method": "gradcam", "layer": "layer4",
        "blank": False, "warnings": [], "files": {}, "bytes": {}, "map": grid(0),
        "timings": {"read": 0.001, "explain": 0.002, "write": 0.003},
    }  # fmt: skip
    return {**row, **changes}


def failed(index: int, error: str = "it cannot be read", **changes: Any) -> dict[str, Any]:
    """The row of a picture that could not be explained."""
    row = {"index": index, "source": f"{index}.png", "name": f"{index}.png", "sha256": None, "truth": None}
    return {**row, "error": error, "kind": "ImageError", "timings": {"read": 0.001}, **changes}


def job(out: Path, rows: Iterable[dict[str, Any]], **changes: Any) -> Path:
    """The folder of a job with these rows."""
    out.mkdir(parents=True, exist_ok=True)
    counts = {"planned": 0, "explained": 0, "errors": 0, "flagged": 0}
    with (out / "results.jsonl").open("w", encoding="ascii") as lines:
        for row in rows:
            lines.write(json.dumps(row) + "\n")
            counts["planned"] += 1
            counts["errors" if "error" in row else "explained"] += 1
    run = {
        "version": 1, "complete": True, "source": "photos", "model": "/models/net.onnx", "model_sha256": "ab" * 32,
        "configuration": {"method": "gradcam", "preprocess": {"name": "unit"}, "saving": {"colormap": None}},
        "configuration_hash": "cd" * 32, "versions": {"onnxcam": "0.1.0"}, "providers": ["CPUExecutionProvider"],
        "counts": counts,
        "sessions": [{"started": "2030-01-02T03:04:05+0000", "seconds": 4.0, "explained": 7, "errors": 1}],
    }  # fmt: skip
    (out / "run.json").write_text(json.dumps({**run, **changes}))
    return out
