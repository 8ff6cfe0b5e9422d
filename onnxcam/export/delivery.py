"""The files that an exported model becomes: weights of half the size, weights beside it, the ORT format."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxcam.errors import OptionError, OutputError, reason
from onnxcam.export.provenance import MARK
from onnxcam.graph.symbolic import PREFIX
from onnxcam.model import Model, place_of_weights
from onnxcam.runtime import Array, load_runtime

_STORED = f"{PREFIX}half/"  # what names of weights in float16 begin with
_WORTH_HALVING = 1024  # numbers
_RESIZING = 2**16  # numbers of a matrix that was written with the maps; smaller ones resize maps
_HALVES_LOSE = 1e-3  # of a row of weights; rounding to 11 bits loses up to 2^-11
_DEAD = 1e-10  # rows that are so much smaller than the largest one


# Weights of half the size


def with_half_weights(model: Model) -> Model:
    """Weights are stored as float16; a Cast makes float32 of them, and everything is computed as before.

    Runtimes do the Casts once, when they load the file. Weights that float16 cannot hold (above 65504, or a row of
    them below 6e-5) stay as they are, and so does what is small: biases, scales, matrices that resize maps.

    Raises:
        OptionError: there is nothing to make smaller.
    """
    found = model.clone()
    graph = found.graph
    halves = {n: h for n, v in graph.initializers.items() if (h := _half(n, v)) is not None}
    if not halves:
        kinds = sorted({v.const_value.dtype.name for v in graph.initializers.values() if v.const_value is not None})
        raise OptionError(
            f"fp16: {model.label} has no large float32 weights that fit into float16 (it holds {', '.join(kinds)}); "
            "leave it out"
        )
    first = graph[0]
    for name, half in halves.items():
        graph.insert_before(first, _cast(graph, name, half))
    return found


def _half(name: str, value: ir.Value) -> Array | None:
    """The weights in float16, unless they are few, of another type, or lose by it."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or value.is_graph_output():
        return None
    rank = len(tensor.shape)
    if rank < 2 or tensor.size < (_RESIZING if rank == 2 and name.startswith(PREFIX) else _WORTH_HALVING):
        return None
    held = tensor.numpy()
    with np.errstate(over="ignore"):
        half = held.astype(np.float16)
    rows = held.reshape(len(held), -1)
    size = np.linalg.norm(rows, axis=1)
    lost = np.linalg.norm(rows - half.reshape(rows.shape), axis=1)
    return half if np.all(lost <= _HALVES_LOSE * size + _DEAD * size.max()) else None


def _cast(graph: ir.Graph, name: str, half: Array) -> ir.Node:
    value = graph.initializers.pop(name)
    value.const_value = None
    stored = ir.Value(name=f"{_STORED}{name}", const_value=ir.tensor(half))
    graph.register_initializer(stored)
    to = [ir.AttrInt64("to", ir.DataType.FLOAT.value)]
    return ir.Node("", "Cast", [stored], to, outputs=[value], name=f"{PREFIX}whole/{name}")


# Files


def check_places(path: Path, external_data: bool, ort: bool, force: bool) -> None:
    """Refuse an export whose files have no place, before anything is done.

    Raises:
        OptionError: its name does not end in ``.onnx``, or some of the files are folders, or are there, or files of an
            earlier export are, and ``force`` is not given.
        OutputError: their folder is missing, or cannot be written to.
    """
    try:
        _check_name(path, ort)
        _check_free(path, _places(path, external_data, ort), force)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {reason(error)}; choose another name") from error


def _check_name(path: Path, ort: bool) -> None:
    if path.is_dir():
        raise OptionError(f"{str(path)!r} is a folder: give the name of a file, such as {str(path / 'model.onnx')!r}")
    if ort and path.suffix == ".ort":
        raise OptionError(f"{str(path)!r} is what ort writes beside the .onnx file: give the name of that one")
    if path.suffix != ".onnx":
        raise OptionError(f"{str(path)!r} is no NAME.onnx, by which programs know a model: give such a name")
    if not path.parent.is_dir():
        above = repr(str(path.parent))
        why = (
            f"{above} is no folder; choose one"
            if path.parent.exists()
            else f"there is no folder {above}; make it first"
        )
        raise OutputError(f"cannot write {str(path)!r}: {why}")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write {str(path)!r}: the folder is read-only; choose another one")


