"""What the figures of an audit mean, in plain words; careful where they do not tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnxcam.audit.regions import ACROSS, DOWN, REST
from onnxcam.audit.result import LEAST, Share, Swap
from onnxcam.compare.figures import counted
from onnxcam.evaluate.statistics import FEW, Estimate

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
        swap = swaps.get(s.region)
        yield f"{told}; {_consequence(swap, 'it')}." if swap else f"{told}."
    seen = {s.region for s in looks}
    if seen & {*DOWN} and seen & {*ACROSS}:
        yield "Thirds of the height and of the width overlap, so that these are partly the same evidence."
    yield from _unseen([w for w in swaps.values() if w.region not in seen], {s.region: s for s in shares})
    if passed := [f"{_the(s.region)} ({s.ratio.value:.1f} x)" for s in shares if s.less]:
        yield f"Less of its evidence than of the area lies in {', '.join(passed)}."
    if (count := max(s.ratio.count for s in shares)) < FEW:
        yield f"That rests on {counted(count)}: too few for intervals to be trusted."


def _unseen(swaps: Sequence[Swap], shares: Mapping[str, Share]) -> Iterator[str]:
    """What replacing regions does that the maps do not point at."""
    for swap in swaps:
        if swap.flips.low > _OFTEN:
            said = _consequence(swap, _the(swap.region))
            doubtful = swap.beyond is not None and swap.beyond.low <= 0
            yield f"{said[0].upper()}{said[1:]}." + ("" if doubtful else f" {_whether(shares.get(swap.region))}.")
    rest = [w for w in swaps if w.flips.low <= _OFTEN]
    if held := [f"{_the(w.region)} ({_flip(w.flips)})" for w in rest if w.idle]:
        yield f"Answers hold where these are replaced: {', '.join(held)}."
    if unsure := [f"{_the(w.region)} ({_flip(w.flips)})" for w in rest if not w.idle]:
        yield f"Whether answers hang on these is open: {', '.join(unsure)}."


def _whether(s: Share | None) -> str:
    if s is None:
        return "The maps show nothing of it"
    if s.less:
        return f"Yet less of the evidence than of the area lies there{_times(s)}: the maps do not tell all of it"
    return f"Whether more of the evidence than of the area lies there is open{_times(s)}"


def _open(shares: Sequence[Share]) -> str:
    s = shares[0]
    return (
        f"Whether the model prefers a region is open: {_the(s.region)} comes nearest: {_figures(s)}; sign test "
        f"p = {s.p:.2g}."
    )


def _figures(s: Share) -> str:
    where = f"{100 * s.energy:.0f} % of its evidence lies there, on {100 * s.area:.0f} % of the area"
    return f"{where}{_times(s)}"


def _times(s: Share) -> str:
    interval = f", {s.ratio.low:.1f} to {s.ratio.high:.1f}" if s.ratio.count >= LEAST else ""
    return f" ({s.ratio.value:.1f} x{interval})"


def _middle(s: Share) -> str:
    """What lies in the middle of pictures draws evidence by its place alone."""
    if s.over_centre.low > 0:
        return ""
    return f", though a spot in the middle of the picture would have {100 * s.centre:.0f} % there"


def _consequence(swap: Swap, what: str) -> str:
    said = f"replacing {what} by {_BY[swap.by]} flips {_percent(swap.flips)} of the answers"
    if swap.control is not None:
        said += f", by what one with the same answer shows {_percent(swap.control)}{_of_few(swap.control)}"
    return f"{said}: {_weight(swap)}"


def _of_few(control: Estimate) -> str:
    return f" of {counted(control.count)}" if control.count < FEW else ""


def _weight(swap: Swap) -> str:
    if swap.decides:
        few = swap.control is not None and swap.control.count < FEW
        return f"it judges by {_the(swap.region)}{', as far as so few controls tell' if few else ''}"
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
