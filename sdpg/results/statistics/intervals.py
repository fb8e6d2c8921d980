"""Computes confidence limits of a mean of bounded values, chosen by simulation (docs/statistics.md).

The module imports no torch.

Axes: S seeds, P problems. :mod:`sdpg.results.statistics.estimates` says which limits answer which question.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

FEWEST_DEVIATING = 6
"""With fewer problems than this off the commonest value, their spread is not known (and no sign-flip test of so few
problems can reach p < 0.05), so that limits come from :func:`agreement_limits` instead."""

UNSEEN_SQUARES = 0.05
"""Sum of squared deviations, in squared accuracy, that stands for what the problems of a small set may not have shown.
It matters where hardly any problem is solved, and nowhere else."""

UNSEEN_DIFFERENCES = 0.03
"""Sum of squared deviations that is added for differences of accuracies."""
SKEWNESS_CORRECTED = 0.5
"""Part of the sample's skewness that is corrected for; where a few problems make the whole difference, all of it would
be too much."""


def deviating(values: Array) -> tuple[float, int, int]:
    """Returns the commonest value, and how many values are below and above it (up to rounding)."""
    rounded = values.round(12)
    distinct, counts = np.unique(rounded, return_counts=True)
    commonest = distinct[counts.argmax()]
    return float(commonest), int((rounded < commonest).sum()), int((rounded > commonest).sum())


def agreement_limits(values: Array, confidence: float, lowest: float, highest: float) -> tuple[float, float]:
    """Returns limits of the mean where (nearly) all problems agree on one value v.

    One-sided Clopper-Pearson limits bound the shares d and u of problems that lie below and above v; each could pull as
    far as the end of the scale: [v - d(v - lowest), v + u(highest - v)]. With all problems wrong this is
    [0, 1 - ((1-confidence)/2)^(1/P)], the exact two-sided form of the rule of three.
    """
    value, *counts = deviating(values)
    below, above = (
        float(stats.beta.ppf((1 + confidence) / 2, count + 1, len(values) - count)) if count < len(values) else 1.0
        for count in counts
    )
    return value - below * (value - lowest), value + above * (highest - value)


def score_limits(mean: float, variance: float, problems: int, critical: float) -> tuple[float, float]:
    """Returns Wilson's score limits of a mean m in (0, 1), with the number of problems that its variance is worth.

    The variance of the mean is m(1-m)/N for a share among N coin tosses; problems that are neither always nor never
    solved scatter less, and P of them are worth N = m(1-m)/variance. N is nearly the same whether a set happens to
    hold few easy problems or many, while the variance itself shrinks with the mean: so these limits hold where those of
    a normal distribution miss a small mean's upper side. They solve (m - μ)² = t²·μ(1-μ)/N for μ.

    With Q = P(P-1)·variance, the sum of squared deviations, N = P·((P-1)m(1-m) + q)/(Q + q): q =
    :data:`UNSEEN_SQUARES` draws N towards P, that of coin tosses, where too little is above 0 to tell.

    Args:
        mean: the mean m.
        variance: the variance of the mean.
        problems: the number P of problems.
        critical: the quantile t of the t distribution.
    """
    spread = mean * (1 - mean)
    worth = problems * ((problems - 1) * spread + UNSEEN_SQUARES)
    worth /= problems * (problems - 1) * variance + UNSEEN_SQUARES
    square = critical**2 / worth
    reach = critical * np.sqrt(spread / worth + square / (4 * worth))
    return float((mean + square / 2 - reach) / (1 + square)), float((mean + square / 2 + reach) / (1 + square))


def skewed_limits(values: Array, confidence: float) -> tuple[float, float]:
    """Returns t limits of a mean difference, corrected for skewness as by Hall (1992, JRSS B 54, 221-228).

    With t = (x̄ - μ)/se and skewness g, t + g·t²/(3√P) + g²·t³/(27P) + g/(6√P) is nearer to a t distribution than t;
    being monotone, it is solved for μ at both quantiles. :data:`UNSEEN_DIFFERENCES` is added to the sum of squared
    deviations in se and in g, and g is :data:`SKEWNESS_CORRECTED` times the sample's skewness.
    """
    problems = len(values)
    mean = values.mean()
    centred = values - mean
    squares = (centred**2).sum() + UNSEEN_DIFFERENCES
    error = np.sqrt(squares / (problems - 1) / problems)
    skewness = SKEWNESS_CORRECTED * (centred**3).mean() / (squares / problems) ** 1.5
    bend = skewness / (3 * np.sqrt(problems))
    critical = float(stats.t.ppf((1 + confidence) / 2, problems - 1))

    def solved(quantile: float) -> float:
        straight = quantile - bend / 2
        # Without skewness the quotient below is 0/0; its limit is this.
        return straight if abs(bend) < 1e-8 else (np.cbrt(1 + 3 * bend * straight) - 1) / bend

    return float(mean - error * solved(critical)), float(mean - error * solved(-critical))


def crossed_bootstrap(matrix: Array, resamples: int, seed: int) -> tuple[Array, float]:
    """Draws means of tables with other seeds and other problems jointly, and returns them with degrees of freedom.

    Each draw takes S seeds and P problems with replacement and adds the mean effects of both to the grand mean. The
    effects are scaled so that the variance of the draws is that of the mean in the crossed model
    x_sp = μ + a_s + b_p + e_sp, without bias: (MS_seeds + MS_problems - MS_rest)/(SP), where E MS_seeds = σ_e² + Pσ_a²,
    E MS_problems = σ_e² + Sσ_b², E MS_rest = σ_e². Resampling the rows and columns of the table as they are (Owen 2007,
    "The pigeonhole bootstrap") would take the variance of S seeds too small by (S-1)/S and count σ_e² thrice. Where
    seeds differ less than the rest explains, they add nothing.

    Args:
        matrix: accuracies, (S, P), at least two of each, not all equal.

    Returns:
        The means, (resamples,), and Satterthwaite's degrees of freedom of their variance, at least S - 1.
    """
    seeds, problems = matrix.shape
    mean = matrix.mean()
    by_seed, by_problem = matrix.mean(axis=1) - mean, matrix.mean(axis=0) - mean
    rest = matrix - mean - by_seed[:, None] - by_problem
    ms_seeds = problems * (by_seed**2).sum() / (seeds - 1)
    ms_problems = seeds * (by_problem**2).sum() / (problems - 1)
    ms_rest = (rest**2).sum() / ((seeds - 1) * (problems - 1))

    share = max(0.0, 1 - ms_rest / ms_seeds) if ms_seeds > 0 else 0.0
    rng = np.random.default_rng(seed)
    drawn_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
    drawn_problems = rng.multinomial(problems, np.full(problems, 1 / problems), resamples) / problems
    means = mean + drawn_seeds @ by_seed * np.sqrt(share * seeds / (seeds - 1))
    means += drawn_problems @ by_problem * np.sqrt(problems / (problems - 1))

    if share == 0:
        return means, float(problems - 1)
    uncertain = ms_seeds**2 / (seeds - 1) + ms_problems**2 / (problems - 1)
    uncertain += ms_rest**2 / ((seeds - 1) * (problems - 1))
    freedom = (share * ms_seeds + ms_problems) ** 2 / uncertain
    return means, float(max(seeds - 1, freedom))


@lru_cache(maxsize=8)  # the comparisons of a report have the same problems, resamples and seed
def _flips(problems: int, resamples: int, seed: int) -> NDArray[np.int8]:
    """Returns the signs, (P, resamples), that a test gives the differences: all 2^P where these are no more."""
    if 2**problems <= resamples:
        swapped = (np.arange(2**problems) >> np.arange(problems)[:, None]) & 1
    else:
        # As scipy.stats.permutation_test draws them: each problem's pair is put into a random order.
        pairs = np.tile(np.arange(2), (resamples, problems, 1))
        swapped = np.random.default_rng(seed).permuted(pairs, axis=-1)[..., 0].T
    return np.ascontiguousarray(1 - 2 * swapped, dtype=np.int8)


def sign_flip_p_value(differences: Array, resamples: int, seed: int) -> float:
    """Returns the two-sided p-value of the mean difference being 0, by flipping the sign of each problem's difference.

    It is that of ``scipy.stats.permutation_test`` with ``permutation_type="samples"``, bit for bit, but the signs are
    drawn once for all comparisons of as many problems. The test is exact where 2^P is at most ``resamples``; else the
    observed signs count as one of the draws, so that the p-value is never 0 (Phipson and Smyth 2010).

    Args:
        differences: a difference per problem, (P,).
        resamples: the largest number of sign patterns.
        seed: the seed of random patterns.
    """
    signs = _flips(len(differences), resamples, seed)
    observed = differences.mean()
    total = np.zeros(signs.shape[1])
    for flips, difference in zip(signs, differences, strict=True):
        total += flips * difference
    drawn = total / len(differences)
    # Means that differ by rounding alone are the same.
    margin = abs(100 * np.finfo(np.float64).eps * observed)
    counted = 0 if 2 ** len(differences) <= resamples else 1
    tails = ((drawn <= observed + margin).sum(), (drawn >= observed - margin).sum())
    return min(1.0, 2 * min((int(tail) + counted) / (len(drawn) + counted) for tail in tails))
