from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_zoo() -> Path:
    """The folder of real models and photos; tests that need it are skipped where it is not."""
    folder = os.environ.get("ONNXCAM_REAL_ZOO")
    if not folder:
        pytest.skip("ONNXCAM_REAL_ZOO is not set: no folder of real models and photos")
    path = Path(folder).resolve()
    assert path.is_dir(), f"ONNXCAM_REAL_ZOO={folder} is no folder"
    return path
