"""From the rows of an audit to its figures: shares, contrasts, swaps, each with its interval and its test."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.audit.result import LEAST, Contrast, Row, Share, Swap
from onnxcam.compare.figures import binomial
from onnxcam.evaluate.statistics import Estimate, bootstrap, difference, ratio

Array = NDArray[Any]
_Z = 1.959963984540054  # of 95 %
_DRAWS = 4999  # of a permutation test


def proportion(hits: int, count: int) -> Estimate:
    """A share with Wilson's interval, which stays a width at 0 and 1, where a bootstrap has none.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927,
    https://doi.org/10.1080/01621459.1927.10502953: ``(p + z^2/2n +- z sqrt(p (1-p) / n + z^2/4n^2)) / (1 + z^2/n)``.

    Args:
        hits: how many of them.
        count: of how many, above 0.
    """
    share, room = hits / count, _Z**2 / count
    middle, reach = share + room / 2, _Z * math.sqrt(share * (1 - share) / count + room / (4 * count))
    low, high = (middle - reach) / (1 + room), (middle + reach) / (1 + room)
    return Estimate(share, 0.0 if hits == 0 else low, 1.0 if hits == count else high, count)


def holm(values: Sequence[float]) -> list[float]:
    """P values of several tests, adjusted so that any false one among them stays as rare as a single one.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979, https://www.jstor.org/stable/4615733: the
    k-th smallest of n times ``n - k + 1``, at least the one before, at most 1.
    """
    found, most = [0.0] * len(values), 0.0
    for rank, k in enumerate(sorted(range(len(values)), key=lambda k: values[k])):
        most = max(most, min(1.0, values[k] * (len(values) - rank)))
        found[k] = most
    return found


def permutation(a: Array, b: Array, seed: int = 0) -> float:
    """How likely means so far apart, or farther, are if values fell to the two groups by chance.

    Two-sided, over 4,999 random shares-out and the one observed, ``(1 + at least as far) / 5000`` (Phipson and Smyth,
    "Permutation P-values Should Never Be Zero", 2010, https://doi.org/10.2202/1544-6115.1585).

    Args:
        a: (N,) of the first group.
        b: (M,) of the second.
        seed: of the draws.
    """
    rng, both, total = np.random.default_rng(seed), np.concatenate([a, b]), float(a.sum() + b.sum())

    def apart(first: float) -> float:
        return abs(first / len(a) - (total - first) / len(b))

    seen = apart(float(a.sum())) * (1 - 1e-12)
    far = sum(apart(float(rng.permutation(both)[: len(a)].sum())) >= seen for _ in range(_DRAWS))
    return (1 + far) / (1 + _DRAWS)


def _sign_test(first: Array, second: Array) -> float:
    return binomial(int((first > second).sum()), int((first < second).sum()))


# ---- shares ----


def shares(rows: Sequence[Row], seed: int = 0, least: int = LEAST) -> tuple[Share, ...]:
    """Of each region, of all answers and of each; the most telling region first.

    Args:
        rows: of pictures with evidence.
        seed: of the bootstrap.
        least: pictures of an answer that gets lines of its own.
    """
    answers = [a for a, count in sorted(Counter(r["answer"] for r in rows).items()) if count >= least]
    names = list(dict.fromkeys(name for r in rows for name in r["regions"]))
    whole = _adjusted(s for n in names if (s := _share(rows, n, None, seed)))
    parts = _adjusted(s for answer in answers for n in names if (s := _share(rows, n, answer, seed)))
    order = {s.region: -s.information for s in whole}
    return tuple(sorted([*whole, *parts], key=lambda s: (s.answer is not None, s.answer or "", order[s.region])))


def _adjusted(found: Iterable[Share]) -> list[Share]:
    lines = list(found)
    return [replace(s, p=p) for s, p in zip(lines, holm([s.p for s in lines]), strict=True)]


def _share(rows: Sequence[Row], region: str, answer: str | None, seed: int) -> Share | None:
    own = [r["regions"][region] for r in rows if region in r["regions"] and answer in (None, r["answer"])]
    if not own:
        return None
    energy, area, centre = (np.array([r[k] for r in own]) for k in ("energy", "area", "centre"))
    against = [r["against"] for r in own if r["against"] is not None]
    return Share(
        region, answer, float(energy.mean()), float(area.mean()),
        bootstrap(np.stack([energy, area], axis=1), ratio, seed=seed), _sign_test(energy, area),
        float(np.mean(against)) if against else None, float(centre.mean()), difference(energy, centre, seed=seed),
    )  # fmt: skip


# ---- contrasts ----


def contrasts(
    rows: Sequence[Row], pairs: Iterable[tuple[str, str]], seed: int = 0, least: int = LEAST
) -> tuple[Contrast, ...]:
    """Between pairs of regions, and between groups of pictures, region by region."""
    regions = [c for a, b in pairs if (c := _of_regions(rows, a, b, seed))]
    return *regions, *_of_groups(rows, seed, least)


def _of_regions(rows: Sequence[Row], a: str, b: str, seed: int) -> Contrast | None:
    own = [r["regions"] for r in rows if a in r["regions"] and b in r["regions"]]
    if not own:
        return None
    values = np.array([[r[n][k] for n in (a, b) for k in ("energy", "area")] for r in own])
    p = _sign_test(values[:, 0] / values[:, 1], values[:, 2] / values[:, 3])
    return Contrast(a, b, None, bootstrap(values, _apart, seed=seed), p)


def _apart(rows: Array) -> float:
    energy_a, area_a, energy_b, area_b = rows.sum(axis=0)
    return float(energy_a / area_a - energy_b / area_b)


def _of_groups(rows: Sequence[Row], seed: int, least: int) -> Iterator[Contrast]:
    """Each group against all others; of two, the first against the second."""
    groups = sorted({r["truth"] for r in rows if r["truth"] is not None})
    if len(groups) < 2:
        return
    told = [r for r in rows if r["truth"] is not None]
    for region in dict.fromkeys(name for r in told for name in r["regions"]):
        for group in groups[:1] if len(groups) == 2 else groups:
            a, b = (_excess(told, region, group, inside) for inside in (True, False))
            if len(a) >= least and len(b) >= least:
                other = groups[1] if len(groups) == 2 else "all others"
                yield Contrast(group, other, region, _gap(a, b, seed), permutation(a, b, seed))


def _excess(rows: Sequence[Row], region: str, group: str, inside: bool) -> Array:
    own = [r["regions"][region] for r in rows if region in r["regions"] and (r["truth"] == group) == inside]
    return np.array([r["energy"] - r["area"] for r in own])


def _gap(a: Array, b: Array, seed: int) -> Estimate:
    """The difference of two means; each group is drawn again within itself."""
    rng = np.random.default_rng(seed)
    draws = [rng.choice(a, len(a)).mean() - rng.choice(b, len(b)).mean() for _ in range(2000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(a.mean() - b.mean()), float(low), float(high), len(a) + len(b))


# ---- swaps ----


def swaps(rows: Sequence[Row], seed: int = 0) -> tuple[Swap, ...]:
    """Of each region that was replaced, the one that flips most answers first."""
    names = dict.fromkeys(name for r in rows for name in r.get("swaps", {}))
    return tuple(sorted((_swap(rows, name, seed) for name in names), key=lambda s: -s.flips.value))


def _swap(rows: Sequence[Row], region: str, seed: int) -> Swap:
    own = [(r["said"], r["swaps"][region]) for r in rows if region in r.get("swaps", {})]
    by_answer: dict[str, list[bool]] = {}
    for answer, one in own:
        by_answer.setdefault(answer, []).append(one["flipped"])
    pairs = [(one["flipped"], one["control"]) for _, one in own if one.get("control") is not None]
    return Swap(
        region, own[0][1]["by"], _flips([one["flipped"] for _, one in own]),
        _flips([control for _, control in pairs]) if pairs else None,
        difference(*np.array(pairs, np.float64).T, seed=seed) if pairs else None, _each(by_answer),
    )  # fmt: skip


def _each(by_answer: Mapping[str, Sequence[bool]]) -> dict[str, Estimate]:
    return {answer: _flips(many) for answer, many in sorted(by_answer.items())}


def _flips(many: Sequence[bool]) -> Estimate:
    return proportion(sum(many), len(many))
