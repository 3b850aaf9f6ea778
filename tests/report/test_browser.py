"""A report in Chromium, as it is opened: quick, quiet, without network, at home on a desk and on a phone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from report.sample_job import write_job
from sglang_blend.cli import main
from sglang_blend.report.compare import compare_page
from sglang_blend.report.html import write
from sglang_blend.report.pages import job_page
from sglang_blend.report.records import read_job

pytestmark = pytest.mark.browser

MOST_BYTES, MOST_LOAD_S = 5_000_000, 2.0
SCREENS = {"desktop": (1280, 900), "phone": (390, 844)}
# A job in every way, the others once in each scheme and on each screen.
OPENED = [("job", screen, scheme) for screen in SCREENS for scheme in ("light", "dark")]
OPENED += [
    (name, *way)
    for name in ("comparison", "plan", "simulation")
    for way in (("desktop", "light"), ("phone", "dark"))
]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None, "no Chromium on PATH: run scripts/install_browser.sh"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    small, large = (
        write_job(folder, stem="small"),
        write_job(folder, num_steps=30_000, num_engines=3, stem="large"),
    )
    found = {name: folder / f"{name}.html" for name in ("job", "comparison", "plan", "simulation")}
    write(job_page(read_job(large)), found["job"])
    write(compare_page(read_job(small), read_job(large)), found["comparison"])
    batch = Path(__file__).resolve().parents[2] / "examples" / "batch.jsonl"
    main(["plan", "--file", str(batch), "--html", str(found["plan"]), "--price-per-hour", "3"])
    job = ["--density", "1.1", "--sharing", "0.3", "--num-requests", "2000", "--orders", "dual-scan"]
    main(["simulate", *job, "--modes", "overlap", "--html", str(found["simulation"])])
    return found


@pytest.mark.alone
@pytest.mark.parametrize(("name", "screen", "scheme"), OPENED)
def test_a_report_opens_quickly_and_quietly(
    browser: Browser, reports: dict[str, Path], name: str, screen: str, scheme: Any
) -> None:
    width, height = SCREENS[screen]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    start = time.monotonic()
    page.goto(reports[name].as_uri())
    load_s = time.monotonic() - start
    for number in range(page.locator(".chart").count()):
        page.locator(f"#chart-{number}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#chart-{number}[data-drawn={scheme}] canvas", timeout=20_000)
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [reports[name].as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "owned" not in page.title().replace("document.title='owned'", "")
    assert load_s < MOST_LOAD_S
    assert reports[name].stat().st_size < MOST_BYTES
    context.close()


def test_the_theme_can_be_chosen_and_charts_follow(browser: Browser, reports: dict[str, Path]) -> None:
    page = browser.new_page(color_scheme="light")
    page.goto(reports["job"].as_uri())
    page.wait_for_selector("#chart-0[data-drawn=light]")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("button.theme")
    page.click("button.theme")
    page.wait_for_selector("#chart-0[data-drawn=dark]")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    page.reload()
    page.wait_for_selector("#chart-0[data-drawn=dark]")
    page.close()


def test_the_tables_are_there_without_javascript(browser: Browser, reports: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(reports["job"].as_uri())
    assert page.locator("noscript").count() == 1
    page.click("details >> nth=0")
    assert page.locator("details >> nth=0 >> tr").count() > 10
    context.close()
