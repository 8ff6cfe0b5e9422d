"""A report's page around its content: head, links, gallery and foot, and how foreign words come into it."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from onnxcam.batch.report.frame import FOOT, GALLERY, HEAD, SCRIPT, STYLE
from onnxcam.pages import embedded, policy

_SEEN = frozenset("\u200c\u200d")  # joiners, without which some scripts and emoji fall apart
_UNSEEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")  # controls, direction marks, surrogates, line separators


def visible(text: str) -> str:
    """A text as it can be shown: control characters, direction marks and lone surrogates are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c in _SEEN or unicodedata.category(c) not in _UNSEEN else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def markup(text: str) -> str:
    """A text as HTML, for content and attributes alike."""
    return html.escape(visible(text), quote=True)


def number(value: float | None, digits: int = 4) -> str:
    """A number for readers: counts with commas, others with four digits; a dash for none."""
    if value is None:
        return "&ndash;"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}".replace("-", "&minus;")


def head(run: Mapping[str, Any], names: Sequence[str], at: int) -> str:
    """The page up to its content: title, policy, style, and links between the pages."""
    model = markup(model_name(run))
    of = f", page {at + 1} of {len(names)}" if len(names) > 1 else ""
    return HEAD.format(
        policy=policy(STYLE, SCRIPT),
        style=STYLE,
        title=f"{model}: explanation report{of}",
        model=model,
        status=_status(run),
        pages=pages(names, at),
    )


def model_name(run: Mapping[str, Any]) -> str:
    """What the model is called, without its folders."""
    path = str(run.get("model") or "model")
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2] or path


def _status(run: Mapping[str, Any]) -> str:
    counts = run.get("counts") or {}
    if not run.get("complete"):
        done = int(counts.get("explained") or 0) + int(counts.get("errors") or 0)
        return f'<p class="status bad">incomplete: {done:,} of {int(counts.get("planned") or 0):,}</p>'
    if counts.get("errors"):
        return '<p class="status warn">complete, with errors</p>'
    return '<p class="status good">complete</p>'


def pages(names: Sequence[str], at: int) -> str:
    """Links between the pages; "" where there is but one."""
    if len(names) < 2:
        return ""
    links = [
        f'<a href="{name}"' + (' aria-current="page"' if k == at else "") + f">{k + 1}</a>"
        for k, name in enumerate(names)
    ]
    return f'<nav class="pages" aria-label="Pages"><span>Page</span>{"".join(links)}</nav>'


def gallery(names: Sequence[str], cards: int, note: str) -> str:
    """The head of the gallery: what can be asked of it, and its beginning."""
    return GALLERY.format(count=f"{cards:,}", note=note, this=" on this page" if len(names) > 1 else "")


def foot(links: str, facts: Sequence[Mapping[str, Any]]) -> str:
    """The end of the gallery and of the page, with the facts of its cards."""
    return FOOT.format(pages=links, data=embedded(facts), script=SCRIPT)
