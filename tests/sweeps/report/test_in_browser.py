"""The report opened in headless Chromium: it draws, sorts and filters, asks nothing of anyone, and fits a phone."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from sweeps.engine.report.drawing import colour
from tests.sweeps.report.made_sweep import THREE_SEEDS, make

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's packages chromium and chromium-driver"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make(tmp_path_factory.mktemp("report"), THREE_SEEDS)
    made.fail(2, 1, "lost")
    made.write()
    return made.folder / "report" / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER or ""))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: webdriver.Chrome, page: Path) -> webdriver.Chrome:
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.set_window_size(1400, 1000)
    browser.get(page.as_uri())
    return browser


def visible(elements: list[WebElement]) -> list[WebElement]:
    return [element for element in elements if element.is_displayed()]


def test_nothing_is_wrong_and_nothing_is_asked_for(opened: webdriver.Chrome, page: Path) -> None:
    assert opened.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    by_page = [one["request"]["url"] for one in asked if one["documentURL"] == page.as_uri()]  # not by the first tab
    assert by_page == [page.as_uri()]


def test_a_script_that_is_not_ours_does_not_run(opened: webdriver.Chrome) -> None:
    """The content security policy is in force: what tests below see is done by the one script it names."""
    opened.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.intruded = true'; document.body.append(s);"
    )
    assert opened.execute_script("return window.intruded") is None
    assert any("Content Security Policy" in entry["message"] for entry in opened.get_log("browser"))


def test_figures_are_drawn(opened: webdriver.Chrome) -> None:
    figures = visible(opened.find_elements(By.TAG_NAME, "svg"))
    labels = [figure.get_attribute("aria-label") for figure in figures]
    assert labels == [
        *("test NLL by cell", "difference in test NLL by cell"),
        *(f"Dev NLL by {by}, a line a trial" for by in ("optimisation step", "seconds since the start of the trial")),
    ]
    for figure in figures:
        assert figure.size["width"] > 400
        assert figure.size["height"] > 100
    sizes = opened.execute_script(
        "return [...document.querySelectorAll('svg use:has(title)')].map(p => p.getBoundingClientRect().width)"
    )
    assert len(sizes) == 8 + 3 + 2 * 9  # of nine trials one is lost: its cell is not compared, but it has a history
    assert min(sizes) > 5
    panels = visible(opened.find_elements(By.CSS_SELECTOR, ".panels table"))
    assert [panel.text.splitlines()[0] for panel in panels] == ["num_prompts=2 seed 0", "num_prompts=4 seed 0"]


def test_pointing_at_a_cell_in_the_legend_fades_the_lines_of_others(opened: webdriver.Chrome) -> None:
    def faded() -> set[str]:
        groups = opened.find_elements(By.CSS_SELECTOR, "[data-series]")
        return {
            one.get_attribute("data-series") or "" for one in groups if one.value_of_css_property("opacity") < "0.5"
        }

    button = opened.find_element(By.CSS_SELECTOR, "[data-highlight='2']")
    assert button.text == "num_prompts=4"
    assert faded() == set()
    button.click()
    assert faded() == {"0", "1"}
    button.click()
    webdriver.ActionChains(opened).move_to_element(opened.find_element(By.TAG_NAME, "h1")).perform()
    assert faded() == set()


def test_text_and_colours_are_those_of_the_page(opened: webdriver.Chrome) -> None:
    fonts = "return [...document.querySelectorAll('svg text, h3')].map(e => getComputedStyle(e).fontFamily)"
    assert len(set(opened.execute_script(fonts))) == 1
    strokes = "return [...document.querySelectorAll('[data-series] > path')].map(p => getComputedStyle(p).stroke)"
    by_scheme = {}
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        by_scheme[scheme] = set(opened.execute_script(strokes))
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(by_scheme["light"]) == 3  # a cell has one colour
    assert not by_scheme["light"] & by_scheme["dark"]


@pytest.mark.parametrize("hue", [28, 75, 106, 145, 262])
def test_a_colour_of_the_files_is_the_one_of_the_page(opened: webdriver.Chrome, hue: int) -> None:
    """The browser is the oracle, at hues whose colour is in sRGB."""
    pixel = opened.execute_script(
        "const c = document.createElement('canvas').getContext('2d'); c.fillStyle = `oklch(0.56 0.13 ${arguments[0]})`;"
        "c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]",
        hue,
    )
    ours = bytes.fromhex(colour(hue).removeprefix("#"))
    assert max(abs(ours[channel] - pixel[channel]) for channel in range(3)) <= 2


def first_column(opened: webdriver.Chrome) -> list[str]:
    table = opened.find_element(By.CSS_SELECTOR, "table.sortable")
    return [row.text.splitlines()[0] for row in table.find_elements(By.CSS_SELECTOR, "tbody th")]


def test_a_table_sorts_by_a_heading_and_back(opened: webdriver.Chrome) -> None:
    table = opened.find_element(By.CSS_SELECTOR, "table.sortable")
    headings = table.find_elements(By.CSS_SELECTOR, "thead button")
    nll = next(one for one in headings if one.text == "NLL")
    assert first_column(opened) == ["num_prompts=1", "num_prompts=2", "num_prompts=4"]
    nll.click()
    assert first_column(opened) == ["num_prompts=4", "num_prompts=1", "num_prompts=2"]  # failed: no value, last
    nll.click()
    assert first_column(opened) == ["num_prompts=1", "num_prompts=4", "num_prompts=2"]


def choose(opened: webdriver.Chrome, name: str, value: str) -> None:
    Select(opened.find_element(By.CSS_SELECTOR, f"nav select[name={name}]")).select_by_value(value)


def test_examples_are_filtered_by_turn_prompt_and_cell(opened: webdriver.Chrome) -> None:
    articles = opened.find_elements(By.CSS_SELECTOR, ".examples article")
    place = opened.find_element(By.CSS_SELECTOR, "nav span")
    assert len(visible(articles)) == 1
    assert place.text == f"1 of {len(articles)}"
    choose(opened, "turn", "2")
    (shown,) = visible(articles)
    assert shown.get_attribute("data-turn") == "2"
    with_turn_2 = sum(one.get_attribute("data-turn") == "2" for one in articles)
    assert place.text == f"1 of {with_turn_2}"
    choose(opened, "cell", "num_prompts=4")
    choose(opened, "beside", "num_prompts=1")
    (shown,) = visible(articles)
    replies = visible(shown.find_elements(By.CSS_SELECTOR, "[data-cell]"))
    assert [one.get_attribute("data-cell") for one in replies] == ["num_prompts=1", "num_prompts=4"]
    assert abs(replies[0].location["y"] - replies[1].location["y"]) < 2  # side by side
    choose(opened, "prompt", "3")
    for article in visible(articles):
        (reply,) = article.find_elements(By.CSS_SELECTOR, "[data-cell='num_prompts=4']")
        assert reply.get_attribute("data-prompt") == "3"
    choose(opened, "turn", "")
    choose(opened, "prompt", "")
    opened.find_element(By.XPATH, "//nav/button[text()='Next']").click()
    assert place.text == f"2 of {len(articles)}"


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_is_readable_on_a_phone_and_on_a_screen(opened: webdriver.Chrome, width: int, scheme: str) -> None:
    """No sideways scrolling of the page, no text under 9 pixels, and ink that stands out from the paper."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    opened.refresh()
    assert opened.execute_script("return window.innerWidth") == width
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    small = opened.execute_script(
        """return [...document.querySelectorAll('p, td, th, dd, dt, figcaption, li, button, small')]
        .filter(e => e.offsetParent && e.textContent.trim() && parseFloat(getComputedStyle(e).fontSize) < 9)
        .map(e => e.textContent)"""
    )
    assert small == []
    colours = opened.execute_script(
        "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        ".map(c => c.match(/[0-9]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 3)"
    )
    assert (colours[0] < colours[1]) == (scheme == "light")
    assert abs(colours[0] - colours[1]) > 150
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
