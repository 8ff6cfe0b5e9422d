"""Disks that are full, for whoever writes a certain file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest


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
