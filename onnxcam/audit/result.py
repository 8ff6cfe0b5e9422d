"""What an audit found: shares of evidence by region, contrasts, swaps, mean maps, and the verdict."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.batch.walk import JOB
from onnxcam.errors import OptionError
from onnxcam.evaluate.statistics import Estimate
from onnxcam.explanation import make_folder
from onnxcam.files import write_whole
from onnxcam.image import save_image

Row = dict[str, Any]
Pixels = NDArray[np.uint8]
RESULTS, ROWS, REPORT, MEAN = "audit.json", "results.jsonl", "report.html", "mean.png"
VERSION = 1
SURE = 0.05  # the p value below which a test counts
LEAST = 5  # pictures of an answer, or group, that gets lines of its own; a bootstrap of fewer is not shown


@dataclass(frozen=True)
class Share:
    """How much of the evidence lies in a region.

    Attributes:
        region: its name.
        answer: the explained class; None of all.
        energy: share of the map's positive values that lies there, 0 to 1: mean over the pictures that show the region.
        area: share of what the model sees of the picture.
        ratio: ``energy / area``, with its 95 % interval (bootstrap over pictures).
        p: of the two-sided sign test: how likely so uneven a count of pictures with more or less evidence there than
            area is, if both were as likely; adjusted for the number of lines (Holm), those of all answers
            and those of single ones apart.
        against: share of the evidence against the answer (the counterfactual map's); None where there is no such map.
        centre: share that a Gaussian round the centre puts there, a map that knows nothing.
        over_centre: ``energy - centre``, with its interval.
    """

    region: str
    answer: str | None
    energy: float
    area: float
    ratio: Estimate
    p: float
    against: float | None
    centre: float
    over_centre: Estimate

    @property
    def more(self) -> bool:
        """More than its area: the whole interval and the test say so."""
        return self.ratio.low > 1 and self.p < SURE

    @property
    def less(self) -> bool:
        """Less than its area: the whole interval and the test say so."""
        return self.ratio.high < 1 and self.p < SURE

    @property
    def information(self) -> float:
        """``energy * log(energy / area)``: the region's part in how far the evidence is from being spread evenly."""
        return self.energy * float(np.log(self.energy / self.area)) if self.energy > 0 else 0.0


@dataclass(frozen=True)
class Contrast:
    """Two regions, or two groups of pictures, against each other.

    Attributes:
        a: the first region, or group.
        b: the second.
        region: where groups are compared; None where regions are.
        estimate: of regions ``energy_a / area_a - energy_b / area_b``; of groups the difference of their means of
            ``energy - area``; with its 95 % interval.
        p: of the sign test over pictures, or of the permutation test over groups.
    """

    a: str
    b: str
    region: str | None
    estimate: Estimate
    p: float


@dataclass(frozen=True)
class Swap:
    """What answers do when a region is replaced.

    Attributes:
        region: its name.
        by: ``"other"``, ``"blur"``, ``"mean"``, or ``"counterpart"``.
        flips: share of pictures whose answer changes, with Wilson's 95 % interval.
        control: the same when the region comes from a picture with the same answer; None where there is none.
        beyond: flips less control on the same pictures, with its interval; None without a control.
        by_answer: flips of each answer.
    """

    region: str
    by: str
    flips: Estimate
    control: Estimate | None
    beyond: Estimate | None
    by_answer: Mapping[str, Estimate]

    @property
    def decides(self) -> bool:
        """It flips most answers, and more than pasting alone does."""
        return self.flips.low > 0.5 and (self.beyond is None or self.beyond.low > 0)

    @property
    def idle(self) -> bool:
        """It flips hardly any answer."""
        return self.flips.high < 0.1


@dataclass(frozen=True)
class Case:
    """A picture of the audit, to be looked at: uint8 (H, W, 3) by what it shows."""

    row: Row
    pictures: Mapping[str, Pixels]


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found.

    Attributes:
        model: its path or name.
        data: what it was audited on.
        method: of the maps.
        regions: how regions were found: ``"masks"``, ``"thirds"`` or ``"detector"``.
        counts: ``pictures``, ``errors``, ``blank`` (maps without evidence), ``unknown`` (pictures without regions).
        accuracy: share of right answers; None where the data has no classes of the model.
        shares: of all answers first, then answer by answer.
        contrasts: between regions, then between groups.
        swaps: region by region.
        verdict: sentences, the most telling one first.
        notes: what a reader should know.
        rows: one per picture.
        means: by answer, the mean map and the mean picture.
        look: a row's pictures, made again.
    """

    model: str
    data: str
    method: str
    regions: str
    counts: Mapping[str, int]
    accuracy: float | None
    shares: tuple[Share, ...]
    contrasts: tuple[Contrast, ...]
    swaps: tuple[Swap, ...]
    verdict: tuple[str, ...]
    notes: tuple[str, ...]
    configuration: Mapping[str, Any]
    rows: Sequence[Row] = field(repr=False)
    means: Mapping[str, Pixels] = field(repr=False)
    look: Callable[[Row], Case] = field(repr=False)

    @property
    def overall(self) -> tuple[Share, ...]:
        """Shares of all answers."""
        return tuple(s for s in self.shares if s.answer is None)

    def share(self, region: str, answer: str | None = None) -> Share:
        """Of a region.

        Raises:
            KeyError: no picture with that answer shows it.
        """
        found = [s for s in self.shares if (s.region, s.answer) == (region, answer)]
        if not found:
            raise KeyError(f"no share of {region!r}; there is {[(s.region, s.answer) for s in self.shares]}")
        return found[0]

    def swap(self, region: str) -> Swap:
        """Of a region.

        Raises:
            KeyError: it was not replaced.
        """
        return {s.region: s for s in self.swaps}[region]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; rows are kept apart."""
        return {
            "version": VERSION, "model": self.model, "data": self.data, "method": self.method, "regions": self.regions,
            "verdict": list(self.verdict), "counts": dict(self.counts), "accuracy": self.accuracy,
            "shares": [asdict(s) for s in self.shares], "contrasts": [asdict(c) for c in self.contrasts],
            "swaps": [asdict(s) for s in self.swaps], "notes": list(self.notes),
            "configuration": dict(self.configuration),
        }  # fmt: skip

    def save(self, folder: str | Path) -> Path:
        """Write ``report.html``, ``audit.json``, ``results.jsonl`` (a line per picture) and ``mean.png``.

        Returns:
            The report.

        Raises:
            OptionError: the folder holds results of something else.
            OutputError: it cannot be written.
        """
        from onnxcam.audit.page import mean_panel, write_page

        out = results_folder(folder)
        write_whole(out / ROWS, "".join(json.dumps(row) + "\n" for row in self.rows).encode())
        write_whole(out / RESULTS, json.dumps(self.to_dict(), indent=1).encode())
        if self.means:
            save_image(out / MEAN, mean_panel(self.means))
        return write_page(out / REPORT, self)


def results_folder(folder: str | Path) -> Path:
    """The folder, made if need be; of an earlier audit it is taken, and its files are written anew.

    Raises:
        OptionError: it holds results of something else, which an audit's would replace.
        OutputError: it cannot be made.
    """
    out = Path(folder)
    there = [name for name in (ROWS, REPORT, JOB) if os.path.lexists(out / name)]
    if there and not (out / RESULTS).exists():
        raise OptionError(f"{str(out / there[0])!r} is there already, but of no audit: choose another folder")
    return make_folder(out)
