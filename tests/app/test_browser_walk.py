"""Tests, in a real browser, that every page shows what its address names, wherever a reader comes from.

A random walk goes over links, rows, filters, Back, Forward, reload and typed addresses, with runs that are not the
first of the list. After each step the page is read as a reader sees it, and compared with the address and the records.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
import random
from urllib.parse import parse_qs, quote, urljoin, urlsplit

from playwright.sync_api import Browser, Page, TimeoutError
import pytest

from app import selection, sources, store
from app.sources import RunEntry
from tests.helpers.browser import location, settled

pytestmark = pytest.mark.slow
ROW = 35  # pixels of a row of a table
STEPS = 30
SEED = 19

READ = """() => {
  const text = (element) => (element?.innerText ?? '').trim();
  const named = (kind) => [...document.querySelectorAll(`[data-testid=${kind}]`)];
  const label = (element) => text(element.querySelector('[data-testid=stWidgetLabel] p'));
  const strip = [...document.querySelectorAll('*')].map((e) => e.shadowRoot?.querySelector('.strip') ?? null)
    .concat(...document.querySelectorAll('.strip')).find(Boolean);
  return {
    chosen: named('stSelectbox').map((e) => [label(e), e.querySelector('input')?.value ?? '']),
    checked: named('stButtonGroup').map((e) => [label(e), text(e.querySelector('[aria-checked=true]'))]),
    chips: named('stMultiSelect').map((e) => [label(e), [...e.querySelectorAll('[data-tag]')]
      .map((tag) => tag.getAttribute('aria-label'))]),
    typed: named('stTextInput').map((e) => [label(e), e.querySelector('input').value]),
    titles: [...document.querySelectorAll('h2, h3')].map(text),
    bold: [...document.querySelectorAll('[data-testid=stMarkdownContainer] strong')].map(text),
    tokens: strip ? [...strip.querySelectorAll('.t')].map((e) => e.textContent) : [],
    metrics: named('stMetric').map((e) => text(e.querySelector('[data-testid=stMetricValue]'))),
    failures: named('stException').map(text),
  };
}"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(30_000)
    yield page
    page.close()


def at(page: Page) -> tuple[str, dict[str, list[str]]]:
    """The page and the parameters that the address names."""
    parts = urlsplit(location(page))
    return parts.path.strip("/") or "overview", parse_qs(parts.query)


def check(page: Page, runs: dict[str, RunEntry], came: str) -> None:
    """Compares what the page shows with the address and with the records that the address names."""
    name, query = at(page)
    if name in ("rollout", "diff"):
        page.locator(".strip .t").first.wait_for()
    seen = page.evaluate(READ)
    where = f"{came}: {location(page)} shows {seen}"
    chosen, checked = dict(reversed(seen["chosen"])), dict(reversed(seen["checked"]))
    assert seen["titles"][0] == selection.PAGES[name][0], where
    assert not seen["failures"], where
    one = {key: values[0] for key, values in query.items()}
    run = runs.get(one.get("run", ""))
    if name == "compare" and "runs" in query:
        assert dict(seen["chips"])["Runs"] == query["runs"], where
    if run is None or name not in ("rollouts", "rollout", "gating", "diff", "provenance"):
        return
    assert chosen["Run"] == run.id, where
    if name == "provenance":
        assert run.title in seen["bold"], where
    if name == "gating":
        gate = store.index(run)[0]["gate"] > 0
        assert seen["metrics"][0] == f"{gate.mean():.0%}", where
    if "step" not in one:
        return
    step = int(one["step"])
    if name in ("rollouts", "rollout", "diff"):
        assert chosen["Step"].split()[0] == str(step), where
    if name == "rollouts":
        assert dict(seen["typed"]).get("Search", "") == one.get("q", ""), where
        assert dict(seen["chips"]).get("Status", query.get("status", [])) == query.get("status", []), where
        if "group" in one and not {"q", "status"} & set(query):
            assert seen["titles"][-1].startswith(f"Step {step}, group {one['group']}: "), where
    if "group" in one and name in ("rollout", "diff"):
        assert chosen["Problem"].endswith(f"group {one['group']}"), where
        if "sibling" in one:
            row = store.rollout(run, step, int(one["group"]), int(one["sibling"]))
            assert checked["Sibling"].startswith(one["sibling"] + " "), where
            assert len(seen["tokens"]) == len(row["tokens"]), where
            assert "".join(row["tokens"]).split()[-1] in "".join(seen["tokens"]), where


