from itertools import combinations, product
import math

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from sdpg.errors import UserError
from sdpg.statistics import (
    ProblemCounts,
    accuracy_matrix,
    batch_interval,
    count_correct,
    mean_interval,
    paired_difference,
    pass_at_k,
    seed_interval,
)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_equals_enumeration(n: int) -> None:
    for c in range(n + 1):
        answers = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            draws = list(combinations(answers, k))
            brute = sum(any(draw) for draw in draws) / len(draws)
            assert pass_at_k(n, c, k) == pytest.approx(brute, abs=1e-14)


def test_pass_at_k_is_vectorised_stable_and_pass_at_1_is_the_mean() -> None:
    correct = np.array([0, 1, 16, 9999, 10_000])
    assert pass_at_k(10_000, correct, 1) == pytest.approx(correct / 10_000)
    exact = 1 - math.comb(9984, 5000) / math.comb(10_000, 5000)
    assert pass_at_k(10_000, correct, 5000)[2] == pytest.approx(exact, abs=1e-12)
    assert pass_at_k(np.array([2, 4]), np.array([1, 1]), 2) == pytest.approx([1.0, 0.5])


def test_pass_at_k_refuses_more_draws_than_answers() -> None:
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, [1, 2], 5)


def test_mean_interval_is_scipys_bca() -> None:
    values = np.random.default_rng(1).integers(0, 9, 40) / 8
    ours = mean_interval(values, 0.9, resamples=800, seed=7)
    theirs = stats.bootstrap((values,), np.mean, confidence_level=0.9, n_resamples=800, method="BCa",
                             rng=np.random.default_rng(7)).confidence_interval  # fmt: skip
    assert ours == (pytest.approx(values.mean()), theirs.low, theirs.high)
    assert ours == mean_interval(values, 0.9, resamples=800, seed=7)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_all_problems_agree_the_interval_is_clopper_pearson(value: float) -> None:
    exact = stats.binomtest(round(60 * value), 60).proportion_ci(0.95, method="exact")
    found = mean_interval(np.full(60, value), 0.95)
    assert found == (value, pytest.approx(exact.low), pytest.approx(exact.high))
    assert max(found.high - value, value - found.low) == pytest.approx(
        -math.log(0.025) / 60, rel=0.05
    )  # the rule of three, two-sided


def test_a_shared_value_inside_the_scale_still_has_width() -> None:
    found = mean_interval(np.full(30, 0.5), 0.95)
    assert 0.4 < found.low < found.mean == 0.5 < found.high < 0.6


def test_few_deviating_problems_get_the_conservative_interval() -> None:
    values = np.zeros(60)
    values[:2] = 1.0
    exact = stats.binomtest(2, 60).proportion_ci(0.95, method="exact")
    found = mean_interval(values, 0.95)
    assert found.low == 0.0
    assert found.high == pytest.approx(exact.high)


def test_a_single_problem_says_next_to_nothing() -> None:
    found = mean_interval([1.0], 0.95)
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025)


@pytest.mark.parametrize("rate", [0.02, 0.5, 0.97])
def test_coverage_is_near_what_is_promised(rate: float) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        found = mean_interval(rng.binomial(8, rng.beta(rate * 4, (1 - rate) * 4, 60)) / 8, 0.95, resamples=300)
        covered += found.low <= rate <= found.high
    assert covered / 200 >= 0.9


def test_seed_interval_needs_three_seeds_and_is_the_t_interval() -> None:
    assert seed_interval([0.4], 0.95) is None
    assert seed_interval([0.4, 0.6], 0.95) is None
    # mean 0.5, standard error 0.1/√3, t(2, 0.975) = 4.302653
    found = seed_interval([0.4, 0.5, 0.6], 0.95)
    reach = 4.302653 * 0.1 / math.sqrt(3)
    assert found == pytest.approx((0.5, 0.5 - reach, 0.5 + reach), abs=1e-6)
    assert seed_interval([0.0, 0.0, 0.3], 0.95).low == 0.0  # type: ignore[union-attr]


