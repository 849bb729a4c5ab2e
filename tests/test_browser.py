"""The journey of a person in a real browser: see the front, click a point, read about the network, retrain it, see the score."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.page import served
from studies import open_study
from studies.jobs import Job
from trainers.runs import Run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-gpu",
]

EPOCHS = 40
"""Long enough to be cancelled while it runs."""

expect.set_options(timeout=30_000)  # a machine at work takes its time

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt install chromium")

POINT = """trial => {
    const plot = document.querySelector('.js-plotly-plot'), {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect()
    for (const trace of plot.data.filter(trace => trace.customdata)) {
        const i = trace.customdata.findIndex(([number]) => number === trial)
        if (i >= 0) return [box.left + xaxis._offset + xaxis.d2p(trace.x[i]), box.top + yaxis._offset + yaxis.d2p(trace.y[i])]
    }
}"""
"""Where on the screen (pixels) the point of a trial lies."""


@pytest.fixture(scope="module")
def runs(tiny_study: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the tiny study, to be written into."""
    source, name = tiny_study
    copy = tmp_path_factory.mktemp("browser") / "runs"
    shutil.copytree(source / name, copy / name)
    run = Run(copy / name / "trials" / "00002")
    said = run.predictions("val")
    assert said is not None
    probabilities = np.eye(3, dtype=np.float32)[said.labels_N]
    probabilities[0] = np.roll(probabilities[0], 1)  # one mistake to be heard, however well it has learned
    run.write_predictions("val", dataclasses.replace(said, probabilities_NK=probabilities))
    return copy


@pytest.fixture(scope="module")
def url(runs: Path) -> Iterator[str]:
    """The address of a dashboard that serves these runs."""
    with served(runs) as (address, _):
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window of 1280 pixels in which nothing but this machine may be asked for anything."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_default_timeout(30_000)
    yield page
    page.close()
    assert [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []


def click_point(page: Page, trial: int) -> None:
    """Click a trial's point in the front."""
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    page.wait_for_function("document.querySelector('.js-plotly-plot')._fullLayout?.xaxis?._offset")
    settle(page)
    x, y = page.evaluate(POINT, trial)
    page.mouse.move(x, y)
    page.wait_for_timeout(300)
    page.mouse.click(x, y)


def screenshot(page: Page, path: Path) -> None:
    """The page from top to bottom."""
    height = page.evaluate("document.querySelector('[data-testid=stMainBlockContainer]').scrollHeight")
    page.set_viewport_size({"width": 1280, "height": int(height) + 60})
    page.wait_for_timeout(1500)
    page.screenshot(path=path)


def settle(page: Page) -> None:
    """Wait until the page has been drawn: a click before that is lost with the button it was meant for."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")


def open_page(page: Page, name: str) -> None:
    """Click a page's name at the top."""
    page.get_by_test_id("stTopNavLink").filter(has_text=name).click()


def test_from_the_front_to_a_retrained_network(page: Page, url: str, runs: Path, tmp_path: Path) -> None:
    """Open, click a point, look at the network, hear a mistake, retrain it, watch, cancel, resume, see the result on the front."""
    trials = open_study("tiny", runs).trials().set_index("trial")
    page.goto(url)
    expect(page.get_by_role("heading", name="tiny")).to_be_visible()
    open_page(page, "Pareto")
    expect(page.locator(".legendtext", has_text="on the front")).to_be_visible()
    click_point(page, 2)
    expect(page.locator("code", has_text=trials.loc[2, "architecture"]).first).to_be_visible()
    page.wait_for_function("location.search.includes('trial=2')")
    screenshot(page, tmp_path / "pareto.png")

    page.get_by_role("link", name="Open this network").click()
    expect(page.get_by_text("Diagram", exact=True)).to_be_visible()
    page.get_by_role("tab", name="Accuracy").click()
    expect(page.get_by_text("Learning curve")).to_be_visible()
    page.get_by_role("tab", name="Listen").click()
    sound = page.get_by_test_id("stAudio").first
    expect(sound).to_be_visible()
    page.wait_for_function("document.querySelector('[data-testid=stAudio]').readyState >= 2")
    heard = page.evaluate(
        "async () => { const a = document.querySelector('[data-testid=stAudio]'); a.muted = true; await a.play(); "
        "await new Promise(done => a.addEventListener('timeupdate', done, {once: true})); return a.duration }"
    )
    assert heard == pytest.approx(1.0, abs=0.1)  # seconds
    screenshot(page, tmp_path / "listen.png")

    open_page(page, "Retrain")
    expect(page.get_by_text(re.compile("^trial 2 · ")).first).to_be_visible()
    epochs = page.get_by_role("spinbutton", name="Epochs")
    epochs.fill(str(EPOCHS))
    epochs.press("Enter")
    start = page.get_by_test_id("stMain").get_by_role("button", name="Retrain")
    expect(page.get_by_text("1 training: ")).to_be_visible()
    start.click()
    job = page.locator(
        f".st-key-job-00002-strong-e{EPOCHS}-s0"
    ).first  # what is drawn anew stands beside it for a moment
    expect(job).to_contain_text("running", timeout=60_000)
    job.get_by_role("button", name="Cancel").click()
    expect(job).to_contain_text("cancelled", timeout=60_000)
    page.reload()
    expect(job).to_contain_text("cancelled")
    settle(page)
    job.get_by_role("button", name="Resume").click()
    expect(job).to_contain_text("finished", timeout=180_000)
    expect(job).to_contain_text("Test accuracy")
    done = Job("tiny", runs, trial=2, epochs=EPOCHS).run
    assert done.scores is not None
    expect(job.get_by_test_id("stMetricValue").first).to_have_text(f"{100 * done.scores['accuracy']:.1f} %")
    screenshot(page, tmp_path / "retrain.png")

    open_page(page, "Pareto")
    expect(page.locator(".legendtext", has_text="retrained")).to_be_visible()
    val = done.metrics()[-1]["val_accuracy"]
    drawn = page.evaluate(
        "() => document.querySelector('.js-plotly-plot').data.find(trace => trace.name.startsWith('retrained')).y"
    )
    assert drawn == pytest.approx([100 * val])


def test_the_address_shows_the_same_again_in_the_dark(page: Page, url: str, tmp_path: Path) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(f"{url}/pareto?study=tiny&trial=1")
    expect(page.get_by_role("link", name="Open this network")).to_be_visible()
    selected = "document.querySelector('.js-plotly-plot')?.data?.some(t => t.selectedpoints?.some(i => t.customdata[i][0] === 1))"
    page.wait_for_function(selected)
    open_page(page, "Network")
    expect(page.get_by_role("combobox", name="Network")).to_have_value(re.compile("^trial 1 · "))
    page.wait_for_function("location.search.includes('trial=1')")
    screenshot(page, tmp_path / "dark.png")


def test_a_row_of_the_table_opens_its_network(page: Page, url: str, runs: Path) -> None:
    first = int(open_study("tiny", runs).front()["trial"][0])
    page.goto(f"{url}/pareto?study=tiny")
    table = page.get_by_test_id("stDataFrame").first
    expect(table).to_be_visible()
    settle(page)
    box = table.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 17, box["y"] + 52)
    page.wait_for_function(f"location.search.includes('trial={first}')")
    expect(page.get_by_role("link", name="Open this network")).to_be_visible()


def test_every_page_fits_a_narrow_window(page: Page, url: str, runs: Path) -> None:
    """At 390 pixels nothing but tables and plots' own parts is wider than the window."""
    page.set_viewport_size({"width": 390, "height": 844})
    for name in ("", "pareto", "network", "ablations", "compare", "retrain"):
        page.goto(f"{url}/{name}?study=tiny&trial=2")
        expect(page.get_by_role("heading", name="tiny")).to_be_visible()
        page.wait_for_timeout(1000)
        assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390, name
        assert page.get_by_test_id("stException").count() == 0, name
