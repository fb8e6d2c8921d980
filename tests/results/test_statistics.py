from itertools import product
import math

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from sdpg.errors import UserError
from sdpg.results.statistics.estimates import (
    ProblemCounts,
    accuracy_matrix,
    batch_interval,
    count_correct,
    mean_interval,
    paired_difference,
    seed_interval,
    standard_errors,
    two_way_interval,
)


def test_mean_interval_by_hand() -> None:
    # m = 0.25, m(1-m) = 0.1875, sum of squared deviations 0.0625·2 + 0 + 0.25 = 0.375; t(3, 0.95) = 2.353363.
    found = mean_interval([0.0, 0.0, 0.25, 0.75], 0.9)
    worth = 4 * (3 * 0.1875 + 0.05) / (0.375 + 0.05)
    for limit in (found.low, found.high):
        assert (0.25 - limit) ** 2 == pytest.approx(2.353363**2 * limit * (1 - limit) / worth, rel=1e-6)
    assert found.low < found.mean == 0.25 < found.high


def test_of_ones_and_zeros_mean_interval_is_nearly_wilsons() -> None:
    values = np.repeat([0.0, 1.0], [350, 150])
    wilson = stats.binomtest(150, 500).proportion_ci(0.95, method="wilson")
    assert mean_interval(values, 0.95)[1:] == pytest.approx((wilson.low, wilson.high), abs=2e-4)


def test_mean_interval_of_many_problems_is_the_t_interval() -> None:
    values = np.random.default_rng(1).binomial(8, 0.5, 20_000) / 8
    reach = 1.959964 * stats.sem(values)
    assert mean_interval(values, 0.95)[1:] == pytest.approx((values.mean() - reach, values.mean() + reach), abs=1e-5)


def test_wrong_for_right_mirrors_the_interval() -> None:
    values = np.random.default_rng(2).beta(0.1, 0.9, 30)
    found, mirrored = mean_interval(values, 0.95), mean_interval(1 - values, 0.95)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))


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


def test_few_solved_problems_get_about_wilsons_interval() -> None:
    values = np.zeros(60)
    values[:2] = 1.0
    wilson = stats.binomtest(2, 60).proportion_ci(0.95, method="wilson")
    assert mean_interval(values, 0.95)[1:] == pytest.approx((wilson.low, wilson.high), abs=4e-3)


def test_one_answer_in_a_thousand_is_not_taken_for_the_whole_truth() -> None:
    # One of 960 answers is right: as shares of 960 independent answers the limit would be 0.006.
    found = mean_interval([1 / 32] + [0.0] * 29, 0.95)
    assert found.mean == pytest.approx(1 / 960)
    assert 0 < found.low < 0.001 < 0.05 < found.high < 0.116


def test_few_deviating_from_the_middle_get_the_conservative_interval() -> None:
    values = np.full(60, 0.5)
    values[:2] = 1.0
    found = mean_interval(values, 0.95)
    above = stats.binomtest(2, 60).proportion_ci(0.95, method="exact").high
    below = stats.binomtest(0, 60).proportion_ci(0.95, method="exact").high
    assert found[1:] == pytest.approx((0.5 - 0.5 * below, 0.5 + 0.5 * above))


def test_a_single_problem_says_next_to_nothing() -> None:
    found = mean_interval([1.0], 0.95)
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025)


def test_standard_errors_by_hand() -> None:
    # Accuracies 0, 1/2, 1: sd 1/2. By sample: only the second scatters, 0.25/(4-1).
    found = standard_errors(ProblemCounts(("a", "b", "c"), np.array([0, 2, 4]), 4))
    assert found == pytest.approx((0.5, 0.5 / math.sqrt(3), math.sqrt(0.25 / 3) / 3))
    one = standard_errors(ProblemCounts(("a",), np.array([1]), 1))
    assert one == (1.0, None, None)


