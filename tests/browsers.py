"""Chromium without a window, driven by Selenium (`make test-browser`); tests that import it are skipped without."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed: make test-browser")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
installed = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="Chromium or its driver is not installed: apt-get install chromium chromium-driver"
)
EVIL = "<script>document.title = 'taken'</script>"


@contextmanager
def chromium(*arguments: str) -> Iterator[Any]:
    """A driver, whose log holds what pages complain of."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()
