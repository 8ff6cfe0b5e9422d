"""docs/performance.md: tables between markers, of the rows that ``python -m benchmarks`` kept; the prose stays."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.speed import CAPTUM, GRAD_CAM, OURS, PLAIN, SESSION, TORCH, TORCH_CAM

Row = dict[str, Any]
PEERS = (GRAD_CAM, TORCH_CAM, CAPTUM)
ABOUT = ("what", "network", "model", "method", "size", "batch", "threads")
FAR = {"gradcam": 1e-3, "layercam": 1e-3, "scorecam": 1e-3, "guided_backprop": 1e-2, "integrated_gradients": 1e-2}
"""How far a peer's map may be off before it is marked; pixel gradients in float32 are noisy in themselves."""


def key(row: Row) -> tuple[Any, ...]:
    """What a row answers; a later one of the same key replaces it."""
    return tuple(row.get(name) for name in ABOUT)


# ---- Figures


def middle(turns: Sequence[float]) -> tuple[float, float, float]:
    """Median and quartiles."""
    low, median, high = np.percentile(turns, [25, 50, 75])
    return float(median), float(low), float(high)


def ratio(turns: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """One over the other: median and quartiles of the quotients of turns of the same round.

    Where one was measured once, the quotient of medians.
    """
    if len(turns) == len(base) > 1:
        return middle(np.asarray(turns) / np.asarray(base))
    value = float(np.median(turns) / np.median(base))
    return value, value, value


def _turns(row: Row, who: str) -> list[float]:
    found = row["found"].get(who)
    return list(found["turns"]) if found and not found["error"] else []


def milliseconds(turns: Sequence[float]) -> str:
    """``12.3 (12.1 to 12.6)``; ``8160, once``."""
    if not turns:
        return "-"
    if len(turns) == 1:
        return f"{_short(turns[0] * 1e3)}, once"
    median, low, high = (_short(t * 1e3) for t in middle(turns))
    return f"{median} ({low} to {high})"


def times(turns: Sequence[float], base: Sequence[float]) -> str:
    """``1.03 (1.02 to 1.05)``, a quotient."""
    if not turns or not base:
        return "-"
    value, low, high = ratio(turns, base)
    return f"{value:.2f}" if low == high else f"{value:.2f} ({low:.2f} to {high:.2f})"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def lines(table: str, row: Row) -> list[str]:
    """A row, for the terminal."""
    head = " ".join(str(row[name]) for name in ABOUT if row.get(name) is not None)
    if table == "growth":
        return [f"{head}: " + " ".join(f"{mb:.1f}" for mb in row["resident"]) + " MB"]
    if table == "start":
        return [f"{head}: {who} {milliseconds(t)} ms" for who, t in row["found"].items()]
    plain = _turns(row, PLAIN)
    return [head, *(f"    {who:18s} {_line(found, plain)}" for who, found in row["found"].items())]


def _line(found: Mapping[str, Any], plain: Sequence[float]) -> str:
    if found["error"]:
        return str(found["error"])
    far = "" if found["far"] is None else f"   map {found['far']:.0e} apart"
    noisy = f"   {found['disturbed']} of {len(found['turns'])} turns disturbed" if found["disturbed"] else ""
    return f"{milliseconds(found['turns']):26s} ms   x {times(found['turns'], plain)}{far}{noisy}"


# ---- Tables


def beside_plain(kept: Mapping[str, list[Row]]) -> str:
    """One network a line: what a run costs with the explanation in it."""
    heads = (
        "network",
        "plain run, ms",
        "Grad-CAM, run",
        "Grad-CAM, whole call",
        "LayerCAM, run",
        "Guided Backprop, run",
    )
    asked = {(r["network"], r["method"]): r for r in _all(kept, "cams", "pixels")}

    def cell(network: str, method: str, who: str) -> str:
        row = asked.get((network, method))
        return times(_turns(row, who), _turns(row, PLAIN)) if row else "-"

    columns = (("gradcam", SESSION), ("gradcam", OURS), ("layercam", SESSION), ("guided_backprop", SESSION))
    return _table(heads, [
        [n, _plain(asked, n), *(cell(n, *c) for c in columns)] for n in dict.fromkeys(n for n, _ in asked)
    ])  # fmt: skip


def _plain(asked: Mapping[tuple[str, str], Row], network: str) -> str:
    row = asked.get((network, "gradcam")) or next(r for (n, _), r in asked.items() if n == network)
    return milliseconds(_turns(row, PLAIN))


def beside_peers(kept: Mapping[str, list[Row]], *tables: str) -> str:
    """One question a line: onnxcam's milliseconds, each peer's as a multiple, and how far its map is."""
    heads = ("method", "network", "onnxcam, ms", *(f"{p}, times onnxcam" for p in PEERS), "maps apart")
    return _table(heads, [_against(row) for row in _all(kept, *tables)])


def _against(row: Row) -> list[str]:
    ours = _turns(row, OURS)
    apart = [_far(row, p) for p in PEERS if _turns(row, p)]
    cells = [times(_turns(row, p), ours) for p in PEERS]
    return [row["method"], row["network"], milliseconds(ours), *cells, ", ".join(apart) or "-"]


def _far(row: Row, who: str) -> str:
    far = row["found"][who]["far"]
    text = f"{far:.0e}".replace("e-0", "e-")
    return text if far <= FAR.get(row["method"], 1e-3) else f"**{text}**"


def torch_beside(kept: Mapping[str, list[Row]]) -> str:
    """The bare networks: torch's forward pass against ONNX Runtime's."""
    found = [r for r in _all(kept, "cams") if _turns(r, TORCH)]
    rows = [[r["network"], milliseconds(_turns(r, TORCH)), times(_turns(r, TORCH), _turns(r, PLAIN))] for r in found]
    return _table(("network", "torch forward, ms", "times onnxruntime"), rows)


def building(kept: Mapping[str, list[Row]]) -> str:
    """Seconds until the first map, of Grad-CAM and of the full backward pass."""
    heads = (
        "method",
        "network",
        "onnxruntime session",
        "onnxcam: Explainer",
        "onnxcam: first map",
        f"{GRAD_CAM}: first map",
    )
    rows = []
    for row in _all(kept, "cams", "pixels"):
        if row["method"] in ("gradcam", "guided_backprop"):
            asked = ((PLAIN, "build"), (OURS, "build"), (OURS, "first"), (GRAD_CAM, "first"))
            rows.append([row["method"], row["network"], *(_step(row, who, step) for who, step in asked)])
    return _table(heads, rows)


def _step(row: Row, who: str, step: str) -> str:
    seconds = row["found"].get(who, {}).get("steps", {}).get(step)
    return "-" if seconds is None else f"{seconds:.2f} s"


def memory(kept: Mapping[str, list[Row]]) -> str:
    """Peak MB of each competitor's process."""
    who = (PLAIN, OURS, *PEERS)
    rows = [
        [r["method"], r["network"], *(f"{p:.0f}" if (p := r["found"].get(w, {}).get("peak")) else "-" for w in who)]
        for r in _all(kept, "cams", "pixels", "many")
    ]
    return _table(("method", "network", *(f"{w}, MB" for w in who)), rows)


def growing(kept: Mapping[str, list[Row]]) -> str:
    """Resident memory after a tenth of the calls and after all."""
    heads = ("model", "method", "calls", "after a tenth, MB", "at the end, MB", "growth")
    return _table(heads, [
        [r["model"], r["method"], f"{r['calls']:,}", f"{r['resident'][0]:.1f}", f"{r['resident'][-1]:.1f}",
         f"{grown(r['resident']):+.2%}"]
        for r in _all(kept, "growth")
    ])  # fmt: skip


def grown(resident: Sequence[float]) -> float:
    """Growth from the first sample to the last, as a share of the first."""
    return resident[-1] / resident[0] - 1


def batches(kept: Mapping[str, list[Row]]) -> str:
    """Grad-CAM of N pictures in one call."""
    heads = (
        "network",
        "N",
        "plain run, ms",
        "onnxcam, ms",
        "times plain",
        "ms per picture",
        f"{GRAD_CAM}, times onnxcam",
    )
    return _table(heads, [
        [r["network"], str(r["batch"]), milliseconds(_turns(r, PLAIN)), milliseconds(_turns(r, OURS)),
         times(_turns(r, OURS), _turns(r, PLAIN)), _short(float(np.median(_turns(r, OURS))) * 1e3 / r["batch"]),
         times(_turns(r, GRAD_CAM), _turns(r, OURS))]
        for r in _all(kept, "batch")
    ])  # fmt: skip


def sizes(kept: Mapping[str, list[Row]]) -> str:
    """Cost as the picture grows."""
    heads = (
        "method",
        "network",
        "side",
        "plain run, ms",
        "run, times plain",
        "whole call",
        f"{GRAD_CAM}, times onnxcam",
    )
    return _table(heads, [
        [r["method"], r["network"], str(r["size"]), milliseconds(_turns(r, PLAIN)),
         times(_turns(r, SESSION), _turns(r, PLAIN)), times(_turns(r, OURS), _turns(r, PLAIN)),
         times(_turns(r, GRAD_CAM), _turns(r, OURS))]
        for r in _all(kept, "size")
    ])  # fmt: skip


def starts(kept: Mapping[str, list[Row]], what: str) -> str:
    """Seconds of whole processes."""
    rows = [[who, _seconds(t)] for r in _all(kept, "start") if r["what"] == what for who, t in r["found"].items()]
    return _table(("imports of" if what == "import" else "command", "seconds"), rows)


def _seconds(turns: Sequence[float]) -> str:
    median, low, high = middle(turns)
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def _all(kept: Mapping[str, list[Row]], *tables: str) -> list[Row]:
    return [row for table in tables for row in kept.get(table, [])]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    every = [heads, ["---", *["---:" for _ in heads[1:]]], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in every)


# ---- The page

TABLES: dict[str, tuple[str, Callable[[Mapping[str, list[Row]]], str]]] = {
    "plain": ("cams pixels", beside_plain),
    "peers": ("cams pixels", lambda kept: beside_peers(kept, "cams", "pixels")),
    "many": ("many", lambda kept: beside_peers(kept, "many")),
    "torch": ("cams", torch_beside),
    "batch": ("batch", batches),
    "size": ("size", sizes),
    "import": ("start", lambda kept: starts(kept, "import")),
    "cold": ("start", lambda kept: starts(kept, "cold")),
    "build": ("cams pixels", building),
    "memory": ("cams pixels many", memory),
    "growth": ("growth", growing),
}
_MARKED = r"(<!-- table: {name} -->\n).*?(<!-- end -->)"


def rewrite(page: str, kept: Mapping[str, list[Row]]) -> str:
    """The page with every marked table made anew; tables that nothing is kept of stay as they are."""
    for name, (command, make) in TABLES.items():
        if any(kept.get(table) for table in command.split()):
            told = _told(kept, command)
            body = f"`python -m benchmarks {command}`; {told}\n\n{make(kept)}\n"
            page = re.sub(_MARKED.format(name=name), lambda m, b=body: m[1] + b + m[2], page, flags=re.DOTALL)
    return page


def _told(kept: Mapping[str, list[Row]], command: str) -> str:
    """Which day, which versions, and how many turns were disturbed."""
    rows = _all(kept, *command.split())
    days = sorted({r["day"] for r in rows})
    versions = ", ".join(sorted({f"{n} {v}" for r in rows for n, v in r["versions"].items()}))
    cells = [f for r in rows for f in r["found"].values() if isinstance(f, dict)] if "found" in rows[0] else []
    turns, bad = sum(len(f["turns"]) for f in cells), sum(f["disturbed"] for f in cells)
    noisy = f"; other work disturbed {bad} of {turns} turns" if bad else ""
    return f"{days[0]}{f' to {days[-1]}' if len(days) > 1 else ''}, {versions}{noisy}."
