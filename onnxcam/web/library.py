"""The browser's ONNX Runtime: two files of the npm package onnxruntime-web, of one known version.

The Python package does not carry them (14 MB); npm brings them once, and they are kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from onnxcam.errors import OptionError, RuntimeUnavailableError, reason
from onnxcam.files import sha256_of, write_whole

PAGE = Path(__file__).parent / "page"
"""The folder of the page's own source."""
_SECONDS = 900
_PLACES = ("", "dist", "node_modules/onnxruntime-web/dist")


def package() -> dict[str, Any]:
    """What ``package.json`` says: ``dependencies`` with the version, ``sha256`` with the digests of its files."""
    found: dict[str, Any] = json.loads((PAGE / "package.json").read_text("utf-8"))
    return found


def find_library(given: str | Path | None, cache: Path) -> dict[str, Path]:
    """Where each file of onnxruntime-web lies.

    Args:
        given: a folder that holds it: the npm package, its ``dist``, or what has it in ``node_modules``; None: the
            cache, filled by npm where it is empty.
        cache: the folder of downloads.

    Raises:
        OptionError: the folder given does not hold the files.
        RuntimeUnavailableError: the cache is empty, and npm is not there or fails.
    """
    names = list(package()["sha256"])
    if given is not None:
        return _in_folder(Path(given), names)
    folder = cache / "web" / f"onnxruntime-web-{_version()}"
    if not all(_is_whole(folder / name) for name in names):
        _fetch(folder, names)
    return {name: folder / name for name in names}


def _version() -> str:
    return str(package()["dependencies"]["onnxruntime-web"])


def _is_whole(path: Path) -> bool:
    return path.is_file() and sha256_of(path) == package()["sha256"][path.name]


def _in_folder(folder: Path, names: list[str]) -> dict[str, Path]:
    for place in _PLACES:
        found = {name: folder / place / name for name in names}
        if all(path.is_file() for path in found.values()):
            return found
    raise OptionError(
        f"runtime {str(folder)!r} does not hold {' and '.join(names)}: give the folder of the npm package "
        f"onnxruntime-web, such as node_modules/onnxruntime-web ({_version()} is what the page is tested with)"
    )


def _fetch(folder: Path, names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        packed = _pack(scratch)
        try:
            with tarfile.open(packed) as archive:
                for name in names:
                    _take(archive, name, folder)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise RuntimeUnavailableError(f"{packed.name}, as npm gave it, cannot be read: {reason(error)}") from error


def _pack(scratch: str) -> Path:
    """The package as npm downloads it; none of its scripts runs."""
    asked, npm = f"onnxruntime-web@{_version()}", shutil.which("npm")
    how = f"or give a folder that holds {asked}: --runtime node_modules/onnxruntime-web"
    if npm is None:
        raise RuntimeUnavailableError(
            f"the page needs {asked}, which npm downloads once, and npm is not here: install Node.js, {how}"
        )
    command = [npm, "pack", asked, "--ignore-scripts", "--silent", "--pack-destination", scratch]
    try:
        subprocess.run(command, cwd=scratch, check=True, capture_output=True, text=True, timeout=_SECONDS)
        return next(Path(scratch).glob("*.tgz"))
    except (subprocess.SubprocessError, OSError, StopIteration) as error:
        told = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise RuntimeUnavailableError(
            f"npm could not download {asked} ({told[-1] if told else 'no word'}): try it with a network, {how}"
        ) from error


def _take(archive: tarfile.TarFile, name: str, folder: Path) -> None:
    try:
        stream = archive.extractfile(f"package/dist/{name}")
    except KeyError:
        stream = None
    if stream is None:
        raise RuntimeUnavailableError(f"onnxruntime-web {_version()}, as npm gave it, has no dist/{name}")
    data = stream.read()
    if hashlib.sha256(data).hexdigest() != package()["sha256"][name]:
        raise RuntimeUnavailableError(
            f"{name}, as npm gave it, is not the file of onnxruntime-web {_version()} (its SHA-256 is another)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / name, data)
