"""The report of an audit: one page that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.audit.result import LEAST, Audit, Case, Contrast, Row, Share, Swap
from onnxcam.audit.verdict import looked_at
from onnxcam.batch.report.frame import STYLE
from onnxcam.batch.report.page import markup
from onnxcam.core.maps import resize_pixels
from onnxcam.core.overlay import panel
from onnxcam.errors import OnnxcamError
from onnxcam.evaluate.statistics import Estimate
from onnxcam.files import write_whole
from onnxcam.pages import data_uri, policy

Pixels = NDArray[np.uint8]
CASES = 4  # of each kind
_ROWS = 1000
_SIDE, _TILE, _QUALITY = 200, 224, 80

_STYLE = (
    STYLE
    + """
.verdict { font-size: 1.15rem; line-height: 1.5; margin: 1.2rem 0; padding-left: 1.2rem;
  max-width: 60rem; } .verdict li { margin: .3rem 0; }
td.more { color: var(--bad); font-weight: 600; } td.less { color: var(--mute); } .box { max-height: 34rem; }
td.n small { display: block; color: var(--mute); font-size: .8em; }
.shots { display: flex; flex-wrap: wrap; gap: .7rem; margin: .4rem 0 1rem; }
.shots figure { width: 9.5rem; } .shots img { width: 100%; display: block; border-radius: 3px; }
.shots figcaption { overflow-wrap: anywhere; }
"""
)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{model}: where the evidence lies</title>
<style>{style}</style>
</head>
<body>
<header><div><p class="over">Audit</p><h1>{model}</h1><p class="mute">{data}</p></div></header>
<main>
{body}
</main>
</body>
</html>
"""


