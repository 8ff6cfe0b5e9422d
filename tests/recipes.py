"""The recipes' modules, imported by path: they are no part of the package."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[1] / "model_zoo" / "recipes"


@cache
def recipe(name: str, *needs: str) -> ModuleType:
    """The module ``name``; ``needs`` are the recipes that it imports, as it names them, what one needs first."""
    spec = importlib.util.spec_from_file_location(f"zoo_{name}", FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    before = {need: sys.modules.get(need) for need in needs}
    for need in needs:
        sys.modules[need] = recipe(need)
    spec.loader.exec_module(module)
    for need, old in before.items():
        sys.modules.pop(need) if old is None else sys.modules.update({need: old})
    return module
