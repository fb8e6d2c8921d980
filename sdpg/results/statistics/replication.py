"""Estimates differences that hold for another base, another training seed and other problems. No torch is imported.

Axes: B bases, P problems. Every policy answers every problem, so that bases and problems
are crossed; seeds are nested, as each base has seeds of its own. The two methods of a difference start from the same
base with the same seed, and what base, seed and problem make hard for both cancels.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from sdpg.results.statistics.estimates import Array, Interval
from sdpg.results.statistics.intervals import FEWEST_DEVIATING, agreement_limits, deviating

SMALLEST = 1e-12
"""The smallest p-value that is told apart from 0."""
ROUNDING = 1e-20


class Replicated(NamedTuple):
    """A mean difference over bases, seeds and problems."""

    mean: float
    low: float
    high: float
    p_value: float
    """Two-sided p-value of no difference; it is below 1 - confidence where the interval leaves out 0."""
    by_base: tuple[float, ...]
    """The mean difference of each base, whose spread the interval is mostly made of."""


def replicated_difference(table: ArrayLike, confidence: float) -> Replicated:
    """Returns the mean of differences of accuracy with an interval over bases, seeds and problems jointly.

    Seeds are averaged before, as another base would come with other seeds. In the model x_bp = μ + base_b + problem_p +
    rest_bp of what is left, where the effect of a base holds that of its seeds, the mean has the variance
    (v_b + v_p)/BP with v_b = MS_base and v_p = max(0, MS_problem - MS_rest). The quantile is that of Cochran and Cox
    (1957): those of the t distributions with B - 1 and P - 1 degrees of freedom, weighted by v_b and v_p. Where bases
    decide, as few of them tell as little as there are; where only problems differ, many of those tell much.

    Where fewer than :data:`FEWEST_DEVIATING` problems differ from the commonest difference,
    :func:`sdpg.results.statistics.intervals.agreement_limits` are taken if they are wider, and no p-value is below that
    of a sign-flip test of so many problems.

    Args:
        table: a method's accuracies minus another's, (B, P), averaged over samples and seeds; at least two of each.
        confidence: the interval's confidence level.
    """
    table = np.asarray(table, dtype=np.float64)
    if table.ndim != 2 or min(table.shape) < 2:
        raise ValueError(f"bases × problems, two or more of each, are expected, not an array of shape {table.shape}")
    bases, problems = table.shape
    mean = float(table.mean())
    of_bases, of_problems = _variances(table)

    def reach(p_value: float) -> float:
        """Returns how far the limits are from the mean for a two-sided probability outside them."""
        if not (variance := of_bases + of_problems):
            return 0.0
        quantiles = of_bases * stats.t.isf(p_value / 2, bases - 1) + of_problems * stats.t.isf(
            p_value / 2, problems - 1
        )
        return float(quantiles / np.sqrt(variance * bases * problems))

    low, high = mean - reach(1 - confidence), mean + reach(1 - confidence)
    p_value = float(reach(SMALLEST) == 0 and mean == 0)
    if reach(SMALLEST) > abs(mean):
        p_value = float(optimize.root_scalar(lambda p: reach(p) - abs(mean), bracket=(SMALLEST, 1.0)).root)
    by_problem = table.mean(axis=0)
    if (differing := sum(deviating(by_problem)[1:])) < FEWEST_DEVIATING:
        lowest, highest = agreement_limits(by_problem, confidence, -1.0, 1.0)
        low, high = min(low, lowest), max(high, highest)
        p_value = max(p_value, min(1.0, 2.0 ** (1 - differing)))
    return Replicated(mean, max(-1.0, low), min(1.0, high), p_value, tuple(table.mean(axis=1).tolist()))


def _variances(table: Array) -> tuple[float, float]:
    """Returns v_b and v_p of a table of bases × problems; rounding of equal values is no variance."""
    bases, problems = table.shape
    by_base, by_problem = table.mean(axis=1) - table.mean(), table.mean(axis=0) - table.mean()
    rest = table - table.mean() - by_base[:, None] - by_problem
    of_bases = float(problems * (by_base**2).sum() / (bases - 1))
    of_problems = float(bases * (by_problem**2).sum() / (problems - 1))
    of_rest = float((rest**2).sum() / ((bases - 1) * (problems - 1)))
    found = of_bases, max(0.0, of_problems - of_rest)
    return (0.0, 0.0) if sum(found) < ROUNDING else found


def over_bases(values: ArrayLike, confidence: float) -> Interval:
    """Returns the mean of one value per base with its t interval, for what is measured once per run.

    Args:
        values: one value per base, averaged over its seeds, (B,); B is at least 2.
        confidence: the interval's confidence level.
    """
    each = np.asarray(values, dtype=np.float64)
    if each.ndim != 1 or len(each) < 2:
        raise ValueError(f"one value for each of two bases at least is expected, not an array of {each.shape}")
    mean, error = float(each.mean()), float(stats.sem(each))
    reach = float(stats.t.ppf((1 + confidence) / 2, len(each) - 1)) * error
    return Interval(mean, mean - reach, mean + reach)