def write_page(path: Path, found: Audit) -> Path:
    """Write the page, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    parts = (_verdict(found), _stats(found), _shares(found.shares), _swaps(found.swaps), _contrasts(found.contrasts),
             _means(found.means), _cases(found), _pictures(found))  # fmt: skip
    page = _PAGE.format(
        policy=policy(_STYLE, ""), style=_STYLE, model=markup(Path(found.model).name), data=markup(found.data),
        body="\n".join(filter(None, parts)),
    )  # fmt: skip
    return write_whole(path, page.encode())


def mean_panel(means: Mapping[str, Pixels]) -> Pixels:
    """The mean maps side by side, each under its answer."""
    return panel([_large(p) for p in means.values()], columns=min(len(means), 4), labels=list(means))


def _verdict(found: Audit) -> str:
    return f'<ul class="verdict">{"".join(f"<li>{markup(text)}</li>" for text in found.verdict)}</ul>'


def _stats(found: Audit) -> str:
    names = {"pictures": "Pictures", "errors": "Failed", "blank": "Blank maps", "unknown": "Without regions"}
    cells = [(names[k], f"{v:,}") for k, v in found.counts.items()]
    cells += [] if found.accuracy is None else [("Right answers", f"{100 * found.accuracy:.1f}&nbsp;%")]
    told = "".join(f"<div><dt>{a}</dt><dd>{b}</dd></div>" for a, b in cells)
    notes = "".join(f'<p class="mute">{markup(note)}</p>' for note in found.notes)
    return f'<dl class="stats">{told}</dl>{notes}'


# ---- tables ----


def _section(title: str, told: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(
        f'<th class="n" scope="col">{h}</th>' if k else f'<th scope="col">{h}</th>' for k, h in enumerate(heads)
    )
    return (
        f"<section><h2>{title}</h2><p>{told}</p>"
        f'<div class="box"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>'
    )


def _name(text: str) -> str:
    return f'<th scope="row">{markup(text)}</th>'


def _cell(text: str, kind: str = "") -> str:
    return f'<td class="n{kind and " " + kind}">{text}</td>'


def _percent(value: float | None) -> str:
    return "&ndash;" if value is None else f"{100 * value:.0f}&nbsp;%"


def _shares(shares: Sequence[Share]) -> str:
    told = (
        "Share of the map's positive evidence in each region, against the region's share of what the model sees, over "
        "the pictures that show it: a ratio of 1 is what a map without any preference has. In small print the range in "
        "which the ratio may be, were other pictures of the kind taken (95&nbsp;% interval, bootstrap); there is none "
        "below five pictures, nor lines for answers of fewer. p: how easily chance alone makes so many pictures agree; "
        "below 0.05 counts (sign test; the more lines there are, the more Holm's correction asks of each). Against: "
        "where what speaks against the answer lies (counterfactual map). Centre: what a spot in the middle of the "
        "picture, which knows nothing, puts there."
    )
    heads = ("region", "answer", "pictures", "evidence", "area", "ratio", "p", "against", "centre")
    return _section("Where the evidence lies", told, heads, map(_share, shares))


def _share(s: Share) -> list[str]:
    kind = "more" if s.more else "less" if s.less else ""
    figures = [
        f"{s.ratio.count:,}", _percent(s.energy), _percent(s.area), _times(s.ratio, "&nbsp;x"), f"{s.p:.2g}",
        _percent(s.against), _percent(s.centre),
    ]  # fmt: skip
    cells = [_cell(text, kind if k == 3 else "") for k, text in enumerate(figures)]
    return [_name(s.region), _cell(markup(s.answer) if s.answer is not None else "all"), *cells]


def _times(of: Estimate, unit: str = "") -> str:
    figures = [f"{v:.2f}".replace("-", "&minus;") for v in (of.value, of.low, of.high)]
    return f"{figures[0]}{unit}" + (f"<small>{figures[1]} to {figures[2]}</small>" if of.count >= LEAST else "")


def _flips(of: Estimate | None) -> str:
    if of is None:
        return "&ndash;"
    return f"{_percent(of.value)}<small>{100 * of.low:.0f} to {100 * of.high:.0f}, of {of.count}</small>"


def _swaps(swaps: Sequence[Swap]) -> str:
    told = (
        "How many answers change when a region is replaced: by that of a random picture with another answer (other), "
        "by a blur, by the mean colour, or by a counterpart that was given. Control: by that of a picture with the "
        "same answer, which tells what pasting alone does. In small print the range in which the share may be, were "
        "other pictures of the kind taken (Wilson's 95&nbsp;% interval)."
    )
    rows = [
        [_name(s.region), _cell(s.by), _cell(_flips(s.flips)), _cell(_flips(s.control)),
         _cell("; ".join(f"{markup(a)} {_percent(e.value)}" for a, e in s.by_answer.items()))]
        for s in swaps
    ]  # fmt: skip
    return _section("Replacing a region", told, ("region", "by", "answers that flip", "control", "by answer"), rows)


def _contrasts(contrasts: Sequence[Contrast]) -> str:
    told = (
        "Regions: the difference of their ratios of evidence to area (p: sign test over pictures). Groups of pictures: "
        "the difference in how far the region's share of evidence goes beyond its share of area (p: permutation test). "
        "In small print the 95&nbsp;% interval."
    )
    rows = [
        [_name(f"{c.a} against {c.b}"), _cell(markup(c.region or "")), _cell(_times(c.estimate)), _cell(f"{c.p:.2g}")]
        for c in contrasts
    ]
    return _section("Contrasts", told, ("of", "in region", "difference", "p"), rows)


# ---- pictures ----


def _means(means: Mapping[str, Pixels]) -> str:
    shots = "".join(_figure(p, name) for name, p in means.items())
    told = "<p>The mean map over the mean picture, answer by answer; in brackets the number of pictures.</p>"
    return f'<section><h2>Mean maps</h2>{told}<div class="shots">{shots}</div></section>' if shots else ""


def _cases(found: Audit) -> str:
    if not found.overall:
        return ""
    region = [*looked_at(found.overall, found.swaps), *found.overall][0].region
    own = [r for r in found.rows if region in r.get("regions", {}) and not r["blank"]]
    order = sorted(own, key=lambda r: (-r["regions"][region]["energy"], r["index"]))
    least = min(CASES, len(order) // 2)
    flipped = [r for r in order if any(s["flipped"] for s in r.get("swaps", {}).values())]
    kinds = {
        f"Most evidence in {region}": order[:CASES], f"Least evidence in {region}": order[len(order) - least :],
        "Answers that flip": flipped[:: max(1, len(flipped) // CASES)][:CASES],
    }  # fmt: skip
    parts = [f"<h3>{markup(title)}</h3>{shown}" for title, rows in kinds.items() if (shown := _shots(found, rows))]
    return f"<section><h2>Cases</h2>{''.join(parts)}</section>" if parts else ""


def _shots(found: Audit, rows: Sequence[Row]) -> str:
    shown = []
    for row in rows:
        with suppress(OnnxcamError, OSError, MemoryError):  # pictures may be gone by now
            shown.append(_shot(found.look(row)))
    return "".join(shown)


def _shot(case: Case) -> str:
    name = Path(case.row["source"]).name
    figures = [_figure(p, name if title == "picture" else title) for title, p in case.pictures.items()]
    return f'<div class="shots">{"".join(figures)}</div>'


def _figure(picture: Pixels, caption: str) -> str:
    shown, told = data_uri(_small(picture), quality=_QUALITY), markup(caption)
    return f'<figure><img alt="{told}" src="{shown}"><figcaption>{told}</figcaption></figure>'


def _small(picture: Pixels) -> Pixels:
    return _to(picture, min(1.0, _SIDE / max(picture.shape[:2])))


def _large(picture: Pixels) -> Pixels:
    """Wide enough for its head line."""
    return _to(picture, _TILE / max(picture.shape[:2]))


def _to(picture: Pixels, factor: float) -> Pixels:
    height, width = (max(1, round(n * factor)) for n in picture.shape[:2])
    return picture if factor == 1.0 else resize_pixels(picture, (height, width))


# ---- row by row ----


def _pictures(found: Audit) -> str:
    names = [s.region for s in found.overall]
    more = len(found.rows) - _ROWS
    told = "Share of evidence / share of area in each region; the regions whose replacement flips the answer." + (
        f" {more:,} more in results.jsonl." if more > 0 else ""
    )
    heads = ("picture", "group", "answer", *map(markup, names), "flips")
    return _section("Picture by picture", told, heads, (_line(r, names) for r in found.rows[:_ROWS]))


def _line(row: Row, names: Sequence[str]) -> list[str]:
    first = [_name(row["source"]), _cell(markup(row["truth"] or ""))]
    if "error" in row:
        return [*first, f'<td class="bad" colspan="{len(names) + 2}">{markup(row["error"])}</td>']
    cells = [_cell(_of(row["regions"].get(n))) for n in names]
    flips = ", ".join(n for n, s in row.get("swaps", {}).items() if s["flipped"])
    wrong = "bad" if row["correct"] is False else ""
    return [*first, _cell(markup(row["answer"]), wrong), *cells, _cell(markup(flips))]


def _of(own: Mapping[str, Any] | None) -> str:
    return "&ndash;" if own is None else f"{100 * own['energy']:.0f} / {100 * own['area']:.0f}"
