"""Where does the evidence lie? Regions, classes and groups of pictures held against their area, and swapped.

:func:`audit` is the door; `onnxcam audit` is the same on the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxcam.audit.result import Audit as Audit
    from onnxcam.audit.run import audit as audit

_HOMES = {"audit": "run", "Audit": "result"}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
