"""The report in a real browser, from its file, without a network."""

import itertools
import json
import shutil

import numpy as np
import pytest
from report_checks import HOSTILE, copied, hostile

from bon import Candidates
from suite.reports.html.page import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason='selenium is not installed: pip install -e ".[dev]"')
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
N, PAGE_SIZE = 8, 20

# Contrast of every visible text with what lies behind it, as WCAG 2 defines it; the texts that are below 4.5.
LOW_CONTRAST = """
const parse = (colour) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d");
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const luminance = (colour) => {
  const [r, g, b] = parse(colour).map((v) => (v /= 255, v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (parse(colour)[3] === 255) return colour;
  }
  return "white";
};
const low = [];
for (const element of document.querySelectorAll("body *")) {
  const says = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!says || !element.checkVisibility() || element.matches(":disabled, :disabled *, script")) continue;
  const pair = [luminance(getComputedStyle(element).color), luminance(behind(element))].sort((a, b) => b - a);
  if ((pair[0] + 0.05) / (pair[1] + 0.05) < 4.5) low.push(element.outerHTML.slice(0, 120));
}
return low;
"""

# What stands outside the window, and what is wider than its own box.
BEYOND = """
const outside = (box) => box.right > innerWidth + 0.5 || box.left < -0.5;
return [...document.querySelectorAll("body *")].filter((element) =>
  element.checkVisibility() && !element.closest(".skip, .unseen")
  && (outside(element.getBoundingClientRect())
    || (element.matches("td, th, p, h3, pre") && element.scrollWidth > element.clientWidth + 1))
).map((element) => element.outerHTML.slice(0, 120));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = copied(tmp_path_factory.mktemp("report") / "headline")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def pools(folder):
    return [Candidates.load(folder / name) for name in ("candidates.parquet", "candidates_ppo.parquet")]


@pytest.fixture
def opened(browser, folder):
    """The page as it opens, 1280 pixels wide; afterwards nothing may have been said on the console."""
    show(browser, folder / "report.html")
    yield browser
    assert browser.get_log("browser") == []


def show(browser, path, width=1280, scheme="light"):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.get(path.as_uri())


def field(browser, name):
    return browser.find_element(By.ID, name)


def contents(browser, selector):
    """The texts of all elements that a selector finds, as they stand in the document."""
    return browser.execute_script("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)


def numbers(browser):
    """The numbers of the prompts that are shown, from 0."""
    return [int(text) - 1 for text in contents(browser, "#list .number")]


def shown_texts(pools):
    """For each prompt: its text and the three responses shown."""
    base, tuned = pools
    best = base.scores["proxy"][:, :N].argmax(1)
    return [[base.prompts[p], base.texts[p, 0], base.texts[p, best[p]], tuned.texts[p, 0]] for p in range(base.num_prompts)]


def matching(pools, *words):
    texts = ["\n".join(parts).lower() for parts in shown_texts(pools)]
    return [p for p, text in enumerate(texts) if all(word in text for word in words)]


def test_it_opens_from_its_file_and_asks_for_nothing_else(opened, folder):
    opened.get_log("performance")  # what the browser did before
    opened.refresh()
    assert opened.title == "Best-of-8 against PPO: headline"
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert (folder / "report.html").as_uri() in asked
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert opened.execute_script("return [...document.images].every((image) => image.naturalWidth > 0)")
    assert len(opened.find_elements(By.TAG_NAME, "img")) == len({path.stem for path in (folder / "figures").iterdir()})


def test_the_first_page_shows_what_the_pools_hold(opened, pools):
    assert numbers(opened) == list(range(PAGE_SIZE))
    wanted = shown_texts(pools)[:PAGE_SIZE]
    assert contents(opened, "#list h3") == [f"{place} {prompt}" for place, (prompt, *_) in enumerate(wanted, 1)]
    assert contents(opened, "#list .text") == [response for _, *responses in wanted for response in responses]
    tuned = [f"{pools[1].scores[name][0, 0]:.2f}".replace("-", "−") for name in ("proxy", "gold")]
    assert contents(opened, "#list li:first-child .scores b")[4:] == tuned


def test_search_filters_as_one_types(opened, pools):
    count, search = field(opened, "count"), field(opened, "search")
    total = len(pools[0].prompts)
    assert count.text == f"{total} prompts"
    for typed, words in (("MOVIE", ["movie"]), (" great", ["movie", "great"]), (" zzzz", ["movie", "great", "zzzz"])):
        search.send_keys(typed)
        found = matching(pools, *words)
        assert count.text == f"{len(found)} of {total} prompts"
        assert numbers(opened) == found[:PAGE_SIZE]
    assert 0 < len(matching(pools, "movie", "great")) < len(matching(pools, "movie")) < total
    search.clear()
    search.send_keys(".*")  # no pattern: these two characters
    assert count.text == f"{len(matching(pools, '.*'))} of {total} prompts"
    search.clear()
    search.send_keys("great movie")
    assert {mark.lower() for mark in contents(opened, "#list mark")} == {"great", "movie"}


def test_sort_by_difference(opened, pools):
    base, tuned = pools
    best = base.scores["gold"][np.arange(base.num_prompts), base.scores["proxy"][:, :N].argmax(1)]
    difference = np.round(tuned.scores["gold"][:, 0], 3) - np.round(best, 3)
    Select(field(opened, "sort")).select_by_visible_text("gold: PPO minus best-of-8")
    largest = numbers(opened)
    assert difference[largest] == pytest.approx(np.sort(difference)[::-1][:PAGE_SIZE])
    assert f"{difference.max():+.2f}" in opened.find_element(By.CSS_SELECTOR, "#list .difference").text
    Select(field(opened, "order")).select_by_visible_text("Smallest first")
    assert difference[numbers(opened)] == pytest.approx(np.sort(difference)[:PAGE_SIZE])
    options = [option.text for option in Select(field(opened, "sort")).options]
    assert len(options) == len(set(options)) == 1 + 2 * 3  # the order of the run, and three pairs by two scores


def test_pages(opened, pools):
    pages = -(-pools[0].num_prompts // PAGE_SIZE)
    seen = numbers(opened)
    assert not field(opened, "previous").is_enabled()
    for page in range(2, pages + 1):
        field(opened, "next").click()
        assert field(opened, "page").text == f"Page {page} of {pages}"
        seen += numbers(opened)
    assert seen == list(range(pools[0].num_prompts))
    assert not field(opened, "next").is_enabled()
    field(opened, "search").send_keys("movie")  # another list begins at its first page
    assert field(opened, "page").text.startswith("Page 1 of ")


def test_by_keyboard_alone(opened):
    reached = []
    opened.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    for _ in range(15):
        active = opened.switch_to.active_element
        reached.append(active.get_attribute("id") or active.text or active.tag_name)
        if reached[-1] == "search":
            active.send_keys("film")
        active.send_keys(Keys.TAB)
    assert reached[0] == "Skip to the content"
    for first, then in (("Table", "search"), ("search", "sort"), ("sort", "next"), ("next", "Resolved configuration")):
        assert reached.index(first) < reached.index(then)
    assert " of " in field(opened, "count").text


def test_every_control_has_a_label_and_every_image_a_text(opened):
    labels = "return [...document.querySelectorAll('input, select')].map((e) => e.labels[0].textContent.trim())"
    assert opened.execute_script(labels) == ["Search in prompts and responses", "Sort by", "Order"]
    assert all(image.get_attribute("alt") for image in opened.find_elements(By.TAG_NAME, "img"))
    levels = opened.execute_script("return [...document.querySelectorAll('h1,h2,h3,h4')].map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_overflows_and_all_text_can_be_read(browser, folder, width, scheme):
    show(browser, folder / "report.html", width, scheme)
    browser.execute_script("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    field(browser, "search").send_keys("movie")
    Select(field(browser, "sort")).select_by_index(1)
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.execute_script(BEYOND) == []
    assert browser.execute_script(LOW_CONTRAST) == []
    dark = browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor") == "rgb(21, 24, 28)"
    assert dark == (scheme == "dark")
    assert browser.get_log("browser") == []


def test_hostile_text_is_inert(browser, tmp_path):
    show(browser, write_report(hostile(tmp_path / "<b>run")), 390)
    Select(field(browser, "sort")).select_by_index(1)
    field(browser, "search").send_keys("window")
    assert browser.execute_script("return typeof window.hacked") == "undefined"
    assert set(HOSTILE[:2]) <= set(contents(browser, "#list .text"))
    assert browser.find_elements(By.CSS_SELECTOR, "#list img, #list script, #list svg, main svg, .facts img") == []
    assert contents(browser, ".run-name") == ["<b>run"]
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.get_log("browser") == []


def test_the_page_runs_no_other_script(opened):
    """What the policy of the page forbids: even markup that slipped through could not run."""
    opened.execute_script("document.body.insertAdjacentHTML('beforeend', arguments[0])", HOSTILE[1])
    assert opened.execute_script("return typeof window.hacked") == "undefined"
    refused = opened.get_log("browser")
    assert refused
    assert all("Content Security Policy" in entry["message"] for entry in refused)
