"""Tests that two trainers of one run never write into one state: at once, and after a kill of dvc alone."""

from collections.abc import Callable
import csv
import json
import os
from pathlib import Path
import signal
import subprocess
import time
from typing import Any

import psutil
import pytest

from tests.helpers.clones import ENVIRONMENT, run

pytestmark = pytest.mark.slow

STEPS = 4
TRAIN = ("python", "-m", "pipelines.train", "grpo", "0")
REPRO = ("dvc", "repro", "--single-item", "train@grpo-0")


def started(project: Path, *command: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command, cwd=project, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def waited(found: Callable[[], Any], seconds: float = 300) -> Any:
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.01)
    return value


def owner(project: Path) -> int | None:
    """The number of the process that holds the lock of the run's folder."""
    for file in (project / ".state/locks").glob("runs-grpo-0-*.lock"):
        try:
            pid = json.loads(file.read_text())["pid"]
        except ValueError:
            return None
        return pid if psutil.pid_exists(pid) else None
    return None


def steps(folder: Path) -> list[int]:
    with (folder / "metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_a_trainer_whose_dvc_was_killed_is_never_joined_by_a_second(with_base: Path) -> None:
    project = with_base
    leader = started(project, *REPRO)
    trainer = waited(lambda: owner(project) or (leader.poll() is not None and leader.communicate()[0]))
    assert isinstance(trainer, int), trainer
    (table,) = waited(lambda: list(project.glob(".state/*/metrics.csv")))
    # It stands still until the other has ended, so that they meet however busy the machine is.
    os.kill(trainer, signal.SIGSTOP)
    leader.kill()
    leader.wait()
    before = table.read_bytes()
    second = run(project, *TRAIN, check=False)
    assert second.returncode == 2 and "Traceback" not in second.stderr
    assert f"in use: process {trainer} on " in second.stderr and "pipelines.train grpo 0" in second.stderr
    assert table.read_bytes() == before, "the second has touched nothing"
    os.kill(trainer, signal.SIGCONT)
    waited(lambda: not psutil.pid_exists(trainer))
    run(project, *REPRO)
    assert steps(table.parent) == steps(project / "runs/grpo-0") == list(range(1, STEPS + 1))
