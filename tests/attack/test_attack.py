"""Attacks the micro pipeline with a fixed set of faults and a random one; ``make attack`` draws more."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.attack.faults import FIXED
from tests.helpers.clones import ROOT, run

pytestmark = pytest.mark.slow


RANDOM = 18
"""Faults beside the fixed ones, drawn anew each time; a failure shows their seed and number."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What came of each fault; all are carried out by one process, whose forks need not import everything again."""
    out: Path = tmp_path_factory.mktemp("attack") / "attack.json"
    print(run(ROOT, "python", "-m", "tests.attack", "--fixed", "--number", str(RANDOM), "--out", str(out),
              check=False).stdout)  # fmt: skip
    return json.loads(out.read_text(encoding="utf-8"))["attacks"]


@pytest.mark.parametrize("number", range(len(FIXED)), ids=[fault["kind"].replace(" ", "-") for fault in FIXED])
def test_the_same_command_again_gives_the_same_bits(results: list[dict[str, Any]], number: int) -> None:
    result = results[number]
    assert result["struck"], "the fault has not come to act"
    assert result["outcome"] == "same bits" and not result["wrong"], result
    assert "traceback" not in [end["how"] for end in result["ends"] + result["beside"]], result


def test_faults_drawn_by_chance_corrupt_and_block_nothing(results: list[dict[str, Any]]) -> None:
    drawn = results[len(FIXED) :]
    assert len(drawn) == RANDOM
    assert [each for each in drawn if each["outcome"] in ("corrupted", "blocked")] == []
