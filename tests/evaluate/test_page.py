"""The report: what it shows, that it needs nothing else, and that foreign words stay words."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from html.parser import HTMLParser

import pytest
from builders import classifier, png, write

from onnxcam import Explainer
from onnxcam.evaluate.chart import Line, chart
from onnxcam.evaluate.page import write_page
from onnxcam.evaluate.run import Evaluation
from onnxcam.evaluate.statistics import Estimate
from onnxcam.evaluate.table import Cell, Results
from onnxcam.image import encode_image

pytestmark = pytest.mark.anyruntime
EVIL = "</style><script>alert(1)</script>&\u202e"


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high, 29)


def results(**changes) -> Results:
    better, worse = estimate(0.2, 0.1, 0.3), estimate(-0.2, -0.3, -0.1)
    table = {
        "gradcam": {"energy": Cell(estimate(0.512, 0.4, 0.6), {"random": better, "centre": better})},
        "layercam": {"energy": Cell(estimate(-0.25, -0.5, 0.125), {"random": better, "centre": worse})},
        "random": {"energy": Cell(estimate(0.25, 0.2, 0.3))},
    }
    told = {
        "model": f"models/{EVIL}.onnx", "data": EVIL, "methods": ("gradcam", "layercam"),
        "baselines": dict.fromkeys(("gradcam", "layercam"), ("random", "centre")), "metrics": ("energy",),
        "table": table,
        "counts": {"pictures": 12, "samples": 1234, "errors": 3, "failed_checks": 0, "left_out": 4}, "accuracy": 0.875,
        "curves": {"gradcam": {"insertion_blur": tuple((k / 20, k / 20) for k in range(21))},
                   "random": {"insertion_blur": ((0.0, 0.5), (1.0, 0.5))}},
        "failures": ((EVIL, "gradcam", EVIL),), "configuration": {}, "notes": (EVIL,), **changes,
    }  # fmt: skip
    return Results(**told)


class Tags(HTMLParser):
    """The tags of a page, with what they are called by."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))


def page(tmp_path, rows=(), draw=None, **changes) -> str:
    return write_page(tmp_path / "report.html", results(**changes), rows, draw).read_text()


