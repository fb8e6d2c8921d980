import json
from pathlib import Path
import sys

import numpy as np
import pytest

from pipelines import coverage
from sdpg.errors import UserError
from sdpg.results.statistics import intervals, simulation
from sdpg.results.statistics.simulation import Population, cases, coverage_table, moved, simulate

REPEATS = 250
NEAR = (0.90, 0.985)
"""250 repeats have a standard error of 1.4%; an interval that is 30% too narrow, or a t interval, falls out."""


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.interval} {case.population} {case.problems}")
def test_coverage_is_near_what_is_promised(case: simulation.Case) -> None:
    quick = case.interval == "mean_interval"
    found = simulate(case, 1000 if quick else REPEATS, seed=1)
    if not case.judged:
        assert found.verdict == "not judged"
    elif quick:
        assert found.verdict == "ok"
    else:
        assert NEAR[0] <= found.coverage <= NEAR[1]
    assert found.truth_below + found.truth_above == pytest.approx(1 - found.coverage)


def test_broken_intervals_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    score, skewed = intervals.score_limits, intervals.skewed_limits
    with monkeypatch.context() as patch:
        patch.setattr("sdpg.results.statistics.estimates.score_limits", lambda *args: score(*args[:3], 0.7 * args[3]))
        patch.setattr("sdpg.results.statistics.estimates.skewed_limits", lambda values, _: skewed(values, 0.83))
        for case in cases():
            if case.judged and case.interval in ("mean_interval", "paired_difference"):
                assert simulate(case, REPEATS, seed=1).coverage < NEAR[0]
    with monkeypatch.context() as patch:
        # Bases forgotten: as if those that were drawn were all there are.
        patch.setattr("sdpg.results.statistics.replication._variances", lambda table: (0.0, float(table.var())))
        wide = [
            case for case in cases() if case.interval == "replicated_difference" and "±0.3 by base" in case.population
        ]
        assert wide and all(simulate(case, REPEATS, seed=1).coverage < NEAR[0] for case in wide)
    with monkeypatch.context() as patch:
        # The t interval, at a mean of 0.05.
        patch.setattr("sdpg.results.statistics.estimates.score_limits", lambda mean, variance, _, critical: (
            mean - critical * variance**0.5, mean + critical * variance**0.5
        ))  # fmt: skip
        assert simulate(cases()[3], REPEATS, seed=1).coverage < NEAR[0]


def test_the_required_cases_are_there() -> None:
    required = {(case.truth, case.problems, case.samples) for case in cases() if case.interval == "mean_interval"}
    assert {(mean, 30, 32) for mean in (0.05, 0.3, 0.8)} <= required
    assert {case.interval for case in cases() if case.judged} == {
        "mean_interval",
        "paired_difference",
        "two_way_interval",
        "replicated_difference",
    }


def test_populations_have_two_peaks_and_the_mean_that_they_say() -> None:
    for mean in (0.05, 0.3, 0.8):
        population = Population(mean, 1.0)
        assert max(population.shape) < 1
        drawn = population.draw(np.random.default_rng(0), 400_000)
        assert drawn.mean() == pytest.approx(mean, abs=0.003)
        middle, ends = np.mean((drawn > 0.4) & (drawn < 0.6)), np.mean((drawn < 0.1) | (drawn > 0.9))
        assert ends > 4 * middle


def test_the_mean_after_a_shift_is_that_of_many_draws() -> None:
    population = Population(0.3, 1.0)
    rng = np.random.default_rng(0)
    drawn = moved(population.draw(rng, 1_000_000), rng.normal(0.5, 0.8, 1_000_000))
    assert population.moved_mean(0.5, 0.8) == pytest.approx(drawn.mean(), abs=0.002)
    assert population.moved_mean(0.0, 0.0) == pytest.approx(0.3, abs=1e-9)
    assert moved(np.array([0.5]), np.log(3.0)) == pytest.approx([0.75])


def test_simulations_depend_on_the_seed_alone() -> None:
    case = cases()[0]
    assert simulate(case, 20) == simulate(case, 20)
    assert simulate(case, 20) != simulate(case, 20, seed=1)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["coverage", *arguments])
    with pytest.raises(SystemExit) as stopped:
        coverage.main()
    return stopped.value.code


def test_the_command_prints_every_case_and_fails_where_one_is_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = cases()[:2]
    monkeypatch.setattr("sdpg.results.statistics.simulation.cases", lambda: few)
    assert run(monkeypatch, "--repeats", "200") == 0
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "reports" / "coverage.json").read_text())
    assert [row["verdict"] for row in written["cases"]] == ["ok", "ok"]
    assert all(row["repeats"] == 200 and row["monte_carlo_error"] > 0 for row in written["cases"])
    assert printed.startswith(coverage_table([simulate(case, 200) for case in few]))
    assert "0 of 2 judged cases outside 92%–97%" in printed
    # Of two repeats none, one or both hold it: always outside.
    assert run(monkeypatch, "--repeats", "2") == 1
    monkeypatch.setattr(sys, "argv", ["coverage", "--repeats", "0"])
    with pytest.raises(UserError, match="--repeats 0"):
        coverage.main()
