"""The report in a real browser: Chromium without a window, driven by Selenium (`make test-browser`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browsers
import numpy as np
import pytest
from browsers import EVIL, chromium, webdriver
from jobs import explained, failed, grid, job, plain

import onnxcam.batch.report as report
from onnxcam.batch.report import write_report

pytestmark = browsers.installed
IMAGE = '"><img src=x onerror="document.title = \'taken\'">'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium("--window-size=1200,900") as driver:
        yield driver


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Six pictures of three classes, one of them an attack, and an error."""
    folder, spot = tmp_path_factory.mktemp("report"), np.zeros((16, 16), np.uint8)
    spot[4:8, 4:8] = 255
    source = plain(folder / "a.png", height=60, width=80)
    evil = {"class_index": 2, "label": EVIL, "target": IMAGE, "top": [{"class_index": 2, "label": EVIL, "logit": 1.0}]}
    return job(
        folder / "out",
        [
            explained(0, source, name="b10.png", truth="cat", correct=True, score=3.0, probability=0.2, map=grid(spot)),
            explained(
                1, source, name="b9.png", truth="dog", correct=False, score=-4.0, probability=0.9, map=grid(spot)
            ),
            explained(2, source, name=IMAGE, score=7.5, warnings=[EVIL], map=grid(spot), **evil),
            failed(3, f"cannot read {EVIL}", name="a.png"),
            explained(4, name="c.png", class_index=1, label="ant", score=5.0, probability=None, blank=True),
            explained(5, source, name="d.png", class_index=1, label="ant", score=0.25, probability=0.4, map=grid(spot)),
        ],
    )


@pytest.fixture
def page(browser, folder) -> Iterator[Any]:
    """The report, opened from the disk; nothing may be complained of."""
    opened = open_page(browser, write_report(folder)[0])
    yield opened
    assert browser.get_log("browser") == []
    assert "taken" not in browser.title


