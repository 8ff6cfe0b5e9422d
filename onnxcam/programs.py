"""Sessions that answer one question each: a prediction, maps and gradients, or the head's answer to edited features."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from threading import RLock

import numpy as np
import onnx_ir as ir

from onnxcam.cache import Draft, Shelf
from onnxcam.errors import GradientError, ModelError, OptionError
from onnxcam.gradients import Backward, backward
from onnxcam.gradients.training import is_proven
from onnxcam.graph import symbolic as xp
from onnxcam.graph.attention import Attention, find_attention, write_block_scores, written_out
from onnxcam.graph.inspect import Logits
from onnxcam.graph.paths import FLOATS, first_float, float_path
from onnxcam.graph.surgery import TURNED, expose, make_batch_dynamic, splice, turn
from onnxcam.graph.symbolic import PREFIX, Tensor, Writer
from onnxcam.isolation import Worker, tell_of_forks
from onnxcam.model import Model
from onnxcam.runtime import Array, Packed, Session, doubting, packed
from onnxcam.targets import CLASS, ClassTarget, Custom, Scene, Target

_MOST = 12
FEATURES, PIXELS = f"{PREFIX}features", f"{PREFIX}image"


@dataclass(frozen=True)
class Plan:
    """What a run is to tell beside score, class and logits.

    Attributes:
        read: values to read; answered as ``A/name``.
        wrt: values to differentiate the score at; answered as ``G/name``.
        curved: those of ``wrt`` where the score's Hessian times the value itself is wanted; ``H/name``.
        relu: ReLU policy of the gradient at the image, answered as ``pixels``; None for no such gradient.
        start: a value that the input ``onnxcam/features`` stands for; "" for none.
        attention: ``"maps"`` for the attention maps, ``P/0`` and up, and ``P/pool``; ``"gradients"`` for the gradients
            of the blocks' own scores there as well, ``D/0`` and up.
    """

    read: tuple[str, ...] = ()
    wrt: tuple[str, ...] = ()
    curved: tuple[str, ...] = ()
    relu: str | None = None
    start: str = ""
    attention: str = ""

    def answers(self, other: Plan) -> bool:
        """Whether a run of this plan tells all that ``other`` asks, and costs hardly more.

        A session holds its own copies of the weights: one that also reads a layer stands in for one that does not.
        """
        return set(other.read) <= set(self.read) and replace(self, read=()) == replace(other, read=())


@dataclass(frozen=True)
class Program:
    """A session and the names of what it answers."""

    session: Session
    outputs: dict[str, str]
    walk: Backward | None = None
    untouched: Program | None = None

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, Array]:
        """The answers by name; gradients that are equal along an axis come with length 1 there.

        Those ``wanted`` at least; () for all.
        """
        if self.untouched is None:
            asked = {k: v for k, v in self.outputs.items() if not wanted or k in wanted}
            return dict(zip(asked, self.session.run(feeds, list(asked.values())), strict=True))
        answer = self.untouched.run(feeds)  # where reading inner values would change the model's own answer
        own = {f"{PREFIX}{CLASS}": answer["class_index"]} if f"{PREFIX}{CLASS}" in feeds else {}
        inner = replace(self, untouched=None).run({**feeds, **own})
        return inner | answer


class Programs:
    """The programs of one model, built when they are first asked for.

    Args:
        model: the model.
        logits: where its scores are.
        new_session: makes a session of a model.
        engine: ``"auto"``, ``"portable"`` or ``"training"``.
        straight_through: let gradients pass steps.
        identity: a hash of the model, by which its graphs are kept on disk; "" for none.

    Attributes:
        built: those there are, by kind of target and plan.
    """

    def __init__(
        self,
        model: Model,
        logits: Logits,
        new_session: Callable[..., Session],
        engine: str = "auto",
        straight_through: bool = False,
        identity: str = "",
    ) -> None:
        self.model, self.logits, self._new_session = model, logits, new_session
        self._identity = identity
        self._shelf = Shelf(model, identity, repr(logits), engine, straight_through)
        self.engine, self.straight_through = engine, straight_through
        self.built: dict[tuple[Hashable, Plan], Program] = {}
        self._peeks: dict[tuple[str, ...], Session] = {}
        self._building = RLock()  # building one program may ask for another
        tell_of_forks(self)

    def forked(self) -> None:
        """A process that is forked off has none of the threads that may have been building."""
        self._building = RLock()

    @cached_property
    def free(self) -> Programs:
        """The same for many inputs at a time: a free batch axis where the graph allows it, and a float image.

        An integer image is replaced by the float value that it becomes, ``onnxcam/image``.
        """
        try:
            model = make_batch_dynamic(self.model)
        except OptionError:
            model = self.model
        image = model.values[self.model.image_input.name]
        if (pixels := first_float(image)) is not image:
            model = splice(model, str(pixels.name), PIXELS)
        if model is self.model:
            return self
        identity = self._identity and f"{self._identity} free"
        return Programs(model, self.logits, self._new_session, self.engine, self.straight_through, identity)

    @property
    def many(self) -> Programs:
        """:attr:`free`, where that takes the image as the model does; else these."""
        return self if PIXELS in self.free.model.values else self.free

    @cached_property
    def quantised(self) -> bool:
        """Whether reading an inner value may change what the model answers."""
        return any(n.op_type == "QuantizeLinear" for n in self.model.graph)

    @property
    def on_processor(self) -> bool:
        """Whether the programs built so far run on the processor, and nowhere faster."""
        return all(p.session.providers[:1] == ["CPUExecutionProvider"] for p in [*self.built.values()])

    @property
    def last_walk(self) -> Backward | None:
        """The reverse walk of the program built last that has one."""
        return next((p.walk for p in reversed([*self.built.values()]) if p.walk is not None), None)

    def peek(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Values of the model by name, from a plain run."""
        key = tuple(names)
        with self._building:
            if key not in self._peeks:
                self._peeks[key] = self._new_session(expose(self.model, key))
        return self._peeks[key].run(feeds, key)

    def get(self, target: Target, plan: Plan, feeds: Callable[[], Mapping[str, Array]]) -> Program:
        """The program of a kind of target and a plan; ``feeds`` is what it will run on first.

        Raises:
            GradientError: the path cannot be differentiated.
            ModelError: the runtime refuses the graph.
        """
        with self._building:  # of threads that ask at once, the first builds
            return self._known(target, plan) or self._keep(target, plan, feeds)

    def _known(self, target: Target, plan: Plan) -> Program | None:
        if (program := self.built.get((target.key, plan))) is not None or self.quantised:
            return program
        fitting = (p for (kind, other), p in self.built.items() if kind == target.key and other.answers(plan))
        return next(fitting, None)

    def _keep(self, target: Target, plan: Plan, feeds: Callable[[], Mapping[str, Array]]) -> Program:
        program = self._build(target, plan, feeds)
        while len(self.built) >= _MOST:  # each holds its own copy of the weights
            del self.built[next(iter(self.built))]
        self.built[target.key, plan] = program
        return program

    def run(
        self, x: Array, target: Target, others: Mapping[str, Array], plan: Plan
    ) -> tuple[dict[str, Array], Program]:
        """The answers for any number of samples; a fixed batch axis is filled up, and the filling dropped."""
        fixed = self.model.image_input.batch
        size = len(x) if fixed is None else fixed
        rest = repeated(others, len(x))
        padded = _filled(x, -len(x) % size)
        rest = {n: _filled(a, len(padded) - len(a)) for n, a in rest.items()}
        parts = [
            {self.model.image_input.name: padded[k : k + size], **target.feeds(size)}
            | {n: a[k : k + size] for n, a in rest.items()}
            for k in range(0, len(padded), size)
        ]
        program = self.get(target, plan, lambda: parts[0])
        found = [program.run(part) for part in parts]
        whole = [{k: np.repeat(a, size, axis=0) if len(a) == 1 < size else a for k, a in f.items()} for f in found]
        joined = whole[0] if len(whole) == 1 else {k: np.concatenate([f[k] for f in whole]) for k in whole[0]}
        return {k: a[: len(x)] for k, a in joined.items()}, program

    def _build(self, target: Target, plan: Plan, feeds: Callable[[], Mapping[str, Array]]) -> Program:
        draft = self._shelf.recall(target.key, repr(plan)) or self._drafted(target, plan)
        session = self._opened(draft.packed, feeds, draft.risky)
        quantised = draft.walk is not None and draft.walk.quantised
        untouched = self.get(target, Plan(start=plan.start), feeds) if quantised else None
        return Program(session, draft.outputs, draft.walk, untouched)

    def _drafted(self, target: Target, plan: Plan) -> Draft:
        """The graph of a program."""
        names = dict.fromkeys((*plan.read, *plan.wrt, plan.start))
        edited = turn(self.model, [n for n in names if n.startswith(TURNED)])
        edited = splice(edited, plan.start, FEATURES) if plan.start else edited
        edited = written_out(edited) if plan.attention else edited
        writer = Writer(edited.graph, edited.opset)
        with nullcontext() if isinstance(target, Custom) else doubting(self.model):  # whose own error is told
            named, walk = self._write(edited, writer, target, plan)
        outputs, graph = self._expose(edited, writer, named), packed(edited)
        held, former = edited.graph.initializers, self.model.graph.initializers
        own = {n for n in graph.weights if n not in former or held[n].const_value is not former[n].const_value}
        draft = Draft(graph, frozenset(own), outputs, walk, walk is not None and not is_proven(edited))
        if walk is None or walk.changed or plan.relu in (None, "plain"):  # else there is a warning to be told each time
            self._shelf.keep(draft, target.key, repr(plan))
        return draft

    def _opened(self, edited: Packed, feeds: Callable[[], Mapping[str, Array]], risky: bool) -> Session:
        """The session of a program; of kernels that may crash in a process of its own, where it runs once at least.

        Raises:
            GradientError: it crashed, or failed.
        """
        if not risky:
            return self._new_session(edited)
        try:
            session = self._new_session(edited, worker=Worker())
            session.run(feeds())
        except ModelError as error:
            raise GradientError(
                f"the gradient by the training engine failed: {error}. Use engine='portable', or a layer nearer to "
                "the output"
            ) from error
        return session

    def _write(
        self, edited: Model, writer: Writer, target: Target, plan: Plan
    ) -> tuple[dict[str, Tensor], Backward | None]:
        """Score head, gradients and what is read, by name."""
        scene, walk = Scene(writer, edited.values[self.logits.name], self.logits), None
        head = target.write(scene)
        named = head.answers
        if plan.wrt or plan.relu:
            go = self.walk(edited, writer, head.score, scene.read)
        if plan.wrt:
            walk = go([edited.values[n] for n in plan.wrt])
            gradients = dict(zip(plan.wrt, walk.gradients, strict=True))
            named |= {f"G/{n}": g.small for n, g in gradients.items()}
            named |= {f"H/{n}": curvature(edited, writer, gradients[n], n) for n in plan.curved}
        if plan.relu is not None:
            walk = go([self.pixels(edited)], relu=plan.relu)
            named["pixels"] = walk.gradients[0]
        named |= {f"A/{n}": writer.tensor(edited.values[n]) for n in plan.read}
        return named | self._attention(edited, writer, target, plan), walk

    def _attention(self, edited: Model, writer: Writer, target: Target, plan: Plan) -> dict[str, Tensor]:
        """Attention maps, and the gradients of the blocks' scores there."""
        if not plan.attention:
            return {}
        if not isinstance(target, ClassTarget):
            raise OptionError(
                "attention methods explain the score of a class, which they ask of every block; take a class, or a "
                "method that looks at the image or a layer"
            )
        found = self.attention
        named = {f"P/{k}": writer.tensor(edited.values[n]) for k, n in enumerate(found.maps)}
        named |= {"P/pool": writer.tensor(edited.values[found.pool])} if found.pool else {}
        if plan.attention == "gradients":
            for k, (of, at) in enumerate(write_block_scores(edited, writer, found, self.logits.name)):
                scene = Scene(writer, of, self.logits)
                go = self.walk(edited, writer, target.write(scene).score, scene.read)
                named[f"D/{k}"] = go([at]).gradients[0]
        return named

    @cached_property
    def attention(self) -> Attention:
        """Where the attention maps are.

        Raises:
            OptionError: there are none that cover the picture.
        """
        found = find_attention(written_out(self.model), self.logits)
        if isinstance(found, str):
            raise OptionError(f"the attention of {self.model.label} cannot be read: {found}")
        return found

    def walk(self, edited: Model, writer: Writer, score: Tensor, roots: Sequence[ir.Value]) -> Callable[..., Backward]:
        """The walk from a score on: the head by standard operators, and from the one value that it reads by the engine.

        A score that reads several values is one walk, by standard operators throughout.
        """
        ones, through = xp.ones_like(score), self.straight_through
        if [score.value] == list(roots):
            return partial(backward, edited, writer, score.value, ones, engine=self.engine, straight_through=through)
        if not roots or not float_path(score.value, roots):
            raise OptionError("the score does not depend on any value of the model, so nothing explains it")
        if len(roots) > 1:
            return partial(backward, edited, writer, score.value, ones, engine="portable", straight_through=through)
        seed = backward(edited, writer, score.value, ones, roots, engine="portable").gradients[0]
        return partial(backward, edited, writer, roots[0], seed, engine=self.engine, straight_through=through)

    def pixels(self, edited: Model) -> ir.Value:
        """The value that pixel methods differentiate at, in a copy of the model."""
        image = edited.values[PIXELS] if PIXELS in edited.values else edited.values[self.model.image_input.name]
        return first_float(image)

    def _expose(self, edited: Model, writer: Writer, named: Mapping[str, Tensor]) -> dict[str, str]:
        """Make tensors outputs; the names of what they became, with the model's own probabilities."""
        outputs = {name: _expose(writer, tensor, name) for name, tensor in named.items()}
        writer.sweep()
        own = edited.values[self.logits.output]
        ends_in = {"Softmax", "Sigmoid"} & set(self.logits.stepped_over)
        if ends_in and self.logits.kind == "classes" and own.dtype in FLOATS:
            return {**outputs, "probabilities": self.logits.output}
        return {**outputs, "own": self.logits.output} if self.logits.rounded else outputs


