"""Tests 2,000 hostile completions in the real pool."""

from collections import Counter
import os
from pathlib import Path
import time

import pytest

from sdpg.params import RewardParams
from sdpg.rewards.verifiers import Status, Verifier
from tests.helpers.hostile import ENDLESS, FAMILIES, PER_FAMILY, hostile_completions

LIMIT = 0.5
RESTART = 2.5
"""Seconds that a killed worker's successor may take to start, on a busy core."""


def test_hostile_completions_end_in_time_and_none_is_rewarded_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = hostile_completions()
    assert len(hostile) == len(FAMILIES) * PER_FAMILY == 2000
    assert len({(one.completion, one.gold) for one in hostile}) > 1000
    with Verifier(RewardParams(timeout=LIMIT)) as verifier:
        assert verifier.compare([(r"\frac{1}{2}", "0.5")]) == [Status.CORRECT]  # the pool has started
        begin = time.perf_counter()
        verdicts = verifier.score([one.completion for one in hostile], [one.gold for one in hostile], [False] * 2000)
        seconds = time.perf_counter() - begin
        stopped = verifier.failures
    statuses = Counter((one.family, str(verdict.status)) for one, verdict in zip(hostile, verdicts, strict=True))
    print(f"{seconds:.1f} s, {stopped} stopped", *sorted(statuses.items()), sep="\n")
    wrongly = [(one.family, verdict.extracted_answer, one.gold) for one, verdict in zip(hostile, verdicts, strict=True)
               if (verdict.status is Status.CORRECT) is not one.right]  # fmt: skip
    assert wrongly == []
    assert all(verdict.reward == (1.0 if one.right else -1.0) for one, verdict in zip(hostile, verdicts, strict=True))
    assert stopped >= len(ENDLESS)
    assert seconds < stopped * (LIMIT + RESTART) + 15
    assert os.listdir(tmp_path) == []  # no code was run
