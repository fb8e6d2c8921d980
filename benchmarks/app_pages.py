"""Measures, in a real browser, how soon the app shows a run of a million recorded tokens, and the memory it takes."""

from pathlib import Path
import statistics
import tempfile
import time

from playwright.sync_api import Page
import psutil
from tqdm import tqdm

from app import selection
from benchmarks.app_records import LENGTH, RUN, STEPS, make_project
from benchmarks.figures import Figure, SkippedError, Target, show
from tests.helpers.browser import CHROMIUM, app, chromium, settled

REPEATS = 3
PAGES = Target("app_page_seconds", "seconds, the slowest page", "<= 2")
STRIP = Target("app_strip_seconds", f"seconds until the first {LENGTH:,} tokens are on the page", "<= 1")
MEMORY = Target("app_memory_gb", "10⁹ bytes of the server after every page was seen", "<= 1")

SELECTED = f"run={RUN}&step={STEPS}&group=0&sibling=1"
_measured: dict[str, float] = {}
_seconds: dict[str, list[float]] = {}


def server_of(address: str) -> psutil.Process:
    """Returns the process of the app that listens at an address, which this process started."""
    port = int(address.rsplit(":", 1)[1])
    for process in psutil.Process().children(recursive=True):
        if any(
            connection.laddr.port == port and connection.status == psutil.CONN_LISTEN
            for connection in process.net_connections()
        ):
            return process
    raise SkippedError("the server's process was not found")


def visit(page: Page, address: str, name: str, selected: str = SELECTED) -> float:
    """Returns the seconds from opening a page in a fresh window until its script has ended and its elements are
    there."""
    path = "/" if name == "overview" else f"/{name}"
    begin = time.perf_counter()
    page.goto(f"{address}{path}?{selected}")
    settled(page)
    return time.perf_counter() - begin - 0.15  # settled() checks once more after that time


def _strip(page: Page, address: str) -> float:
    """Returns the seconds from the click on a link to a rollout until its last token is laid out."""
    page.goto(f"{address}/rollouts?{SELECTED}")
    settled(page)
    link = page.locator(".st-key-bar").get_by_role("link", name="Rollout", exact=True)
    begin = time.perf_counter()
    link.click()
    page.wait_for_function(f"() => {_TOKENS} >= {LENGTH}", polling="raf")
    return time.perf_counter() - begin


_TOKENS = (
    "[...document.querySelectorAll('*')].reduce((n, e) => "
    "n + (e.shadowRoot ? e.shadowRoot.querySelectorAll('.strip .t').length : 0), "
    "document.querySelectorAll('.strip .t').length)"
)


def _measure() -> None:
    """Visits every page, and keeps the measurements for the three figures."""
    if _measured:
        return
    if CHROMIUM is None:
        raise SkippedError("there is no Chromium: make browser")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tokens = make_project(root)
        with app(root) as address, chromium() as browser:
            server = server_of(address)
            window = browser.new_context()
            warm = window.new_page()
            warm.goto(address)  # the browser caches the app's own files
            settled(warm)
            first = server.memory_info().rss
            peak = first
            for name in tqdm(list(selection.PAGES) * REPEATS, desc="pages", leave=False):
                page = window.new_page()
                page.set_default_timeout(60_000)
                _seconds.setdefault(name, []).append(visit(page, address, name))
                peak = max(peak, server.memory_info().rss)
                page.close()
            strips = []
            for _ in range(REPEATS):
                page = window.new_page()
                strips.append(_strip(page, address))
                peak = max(peak, server.memory_info().rss)
                page.close()
    show(
        f"Pages of a run with {tokens:,} recorded tokens, seconds, {REPEATS} visits",
        ["page", "first visit", "median", "most"],
        [(name, *[f"{each:.2f}" for each in (found[0], statistics.median(found), max(found))])
         for name, found in _seconds.items()],
        f"token strip {', '.join(f'{each:.2f}' for each in strips)} s; server {first / 1e9:.2f} GB at the start, "
        f"{peak / 1e9:.2f} GB at most",
    )  # fmt: skip
    _measured.update(page=max(max(found) for found in _seconds.values()), strip=strips[0], memory=peak / 1e9)


def page_seconds() -> Figure:
    """Returns the figure whose ratio is the seconds of the slowest visit to any page.

    Each visit is in a fresh window of a browser that has the app's own files.
    """
    _measure()
    return PAGES.measured(_measured["page"], pages=_seconds)


def strip_seconds() -> Figure:
    """Returns the figure whose ratio is the seconds from a click to the last token of the first strip."""
    _measure()
    return STRIP.measured(_measured["strip"], tokens=LENGTH)


def memory() -> Figure:
    """Returns the figure whose ratio is the server's resident size, in 10⁹ bytes."""
    _measure()
    return MEMORY.measured(_measured["memory"])
