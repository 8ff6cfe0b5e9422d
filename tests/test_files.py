"""Files that are written whole or not at all."""

from __future__ import annotations

import os

import pytest

from onnxcam.files import whole, write_whole

pytestmark = pytest.mark.anyruntime


@pytest.mark.parametrize("durable", [True, False])
def test_a_durable_file_is_on_the_disk_before_it_appears(tmp_path, monkeypatch, durable):
    """All its bytes; others leave that to the system, which is faster."""
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda n: (events.append(("fsync", os.fstat(n).st_size)), fsync(n))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (events.append(("replace", 3)), replace(*names))[1])
    write_whole(tmp_path / "a", b"abc", durable=durable)
    with whole(tmp_path / "b", durable=durable) as file:
        file.write(b"abc")
    assert events == [("fsync", 3), ("replace", 3)][not durable :] * 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
