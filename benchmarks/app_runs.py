"""Measures, in a real browser, what the app's pages with many runs cost the server: processor time and memory.

Processor time is what a page takes on a core of its own, whatever else the machine does meanwhile.
"""

import csv
from functools import lru_cache
from pathlib import Path
import random
import shutil
import tempfile
from typing import NamedTuple

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from app import selection
from app.sources import SAMPLE
from benchmarks.app_pages import server_of, visit
from benchmarks.figures import Figure, SkippedError, Target, show
from sdpg.records.parquet import write_records
from tests.helpers.browser import CHROMIUM, app, chromium

COUNTS = (5, 50, 200)
SELECTED = "run=rlsd-0&step=60&group=3&sibling=1"
LONG = 3_000
"""The steps of the first run; the others have the sample's."""
AGAIN = Target("app_many_runs_seconds", f"processor s, the slowest page of {COUNTS[-1]} runs, seen before", "<= 2")
FIRST = Target("app_many_runs_first_seconds", f"processor s, the slowest of {COUNTS[-1]} runs, without index", "<= 3")
MEMORY = Target("app_many_runs_memory_gb", f"10⁹ bytes of the server after every page of {COUNTS[-1]} runs", "<= 0.6")


def _shuffled(path: Path, target: Path, chance: random.Random) -> None:
    """Writes a sample's evaluation with its verdicts and answers in another order, so that no two runs are alike."""
    table = pq.read_table(path)
    order = chance.sample(range(len(table)), len(table))
    for name in ("status", "extracted_answer", "length"):
        column = table[name].take(pa.array(order))
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    write_records(target, table)


def _accuracies(folder: Path) -> None:
    """Makes curves.csv say what the shuffled evaluations say."""
    with (folder / "curves.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        path = folder / "evaluations" / f"step-{int(row['step']):06d}.parquet"
        if path.exists():
            table = pq.read_table(path, columns=["benchmark", "status"]).to_pandas()
            row |= (table["status"] == "correct").groupby(table["benchmark"]).mean().map("{:.6f}".format).to_dict()
    with (folder / "curves.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _stretched(path: Path) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([str(step + 1), *rows[step % len(rows)][1:]] for step in range(LONG))


def make_runs(root: Path, count: int) -> None:
    """Writes a project with this many finished runs: the sample's methods, with one seed after the other."""
    chance = random.Random(0)
    samples = sorted((SAMPLE / "runs").iterdir())
    shutil.copytree(SAMPLE / "models", root / "models")
    for number in tqdm(range(count), desc=f"{count} runs", leave=False):
        sample, seed = samples[number % len(samples)], number // len(samples)
        name = f"{sample.name.rpartition('-')[0]}-{seed}"
        folder = root / "runs" / name
        shutil.copytree(sample, folder)
        config = (folder / "config.yaml").read_text(encoding="utf-8")
        (folder / "config.yaml").write_text(config.replace("\nseed: 0\n", f"\nseed: {seed}\n"), encoding="utf-8")
        for path in (folder / "evaluations").iterdir():
            _shuffled(path, path, chance)
        _accuracies(folder)
        final = Path("evaluations") / name / "final.parquet"
        (root / final).parent.mkdir(parents=True)
        _shuffled(SAMPLE / "evaluations" / sample.name / "final.parquet", root / final, chance)
        if number == 0:
            for table in ("metrics.csv", "timing.csv"):
                _stretched(folder / table)


class Seen(NamedTuple):
    """The processor seconds of each page without an index, seen again, and after a restart; the server's 10⁹ bytes."""

    first: dict[str, float]
    again: dict[str, float]
    restarted: dict[str, float]
    memory: float


@lru_cache(maxsize=len(COUNTS))
def _measured(count: int) -> Seen:
    if CHROMIUM is None:
        raise SkippedError("there is no Chromium: make browser")
    seconds: list[dict[str, float]] = [{}, {}, {}]
    memory = 0.0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_runs(root, count)
        with chromium() as browser:
            for rounds in ((0, 1), (2,)):
                with app(root) as address:
                    server, window = server_of(address), browser.new_context()
                    for now in rounds:
                        for name in tqdm(selection.PAGES, desc=f"pages of {count} runs", leave=False):
                            page = window.new_page()
                            page.set_default_timeout(120_000)
                            before = _worked(server)
                            visit(page, address, name, SELECTED)
                            seconds[now][name] = _worked(server) - before
                            memory = max(memory, server.memory_info().rss / 1e9)
                            page.close()
    seen = Seen(seconds[0], seconds[1], seconds[2], memory)
    show(
        f"Pages of {count} runs, one of {LONG:,} steps, processor seconds of the server",
        ["page", "without index", "seen before", "after a restart"],
        [(name, *[f"{found[name]:.2f}" for found in seconds]) for name in selection.PAGES],
        f"server {memory:.2f} GB at most",
    )  # fmt: skip
    return seen


def _worked(server: psutil.Process) -> float:
    times = server.cpu_times()
    return times.user + times.system


def _all() -> dict[int, Seen]:
    return {count: _measured(count) for count in COUNTS}


def again() -> Figure:
    """Returns the figure whose ratio is the slowest page of the most runs, when each was seen before."""
    found = _all()
    pages = {str(count): {**seen.again} for count, seen in found.items()}
    return AGAIN.measured(max(found[COUNTS[-1]].again.values()), pages=pages)


def first() -> Figure:
    """Returns the figure whose ratio is the slowest page of the most runs, when nothing is in the index."""
    found = _all()
    pages = {str(count): {**seen.first} for count, seen in found.items()}
    return FIRST.measured(max(found[COUNTS[-1]].first.values()), pages=pages)


def memory() -> Figure:
    """Returns the figure whose ratio is the server's resident size, in 10⁹ bytes."""
    found = _all()
    return MEMORY.measured(found[COUNTS[-1]].memory, runs={str(count): seen.memory for count, seen in found.items()})
