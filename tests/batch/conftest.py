"""A model, pictures, what a job leaves of them, and disks that are full."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import classifier, png, write
from running import job, left


@pytest.fixture
def full_disk(monkeypatch) -> Callable[[str], None]:
    """A function that lets no file whose name ends so appear any more, until it is given ``""``."""
    real, ending = os.replace, [""]

    def replace(source, target, **options):
        if ending[0] and str(target).endswith(ending[0]):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return real(source, target, **options)

    monkeypatch.setattr(os, "replace", replace)
    return lambda name: ending.__setitem__(0, name)


@pytest.fixture
def model(tmp_path) -> Path:
    return write(tmp_path / "model.onnx", classifier())


@pytest.fixture
def photos(tmp_path) -> Path:
    """11 pictures in two folders."""
    for k in range(11):
        png(tmp_path / "photos" / "ab"[k % 2] / f"{k:02}.png", k)
    return tmp_path / "photos"


@pytest.fixture
def whole(model, photos, tmp_path) -> dict[str, object]:
    """What a job leaves that nothing happens to."""
    job(model, photos, tmp_path / "whole").finish()
    return left(tmp_path / "whole")
