"""Engine "training": the gradient builder of onnxruntime-training.

The path is copied, rewritten in operators that the builder differentiates correctly (:mod:`.buildable`), and given to
it. Of its answer only what the gradients need is carried over; every value that the model has is read from the model.
The result holds operators of ``com.microsoft``, so it runs where onnxruntime-training is installed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx
import onnx_ir as ir

from onnxcam.errors import GradientError
from onnxcam.gradients.buildable import LOWERINGS
from onnxcam.gradients.dead_ends import disconnected
from onnxcam.gradients.path_copy import Copy
from onnxcam.gradients.relu import POLICIES, Policy
from onnxcam.graph.paths import reads
from onnxcam.graph.symbolic import PREFIX, Tensor, Writer
from onnxcam.model import Model
from onnxcam.quiet import silent

MAX_OPSET, MAX_IR = 21, 10  # what onnxruntime-training 1.19.2, its last release, loads
# Kernels of training that the tests and the conformance suite run without a crash, whatever the shapes.
PROVEN = {"BroadcastGradientArgs", "ConvGrad", "DivGrad", "FusedMatMul", "GatherElementsGrad", "GatherGrad"}
PROVEN |= {"GatherNDGrad", "GeluGrad", "LayerNormalizationGrad", "LogSoftmaxGrad_13", "ReluGrad", "Scale"}
PROVEN |= {"SigmoidGrad", "SliceGrad", "SoftmaxGrad_13", "TanhGrad", "Trilu"}
_INSTEAD = "Use engine='portable', or a layer nearer to the output"
_INSTALL = "pip install 'onnxcam[training]' in an environment without another onnxruntime"


def why_not(path: Sequence[ir.Node], model: Model | None = None) -> str:
    """Why this engine cannot differentiate the path; empty where it can."""
    return _unavailable() or _too_new(path, model) or _refusals(Copy(path, (), _opset(path), LOWERINGS))


def is_proven(model: Model) -> bool:
    """Whether every kernel that this engine wrote into a model is one that is not known to crash."""
    return kernels(model) <= PROVEN


def kernels(model: Model) -> set[str]:
    """The operators in a model that only this engine writes."""
    own = (n for n in model.graph if (n.name or "").startswith(f"{PREFIX}training/"))
    return {n.op_type for n in own if n.domain or not onnx.defs.has(n.op_type, model.opset, "")}


def backward(
    model: Model,
    writer: Writer,
    path: Sequence[ir.Node],
    of: ir.Value,
    seed: Tensor,
    wrt: Sequence[ir.Value],
    policy: Policy,
    rectifiers: Collection[int] = (),
) -> list[Tensor]:
    """Write the vector-Jacobian product ``seed`` -> d(of . seed)/d(v) for each v of ``wrt`` by the gradient builder.

    Args:
        model: the model being edited; its graph is the writer's.
        writer: writes into the graph of all these.
        path: the nodes between ``wrt`` and ``of``, in graph order.
        of: the value that is differentiated.
        seed: its cotangent.
        wrt: with respect to what.
        policy: how a gradient passes a rectifier.
        rectifiers: ids of the nodes that the policy is for; others get the plain gradient.

    Raises:
        GradientError: the builder is not installed, an operator on the path is refused (all of them are named), or
            ``of`` does not depend on one of ``wrt``.
    """
    read = {id(v) for n in path for v in reads(n)}
    asked = [v for v in wrt if v is not of]
    if lost := [v for v in asked if id(v) not in read]:
        raise disconnected(of, lost)
    gated = () if policy is POLICIES["plain"] else rectifiers
    copy = Copy(path, wrt, writer.opset, LOWERINGS, gated)
    if problem := _unavailable() or _too_new(path, model) or _refusals(copy):
        raise GradientError(f"the training engine cannot do this: {problem}. {_INSTEAD}")
    found: dict[int, Tensor] = {id(of): seed}
    if asked:
        built = _build(copy, of, asked)
        importer = _Import(writer, built, copy, policy)
        importer.known[f"{copy.value(of).value.name}_grad"] = seed
        found.update((id(v), importer.gradient(v)) for v in asked)
    return [found[id(v)] for v in wrt]


# Can it?


def _unavailable() -> str:
    try:
        import onnxruntime
        from onnxruntime.capi import _pybind_state
    except ImportError as error:
        return f"onnxruntime-training is not installed ({error}); {_INSTALL}"
    if not hasattr(_pybind_state, "GradientGraphBuilder"):
        version = getattr(onnxruntime, "__version__", "")
        return f"the installed onnxruntime {version} is not the training build; {_INSTALL}"
    return ""


def _opset(path: Sequence[ir.Node]) -> int:
    graph = path[0].graph if path else None
    return graph.opset_imports.get("", MAX_OPSET) if graph is not None else MAX_OPSET


def _too_new(path: Sequence[ir.Node], model: Model | None) -> str:
    if (opset := _opset(path)) > MAX_OPSET:
        return f"the model is of opset {opset}, and onnxruntime-training 1.19.2 loads up to {MAX_OPSET}"
    if model is not None and (version := model.ir_model.ir_version) > MAX_IR:
        return f"the model is of IR version {version}, and onnxruntime-training 1.19.2 loads up to {MAX_IR}"
    return ""


def _refusals(copy: Copy) -> str:
    """All refusals, grouped by operator and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for node, reason in copy.refused:
        kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        groups.setdefault((f"{kind} (opset {copy.opset})", reason), []).append(str(node.name))
    return "; ".join(
        f"{kind}: {reason}; {len(names)} node{'s' * (len(names) > 1)}, such as {names[0]}"
        for (kind, reason), names in groups.items()
    )


