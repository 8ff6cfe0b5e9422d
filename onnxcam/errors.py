"""What can go wrong, one class per remedy.

::

    OnnxcamError
    ├── ModelError           the .onnx file cannot be used            re-export it, or give another file
    ├── GradientError        no gradient along the asked path         another layer, engine or method
    ├── UnknownNameError     a layer, class, method ... not there     one of the names that it offers
    ├── OptionError          a setting that does not fit              another setting
    │   └── MissingPackageError   an extra that it needs              install it (it says which)
    ├── ImageError           a picture that cannot be read            mend or skip the picture
    ├── RuntimeUnavailableError   no usable ONNX Runtime              install one (it says which)
    └── OutputError          a result that cannot be written          another folder

Every message says what was given, where, what is possible and the next step.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OnnxcamError(Exception):
    """The root: catch it to catch everything that onnxcam raises on purpose."""


class ModelError(OnnxcamError):
    """The model file is missing, damaged, or no image model."""


class GradientError(OnnxcamError):
    """The score cannot be differentiated with respect to the value asked for."""


class UnknownNameError(OnnxcamError):
    """A name that does not exist; the message offers the closest ones.

    Example:
        >>> raise UnknownNameError.of("method", "gradcm", ["gradcam", "saliency"])
        Traceback (most recent call last):
        ...
        onnxcam.errors.UnknownNameError: unknown method 'gradcm'; did you mean 'gradcam'? known: gradcam, saliency
    """

    @classmethod
    def of(cls, kind: str, given: str, known: Iterable[str], hint: str = "") -> UnknownNameError:
        """Build the message: the closest of ``known`` to ``given``, then the first dozen, then ``hint``."""
        names = list(known)
        folded = {name.lower(): name for name in names}
        close = [folded[n] for n in difflib.get_close_matches(given.lower(), folded, n=3, cutoff=0.5)]
        meant = f"; did you mean {' or '.join(map(repr, close))}?" if close else ";"
        more = f" ... ({len(names)} in all)" if len(names) > 12 else ""
        listed = ", ".join(names[:12]) or "none"
        return cls(f"unknown {kind} {given!r}{meant} known: {listed}{more}{'. ' + hint if hint else ''}")


class OptionError(OnnxcamError):
    """A setting that does not exist, does not fit the model, or contradicts another one."""


class MissingPackageError(OptionError):
    """A setting that needs a package which is not installed."""


class ImageError(OnnxcamError):
    """A picture that cannot be read, is empty, or is larger than the limit."""


class RuntimeUnavailableError(OnnxcamError):
    """No ONNX Runtime, a broken one, or one too old for the model."""


class OutputError(OnnxcamError):
    """A result that cannot be written where it was asked for."""


def reason(error: Exception) -> str:
    """What went wrong, in words; of an error of the system without its number and its path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
