"""Small jobs, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path

import onnxcam.batch
from onnxcam.batch.job import Job


def job(model: Path, source, out: Path, **options) -> Job:
    settings = {"preprocess": "unit", "workers": 2, "batch": 2, "save": "overlay,box", **options}
    return onnxcam.batch.run(model, source, out, **settings)


def left(out: Path) -> dict[str, object]:
    """All files: their bytes, but of rows without timings, of the run without sessions, without whose lock it was."""
    found: dict[str, object] = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    found["results.jsonl"] = [{**row, "timings": list(row["timings"])} for row in rows(out)]
    run = json.loads((out / "run.json").read_text())
    return {**found, "run.json": {k: v for k, v in run.items() if k != "sessions"}, ".onnxcam/lock": ""}


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
