"""Tests the token strip in a real browser: what a reader sees, hovers over, clicks, follows and downloads."""

from collections.abc import Iterator
import json
from pathlib import Path
import random
import shutil
from typing import Any

from playwright.sync_api import Browser, Page, expect
import pytest

from app import signals, sources, store, tokens
from sdpg.records.schemas import TOKEN_SIGNALS, read_rollouts, write_rollouts
from tests.helpers.browser import app, chromium, location, settled

RUN = next(run for run in sources.discover(sources.SAMPLE).runs.values() if run.method.startswith("sdpg"))
STEP = store.rollout_steps(RUN)[1]
LONG = 4096
SPEED = 1.0
"""Processor seconds of the page within which the strip of :data:`LONG` tokens must be there once it was asked for."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample as a project; siblings 0 and 1 of group 0 are long, with everything recorded."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(sources.SAMPLE, root, dirs_exist_ok=True)
    path = root / RUN.folder / "rollouts" / f"step-{STEP:06d}-rank-0.parquet"
    rows = read_rollouts(path).to_pylist()
    at = random.Random(0)
    for row in rows[:2]:
        pieces = [f" {at.choice(['we', 'find', 'the', 'sum', '12', '+', 'of']):s}" for _ in range(LONG)]
        pieces[100], pieces[200] = ".\n\n", " <b>bold</b>"
        starts = [sum(map(len, pieces[:place])) for place in range(LONG)]
        row |= {
            "completion": "".join(pieces), "tokens": pieces, "completion_ids": list(range(LONG)), "length": LONG,
            "token_starts": starts, "token_ends": [a + len(b) for a, b in zip(starts, pieces, strict=True)],
            **{name: [at.gauss(0, 1) for _ in range(LONG)] for name in TOKEN_SIGNALS},
        }  # fmt: skip
    # The third and the second largest, and the largest; log q - log p is the difference of two columns.
    rows[0] |= {"logprob": [0.0] * LONG, "teacher_logprob": [0.01] * LONG}
    for place, value in ((50, 4.0), (60, -9.0), (3000, 7.0)):
        rows[0]["teacher_logprob"][place] = value
    write_rollouts(path, rows)
    return root


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    with app(root) as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    made = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield made
    made.close()


def visit(page: Page, address: str, **query: Any) -> None:
    where = {"run": RUN.name, "step": STEP, "group": 0, "sibling": 0, "signal": "gap"} | query
    page.goto(f"{address}/rollout?" + "&".join(f"{name}={value}" for name, value in where.items()))
    page.wait_for_selector(".strip .t")
    settled(page)


def selected(page: Page) -> int:
    return page.evaluate("element => element.i", page.locator(".t.sel").element_handle())


def test_pointing_at_a_token_shows_its_numbers(page: Page, address: str) -> None:
    visit(page, address)
    page.locator(".t").nth(50).hover()
    tip = page.locator(".tip")
    expect(tip).to_contain_text(f"token 51 of {LONG}, id 50")
    numbers = tip.locator(".numbers > div").all_inner_texts()
    assert numbers[:3] == ["log q − log p", "4", "nats"]
    assert len(numbers) == 27, "name, value and unit of nine signals"


def test_text_of_a_token_is_text(page: Page, address: str) -> None:
    visit(page, address, token=200)
    assert page.locator(".t").nth(200).inner_text() == " <b>bold</b>"
    expect(page.locator(".detail .token")).to_have_text("·<b>bold</b>")
    assert page.locator(".strip b").count() == 0


def test_clicking_a_token_puts_it_into_the_address_and_a_fresh_window_opens_it(
    page: Page, browser: Browser, address: str
) -> None:
    visit(page, address)
    page.locator(".t").nth(7).click()
    page.wait_for_function("location.search.includes('token=7')")
    settled(page)
    assert selected(page) == 7
    expect(page.locator(".detail")).to_contain_text("token 8 of")
    link = location(page)
    fresh = browser.new_context().new_page()
    fresh.goto(link)
    fresh.wait_for_selector(".t.sel")
    assert selected(fresh) == 7
    fresh.context.close()


def test_outliers_by_size_and_in_reading_order(page: Page, address: str) -> None:
    visit(page, address)
    places = []
    for _ in range(3):
        page.locator(".next").click()
        places.append(selected(page))
    assert places == [60, 3000, 50], "the largest first, whatever its sign"
    expect(page.locator(".count")).to_contain_text("outlier 3 of 3")
    box, token = page.locator(".text").bounding_box(), page.locator(".t").nth(50).bounding_box()
    assert box and token and box["y"] <= token["y"] <= box["y"] + box["height"], "brought into view"
    page.locator(".order").click()
    page.locator(".next").click()
    assert selected(page) == 60
    page.locator(".text").press("p")
    assert selected(page) == 50
    page.locator(".text").press("ArrowRight")
    assert selected(page) == 51
    page.locator(".text").press("n")
    assert selected(page) == 60
    page.wait_for_function("location.search.includes('token=60')")


def test_a_late_answer_does_not_take_the_reader_back(page: Page, tmp_path: Path) -> None:
    """The server answers each click; by then the reader may have gone on to another token."""
    row = store.rollout(RUN, STEP, 0, 0)
    data = tokens.strip_data(row, signals.readings(row, RUN.params, None), "entropy", "key")
    path = tmp_path / "alone.html"
    path.write_text(tokens.standalone(data, "Title", [], row["completion"]), encoding="utf-8")
    page.goto(path.as_uri())
    seen = page.evaluate(
        """data => {
          const strip = new Strip(document.querySelector('.strip')), told = [];
          const pick = (index) => told.push(index);
          const after = (token) => {
            strip.update({...data, token}, pick);
            return strip.selected;
          };
          after(null);
          const first = strip.spans[0];
          strip.select(5, false, true);
          strip.select(7, false, true);
          return [after(5), after(7), after(2), after(null), told, strip.spans[0] === first];
        }""",
        data,
    )
    assert seen == [7, 7, 2, None, [5, 7], True], "and the tokens that are there are kept"


def test_colours_follow_the_signal_and_clamp_at_its_ends(page: Page, address: str) -> None:
    visit(page, address)
    shades = [page.locator(".t").nth(i).evaluate("e => e.style.backgroundColor") for i in (60, 50, 3000, 0)]
    assert "--low" in shades[0] and "100%" in shades[0]
    assert shades[1] == shades[2] and "--high" in shades[1] and "100%" in shades[1]
    assert shades[3] == "transparent"
    ticks = page.locator(".ticks span").all_inner_texts()
    assert ticks[:2] == ["≤ −3", "≥ 3 nats"]
    page.get_by_role("radio", name="entropy").or_(page.get_by_role("button", name="entropy")).first.click()
    expect(page.locator(".about .name")).to_have_text("entropy")
    assert page.locator(".t").nth(60).evaluate("e => e.style.backgroundColor") != shades[0]
    page.wait_for_function("location.search.includes('signal=entropy')")


def test_the_map_goes_where_it_is_clicked(page: Page, address: str) -> None:
    visit(page, address)
    box = page.locator(".map").bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + 10)
    assert abs(selected(page) - 0.75 * LONG) < LONG / 100


def test_a_long_strip_is_there_within_a_second(page: Page, address: str) -> None:
    """From the click on another sibling until its tokens are laid out, without the time that others take of a core."""
    visit(page, address)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def worked() -> float:
        found = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
        return found["TaskDuration"]

    took = []
    for sibling in (1, 0, 1):
        before = worked()
        page.get_by_test_id("stButtonGroup").first.get_by_text(f"{sibling} ", exact=False).first.click()
        page.wait_for_function(f"location.search.includes('sibling={sibling}')")
        page.wait_for_function(
            "() => { const e = [...document.querySelectorAll('*')].find(e => e.shadowRoot?.querySelector('.strip'));"
            f" return e && e.shadowRoot.querySelectorAll('.t').length === {LONG}"
            " && e.shadowRoot.querySelector('.t').getBoundingClientRect().height > 0; }"
        )
        took.append(worked() - before)
        settled(page)
    print(f"strip of {LONG} tokens: {took} processor s of the page from click to layout")
    assert 0 < min(took) < SPEED


def test_what_is_taken_away(page: Page, browser: Browser, address: str, tmp_path: Path) -> None:
    visit(page, address, token=60)
    files = {}
    for label in ("JSONL", "Parquet", "HTML"):
        with page.expect_download() as found:
            page.get_by_test_id("stDownloadButton").get_by_text(label).click()
        files[label] = tmp_path / found.value.suggested_filename
        found.value.save_as(files[label])
    row = json.loads(files["JSONL"].read_text(encoding="utf-8"))
    assert read_rollouts(files["Parquet"]).to_pylist() == [row]
    assert row["length"] == LONG

    alone = browser.new_page(viewport={"width": 1400, "height": 1000})
    asked, said = [], []
    alone.on("request", lambda request: asked.append(request.url))
    alone.on("console", lambda message: said.append(message.text))
    alone.goto(files["HTML"].as_uri())
    assert selected(alone) == 60
    expect(alone.locator(".detail")).to_contain_text("−9")
    alone.locator(".t").nth(50).hover()
    expect(alone.locator(".tip")).to_contain_text("token 51 of")
    alone.locator(".picker button", has_text="entropy").click()
    expect(alone.locator(".about .name")).to_have_text("entropy")
    assert asked == [files["HTML"].as_uri()], "nothing but the file itself"
    assert not said, said
    alone.close()


def test_two_rollouts_stand_side_by_side(page: Page, address: str) -> None:
    page.goto(f"{address}/diff?run={RUN.name}&step={STEP}&group=0&sibling=0&b_sibling=1&signal=gap")
    page.wait_for_selector(".strip .t.m")
    settled(page)
    assert page.locator(".strip").count() == 2
    strips = page.locator(".strip").all()
    assert strips[0].locator(".ticks").inner_text() == strips[1].locator(".ticks").inner_text()
    assert strips[0].locator(".t:not(.m)").count() == strips[1].locator(".t:not(.m)").count() > 0


def test_a_choice_that_does_not_come_back_is_told_once_more(browser: Browser, tmp_path: Path) -> None:
    row = read_rollouts(RUN.path(f"rollouts/step-{STEP:06d}-rank-0.parquet")).to_pylist()[0]
    data = tokens.strip_data(row, signals.readings(row, RUN.params, 100.0), "entropy", "one")
    data |= {"facts": [], "prompts": []}
    file = tmp_path / "strip.html"
    file.write_text(tokens.standalone(data, "a rollout", [], row["completion"]), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    page.evaluate("""() => {
      const data = JSON.parse(document.getElementById("data").textContent);
      const host = document.body.appendChild(document.createElement("div"));
      window.picks = [];
      window.strip = new Strip(host);
      window.answer = (token) => window.strip.update({ ...data, token }, (token) => window.picks.push(token));
      window.answer(null);
      for (const token of [1, 2, 3]) window.strip.select(token, true, true);
      window.answer(1);
    }""")
    # Two and three were lost: the last of them is told again. One that comes back is not.
    page.wait_for_timeout(3500)
    assert page.evaluate("window.picks") == [1, 2, 3, 3]
    page.evaluate("() => { window.answer(3); window.strip.select(2, true, true); window.answer(2); }")
    page.wait_for_timeout(3500)
    assert page.evaluate("window.picks") == [1, 2, 3, 3, 2] and page.evaluate("window.strip.selected") == 2
