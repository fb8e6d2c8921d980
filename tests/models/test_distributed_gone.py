"""Tests that two gloo ranks whose second one is gone do not wait for it, and that the message names it."""

from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[2]
NO_ANSWER = "error: rank 1 of this run does not answer any more: its process was killed or its machine is off"
CASES = {
    "killed": ([2, -9], NO_ANSWER),
    "killed_unnoticed": ([2, -9], NO_ANSWER),
    "failed": ([2, 2], "error: rank 1 ended with an error: train.lr is too high here"),
    "done": ([0, 0], ""),
    "at_fault": ([1, 2], "a bug on rank 0"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gone")


@pytest.fixture(scope="module")
def codes(folder: Path) -> dict[str, list[int]]:
    command = [sys.executable, "-m", "tests.helpers.gone_ranks", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return {name: [int(code) for code in rest] for name, *rest in map(str.split, done.stdout.splitlines())}


@pytest.mark.parametrize("name", CASES)
def test_a_rank_that_is_gone_is_named_and_not_waited_for(folder: Path, codes: dict[str, list[int]], name: str) -> None:
    said = (folder / f"{name}-0").read_text()
    expected, words = CASES[name]
    assert codes[name] == expected and words in said, (codes[name], said)
    if -9 in expected:
        assert "run the same command again, and it goes on from the last checkpoint" in said


def test_gloos_own_error_is_told_and_the_other_rank_names_rank_0(folder: Path, codes: dict[str, list[int]]) -> None:
    assert "the exchange with it ended with: " in (folder / "killed-0").read_text()
    # Without a launcher rank 0 keeps the store.
    assert "rank 0" in (folder / "at_fault-1").read_text()
