"""Tests a reader's whole way in a real browser: from a cell of the table to a token, a fresh window, and a file."""

import json
from pathlib import Path

from playwright.sync_api import Browser, Page
import pytest

from app import store
from app.sources import discover
from tests.helpers.browser import location, settled

pytestmark = pytest.mark.slow
ROW = 35  # pixels of a row of a table


def click(page: Page, table: int, row: int, *, share: float = 0.0, pixels: float = 0.0) -> None:
    """Clicks in a table; rows are counted from 0, its header included."""
    grid = page.locator("[data-testid=stDataFrame]").nth(table)
    grid.locator("canvas").first.wait_for()
    grid.scroll_into_view_if_needed()
    page.wait_for_timeout(800)
    box = grid.bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] * share + pixels, box["y"] + ROW * row + ROW / 2)


def test_from_the_table_to_a_token(browser: Browser, address: str, root: Path, tmp_path: Path) -> None:
    elsewhere: list[str] = []
    window = browser.new_context(viewport={"width": 1400, "height": 1000})
    window.set_default_timeout(60_000)
    page = window.new_page()
    page.on(
        "request", lambda request: request.url.startswith((address, "data:", "blob:")) or elsewhere.append(request.url)
    )

    # The last method's cell of the second benchmark → the problems behind it.
    page.goto(f"{address}/tables")
    settled(page)
    click(page, 0, 6, share=0.45)
    page.wait_for_url("**/problems?**")
    settled(page)
    assert "benchmark=chain-4" in location(page) and "run=sdpg-ufkl-0" in location(page)

    # The run's own problems of training → the groups of the first one → that group's siblings → the first of them.
    page.get_by_label("Problems of").click()
    page.get_by_role("option", name="Training problems").click()
    page.wait_for_function("() => location.search.includes('benchmark=training')")
    settled(page)
    click(page, 1, 1, pixels=15)
    page.wait_for_url("**/rollouts?**")
    settled(page)
    click(page, 1, 1, pixels=15)
    page.wait_for_url("**/rollout?**")
    settled(page)
    query = dict(part.split("=") for part in location(page).split("?")[1].split("&"))
    run = discover(root).runs[query["run"]]
    row = store.rollout(run, int(query["step"]), int(query["group"]), int(query["sibling"]))

    # The numbers of a token, pointed at; then chosen, so that a link leads to it.
    token = page.locator(".strip .t").nth(2)
    token.wait_for()
    token.hover()
    shown = page.locator(".strip .tip").inner_text()
    assert row["tokens"][2].strip() in shown and f"token 3 of {row['length']}" in shown
    assert "entropy" in shown and f"id {row['completion_ids'][2]}" in shown
    token.click()
    page.wait_for_function("() => location.search.includes('token=2')")
    fresh = browser.new_context().new_page()
    fresh.goto(location(page))
    settled(fresh)
    chosen = fresh.locator(".strip .t.sel")
    chosen.wait_for()
    assert chosen.inner_text().strip("· ") == row["tokens"][2].strip()

    with fresh.expect_download() as download:
        fresh.get_by_role("button", name="JSONL").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    taken = json.loads(file.read_text(encoding="utf-8"))
    assert taken["completion"] == row["completion"] and taken["completion_ids"] == row["completion_ids"]
    assert elsewhere == []
