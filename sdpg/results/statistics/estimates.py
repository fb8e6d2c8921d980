"""Estimates the tables' accuracies, intervals over problems, seeds or both, and differences. No torch is imported.

Axes: S seeds, P problems. The sampling unit is the problem: an interval says how far the number would move with another
set of problems of the same kind, given the policies that were trained. Spread over training seeds is another question
with its own estimator, :func:`seed_interval`; :func:`two_way_interval` asks both at once. docs/statistics.md says which
to use when, and how often each holds the truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from sdpg.errors import UserError
from sdpg.results.statistics.at_k import pass_at_k as pass_at_k
from sdpg.results.statistics.intervals import (
    FEWEST_DEVIATING,
    agreement_limits,
    crossed_bootstrap,
    deviating,
    score_limits,
    sign_flip_p_value,
    skewed_limits,
)

Array = NDArray[np.float64]


class Interval(NamedTuple):
    """A mean and its confidence limits."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """A mean paired difference, its confidence limits, and the two-sided p-value of no difference."""

    mean: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class ProblemCounts:
    """How often each problem of one set was solved; problems in order of their ids."""

    problems: tuple[str, ...]
    correct: NDArray[np.int64]
    """Correct answers per problem, (P,)."""
    samples: int
    """Answers per problem."""

    @property
    def accuracy(self) -> Array:
        """Returns the share of right answers per problem, (P,)."""
        return self.correct / self.samples


def count_correct(table: pa.Table, source: str) -> dict[tuple[str, str, bool], ProblemCounts]:
    """Groups evaluation rows by (method, benchmark, greedy or not) and counts status ``correct`` per problem.

    Raises:
        UserError: if the problems of a group have different numbers of answers, which means an incomplete evaluation.
    """
    rows = pa.table({
        **{name: table.column(name) for name in ("method", "benchmark", "problem_id")},
        "greedy": pc.fill_null(pc.equal(table.column("temperature"), 0.0), False),  # pyright: ignore[reportAttributeAccessIssue]
        "right": pc.fill_null(
            pc.equal(table.column("status"), "correct"), False  # pyright: ignore[reportAttributeAccessIssue]
        ).cast(pa.int64()),
    })  # fmt: skip
    names = ["method", "benchmark", "greedy", "problem_id"]
    grouped = rows.group_by(names, use_threads=False).aggregate([("right", "sum"), ("right", "count")])
    tallies: dict[tuple[str, str, bool], dict[str, tuple[int, int]]] = {}
    for *key, problem, right, size in zip(
        *(grouped[name].to_pylist() for name in (*names, "right_sum", "right_count")), strict=True
    ):  # fmt: skip
        tallies.setdefault((key[0], key[1], key[2]), {})[problem] = right, size
    counts = {}
    for key, answers in tallies.items():
        sizes = {size for _, size in answers.values()}
        if len(sizes) > 1:
            raise UserError(f"{source}: the problems of {key[1]} have between {min(sizes)} and {max(sizes)} answers: "
                            "the evaluation is incomplete; run the stage that writes it again")  # fmt: skip
        problems = tuple(sorted(answers))
        correct = np.array([answers[problem][0] for problem in problems], dtype=np.int64)
        counts[key] = ProblemCounts(problems, correct, sizes.pop())
    return counts


def accuracy_matrix(counts: Sequence[ProblemCounts]) -> Array:
    """Returns the accuracy per seed and problem, (S, P), from one :class:`ProblemCounts` per seed.

    Raises:
        UserError: if the seeds were evaluated on different problems.
    """
    if len({each.problems for each in counts}) != 1:
        raise UserError("runs were evaluated on different problems and cannot be averaged: run their stages again")
    return np.stack([each.accuracy for each in counts])


class StandardErrors(NamedTuple):
    """A mean accuracy with two standard errors."""

    mean: float
    by_problem: float | None
    """The error with another set of problems of the same kind and new answers; ``None`` for one problem."""
    by_sample: float | None
    """The error with new answers to the same problems; ``None`` for one answer per problem."""


def standard_errors(counts: ProblemCounts) -> StandardErrors:
    """Returns mean@n with its standard error clustered by problem, and that of sampling alone.

    With p_i = c_i/n the error by problem is sd(p_i)/√P, where sd divides by P - 1 and contains the sampling too. The
    error by sample is √(Σ_i p_i(1-p_i)/(n-1))/P, from the unbiased variance of each problem's mean, p_i(1-p_i)/(n-1).
    """
    accuracy, n = counts.accuracy, counts.samples
    problems = len(accuracy)
    by_problem = float(accuracy.std(ddof=1) / np.sqrt(problems)) if problems > 1 else None
    by_sample = float(np.sqrt((accuracy * (1 - accuracy) / (n - 1)).sum()) / problems) if n > 1 else None
    return StandardErrors(float(accuracy.mean()), by_problem, by_sample)


def _one_per_problem(values: Array) -> None:
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"one value per problem is expected, not an array of shape {values.shape}")


def _agreed(values: Array, lowest: float, highest: float) -> bool:
    """Returns whether too few accuracies differ from the commonest for an estimate of their spread.

    At an end of the scale a single deviating problem is enough: score limits are made for that.
    """
    value, below, above = deviating(values)
    return below + above < (1 if value in (lowest, highest) else FEWEST_DEVIATING)


def mean_interval(per_problem: ArrayLike, confidence: float) -> Interval:
    """Returns the mean accuracy and its interval over problems, for a fixed policy.

    The limits are score limits with the number of problems that the accuracies' variance is worth
    (:func:`sdpg.results.statistics.intervals.score_limits`). Where all problems agree, or fewer than
    :data:`FEWEST_DEVIATING` differ from a commonest value inside the scale, they are the conservative
    :func:`sdpg.results.statistics.intervals.agreement_limits`. They are always within [0, 1].

    Args:
        per_problem: accuracies in [0, 1], (P,), already averaged over samples and seeds.
        confidence: the interval's confidence level.
    """
    values = np.asarray(per_problem, dtype=np.float64)
    _one_per_problem(values)
    mean = float(values.mean())
    if _agreed(values, 0.0, 1.0):
        return Interval(mean, *agreement_limits(values, confidence, 0.0, 1.0))
    problems = len(values)
    critical = float(stats.t.ppf((1 + confidence) / 2, problems - 1))
    return Interval(mean, *score_limits(mean, float(values.var(ddof=1)) / problems, problems, critical))


def two_way_interval(matrix: ArrayLike, confidence: float, resamples: int = 10_000, seed: int = 0) -> Interval | None:
    """Returns the mean accuracy and its interval over training seeds and problems jointly; ``None`` below two seeds.

    The interval says how far the mean would move with other seeds *and* other problems of the same kind. Seeds and
    problems are crossed (every seed answers every problem), so both are resampled in each draw of
    :func:`sdpg.results.statistics.intervals.crossed_bootstrap`. The variance of the draws goes into the score limits,
    with a t quantile whose degrees of freedom say how little a few seeds tell about their own spread. Where the
    problems (nearly) agree, :func:`sdpg.results.statistics.intervals.agreement_limits` are taken if they are wider.

    Args:
        matrix: accuracies in [0, 1], (S, P), already averaged over samples; P is at least 2.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"seeds × problems, two or more of them, are expected, not an array of shape {values.shape}")
    if len(values) < 2:
        return None
    mean = float(values.mean())
    limits = []
    if _agreed(values.mean(axis=0), 0.0, 1.0):
        limits.append(agreement_limits(values.mean(axis=0), confidence, 0.0, 1.0))
    if np.ptp(values) > 0:
        means, freedom = crossed_bootstrap(values, resamples, seed)
        critical = float(stats.t.ppf((1 + confidence) / 2, freedom))
        limits.append(score_limits(mean, float(means.var()), values.shape[1], critical))
    return Interval(mean, min(low for low, _ in limits), max(high for _, high in limits))


