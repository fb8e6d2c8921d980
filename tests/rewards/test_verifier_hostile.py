"""Tests 1,000 hostile completions in the real pool: a status each, no reward, and little time."""

from collections import Counter
import os
from pathlib import Path
import resource
import time

import pytest

from sdpg.params import RewardParams
from sdpg.rewards.verifiers import Status, Verifier
from tests.helpers.hostile import ENDLESS, FAMILIES, PER_FAMILY, hostile_completions

LIMIT = 0.3
"""Seconds of a worker's own time that an answer may take."""


def test_hostile_completions_end_and_none_is_rewarded_wrongly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = hostile_completions()
    assert len(hostile) == len(FAMILIES) * PER_FAMILY == 1000
    assert len({(one.completion, one.gold) for one in hostile}) > 500
    with Verifier(RewardParams(timeout=LIMIT, workers=1)) as verifier:
        begin, children = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
        verdicts = verifier.score([one.completion for one in hostile], [one.gold for one in hostile], [False] * 1000)
        parent, stopped = time.process_time() - begin, verifier.failures
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    workers = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    statuses = Counter((one.family, str(verdict.status)) for one, verdict in zip(hostile, verdicts, strict=True))
    print(f"parent {parent:.1f} s, workers {workers:.1f} s, {stopped} stopped")
    print(*sorted(statuses.items()), sep="\n")
    wrongly = [(one.family, verdict.extracted_answer, one.gold) for one, verdict in zip(hostile, verdicts, strict=True)
               if (verdict.status is Status.CORRECT) is not one.right]  # fmt: skip
    assert wrongly == []
    assert all(verdict.reward == (1.0 if one.right else -1.0) for one, verdict in zip(hostile, verdicts, strict=True))
    assert stopped >= len(ENDLESS)
    # Processor time, which no other work on the machine lengthens much.
    assert parent < 2
    assert workers < stopped * (LIMIT + 3) + 20
    assert os.listdir(tmp_path) == []  # no code was run
