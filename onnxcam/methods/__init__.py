"""The catalogue: each method's needs, formula, cost and paper. Everything that lists methods reads it."""

from __future__ import annotations

from collections.abc import Iterable

from onnxcam.errors import UnknownNameError
from onnxcam.methods.blackbox import BLACK_BOX
from onnxcam.methods.cams import CAMS
from onnxcam.methods.cams_of_many_runs import CAMS_OF_MANY_RUNS
from onnxcam.methods.pixels import PIXELS
from onnxcam.methods.row import NEEDS, Method
from onnxcam.methods.transformers import TRANSFORMERS

FAMILIES: dict[str, tuple[Method, ...]] = {
    "Class activation maps": CAMS,
    "Class activation maps of many runs": CAMS_OF_MANY_RUNS,
    "Gradients at the image": PIXELS,
    "Attention": TRANSFORMERS,
    "Black box": BLACK_BOX,
}
METHODS: dict[str, Method] = {m.name: m for rows in FAMILIES.values() for m in rows}


def find_method(name: str) -> Method:
    """A row by name or alias; hyphens, spaces and case do not matter.

    Raises:
        UnknownNameError: there is none; the closest are offered.
    """
    plain = _plain(name)
    for method in METHODS.values():
        if plain in map(_plain, (method.name, *method.aliases)):
            return method
    raise UnknownNameError.of("method", name, METHODS, "`onnxcam methods` lists them")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "").replace("++", "pp")


def possible(has: Iterable[str]) -> list[str]:
    """The names of the methods whose needs are met by what a model ``has``."""
    there = set(has)
    return [m.name for m in METHODS.values() if there.issuperset(m.needs)]


__all__ = ["FAMILIES", "METHODS", "NEEDS", "Method", "find_method", "possible"]
