"""From the numbers of each map to a table: methods by metrics, with intervals, held against maps that know nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.evaluate.localization import at_best_threshold, pointing_recall, rejection_threshold, split
from onnxcam.evaluate.measures import GRID, ROAD
from onnxcam.evaluate.metrics import METRICS, Metric
from onnxcam.evaluate.statistics import FEW, Estimate, bootstrap_sums

Array = NDArray[Any]
Row = Mapping[str, Any]
Points = tuple[tuple[float, float], ...]
SAMPLES = 1000  # draws of a bootstrap


@dataclass(frozen=True)
class Cell:
    """A metric of a method.

    Attributes:
        estimate: over pictures, with its 95 % interval.
        against: by baseline, how much better the method is on the same pictures, with its interval; the sign is such
            that above 0 is better, whichever way the metric goes.
    """

    estimate: Estimate
    against: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def beats(self) -> bool:
        """Better than every baseline, the whole interval of the paired difference, on no fewer than 20 pictures."""
        return bool(self.against) and all(d.low > 0 and d.count >= FEW for d in self.against.values())

    @property
    def loses(self) -> bool:
        """Worse than some baseline, likewise."""
        return any(d.high < 0 and d.count >= FEW for d in self.against.values())


@dataclass(frozen=True)
class Results:
    """What an evaluation found.

    Attributes:
        model: its path or name.
        data: what it was evaluated on.
        methods: names, in the order asked for.
        baselines: by method, the maps that know nothing at the method's own resolution.
        metrics: names, in the order asked for.
        table: by method or baseline, by metric; a metric without a number is left out.
        counts: ``pictures``, ``samples`` (classes in pictures), ``errors`` (of samples), ``failed_checks`` (of methods
            as a whole), and ``left_out``: samples of classes that the model does not have.
        accuracy: share of pictures that show the class that the model predicts; None where the
            data has no classes, or a picture may show several.
        curves: by method or baseline, by name: points of the mean over maps.
        failures: (source, method, message).
        configuration: all that decides what the results are.
        notes: what a reader should know.
    """

    model: str
    data: str
    methods: tuple[str, ...]
    baselines: Mapping[str, tuple[str, ...]]
    metrics: tuple[str, ...]
    table: Mapping[str, Mapping[str, Cell]]
    counts: Mapping[str, int]
    accuracy: float | None
    curves: Mapping[str, Mapping[str, Points]]
    failures: tuple[tuple[str, str, str], ...]
    configuration: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Methods, and behind them the baselines."""
        return *self.methods, *dict.fromkeys(b for own in self.baselines.values() for b in own)

    def cell(self, name: str, metric: str) -> Cell | None:
        """Of a method or baseline; None where there is no number."""
        return self.table.get(name, {}).get(metric)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        plain = {n: {m: _told(c) for m, c in row.items()} for n, row in self.table.items()}
        catalogue = {
            m: {k: getattr(METRICS[m], k) for k in ("title", "higher", "meaning", "source")} for m in self.metrics
        }
        return {
            "version": 1, "model": self.model, "data": self.data, "methods": list(self.methods),
            "baselines": {k: list(v) for k, v in self.baselines.items()}, "metrics": catalogue, "table": plain,
            "counts": dict(self.counts), "accuracy": self.accuracy,
            "curves": {n: {c: list(map(list, v)) for c, v in own.items()} for n, own in self.curves.items()},
            "failures": [dict(zip(("source", "method", "error"), f, strict=True)) for f in self.failures],
            "notes": list(self.notes), "configuration": dict(self.configuration),
        }  # fmt: skip


def _told(cell: Cell) -> dict[str, Any]:
    against = {name: asdict(d) for name, d in cell.against.items()}
    return {**asdict(cell.estimate), **({"against": against, "beats": cell.beats} if against else {})}


def make_table(
    rows: Sequence[Row], metrics: Sequence[Metric], baselines: Mapping[str, Sequence[str]], seed: int = 0
) -> dict[str, dict[str, Cell]]:
    """The table of the rows of a job; see :class:`Results`."""
    names = [*baselines, *dict.fromkeys(b for own in baselines.values() for b in own)]
    table: dict[str, dict[str, Cell]] = {name: {} for name in names}
    for metric in metrics:
        kept = {name: dict(_of_pictures(metric, [r for r in rows if r["method"] == name], seed)) for name in names}
        classes = sorted({c for own in kept.values() for values in own.values() for c, _ in values})
        tallies = {
            n: {p: np.sum([_tally(metric, c, v, classes) for c, v in values], axis=0) for p, values in own.items()}
            for n, own in kept.items()
        }
        for name in names:
            if tallies[name]:
                table[name][metric.name] = _cell(metric, name, tallies, baselines.get(name, ()), seed)
    return table


