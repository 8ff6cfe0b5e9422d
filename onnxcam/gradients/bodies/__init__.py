"""The table of bodies: operators written out in simpler ones, for the engine to differentiate what is written.

A body is a function of the node that writes its forward computation once more, in operators that have rules or bodies
themselves, and returns its first output, or a tuple with one entry per output (None for one that is left out)::

    @body("Swish")                                 # y = x sigmoid(alpha x)
    def swish(node):
        return node.x * xp.sigmoid(node.x * node.attr("alpha", 1.0))

A rule is better where the derivative is simpler than what a body comes to; a body is right for the rest. Operators that
ONNX itself defines by a function need neither (:mod:`.functions`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxcam.gradients.rules import Node
from onnxcam.graph.symbolic import Tensor

Written = Tensor | Sequence[Tensor | None]
Body = Callable[[Node], Written]
BODIES: dict[tuple[str, str], Body] = {}


def body(*op_types: str, domain: str = "") -> Callable[[Body], Body]:
    """Register a body for operators."""

    def register(function: Body) -> Body:
        for op_type in op_types:
            BODIES[domain, op_type] = function
        return function

    return register


from onnxcam.gradients.bodies import (  # noqa: E402  (the families register themselves)
    attention,
    control,
    functions,
    picking,
    quantization,
    recurrent,
    regions,
    sampling,
    sequences,
    signal,
)

__all__ = [
    "BODIES",
    "attention",
    "body",
    "control",
    "functions",
    "picking",
    "quantization",
    "recurrent",
    "regions",
    "sampling",
    "sequences",
    "signal",
]