def text_of(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", markup))


def test_cells_tell_number_interval_and_verdict(tmp_path):
    text = page(tmp_path)
    body = re.search(r"<tbody>(.*?)</tbody>", text, re.DOTALL)[1]
    lines = re.findall(r"<tr.*?</tr>", body)
    assert [re.sub(r"\s+", " ", text_of(line)).strip() for line in lines] == [
        "gradcam ★ 0.512 0.400 to 0.600", "layercam −0.250 −0.500 to 0.125", "random 0.250 0.200 to 0.300", "centre –",
    ]  # fmt: skip
    kinds = [tags["class"] for tag, tags in Tags(body).found if tag == "td"]
    assert kinds == ["n beats", "n loses", "n", "n"]
    assert [attrs.get("class") for tag, attrs in Tags(body).found if tag == "tr"] == [
        None,
        None,
        "baseline",
        "baseline",
    ]
    stats = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", text))
    assert stats == {
        "Pictures": "12", "Samples": "1,234", "Failed": "3", "Left out": "4", "Top-1 accuracy": "87.5&nbsp;%",
    }  # fmt: skip


def test_foreign_words_stay_words_and_nothing_is_fetched(tmp_path):
    text = page(tmp_path)
    assert "<script" not in text
    assert text.count("</style>") == 1
    assert "\u202e" not in text
    assert text.count(html.escape("</style><script>alert(1)</script>&\\u202e")) == 4  # data, note, failure
    assert text.count("script&gt;&amp;\\u202e.onnx") == 2  # title and head line
    policy = next(a["content"] for t, a in Tags(text).found if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert f"style-src 'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    for tag, attrs in Tags(text).found:
        assert "style" not in attrs, tag  # the policy forbids it
        assert not [k for k in attrs if k.startswith("on")], tag
        assert not str(attrs.get("src", "data:")).startswith(("http", "/")), tag


def test_a_chart_puts_points_where_they_belong():
    drawn = chart("c", [Line("m", [(0, 0), (0.5, 2), (1, 1)]), Line("random", [(0, 1), (1, 1)], True)], "x", "y")
    first, second = re.findall(
        r'<polyline class="(c0|baseline)" stroke-dasharray="([^"]+)" points="([^"]+)"><title>', drawn
    )
    left, right, top, bottom = 44, 412, 22, 216
    assert [tuple(map(float, p.split(","))) for p in first[2].split()] == [
        (left, bottom), ((left + right) / 2, top), (right, (top + bottom) / 2),
    ]  # fmt: skip
    assert (first[:2], second[:2]) == (("c0", "none"), ("baseline", "2 3"))
    assert re.findall(r'text-anchor="end">([^<]+)</text>', drawn) == ["0", "0.5", "1", "1.5", "2", "y"]


def test_a_flat_chart_and_one_below_zero_have_a_scale():
    assert "nan" not in chart("c", [Line("m", [(0, 0), (1, 0)])], "x", "y")
    drawn = chart("c", [Line("m", [(0, -1), (1, 1)])], "x", "y")
    assert re.search(r'points="44.0,216.0 412.0,22.0"', drawn)


def test_curves_are_drawn_once_each(tmp_path):
    text = page(tmp_path)
    assert re.findall(r'<figure class="chart"><svg [^>]*aria-label="([^"]+)"', text) == ["insertion_blur"]
    assert re.findall(r"<title>(gradcam|random)</title>", text) == ["gradcam", "random"]
    assert "high curves are good" in text
    low = page(tmp_path, curves={"gradcam": {"road_morf": ((0.1, 0.9), (0.3, 0.7), (0.9, 0.1))}})
    assert "low curves are good" in low
    places = re.search(r'<polyline class="c0" stroke-dasharray="none" points="([^"]+)"><title>gradcam', low)[1]
    assert [round((float(p.split(",")[0]) - 44) / 368, 2) for p in places.split()] == [0.1, 0.3, 0.9]


def test_the_worst_and_the_best_are_shown_with_their_overlays(tmp_path):
    model = write(tmp_path / "model.onnx", classifier())
    lines = ["path,truth,box"]
    for k in range(6):
        png(tmp_path / f"{k}.png", k)
        lines.append(f"{k}.png,1,3 3 9 12")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    asked = (model, tmp_path / "t.csv", ["gradcam"], ["localisation_top1", "energy"], tmp_path / "out")
    with Evaluation(*asked, preprocess="unit", workers=1) as job:
        told = [row for rows in job for row in rows if row["method"] == "gradcam"]
        job.results()
    text = (tmp_path / "out" / "report.html").read_text()
    assert "By energy" in text  # right or wrong alone orders nothing
    order = sorted(told, key=lambda r: r["values"]["energy"])
    expected = [*order[:3], *order[:2:-1]]
    assert re.findall(r"<br>(\d\.png)</figcaption>", text) == [r["source"][-5:] for r in expected]
    shown = re.findall(r'<img alt="1" src="data:image/jpeg;base64,([^"]+)">', text)
    for row, data in zip(expected, shown, strict=True):
        overlay = Explainer(model, preprocess="unit").explain(row["source"], 1).overlay()
        assert base64.b64decode(data) == encode_image(overlay, ".jpg", 80)


def test_pictures_that_are_gone_are_left_out(tmp_path):
    from onnxcam.errors import ImageError

    def draw(index, method):
        raise ImageError("gone")

    rows = [{"index": k, "source": f"{k}.png", "method": "gradcam", "values": {"energy": k / 5}} for k in range(5)]
    assert "<img" not in page(tmp_path, rows, draw)