Values = list[tuple[str, Any]]
"""Of one picture: class and value."""


def _of_pictures(metric: Metric, rows: Sequence[Row], seed: int) -> Iterator[tuple[str, Values]]:
    """By picture, what its maps say."""
    found: dict[str, Values] = {}
    for row in rows:
        if (value := row.get("values", {}).get(metric.name)) is not None:
            found.setdefault(row["source"], []).append((str(row["truth"]), value))
    return iter((_rejected(found, seed) if metric.pool == "reject" else found).items())


def _rejected(found: Mapping[str, Values], seed: int) -> dict[str, Values]:
    """Hits of `pointing_recall`, by a threshold that is chosen on a fifth of the pictures, which are left out."""
    if len(found) < 2:
        return {}
    parts = {p: np.asarray(values[0][1], np.float64) for p, values in found.items()}
    held = dict(zip(parts, split(len(parts), seed=seed), strict=True))
    chosen = np.concatenate([part for p, part in parts.items() if held[p]])
    threshold = rejection_threshold(*_columns(chosen))
    hits = {p: pointing_recall(*_columns(part), threshold) for p, part in parts.items() if not held[p]}
    return {p: [("", float(hit)) for hit in own] for p, own in hits.items()}


def _columns(triples: Array) -> tuple[Array, Array, Array]:
    return triples[:, 0], triples[:, 1] > 0, triples[:, 2] > 0


def _tally(metric: Metric, name: str, value: Any, classes: Sequence[str]) -> Array:
    """What adds up over maps: sums and counts."""
    if metric.pool != "class":
        return np.append(np.asarray(value, np.float64).ravel(), 1.0)
    counts = np.array([float(c == name) for c in classes])
    return np.concatenate([float(value) * counts, counts])


def _pooled(metric: Metric, totals: Array) -> Array:
    """(S,): one number from each row of sums and counts."""
    if metric.pool == "class":
        sums, counts = np.split(totals, 2, axis=1)
        there = counts > 0
        return np.asarray((sums / np.where(there, counts, 1)).sum(axis=1) / there.sum(axis=1))
    means = totals[:, :-1] / totals[:, -1:]
    return at_best_threshold(means.reshape(len(totals), metric.levels, -1))


def _cell(
    metric: Metric, name: str, tallies: Mapping[str, Mapping[str, Array]], baselines: Iterable[str], seed: int
) -> Cell:
    """Intervals are over pictures: several classes of one are not independent."""

    def estimate(rows: Array) -> Estimate:
        return bootstrap_sums(rows, partial(_pooled, metric), samples=SAMPLES, seed=seed)

    def better(rows: Array) -> Estimate:
        sign = 1.0 if metric.higher else -1.0

        def gap(totals: Array) -> Array:
            mine, other = np.split(totals, 2, axis=1)
            return sign * (_pooled(metric, mine) - _pooled(metric, other))

        return bootstrap_sums(rows, gap, samples=SAMPLES, seed=seed)

    own = tallies[name]
    against = {}
    for baseline in baselines:
        both = [p for p in own if p in tallies[baseline]]
        if both:
            against[baseline] = better(np.stack([np.append(own[p], tallies[baseline][p]) for p in both]))
    return Cell(estimate(np.stack([*own.values()])), against)


def mean_curves(rows: Iterable[Row]) -> dict[str, dict[str, Points]]:
    """By method and name, the mean over maps against the share of the picture that is edited."""
    found: dict[str, dict[str, list[Sequence[float]]]] = {}
    for row in rows:
        for name, scores in row.get("curves", {}).items():
            found.setdefault(row["method"], {}).setdefault(name, []).append(scores)
    return {
        method: {name: _mean(ROAD if name.startswith("road") else GRID, many) for name, many in own.items()}
        for method, own in found.items()
    }


def _mean(shares: Sequence[float], many: Sequence[Sequence[float]]) -> Points:
    return tuple(zip(shares, np.mean(many, axis=0).round(6).tolist(), strict=True))


def of_checks(checks: Iterable[Row]) -> tuple[list[Row], dict[str, dict[str, Points]]]:
    """What checks of whole methods add: rows of pictures, and curves."""
    rows: list[Row] = []
    curves: dict[str, dict[str, Points]] = {}
    for one in (c for c in checks if "error" not in c):
        for source, value in zip(one["sources"], one["values"], strict=True):
            rows.append({"source": source, "method": one["method"], "truth": "", "values": {one["check"]: value}})
        if one["curve"]:
            curves.setdefault(one["method"], {})[one["check"]] = tuple((x, y) for x, y in one["curve"])
    return rows, curves
