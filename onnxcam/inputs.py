"""What a model takes beside the picture: arrays, numbers, or words of its vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcam.errors import OptionError, UnknownNameError
from onnxcam.model import Model, dims_of

Array = npt.NDArray[Any]
Given = npt.ArrayLike | str
_CLASS = "onnxcam/class"  # the inputs of an exported model that say what its own maps explain
_PAD = "<pad>"  # fills up a text where the model takes a fixed number of words


def vocabulary(model: Model) -> tuple[str, ...] | None:
    """The words that the model's metadata tell (``onnxcam/vocabulary``, a JSON list), in order of their ids."""
    with suppress(ValueError):
        words = json.loads(model.meta.get("onnxcam/vocabulary", ""))
        return tuple(map(str, words)) if isinstance(words, list) else None
    return None


def given_inputs(model: Model, given: Mapping[str, Given], whole: bool = True) -> dict[str, Array]:
    """What the model takes beside the picture, as arrays of its types; texts become the ids of their words.

    Args:
        model: the model.
        given: inputs by name.
        whole: none may be missing.

    Raises:
        OptionError: one is missing, unknown, of another shape or kind.
        UnknownNameError: a word that is not in the vocabulary.
    """
    image = model.image_input.name
    wanted = {str(v.name): v for v in model.inputs if v not in model.unread_inputs and v.name != image}
    if not wanted and not given:
        return {}
    text = ", ".join(f"{v.name} {v.dtype} {v.shape}" for v in wanted.values()) or "none"
    if unknown := [n for n in given if n not in wanted]:
        raise OptionError(f"{model.label} has no further input {unknown[0]!r}; its inputs beside the picture: {text}")
    if whole:  # an exported model's maps may be of any class where they are not looked at
        given = {**{n: -1 for n in wanted if n.startswith(_CLASS)}, **given}
    if whole and (missing := [n for n in wanted if n not in given]):
        raise OptionError(
            f"{model.label} takes more than a picture: {text}. Give {', '.join(missing)}: inputs={{name: array}}, or "
            "--input NAME=FILE.npy|VALUE"
        )
    return {n: _as_input(wanted[n], a, vocabulary(model)) for n, a in given.items()}


def parse_inputs(texts: Sequence[str]) -> dict[str, Given]:
    """Further inputs from the command line: ``NAME=FILE.npy``, numbers with commas, or words.

    Raises:
        OptionError: not of this form, or a file that cannot be read.
    """
    found: dict[str, Given] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.strip() or not value.strip():
            raise OptionError(f"--input {text!r}: write NAME=FILE.npy, NAME=3.5, NAME=1,2,3 or NAME=words")
        found[name.strip()] = _parsed(value.strip())
    return found


def _parsed(text: str) -> Given:
    if text.endswith(".npy"):
        try:
            return np.array(np.load(Path(text), mmap_mode="r", allow_pickle=False))  # mapped: it is as large as it says
        except Exception as error:  # a damaged header fails in many ways
            raise OptionError(f"cannot read {text}: {error}; give a file that numpy.save wrote") from error
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return text
    return np.asarray(numbers if len(numbers) > 1 else numbers[0])


def _as_input(value: ir.Value, given: Given, words: Sequence[str] | None) -> Array:
    array = _ids(value, given, words) if isinstance(given, str) else np.asarray(given)
    dims = None if value.shape is None else dims_of(value)
    said = f"input {value.name} is {value.dtype} {value.shape}"
    if array.dtype.kind not in "biuf":
        raise OptionError(f"{said}; given {array.dtype}. Give numbers")
    if dims is not None and array.ndim < len(dims) and array.size == 1:
        array = array.reshape((1,) * len(dims))
    if dims is not None and array.ndim == len(dims) - 1:
        array = array[None]
    fits = dims is None or len(dims) == array.ndim
    if not fits or any(isinstance(d, int) and d != n for d, n in list(zip(dims or (), array.shape, strict=False))[1:]):
        raise OptionError(f"{said}; given an array of shape {np.shape(given) if array is given else array.shape}")
    assert value.dtype is not None
    kind = value.dtype.numpy()
    if np.issubdtype(kind, np.integer) and array.dtype.kind == "f" and not np.all(array == np.rint(array)):
        raise OptionError(f"{said}; given fractions, such as {array.ravel()[np.argmax(array != np.rint(array))]}")
    return array.astype(kind)


def _ids(value: ir.Value, text: str, words: Sequence[str] | None) -> Array:
    """(1, T): the ids of a text's words, filled up where the model takes a fixed number."""
    if words is None:
        raise OptionError(
            f"input {value.name} is given as words ({text!r}), but the model has no vocabulary "
            "(onnxcam/vocabulary in its metadata); give ids, such as 5,12,3"
        )
    known = {w.casefold(): k for k, w in enumerate(words)}
    parts = text.split()
    if odd := [w for w in parts if w.casefold() not in known]:
        raise UnknownNameError.of("word", odd[0], words)
    ids = [known[w.casefold()] for w in parts]
    length = dims_of(value)[-1] if value.shape is not None and len(value.shape) else None
    if isinstance(length, int) and len(ids) < length and _PAD in known:
        ids += [known[_PAD]] * (length - len(ids))
    return np.asarray([ids], dtype=np.int64)
