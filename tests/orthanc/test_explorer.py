"""Orthanc Explorer in a headless browser: the button, the bar, the words and the link to the result."""

import html
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from dicomnode.node import Node
from dicomnode.settings import Settings
from tests.conftest import missing
from tests.journey.scene import free_port, low_dose_series, wait_until
from tests.orthanc.conftest import following, node_settings
from tests.orthanc.orthancs import Orthanc, running_plugin

EVIL = "<img src=x onerror=window.evil=1>"


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chrome]:
    """Debian's chromium, headless, that looks nothing up outside."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        missing("chromium or its driver is not installed (apt-get install chromium chromium-driver)")
    monkeypatch.setenv("SE_OFFLINE", "true")
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    options = ChromeOptions()
    options.binary_location = chromium
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900", profile):
        options.add_argument(argument)
    found = Chrome(options=options, service=Service(driver))
    try:
        yield found
    finally:
        found.quit()


def _evil(data: Dataset, _: int) -> None:
    data.SeriesDescription = EVIL


@pytest.mark.slow
def test_the_button_is_pressed_and_the_enhanced_series_appears(
    tmp_path: Path, orthanc_program: str, running_node: Callable[[Settings], Node], browser: Chrome
) -> None:
    port, web_port = free_port(), free_port()
    plugin = following(web_port, Automatic=False)
    orthanc = Orthanc(orthanc_program, tmp_path / "orthanc", node_port=port, plugin=plugin)
    running_node(node_settings(tmp_path, port, orthanc, web_port=web_port))
    with running_plugin(orthanc):
        source = orthanc.upload(low_dose_series(tmp_path / "in", slices=10, side=128, change=_evil))
        page = f"{orthanc.url}/app/explorer.html"
        browser.get(f"{page}#series?uuid={source}")
        wait_until(lambda: _find(browser, "button.dicomnode-enhance") is not None, 30)
        button = browser.find_element(By.CSS_SELECTOR, "button.dicomnode-enhance")
        assert button.text == "Enhance with dicomnode"
        button.click()
        seen: set[float] = set()

        def arrived() -> bool:
            seen.add(_share(browser))
            return _find(browser, "a.dicomnode-result") is not None

        wait_until(arrived, told=lambda: (seen, orthanc.plugin(source), orthanc.log()[-2000:]))
        assert browser.save_screenshot(str(tmp_path / "series.png"))
        assert any(0.0 < share < 1.0 for share in seen), seen
        assert _share(browser) == 1.0
        (result,) = orthanc.enhanced()
        link = browser.find_element(By.CSS_SELECTOR, "a.dicomnode-result")
        assert (link.get_attribute("href") or "").endswith(f"#series?uuid={result['ID']}")
        link.click()
        wait_until(lambda: "made by a dicomnode" in browser.page_source, 30, lambda: browser.current_url)
        assert re.search(r"[?]at=[0-9]+#", browser.current_url), "milliseconds, whatever Date.now() is here"

        study = orthanc.get(f"/series/{source}")["ParentStudy"]
        browser.get(f"{page}#study?uuid={study}")
        browser.refresh()
        wait_until(lambda: len(browser.find_elements(By.CSS_SELECTOR, ".dicomnode-line")) == 2, 30)
        wait_until(lambda: _find(browser, "a.dicomnode-result") is not None, 30)
        assert browser.save_screenshot(str(tmp_path / "study.png"))
        boxes = browser.find_elements(By.CSS_SELECTOR, ".dicomnode-box")
        assert EVIL in boxes[0].text, "the description stands there as text"
        assert html.escape(EVIL) in (boxes[0].get_attribute("innerHTML") or "")


def _find(browser: Chrome, selector: str) -> WebElement | None:
    found = browser.find_elements(By.CSS_SELECTOR, selector)
    return found[0] if found and found[0].is_displayed() else None


def _share(browser: Chrome) -> float:
    return float(browser.execute_script("return $('.dicomnode-progress').attr('value') || 0"))
