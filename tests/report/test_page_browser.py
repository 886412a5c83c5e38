"""report.html in a real browser, from a file: hover, click, sort, keyboard, and a hostile label.

Needs Debian's chromium and chromium-driver (``make test`` installs them where it may); skipped, aloud, without.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ratematch.report.page import render_report

from ..show.invented import make_many
from .test_page import EVIL, make_report

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking")
FLAGS += ("disable-component-update", "disable-sync", "window-size=1280,1000", "disable-dev-shm-usage")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="NO BROWSER: report.html is not tested in one; apt-get install chromium chromium-driver",
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One Chromium for all tests, on a page with an evil label among honest ones."""
    from selenium import webdriver

    folder = tmp_path_factory.mktemp("browser")
    workload = make_many()
    evil = replace(workload.end_to_end[2], label=EVIL)
    workload = replace(workload, end_to_end=(*workload.end_to_end[:2], evil, *workload.end_to_end[3:]))
    page = folder / "report.html"
    page.write_text(render_report(make_report(workload, warnings=(EVIL,))), encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"user-data-dir={folder / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=webdriver.ChromeService(DRIVER), options=options)
    try:
        driver.get(page.as_uri())
        yield driver
    finally:
        driver.quit()


def _wait(until: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if value := until():
            return value
        time.sleep(0.05)
    raise AssertionError(f"never: {what}")


def _point_at(browser: Chrome, index: int) -> Any:
    """The mouse over point ``index`` of the first chart; returns its element."""
    from selenium.webdriver.common.action_chains import ActionChains

    mark = browser.find_element("css selector", f'.chart .point[data-index="{index}"]')
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    ActionChains(browser).move_to_element(mark).perform()
    return mark


def _index_of(browser: Chrome, script: str) -> int:
    data = "JSON.parse(document.getElementById('data').textContent).workloads[0].points"
    return int(browser.execute_script(f"return {data}.findIndex((p) => {script})"))


def test_the_page_loads_without_an_error_or_a_request(browser: Chrome) -> None:
    log = browser.get_log("browser")  # type: ignore[no-untyped-call]
    assert not [entry for entry in log if entry["level"] in ("SEVERE", "WARNING")], log
    requested = browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert all(name.startswith("data:") for name in requested), requested


def test_the_recommended_deployment_is_on_the_first_screen(browser: Chrome) -> None:
    browser.execute_script("window.scrollTo(0, 0)")
    cards = browser.find_elements("css selector", ".card")
    assert len(cards) == 3
    for card in cards:
        assert card.is_displayed()
        place = browser.execute_script("return arguments[0].getBoundingClientRect().bottom", card)
        assert place < 1000
    assert "× TEP4 ctx" in cards[1].text and "measured end to end" in cards[1].text


def test_hover_shows_the_configuration_and_click_pins_it(browser: Chrome, tmp_path: Path) -> None:
    index = _index_of(browser, "p.kind === 'end_to_end' && p.front")
    mark = _point_at(browser, index)
    tip = browser.find_element("css selector", ".chart .tip")
    _wait(tip.is_displayed, "the tip of a hovered point")
    label = make_many().end_to_end[0].label
    for part in (label, "TTFT", "requests in flight", "valid"):
        assert part in tip.text
    mark.click()
    rows = _wait(lambda: browser.find_elements("css selector", ".pins tbody tr"), "a pinned row")
    assert label in rows[0].text
    browser.save_screenshot(str(tmp_path / "pinned.png"))
    assert (tmp_path / "pinned.png").stat().st_size > 20_000
    rows[0].find_element("css selector", "button").click()
    _wait(lambda: not browser.find_elements("css selector", ".pins tbody tr"), "unpinned")


def test_a_point_can_be_reached_and_pinned_with_the_keyboard(browser: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    index = _index_of(browser, "p.kind === 'ifb' && p.front")
    mark = browser.find_element("css selector", f'.point[data-index="{index}"]')
    browser.execute_script("arguments[0].focus()", mark)
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    (row,) = _wait(lambda: browser.find_elements("css selector", ".pins tbody tr"), "a pinned row")
    assert "agg1x" in row.text
    browser.switch_to.active_element.send_keys(Keys.ENTER)


def test_a_hostile_label_stays_text_when_it_is_hovered_and_pinned(browser: Chrome) -> None:
    index = _index_of(browser, "p.label.includes('onerror')")
    _point_at(browser, index).click()
    (row,) = _wait(lambda: browser.find_elements("css selector", ".pins tbody tr"), "a pinned row")
    assert EVIL in row.text
    assert not browser.find_elements("css selector", "img[onerror], .pins img, .tip img, .pins script")
    row.find_element("css selector", "button").click()


def test_tables_sort_by_number_both_ways(browser: Chrome) -> None:
    table = browser.find_element("css selector", "details[open] table.sortable")
    (head,) = [h for h in table.find_elements("css selector", "th button") if h.text == "tok/s/user"]

    def column() -> list[float]:
        cells = table.find_elements("css selector", "tbody tr td:nth-child(4)")
        return [float(cell.get_attribute("data-value") or "nan") for cell in cells]

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", head)
    head.click()
    assert column() == sorted(column())
    head.click()
    assert column() == sorted(column(), reverse=True) and len(column()) > 3
    head_cell = head.find_element("xpath", "..")
    assert head_cell.get_attribute("aria-sort") == "descending"


def test_a_front_can_be_hidden_and_files_open_from_the_card(browser: Chrome) -> None:
    box = browser.find_elements("css selector", ".legend input")[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    box.click()
    assert browser.execute_script("return document.querySelector('.chart g[data-kind]').style.display") == "none"
    box.click()
    link = browser.find_element("css selector", "a.files")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    link.click()
    bundle = browser.find_element("css selector", "#files-50")
    _wait(lambda: bundle.get_attribute("open"), "the files are open")
    assert "tensor_parallel_size: 4" in bundle.text
