"""An ``.onnx`` file, opened: checked, brought to a known opset, its image input understood.

The order of the steps in :func:`load_model` matters: outputs that are no tensors go first (the IR does not hold
them), functions are inlined before conversion, and shapes are inferred last, on the opset that the rules know.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxcam import branches, integrity, lowering
from onnxcam.errors import ModelError, OutputError, reason
from onnxcam.files import together
from onnxcam.inference import check_lengths, free_negative_lengths
from onnxcam.integrity import first_line
from onnxcam.outputs import named_scores, reveal_scores
from onnxcam.shapes import Integers, infer_shapes

OPSET = 18  # the oldest opset that the gradient rules are written for
_RESIZE_IN_FULL = 11  # the first opset whose Resize says how it samples
_SCAN_WITHOUT_BATCH = 9
_PROTO_LIMIT = 2**31 - 1
_LARGEST_PICTURE = 2**26  # elements; of 4096 x 4096 pixels in colour they are 50 million
_LONGEST_SIDE = 2**15
_LARGEST_INPUT = 2**28  # of a batch; 1 GB of float32
Dim = int | str | None
Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True)
class ImageInput:
    """The graph input that takes the picture.

    Attributes:
        name: the input's name.
        layout: ``"NCHW"`` or ``"NHWC"``.
        batch, channels, height, width: an int, or None where the axis is free.
        dtype: ONNX element type, such as ``FLOAT``, ``FLOAT16`` or ``UINT8``.
        reason: how this is known.
    """

    name: str
    layout: Layout
    batch: int | None
    channels: int
    height: int | None
    width: int | None
    dtype: ir.DataType
    reason: str


@dataclass(frozen=True)
class Model:
    """A model that onnxcam can read and edit. Treat it as immutable: every edit returns a new one.

    Attributes:
        ir_model: the graph, at opset 18 or later, with shapes inferred.
        path: where it came from; None when it was made in memory.
        sha256: digest of the file's bytes (external data not included), or "".
        source_opset: the opset of the file.
        notes: what bringing it in changed, in words.
        meta: the file's ``metadata_props``, and the class names of a ZipMap as ``ZipMap.classlabels_strings``.
        weights: the files beside it that hold weights.
        as_read: it surely is what its files hold: nobody else had it, who might have edited it.
    """

    ir_model: ir.Model
    path: Path | None = None
    sha256: str = ""
    source_opset: int = OPSET
    notes: tuple[str, ...] = ()
    meta: dict[str, str] = field(default_factory=dict)
    weights: tuple[Path, ...] = ()
    as_read: bool = False

    @property
    def graph(self) -> ir.Graph:
        """The main graph."""
        return self.ir_model.graph

    @property
    def opset(self) -> int:
        """Version of the default operator domain."""
        return self.ir_model.opset_imports[""]

    @property
    def inputs(self) -> tuple[ir.Value, ...]:
        """Graph inputs that are no weights."""
        return tuple(v for v in self.graph.inputs if v.name not in self.graph.initializers)

    @property
    def unread_inputs(self) -> tuple[ir.Value, ...]:
        """Those of the inputs that no node reads, which some exporters leave behind; a runtime asks for them still."""
        return tuple(v for v in self.inputs if not v.uses() and not v.is_graph_output())

    @property
    def outputs(self) -> tuple[ir.Value, ...]:
        """Graph outputs, in file order."""
        return tuple(self.graph.outputs)

    @cached_property
    def values(self) -> dict[str, ir.Value]:
        """Every named value of the main graph."""
        return ir.convenience.create_value_mapping(self.graph, include_subgraphs=False)

    @cached_property
    def image_input(self) -> ImageInput:
        """The image input.

        Raises:
            ModelError: no input looks like an image; the message lists what there is.
        """
        idle = set(map(id, self.unread_inputs))
        found = [image for v in self.inputs if id(v) not in idle and (image := _as_image(v))]
        if found:
            return _sensible(self.label, found[0])
        seen = ", ".join(f"{v.name} {_type_text(v)}" for v in self.inputs) or "none"
        raise ModelError(
            f"{self.label}: no image input. Its inputs: {seen}. An image is a rank-4 tensor, NCHW or NHWC, with 1 or "
            "3 channels; give a model that takes one."
        )

    @property
    def label(self) -> str:
        """How messages call it."""
        return str(self.path) if self.path else "the model"

    def clone(self) -> Model:
        """A copy whose graph can be edited; weights are shared, not copied."""
        return replace(self, ir_model=self.ir_model.clone(), as_read=False)

    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(v.const_value.nbytes for v in self.graph.initializers.values() if v.const_value is not None)

    def save(self, path: str | Path, external_data: bool | None = None) -> Path:
        """Write the model, whole or not at all.

        Args:
            path: the file.
            external_data: put the weights into ``NAME.data`` beside it; None: where one file cannot hold them.

        Raises:
            OutputError: the file cannot be written there, or the model itself is read from it.
        """
        target, apart = Path(path), self.exceeds_one_file if external_data is None else external_data
        data = [place_of_weights(target)] if apart else []
        with self.writing(*data, target) as folder:
            self.write(folder / target.name, apart)
        return target

    @property
    def exceeds_one_file(self) -> bool:
        """Whether the weights are more than the 2 GB that an ``.onnx`` file can hold."""
        return self.nbytes() > _PROTO_LIMIT - 2**26

    @contextmanager
    def writing(self, *files: Path, gone: Sequence[Path] = ()) -> Iterator[Path]:
        """A folder to write files in, which appear in their places together once the context ends, or not at all.

        Args:
            files: the files.
            gone: others, which vanish as these appear.

        Raises:
            OutputError: they cannot be written there, or the model itself is read from one of them.
        """
        for file in (*files, *gone):
            if file.exists() and any(file.samefile(own) for own in self._own_files()):
                raise OutputError(f"{file} is the model's own file, which is never written to; choose another name")
        try:
            with together(*files, gone=gone) as folder:
                yield folder
        except OSError as error:
            raise OutputError(f"cannot write {files[-1]}: {reason(error)}; choose another folder") from error

    def write(self, file: Path, external_data: bool) -> None:
        """Serialise into a new file, with the weights inside or in ``NAME.data`` beside it.

        Raises:
            OSError: it cannot be written.
        """
        model = self.clone().ir_model
        if not external_data:
            _hold_all(model.graph)
            ir.external_data.load_to_model(model)
        ir.save(model, file, external_data=place_of_weights(file).name if external_data else None)

    def _own_files(self) -> set[Path]:
        """The files that it was read from and whose weights it still reads."""
        held = (v.const_value for v in self.graph.initializers.values())
        files = {Path(t.path) for t in held if isinstance(t, ir.ExternalTensor)} | ({self.path} if self.path else set())
        return {f for f in files if f.exists()}


def place_of_weights(file: Path) -> Path:
    """Where the weights of a model file lie when they are beside it."""
    return file.with_name(f"{file.name}.data")


def _hold_all(graph: ir.Graph) -> None:
    """Read weights of other files; onnx_ir closes each file behind them, which fails while a session looks into it."""
    for value in graph.initializers.values():
        held = value.const_value
        if isinstance(held, ir.ExternalTensor):
            value.const_value = ir.Tensor(held.numpy().copy(), dtype=held.dtype, name=held.name)


def load_model(path: str | Path | bytes) -> Model:
    """Open an ONNX image model; the file itself is only ever read.

    Args:
        path: the ``.onnx`` file, or its bytes. External data must lie in its folder (a hub cache's
            symbolic links are followed).

    Raises:
        ModelError: missing, damaged, no opset, unknown operators, or conversion to opset 18 failed.
    """
    file = Path("the model") if isinstance(path, bytes) else Path(path)
    data = path if isinstance(path, bytes) else integrity.read(file)
    proto = integrity.parse(file, data)
    lowering.set_aside(proto)
    source_opset = integrity.check_operators(file, proto)
    beside = integrity.locate_external_data(file, proto)
    integrity.check_weights(file, proto)
    meta = {p.key: p.value for p in proto.metadata_props}
    if names := named_scores(proto.graph):
        meta.setdefault("ZipMap.classlabels_strings", json.dumps(names))
    notes = reveal_scores(file, proto)
    model = _to_ir(file, proto, source_opset, notes)
    digest = hashlib.sha256(data).hexdigest()
    if not isinstance(data, bytes):
        data.close()
    place = None if isinstance(path, bytes) else file
    return Model(model, place, digest, source_opset, tuple(notes), meta, beside)


def _to_ir(file: Path, proto: onnx.ModelProto, opset: int, notes: list[str]) -> ir.Model:
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    notes += _overridable(proto)
    weights = integrity.take_weights(proto)
    if proto.functions:
        integrity.check_functions(file, proto)
    integrity.check_structure(file, proto)
    try:
        if proto.functions:
            proto = ir.to_proto(passes.InlinePass()(ir.from_proto(proto)).model)
            del proto.functions[:]  # those that nothing calls
            integrity.check_structure(file, proto)
        free_negative_lengths(proto.graph)
        check_lengths(proto)
        proto, taken = branches.take_known(proto)
        if taken:
            check_lengths(proto)
            notes.append(f"{taken} If replaced by the branch that it always takes")
        if opset < (target := lowering.least_opset(proto, OPSET)):
            proto = _convert(file, proto, opset, target)
            notes.append(f"converted from opset {opset} to {target}")
        notes += lowering.lower(proto, weights, file.resolve().parent)
        known, found = infer_shapes(file, proto)
        notes += found
        model = ir.from_proto(proto)
        _tell_integers(model.graph, known)
        integrity.give_back_weights(model.graph, weights)
        ir.external_data.set_base_dir(model.graph, file.resolve().parent)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        passes.RemoveInitializersFromInputsPass()(model)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{file} is not a valid ONNX graph: {first_line(error)}. Export it again") from error
    _name_nodes(model)
    integrity.check_sizes(file, model.graph)
    return model


def _overridable(proto: onnx.ModelProto) -> list[str]:
    """Inputs with a value of their own, which a caller might override (IR version 4): they become constants."""
    held = {t.name for t in proto.graph.initializer}
    named = [v.name for v in proto.graph.input if v.name in held]
    if proto.ir_version < 4 or not named:  # before, every weight had to be an input
        return []
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return [f"inputs with a default value are constants here: {', '.join(named[:3])}{more}"]


def _tell_integers(graph: ir.Graph, known: Integers) -> None:
    """Note at computed values what they are known to hold; their nodes stay."""
    for value in (v for node in graph for v in node.outputs if v.name in known):
        value.const_value = ir.tensor(known[str(value.name)])


def _name_nodes(model: ir.Model) -> None:
    """Give every node a name that stays the same through edits: its first output's."""
    for node in model.graph:
        if not node.name:
            node.name = node.outputs[0].name


