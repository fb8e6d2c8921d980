"""Tests hostile text in records, in a real browser: every page shows it as text, and none of it takes effect.

Each text would leave a trace that :class:`Watch` finds: a dialog, a request, another title, a variable, or an
element that carries its mark. The last test makes the same visit to a copy of the app that does make markup of text.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
import shutil
import time
from typing import Any
from urllib.parse import quote, urlsplit

from playwright.sync_api import Browser, Error, Page
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app import selection, sources, store
from sdpg.records.schemas import TOKEN_SIGNALS
from tests.helpers import browser as harness
from tests.helpers.browser import chromium, location, settled

EVIL = "https://evil.example"
TEXTS: list[bytes] = [text if isinstance(text, bytes) else text.encode("utf-8") for text in (
    "<script data-pwned>window.__pwned=1;document.title='pwned';alert(1)</script>",
    "</script><script data-pwned>window.__pwned=1</script>",
    f"<img data-pwned src='{EVIL}/x.png' onerror='window.__pwned=1;alert(1)'>",
    "<svg data-pwned onload='window.__pwned=1;alert(1)'><circle r=9></svg>",
    f"<iframe data-pwned src='{EVIL}/'></iframe><object data-pwned data='{EVIL}/'></object>",
    "<a data-pwned href='javascript:window.__pwned=1'>pwnedlink</a>",
    f"<base data-pwned href='{EVIL}/'><link data-pwned rel=stylesheet href='{EVIL}/x.css'>",
    f"<meta data-pwned http-equiv=refresh content='0;url={EVIL}/'>",
    "<form data-pwned action='javascript:window.__pwned=1'><button>go</button></form>",
    "<details data-pwned open ontoggle='window.__pwned=1'><summary>x</summary></details>",
    f"</style><style data-pwned>@import '{EVIL}/x.css';*{{display:none!important}}</style>",
    "</title></textarea></noscript><!-- --><b data-pwned>pwnedmark</b><!--",
    "\"'><b data-pwned onmouseover=alert(1)>pwnedmark</b>",
    "&lt;b data-pwned&gt;pwnedmark&lt;/b&gt;",
    f"**pwnedmark** *pwnedmark* ~~pwnedmark~~ [pwnedmark](javascript:window.__pwned=1) [pwnedmark]({EVIL}/)",
    f"![pwnedmark]({EVIL}/x.png) <{EVIL}/> {EVIL}/pwnedmark www.evil.example",
    "# pwnedmark\n\n- pwnedmark\n\n| pwnedmark | b |\n|---|---|\n| pwnedmark | d |\n\n> pwnedmark\n\n---\n",
    ":red[pwnedmark] :material/warning: :blue-background[pwnedmark] :small[pwnedmark] :smile:",
    r"$pwnedmark^2$ $$\int pwnedmark$$ \(pwnedmark\) \[\href{javascript:alert(1)}{pwnedmark}\]",
    "{{constructor.constructor('alert(1)')()}} ${alert(1)} <%= alert(1) %> #{alert(1)}",
    "\u202egnp.exe\u2066 \u200b\u200d\u2060\ufeff\u00ad zero \u2028 lines \u2029",
    "\x1b[31mred\x1b[0m \x1b]0;pwned\x07 \x00\x01\x08\x7f \x9b1m",
    b"lone \xed\xa0\x80 and \xed\xbf\xbf, \xff\xfe\xc0\x80 cut \xf0\x9f\x98",
    "a\u0301\u0301\u0301" + "\u0300" * 400,
)]  # fmt: skip
LONG_LINE = b"<b data-pwned>9</b>" * (1_000_000 // 19)
ONE_PAGE_SECONDS = 45
"""More than this for a page with a line of a megabyte counts as hanging."""

TRACES = """() => {
  const found = [];
  const formatted = 'strong, em, del, b, i, s, h1, h2, h3, h4, h5, h6, li, blockquote, .katex, .katex-html, font';
  const look = (root) => {
    for (const element of root.querySelectorAll('*')) {
      const at = element.localName;
      if (element.hasAttribute('data-pwned')) found.push(`<${at}> made of text`);
      for (const name of element.getAttributeNames()) {
        const value = element.getAttribute(name);
        if (name.startsWith('on')) found.push(`<${at} ${name}>`);
        if (/^\\s*javascript:/i.test(value)) found.push(`<${at} ${name}=javascript:>`);
        // A link of the app's own may carry the text in its query.
        if (['href', 'src', 'action', 'data'].includes(name) && new URL(value, location.href).host.includes('evil'))
          found.push(`<${at} ${name}=${value.slice(0, 80)}>`);
      }
      if (element.matches(formatted) && element.textContent.trim() === 'pwnedmark') found.push(`<${at}> by Markdown`);
      if (element.matches('.katex') && element.textContent.includes('pwned')) found.push('a formula');
      if (at === 'script' && element.type !== 'application/json' && element.textContent.includes('__pwned'))
        found.push('<script> made of text');
      if (at === 'style' && element.textContent.includes('evil.example')) found.push('<style> made of text');
      if (element.shadowRoot) look(element.shadowRoot);
    }
  };
  look(document);
  if (window.__pwned !== undefined) found.push('a script ran');
  return found;
}"""


def strings(values: list[bytes | None]) -> pa.Array:
    """A column of text whose bytes need not be UTF-8."""
    return pa.array(values, pa.binary()).view(pa.string())


def lists(values: list[list[bytes]]) -> pa.Array:
    """A column of lists of text, as :func:`strings`."""
    offsets = [0]
    for each in values:
        offsets.append(offsets[-1] + len(each))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), strings([text for each in values for text in each]))


def with_columns(table: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    """The table with some columns replaced; their bytes are taken as they are."""
    schema = table.schema
    arrays = []
    for place, name in enumerate(schema.names):
        column = columns.get(name, table.column(place))
        if pa.types.is_list(schema.field(name).type) and name in columns:
            column = pa.ListArray.from_arrays(column.offsets, column.values, type=schema.field(name).type)
        arrays.append(column)
    return pa.Table.from_arrays(arrays, schema=schema)


def poison_rollouts(path: Path) -> None:
    """Every text of a step's rollouts becomes one of :data:`TEXTS`, or all of them."""
    table = pq.read_table(path)
    count = table.num_rows
    groups = table["group"].to_pylist()

    def turn(shift: int) -> list[bytes | None]:
        return [TEXTS[(place + shift) % len(TEXTS)] for place in range(count)]

    completions, tokens = [], []
    for place in range(count):
        pieces = [LONG_LINE] if place == 1 else [*TEXTS[place % len(TEXTS) :], *TEXTS[: place % len(TEXTS)]]
        completions.append(b"".join(pieces))
        tokens.append(pieces)
    ends = [[sum(len(text) for text in pieces[: at + 1]) for at in range(len(pieces))] for pieces in tokens]
    starts = [[0, *each[:-1]] for each in ends]
    replaced: dict[str, pa.Array] = {
        # A group's siblings answer one problem.
        "problem_id": strings([TEXTS[group % len(TEXTS)] for group in groups]),
        "student_prompt": strings([LONG_LINE if place == 2 else b"\n".join(TEXTS) for place in range(count)]),
        "teacher_prompt": strings([b"\n".join(reversed(TEXTS))] * count),
        "completion": strings([*completions]),
        "completion_ids": pa.array([list(range(len(each))) for each in tokens], pa.list_(pa.int32())),
        "tokens": lists(tokens),
        "token_starts": pa.array(starts, pa.list_(pa.int32())),
        "token_ends": pa.array(ends, pa.list_(pa.int32())),
        "extracted_answer": strings(turn(3)),
        "gold": strings(turn(5)),
        "verifier": strings(turn(7)),
        "verifier_version": strings(turn(9)),
        "length": pa.array([len(each) for each in tokens], pa.int64()),
    }
    for factor, name in enumerate(TOKEN_SIGNALS, 1):
        values = [[factor * (0.5 - at % 3) for at in range(len(each))] for each in tokens]
        replaced[name] = pa.array(values, pa.list_(pa.float32()))
    pq.write_table(with_columns(table, replaced), path)


