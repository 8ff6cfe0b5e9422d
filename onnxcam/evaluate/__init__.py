"""Is an explanation any good? Localisation, faithfulness, sanity, and what they mean.

:func:`evaluate` is the door; `onnxcam evaluate` is the same on the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxcam.evaluate.run import evaluate as evaluate
    from onnxcam.evaluate.table import Results as Results

_HOMES = {"evaluate": "run", "Results": "table"}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
