"""Named models: ``zoo:shapes-cnn`` wherever a model path is taken.

The index (``model_zoo/index.toml``) says what each model is, and its SHA-256: a file that differs is refused.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxcam.errors import ModelError, UnknownNameError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "zoo:"
_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class ZooModel:
    """One entry of the index.

    Attributes:
        name: as written after ``zoo:``.
        file: the .onnx file, below the zoo's folder.
        sha256: of that file, 64 lower-case hexadecimal digits.
        bytes: its size.
        licence: SPDX identifier.
        description: what it tells apart and what it is good for.
        input_size: height and width of the first input, in pixels; of a decoder's features, in cells.
        labels: class names, in the order of the logits; none where the output is no class score.
        preprocess: settings as for ``Preprocess.from_dict``; none for a model that takes no picture.
        opset: of the default domain.
        accuracy: held-out, in [0, 1]. Of classes: ``label``, ``top1`` and ``exact_set``, the last the strictest; of
            questions: ``answer``; of captions: ``token``, each next word, and ``caption``, written whole.
        recipe: the script that makes it, below ``model_zoo/`` in the source tree.
        samples: folder of sample pictures, below the zoo's folder.
        vocabulary: the words of a model that reads or writes text, by token id; the models carry it too, as
            ``onnxcam/vocabulary``. ``<pad>``, ``<start>`` and ``<end>`` are no words of the language.
        companions: names of the models that it works with: an encoder's decoder, a decoder's encoder.
    """

    name: str
    file: str
    sha256: str
    bytes: int
    licence: str
    description: str
    input_size: tuple[int, int]
    labels: tuple[str, ...]
    preprocess: Mapping[str, Any]
    opset: int
    accuracy: Mapping[str, float]
    recipe: str
    samples: str
    vocabulary: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()


def root() -> Path:
    """The zoo's folder: inside the installed package, or beside it in a source tree."""
    installed = _PACKAGE / "model_zoo"
    return installed if installed.is_dir() else _PACKAGE.parent / "model_zoo"


def _entry(row: dict[str, Any]) -> ZooModel:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return ZooModel(**fields)


def models() -> dict[str, ZooModel]:
    """Every model of the index, by name.

    Raises:
        ModelError: no index; the installation is incomplete.
    """
    index = root() / "index.toml"
    if not index.is_file():
        raise ModelError(f"no model zoo at {index}; reinstall onnxcam, or give the path of an .onnx file")
    rows = tomllib.loads(index.read_text(encoding="utf-8"))["model"]
    return {row["name"]: _entry(row) for row in rows}


def model(name: str) -> ZooModel:
    """The entry of ``name``, given with or without ``zoo:``.

    Raises:
        UnknownNameError: no such model; the message offers the closest names.
    """
    known, bare = models(), name.removeprefix(PREFIX)
    if bare not in known:
        raise UnknownNameError.of("zoo model", bare, known, "a file of your own is given by its path")
    return known[bare]


def locate(name: str) -> Path:
    """The verified .onnx file of ``name``, given with or without ``zoo:``.

    Raises:
        UnknownNameError: no such model.
        ModelError: its file is missing or damaged.
    """
    return verify(name)


def verify(name: str) -> Path:
    """The file of ``name``, once its SHA-256 is found to be the index's.

    Raises:
        UnknownNameError: no such model.
        ModelError: the file is missing, or differs from the index.
    """
    entry = model(name)
    path = root() / entry.file
    if not path.is_file():
        raise ModelError(f"zoo model {entry.name!r}: no file {path}; {_remedy(entry)}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != entry.sha256:
        sizes = f"{path.stat().st_size} bytes, expected {entry.bytes}"
        hashes = f"sha256 {found[:12]}..., expected {entry.sha256[:12]}..."
        raise ModelError(f"zoo model {entry.name!r}: {path} is damaged ({sizes}; {hashes}); {_remedy(entry)}")
    return path


def _remedy(entry: ZooModel) -> str:
    return f"reinstall onnxcam, or in a source tree restore model_zoo/{entry.file} from version control"


def samples(name: str) -> list[Path]:
    """The sample pictures of ``name``, sorted; a picture's ground truth is ``<stem>.mask.png`` beside it.

    Raises:
        UnknownNameError: no such model.
    """
    folder = root() / model(name).samples
    return sorted(path for path in folder.glob("*.png") if not path.name.endswith(".mask.png"))