def _check_free(path: Path, places: Sequence[Path], force: bool) -> None:
    if folder := next((str(file) for file in places if file.is_dir()), ""):
        raise OptionError(f"{folder!r} is a folder, where a file of the export goes: give another name")
    there = [str(file) for file in places if os.path.lexists(file)]
    if there and not force:
        raise OptionError(f"{', '.join(map(repr, there))} is there already: give another name, or force (--force)")
    if (old := [str(file) for file in _leftovers(path, places)]) and not force:
        raise OptionError(
            f"{', '.join(map(repr, old))} is there, of an earlier export, and would not fit the new one: give another "
            "name, or force (--force), which removes it"
        )


def deliver(model: Model, path: Path, external_data: bool, ort: bool) -> tuple[list[Path], list[Path]]:
    """Write all files of an export, or none.

    What an earlier export wrote beside ``path`` and this one does not write is removed: it would be taken for the new
    model's.

    Args:
        model: the exported model.
        path: the ``.onnx`` file.
        external_data: its weights go into ``NAME.onnx.data`` beside it.
        ort: write ``NAME.ort`` too, for runtimes built for it, and ``NAME.required_operators.config``, the list of
            operators from which such a runtime is built.

    Returns:
        The files, the model last; and what was removed.

    Raises:
        OptionError: more than 2 GB where one file must hold them.
        OutputError: they cannot be written.
    """
    if model.exceeds_one_file and (ort or not external_data):
        size = f"the weights are {model.nbytes() / 2**30:.1f} GB, and an .onnx or .ort file holds at most 2 GB"
        raise OptionError(f"{size}: {'leave ort out, and ' if ort else ''}give external_data (--external-data)")
    places = _places(path, external_data, ort)
    leftovers = _leftovers(path, places)
    with model.writing(*places, gone=leftovers) as folder:
        model.write(folder / path.name, external_data)
        if ort:
            stored = any(name.startswith(_STORED) for name in model.graph.initializers)
            _write_ort(folder, [p.name for p in (path, *places[:2])], ["ConstantFolding"] if stored else [])
    return places, leftovers


def _places(path: Path, external_data: bool, ort: bool) -> list[Path]:
    """The files that an export is, the model last."""
    return [*(_mobile(path) if ort else ()), *([place_of_weights(path)] if external_data else []), path]


def _mobile(path: Path) -> tuple[Path, Path]:
    return path.with_suffix(".ort"), path.with_suffix(".required_operators.config")


def _leftovers(path: Path, places: Sequence[Path]) -> list[Path]:
    """What an earlier export wrote beside ``path``, known by its mark, and this one does not write."""
    (ort, config), data = _mobile(path), place_of_weights(path)
    own = [ort, config] if _holds(ort, MARK) else []
    own += [data] if _holds(path, MARK, data.name) else []
    return [file for file in own if file not in places and file.is_file()]


def _holds(file: Path, *words: str) -> bool:
    """Whether it is a file that can be read, and all of these stand in it."""
    if not file.is_file():  # a pipe would be waited for
        return False
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as held:
            return all(held.find(word.encode()) >= 0 for word in words)
    except (OSError, ValueError):  # it may not be read, or is empty
        return False


# ONNX Runtime's own list-maker, in a process of its own: it sets up logging and the import path to its own liking.
# Fusions of the level "extended" hold on every processor; those for the layout of one ("all") do not.
_CHILD = """
import sys
from pathlib import Path
import onnxruntime
from onnxruntime.tools.ort_format_model import create_config_from_models
source, target, config, *left_out = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
options.optimized_model_filepath = target
options.add_session_config_entry("session.save_model_format", "ORT")
options.add_session_config_entry("session.qdqisint8allowed", "0")
onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"], disabled_optimizers=left_out)
create_config_from_models([Path(target)], Path(config), False)
"""


def _write_ort(folder: Path, names: list[str], left_out: list[str]) -> None:
    version = load_runtime().__version__
    paths = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *names, *left_out],
        cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        raise OutputError(f"ONNX Runtime {version} cannot write {names[1]}: {lines[-1][:300]}; leave ort out")