class Opened:
    """What a reader does with a page, and sees of it."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def run(self, script: str, *values: Any) -> Any:
        return self.browser.execute_script(script, *values)

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def choose(self, field: str, value: str) -> None:
        """As by hand: the value, and the event that a browser sends."""
        told = "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        self.run(told + "e.dispatchEvent(new Event('input', {bubbles: true}))", field, value)

    @property
    def shown(self) -> list[int]:
        """The places in the plan of the cards that are seen, from the first to the last."""
        cards = self.browser.find_elements("css selector", ".card")
        names = [c.find_element("css selector", ".name").text for c in cards if c.is_displayed()]
        order = ["b10.png", "b9.png", IMAGE, "a.png", "c.png", "d.png"]
        return [order.index(name) for name in names]

    @property
    def count(self) -> str:
        return str(self.find("#count").text)


def open_page(browser: Any, path: Path) -> Opened:
    browser.get(path.as_uri())
    return Opened(browser)


def test_the_page_opens_and_shows_all(page):
    assert page.shown == [0, 1, 2, 3, 4, 5]
    assert page.count == "6 of 6"
    # every picture has been decoded, and nothing was fetched
    assert page.run("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert (
        page.run("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    )


def test_foreign_words_are_shown_and_not_run(page):
    cards = page.browser.find_elements("css selector", ".card")
    assert cards[2].find_element("css selector", ".class").text == EVIL
    assert cards[2].find_element("css selector", ".name").text == IMAGE
    assert EVIL in cards[3].find_element("css selector", ".message").get_attribute("textContent")
    assert page.run("return document.scripts.length") == 2
    page.run("arguments[0].click()", cards[2].find_element("css selector", ".look"))
    assert page.find("#large-name").text == IMAGE
    assert EVIL in page.find("#facts").get_attribute("textContent")
    assert page.run("return document.scripts.length") == 2
    names = page.run("return [...document.querySelectorAll('#class option')].map(o => o.textContent)")
    assert names == ["all", f"{EVIL} (2)", "ant (1)", "cat (0)"]


def test_the_policy_stops_what_is_not_the_pages_own(browser, folder):
    opened = open_page(browser, write_report(folder)[0])
    opened.run(
        "const s = document.createElement('script'); s.textContent = 'document.title = 1'; document.body.append(s)"
    )
    assert browser.title != "1"
    assert any("Content Security Policy" in line["message"] for line in browser.get_log("browser"))


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("name", [2, 3, 1, 0, 4, 5]),  # a sign first; b9 before b10
        ("class", [2, 4, 5, 0, 1, 3]),  # errors have none
        ("-score", [2, 4, 0, 5, 1, 3]),
        ("score", [1, 5, 0, 4, 2, 3]),
        ("-probability", [1, 2, 5, 0, 3, 4]),  # 4 has none
        ("probability", [0, 5, 2, 1, 3, 4]),
        ("index", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_sorting(page, key, order):
    page.choose("sort", key)
    assert page.shown == order


@pytest.mark.parametrize(
    ("field", "value", "left"),
    [
        ("class", "0", [0, 1]),
        ("class", "2", [2]),
        ("state", "right", [0]),
        ("state", "wrong", [1]),
        ("state", "unknown", [2, 4, 5]),
        ("show", "flagged", [2, 4]),
        ("show", "error", [3]),
        ("show", "explained", [0, 1, 2, 4, 5]),
        ("find", "  B1", [0]),
        ("find", "<script>", [2, 3]),
        ("find", "dog", [1]),
        ("find", "nowhere", []),
    ],
)
def test_filters(page, field, value, left):
    page.choose(field, value)
    assert page.shown == left
    assert page.count == f"{len(left)} of 6"
    assert page.find("#nothing").is_displayed() == (not left)
    page.find("#reset").click()
    assert page.shown == [0, 1, 2, 3, 4, 5]


def test_filters_work_together(page):
    page.choose("class", "1")
    page.choose("sort", "score")
    assert page.shown == [5, 4]
    page.choose("show", "flagged")
    assert page.shown == [4]


def test_a_class_of_the_table_leads_to_its_images(page):
    page.find('[data-class="1"]').click()
    assert page.shown == [4, 5]


def test_the_overlay_comes_by_slider_hover_and_focus(page):
    def opacity(card: int) -> float:
        page.run("document.querySelectorAll('.overlay').forEach(o => o.getAnimations().forEach(a => a.finish()))")
        found = "document.querySelectorAll('.card')[arguments[0]].querySelector('.overlay')"
        return float(page.run(f"return getComputedStyle({found}).opacity", card))

    assert opacity(0) == 0.5
    page.choose("blend", "20")
    assert opacity(0) == pytest.approx(0.2)
    assert opacity(4) == 1  # alone: nothing to blend with
    looks = page.browser.find_elements("css selector", ".look")
    webdriver.ActionChains(page.browser).move_to_element(looks[0]).perform()
    assert opacity(0) == 1
    page.run("document.querySelector('#reset').focus()")
    webdriver.ActionChains(page.browser).send_keys("\ue004").perform()  # Tab
    assert page.run("return document.activeElement.className") == "look"
    assert opacity(0) == 1


def test_a_card_opens_large_by_keyboard(page):
    page.choose("sort", "-score")
    press = lambda key: webdriver.ActionChains(page.browser).send_keys(key).perform()  # noqa: E731
    page.run("document.querySelectorAll('.card:not([hidden]) .look')[1].focus()")
    press("\ue007")  # Enter
    assert page.find("#large-name").text == "c.png"
    told = page.run(
        "return Object.fromEntries([...document.querySelectorAll('#facts dt')].map(t => [t.textContent, "
        "t.nextElementSibling.textContent]))"
    )
    assert told["Class"] == "ant"
    assert told["Score"] == "5"
    assert told["Size"] == "40 × 30 pixels"
    assert told["Blank map"] == "yes: nothing speaks for the score"
    assert "Probability" not in told
    press("\ue014")  # right
    assert page.find("#large-name").text == "b10.png"
    press("\ue012")  # left
    press("\ue012")
    assert page.find("#large-name").text == IMAGE
    assert len(page.browser.find_elements("css selector", "#sides img")) == 2
    press("\ue014")
    press("\ue00c")  # Escape
    assert not page.find("#large").is_displayed()
    assert page.run("return document.activeElement.closest('.card').querySelector('.name').textContent") == "c.png"


def test_pages_lead_to_each_other(browser, folder, monkeypatch):
    monkeypatch.setattr(report, "PER_PAGE", 4)
    first, second = write_report(folder)
    opened = open_page(browser, first)
    assert opened.count == "4 of 4 on this page"
    opened.find('.pages a[href="report-2.html"]').click()
    assert browser.current_url == second.as_uri()
    assert opened.shown == [4, 5]
    assert browser.get_log("browser") == []
