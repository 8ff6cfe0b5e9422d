"""The report of a job: pages that need nothing but a browser, from the job's own files.

``report.html`` sums up all pictures and shows the first 1,000; ``report-2.html`` and so on show more, 20,000 in all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from onnxcam.batch.local import cores
from onnxcam.batch.manifest import read_rows
from onnxcam.batch.paths import scratch
from onnxcam.batch.report.cards import Painter
from onnxcam.batch.report.page import foot, gallery, head, pages
from onnxcam.batch.report.summary import note_on, summary
from onnxcam.batch.report.tally import gather
from onnxcam.errors import OptionError, OutputError, reason
from onnxcam.files import write_whole

PER_PAGE = 1000  # cards: about 20 MB, which browsers open at once
MOST_PAGES = 20


def write_report(out: Path) -> list[Path]:
    """Write the report of a job into its folder; of an unfinished one, too, which it says.

    A pure function of the folder's ``run.json`` and ``results.jsonl``, the overlays, and the pictures that can still be
    read and have not changed. Of more than 20,000 pictures, the gallery shows errors, flagged and wrong ones first,
    then the others, both evenly spread over the job; the summary is always that of all.

    Args:
        out: the job's folder.

    Returns:
        The pages, the first one first.

    Raises:
        OptionError: the folder holds no job.
        OutputError: a page cannot be written.
    """
    run, manifest = _read_run(out), out / "results.jsonl"
    figures, shown = gather(read_rows(manifest), PER_PAGE * MOST_PAGES)
    names = page_names(shown.count)
    chosen, painter = (row for row in read_rows(manifest) if row in shown), Painter.of(out, run)
    written = []
    for at, name in enumerate(names):
        rows = list(islice(chosen, PER_PAGE))
        above = summary(run, figures) if at == 0 else ""
        top = head(run, names, at) + above + gallery(names, len(rows), note_on(shown, figures.rows))
        written.append(write_whole(out / name, _parts(top, rows, painter, pages(names, at)), _scratch(out)))
    _sweep(out, len(names))
    return written


def page_names(count: int) -> list[str]:
    """The files of a report with so many cards."""
    pages = max(1, -(-count // PER_PAGE))
    return ["report.html", *(f"report-{k}.html" for k in range(2, pages + 1))]


def _parts(top: str, rows: list[dict[str, Any]], painter: Painter, links: str) -> Iterator[bytes]:
    """The bytes of a page; its cards are painted while it is written."""
    yield top.encode()
    facts = []
    with ThreadPoolExecutor(cores()) as pool:
        for card, told in pool.map(painter.card, rows):
            facts.append(told)
            yield card.encode()
    yield foot(links, facts).encode()


def _read_run(out: Path) -> Mapping[str, Any]:
    path = out / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(run, dict):
            raise ValueError("it holds no object")
        return run
    except (OSError, ValueError) as error:
        raise OptionError(
            f"no report of {str(out)!r}: cannot read its run.json: {reason(error)}. Give the folder of a job"
        ) from error


def _scratch(out: Path) -> Path | None:
    """Where a job keeps what is not finished, and sweeps it away."""
    folder = scratch(out)
    return folder if folder.is_dir() else None


def _sweep(out: Path, pages: int) -> None:
    """Pages of an older, longer report would be taken for this one's."""
    for path in out.glob("report-*.html"):
        told = re.fullmatch(r"report-([1-9][0-9]?)\.html", path.name)
        if told and pages < int(told[1]) <= MOST_PAGES:
            try:
                path.unlink()
            except OSError as error:
                raise OutputError(f"cannot remove {str(path)!r}, of an older report: {reason(error)}") from error