def addresses(runs: dict[str, RunEntry]) -> list[str]:
    """Addresses of every page, as links from elsewhere name them; none is of the first run."""
    found = []
    for run in list(runs.values())[1:]:
        row = store.index(run)[0].sort_values(["step", "group"]).iloc[-12]
        place = f"run={quote(run.id, safe='')}&step={row['step']}&group={row['group']}"
        found += [f"{name}?{place}" for name in ("rollouts", "gating", "provenance", "problems", "tables", "overview")]
        found += [f"{name}?{place}&sibling={row['sibling']}" for name in ("rollout", "diff")]
        found += [f"rollouts?{place}&status={row['status']}", f"compare?{place}&runs={run.id}"]
    return [path.removeprefix("overview") for path in found]


def place(address: str) -> tuple[str, dict[str, list[str]]]:
    """The page and the parameters of an address, however they are written."""
    return urlsplit(address).path.strip("/"), parse_qs(urlsplit(address).query)


@dataclass
class Trail:
    """The browser's history as a reader expects it: one entry for each address that was shown."""

    entries: list[str]
    now: int = 0

    def went(self, address: str) -> None:
        if address != self.entries[self.now]:
            self.entries = [*self.entries[: self.now + 1], address]
            self.now += 1

    def has(self, kind: str) -> bool:
        return self.now > 0 if kind == "back" else self.now + 1 < len(self.entries)

    def moved(self, kind: str) -> str:
        self.now += 1 if kind == "forward" else -1
        return self.entries[self.now]


def act(page: Page, chance: random.Random, typed: list[str], address: str, trail: Trail) -> str:
    """Takes one step as a reader would, and says which."""
    name, _ = at(page)
    kind = chance.choice(("link", "link", "link", "row", "row", "back", "back", "forward", "reload", "typed", "choose"))
    before = location(page)
    links = page.locator("a[href*='?']:visible")
    tables = page.locator("[data-testid=stDataFrame]:visible")
    if kind == "link" and links.count():
        link = links.nth(chance.randrange(links.count()))
        href = link.get_attribute("href") or ""
        aim = urljoin(address if href.startswith("?") else before, href)  # the first page has no name of its own
        link.click()
        page.wait_for_timeout(200)
        settled(page)
        assert place(location(page)) == place(aim), f"{before}: a link to {aim} led to {location(page)}"
        trail.went(location(page))
        return f"link {aim}"
    if kind == "row" and name in ("rollouts", "gating") and tables.count():
        grid = tables.nth(chance.randrange(tables.count()))
        grid.locator("canvas").first.wait_for()
        grid.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        box = grid.bounding_box()
        assert box
        page.mouse.click(box["x"] + 15, box["y"] + ROW * chance.randint(2, 3) + ROW / 2)
    elif kind == "choose" and name in ("rollouts", "rollout", "gating", "diff", "provenance"):
        page.get_by_label("Run", exact=True).first.click()
        options = page.get_by_role("option")
        options.nth(chance.randrange(1, options.count())).click()
    elif kind in ("back", "forward") and trail.has(kind):
        getattr(page, f"go_{kind}")()
        page.wait_for_timeout(400)
        settled(page)
        wanted = trail.moved(kind)
        assert location(page) == wanted, f"{kind} from {before} led to {location(page)} instead of {wanted}"
        return f"{kind} from {before}"
    elif kind == "reload":
        page.reload()
    else:
        kind = "typed"
        page.goto(f"{address}/{chance.choice(typed)}")
    if kind in ("row", "choose"):
        with suppress(TimeoutError):  # what was chosen already changes nothing
            page.wait_for_function("before => location.href !== before", arg=before, timeout=4_000)
    settled(page)
    trail.went(location(page))
    return f"{kind} from {before}"


def test_a_walk_shows_what_each_address_names(page: Page, address: str, root: Path) -> None:
    runs = sources.discover(root).runs
    typed = addresses(runs)
    chance = random.Random(SEED)
    page.goto(f"{address}/{typed[0]}")
    settled(page)
    check(page, runs, "typed")
    trail = Trail([location(page)])
    kinds = set()
    for number in range(STEPS):
        came = act(page, chance, typed, address, trail)
        kinds.add(came.split()[0])
        check(page, runs, f"step {number}, {came}")
    assert kinds == {"link", "row", "back", "forward", "reload", "typed", "choose"}
