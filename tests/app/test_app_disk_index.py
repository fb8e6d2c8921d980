"""Tests what the app keeps on disk: found again by content, never after a change, and harmless when it is damaged."""

from pathlib import Path
import shutil
import sqlite3

from pydantic import TypeAdapter
import pytest

from app import accuracy, disk_index, evaluations, run_rows, sources, store
from app.sources import SAMPLE, RunEntry

NUMBERS = TypeAdapter(list[float])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the sample's runs, in which the app was started."""
    root = tmp_path / "project"
    shutil.copytree(SAMPLE, root)
    monkeypatch.chdir(root)
    return root


def forget() -> None:
    """Forgets what this process knows, as a new start does."""
    for cache in (disk_index._digest, disk_index._opened, run_rows._row, sources._parsed):
        cache.cache_clear()
    for read in (evaluations._counts, evaluations._answers, store._read_csv):
        read.__closure__[0].cell_contents.cache_clear()  # pyright: ignore[reportOptionalSubscript]


def everything(root: Path) -> tuple[list[RunEntry], list[object]]:
    runs = list(sources.discover(root).runs.values())
    values: list[object] = [str(run_rows.read_row(run)) for run in runs]
    values += [str({key: (each.counts, each.answers) for key, each in evaluations.final(run).items()}) for run in runs]
    gathered = accuracy.gather(runs, [0])
    return runs, [*values, *accuracy.main_table(gathered), *accuracy.final_table(gathered)[0]]


def test_a_second_start_works_nothing_out_and_says_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    runs, first = everything(root)
    forget()
    monkeypatch.setattr(evaluations, "summarise", None)
    monkeypatch.setattr(accuracy, "main_rows", None)
    monkeypatch.setattr(accuracy, "final_rows", None)
    monkeypatch.setattr(run_rows, "_worked_out", None)
    monkeypatch.setattr(sources, "_checked", None)
    assert everything(root)[1] == first
    # A copy elsewhere in the project is known by its content; its row is not, which names where it lies.
    copy = root / "runs" / "grpo-7"
    shutil.copytree(root / "runs" / "grpo-0", copy)
    assert evaluations.in_training(sources.discover(root).runs["grpo-7"], 60).keys() == evaluations.in_training(
        runs[0], 60
    ).keys()  # fmt: skip


def test_a_file_that_changes_is_worked_out_again(root: Path) -> None:
    forget()
    runs, _ = everything(root)
    before = run_rows.read_row(runs[0])
    path = root / "runs" / "grpo-0" / "metrics.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:-3]) + "\n", encoding="utf-8")
    assert run_rows.read_row(runs[0]).steps == before.steps - 3


def test_other_code_finds_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    assert disk_index.kept("a", "key", NUMBERS, lambda: [1.0, float("nan")])[0] == 1.0
    assert disk_index.kept("a", "key", NUMBERS, lambda: [2.0])[0] == 1.0
    assert disk_index.kept("b", "key", NUMBERS, lambda: [2.0]) == [2.0]
    monkeypatch.setattr(disk_index, "code_digest", lambda: "another version")
    assert disk_index.kept("a", "key", NUMBERS, lambda: [3.0]) == [3.0]


def test_a_damaged_index_is_begun_anew(root: Path) -> None:
    forget()
    disk_index.FILE.parent.mkdir(exist_ok=True)
    disk_index.FILE.write_bytes(b"this is no index " * 1000)
    assert disk_index.kept("a", "key", NUMBERS, lambda: [1.0]) == [1.0]
    assert disk_index.kept("a", "key", NUMBERS, lambda: [2.0]) == [1.0]
    with sqlite3.connect(disk_index.FILE) as connection:
        connection.execute("UPDATE entries SET value = '{\"no\": 1'")
    assert disk_index.kept("a", "key", NUMBERS, lambda: [3.0]) == [3.0]


def test_a_folder_without_a_project_gets_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    forget()
    assert disk_index.kept("a", "key", NUMBERS, lambda: [1.0]) == [1.0]
    assert disk_index.kept("a", "key", NUMBERS, lambda: [2.0]) == [2.0]
    assert not list(tmp_path.iterdir())
