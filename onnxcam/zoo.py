"""Named models: ``zoo:shapes-cnn`` wherever a model path is taken.

Two tables say what each model is, and its SHA-256: ``model_zoo/index.toml`` lists the bundled ones,
``model_zoo/public.toml`` those that are downloaded when they are first asked for. A file that differs is refused.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from onnxcam.errors import ModelError, UnknownNameError
from onnxcam.files import sha256_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "zoo:"
PUBLIC_URL = "https://github.com/onnx/models/raw/main/"
"""Where public models are served; ``ONNXCAM_ZOO_URL`` names another place with the same files."""
_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class ZooModel:
    """One entry of the tables.

    Attributes:
        name: as written after ``zoo:``.
        file: the .onnx file, below the zoo's folder or the cache.
        sha256: of that file, 64 lower-case hexadecimal digits.
        bytes: its size.
        licence: SPDX identifier.
        description: what it tells apart and what it is good for.
        input_size: height and width of the first input, in pixels; of a decoder's features, in cells.
        labels: class names, in the order of the logits; none where the output is no class score.
        preprocess: settings as for ``Preprocess.from_dict``; none for a model that takes no picture.
        opset: of the default domain.
        accuracy: held-out, in [0, 1]. Of classes: ``label``, ``top1``, ``top5`` and ``exact_set``, the last the
            strictest; ``balanced``, top1 where what went along with a class in training does so in half of the pictures
            only; of questions: ``answer``; of captions: ``token``, each next word, and ``caption``, written whole; of
            boxes: ``map50``, the mean average precision at an IoU of 0.5, ``recall`` and ``precision``; of pixels:
            ``mean_iou`` over classes and background, and ``pixel``, those named rightly.
        recipe: the script that makes it, below ``model_zoo/`` in the source tree.
        samples: folder of sample pictures, below the zoo's folder.
        vocabulary: the words of a model that reads or writes text, by token id; the models carry it too, as
            ``onnxcam/vocabulary``. ``<pad>``, ``<start>`` and ``<end>`` are no words of the language.
        companions: names of the models that it works with: an encoder's decoder, a decoder's encoder.
        data: files of weights beside ``file``, each with its SHA-256.
        source: of a public model: its path below :data:`PUBLIC_URL`.
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
    accuracy: Mapping[str, float] = field(default_factory=dict)
    recipe: str = ""
    samples: str = ""
    vocabulary: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    @property
    def path(self) -> Path:
        """Where its file is, or will be once it is downloaded."""
        from onnxcam import download

        return (download.cache() if self.source else root()) / self.file

    @property
    def url(self) -> str:
        """Where a public model is served; empty for a bundled one."""
        base = os.environ.get("ONNXCAM_ZOO_URL") or PUBLIC_URL
        return f"{base.rstrip('/')}/{self.source}" if self.source else ""

    @property
    def place(self) -> str:
        """``bundled``, ``cached`` or ``to download``, by the file's size alone."""
        if not self.source:
            return "bundled"
        return "cached" if self.path.is_file() and self.path.stat().st_size == self.bytes else "to download"


def root() -> Path:
    """The zoo's folder: inside the installed package, or beside it in a source tree."""
    installed = _PACKAGE / "model_zoo"
    return installed if installed.is_dir() else _PACKAGE.parent / "model_zoo"


def models() -> dict[str, ZooModel]:
    """Every bundled model, by name.

    Raises:
        ModelError: no index, or one that is not understood; the installation is incomplete.
    """
    table, rows = _table("index.toml")
    return {row.name: row for row in (_entry(row, table) for row in rows["model"])}


def public() -> dict[str, ZooModel]:
    """Every model that can be downloaded, by name.

    Raises:
        ModelError: no table, or one that is not understood; the installation is incomplete.
    """
    table, rows = _table("public.toml")
    found = [_entry(row, table) for family in rows["family"] for row in _members(family, table.parent)]
    return {row.name: row for row in found}


