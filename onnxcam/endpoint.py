"""Endpoint: a model behind an HTTP address that speaks the Open Inference Protocol (KServe v2), as a function.

The protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, in its JSON form.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request, urlopen

import numpy as np
import numpy.typing as npt

from onnxcam.errors import ModelError, OptionError, UnknownNameError
from onnxcam.image import InputSpec

Array = npt.NDArray[Any]
_TYPES = {f"{k}{n}": f"{k.lower()}{n}" for k in ("INT", "UINT") for n in (8, 16, 32, 64)}
_TYPES |= {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BOOL": "bool"}
_MODEL = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?$")
_PAUSE = 0.2  # seconds before the second try; doubled before each further one
_SHORT = 300  # characters of a server's message that are shown


@dataclass(frozen=True)
class Tensor:
    """An input or output as the server's metadata tell it; -1 in a shape is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} {list(self.shape)}"


class Endpoint:
    """A served model as a function of a batch, for :class:`~onnxcam.blackbox.BlackBox`.

    Args:
        url: the model's address, ``http://HOST:PORT/v2/models/NAME``, with ``/versions/V`` where it has several.
        input: name of the input that takes the picture, where that is not plain.
        output: name of the output with the scores, where that is not plain.
        timeout: seconds to wait for an answer.
        retries: how often to ask again where the server is not reached, or answers with a fault of its own (5xx).
        headers: further HTTP headers, such as ``{"Authorization": "Bearer ..."}``.

    Raises:
        OptionError: no such address.

    Example::

        served = Endpoint("http://localhost:8000/v2/models/resnet")
        BlackBox(served, spec=served.spec, preprocess="imagenet", method="occlusion").explain("dog.jpg")
    """

    def __init__(
        self,
        url: str,
        *,
        input: str | None = None,
        output: str | None = None,
        timeout: float = 60.0,
        retries: int = 2,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.url = _address(url)
        if not timeout > 0 or retries < 0:
            raise OptionError(f"timeout={timeout}, retries={retries}: give seconds above 0, and at least 0 retries")
        self.timeout, self.retries, self._headers = timeout, retries, dict(headers or {})
        self._input, self._output = input, output

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What the server tells of the model: ``inputs`` and ``outputs``, each with name, datatype and shape.

        Raises:
            ModelError: it cannot be asked, or tells something else.
        """
        found = self._ask(self.url, None)
        try:
            return {k: [_tensor(t) for t in found[k]] for k in ("inputs", "outputs")}
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{self.url} answers, but not with a model's metadata ({type(error).__name__}: {error}); give the "
                "model's own address, http://HOST:PORT/v2/models/NAME"
            ) from error

    @cached_property
    def input(self) -> Tensor:
        """The input that takes the picture.

        Raises:
            ModelError, OptionError, UnknownNameError: there is none, or more than one input.
        """
        inputs = self.metadata["inputs"]
        chosen = _named("input", inputs, self._input) if self._input else next(iter(filter(_layout, inputs)), None)
        if chosen is None or not _layout(chosen) or chosen.datatype not in _TYPES:
            text = ", ".join(map(str, inputs)) or "none"
            raise ModelError(f"{self.url}: no input takes a batch of pictures with 1 or 3 channels; its inputs: {text}")
        if len(inputs) > 1:
            others = ", ".join(str(t) for t in inputs if t is not chosen)
            raise OptionError(f"{self.url} takes more than a picture: {others}. Wrap it in a function that fills those")
        return chosen

    @property
    def spec(self) -> InputSpec:
        """What it takes, for BlackBox and for preprocessing."""
        layout, shape = _layout(self.input), self.input.shape
        channels, height, width = shape[1:] if layout == "NCHW" else (shape[3], shape[1], shape[2])
        known = [n if n > 0 else None for n in (height, width)]
        return InputSpec(layout, channels, known[0], known[1], np.dtype(_TYPES[self.input.datatype]))

    def __call__(self, batch: Array) -> Array:
        """Scores (B, classes) of a batch in the input's layout and type; a fixed batch size is filled up.

        Raises:
            ModelError: the server is not reached, refuses, or answers something else.
        """
        size = self.input.shape[0] if self.input.shape[0] > 0 else len(batch)
        found = []
        for k in range(0, len(batch), size):
            part = batch[k : k + size]
            filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            found.append(self._infer(filled)[: len(part)])
        return np.concatenate(found)

    def _infer(self, batch: Array) -> Array:
        tensor = {
            "name": self.input.name,
            "shape": list(batch.shape),
            "datatype": self.input.datatype,
            "data": batch.ravel().tolist(),
        }
        body: dict[str, Any] = {"inputs": [tensor]}
        if self._output:
            body["outputs"] = [{"name": self._output}]
        answer = self._ask(f"{self.url}/infer", body)
        try:
            return self._scores(answer["outputs"], len(batch))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{self.url}/infer answers, but not as the protocol says ({type(error).__name__}: {error})"
            ) from error

    def _scores(self, outputs: Sequence[Mapping[str, Any]], count: int) -> Array:
        tensors = [_tensor(o) for o in outputs]
        if self._output:
            chosen = _named("output", tensors, self._output)
        else:
            fitting = [t for t in tensors if t.shape[:1] == (count,) and math.prod(t.shape[2:]) == 1]
            if len(fitting) != 1:
                text = ", ".join(map(str, tensors)) or "none"
                raise ModelError(f"{self.url}: which output holds the scores, ({count}, classes)? Its outputs: {text}")
            chosen = fitting[0]
        data = np.asarray(outputs[tensors.index(chosen)]["data"], dtype=np.float64)
        return data.reshape(chosen.shape).reshape(count, -1)

    # HTTP

    def _ask(self, url: str, body: Mapping[str, Any] | None) -> Any:
        """The JSON that an address answers: GET, or POST where there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(url, data, {"Content-Type": "application/json", **self._headers})
        for left in range(self.retries, -1, -1):
            try:
                with urlopen(request, timeout=self.timeout) as answer:
                    return json.loads(answer.read())
            except HTTPError as error:
                if error.code < 500 or not left:
                    raise ModelError(f"{url} answers {error.code} {error.reason}: {_told(error)}") from error
            except (URLError, HTTPException, OSError) as error:
                if not left:
                    raise ModelError(self._unreached(url, error)) from error
            except ValueError as error:
                raise ModelError(
                    f"{url} answers something that is no JSON ({error}); is it a model's address?"
                ) from error
            time.sleep(_PAUSE * 2 ** (self.retries - left))
        raise AssertionError("the last try returns or raises")

    def _unreached(self, url: str, error: Exception) -> str:
        why = getattr(error, "reason", error)
        late = isinstance(why, TimeoutError) or isinstance(error, TimeoutError)
        what = f"no answer within {self.timeout:g} s; give a longer timeout or a smaller batch" if late else str(why)
        return f"{url} cannot be reached, asked {self.retries + 1} times: {what or type(error).__name__}"


def _address(url: str) -> str:
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix("/infer")
    if parts.scheme not in ("http", "https") or not parts.netloc or not _MODEL.search(path):
        raise OptionError(f"endpoint {url!r}: give a model's address, http://HOST:PORT/v2/models/NAME")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _tensor(told: Mapping[str, Any]) -> Tensor:
    return Tensor(str(told["name"]), str(told["datatype"]), tuple(int(n) for n in told["shape"]))


def _layout(tensor: Tensor) -> str:
    """``"NCHW"`` or ``"NHWC"`` of a batch of pictures, else ""."""
    if len(tensor.shape) != 4:
        return ""
    return "NCHW" if tensor.shape[1] in (1, 3) else "NHWC" if tensor.shape[3] in (1, 3) else ""


def _named(kind: str, tensors: Sequence[Tensor], name: str) -> Tensor:
    found = {t.name: t for t in tensors}
    if name not in found:
        raise UnknownNameError.of(kind, name, found)
    return found[name]


def _told(error: HTTPError) -> str:
    """What the server says of its refusal: the protocol's ``{"error": ...}``, or the beginning of whatever it is."""
    text = error.read().decode(errors="replace").strip()
    with suppress(ValueError, TypeError, KeyError):
        text = str(json.loads(text)["error"])
    return (text[:_SHORT] + " ...") if len(text) > _SHORT else text or "(it says nothing more)"
