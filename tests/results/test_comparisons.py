import numpy as np
import pytest
from scipy import integrate, stats

from sdpg.results.statistics.comparisons import holm, needed_sizes, sizes_for
from sdpg.results.statistics.estimates import ProblemCounts


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04; times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, and no step falls.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)


def test_holm_of_ties_ones_one_and_none() -> None:
    assert holm([0.02, 0.02, 0.9]) == pytest.approx([0.06, 0.06, 0.9])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([0.03]) == pytest.approx([0.03])
    assert holm([]).tolist() == []


def test_holm_rejects_what_the_step_down_procedure_rejects() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = rng.beta(0.3, 2, 6)
        rejected = set()
        for step, at in enumerate(np.argsort(values)):
            if values[at] > 0.05 / (6 - step):
                break
            rejected.add(int(at))
        assert set(np.flatnonzero(holm(values) <= 0.05).tolist()) == rejected


def counts(correct: list[int], samples: int) -> ProblemCounts:
    return ProblemCounts(tuple(map(str, range(len(correct)))), np.array(correct), samples)


def test_variances_by_hand() -> None:
    # Of 4 answers: D = 1/4, 1/2, 1/4, 1/2, 0, 0, 1/2, 1/2, mean 5/16.
    a = counts([1, 2, 2, 3, 0, 4, 4, 4], 4)
    b = counts([0, 0, 1, 1, 0, 4, 2, 2], 4)
    found = needed_sizes([a], [b], 0.95)
    differences = np.array([0.25, 0.5, 0.25, 0.5, 0, 0, 0.5, 0.5])
    # p(1-p) in sixteenths: a 3, 4, 4, 3, 0, 0, 0, 0; b 0, 0, 3, 3, 0, 0, 4, 4. Mean (14 + 14)/16/8, times 4/3.
    sampling = 28 / 16 / 8 * 4 / 3
    assert found.difference == 5 / 16
    assert found.sampling_variance == pytest.approx(sampling)
    assert found.between_variance == pytest.approx(max(0.0, differences.var(ddof=1) - sampling / 4))
    assert found.between_variance == 0


def power_of_t(problems: int, shift: float) -> float:
    """P(t > critical) for a true difference of so many standard errors, by integration over the sample's sd."""
    freedom = problems - 1
    critical = stats.t.ppf(0.975, freedom)
    density = stats.chi2(freedom)
    found, _ = integrate.quad(lambda u: stats.norm.sf(critical * np.sqrt(density.ppf(u) / freedom) - shift), 0, 1)
    return found


def test_needed_problems_are_the_fewest_with_the_power() -> None:
    rng = np.random.default_rng(4)
    difficulty = rng.beta(0.8, 0.8, 40)
    a, b = (counts(rng.binomial(16, p).tolist(), 16) for p in (np.clip(difficulty + 0.05, 0, 1), difficulty))
    found = needed_sizes([a], [b], 0.95)
    variance = found.between_variance + found.sampling_variance / 16
    assert found.needed_problems is not None
    shifts = [
        found.difference * np.sqrt(problems / variance)
        for problems in (found.needed_problems - 1, found.needed_problems)
    ]
    assert power_of_t(found.needed_problems - 1, shifts[0]) < 0.8 <= power_of_t(found.needed_problems, shifts[1])
    assert power_of_t(40, found.detectable / np.sqrt(variance / 40)) == pytest.approx(0.8, abs=1e-6)


def drawn(
    rng: np.random.Generator, problems: int, samples: int, lead: float, spread: float
) -> tuple[ProblemCounts, ProblemCounts]:
    b = rng.uniform(0.3, 0.6, problems)
    a = b + lead + rng.choice([-spread, spread], problems)
    return counts(rng.binomial(samples, a).tolist(), samples), counts(rng.binomial(samples, b).tolist(), samples)


def found_share(rng: np.random.Generator, problems: int, samples: int, lead: float, spread: float) -> float:
    hits = 0
    for _ in range(1500):
        a, b = drawn(rng, problems, samples, lead, spread)
        hits += stats.ttest_rel(a.accuracy, b.accuracy).pvalue < 0.05
    return hits / 1500


def test_so_many_problems_find_the_difference_with_the_power_that_was_promised() -> None:
    rng = np.random.default_rng(0)
    # So many that the estimates are the truth.
    found = needed_sizes(*([one] for one in drawn(rng, 200_000, 8, 0.06, 0.1)), 0.95)
    assert found.between_variance == pytest.approx(0.1**2, rel=0.05)
    assert found.needed_problems is not None
    assert 120 < found.needed_problems < 170
    assert found_share(rng, found.needed_problems, 8, 0.06, 0.1) == pytest.approx(0.8, abs=0.04)