def curvature(edited: Model, writer: Writer, gradient: Tensor, name: str) -> Tensor:
    """The Hessian of the score at a value, times that value: the gradient of ``sum(G * A)`` with A held."""
    value = edited.values[name]
    held, slope = writer.tensor(value), gradient.value
    if not float_path(slope, [value]):
        return xp.zeros_like(held, gradient.dtype)
    walk = backward(edited, writer, slope, held, [value], engine="portable")
    return walk.gradients[0]


def _expose(writer: Writer, tensor: Tensor, name: str) -> str:
    """Make a tensor an output and say under which name: the model's own values keep theirs, without a copy."""
    value = tensor.value
    if tensor.const is not None:
        writer.hold(tensor)
    elif (value.name or "").startswith(PREFIX) and value.name not in (PIXELS, FEATURES):
        writer.output(tensor, f"{PREFIX}{name}")
        return f"{PREFIX}{name}"
    if not value.is_graph_output():
        writer.graph.outputs.append(value)
    return str(value.name)


def _filled(a: Array, more: int) -> Array:
    return np.concatenate([a, np.repeat(a[-1:], more, axis=0)]) if more else a


def repeated(inputs: Mapping[str, Array], count: int) -> dict[str, Array]:
    """Further inputs, given once or once per sample, for ``count`` samples.

    Raises:
        OptionError: given for another number of samples.
    """
    odd = [f"{n} {a.shape}" for n, a in inputs.items() if a.ndim and len(a) not in (1, count)]
    if odd:
        raise OptionError(f"{', '.join(odd)}: give further inputs once, or once for each of the {count} samples")
    return {n: np.repeat(a, count, axis=0) if a.ndim and len(a) == 1 != count else a for n, a in inputs.items()}
