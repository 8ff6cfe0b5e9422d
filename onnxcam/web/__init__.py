"""A static page on which an exported model explains pictures in the browser."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcam import __version__
from onnxcam.core.overlay import colormap_table, diverging
from onnxcam.download import cache
from onnxcam.errors import ModelError, OptionError, OutputError, reason
from onnxcam.export.provenance import provenance
from onnxcam.files import together
from onnxcam.graph.symbolic import PREFIX
from onnxcam.image import InputSpec, Preprocess
from onnxcam.labels import find_labels
from onnxcam.methods import METHODS
from onnxcam.model import Model, load_model
from onnxcam.opening import input_spec
from onnxcam.web.library import PAGE, find_library, package

_DTYPES = ("float32", "float16", "uint8", "int8", "int32")
_OWN = ("index.html", "style.css", "app.js", "pixels.js", "worker.js")
_TOP = ("ort", "model.onnx", "model.json", *_OWN, "sw.js")
_CLASS = f"{PREFIX}class"


def write_site(
    model: str | Path,
    folder: str | Path,
    *,
    colormap: str = "jet",
    runtime: str | Path | None = None,
    force: bool = False,
) -> Path:
    """Write the page of an exported model: plain files, for any web server.

    Args:
        model: a file that :func:`onnxcam.export.export` wrote.
        folder: where the page goes.
        colormap: one of :data:`onnxcam.core.overlay.COLORMAPS`.
        runtime: a folder that holds the npm package onnxruntime-web; None: the cache, which npm fills once.
        force: replace the page that the folder holds; what else lies there stays.

    Returns:
        ``index.html``.

    Raises:
        ModelError: no exported model, or one that a page cannot feed.
        OptionError: a folder with something in it that is no page, or with a page, and ``force`` is not given; the
            model is a file of that page; a wrong ``runtime``.
        UnknownNameError: no such colour map.
        RuntimeUnavailableError: npm, where it is needed, is not there or fails.
        OutputError: it cannot be written; what was there is there still.
    """
    where, path = Path(folder), Path(model)
    told = describe(load_model(path), colormap)
    _refuse_place(where, path, force)
    library, fresh = find_library(runtime, cache()), not where.exists()
    try:
        where.mkdir(parents=True, exist_ok=True)
        with together(*(where / name for name in _TOP)) as folder:
            _write(folder, path, told, library)
    except OSError as error:
        if fresh:
            with suppress(OSError):
                where.rmdir()
        raise OutputError(f"cannot write the page to {str(where)!r}: {reason(error)}. Give another folder") from error
    return where / "index.html"


def _refuse_place(where: Path, model: Path, force: bool) -> None:
    """A page may take the place of a page, and of nothing else."""
    if where.exists() and not where.is_dir():
        raise OptionError(f"{str(where)!r} is no folder: give another name")
    try:
        held = sorted(p.name for p in where.iterdir()) if where.is_dir() else []
        foreign = _foreign(where, held)
        own = next((n for n in _TOP if (where / n).exists() and (where / n).samefile(model)), None)
    except OSError as error:
        raise OutputError(f"cannot read {str(where)!r}: {reason(error)}. Give another folder") from error
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise OptionError(
            f"{str(where)!r} holds {' and '.join(foreign[:3])}{more}, which are no page of onnxcam and stay as they "
            "are: give another folder"
        )
    if own:
        raise OptionError(f"{str(where / own)!r} is the model given, and part of a page there: give another folder")
    if held and not force:
        raise OptionError(f"{str(where)!r} holds a page already: give another folder, or replace it (--force)")


def _foreign(where: Path, held: list[str]) -> list[str]:
    """What stands in the way of a page: all that a folder holds without one, and what is not ours in ``ort``."""
    if not set(_TOP) <= set(held):
        return held
    ours = {f"ort/{name}" for name in package()["sha256"]}
    return sorted({f"ort/{p.name}" for p in (where / "ort").iterdir()} - ours)


def _write(where: Path, model: Path, told: Mapping[str, Any], library: Mapping[str, Path]) -> None:
    (where / "ort").mkdir()
    copies = {
        **{name: PAGE / name for name in _OWN},
        **{f"ort/{name}": path for name, path in library.items()},
        "model.onnx": model,
    }
    for name, source in copies.items():
        shutil.copyfile(source, where / name)
    (where / "model.json").write_text(json.dumps(told), "utf-8")
    (where / "sw.js").write_text(_service(where, [*copies, "model.json"]), "utf-8")


def _service(where: Path, names: list[str]) -> str:
    """The service worker; it is another file, and so fetches all anew, wherever one of its files is another."""
    digest = hashlib.sha256()
    for name in names:
        digest.update((where / name).read_bytes())
    site = {"version": digest.hexdigest()[:16], "files": ["./", *names]}
    return f"const SITE = {json.dumps(site)};\n{(PAGE / 'sw.js').read_text('utf-8')}"


def describe(model: Model, colormap: str = "jet") -> dict[str, Any]:
    """What the page must know of a model, as JSON values: its inputs, outputs, classes, colours and preprocessing.

    Raises:
        ModelError: no exported model, or one that a page cannot feed.
        UnknownNameError: no such colour map.
    """
    record, image = _record(model), model.image_input
    spec, preprocess = input_spec(model), Preprocess.from_dict(record["preprocess"])
    dtype = np.dtype(spec.dtype).name
    if dtype not in _DTYPES:
        raise ModelError(f"{model.label} takes {dtype}: a page gives {', '.join(_DTYPES)}")
    _refuse_inputs(model)
    outputs = {str(v.name) for v in model.outputs}
    scores = record["scores"] or {"output": None, "classes": None}
    labels, count = find_labels(None, model.meta), scores["classes"]
    classes = {
        "input": _CLASS if _CLASS in {v.name for v in model.inputs} else None,
        "count": count or len(labels or ()),
        "labels": labels,
    }
    return {
        "onnxcam": __version__,
        "title": Path(record["source"]["name"] or "model").stem,
        "target": record["target"],
        "input": {
            "name": image.name,
            "dtype": dtype,
            "layout": image.layout,
            "batch": image.batch,
            "channels": image.channels,
            "height": image.height,
            "width": image.width,
        },
        "how": {
            **{k: v for k, v in preprocess.to_dict().items() if k not in ("name", "scale", "mean", "std", "color")},
            "grey": preprocess.color == "GRAY" or image.channels == 1,
            "reversed": preprocess.color == "BGR",
        },
        "levels": _text(levels(preprocess, spec)),
        "classes": classes,
        "scores": scores["output"] if count else None,
        "index": next((n for n in (f"{PREFIX}class_index", "class_index") if n in outputs), None),
        "maps": [{"output": name, "title": _title(told["method"]), **told} for name, told in record["maps"].items()],
        "colors": _text(colormap_table(colormap)),
        "signed_colors": _text(diverging(np.linspace(-1, 1, 256, dtype=np.float32)[None])[0]),
    }


def levels(preprocess: Preprocess, spec: InputSpec) -> np.ndarray[Any, Any]:
    """What becomes of each grey level in each channel of the model: (C, 256), of the model's dtype.

    Raises:
        OptionError: settings that do not fit the model.
    """
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    alone = InputSpec("NCHW", spec.channels, 1, 256, spec.dtype)
    tensor, _ = replace(preprocess, fit="stretch", size=None).apply(ramp, alone)
    return np.asarray(tensor[0, :, 0])


def _text(array: np.ndarray[Any, Any]) -> str:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(np.ascontiguousarray(little).tobytes()).decode("ascii")


def _title(method: str) -> str:
    return METHODS[method].title if method in METHODS else method


def _record(model: Model) -> dict[str, Any]:
    """What the export tells of itself, checked, and of outputs that are there."""
    told = provenance(model.meta)
    if told is None:
        raise ModelError(
            f"{model.label} does not explain itself: write one that does, `onnxcam export {model.label} -o OUT.onnx`, "
            "and give that"
        )
    named = [*told.get("maps", ()), (told.get("scores") or {}).get("output")]
    gone = set(named) - {v.name for v in model.outputs} - {None}
    damage = told.get("damaged") or ("no output " + ", ".join(sorted(gone)) if gone else "")
    if damage or not told["maps"]:
        raise ModelError(
            f"{model.label}: what its metadata say of the export is damaged ({damage or 'no maps'}): export it again"
        )
    return told


def _refuse_inputs(model: Model) -> None:
    ours = {model.image_input.name, _CLASS}
    more = [str(v.name) for v in model.inputs if v.name not in ours]
    if more:
        raise ModelError(
            f"{model.label} takes {', '.join(more)} beside the picture, which a page does not have: export it with "
            "what it stands for settled"
        )
    held = [v.const_value for v in model.graph.initializers.values()]
    files = {str(t.location) for t in held if isinstance(t, ir.ExternalTensor)}
    if files:
        raise ModelError(
            f"{model.label} keeps weights in {', '.join(sorted(files))}, and a page takes one file: export it without "
            "external data"
        )
