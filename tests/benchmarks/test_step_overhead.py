"""Tests the benchmark of a step's overhead on a small step."""

import json
from pathlib import Path

import pytest

from benchmarks import step_overhead


def test_both_ways_make_the_same_and_both_figures_come_from_one_measurement(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(step_overhead, "REPEATS", 1)
    found = step_overhead.measured(16, 60, 400)
    monkeypatch.setattr(step_overhead, "measured", lambda: found)
    overhead, waited = step_overhead.overhead().line(), step_overhead.waited().line()
    assert found.seconds["former"].keys() == found.seconds["ours"].keys() > set(step_overhead.WAITED)
    assert overhead["ratio"] == pytest.approx(found.total("ours") / found.total("former"))
    assert waited["ratio"] == pytest.approx(found.total("ours", step_overhead.WAITED) / step_overhead.STEP_SECONDS)
    json.dumps([overhead, waited], allow_nan=False)
    made = step_overhead.make_step(16, 60, 400)
    _, (former, ours) = step_overhead.measure(made, tmp_path, 1)
    assert "🙂" in "".join(ours.decoded) and ours.leaked["leak_spans"] is not None
    assert step_overhead.differences(former, ours) == []
    former.measured["ratio"] = (former.measured["ratio"] or 0.0) + 1e-9
    former.step.experience.rollout_logprobs[3][0] += 1e-3
    former.rows()
    former.write()
    assert step_overhead.differences(former, ours) == ["ratio", "rollout_logprob"]