def test_pairing_removes_what_problems_share() -> None:
    rng = np.random.default_rng(3)
    difficulty = rng.uniform(0, 0.8, 50)
    a, b = difficulty + 0.05 + rng.normal(0, 0.02, 50), difficulty
    paired = paired_difference(a, b, 0.95, resamples=2000)
    assert paired.mean == pytest.approx(float((a - b).mean()))
    assert paired.low > 0
    assert paired.p_value < 0.01
    # The same values, unpaired, cannot tell.
    unpaired = paired_difference(rng.permutation(a), b, 0.95, resamples=2000)
    assert unpaired.low < 0 < unpaired.high
    assert unpaired.high - unpaired.low > 5 * (paired.high - paired.low)


def test_permutation_p_is_exact_for_few_problems() -> None:
    differences = np.array([0.1, 0.2, 0.3, 0.4, -0.05, 0.25, 0.15])
    found = paired_difference(differences, np.zeros(7), 0.95, resamples=10_000)
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in product((1, -1), repeat=7)]
    assert found.p_value == pytest.approx(np.mean([total >= differences.sum() - 1e-12 for total in sums]))


def test_random_permutations_depend_on_the_seed_alone() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(size=40), rng.uniform(size=40)
    assert paired_difference(a, b, 0.95, 500, seed=1) == paired_difference(a, b, 0.95, 500, seed=1)
    assert paired_difference(a, b, 0.95, 500, seed=1) != paired_difference(a, b, 0.95, 500, seed=2)


def test_equal_everywhere_is_no_difference_but_not_certainty() -> None:
    found = paired_difference(np.ones(40), np.ones(40), 0.95)
    assert (found.mean, found.p_value) == (0.0, 1.0)
    assert found.low == -found.high
    assert 0 < found.high < 0.1


def test_too_few_one_sided_differences_are_not_called_significant() -> None:
    a = np.zeros(60)
    a[:5] = 1.0
    found = paired_difference(a, np.zeros(60), 0.95)
    assert found.p_value > 0.05
    assert found.low < 0 < found.high


def test_paired_values_must_match() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        paired_difference([0.1, 0.2], [0.1], 0.95)


def test_batch_interval_by_hand() -> None:
    # Means of the batches: 1, 2, 3; standard error 1/√3.
    found = batch_interval([0, 2, 1, 3, 2, 4], 0.95, batches=3)
    assert found == pytest.approx((2.0, 2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-6)


def _table(rows: list[tuple[str, str, float, str, str]]) -> pa.Table:
    names = ("method", "benchmark", "temperature", "problem_id", "status")
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])


def test_counts_by_method_benchmark_and_decoding_in_order_of_problems() -> None:
    found = count_correct(_table([
        ("m", "x", 1.0, "b", "correct"), ("m", "x", 1.0, "b", "wrong"), ("m", "x", 1.0, "a", "truncated"),
        ("m", "x", 1.0, "a", "timeout"), ("m", "x", 0.0, "a", "correct"), ("m", "x", 0.0, "b", "no_answer"),
    ]), "here")  # fmt: skip
    assert found["m", "x", False].problems == ("a", "b")
    assert found["m", "x", False].accuracy.tolist() == [0.0, 0.5]
    assert found["m", "x", True].accuracy.tolist() == [1.0, 0.0]


def test_uneven_answers_are_an_incomplete_evaluation() -> None:
    with pytest.raises(UserError, match=r"here.*between 1 and 2 answers"):
        count_correct(_table([("m", "x", 1.0, "a", "correct")] * 2 + [("m", "x", 1.0, "b", "wrong")]), "here")


def test_seeds_are_stacked_only_over_the_same_problems() -> None:
    one = ProblemCounts(("a", "b"), np.array([1, 2]), 2)
    two = ProblemCounts(("a", "b"), np.array([0, 1]), 2)
    assert accuracy_matrix([one, two]).tolist() == [[0.5, 1.0], [0.0, 0.5]]
    with pytest.raises(UserError, match="different problems"):
        accuracy_matrix([one, ProblemCounts(("a", "c"), np.array([1, 2]), 2)])
