"""Estimators of the tables: pass@k, intervals by problem, spread over seeds, paired comparison. Imports no torch.

Axes: S seeds, P problems. The sampling unit is the problem: an interval says how far the number would move with another
set of problems of the same kind, given the policies that were trained. Spread over training seeds is another question
with its own estimator, :func:`seed_interval`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
import pyarrow as pa
from scipy import stats

from sdpg.errors import UserError

FEWEST_DEVIATING = 6
"""With fewer problems than this off the commonest value, a bootstrap cannot see its own tails (and no sign-flip test
of so few problems can reach p < 0.05), so that intervals come from :func:`_agreement_interval` instead."""

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
    """(P,)"""
    samples: int
    """Answers per problem."""

    @property
    def accuracy(self) -> Array:
        """Share of right answers per problem, (P,)."""
        return self.correct / self.samples


def count_correct(table: pa.Table, source: str) -> dict[tuple[str, str, bool], ProblemCounts]:
    """Groups evaluation rows by (method, benchmark, greedy or not) and counts status ``correct`` per problem.

    Raises:
        UserError: if the problems of a group have different numbers of answers: the evaluation is incomplete.
    """
    names = ("method", "benchmark", "temperature", "problem_id", "status")
    columns = [table.column(name).to_pylist() for name in names]
    tallies: dict[tuple[str, str, bool], dict[str, list[bool]]] = {}
    for method, benchmark, temperature, problem, status in zip(*columns, strict=True):
        group = tallies.setdefault((method, benchmark, temperature == 0), {})
        group.setdefault(problem, []).append(status == "correct")
    counts = {}
    for key, answers in tallies.items():
        sizes = {len(given) for given in answers.values()}
        if len(sizes) > 1:
            raise UserError(f"{source}: the problems of {key[1]} have between {min(sizes)} and {max(sizes)} answers: "
                            "the evaluation is incomplete; run the stage that writes it again")  # fmt: skip
        problems = tuple(sorted(answers))
        correct = np.array([sum(answers[problem]) for problem in problems], dtype=np.int64)
        counts[key] = ProblemCounts(problems, correct, sizes.pop())
    return counts


def accuracy_matrix(counts: Sequence[ProblemCounts]) -> Array:
    """Accuracy per seed and problem, (S, P), from one :class:`ProblemCounts` a seed.

    Raises:
        UserError: if the seeds were evaluated on different problems.
    """
    if len({each.problems for each in counts}) != 1:
        raise UserError("runs were evaluated on different problems and cannot be averaged: run their stages again")
    return np.stack([each.accuracy for each in counts])


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Array:
    """Unbiased estimate, per problem, that at least one of k answers is right, from c right ones of n.

    1 - C(n-c, k)/C(n, k) (Chen et al. 2021, arXiv 2107.03374), as a product of k ratios in [0, 1]: no factorial
    overflows.

    Args:
        n: Answers per problem; a number or an array of the shape of ``c``.
        c: Right answers per problem.
        k: At most the smallest n.
    """
    n, c = np.broadcast_arrays(np.asarray(n, dtype=np.float64), np.asarray(c, dtype=np.float64))
    if k < 1 or np.any(n < k):
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} answers a problem and k of at least 1")
    if np.any(c < 0) or np.any(c > n):
        raise ValueError("more right answers than answers")
    all_wrong = np.ones(c.shape)
    for drawn in range(k):
        all_wrong *= np.clip((n - c - drawn) / (n - drawn), 0.0, 1.0)
    return 1.0 - all_wrong


def _deviating(values: Array) -> tuple[float, int, int]:
    """The commonest value, and how many values lie below and above it (up to rounding)."""
    rounded = values.round(12)
    distinct, counts = np.unique(rounded, return_counts=True)
    commonest = distinct[counts.argmax()]
    return float(commonest), int((rounded < commonest).sum()), int((rounded > commonest).sum())


def _agreement_interval(values: Array, confidence: float, lowest: float, highest: float) -> tuple[float, float]:
    """Limits of the mean where (nearly) all problems agree on one value v.

    One-sided Clopper-Pearson limits bound the shares d and u of problems that lie below and above v; each could pull as
    far as the end of the scale: [v - d(v - lowest), v + u(highest - v)]. With all problems wrong this is
    [0, 1 - ((1-confidence)/2)^(1/P)], the exact two-sided form of the rule of three.
    """
    value, *deviating = _deviating(values)
    below, above = (
        float(stats.beta.ppf((1 + confidence) / 2, count + 1, len(values) - count)) if count < len(values) else 1.0
        for count in deviating
    )
    return value - below * (value - lowest), value + above * (highest - value)


def _interval(
    values: Array, confidence: float, resamples: int, seed: int, lowest: float, highest: float
) -> tuple[float, float]:
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"one value per problem is expected, not an array of shape {values.shape}")
    if sum(_deviating(values)[1:]) < FEWEST_DEVIATING:
        return _agreement_interval(values, confidence, lowest, highest)
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=resamples, method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return max(lowest, float(found.low)), min(highest, float(found.high))


def mean_interval(per_problem: ArrayLike, confidence: float, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean accuracy and its interval over problems, the policy being fixed.

    A BCa bootstrap over problems; where fewer than :data:`FEWEST_DEVIATING` problems differ from the commonest value,
    the conservative limits of :func:`_agreement_interval`. Always within [0, 1].

    Args:
        per_problem: Accuracies in [0, 1], (P,), already averaged over samples and seeds.
    """
    values = np.asarray(per_problem, dtype=np.float64)
    return Interval(float(values.mean()), *_interval(values, confidence, resamples, seed, 0.0, 1.0))


def seed_interval(values: Sequence[float], confidence: float) -> Interval | None:
    """t interval of the mean accuracy over training seeds, within [0, 1]; ``None`` for fewer than three seeds."""
    if len(values) < 3:
        return None
    mean = float(np.mean(values))
    reach = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))
    return Interval(mean, max(0.0, mean - reach), min(1.0, mean + reach))


def paired_difference(
    a: ArrayLike, b: ArrayLike, confidence: float, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """Mean of a - b over the same problems, its interval, and the p-value of a sign-flip permutation test.

    The interval is a BCa bootstrap of the differences (where few differ from the commonest: as in
    :func:`mean_interval`, on the scale [-1, 1]). The test flips the sign of each problem's difference: exact where 2^P
    is at most ``resamples``, else random, and the same for the same ``seed``.

    Args:
        a: Accuracy per problem, (P,).
        b: The same problems in the same order, (P,).
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values need equal shapes, not {first.shape} and {second.shape}")
    low, high = _interval(first - second, confidence, resamples, seed, -1.0, 1.0)
    p_value = stats.permutation_test(
        (first, second), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=resamples, alternative="two-sided", rng=np.random.default_rng(seed),
    ).pvalue  # fmt: skip
    return Difference(float((first - second).mean()), low, high, min(1.0, float(p_value)))


def batch_interval(series: ArrayLike, confidence: float, batches: int = 5) -> Interval:
    """Mean of a series over steps with a t interval over the means of contiguous batches.

    Neighbouring steps are alike, so single steps would make the interval too narrow; means of batches are nearly
    independent. Conditional on the run: it holds no spread over seeds.
    """
    values = np.asarray(series, dtype=np.float64)
    means = np.array([part.mean() for part in np.array_split(values, min(batches, len(values)))])
    if len(means) < 2:
        raise ValueError("an interval over steps needs at least two steps")
    reach = float(stats.t.ppf((1 + confidence) / 2, len(means) - 1) * stats.sem(means))
    return Interval(float(means.mean()), float(means.mean() - reach), float(means.mean() + reach))
