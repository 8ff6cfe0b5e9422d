"""Graphs that were built before, on disk: what one process wrote, the next one need not work out again.

A graph is kept by a hash of all that it depends on: the model's bytes, what was asked of it, this package's own source,
and the versions of those that it is written with. Sessions are not kept: a runtime's optimised file holds all weights
once more, and is good for one processor only. Whatever goes wrong here costs time, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir

from onnxcam import __version__
from onnxcam.files import sha256_of, whole
from onnxcam.gradients import Backward
from onnxcam.model import Model
from onnxcam.runtime import Array, Packed, installed_builds, load_runtime

MOST = 2**28
"""Bytes that all entries take together; those that were not used for longest go first."""
_LARGEST = 2**26
_QUICKLY = 2**28  # bytes of weights beside a model: hashed in the time that a graph takes to write
_ABANDONED = 3600.0  # seconds after which an unfinished file is nobody's
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Draft:
    """What a session is made of.

    Attributes:
        packed: the graph.
        own: names of those weights that are not the model's.
        outputs: the graph's, by what they tell.
        walk: facts about the gradient; without its tensors where it comes from the disk.
        risky: it holds kernels that may crash.
    """

    packed: Packed
    own: frozenset[str]
    outputs: dict[str, str]
    walk: Backward | None
    risky: bool


def identity(model: Model) -> str:
    """A hash of everything in a model's files; "" where none is needed or to be had.

    That is: of one that was edited, of one with more weights in other files than are hashed quickly, and where nothing
    is kept anyway.
    """
    if not model.as_read or usual() is None:
        return ""
    digest = hashlib.sha256(model.sha256.encode())
    try:
        if sum(path.stat().st_size for path in model.weights) > _QUICKLY:
            return ""
        for path in model.weights:  # where one ends and the next begins, their places in the model's own bytes tell
            digest.update(sha256_of(path).encode())
    except OSError:
        return ""
    return digest.hexdigest()


class Shelf:
    """The drafts of one model.

    Args:
        model: whose weights the graphs read.
        identity: tells it from every other model; "" where nothing does, and so nothing is kept.
        settings: what all its graphs depend on.
    """

    def __init__(self, model: Model, identity: str, *settings: object) -> None:
        self._model, self._settings = model, (identity, *settings)
        self._cache = usual() if identity else None

    def recall(self, *asked: object) -> Draft | None:
        """What was kept for a question, by whichever process."""
        key = self._key(asked)
        held = self._cache.get(key) if self._cache is not None and key is not None else None
        try:
            return None if held is None else self._restored(held)
        except (AttributeError, KeyError, TypeError, ValueError):  # not what this version writes
            return None

    def keep(self, draft: Draft, *asked: object) -> None:
        """Keep the answer to a question."""
        if self._cache is None or (key := self._key(asked)) is None:
            return
        own = sorted(draft.own)
        facts = {
            "outputs": draft.outputs,
            "walk": None if draft.walk is None else {**asdict(replace(draft.walk, gradients=())), "gradients": ()},
            "risky": draft.risky,
            "own": own,
            "shared": [name for name in draft.packed.weights if name not in draft.own],
            "idle": {name: [a.dtype.str, a.shape] for name, a in draft.packed.idle.items()},
            "versions": [draft.packed.opset, draft.packed.ir_version],
        }
        arrays = {f"own{k}": draft.packed.weights[name] for k, name in enumerate(own)}
        texts = {"facts": json.dumps(facts).encode(), "graph": draft.packed.graph}
        self._cache.put(key, {**{name: np.frombuffer(t, np.uint8) for name, t in texts.items()}, **arrays})

    def _restored(self, held: dict[str, Array]) -> Draft:
        facts = json.loads(held["facts"].tobytes())
        weights = {name: held[f"own{k}"] for k, name in enumerate(facts["own"])}
        for name in facts["shared"]:
            if (tensor := self._model.graph.initializers[name].const_value) is None:
                raise KeyError(name)
            weights[name] = np.ascontiguousarray(tensor.numpy())
        idle = {name: np.zeros(shape, dtype) for name, (dtype, shape) in facts["idle"].items()}
        graph = Packed(held["graph"].tobytes(), weights, idle, self._model.label, *facts["versions"])
        walk = None if facts["walk"] is None else Backward(**{**facts["walk"], "gradients": ()})
        return Draft(graph, frozenset(facts["own"]), facts["outputs"], walk, facts["risky"])

    def _key(self, asked: tuple[object, ...]) -> str | None:
        return None if self._cache is None else key_of(*self._settings, *asked)


@dataclass(frozen=True)
class Cache:
    """Arrays by key, in one folder that no other user can write to; processes may share it.

    Attributes:
        folder: it is made when the first entry is kept.
        most: bytes of all entries.
    """

    folder: Path
    most: int = MOST

    def get(self, key: str) -> dict[str, Array] | None:
        """What was kept under a key; None where there is nothing, or nothing sound."""
        path = self._path(key)
        with suppress(OSError):
            if not _is_private(self.folder):
                return None
            with open(path, "rb") as file:
                found = _read(file)
            if found is None:  # truncated or damaged
                path.unlink()
            else:
                with suppress(OSError):  # a disk that is only read keeps no order
                    os.utime(path)
            return found
        return None

    def put(self, key: str, arrays: Mapping[str, Array]) -> None:
        """Keep arrays under a key, whole or not at all; nothing happens where that is not possible."""
        if sum(a.nbytes for a in arrays.values()) > min(_LARGEST, self.most):
            return
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_private(self.folder):
                with whole(self._path(key)) as file:
                    np.savez(file, **arrays)  # type: ignore[arg-type]
                self._make_room()

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.npz"

    def _make_room(self) -> None:
        files = []
        for path in self.folder.iterdir():
            with suppress(OSError):  # another process took it away
                found = path.stat()
                if path.suffix == ".part" and time.time() - found.st_mtime > _ABANDONED:
                    path.unlink()
                elif path.suffix == ".npz":
                    files.append((found.st_mtime, found.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.most:
                return
            with suppress(OSError):
                path.unlink()
            total -= size


def usual() -> Cache | None:
    """The user's own, below ``ONNXCAM_CACHE`` or the system's cache folder; None where that is set, but empty."""
    given = os.environ.get("ONNXCAM_CACHE")
    if given is None:
        import platformdirs

        given = platformdirs.user_cache_dir("onnxcam", appauthor=False)
        given = given if os.path.isabs(given) else ""  # a user without a home
    return Cache(Path(os.path.expanduser(given)) / "graphs") if given else None


def key_of(*parts: object) -> str | None:
    """A text that tells these parts from all others, in every process; None where one has no such text.

    Parts are texts, numbers, None, classes and functions of this package, and tuples of those.
    """
    texts = [_text(part) for part in (_source(), _writers(), *parts)]
    return None if None in texts else json.dumps(texts)


def _text(part: object) -> str | None:
    if isinstance(part, tuple):
        inner = [_text(p) for p in part]
        return None if None in inner else json.dumps(inner)
    if isinstance(part, type) and part.__module__.startswith("onnxcam."):
        return f"{part.__module__}.{part.__qualname__}"
    return f"{type(part).__name__} {part!r}" if isinstance(part, _PLAIN) else None


@cache
def _writers() -> tuple[str, ...]:
    """What graphs are written with, and the runtime, whose build tells which engines there are."""
    modules = (np, onnx, onnx_ir, load_runtime())
    return (*(f"{m.__name__}=={m.__version__}" for m in modules), *installed_builds())


@cache
def _source() -> str:
    """What the package is right now, line by line: while it is being worked on, its version stays."""
    root, digest = Path(__file__).parent, hashlib.sha256(__version__.encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)} {sha256_of(path)}".encode())
    return digest.hexdigest()


def _read(file: BinaryIO) -> dict[str, Array] | None:
    """The arrays of a file of this user's that is whole, as its checksums tell."""
    if hasattr(os, "getuid") and os.fstat(file.fileno()).st_uid != os.getuid():
        return None
    try:
        with np.load(file, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except Exception:  # a damaged file fails in many ways
        return None


def _is_private(folder: Path) -> bool:
    """Whether nobody but this user can have written there."""
    if not hasattr(os, "getuid"):  # Windows: the profile is the user's alone
        return True
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