def poison_evaluations(path: Path) -> None:
    """Texts of an evaluation; problems keep one name each throughout, as they have in real ones."""
    table = pq.read_table(path)
    names = {name: place for place, name in enumerate(dict.fromkeys(table["problem_id"].to_pylist()))}
    places = [names[name] for name in table["problem_id"].to_pylist()]
    ids: list[bytes | None] = [TEXTS[place % len(TEXTS)] + b" %d" % place for place in places]
    texts = [TEXTS[place % len(TEXTS)] for place in range(table.num_rows)]
    names_of_texts = ("prompt", "completion", "extracted_answer", "gold", "verifier", "verifier_version")
    replaced = {"problem_id": strings(ids), **{name: strings([*texts]) for name in names_of_texts}}
    pq.write_table(with_columns(table, replaced), path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample as a project, all its texts hostile, titles of methods and benchmarks too."""
    root = tmp_path_factory.mktemp("hostile")
    shutil.copytree(sources.SAMPLE, root, dirs_exist_ok=True)
    for path in root.rglob("rollouts/*.parquet"):
        poison_rollouts(path)
    for path in [*root.rglob("evaluations/**/*.parquet"), *root.rglob("base-evaluations/*.parquet")]:
        poison_evaluations(path)
    titles = iter(range(1000))
    for path in root.rglob("config.yaml"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for place, line in enumerate(lines):
            if line.strip().startswith("title:"):
                text = TEXTS[next(titles) % 20].decode().replace("'", "''").replace("\n", " ")
                lines[place] = f"{line[: line.index('title:')]}title: '{text}'"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = sources.discover(root)
    assert len(found.runs) == len(sources.discover(sources.SAMPLE).runs) and not found.notices
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@dataclass
class Watch:
    """Opens a page and keeps every trace that hostile text left."""

    page: Page
    own: str
    traces: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)
        self.page.on("popup", lambda popup: self.traces.append(f"a window {popup.url}"))
        self.page.set_default_timeout(ONE_PAGE_SECONDS * 1000)

    def _dialog(self, dialog: Any) -> None:
        self.traces.append(f"a dialog {dialog.message}")
        with suppress(Error):  # gone with a page that was left meanwhile
            dialog.dismiss()

    def _request(self, request: Any) -> None:
        where = urlsplit(request.url)
        if where.scheme in ("http", "https", "ws", "wss") and where.netloc != urlsplit(self.own).netloc:
            self.traces.append(f"a request to {request.url}")

    def look(self) -> None:
        """Traces in the page as it stands now, its title among them."""
        self.traces += self.page.evaluate(TRACES)
        if self.page.title() == "pwned":
            self.traces.append("another title")


def queries() -> Iterator[tuple[str, dict[str, Any]]]:
    """All pages; those of single rollouts with the long lines too, and where the address itself is hostile."""
    run = next(run for run in sources.discover(sources.SAMPLE).runs.values() if run.method.startswith("sdpg"))
    step = store.rollout_steps(run)[0]
    here = {"run": run.id.removeprefix("sample/"), "step": step, "group": 0, "sibling": 0}
    for name in selection.PAGES:
        yield name, here
    for sibling in (1, 2):
        yield "rollout", here | {"sibling": sibling, "token": 0}
    yield "diff", here | {"sibling": 0, "b_sibling": 1}
    yield "diff", here | {"pair": "two runs", "by": "words"}
    evil = TEXTS[2].decode()
    for name in selection.PAGES:
        yield name, dict.fromkeys((*selection.CONTEXT, "signal", "token", "q"), evil)


def visit_all(browser: Browser, address: str, only: str | None = None) -> tuple[list[str], list[str]]:
    """Traces left on any page, and the texts that the strip of the first rollout showed."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    watch, shown = Watch(page, address), []
    for name, query in queries():
        if only not in (None, name):
            continue
        before, began = len(watch.traces), time.monotonic()
        page.goto(f"{address}/{name}?" + "&".join(f"{key}={quote(str(value))}" for key, value in query.items()))
        settled(page)
        page.wait_for_timeout(400)
        if page.get_by_test_id("stException").count():
            watch.traces.append(f"an exception with {query}")
        if name in ("rollout", "diff") and page.locator(".strip .t").count():
            # Sent as events: where text has become markup, nothing may be left to point at.
            page.locator(".strip .t").first.dispatch_event("pointerover")
            page.locator(".strip .next").first.dispatch_event("click")
            if name == "rollout" and not shown:
                shown = page.locator(".strip .t").all_inner_texts()
        watch.look()
        print(f"{name}: {time.monotonic() - began:.1f} s")
        watch.traces[before:] = [f"{name}: {trace}" for trace in watch.traces[before:]]
    traces = list(watch.traces)
    page.close()
    return traces, shown


@pytest.mark.slow
def test_every_page_shows_text_as_text(browser: Browser, root: Path) -> None:
    with harness.app(root) as address:
        traces, shown = visit_all(browser, address)
    assert traces == [], "\n".join(traces)
    text = "".join(shown)
    assert TEXTS[0].decode() in text and TEXTS[2].decode() in text, "and all of it can be read"
    assert "⟨U+202E⟩" in text and "␛[31m" in text and "lone ��� and" in text


@pytest.mark.slow
def test_the_standalone_file_shows_text_as_text(browser: Browser, root: Path, tmp_path: Path) -> None:
    page = browser.new_page(accept_downloads=True)
    with harness.app(root) as address:
        _, query = next(queries())
        for sibling in (0, 1):
            page.goto(f"{address}/rollout?" + "&".join(f"{k}={v}" for k, v in (query | {"sibling": sibling}).items()))
            settled(page)
            with page.expect_download() as found:
                page.get_by_test_id("stDownloadButton").get_by_text("HTML").click()
            path = tmp_path / f"{sibling}.html"
            found.value.save_as(path)
            alone = browser.new_page()
            watch = Watch(alone, "file://")
            said: list[str] = []
            alone.on("console", lambda message, said=said: said.append(message.text))
            alone.goto(path.as_uri())
            alone.locator(".strip .t").first.hover()
            alone.locator(".strip .next").click()
            alone.wait_for_timeout(300)
            watch.look()
            assert watch.traces == [] and said == []
            assert location(alone) == path.as_uri()
            alone.close()
    page.close()


MUTATIONS = {
    "tokens": ("span.textContent = ", "span.innerHTML = "),
    "everything else": ("made.textContent = text", "made.innerHTML = text"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_an_app_that_makes_markup_of_text_would_be_noticed(
    name: str, browser: Browser, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, (right, wrong) = tmp_path / "app" / "components" / "strip.js", MUTATIONS[name]
    shutil.copytree(harness.PROJECT / "app", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__", "sample"))
    (tmp_path / "sdpg").symlink_to(harness.PROJECT / "sdpg")
    text = file.read_text(encoding="utf-8")
    assert right in text
    file.write_text(text.replace(right, wrong), encoding="utf-8")
    monkeypatch.setattr(harness, "PROJECT", tmp_path)
    with harness.app(root) as address:
        traces, _ = visit_all(browser, address, only="rollout")
    expected = ("made of text", "a dialog", "a request", "a script ran")
    assert any(part in trace for trace in traces for part in expected), traces
