"""One self-contained explainable model: what, and why, in a single ordinary run of any runtime."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxcam import __version__
from onnxcam.errors import GradientError, OptionError
from onnxcam.explainer import Explainer
from onnxcam.export.boxes import boxes
from onnxcam.export.delivery import check_places, deliver, with_half_weights
from onnxcam.export.finish import finish
from onnxcam.export.opsets import at_opset, at_own_opset
from onnxcam.export.pictures import Frame, check, colours_of, overlaid, shown_in
from onnxcam.export.provenance import MARK, provenance
from onnxcam.export.writing import Exhibit, Shown, free
from onnxcam.graph.inspect import Logits
from onnxcam.graph.symbolic import PREFIX, Tensor
from onnxcam.model import Model
from onnxcam.runtime import doubting
from onnxcam.targets import CLASS, TOP1, ClassTarget, Target

__all__ = ["MARK", "Exported", "Form", "explainable", "export"]


@dataclass(frozen=True)
class Form:
    """What an exported model takes and gives beside what it always did.

    Attributes:
        fixed_class: an index or a label that is explained whatever the picture; None: an input ``onnxcam/class``.
        top1: explain the top class; no input.
        raw: give the signed map at feature size as ``cam``, too.
        boxes: give the box round the largest component above 15 % of each heatmap's maximum as ``boxes``, too.
        class_index: give the explained class, too.
        size: (H, W) of the heatmaps, 65,535 a side and 179 megapixels at most; None: the model's input.
        picture: ``"any"`` or (H, W), at most as large: take an RGB picture (N, H, W, 3) uint8 in place of the image
            tensor; resizing and normalisation are inside, and heatmaps lie on the picture.
        overlay: give each heatmap over the picture as ``overlay``, too.
        colormap: of the overlay; None: jet, of signed maps diverging.
        blend: the share of the colours in the overlay.
        opset: of the file; None: the source's, 18 at least (17 of an older one that computes in float16).
        fp16: store weights as float16; what is computed stays float32.
        external_data: weights in a second file, ``NAME.onnx.data``; needed above 2 GB.
        ort: the ORT format, too, ``NAME.ort``, and ``NAME.required_operators.config`` for a reduced build.
    """

    fixed_class: int | str | None = None
    top1: bool = False
    raw: bool = False
    boxes: bool = False
    class_index: bool = True
    size: tuple[int, int] | None = None
    picture: str | tuple[int, int] | None = None
    overlay: bool = False
    colormap: str | None = None
    blend: float = 0.5
    opset: int | None = None
    fp16: bool = False
    external_data: bool = False
    ort: bool = False

    def __post_init__(self) -> None:
        if self.top1 and self.fixed_class is not None:
            raise OptionError(f"top1 and fixed_class={self.fixed_class!r} both say which class: give one of them")
        check(self.picture, self.overlay, self.colormap, self.blend, self.size)


@dataclass(frozen=True)
class Exported:
    """An explainable model.

    Attributes:
        model: the model; :meth:`onnxcam.Model.save` writes it.
        record: what stands in its metadata: source, maps by output, target, preprocessing, labels' number, versions.
        files: what was written, the model last.
        removed: files of an earlier export under the same name, which would not fit this one, and are gone.
    """

    model: Model
    record: dict[str, Any]
    files: tuple[Path, ...] = ()
    removed: tuple[Path, ...] = ()


def explainable(explainers: Sequence[Explainer], target: Any = None, form: Form | None = None) -> Exported:
    """The model of ``explainers`` with their maps as further outputs.

    Inputs and outputs of the model stay as they are, in name, order and value; but the image's input, where
    ``form.picture`` puts ``image`` (N, H, W, 3) uint8 RGB in its place. New are: the input ``onnxcam/class``
    (N,) int64, -1 for the top class, unless the class is settled; the outputs ``heatmap`` (N, H, W) float32 in [0, 1]
    (of several methods or layers ``heatmap_METHOD_LAYER``), ``cam`` (N, h, w), ``boxes`` (N, 4) float32, x0, y0, x1, y1
    in pixels of the heatmap, ``overlay`` (N, H, W, 3) uint8 RGB, and ``class_index`` (N,) int64.

    Args:
        explainers: one per method, all of one output of one model; gradients are written by the portable engine.
        target: the score, as :meth:`onnxcam.Explainer.explain` takes it; a class that it names is settled.
        form: what is taken and given.

    Raises:
        OptionError: a method of many runs; a method or a layer given twice; explainers of several models or outputs, or
            of the training engine; a target that looks at the image; an explainable model.
        GradientError: no gradient.
    """
    _check_explainers(explainers)
    with doubting(explainers[0].model):
        return _written(explainers, target, form or Form())


def _written(explainers: Sequence[Explainer], target: Any, form: Form) -> Exported:
    first = explainers[0]
    chosen, settled = _chosen(first, target, form)
    layers = [layer.value for e in explainers for layer in e.layers]
    exhibit = Exhibit(first, chosen, settled, layers, form.size)
    frame = Frame(exhibit.model, exhibit.writer, first, form.picture) if form.picture else None
    shown = [_placed(one, frame) for e in explainers for one in _show(exhibit, e, _chosen(e, target, form)[0])]
    given = {_give(exhibit, name, one, form, frame, first): one for name, one in zip(_names(shown), shown, strict=True)}
    index = exhibit.class_index() if form.class_index else None
    if index is not None:
        exhibit.give(index, free("class_index", exhibit.model))
    if frame is not None:
        frame.close()
    finish(exhibit.model, exhibit.writer)
    model = at_own_opset(exhibit.model) if form.opset is None else at_opset(exhibit.model, form.opset)
    model = with_half_weights(model) if form.fp16 else model
    record = _record(first, given, chosen, settled, frame)
    return Exported(_marked(model, record, first), record)


def _show(exhibit: Exhibit, explainer: Explainer, target: Target) -> list[Shown]:
    try:
        return exhibit.show(explainer, target)
    except GradientError as error:
        raise GradientError(
            f"{error}\nThe training engine does not help here, since an export holds standard operators only; a layer "
            "nearer to the output may, or a method without gradients, such as eigencam"
        ) from error


def _placed(shown: Shown, frame: Frame | None) -> Shown:
    """The map where its heatmap is given."""
    return shown if frame is None else replace(shown, heatmap=frame.on_picture(shown.heatmap, _is_signed(shown)))


def _is_signed(shown: Shown) -> bool:
    return shown.normalize == "none"


def _give(exhibit: Exhibit, name: str, shown: Shown, form: Form, frame: Frame | None, explainer: Explainer) -> str:
    """The outputs of one map, called alike; the name of its heatmap."""

    def overlay() -> Tensor:
        picture = frame.picture if frame else shown_in(exhibit.model, exhibit.writer, explainer)
        return overlaid(picture, shown.heatmap, colours_of(form.colormap, _is_signed(shown)), form.blend)

    others: dict[str, Callable[[], Tensor]] = {
        "cam": lambda: shown.cam,
        "boxes": lambda: boxes(shown.heatmap),
        "overlay": overlay,
    }
    given = free(name, exhibit.model)
    exhibit.give(shown.heatmap, given)
    for kind, wanted in (("cam", form.raw), ("boxes", form.boxes), ("overlay", form.overlay)):
        if wanted:
            exhibit.give(others[kind](), free(given.replace("heatmap", kind, 1), exhibit.model))
    return given


def export(
    explainers: Sequence[Explainer], path: str | Path, target: Any = None, form: Form | None = None, force: bool = False
) -> Exported:
    """Write :func:`explainable` to a file, and what else ``form`` asks for beside it: all, or nothing.

    Args:
        explainers: as there.
        path: ``NAME.onnx``.
        target: as there.
        form: as there; it says which files are written.
        force: replace what is there; what an earlier export wrote under this name and this one does not is removed.

    Raises:
        OptionError: a file is there already, or one of an earlier export, and ``force`` is not given; a folder is
            there; more than 2 GB for one file; and as :func:`explainable`.
        OutputError: it cannot be written.
    """
    form, where = form or Form(), Path(path)
    check_places(where, form.external_data, form.ort, force)
    found = explainable(explainers, target, form)
    files, removed = deliver(found.model, where, form.external_data, form.ort)
    return replace(found, files=tuple(files), removed=tuple(removed))


def _check_explainers(explainers: Sequence[Explainer]) -> None:
    """Refuse what is not of one output of one source model, each method once, or not written in standard operators."""
    if not explainers:
        raise OptionError("no explainer is given, so that there is nothing to export: give one per method")
    first = explainers[0]
    _refuse_exported(first.model)
    _refuse_twice([e.method.name for e in explainers])
    for explainer in explainers:
        _refuse_alike(explainer)
    for other in explainers[1:]:
        _refuse_apart(first, other)
    if any(e.programs.engine == "training" for e in explainers):
        raise OptionError(
            "engine='training' writes operators that only ONNX Runtime has, and an exported file runs anywhere: make "
            "the Explainer with engine='auto' or 'portable'"
        )


def _refuse_exported(model: Model) -> None:
    if (told := provenance(model.meta)) is None and f"{PREFIX}{CLASS}" not in model.values:
        return
    what = "its metadata say so"
    if told is None:
        what = f"it has an input {PREFIX}{CLASS}"
    elif "damaged" not in told:
        what = f"{', '.join(m['method'] for m in told['maps'].values())} of {told['source']['name']}"
    raise OptionError(f"{model.label} is an exported explainable model already ({what}): export its source again")


def _refuse_twice(methods: Sequence[str]) -> None:
    again = next((m for k, m in enumerate(methods) if m in methods[:k]), None)
    if again is not None:
        raise OptionError(f"{again} is given twice: give each method once, with all its layers")


def _refuse_alike(explainer: Explainer) -> None:
    """One map twice; where maps are joined, each may count as often as it is given."""
    spelt: dict[str, str] = {}
    for layer in () if explainer.shaping.fuse else explainer.layers:
        if layer.value in spelt:
            names = " and ".join(map(repr, dict.fromkeys([spelt[layer.value], layer.name])))
            raise OptionError(f"layer {names} is given twice (it is the value {layer.value!r}): give each layer once")
        spelt[layer.value] = layer.name


def _refuse_apart(first: Explainer, other: Explainer) -> None:
    a, b = first.model, other.model
    if a is not b and a.ir_model is not b.ir_model and (not a.sha256 or a.sha256 != b.sha256):
        what, (one, two) = "model", (a.label, b.label)
    elif (first.logits.name, first.element) != (other.logits.name, other.element):
        what, (one, two) = "output", map(_asked, (first, other))
    else:
        return
    raise OptionError(
        f"{first.method.name} explains {one} and {other.method.name} {two}, and an export is of one {what}: write one "
        "file each"
    )


def _asked(explainer: Explainer) -> str:
    element = "" if explainer.element is None else f", element {explainer.element}"
    return f"{explainer.logits.name!r}{element}"


def _chosen(explainer: Explainer, target: Any, form: Form) -> tuple[Target, dict[str, int]]:
    """The target, and the classes that are written into the graph, by the input that they replace."""
    if form.fixed_class is not None and target is not None:
        raise OptionError(
            f"fixed_class={form.fixed_class!r} and target={target!r} both say what is explained: give one"
        )
    chosen = explainer.check_target(form.fixed_class if target is None else target)
    if form.fixed_class is not None and TOP1 in chosen.classes:
        raise OptionError(f"fixed_class={form.fixed_class!r} is the top class, whichever it is: say top1 (--top1)")
    if chosen.looks:
        asked = "the default target of this model" if target is None else f"the target {target!r}"
        raise OptionError(
            f"{asked} is decided by looking at each image before it is explained, and an exported model has one run: "
            f"{_expressible(explainer.logits)}"
        )
    if form.top1 and any(c != TOP1 for c in chosen.classes):
        raise OptionError(f"top1 and target={target!r} both say which class: give one of them")
    names = ["class", *(f"class_{k + 1}" for k in range(1, len(chosen.classes)))]
    settled = {n: c for n, c in zip(names, chosen.classes, strict=False) if c != TOP1 or form.top1}
    return chosen, settled if isinstance(chosen, ClassTarget) else {}


def _expressible(logits: Logits) -> str:
    """What can be asked instead of a target that looks at the image."""
    if logits.kind == "boxes" and logits.detector is not None:
        at = ":, " * (logits.class_axis or 1)
        first = f"{logits.detector.first} + " if logits.detector.first else ""
        best = f"Custom(lambda xp, out: xp.max(out[{logits.name!r}][{at}{first}CLASS], axis=1))"
        return f"in Python, give the best score of a class, {best}, or another expression"
    if logits.kind == "tokens":
        return "give an element of the output, element:STEP,WORD, or in Python an expression, Custom"
    return "give a class, or a score of classes (probability:CLASS, margin:A,B)"


def _names(shown: Sequence[Shown]) -> list[str]:
    """``heatmap``; of several methods ``heatmap_METHOD``; of several layers of one ``heatmap_METHOD_LAYER``."""
    if len(shown) == 1:
        return ["heatmap"]
    methods = [one.method.name for one in shown]
    layers = [re.sub(r"[^A-Za-z0-9]+", "_", one.layer).strip("_") for one in shown]
    found: list[str] = []
    for method, layer in zip(methods, layers, strict=True):
        name = f"heatmap_{method}_{layer}" if methods.count(method) > 1 else f"heatmap_{method}"
        found.append(name if name not in found else f"{name}_{len(found) + 1}")
    return found


def _record(
    first: Explainer,
    maps: Mapping[str, Shown],
    target: Target,
    settled: Mapping[str, int],
    frame: Frame | None,
) -> dict[str, Any]:
    described = {
        name: {"method": one.method.name, "layer": one.layer, "normalize": one.normalize}
        | ({"target": _words(one.target)} if one.target.key != target.key else {})
        for name, one in maps.items()
    }
    return {
        "version": 1,
        "onnxcam": __version__,
        "source": {"name": first.model.path.name if first.model.path else "", "sha256": first.model.sha256},
        "maps": described,
        "target": _words(target),
        "classes": {f"{PREFIX}{n}": c for n, c in settled.items()} if settled else None,
        "input": first.model.image_input.name,
        "logits": first.logits.name,
        "scores": {
            "output": first.logits.output if first.logits.kind == "classes" else None,
            "classes": first.logits.classes,
        },
        "preprocess": first.preprocess.to_dict(),
        "picture": None,
    } | ({} if frame is None else frame.record)


def _words(target: Target) -> str:
    return target.describe([f"class {c}" if c != TOP1 else "the class" for c in target.classes])


def _marked(model: Model, record: dict[str, Any], explainer: Explainer) -> Model:
    """With its record, preprocessing and class names in the metadata."""
    meta = {**model.meta, MARK: json.dumps(record), f"{PREFIX}preprocess": json.dumps(record["preprocess"])}
    if explainer.labels is not None:
        meta[f"{PREFIX}labels"] = json.dumps(list(explainer.labels[: explainer.logits.classes]))
    own = {k: v for k, v in meta.items() if k.startswith(PREFIX)}
    model.ir_model.metadata_props.update(own)
    return replace(model, meta=meta)
