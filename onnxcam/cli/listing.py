"""``onnxcam methods``: what there is to choose from, and the tables in which lists are shown."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from onnxcam.methods import Method

_JSON = typer.Option("--json", help="As JSON.")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # and what turns the writing round


def methods(
    as_json: Annotated[bool, _JSON] = False,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="The papers, as BibTeX.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As the tables of the documentation.")] = False,
    targets: Annotated[bool, typer.Option("--targets", help="What can be explained, as --target takes it.")] = False,
) -> None:
    """List the methods: what each needs, what it costs, where it comes from."""
    from onnxcam.methods import METHODS

    if targets:
        from onnxcam.targets import FORMS

        print(json.dumps(FORMS)) if as_json else table(("target", "what is explained"), list(FORMS.items()))
    elif bibtex:
        print("\n\n".join({p.key: p.bibtex for m in METHODS.values() for p in m.papers}.values()))
    elif markdown:
        print(_markdown())
    elif as_json:
        print(json.dumps([_described(m) for m in METHODS.values()]))
    else:
        table(
            ("method", "formula", "needs", "runs", "options", "paper"),
            [(m.name, m.formula, ", ".join(m.needs), m.runs, _options(m), m.paper) for m in METHODS.values()],
        )


def _described(method: Method) -> dict[str, Any]:
    names = ("name", "title", "formula", "needs", "runs", "budget", "target", "aliases", "paper")
    options = {k: v if isinstance(v, int | float | str | None) else str(v) for k, v in method.options.items()}
    return {**{n: getattr(method, n) for n in names}, "options": options, "papers": [p.key for p in method.papers]}


def _markdown() -> str:
    from onnxcam.methods import FAMILIES

    lines = []
    for family, rows in FAMILIES.items():
        lines += [f"### {family}", "", "| method | map | needs | runs | options |", "|---|---|---|---|---|"]
        for m in rows:
            papers = ", ".join(f"[{p.short}]({p.url})" for p in m.papers)
            cells = (
                f"`{m.name}`<br>{m.title}{f': {papers}' if papers else ''}", f"`{m.formula}`",
                ", ".join(m.needs), m.runs, " ".join(f"`{k}={v}`" for k, v in m.options.items()),
            )  # fmt: skip
            lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _options(method: Method) -> str:
    return " ".join(f"{k}={v}" for k, v in method.options.items())


def plain(text: str) -> str:
    """A text whose control characters are escaped: names come from files, and could steer the terminal."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: str) -> None:
    """A notice on stderr; its lines stay lines."""
    print("onnxcam:", "\n".join(map(plain, text.split("\n"))), file=sys.stderr)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout; nothing is cut off where stdout is no terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [[plain(cell) for cell in row] for row in rows]
    shown = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    Console(width=_width(columns, rows), highlight=False).print(shown)


def _width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int | None:
    """The terminal's (None), or as wide as the rows are."""
    if sys.stdout.isatty():
        return None
    return max(80, 4 + sum(3 + max(len(r[i]) for r in [columns, *rows]) for i in range(len(columns))))
