"""What a row of the catalogue is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal

from onnxcam.errors import OptionError
from onnxcam.papers import PAPERS, Paper

Formula = Callable[..., Any]
Gives = Literal["cam", "pixels", "map"]
NEEDS = {
    "layer": "a spatial layer",
    "gradient": "a gradient at the layer",
    "curvature": "second derivatives at the layer",
    "pixels": "a gradient at the image",
    "head": "a head that runs on the layer alone",
    "classifier": "global average pooling and linear layers behind it",
    "attention": "attention",
    "biases": "gradients at every bias",
}


@dataclass(frozen=True)
class Method:
    """One row: a formula of one run (``terms``, ``relu``, or both multiplied), or a ``procedure`` of many.

    Attributes:
        name: as written in options.
        title: as written in prose.
        formula: in one line.
        papers: where it comes from, the first the one to cite.
        needs: keys of :data:`NEEDS` beyond scores.
        terms: (xp, A, G) -> (N, C, h, w), the evidence per channel of a CAM; its sum over C is the map. A method that
            needs curvature takes a fourth argument, the score's Hessian at the layer times A.
        join: how terms become a map: ``"sum"``, or a projection of :mod:`onnxcam.core.eigen`.
        relu: the policy of the gradient at the image, of methods of one run.
        pixels: (xp, gradient, x) -> attribution, both (N, C, H, W); without it, the gradient itself.
        procedure: (probe, **options) -> one raw map; :mod:`onnxcam.core.probe`.
        gives: ``"cam"`` at the target layer, ``"pixels"`` a signed attribution (C, H, W), or ``"map"`` (H, W).
        runs: inference runs per image, in words.
        budget: the option that sets how many runs there are, where one does.
        target: the kind of score that is explained unless the caller says otherwise.
        normalize: how its map becomes a heatmap unless the caller says otherwise.
        aliases: further names, as other tools have them.
    """

    name: str
    title: str
    formula: str
    papers: tuple[Paper, ...]
    needs: tuple[str, ...] = ()
    terms: Formula | None = None
    join: str = "sum"
    relu: str | None = None
    pixels: Formula | None = None
    procedure: Formula | None = None
    gives: Gives = "cam"
    runs: str = "1"
    budget: str | None = None
    target: str = "logit"
    normalize: str = "max"
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.terms or self.relu) == bool(self.procedure):
            raise OptionError(f"method {self.name!r} needs either a formula of one run (terms, relu) or a procedure")
        if unknown := [n for n in self.needs if n not in NEEDS]:
            raise OptionError(f"method {self.name!r} needs {unknown[0]!r}; known: {', '.join(NEEDS)}")
        if self.terms and "layer" not in self.needs:
            raise OptionError(
                f"method {self.name!r} has a formula at a layer: needs=('layer', 'gradient'), or 'layer' alone"
            )

    @property
    def paper(self) -> str:
        """The first paper, in a line."""
        return str(self.papers[0]) if self.papers else ""

    @property
    def has_layer(self) -> bool:
        """Whether there is a target layer."""
        return "layer" in self.needs

    @property
    def options(self) -> dict[str, Any]:
        """The procedure's own options with their defaults: its keyword-only parameters."""
        if self.procedure is None:
            return {}
        parameters = inspect.signature(self.procedure).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def checked(self, given: Mapping[str, Any], budget: int | None = None) -> dict[str, Any]:
        """What a caller sets, with ``budget`` as the option that it stands for.

        Raises:
            OptionError: an option that the method does not have, no number where one is due, or a budget where runs
                cannot be chosen.
        """
        known = self.options
        if unknown := [k for k in given if k not in known]:
            has = ", ".join(f"{k}={v!r}" for k, v in known.items()) or "none"
            raise OptionError(f"{self.title} has no option {unknown[0]!r}; its options: {has}")
        if wrong := [k for k, v in given.items() if not _fits(v, known[k])]:
            name, default = wrong[0], known[wrong[0]]
            kind = "a number" if isinstance(default, float) else "a whole number"
            kind = "true or false" if isinstance(default, bool) else f"{kind}{', not below 0' * _below(given[name])}"
            raise OptionError(f"{self.title}: {name}={given[name]!r}: give {kind}, such as {default}")
        if budget is None:
            return dict(given)
        if self.budget is None:
            raise OptionError(f"{self.title} has no budget to choose; runs an image: {self.runs}")
        if self.budget in given:
            raise OptionError(
                f"{self.title}: {self.budget}={given[self.budget]!r} and budget={budget} set the same; give one"
            )
        if budget < 1:
            raise OptionError(f"budget={budget}: give a number of runs above 0")
        return {**given, self.budget: budget}


def _below(value: Any) -> bool:
    return isinstance(value, int | float) and value < 0


def _fits(value: Any, default: Any) -> bool:
    """Whether a value can stand for a default that is a number or a truth; a generator may stand for a seed."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if not isinstance(default, int | float):
        return True
    plain = isinstance(value, str | bool | list | tuple | dict | NoneType)
    return not (plain or (_below(value) and default >= 0) or (isinstance(default, int) and isinstance(value, float)))


def papers(*keys: str) -> tuple[Paper, ...]:
    """Papers by their keys."""
    return tuple(PAPERS[k] for k in keys)


GRADCAM = papers("selvaraju2017gradcam")
AT_LAYER = ("layer", "gradient")
