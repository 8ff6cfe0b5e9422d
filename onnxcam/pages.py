"""What pages that stand on their own have in common: their policy, and how data and pictures come into them."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcam.image import encode_image


def policy(style: str, script: str) -> str:
    """A content security policy, as an attribute: this style and this script alone may run, nothing is fetched or sent.

    See https://www.w3.org/TR/CSP3/.
    """
    allowed = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    return html.escape(allowed, quote=True)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embedded(data: Any) -> str:
    """JSON for a block ``<script type="application/json">``, which nothing in it can end.

    Raises:
        ValueError: a number that JSON does not know, such as NaN.
    """
    text = json.dumps(data, allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def data_uri(picture: npt.NDArray[np.uint8], suffix: str = ".jpg", quality: int = 95) -> str:
    """A picture, uint8 (H, W, 3) RGB, as text: see :func:`onnxcam.image.encode_image`."""
    kind = {".jpg": "jpeg"}.get(suffix, suffix[1:])
    return f"data:image/{kind};base64," + base64.b64encode(encode_image(picture, suffix, quality)).decode()
