"""A report's page, as a browser would read it."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np

VOID = ("meta", "img", "input", "br", "link")


class Page(HTMLParser):
    """What the elements of a page say.

    Attributes:
        tags: each element's tag and attributes.
        cards: of each: its classes, its words, and its pictures by class.
        stats: of the summary: the figure and the small print, by name.
        tables: of each section: rows of words, and the pictures of each row.
        links: href of all links.
        facts: the embedded data.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.text = path.read_bytes().decode("utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.cards: list[dict[str, Any]] = []
        self.stats: dict[str, list[str]] = {}
        self.settings: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.images: list[tuple[str, np.ndarray]] = []
        self.links: list[str] = []
        self.blocks: dict[str, str] = {}
        self.words: list[str] = []
        self._open: list[tuple[str, dict[str, str]]] = []
        self._heading = ""
        self._term = ""
        self.feed(self.text)
        self.close()
        assert not self._open, "elements are left open"
        self.facts = json.loads(self.blocks["application/json"])

    def within(self, tag: str, kind: str | None = None) -> bool:
        return any(t == tag and (kind is None or kind in (a.get("class") or "").split()) for t, a in self._open)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        self.tags.append((tag, told))
        if tag not in VOID:
            self._open.append((tag, told))
        if tag == "li" and "card" in told.get("class", ""):
            self.cards.append({"kind": told["class"].split(), "words": [], "images": {}})
        if tag == "h2":
            self._heading = ""
        if tag == "tr":
            self.tables.setdefault(self._heading, []).append([])
        if tag in ("td", "th") and self.within("tr"):
            self.tables[self._heading][-1].append("")
        if tag == "a":
            self.links.append(told["href"])
        if tag == "img":
            self._see(told)

    def _see(self, told: dict[str, str]) -> None:
        data = base64.b64decode(told["src"].removeprefix("data:image/jpeg;base64,"), validate=True)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        if self.within("li", "card"):
            self.cards[-1]["images"][told["class"]] = picture
        else:
            self.images.append((self._heading, picture))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1][0] == tag, f"</{tag}> closes <{self._open[-1][0]}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        tag, told = self._open[-1] if self._open else ("", {})
        if tag in ("script", "style"):
            self.blocks[told.get("type", tag)] = data
            return
        self.words.append(data)
        if not data.strip():
            return
        if tag == "h2":
            self._heading += data
        elif self.within("tr"):
            self.tables[self._heading][-1][-1] += data
        elif self.within("li", "card") and not self.within("span", "unseen"):
            self.cards[-1]["words"].append(data.strip())
        elif tag == "dt":
            self._term = data
        elif self.within("dl", "stats"):
            self.stats.setdefault(self._term, []).append(data)
        elif tag == "dd":
            self.settings[self._term] = data

    def of(self, tag: str) -> list[dict[str, str]]:
        """The attributes of all elements of one tag."""
        return [told for name, told in self.tags if name == tag]