def seed_interval(values: Sequence[float], confidence: float) -> Interval | None:
    """Returns the t interval of the mean accuracy over training seeds, within [0, 1]; ``None`` below three seeds."""
    if len(values) < 3:
        return None
    mean = float(np.mean(values))
    reach = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))
    return Interval(mean, max(0.0, mean - reach), min(1.0, mean + reach))


def paired_difference(
    a: ArrayLike, b: ArrayLike, confidence: float, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """Returns the mean of a - b over the same problems, its interval, and the p-value of a sign-flip permutation test.

    The interval is :func:`sdpg.results.statistics.intervals.skewed_limits` of the differences; where fewer than
    :data:`FEWEST_DEVIATING` differ from the commonest, :func:`sdpg.results.statistics.intervals.agreement_limits` on
    the scale [-1, 1], so that it is no narrower than the test allows. The test flips the sign of each problem's
    difference: exact where 2^P is at most ``resamples``, else random, and the same for the same ``seed``.

    Args:
        a: accuracy per problem, (P,).
        b: accuracy on the same problems in the same order, (P,).
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values need equal shapes, not {first.shape} and {second.shape}")
    differences = first - second
    _one_per_problem(differences)
    if sum(deviating(differences)[1:]) < FEWEST_DEVIATING:
        low, high = agreement_limits(differences, confidence, -1.0, 1.0)
    else:
        low, high = skewed_limits(differences, confidence)
    p_value = sign_flip_p_value(differences, resamples, seed)
    return Difference(float(differences.mean()), max(-1.0, low), min(1.0, high), p_value)


def batch_interval(series: ArrayLike, confidence: float, batches: int = 5) -> Interval:
    """Returns the mean of a series over steps, with a t interval over the means of contiguous batches.

    Neighbouring steps are alike, so single steps would make the interval too narrow; means of batches are nearly
    independent. The interval is conditional on the run: it holds no spread over seeds.
    """
    values = np.asarray(series, dtype=np.float64)
    means = np.array([part.mean() for part in np.array_split(values, min(batches, len(values)))])
    if len(means) < 2:
        raise ValueError("an interval over steps needs at least two steps")
    reach = float(stats.t.ppf((1 + confidence) / 2, len(means) - 1) * stats.sem(means))
    return Interval(float(means.mean()), float(means.mean() - reach), float(means.mean() + reach))
