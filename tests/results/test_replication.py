"""Tests differences over bases and problems against numbers worked out by hand."""

import numpy as np
import pytest
from scipy import stats

from sdpg.results.statistics.replication import over_bases, replicated_difference

PROBLEMS = np.array([-7, -5, -3, -1, 1, 3, 5, 7]) / 100


def test_bases_and_problems_that_add_up() -> None:
    # MS_base = 8·(2·0.02²)/1 = 0.0064; MS_problem = 2·0.0168/7 = 0.0048; nothing is left, so that MS_rest is 0.
    # Standard error √(0.0112/16) = 0.026458; quantile (0.0064·12.7062 + 0.0048·2.36462)/0.0112 = 8.27409.
    table = 0.1 + np.array([[0.02], [-0.02]]) + PROBLEMS
    found = replicated_difference(table, 0.95)
    assert found.mean == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0.1 - 0.218912, 0.1 + 0.218912), abs=1e-5)
    assert found.by_base == pytest.approx((0.12, 0.08))
    assert replicated_difference(table, 1 - found.p_value).low == pytest.approx(0.0, abs=1e-9)


def test_bases_that_agree_leave_the_t_interval_over_problems() -> None:
    found = replicated_difference(np.stack([0.1 + PROBLEMS] * 3), 0.95)
    reach = 2.364624 * PROBLEMS.std(ddof=1) / 8**0.5
    assert (found.low, found.high) == pytest.approx((0.1 - reach, 0.1 + reach), abs=1e-6)
    assert found.p_value == pytest.approx(stats.ttest_1samp(0.1 + PROBLEMS, 0).pvalue)


def test_problems_that_scatter_no_more_than_the_rest_leave_the_t_interval_over_bases() -> None:
    # Each problem's mean over the bases is the same, all else is rest: MS_problem = 0.
    table = 0.1 + np.array([[0.03], [-0.03]]) + np.array([[1.0], [-1.0]]) * PROBLEMS
    found = replicated_difference(table, 0.95)
    few = over_bases([0.13, 0.07], 0.95)
    assert few == pytest.approx((0.1, 0.1 - 12.70620 * 0.03, 0.1 + 12.70620 * 0.03), abs=1e-5)
    # All problems agree on the mean, so that its limits may be wider than those of the bases, but never narrower.
    assert found.low <= few.low and found.high >= few.high


def test_where_nothing_differs_nothing_is_certain() -> None:
    equal = replicated_difference(np.zeros((3, 60)), 0.95)
    assert (equal.mean, equal.p_value) == (0.0, 1.0)
    # One-sided Clopper-Pearson: 1 - 0.025^(1/60).
    assert equal.high == -equal.low == pytest.approx(1 - 0.025 ** (1 / 60))
    # Five problems that differ are too few for a test, however much the bases agree.
    few = np.zeros((3, 60))
    few[:, :5] = 0.5
    assert replicated_difference(few, 0.95).p_value == 2**-4
    assert replicated_difference(few, 0.95).low <= 0


@pytest.mark.parametrize("shape", [(1, 8), (3, 1), (8,), (2, 2, 2)])
def test_one_base_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="bases × problems"):
        replicated_difference(np.zeros(shape), 0.95)
    with pytest.raises(ValueError, match="two bases"):
        over_bases([0.1], 0.95)
