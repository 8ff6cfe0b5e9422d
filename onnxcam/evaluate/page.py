"""The report of an evaluation: one page that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from onnxcam.batch.report.frame import STYLE
from onnxcam.batch.report.page import markup, number
from onnxcam.core.maps import resize_pixels
from onnxcam.errors import OnnxcamError
from onnxcam.evaluate.chart import CHART_STYLE, Line, chart
from onnxcam.evaluate.metrics import METRICS
from onnxcam.evaluate.statistics import FEW, Estimate
from onnxcam.evaluate.table import SAMPLES, Cell, Results, Row
from onnxcam.explanation import Explanation
from onnxcam.files import write_whole
from onnxcam.pages import data_uri, policy

CASES = 4  # best and worst of a method
_SIDE, _QUALITY = 200, 80
_FAILURES = 50
Draw = Callable[[int, str], Explanation]

_STYLE = (
    STYLE
    + CHART_STYLE
    + """
td.n small { display: block; color: var(--mute); font-size: .8em; font-weight: 400; }
td.beats { color: var(--good); font-weight: 600; } td.loses { color: var(--bad); }
tr.baseline th { font-style: italic; font-weight: 400; color: var(--mute); } .box { max-height: none; }
.charts { display: flex; flex-wrap: wrap; gap: 1.2rem; }
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
<title>{model}: evaluation of explanations</title>
<style>{style}</style>
</head>
<body>
<header><div><p class="over">Evaluation of explanations</p><h1>{model}</h1><p class="mute">{data}</p></div></header>
<main>
{body}
</main>
</body>
</html>
"""


def write_page(path: Path, found: Results, rows: Sequence[Row], draw: Draw) -> Path:
    """Write the page, whole or not at all.

    Args:
        path: the file.
        found: what is told.
        rows: of the maps; of them come the best and worst cases.
        draw: the explanation behind a row, by the sample's index and the method.

    Raises:
        OutputError: it cannot be written.
    """
    parts = (_stats(found), _table(found), _curves(found), _cases(found, rows, draw), _meaning(found), _failed(found))
    page = _PAGE.format(
        policy=policy(_STYLE, ""), style=_STYLE, model=markup(Path(found.model).name), data=markup(found.data),
        body="\n".join(filter(None, parts)),
    )  # fmt: skip
    return write_whole(path, page.encode())


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>\n{body}\n</section>" if body else ""


def _stats(found: Results) -> str:
    told = [("Pictures", found.counts["pictures"]), ("Samples", found.counts["samples"])]
    told += [("Failed", found.counts["errors"]), ("Left out", found.counts["left_out"])]
    told += [("Failed checks", failed)] if (failed := found.counts["failed_checks"]) else []
    cells = [(name, f"{count:,}") for name, count in told]
    cells += [] if found.accuracy is None else [("Top-1 accuracy", f"{100 * found.accuracy:.1f}&nbsp;%")]
    notes = "".join(f'<p class="mute">{markup(note)}</p>' for note in found.notes)
    return '<dl class="stats">' + "".join(f"<div><dt>{a}</dt><dd>{b}</dd></div>" for a, b in cells) + "</dl>" + notes


# ---- the table ----


def _table(found: Results) -> str:
    head = "".join(f'<th class="n" scope="col">{markup(m)} {_arrow(m)}</th>' for m in found.metrics)
    body = "".join(_line(found, name) for name in found.names)
    told = (
        "<p>&#9733; better than both baselines of the same resolution, by the whole 95 % interval of the paired "
        f"difference, on {FEW} pictures or more; red: worse than one of them, likewise. Intervals: percentile "
        f"bootstrap over pictures, {SAMPLES:,} draws. Each cell is judged by itself: of many, some stars come by "
        "chance.</p>"
    )
    return _section(
        "Methods and metrics",
        f'<div class="box"><table><thead><tr><th scope="col">method</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{told}",
    )


def _line(found: Results, name: str) -> str:
    kind = "" if name in found.methods else ' class="baseline"'
    cells = "".join(_cell(found.cell(name, m)) for m in found.metrics)
    return f'<tr{kind}><th scope="row">{markup(name)}</th>{cells}</tr>'


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return '<td class="n">&ndash;</td>'
    kind = " beats" if cell.beats else " loses" if cell.loses else ""
    mark = "&#9733;&nbsp;" if cell.beats else ""
    return f'<td class="n{kind}">{mark}{_figure(cell.estimate.value)}<small>{_interval(cell.estimate)}</small></td>'


def _figure(value: float) -> str:
    return f"{value:.3f}".replace("-", "&minus;")


def _interval(of: Estimate) -> str:
    return f"{_figure(of.low)} to {_figure(of.high)}"


def _arrow(metric: str) -> str:
    return "&uarr;" if METRICS[metric].higher else "&darr;"


# ---- curves ----


def _curves(found: Results) -> str:
    names = dict.fromkeys(curve for own in found.curves.values() for curve in own)
    charts = [_chart(found, name) for name in names]
    told = (
        "<p>Mean probability of the explained class against the share of the picture that is edited; where weights are "
        "made random, how alike the map stays: a method whose curve stays high shows the picture, not the model.</p>"
    )
    return _section("Curves", told + f'<div class="charts">{"".join(charts)}</div>' if charts else "")


def _chart(found: Results, curve: str) -> str:
    lines = [
        Line(name, found.curves[name][curve], name not in found.methods)
        for name in found.names
        if curve in found.curves.get(name, {})
    ]
    good = "high curves are good" if curve.startswith(("insertion", "road_lerf")) else "low curves are good"
    if curve == "randomisation":
        return chart(curve, lines, f"share of the layers with random weights ({good})", "rank correlation")
    return chart(curve, lines, f"share of the picture ({good})", "probability")


# ---- cases ----


def _cases(found: Results, rows: Sequence[Row], draw: Draw) -> str:
    metric = _telling(found, rows)
    if metric is None:
        return ""
    told = f"<p>By {markup(metric)} {_arrow(metric)}: worst, then best.</p>"
    return _section("Worst and best cases", told + "".join(_of_method(m, metric, rows, draw) for m in found.methods))


def _telling(found: Results, rows: Sequence[Row]) -> str | None:
    """The first metric that tells more of one map than right or wrong."""
    for name in found.metrics:
        values = {r["values"].get(name) for r in rows if METRICS[name].pool in ("mean", "class") and "values" in r}
        if len(values - {None}) > 2:
            return name
    return None


def _of_method(method: str, metric: str, rows: Sequence[Row], draw: Draw) -> str:
    own = [r for r in rows if r["method"] == method and "values" in r and r["values"].get(metric) is not None]
    order = sorted(own, key=lambda r: (r["values"][metric] * (1 if METRICS[metric].higher else -1), r["index"]))
    least = min(CASES, len(order) // 2)
    chosen = order[:least], order[len(order) - least :][::-1]
    shots = ["".join(_shot(row, method, metric, draw) for row in part) for part in chosen]
    if not any(shots):
        return ""
    return f"<h3>{markup(method)}</h3>" + "".join(f'<div class="shots">{part}</div>' for part in shots)


def _shot(row: Row, method: str, metric: str, draw: Draw) -> str:
    with suppress(OnnxcamError, OSError, MemoryError):  # pictures may be gone by now
        e = draw(row["index"], method)
        shown = data_uri(_small(e.overlay()), quality=_QUALITY)
        name, file = markup(e.label or str(e.class_index)), markup(Path(row["source"]).name)
        caption = f"{name}: {number(row['values'][metric], 3)}<br>{file}"
        return f'<figure><img alt="{name}" src="{shown}"><figcaption>{caption}</figcaption></figure>'
    return ""


def _small(picture: Any) -> Any:
    height, width = picture.shape[:2]
    factor = min(1.0, _SIDE / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    return picture if factor == 1.0 else resize_pixels(picture, size)


# ---- words ----


def _meaning(found: Results) -> str:
    rows = "".join(
        f'<tr><th scope="row">{markup(m)}</th><td>{markup(METRICS[m].title)}: {markup(METRICS[m].meaning)}; '
        f"{'higher' if METRICS[m].higher else 'lower'} is better</td><td>{markup(METRICS[m].source)}</td></tr>"
        for m in found.metrics
    )
    return _section("What the metrics mean", f'<div class="box"><table><tbody>{rows}</tbody></table></div>')


def _failed(found: Results) -> str:
    rows = "".join(f"<tr>{''.join(f'<td>{markup(c)}</td>' for c in f)}</tr>" for f in found.failures[:_FAILURES])
    more = len(found.failures) - _FAILURES
    told = f"<p>{more} more in results.jsonl.</p>" if more > 0 else ""
    return _section("Failures", f'<div class="box"><table><tbody>{rows}</tbody></table></div>{told}' if rows else "")
