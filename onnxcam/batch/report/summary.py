"""What a report says of the whole job: figures, settings, errors, flags, classes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxcam.batch.report.cards import enlarged
from onnxcam.batch.report.page import markup, number
from onnxcam.batch.report.tally import MOST_ERRORS, Figures, Group, Map, Shown, Truth
from onnxcam.core.overlay import colorize
from onnxcam.pages import data_uri

MOST_CLASSES = 1000  # rows of a table
_SIDE = 96  # of a mean map, in pixels


def summary(run: Mapping[str, Any], figures: Figures) -> str:
    """The sections above the gallery."""
    parts = (_stats(run, figures), _job(run, figures), _errors(figures), _flags(figures), _classes(figures))
    return "".join((*parts, _truths(figures)))


def note_on(shown: Shown, rows: int) -> str:
    """Which pictures have a card, where not all have."""
    if shown.indexes is None:
        return ""
    others = shown.count - shown.first
    return (
        f'<p class="mute">{shown.count:,} of {rows:,} images are shown: {shown.first:,} of the {shown.of_first:,} that '
        f"are errors, flagged or wrong, and {others:,} of the others, evenly spread over the job. "
        "results.jsonl holds all.</p>"
    )


def percent(share: float | None) -> str:
    """A share for readers."""
    return "&ndash;" if share is None else f"{100 * share:.1f}&nbsp;%"


# ---- figures and settings ----


def _stats(run: Mapping[str, Any], f: Figures) -> str:
    planned, failed = int((run.get("counts") or {}).get("planned") or f.rows), sum(f.errors.values())
    cells = [
        ("Images", f"{f.all.pictures:,}", _of_planned(f, planned)),
        ("Explained", f"{f.whole.count:,}", percent(f.whole.count / f.rows if f.rows else None)),
        ("Errors", f"{failed:,}", percent(failed / f.rows if f.rows else None)),
        ("Flagged", f"{f.whole.flagged:,}", f"{f.blank:,} blank map{'s' * (f.blank > 1)}" if f.blank else ""),
        ("Accuracy", percent(f.whole.accuracy), _of_known(f)),
        ("Rate", *_rate(run)),
    ]
    told = "".join(f"<div><dt>{a}</dt><dd>{b}<small>{c}</small></dd></div>" for a, b, c in cells)
    return f'<dl class="stats">{told}</dl>'


def _of_planned(f: Figures, planned: int) -> str:
    """Where a table asks for several targets of a picture, there are more rows than pictures."""
    rows = "" if f.rows == f.all.pictures else f"{f.rows:,} targets"
    return " ".join(filter(None, [rows, "" if planned == f.rows else f"of {planned:,} planned"]))


def _of_known(f: Figures) -> str:
    if f.whole.known:
        return f"{f.whole.right:,} of {f.whole.known:,} known"
    return "no true label is a class of the model" if f.truths else "no true class is known"


def _rate(run: Mapping[str, Any]) -> tuple[str, str]:
    sessions = run.get("sessions") or []
    seconds = sum(float(s.get("seconds") or 0) for s in sessions)
    count = sum(int(s.get("explained") or 0) + int(s.get("errors") or 0) for s in sessions)
    many = f" in {len(sessions)} sessions" if len(sessions) > 1 else ""
    return (f"{count / seconds:.1f}/s", f"{_duration(seconds)}{many}") if seconds else ("&ndash;", "")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{minutes} min" if minutes < 90 else f"{hours:.1f} h"


def _job(run: Mapping[str, Any], f: Figures) -> str:
    facts = _facts((name, text) for name, text in _settings(run, f) if text)
    mean = _figure(f.whole)
    return f'<section class="job" aria-label="Job"><div>{facts}{_everything(run)}</div>{mean}</section>'


def _settings(run: Mapping[str, Any], f: Figures) -> list[tuple[str, str]]:
    chosen = run.get("configuration") or {}
    steps = ", ".join(f"{k} {1000 * m.value:.1f} ms" for k, m in f.seconds.items() if m.value is not None)
    return [
        ("Model", str(run.get("model") or "")),
        ("SHA-256", str(run.get("model_sha256") or "")),
        ("Source", str(run.get("source") or "")),
        ("Method", _several(f.words["method"])),
        ("Layer", _several(f.words["layer"])),
        ("Target", str(chosen.get("target") or "") or _explained(f)),
        ("Preprocessing", "; ".join(filter(None, [_words(chosen.get("preprocess")), run.get("preprocess_reason")]))),
        ("Provider", _words(run.get("providers"))),
        ("Versions", _words(run.get("versions"))),
        ("Configuration", str(run.get("configuration_hash") or "")),
        ("Started", str(next((s.get("started") for s in run.get("sessions") or []), "") or "")),
        ("Mean time", steps and f"{steps} per image"),
    ]


def _explained(f: Figures) -> str:
    return "the predicted class" if f.predicted and f.whole.count else _several(f.words["target"])


def _several(words: Sequence[str]) -> str:
    return ", ".join(words[:3]) + (", ..." if len(words) > 3 else "")


def _words(value: Any) -> str:
    """A JSON value on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, list):
        return " / ".join(map(_words, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    return '<dl class="facts">' + "".join(f"<dt>{markup(k)}</dt><dd>{markup(v)}</dd>" for k, v in pairs) + "</dl>"


def _everything(run: Mapping[str, Any]) -> str:
    """The whole configuration, and every session."""
    chosen = [(str(k), json.dumps(v)) for k, v in (run.get("configuration") or {}).items()]
    sessions = [(f"session {k}", _words(s)) for k, s in enumerate(run.get("sessions") or [], 1)]
    if not (chosen or sessions):
        return ""
    return f"<details><summary>Whole configuration and sessions</summary>{_facts([*chosen, *sessions])}</details>"


# ---- maps ----


def _colours(mean: Map, size: int) -> str:
    """A mean map, pulled to its peak, so that a faint one is seen; the peak is told beside it."""
    peak = float(mean.max()) or 1.0
    return data_uri(colorize(enlarged(mean / peak, (size, size))), quality=85)


def _figure(group: Group) -> str:
    mean = group.mean_map
    if mean is None:
        return ""
    what = "images" if group.count == group.pictures else "maps"
    text = f"Mean map of {group.count:,} {what}; peak {float(np.max(mean)):.2f}"
    image = f'<img alt="" src="{_colours(mean, 2 * _SIDE)}">'
    return f'<figure class="map">{image}<figcaption>{text}</figcaption></figure>'


# ---- tables ----


def _table(name: str, heads: Sequence[str], rows: Iterable[str], note: str = "") -> str:
    """Heads that begin with # are those of numbers."""
    cells = "".join(f'<th class="n">{h[1:]}</th>' if h[:1] == "#" else f"<th>{h}</th>" for h in heads)
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    table = f"<table><thead><tr>{cells}</tr></thead><tbody>\n{body}</tbody></table>"
    box = f'<div class="box" tabindex="0" role="region" aria-label="{name}">{table}</div>'
    return f"<section><h2>{name}</h2>{note}{box}</section>\n"


def _n(*values: str) -> str:
    return "".join(f'<td class="n">{v}</td>' for v in values)


def _more(what: str, total: int, most: int) -> str:
    return f'<p class="mute">The first {most:,} of {total:,} {what}.</p>' if total > most else ""


def _errors(f: Figures) -> str:
    if not f.errors:
        return ""
    kinds = ", ".join(f"{markup(kind)} {count:,}" for kind, count in f.errors.most_common())
    note = f"<p>{kinds}</p>" + _more("errors", sum(f.errors.values()), MOST_ERRORS)
    rows = (
        f'<td class="text">{markup(name)}</td><td>{markup(kind)}</td><td class="text">{markup(message[:1000])}</td>'
        for name, kind, message in f.quoted
    )
    return _table("Errors", ("Image", "Kind", "Message"), rows, note)


def _flags(f: Figures) -> str:
    told: Counter[str] = Counter({"blank map: nothing speaks for the score": f.blank}) + f.warnings
    if not told:
        return ""
    rows = (f'<td class="text">{markup(what)}</td>{_n(f"{n:,}")}' for what, n in told.most_common(MOST_CLASSES))
    what = "#Images" if f.rows == f.all.pictures else "#Targets"
    return _table("Flags", ("What", what), rows, _more("flags", len(told), MOST_CLASSES))


def _classes(f: Figures) -> str:
    if not f.classes:
        return ""
    found = sorted(f.classes.items(), key=lambda pair: (-pair[1].count, pair[0][0] or 0))
    heads = ["Mean map", "Class", "#Index", "#Images", *(["#Right", "#Accuracy"] if f.whole.known else [])]
    heads += ["#Mean score", *(["#Mean probability"] if f.whole.probability.count else []), "#Peak", "#Flagged"]
    rows = (_class(index, name, group, heads) for (index, name), group in found[:MOST_CLASSES])
    note = '<p class="mute">By the class that is explained. A mean map is coloured up to its own peak.</p>'
    return _table("Classes", heads, rows, note + _more("classes", len(found), MOST_CLASSES))


def _class(index: int | None, name: str, g: Group, heads: Sequence[str]) -> str:
    mean = g.mean_map
    image = "" if mean is None else f'<img alt="" src="{_colours(mean, _SIDE)}">'
    cells = {
        "#Index": number(index),
        "#Images": f"{g.pictures:,}",
        "#Right": f"{g.right:,} of {g.known:,}",
        "#Accuracy": percent(g.accuracy),
        "#Mean score": number(g.mean_score),
        "#Mean probability": number(g.probability.value),
        "#Peak": "&ndash;" if mean is None else f"{float(mean.max()):.2f}",
        "#Flagged": f"{g.flagged:,}",
    }
    link = f'<button type="button" class="link" data-class="{markup(str(index))}">{markup(name)}</button>'
    return f'<td>{image}</td><th scope="row">{link}</th>' + _n(*(v for k, v in cells.items() if k in heads))


def _truths(f: Figures) -> str:
    if not f.truths:
        return ""
    found = sorted(f.truths.items(), key=lambda pair: (-pair[1].pictures, pair[0]))
    rows = (_truth(name, truth) for name, truth in found[:MOST_CLASSES])
    heads = ("True class", "#Images", "#Right", "#Accuracy", "Taken for")
    return _table("True classes", heads, rows, _more("true classes", len(found), MOST_CLASSES))


def _truth(name: str, t: Truth) -> str:
    taken = ", ".join(f"{markup(other)} {count:,}" for other, count in t.taken_for.most_common(3))
    cells = f"{t.pictures:,}", f"{t.right:,}" if t.known else "no class of the model", percent(t.accuracy)
    return f'<th scope="row">{markup(name)}</th>{_n(*cells)}<td class="text">{taken or "&ndash;"}</td>'