def test_so_many_samples_find_the_difference_with_the_power_that_was_promised() -> None:
    # b is uniform in 0.3 … 0.6, a = b + 0.06 ± 0.05: E b(1-b) = 0.45 - 0.21, E a(1-a) = 0.51 - 0.2701.
    found = sizes_for(0.06, 0.05**2, 0.24 + 0.2399, problems=40, samples=8, confidence=0.95)
    assert found.needed_samples == 33
    assert found_share(np.random.default_rng(0), 40, 33, 0.06, 0.05) == pytest.approx(0.8, abs=0.04)
    # Half as many do not.
    assert found_share(np.random.default_rng(0), 40, 16, 0.06, 0.05) < 0.65


def test_no_number_of_samples_helps_where_problems_disagree() -> None:
    rng = np.random.default_rng(1)
    found = needed_sizes(*([one] for one in drawn(rng, 30, 32, 0.02, 0.25)), 0.95)
    assert found.needed_samples is None
    assert found.needed_problems is not None
    assert found.needed_problems > 30
    assert "no number of samples suffices for these 30 problems" in found.words()
    # With sampling gone altogether, it would still not be found at 30 problems.
    assert abs(found.difference) < 2.9 * np.sqrt(found.between_variance / 30)


def test_words() -> None:
    enough = needed_sizes([counts([16, 20, 24, 20] * 20, 32)], [counts([8, 12, 16, 12] * 20, 32)], 0.95)
    aim = "be found at 95% confidence with probability 80%"
    assert enough.words().startswith(f"A true difference of +0.250 would {aim} with these 80 problems and 32 samples")
    more = needed_sizes([counts([16, 20, 24, 20] * 3, 32)], [counts([17, 21, 25, 21] * 3, 32)], 0.95)
    assert more.needed_samples is not None
    assert more.words().startswith("For a true difference of −0.031 to be found")
    assert more.words().endswith(f"or {more.needed_samples} samples for each of these 12.")
    same = needed_sizes([counts([1] * 10, 2)], [counts([1] * 10, 2)], 0.95)
    assert (same.needed_problems, same.needed_samples) == (None, None)
    assert same.words().startswith("The observed difference is 0; a true one of ")


def test_a_difference_that_never_varies_still_needs_six_problems() -> None:
    found = needed_sizes([counts([2] * 8, 2)], [counts([0] * 8, 2)], 0.95)
    assert (found.needed_problems, found.needed_samples, found.detectable) == (6, 1, 0.0)


def test_sizes_need_the_same_problems_and_two_samples() -> None:
    with pytest.raises(ValueError, match="same problems"):
        needed_sizes([counts([1] * 8, 2)], [counts([1] * 9, 2)], 0.95)
    with pytest.raises(ValueError, match="two samples and 6 problems"):
        needed_sizes([counts([1] * 8, 1)], [counts([1] * 8, 1)], 0.95)


def test_seeds_that_disagree_are_no_sampling_that_more_answers_would_remove() -> None:
    # Two seeds, each sure of every problem, and of different ones: no answer is left to chance.
    a = [counts([4, 0, 4, 0, 4, 4, 0, 0], 4), counts([0, 4, 4, 0, 4, 0, 4, 0], 4)]
    b = [counts([0, 0, 4, 0, 4, 0, 0, 0], 4), counts([0, 0, 0, 0, 4, 0, 4, 0], 4)]
    found = needed_sizes(a, b, 0.95)
    # Per problem (8ths): 4, 4, 4, 0, 0, 4, 0, 0.
    differences = np.array([0.5, 0.5, 0.5, 0, 0, 0.5, 0, 0])
    assert (found.sampling_variance, found.difference, found.samples) == (0.0, 0.25, 8)
    assert found.between_variance == pytest.approx(differences.var(ddof=1))
    assert found.needed_samples is None
    assert "8 samples each over 2 seeds" in found.words()


def test_variances_of_two_seeds_by_hand() -> None:
    a, b = counts([0, 2, 4, 2, 0, 2, 4, 2], 4), counts([0] * 8, 4)
    found = needed_sizes([a, a], [b, b], 0.95)
    # p(1-p) is 1/4 for half of a's problems; D = 0, 1/2, 1, 1/2, …, with 8 answers to each problem.
    assert found.sampling_variance == pytest.approx(1 / 8 * 4 / 3)
    assert found.between_variance == pytest.approx(1 / 7 - 1 / 6 / 8)


def test_a_tie_is_exactly_no_difference() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        right = rng.integers(0, 25, 30)
        found = needed_sizes([counts(right.tolist(), 24)], [counts(rng.permutation(right).tolist(), 24)], 0.95)
        assert (found.difference, found.needed_problems) == (0.0, None)


def test_the_smallest_difference_there_can_be_needs_many_problems_and_no_long_time() -> None:
    right = [12] * 300
    found = needed_sizes([counts([13, *right[1:]], 96)], [counts(right, 96)], 0.95)
    assert found.needed_problems is not None
    variance = found.between_variance + found.sampling_variance / 96
    normal = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert found.needed_problems == pytest.approx(normal**2 * variance / found.difference**2, rel=1e-4)