# Building


def _build(copy: Copy, of: ir.Value, wrt: Sequence[ir.Value]) -> ir.Graph:
    """The copy with its gradient, as the builder gives it: that of ``v`` is called ``v_grad``."""
    from onnxruntime.capi._pybind_state import GradientGraphBuilder

    target = copy.value(of).value
    copy.graph.outputs.append(target)
    copy.separate()
    data = ir.to_proto(ir.Model(copy.graph, ir_version=MAX_IR)).SerializeToString()
    names = {copy.value(v).value.name for v in wrt}
    try:
        with silent():  # it logs, whatever the log level
            # Without a loss to start from, it leaves the cotangent of the target open: our seed.
            builder = GradientGraphBuilder(data, {target.name}, names, "")
            builder.build()
            built = builder.get_model()
    except RuntimeError as error:
        raise GradientError(f"ONNX Runtime's gradient builder failed: {_gist(error)}. {_INSTEAD}") from error
    proto = onnx.load_model_from_string(built)
    proto.graph.input.append(onnx.helper.make_empty_tensor_value_info(f"{target.name}_grad"))
    return ir.from_proto(proto).graph


def _gist(error: object) -> str:
    """The end of what native code says; it begins with file names and signatures."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"... {text[-300:]}"


class _Import:
    """Carries over what the gradients need from the builder's graph, and nothing else."""

    def __init__(self, writer: Writer, built: ir.Graph, copy: Copy, policy: Policy) -> None:
        self.writer, self.copy, self.policy = writer, copy, policy
        self.values = ir.convenience.create_value_mapping(built, include_subgraphs=False)
        self.known = {name: writer.tensor(v) for name, v in copy.origins.items()}
        self.gates = {f"{mark.value.name}_grad": str(slope.value.name) for mark, slope in copy.gates}

    def gradient(self, value: ir.Value) -> Tensor:
        """The cotangent of a value of the model, of its shape."""
        found = self.tensor(f"{self.copy.value(value).value.name}_grad")
        node = found.value.producer()
        if node is not None and (node.name or "").startswith(PREFIX) and value.shape is not None:
            found.value.shape = value.shape.copy()
        return found

    def tensor(self, name: str) -> Tensor:
        """The value called ``name`` in the builder's graph; its nodes are written without recursion."""
        stack = [name]
        while stack:
            if stack[-1] in self.known:
                stack.pop()
                continue
            missing = [n for n in self._needs(stack[-1]) if n not in self.known]
            stack.extend(missing)
            if not missing:
                self._write(stack.pop())
        return self.known[name]

    def _needs(self, name: str) -> list[str]:
        node = self.values[name].producer()
        if node is None:
            return []
        if gate := self._gate(node):
            return list(gate)
        return [str(v.name) for v in node.inputs if v is not None]

    def _gate(self, node: ir.Node) -> tuple[str, str] | None:
        """Of the gradient of a gated Relu: its cotangent, and the slope for the policy."""
        # Its other input is the Relu's output or its input, as the builder likes.
        dy = str(node.inputs[0].name) if node.op_type == "ReluGrad" and node.inputs[0] is not None else ""
        return (dy, self.gates[dy]) if dy in self.gates else None

    def _write(self, name: str) -> None:
        value = self.values[name]
        node = value.producer()
        if node is None:
            if value.const_value is None:
                raise GradientError(
                    f"the training engine cannot do this: its builder leaves out a part of the gradient ({name}), as "
                    f"it does where an operator's second output is differentiated. {_INSTEAD}"
                )
            self.known[name] = self.writer.constant(value.const_value.numpy())
            return
        for output, tensor in zip(node.outputs, self._written(node), strict=True):
            if output.name:
                self.known[output.name] = tensor

    def _written(self, node: ir.Node) -> tuple[Tensor, ...]:
        if gate := self._gate(node):
            return (self.policy(self.known[gate[0]], self.known[gate[1]]),)
        inputs = [None if v is None else self.known[str(v.name)] for v in node.inputs]
        if node.op_type == "Constant":
            return (self.writer.constant(node.attributes["value"].as_tensor().numpy()),)
        if node.op_type == "Identity" and inputs[0] is not None:
            return (inputs[0],)
        return self._appended(node, inputs)

    def _appended(self, node: ir.Node, inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        """The node itself, of whatever domain, with the types that the builder found."""
        graph = self.writer.graph
        for tensor in inputs:
            if tensor is not None:
                self.writer.hold(tensor)
        name = f"{PREFIX}training/{node.op_type}_{len(graph)}"
        outputs = [
            ir.Value(name=f"{name}:{k}" if v.name else "", type=v.type, shape=v.shape)
            for k, v in enumerate(node.outputs)
        ]
        operands = [None if t is None else t.value for t in inputs]
        attributes = list(node.attributes.values())
        graph.append(ir.Node(node.domain, node.op_type, operands, attributes, outputs=outputs, name=name))
        if node.domain:
            graph.opset_imports.setdefault(node.domain, 1)
        return tuple(self.writer.tensor(v) for v in outputs)