def test_thirty_problems_with_32_answers_each() -> None:
    """The paper's evaluation: with half of the problems solved in 1 of 4 answers, the others in 3 of 4."""
    counts = ProblemCounts(tuple(map(str, range(30))), np.repeat([8, 24], 15), 32)
    found = standard_errors(counts)
    assert found.mean == 0.5
    assert found.by_problem == pytest.approx(0.25 * math.sqrt(30 / 29) / math.sqrt(30))  # 0.0464
    assert found.by_sample == pytest.approx(math.sqrt(0.1875 / 31 / 30))  # 0.0142
    # With P - 1 = 29, 30 problems scatter by more than 960 independent answers would.
    assert found.by_problem > 2.8 * math.sqrt(0.25 / 960)


def test_the_error_by_sample_is_that_of_new_answers_to_the_same_problems() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.beta(0.3, 0.7, 20)
    correct = rng.binomial(8, difficulty, (20_000, 20))
    estimates = [standard_errors(ProblemCounts(("x",) * 20, row, 8)) for row in correct[:4000]]
    squares = np.mean([each.by_sample**2 for each in estimates])  # type: ignore[operator]
    assert squares == pytest.approx((correct / 8).mean(axis=1).var(), rel=0.03)


def test_the_error_by_problem_is_that_of_another_set() -> None:
    rng = np.random.default_rng(0)
    correct = rng.binomial(8, rng.beta(0.3, 0.7, (20_000, 20)))
    squares = np.mean([
        standard_errors(ProblemCounts(("x",) * 20, row, 8)).by_problem ** 2 for row in correct[:4000]  # type: ignore[operator]
    ])  # fmt: skip
    assert squares == pytest.approx((correct / 8).mean(axis=1).var(), rel=0.03)


def test_seed_interval_needs_three_seeds_and_is_the_t_interval() -> None:
    assert seed_interval([0.4], 0.95) is None
    assert seed_interval([0.4, 0.6], 0.95) is None
    # mean 0.5, standard error 0.1/√3, t(2, 0.975) = 4.302653
    found = seed_interval([0.4, 0.5, 0.6], 0.95)
    reach = 4.302653 * 0.1 / math.sqrt(3)
    assert found == pytest.approx((0.5, 0.5 - reach, 0.5 + reach), abs=1e-6)
    assert seed_interval([0.0, 0.0, 0.3], 0.95).low == 0.0  # type: ignore[union-attr]


def test_two_way_interval_of_alike_seeds_is_that_over_problems() -> None:
    values = np.random.default_rng(0).beta(0.3, 0.7, 40)
    found = two_way_interval(np.stack([values] * 3), 0.95, resamples=50_000)
    assert found == pytest.approx(mean_interval(values, 0.95), abs=1e-3)


def test_two_way_interval_of_alike_problems_is_that_over_seeds() -> None:
    matrix = np.repeat([[0.48], [0.5], [0.52]], 400, axis=1)
    found = two_way_interval(matrix, 0.95, resamples=50_000)
    assert found is not None
    # As a t interval over 3 seeds, but for the curvature of the scale.
    assert found[1:] == pytest.approx(seed_interval([0.48, 0.5, 0.52], 0.95)[1:], abs=2e-3)  # type: ignore[index]


def test_seeds_that_disagree_widen_the_interval_although_problems_agree() -> None:
    # Each problem is solved by one seed of two: by problem everything is 0.5.
    matrix = np.stack([np.ones(30), np.zeros(30)])
    found = two_way_interval(matrix, 0.95)
    assert found is not None
    assert found.low < 0.05
    assert found.high > 0.95
    assert mean_interval(matrix.mean(axis=0), 0.95).low > 0.4


def test_two_way_interval_is_deterministic_bounded_and_needs_two_seeds() -> None:
    matrix = np.random.default_rng(0).beta(0.05, 0.95, (3, 20))
    assert two_way_interval(matrix[:1], 0.95) is None
    assert two_way_interval(matrix, 0.95, 500, seed=1) == two_way_interval(matrix, 0.95, 500, seed=1)
    assert two_way_interval(matrix, 0.95, 500, seed=1) != two_way_interval(matrix, 0.95, 500, seed=2)
    assert two_way_interval(np.ones((2, 60)), 0.95) == mean_interval(np.ones(60), 0.95)
    with pytest.raises(ValueError, match="seeds × problems"):
        two_way_interval(matrix[0], 0.95)


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
