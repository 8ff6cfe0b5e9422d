from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Server, serving


@pytest.fixture(scope="session")
def real_zoo() -> Path:
    """The folder of real models and photos; tests that need it are skipped where it is not."""
    folder = os.environ.get("ONNXCAM_REAL_ZOO")
    if not folder:
        pytest.skip("ONNXCAM_REAL_ZOO is not set: no folder of real models and photos")
    path = Path(folder).resolve()
    assert path.is_dir(), f"ONNXCAM_REAL_ZOO={folder} is no folder"
    return path


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    """A model behind an HTTP address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("onnxcam.endpoint._PAUSE", 0.01)
    with serving() as one:
        yield one
