from collections.abc import Callable
from pathlib import Path

import pytest

from sdpg.results.claims import CLAIMS, DecidedClaim, OneBase, decide, decide_claims, evaluation_step
from sdpg.results.runs import Results, read_results
from tests.helpers.fabricated import params_with, write_base, write_run

Plan = Callable[[str, int, int], int]


def flat(late: int, early: int = 1) -> Plan:
    """``early`` of 4 right (with some change between problems) until step 10, then ``late``."""
    return lambda name, step, problem: min(4, (early if step <= 10 else late) + (problem % 5 == 0))


def decided(
    tmp_path: Path, plans: dict[str, Plan], **metrics: dict[str, Callable[[int], float]]
) -> dict[str, DecidedClaim]:
    return {claim.id: claim for claim in decide_claims(OneBase(results(tmp_path, plans, **metrics)))}


def results(tmp_path: Path, plans: dict[str, Plan], **metrics: dict[str, Callable[[int], float]]) -> Results:
    write_base(tmp_path, problems=20)
    for method, plan in plans.items():
        write_run(tmp_path, method, 0, plan, problems=20, metrics=metrics.get(method.replace("-", "_")))
    return read_results(params_with(list(plans), [0]), tmp_path)


def test_verdicts_from_intervals() -> None:
    assert decide([(0.1, 0.2), (0.01, 0.3)]) == "holds"
    assert decide([(0.1, 0.2), (-0.1, 0.3)]) == "cannot tell"
    assert decide([(0.1, 0.2), (-0.3, -0.1)]) == "does not hold"
    # Equal is enough for 'at least', but not for 'more'.
    assert decide([(0.0, 0.0)]) == "does not hold"
    assert decide([(0.0, 0.2)]) == "cannot tell"
    assert decide([(0.0, 0.2)], allow_equal=True) == "holds"
    assert decide([(-0.2, 0.0)], allow_equal=True) == "cannot tell"


@pytest.mark.parametrize(("ours", "verdict"), [(3, "holds"), (2, "cannot tell"), (1, "does not hold")])
def test_lead_in_the_table(tmp_path: Path, ours: int, verdict: str) -> None:
    claims = decided(tmp_path, {"grpo": flat(2), "sdpg-urkl": flat(3), "sdpg-ufkl": flat(ours)})
    assert claims["last-over-grpo"].verdict == verdict
    assert claims["last-over-grpo"].numbers.count(";") == 5
    # All are alike at step 10, the first evaluation after an eighth of 40 steps.
    assert claims["early-lead"].verdict == "cannot tell"
    assert claims["early-lead"].numbers.startswith("step 10, SDPG-UFKL − GRPO, all benchmarks: +0.000")


def test_a_method_that_was_not_run_leaves_it_open(tmp_path: Path) -> None:
    claims = decided(tmp_path, {"grpo": flat(2), "sdpg-ufkl": flat(3)})
    assert claims["last-over-grpo"].verdict == "cannot tell"
    assert claims["last-over-grpo"].why == "not run: sdpg-urkl"
    assert claims["last-over-rlsd"].why == "not run: rlsd, sdpg-urkl"
    assert "disagree" in claims["beta0"].why
    assert "not run: beta0, sdpg-urkl" in claims["beta0"].why


def test_a_claim_about_being_below(tmp_path: Path) -> None:
    found = decided(tmp_path, {"grpo": flat(3), "opcd": flat(1)})["opcd-below-grpo"]
    assert found.verdict == "holds"
    assert found.numbers.startswith("GRPO − OPCD, Chains of 3: +0.")


@pytest.mark.parametrize(("end", "verdict"), [(0.05, "holds"), (0.35, "cannot tell"), (0.9, "does not hold")])
def test_entropy_collapse_by_thresholds(tmp_path: Path, end: float, verdict: str) -> None:
    entropy = {"entropy": lambda step: 1.0 if step < 20 else end}
    found = decided(tmp_path, {"rlsd": flat(2)}, rlsd=entropy)["rlsd-entropy"]
    assert found.verdict == verdict
    assert found.numbers.endswith(f"{end:.2f}")


@pytest.mark.parametrize(("rival", "verdict"), [(0.5, "holds"), (1.0, "cannot tell"), (1.5, "does not hold")])
def test_highest_entropy(tmp_path: Path, rival: float, verdict: str) -> None:
    wave = {"entropy": lambda step: 1.0 + 0.1 * (step % 3)}
    plans: dict[str, Plan] = {name: flat(2) for name in ("grpo", "rlsd", "sdpg-urkl", "sdpg-ufkl")}
    found = decided(tmp_path, plans, sdpg_ufkl=wave, grpo={"entropy": lambda step: 0.1},
                   rlsd={"entropy": lambda step: 0.1 if step % 2 else 0.2},
                   sdpg_urkl={"entropy": lambda step: rival + 0.1 * ((step + 1 + step // 4) % 3)})  # fmt: skip
    assert found["ufkl-entropy"].verdict == verdict


def test_alpha_zero_needs_both_directions(tmp_path: Path) -> None:
    plans = {"sdpg-ufkl": flat(2), "alpha0": flat(2)}
    shorter = {"length": lambda step: 20.0 + step % 2, "entropy": lambda step: 2.0 + 0.1 * (step % 3)}
    assert decided(tmp_path / "a", plans, alpha0=shorter)["alpha0"].verdict == "holds"
    longer = {**shorter, "length": lambda step: 40.0 + step % 2}
    assert decided(tmp_path / "b", plans, alpha0=longer)["alpha0"].verdict == "does not hold"


def test_where_text_and_figure_disagree_nothing_is_decided(tmp_path: Path) -> None:
    collapse: Plan = lambda name, step, problem: 0 if step > 30 else 3 - problem % 2  # noqa: E731
    found = decided(tmp_path, {"opcd": collapse})["opcd-collapse"]
    assert found.verdict == "cannot tell"
    assert "text and figure disagree" in found.why
    assert "measured here: holds" in found.why
    assert "accuracy at step 30 − at step 40" in found.numbers


def test_steps_scale_with_the_run(tmp_path: Path) -> None:
    found = OneBase(results(tmp_path, {"grpo": flat(2)}))
    assert [evaluation_step(found, fraction) for fraction in (0.125, 0.25, 0.5, 0.625, 1.0)] == [10, 10, 20, 30, 40]


def test_ids_are_unique_and_every_claim_is_judged(tmp_path: Path) -> None:
    claims = decide_claims(OneBase(results(tmp_path, {"grpo": flat(2)})))
    assert len({claim.id for claim in claims}) == len(claims) == len(CLAIMS)
