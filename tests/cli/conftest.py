"""The command line in this process: arguments in, exit code, stdout and stderr out."""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders import classifier, png, write

from onnxcam.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> list[dict[str, Any]]:
        """stdout, which must be JSON lines and nothing else."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(monkeypatch) -> Callable[..., Done]:
    def call(*arguments: object) -> Done:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        with monkeypatch.context() as patch, warnings.catch_warnings():
            patch.setattr(sys, "argv", ["onnxcam", *map(str, arguments)])
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setattr(warnings, "showwarning", warnings.showwarning)
            code = _exit_code()
        texts = [s.buffer.getvalue().decode() for s in (out, err) if s.flush() is None]
        return Done(code, *texts)

    return call


def _exit_code() -> int:
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def model(tmp_path) -> Path:
    return write(tmp_path / "model.onnx", classifier())


@pytest.fixture
def picture(tmp_path) -> Path:
    return png(tmp_path / "picture.png")


@pytest.fixture
def fails(run) -> Callable[..., str]:
    """Runs a command that cannot start: exit code 2, nothing on stdout, one message on stderr, which is returned."""

    def call(*arguments: object) -> str:
        done = run(*arguments)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("onnxcam: ")
        assert done.err.count("onnxcam: ") == 1
        assert "Traceback" not in done.err
        return done.err

    return call
