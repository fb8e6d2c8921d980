import math

import numpy as np
import pytest
from scipy import optimize, stats

from sdpg.results.statistics import intervals
from sdpg.results.statistics.intervals import crossed_bootstrap, score_limits, sign_flip_p_value, skewed_limits


@pytest.mark.parametrize("mean", [1e-4, 0.05, 0.5, 0.93])
def test_score_limits_solve_wilsons_equation(mean: float) -> None:
    variance, problems, critical = mean * (1 - mean) / 75, 30, 2.045
    worth = 30 * (29 * mean * (1 - mean) + 0.05) / (30 * 29 * variance + 0.05)

    def beyond(mu: float) -> float:
        return (mean - mu) ** 2 - critical**2 * mu * (1 - mu) / worth

    expected = optimize.brentq(beyond, 0, mean, xtol=1e-14), optimize.brentq(beyond, mean, 1, xtol=1e-14)
    assert score_limits(mean, variance, problems, critical) == pytest.approx(expected, abs=1e-10)


def test_skewed_limits_solve_halls_equation() -> None:
    values = np.array([0.0, 0.0, 0.05, -0.1, 0.1, 0.2, 0.0, 0.7])
    low, high = skewed_limits(values, 0.95)
    centred = values - values.mean()
    squares = (centred**2).sum() + 0.03
    error = math.sqrt(squares / 7 / 8)
    skewness = 0.5 * (centred**3).mean() / (squares / 8) ** 1.5
    for limit, quantile in ((low, 2.364624), (high, -2.364624)):
        t = (values.mean() - limit) / error
        hall = t + skewness * t**2 / (3 * math.sqrt(8)) + skewness**2 * t**3 / (27 * 8) + skewness / (6 * math.sqrt(8))
        assert hall == pytest.approx(quantile, abs=1e-6)
    # Skewed to the right: the upper limit is the farther one.
    assert high - values.mean() > values.mean() - low


def test_skewed_limits_mirror_and_are_t_limits_without_skewness(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).gamma(0.3, size=25) / 10
    low, high = skewed_limits(values, 0.9)
    assert skewed_limits(-values, 0.9) == pytest.approx((-high, -low))
    monkeypatch.setattr(intervals, "UNSEEN_DIFFERENCES", 0.0)
    symmetric = np.concatenate([values, -values])
    reach = stats.t.ppf(0.95, 49) * stats.sem(symmetric)
    assert skewed_limits(symmetric, 0.9) == pytest.approx((-reach, reach), rel=1e-9)


def test_crossed_bootstrap_has_the_variance_of_the_mean_squares() -> None:
    """By hand: seeds' means 0.2 and 0.6, problems' 0.3, 0.4, 0.5, no rest: (MS_seeds + MS_problems)/(SP)."""
    matrix = np.array([[0.1, 0.2, 0.3], [0.5, 0.6, 0.7]])
    ms_seeds, ms_problems = 3 * 2 * 0.2**2 / 1, 2 * 2 * 0.1**2 / 2
    means, freedom = crossed_bootstrap(matrix, 200_000, 0)
    assert means.mean() == pytest.approx(0.4, abs=2e-3)
    assert means.var() == pytest.approx((ms_seeds + ms_problems) / 6, rel=0.01)
    assert freedom == pytest.approx((ms_seeds + ms_problems) ** 2 / (ms_seeds**2 / 1 + ms_problems**2 / 2))


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_crossed_bootstrap_is_unbiased_for_the_crossed_model(seeds: int) -> None:
    """x = μ + a + b + e with standard deviations 0.2, 0.5, 0.3: the mean's variance is known."""
    rng = np.random.default_rng(seeds)
    problems, variances, means = 12, [], []
    for _ in range(3000):
        matrix = (
            rng.normal(0, 0.2, (seeds, 1)) + rng.normal(0, 0.5, (1, problems)) + rng.normal(0, 0.3, (seeds, problems))
        )
        variances.append(crossed_bootstrap(matrix, 400, 0)[0].var())
        means.append(matrix.mean())
    known = 0.2**2 / seeds + 0.5**2 / problems + 0.3**2 / (seeds * problems)
    assert np.var(means) == pytest.approx(known, rel=0.08)
    assert np.mean(variances) == pytest.approx(known, rel=0.08)


def test_where_only_the_rest_varies_seeds_add_nothing() -> None:
    rng = np.random.default_rng(0)
    variances, freedoms = [], []
    for _ in range(2000):
        means, freedom = crossed_bootstrap(rng.normal(size=(3, 20)), 400, 0)
        variances.append(means.var())
        freedoms.append(freedom)
    # A negative estimate of the seeds' part counts as none, so that the truth, 1/60, is not undercut.
    assert 1 / 60 < np.mean(variances) < 1.5 / 60
    assert min(freedoms) >= 2
    assert max(freedoms) == 19


@pytest.mark.parametrize(("problems", "resamples"), [(2, 200), (7, 200), (9, 200), (40, 200), (8, 256)])
def test_the_sign_flip_test_is_scipys_bit_for_bit(problems: int, resamples: int) -> None:
    drawn = np.random.default_rng(problems)
    for seed, samples in ((0, 4), (1, 16), (0, 3)):
        a, b = (drawn.integers(0, samples + 1, problems) / samples for _ in range(2))
        for first, second in ((a, b), (a, a), (a, a[::-1])):
            expected = stats.permutation_test(
                (first, second), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples",
                vectorized=True, n_resamples=resamples, rng=np.random.default_rng(seed),
            ).pvalue  # fmt: skip
            assert sign_flip_p_value(first - second, resamples, seed) == min(1.0, float(expected))
