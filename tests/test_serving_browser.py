"""The live page in a real browser: Chromium without a window, driven by Selenium (`make test-browser`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import browsers
import numpy as np
import pytest
from browsers import EVIL, chromium

from onnxcam.errors import OptionError
from onnxcam.serving import Show

pytestmark = browsers.installed


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@contextmanager
def filmed(show: Show, state: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """A picture each 30 ms."""
    stop = threading.Event()

    def film() -> None:
        for number in count(1):
            if stop.wait(0.03):
                return
            show.update(np.full((60, 80, 3), 200, np.uint8), {"frame": number, **state()})

    thread = threading.Thread(target=film)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_the_page_shows_the_stream_and_sends_the_choice(browser):
    from selenium.webdriver.support.ui import Select, WebDriverWait

    chosen, wait = [], WebDriverWait(browser, 10, poll_frequency=0.05)

    def said() -> dict[str, Any]:
        facts = {"label": EVIL, "class_index": 1, "score": 1.5, "probability": None, "rate": 30.0}
        return {**facts, "target": chosen[-1] if chosen else None}

    with Show(0, [("0", "cat"), ("1", EVIL)], chosen.append) as show, filmed(show, said):
        browser.get(show.url)
        wait.until(lambda b: b.find_element("id", "frame").text not in ("", "1"))
        size = browser.execute_script(
            "const i = document.querySelector('img'); return [i.naturalWidth, i.naturalHeight]"
        )
        assert size == [80, 60]
        shown = {name: browser.find_element("id", name).text for name in ("class", "score", "probability", "rate")}
        assert shown == {"class": EVIL, "score": "1.500", "probability": "", "rate": "30.0"}
        picker = Select(browser.find_element("id", "target"))
        assert [o.text for o in picker.options] == ["the top class", "cat", EVIL]
        picker.select_by_visible_text("cat")
        wait.until(lambda b: chosen == ["0"])
        picker.select_by_visible_text("the top class")
        wait.until(lambda b: chosen == ["0", None])
        chosen.append("1")  # in another window
        wait.until(lambda b: picker.first_selected_option.text == EVIL)
        browser.refresh()
        picker = Select(browser.find_element("id", "target"))
        wait.until(lambda b: picker.first_selected_option.text == EVIL)
        picker.select_by_visible_text("the top class")
        wait.until(lambda b: chosen[-1] is None)
        assert browser.title == "onnxcam live"
        assert browser.get_log("browser") == []
    wait.until(lambda b: b.find_element("id", "trouble").text == "The show is over.")


def test_what_is_refused_is_not_shown_as_chosen(browser):
    from selenium.webdriver.support.ui import Select, WebDriverWait

    def refuse(name: str | None) -> None:
        raise OptionError("not today")

    wait = WebDriverWait(browser, 10, poll_frequency=0.05)
    said = {"error": "", "target": "box:dog"}
    with Show(0, [("0", "cat"), ("box:dog", "box:dog")], refuse) as show, filmed(show, lambda: said):
        browser.get(show.url)
        picker = Select(browser.find_element("id", "target"))
        wait.until(lambda b: [o.text for o in picker.all_selected_options] == ["box:dog"])
        picker.select_by_visible_text("cat")
        wait.until(lambda b: picker.first_selected_option.text == "box:dog")
        browser.get_log("browser")  # of the request that was refused
