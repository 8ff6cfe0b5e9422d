"""Which of two models is to be trusted more? A page that shows both without saying which is which, and its tally.

The experiment of Selvaraju et al., "Grad-CAM", ICCV 2017, section 5.2, https://arxiv.org/abs/1610.02391: people see the
explanations of two models that predict the same class, and say which model seems more reliable.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxcam.compare import Comparison, Pair
from onnxcam.compare.figures import binomial
from onnxcam.compare.page import PAGE, SCRIPT, STYLE
from onnxcam.compare.pictures import overlays
from onnxcam.errors import OptionError
from onnxcam.image import write_whole

MOST = 100  # pictures of a page: more than anybody looks at
_ANSWERS = ("left", "right", "neither")


def write_page(comparison: Comparison, path: str | Path) -> tuple[Path, Path, int]:
    """Write the page, and its key beside it: which side of each picture the first model is on.

    Pictures are those where both models predict the same class and neither map is blank, in an order and with sides
    drawn from a seed that the models and pictures give: the same comparison makes the same page.

    Returns:
        The page, the key (``PAGE.key.json``), and how many pictures are shown.

    Raises:
        OptionError: no picture where both predict the same.
        OutputError: a file cannot be written.
    """
    shown = [p for p in comparison.pairs if p.top_a == p.top_b == p.explained and not p.blank]
    if not shown:
        raise OptionError("no picture where both models predict the same class and explain it: nothing to vote on")
    digest = hashlib.sha256(json.dumps([comparison.a, comparison.b, [p.source for p in shown]]).encode()).digest()
    rng = np.random.default_rng(list(digest))
    chosen = [shown[k] for k in rng.permutation(len(shown))[:MOST]]
    lefts = [bool(v) for v in rng.integers(0, 2, len(chosen))]
    identity, target = digest.hex()[:16], Path(path)
    items = [_item(comparison, p, left) for p, left in zip(chosen, lefts, strict=True)]
    page = write_whole(target, _page({"page": identity, "items": items}).encode())
    key = {
        "version": 1, "page": identity, "a": comparison.a["model"], "b": comparison.b["model"],
        "sources": [p.source for p in chosen], "a_is": ["left" if left else "right" for left in lefts],
    }  # fmt: skip
    return page, write_whole(target.with_suffix(".key.json"), json.dumps(key, indent=1).encode()), len(chosen)


def _item(comparison: Comparison, pair: Pair, left: bool) -> dict[str, str]:
    a, b = comparison.explanations(pair)
    picture, first, second = overlays(a, b)
    name = pair.name_a if pair.name_a is not None else f"class {pair.top_a}"
    sides = (first, second) if left else (second, first)
    return {"answer": name, "picture": picture, "left": sides[0], "right": sides[1]}


def _page(data: Mapping[str, Any]) -> str:
    """Self-contained: its own style and script alone may run, and nothing is fetched or sent."""
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(STYLE)}'; script-src '{_hash(SCRIPT)}'"
    )
    text = json.dumps(data)
    for sign in "<>&":  # none of them can end the block that the data stands in
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return PAGE.format(policy=html.escape(policy, quote=True), style=STYLE, script=SCRIPT, data=text)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@dataclass(frozen=True)
class Tally:
    """What the votes say.

    Attributes:
        model_a, model_b: the models.
        a, b, undecided: votes.
        p: of the exact two-sided binomial test: how likely votes so uneven, or more so, are if nobody can tell the
            models apart; undecided votes are left out.
    """

    model_a: str
    model_b: str
    a: int
    b: int
    undecided: int
    p: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def tally(votes: Sequence[str | Path], key: str | Path) -> Tally:
    """Count the votes of one page, of one person or several.

    Args:
        votes: the files that the page saved.
        key: the page's key file.

    Raises:
        OptionError: a file that cannot be read, or votes of another page.
    """
    held = _read(key, ("page", "a", "b", "a_is"))
    counts = {"a": 0, "b": 0, "neither": 0}
    for path in votes:
        for index, answer in _answers(path, held).items():
            own = held["a_is"][index]
            counts["neither" if answer == "neither" else "a" if answer == own else "b"] += 1
    a, b = counts["a"], counts["b"]
    return Tally(held["a"], held["b"], a, b, counts["neither"], binomial(a, b))


def _answers(path: str | Path, key: Mapping[str, Any]) -> dict[int, str]:
    given = _read(path, ("page", "votes"))
    if given["page"] != key["page"]:
        raise OptionError(f"{path} holds votes of another page; give the key that was written beside that page")
    try:
        found = {int(k): v for k, v in given["votes"].items()}
    except (AttributeError, ValueError) as error:
        raise OptionError(f"{path} holds no votes: {error}; save them again from the page") from error
    wrong = [(k, v) for k, v in found.items() if not 0 <= k < len(key["a_is"]) or v not in _ANSWERS]
    if wrong:
        raise OptionError(f"{path}: vote {wrong[0][1]!r} on picture {wrong[0][0]} is none of the page's")
    return found


def _read(path: str | Path, keys: Sequence[str]) -> dict[str, Any]:
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot read {path}: {error}; give the page's key file, and votes that it saved") from error
    if not isinstance(held, dict) or (missing := [k for k in keys if k not in held]):
        what = f"it has no {missing[0]!r}" if isinstance(held, dict) else "it holds no object"
        raise OptionError(f"{path} is not of a blind comparison: {what}; the page saves votes, and lies beside its key")
    return held
