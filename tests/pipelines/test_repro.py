"""Tests how sdpg repro runs DVC: in which order, what ends it, and that SIGTERM reaches the stage and not DVC."""

from collections.abc import Sequence
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import repro, show
from sdpg.errors import Interrupted
from tests.helpers.clones import ENVIRONMENT, run

ROOT = Path(__file__).parents[2]
STAGE = """
import pathlib, signal, sys, time
if sys.argv[1] == "fails":
    sys.exit(3)
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path("heard").write_text("once"), sys.exit(75)))
pathlib.Path("started").touch()
time.sleep(120)
"""
PIPELINE = """
stages:
  fails: {cmd: python -m pipelines.train fails}
  waits: {cmd: python -m pipelines.train waits}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of DVC with a stage that fails, and one that waits for SIGTERM."""
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").touch()
    (tmp_path / "pipelines" / "train.py").write_text(STAGE)
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    run(tmp_path, sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm")
    return tmp_path


def test_a_stage_that_fails_ends_it_and_sigterm_reaches_the_stage_alone(project: Path) -> None:
    assert repro.run_dvc([["repro", "fails"], ["repro", "waits"]], 1, []) == 255
    assert not Path("started").exists(), "what comes after is not begun"
    terms: list[int] = []
    timed = time.monotonic()
    listening = signal.signal(signal.SIGTERM, lambda number, _: terms.append(number))
    # Another process sends it, as a scheduler would, once the stage runs.
    sender = subprocess.Popen(
        ["sh", "-c", f"until [ -e started ]; do sleep 0.1; done; kill -TERM {os.getpid()}"], cwd=project
    )
    try:
        code = repro.run_dvc([["repro", "waits"], ["repro", "fails"]], 1, terms)
    finally:
        sender.kill()
        signal.signal(signal.SIGTERM, listening)
    assert Path("heard").read_text() == "once"
    # DVC itself lived to say that the stage failed; -15 would be its own end.
    assert code == 255 and len(terms) == 1 and time.monotonic() - timed < 100


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[list[str]], int]]:
    """The commands that DVC would be called with, side by side."""
    found: list[tuple[list[list[str]], int]] = []

    def run_dvc(commands: Sequence[Sequence[str]], jobs: int, terms: Sequence[int]) -> int:
        found.append(([list(command) for command in commands], jobs))
        return 0

    monkeypatch.setattr(repro, "run_dvc", run_dvc)
    return found


def test_with_several_jobs_each_run_is_a_process_of_its_own(asked: list[Any]) -> None:
    assert repro.reproduce(["grpo-0", "grpo-1"], 2, []) == 0
    single = ["--wait-for-lock", "repro", "--single-item"]
    assert asked == [
        ([["repro", "base"]], 1),
        ([[*single, "train@grpo-0"], [*single, "train@grpo-1"]], 2),
        ([[*single, "evaluate@grpo-0"], [*single, "evaluate@grpo-1"]], 2),
        ([["repro"]], 1),
    ]


def test_with_one_job_dvc_does_it_all(asked: list[Any]) -> None:
    assert repro.reproduce(["grpo-0"], 1, []) == 0
    assert asked == [([["repro"]], 1)]


@pytest.mark.parametrize(("code", "terms", "end"), [(0, 0, None), (255, 0, SystemExit), (255, 1, Interrupted)])
def test_how_it_ends(
    code: int, terms: int, end: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    for name in ("profiles", "presets"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setattr(
        sys, "argv", ["repro", "--jobs", "2", "--profile", "micro", "--methods", "grpo", "--seeds", "2"]
    )
    monkeypatch.setattr(show, "main", lambda: print("the table"))
    seen = SimpleNamespace()

    def reproduce(names: Sequence[str], jobs: int, heard: list[int]) -> int:
        seen.names, seen.jobs = list(names), jobs
        heard.extend([signal.SIGTERM] * terms)
        return code

    monkeypatch.setattr(repro, "reproduce", reproduce)
    if end is None:
        repro.main()
    else:
        with pytest.raises(end) as raised:
            repro.main()
        assert end is Interrupted or raised.value.code == 255
    assert (seen.names, seen.jobs) == (["grpo-0", "grpo-1"], 2)
    said = capsys.readouterr().out
    assert "+profile: micro" in said and ("the table" in said) is (end is None)