def _convert(file: Path, proto: onnx.ModelProto, opset: int, target: int) -> onnx.ModelProto:
    if opset < _SCAN_WITHOUT_BATCH and any(node.op_type == "Scan" for node in integrity.all_nodes(proto)):
        raise ModelError(
            f"{file} (opset {opset}) holds a Scan over a batch, which later opsets lack; export it with opset {OPSET}"
        )
    try:
        converted = onnx.version_converter.convert_version(proto, target)
    except Exception as error:
        raise ModelError(
            f"{file} (opset {opset}) cannot be converted to opset {target}: {first_line(error)}. Export it with "
            f"opset {target} or later"
        ) from error
    if opset < _RESIZE_IN_FULL:
        _mend_resizes(proto.graph, converted.graph)
    return converted


def _mend_resizes(source: onnx.GraphProto, converted: onnx.GraphProto) -> None:
    """Upsample-9 and Resize-10 sample at x / scale; the converter forgets that, and the names of what it replaces."""
    old = [n for n in source.node if n.op_type in ("Upsample", "Resize")]
    new = [n for n in converted.node if n.op_type == "Resize"]
    for node in new:
        if not any(a.name == "coordinate_transformation_mode" for a in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(onnx.helper.make_attribute("nearest_mode", "floor"))
    if len(old) == len(new):
        _rename(converted, {b.output[0]: a.output[0] for a, b in zip(old, new, strict=True)})


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    del graph.value_info[:]
    for node in graph.node:
        for given in (node.input, node.output):
            given[:] = [names.get(name, name) for name in given]


def _type_text(value: ir.Value) -> str:
    dims = "?" if value.shape is None else "(" + ", ".join("?" if d is None else str(d) for d in dims_of(value)) + ")"
    return f"{value.dtype.name if value.dtype is not None else '?'} {dims}"


def dims_of(value: ir.Value) -> tuple[Dim, ...]:
    """The shape of ``value``: ints, names of symbolic axes, None; () for a scalar.

    Raises:
        ModelError: the rank is unknown.
    """
    if value.shape is None:
        raise ModelError(f"the rank of {value.name} is unknown; export the model with shape information")
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


_IMAGE_TYPES = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
_IMAGE_TYPES |= {ir.DataType.UINT8, ir.DataType.INT8}
# Operators between the input and the first convolution that leave the axes in place.
_PREPARATION = {
    "Cast",
    "DequantizeLinear",
    "QuantizeLinear",
    "Identity",
    "Sub",
    "Mul",
    "Add",
    "Div",
    "Pad",
    "Clip",
}
_PREPARATION |= {"BatchNormalization", "Relu", "Dropout"}


def _as_image(value: ir.Value) -> ImageInput | None:
    if value.dtype not in _IMAGE_TYPES or value.shape is None or len(value.shape) != 4:
        return None
    dims = [d if isinstance(d, int) and d > 0 else None for d in dims_of(value)]
    found = _layout_by_conv(value) or _layout_by_shape(dims)
    if found is None:
        return None
    layout, channels, reason = found
    n, c, h, w = dims if layout == "NCHW" else (dims[0], dims[3], dims[1], dims[2])
    assert value.name is not None
    assert value.dtype is not None
    return ImageInput(value.name, layout, n, c or channels, h, w, value.dtype, reason)


def _sensible(label: str, image: ImageInput) -> ImageInput:
    one = math.prod(d or 1 for d in (image.channels, image.height, image.width))
    fits = 0 < one <= _LARGEST_PICTURE and one * (image.batch or 1) <= _LARGEST_INPUT
    if not fits or max(image.height or 1, image.width or 1) > _LONGEST_SIDE:
        raise ModelError(
            f"{label}: its input {image.name} is {image.batch or 1} x {image.channels} x {image.height or 'any'} x "
            f"{image.width or 'any'}, which no picture fills; the file is damaged, export it again"
        )
    return image


def _layout_by_conv(value: ir.Value) -> tuple[Layout, int, str] | None:
    """Follow the input to its first convolution, whose weight tells the channels."""
    queue: list[tuple[ir.Value, Layout]] = [(value, "NCHW")]
    seen: set[int] = set()
    while queue:
        current, layout = queue.pop(0)
        for node in dict.fromkeys(current.consumers()):
            if id(node) in seen:
                continue
            seen.add(id(node))
            if node.op_type == "Conv" and node.inputs[0] is current and (weight := node.inputs[1]) is not None:
                group = node.attributes.get_int("group", 1)
                if weight.shape is None or len(weight.shape) < 2 or not isinstance(weight.shape[1], int):
                    continue
                channels = weight.shape[1] * group
                return (
                    layout,
                    channels,
                    f"feeds {node.op_type} {node.name}, whose weight takes {channels} channels",
                )
            perm = list(node.attributes.get_ints("perm", [])) if node.op_type == "Transpose" else []
            if perm == [0, 3, 1, 2]:
                queue.append((node.outputs[0], "NHWC"))
            elif node.op_type in _PREPARATION:
                queue.append((node.outputs[0], layout))
    return None


def _layout_by_shape(dims: list[int | None]) -> tuple[Layout, int, str] | None:
    options: list[tuple[Layout, int]] = [("NCHW", 1), ("NHWC", 3)]
    for layout, axis in options:
        channels = dims[axis]
        if channels in (1, 3):
            return layout, channels, f"rank 4 with {channels} channels on axis {axis}"
    return None
