"""What the figures of an audit mean, in plain words; careful where they do not tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnxcam.audit.regions import REST
from onnxcam.audit.result import Share, Swap
from onnxcam.evaluate.statistics import Estimate

_FEW = 20  # pictures; below, intervals of a bootstrap are too narrow
_OFTEN = 0.1
_BY = {
    "other": "what a picture with another answer shows",
    "blur": "a blur",
    "mean": "one colour",
    "counterpart": "its counterpart",
}


def verdict(shares: Sequence[Share], swaps: Sequence[Swap]) -> tuple[str, ...]:
    """Sentences, the most telling one first: of regions that draw more evidence than their area, first those that
    decide answers, then those whose evidence departs most from an even spread.

    Args:
        shares: of all answers, the most telling one first.
        swaps: region by region.
    """
    if not shares:
        return ("No map shows evidence in a known region: there is nothing to say.",)
    return tuple(_sentences(shares, {s.region: s for s in swaps}))


def looked_at(shares: Sequence[Share], swaps: Sequence[Swap]) -> list[Share]:
    """The regions that the model looks at: those that decide answers first, then in the order of ``shares``."""
    decide = {s.region for s in swaps if s.decides}
    found = [s for s in shares if s.more and (s.region in decide or s.energy >= _OFTEN)]
    return sorted(found, key=lambda s: s.region not in decide)


def _sentences(shares: Sequence[Share], swaps: Mapping[str, Swap]) -> Iterator[str]:
    looks = looked_at(shares, [*swaps.values()])
    if not looks:
        yield _open(shares)
    for k, s in enumerate(looks):
        told = f"{'It also' if k else 'The model'} looks at {_the(s.region)}: {_figures(s)}{_middle(s)}"
        yield f"{told}{_consequence(s, swaps.get(s.region))}."
    seen = {s.region for s in looks}
    for swap in swaps.values():
        if swap.decides and swap.region not in seen:
            yield (
                f"Replacing {_the(swap.region)} by {_BY[swap.by]} flips {_percent(swap.flips)} of the answers, though "
                "no more of the evidence lies there than its area would have: the maps do not tell the whole of it."
            )
    if held := [f"{_the(w.region)} ({_flip(w.flips)})" for w in swaps.values() if w.idle and w.region not in seen]:
        yield f"Answers hold where these are replaced: {', '.join(held)}."
    if passed := [f"{_the(s.region)} ({s.ratio.value:.1f} x)" for s in shares if s.less]:
        yield f"Less of its evidence than of the area lies in {', '.join(passed)}."
    if (count := max(s.ratio.count for s in shares)) < _FEW:
        yield f"That rests on {count} picture{'s' * (count != 1)}: too few for intervals to be trusted."


def _open(shares: Sequence[Share]) -> str:
    s = shares[0]
    return (
        f"Whether the model prefers a region is open: {_the(s.region)} comes nearest: {_figures(s)}; sign test "
        f"p = {s.p:.2g}."
    )


def _figures(s: Share) -> str:
    where = f"{100 * s.energy:.0f} % of its evidence lies there, on {100 * s.area:.0f} % of the area"
    return f"{where} ({s.ratio.value:.1f} x, {s.ratio.low:.1f} to {s.ratio.high:.1f})"


def _middle(s: Share) -> str:
    """What lies in the middle of pictures draws evidence by its place alone."""
    if s.over_centre.low > 0:
        return ""
    return f", though a spot in the middle of the picture would have {100 * s.centre:.0f} % there"


def _consequence(s: Share, swap: Swap | None) -> str:
    if swap is None:
        return ""
    said = f"; replacing it by {_BY[swap.by]} flips {_percent(swap.flips)} of the answers"
    if swap.control is not None:
        said += f", by what one with the same answer shows {_percent(swap.control)}"
    return f"{said}: {_weight(s, swap)}"


def _weight(s: Share, swap: Swap) -> str:
    if swap.decides:
        return f"it judges by {_the(s.region)}"
    if swap.idle:
        return "its answers do not hang on that alone"
    if swap.beyond is not None and swap.beyond.low <= 0:
        return "no more than pasting may do by itself, so that this does not tell"
    if swap.flips.low > _OFTEN:
        return "it has a say, and is not all"
    return "how much hangs on it is open"


def _the(region: str) -> str:
    return f"the {region}" + (" (what belongs to no region)" if region == REST else "")


def _flip(of: Estimate) -> str:
    return f"{100 * of.value:.0f} % flip, {100 * of.low:.0f} to {100 * of.high:.0f}"


def _percent(of: Estimate) -> str:
    return f"{100 * of.value:.0f} % ({100 * of.low:.0f} to {100 * of.high:.0f})"
