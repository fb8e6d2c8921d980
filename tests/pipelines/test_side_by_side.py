"""Tests tasks side by side: their order, their failures, what is there already, and the time that is left."""

from collections.abc import Callable
import os
from pathlib import Path
import signal
import threading
import time

import pytest

from pipelines.side_by_side import Clock, Task, left_text, run_tasks
from sdpg.errors import Interrupted, UserError


def task(folder: Path, name: str, *after: str, run: Callable[[], None] | None = None, done: bool = False) -> Task:
    """A task that notes its name in a file all tasks share, unless it does something else."""

    def note() -> None:
        with (folder / "order").open("a") as file:
            file.write(f"{name}\n")

    return Task(name, "kind", 1, after, lambda: done, run or note, folder / f"{name}.log")


def order(folder: Path) -> list[str]:
    return (folder / "order").read_text().split()


def test_tasks_wait_for_those_before_them(tmp_path: Path) -> None:
    lines: list[str] = []
    tasks = [task(tmp_path, "a"), task(tmp_path, "b", "a"), task(tmp_path, "c", "b")]
    assert run_tasks(tasks, 3, lines.append) == {}
    assert order(tmp_path) == ["a", "b", "c"]
    assert [line.split(":")[0] for line in lines] == ["[1/3] a", "[2/3] b", "[3/3] c"]
    assert lines[2].endswith("about 0 s left")


def test_what_is_there_already_is_not_run(tmp_path: Path) -> None:
    lines: list[str] = []
    tasks = [task(tmp_path, "a", done=True), task(tmp_path, "b", "a"), task(tmp_path, "c", "b", done=True)]
    assert run_tasks(tasks, 1, lines.append) == {}
    assert order(tmp_path) == ["b"] and len(lines) == 1
    assert run_tasks([task(tmp_path, "a", done=True), task(tmp_path, "b", "a", done=True)], 2, lines.append) == {}


def test_a_failure_stops_what_comes_after_it_alone(tmp_path: Path) -> None:
    def refuse() -> None:
        print("read the data")
        raise UserError("data.train: nothing there")

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    tasks = [task(tmp_path, "a", run=refuse), task(tmp_path, "b", "a"), task(tmp_path, "c", "b"), task(tmp_path, "d"),
             task(tmp_path, "e", run=die)]  # fmt: skip
    failed = run_tasks(tasks, 2, lambda line: None)
    assert order(tmp_path) == ["d"]
    assert "exit code 2" in failed["a"] and "read the data" in failed["a"] and "nothing there" in failed["a"]
    assert (failed["b"], failed["c"]) == ("not begun, as a failed", "not begun, as b failed")
    assert failed["e"].startswith("signal 9")


def test_sigterm_ends_what_runs_and_begins_nothing_more(tmp_path: Path) -> None:
    tasks = [task(tmp_path, "a", run=lambda: time.sleep(60)), task(tmp_path, "b")]

    def ask() -> None:
        while not (tmp_path / "a.log").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask).start()
    begun = time.monotonic()
    with pytest.raises(Interrupted, match="0 of 2 tasks are done"):
        run_tasks(tasks, 1, lambda line: None)
    assert time.monotonic() - begun < 30 and not (tmp_path / "order").exists()


def test_the_time_left_follows_from_work_of_the_same_kind(tmp_path: Path) -> None:
    def sized(kind: str, work: float) -> Task:
        return Task(kind, kind, work, (), lambda: False, lambda: None, tmp_path / "log")

    clock = Clock(jobs=2)
    clock.ended(sized("run", 60), 30.0)
    clock.ended(sized("run", 60), 50.0)
    # 40 s for 60 steps: 400 steps take 266.7 s, of which 20 have passed, two at a time.
    assert clock.left([sized("run", 400), sized("run", 60)], 20.0) == pytest.approx((266.667 + 40 - 20) / 2, abs=0.01)
    assert clock.left([sized("base", 1)], 0.0) is None
    clock.ended(sized("base", 1), None)
    assert clock.left([sized("base", 1)], 0.0) is None
    assert (left_text(None), left_text(61.2), left_text(5400)) == (
        "time left: not known yet",
        "about 61 s left",
        "about 90 min left",
    )
