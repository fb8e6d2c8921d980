"""Tests, in a real browser, each task of docs/app.md as it reads there: what is clicked, and what is seen then."""

import json
from pathlib import Path
import shutil
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Browser, Page
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app import notes, sources, store, token_ranking
from app.sources import SAMPLE
from tests.app.test_app_math_text import HOSTILE
from tests.app.test_browser_tour import click
from tests.helpers.browser import location, settled

pytestmark = pytest.mark.slow
RUN, LIVE = "sdpg-ufkl-0", "feed"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's runs, one of them with hostile completions at its last step, and another run in training."""
    root = tmp_path_factory.mktemp("tasks") / "project"
    shutil.copytree(SAMPLE, root)
    path = max((root / "runs/grpo-0/rollouts").iterdir())
    table = pq.read_table(path)
    at = table.schema.get_field_index("completion")
    text = rf"{HOSTILE} \(\rule{{99em}}{{99em}}\) so $\frac{{1}}{{2}}$"
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array([text] * len(table))), path)
    run, state = root / "runs/rlsd-0", root / ".state" / LIVE
    state.mkdir(parents=True)
    config = (run / "config.yaml").read_text()
    (state / "config.yaml").write_text(config.replace((run / "COMPLETE").read_text().strip(), LIVE))
    grow(root, 12)
    return root


def grow(root: Path, steps: int) -> None:
    """Lets the run in training have made some steps."""
    for name in ("timing.csv", "metrics.csv"):
        lines = (root / "runs/rlsd-0" / name).read_text().splitlines(keepends=True)
        (root / ".state" / LIVE / name).write_text("".join(lines[: steps + 1]))


@pytest.fixture
def page(browser: Browser) -> Page:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(30_000)
    return page


def press(page: Page, name: str) -> None:
    """Clicks what has this name, and waits until the page stands still."""
    page.get_by_role("radio", name=name, exact=True).or_(
        page.get_by_role("button", name=name, exact=True)
    ).first.click()
    page.wait_for_timeout(200)
    settled(page)


def test_find_the_token_where_the_teacher_most_disagrees_in_a_run(page: Page, address: str, root: Path) -> None:
    page.goto(f"{address}/rollouts?run={RUN}")
    settled(page)
    press(page, "whole run")
    press(page, "tokens")
    click(page, 0, 1, pixels=15)
    page.wait_for_url("**/rollout?**")
    settled(page)
    run = sources.discover(root).runs[RUN]
    expected = token_ranking.largest(run, store.rollout_steps(run), "disagreement", None, 1).iloc[0]
    chosen = page.locator(".strip .t.sel")
    chosen.wait_for()
    assert f"step={expected['step']}&" in location(page) and f"token={expected['at']}" in location(page)
    assert chosen.inner_text().strip("· ") == str(expected["token"]).strip()
    assert "-".join(page.locator(".detail .v.now").inner_text().split("−")).startswith(f"{expected['value']:.2f}"[:4])


def test_go_by_key_through_the_longest_wrong_rollouts_of_two_runs(page: Page, address: str) -> None:
    page.goto(f"{address}/rollouts?run={RUN}&with=rlsd-0&listing=rollouts&scope=whole+run&status=wrong&sort=tokens"
              "&falling=true")  # fmt: skip
    settled(page)
    click(page, 0, 1, pixels=15)
    page.wait_for_url("**/rollout?**")
    settled(page)
    first = location(page)
    assert page.get_by_text("1 of ", exact=False).first.is_visible()
    page.keyboard.press("j")
    page.wait_for_function("before => location.href !== before", arg=first)
    settled(page)
    second = location(page)
    assert page.get_by_text("2 of ", exact=False).first.is_visible() and "sort=tokens" in second
    page.keyboard.press("k")
    page.wait_for_function("before => location.href !== before", arg=second)
    settled(page)
    names = ("run", "step", "group", "sibling")
    back, began = (parse_qs(urlsplit(url).query) for url in (location(page), first))
    assert [back[name] for name in names] == [began[name] for name in names]
    assert page.get_by_text("1 of ", exact=False).first.is_visible()


def test_save_curves_over_training_time_as_pdf(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(f"{address}/compare?runs=grpo-0&runs={RUN}")
    settled(page)
    press(page, "time")
    assert "x=time" in location(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Figure (PDF)").click()
    download.value.save_as(tmp_path / "curves.pdf")
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF") and not page.locator("[role=alert]").count()


def test_read_formulas_while_hostile_text_stays_text(page: Page, address: str) -> None:
    seen: list[str] = []
    page.on("dialog", lambda dialog: (seen.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: request.url.startswith((address, "data:", "blob:")) or seen.append(request.url))
    page.goto(f"{address}/rollouts?run=grpo-0&step=60&group=1")
    settled(page)
    assert not page.locator(".katex").count()
    page.get_by_text("Formulas rendered").click()
    page.locator(".katex .mfrac").first.wait_for()
    settled(page)
    inside = page.locator("[data-testid=stMarkdownContainer]", has=page.locator(".katex")).first
    assert not inside.locator("img, script, a, code, h1, table, .rule").count()
    assert "<script>alert(1)</script> **bold**" in inside.inner_text() and r"\rule{99em}" in inside.inner_text()
    assert not seen


def test_write_a_note_and_find_the_rollout_by_its_tag(page: Page, address: str, root: Path) -> None:
    page.goto(f"{address}/rollout?run={RUN}&step=60&group=1&sibling=5")
    settled(page)
    page.get_by_role("button", name="Note").click()
    page.get_by_role("textbox", name="Note", exact=True).fill("the teacher is wrong")
    page.get_by_label("Tags, with commas between them").fill("odd")
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("Change the note").wait_for()
    assert notes.of_rollouts(sources.discover(root).runs[RUN])[60, 1, 5].tags == ("odd",)
    page.goto(f"{address}/rollouts?run={RUN}&listing=rollouts&scope=whole+run&tag=odd")
    settled(page)
    page.get_by_text("1 of ", exact=False).first.wait_for()
    assert json.loads((root / "runs" / notes.NAME).read_text())[f"runs/{RUN}#60/1/5"]["text"] == "the teacher is wrong"


def test_watch_a_run_in_training_without_a_click(page: Page, address: str, root: Path) -> None:
    page.goto(f"{address}/compare?runs=in-progress-{LIVE}")
    settled(page)
    page.get_by_text("step 12 of 60").wait_for()
    grow(root, 15)
    page.get_by_text("step 15 of 60").wait_for()
    assert not page.locator("[data-testid=stException]").count()
