"""Tests, in a real browser, the way from a cell of the table to one rollout, and files of a selection."""

from collections.abc import Iterator
import json
from pathlib import Path

from playwright.sync_api import Browser, Page
import pyarrow.parquet as pq
import pytest

from tests.helpers.browser import app, chromium, location, settled

pytestmark = pytest.mark.slow
ROW = 35  # pixels of a row of a table


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app on its sample."""
    with app(tmp_path_factory.mktemp("project")) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def ready(page: Page) -> None:
    """Waits for the page, whose links are written last."""
    page.wait_for_selector(".st-key-bar >> text=Provenance", state="attached", timeout=60_000)
    settled(page)
    page.wait_for_timeout(800)


def opened(browser: Browser, address: str, path: str) -> Page:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(address + path)
    ready(page)
    page.wait_for_selector("[data-testid=stDataFrame] canvas", timeout=60_000)
    page.wait_for_timeout(800)
    return page


def click(page: Page, table: int, across: float, row: int, pixels: int = 0) -> None:
    """Clicks in a table; rows are counted from 0, its header included."""
    grid = page.locator("[data-testid=stDataFrame]").nth(table)
    grid.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    box = grid.bounding_box()
    assert box
    page.mouse.click(box["x"] + (pixels or box["width"] * across), box["y"] + ROW * row + ROW / 2)


def test_from_a_cell_to_its_problems_and_one_of_them(address: str, browser: Browser) -> None:
    page = opened(browser, address, "/tables")
    click(page, 0, 0.45, 4)  # the third method, the second benchmark
    page.wait_for_url("**/problems?**", timeout=60_000)
    ready(page)
    assert "benchmark=chain-4" in location(page) and "run=sample%2Fgrpo-0" in location(page)
    before = location(page)
    chart = page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg").first
    box = chart.bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] * 0.4, box["y"] + 90)
    page.wait_for_function("before => location.href != before", arg=before, timeout=60_000)
    assert "problem=chain-4-" in location(page)
    page.close()


def test_from_a_group_to_a_sibling_and_back(address: str, browser: Browser) -> None:
    page = opened(browser, address, "/rollouts?step=20")
    click(page, 0, 0, 3, pixels=15)
    page.wait_for_function("() => location.href.includes('group=2')", timeout=60_000)
    ready(page)
    assert page.get_by_text("Step 20, group 2").count() == 1
    click(page, 1, 0, 4, pixels=15)
    page.wait_for_url("**/rollout?**", timeout=60_000)
    assert all(part in location(page) for part in ("step=20", "group=2", "sibling=3"))
    # Whoever leaves a page before it stands is taken back to it by Streamlit.
    ready(page)
    page.go_back()
    page.wait_for_url("**/rollouts?**", timeout=60_000)
    page.close()


def test_files_of_a_selection(address: str, browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, address, "/rollouts?step=20&gate=open")
    page.get_by_role("button", name="Download", exact=True).click()
    page.wait_for_timeout(500)
    kept = {}
    for name in ("Parquet", "JSONL"):
        with page.expect_download(timeout=60_000) as download:
            page.get_by_role("button", name=name, exact=True).click()
        kept[name] = tmp_path / download.value.suggested_filename
        download.value.save_as(kept[name])
    table = pq.read_table(kept["Parquet"])
    lines = [json.loads(line) for line in kept["JSONL"].read_text().splitlines()]
    assert set(table["step"].to_pylist()) == {20} and min(table["gate"].to_pylist()) > 0
    assert len(lines) == len(table) and lines[0]["problem_id"] == table["problem_id"][0].as_py()
    page.close()
