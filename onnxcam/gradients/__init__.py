"""Adding d(score)/d(value) to a graph: the one door, :func:`add_gradients`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxcam.errors import GradientError, OptionError, UnknownNameError
from onnxcam.gradients import portable, training
from onnxcam.gradients.dead_ends import listed, steps_on_the_way
from onnxcam.gradients.expansion import expand, is_covered, stopping
from onnxcam.gradients.refusals import DO_NOT_FIT, doubtful_pools, refusal_error
from onnxcam.gradients.relu import POLICIES, policy
from onnxcam.gradients.rows import shortcut
from onnxcam.gradients.rules import working_type
from onnxcam.graph import symbolic as xp
from onnxcam.graph.activations import activation_sites, is_rectifier
from onnxcam.graph.inspect import find_logits
from onnxcam.graph.names import find_value
from onnxcam.graph.paths import first_float, float_path
from onnxcam.graph.symbolic import PREFIX, Tensor, Writer
from onnxcam.model import Model, dims_of

ENGINES = ("auto", "portable", "training")


@dataclass(frozen=True)
class Backward:
    """What one reverse walk wrote.

    Attributes:
        gradients: one cotangent per value asked for.
        engine: which engine wrote them.
        changed, sites: of how many activations on the path the ReLU policy changed how many.
        quantised: the path holds quantised convolutions, whose fusion in the runtime is broken by reading among them.
        stopped: steps (signs, roundings) that hold back the gradient of a part of the network; "" where there are none.
    """

    gradients: tuple[Tensor, ...]
    engine: str
    changed: int
    sites: int
    quantised: bool = False
    stopped: str = ""


def add_gradients(
    model: Model,
    of: str,
    wrt: str | Sequence[str],
    relu: str = "plain",
    engine: str = "auto",
    *,
    straight_through: bool = False,
) -> Model:
    """A new model that also computes vector-Jacobian products.

    For each value ``v`` of ``wrt`` it has an output ``onnxcam/grad/v`` of v's shape, the gradient of
    ``sum(onnxcam/seed * of)``, and one new input ``onnxcam/seed`` of the shape of ``of``. Everything else is as it was.
    Seed and gradients are float32 (double for doubles): in float16 they would overflow or vanish.

    Args:
        model: the model; it is not changed.
        of: the value to differentiate; the name of a value, node or module, or ``"logits"``.
        wrt: with respect to what; likewise, or ``"input"`` for the image (an integer image: its first float value).
        relu: ``"plain"``, ``"guided"`` or ``"deconvnet"``.
        engine: ``"portable"`` (standard operators), ``"training"`` (ONNX Runtime's gradient builder), or ``"auto"``:
            portable unless a rule is missing that the training engine has.
        straight_through: let the gradient pass signs, roundings and thresholds, whose derivative is 0, as binarised
            networks are trained (Hubara et al., 2016, section 2.3); portable engine only.

    Raises:
        UnknownNameError: no such value, policy or engine.
        GradientError: an operator on the path cannot be differentiated; all of them are named.
    """
    names = _checked(model, of, wrt, relu, engine)
    edited = model.clone()
    writer = Writer(edited.graph, edited.opset)
    target, *values = _all_named(edited, [of, *names])
    seed = writer.input(f"{PREFIX}seed", portable.element_type(target), dims_of(target))
    for value in values:
        portable.element_type(value)
    try:
        walk = backward(edited, writer, target, seed, values, relu, engine, straight_through)
    except (*DO_NOT_FIT, MemoryError) as error:
        raise GradientError(f"the values of {model.label} do not fit together: {error}. Export it again") from error
    for name, gradient in zip(names, walk.gradients, strict=True):
        writer.output(gradient, f"{PREFIX}grad/{name}")
    writer.sweep()
    note = f"gradient by engine {walk.engine}; ReLU policy {relu} changed {walk.changed} of {walk.sites} activations"
    return replace(edited, notes=(*model.notes, note))


def _checked(model: object, of: object, wrt: object, relu: object, engine: object) -> list[str]:
    """The names of ``wrt``, when the arguments are what they should be."""
    names = _names(wrt)
    if not isinstance(model, Model):
        raise OptionError(f"add_gradients takes a loaded model, not {model!r}; open it with load_model")
    if bad := [v for v in (of, relu, engine) if not isinstance(v, str)]:
        raise OptionError(f"of, relu and engine are names, not {bad[0]!r}")
    if taken := [n for n in (f"{PREFIX}seed", *(f"{PREFIX}grad/{n}" for n in names)) if n in model.values]:
        raise OptionError(
            f"{model.label} has values called {', '.join(taken)} already, as add_gradients names what it writes; start "
            "from the model without gradients"
        )
    return names


def _names(wrt: object) -> list[str]:
    names = [wrt] if isinstance(wrt, str) else list(wrt) if isinstance(wrt, Sequence) else []
    if not names or not all(isinstance(n, str) for n in names) or len(set(names)) != len(names):
        raise OptionError(f"wrt={wrt!r}: give the name of a value, or a list of different ones")
    return names


def _all_named(model: Model, names: Sequence[str]) -> list[ir.Value]:
    """The values of these names; one error for all that are missing."""
    found, missing = [], []
    for name in names:
        try:
            found.append(named_value(model, name))
        except UnknownNameError as error:
            missing.append(error)
    if missing:
        raise missing[0] if len(missing) == 1 else UnknownNameError("\n".join(map(str, missing)))
    return found


def backward(
    model: Model,
    writer: Writer,
    of: ir.Value,
    seed: Tensor,
    wrt: Sequence[ir.Value],
    relu: str = "plain",
    engine: str = "auto",
    straight_through: bool = False,
) -> Backward:
    """Write d(sum(seed * of))/d(v) for each v of ``wrt`` into the graph of ``writer``."""
    rule = policy(relu)
    if engine not in ENGINES:
        raise UnknownNameError.of("engine", engine, ENGINES)
    if straight_through and engine == "training":
        raise OptionError("straight_through is the portable engine's; leave engine at 'auto'")
    if doubtful := doubtful_pools(model.graph):
        raise refusal_error(doubtful)
    path = float_path(of, wrt, stopping(straight_through), straight_through)
    chosen = "portable" if straight_through else engine if engine != "auto" else _choose(model, path)
    rows = shortcut(path, of, wrt) if relu == "plain" else None  # policies count and treat the model's own nodes
    expansion = expand(writer, path, wrt, straight_through, rows) if chosen == "portable" else None
    nodes = path if expansion is None else expansion.sites
    sites = activation_sites(nodes)
    rectifiers = frozenset(id(n) for n in nodes if is_rectifier(n))
    changed = 0 if relu == "plain" else len(rectifiers)
    if relu != "plain" and not changed:
        warnings.warn(
            f"ReLU policy {relu!r} changed 0 of {len(sites)} activations: the path has no ReLU, so this is the plain "
            "gradient (networks of SiLU, GELU or hard-swish are so)",
            stacklevel=3,
        )
    if expansion is not None:
        grads = portable.backward(expansion, of, xp.astype(seed, working_type(of.dtype)), wrt, rule, rectifiers)
    else:
        grads = training.backward(model, writer, path, of, seed, wrt, rule, rectifiers)
    quantised = {"QuantizeLinear", "Conv"} <= {n.op_type for n in path}
    stopped = "" if straight_through else listed(steps_on_the_way(of, wrt))
    return Backward(tuple(grads), chosen, changed, len(sites), quantised, stopped)


def _choose(model: Model, path: Sequence[ir.Node]) -> str:
    missing = not all(is_covered(n, model.opset) for n in path)
    return "training" if missing and not training.why_not(path, model) else "portable"


def is_differentiable(model: Model, of: ir.Value, wrt: ir.Value) -> bool:
    """Whether an engine has every operator between two values; a rule may still refuse one of its attributes."""
    path = float_path(of, [wrt], stopping(False))
    covered = all(is_covered(n, model.opset) for n in path) or not training.why_not(path, model)
    return bool(path) and covered and not doubtful_pools(model.graph)


def named_value(model: Model, name: str) -> ir.Value:
    """A value by name, or by its role, ``logits`` or ``input``; of an integer image, its first float value."""
    try:
        value = find_value(model, name)
    except UnknownNameError:
        roles = {"logits": lambda: find_logits(model).name, "input": lambda: model.image_input.name}
        if name not in roles:
            raise
        value = model.values[roles[name]()]
    return first_float(value) if value.is_graph_input() else value


__all__ = [
    "ENGINES",
    "POLICIES",
    "Backward",
    "GradientError",
    "add_gradients",
    "backward",
    "is_differentiable",
    "named_value",
]
