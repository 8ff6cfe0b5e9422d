"""Which of two models is to be trusted more? A page that shows both without saying which is which, and its tally.

The experiment of Selvaraju et al., "Grad-CAM", ICCV 2017, section 5.2, https://arxiv.org/abs/1610.02391: people see the
explanations of two models that predict the same class, and say which model seems more reliable.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
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
from onnxcam.files import write_whole
from onnxcam.pages import embedded, policy

MOST = 100  # pictures of a page: more than anybody looks at
_VERSION = 1  # of key and votes
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
        "version": _VERSION, "page": identity, "a": comparison.a["model"], "b": comparison.b["model"],
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
    return PAGE.format(policy=policy(STYLE, SCRIPT), style=STYLE, script=SCRIPT, data=embedded(data))


@dataclass(frozen=True)
class Tally:
    """What the votes say.

    Attributes:
        model_a, model_b: the models.
        a, b, undecided: votes of all voters.
        pictures_a, pictures_b: pictures of which more voters chose the one model than the other.
        p: of the exact two-sided binomial test over these pictures: how likely numbers so uneven, or more so, are if
            nobody can tell the models apart. Sides are drawn once per picture, for all voters: pictures are
            independent draws, votes on one picture are not. Pictures without a majority are left out.
    """

    model_a: str
    model_b: str
    a: int
    b: int
    undecided: int
    pictures_a: int
    pictures_b: int
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
        OptionError: a file that cannot be read, votes of another page, of one voter twice, or none.
    """
    held = _read(key, {"page": str, "a": str, "b": str, "a_is": list})
    shown: list[Counter[str]] = [Counter() for _ in held["a_is"]]
    seen: dict[str, str | Path] = {}
    for path in votes:
        voter, answers = _answers(path, held)
        if voter in seen:
            raise OptionError(f"{seen[voter]} and {path} hold the votes of the same voter: give one of them, the later")
        seen[voter] = path
        for index, answer in answers.items():
            own = held["a_is"][index]
            shown[index]["neither" if answer == "neither" else "a" if answer == own else "b"] += 1
    if not (total := sum(shown, Counter())):
        raise OptionError(f"no vote in {', '.join(map(str, votes)) or 'no file'}: answer on the page, save, and tally")
    a, b = sum(c["a"] > c["b"] for c in shown), sum(c["b"] > c["a"] for c in shown)
    return Tally(held["a"], held["b"], total["a"], total["b"], total["neither"], a, b, binomial(a, b))


def _answers(path: str | Path, key: Mapping[str, Any]) -> tuple[str, dict[int, str]]:
    """Who voted (who saved no name: the file), and what, by the picture's index."""
    given = _read(path, {"page": str, "votes": dict})
    if given["page"] != key["page"]:
        raise OptionError(f"{path} holds votes of another page; give the key that was written beside that page")
    pictures = {str(k): k for k in range(len(key["a_is"]))}
    for k, v in given["votes"].items():
        if k not in pictures or v not in _ANSWERS:
            raise OptionError(
                f"{path}: vote {v!r} on picture {k} is none of the page's, which has pictures 0 to {len(pictures) - 1} "
                f"and answers {', '.join(_ANSWERS)}; save the votes again from the page"
            )
    return str(given.get("voter", Path(path).resolve())), {pictures[k]: v for k, v in given["votes"].items()}


def _read(path: str | Path, keys: Mapping[str, type]) -> dict[str, Any]:
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise OptionError(f"cannot read {path}: {why}; give the page's key file, and votes that it saved") from error
    if what := _amiss(held, keys):
        raise OptionError(f"{path} is not of a blind comparison: {what}; the page saves votes, and lies beside its key")
    return dict(held)


def _amiss(held: Any, keys: Mapping[str, type]) -> str:
    """What speaks against a file's content; "" where nothing does."""
    if not isinstance(held, dict):
        return "it holds no object"
    if held.get("version", _VERSION) != _VERSION:
        return f"its version is {held['version']!r}, and {_VERSION} is known"
    for name, kind in keys.items():
        if name not in held:
            return f"it has no {name!r}"
        if not isinstance(held[name], kind):
            return f"its {name!r} is {held[name]!r:.40}"
    if "a_is" in keys and any(side not in ("left", "right") for side in held["a_is"]):
        return f"its 'a_is' is {held['a_is']!r:.40}"
    return ""