def _members(family: dict[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    shared = {key: value for key, value in family.items() if key != "model"}
    if "labels" in shared:
        shared["labels"] = (folder / shared["labels"]).read_text(encoding="utf-8").splitlines()
    for row in family["model"]:
        yield {**shared, "file": f"{row.get('name')}.onnx", **row}


def _table(name: str) -> tuple[Path, dict[str, Any]]:
    table = root() / name
    if not table.is_file():
        raise ModelError(f"no model zoo at {table}; reinstall onnxcam, or give the path of an .onnx file")
    try:
        return table, tomllib.loads(table.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ModelError(f"the model zoo's table {table} is not understood: {error}; reinstall onnxcam") from error


def _entry(row: dict[str, Any], table: Path) -> ZooModel:
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(ZooModel)}
    wrong = [f"has no {key}" for key, needed in known.items() if needed and key not in row]
    wrong += [f"has the unknown key {key!r}" for key in row if key not in known]
    for sha256 in (row.get("sha256"), *row.get("data", {}).values()):
        if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", str(sha256)):
            wrong.append(f"has sha256 = {sha256!r}, which is no SHA-256")
    if wrong:
        what = f"{table}: entry {row.get('name', '?')!r} {', '.join(wrong)}"
        raise ModelError(f"{what}. Without these nothing can be verified: complete the entry, or reinstall onnxcam")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return ZooModel(**values)


def model(name: str) -> ZooModel:
    """The entry of ``name``, given with or without ``zoo:``.

    Raises:
        UnknownNameError: no such model; the message offers the closest names.
        ModelError: a table is missing or not understood.
    """
    known, bare = models(), name.removeprefix(PREFIX)
    if bare not in known:
        known |= public()
    if bare not in known:
        hint = "`onnxcam zoo list` tells them all; a file of your own is given by its path"
        raise UnknownNameError.of("zoo model", bare, known, hint)
    return known[bare]


def recognise(sha256: str) -> ZooModel | None:
    """The entry of the file with this SHA-256, wherever it lies and whatever it is called; None where there is none.

    It tells preprocessing and labels of models that do not carry them.
    """
    with suppress(ModelError):  # a model of one's own needs no zoo
        return _by_hash(root()).get(sha256)
    return None


@cache
def _by_hash(_: Path) -> dict[str, ZooModel]:
    return {m.sha256: m for m in (*models().values(), *public().values())}


def locate(name: str) -> Path:
    """The verified .onnx file of ``name``, given with or without ``zoo:``; a public model is downloaded if need be.

    Raises:
        UnknownNameError: no such model.
        ModelError: its file is missing or damaged, or cannot be downloaded.
        OutputError: the cache cannot be written to.
    """
    entry = model(name)
    if not entry.source:
        return verify(name)
    from onnxcam import download

    return download.fetch(download.Wanted(entry.name, entry.url, entry.path, entry.sha256, entry.bytes))


def verify(name: str) -> Path:
    """The file of ``name``, once its SHA-256, and that of its data, is found to be the table's; nothing is downloaded.

    Raises:
        UnknownNameError: no such model.
        ModelError: a file is missing, or differs from the table.
    """
    entry = model(name)
    _check(entry, entry.path, entry.sha256)
    for file, sha256 in entry.data.items():
        _check(entry, entry.path.parent / file, sha256)
    return entry.path


def _check(entry: ZooModel, path: Path, sha256: str) -> None:
    pull = f"`onnxcam zoo pull {entry.name}`"
    restore = f"reinstall onnxcam, or in a source tree restore model_zoo/{path.name} from version control"
    remedy = pull if entry.source else restore
    if not path.is_file():
        raise ModelError(f"zoo model {entry.name!r}: no file {path}; {remedy}")
    if (found := sha256_of(path)) != sha256:
        expected = f", expected {entry.bytes}" if path == entry.path else ""
        hashes = f"sha256 {found[:12]}..., expected {sha256[:12]}..."
        what = f"{path} is damaged ({path.stat().st_size} bytes{expected}; {hashes})"
        raise ModelError(f"zoo model {entry.name!r}: {what}; {remedy}")


def samples(name: str) -> list[Path]:
    """The sample pictures of ``name``, sorted; a picture's ground truth is ``<stem>.mask.png`` beside it.

    Raises:
        UnknownNameError: no such model.
    """
    entry = model(name)
    folder = root() / entry.samples
    return sorted(path for path in folder.glob("*.png") if not path.name.endswith(".mask.png")) if entry.samples else []
