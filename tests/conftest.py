from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from files import FILES, FileServer, file_server, public_table
from served import Server, serving

os.environ.setdefault("ONNXCAM_CACHE", "")  # graphs that another run has kept would hide what this one writes


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sessions take one thread where a test gives no number: of small networks, a second one waits most of the time,
    and busily, which costs the workers beside it their core."""
    from onnxcam import runtime

    begin = runtime._Here.__init__

    def alone(self: Any, graph: bytes, weights: Any, providers: Any, threads: int | None, optimize: bool) -> None:
        begin(self, graph, weights, providers, threads or 1, optimize)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime._Here, "__init__", alone)
        yield


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


@pytest.fixture
def zoo_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and a zoo of two public models beside the bundled ones."""
    from onnxcam import zoo

    folder = tmp_path / "zoo"
    folder.mkdir()
    shutil.copy(zoo.root() / "index.toml", folder)
    (folder / "labels.txt").write_text("ant\nbee\ncat\ndog\n")
    (folder / "public.toml").write_text(public_table())
    monkeypatch.setattr(zoo, "root", lambda: folder)
    monkeypatch.setenv("ONNXCAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("ONNXCAM_OFFLINE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def host(zoo_cache, monkeypatch) -> Iterator[FileServer]:
    """The server of these public models."""
    with file_server() as one:
        one.files = dict(FILES)
        monkeypatch.setenv("ONNXCAM_ZOO_URL", one.url)
        yield one
